"""The mobile node on its home link: taking the home address back from the home agent (RFC 6275
11.5.5).

    idle -> finding the home agent -> deregistering -> in use
        `-> probing the home address (no binding can be alive) -> in use, or duplicate

While the home agent may still defend the home address, the node neither uses it nor probes it, and
asks for the home agent's link-layer address from the unspecified address only. Once the
deregistration has left, it answers solicitations for the home address itself, because the home
agent's acknowledgement may need one; once acknowledged, it announces itself up to
MAX_NEIGHBOR_ADVERTISEMENT times and the host takes over.
"""

from __future__ import annotations

import enum
import math
from ipaddress import IPv6Address
from random import Random

from mnagent.core.actions import JoinGroup, LeaveGroup, ReportEvent, SendPacket, UseHomeLink
from mnagent.core.events import PacketReceived
from mnagent.core.indications import AddressDuplicate, Output
from mnagent.core.timers import Timers
from mnagent.mobility.addresses import (
    ALL_NODES,
    NEIGHBOR_DISCOVERY_HOP_LIMIT,
    UNSPECIFIED_ADDRESS,
    solicited_node_group,
)
from mnagent.mobility.constants import (
    MAX_HOME_ABSENCE,
    MAX_HOME_AGENT_SOLICITATIONS,
    MAX_NEIGHBOR_ADVERTISEMENT,
    RETRANS_TIMER,
)
from mnagent.mobility.home_address_probe import (
    HomeAddressDuplicate,
    HomeAddressProbe,
    HomeAddressUnique,
)
from mnagent.mobility.home_registration import HomePath, HomeRegistration
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import (
    NeighborAdvertisement,
    NeighborSolicitation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
)


class HomeLinkState(enum.Enum):
    """How far the return home is."""

    IDLE = "idle"
    FINDING_HOME_AGENT = "finding-home-agent"
    DEREGISTERING = "deregistering"
    PROBING = "probing"
    IN_USE = "in-use"
    DUPLICATE = "duplicate"


class _Timer(enum.Enum):
    SOLICIT = enum.auto()
    ADVERTISE = enum.auto()


class HomeLink:
    """One home address on the home link."""

    def __init__(
        self,
        home_address: IPv6Address,
        prefix_length: int,
        *,
        registration: HomeRegistration,
        random: Random,
    ) -> None:
        self._home_address = home_address
        self._prefix_length = prefix_length
        self._registration = registration
        self._random = random
        self._state = HomeLinkState.IDLE
        self._timers: Timers[_Timer] = Timers()
        self._probe: HomeAddressProbe | None = None
        self._interface = 0
        self._router = UNSPECIFIED_ADDRESS
        self._link_layer_address = b""
        self._link_local: IPv6Address | None = None
        self._is_compatible = False
        self._solicitations_left = 0
        self._advertisements_left = 0
        self._left_at = -math.inf

    @property
    def state(self) -> HomeLinkState:
        return self._state

    def use_registration(self, registration: HomeRegistration) -> None:
        """Another home agent has the binding that is to be deleted on return."""
        self._registration = registration

    def arrive(
        self,
        *,
        interface: int,
        router: IPv6Address,
        link_layer_address: bytes,
        link_local: IPv6Address | None,
        home_agent_link_layer_address: bytes | None,
        link_local_compatibility: bool,
        now: float,
    ) -> list[Output]:
        """The home link was found. A home agent's link-layer address of None is to be asked for."""
        self._interface, self._router = interface, router
        self._link_layer_address, self._link_local = link_layer_address, link_local
        self._is_compatible = link_local_compatibility
        self._timers.clear()
        group = JoinGroup(interface=interface, group=solicited_node_group(self._home_address))
        if not self._registration.may_be_bound(now):
            was_here = now - self._left_at < MAX_HOME_ABSENCE
            return [group, *(self._take_over(now) if was_here else self._start_probe(now))]
        if home_agent_link_layer_address is not None:
            return [group, *self._deregister(home_agent_link_layer_address, now)]
        self._state = HomeLinkState.FINDING_HOME_AGENT
        self._solicitations_left = MAX_HOME_AGENT_SOLICITATIONS
        return [group, *self._solicit(now)]

    def leave(self, now: float) -> list[Output]:
        """The home link is gone; whatever was going on there stops."""
        if self._state is HomeLinkState.IDLE:
            return []
        self._left_at = now if self._state is HomeLinkState.IN_USE else -math.inf
        self._state = HomeLinkState.IDLE
        self._timers.clear()
        self._probe = None
        return [
            LeaveGroup(interface=self._interface, group=solicited_node_group(self._home_address))
        ]

    def change_router(self, router: IPv6Address) -> list[Output]:
        """Another default router on the same home link."""
        self._router = router
        return [self._use()] if self._state is HomeLinkState.IN_USE else []

    def binding_deleted(self, now: float) -> list[Output]:
        """The home agent let go of the home address: use and announce it (11.5.5)."""
        if self._state is not HomeLinkState.DEREGISTERING:
            return []
        return self._take_over(now)

    def handle(self, event: PacketReceived, now: float) -> list[Output]:
        """A validated Neighbor Solicitation or Advertisement."""
        if event.interface != self._interface:
            return []
        message = event.packet.payload
        if self._state is HomeLinkState.PROBING and self._probe is not None:
            return self._conclude(self._probe.handle(event, now), now)
        if self._state is HomeLinkState.FINDING_HOME_AGENT and isinstance(
            message, NeighborAdvertisement
        ):
            return self._on_home_agent_advertisement(event, message, now)
        if self._state is HomeLinkState.DEREGISTERING and isinstance(message, NeighborSolicitation):
            return self._answer(event, message)
        return []

    def handle_timer(self, now: float) -> list[Output]:
        """Solicit or advertise again, or end the probe."""
        outputs: list[Output] = []
        for timer in self._timers.due(now):
            if timer is _Timer.ADVERTISE:
                outputs += self._advertise(now)
            elif self._solicitations_left:
                outputs += self._solicit(now)
            else:
                # Nobody defends the home address: let the host resolve the home agent's address.
                outputs += self._deregister(None, now)
        if self._probe is not None:
            outputs += self._conclude(self._probe.handle_timer(now), now)
        return outputs

    def next_deadline(self) -> float | None:
        deadlines = [self._timers.next_deadline()]
        if self._probe is not None:
            deadlines.append(self._probe.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # With a binding that may be alive.

    def _solicit(self, now: float) -> list[Output]:
        self._solicitations_left -= 1
        self._timers.set(_Timer.SOLICIT, now + RETRANS_TIMER)
        packet = IPv6Packet(
            UNSPECIFIED_ADDRESS,
            solicited_node_group(self._home_address),
            NeighborSolicitation(self._home_address),
            hop_limit=NEIGHBOR_DISCOVERY_HOP_LIMIT,
        )
        return [SendPacket(packet=packet, interface=self._interface)]

    def _on_home_agent_advertisement(
        self, event: PacketReceived, message: NeighborAdvertisement, now: float
    ) -> list[Output]:
        if message.target != self._home_address:
            return []
        addresses = [o.address for o in message.options if isinstance(o, TargetLinkLayerAddress)]
        return self._deregister(addresses[0] if addresses else event.link_layer_source, now)

    def _deregister(self, home_agent: bytes | None, now: float) -> list[Output]:
        self._state = HomeLinkState.DEREGISTERING
        self._timers.cancel(_Timer.SOLICIT)
        path = HomePath(
            interface=self._interface,
            link_layer_destination=home_agent or None,
            link_local_compatibility=self._is_compatible,
        )
        return self._registration.deregister_at_home(path, now)

    def _answer(self, event: PacketReceived, message: NeighborSolicitation) -> list[Output]:
        """Unicast to the sender's link-layer address; nobody is answered who only probes."""
        source = event.packet.source
        if message.target != self._home_address or source == UNSPECIFIED_ADDRESS:
            return []
        addresses = [o.address for o in message.options if isinstance(o, SourceLinkLayerAddress)]
        destination = addresses[0] if addresses else event.link_layer_source
        return [
            self._advertisement(
                self._home_address, source, solicited=True, link_layer_destination=destination
            )
        ]

    # Without one.

    def _start_probe(self, now: float) -> list[Output]:
        self._state = HomeLinkState.PROBING
        self._probe = HomeAddressProbe(
            [self._home_address], interface=self._interface, random=self._random
        )
        return self._conclude(self._probe.start(now), now)

    def _conclude(
        self, outcomes: list[SendPacket | HomeAddressUnique | HomeAddressDuplicate], now: float
    ) -> list[Output]:
        outputs: list[Output] = []
        for outcome in outcomes:
            match outcome:
                case SendPacket():
                    outputs.append(outcome)
                case HomeAddressUnique():
                    outputs += self._take_over(now)
                case _:
                    self._probe = None
                    self._state = HomeLinkState.DUPLICATE
                    details = (("address", str(self._home_address)),)
                    report = ReportEvent(name="duplicate-address", details=details, warning=True)
                    outputs += [
                        report,
                        AddressDuplicate(interface=self._interface, address=outcome.address),
                    ]
        return outputs

    # In use.

    def _take_over(self, now: float) -> list[Output]:
        self._probe = None
        self._state = HomeLinkState.IN_USE
        self._advertisements_left = MAX_NEIGHBOR_ADVERTISEMENT
        report = ReportEvent(name="returned-home", details=(("interface", str(self._interface)),))
        # Told first: what follows, such as deregistrations, is of the time at home.
        return [report, self._use(), *self._advertise(now)]

    def _use(self) -> UseHomeLink:
        return UseHomeLink(
            home_address=self._home_address,
            prefix_length=self._prefix_length,
            interface=self._interface,
            router=self._router,
        )

    def _advertise(self, now: float) -> list[Output]:
        self._advertisements_left -= 1
        if self._advertisements_left:
            self._timers.set(_Timer.ADVERTISE, now + RETRANS_TIMER)
        targets = [self._home_address]
        if self._link_local is not None:
            targets.append(self._link_local)
        return [self._advertisement(target, ALL_NODES, override=True) for target in targets]

    def _advertisement(
        self,
        target: IPv6Address,
        destination: IPv6Address,
        *,
        solicited: bool = False,
        override: bool = False,
        link_layer_destination: bytes | None = None,
    ) -> SendPacket:
        message = NeighborAdvertisement(
            target,
            solicited=solicited,
            override=override or solicited,
            options=(TargetLinkLayerAddress(self._link_layer_address),),
        )
        packet = IPv6Packet(target, destination, message, hop_limit=NEIGHBOR_DISCOVERY_HOP_LIMIT)
        return SendPacket(
            packet=packet,
            interface=self._interface,
            link_layer_destination=link_layer_destination or None,
        )
