"""The generic netlink socket, over a socket pair that plays the kernel."""

from __future__ import annotations

import errno
from functools import partial
from typing import Any

import pytest

from mnagent.link.signal import AskAccessPoints, AskLevel, Scan
from mnagent.link.wireless import (
    NL80211_CMD_GET_SCAN,
    NL80211_CMD_GET_STATION,
    NL80211_CMD_TRIGGER_SCAN,
    AssociationChange,
    AssociationMessage,
    FamilyMessage,
)
from mnagent.runtime import wireless
from mnagent.runtime.wireless import MAX_QUESTIONS, NLMSG_DONE, NLMSG_ERROR, WirelessSocket
from tests.unit.link.test_wireless import (
    ACCESS_POINT,
    CTRL_CMD_DELFAMILY,
    CTRL_CMD_NEWFAMILY,
    FAMILY,
    GENL_ID_CTRL,
    INDEX,
    MAC,
    NL80211_CMD_CONNECT,
    family,
    message,
)

KERNEL, SOMEBODY = (0, 0), (4711, 0)


def datagram(kind: int, body: bytes) -> bytes:
    return wireless_header(kind, len(body)) + body


def wireless_header(kind: int, length: int) -> bytes:
    import struct

    return struct.pack("=IHHII", 16 + length, kind, 0, 0, 0)


class FakeSocket:
    """What the daemon's socket would receive."""

    def __init__(self, *_: Any) -> None:
        self.incoming: list[tuple[bytes, tuple[int, int]] | OSError] = []
        self.groups: list[int] = []
        self.sent: list[bytes] = []
        self.closed = False

    def bind(self, address: Any) -> None:
        pass

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.groups.append(value)

    def sendto(self, data: bytes, address: Any) -> None:
        self.sent.append(data)

    def recvfrom(self, length: int) -> tuple[bytes, tuple[int, int]]:
        if not self.incoming:
            raise BlockingIOError
        following = self.incoming.pop(0)
        if isinstance(following, OSError):
            raise following
        return following

    def fileno(self) -> int:
        return 7

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeSocket:
    fake = FakeSocket()
    monkeypatch.setattr(wireless.socket, "socket", lambda *_: fake)
    return fake


ROAM = datagram(FAMILY, message(NL80211_CMD_CONNECT, INDEX, MAC))
# The question whether there is Wi-Fi, answered.
NEW_FAMILY = datagram(GENL_ID_CTRL, family(CTRL_CMD_NEWFAMILY)) + datagram(NLMSG_ERROR, bytes(20))
DONE = datagram(NLMSG_DONE, bytes(4))
ROAMED = AssociationMessage(
    interface=3, change=AssociationChange.CONNECTED, access_point=ACCESS_POINT
)


def test_socket_without_wireless_hears_nothing_and_asks_nothing(kernel: FakeSocket) -> None:
    listener = WirelessSocket()
    kernel.incoming.append((ROAM, KERNEL))
    assert listener.receive() == ([], False)
    assert not listener.has_wireless
    asked = len(kernel.sent)
    listener.send(AskLevel(interface=3))
    assert len(kernel.sent) == asked


def test_wireless_that_comes_later_is_followed_and_forgotten(kernel: FakeSocket) -> None:
    listener = WirelessSocket()
    kernel.incoming += [(NEW_FAMILY, KERNEL), (ROAM, KERNEL)]
    assert listener.receive() == ([ROAMED], False)
    assert listener.has_wireless and kernel.groups == [GENL_ID_CTRL, 9]
    listener.send(AskLevel(interface=3))
    assert len(kernel.sent) == 2
    gone = datagram(GENL_ID_CTRL, family(CTRL_CMD_DELFAMILY))
    kernel.incoming += [(gone, KERNEL), (ROAM, KERNEL)]
    assert listener.receive() == ([], False)


def test_questions_wait_for_the_answer_to_the_one_before(kernel: FakeSocket) -> None:
    listener = WirelessSocket()
    kernel.incoming.append((NEW_FAMILY, KERNEL))
    listener.receive()
    listener.send(AskLevel(interface=3))
    listener.send(AskAccessPoints(interface=3))
    listener.send(Scan(interface=3, name="wlan0", network=b"cafe", frequencies=(2412,)))
    commands = []
    while len(kernel.sent) > 1:
        commands.append(kernel.sent.pop()[16])
        kernel.incoming += [(DONE, SOMEBODY), (DONE, KERNEL)]
        listener.receive()
    assert commands == [NL80211_CMD_GET_STATION, NL80211_CMD_GET_SCAN, NL80211_CMD_TRIGGER_SCAN]


def test_question_after_a_lost_answer_or_one_that_could_not_be_asked_is_asked(
    kernel: FakeSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = WirelessSocket()
    kernel.incoming += [(NEW_FAMILY, KERNEL)]
    listener.receive()
    listener.send(AskLevel(interface=3))
    listener.send(AskLevel(interface=4))
    kernel.incoming.append(OSError(errno.ENOBUFS, ""))
    assert listener.receive() == ([], True)
    assert len(kernel.sent) == 3
    refused = list(kernel.sent)
    monkeypatch.setattr(kernel, "sendto", partial(_refuse, refused))
    listener.send(AskLevel(interface=5))
    kernel.incoming.append((DONE, KERNEL))
    listener.receive()
    assert len(refused) == 4
    listener.send(AskLevel(interface=6))
    assert len(refused) == 5


def _refuse(attempts: list[bytes], *_: object) -> None:
    attempts.append(b"")
    raise OSError(errno.ENOBUFS, "")


def test_questions_that_nobody_answers_are_bounded(kernel: FakeSocket) -> None:
    listener = WirelessSocket()
    kernel.incoming.append((NEW_FAMILY, KERNEL))
    listener.receive()
    for _ in range(3 * MAX_QUESTIONS):
        listener.send(AskLevel(interface=3))
    for _ in range(3 * MAX_QUESTIONS):
        kernel.incoming.append((DONE, KERNEL))
        listener.receive()
    assert len(kernel.sent) == 2 + MAX_QUESTIONS


def test_message_of_another_process_is_not_believed(kernel: FakeSocket) -> None:
    listener = WirelessSocket()
    kernel.incoming += [(NEW_FAMILY, KERNEL), (ROAM, SOMEBODY)]
    assert listener.receive() == ([], False)


def test_overrun_is_told(kernel: FakeSocket) -> None:
    listener = WirelessSocket()
    kernel.incoming += [(NEW_FAMILY, KERNEL), OSError(errno.ENOBUFS, ""), (ROAM, KERNEL)]
    assert listener.receive() == ([ROAMED], True)
    kernel.incoming.append(OSError(errno.EBADF, ""))
    with pytest.raises(OSError):
        listener.receive()


def test_family_without_groups_is_asked_again_and_another_family_ignored(
    kernel: FakeSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = WirelessSocket()
    bare = FamilyMessage(name="nl80211", identifier=FAMILY)
    other = FamilyMessage(name="nlctrl", identifier=16)
    monkeypatch.setattr(wireless, "decode", lambda kind, data, family: data)
    monkeypatch.setattr(wireless, "split", lambda data: [(0, data), (NLMSG_ERROR, data)])
    kernel.incoming += [(bare, KERNEL), (other, KERNEL)]  # type: ignore[list-item]
    assert listener.receive() == ([], False)
    assert len(kernel.sent) == 2 and not listener.has_wireless


def test_kernel_without_generic_netlink_is_an_error_and_nothing_leaks(
    kernel: FakeSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: Any) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "")

    monkeypatch.setattr(kernel, "bind", refuse)
    with pytest.raises(OSError):
        WirelessSocket()
    assert kernel.closed


def test_socket_of_this_machine_opens_quietly() -> None:
    """Here, as on a server, there may be no Wi-Fi at all."""
    listener = WirelessSocket()
    assert listener.fileno() >= 0
    assert listener.receive()[1] is False
    listener.close()
