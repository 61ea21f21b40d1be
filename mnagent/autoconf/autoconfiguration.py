"""Autoconfiguration of all interfaces, in the two ways an administrator can choose.

`AgentAutoconfiguration` makes addresses and default routes itself. `KernelAutoconfiguration` takes
those that the kernel or another daemon makes. Both solicit routers on every link event, both ask a
router that has been silent for long whether it is still there, and both tell the same: RouterFound,
RouterLost, AddressUsable, AddressLost.

An address the host calls tentative is not offered unless optimistic; a duplicate never is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from random import Random
from typing import Final

from mnagent.autoconf.agent_interface import AgentInterface
from mnagent.autoconf.constants import (
    MAX_KNOWN_INTERFACES,
    NEIGHBOR_DISCOVERY_HOP_LIMIT,
    PERSIST_DELAY,
    SUSPECT_DELAY,
)
from mnagent.autoconf.dhcp6 import DHCP6_OFF, Dhcp6Settings
from mnagent.autoconf.lease_record import LEASES_KEY, KeptLeases, decode_leases, encode_leases
from mnagent.autoconf.link_memory import (
    KNOWN_LINKS_KEY,
    LinkMemory,
    decode_record,
    encode_record,
)
from mnagent.autoconf.nud import RouterReachability, RouterUnreachable
from mnagent.autoconf.own_address import is_answer
from mnagent.autoconf.router_discovery import RouterDiscovery
from mnagent.autoconf.slaac import AddressState, SlaacSettings
from mnagent.core.actions import AddAddress, PersistRecord, ReportEvent
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    ActionFailed,
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
from mnagent.core.indications import AddressLost, AddressUsable, Output, RouterFound, RouterLost
from mnagent.core.timers import earliest
from mnagent.wire.ndisc import NeighborAdvertisement, RouterAdvertisement

AutoconfigurationEvent = (
    LinkUp
    | LinkDown
    | AddressAppeared
    | AddressVanished
    | DefaultRouterAppeared
    | DefaultRouterVanished
    | PacketReceived
    | DhcpMessageReceived
    | ActionFailed
)

MAX_KERNEL_ADDRESSES: Final = 64
"""Addresses of others remembered on one interface; further ones are ignored."""


class AgentAutoconfiguration:
    """Addresses and default routes made by this agent."""

    def __init__(
        self,
        settings: SlaacSettings,
        *,
        random: Random,
        interfaces: tuple[str, ...] = (),
        dhcp6: Dhcp6Settings = DHCP6_OFF,
        persisted_links: str | None = None,
        persisted_leases: str | None = None,
    ) -> None:
        """Configure nothing yet.

        Args:
            settings: how addresses are made.
            random: for identifiers, nonces and timers.
            interfaces: names to configure; empty takes all.
            dhcp6: how leases are asked for.
            persisted_links: the record KNOWN_LINKS_KEY of an earlier run, or None.
            persisted_leases: the record LEASES_KEY of an earlier run, or None.
        """
        self._settings = settings
        self._dhcp6_settings = dhcp6
        self._random = random
        self._names = interfaces
        self._interfaces: dict[int, AgentInterface] = {}
        self._former_drops: Counter[DropReason] = Counter()
        self._memories: dict[str, LinkMemory] = {}
        self._persisted_links = persisted_links
        self._persisted_leases = persisted_leases
        self._kept_leases: dict[str, KeptLeases] = {}
        """Of interfaces that have not come up yet."""
        self._recorded_leases: dict[str, KeptLeases] = {}
        self._persist_at: float | None = None

    @property
    def drops(self) -> Counter[DropReason]:
        """Router advertisements and DHCPv6 messages not acted on."""
        return self._former_drops + _sum(entry.drops for entry in self._interfaces.values())

    def states(self) -> dict[int, dict[IPv6Address, AddressState]]:
        """Every address by interface and where it stands."""
        return {index: entry.states() for index, entry in self._interfaces.items()}

    def handle(self, event: AutoconfigurationEvent, now: float) -> list[Output]:
        if isinstance(event, LinkUp):
            return self._on_link_up(event, now)
        if isinstance(event, ActionFailed):
            return self._on_failure(event, now)
        interface = self._interfaces.get(event.interface)
        if interface is None:
            return []
        outputs = interface.handle(event, now)
        self._watch_memory(interface, now)
        return outputs

    def handle_timer(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        for interface in self._interfaces.values():
            outputs += interface.handle_timer(now)
            self._watch_memory(interface, now)
        if self._persist_at is not None and self._persist_at <= now:
            outputs += self._persist(now)
        return outputs

    def next_deadline(self) -> float | None:
        return earliest(
            self._persist_at, *(entry.next_deadline() for entry in self._interfaces.values())
        )

    def remove_all(self, now: float | None = None) -> list[Output]:
        """Undo everything, for a node that stops at ``now``; without it nothing is recorded."""
        outputs: list[Output] = []
        for interface in self._interfaces.values():
            outputs += interface.remove_all()
            if now is not None:
                self._watch_memory(interface, now)
        if now is not None and self._persist_at is not None:
            outputs += self._persist(now)
        return outputs

    def _on_link_up(self, event: LinkUp, now: float) -> list[Output]:
        if self._names and event.name not in self._names:
            return []
        self._restore(now)
        interface = self._interfaces.get(event.interface)
        if interface is None:
            interface = AgentInterface(
                event,
                settings=self._settings,
                dhcp6=self._dhcp6_settings,
                random=self._random,
                memory=self._memory_of(event.name),
            )
            for index in _made_anew(self._interfaces, event.name):
                self._former_drops += self._interfaces.pop(index).drops
            self._interfaces[event.interface] = interface
            kept = self._kept_leases.pop(event.name, None)
            if kept is not None:
                interface.dhcp6.restore(kept, now)
        return interface.link_came_up(event, now)

    def _on_failure(self, event: ActionFailed, now: float) -> list[Output]:
        if not isinstance(event.action, AddAddress):
            return []
        interface = self._interfaces.get(event.action.interface)
        return [] if interface is None else interface.address_refused(event.action.address, now)

    # What is remembered of links.

    def _restore(self, now: float) -> None:
        """Only now is there a time to count its lifetimes from."""
        leases, self._persisted_leases = self._persisted_leases, None
        if leases is not None:
            self._kept_leases = decode_leases(leases, now=now, never=self._settings.never)
            self._recorded_leases = dict(self._kept_leases)
        text, self._persisted_links = self._persisted_links, None
        self._memories |= decode_record(
            text,
            identifiers=self._settings.identifiers.value,
            now=now,
            never=self._settings.never,
        )

    def _memory_of(self, name: str) -> LinkMemory:
        if name not in self._memories and len(self._memories) >= MAX_KNOWN_INTERFACES:
            # The oldest; where its interface is still there it goes on, but is not recorded.
            del self._memories[next(iter(self._memories))]
        return self._memories.setdefault(name, LinkMemory())

    def _watch_memory(self, interface: AgentInterface, now: float) -> None:
        if interface.is_memory_changed:
            interface.is_memory_changed = False
            if self._persist_at is None:
                self._persist_at = now + PERSIST_DELAY

    def _persist(self, now: float) -> list[Output]:
        self._persist_at = None
        record = encode_record(
            self._memories, identifiers=self._settings.identifiers.value, now=now
        )
        return [PersistRecord(key=KNOWN_LINKS_KEY, value=record), *self._persist_leases(now)]

    def _persist_leases(self, now: float) -> list[Output]:
        kept = dict(self._kept_leases)
        for interface in self._interfaces.values():
            leases = interface.dhcp6.kept()
            if leases is not None:
                kept[interface.name] = leases
        if kept == self._recorded_leases:
            return []
        self._recorded_leases = kept
        return [PersistRecord(key=LEASES_KEY, value=encode_leases(kept, now))]


@dataclass(slots=True)
class _KernelInterface:
    link: LinkUp
    is_up: bool
    routers: RouterDiscovery
    reachability: RouterReachability
    addresses: dict[IPv6Address, AddressUsable] = field(default_factory=dict)
    in_doubt: set[IPv6Address] = field(default_factory=set)
    routes: set[IPv6Address] = field(default_factory=set)
    doubt_ends_at: float | None = None

    @property
    def name(self) -> str:
        return self.link.name


class KernelAutoconfiguration:
    """Addresses and default routes that others made."""

    def __init__(
        self,
        *,
        random: Random,
        optimistic: bool = True,
        interfaces: tuple[str, ...] = (),
        never: frozenset[IPv6Address] = frozenset(),
    ) -> None:
        """``never`` are addresses that are no candidates: the home addresses."""
        self._random = random
        self._optimistic = optimistic
        self._names = interfaces
        self._never = never
        self._interfaces: dict[int, _KernelInterface] = {}
        self._former_drops: Counter[DropReason] = Counter()

    @property
    def drops(self) -> Counter[DropReason]:
        """Router advertisements not acted on."""
        present = _sum(entry.routers.drops for entry in self._interfaces.values())
        return self._former_drops + present

    def states(self) -> dict[int, dict[IPv6Address, AddressState]]:
        """Every address by interface and where it stands."""
        return {
            index: {
                address: AddressState.IN_DOUBT
                if address in entry.in_doubt
                else AddressState.OPTIMISTIC
                if usable.optimistic
                else AddressState.PREFERRED
                for address, usable in entry.addresses.items()
            }
            for index, entry in self._interfaces.items()
        }

    def handle(self, event: AutoconfigurationEvent, now: float) -> list[Output]:
        if isinstance(event, LinkUp):
            return self._on_link_up(event, now)
        if isinstance(event, ActionFailed | DhcpMessageReceived):
            return []
        interface = self._interfaces.get(event.interface)
        if interface is None:
            return []
        match event:
            case LinkDown():
                interface.is_up = False
                return self._on_link_down(event.interface, interface)
            case AddressAppeared():
                return self._on_address(interface, event, now)
            case AddressVanished():
                return self._lose(interface, event.interface, event.address)
            case DefaultRouterAppeared():
                return self._on_route(interface, event)
            case DefaultRouterVanished():
                interface.routes.discard(event.router)
                interface.reachability.forget(event.router)
                return [RouterLost(interface=event.interface, router=event.router)]
            case _:
                return self._on_packet(interface, event, now)

    def handle_timer(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        for index, interface in self._interfaces.items():
            outputs += interface.routers.handle_timer(now)
            for verdict in interface.reachability.handle_timer(now):
                if isinstance(verdict, RouterUnreachable):
                    outputs += self._on_unreachable(index, interface, verdict.router, now)
                else:
                    outputs.append(verdict)
            if interface.doubt_ends_at is not None and interface.doubt_ends_at <= now:
                outputs += self._trust_again(index, interface)
        return outputs

    def next_deadline(self) -> float | None:
        return earliest(
            *(entry.routers.next_deadline() for entry in self._interfaces.values()),
            *(entry.reachability.next_deadline() for entry in self._interfaces.values()),
            *(entry.doubt_ends_at for entry in self._interfaces.values()),
        )

    def remove_all(self, now: float | None = None) -> list[Output]:
        """Nothing here is ours to undo."""
        return []

    def _on_link_up(self, event: LinkUp, now: float) -> list[Output]:
        if self._names and event.name not in self._names:
            return []
        interface = self._interfaces.get(event.interface)
        if interface is None:
            routers = RouterDiscovery(event.interface, random=self._random, configure_routes=False)
            reachability = RouterReachability(routers.own, random=self._random)
            interface = _KernelInterface(event, True, routers, reachability)
            for index in _made_anew(self._interfaces, event.name):
                self._former_drops += self._interfaces.pop(index).routers.drops
            self._interfaces[event.interface] = interface
        interface.link, interface.is_up = event, True
        interface.routers.own.link_layer_address = event.link_layer_address
        if event.cause is LinkCause.SUSPICION and interface.reachability.is_watching:
            return [*interface.reachability.suspect(now), *interface.routers.ask(now)]
        return self._doubt(event.interface, interface, now)

    def _doubt(self, index: int, interface: _KernelInterface, now: float) -> list[Output]:
        interface.reachability.clear()
        outputs: list[Output] = []
        for address in interface.addresses:
            if address not in interface.in_doubt:
                interface.in_doubt.add(address)
                outputs.append(AddressLost(interface=index, address=address))
        outputs += [RouterLost(interface=index, router=r) for r in interface.routes]
        if interface.in_doubt or interface.routes:
            interface.doubt_ends_at = now + SUSPECT_DELAY
        return [*outputs, *interface.routers.link_came_up(now)]

    def _on_link_down(self, index: int, interface: _KernelInterface) -> list[Output]:
        interface.reachability.clear()
        outputs: list[Output] = interface.routers.link_went_down()
        for address in tuple(interface.addresses):
            outputs += self._lose(interface, index, address)
        outputs += [RouterLost(interface=index, router=router) for router in interface.routes]
        interface.routes.clear()
        interface.doubt_ends_at = None
        return outputs

    def _on_address(
        self, interface: _KernelInterface, event: AddressAppeared, now: float
    ) -> list[Output]:
        if event.address.is_link_local:
            interface.routers.own.note(event)
            return []
        is_awaited = event.tentative and not self._optimistic
        if event.duplicate or is_awaited:
            return self._lose(interface, event.interface, event.address)
        if event.address in self._never or (
            event.address not in interface.addresses
            and len(interface.addresses) >= MAX_KERNEL_ADDRESSES
        ):
            return []
        preferred = 0.0 if event.deprecated else event.preferred_lifetime
        usable = AddressUsable(
            interface=event.interface,
            address=event.address,
            prefix_length=event.prefix_length,
            valid_until=math.inf if event.valid_lifetime is None else now + event.valid_lifetime,
            preferred_until=math.inf if preferred is None else now + preferred,
            optimistic=event.tentative,
        )
        interface.addresses[event.address] = usable
        interface.in_doubt.discard(event.address)
        return [usable]

    def _on_route(self, interface: _KernelInterface, event: DefaultRouterAppeared) -> list[Output]:
        interface.routes.add(event.router)
        return [RouterFound(interface=event.interface, router=event.router, prefixes=None)]

    def _on_packet(
        self, interface: _KernelInterface, event: PacketReceived, now: float
    ) -> list[Output]:
        message, reachability = event.packet.payload, interface.reachability
        outputs: list[Output] = []
        if isinstance(message, RouterAdvertisement):
            advertised = interface.routers.handle(event, now)
            if advertised is None:
                return []
            outputs = list(advertised.outputs)
            router = advertised.router
            if message.router_lifetime:
                reachability.router_advertised(
                    router.router,
                    link_layer_address=router.link_layer_address,
                    reachable_time=message.reachable_time,
                    now=now,
                )
            else:
                reachability.forget(router.router)
        elif (
            isinstance(message, NeighborAdvertisement)
            and event.packet.hop_limit == NEIGHBOR_DISCOVERY_HOP_LIMIT
            and is_answer(event, message)
        ):
            reachability.answered(message.target, now)
        if not event.packet.destination.is_multicast:
            reachability.packet_received(event.link_layer_source, now)
        return outputs

    def _on_unreachable(
        self, index: int, interface: _KernelInterface, router: IPv6Address, now: float
    ) -> list[Output]:
        """With another router in use there is no movement; else this may be another link (RFC 6275
        11.5.1)."""
        details = (("router", str(router)), ("interface", interface.link.name))
        report = ReportEvent(name="router-unreachable", details=details, warning=True)
        if any(each.router != router for each in interface.routers.routers(now)):
            return [report, *interface.routers.forget(router)]
        return [report, *self._doubt(index, interface, now)]

    def _trust_again(self, index: int, interface: _KernelInterface) -> list[Output]:
        """Nothing contradicted them: addresses configured by hand get no new announcement."""
        interface.doubt_ends_at = None
        outputs: list[Output] = [
            RouterFound(interface=index, router=router, prefixes=None)
            for router in sorted(interface.routes)
        ]
        for address in sorted(interface.in_doubt):
            outputs.append(interface.addresses[address])
        interface.in_doubt.clear()
        return outputs

    def _lose(self, interface: _KernelInterface, index: int, address: IPv6Address) -> list[Output]:
        interface.routers.own.vanish(address)
        interface.in_doubt.discard(address)
        if interface.addresses.pop(address, None) is None:
            return []
        return [AddressLost(interface=index, address=address)]


def _made_anew(interfaces: Mapping[int, AgentInterface | _KernelInterface], name: str) -> list[int]:
    """Of interfaces that are gone, since another one has their name: an adapter that is plugged in
    again has another index each time."""
    return [index for index, each in interfaces.items() if each.name == name and not each.is_up]


def _sum(counters: Iterable[Counter[DropReason]]) -> Counter[DropReason]:
    total: Counter[DropReason] = Counter()
    for counter in counters:
        total.update(counter)
    return total
