"""The directory passes on what concerns its home link, and lives with either half alone."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from random import Random

import pytest

from mnagent.core.actions import JoinAnycast, LeaveAnycast
from mnagent.core.events import AddressAppeared, AddressVanished, LinkDown, PacketReceived
from mnagent.mobility.home_agent_advertiser import AdvertisedPrefix
from mnagent.mobility.home_agent_directory import DirectorySettings, HomeAgentDirectory
from mnagent.wire.icmp6 import EchoRequest, HomeAgentAddressDiscoveryRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import RouterSolicitation

LINK = 2
OWN = IPv6Address("2001:db8:1::1")
LINK_LOCAL = IPv6Address("fe80::1")
ANYCAST = IPv6Address("2001:db8:1:0:fdff:ffff:ffff:fffe")
ANYCAST_THERE = IPv6Address("2001:db8:9:0:fdff:ffff:ffff:fffe")
NOW = 1000.0


def directory(*, answers: bool = True, advertises: bool = True) -> HomeAgentDirectory:
    settings = DirectorySettings(
        address=OWN,
        prefixes=(AdvertisedPrefix(prefix=IPv6Network("2001:db8:1::/64")),),
        answers=answers,
        advertises=advertises,
    )
    return HomeAgentDirectory(
        settings, home_link=LINK, link_layer_address=bytes(6), random=Random(1)
    )


def packet(payload: RouterSolicitation | HomeAgentAddressDiscoveryRequest | EchoRequest) -> object:
    source = IPv6Address("2001:db8:a::10")
    return PacketReceived(packet=IPv6Packet(source, ANYCAST, payload), interface=LINK)


def appeared(address: IPv6Address, *, tentative: bool = False) -> AddressAppeared:
    return AddressAppeared(interface=LINK, address=address, prefix_length=64, tentative=tentative)


@pytest.mark.parametrize(
    "event", [appeared(OWN), appeared(LINK_LOCAL, tentative=True)], ids=["global", "tentative"]
)
def test_advertising_waits_for_a_link_local_address_that_is_unique(event: AddressAppeared) -> None:
    one = directory()
    assert one.handle(event, NOW) == [] and not one.is_advertising
    assert one.handle(appeared(LINK_LOCAL), NOW) != [] and one.is_advertising


def test_loss_of_the_link_local_address_ends_advertising_and_of_another_does_not() -> None:
    one = directory()
    one.handle(appeared(LINK_LOCAL), NOW)
    one.handle(AddressVanished(interface=LINK, address=OWN), NOW)
    assert one.is_advertising
    one.handle(AddressVanished(interface=LINK, address=LINK_LOCAL), NOW)
    assert not one.is_advertising


def test_directory_without_advertisements_ignores_solicitations_and_the_link() -> None:
    one = directory(advertises=False)
    assert one.handle(appeared(LINK_LOCAL), NOW) == []
    assert one.handle(LinkDown(interface=LINK), NOW) == []
    assert one.handle(packet(RouterSolicitation()), NOW) == []  # type: ignore[arg-type]
    assert one.handle_timer(NOW) == [] and one.next_deadline() is None


def test_directory_without_answers_takes_no_anycast_address_and_ignores_requests() -> None:
    one = directory(answers=False)
    assert one.start() == [] and one.entries == ()
    request = HomeAgentAddressDiscoveryRequest(1)
    assert one.handle(packet(request), NOW) == []  # type: ignore[arg-type]
    assert one.handle_timer(NOW) == []


def test_directory_of_other_prefixes_is_asked_in_those_too() -> None:
    one = directory()
    new = IPv6Network("2001:db8:9::/64")
    assert one.use_prefixes([new], NOW) == [JoinAnycast(interface=LINK, address=ANYCAST_THERE)]
    assert one.use_prefixes([new], NOW) == []
    left = [each.address for each in one.stop(NOW) if isinstance(each, LeaveAnycast)]
    assert left == [ANYCAST, ANYCAST_THERE]
    assert directory(answers=False, advertises=False).use_prefixes([new], NOW) == []


def test_directory_ignores_what_is_not_its_own() -> None:
    one = directory()
    assert one.handle(packet(EchoRequest(1, 1)), NOW) == []  # type: ignore[arg-type]
    other = AddressAppeared(interface=LINK + 1, address=LINK_LOCAL, prefix_length=64)
    assert one.handle(other, NOW) == [] and not one.is_advertising
    assert not one.drops


def test_link_that_goes_before_there_was_advertising_is_no_matter() -> None:
    one = directory(advertises=False)
    assert one.handle(LinkDown(interface=LINK), NOW) == []
    assert not one.is_advertising
