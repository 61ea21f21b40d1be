"""Proxy neighbour discovery for registered home addresses (RFC 6275 10.4.1, RFC 4861 7.2.8).

While a binding lives, the home agent draws the mobile node's packets on the home link to itself: it
announces its own link-layer address for the home address, up to MAX_NEIGHBOR_ADVERTISEMENT times,
and answers every Neighbor Solicitation for it, duplicate address detection by others included.

Solicited answers carry O=0, so that the mobile node's own advertisement wins when it is back; the
announcements carry O=1, so that the neighbours' caches turn to us at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address

from mnagent.core.actions import Action, JoinGroup, LeaveGroup, SendPacket
from mnagent.core.events import PacketReceived
from mnagent.core.timers import Timers
from mnagent.mobility.addresses import (
    ALL_NODES,
    NEIGHBOR_DISCOVERY_HOP_LIMIT,
    UNSPECIFIED_ADDRESS,
    solicited_node_group,
)
from mnagent.mobility.constants import MAX_NEIGHBOR_ADVERTISEMENT, RETRANS_TIMER
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import (
    NeighborAdvertisement,
    NeighborSolicitation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
)


class SolicitedNodeGroups:
    """Memberships on one interface; addresses that share a group share the membership."""

    def __init__(self, interface: int) -> None:
        self._interface = interface
        self._members: dict[IPv6Address, set[IPv6Address]] = {}

    def join(self, address: IPv6Address) -> list[Action]:
        """Listen for solicitations about ``address``."""
        group = solicited_node_group(address)
        members = self._members.setdefault(group, set())
        is_new = not members
        members.add(address)
        return [JoinGroup(interface=self._interface, group=group)] if is_new else []

    def leave(self, address: IPv6Address) -> list[Action]:
        """Stop listening, unless another address needs the group; unknown addresses are ignored."""
        group = solicited_node_group(address)
        members = self._members.get(group, set())
        if address not in members:
            return []
        members.discard(address)
        if members:
            return []
        del self._members[group]
        return [LeaveGroup(interface=self._interface, group=group)]

    def rejoin(self) -> list[Action]:
        """Join all again: a link that went down may have forgotten."""
        return [JoinGroup(interface=self._interface, group=group) for group in self._members]


class ProxyNeighbor:
    """Announces and defends addresses on the home link with this node's link-layer address.

    ``source`` is the home agent's address on that link (RFC 6275 10.4.1).
    """

    def __init__(
        self, interface: int, *, source: IPv6Address, link_layer_address: bytes = b""
    ) -> None:
        self._interface = interface
        self._source = source
        self.link_layer_address = link_layer_address
        self._announcements_left: dict[IPv6Address, int] = {}
        self._timers: Timers[IPv6Address] = Timers()

    def __contains__(self, address: IPv6Address) -> bool:
        return address in self._announcements_left

    def defend(self, addresses: Iterable[IPv6Address], *, now: float) -> list[Action]:
        """Begin to defend, and announce; addresses that are defended already are left alone."""
        actions: list[Action] = []
        for address in addresses:
            if address not in self._announcements_left:
                self._announcements_left[address] = MAX_NEIGHBOR_ADVERTISEMENT
                actions += self._announce(address, now)
        return actions

    def release(self, addresses: Iterable[IPv6Address]) -> None:
        """Say nothing more for these addresses."""
        for address in addresses:
            self._announcements_left.pop(address, None)
            self._timers.cancel(address)

    def announce_all(self, now: float) -> list[Action]:
        """Announce every address anew: the neighbours may have changed while the link was down."""
        addresses = tuple(self._announcements_left)
        self.release(addresses)
        return self.defend(addresses, now=now)

    def handle(self, event: PacketReceived, now: float) -> list[Action]:
        """Answer a Neighbor Solicitation, already validated (RFC 4861 7.1), for a defended
        address."""
        message = event.packet.payload
        if not isinstance(message, NeighborSolicitation):
            return []
        if message.target not in self._announcements_left:
            return []
        if event.packet.source == UNSPECIFIED_ADDRESS:
            return [self._advertise(message.target, ALL_NODES)]
        return [
            self._advertise(
                message.target,
                event.packet.source,
                solicited=True,
                link_layer_destination=_sender_link_layer_address(event, message),
            )
        ]

    def handle_timer(self, now: float) -> list[Action]:
        """Repeat the announcements that are due."""
        actions: list[Action] = []
        for address in self._timers.due(now):
            actions += self._announce(address, now)
        return actions

    def next_deadline(self) -> float | None:
        """When the next announcement is due."""
        return self._timers.next_deadline()

    def _announce(self, address: IPv6Address, now: float) -> list[Action]:
        self._announcements_left[address] -= 1
        if self._announcements_left[address]:
            self._timers.set(address, now + RETRANS_TIMER)
        return [self._advertise(address, ALL_NODES, override=True)]

    def _advertise(
        self,
        target: IPv6Address,
        destination: IPv6Address,
        *,
        solicited: bool = False,
        override: bool = False,
        link_layer_destination: bytes | None = None,
    ) -> SendPacket:
        options = (TargetLinkLayerAddress(self.link_layer_address),)
        advertisement = NeighborAdvertisement(
            target,
            router=False,
            solicited=solicited,
            override=override,
            options=options if self.link_layer_address else (),
        )
        packet = IPv6Packet(
            self._source, destination, advertisement, hop_limit=NEIGHBOR_DISCOVERY_HOP_LIMIT
        )
        return SendPacket(
            packet=packet,
            interface=self._interface,
            link_layer_destination=link_layer_destination,
        )


def _sender_link_layer_address(
    event: PacketReceived, message: NeighborSolicitation
) -> bytes | None:
    for option in message.options:
        if isinstance(option, SourceLinkLayerAddress):
            return option.address
    return event.link_layer_source or None
