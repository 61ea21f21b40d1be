from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.system.clock import ManualClock
from mnagent.system.datapath import FakeDatapath
from mnagent.system.entropy import seeded
from mnagent.system.kernel import FakeKernel, Route, Rule
from mnagent.system.store import MemoryStore, check_key

ADDRESS = IPv6Address("2001:db8::1")


def test_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(5.0)
    assert clock.advance(1.5) == 6.5
    assert clock.now() == 6.5


def test_seeded_entropy_repeats() -> None:
    assert seeded(1).random() == seeded(1).random()


@pytest.mark.parametrize("key", ["", "a/b", "../x", ".hidden", "a b", "x" * 201, "ä"])
def test_record_key_of_other_characters_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="not a record key"):
        check_key(key)


def test_memory_store_keeps_the_last_value() -> None:
    store = MemoryStore()
    store.put("a.b", "1")
    store.put("a.b", "2")
    assert store.load() == {"a.b": "2"}


def test_fake_kernel_pairs_are_idempotent() -> None:
    kernel = FakeKernel()
    route, rule = Route(interface=1), Rule(priority=1, table=2)
    for _ in range(2):
        kernel.set_address(1, ADDRESS, prefix_length=64)
        kernel.set_route(route)
        kernel.set_rule(rule)
        kernel.join_group(1, ADDRESS)
    for _ in range(2):
        kernel.remove_address(1, ADDRESS, prefix_length=64)
        kernel.remove_route(route)
        kernel.remove_rule(rule)
        kernel.leave_group(1, ADDRESS)
    assert not (kernel.addresses or kernel.routes or kernel.rules or kernel.groups)


def test_fake_kernel_fails_as_told() -> None:
    kernel = FakeKernel()
    kernel.failure = 1
    with pytest.raises(PermissionError):
        kernel.set_rule(Rule(priority=1, table=2))


def test_fake_datapath_counts_sequence_numbers() -> None:
    datapath = FakeDatapath()
    datapath.set_sequence(256, next=5, limit=10)
    assert datapath.protect(256, b"x") == b"\x00\x00\x01\x00x"
    assert datapath.sequences() == {256: (6, 10)}
