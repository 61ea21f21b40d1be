"""A network in virtual time: links that delay, lose, reorder and duplicate, and a clock that jumps.

Everything random comes from one seed; a failing test prints it::

    with World(seed=7) as world:
        link = world.link("foreign", loss=0.3)
        ...
        world.run_until(lambda: node.is_registered, timeout=60)
"""

from __future__ import annotations

import heapq
import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Protocol

from tests.support.pcap import LinkType, write_pcap

BROADCAST = b"\xff" * 6
ETHERTYPE_IPV6 = 0x86DD


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """An Ethernet frame that carries one IPv6 packet."""

    source: bytes
    destination: bytes
    data: bytes

    @property
    def is_multicast(self) -> bool:
        """True when every port of the link gets it."""
        return bool(self.destination[0] & 1)


class FrameReceiver(Protocol):
    """A node as its ports see it."""

    def receive(self, port: Port, frame: Frame) -> None:
        """A frame arrived."""


@dataclass(eq=False, slots=True)
class Port:
    """A network interface of a node."""

    node: FrameReceiver
    index: int
    name: str
    mac: bytes
    link: Link | None = None

    def send(self, destination: bytes, data: bytes) -> None:
        """Put a frame on the link; without one it is lost."""
        if self.link is not None:
            self.link.transmit(self, Frame(source=self.mac, destination=destination, data=data))


@dataclass(eq=False, slots=True)
class Link:
    """A broadcast domain. Each receiver's copy has its own fate."""

    world: World
    name: str
    delay: float = 0.001
    """Seconds."""
    loss: float = 0.0
    """Probability that a copy is lost."""
    reorder: float = 0.0
    """Probability that a copy comes up to ten delays late."""
    duplicate: float = 0.0
    """Probability that a copy comes twice."""
    ports: list[Port] = field(default_factory=list)
    frames: list[tuple[float, Frame]] = field(default_factory=list)
    """What was sent, and when."""

    def attach(self, port: Port) -> None:
        """Plug a port in; it is unplugged elsewhere."""
        if port.link is not None:
            port.link.ports.remove(port)
        port.link = self
        self.ports.append(port)

    def detach(self, port: Port) -> None:
        """Unplug a port."""
        if port.link is self:
            self.ports.remove(port)
            port.link = None

    def transmit(self, sender: Port, frame: Frame) -> None:
        """Deliver to the other ports, each with its own delay and luck."""
        self.frames.append((self.world.now, frame))
        for port in self.ports:
            if port is not sender and (frame.is_multicast or frame.destination == port.mac):
                self._deliver(port, frame)

    def _deliver(self, port: Port, frame: Frame) -> None:
        random = self.world.random
        if random.random() < self.loss:
            return
        copies = 2 if random.random() < self.duplicate else 1
        for _ in range(copies):
            late = self.delay * random.uniform(1, 10) if random.random() < self.reorder else 0.0
            arrival = self.world.now + self.delay + late
            self.world.at(arrival, lambda: self._arrive(port, frame))

    def _arrive(self, port: Port, frame: Frame) -> None:
        # A frame that is under way when its receiver leaves the link never reaches it.
        if port.link is self:
            port.node.receive(port, frame)

    def write_pcap(self, path: Path) -> None:
        """Write what was sent, for a protocol analyser."""
        ethertype = struct.pack("!H", ETHERTYPE_IPV6)
        records = (
            (sent_at, frame.destination + frame.source + ethertype + frame.data)
            for sent_at, frame in self.frames
        )
        write_pcap(path, records, link_type=LinkType.ETHERNET)


class World:
    """The clock, the links and the seed."""

    def __init__(self, *, seed: int = 0, start: float = 1000.0) -> None:
        """``start`` is far from 0, so that "never" and "just now" differ."""
        self.seed = seed
        self.random = Random(seed)
        self.now = start
        self.links: dict[str, Link] = {}
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._macs = itertools.count(1)

    def __enter__(self) -> World:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"world seed {self.seed}, virtual time {self.now:.3f}")

    def link(
        self,
        name: str,
        *,
        delay: float = 0.001,
        loss: float = 0.0,
        reorder: float = 0.0,
        duplicate: float = 0.0,
    ) -> Link:
        """Make a link."""
        link = Link(self, name, delay=delay, loss=loss, reorder=reorder, duplicate=duplicate)
        self.links[name] = link
        return link

    def new_mac(self) -> bytes:
        """An unused link-layer address."""
        return bytes((0x02, 0, 0, 0)) + next(self._macs).to_bytes(2, "big")

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Call at an instant; what lies in the past comes now."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), callback))

    def after(self, delay: float, callback: Callable[[], None]) -> None:
        """Call after so many seconds."""
        self.at(self.now + delay, callback)

    def run_for(self, duration: float) -> None:
        """Let so many seconds pass."""
        self._run(self.now + duration, lambda: False)

    def run_until(self, condition: Callable[[], bool], *, timeout: float) -> None:
        """Let time pass until the condition holds; AssertionError after ``timeout`` seconds."""
        if not condition() and not self._run(self.now + timeout, condition):
            raise AssertionError(f"nothing came of it within {timeout} s")

    def _run(self, end: float, condition: Callable[[], bool]) -> bool:
        while self._queue and self._queue[0][0] <= end:
            when, _, callback = heapq.heappop(self._queue)
            self.now = when
            callback()
            if condition():
                return True
        self.now = end
        return condition()
