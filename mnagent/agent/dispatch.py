"""From octets to the machine they are for: decode, check, police, count (RFC 6275 9.2, 9.3.1).

Everything a peer can do wrong ends here as a counter, and in an ICMPv6 Parameter Problem or a
Binding Error where the RFC wants the sender to know; both are rate limited and never answer a
multicast or unspecified address.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address

from mnagent.core.actions import Action, SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import DatagramReceived, PacketReceived
from mnagent.ipsec.policy import SecurityPolicyDatabase
from mnagent.mobility.addresses import (
    NEIGHBOR_DISCOVERY_HOP_LIMIT,
    is_routable_unicast,
    is_unicast,
)
from mnagent.mobility.binding_error import (
    BINDING_ERROR_BURST,
    BINDING_ERROR_RATE,
    BindingErrorSender,
    TokenBucket,
)
from mnagent.mobility.group_membership import MLD_HOP_LIMIT
from mnagent.wire.buffer import ChecksumError, DecodeError
from mnagent.wire.icmp6 import ParameterProblem, ParameterProblemCode
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mld import MldMessage
from mnagent.wire.mobility import (
    BindingErrorStatus,
    HomeAgentSwitch,
    UnknownMobilityMessage,
)
from mnagent.wire.ndisc import (
    NeighborAdvertisement,
    NeighborSolicitation,
    Redirect,
    RouterAdvertisement,
    RouterSolicitation,
)
from mnagent.wire.packet import MobilityHeaderError, MobilityHeaderProblem, decode_packet

MAX_QUOTED_OCTETS = 1232
"""Of the offending packet in an ICMPv6 error, which must fit into 1280 octets (RFC 4443 2.4 c)."""

_PROBLEM_REASONS = {
    MobilityHeaderProblem.CHECKSUM: DropReason.BAD_CHECKSUM,
    MobilityHeaderProblem.PAYLOAD_PROTOCOL: DropReason.PAYLOAD_PROTOCOL,
    MobilityHeaderProblem.HEADER_LENGTH: DropReason.MESSAGE_TOO_SHORT,
    MobilityHeaderProblem.TRUNCATED: DropReason.MALFORMED,
    MobilityHeaderProblem.OPTION: DropReason.MALFORMED,
}

_NEIGHBOR_DISCOVERY = (
    RouterSolicitation,
    RouterAdvertisement,
    NeighborSolicitation,
    NeighborAdvertisement,
    Redirect,
)


class Dispatcher:
    """Decodes what came in and decides whether any machine may see it."""

    def __init__(
        self,
        policies: SecurityPolicyDatabase,
        *,
        home_addresses: frozenset[IPv6Address] = frozenset(),
        tunnel_peers: frozenset[IPv6Address] | None = None,
        follows_switch: bool = False,
    ) -> None:
        """Take the rules of this node.

        Args:
            policies: what must be protected, and by what.
            home_addresses: our own; type 2 routing headers may only name one of them.
            tunnel_peers: whose tunnels packets may come out of; None leaves that to the machines.
            follows_switch: whether a Home Agent Switch message is understood (RFC 5142 6.1).
        """
        self._policies = policies
        self._home_addresses = set(home_addresses)
        self._tunnel_peers = tunnel_peers
        self._not_understood: tuple[type, ...] = (UnknownMobilityMessage,)
        if not follows_switch:
            self._not_understood += (HomeAgentSwitch,)
        self._binding_errors = BindingErrorSender()
        self._parameter_problems = TokenBucket(rate=BINDING_ERROR_RATE, burst=BINDING_ERROR_BURST)
        self.drops: Counter[DropReason] = Counter()

    def add_home_address(self, home_address: IPv6Address) -> None:
        """One more of our own, as after the home network was renumbered."""
        self._home_addresses.add(home_address)

    def remove_home_address(self, home_address: IPv6Address) -> None:
        """It is ours no more."""
        self._home_addresses.discard(home_address)

    def receive(
        self, event: DatagramReceived, now: float
    ) -> tuple[PacketReceived | None, list[Action]]:
        """The packet for the machines, or None, and what to answer at once."""
        try:
            packet = decode_packet(event.data)
        except MobilityHeaderError as error:
            return None, self._on_mobility_header_error(error, now)
        except ChecksumError:
            return None, self._drop(DropReason.BAD_CHECKSUM)
        except DecodeError:
            return None, self._drop(DropReason.MALFORMED)
        received = PacketReceived(
            packet=packet,
            interface=event.interface,
            link_layer_source=event.link_layer_source,
            protected_by=event.protected_by,
            tunnel_source=event.tunnel_source,
            data=event.data,
        )
        return self.admit(received, now)

    def admit(
        self, received: PacketReceived, now: float
    ) -> tuple[PacketReceived | None, list[Action]]:
        """Check a decoded packet: headers first, then the security policy, then its type."""
        reason = self._header_fault(received) or self._policy_fault(received)
        if reason is not None:
            return None, self._drop(reason)
        if isinstance(received.packet.payload, self._not_understood):
            self.drops[DropReason.UNKNOWN_MOBILITY_MESSAGE] += 1
            return None, [
                *self._binding_errors.answer(
                    received.packet,
                    status=BindingErrorStatus.UNRECOGNIZED_MOBILITY_HEADER_TYPE,
                    now=now,
                )
            ]
        return received, []

    def _policy_fault(self, received: PacketReceived) -> DropReason | None:
        if received.tunnel_source is not None and isinstance(received.packet.payload, MldMessage):
            return self._policies.inbound_group_membership(received.protected_by)
        return self._policies.inbound(
            received.packet, received.protected_by, tunnel_source=received.tunnel_source
        )

    def _header_fault(self, received: PacketReceived) -> DropReason | None:
        packet = received.packet
        home_addresses = packet.home_address_options
        if len(home_addresses) > 1:
            return DropReason.TWO_HOME_ADDRESS_OPTIONS
        if home_addresses and not is_routable_unicast(home_addresses[0]):
            return DropReason.HOME_ADDRESS_NOT_ROUTABLE
        if not self._is_fitting_type2_routing_header(packet):
            return DropReason.BAD_TYPE2_ROUTING_HEADER
        if (
            isinstance(packet.payload, _NEIGHBOR_DISCOVERY)
            and packet.hop_limit != NEIGHBOR_DISCOVERY_HOP_LIMIT
        ):
            return DropReason.BAD_HOP_LIMIT
        if isinstance(packet.payload, MldMessage) and packet.hop_limit != MLD_HOP_LIMIT:
            return DropReason.BAD_HOP_LIMIT
        if (
            received.tunnel_source is not None
            and self._tunnel_peers is not None
            and received.tunnel_source not in self._tunnel_peers
        ):
            return DropReason.UNKNOWN_PEER
        return None

    def _is_fitting_type2_routing_header(self, packet: IPv6Packet) -> bool:
        """RFC 6275 11.3.3: one segment left, to one of our home addresses."""
        header = packet.type2_routing_header
        return header is None or (
            header.segments_left == 1 and header.home_address in self._home_addresses
        )

    def _on_mobility_header_error(self, error: MobilityHeaderError, now: float) -> list[Action]:
        self.drops[_PROBLEM_REASONS[error.problem]] += 1
        if not error.wants_parameter_problem:
            return []
        if not (is_unicast(error.source) and is_unicast(error.destination)):
            return []
        if not self._parameter_problems.take(now):
            return self._drop(DropReason.RATE_LIMITED)
        problem = ParameterProblem(
            ParameterProblemCode.ERRONEOUS_HEADER_FIELD,
            error.offset,
            error.invoking[:MAX_QUOTED_OCTETS],
        )
        return [SendPacket(packet=IPv6Packet(error.destination, error.source, problem))]

    def _drop(self, reason: DropReason) -> list[Action]:
        self.drops[reason] += 1
        return []
