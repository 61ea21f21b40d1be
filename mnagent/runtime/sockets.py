"""How control packets leave: a raw IPv6 socket, or a packet socket where we choose the frame's
destination."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from ipaddress import IPv6Address

from mnagent.core.actions import SendPacket
from mnagent.system.datapath import Datapath
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.packet import encode_packet

ETH_P_IPV6 = 0x86DD
IPV6_RECVERR = 25
IPV6_FREEBIND = 78
SO_ATTACH_FILTER = 26
MSG_ERRQUEUE = 0x2000
SO_EE_ORIGIN_ICMP6 = 3
ICMPV6_PACKET_TOO_BIG = 2
TUNNEL_PROTOCOLS = (41, 50)
"""IPv6 in IPv6, ESP."""
SO_BINDTOIFINDEX = 62
SO_MARK = 36
SOCKET_MARK = 6275
"""Mark of our own sockets: their packets never enter the tunnel."""
_BPF_RETURN = 0x06
_MAX_ERRORS_AT_ONCE = 64


class LinkNotReady(OSError):
    """The packet cannot leave now: no interface, no neighbour, or the queue is full. Try again."""


def multicast_link_layer_address(group: IPv6Address) -> bytes:
    """33:33 and the last four octets (RFC 2464 7)."""
    return b"\x33\x33" + group.packed[-4:]


def is_too_big(ancillary: list[tuple[int, int, bytes]]) -> bool:
    """Whether an error queue tells of a Packet Too Big (``struct sock_extended_err``). Any host may
    send other errors, and mobile nodes that are gone bring many."""
    return any(
        (level, kind) == (socket.IPPROTO_IPV6, IPV6_RECVERR)
        and data[4:6] == bytes((SO_EE_ORIGIN_ICMP6, ICMPV6_PACKET_TOO_BIG))
        for level, kind, data in ancillary
    )


class PathMtuListener:
    """Has the kernel believe Packet Too Big answers to tunnelled packets.

    The kernel does not know of the packets the engine sends, but it looks for a raw socket of their
    protocol that wants errors; it then notes the path's MTU, where `Kernel.path` finds it, and puts
    the error into that socket's queue, which tells us to look. Nothing else is received.
    """

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(
            socket.AF_INET6,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            protocol,
        )
        drop_all = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))
        program = struct.pack("HL", 1, ctypes.addressof(drop_all))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        self._socket.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def receive(self) -> set[IPv6Address]:
        """Take the errors out of the queue; where what was too big went."""
        found: set[IPv6Address] = set()
        for _ in range(_MAX_ERRORS_AT_ONCE):
            try:
                _, ancillary, _, target = self._socket.recvmsg(1, 512, MSG_ERRQUEUE)
            except BlockingIOError:
                # The kernel queues an error first and marks the socket then: taken in between, or
                # not queued for want of memory, the mark would wake us for ever.
                self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                break
            except OSError:
                continue
            if is_too_big(ancillary):
                found.add(IPv6Address(target[0].partition("%")[0]))
        return found

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()


class Sender:
    """Sends what machines ask for. Protection is the engine's work."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._raw = socket.socket(
            socket.AF_INET6,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.IPPROTO_RAW,
        )
        # The care-of address may not be configured yet, or be tentative, when its packets leave.
        self._raw.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        self._raw.setsockopt(socket.SOL_SOCKET, SO_MARK, SOCKET_MARK)
        self._bound = 0
        self._frames = socket.socket(
            socket.AF_PACKET,
            socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            0,
        )

    def close(self) -> None:
        """Give the descriptors back."""
        self._raw.close()
        self._frames.close()

    def send(self, action: SendPacket) -> None:
        """Send one packet; OSError says why not, KeyError that its association is missing."""
        data = encode_packet(action.packet)
        if action.protect_with is not None:
            data = self._datapath.protect(action.protect_with, data)
        destination = action.packet.destination
        link_layer_destination = action.link_layer_destination
        if link_layer_destination is None and destination.is_multicast:
            link_layer_destination = multicast_link_layer_address(destination)
        try:
            if link_layer_destination is None:
                self._send_raw(data, packet=action.packet, interface=action.interface)
            elif action.interface is None:
                raise LinkNotReady(errno.EADDRNOTAVAIL, "no interface to send the frame by")
            else:
                self._send_frame(data, action.interface, destination=link_layer_destination)
        except BlockingIOError as error:
            raise LinkNotReady(errno.EAGAIN, "transmit queue is full") from error

    def _send_raw(self, data: bytes, *, packet: IPv6Packet, interface: int | None) -> None:
        index = interface or 0
        # An unspecified source (duplicate address detection) must not be asked for.
        information = packet.source.packed + struct.pack("@I", index)
        destination = packet.destination.packed
        is_link_local = destination[0] == 0xFE and destination[1] & 0xC0 == 0x80
        scope = index if is_link_local else 0
        if index != self._bound:
            # The kernel takes the interface above for a wish: a home address's packets for the
            # home link would follow its rule into the tunnel. A bound socket's leave by it, or
            # not at all.
            self._raw.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, index)
            self._bound = index
        self._raw.sendmsg(
            [data],
            [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, information)],
            0,
            (socket.inet_ntop(socket.AF_INET6, destination), 0, 0, scope),
        )

    def _send_frame(self, data: bytes, interface: int, *, destination: bytes) -> None:
        try:
            name = socket.if_indextoname(interface)
        except OSError as error:
            raise LinkNotReady(errno.ENODEV, "the interface is gone") from error
        self._frames.sendto(data, (name, ETH_P_IPV6, 0, 0, destination))
