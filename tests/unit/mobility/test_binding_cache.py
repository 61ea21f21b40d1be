"""The binding cache."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.mobility.binding_cache import BindingCache, BindingCacheEntry
from mnagent.mobility.constants import MAX_DELETE_BCE_TIMEOUT

CARE_OF = IPv6Address("2001:db8:a::1")


def home(number: int) -> IPv6Address:
    return IPv6Address(f"2001:db8:1::{number:x}")


def entry(number: int, *, expires_at: float = 100.0) -> BindingCacheEntry:
    return BindingCacheEntry(
        home_address=home(number),
        care_of_address=CARE_OF,
        sequence=1,
        granted_lifetime=100.0,
        registered_at=0.0,
        expires_at=expires_at,
    )


def test_entry_remaining_lifetime_is_never_negative() -> None:
    assert entry(1).remaining_lifetime(40.0) == 60.0
    assert entry(1).remaining_lifetime(140.0) == 0.0


def test_cache_stored_entry_is_found() -> None:
    cache = BindingCache()
    cache.store(entry(1))
    assert cache.find(home(1)) == cache.find_any(home(1)) == entry(1)
    assert cache.find(home(2)) is None
    assert list(cache) == [entry(1)]


def test_cache_deregistered_entry_is_no_binding_but_keeps_its_sequence() -> None:
    cache = BindingCache()
    cache.store(entry(1))
    cache.mark_deregistered(home(1), sequence=9, now=10.0)
    assert cache.find(home(1)) is None
    kept = cache.find_any(home(1))
    assert kept is not None
    assert (kept.sequence, kept.expires_at) == (9, 10.0 + MAX_DELETE_BCE_TIMEOUT)
    assert list(cache) == []
    assert len(cache) == 1


def test_cache_expired_entries_are_popped_live_ones_returned() -> None:
    cache = BindingCache()
    cache.store(entry(1, expires_at=5.0))
    cache.store(entry(2, expires_at=50.0))
    cache.store(entry(3, expires_at=99.0))
    cache.mark_deregistered(home(3), sequence=2, now=0.0)
    assert cache.next_deadline() == 5.0
    assert cache.pop_expired(10.0) == [entry(1, expires_at=5.0)]
    assert len(cache) == 1
    assert cache.next_deadline() == 50.0


def test_cache_full_of_live_bindings_takes_no_more() -> None:
    cache = BindingCache(max_entries=1)
    cache.store(entry(1))
    assert not cache.has_room_for(home(2))
    assert cache.has_room_for(home(1), reserved=5)
    with pytest.raises(OverflowError):
        cache.store(entry(2))
    cache.store(entry(1, expires_at=200.0))


def test_cache_full_evicts_deregistered_entry_that_would_go_first() -> None:
    cache = BindingCache(max_entries=2)
    cache.store(entry(1))
    cache.store(entry(2))
    cache.mark_deregistered(home(2), sequence=2, now=0.0)
    cache.mark_deregistered(home(1), sequence=2, now=1.0)
    cache.store(entry(3))
    assert cache.find_any(home(2)) is None
    assert cache.find_any(home(1)) is not None


def test_cache_room_counts_places_promised_to_others() -> None:
    cache = BindingCache(max_entries=2)
    cache.store(entry(1))
    cache.mark_deregistered(home(1), sequence=2, now=0.0)
    assert cache.has_room_for(home(1), reserved=1)
    assert not cache.has_room_for(home(1), reserved=2)


def test_cache_removed_entry_is_forgotten_and_again_is_no_error() -> None:
    cache = BindingCache()
    cache.store(entry(1))
    cache.remove(home(1))
    cache.remove(home(1))
    assert len(cache) == 0
    assert cache.next_deadline() is None
