"""The Security Association Database: associations by SPI, sequence numbers, replay windows.

An association is found by its SPI and direction alone. The sender's address is no part of the
search: a mobile node changes it with each movement (RFC 3776 3.2, RFC 4301 4.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mnagent.core.security import Direction, SecurityAssociation

MIN_SPI = 256
"""Values 1 to 255 are reserved, 0 is local (RFC 4303 2.1)."""
MAX_SPI = 2**32 - 1
MAX_SEQUENCE = 2**32 - 1
DEFAULT_REPLAY_WINDOW = 64
"""Packets; RFC 4303 3.4.3 asks for at least 32 and suggests 64."""
MAX_REPLAY_WINDOW = 4096


class SequenceExhausted(RuntimeError):
    """The association has no unused sequence number left, or none that is reserved on disk yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationPair:
    """The two directions of one protection."""

    outbound: SecurityAssociation
    inbound: SecurityAssociation


class ReplayWindow:
    """The anti-replay window of one inbound association (RFC 4303 3.4.3, RFC 6479).

    ``is_fresh`` before authentication, ``advance`` after it.
    """

    __slots__ = ("_highest", "_seen", "_size")

    def __init__(self, size: int) -> None:
        """``size`` in packets; 0 checks nothing."""
        self._size = size
        self._highest = 0
        self._seen = 0

    @property
    def highest(self) -> int:
        """The highest authenticated sequence number, 0 before the first."""
        return self._highest

    def is_fresh(self, sequence: int) -> bool:
        """True when this number is not a replay as far as the window can tell."""
        if self._size == 0:
            return True
        if sequence == 0:
            return False
        if sequence > self._highest:
            return True
        age = self._highest - sequence
        return age < self._size and not self._seen >> age & 1

    def advance(self, sequence: int) -> None:
        """Record an authenticated number."""
        if sequence > self._highest:
            # No shift wider than the window: a forged-looking leap must not make a huge integer.
            leap = min(sequence - self._highest, self._size)
            self._seen = (self._seen << leap | 1) & ((1 << self._size) - 1)
            self._highest = sequence
            return
        age = self._highest - sequence
        if age < self._size:
            self._seen |= 1 << age


class SequenceCounter:
    """Sequence numbers of one outbound association, taken from a block that is already on disk.

    Numbers from ``next`` up to, not including, ``limit`` are reserved: a record of ``limit`` was
    written before any of them was used, so that a restart can go on from there (RFC 4303 3.3.3 asks
    for this when keys are manual).
    """

    __slots__ = ("limit", "next")

    def __init__(self, *, next: int = 1, limit: int = MAX_SEQUENCE + 1) -> None:
        self.next = next
        self.limit = limit

    @property
    def left(self) -> int:
        """How many numbers may still be taken."""
        return max(0, self.limit - self.next)

    def take(self) -> int:
        """The next number.

        Raises:
            SequenceExhausted: the block is used up, or the numbers have run out for good.
        """
        if self.next >= self.limit or self.next > MAX_SEQUENCE:
            raise SequenceExhausted("no ESP sequence number is left; make new keys")
        taken = self.next
        self.next += 1
        return taken


class SecurityAssociationDatabase:
    """The associations of this node."""

    def __init__(self, associations: Iterable[SecurityAssociation] = ()) -> None:
        self._associations: dict[tuple[Direction, int], SecurityAssociation] = {}
        self._windows: dict[int, ReplayWindow] = {}
        self._counters: dict[int, SequenceCounter] = {}
        for association in associations:
            self.add(association)

    def __iter__(self) -> Iterator[SecurityAssociation]:
        return iter(self._associations.values())

    def __len__(self) -> int:
        return len(self._associations)

    def add(self, association: SecurityAssociation) -> None:
        """Install an association.

        Raises:
            ValueError: its SPI is already used in this direction, or is out of range.
        """
        if not MIN_SPI <= association.spi <= MAX_SPI:
            raise ValueError(f"SPI {association.spi} is not in {MIN_SPI}..{MAX_SPI}")
        key = (association.direction, association.spi)
        if key in self._associations:
            raise ValueError(
                f"SPI {association.spi:#010x} ({association.direction.value}) is used twice"
            )
        self._associations[key] = association
        if association.direction is Direction.INBOUND:
            self._windows[association.spi] = ReplayWindow(association.replay_window)
        else:
            self._counters[association.spi] = SequenceCounter()

    def remove(self, spi: int, direction: Direction) -> None:
        """Forget an association and its state; nothing happens when it is not there."""
        if self._associations.pop((direction, spi), None) is None:
            return
        if direction is Direction.INBOUND:
            del self._windows[spi]
        else:
            del self._counters[spi]

    def find_inbound(self, spi: int) -> SecurityAssociation | None:
        """The inbound association of this SPI, or None."""
        return self._associations.get((Direction.INBOUND, spi))

    def outbound(self, spi: int) -> SecurityAssociation:
        """The outbound association of this SPI.

        Raises:
            KeyError: there is none.
        """
        return self._associations[(Direction.OUTBOUND, spi)]

    def window(self, spi: int) -> ReplayWindow:
        """The replay window of an inbound association (KeyError when there is none)."""
        return self._windows[spi]

    def counter(self, spi: int) -> SequenceCounter:
        """The sequence numbers of an outbound association (KeyError when there is none)."""
        return self._counters[spi]
