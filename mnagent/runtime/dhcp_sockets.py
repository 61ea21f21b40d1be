"""The DHCPv6 client's UDP sockets: port 546, one for each interface where a message ever left.

A socket belongs to its interface alone, so that another client may serve another interface. It is
opened by the first message: where no router asks for DHCPv6 the port stays free.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from ipaddress import IPv6Address

from mnagent.core.actions import SendDhcpMessage
from mnagent.core.events import DhcpMessageReceived
from mnagent.runtime.sockets import SO_BINDTOIFINDEX, SO_MARK, SOCKET_MARK, LinkNotReady

CLIENT_PORT = 546
SERVER_PORT = 547
ALL_DHCP_RELAY_AGENTS_AND_SERVERS = "ff02::1:2"
MAX_MESSAGE_LENGTH = 65535
_MAX_MESSAGES_AT_ONCE = 64
_PACKET_INFORMATION_LENGTH = 20
_NOT_NOW = (errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.ENETDOWN, errno.ENODEV, errno.EAGAIN)


class DhcpSockets:
    """Sends and receives DHCPv6 messages."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self.opened: Callable[[int, int], None] = lambda interface, descriptor: None
        """Called with an interface's index and the new descriptor to watch."""
        self.closing: Callable[[int], None] = lambda descriptor: None
        """Called with a descriptor to watch no more."""

    def close(self) -> None:
        """Give every descriptor back."""
        for interface in tuple(self._sockets):
            self.detach(interface)

    def detach(self, interface: int) -> None:
        """The interface is gone; nothing happens when it had no socket."""
        known = self._sockets.pop(interface, None)
        if known is not None:
            self.closing(known.fileno())
            known.close()

    def send(self, action: SendDhcpMessage) -> None:
        """Send one message; OSError says why not."""
        target = (ALL_DHCP_RELAY_AGENTS_AND_SERVERS, SERVER_PORT, 0, action.interface)
        try:
            self._socket(action.interface).sendto(action.data, target)
        except OSError as error:
            if error.errno in _NOT_NOW:
                raise LinkNotReady(error.errno, "no link-local address to send from") from error
            raise

    def receive(self, interface: int) -> list[DhcpMessageReceived]:
        """What has come in."""
        messages: list[DhcpMessageReceived] = []
        known = self._sockets.get(interface)
        for _ in range(_MAX_MESSAGES_AT_ONCE if known is not None else 0):
            assert known is not None
            try:
                data, ancillary, _, source = known.recvmsg(MAX_MESSAGE_LENGTH, 64)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMPv6 error for what we sent; reading it clears it
            if _is_for_link_local(ancillary):
                address = IPv6Address(source[0].partition("%")[0])
                messages.append(DhcpMessageReceived(data=data, interface=interface, source=address))
        return messages

    def _socket(self, interface: int) -> socket.socket:
        known = self._sockets.get(interface)
        if known is None:
            known = _open(interface)
            self._sockets[interface] = known
            self.opened(interface, known.fileno())
        return known


def _open(interface: int) -> socket.socket:
    opened = socket.socket(
        socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    try:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, interface)
        opened.setsockopt(socket.SOL_SOCKET, SO_MARK, SOCKET_MARK)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        opened.bind(("::", CLIENT_PORT))
    except OSError as error:
        opened.close()
        reason = f"failed to open port {CLIENT_PORT}: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            reason += '; another DHCPv6 client is there: stop it, or set dhcp6 = "off"'
        raise OSError(error.errno, reason) from error
    return opened


def _is_for_link_local(ancillary: list[tuple[int, int, bytes]]) -> bool:
    """Servers and relay agents answer from the link; what came to a global address did not."""
    return any(
        (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
        and len(data) >= _PACKET_INFORMATION_LENGTH
        and IPv6Address(data[:16]).is_link_local
        for level, kind, data in ancillary
    )
