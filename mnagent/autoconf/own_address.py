"""What this node is called on one link, and the unicast questions it asks its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address

from mnagent.autoconf.constants import NEIGHBOR_DISCOVERY_HOP_LIMIT
from mnagent.core.actions import SendPacket
from mnagent.core.events import AddressAppeared, PacketReceived
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import (
    NeighborAdvertisement,
    NeighborSolicitation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
)


@dataclass(slots=True)
class OwnAddress:
    """The addresses an interface is asked by and answers to; shared by its machines."""

    interface: int
    link_layer_address: bytes = b""
    link_local: IPv6Address | None = None
    """Once it is not tentative."""

    def note(self, event: AddressAppeared) -> None:
        """Take over a link-local address, or give it up while it is tentative or a duplicate."""
        if not event.address.is_link_local:
            return
        if not event.duplicate and not event.tentative:
            self.link_local = event.address
        elif self.link_local == event.address:
            self.link_local = None

    def vanish(self, address: IPv6Address) -> None:
        """An address is gone from the interface."""
        if self.link_local == address:
            self.link_local = None

    def probe(self, target: IPv6Address, *, link_layer_destination: bytes) -> list[SendPacket]:
        """A Neighbor Solicitation to one node alone (RFC 4861 7.3.3, RFC 6059 5.6.1).

        Nothing without a link-local address: a solicitation from the unspecified address would be a
        claim to the target, and one from an address that is still checked is forbidden (RFC 4429
        3.1).
        """
        if self.link_local is None or not link_layer_destination:
            return []
        options: tuple[SourceLinkLayerAddress, ...] = ()
        if self.link_layer_address:
            options = (SourceLinkLayerAddress(self.link_layer_address),)
        packet = IPv6Packet(
            self.link_local,
            target,
            NeighborSolicitation(target, options=options),
            hop_limit=NEIGHBOR_DISCOVERY_HOP_LIMIT,
        )
        return [
            SendPacket(
                packet=packet,
                interface=self.interface,
                link_layer_destination=link_layer_destination,
            )
        ]


def is_answer(event: PacketReceived, message: NeighborAdvertisement) -> bool:
    """Whether it answers a question of ours (RFC 4861 7.1.2, 7.2.4)."""
    return message.solicited and not event.packet.destination.is_multicast


def answering_link_layer_address(event: PacketReceived, message: NeighborAdvertisement) -> bytes:
    """Whose answer it is."""
    for option in message.options:
        if isinstance(option, TargetLinkLayerAddress):
            return option.address
    return event.link_layer_source
