"""Simple DNA on one interface: is this a link we know (RFC 6059)?

    link event -> a unicast solicitation to each of six known routers -> again after 20 and 80 ms
                    `- answer with the right addresses -> the router, with all we had there
                    `- its own advertisement came first -> that is what counts (5.7.3.1)

The solicitations leave beside the Router Solicitation, so a known link is usable after one round
trip, and an unknown one no later than without them. Where the link-local address is not known yet,
as after a restart, they wait for it.

A flapping link gets no more than MAX_PROBED_EVENTS such rounds in DAMPING_TIME: nearly the one a
second of 5.11, but three quick moves in a row are still all served.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from mnagent.autoconf.constants import PROBE_INTERVALS, PROBE_LIFETIME
from mnagent.autoconf.link_memory import Candidate, KnownRouter, LinkMemory
from mnagent.autoconf.own_address import OwnAddress, answering_link_layer_address, is_answer
from mnagent.core.actions import SendPacket
from mnagent.core.events import PacketReceived
from mnagent.wire.ndisc import NeighborAdvertisement

MAX_PROBED_EVENTS: Final = 4
DAMPING_TIME: Final = 3.0


class SimpleDna:
    """The probes of one interface."""

    def __init__(self, own: OwnAddress, memory: LinkMemory) -> None:
        self._own = own
        self._memory = memory
        self._pending: list[Candidate] = []
        self._ends_at = -math.inf
        self._asks_left = 0
        self._deadline: float | None = None
        self._events: deque[float] = deque(maxlen=MAX_PROBED_EVENTS)

    def link_came_up(self, now: float, *, access_point: bytes = b"") -> list[SendPacket]:
        """Ask the routers we know, if we may, whether they are here: behind this access point."""
        self.stop()
        if len(self._events) == MAX_PROBED_EVENTS and now - self._events[0] < DAMPING_TIME:
            return []
        self._pending = self._memory.candidates(now, access_point=access_point)
        if not self._pending:
            return []
        self._events.append(now)
        self._ends_at = now + PROBE_LIFETIME
        self._asks_left = len(PROBE_INTERVALS) + 1
        return self._ask(now)

    def link_local_appeared(self, now: float) -> list[SendPacket]:
        """Ask now what could not be asked without it."""
        return self._ask(now) if self._deadline is None and now < self._ends_at else []

    def stop(self) -> None:
        """Ask no more, and hear no answers."""
        self._pending = []
        self._asks_left = 0
        self._deadline = None

    def advertised(self, router: KnownRouter) -> None:
        """A router spoke for itself: no answer of it counts any more, and nobody is asked again."""
        self._pending = [each for each in self._pending if each.router.router != router.router]
        self._asks_left = 0
        self._deadline = None

    def handle(self, event: PacketReceived, now: float) -> KnownRouter | None:
        """The known router that a Neighbor Advertisement shows to be here (RFC 6059 5.7.1)."""
        message = event.packet.payload
        if (
            now >= self._ends_at
            or not isinstance(message, NeighborAdvertisement)
            or not (message.router and is_answer(event, message))
        ):
            return None
        told = answering_link_layer_address(event, message)
        for candidate in self._pending:
            expected = candidate.target, candidate.router.link_layer_address
            if expected == (message.target, told):
                self._pending.remove(candidate)
                return candidate.router.alive(now)
        return None

    def handle_timer(self, now: float) -> list[SendPacket]:
        """Ask again."""
        if self._deadline is None or now < self._deadline:
            return []
        self._deadline = None
        return self._ask(now)

    def next_deadline(self) -> float | None:
        return self._deadline

    def _ask(self, now: float) -> list[SendPacket]:
        """Without a link-local address the question waits for it."""
        if self._own.link_local is None or not self._pending or not self._asks_left:
            return []
        self._asks_left -= 1
        if self._asks_left:
            self._deadline = now + PROBE_INTERVALS[-self._asks_left]
        packets: list[SendPacket] = []
        for each in self._pending:
            destination = each.router.link_layer_address
            packets += self._own.probe(each.target, link_layer_destination=destination)
        return packets
