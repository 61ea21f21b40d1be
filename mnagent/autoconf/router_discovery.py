"""Router discovery on one interface: solicit, validate, remember (RFC 4861 6.1.2, 6.3).

A link event makes every router doubtful: they are reported lost, and one Router Solicitation leaves
at once (RFC 6059 5.5.1). It goes again quickly, then every 4 s for a minute, then twice as long
each time (RFC 7559), because a single multicast answer is lost easily on Wi-Fi. It carries our
link-layer address though RFC 6059 5.6.2 would rather not: a router that knows it may answer by
unicast, which Wi-Fi acknowledges and repeats.

Two routers on different links may have the same link-local address (RFC 6275 11.5.1). A router is
taken for another one, on another link, when it suddenly advertises none of the prefixes it did,
when its global address (R bit) is another, or when its link-layer address is another and its
prefixes are not the same: `Advertised.is_contradiction` says so.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from random import Random

from mnagent.autoconf.constants import (
    ALL_ROUTERS,
    MAX_PREFIXES,
    MAX_ROUTERS,
    MAX_RTR_SOLICITATION_INTERVAL,
    NEIGHBOR_DISCOVERY_HOP_LIMIT,
    PERSISTENT_SOLICITATION_TIME,
    QUICK_SOLICITATION_INTERVALS,
    RTR_SOLICITATION_INTERVAL,
    UNSPECIFIED_ADDRESS,
)
from mnagent.autoconf.link_memory import KnownRouter
from mnagent.autoconf.own_address import OwnAddress
from mnagent.core.actions import AddDefaultRouter, RemoveDefaultRouter, SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.core.indications import Output, RouterFound, RouterLost
from mnagent.core.prefix_lifetime import new_end
from mnagent.core.timers import Timers
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import (
    PrefixInformation,
    RouterAdvertisement,
    RouterSolicitation,
    SourceLinkLayerAddress,
)


class _Solicit(enum.Enum):
    TIMER = enum.auto()


@dataclass(slots=True)
class _Router:
    expires_at: float
    prefixes: dict[IPv6Network, float]
    """Prefix to the instant at which it ends."""
    link_layer_address: bytes = b""
    router_addresses: tuple[IPv6Address, ...] = ()
    is_in_doubt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertised:
    """A valid Router Advertisement, taken in."""

    router: KnownRouter
    """Who spoke, without addresses of ours."""
    prefixes: tuple[PrefixInformation, ...]
    is_first: bool
    """It is the first since the link event: what it does not confirm is of another link."""
    is_contradiction: bool
    """The same router said something else before: all that was known is of another link."""
    outputs: tuple[Output, ...]

    @property
    def is_new_link(self) -> bool:
        return self.is_first or self.is_contradiction


class RouterDiscovery:
    """The default routers of one interface.

    ``configure_routes`` is False where the kernel keeps the routes itself.
    """

    def __init__(
        self,
        interface: int,
        *,
        random: Random,
        configure_routes: bool = True,
        own: OwnAddress | None = None,
    ) -> None:
        self._interface = interface
        self._random = random
        self._configure_routes = configure_routes
        self._routers: dict[IPv6Address, _Router] = {}
        self._timers: Timers[IPv6Address | _Solicit] = Timers()
        self._quick_intervals: list[float] = []
        self._interval = RTR_SOLICITATION_INTERVAL
        self._persistent_until = 0.0
        self._is_waiting = False
        self.own = own or OwnAddress(interface)
        self.drops: Counter[DropReason] = Counter()

    def routers(self, now: float) -> list[KnownRouter]:
        """The default routers that are not in doubt, without addresses of ours."""
        return [
            self._known(address, entry, now)
            for address, entry in self._routers.items()
            if not entry.is_in_doubt
        ]

    def link_came_up(self, now: float) -> list[Output]:
        """Doubt all routers and ask who is there."""
        outputs: list[Output] = []
        for router, entry in self._routers.items():
            if not entry.is_in_doubt:
                entry.is_in_doubt = True
                outputs.append(RouterLost(interface=self._interface, router=router))
        return [*outputs, *self._start_soliciting(now)]

    def link_went_down(self) -> list[Output]:
        """Forget all routers and ask nobody."""
        self._is_waiting = False
        outputs: list[Output] = []
        for router in tuple(self._routers):
            outputs += self._forget(router)
        self._timers.clear()
        return outputs

    def restore(self, known: KnownRouter, now: float) -> list[Output]:
        """A remembered router is here (RFC 6059 5.7.1); its advertisement is still awaited.

        Routers in doubt make room: what answers too is restored in its turn.
        """
        outputs: list[Output] = []
        for router, doubtful in tuple(self._routers.items()):
            if router != known.router and doubtful.is_in_doubt:
                outputs += self._forget(router)
        if known.router not in self._routers and len(self._routers) >= MAX_ROUTERS:
            return outputs
        entry = _Router(
            known.expires_at,
            dict(known.prefixes),
            known.link_layer_address,
            known.router_addresses,
        )
        self._routers[known.router] = entry
        self._timers.set(known.router, known.expires_at)
        return [*outputs, *self._tell(known.router, entry, now)]

    def handle(self, event: PacketReceived, now: float) -> Advertised | None:
        """Take a Router Advertisement in, or drop it (RFC 4861 6.1.2)."""
        message = event.packet.payload
        assert isinstance(message, RouterAdvertisement)
        if event.packet.hop_limit != NEIGHBOR_DISCOVERY_HOP_LIMIT:
            self.drops[DropReason.BAD_HOP_LIMIT] += 1
            return None
        if not event.packet.source.is_link_local:
            self.drops[DropReason.NOT_LINK_LOCAL] += 1
            return None
        prefixes = tuple(o for o in message.options if isinstance(o, PrefixInformation))
        if message.router_lifetime == 0:
            return self._on_resignation(event.packet.source, prefixes, now)
        return self._on_router(event, message, prefixes, now)

    def handle_timer(self, now: float) -> list[Output]:
        """Solicit again, or forget a router whose lifetime is over."""
        outputs: list[Output] = []
        is_asking = False
        for name in self._timers.due(now):
            if isinstance(name, _Solicit):
                is_asking = True
                outputs += self._solicit(now)
            else:
                outputs += self._forget(name)
        if outputs and not is_asking and not self._routers and not self._is_waiting:
            outputs += self._start_soliciting(now)
        return outputs

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    def ask(self, now: float) -> list[Output]:
        """Ask once who is there, without doubting anybody."""
        return [self._solicitation()] if not self._is_waiting else []

    def forget(self, router: IPv6Address) -> list[Output]:
        """It is not reachable (RFC 4861 6.3.6)."""
        return self._forget(router)

    def _start_soliciting(self, now: float) -> list[Output]:
        self._is_waiting = True
        self._quick_intervals = list(QUICK_SOLICITATION_INTERVALS)
        self._interval = RTR_SOLICITATION_INTERVAL
        self._persistent_until = now + PERSISTENT_SOLICITATION_TIME
        return self._solicit(now)

    def _next_interval(self, now: float) -> float:
        if self._quick_intervals:
            return self._quick_intervals.pop(0)
        if now >= self._persistent_until:
            self._interval = min(self._interval * 2, MAX_RTR_SOLICITATION_INTERVAL)
        # RFC 7559 2.1 spreads the retries of nodes that lost the same router by a tenth.
        return self._interval * self._random.uniform(1.0, 1.1)

    def _solicit(self, now: float) -> list[Output]:
        self._timers.set(_Solicit.TIMER, now + self._next_interval(now))
        return [self._solicitation()]

    def _solicitation(self) -> SendPacket:
        source = self.own.link_local or UNSPECIFIED_ADDRESS
        options: tuple[SourceLinkLayerAddress, ...] = ()
        if self.own.link_local is not None and self.own.link_layer_address:
            options = (SourceLinkLayerAddress(self.own.link_layer_address),)
        packet = IPv6Packet(
            source,
            ALL_ROUTERS,
            RouterSolicitation(options),
            hop_limit=NEIGHBOR_DISCOVERY_HOP_LIMIT,
        )
        return SendPacket(packet=packet, interface=self._interface)

    def _on_resignation(
        self, router: IPv6Address, prefixes: tuple[PrefixInformation, ...], now: float
    ) -> Advertised:
        """It is no default router, and so says nothing of where we are."""
        entry = self._routers.get(router) or _Router(now, {})
        known = self._known(router, entry, now)
        outputs = self._forget(router)
        if outputs and not self._routers and not self._is_waiting:
            # It was the last one: like one that fell silent. Anybody can say so in its name, too.
            outputs += self._start_soliciting(now)
        return Advertised(
            router=known,
            prefixes=prefixes,
            is_first=False,
            is_contradiction=False,
            outputs=tuple(outputs),
        )

    def _on_router(
        self,
        event: PacketReceived,
        message: RouterAdvertisement,
        prefixes: tuple[PrefixInformation, ...],
        now: float,
    ) -> Advertised | None:
        address = event.packet.source
        told = _Router(
            now + message.router_lifetime,
            {},
            _link_layer_address_of(event, message),
            tuple(option.address for option in prefixes if option.router_address)[:MAX_PREFIXES],
        )
        is_first, self._is_waiting = self._is_waiting, False
        is_contradiction = self._contradicts(address, told, prefixes, now)
        outputs = self._forget_void(
            address, prefixes, is_first=is_first, is_contradiction=is_contradiction
        )
        self._timers.cancel(_Solicit.TIMER)
        if address not in self._routers and len(self._routers) >= MAX_ROUTERS:
            self.drops[DropReason.CACHE_FULL] += 1
            return None
        entry = self._remember(address, told, prefixes, now)
        return Advertised(
            router=self._known(address, entry, now),
            prefixes=prefixes,
            is_first=is_first,
            is_contradiction=is_contradiction,
            outputs=(*outputs, *self._tell(address, entry, now)),
        )

    def _contradicts(
        self,
        address: IPv6Address,
        told: _Router,
        prefixes: tuple[PrefixInformation, ...],
        now: float,
    ) -> bool:
        entry = self._routers.get(address)
        if entry is None or entry.is_in_doubt:
            return False
        known = {prefix for prefix, until in entry.prefixes.items() if now < until}
        here = {option.prefix for option in prefixes}
        if not known or not here:
            return False
        is_other_address = (
            bool(entry.router_addresses)
            and bool(told.router_addresses)
            and set(entry.router_addresses).isdisjoint(told.router_addresses)
        )
        is_other_port = told.link_layer_address != entry.link_layer_address and known != here
        return known.isdisjoint(here) or is_other_address or is_other_port

    def _forget_void(
        self,
        speaker: IPv6Address,
        prefixes: tuple[PrefixInformation, ...],
        *,
        is_first: bool,
        is_contradiction: bool,
    ) -> list[Output]:
        """On another link, what the speaker said on the old one and who else was there is void."""
        here = {option.prefix for option in prefixes}
        outputs: list[Output] = []
        for router, entry in tuple(self._routers.items()):
            is_void = is_contradiction or (is_first and entry.is_in_doubt)
            if is_void and router == speaker:
                entry.prefixes = {p: until for p, until in entry.prefixes.items() if p in here}
                entry.router_addresses = ()
            elif is_void:
                outputs += self._forget(router)
        return outputs

    def _remember(
        self,
        address: IPv6Address,
        told: _Router,
        prefixes: tuple[PrefixInformation, ...],
        now: float,
    ) -> _Router:
        entry = self._routers.get(address)
        known = {} if entry is None else entry.prefixes
        if entry is not None and not told.router_addresses:
            told.router_addresses = entry.router_addresses
        told.prefixes = {prefix: until for prefix, until in known.items() if now < until}
        for option in prefixes:
            previous = told.prefixes.get(option.prefix)
            if previous is not None:
                told.prefixes[option.prefix] = new_end(previous, option.valid_lifetime, now)
            elif option.valid_lifetime > 0 and len(told.prefixes) < MAX_PREFIXES:
                told.prefixes[option.prefix] = now + option.valid_lifetime
        self._routers[address] = told
        self._timers.set(address, told.expires_at)
        return told

    def _tell(self, address: IPv6Address, entry: _Router, now: float) -> list[Output]:
        found = RouterFound(
            interface=self._interface,
            router=address,
            prefixes=tuple(entry.prefixes),
            link_layer_address=entry.link_layer_address,
            addresses=tuple((each, entry.link_layer_address) for each in entry.router_addresses),
        )
        if not self._configure_routes:
            return [found]
        route = AddDefaultRouter(
            interface=self._interface,
            router=address,
            lifetime=entry.expires_at - now,
            link_layer_address=entry.link_layer_address,
        )
        return [route, found]

    def _known(self, address: IPv6Address, entry: _Router, now: float) -> KnownRouter:
        return KnownRouter(
            router=address,
            link_layer_address=entry.link_layer_address,
            expires_at=entry.expires_at,
            prefixes=tuple(entry.prefixes.items()),
            router_addresses=entry.router_addresses,
            seen_at=now,
        )

    def _forget(self, router: IPv6Address) -> list[Output]:
        entry = self._routers.pop(router, None)
        self._timers.cancel(router)
        if entry is None:
            return []
        outputs: list[Output] = []
        if self._configure_routes:
            outputs.append(RemoveDefaultRouter(interface=self._interface, router=router))
        if not entry.is_in_doubt:
            outputs.append(RouterLost(interface=self._interface, router=router))
        return outputs


def _link_layer_address_of(event: PacketReceived, message: RouterAdvertisement) -> bytes:
    for option in message.options:
        if isinstance(option, SourceLinkLayerAddress):
            return option.address
    return event.link_layer_source
