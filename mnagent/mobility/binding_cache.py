"""The binding cache: the care-of address of each home address, and until when (RFC 6275 9.1).

An entry is live from the accepted Binding Update until its lifetime ends. A deregistered entry
stays, invalid, for MAX_DELETE_BCE_TIMEOUT so that a Binding Update that was overtaken on its way is
recognised by its sequence number (RFC 6275 10.3.2); it no longer counts as a binding.

Eviction: a live home registration is never evicted (RFC 6275 10.3.1, 9.6). When the cache is full,
the deregistered entry that would go first makes room; with none of those the newcomer is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address

from mnagent.core.timers import Timers
from mnagent.mobility.constants import MAX_DELETE_BCE_TIMEOUT

MAX_BINDINGS = 4096
"""Entries a cache holds unless configured otherwise, deregistered ones included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingCacheEntry:
    """One binding (RFC 6275 9.1). Replaced, never changed, so that a snapshot may keep it."""

    home_address: IPv6Address
    care_of_address: IPv6Address
    sequence: int
    """Sequence number of the last valid Binding Update, 0 to 65535."""
    granted_lifetime: float
    """Seconds, as told in the Binding Acknowledgement."""
    registered_at: float
    """When the binding was first made; a refresh does not change it."""
    expires_at: float
    is_home_registration: bool = True
    is_link_local_defended: bool = False
    """The L bit: the link-local address with the same interface identifier is defended too."""
    is_deregistered: bool = False
    """Kept for its sequence number alone."""

    def remaining_lifetime(self, now: float) -> float:
        """Seconds until the entry goes, never negative."""
        return max(0.0, self.expires_at - now)


class BindingCache:
    """Entries by home address, at most one each.

    ``max_entries`` bounds live and deregistered entries together.
    """

    def __init__(self, *, max_entries: int = MAX_BINDINGS) -> None:
        self._max_entries = max_entries
        self._entries: dict[IPv6Address, BindingCacheEntry] = {}
        self._expiries: Timers[IPv6Address] = Timers()
        self._deregistered: dict[IPv6Address, None] = {}
        """As they end: they all end the same time after their deregistration."""

    def limit(self, max_entries: int) -> None:
        """Another bound. Nothing in force goes for it: what is too much is let run out."""
        self._max_entries = max_entries

    def __len__(self) -> int:
        """Entries of both kinds."""
        return len(self._entries)

    def __iter__(self) -> Iterator[BindingCacheEntry]:
        """The live bindings, oldest first."""
        return (entry for entry in self._entries.values() if not entry.is_deregistered)

    def find(self, home_address: IPv6Address) -> BindingCacheEntry | None:
        """The live binding of a home address."""
        entry = self._entries.get(home_address)
        return None if entry is None or entry.is_deregistered else entry

    def find_any(self, home_address: IPv6Address) -> BindingCacheEntry | None:
        """The entry of a home address, deregistered or not."""
        return self._entries.get(home_address)

    def has_room_for(self, home_address: IPv6Address, *, reserved: int = 0) -> bool:
        """True when ``store`` would find room, with ``reserved`` more entries about to come."""
        if self.find(home_address) is not None:
            return True
        live = len(self._entries) - len(self._deregistered)
        return live + reserved < self._max_entries

    def store(self, entry: BindingCacheEntry) -> None:
        """Put an entry in the place of the one its home address has, if any.

        Raises `OverflowError` when the cache is full of live bindings: ask `has_room_for` first.
        """
        if not self.has_room_for(entry.home_address):
            raise OverflowError("the binding cache is full")
        if entry.home_address not in self._entries and len(self._entries) >= self._max_entries:
            self._evict_deregistered()
        self._put(entry)

    def _put(self, entry: BindingCacheEntry) -> None:
        home_address = entry.home_address
        self._entries[home_address] = entry
        self._expiries.set(home_address, entry.expires_at)
        self._deregistered.pop(home_address, None)
        if entry.is_deregistered:
            self._deregistered[home_address] = None

    def _evict_deregistered(self) -> None:
        self.remove(next(iter(self._deregistered)))

    def mark_deregistered(self, home_address: IPv6Address, *, sequence: int, now: float) -> None:
        """Make an entry invalid and keep it for its sequence number (RFC 6275 10.3.2)."""
        self._put(
            replace(
                self._entries[home_address],
                sequence=sequence,
                granted_lifetime=0.0,
                expires_at=now + MAX_DELETE_BCE_TIMEOUT,
                is_deregistered=True,
            )
        )

    def remove(self, home_address: IPv6Address) -> None:
        """Forget an entry, sequence number included; nothing happens when there is none."""
        self._entries.pop(home_address, None)
        self._expiries.cancel(home_address)
        self._deregistered.pop(home_address, None)

    def pop_expired(self, now: float) -> list[BindingCacheEntry]:
        """Remove the entries whose time is over; return those that were live bindings."""
        expired = []
        for home_address in self._expiries.due(now):
            expired.append(self._entries.pop(home_address))
            self._deregistered.pop(home_address, None)
        return [entry for entry in expired if not entry.is_deregistered]

    def next_deadline(self) -> float | None:
        """When the next entry expires."""
        return self._expiries.next_deadline()
