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
        wanted: dict[int, int] = {}
        for association in associations:
            if association.direction is not Direction.OUTBOUND:
                continue
            spi = association.spi
            payload = association.mode is EspMode.TUNNEL
            self._blocks[spi] = PAYLOAD_BLOCK if payload else CONTROL_BLOCK
            try:
                wanted[spi] = max(1, int(records.get(record_key(spi), "1")))
            except ValueError:
                raise ValueError(f"the record {record_key(spi)} is damaged") from None
        self._reserve(wanted)

    def _reserve(self, wanted: Mapping[int, int]) -> None:
        """Give each association a block from its next number on, all of them kept at once."""
        limits = {
            spi: min(following + self._blocks[spi], LAST_SEQUENCE)
            for spi, following in wanted.items()
        }
        changed = {spi: limit for spi, limit in limits.items() if limit != self._limits.get(spi)}
        if changed:
            self._store.put_all({record_key(spi): str(limit) for spi, limit in changed.items()})
            self._limits.update(changed)
        for spi, following in wanted.items():
            self._datapath.set_sequence(spi, next=following, limit=limits[spi])

    def check(self) -> None:
        """Reserve more where less than half a block is left; OSError when it cannot be kept."""
        wanted: dict[int, int] = {}
        for spi, (following, limit) in self._datapath.take_sequences_in_need().items():
            block = self._blocks.get(spi)
            if block is None or limit >= LAST_SEQUENCE or limit - following >= block // 2:
                continue
            wanted[spi] = following
        self._reserve(wanted)

    def stop(self) -> None:
        """After the engine has stopped: note where each association really is."""
        self._store.put_all(
            {
                record_key(spi): str(following)
                for spi, (following, _) in self._datapath.sequences().items()
                if spi in self._blocks
            }
        )
