"""The roles an agent can have: which machines it is made of and how they hear of each other."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Protocol

from mnagent.agent.handovers import HandoverLog
from mnagent.agent.snapshot import (
    SHOWN_BINDINGS,
    BindingPage,
    BindingSnapshot,
    CorrespondentNodeSnapshot,
    CorrespondentSnapshot,
    HomeAddressSnapshot,
    HomeAgentSnapshot,
    ListedHomeAgentSnapshot,
    MobileNodeSnapshot,
    PeerBindingSnapshot,
)
from mnagent.autoconf.autoconfiguration import AgentAutoconfiguration, KernelAutoconfiguration
from mnagent.core.actions import (
    Action,
    Finish,
    RemoveHomeAddress,
    ReportEvent,
    SendPacket,
    SetHomeAddress,
    SetPeerBinding,
)
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    AddressAppeared,
    AddressVanished,
    AssociationChanged,
    DatagramReceived,
    DefaultRouterAppeared,
    DefaultRouterVanished,
    DhcpMessageReceived,
    Event,
    LinkCause,
    LinkDown,
    LinkUp,
    MembershipReported,
    PacketReceived,
    ShutdownRequested,
    SignalMeasured,
    TrafficSeen,
    TunnelActivity,
)
from mnagent.core.indications import (
    AddressLost,
    AddressUsable,
    AttachmentDoubtful,
    Indication,
    Output,
    RouterFound,
    RouterLost,
)
from mnagent.core.records import KeptRecord
from mnagent.core.timers import earliest
from mnagent.mobility.correspondent_node import CorrespondentNode
from mnagent.mobility.home_addresses import HomeAddresses
from mnagent.mobility.mobile_node import MobileNode, MobileNodeSettings
from mnagent.mobility.movement import AtHome, Away
from mnagent.mobility.route_optimization import CorrespondentStatus
from mnagent.wire.icmp6 import DestinationUnreachable, HomeAgentAddressDiscoveryRequest
from mnagent.wire.mobility import CareOfTestInit, HomeTestInit, MobilityMessage
from mnagent.wire.ndisc import NeighborSolicitation, RouterSolicitation

if TYPE_CHECKING:  # a mobile node goes without what only home agents need
    from mnagent.mobility.binding_cache import BindingCacheEntry
    from mnagent.mobility.home_agent import HomeAgent, HomeAgentSettings
    from mnagent.mobility.home_agent_directory import HomeAgentDirectory

DIRECTORY_MESSAGES = (HomeAgentAddressDiscoveryRequest, RouterSolicitation)
"""What is for a home agent's directory alone; Router Advertisements tell the home agent of prefixes
too."""


class Role(Protocol):
    """What the agent asks of a role."""

    @property
    def name(self) -> str: ...

    @property
    def drops(self) -> Counter[DropReason]: ...

    def handle(self, event: Event, now: float) -> list[Action]: ...

    def handle_timer(self, now: float) -> list[Action]: ...

    def next_deadline(self) -> float | None: ...


class CorrespondentRole:
    """A correspondent node and nothing else."""

    name = "correspondent"

    def __init__(self, correspondent_node: CorrespondentNode) -> None:
        self.correspondent_node = correspondent_node

    @property
    def drops(self) -> Counter[DropReason]:
        return self.correspondent_node.drops

    def handle(self, event: Event, now: float) -> list[Action]:
        node = self.correspondent_node
        if isinstance(event, PacketReceived) and not (
            node.claims(event) or isinstance(event.packet.payload, MobilityMessage)
        ):
            return []  # neighbour discovery and ICMPv6 errors, which the kernel sees too
        actions = node.handle(event, now)
        return [*actions, Finish()] if isinstance(event, ShutdownRequested) else actions

    def handle_timer(self, now: float) -> list[Action]:
        return self.correspondent_node.handle_timer(now)

    def next_deadline(self) -> float | None:
        return self.correspondent_node.next_deadline()


class MobileNodeRole:
    """Autoconfiguration and a mobile node on top of it, with a correspondent node beside them."""

    name = "mobile-node"

    def __init__(
        self,
        autoconfiguration: AgentAutoconfiguration | KernelAutoconfiguration,
        home_addresses: HomeAddresses,
        correspondent_node: CorrespondentNode | None = None,
    ) -> None:
        self.autoconfiguration = autoconfiguration
        self.home_addresses = home_addresses
        self.correspondent_node = correspondent_node
        self._routers: set[tuple[int, IPv6Address]] = set()
        self._optimistic: set[tuple[int, IPv6Address]] = set()
        self._links: dict[int, LinkUp] = {}

    @property
    def mobile_node(self) -> MobileNode:
        """The home address that speaks for the node."""
        return self.home_addresses.leader

    @property
    def drops(self) -> Counter[DropReason]:
        drops = self.autoconfiguration.drops + self.home_addresses.drops
        correspondent = self.correspondent_node
        return drops if correspondent is None else drops + correspondent.drops

    def handle(self, event: Event, now: float) -> list[Action]:
        actions: list[Action] = []
        if isinstance(event, LinkUp):
            self._links[event.interface] = event
        elif isinstance(event, LinkDown):
            self._links.pop(event.interface, None)
        if isinstance(event, TunnelActivity | SignalMeasured):
            return self._pass_on(self.home_addresses.handle(event, now), now)
        correspondent = self.correspondent_node
        if correspondent is not None:
            if isinstance(event, PacketReceived):
                if correspondent.claims(event):
                    return self._with_peers_moved(correspondent.handle(event, now), now)
            else:
                actions += correspondent.handle(event, now)
        if not isinstance(
            event,
            DatagramReceived
            | DhcpMessageReceived
            | DefaultRouterAppeared
            | DefaultRouterVanished
            | AssociationChanged,
        ):
            # Before autoconfiguration: an interface is known before there are addresses on it, and
            # its loss is one loss, not one for each address.
            actions += self._pass_on(self.home_addresses.handle(event, now), now)
        if not isinstance(
            event,
            DatagramReceived
            | MembershipReported
            | TrafficSeen
            | ShutdownRequested
            | AssociationChanged,
        ):
            actions += self._pass_on(self.autoconfiguration.handle(event, now), now)
        return _questions_first(actions) if isinstance(event, LinkUp) else actions

    def _with_peers_moved(self, actions: list[Action], now: float) -> list[Action]:
        """Peers that are mobile too: what is under way to them was sent to where they had been."""
        outputs: list[Output] = []
        for action in actions:
            if isinstance(action, SetPeerBinding):
                outputs += self.home_addresses.peer_moved(action.home_address, now)
        return actions + self._pass_on(outputs, now)

    def handle_timer(self, now: float) -> list[Action]:
        actions = self._pass_on(self.autoconfiguration.handle_timer(now), now)
        actions += self._pass_on(self.home_addresses.handle_timer(now), now)
        correspondent = self.correspondent_node
        return actions if correspondent is None else actions + correspondent.handle_timer(now)

    def next_deadline(self) -> float | None:
        correspondent = self.correspondent_node
        return earliest(
            self.autoconfiguration.next_deadline(),
            self.home_addresses.next_deadline(),
            None if correspondent is None else correspondent.next_deadline(),
        )

    def snapshot(self, now: float, handovers: HandoverLog) -> MobileNodeSnapshot:
        """The view for people and programs."""
        node = self.mobile_node
        registration, attachment = node.registration, node.attachment
        entry = registration.entry
        care_of = attachment.address.address if isinstance(attachment, Away) else None
        return MobileNodeSnapshot(
            home_address=str(node.settings.home_address),
            home_agent=str(node.home_agent_address),
            state=node.state,
            at_home=isinstance(attachment, AtHome),
            care_of_address=_text(care_of),
            bound_care_of_address=_text(registration.bound_address),
            binding_lifetime_remaining=round(registration.remaining(now), 3),
            sequence=None if entry is None else entry.sequence,
            last_status=registration.last_status,
            unanswered=registration.is_unanswered,
            tunnel=_text(node.tunnel_address),
            handovers=handovers.records,
            correspondents=tuple(
                _correspondent(each.settings.home_address, status)
                for each in self.home_addresses.nodes
                for status in each.route_optimization.status(now)
            ),
            home_addresses=tuple(self._home_address(each, now) for each in self._nodes),
            handover_totals=handovers.totals,
            home_agents=tuple(map(str, node.home_agents.candidates)),
            discovered_home_agents=tuple(map(str, node.home_agents.discovered)),
            discovering=node.home_agents.is_discovering,
        )

    @property
    def _nodes(self) -> tuple[MobileNode, ...]:
        return self.home_addresses.nodes

    def _home_address(self, node: MobileNode, now: float) -> HomeAddressSnapshot:
        address = node.settings.home_address
        valid_until, preferred_until = self.home_addresses.lifetimes_of(address)
        return HomeAddressSnapshot(
            home_address=str(address),
            home_agent=str(node.home_agent_address),
            state=node.state,
            preferred=self.home_addresses.is_preferred(address),
            formed=self.home_addresses.like(address) != address,
            valid_lifetime_remaining=_remaining(valid_until, now),
            preferred_lifetime_remaining=_remaining(preferred_until, now),
            bound_care_of_address=_text(node.registration.bound_address),
            binding_lifetime_remaining=round(node.registration.remaining(now), 3),
            tunnel=_text(node.tunnel_address),
        )

    def reconfigure(
        self, settings: MobileNodeSettings, *, rekeyed: frozenset[IPv6Address], now: float
    ) -> list[Action]:
        """See `HomeAddresses.reconfigure`."""
        return self._pass_on(
            self.home_addresses.reconfigure(settings, rekeyed=rekeyed, now=now), now
        )

    def _pass_on(self, outputs: list[Output], now: float) -> list[Action]:
        """Give indications to the mobile node where they stand among the actions."""
        actions: list[Action] = []
        for output in outputs:
            if isinstance(output, Finish):
                undone = self.autoconfiguration.remove_all(now)
                actions += [action for action in undone if not isinstance(action, Indication)]
                actions.append(output)
            elif isinstance(output, RouterFound | RouterLost | AddressUsable | AddressLost):
                actions += self._report_router(output)
                actions += self._report_unique(output)
                actions += self._pass_on(self.home_addresses.handle(output, now), now)
            elif isinstance(output, AttachmentDoubtful):
                actions += self._look_again(output.interface, now)
            elif not isinstance(output, Indication):
                self._serve_as_correspondent(output)
                actions.append(output)
        return actions

    def _serve_as_correspondent(self, action: Action) -> None:
        """Mobile nodes may talk directly to each home address of ours."""
        if self.correspondent_node is None:
            return
        if isinstance(action, SetHomeAddress):
            self.correspondent_node.serve(action.home_address)
        elif isinstance(action, RemoveHomeAddress):
            self.correspondent_node.stop_serving(action.home_address)

    def _look_again(self, interface: int, now: float) -> list[Action]:
        """As after a link event: whoever is there has to speak before it is believed again."""
        link = self._links.get(interface)
        if link is None:
            return []
        again = replace(link, cause=LinkCause.SUSPICION)
        return self._pass_on(self.autoconfiguration.handle(again, now), now)

    def _report_unique(
        self, output: RouterFound | RouterLost | AddressUsable | AddressLost
    ) -> list[Action]:
        """An optimistic address that nobody objected to (RFC 4429 3.3)."""
        if isinstance(output, RouterFound | RouterLost):
            return []
        key = (output.interface, output.address)
        if isinstance(output, AddressUsable) and output.optimistic:
            self._optimistic.add(key)
        elif key in self._optimistic:
            self._optimistic.discard(key)
            if isinstance(output, AddressUsable):
                details = (("address", str(key[1])), ("interface", str(key[0])))
                return [ReportEvent(name="address-unique", details=details)]
        return []

    def _report_router(
        self, output: RouterFound | RouterLost | AddressUsable | AddressLost
    ) -> list[Action]:
        if isinstance(output, RouterLost):
            self._routers.discard((output.interface, output.router))
        if not isinstance(output, RouterFound):
            return []
        key = (output.interface, output.router)
        if key in self._routers:
            return []
        self._routers.add(key)
        prefixes = " ".join(str(prefix) for prefix in output.prefixes or ())
        details = (
            ("router", str(output.router)),
            ("interface", str(output.interface)),
            ("prefixes", prefixes),
        )
        return [ReportEvent(name="router-found", details=details)]


HomeAgentDirectoryFactory = Callable[[int | None, bytes], "HomeAgentDirectory"]
"""Makes what lets mobile nodes find the home agent, of the same two."""
HomeAgentFactory = Callable[[int | None, bytes], "HomeAgent"]
"""Makes the home agent for a home link: interface index (None: virtual) and link-layer address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAgentChange:
    """Another set of mobile nodes, and other limits."""

    settings: HomeAgentSettings
    """Home link and link-layer address in it do not count."""
    factory: HomeAgentFactory
    """Makes home agents of these settings."""
    directory_factory: HomeAgentDirectoryFactory | None


class HomeAgentRole:
    """A home agent, from the moment its home link exists, with a correspondent node beside it."""

    name = "home-agent"

    def __init__(
        self,
        factory: HomeAgentFactory,
        *,
        home_link: str | None,
        correspondent_node: CorrespondentNode | None = None,
        kept: Mapping[str, KeptRecord] | None = None,
        directory_factory: HomeAgentDirectoryFactory | None = None,
    ) -> None:
        """``home_link`` is an interface's name; None serves a virtual home prefix from the
        start. ``kept`` are the bindings of an earlier run. Without a ``directory_factory`` mobile
        nodes have to know where to find this home agent."""
        self._kept = kept or {}
        self._directory_factory = directory_factory
        self._directory: HomeAgentDirectory | None = None
        self._link_locals: dict[int, AddressAppeared] = {}
        self._first_actions: list[Action] = []
        self.correspondent_node = correspondent_node
        self._factory = factory
        self._home_link = home_link
        self._index: int | None = None
        self.home_agent: HomeAgent | None = factory(None, b"") if home_link is None else None
        self._early_drops: Counter[DropReason] = Counter()
        if home_link is None:
            self._first_actions = self._open_directory(None, b"", -math.inf)

    @property
    def drops(self) -> Counter[DropReason]:
        drops = self._early_drops
        if self.home_agent is not None:
            drops = drops + self.home_agent.drops
        if self._directory is not None:
            drops = drops + self._directory.drops
        correspondent = self.correspondent_node
        return drops if correspondent is None else drops + correspondent.drops

    def handle(self, event: Event, now: float) -> list[Action]:
        outputs, self._first_actions = self._first_actions, []
        correspondent = self.correspondent_node
        if correspondent is not None:
            if not isinstance(event, PacketReceived):
                outputs += correspondent.handle(event, now)
            elif correspondent.claims(event) and not self._is_of_a_registration(event):
                return outputs + correspondent.handle(event, now)
        if isinstance(event, LinkUp) and event.name == self._home_link:
            outputs += self._on_home_link(event, now)
        elif isinstance(event, AddressAppeared) and event.address.is_link_local:
            self._link_locals[event.interface] = event
        elif isinstance(event, AddressVanished) and event.address.is_link_local:
            self._link_locals.pop(event.interface, None)
        if self._directory is not None:
            outputs += self._directory.handle(event, now)
            if isinstance(event, PacketReceived) and isinstance(
                event.packet.payload, DIRECTORY_MESSAGES
            ):
                return outputs
        if self.home_agent is not None:
            return outputs + self._restore(now) + self.home_agent.handle(event, now)
        if isinstance(event, ShutdownRequested):
            return [*outputs, Finish()]
        if isinstance(event, PacketReceived):
            self._early_drops[DropReason.NO_ROLE] += 1
        return outputs

    def handle_timer(self, now: float) -> list[Action]:
        machines = (self.home_agent, self._directory, self.correspondent_node)
        return self._restore(now) + [
            action
            for machine in machines
            if machine is not None
            for action in machine.handle_timer(now)
        ]

    def next_deadline(self) -> float | None:
        if self._kept and self.home_agent is not None:
            return 0.0
        machines = (self.home_agent, self._directory, self.correspondent_node)
        return earliest(*(each.next_deadline() for each in machines if each is not None))

    def withdraw_unserved(self, change: HomeAgentChange, now: float) -> list[Action]:
        """See `HomeAgent.withdraw_unserved`."""
        agent = self.home_agent
        return [] if agent is None else agent.withdraw_unserved(change.settings, now)

    def reconfigure(
        self, change: HomeAgentChange, *, rekeyed: frozenset[IPv6Address], now: float
    ) -> list[Action]:
        """See `HomeAgent.reconfigure`."""
        self._factory = change.factory
        self._directory_factory = change.directory_factory
        actions: list[Action] = []
        if self._directory is not None:
            prefixes = (each.prefix for each in change.settings.home_prefixes)
            actions += self._directory.use_prefixes(prefixes, now)
        if self.home_agent is not None:
            actions += self.home_agent.reconfigure(change.settings, rekeyed=rekeyed, now=now)
        return actions

    def delete_binding(self, home_address: IPv6Address, now: float) -> list[Action] | None:
        """None where there is none; see `HomeAgent.delete_binding`."""
        return (
            None if self.home_agent is None else self.home_agent.delete_binding(home_address, now)
        )

    def ask_to_switch(
        self,
        home_addresses: tuple[IPv6Address, ...],
        home_agents: tuple[IPv6Address, ...],
        now: float,
    ) -> tuple[tuple[IPv6Address, ...], list[Action]]:
        """See `HomeAgent.ask_to_switch`; without ``home_agents`` those heard on the home link are
        suggested, the most preferred first."""
        if self.home_agent is None:
            return (), []
        if not home_agents and self._directory is not None:
            home_agents = self._directory.other_home_agents
        return self.home_agent.ask_to_switch(home_addresses, home_agents, now)

    def _restore(self, now: float) -> list[Action]:
        """Once there is somebody to take the bindings up."""
        if self.home_agent is None:
            return []
        kept, self._kept = self._kept, {}
        return self.home_agent.restore(kept, now) if kept else []

    def _is_of_a_registration(self, event: PacketReceived) -> bool:
        """Whether the home agent is to answer, since the home address is registered with it: it
        tells a change of the registration's type, and knows the care-of address."""
        payload = event.packet.payload
        if isinstance(payload, HomeTestInit | CareOfTestInit | DestinationUnreachable):
            return False
        home_address = event.packet.logical_source
        return self.home_agent is not None and self.home_agent.has_binding(home_address)

    def snapshot(self, now: float) -> HomeAgentSnapshot:
        """The view for people and programs."""
        if self.home_agent is None:
            return HomeAgentSnapshot(state="waiting-for-home-link", bindings=(), probing=())
        bindings, probing = self.home_agent.bindings, self.home_agent.probing
        return HomeAgentSnapshot(
            state="serving" if self.home_agent.is_home_link_up else "waiting-for-home-link",
            bindings=tuple(_binding(entry, now) for entry in bindings[:SHOWN_BINDINGS]),
            probing=tuple(map(str, probing[:SHOWN_BINDINGS])),
            binding_count=len(bindings),
            probing_count=len(probing),
            home_agents=self._listed(now),
            advertising=self._directory is not None and self._directory.is_advertising,
        )

    def bindings(self, after: IPv6Address | None, limit: int, now: float) -> BindingPage:
        """The first ``limit`` bindings of home addresses greater than ``after``."""
        entries = () if self.home_agent is None else self.home_agent.bindings
        least = -1 if after is None else int(after)
        rest = [each for each in entries if int(each.home_address) > least]
        shown = heapq.nsmallest(limit, rest, key=lambda each: int(each.home_address))
        return BindingPage(
            bindings=tuple(_binding(entry, now) for entry in shown), left=len(rest) - len(shown)
        )

    def _listed(self, now: float) -> tuple[ListedHomeAgentSnapshot, ...]:
        entries = () if self._directory is None else self._directory.entries
        return tuple(
            ListedHomeAgentSnapshot(
                link_local=str(entry.link_local),
                preference=entry.preference,
                lifetime_remaining=round(max(0.0, entry.expires_at - now), 3),
                addresses=tuple(map(str, entry.addresses)),
            )
            for entry in entries
        )

    def _on_home_link(self, event: LinkUp, now: float) -> list[Action]:
        """The first time, or an interface of that name that was made anew."""
        if self._index == event.interface:
            return []
        outputs: list[Action] = []
        self._index = event.interface
        if self.home_agent is None:
            self.home_agent = self._factory(event.interface, event.link_layer_address)
        else:
            outputs = self.home_agent.move(event.interface, event.link_layer_address, now)
        return outputs + self._open_directory(event.interface, event.link_layer_address, now)

    def _open_directory(
        self, interface: int | None, link_layer_address: bytes, now: float
    ) -> list[Action]:
        if self._directory_factory is None:
            return []
        if self._directory is not None:
            self._early_drops += self._directory.drops
        directory = self._directory = self._directory_factory(interface, link_layer_address)
        link_local = self._link_locals.get(interface or 0)
        known = [] if link_local is None else directory.handle(link_local, now)
        return [*directory.start(), *known]


def _binding(entry: BindingCacheEntry, now: float) -> BindingSnapshot:
    return BindingSnapshot(
        home_address=str(entry.home_address),
        care_of_address=str(entry.care_of_address),
        lifetime_remaining=round(max(0.0, entry.expires_at - now), 3),
        sequence=entry.sequence,
    )


def _remaining(until: float, now: float) -> float | None:
    return None if math.isinf(until) else round(max(0.0, until - now), 3)


def _correspondent(home_address: IPv6Address, status: CorrespondentStatus) -> CorrespondentSnapshot:
    return CorrespondentSnapshot(
        home_address=str(home_address),
        correspondent=str(status.correspondent),
        path="direct" if status.is_direct else "home-agent",
        state=status.state,
        care_of_address=_text(status.care_of_address),
        binding_lifetime_remaining=round(status.lifetime_remaining, 3),
        home_token_age=_rounded(status.home_token_age),
        care_of_token_age=_rounded(status.care_of_token_age),
        reason=status.reason,
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def correspondent_snapshot(node: CorrespondentNode, now: float) -> CorrespondentNodeSnapshot:
    """The view for people and programs."""
    bindings = node.bindings
    return CorrespondentNodeSnapshot(
        addresses=tuple(str(address) for address in sorted(node.addresses)),
        bindings=tuple(
            PeerBindingSnapshot(
                home_address=str(entry.home_address),
                correspondent=str(entry.correspondent),
                care_of_address=str(entry.care_of_address),
                lifetime_remaining=round(entry.remaining_lifetime(now), 3),
                sequence=entry.sequence,
                unused_for=round(now - entry.used_at, 3),
            )
            for entry in bindings[:SHOWN_BINDINGS]
        ),
        binding_count=len(bindings),
    )


def _questions_first(actions: list[Action]) -> list[Action]:
    """On a new link everything waits for the routers' answers: ask before tidying up."""
    return sorted(actions, key=lambda action: not _is_question(action))


def _is_question(action: Action) -> bool:
    """A solicitation that needs nothing done before it, as duplicate address detection would."""
    return (
        isinstance(action, SendPacket)
        and isinstance(action.packet.payload, RouterSolicitation | NeighborSolicitation)
        and not (
            isinstance(action.packet.payload, NeighborSolicitation)
            and action.packet.source.is_unspecified
        )
    )


def _text(address: IPv6Address | None) -> str | None:
    return None if address is None else str(address)
