"""How the access routers hear of a new address."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from random import Random

from mnagent.autoconf.announcement import AddressAnnouncer
from mnagent.autoconf.constants import ALL_ROUTERS
from mnagent.autoconf.link_memory import KnownRouter
from mnagent.autoconf.own_address import OwnAddress
from mnagent.core.actions import AddAddress, SendPacket
from mnagent.core.indications import AddressLost, AddressUsable
from mnagent.wire.icmp6 import EchoRequest
from mnagent.wire.ndisc import NeighborAdvertisement, TargetLinkLayerAddress
from tests.support.matching import sent
from tests.support.requirement import requirement

ADDRESS = IPv6Address("2001:db8:a::10")
PREFIX = IPv6Network("2001:db8:a::/64")
OWN_MAC, ROUTER_MAC = bytes.fromhex("020000000010"), bytes.fromhex("020000000001")


def router(number: int = 1, prefix: IPv6Network = PREFIX, mac: bytes = ROUTER_MAC) -> KnownRouter:
    return KnownRouter(
        router=IPv6Address(f"fe80::{number}"),
        link_layer_address=mac,
        expires_at=1000.0,
        prefixes=((prefix, 1000.0),),
    )


class Announcer:
    def __init__(self, mac: bytes = OWN_MAC) -> None:
        self.machine = AddressAnnouncer(OwnAddress(2, link_layer_address=mac), random=Random(1))

    def usable(
        self, *routers: KnownRouter, optimistic: bool = True, managed: bool = False
    ) -> list[SendPacket]:
        length = 128 if managed else 64
        add = AddAddress(interface=2, address=ADDRESS, prefix_length=length)
        told = AddressUsable(
            interface=2,
            address=ADDRESS,
            prefix_length=length,
            optimistic=optimistic,
            managed=managed,
        )
        return self.machine.follow([add, told], routers or (router(),))


@requirement("RFC9131-6.1.2", "MOV-16")
def test_new_address_is_advertised_to_all_routers_without_override() -> None:
    ((action, message),) = sent(Announcer().usable(), NeighborAdvertisement)
    assert (action.packet.source, action.packet.destination) == (ADDRESS, ALL_ROUTERS)
    assert (action.interface, action.packet.hop_limit) == (2, 255)
    assert message == NeighborAdvertisement(ADDRESS, options=(TargetLinkLayerAddress(OWN_MAC),))


@requirement("RFC9131-6.1.2", "MOV-16")
def test_address_is_advertised_once_more_when_it_is_unique_and_never_again() -> None:
    announcer = Announcer()
    announcer.usable()
    assert announcer.usable() == []
    ((_, message),) = sent(announcer.usable(optimistic=False), NeighborAdvertisement)
    assert not message.override
    assert announcer.usable(optimistic=False) == announcer.usable() == []


def test_router_is_made_to_ask_for_the_address_at_once() -> None:
    announcer = Announcer()
    ((action, _),) = sent(announcer.usable(), EchoRequest)
    assert (action.packet.source, action.packet.destination) == (ADDRESS, IPv6Address("fe80::1"))
    assert (action.interface, action.link_layer_destination) == (2, ROUTER_MAC)
    assert sent(announcer.usable(optimistic=False), EchoRequest) == []


def test_only_routers_of_the_addresss_prefix_are_made_to_ask() -> None:
    other = router(2, IPv6Network("2001:db8:b::/64"))
    asked = sent(Announcer().usable(router(), other, router(3, mac=b"")), EchoRequest)
    assert [str(action.packet.destination) for action, _ in asked] == ["fe80::1"]


def test_every_router_is_made_to_ask_for_a_leased_address() -> None:
    other = router(2, IPv6Network("2001:db8:b::/64"))
    assert len(sent(Announcer().usable(router(), other, managed=True), EchoRequest)) == 2


def test_address_that_was_lost_or_may_be_elsewhere_is_announced_anew() -> None:
    announcer = Announcer()
    announcer.usable(optimistic=False)
    announcer.machine.follow([AddressLost(interface=2, address=ADDRESS)], ())
    assert len(announcer.usable(optimistic=False)) == 2
    announcer.machine.clear()
    assert len(announcer.usable(optimistic=False)) == 2


def test_link_without_link_layer_addresses_needs_no_announcement() -> None:
    assert Announcer(mac=b"").usable() == []
