"""Autoconfiguration of one interface by this agent: composes its machines.

    link event -> doubt all -> RS (router_discovery), NS to known routers (dna), Confirm (dhcp6)
    RA         -> router_discovery -> slaac -> dad, and dhcp6 as its M and O flags say;
                  on an unknown link the link-local address is checked too
    known NA   -> router and addresses of the earlier visit, at once
    silence    -> nud asks; no router there any more is as a link event: the node moved unseen

What was found is remembered for the next visit (link_memory).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from random import Random

from mnagent.autoconf.announcement import AddressAnnouncer
from mnagent.autoconf.constants import NEIGHBOR_DISCOVERY_HOP_LIMIT
from mnagent.autoconf.dad import DuplicateAddressDetection
from mnagent.autoconf.dhcp6 import DHCP6_OFF, Dhcp6Client, Dhcp6Settings
from mnagent.autoconf.dna import SimpleDna
from mnagent.autoconf.link_memory import KnownRouter, LinkMemory
from mnagent.autoconf.nud import RouterReachability, RouterUnreachable
from mnagent.autoconf.own_address import OwnAddress, is_answer
from mnagent.autoconf.router_discovery import Advertised, RouterDiscovery
from mnagent.autoconf.slaac import AddressState, Slaac, SlaacSettings
from mnagent.core.actions import ReportEvent
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    AddressAppeared,
    AddressVanished,
    DefaultRouterAppeared,
    DefaultRouterVanished,
    DhcpMessageReceived,
    LinkCause,
    LinkDown,
    LinkUp,
    PacketReceived,
)
from mnagent.core.indications import (
    AddressDuplicate,
    AddressUnique,
    AddressUsable,
    Output,
    RouterFound,
)
from mnagent.core.timers import earliest
from mnagent.wire.ndisc import (
    AdvertisementInterval,
    NeighborAdvertisement,
    NeighborSolicitation,
    RouterAdvertisement,
)

InterfaceEvent = (
    LinkDown
    | AddressAppeared
    | AddressVanished
    | DefaultRouterAppeared
    | DefaultRouterVanished
    | PacketReceived
    | DhcpMessageReceived
)


class AgentInterface:
    """One interface whose addresses and default routes this agent makes."""

    def __init__(
        self,
        link: LinkUp,
        *,
        settings: SlaacSettings,
        dhcp6: Dhcp6Settings = DHCP6_OFF,
        random: Random,
        memory: LinkMemory,
    ) -> None:
        """``memory`` is what is known of links this interface was on; entries are added to it."""
        self._name = link.name
        self._settings = settings
        self._random = random
        self._memory = memory
        self._own = OwnAddress(link.interface)
        self.routers = RouterDiscovery(link.interface, random=random, own=self._own)
        self.slaac = Slaac(link.interface, name=link.name, settings=settings, random=random)
        self.dhcp6 = Dhcp6Client(link.interface, name=link.name, settings=dhcp6, random=random)
        self._dna = SimpleDna(self._own, memory)
        self._reachability = RouterReachability(self._own, random=random)
        self._announcer = AddressAnnouncer(self._own, random=random)
        self._link_local_detection: DuplicateAddressDetection | None = None
        self._kept_shape: object = None
        self._access_point = b""
        self.is_up = True
        """Whether it has a link."""
        self.is_memory_changed = False
        """More than lifetimes, since whoever keeps the record cleared it."""

    @property
    def name(self) -> str:
        """Of the interface."""
        return self._name

    @property
    def drops(self) -> Counter[DropReason]:
        """Router advertisements and DHCPv6 messages not acted on."""
        return self.routers.drops + self.dhcp6.drops

    def states(self) -> dict[IPv6Address, AddressState]:
        """Every address and where it stands."""
        return {**self.slaac.states(), **self.dhcp6.states()}

    # Events.

    def link_came_up(self, event: LinkUp, now: float) -> list[Output]:
        """The link may be another one from now on (RFC 6059 5.4).

        A mere suspicion asks the routers first: where they answer, what is amiss is behind them.
        """
        self.is_up = True
        self._access_point = event.access_point
        self._own.link_layer_address = event.link_layer_address
        self.slaac.link_layer_address = event.link_layer_address
        if event.cause is LinkCause.SUSPICION and self._reachability.is_watching:
            return [*self._reachability.suspect(now), *self.routers.ask(now)]
        return self._doubt(now)

    def handle(self, event: InterfaceEvent, now: float) -> list[Output]:
        """Anything else that happened on this interface."""
        match event:
            case LinkDown():
                self.is_up = False
                return self._on_link_down()
            case AddressAppeared():
                outputs = self._on_address(event, now)
            case AddressVanished():
                outputs = self._on_vanished(event.address, now)
            case DhcpMessageReceived():
                outputs = self.dhcp6.handle(event, now)
            case PacketReceived():
                outputs = self._on_packet(event, now)
            case _:
                return []  # routes of others
        return self._followed(outputs, now)

    def address_refused(self, address: IPv6Address, now: float) -> list[Output]:
        """The host could not configure it."""
        return [
            *self.slaac.address_refused(address),
            *self.dhcp6.address_refused(address, now),
        ]

    def remove_all(self) -> list[Output]:
        """Undo everything, for a node that stops."""
        outputs = [*self.slaac.remove_all(), *self.dhcp6.release(), *self._on_link_down()]
        self._note_leases()
        return outputs

    def handle_timer(self, now: float) -> list[Output]:
        """Do what is due."""
        outputs: list[Output] = [*self._dna.handle_timer(now), *self._expire_routers(now)]
        outputs += self.slaac.handle_timer(now)
        outputs += self.dhcp6.handle_timer(now)
        if self._link_local_detection is not None:
            checked = self._link_local_detection.handle_timer(now)
            outputs += self._settle_link_local(checked, now)
        for verdict in self._reachability.handle_timer(now):
            if isinstance(verdict, RouterUnreachable):
                outputs += self._on_unreachable(verdict.router, now)
            else:
                outputs.append(verdict)
        return self._followed(outputs, now)

    def next_deadline(self) -> float | None:
        detection = self._link_local_detection
        return earliest(
            self.routers.next_deadline(),
            self.slaac.next_deadline(),
            self.dhcp6.next_deadline(),
            self._dna.next_deadline(),
            self._reachability.next_deadline(),
            None if detection is None else detection.next_deadline(),
        )

    # What they lead to.

    def _on_link_down(self) -> list[Output]:
        self._dna.stop()
        self._reachability.clear()
        self._announcer.clear()
        return [
            *self._stop_link_local_detection(),
            *self.routers.link_went_down(),
            *self.slaac.remove_all(),
            *self.dhcp6.link_went_down(),
        ]

    def _on_address(self, event: AddressAppeared, now: float) -> list[Output]:
        before = self._own.link_local
        self._own.note(event)
        outputs: list[Output] = []
        if self._own.link_local != before:
            outputs += self.dhcp6.link_local_changed(self._own.link_local, now)
        if self._own.link_local is not None:
            outputs += self._dna.link_local_appeared(now)
        if event.duplicate:
            outputs += self.slaac.address_duplicate(event.address, now)
            outputs += self.dhcp6.address_duplicate(event.address, now)
        return outputs

    def _on_vanished(self, address: IPv6Address, now: float) -> list[Output]:
        if self._own.link_local != address:
            return []
        self._own.link_local = None
        return self.dhcp6.link_local_changed(None, now)

    def _on_packet(self, event: PacketReceived, now: float) -> list[Output]:
        """Any packet: from a default router it is a sign of life."""
        message = event.packet.payload
        is_from_link = event.packet.hop_limit == NEIGHBOR_DISCOVERY_HOP_LIMIT
        outputs: list[Output] = []
        if isinstance(message, RouterAdvertisement):
            others = self.routers.routers(now)
            advertised = self.routers.handle(event, now)
            if advertised is not None:
                outputs = self._on_advertisement(advertised, message, now)
                outputs += self._compare(advertised, others, now)
        elif is_from_link and isinstance(message, NeighborSolicitation | NeighborAdvertisement):
            outputs = self._on_neighbor_message(event, now)
        if not event.packet.destination.is_multicast:
            self._reachability.packet_received(event.link_layer_source, now)
        return outputs

    def _doubt(self, now: float) -> list[Output]:
        self._reachability.clear()
        self._announcer.clear()
        return [
            *self._stop_link_local_detection(),
            *self.slaac.link_came_up(),
            *self.routers.link_came_up(now),
            *self._dna.link_came_up(now, access_point=self._access_point),
            *self.dhcp6.link_came_up(now, link_layer_address=self._own.link_layer_address),
        ]

    def _expire_routers(self, now: float) -> list[Output]:
        before = {router.router for router in self.routers.routers(now)}
        outputs = self.routers.handle_timer(now)
        for router in before - {router.router for router in self.routers.routers(now)}:
            self._reachability.forget(router)
        return outputs

    def _on_advertisement(
        self, advertised: Advertised, message: RouterAdvertisement, now: float
    ) -> list[Output]:
        router = advertised.router
        is_known = any(each.is_same(router) for each in self._memory.routers)
        addresses = self.slaac.advertised(
            advertised.prefixes,
            is_first=advertised.is_first,
            is_contradiction=advertised.is_contradiction,
            now=now,
        )
        leases = self.dhcp6.router_advertised(
            frozenset(option.prefix for option in advertised.prefixes),
            now,
            managed=message.managed,
            other=message.other,
            is_new_link=advertised.is_new_link,
        )
        # Losses come first, then the route, then the new address: whoever listens sees the
        # router before it is asked to use an address of it.
        outputs = [*advertised.outputs, *addresses, *leases]
        if message.router_lifetime == 0:
            self._reachability.forget(router.router)
            return outputs
        self._dna.advertised(router)
        if advertised.is_contradiction:
            self._reachability.clear()
        self._watch(router, message, now)
        if advertised.is_new_link and not is_known:
            outputs += self._check_link_local(now)
        return outputs

    def _compare(
        self, advertised: Advertised, others: list[KnownRouter], now: float
    ) -> list[Output]:
        """A router came that has no prefix of those that were there: one of them may be of a link
        that we left, its advertisement overtaken by our move. Who is here answers."""
        newcomer = advertised.router
        if advertised.is_contradiction or any(each.router == newcomer.router for each in others):
            return []
        here, there = _prefixes_of([newcomer]), _prefixes_of(others)
        if not here or not there or not here.isdisjoint(there):
            return []
        return [*self._reachability.suspect(now)]

    def _watch(self, router: KnownRouter, message: RouterAdvertisement, now: float) -> None:
        intervals = [o.interval for o in message.options if isinstance(o, AdvertisementInterval)]
        self._reachability.router_advertised(
            router.router,
            link_layer_address=router.link_layer_address,
            reachable_time=message.reachable_time,
            interval=intervals[0] if intervals else None,
            now=now,
        )

    def _on_neighbor_message(self, event: PacketReceived, now: float) -> list[Output]:
        message = event.packet.payload
        if isinstance(message, NeighborAdvertisement) and is_answer(event, message):
            self._reachability.answered(message.target, now)
        outputs: list[Output] = []
        known = self._dna.handle(event, now)
        if known is not None:
            outputs += self._on_known_router(known, now)
        outputs += self.slaac.handle(event, now)
        outputs += self.dhcp6.handle_neighbor(event, now)
        if self._link_local_detection is not None:
            checked = self._link_local_detection.handle(event, now)
            outputs += self._settle_link_local(checked, now)
        return outputs

    def _on_known_router(self, known: KnownRouter, now: float) -> list[Output]:
        """The router first, then the addresses, as with an advertisement."""
        outputs = self.routers.restore(known, now)
        if not any(isinstance(output, RouterFound) for output in outputs):
            return outputs
        self._reachability.router_advertised(
            known.router, link_layer_address=known.link_layer_address, now=now
        )
        outputs += self.slaac.restore(known.addresses, now)
        if not self.dhcp6.states().keys().isdisjoint(known.leased):
            outputs += self.dhcp6.link_confirmed(now)
        return outputs

    def _on_unreachable(self, router: IPv6Address, now: float) -> list[Output]:
        details = (("router", str(router)), ("interface", self._name))
        report = ReportEvent(name="router-unreachable", details=details, warning=True)
        known = self.routers.routers(now)
        others = [each for each in known if each.router != router]
        if others:
            # What it alone advertised leads nowhere, least of all to neighbours on this link: it
            # goes first, for the loss of the router may have a Binding Update sent.
            own = _prefixes_of(known) - _prefixes_of(others)
            return [report, *self.slaac.prefixes_gone(own), *self.routers.forget(router)]
        # It was the last one: this may be another link (RFC 6275 11.5.1).
        return [report, *self._doubt(now)]

    def _followed(self, outputs: list[Output], now: float) -> list[Output]:
        """The announcements go behind all else: whoever uses an address does so first."""
        if any(isinstance(output, AddressUsable) for output in outputs):
            self._note(now)
        self._note_leases()
        return [*outputs, *self._announcer.follow(outputs, self.routers.routers(now))]

    def _note_leases(self) -> None:
        shape = self.dhcp6.kept()
        self.is_memory_changed |= shape != self._kept_shape
        self._kept_shape = shape

    def _note(self, now: float) -> None:
        """Remember the routers with the addresses there are now."""
        addresses = self.slaac.known()
        leased = tuple(a for a, s in self.dhcp6.states().items() if s is AddressState.PREFERRED)
        through = (self._access_point,) if self._access_point else ()
        for router in self.routers.routers(now):
            prefixes = {prefix for prefix, _ in router.prefixes}
            own = tuple(known for known in addresses if known.prefix in prefixes)
            if (own or leased) and router.link_layer_address:
                entry = replace(router, addresses=own, leased=leased, access_points=through)
                is_changed = self._memory.remember(entry)
                self.is_memory_changed = self.is_memory_changed or is_changed

    # The link-local address, which the host makes.

    def _check_link_local(self, now: float) -> list[Output]:
        """Nobody else may have it on this link either (RFC 6275 11.5.1)."""
        address = self._own.link_local
        if address is None or self._link_local_detection is not None:
            return []  # the host is at it itself, or we are
        self._link_local_detection = DuplicateAddressDetection(
            address,
            interface=self._own.interface,
            random=self._random,
            transmits=self._settings.transmits,
            link_layer_address=self._own.link_layer_address,
        )
        return self._settle_link_local(self._link_local_detection.start(now), now)

    def _settle_link_local(self, outputs: list[Output], now: float) -> list[Output]:
        settled: list[Output] = []
        for output in outputs:
            if isinstance(output, AddressUnique | AddressDuplicate):
                self._link_local_detection = None
            if isinstance(output, AddressDuplicate):
                # It is the host's: we can but not use it, and say so.
                settled += self._on_vanished(output.address, now)
                details = (("address", str(output.address)), ("interface", self._name))
                settled.append(ReportEvent(name="duplicate-address", details=details, warning=True))
            elif not isinstance(output, AddressUnique):
                settled.append(output)
        return settled

    def _stop_link_local_detection(self) -> list[Output]:
        detection, self._link_local_detection = self._link_local_detection, None
        return [] if detection is None else detection.stop()


def _prefixes_of(routers: Iterable[KnownRouter]) -> set[IPv6Network]:
    return {prefix for router in routers for prefix, _ in router.prefixes}
