"""Duplicate address detection for one address (RFC 4862 5.4, RFC 7527).

    start -> Neighbor Solicitation from :: -> RETRANS_TIMER -> ... -> AddressUnique
                  `- an advertisement for it, or another node's solicitation -> AddressDuplicate

There is no random delay before the first solicitation: joining a link and receiving its router
advertisement happen at different times on different nodes already, and the delay would be added to
every handover (RFC 6275 11.5.3).

Our own solicitation, reflected by an access point, is known by its nonce. Then three more are sent,
and if one of those comes back too, the address is taken as unique, and people are told. RFC 7527
4.1 would go on for ever: an access point that reflects everything would keep the node off the
network.

An optimistic address, in use meanwhile, is answered for (RFC 4429 3.3): without the override flag,
so that no neighbour forgets whom it knew by that address, and never to the unspecified address.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from random import Random
from typing import Final

from mnagent.autoconf.constants import (
    DUP_ADDR_DETECT_TRANSMITS,
    MAX_MULTICAST_SOLICIT,
    NEIGHBOR_DISCOVERY_HOP_LIMIT,
    RETRANS_TIMER,
    UNSPECIFIED_ADDRESS,
    solicited_node_group,
)
from mnagent.core.actions import JoinGroup, LeaveGroup, ReportEvent, SendPacket
from mnagent.core.events import PacketReceived
from mnagent.core.indications import AddressDuplicate, AddressUnique, Output
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import (
    NeighborAdvertisement,
    NeighborSolicitation,
    Nonce,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
)

NONCE_LENGTH: Final = 6


class DuplicateAddressDetection:
    """One run for one address on one interface."""

    def __init__(
        self,
        address: IPv6Address,
        *,
        interface: int,
        random: Random,
        transmits: int = DUP_ADDR_DETECT_TRANSMITS,
        link_layer_address: bytes = b"",
        is_optimistic: bool = False,
    ) -> None:
        """Prepare a run.

        Args:
            address: to be checked.
            interface: index.
            random: for nonces.
            transmits: solicitations to send; 0 takes the address as unique (RFC 4862 5.1).
            link_layer_address: our own; an advertisement in a frame from it is our own, reflected.
            is_optimistic: the address is used meanwhile, and answered for.
        """
        self.address = address
        self._interface = interface
        self._random = random
        self._link_layer_address = link_layer_address
        self._is_optimistic = is_optimistic
        self._is_looped_back = False
        self._was_extended = False
        self._transmits_left = transmits
        self._nonces: set[bytes] = set()
        self._deadline: float | None = None

    def start(self, now: float) -> list[Output]:
        """Listen and ask."""
        group = solicited_node_group(self.address)
        return [JoinGroup(interface=self._interface, group=group), *self._go_on(now)]

    def stop(self) -> list[Output]:
        """Give up without a result."""
        self._deadline = None
        group = solicited_node_group(self.address)
        return [LeaveGroup(interface=self._interface, group=group)]

    def handle(self, event: PacketReceived, now: float) -> list[Output]:
        """Look at a Neighbor Solicitation or Advertisement received on the interface."""
        message = event.packet.payload
        if self._deadline is None or getattr(message, "target", None) != self.address:
            return []
        if isinstance(message, NeighborAdvertisement):
            is_conflict = self._is_objection(event, message)
        else:
            is_conflict = isinstance(message, NeighborSolicitation) and self._is_claim(
                event.packet, message
            )
        if not is_conflict:
            return self._answer(event) if isinstance(message, NeighborSolicitation) else []
        duplicate = AddressDuplicate(interface=self._interface, address=self.address)
        return [*self.stop(), duplicate]

    def handle_timer(self, now: float) -> list[Output]:
        """Ask again, or conclude."""
        if self._deadline is None or now < self._deadline:
            return []
        return self._go_on(now)

    def next_deadline(self) -> float | None:
        """When the wait for objections ends, or None before and after the run."""
        return self._deadline

    def _go_on(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        if self._transmits_left <= 0 and self._is_looped_back:
            outputs = self._extend()
        if self._transmits_left <= 0:
            unique = AddressUnique(interface=self._interface, address=self.address)
            return [*outputs, *self.stop(), unique]
        self._transmits_left -= 1
        self._deadline = now + RETRANS_TIMER
        nonce = self._random.randbytes(NONCE_LENGTH)
        self._nonces.add(nonce)
        packet = IPv6Packet(
            UNSPECIFIED_ADDRESS,
            solicited_node_group(self.address),
            NeighborSolicitation(self.address, options=(Nonce(nonce),)),
            hop_limit=NEIGHBOR_DISCOVERY_HOP_LIMIT,
        )
        return [*outputs, SendPacket(packet=packet, interface=self._interface)]

    def _extend(self) -> list[Output]:
        self._is_looped_back = False
        if not self._was_extended:
            self._was_extended = True
            self._transmits_left = MAX_MULTICAST_SOLICIT
            return []
        details = (("address", str(self.address)), ("interface", str(self._interface)))
        return [ReportEvent(name="loopback-detected", details=details, warning=True)]

    def _answer(self, event: PacketReceived) -> list[Output]:
        """To whoever resolves the address: in the frame's own terms, which need no resolution."""
        asking = event.packet.source
        if (
            not self._is_optimistic
            or not self._link_layer_address
            or asking == UNSPECIFIED_ADDRESS
            or asking.is_multicast
            or event.link_layer_source == self._link_layer_address
        ):
            return []
        message = NeighborAdvertisement(
            self.address,
            solicited=True,
            options=(TargetLinkLayerAddress(self._link_layer_address),),
        )
        packet = IPv6Packet(self.address, asking, message, hop_limit=NEIGHBOR_DISCOVERY_HOP_LIMIT)
        return [
            SendPacket(
                packet=packet,
                interface=self._interface,
                link_layer_destination=event.link_layer_source or None,
            )
        ]

    def _is_objection(self, event: PacketReceived, message: NeighborAdvertisement) -> bool:
        if message.solicited and event.packet.destination.is_multicast:
            return False  # not valid (RFC 4861 7.1.2)
        own = self._link_layer_address
        return not own or event.link_layer_source != own

    def _is_claim(self, packet: IPv6Packet, message: NeighborSolicitation) -> bool:
        """Whether another node wants the address too.

        A solicitation with a source resolves the address and says nothing of who has it. One
        without must go to the group and name no link-layer address (RFC 4861 7.1.1).
        """
        if (
            packet.source != UNSPECIFIED_ADDRESS
            or packet.destination != solicited_node_group(self.address)
            or any(isinstance(option, SourceLinkLayerAddress) for option in message.options)
        ):
            return False
        if self._is_our_own(message):
            self._is_looped_back = True
            return False
        return True

    def _is_our_own(self, message: NeighborSolicitation) -> bool:
        return any(
            isinstance(option, Nonce) and option.data in self._nonces for option in message.options
        )
