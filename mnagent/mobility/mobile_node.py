"""The mobile node: one home address, kept reachable wherever the node is (RFC 6275 11).

It composes four machines and owns the tunnel:

    RouterFound, AddressUsable ...    BA, BE, BRR            NS, NA
               |                          |                    |
            Movement -- attachment --> HomeRegistration <--- HomeLink
               `------------------------- | -------------------' returning home
                                          |- tunnel: none, held, or to a care-of address
                                          `- RouteOptimization: HoT, CoT, BA, BE, BRR and
                                             traffic of correspondents; direct paths

The tunnel follows what the home agent acknowledged. Between a movement and its acknowledgement the
home address's packets are held, not sent with a stale care-of address (11.3.1): unless the old
address still works, or the node is told to trust that the update will be accepted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Final

from mnagent.core.actions import (
    DeliverPacket,
    Finish,
    HoldTunnel,
    LeaveHomeLink,
    PersistRecord,
    RemoveTunnel,
    ReportEvent,
    SendPacket,
    SendThroughTunnel,
    SetTunnel,
    TunnelEnd,
    UseHomeLink,
)
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    ActionFailed,
    AddressAppeared,
    AddressVanished,
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
    AddressDuplicate,
    AddressLost,
    AddressUsable,
    AttachmentDoubtful,
    BindingAccepted,
    BindingDeleted,
    BindingExpired,
    BindingRejected,
    Output,
    RouterFound,
    RouterLost,
)
from mnagent.core.records import KeptRecord
from mnagent.core.timers import earliest
from mnagent.mobility.addresses import UNSPECIFIED_ADDRESS, derived_link_local
from mnagent.mobility.constants import (
    INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION,
    MAX_SHUTDOWN_UPDATES,
)
from mnagent.mobility.correspondent_record import told_before
from mnagent.mobility.correspondent_registration import CorrespondentRegistrationSettings
from mnagent.mobility.former_registrations import FormerRegistrations
from mnagent.mobility.home_agent_selection import (
    HomeAgentChosen,
    HomeAgentSelection,
    HomeAgentSelectionSettings,
    SelectionOutput,
)
from mnagent.mobility.home_link import HomeLink, HomeLinkState
from mnagent.mobility.home_registration import (
    CareOf,
    HomeRegistration,
    HomeRegistrationSettings,
    RegistrationState,
)
from mnagent.mobility.message_authentication import Authentication
from mnagent.mobility.movement import (
    AtHome,
    Attachment,
    Away,
    Detached,
    Movement,
    MovementInput,
)
from mnagent.mobility.path_watchdog import SILENCE, PathWatchdog, Verdict
from mnagent.mobility.route_optimization import RouteOptimization, RouteOptimizationPolicy
from mnagent.wire.icmp6 import (
    DestinationUnreachable,
    HomeAgentAddressDiscoveryReply,
    PacketTooBig,
    ParameterProblem,
    TimeExceeded,
)
from mnagent.wire.mld import ListenerQuery
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingRefreshRequest,
    BindingRevocationIndication,
    BindingStatus,
    BindingUpdate,
    CareOfTest,
    HomeAgentSwitch,
    HomeTest,
)
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation

HELD: Final = "held"
_REPEATING: Final = (
    RegistrationState.REGISTERING,
    RegistrationState.REGISTERED,
    RegistrationState.REFRESHING,
    RegistrationState.REFUSED,
)
"""States in which Binding Updates are sent, or will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNodeSettings:
    """What an administrator decides about a mobile node."""

    home_address: IPv6Address
    home_agent_address: IPv6Address
    """The one that is assumed while none is known."""
    home_agents: tuple[IPv6Address, ...] | None = None
    """Configured, in order of preference; empty to discover them, None for the one above."""
    usable_home_agents: tuple[IPv6Address, ...] | None = None
    """Those that we have keys for; None for the configured ones."""
    home_agent_timeout: float = INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION
    """Seconds of silence after which another home agent is tried (RFC 6275 11.4.1)."""
    home_prefix_length: int = 64
    interfaces: tuple[str, ...] = ()
    """Names in order of preference; empty takes all."""
    lifetime: float = 600.0
    """Binding lifetime to ask for, seconds."""
    initial_bindack_timeout_first_registration: float = INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION
    """Seconds (RFC 6275 13)."""
    home_address_valid_until: float = math.inf
    """Instant at which the home address ends."""
    optimistic_tunnel: bool = False
    """Tunnel from a new care-of address as soon as its update has left, not acknowledged yet."""
    authentication: tuple[tuple[IPv6Address, Authentication], ...] = ()
    """By home agent, where updates are not protected by IPsec (RFC 4285)."""
    by_kind: bool = False
    """Ethernet before Wi-Fi before cellular, whatever the order of the names."""
    path_check_interval: float = 0.0
    """Seconds between two proofs that the home agent is reached, 0 for none on a schedule."""
    path_silence: float = SILENCE
    """Seconds without an answer until a proof is sought ahead of schedule."""
    link_local_compatibility: bool = True
    """Have the link-local address with the same interface identifier defended too (L bit): one
    home address of those with the same identifier."""
    max_shutdown_updates: int = MAX_SHUTDOWN_UPDATES
    """Deregistrations tried when stopping."""
    route_optimization: RouteOptimizationPolicy = field(default_factory=RouteOptimizationPolicy)
    """Which correspondents are talked to directly (RFC 6275 8.5)."""
    correspondent_idle_timeout: float = 60.0
    """Seconds without a packet after which a correspondent's binding is left to its end."""

    @property
    def home_prefix(self) -> IPv6Network:
        return IPv6Network((self.home_address, self.home_prefix_length), strict=False)


MobileNodeEvent = (
    LinkUp
    | LinkDown
    | AddressAppeared
    | AddressVanished
    | RouterFound
    | RouterLost
    | AddressUsable
    | AddressLost
    | PacketReceived
    | MembershipReported
    | TrafficSeen
    | ActionFailed
    | ShutdownRequested
    | SignalMeasured
    | TunnelActivity
)


@dataclass(slots=True)
class _Link:
    link_layer_address: bytes
    link_local: IPv6Address | None = None


class Surroundings:
    """Where the node is: the same for all its home addresses."""

    def __init__(
        self,
        *,
        home_addresses: Iterable[IPv6Address],
        home_prefixes: Iterable[IPv6Network],
        interfaces: tuple[str, ...] = (),
        by_kind: bool = False,
    ) -> None:
        self.home_addresses = set(home_addresses)
        self.home_prefixes = set(home_prefixes)
        self.movement = Movement(
            home_addresses=self.home_addresses,
            home_prefixes=self.home_prefixes,
            interfaces=interfaces,
            by_kind=by_kind,
        )
        self.links: dict[int, _Link] = {}
        self._taken_in: MovementInput | None = None

    def handle(self, event: MovementInput, now: float) -> Attachment:
        """Each home address tells of the event, but it happened once."""
        if event is self._taken_in:
            return self.movement.attachment
        self._taken_in = event
        return self.movement.handle(event, now)

    def handle_timer(self, now: float) -> Attachment:
        """Whichever home address asks first has it decided; the others ask all the same."""
        deadline = self.movement.next_deadline()
        if deadline is not None and deadline <= now:
            return self.movement.handle_timer(now)
        return self.movement.attachment


class MobileNode:
    """One home address of a mobile node."""

    def __init__(
        self,
        settings: MobileNodeSettings,
        *,
        random: Random,
        persisted_sequence: str | None = None,
        persisted_binding: str | None = None,
        persisted_home_agent: str | None = None,
        persisted_home_agents: str | None = None,
        surroundings: Surroundings | None = None,
        kept: Mapping[str, KeptRecord] | None = None,
    ) -> None:
        """The persisted values are those of `HomeRegistration`'s and `HomeAgentSelection`'s
        records, or None; ``kept`` has those of `correspondent_record`, among others.

        ``surroundings`` are shared with the node's other home addresses; None: it has no others.
        """
        self.settings = settings
        self._random = random
        self.home_agents = self._new_selection(persisted_home_agent, persisted_home_agents)
        self._former = FormerRegistrations(settings.home_address)
        self._care_of: CareOf | None = None
        self.registration = HomeRegistration(
            self._registration_settings(self.home_agents.current or settings.home_agent_address),
            random=random,
            persisted_sequence=persisted_sequence,
            persisted_binding=persisted_binding,
        )
        self.home_link = HomeLink(
            settings.home_address,
            settings.home_prefix_length,
            registration=self.registration,
            random=random,
        )
        self.route_optimization = RouteOptimization(
            CorrespondentRegistrationSettings(
                home_address=settings.home_address,
                home_agent_address=self.home_agent_address,
                idle_timeout=settings.correspondent_idle_timeout,
                early_tunnel=settings.optimistic_tunnel,
            ),
            settings.route_optimization,
            random=random,
            told=told_before(settings.home_address, kept or {}),
        )
        self._surroundings = surroundings or Surroundings(
            home_addresses=(settings.home_address,),
            home_prefixes=(settings.home_prefix,),
            interfaces=settings.interfaces,
            by_kind=settings.by_kind,
        )
        self._movement = self._surroundings.movement
        self._watchdog = PathWatchdog(
            interval=settings.path_check_interval, silence=settings.path_silence
        )
        self._attachment: Attachment = Detached()
        self._links = self._surroundings.links
        self._tunnel: IPv6Address | str | None = None
        self._is_early_tunnel_due = False
        self._is_doubtful = False
        self._is_stopping = False
        self._is_finished = False
        self._has_querier = False
        """Whether the home agent has asked for groups since the binding began."""

    @property
    def drops(self) -> Counter[DropReason]:
        """Packets not acted on, by reason."""
        machines = (self.registration, self.route_optimization, self._former, self.home_agents)
        return sum((each.drops for each in machines), Counter())

    @property
    def home_agent_address(self) -> IPv6Address:
        """The home agent that is registered with, or assumed while none is known."""
        return self.registration.home_agent_address

    @property
    def attachment(self) -> Attachment:
        """Where the node is."""
        return self._attachment

    @property
    def tunnel_address(self) -> IPv6Address | None:
        """The care-of address packets are tunnelled from now, or None."""
        return self._tunnel if isinstance(self._tunnel, IPv6Address) else None

    @property
    def state(self) -> str:
        """One word for people: detached, or at-home, or the registration's state."""
        if self.registration.state is RegistrationState.ADDRESS_DUPLICATE:
            return str(self.registration.state.value)
        if isinstance(self._attachment, AtHome):
            is_settled = self.home_link.state is HomeLinkState.IN_USE
            return "at-home" if is_settled else f"at-home-{self.home_link.state.value}"
        if isinstance(self._attachment, Detached):
            return "detached"
        return str(self.registration.state.value)

    def handle(self, event: MobileNodeEvent, now: float) -> list[Output]:
        """Of the machines' indications only `BindingAccepted` and `AttachmentDoubtful` come out.

        One that has finished is silent, while others of the node's home addresses may not be.
        """
        if self._is_finished:
            return []
        match event:
            case PacketReceived():
                return self._settle(self._on_packet(event, now), now)
            case ActionFailed(action=PersistRecord() as record):
                self.registration.sequence.not_kept(record)
                return []
            case ActionFailed():
                return self.route_optimization.handle_failure(event, now)
            case MembershipReported():
                return self._report_groups(event, now)
            case TrafficSeen():
                return [] if self._is_stopping else self.route_optimization.handle(event, now)
            case ShutdownRequested():
                return self._settle(self._on_shutdown(now), now)
            case AddressAppeared() | AddressVanished():
                return self._on_link_address(event)
            case TunnelActivity():
                if event.home_address == self.settings.home_address and self.tunnel_address:
                    has_come_in = self._watchdog.carried(event.packets_out, event.packets_in, now)
                    if has_come_in:
                        self.home_agents.heard(now)
                return []
            case LinkUp():
                self._is_doubtful = False
                link = self._links.setdefault(event.interface, _Link(b""))
                link.link_layer_address = event.link_layer_address
                return self._follow(self._surroundings.handle(event, now), now)
            case LinkDown():
                self._is_doubtful = False
                self._links.pop(event.interface, None)
                return self._follow(self._surroundings.handle(event, now), now)
            case _:
                return self._follow(self._surroundings.handle(event, now), now)

    def handle_timer(self, now: float) -> list[Output]:
        if self._is_finished:
            return []
        outputs: list[Output] = []
        attachment = self._surroundings.handle_timer(now)
        if attachment != self._attachment:
            outputs += self._follow(attachment, now)
        outputs += self._settle(self.registration.handle_timer(now), now)
        outputs += self._former.handle_timer(now)
        outputs += self._choose(self.home_agents.handle_timer(now), now)
        outputs += self.route_optimization.handle_timer(now)
        outputs += self._watch(now)
        return outputs + self._settle(self.home_link.handle_timer(now), now)

    def next_deadline(self) -> float | None:
        if self._is_finished:
            return None
        return earliest(
            self._movement.next_deadline(),
            self.registration.next_deadline(),
            self._former.next_deadline(),
            self.home_agents.next_deadline(),
            self.home_link.next_deadline(),
            self.route_optimization.next_deadline(),
            self._watchdog.next_deadline(),
        )

    def join(self, now: float) -> list[Output]:
        """Begin where the node's other home addresses are already."""
        return self._follow(self._movement.attachment, now)

    def limit_validity(self, until: float, now: float) -> list[Output]:
        """The home address ends then: no binding may outlast it (RFC 6275 11.4.2)."""
        self.registration.home_address_valid_until = until
        if now + self.registration.remaining(now) <= until:
            return []
        # The acknowledgement shortens what correspondents were told.
        return self._settle(self.registration.prove(now), now)

    def end(self, now: float) -> list[Output]:
        """The home address has ended: neither binding nor tunnel, nor a word about it."""
        outputs = self.route_optimization.suspend()
        self.registration.suspend()
        return [*outputs, *(o for o in self._finish(now) if not isinstance(o, Finish))]

    def reconfigure(
        self, settings: MobileNodeSettings, *, is_rekeyed: bool, now: float
    ) -> list[Output]:
        """Take up other lifetimes, time-outs and policies. What tells who this node is, and which
        interfaces it has, must be as before. ``is_rekeyed``: the tunnel has other associations."""
        has_policy = settings.route_optimization != self.settings.route_optimization
        is_longer = settings.lifetime != self.settings.lifetime
        self.settings = settings
        self._watchdog.change_interval(settings.path_check_interval)
        self.registration.change(
            lifetime=settings.lifetime,
            initial_bindack_timeout_first_registration=(
                settings.initial_bindack_timeout_first_registration
            ),
        )
        outputs: list[Output] = []
        address = self.tunnel_address
        if is_rekeyed and address is not None:
            self._tunnel = None
            outputs += self._set_tunnel(address)
        if has_policy:
            outputs += self.route_optimization.change_policy(settings.route_optimization, now)
        if is_longer or is_rekeyed:
            outputs += self._settle(self.registration.prove(now), now)
        return outputs

    def peer_moved(self, peer: IPv6Address, now: float) -> list[Output]:
        """A correspondent's own binding with this node changed."""
        return self.route_optimization.peer_moved(peer, now)

    # Events.

    def _on_packet(self, event: PacketReceived, now: float) -> list[Output]:
        match event.packet.payload:
            case (
                BindingAcknowledgement()
                | BindingError()
                | BindingRefreshRequest()
                | BindingRevocationIndication()
            ):
                if event.packet.source == self.home_agent_address:
                    return self.registration.handle(event, now)
                if event.packet.source in self._former:
                    return self._former.handle(event, now)
                return self.route_optimization.handle(event, now)
            case HomeAgentSwitch() as switch:
                return self._on_switch(event, switch, now)
            case HomeAgentAddressDiscoveryReply():
                return self._choose(self.home_agents.handle(event, now), now)
            case ListenerQuery():
                return self._on_query(event, now)
            case HomeTest() | CareOfTest():
                return self.route_optimization.handle(event, now)
            case NeighborSolicitation() | NeighborAdvertisement():
                return self.home_link.handle(event, now)
            case (
                DestinationUnreachable() | PacketTooBig() | TimeExceeded() | ParameterProblem()
            ) as error:
                is_to_home_agent = error.invoking[24:40] == self.home_agent_address.packed
                if isinstance(error, ParameterProblem) and not is_to_home_agent:
                    return self.route_optimization.handle_parameter_problem(error, now)
                return self.registration.handle_icmp_error(error.invoking)
        return []

    def _on_query(self, event: PacketReceived, now: float) -> list[Output]:
        """The home agent asks which groups this host listens to: the host answers."""
        if event.tunnel_source != self.home_agent_address or not self._has_binding(now):
            return []
        self._has_querier = True
        return [DeliverPacket(data=event.data)]

    def _report_groups(self, event: MembershipReported, now: float) -> list[Output]:
        """Not before the home agent has asked, and only while there is a binding (11.3.4)."""
        if not self._has_querier or not self._has_binding(now):
            return []
        home_address, packet = self.settings.home_address, event.packet
        if packet.source == UNSPECIFIED_ADDRESS:
            # The tunnel device has no link-local address, which a report is to come from.
            packet = replace(packet, source=derived_link_local(home_address))
        return [SendThroughTunnel(home_address=home_address, packet=packet)]

    def _has_binding(self, now: float) -> bool:
        if not self.registration.remaining(now):
            self._has_querier = False
        return self.registration.remaining(now) > 0 and self.tunnel_address is not None

    def _on_switch(
        self, event: PacketReceived, switch: HomeAgentSwitch, now: float
    ) -> list[Output]:
        """A home agent wants to be left, or to be taken (RFC 5142 6). Its binding is deleted ahead
        of the new registration: it would defend the home address against the other one."""
        sender = event.packet.source
        if not self.home_agents.knows(sender) or self._care_of is None or self._is_stopping:
            return []
        details = (("home_agent", str(sender)),)
        report = ReportEvent(name="home-agent-switch", details=details)
        chosen = self._choose(self.home_agents.switch(sender, switch.home_agents, now), now)
        return [report, *self._former.release(self._care_of, now), *chosen]

    def _on_link_address(self, event: AddressAppeared | AddressVanished) -> list[Output]:
        link = self._links.get(event.interface)
        if link is None or not event.address.is_link_local:
            return []
        if isinstance(event, AddressVanished) or event.duplicate:
            if link.link_local == event.address:
                link.link_local = None
        else:
            link.link_local = event.address
        return []

    def _on_shutdown(self, now: float) -> list[Output]:
        outputs = self.route_optimization.shut_down(now)
        if self._is_stopping or not self.registration.may_be_bound(now):
            return outputs + self._finish(now)
        self._is_stopping = True
        self._watchdog.stopped()
        self.home_agents.not_away()  # whoever holds the binding is the one to be told
        return outputs + self.registration.deregister(now, tries=self.settings.max_shutdown_updates)

    def _finish(self, now: float) -> list[Output]:
        self._is_stopping = True
        self._watchdog.stopped()
        if self._is_finished:
            return []
        self._is_finished = True
        self._former.suspend()
        self.home_agents.not_away()
        return [
            *self.home_link.leave(now),
            *self._remove_tunnel(),
            LeaveHomeLink(home_address=self.settings.home_address),
            Finish(),
        ]

    # Which home agent.

    def _new_selection(self, current: str | None, listed: str | None) -> HomeAgentSelection:
        settings = self.settings
        configured = settings.home_agents
        if configured is None:
            configured = (settings.home_agent_address,)
        selection = HomeAgentSelectionSettings(
            home_address=settings.home_address,
            home_prefix=settings.home_prefix,
            configured=configured,
            usable=settings.usable_home_agents or configured,
            timeout=settings.home_agent_timeout,
        )
        return HomeAgentSelection(
            selection, random=self._random, persisted_current=current, persisted_list=listed
        )

    def _registration_settings(self, home_agent: IPv6Address) -> HomeRegistrationSettings:
        settings = self.settings
        return HomeRegistrationSettings(
            home_address=settings.home_address,
            home_agent_address=home_agent,
            lifetime=settings.lifetime,
            home_address_valid_until=settings.home_address_valid_until,
            initial_bindack_timeout_first_registration=(
                settings.initial_bindack_timeout_first_registration
            ),
            authentication=dict(settings.authentication).get(home_agent),
        )

    def _choose(self, outputs: list[SelectionOutput], now: float) -> list[Output]:
        """Carry out what the selection of home agents says."""
        chosen: list[Output] = []
        for output in outputs:
            if isinstance(output, HomeAgentChosen):
                chosen += self._register_with(output, now)
            else:
                chosen.append(output)
        return chosen

    def _register_with(self, chosen: HomeAgentChosen, now: float) -> list[Output]:
        """Another home agent, from where we are. What is in the tunnel turns to it at once, behind
        its Binding Update; direct paths need no home agent and stay."""
        details = (("home_agent", str(chosen.address)), ("reason", chosen.reason))
        outputs: list[Output] = [ReportEvent(name="home-agent-chosen", details=details)]
        is_other = chosen.address != self.home_agent_address
        if is_other or self.registration.state is RegistrationState.ADDRESS_DUPLICATE:
            self._change_home_agent(chosen.address, now)
        elif self.registration.state in _REPEATING:
            return outputs
        if chosen.is_first_round:
            self._watchdog.home_agent_changed()
        if self._is_stopping or not isinstance(self._attachment, Away):
            return outputs
        assert self._care_of is not None
        self._is_early_tunnel_due = self.settings.optimistic_tunnel
        registering = self.registration.register(self._care_of, now)
        return [*outputs, *self._hold(), *self._settle(registering, now)]

    def _change_home_agent(self, home_agent: IPv6Address, now: float) -> None:
        previous = self.registration
        if previous.home_agent_address != home_agent:
            self._former.add(previous, now)
        self.registration = self._former.take(home_agent) or HomeRegistration(
            self._registration_settings(home_agent), random=self._random, sequence=previous.sequence
        )
        self._has_querier = False
        self.registration.home_address_valid_until = previous.home_address_valid_until
        self.home_link.use_registration(self.registration)
        self.route_optimization.change_home_agent(home_agent)

    # The way to the home agent and back.

    def _watch(self, now: float) -> list[Output]:
        match self._watchdog.handle_timer(now):
            case Verdict.PROVE:
                return self._settle(self.registration.prove(now), now)
            case Verdict.DOUBT if isinstance(self._attachment, Away):
                interface = self._attachment.interface
                details = (("interface", str(interface)),)
                self._is_doubtful = True
                return [
                    ReportEvent(name="path-doubtful", details=details, warning=True),
                    AttachmentDoubtful(interface=interface),
                ]
        return []

    # Indications of home registration and home link.

    def _settle(self, outputs: list[Output], now: float) -> list[Output]:
        """Act on what the machines below say, and pass on what they do."""
        settled: list[Output] = []
        for output in outputs:
            match output:
                case BindingAccepted():
                    self._watchdog.proven(now)
                    settled += self.home_agents.accepted()
                    if self._care_of is not None:
                        settled += self._former.release(self._care_of, now)
                    settled.append(output)
                    settled += self._set_tunnel(output.care_of_address)
                    settled += self.route_optimization.home_registered(
                        output.care_of_address, now + output.lifetime, now
                    )
                case BindingRejected():
                    self._watchdog.stopped()
                    settled += self._on_rejected(output, now)
                case BindingExpired():
                    self.route_optimization.home_lost()
                    settled += self._on_expired()
                case BindingDeleted():
                    settled += self._on_deleted(now)
                case AddressDuplicate():
                    settled += [*self.route_optimization.suspend(), *self._remove_tunnel()]
                case SendPacket():
                    self._watch_update(output, now)
                    settled += [output, *self._set_early_tunnel(output)]
                case UseHomeLink():
                    settled += [output, *self._remove_tunnel()]
                    settled += self.route_optimization.return_home(now)
                    settled += self._former.release_at_home(output.interface, now)
                case _:
                    settled.append(output)
        return settled

    def _watch_update(self, sent: SendPacket, now: float) -> None:
        update = sent.packet.payload
        if isinstance(update, BindingUpdate) and update.lifetime and not self._is_stopping:
            self._watchdog.update_sent(now)
            self.home_agents.update_sent(now)

    def _on_rejected(self, rejected: BindingRejected, now: float) -> list[Output]:
        is_duplicate = rejected.status == BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED
        bound = self._former.bound(now) if is_duplicate else None
        choice = self.home_agents.refused(now, bound_elsewhere=bound)
        is_chosen = any(isinstance(output, HomeAgentChosen) for output in choice)
        without = [] if is_chosen else self._without_home_agent()
        return [*without, *self._choose(choice, now)]

    def _without_home_agent(self) -> list[Output]:
        if self.registration.state is RegistrationState.ADDRESS_DUPLICATE:
            return [*self.route_optimization.suspend(), *self._remove_tunnel()]
        # A refused refresh leaves the binding to its end; a refused movement leaves nothing valid.
        return self._hold() if self._tunnel != self.registration.bound_address else []

    def _on_expired(self) -> list[Output]:
        self._has_querier = False
        return self._hold() if isinstance(self._attachment, Away) else []

    def _on_deleted(self, now: float) -> list[Output]:
        self._has_querier = False
        if self._is_stopping:
            return self._finish(now)
        return self._settle(self.home_link.binding_deleted(now), now)

    # Movement.

    def _follow(self, attachment: Attachment, now: float) -> list[Output]:
        previous, self._attachment = self._attachment, attachment
        if not isinstance(attachment, Away):
            self._is_early_tunnel_due = False
            if not self._is_doubtful:
                self._watchdog.stopped()
        if self._is_stopping:
            return []
        if self.registration.state is RegistrationState.ADDRESS_DUPLICATE:
            return self._follow_without_address(attachment, now)
        match attachment:
            case AtHome():
                return self._on_home(previous, attachment, now)
            case Away():
                return self._on_away(previous, attachment, now)
            case _:
                return self._on_detached(previous, now)

    def _follow_without_address(self, attachment: Attachment, now: float) -> list[Output]:
        """The home agent says that somebody else has the home address. Another home agent, where
        there is one, may say otherwise, and is asked from where the node is now."""
        if not isinstance(attachment, Away):
            self._leave_foreign_link()
            return []
        known, self._care_of = self._care_of, self._care_of_at(attachment)
        if known is not None and known.address == self._care_of.address:
            return []
        care_of = self._care_of
        outputs = self._choose(self.home_agents.away(care_of.address, care_of.interface, now), now)
        chosen = self.home_agents.refused(now, bound_elsewhere=None)
        return [*outputs, *self._choose(chosen, now)]

    def _on_home(self, previous: Attachment, attachment: AtHome, now: float) -> list[Output]:
        self._is_doubtful = False
        router = attachment.router.router
        if isinstance(previous, AtHome) and previous.interface == attachment.interface:
            if previous.router.router == router:
                return []
            return self._settle(self.home_link.change_router(router), now)
        self.registration.suspend()
        self._leave_foreign_link()
        # First: the link left may be the home link too, over another interface.
        left = self._leave_home(previous, now)
        link = self._links[attachment.interface]
        known = dict(attachment.router.addresses).get(self.home_agent_address)
        outputs = self.home_link.arrive(
            interface=attachment.interface,
            router=router,
            link_layer_address=link.link_layer_address,
            link_local=link.link_local,
            home_agent_link_layer_address=known,
            link_local_compatibility=self._is_compatible(link),
            now=now,
        )
        return [
            *left,
            *self._hold(),
            *self.route_optimization.suspend(),
            *self._settle(outputs, now),
        ]

    def _on_away(self, previous: Attachment, attachment: Away, now: float) -> list[Output]:
        self._is_doubtful = False
        address = attachment.address
        outputs = self._leave_home(previous, now)
        is_new = not isinstance(previous, Away) or previous.address.address != address.address
        if is_new:
            details = (("address", str(address.address)), ("interface", str(attachment.interface)))
            outputs.append(ReportEvent(name="care-of-address-ready", details=details))
            outputs += self._prepare_tunnel(address.address, now)
            self._is_early_tunnel_due = self.settings.optimistic_tunnel
        care_of = self._care_of = self._care_of_at(attachment)
        outputs += self._choose(self.home_agents.away(care_of.address, care_of.interface, now), now)
        if self.home_agents.current is not None:
            outputs += self._settle(self.registration.register(care_of, now), now)
        # After the update and the tunnel: the tests of correspondents follow it on its way.
        return outputs + self.route_optimization.move(care_of, now)

    def _care_of_at(self, attachment: Away) -> CareOf:
        return CareOf(
            address=attachment.address.address,
            interface=attachment.interface,
            valid_until=attachment.address.valid_until,
            link_local_compatibility=self._is_compatible(self._links[attachment.interface]),
        )

    def _on_detached(self, previous: Attachment, now: float) -> list[Output]:
        if self._is_doubtful:
            # We only look whether the link is still the same. Where it is, the update that went
            # unanswered goes on being repeated, ever more slowly (RFC 6275 11.8).
            return self._hold()
        if isinstance(previous, Detached) and self._care_of is None:
            return []
        self.registration.suspend()
        self._leave_foreign_link()
        return [
            *self._leave_home(previous, now),
            *self._hold(),
            *self.route_optimization.suspend(),
        ]

    def _leave_foreign_link(self) -> None:
        """There is nothing to send home registrations from, nor to wait for."""
        self._care_of = None
        self._former.suspend()
        self.home_agents.not_away()

    def _leave_home(self, previous: Attachment, now: float) -> list[Output]:
        if not isinstance(previous, AtHome):
            return []
        return [
            *self.home_link.leave(now),
            LeaveHomeLink(home_address=self.settings.home_address),
            ReportEvent(name="left-home"),
        ]

    def _is_compatible(self, link: _Link) -> bool:
        """The L bit's condition (RFC 6275 11.7.1)."""
        return self.settings.link_local_compatibility and link.link_local == derived_link_local(
            self.settings.home_address
        )

    # The tunnel.

    def _prepare_tunnel(self, address: IPv6Address, now: float) -> list[Output]:
        if self.registration.is_bound_to(address, now):
            return self._set_tunnel(address)
        current = self.tunnel_address
        if current is not None and self._movement.is_usable(current):
            return []
        return self._hold()

    def _set_tunnel(self, address: IPv6Address) -> list[Output]:
        attachment = self._attachment
        if self._tunnel == address or not isinstance(attachment, Away):
            return []
        self._tunnel = address
        return [
            SetTunnel(
                end=TunnelEnd.MOBILE_NODE,
                home_address=self.settings.home_address,
                local=address,
                remote=self.home_agent_address,
                interface=attachment.interface,
            )
        ]

    def _set_early_tunnel(self, sent: SendPacket) -> list[Output]:
        """Once for each care-of address, right behind its first update, which may have to wait."""
        packet = sent.packet
        if not self._is_early_tunnel_due or not isinstance(packet.payload, BindingUpdate):
            return []
        self._is_early_tunnel_due = False
        return self._set_tunnel(packet.source)

    def _hold(self) -> list[Output]:
        if self._tunnel == HELD:
            return []
        self._tunnel = HELD
        return [HoldTunnel(home_address=self.settings.home_address)]

    def _remove_tunnel(self) -> list[Output]:
        self._tunnel = None
        return [RemoveTunnel(home_address=self.settings.home_address)]
