"""ESP sequence numbers that never repeat, not even after a crash.

A block of numbers is reserved on disk before the engine may use them. After a crash the next run
starts behind the last block; after a clean stop it goes on where the last run stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

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


def record_key(spi: int) -> str:
    """The store's key for one outbound association."""
    return f"esp-sequence.{spi:08x}"


class SequenceKeeper:
    """Reserves sequence numbers ahead of their use."""

    def __init__(self, store: Store, datapath: Datapath) -> None:
        self._store = store
        self._datapath = datapath
        self._blocks: dict[int, int] = {}
        self._limits: dict[int, int] = {}

    def start(self, associations: Iterable[SecurityAssociation]) -> None:
        """Reserve the first block of every outbound association; OSError when it cannot be kept."""
        records = self._store.load()
        for association in associations:
            if association.direction is not Direction.OUTBOUND:
                continue
            spi = association.spi
            payload = association.mode is EspMode.TUNNEL
            self._blocks[spi] = PAYLOAD_BLOCK if payload else CONTROL_BLOCK
            try:
                following = max(1, int(records.get(record_key(spi), "1")))
            except ValueError:
                raise ValueError(f"the record {record_key(spi)} is damaged") from None
            self._reserve(spi, following)

    def _reserve(self, spi: int, following: int) -> None:
        limit = min(following + self._blocks[spi], LAST_SEQUENCE)
        if limit != self._limits.get(spi):
            self._store.put(record_key(spi), str(limit))
            self._limits[spi] = limit
        self._datapath.set_sequence(spi, next=following, limit=limit)

    def check(self) -> None:
        """Reserve more where less than half a block is left; OSError when it cannot be kept."""
        for spi, (following, limit) in self._datapath.sequences().items():
            block = self._blocks.get(spi)
            if block is None or limit >= LAST_SEQUENCE or limit - following >= block // 2:
                continue
            self._reserve(spi, following)

    def retire(self, spis: Iterable[int]) -> None:
        """These associations go: note where each is, while the engine still knows."""
        sequences = self._datapath.sequences()
        for spi in spis:
            if self._blocks.pop(spi, None) is not None and spi in sequences:
                self._store.put(record_key(spi), str(sequences[spi][0]))
                del self._limits[spi]

    def stop(self) -> None:
        """After the engine has stopped: note where each association really is."""
        for spi, (following, _) in self._datapath.sequences().items():
            if spi in self._blocks:
                self._store.put(record_key(spi), str(following))
