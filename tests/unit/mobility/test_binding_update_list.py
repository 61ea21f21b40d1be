from __future__ import annotations

from ipaddress import IPv6Address

from mnagent.mobility.binding_update_list import (
    MAX_ENTRIES,
    BindingUpdateList,
    BindingUpdateListEntry,
    UpdateRateLimiter,
)

HOME = IPv6Address("2001:db8:1::10")
CARE_OF = IPv6Address("2001:db8:a::10")


def entry(
    peer: int, *, sequence: int = 1, expires_at: float = 100.0, home: bool = False
) -> BindingUpdateListEntry:
    return BindingUpdateListEntry(
        destination=IPv6Address(peer),
        home_address=HOME,
        care_of_address=CARE_OF,
        lifetime=100.0,
        sequence=sequence,
        sent_at=0.0,
        expires_at=expires_at,
        home_registration=home,
    )


def test_list_keeps_the_newest_update_for_each_peer() -> None:
    entries = BindingUpdateList()
    entries.put(entry(1))
    entries.put(entry(1, sequence=2))
    entries.put(entry(2))
    assert [each.sequence for each in entries.entries()] == [2, 1]
    found = entries.find(IPv6Address(1), HOME)
    assert found is not None and found.sequence == 2
    entries.remove(IPv6Address(1), HOME)
    entries.remove(IPv6Address(1), HOME)
    assert len(entries) == 1 and entries.find(IPv6Address(1), HOME) is None


def test_full_list_gives_up_the_correspondent_whose_binding_ends_first() -> None:
    entries = BindingUpdateList()
    entries.put(entry(1, expires_at=1.0, home=True))
    entries.put(entry(2, expires_at=5.0))
    for peer in range(3, MAX_ENTRIES + 2):
        entries.put(entry(peer))
    assert len(entries) == MAX_ENTRIES
    assert entries.find(IPv6Address(2), HOME) is None
    assert entries.find(IPv6Address(1), HOME) is not None


def test_list_of_home_agents_alone_grows() -> None:
    entries = BindingUpdateList()
    for peer in range(1, MAX_ENTRIES + 3):
        entries.put(entry(peer, home=True))
    assert len(entries) == MAX_ENTRIES + 2


def test_remaining_lifetime_never_goes_below_zero() -> None:
    assert entry(1).remaining(40.0) == 60.0
    assert entry(1).remaining(400.0) == 0.0


def test_limiter_allows_three_in_any_second() -> None:
    limiter = UpdateRateLimiter()
    for now in (10.0, 10.2, 10.4):
        assert limiter.allowed_at(now) == now
        limiter.sent(now)
    assert limiter.allowed_at(10.5) == 11.0
    limiter.sent(11.0)
    assert limiter.allowed_at(11.0) == 11.2
    assert limiter.allowed_at(20.0) == 20.0
