"""ESP sequence numbers that never repeat, not even after a crash.

A block of numbers is reserved on disk before the engine may use them. After a crash the next run
starts behind the last block; after a clean stop it goes on where the last run stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from mnagent.core.security import Direction, EspMode, SecurityAssociation
from mnagent.system.datapath import Datapath
from mnagent.system.store import Store

logger = logging.getLogger(__name__)

CONTROL_BLOCK = 1 << 12
PAYLOAD_BLOCK = 1 << 20
LAST_SEQUENCE = (1 << 32) - 1
"""RFC 4303 2.2: without extended sequence numbers it must not wrap."""
CHECK_INTERVAL = 0.5
"""Seconds between looks at how much of each block is left."""


LEDGER_KEY = "esp-sequences"
"""The record of all outbound associations: a thousand mobile nodes are one write, not thousands."""


def record_key(spi: int) -> str:
    """Where earlier versions kept the number of one outbound association; still read."""
    return f"esp-sequence.{spi:08x}"


class SequenceKeeper:
    """Reserves sequence numbers ahead of their use."""

    def __init__(self, store: Store, datapath: Datapath) -> None:
        self._store = store
        self._datapath = datapath
        self._blocks: dict[int, int] = {}
        self._limits: dict[int, int] = {}
        self._ledger: dict[int, int] = {}
        self._is_read = False

    def start(self, associations: Iterable[SecurityAssociation]) -> None:
        """Reserve the first block of every outbound association; OSError when it cannot be kept,
        ValueError when what was kept cannot be read."""
        records = self._store.load()
        if not self._is_read:
            self._ledger = _read(records.get(LEDGER_KEY))
            self._is_read = True
        following: dict[int, int] = {}
        for association in associations:
            if association.direction is not Direction.OUTBOUND:
                continue
            spi = association.spi
            payload = association.mode is EspMode.TUNNEL
            self._blocks[spi] = PAYLOAD_BLOCK if payload else CONTROL_BLOCK
            following[spi] = max(1, self._ledger.get(spi, 1), _of_old(records, spi))
        self._reserve(following)

    def _reserve(self, following: Mapping[int, int]) -> None:
        limits = {
            spi: min(number + self._blocks[spi], LAST_SEQUENCE) for spi, number in following.items()
        }
        if any(self._limits.get(spi) != limit for spi, limit in limits.items()):
            self._keep(limits)
            self._limits.update(limits)
        for spi, limit in limits.items():
            self._datapath.set_sequence(spi, next=following[spi], limit=limit)

    def _keep(self, numbers: Mapping[int, int]) -> None:
        ledger = self._ledger | dict(numbers)
        value = " ".join(f"{spi:08x}={number}" for spi, number in sorted(ledger.items()))
        self._store.put(LEDGER_KEY, value)
        self._ledger = ledger

    def check(self) -> None:
        """Reserve more where less than half a block is left; OSError when it cannot be kept."""
        short: dict[int, int] = {}
        for spi, (following, limit) in self._datapath.take_sequences_in_need().items():
            block = self._blocks.get(spi)
            if block is None or limit >= LAST_SEQUENCE or limit - following >= block // 2:
                continue
            short[spi] = following
        self._reserve(short)

    def retire(self, spis: Iterable[int]) -> None:
        """These associations go. Should they come back, their whole blocks count as used: a thread
        of the engine may be sealing by them at this moment."""
        for spi in spis:
            self._blocks.pop(spi, None)
            self._limits.pop(spi, None)

    def stop(self) -> None:
        """After the engine has stopped: note where each association really is."""
        numbers = {
            spi: following
            for spi, (following, _) in self._datapath.sequences().items()
            if spi in self._blocks
        }
        if numbers:
            self._keep(numbers)


def _read(value: str | None) -> dict[int, int]:
    if value is None:
        return {}
    try:
        pairs = [entry.split("=") for entry in value.split()]
        ledger = {int(spi, 16): int(number) for spi, number in pairs}
    except ValueError:
        ledger = {}
    if not ledger or not all(1 <= number <= LAST_SEQUENCE for number in ledger.values()):
        # To begin at 1 again would use numbers, and nonces, a second time under the same keys.
        raise ValueError(
            f"the record {LEDGER_KEY} is damaged; make new keys, then remove it from the state "
            "directory"
        )
    return ledger


def _of_old(records: Mapping[str, str], spi: int) -> int:
    try:
        return int(records.get(record_key(spi), "1"))
    except ValueError:
        raise ValueError(f"the record {record_key(spi)} is damaged") from None
