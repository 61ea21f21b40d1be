"""The DHCPv6 client's sockets, over sockets that only pretend."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any

import pytest

from mnagent.core.actions import SendDhcpMessage
from mnagent.core.events import DhcpMessageReceived
from mnagent.runtime import dhcp_sockets
from mnagent.runtime.dhcp_sockets import SO_BINDTOIFINDEX, DhcpSockets
from mnagent.runtime.sockets import LinkNotReady

LINK = 3
MESSAGE = SendDhcpMessage(interface=LINK, data=b"solicit")
SERVER = ("fe80::1%eth0", 547, 0, LINK)
Datagram = tuple[bytes, list[tuple[int, int, bytes]], int, Any]


def received(data: bytes, destination: str, *, size: int = 20) -> Datagram:
    information = IPv6Address(destination).packed + LINK.to_bytes(4, "little")
    kind = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, information[:size])
    return data, [kind], 0, SERVER


class PretendedSocket:
    """What the code asks of a socket."""

    made: list[PretendedSocket]
    bind_error = 0
    send_error = 0

    def __init__(self, *_: int) -> None:
        self.options: dict[tuple[int, int], int] = {}
        self.address: Any = None
        self.sent: list[tuple[bytes, Any]] = []
        self.incoming: list[Datagram | OSError] = []
        self.is_closed = False
        self.made.append(self)

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options[(level, option)] = value

    def bind(self, address: Any) -> None:
        if self.bind_error:
            raise OSError(self.bind_error, "refused")
        self.address = address

    def sendto(self, data: bytes, target: Any) -> None:
        if self.send_error:
            raise OSError(self.send_error, "not sent")
        self.sent.append((data, target))

    def recvmsg(self, *_: int) -> Datagram:
        if not self.incoming:
            raise BlockingIOError
        item = self.incoming.pop(0)
        if isinstance(item, OSError):
            raise item
        return item

    def fileno(self) -> int:
        return 77

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[PretendedSocket]]:
    """The sockets that were made."""
    monkeypatch.setattr(PretendedSocket, "made", [], raising=False)
    monkeypatch.setattr(dhcp_sockets.socket, "socket", PretendedSocket)
    yield PretendedSocket.made


def test_first_message_opens_the_port_on_its_interface_alone(made: list[PretendedSocket]) -> None:
    sockets = DhcpSockets()
    opened: list[tuple[int, int]] = []
    sockets.opened = lambda interface, descriptor: opened.append((interface, descriptor))
    sockets.send(MESSAGE)
    sockets.send(MESSAGE)
    assert opened == [(LINK, 77)]
    assert made[0].address == ("::", 546)
    assert made[0].options[(socket.SOL_SOCKET, SO_BINDTOIFINDEX)] == LINK
    assert made[0].sent == [(b"solicit", ("ff02::1:2", 547, 0, LINK))] * 2


@pytest.mark.parametrize("code", [errno.EADDRINUSE, errno.EACCES])
def test_port_that_cannot_be_had_is_an_error_with_a_reason(
    made: list[PretendedSocket], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(PretendedSocket, "bind_error", code)
    with pytest.raises(OSError, match="port 546") as raised:
        DhcpSockets().send(MESSAGE)
    assert raised.value.errno == code
    assert ("another DHCPv6 client" in str(raised.value)) == (code == errno.EADDRINUSE)
    assert made[0].is_closed


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.EADDRNOTAVAIL, LinkNotReady), (errno.EPERM, PermissionError)]
)
def test_message_that_cannot_leave_says_whether_to_try_again(
    made: list[PretendedSocket], monkeypatch: pytest.MonkeyPatch, code: int, kind: type[OSError]
) -> None:
    monkeypatch.setattr(PretendedSocket, "send_error", code)
    with pytest.raises(kind):
        DhcpSockets().send(MESSAGE)


def test_messages_to_a_link_local_address_come_in_and_others_do_not(
    made: list[PretendedSocket],
) -> None:
    sockets = DhcpSockets()
    assert sockets.receive(LINK) == []
    sockets.send(MESSAGE)
    made[0].incoming = [
        received(b"far", "2001:db8:a::1000"),
        received(b"cut", "fe80::2", size=4),
        ConnectionRefusedError(),
        received(b"near", "fe80::2"),
    ]
    assert sockets.receive(LINK) == [
        DhcpMessageReceived(data=b"near", interface=LINK, source=IPv6Address("fe80::1"))
    ]


def test_flood_is_taken_in_portions(made: list[PretendedSocket]) -> None:
    sockets = DhcpSockets()
    sockets.send(MESSAGE)
    made[0].incoming = [received(b"x", "fe80::2") for _ in range(100)]
    assert len(sockets.receive(LINK)) == 64
    assert len(sockets.receive(LINK)) == 36


def test_interface_that_is_gone_has_its_descriptor_given_back(made: list[PretendedSocket]) -> None:
    sockets = DhcpSockets()
    closing: list[int] = []
    sockets.closing = closing.append
    sockets.send(MESSAGE)
    sockets.detach(LINK)
    sockets.detach(LINK)
    assert closing == [77]
    assert made[0].is_closed
    sockets.send(MESSAGE)
    sockets.close()
    assert made[1].is_closed
