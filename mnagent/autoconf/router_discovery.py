"""Router discovery on one interface: solicit, validate, remember (RFC 4861 6.1.2, 6.3).

A link event makes every router doubtful: they are reported lost, and one Router Solicitation leaves
at once (RFC 6059 5.5.1); it goes again after 4 s and then twice as long each time (RFC 7559),
because a single multicast answer is lost easily on Wi-Fi.

A router that suddenly advertises none of the prefixes it did is taken for another one with the same
link-local address on another link (RFC 6275 11.5.1): `Advertised.is_new_link` says so.
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
    RTR_SOLICITATION_INTERVAL,
    UNSPECIFIED_ADDRESS,
)
from mnagent.core.actions import AddDefaultRouter, RemoveDefaultRouter, SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.core.indications import Output, RouterFound, RouterLost
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
    is_in_doubt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertised:
    """A valid Router Advertisement, taken in."""

    prefixes: tuple[PrefixInformation, ...]
    is_new_link: bool
    """It is the first since the link event, or contradicts what the same router said before."""
    outputs: tuple[Output, ...]


class RouterDiscovery:
    """The default routers of one interface.

    ``configure_routes`` is False where the kernel keeps the routes itself.
    """

    def __init__(self, interface: int, *, random: Random, configure_routes: bool = True) -> None:
        self._interface = interface
        self._random = random
        self._configure_routes = configure_routes
        self._routers: dict[IPv6Address, _Router] = {}
        self._timers: Timers[IPv6Address | _Solicit] = Timers()
        self._interval = RTR_SOLICITATION_INTERVAL
        self._is_waiting = False
        self.link_layer_address = b""
        self.link_local: IPv6Address | None = None
        """Our own address to solicit from, once it is not tentative."""
        self.drops: Counter[DropReason] = Counter()

    def link_came_up(self, now: float) -> list[Output]:
        """Doubt all routers and ask who is there."""
        outputs: list[Output] = []
        for router, entry in self._routers.items():
            if not entry.is_in_doubt:
                entry.is_in_doubt = True
                outputs.append(RouterLost(interface=self._interface, router=router))
        self._is_waiting = True
        self._interval = RTR_SOLICITATION_INTERVAL
        return [*outputs, *self._solicit(now)]

    def link_went_down(self) -> list[Output]:
        """Forget all routers and ask nobody."""
        self._is_waiting = False
        outputs: list[Output] = []
        for router in tuple(self._routers):
            outputs += self._forget(router)
        self._timers.clear()
        return outputs

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
            return self._on_resignation(event.packet.source, prefixes)
        return self._on_router(event, message, prefixes, now)

    def handle_timer(self, now: float) -> list[Output]:
        """Solicit again, or forget a router whose lifetime is over."""
        outputs: list[Output] = []
        for name in self._timers.pop_due(now):
            if isinstance(name, _Solicit):
                self._interval = min(self._interval * 2, MAX_RTR_SOLICITATION_INTERVAL)
                outputs += self._solicit(now)
            else:
                outputs += self._forget(name)
        if outputs and not any(isinstance(output, SendPacket) for output in outputs):
            outputs += self._ask_again_if_alone(now)
        return outputs

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    def _ask_again_if_alone(self, now: float) -> list[Output]:
        if self._routers or self._is_waiting:
            return []
        self._is_waiting = True
        self._interval = RTR_SOLICITATION_INTERVAL
        return self._solicit(now)

    def _solicit(self, now: float) -> list[Output]:
        # RFC 7559 2.1 spreads the retries of nodes that lost the same router by a tenth.
        delay = self._interval * self._random.uniform(1.0, 1.1)
        self._timers.set(_Solicit.TIMER, now + delay)
        source = self.link_local or UNSPECIFIED_ADDRESS
        options: tuple[SourceLinkLayerAddress, ...] = ()
        if self.link_local is not None and self.link_layer_address:
            options = (SourceLinkLayerAddress(self.link_layer_address),)
        packet = IPv6Packet(
            source,
            ALL_ROUTERS,
            RouterSolicitation(options),
            hop_limit=NEIGHBOR_DISCOVERY_HOP_LIMIT,
        )
        return [SendPacket(packet=packet, interface=self._interface)]

    def _on_resignation(
        self, router: IPv6Address, prefixes: tuple[PrefixInformation, ...]
    ) -> Advertised:
        return Advertised(prefixes=prefixes, is_new_link=False, outputs=tuple(self._forget(router)))

    def _on_router(
        self,
        event: PacketReceived,
        message: RouterAdvertisement,
        prefixes: tuple[PrefixInformation, ...],
        now: float,
    ) -> Advertised | None:
        address = event.packet.source
        is_new_link = self._is_waiting or self._contradicts(address, prefixes, now)
        outputs: list[Output] = []
        if is_new_link:
            outputs = self._forget_contradicted(address)
            self._is_waiting = False
            self._timers.cancel(_Solicit.TIMER)
        if address not in self._routers and len(self._routers) >= MAX_ROUTERS:
            self.drops[DropReason.CACHE_FULL] += 1
            return None
        outputs += self._remember(event, message, prefixes, now)
        return Advertised(prefixes=prefixes, is_new_link=is_new_link, outputs=tuple(outputs))

    def _contradicts(
        self, address: IPv6Address, prefixes: tuple[PrefixInformation, ...], now: float
    ) -> bool:
        entry = self._routers.get(address)
        if entry is None or not prefixes:
            return False
        known = {prefix for prefix, until in entry.prefixes.items() if now < until}
        return bool(known) and known.isdisjoint(option.prefix for option in prefixes)

    def _forget_contradicted(self, speaker: IPv6Address) -> list[Output]:
        """On another link, what the speaker said on the old one and who else was there is void."""
        outputs: list[Output] = []
        for router in tuple(self._routers):
            if router != speaker:
                outputs += self._forget(router)
        entry = self._routers.get(speaker)
        if entry is not None:
            entry.prefixes.clear()
        return outputs

    def _remember(
        self,
        event: PacketReceived,
        message: RouterAdvertisement,
        prefixes: tuple[PrefixInformation, ...],
        now: float,
    ) -> list[Output]:
        address = event.packet.source
        entry = self._routers.setdefault(address, _Router(expires_at=0.0, prefixes={}))
        entry.is_in_doubt = False
        entry.expires_at = now + message.router_lifetime
        self._timers.set(address, entry.expires_at)
        for prefix in [p for p, until in entry.prefixes.items() if until <= now]:
            del entry.prefixes[prefix]
        for option in prefixes:
            if option.valid_lifetime == 0:
                entry.prefixes.pop(option.prefix, None)
            elif option.prefix in entry.prefixes or len(entry.prefixes) < MAX_PREFIXES:
                entry.prefixes[option.prefix] = now + option.valid_lifetime
        link_layer_address = _link_layer_address_of(event, message)
        found = RouterFound(
            interface=self._interface,
            router=address,
            prefixes=tuple(entry.prefixes),
            link_layer_address=link_layer_address,
            addresses=tuple(
                (option.address, link_layer_address) for option in prefixes if option.router_address
            ),
        )
        if not self._configure_routes:
            return [found]
        route = AddDefaultRouter(
            interface=self._interface,
            router=address,
            lifetime=float(message.router_lifetime),
            link_layer_address=link_layer_address,
        )
        return [route, found]

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
