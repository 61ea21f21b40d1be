"""Are the default routers of one interface still there (RFC 4861 7.3, RFC 6275 11.5.1)?

    heard -- silent for REACHABLE_TIME, 3 advertisement intervals missed, or suspected --> probing
      ^                                                                                      |
      `----------- any packet through the router ---------------------------------------- <--+
                                       RouterUnreachable <-- five probes, 0.2 s apart -------'

A node that moves unseen (no carrier loss, no link event) finds out by this. Whatever arrives from a
router's link-layer address is proof that it is there, so probes leave only where it is quiet. They
are unicast, and ours: the kernel asks only when it has something to send, which on a link left
unseen goes into the void for seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from random import Random

from mnagent.autoconf.constants import (
    MAX_MISSED_ADVERTISEMENTS,
    MAX_RANDOM_FACTOR,
    MAX_REACHABLE_TIME,
    MAX_UNREACHABILITY_PROBES,
    MIN_MISSED_DELAY,
    MIN_RANDOM_FACTOR,
    MIN_REACHABLE_TIME,
    REACHABLE_TIME,
    RETRANS_TIMER,
    UNREACHABILITY_PROBE_INTERVAL,
)
from mnagent.autoconf.own_address import OwnAddress
from mnagent.core.actions import SendPacket
from mnagent.core.timers import earliest


@dataclass(frozen=True, slots=True)
class RouterUnreachable:
    """Nothing came from this router, though it was asked."""

    router: IPv6Address


@dataclass(slots=True)
class _Watched:
    link_layer_address: bytes
    reachable_time: float
    """Seconds of silence that are no reason to ask."""
    due_at: float
    """When it has been silent for so long, or the next probe is due."""
    advertisement_due_at: float | None = None
    """When too many advertisements will be missing; None where none is promised."""
    probes_left: int | None = None
    """None while it is not asked."""


class RouterReachability:
    """Watches the routers of one interface."""

    def __init__(self, own: OwnAddress, *, random: Random) -> None:
        self._own = own
        self._random = random
        self._routers: dict[IPv6Address, _Watched] = {}

    @property
    def is_watching(self) -> bool:
        """Whether there is anybody to ask."""
        return bool(self._routers)

    def router_advertised(
        self,
        router: IPv6Address,
        *,
        link_layer_address: bytes,
        now: float,
        reachable_time: float = 0.0,
        interval: float | None = None,
    ) -> None:
        """Watch a router from now on: it spoke, or answered.

        ``reachable_time`` of 0 is unspecified; ``interval`` is what its Advertisement Interval
        option promises. Both are seconds. The caller's table of routers bounds ours. Where the link
        has no link-layer addresses nobody is watched.
        """
        if not link_layer_address:
            return
        wanted = reachable_time or REACHABLE_TIME
        base = min(max(wanted, MIN_REACHABLE_TIME), MAX_REACHABLE_TIME)
        spread = self._random.uniform(MIN_RANDOM_FACTOR, MAX_RANDOM_FACTOR)
        watched = _Watched(link_layer_address, base * spread, due_at=now + base * spread)
        if interval is not None:
            patience = max(interval * MAX_MISSED_ADVERTISEMENTS, MIN_MISSED_DELAY)
            watched.advertisement_due_at = now + patience
        self._routers[router] = watched

    def packet_received(self, link_layer_source: bytes, now: float) -> None:
        """A packet came from this link-layer address, whatever it was."""
        for watched in self._routers.values():
            if watched.link_layer_address == link_layer_source:
                self._rest(watched, now)

    def answered(self, router: IPv6Address, now: float) -> None:
        """It answered a probe, by whichever link-layer address: virtual routers have two."""
        watched = self._routers.get(router)
        if watched is not None:
            self._rest(watched, now)

    def suspect(self, now: float) -> list[SendPacket]:
        """Ask all at once: somebody has a reason to think that they are gone."""
        packets: list[SendPacket] = []
        for router, watched in self._routers.items():
            if watched.probes_left is None:
                watched.probes_left = MAX_UNREACHABILITY_PROBES
                packets += self._probe(router, watched, now)
        return packets

    def forget(self, router: IPv6Address) -> None:
        """It is no default router any more."""
        self._routers.pop(router, None)

    def clear(self) -> None:
        """Watch none."""
        self._routers.clear()

    def handle_timer(self, now: float) -> list[SendPacket | RouterUnreachable]:
        """Ask, ask again, or give a router up."""
        outputs: list[SendPacket | RouterUnreachable] = []
        for router, watched in tuple(self._routers.items()):
            if now < _deadline(watched):
                continue
            if watched.probes_left is None:
                watched.probes_left = MAX_UNREACHABILITY_PROBES
            if watched.probes_left:
                outputs += self._probe(router, watched, now)
            else:
                del self._routers[router]
                outputs.append(RouterUnreachable(router))
        return outputs

    def next_deadline(self) -> float | None:
        return earliest(*(_deadline(watched) for watched in self._routers.values()))

    def _rest(self, watched: _Watched, now: float) -> None:
        watched.due_at = now + watched.reachable_time
        if watched.probes_left is not None:
            # It answered, but is late with its advertisements: it is there, which is what counts.
            watched.advertisement_due_at = None
        watched.probes_left = None

    def _probe(self, router: IPv6Address, watched: _Watched, now: float) -> list[SendPacket]:
        packets = self._own.probe(router, link_layer_destination=watched.link_layer_address)
        if not packets:
            # No address to ask from: silence would prove nothing.
            watched.probes_left = None
            watched.advertisement_due_at = None
            watched.due_at = now + RETRANS_TIMER
            return []
        assert watched.probes_left is not None
        watched.probes_left -= 1
        watched.due_at = now + UNREACHABILITY_PROBE_INTERVAL
        return packets


def _deadline(watched: _Watched) -> float:
    if watched.probes_left is not None or watched.advertisement_due_at is None:
        return watched.due_at
    return min(watched.due_at, watched.advertisement_due_at)
