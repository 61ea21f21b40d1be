"""The filters that keep other packets from us, and sending through tunnels."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import ForwardGroups
from mnagent.datapath.tables import SequenceExhausted
from mnagent.runtime import multicast
from mnagent.runtime.multicast import (
    LISTENER_REPORTS,
    MAX_FILTERED_GROUPS,
    GroupForwarder,
    Instruction,
    group_filter,
)

GROUP = IPv6Address("ff0e::6275")
SOURCE = IPv6Address("2001:db8::1")


def passes(program: tuple[Instruction, ...], packet: bytes) -> bool:
    """What the kernel's classic packet filter makes of it."""
    at, value = 0, 0
    while True:
        operation, yes, no, operand = program[at]
        at += 1
        match operation:
            case 0x30:
                value = packet[operand]
            case 0x20:
                value = int.from_bytes(packet[operand : operand + 4], "big")
            case 0x54:
                value &= operand
            case 0x15:
                at += yes if value == operand else no
            case 0x25:
                at += yes if value > operand else no
            case 0x06:
                return operand > 0
            case _:
                raise AssertionError(operation)


def packet(destination: IPv6Address, next_header: int = 17, payload: bytes = bytes(16)) -> bytes:
    head = bytes([0x60, 0, 0, 0, 0, len(payload), next_header, 8])
    return head + SOURCE.packed + destination.packed + payload


@pytest.mark.parametrize("count", [0, 1, 2, MAX_FILTERED_GROUPS])
def test_filter_of_groups_passes_those_and_no_others(count: int) -> None:
    groups = [GROUP + 7 * at for at in range(count)]
    program = group_filter(groups)
    assert all(max(yes, no) < 256 for _, yes, no, _ in program)
    assert all(passes(program, packet(group)) for group in groups)
    assert not passes(program, packet(GROUP - 1))
    assert not passes(program, packet(IPv6Address("2001:db8::6275")))


@pytest.mark.parametrize("groups", [None, [GROUP + at for at in range(MAX_FILTERED_GROUPS + 1)]])
@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("ff0e::9", True),
        ("ff35::9", True),
        ("ff02::1", False),
        ("ff01::1", False),
        ("2001:db8::1", False),
    ],
)
def test_filter_of_all_groups_passes_what_is_forwarded(
    groups: list[IPv6Address] | None, destination: str, expected: bool
) -> None:
    assert passes(group_filter(groups), packet(IPv6Address(destination))) is expected


@pytest.mark.parametrize(
    ("next_header", "payload", "expected"),
    [
        *((0, bytes([58, 0, 5, 2, 0, 0, 1, 0, kind]) + bytes(7), True) for kind in (131, 132, 143)),
        *((0, bytes([58, 0, 5, 2, 0, 0, 1, 0, kind]) + bytes(7), False) for kind in (130, 133)),
        (0, bytes([17, 0, 5, 2, 0, 0, 1, 0, 143]) + bytes(7), False),
        (58, bytes([58, 0, 5, 2, 0, 0, 1, 0, 143]) + bytes(7), False),
    ],
)
def test_filter_of_reports_passes_reports_alone(
    next_header: int, payload: bytes, expected: bool
) -> None:
    report = packet(IPv6Address("ff02::16"), next_header, payload)
    assert passes(LISTENER_REPORTS, report) is expected


class FakeListener:
    """A packet socket with packets that wait."""

    def __init__(self, packets: list[bytes]) -> None:
        self._packets = packets

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int, int, int, bytes]]:
        if not self._packets:
            raise BlockingIOError
        return self._packets.pop(0)[:size], ("mnagent0", 0x86DD, 0, 0, b"")

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self._packets.clear()


@pytest.mark.parametrize(
    "failure", [SequenceExhausted(257), KeyError(257), OSError("no room")], ids=str
)
def test_group_packet_that_one_member_cannot_get_reaches_the_others(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [IPv6Address(f"2001:db8:1::{at}") for at in (10, 11)]
    carried: list[IPv6Address] = []

    def carry(home_address: IPv6Address, inner: bytes) -> None:
        if home_address == members[0]:
            raise failure
        carried.append(home_address)

    listener = FakeListener([packet(GROUP)])
    monkeypatch.setattr(multicast, "listen", lambda interface, program: listener)
    forwarder = GroupForwarder(tunnel_interface=1, home_link=None, carry=carry)
    for member in members:
        forwarder.set_groups(ForwardGroups(home_address=member, groups=(GROUP,)))
    forwarder.receive_from_tunnels()
    assert carried == [members[1]]
    assert forwarder.counters == {"multicast-forwarded": 1, "multicast-failed": 1}
