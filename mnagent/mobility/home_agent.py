"""The home agent: keeps mobile nodes' bindings and takes their packets meanwhile (RFC 6275 10).

What becomes of one home address:

    (nothing) --BU--> probing --unique--> registered --BU--> registered
        ^               |  `-duplicate: BA 134        |  |
        |               BU lifetime 0: BA 133         |  `-lifetime over--> (nothing)
        |                                      BU lifetime 0: BA 0
        `---- MAX_DELETE_BCE_TIMEOUT ---- deregistered <-'

Probing is duplicate address detection on the home link (`home_address_probe`); on a virtual home
link there is nobody to ask and a registration is accepted at once. Registered means that packets
for the home address are intercepted (a route to the tunnel device, and `proxy_neighbor` on the home
link) and go through a tunnel to the care-of address. Deregistered keeps the sequence number only
(`binding_cache`).

Early forwarding (a setting) takes and tunnels packets that reach this machine while the probe still
runs, so that a mobile node's connections do not stand still for its second. The mobile node is
authenticated and authorised by then; the answer, and neighbour discovery on the home link, wait for
the outcome as 10.3.1 and 10.4.1 demand, and a duplicate ends it.

The agent has checked already that a Binding Update for a home address came by that address's own
security association (RFC 3776 4.2), and it chooses the association for what is sent from here.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any, Final

from mnagent.core.actions import (
    Action,
    Finish,
    InterceptHomeAddress,
    JoinGroup,
    JournalRecord,
    RemoveTunnel,
    ReportEvent,
    SendPacket,
    SetTunnel,
    StopIntercepting,
    TunnelEnd,
)
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    ActionFailed,
    Event,
    LinkDown,
    LinkUp,
    PacketReceived,
    ShutdownRequested,
)
from mnagent.core.records import KeptRecord
from mnagent.core.timers import Timers, earliest
from mnagent.mobility import binding_record
from mnagent.mobility.addresses import (
    NEIGHBOR_DISCOVERY_HOP_LIMIT,
    UNSPECIFIED_ADDRESS,
    derived_link_local,
    is_routable_unicast,
    is_unicast,
    solicited_node_group,
    text_of,
)
from mnagent.mobility.binding_cache import MAX_BINDINGS, BindingCache, BindingCacheEntry
from mnagent.mobility.binding_error import (
    BINDING_ERROR_BURST,
    BINDING_ERROR_RATE,
    BindingErrorSender,
    TokenBucket,
)
from mnagent.mobility.binding_request import BindingRequest, read_binding_request
from mnagent.mobility.binding_revocation import Revocations
from mnagent.mobility.constants import (
    DUP_ADDR_DETECT_TRANSMITS,
    LIFETIME_UNIT,
    MAX_HA_SWITCH_TRANSMIT_RATE,
    MAX_MOB_PFX_ADV_INTERVAL,
    MIN_MOB_PFX_ADV_INTERVAL,
    RETRANS_TIMER,
)
from mnagent.mobility.group_membership import GroupMemberships, ListenerMessage
from mnagent.mobility.home_address_probe import HomeAddressProbe, HomeAddressUnique, Outcome
from mnagent.mobility.home_agent_switching import HomeAgentSwitches
from mnagent.mobility.home_prefixes import HomePrefix as HomePrefix
from mnagent.mobility.home_prefixes import HomePrefixes, KnownPrefix
from mnagent.mobility.message_authentication import Authentication, UpdateVerifier
from mnagent.mobility.prefix_discovery import PrefixAdvertiser, PrefixAdvertisingSettings
from mnagent.mobility.proxy_neighbor import ProxyNeighbor, SolicitedNodeGroups
from mnagent.mobility.restored_bindings import MIN_ABSENCE, Asked, RestoredBindings
from mnagent.mobility.sequence import sequence_newer
from mnagent.mobility.served_home_addresses import ServedHomeAddresses
from mnagent.wire.icmp6 import (
    DestinationUnreachable,
    DestinationUnreachableCode,
    MobilePrefixSolicitation,
    PacketTooBig,
    ParameterProblem,
    TimeExceeded,
)
from mnagent.wire.ipv6 import IPv6Packet, Type2RoutingHeader
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingErrorStatus,
    BindingRevocationAcknowledgement,
    BindingStatus,
    BindingUpdate,
    MobilityMessage,
    UnknownMobilityMessage,
)
from mnagent.wire.mobility_options import BindingRefreshAdvice, MessageAuthentication
from mnagent.wire.ndisc import (
    NeighborAdvertisement,
    NeighborSolicitation,
    RouterAdvertisement,
    SourceLinkLayerAddress,
)

DEFAULT_MAX_LIFETIME: Final = 3600.0
"""Longest binding granted, in seconds, unless configured otherwise."""
TIMESTAMP_KEY: Final = "update-time."
"""Records of the last timestamp of each mobile node that authenticates without IPsec."""
HOST_FAILURE_DELAY: Final = 30.0
"""How long, in seconds, a home address is refused after the host failed to intercept for it."""
RENEWAL_REQUEST_INTERVAL: Final = 1.0
"""Least time, in seconds, between Binding Errors for tunnelled packets of one home address."""
_ICMPV6_ERRORS: Final = (DestinationUnreachable, PacketTooBig, TimeExceeded, ParameterProblem)
HOME_LINK_IS_DOWN: Final = (
    "The home link has no carrier: nobody there can be asked whether the home address is free."
)
_MAX_QUOTED: Final = 1280 - 48
"""Octets of the offending packet in an ICMPv6 error (RFC 4443 2.4 c)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorisedMobileNode:
    """A home address that this home agent serves."""

    home_address: IPv6Address
    outbound_spi: int | None = None
    """ESP tunnel association for payload to the mobile node; None for plain IPv6-in-IPv6."""
    authentication: Authentication | None = None
    """Protects updates instead of IPsec (RFC 4285)."""
    inbound_spi: int | None = None
    """Association that payload from the mobile node must have come by; None for plain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAgentSettings:
    """What a home agent is told. Raises `ValueError` for values that make no sense together."""

    address: IPv6Address
    """The home agent's global address: end of the tunnels, and source on the home link."""
    home_prefixes: tuple[HomePrefix, ...]
    mobile_nodes: tuple[AuthorisedMobileNode, ...]
    home_link: int | None = None
    """Interface index; None for a virtual home link (no probing, no neighbour discovery)."""
    link_layer_address: bytes = b""
    """Of the home link's interface; `LinkUp` replaces it."""
    prefix_retirement: float | None = None
    """Seconds for which a home prefix that is no longer configured stays, deprecated; None: it ends
    at once unless somebody advertises it."""
    max_lifetime: float = DEFAULT_MAX_LIFETIME
    """Seconds, at least one unit of 4."""
    max_bindings: int = MAX_BINDINGS
    refresh_advice: float | None = None
    """Seconds after which mobile nodes are advised to refresh, None to leave it to them."""
    early_forwarding: bool = False
    """Forward while duplicate address detection runs; see the module's text."""
    duplicate_address_detection_transmits: int = DUP_ADDR_DETECT_TRANSMITS
    """0 accepts home addresses without asking the home link."""
    multicast: bool = False
    """Ask mobile nodes which multicast groups they listen to, and forward those."""
    revocation: bool = True
    """Tell mobile nodes when a binding is ended here (RFC 5846)."""
    switch_rate: float = MAX_HA_SWITCH_TRANSMIT_RATE
    """Home Agent Switch messages a second, to all mobile nodes together (RFC 5142 7)."""
    retransmission_timer: float = RETRANS_TIMER
    """RetransTimer of the home link, seconds: how long a solicitation for a home address waits for
    the one that has it (RFC 4862 5.1)."""
    key_management_mobility: bool = False
    """Whether the key exchange can follow the care-of address; never with manual keys."""
    min_prefix_advertisement_interval: float = MIN_MOB_PFX_ADV_INTERVAL
    """Seconds (RFC 6275 13, MinMobPfxAdvInterval)."""
    max_prefix_advertisement_interval: float = MAX_MOB_PFX_ADV_INTERVAL
    """Seconds (RFC 6275 13, MaxMobPfxAdvInterval)."""

    def __post_init__(self) -> None:
        if self.max_lifetime < LIFETIME_UNIT:
            raise ValueError(f"max_lifetime {self.max_lifetime} s is under {LIFETIME_UNIT} s")
        if self.max_bindings < 1:
            raise ValueError("max_bindings must be at least 1")


@dataclass(slots=True)
class _Registration:
    """A first registration that waits for duplicate address detection."""

    request: BindingRequest
    """The newest Binding Update: the one that is answered."""
    probe: HomeAddressProbe


class HomeAgent:
    """The sans-IO home agent. Every public method is safe for whatever a peer sends."""

    def __init__(self, settings: HomeAgentSettings, *, random: Random) -> None:
        self.drops: Counter[DropReason] = Counter()
        """Packets not acted on, by reason."""
        self._settings = settings
        self._random = random
        self._mobile_nodes = {node.home_address: node for node in settings.mobile_nodes}
        self._served = ServedHomeAddresses(home_agent_address=settings.address)
        self._now = -math.inf
        self._followed: tuple[IPv6Network, ...] | None = None
        self._prefixes = HomePrefixes(settings.home_prefixes)
        self._prefix_advertiser = PrefixAdvertiser(
            PrefixAdvertisingSettings(
                home_agent_address=settings.address,
                min_interval=settings.min_prefix_advertisement_interval,
                max_interval=settings.max_prefix_advertisement_interval,
            ),
            self._prefixes,
            random=random,
            drops=self.drops,
        )
        self._cache = BindingCache(max_entries=settings.max_bindings)
        self._verifier = UpdateVerifier()
        self._revocations = Revocations(settings.address, random=random)
        self._switches = HomeAgentSwitches(settings.address)
        self._memberships = (
            GroupMemberships(settings.address, settings.home_link) if settings.multicast else None
        )
        self._probing: dict[IPv6Address, _Registration] = {}
        self._probed: dict[IPv6Address, IPv6Address] = {}
        """Address under test to home address."""
        self._probe_timers: Timers[IPv6Address] = Timers()
        self._refused_until: dict[IPv6Address, float] = {}
        self._renewal_requested_at: dict[IPv6Address, float] = {}
        self._binding_errors = BindingErrorSender()
        self._icmp_errors = TokenBucket(rate=BINDING_ERROR_RATE, burst=BINDING_ERROR_BURST)
        self._is_home_link_up = True
        self._home_link_lost_at = -math.inf
        self._is_stopped = False
        self._groups: SolicitedNodeGroups | None = None
        self._proxy: ProxyNeighbor | None = None
        self._restored: RestoredBindings | None = None
        self._use_home_link()
        self._handlers: dict[type, Callable[[Any, float], list[Action]]] = {
            PacketReceived: self._on_packet,
            LinkUp: self._on_link_up,
            LinkDown: self._on_link_down,
            ActionFailed: self._on_action_failed,
            ShutdownRequested: self._on_shutdown_requested,
        }

    def _use_home_link(self) -> None:
        settings = self._settings
        if settings.home_link is None:
            return
        self._groups = SolicitedNodeGroups(settings.home_link)
        self._restored = RestoredBindings(
            settings.home_link,
            random=self._random,
            transmits=settings.duplicate_address_detection_transmits,
            retransmission_timer=settings.retransmission_timer,
        )
        self._proxy = ProxyNeighbor(
            settings.home_link,
            source=settings.address,
            link_layer_address=settings.link_layer_address,
        )

    @property
    def is_home_link_up(self) -> bool:
        """Whether new mobile nodes can be accepted; always true of a virtual home prefix."""
        return self._is_home_link_up

    @property
    def bindings(self) -> tuple[BindingCacheEntry, ...]:
        """The live bindings, oldest first."""
        return tuple(self._cache)

    @property
    def forwarding(self) -> dict[IPv6Address, IPv6Address]:
        """Home address to care-of address, for all whose packets are carried now."""
        early = self._probing if self._settings.early_forwarding else {}
        return {home: each.request.care_of_address for home, each in early.items()} | {
            entry.home_address: entry.care_of_address for entry in self._cache
        }

    def _is_forwarded(self, home_address: IPv6Address) -> bool:
        is_early = self._settings.early_forwarding and home_address in self._probing
        return is_early or self.has_binding(home_address)

    def has_binding(self, home_address: IPv6Address) -> bool:
        """Whether this home address is registered."""
        return self._cache.find(home_address) is not None

    @property
    def probing(self) -> tuple[IPv6Address, ...]:
        """Home addresses whose uniqueness is being checked."""
        return tuple(self._probing)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened; return what is to be done. Ignores events of other machines."""
        handler = self._handlers.get(type(event))
        if handler is None or self._is_stopped:
            return []
        return self._expire(now) + handler(event, now)

    def restore(self, records: Mapping[str, KeptRecord], now: float) -> list[Action]:
        """Take up the bindings that an earlier run of this home agent kept.

        Their packets are taken at once, and the mobile nodes are told nothing. The home link is
        asked first who has these home addresses by now (`restored_bindings`). What is no longer
        granted (a home address that is not served any more, a binding that has ended) is forgotten.
        """
        self._now = now
        live, actions = [], self._follow_prefixes()
        for key, record in records.items():
            home_address = binding_record.home_address_of(key)
            if home_address is None:
                if key.startswith(TIMESTAMP_KEY):
                    self._restore_timestamp(key, record.value)
                continue
            entry = binding_record.entry_of(home_address, record)
            if entry is None or not self._is_granted(entry, now):
                actions.append(JournalRecord(key=key, value=None))
                continue
            self._cache.store(entry)
            if not entry.is_deregistered:
                live.append(entry)
        return actions + self._resume(live, now)

    def _is_granted(self, entry: BindingCacheEntry, now: float) -> bool:
        return (
            self._node_of(entry.home_address) is not None
            and self._prefix_of(entry.home_address) is not None
            and entry.expires_at > now
            and self._cache.has_room_for(entry.home_address)
        )

    def _resume(self, live: list[BindingCacheEntry], now: float) -> list[Action]:
        """Tunnels first, then routes into them: no packet meets a route without a tunnel."""
        if not live:
            return []
        for entry in live:
            self._prefix_advertiser.bound(entry, now)
        actions: list[Action] = [self._tunnel(e.home_address, e.care_of_address) for e in live]
        actions += [InterceptHomeAddress(home_address=entry.home_address) for entry in live]
        actions += [each for entry in live for each in self._ask_for_groups(entry, now)]
        details = (("count", str(len(live))),)
        actions.append(ReportEvent(name="bindings-restored", details=details))
        return actions + [each for entry in live for each in self._ask_who_has(entry, now)]

    def _ask_who_has(self, entry: BindingCacheEntry, now: float) -> list[Action]:
        if self._restored is None:
            return []
        addresses = _addresses_of(entry)
        joins = self._join_groups(addresses)
        return joins + self._settle(self._restored.ask(entry.home_address, addresses, now), now)

    def _settle(self, asked: Asked, now: float) -> list[Action]:
        """Defend what is still ours; what another home agent serves, or the mobile node itself, has
        ended here."""
        actions: list[Action] = [*asked.solicitations]
        for home_address in asked.ours:
            entry = self._cache.find(home_address)
            assert entry is not None
            actions += self._defend(_addresses_of(entry), now)
        for home_address in asked.others:
            actions += self._end(home_address, reason="served-elsewhere", now=now)
        return actions

    def handle_timer(self, now: float) -> list[Action]:
        """Do what is due."""
        actions = self._expire(now) + self._prefix_advertiser.handle_timer(now)
        if self._memberships is not None:
            actions += self._memberships.handle_timer(now)
        for home_address in self._probe_timers.due(now):
            probe = self._probing[home_address].probe
            actions += self._carry_out(home_address, probe.handle_timer(now), now)
        if self._proxy is not None and self._restored is not None and self._is_home_link_up:
            actions += self._settle(self._restored.handle_timer(now), now)
            actions += self._proxy.handle_timer(now)
        return actions + self._revoke_silent(now) + self._send_switches(now)

    def next_deadline(self) -> float | None:
        """When `handle_timer` wants to run, or None."""
        proxy, restored = self._proxy, self._restored
        if not self._is_home_link_up:
            proxy = restored = None
        return earliest(
            self._cache.next_deadline(),
            self._probe_timers.next_deadline(),
            self._prefixes.next_deadline(self._now),
            self._prefix_advertiser.next_deadline(),
            self._revocations.next_deadline(),
            self._switches.next_deadline(),
            None if self._memberships is None else self._memberships.next_deadline(),
            None if proxy is None else proxy.next_deadline(),
            None if restored is None else restored.next_deadline(),
        )

    def withdraw_unserved(self, settings: HomeAgentSettings, now: float) -> list[Action]:
        """First half of a change: serve nobody any more whom these settings do not name."""
        served = {node.home_address for node in settings.mobile_nodes}
        former = dict(self._mobile_nodes)
        self._mobile_nodes = {
            key: self._mobile_nodes[key] for key in self._mobile_nodes if key in served
        }
        actions = self._expire(now)
        for home_address in (*self._probing, *(entry.home_address for entry in self._cache)):
            if self._node_of(home_address) is not None:
                continue
            entry = self._cache.find(home_address)
            if entry is not None and self._tells_of_revocation(
                former.get(self._served.configured_for(home_address))
            ):
                # Once: its keys go with it, and nobody could read a second one.
                actions.append(self._revocations.indication(home_address, entry.care_of_address))
            actions += self._end(home_address, reason="not-served", now=now)
        return actions

    def reconfigure(
        self, settings: HomeAgentSettings, *, rekeyed: frozenset[IPv6Address], now: float
    ) -> list[Action]:
        """Serve these mobile nodes, with these limits; bindings of those served before live on.

        Address and home link must be as before. Other home prefixes are told to the mobile nodes
        (RFC 6275 10.6.2). ``rekeyed`` are home addresses whose tunnels have other associations.
        """
        actions = self._expire(now)
        retirement = settings.prefix_retirement
        retire_at = None if retirement is None else now + retirement
        if self._prefixes.configure(settings.home_prefixes, retire_at=retire_at):
            self._prefix_advertiser.changed(now)
        self._settings = replace(
            settings,
            home_link=self._settings.home_link,
            link_layer_address=self._settings.link_layer_address,
        )
        self._cache.limit(settings.max_bindings)
        self._mobile_nodes = {node.home_address: node for node in settings.mobile_nodes}
        self._followed = None
        for entry in self.bindings:
            if self._served.configured_for(entry.home_address) in rekeyed:
                actions.append(self._tunnel(entry.home_address, entry.care_of_address))
        return actions + self._follow_prefixes()

    def delete_binding(self, home_address: IPv6Address, now: float) -> list[Action] | None:
        """End a binding because somebody in charge says so; None where there is none.

        With revocation the mobile node is told, and the binding ends when it has answered, or does
        not within seconds. Its sequence number stays known for a while, as after a deregistration.
        """
        entry = self._cache.find(home_address)
        if home_address not in self._probing and entry is None:
            return None
        actions = self._expire(now)
        if entry is not None and self._tells_of_revocation(self._node_of(home_address)):
            details = (("home_address", str(home_address)),)
            return [
                *actions,
                *self._revocations.begin(home_address, entry.care_of_address, now),
                ReportEvent(name="binding-revocation", details=details),
            ]
        return actions + self._end(home_address, reason="deleted", now=now)

    def ask_to_switch(
        self,
        home_addresses: tuple[IPv6Address, ...],
        home_agents: tuple[IPv6Address, ...],
        now: float,
    ) -> tuple[tuple[IPv6Address, ...], list[Action]]:
        """Have mobile nodes look for another home agent, as before an outage (RFC 5142 5).

        Which of ``home_addresses`` (none: all) are asked now, and what is to be done. Left out are
        those without a binding, and those whose messages nothing protects. ``home_agents`` are
        suggested to them in this order. Their bindings live on, but are not extended any more.
        """
        actions = self._expire(now)
        asked = tuple(
            entry.home_address
            for entry in self._cache
            if (not home_addresses or entry.home_address in home_addresses)
            and _has_associations(self._node_of(entry.home_address))
        )
        self._switches.ask(asked, home_agents, now)
        reports = [
            ReportEvent(
                name="home-agent-switch-asked", details=(("home_address", str(home_address)),)
            )
            for home_address in asked
        ]
        return asked, [*actions, *reports, *self._send_switches(now)]

    def _send_switches(self, now: float) -> list[Action]:
        return [
            *self._switches.send(
                self._care_of_address,
                rate=self._settings.switch_rate,
                now=now,
            )
        ]

    def _care_of_address(self, home_address: IPv6Address) -> IPv6Address:
        entry = self._cache.find(home_address)
        assert entry is not None
        return entry.care_of_address

    def _tells_of_revocation(self, node: AuthorisedMobileNode | None) -> bool:
        return self._settings.revocation and _has_associations(node)

    def _end(self, home_address: IPv6Address, *, reason: str, now: float) -> list[Action]:
        """A registration, or what was to become one, is over, whatever the mobile node thinks."""
        actions: list[Action] = []
        if home_address in self._probing:
            actions += self._stop_probing(home_address)
        entry = self._cache.find(home_address)
        if entry is not None:
            actions += self._withdraw(entry, reason=reason)
            actions.append(self._mark_deregistered(home_address, sequence=entry.sequence, now=now))
        return actions

    # Packets.

    def _on_packet(self, event: PacketReceived, now: float) -> list[Action]:
        payload = event.packet.payload
        if event.tunnel_source is not None:
            if isinstance(payload, ListenerMessage):
                return self._on_listener_message(payload, event.tunnel_source, now)
            return self._on_tunnelled_packet(event, event.tunnel_source, now)
        if isinstance(payload, BindingUpdate):
            return self._on_binding_update(event, payload, now)
        if isinstance(payload, BindingRevocationAcknowledgement):
            return self._on_revocation_acknowledgement(event, payload, now)
        if isinstance(payload, BindingError):
            return self._on_binding_error(event, payload, now)
        if isinstance(payload, UnknownMobilityMessage):
            self._drop(DropReason.UNKNOWN_MOBILITY_MESSAGE)
            return [
                *self._binding_errors.answer(
                    event.packet,
                    status=BindingErrorStatus.UNRECOGNIZED_MOBILITY_HEADER_TYPE,
                    now=now,
                )
            ]
        if isinstance(payload, NeighborSolicitation | NeighborAdvertisement):
            return self._on_neighbor_message(event, payload, now)
        if isinstance(payload, MobilePrefixSolicitation):
            return self._prefix_advertiser.handle(event, now)
        if isinstance(payload, RouterAdvertisement):
            return self._on_router_advertisement(event, payload, now)
        if event.packet.home_address_option is not None:
            return self._on_home_address_option(event, now)
        if self._proxy is not None and event.packet.destination in self._proxy:
            return self._on_packet_for_defended_address(event, now)
        return self._drop(DropReason.UNEXPECTED_MESSAGE)

    def _on_revocation_acknowledgement(
        self, event: PacketReceived, message: BindingRevocationAcknowledgement, now: float
    ) -> list[Action]:
        """Whatever its status is: the binding is not to be (RFC 5846 6.2.2)."""
        home_address = event.packet.logical_source
        if not self._revocations.is_answer(home_address, message.sequence):
            return self._drop(DropReason.SEQUENCE_MISMATCH)
        return self._end(home_address, reason="revoked", now=now)

    def _on_binding_error(
        self, event: PacketReceived, message: BindingError, now: float
    ) -> list[Action]:
        """A mobile node that knows no revocation, or no switching. Anybody can forge this, which
        costs nothing: a revoked binding ends in any case, seconds later, and who is to switch is
        asked again."""
        care_of_address = event.packet.source
        if message.status != BindingErrorStatus.UNRECOGNIZED_MOBILITY_HEADER_TYPE:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        home_address = self._revocations.goes_to(care_of_address)
        if home_address is not None:
            return self._end(home_address, reason="revoked", now=now)
        for entry in self._cache:
            if entry.care_of_address == care_of_address and self._switches.not_understood(
                entry.home_address, now
            ):
                details = (("home_address", str(entry.home_address)),)
                name = "home-agent-switch-not-understood"
                return [ReportEvent(name=name, details=details, warning=True)]
        return self._drop(DropReason.UNEXPECTED_MESSAGE)

    def _revoke_silent(self, now: float) -> list[Action]:
        again, silent = self._revocations.handle_timer(now)
        actions: list[Action] = [*again]
        for home_address in silent:
            actions += self._end(home_address, reason="revoked", now=now)
        return actions

    def _on_neighbor_message(
        self,
        event: PacketReceived,
        message: NeighborSolicitation | NeighborAdvertisement,
        now: float,
    ) -> list[Action]:
        on_home_link = event.interface == self._settings.home_link
        if self._proxy is None or self._restored is None or not on_home_link:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        if event.packet.hop_limit != NEIGHBOR_DISCOVERY_HOP_LIMIT:
            return self._drop(DropReason.BAD_HOP_LIMIT)
        if not _is_valid_neighbor_message(event.packet, message):
            return self._drop(DropReason.MALFORMED)
        actions: list[Action] = []
        home_address = self._probed.get(message.target)
        if home_address is not None:
            probe = self._probing[home_address].probe
            actions += self._carry_out(home_address, probe.handle(event, now), now)
        actions += self._settle(self._restored.handle(event, now), now)
        return actions + self._proxy.handle(event, now)

    def _on_router_advertisement(
        self, event: PacketReceived, message: RouterAdvertisement, now: float
    ) -> list[Action]:
        """What hosts of the home link learn, the mobile nodes are to learn (RFC 6275 10.6.1)."""
        if event.interface != self._settings.home_link:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        if not event.packet.source.is_link_local:
            return self._drop(DropReason.NOT_LINK_LOCAL)
        if not self._prefixes.learn(message.options, now, is_authentic=False):
            return []
        self._prefix_advertiser.changed(now)
        return self._follow_prefixes()

    def _on_listener_message(
        self, message: ListenerMessage, tunnel_source: IPv6Address, now: float
    ) -> list[Action]:
        """Of several home addresses at one care-of address the first has all the groups: what is
        sent there twice would come twice."""
        if self._memberships is None:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        for entry in self._cache:
            if entry.care_of_address == tunnel_source:
                actions = self._memberships.receive(entry.home_address, message, now)
                return self._drop(DropReason.NO_BINDING) if actions is None else actions
        return self._drop(DropReason.NO_BINDING)

    def _ask_for_groups(self, entry: BindingCacheEntry, now: float) -> list[Action]:
        if self._memberships is None:
            return []
        return self._memberships.bound(entry.home_address, now)

    def _on_tunnelled_packet(
        self, event: PacketReceived, tunnel_source: IPv6Address, now: float
    ) -> list[Action]:
        """A packet came through a tunnel we do not have, as after a restart that lost the bindings.

        The mobile node registers again when it hears of it (RFC 6275 11.3.6), long before its
        binding would have ended. RFC 6275 9.3.1 knows this answer for the Home Address option only.
        """
        home_address = event.packet.source
        if self._is_known(home_address):
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        self._drop(DropReason.NO_BINDING)
        if self._node_of(home_address) is None:
            return []
        asked_at = self._renewal_requested_at.get(home_address)
        if asked_at is not None and now < asked_at + RENEWAL_REQUEST_INTERVAL:
            return []
        self._renewal_requested_at[home_address] = now
        return [
            *self._binding_errors.send(
                source=self._settings.address,
                destination=tunnel_source,
                home_address=home_address,
                status=BindingErrorStatus.UNKNOWN_BINDING_FOR_HOME_ADDRESS_OPTION,
                now=now,
            )
        ]

    def _is_known(self, home_address: IPv6Address) -> bool:
        return home_address in self._probing or self._cache.find_any(home_address) is not None

    def _on_home_address_option(self, event: PacketReceived, now: float) -> list[Action]:
        """Not a Binding Update, and its source is a care-of address (RFC 6275 9.3.1)."""
        packet = event.packet
        home_address = packet.logical_source
        if len(packet.home_address_options) > 1:
            return self._drop(DropReason.TWO_HOME_ADDRESS_OPTIONS)
        if not is_routable_unicast(home_address):
            return self._drop(DropReason.HOME_ADDRESS_NOT_ROUTABLE)
        if isinstance(packet.payload, MobilityMessage) or event.protected_by is not None:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        entry = self._cache.find(home_address)
        if entry is not None and entry.care_of_address == packet.source:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        self._drop(DropReason.NO_BINDING)
        return [
            *self._binding_errors.answer(
                packet, status=BindingErrorStatus.UNKNOWN_BINDING_FOR_HOME_ADDRESS_OPTION, now=now
            )
        ]

    def _on_packet_for_defended_address(self, event: PacketReceived, now: float) -> list[Action]:
        """A packet for a mobile node's link-local address is not tunnelled (RFC 6275 10.4.2)."""
        packet = event.packet
        self._drop(DropReason.UNEXPECTED_MESSAGE)
        if not packet.destination.is_link_local or not is_unicast(packet.source):
            return []
        is_error = isinstance(packet.payload, _ICMPV6_ERRORS)
        if is_error or not event.data or not self._icmp_errors.take(now):
            return []
        error = DestinationUnreachable(
            DestinationUnreachableCode.ADDRESS_UNREACHABLE, event.data[:_MAX_QUOTED]
        )
        answer = IPv6Packet(self._settings.address, packet.source, error)
        return [SendPacket(packet=answer, interface=event.interface)]

    def _drop(self, reason: DropReason) -> list[Action]:
        self.drops[reason] += 1
        return []

    # Binding Updates.

    def _on_binding_update(
        self, event: PacketReceived, update: BindingUpdate, now: float
    ) -> list[Action]:
        request = read_binding_request(event, update, one_of=self._as_configured)
        if isinstance(request, DropReason):
            return self._drop(request)
        faulty = self._on_unauthenticated(event, request, now) if update.home_registration else None
        if faulty is not None:
            return faulty
        return self._note_timestamp(request) + self._on_protected_update(request, now)

    def _as_configured(self, home_address: IPv6Address) -> IPv6Address:
        """The same address, as the object that the tables have."""
        node = self._mobile_nodes.get(home_address)
        return home_address if node is None else node.home_address

    def _note_timestamp(self, request: BindingRequest) -> list[Action]:
        """Replays stay replays when we have been restarted."""
        timestamp = self._verifier.last(request.home_address)
        if not timestamp:
            return []
        return [JournalRecord(key=f"{TIMESTAMP_KEY}{request.home_address}", value=str(timestamp))]

    def _restore_timestamp(self, key: str, value: str) -> None:
        with contextlib.suppress(ValueError):
            self._verifier.restore(IPv6Address(key.removeprefix(TIMESTAMP_KEY)), int(value))

    def _on_protected_update(self, request: BindingRequest, now: float) -> list[Action]:
        update = request.update
        entry = self._cache.find_any(request.home_address)
        if entry is not None and not sequence_newer(update.sequence, entry.sequence):
            self._drop(DropReason.STALE_SEQUENCE)
            return self._reject(
                request, BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW, sequence=entry.sequence
            )
        if not update.home_registration:
            return self._on_correspondent_registration(request)
        if self._prefix_of(request.home_address) is None:
            return self._reject(request, BindingStatus.NOT_HOME_SUBNET)
        if request.is_deregistration:
            return self._deregister(request, now)
        status = self._policy(request, now)
        if status is not None:
            return self._reject(request, status)
        return self._register(request, now)

    def _on_unauthenticated(
        self, event: PacketReceived, request: BindingRequest, now: float
    ) -> list[Action] | None:
        """What to do about an update that is not protected as its mobile node's policy says, None
        where it is. IPsec has been looked at already; a key that this mobile node does not have
        protects nothing (RFC 4285 5.1.1)."""
        node = self._node_of(request.home_address)
        if node is None or node.authentication is None:
            has_option = any(isinstance(o, MessageAuthentication) for o in request.update.options)
            return self._drop(DropReason.UNKNOWN_MOBILITY_SPI) if has_option else None
        fault = self._verifier.verify(
            event, node.authentication, care_of_address=request.care_of_address, now=now
        )
        if isinstance(fault, DropReason):
            return self._drop(fault)
        if fault is not None:
            self._drop(DropReason.BAD_AUTHENTICATOR)
            return self._reject(request, fault)
        return None

    def _on_correspondent_registration(self, request: BindingRequest) -> list[Action]:
        if self._cache.find(request.home_address) is None:
            return self._drop(DropReason.UNSUPPORTED_MESSAGE)
        return self._reject(request, BindingStatus.REGISTRATION_TYPE_CHANGE_DISALLOWED)

    def _policy(self, request: BindingRequest, now: float) -> BindingStatus | None:
        """Why this registration is refused, or None (RFC 6275 10.3.1, "any other reason")."""
        if self._node_of(request.home_address) is None or self._is_loop(request):
            return BindingStatus.ADMINISTRATIVELY_PROHIBITED
        if request.home_address in self._switches:
            return BindingStatus.ADMINISTRATIVELY_PROHIBITED  # RFC 5142 5.3
        if now < self._refused_until.get(request.home_address, now):
            return BindingStatus.INSUFFICIENT_RESOURCES
        if request.home_address in self._probing:
            return None
        if not self._cache.has_room_for(request.home_address, reserved=len(self._probing)):
            return BindingStatus.INSUFFICIENT_RESOURCES
        return None

    def _is_loop(self, request: BindingRequest) -> bool:
        """A tunnel to ourselves or to another mobile node's home address could go round (15.1)."""
        return (
            request.care_of_address == self._settings.address
            or self._node_of(request.care_of_address) is not None
        )

    def _register(self, request: BindingRequest, now: float) -> list[Action]:
        entry = self._cache.find(request.home_address)
        if entry is not None:
            return self._update(request, entry, now)
        if self._settings.home_link is None:
            return self._accept(request, now)
        if not self._is_home_link_up:
            status = BindingStatus.INSUFFICIENT_RESOURCES
            return self._reject(request, status, sentence=HOME_LINK_IS_DOWN)
        registration = self._probing.get(request.home_address)
        if registration is None:
            return self._start_probing(request, now)
        if not sequence_newer(request.update.sequence, registration.request.update.sequence):
            return self._drop(DropReason.STALE_SEQUENCE)
        if _defended_addresses(request) != registration.probe.addresses:
            return self._stop_probing(request.home_address) + self._start_probing(request, now)
        has_moved = request.care_of_address != registration.request.care_of_address
        registration.request = request
        if has_moved and self._settings.early_forwarding:
            return [self._tunnel(request.home_address, request.care_of_address)]
        return []

    def _update(
        self, request: BindingRequest, entry: BindingCacheEntry, now: float
    ) -> list[Action]:
        """A binding goes on: no duplicate address detection, no delay (RFC 6275 10.3.1)."""
        renewed = self._entry(request, registered_at=entry.registered_at, now=now)
        self._revocations.end(renewed.home_address)
        self._cache.store(renewed)
        self._prefix_advertiser.bound(renewed, now)
        actions: list[Action] = []
        if renewed.care_of_address != entry.care_of_address:
            actions.append(self._tunnel(renewed.home_address, renewed.care_of_address))
        is_asked = self._restored is not None and self._restored.end(renewed.home_address)
        if is_asked or renewed.is_link_local_defended != entry.is_link_local_defended:
            actions += self._release(_addresses_of(entry) - _addresses_of(renewed))
            actions += self._defend(_addresses_of(renewed), now)
        return [
            *actions,
            binding_record.kept(renewed, now),
            self._accepted(request, renewed),
            _report("binding-updated", renewed),
        ]

    def _accept(self, request: BindingRequest, now: float) -> list[Action]:
        """The first binding of a home address: take its packets, then say so."""
        entry = self._entry(request, registered_at=now, now=now)
        was_forwarded = self._is_forwarded(entry.home_address)
        self._cache.store(entry)
        self._prefix_advertiser.bound(entry, now)
        return [
            *([] if was_forwarded else self._forward(request)),
            *self._defend(_addresses_of(entry), now),
            binding_record.kept(entry, now),
            self._accepted(request, entry),
            *self._ask_for_groups(entry, now),
            _report("binding-created", entry),
        ]

    def _entry(
        self, request: BindingRequest, *, registered_at: float, now: float
    ) -> BindingCacheEntry:
        lifetime = self._granted_lifetime(request)
        return BindingCacheEntry(
            home_address=request.home_address,
            care_of_address=request.care_of_address,
            sequence=request.update.sequence,
            granted_lifetime=lifetime,
            registered_at=registered_at,
            expires_at=now + lifetime,
            is_link_local_defended=request.update.link_local_compatibility,
        )

    def _deregister(self, request: BindingRequest, now: float) -> list[Action]:
        """End a binding (RFC 6275 10.3.2); again is no error while the sequence number is kept."""
        home_address, sequence = request.home_address, request.update.sequence
        if home_address in self._probing:
            return self._deregister_while_probing(request, now)
        if self._cache.find_any(home_address) is None:
            return self._reject(request, BindingStatus.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE)
        entry = self._cache.find(home_address)
        actions = [] if entry is None else self._withdraw(entry, reason="deregistered")
        actions.append(self._mark_deregistered(home_address, sequence=sequence, now=now))
        acknowledgement = self._acknowledge(
            request, BindingStatus.BINDING_UPDATE_ACCEPTED, lifetime=0
        )
        return [*actions, acknowledgement]

    def _mark_deregistered(
        self, home_address: IPv6Address, *, sequence: int, now: float
    ) -> JournalRecord:
        self._cache.mark_deregistered(home_address, sequence=sequence, now=now)
        entry = self._cache.find_any(home_address)
        assert entry is not None
        return binding_record.kept(entry, now)

    def _deregister_while_probing(self, request: BindingRequest, now: float) -> list[Action]:
        """There is no binding yet, so 133; but the registration must not come true after this."""
        earlier = self._probing[request.home_address].request.update.sequence
        if not sequence_newer(request.update.sequence, earlier):
            return self._drop(DropReason.STALE_SEQUENCE)
        actions = self._stop_probing(request.home_address)
        self._cache.store(self._entry(request, registered_at=now, now=now))
        actions.append(
            self._mark_deregistered(request.home_address, sequence=request.update.sequence, now=now)
        )
        status = BindingStatus.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE
        return actions + self._reject(request, status)

    # Lifetimes and answers.

    def _node_of(self, home_address: IPv6Address) -> AuthorisedMobileNode | None:
        """The mobile node that may register this home address."""
        return self._mobile_nodes.get(self._served.configured_for(home_address))

    def _follow_prefixes(self) -> list[Action]:
        """Serve home addresses in the home link's prefixes as they are now, and in no others."""
        prefixes = tuple(each.prefix for each in self._prefixes.current(self._now))
        if prefixes == self._followed or self._is_stopped:
            return []
        self._followed = prefixes
        actions: list[Action] = []
        for entry in self.bindings:
            if not any(entry.home_address in prefix for prefix in prefixes):
                self._cache.remove(entry.home_address)
                actions += self._withdraw(entry, reason="prefix-ended")
                actions.append(binding_record.forgotten(entry.home_address))
        return actions + self._served.follow(self._mobile_nodes, prefixes)

    def _prefix_of(self, home_address: IPv6Address) -> KnownPrefix | None:
        known = self._prefixes.find(home_address, self._now)
        long_enough = known is not None and known.valid_lifetime(self._now) >= LIFETIME_UNIT
        return known if long_enough else None

    def _granted_lifetime(self, request: BindingRequest) -> float:
        """Asked, policy and prefix, whichever is least, in whole units (RFC 6275 10.3.1)."""
        prefix = self._prefix_of(request.home_address)
        valid_lifetime = math.inf if prefix is None else prefix.valid_lifetime(self._now)
        least = min(request.update.lifetime, self._settings.max_lifetime, valid_lifetime)
        return float(least // LIFETIME_UNIT * LIFETIME_UNIT)

    def _accepted(self, request: BindingRequest, entry: BindingCacheEntry) -> SendPacket:
        advice = self._settings.refresh_advice
        options: tuple[BindingRefreshAdvice, ...] = ()
        if advice is not None and advice < entry.granted_lifetime:
            options = (BindingRefreshAdvice(advice),)
        return self._acknowledge(
            request, self._accepted_status(entry), lifetime=entry.granted_lifetime, options=options
        )

    def _accepted_status(self, entry: BindingCacheEntry) -> BindingStatus:
        """Status 1 when the mobile node should learn of a prefix that ends (RFC 6275 10.3.1)."""
        prefix = self._prefix_of(entry.home_address)
        units = entry.granted_lifetime // LIFETIME_UNIT
        if prefix is not None and (
            prefix.preferred_lifetime(self._now) // LIFETIME_UNIT < units
            or prefix.valid_lifetime(self._now) // LIFETIME_UNIT <= units
        ):
            return BindingStatus.ACCEPTED_BUT_PREFIX_DISCOVERY_NECESSARY
        return BindingStatus.BINDING_UPDATE_ACCEPTED

    def _reject(
        self,
        request: BindingRequest,
        status: BindingStatus,
        *,
        sequence: int | None = None,
        sentence: str = "",
    ) -> list[Action]:
        """``sentence``: why, where the status does not tell."""
        details = (
            ("home_address", str(request.home_address)),
            ("care_of_address", str(request.care_of_address)),
            ("status", str(int(status))),
            ("sentence", sentence or status.sentence),
        )
        return [
            self._acknowledge(request, status, lifetime=0, sequence=sequence),
            ReportEvent(name="binding-rejected", details=details, warning=True),
        ]

    def _acknowledge(
        self,
        request: BindingRequest,
        status: BindingStatus,
        *,
        lifetime: float,
        sequence: int | None = None,
        options: tuple[BindingRefreshAdvice, ...] = (),
    ) -> SendPacket:
        """Answer to the Source Address, whatever the binding cache says (RFC 6275 9.5.4)."""
        is_accepted = status < BindingStatus.REASON_UNSPECIFIED
        message = BindingAcknowledgement(
            status=status,
            sequence=request.update.sequence if sequence is None else sequence,
            lifetime=lifetime,
            key_management_mobility=is_accepted
            and request.update.key_management_mobility
            and self._settings.key_management_mobility,
            options=options,
        )
        headers = (
            () if request.is_from_home_address else (Type2RoutingHeader(request.home_address),)
        )
        node = self._node_of(request.home_address)
        if node is not None and node.authentication is not None:
            message = self._verifier.sign(
                message,
                node.authentication,
                update=request.update,
                care_of_address=request.care_of_address,
                home_address=request.home_address,
                now=self._now,
            )
        packet = IPv6Packet(
            self._settings.address, request.source, message, extension_headers=headers
        )
        if not self._is_from_home_link(request):
            return SendPacket(packet=packet)
        # Resolving the home address would lead to our own proxy or tunnel (RFC 6275 10.3.2).
        return SendPacket(
            packet=packet,
            interface=request.interface,
            link_layer_destination=request.link_layer_source,
        )

    def _is_from_home_link(self, request: BindingRequest) -> bool:
        return (
            request.interface == self._settings.home_link
            and bool(request.link_layer_source)
            and self._prefixes.find(request.source, self._now) is not None
        )

    # Probing.

    def _start_probing(self, request: BindingRequest, now: float) -> list[Action]:
        assert self._settings.home_link is not None and self._groups is not None
        addresses = _defended_addresses(request)
        if any(map(self._is_taken, addresses)):
            return self._duplicate(request)
        probe = HomeAddressProbe(
            addresses,
            interface=self._settings.home_link,
            random=self._random,
            transmits=self._settings.duplicate_address_detection_transmits,
            retransmission_timer=self._settings.retransmission_timer,
        )
        self._probing[request.home_address] = _Registration(request, probe)
        self._probed.update(dict.fromkeys(addresses, request.home_address))
        actions = self._forward(request) if self._settings.early_forwarding else []
        actions += [action for each in sorted(addresses) for action in self._groups.join(each)]
        return actions + self._carry_out(request.home_address, probe.start(now), now)

    def _is_taken(self, address: IPv6Address) -> bool:
        """What other mobile nodes already have: we would not hear ourselves defend it."""
        return (
            address == self._settings.address
            or (self._proxy is not None and address in self._proxy)
            or address in self._probed
        )

    def _forget_probe(self, home_address: IPv6Address) -> _Registration:
        registration = self._probing.pop(home_address)
        self._probe_timers.cancel(home_address)
        for address in registration.probe.addresses:
            del self._probed[address]
        return registration

    def _stop_probing(self, home_address: IPv6Address) -> list[Action]:
        registration = self._forget_probe(home_address)
        actions = self._leave_groups(registration.probe.addresses)
        if self._settings.early_forwarding:
            actions += _stop_forwarding(home_address)
        return actions

    def _carry_out(
        self, home_address: IPv6Address, outputs: list[SendPacket | Outcome], now: float
    ) -> list[Action]:
        actions: list[Action] = []
        for output in outputs:
            match output:
                case SendPacket():
                    actions.append(output)
                case HomeAddressUnique():
                    actions += self._accept(self._probing[home_address].request, now)
                    self._forget_probe(home_address)
                case _:
                    registration = self._probing[home_address]
                    actions += self._stop_probing(home_address)
                    actions += self._duplicate(registration.request)
        if home_address in self._probing:
            deadline = self._probing[home_address].probe.next_deadline()
            assert deadline is not None  # no outcome yet
            self._probe_timers.set(home_address, deadline)
        return actions

    def _duplicate(self, request: BindingRequest) -> list[Action]:
        details = (("address", str(request.home_address)),)
        return [
            *self._reject(request, BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED),
            ReportEvent(name="duplicate-address", details=details, warning=True),
        ]

    # Interception.

    def _forward(self, request: BindingRequest) -> list[Action]:
        return [
            InterceptHomeAddress(home_address=request.home_address),
            self._tunnel(request.home_address, request.care_of_address),
        ]

    def _tunnel(self, home_address: IPv6Address, care_of_address: IPv6Address) -> SetTunnel:
        node = self._node_of(home_address)
        assert node is not None
        return SetTunnel(
            end=TunnelEnd.HOME_AGENT,
            home_address=home_address,
            local=self._settings.address,
            remote=care_of_address,
            outbound_spi=node.outbound_spi,
            inbound_spi=node.inbound_spi,
        )

    def _defend(self, addresses: frozenset[IPv6Address], now: float) -> list[Action]:
        if self._groups is None or self._proxy is None:
            return []
        return self._join_groups(addresses) + self._proxy.defend(sorted(addresses), now=now)

    def _join_groups(self, addresses: frozenset[IPv6Address]) -> list[Action]:
        if self._groups is None:
            return []
        return [action for address in sorted(addresses) for action in self._groups.join(address)]

    def _release(self, addresses: frozenset[IPv6Address]) -> list[Action]:
        if self._proxy is not None:
            self._proxy.release(addresses)
        return self._leave_groups(addresses)

    def _leave_groups(self, addresses: frozenset[IPv6Address]) -> list[Action]:
        if self._groups is None:
            return []
        return [action for address in sorted(addresses) for action in self._groups.leave(address)]

    def _withdraw(self, entry: BindingCacheEntry, *, reason: str) -> list[Action]:
        """Give the home address back to the home link."""
        self._revocations.end(entry.home_address)
        self._switches.end(entry.home_address)
        if self._restored is not None:
            self._restored.end(entry.home_address)
        self._prefix_advertiser.unbound(entry.home_address)
        memberships = self._memberships
        return [
            *([] if memberships is None else memberships.unbound(entry.home_address)),
            *_stop_forwarding(entry.home_address),
            *self._release(_addresses_of(entry)),
            _report("binding-removed", entry, reason=reason),
        ]

    def _expire(self, now: float) -> list[Action]:
        """End what has ended: a home address that its prefix has left is nobody's any more."""
        self._now = now
        self._prefixes.expire(now)
        return self._follow_prefixes() + [
            action
            for entry in self._cache.pop_expired(now)
            for action in (
                *self._withdraw(entry, reason="expired"),
                binding_record.forgotten(entry.home_address),
            )
        ]

    # The host.

    def _on_link_up(self, event: LinkUp, now: float) -> list[Action]:
        if self._groups is None or self._proxy is None:
            return []
        if event.interface != self._settings.home_link:
            return []
        was_down, self._is_home_link_up = not self._is_home_link_up, True
        self._proxy.link_layer_address = event.link_layer_address
        actions = self._groups.rejoin()
        actions += [] if self._memberships is None else self._memberships.rejoin()
        if was_down:
            actions += self._ask_after_absence(now)
        return actions + self._proxy.announce_all(now)

    def move(self, home_link: int, link_layer_address: bytes, now: float) -> list[Action]:
        """The home link is another interface now, as after one of its name was made anew.

        The mobile nodes know nothing of it, and need not: their bindings live on, and so does what
        tells a replayed update. Whoever is on the new link is asked before a home address is
        defended there. First registrations are begun again by their mobile nodes.
        """
        actions = [action for each in tuple(self._probing) for action in self._stop_probing(each)]
        for entry in self.bindings:
            actions += self._release(_addresses_of(entry))
        self._settings = replace(
            self._settings, home_link=home_link, link_layer_address=link_layer_address
        )
        self._use_home_link()
        self._is_home_link_up = True
        if self._memberships is not None:
            actions += self._memberships.move(home_link)
        return actions + [each for entry in self.bindings for each in self._ask_who_has(entry, now)]

    def _ask_after_absence(self, now: float) -> list[Action]:
        """Mobile nodes may have gone to another home agent meanwhile; and whoever was being asked
        before could not be heard."""
        assert self._proxy is not None and self._restored is not None
        is_long = now - self._home_link_lost_at >= MIN_ABSENCE
        actions: list[Action] = []
        for entry in self.bindings:
            if is_long or entry.home_address in self._restored:
                self._proxy.release(_addresses_of(entry))
                actions += self._ask_who_has(entry, now)
        return actions

    def _on_link_down(self, event: LinkDown, now: float) -> list[Action]:
        """Bindings stay: correspondents elsewhere still reach the mobile nodes through us.

        A probe cannot be trusted any more; the mobile node's next Binding Update starts it again.
        """
        if event.interface != self._settings.home_link:
            return []
        self._is_home_link_up, self._home_link_lost_at = False, now
        return [action for each in tuple(self._probing) for action in self._stop_probing(each)]

    def _on_action_failed(self, event: ActionFailed, now: float) -> list[Action]:
        match event.action:
            case InterceptHomeAddress(home_address=home_address):
                return self._give_up(home_address, event, now)
            case SetTunnel(home_address=home_address):
                return self._give_up(home_address, event, now)
            case JoinGroup(group=group):
                return self._on_join_failed(group, event)
        return []

    def _give_up(self, home_address: IPv6Address, event: ActionFailed, now: float) -> list[Action]:
        """The host cannot take the mobile node's packets: no binding then, and none for a while."""
        registration = self._probing.get(home_address)
        if registration is not None:
            self._refused_until[home_address] = now + HOST_FAILURE_DELAY
            actions = self._stop_probing(home_address)
            return actions + self._reject(
                registration.request, BindingStatus.INSUFFICIENT_RESOURCES
            )
        entry = self._cache.find(home_address)
        if entry is None:
            return []
        self._refused_until[home_address] = now + HOST_FAILURE_DELAY
        self._cache.remove(home_address)
        return [
            *self._withdraw(entry, reason=event.reason or "host-refused"),
            binding_record.forgotten(home_address),
        ]

    def _on_join_failed(self, group: IPv6Address, event: ActionFailed) -> list[Action]:
        """Without the group a probe is deaf; a defended address still has its announcements."""
        actions: list[Action] = []
        for home_address, registration in list(self._probing.items()):
            if group in map(solicited_node_group, registration.probe.addresses):
                actions += self._stop_probing(home_address)
                actions += self._reject(registration.request, BindingStatus.INSUFFICIENT_RESOURCES)
        return actions

    def _on_shutdown_requested(self, event: ShutdownRequested, now: float) -> list[Action]:
        """Leave the host as it was. The records stay: the next run takes the bindings up again."""
        actions = [action for each in tuple(self._probing) for action in self._stop_probing(each)]
        for entry in self.bindings:
            self._cache.remove(entry.home_address)
            actions += self._withdraw(entry, reason="shutdown")
        self._cache = BindingCache(max_entries=self._settings.max_bindings)
        self._is_stopped = True
        return [*actions, Finish()]


def _has_associations(node: AuthorisedMobileNode | None) -> bool:
    """Revocations and switches must be protected like the updates (RFC 5846 6.1, RFC 5142 5.1),
    which RFC 4285 knows no way for."""
    return node is not None and node.authentication is None


def _stop_forwarding(home_address: IPv6Address) -> list[Action]:
    return [
        StopIntercepting(home_address=home_address),
        RemoveTunnel(home_address=home_address),
    ]


def _defended_addresses(request: BindingRequest) -> frozenset[IPv6Address]:
    """The addresses to test and defend, by the L bit (RFC 6275 10.3.1)."""
    if request.update.link_local_compatibility:
        return frozenset((request.home_address, derived_link_local(request.home_address)))
    return frozenset((request.home_address,))


def _addresses_of(entry: BindingCacheEntry) -> frozenset[IPv6Address]:
    if entry.is_link_local_defended:
        return frozenset((entry.home_address, derived_link_local(entry.home_address)))
    return frozenset((entry.home_address,))


def _is_valid_neighbor_message(
    packet: IPv6Packet, message: NeighborSolicitation | NeighborAdvertisement
) -> bool:
    """The tests of RFC 4861 7.1.1 and 7.1.2 that decoding leaves open."""
    if message.target.is_multicast or packet.source.is_multicast:
        return False
    if isinstance(message, NeighborAdvertisement):
        return not (packet.destination.is_multicast and message.solicited)
    if packet.source != UNSPECIFIED_ADDRESS:
        return True
    has_source_option = any(isinstance(each, SourceLinkLayerAddress) for each in message.options)
    return packet.destination == solicited_node_group(message.target) and not has_source_option


def _report(name: str, entry: BindingCacheEntry, *, reason: str | None = None) -> ReportEvent:
    details: tuple[tuple[str, str], ...] = (
        ("home_address", text_of(entry.home_address)),
        ("care_of_address", text_of(entry.care_of_address)),
        ("lifetime", f"{entry.granted_lifetime:.0f}"),
    )
    if reason is not None:
        details += (("reason", reason),)
    return ReportEvent(name=name, details=details)
