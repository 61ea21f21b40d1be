"""Duplicate address detection for an address that is not configured here (RFC 6275 10.3.1).

The home agent asks the home link whether another node uses the mobile node's home address (and,
with the L bit, the link-local address made from it) before it accepts the first binding. It must
not configure the address meanwhile: its own host would then take the mobile node's packets. So this
is the sending and listening half of RFC 4862 5.4 alone.

    start -> Neighbor Solicitation -> RETRANS_TIMER -> ... -> HomeAddressUnique
                     `- NA for the target, or another node's DAD NS -> HomeAddressDuplicate

RFC 4862 5.4.2 asks for a random delay only where many nodes would probe at once: after a restart of
the interface (the host's own solicitations and MLD reports go first here, so ours is never the
first message), or when a multicast Router Advertisement set it off. A unicast Binding Update does
neither, so there is no delay, and none in the time-out either: the mobile node waits 1.5 s in all
(RFC 6275 13).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from random import Random

from mnagent.core.actions import SendPacket
from mnagent.core.events import PacketReceived
from mnagent.mobility.addresses import (
    NEIGHBOR_DISCOVERY_HOP_LIMIT,
    UNSPECIFIED_ADDRESS,
    solicited_node_group,
)
from mnagent.mobility.constants import DUP_ADDR_DETECT_TRANSMITS, RETRANS_TIMER
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation, Nonce

NONCE_LENGTH = 6
"""Octets of the Nonce option, which tells our own looped back solicitation (RFC 7527 4.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAddressUnique:
    """Nobody answered for any of the addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAddressDuplicate:
    """Another node uses, or is about to use, this address."""

    address: IPv6Address


Outcome = HomeAddressUnique | HomeAddressDuplicate


class HomeAddressProbe:
    """One run of duplicate address detection for the addresses of one mobile node.

    The owner joins the solicited-node groups before `start` and hands in every Neighbor
    Solicitation and Advertisement of the home link. The run is over with the first `Outcome`.
    """

    def __init__(
        self,
        addresses: Iterable[IPv6Address],
        *,
        interface: int,
        random: Random,
        transmits: int = DUP_ADDR_DETECT_TRANSMITS,
        retransmission_timer: float = RETRANS_TIMER,
    ) -> None:
        """``retransmission_timer`` is the home link's RetransTimer, in seconds."""
        self.addresses = frozenset(addresses)
        self._interface = interface
        self._random = random
        self._transmits_left = transmits
        self._retransmission_timer = retransmission_timer
        self._nonces: set[bytes] = set()
        self._deadline: float | None = None

    def start(self, now: float) -> list[SendPacket | Outcome]:
        """Send the first solicitations; without transmits the addresses are taken as unique."""
        return self._solicit_or_conclude(now)

    def handle(self, event: PacketReceived, now: float) -> list[SendPacket | Outcome]:
        """Look at a validated (RFC 4861 7.1) Neighbor Discovery message of the home link."""
        message = event.packet.payload
        if self._deadline is None or not self._is_conflict(event.packet):
            return []
        assert isinstance(message, NeighborSolicitation | NeighborAdvertisement)
        self._deadline = None
        return [HomeAddressDuplicate(address=message.target)]

    def handle_timer(self, now: float) -> list[SendPacket | Outcome]:
        """Send the next solicitations, or conclude that the addresses are unique."""
        if self._deadline is None or now < self._deadline:
            return []
        return self._solicit_or_conclude(now)

    def next_deadline(self) -> float | None:
        """When the wait for answers ends; None before the start and after the end."""
        return self._deadline

    def _solicit_or_conclude(self, now: float) -> list[SendPacket | Outcome]:
        if self._transmits_left <= 0:
            self._deadline = None
            return [HomeAddressUnique()]
        self._transmits_left -= 1
        self._deadline = now + self._retransmission_timer
        return [self._solicitation(address) for address in sorted(self.addresses)]

    def _solicitation(self, target: IPv6Address) -> SendPacket:
        nonce = self._random.randbytes(NONCE_LENGTH)
        self._nonces.add(nonce)
        packet = IPv6Packet(
            UNSPECIFIED_ADDRESS,
            solicited_node_group(target),
            NeighborSolicitation(target, options=(Nonce(nonce),)),
            hop_limit=NEIGHBOR_DISCOVERY_HOP_LIMIT,
        )
        return SendPacket(packet=packet, interface=self._interface)

    def _is_conflict(self, packet: IPv6Packet) -> bool:
        message = packet.payload
        if isinstance(message, NeighborAdvertisement):
            return message.target in self.addresses
        if isinstance(message, NeighborSolicitation) and packet.source == UNSPECIFIED_ADDRESS:
            return message.target in self.addresses and not self._is_our_own(message)
        return False

    def _is_our_own(self, message: NeighborSolicitation) -> bool:
        return any(
            isinstance(option, Nonce) and option.data in self._nonces for option in message.options
        )
