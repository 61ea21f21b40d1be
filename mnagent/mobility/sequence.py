"""Binding Update sequence numbers: 16 bits, compared modulo 2**16, never used twice (RFC 6275
9.5.1).

Numbers are reserved in stable storage a block ahead, so a node that crashes goes on after the block
instead of below a number the home agent has already seen (RFC 6275 11.7.1, RFC 3776 4.4).
"""

from __future__ import annotations

from random import Random

from mnagent.core.actions import PersistRecord
from mnagent.mobility.constants import SEQUENCE_BLOCK, SEQUENCE_MODULUS


def sequence_newer(candidate: int, reference: int) -> bool:
    """Whether ``candidate`` comes after ``reference`` modulo 2**16 (RFC 6275 9.5.1).

    A number that lies exactly half the circle away counts as older, so 15 -> 32783 is refused: RFC
    6275 9.5.1 calls the window's older half the 32768 values up to and including the reference.
    """
    distance = (candidate - reference) % SEQUENCE_MODULUS
    return 0 < distance < SEQUENCE_MODULUS // 2


class SharedSequence:
    """The next Binding Update sequence number towards any correspondent.

    A correspondent that is met again gets higher numbers than before, also after all that was known
    of it has been forgotten. If each registration began at a random number, an old one could come
    round to be the newer one while its nonces are good, and be replayed (RFC 6275 5.2.8).
    """

    __slots__ = ("_last",)

    def __init__(self, last: int) -> None:
        """The one after ``last`` comes first."""
        self._last = last

    def take(self) -> int:
        """The next number."""
        self._last = (self._last + 1) % SEQUENCE_MODULUS
        return self._last


class SequenceCounter:
    """The next Binding Update sequence number towards one peer."""

    __slots__ = ("_key", "_left", "_next")

    def __init__(self, key: str, *, random: Random, persisted: str | None = None) -> None:
        """Start after the persisted block, or at a random number (RFC 6275 11.7.2) without one.

        A record that is not a number counts as missing: the home agent's status 135 then puts us
        right.
        """
        self._key = key
        if persisted is not None and persisted.isdecimal():
            self._next = int(persisted) % SEQUENCE_MODULUS
        else:
            self._next = random.randrange(SEQUENCE_MODULUS)
        self._left = 0

    def take(self) -> tuple[int, list[PersistRecord]]:
        """The next number, and the record to write before a packet with it may leave."""
        records: list[PersistRecord] = []
        if self._left == 0:
            self._left = SEQUENCE_BLOCK
            limit = (self._next + SEQUENCE_BLOCK) % SEQUENCE_MODULUS
            records.append(PersistRecord(key=self._key, value=str(limit), guards_packets=True))
        value = self._next
        self._next = (value + 1) % SEQUENCE_MODULUS
        self._left -= 1
        return value, records

    def not_kept(self, record: PersistRecord) -> None:
        """A record of ours could not be kept: none of its block may be used before another is."""
        if record.key == self._key:
            self._left = 0

    def resume_after(self, accepted: int) -> None:
        """Go on after the last number the home agent accepted (status 135, RFC 6275 11.7.3)."""
        self._next = (accepted + 1) % SEQUENCE_MODULUS
        self._left = 0
