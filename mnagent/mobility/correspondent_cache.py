"""A correspondent node's binding cache (RFC 6275 9.1, 9.6) and its memory against replays (5.2.8).

Entries are kept by home address and by the own address the mobile node registered with: to a mobile
node two addresses of this node are two correspondents, with a sequence number each.

An entry that goes while the nonces of its Binding Updates are still good leaves a guard behind: the
last sequence number, until no captured Binding Update can be authentic any more. A Binding Update
that is not newer than the guard is answered like one that is not newer than the entry, so a replay
is refused (RFC 6275 9.5.3) and a mobile node that has lost its count is put right.

Entries and guards together are at most ``max_entries``. Eviction: an entry that carried nothing for
IDLE_BEFORE_EVICTION and would leave no guard makes room for a newcomer, the one longest unused
first; without such an entry the newcomer is refused. So whoever fills the cache with bindings of
its own drives out nobody whose binding is in use, and no nonce is ever invalidated to save memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from mnagent.core.timers import earliest

IDLE_BEFORE_EVICTION: Final = 60.0
"""Seconds without traffic or Binding Update after which an entry may make room for another."""


class PeerKey(NamedTuple):
    """What an entry is found by."""

    home_address: IPv6Address
    correspondent: IPv6Address
    """Our address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerBinding:
    """One binding (RFC 6275 9.1). Replaced, never changed, so that a snapshot may keep it."""

    home_address: IPv6Address
    correspondent: IPv6Address
    """Our address that the mobile node registered with."""
    care_of_address: IPv6Address
    sequence: int
    """Sequence number of the last valid Binding Update."""
    granted_lifetime: float
    """Seconds, as told in the Binding Acknowledgement."""
    registered_at: float
    """When the binding was first made; a refresh does not change it."""
    updated_at: float
    expires_at: float
    guarded_until: float
    """Until then a Binding Update of this mobile node that was seen before could be authentic."""
    used_at: float
    """When it last carried traffic, or was updated."""
    refresh_requests: int = 0
    """Binding Refresh Requests sent since the last Binding Update."""
    refresh_requested_at: float = 0.0
    unreachable_errors: int = 0
    """ICMPv6 errors in a row for packets sent to the care-of address."""
    unreachable_since: float = 0.0
    unreachable_at: float = 0.0

    @property
    def key(self) -> PeerKey:
        """What the entry is found by."""
        return PeerKey(self.home_address, self.correspondent)

    def remaining_lifetime(self, now: float) -> float:
        """Seconds until the entry goes, never negative."""
        return max(0.0, self.expires_at - now)

    def is_evictable(self, now: float) -> bool:
        """Whether it may go for another's sake."""
        return now >= self.used_at + IDLE_BEFORE_EVICTION and now >= self.guarded_until


@dataclass(frozen=True, slots=True)
class _Guard:
    sequence: int
    until: float


class PeerBindingCache:
    """Entries and guards of all peers; one entry or one guard for a key."""

    def __init__(self, *, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: dict[PeerKey, PeerBinding] = {}
        self._guards: dict[PeerKey, _Guard] = {}
        self._by_home: dict[IPv6Address, set[IPv6Address]] = {}
        self._care_of_addresses: Counter[IPv6Address] = Counter()
        self._deadline: float | None = None
        """No entry or guard ends earlier. Too early is harmless: `pop_expired` puts it right."""

    def __len__(self) -> int:
        """Entries and guards."""
        return len(self._entries) + len(self._guards)

    def __iter__(self) -> Iterator[PeerBinding]:
        """The bindings, oldest first."""
        return iter(self._entries.values())

    def find(self, key: PeerKey) -> PeerBinding | None:
        """The binding of a key."""
        return self._entries.get(key)

    def of_home_address(self, home_address: IPv6Address) -> list[PeerBinding]:
        """A mobile node's bindings with all our addresses, the one updated last at the end."""
        correspondents = self._by_home.get(home_address, ())
        found = [self._entries[PeerKey(home_address, each)] for each in correspondents]
        return sorted(found, key=lambda entry: (entry.updated_at, entry.correspondent))

    def knows(self, address: IPv6Address) -> bool:
        """Whether it is the home address or the care-of address of a binding."""
        return address in self._by_home or address in self._care_of_addresses

    def last_sequence(self, key: PeerKey) -> int | None:
        """What a Binding Update's sequence number must exceed, or None."""
        held = self._entries.get(key) or self._guards.get(key)
        return None if held is None else held.sequence

    def guarded_until(self, key: PeerKey) -> float:
        """Until when what the key's earlier Binding Updates were authorized with is good."""
        guard = self._guards.get(key)
        if guard is not None:
            return guard.until
        entry = self._entries.get(key)
        return 0.0 if entry is None else entry.guarded_until

    def has_room_for(self, key: PeerKey) -> bool:
        """Whether `store` needs to evict nobody."""
        return len(self) < self._max_entries or key in self._entries or key in self._guards

    def eviction_candidate(self, now: float) -> PeerBinding | None:
        """Who would go to make room, if anybody may."""
        idle = (entry for entry in self._entries.values() if entry.is_evictable(now))
        return min(idle, key=lambda entry: entry.used_at, default=None)

    def store(self, entry: PeerBinding) -> None:
        """Put an entry in the place of what its key has, if anything.

        Raises `OverflowError` when there is no room: ask `has_room_for` first.
        """
        if not self.has_room_for(entry.key):
            raise OverflowError("the binding cache is full")
        self._guards.pop(entry.key, None)
        previous = self._entries.get(entry.key)
        if previous is not None:
            self._forget_care_of_address(previous)
        self._entries[entry.key] = entry
        self._care_of_addresses[entry.care_of_address] += 1
        self._by_home.setdefault(entry.home_address, set()).add(entry.correspondent)
        self._deadline = earliest(self._deadline, entry.expires_at)

    def remove(self, entry: PeerBinding, now: float) -> None:
        """Take an entry out; the guard it leaves takes its place."""
        self._forget_care_of_address(self._entries.pop(entry.key))
        correspondents = self._by_home[entry.home_address]
        correspondents.discard(entry.correspondent)
        if not correspondents:
            del self._by_home[entry.home_address]
        self.guard(entry.key, entry.sequence, until=entry.guarded_until, now=now)

    def _forget_care_of_address(self, entry: PeerBinding) -> None:
        self._care_of_addresses[entry.care_of_address] -= 1
        if not self._care_of_addresses[entry.care_of_address]:
            del self._care_of_addresses[entry.care_of_address]

    def guard(self, key: PeerKey, sequence: int, *, until: float, now: float) -> None:
        """Refuse what is not newer than ``sequence`` until then.

        A key that has neither entry nor guard is not guarded when the cache is full: nothing that
        was accepted can be replayed there.
        """
        until = max(until, self.guarded_until(key))
        if until > now and self.has_room_for(key):
            self._guards[key] = _Guard(sequence, until)
            self._deadline = earliest(self._deadline, until)

    def pop_expired(self, now: float) -> list[PeerBinding]:
        """Remove what is over; return the bindings among it."""
        if self._deadline is None or now < self._deadline:
            return []
        expired = [entry for entry in self._entries.values() if entry.expires_at <= now]
        for entry in expired:
            self.remove(entry, now)
        for key, guard in tuple(self._guards.items()):
            if guard.until <= now:
                del self._guards[key]
        self._deadline = earliest(
            *(entry.expires_at for entry in self._entries.values()),
            *(guard.until for guard in self._guards.values()),
        )
        return expired

    def next_deadline(self) -> float | None:
        """When something may be over."""
        return self._deadline
