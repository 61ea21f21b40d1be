"""The Binding Update List: what each peer was last told, and what it may believe (RFC 6275
11.1)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address

from mnagent.mobility.constants import MAX_UPDATE_RATE

MAX_ENTRIES = 256
"""Peers remembered. Home agents are never evicted; of the others the one whose binding ends first
goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingUpdateListEntry:
    """The most recent Binding Update sent to one peer for one home address."""

    destination: IPv6Address
    """The peer."""
    home_address: IPv6Address
    care_of_address: IPv6Address
    """As sent; the home address itself in a deregistration from the home link."""
    lifetime: float
    """As sent, in seconds; 0 deregisters."""
    sequence: int
    sent_at: float
    expires_at: float
    """When the binding ends at the peer at the latest (RFC 6275 11.7.3)."""
    home_registration: bool = True
    acknowledged: bool = False

    def remaining(self, now: float) -> float:
        """Seconds of lifetime left, never below 0."""
        return max(0.0, self.expires_at - now)


class BindingUpdateList:
    """Entries by (destination, home address)."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[tuple[IPv6Address, IPv6Address], BindingUpdateListEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: BindingUpdateListEntry) -> None:
        """Store the entry in place of an older one to the same peer."""
        key = (entry.destination, entry.home_address)
        if key not in self._entries and len(self._entries) >= MAX_ENTRIES:
            self._evict()
        self._entries[key] = entry

    def find(
        self, destination: IPv6Address, home_address: IPv6Address
    ) -> BindingUpdateListEntry | None:
        """The entry for this peer and home address, or None."""
        return self._entries.get((destination, home_address))

    def remove(self, destination: IPv6Address, home_address: IPv6Address) -> None:
        """Forget the peer; nothing happens when it is not there."""
        self._entries.pop((destination, home_address), None)

    def entries(self) -> tuple[BindingUpdateListEntry, ...]:
        """All entries, in the order in which the peers were first told."""
        return tuple(self._entries.values())

    def _evict(self) -> None:
        victims = [entry for entry in self._entries.values() if not entry.home_registration]
        if victims:
            victim = min(victims, key=lambda entry: entry.expires_at)
            self.remove(victim.destination, victim.home_address)


class UpdateRateLimiter:
    """At most MAX_UPDATE_RATE messages within any second (RFC 6275 11.8)."""

    __slots__ = ("_sent_at",)

    def __init__(self) -> None:
        self._sent_at: list[float] = []

    def allowed_at(self, now: float) -> float:
        """The earliest instant, ``now`` or later, at which the next message may leave."""
        if len(self._sent_at) < MAX_UPDATE_RATE:
            return now
        return max(now, self._sent_at[0] + 1.0)

    def sent(self, now: float) -> None:
        """Record that a message left."""
        self._sent_at = [*self._sent_at, now][-MAX_UPDATE_RATE:]
