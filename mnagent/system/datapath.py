"""The packet engine as the daemon sees it, and a fake one for tests."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Protocol

from mnagent.datapath import Changes, HandedUp, Tables, Traffic


class Datapath(Protocol):
    """`mnagent.datapath.Engine`."""

    def attach(self, interface: int) -> None: ...

    def detach(self, interface: int) -> None: ...

    def publish(self, tables: Tables) -> None: ...

    def change(self, changes: Changes) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...

    def take_handed_up(self) -> list[HandedUp]: ...

    def take_traffic(self) -> list[Traffic]: ...

    def protect(self, spi: int, packet: bytes) -> bytes: ...

    def set_sequence(self, spi: int, *, next: int, limit: int) -> None: ...

    def sequences(self) -> dict[int, tuple[int, int]]: ...

    def take_sequences_in_need(self) -> dict[int, tuple[int, int]]: ...

    def counters(self) -> dict[str, int]: ...

    def activity(self) -> dict[IPv6Address, tuple[int, int]]: ...


class FakeDatapath:
    """Remembers what it was told; protects by putting the SPI in front."""

    def __init__(self) -> None:
        self.attached: set[int] = set()
        self.tables: list[Tables] = []
        self.changes: list[Changes] = []
        self.running = False
        self.handed_up: list[HandedUp] = []
        self.traffic: list[Traffic] = []
        self.spis: dict[int, tuple[int, int]] = {}

    def attach(self, interface: int) -> None:
        self.attached.add(interface)

    def detach(self, interface: int) -> None:
        self.attached.discard(interface)

    def publish(self, tables: Tables) -> None:
        self.tables.append(tables)

    def change(self, changes: Changes) -> None:
        self.changes.append(changes)
        self.tables.append(changes.applied_to(self.tables[-1] if self.tables else Tables()))

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def close(self) -> None:
        self.running = False

    def take_handed_up(self) -> list[HandedUp]:
        taken, self.handed_up = self.handed_up, []
        return taken

    def take_traffic(self) -> list[Traffic]:
        taken, self.traffic = self.traffic, []
        return taken

    def protect(self, spi: int, packet: bytes) -> bytes:
        following, limit = self.spis[spi]
        self.spis[spi] = (following + 1, limit)
        return spi.to_bytes(4, "big") + packet

    def set_sequence(self, spi: int, *, next: int, limit: int) -> None:
        self.spis[spi] = (next, limit)

    def sequences(self) -> dict[int, tuple[int, int]]:
        return dict(self.spis)

    def take_sequences_in_need(self) -> dict[int, tuple[int, int]]:
        return self.sequences()

    def counters(self) -> dict[str, int]:
        return {}

    def activity(self) -> dict[IPv6Address, tuple[int, int]]:
        return {}
