"""Duplicate address detection for one address (RFC 4862 5.4, RFC 7527).

    start -> Neighbor Solicitation from :: -> RETRANS_TIMER -> ... -> AddressUnique
                  `- an advertisement for it, or another node's solicitation -> AddressDuplicate

There is no random delay before the first solicitation: joining a link and receiving its router
advertisement happen at different times on different nodes already, and the delay would be added to
every handover (RFC 6275 11.5.3). Our own solicitation, reflected by an access point, is known by
its nonce.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from random import Random
from typing import Final

from mnagent.autoconf.constants import (
    DUP_ADDR_DETECT_TRANSMITS,
    NEIGHBOR_DISCOVERY_HOP_LIMIT,
    RETRANS_TIMER,
    UNSPECIFIED_ADDRESS,
    solicited_node_group,
)
from mnagent.core.actions import JoinGroup, LeaveGroup, SendPacket
from mnagent.core.events import PacketReceived
from mnagent.core.indications import AddressDuplicate, AddressUnique, Output
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation, Nonce

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
    ) -> None:
        """``transmits`` of 0 takes the address as unique (RFC 4862 5.1)."""
        self.address = address
        self._interface = interface
        self._random = random
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
        if self._deadline is None or not self._is_conflict(event.packet):
            return []
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
        if self._transmits_left <= 0:
            unique = AddressUnique(interface=self._interface, address=self.address)
            return [*self.stop(), unique]
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
        return [SendPacket(packet=packet, interface=self._interface)]

    def _is_conflict(self, packet: IPv6Packet) -> bool:
        message = packet.payload
        if isinstance(message, NeighborAdvertisement):
            return message.target == self.address
        if not isinstance(message, NeighborSolicitation) or message.target != self.address:
            return False
        # A solicitation with a source resolves the address and says nothing of who has it.
        return packet.source == UNSPECIFIED_ADDRESS and not self._is_our_own(message)

    def _is_our_own(self, message: NeighborSolicitation) -> bool:
        return any(
            isinstance(option, Nonce) and option.data in self._nonces for option in message.options
        )
