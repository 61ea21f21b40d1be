"""Lets the access routers know a new address before anything comes back to it (RFC 9131).

The first packet to a new address would have to wait at the router until that has asked for our
link-layer address: a round trip on the link in each handover. Two things spare it. Neither may say
more than an address that is still being checked is allowed to (RFC 4429 3.3), so neither overrides
what a neighbour knows, and none is a solicitation from the address:

* A Neighbor Advertisement to all routers: a router that follows RFC 9131 enters it as stale. It
  goes once when the address is first used and once more when it has been found unique.
* An Echo Request from the address to the router (RFC 9131 A.4): a router that ignores what it did
  not ask for, as Linux does by default, has to ask for our link-layer address now, to answer it.
  That takes the time in which the Binding Update is still on its way.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address
from random import Random

from mnagent.autoconf.constants import ALL_ROUTERS, NEIGHBOR_DISCOVERY_HOP_LIMIT
from mnagent.autoconf.link_memory import KnownRouter
from mnagent.autoconf.own_address import OwnAddress
from mnagent.core.actions import SendPacket
from mnagent.core.indications import AddressLost, AddressUsable, Output
from mnagent.wire.icmp6 import EchoRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import NeighborAdvertisement, TargetLinkLayerAddress


class AddressAnnouncer:
    """The announcements of one interface's addresses."""

    def __init__(self, own: OwnAddress, *, random: Random) -> None:
        self._own = own
        self._random = random
        self._announced: dict[IPv6Address, bool] = {}
        """Whether it was known to be unique then."""

    def clear(self) -> None:
        """The link may be another one: whoever is there knows nothing of us."""
        self._announced.clear()

    def follow(self, outputs: Iterable[Output], routers: Iterable[KnownRouter]) -> list[SendPacket]:
        """What is to be sent behind these outputs, for the addresses they tell of."""
        packets: list[SendPacket] = []
        for output in outputs:
            if isinstance(output, AddressLost):
                self._announced.pop(output.address, None)
            elif isinstance(output, AddressUsable) and self._own.link_layer_address:
                packets += self._on_usable(output, routers)
        return packets

    def _on_usable(self, usable: AddressUsable, routers: Iterable[KnownRouter]) -> list[SendPacket]:
        is_unique, was_unique = not usable.optimistic, self._announced.get(usable.address)
        if was_unique is not None and (was_unique or not is_unique):
            return []  # no more than its lifetimes changed
        self._announced[usable.address] = is_unique
        packets = [self._advertisement(usable.address)]
        return packets if was_unique is not None else [*packets, *self._question(usable, routers)]

    def _advertisement(self, address: IPv6Address) -> SendPacket:
        message = NeighborAdvertisement(
            address, options=(TargetLinkLayerAddress(self._own.link_layer_address),)
        )
        packet = IPv6Packet(address, ALL_ROUTERS, message, hop_limit=NEIGHBOR_DISCOVERY_HOP_LIMIT)
        return SendPacket(packet=packet, interface=self._own.interface)

    def _question(self, usable: AddressUsable, routers: Iterable[KnownRouter]) -> list[SendPacket]:
        """To the routers that may have the address's packets; the others need not know."""
        message = EchoRequest(self._random.getrandbits(16), 0, b"")
        return [
            SendPacket(
                packet=IPv6Packet(usable.address, router.router, message),
                interface=self._own.interface,
                link_layer_destination=router.link_layer_address,
            )
            for router in routers
            if router.link_layer_address
            and (usable.managed or any(usable.address in prefix for prefix, _ in router.prefixes))
        ]
