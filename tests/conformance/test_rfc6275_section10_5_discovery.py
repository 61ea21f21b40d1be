"""RFC 6275 7 and 10.5: what home agents of a link know of each other, and tell mobile nodes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any

import pytest

from mnagent.core.actions import JoinGroup, LeaveGroup, SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.mobility.addresses import ALL_NODES, home_agents_anycast
from mnagent.mobility.home_agent_advertiser import (
    PREFERRED_LIFETIME,
    VALID_LIFETIME,
    AdvertisedPrefix,
    AdvertiserSettings,
    HomeAgentAdvertiser,
)
from mnagent.mobility.home_agent_list import (
    DISCOVERY_REPLY_BURST,
    MAX_LISTED_ADDRESSES,
    MAX_LISTED_HOME_AGENTS,
    HomeAgentList,
)
from mnagent.wire.icmp6 import HomeAgentAddressDiscoveryReply, HomeAgentAddressDiscoveryRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import (
    AdvertisementInterval,
    HomeAgentInformation,
    NdOption,
    PrefixInformation,
    RouterAdvertisement,
    RouterSolicitation,
    SourceLinkLayerAddress,
)
from mnagent.wire.packet import encode_packet
from tests.support.driver import Driver
from tests.support.matching import of_type, only, reports, sent
from tests.support.requirement import requirement

HOME_PREFIX = IPv6Network("2001:db8:1::/64")
ANYCAST = IPv6Address("2001:db8:1:0:fdff:ffff:ffff:fffe")
OWN = IPv6Address("2001:db8:1::1")
OTHER = IPv6Address("2001:db8:1::2")
OTHER_LINK_LOCAL = IPv6Address("fe80::2")
CARE_OF = IPv6Address("2001:db8:a::10")
LINK, ELSEWHERE = 2, 3
MAC = bytes.fromhex("020000000001")
NOW = 1000.0


def make_list(**changes: Any) -> HomeAgentList:
    values: dict[str, Any] = {
        "address": OWN,
        "home_prefixes": [HOME_PREFIX],
        "home_link": LINK,
        "random": Random(1),
    }
    return HomeAgentList(**{**values, **changes})


def address_option(address: IPv6Address, **changes: Any) -> PrefixInformation:
    values: dict[str, Any] = {
        "address": address,
        "router_address": True,
        "valid_lifetime": 3600.0,
        "preferred_lifetime": 1800.0,
    }
    return PrefixInformation(**{**values, **changes})


def advertised(
    *options: NdOption,
    source: IPv6Address = OTHER_LINK_LOCAL,
    interface: int = LINK,
    **fields: Any,
) -> PacketReceived:
    values: dict[str, Any] = {"home_agent": True, "router_lifetime": 1800, **fields}
    message = RouterAdvertisement(options=options, **values)
    packet = IPv6Packet(source, ALL_NODES, message, hop_limit=255)
    return PacketReceived(packet=packet, interface=interface)


def request(
    identifier: int = 7, *, source: IPv6Address = CARE_OF, destination: IPv6Address = ANYCAST
) -> PacketReceived:
    message = HomeAgentAddressDiscoveryRequest(identifier)
    return PacketReceived(packet=IPv6Packet(source, destination, message), interface=ELSEWHERE)


def reply_of(listed: HomeAgentList, now: float = NOW) -> HomeAgentAddressDiscoveryReply:
    ((_, reply),) = sent(listed.handle(request(), now), HomeAgentAddressDiscoveryReply)
    return reply


# The list.


@requirement("RFC6275-10.5.1", "HA-48")
def test_advertisement_of_another_home_agent_makes_an_entry() -> None:
    listed = make_list()
    information = HomeAgentInformation(9, 100)
    outputs = listed.handle(advertised(address_option(OTHER), information), NOW)
    (entry,) = listed.entries
    assert entry.link_local == OTHER_LINK_LOCAL
    assert (entry.preference, entry.expires_at) == (9, NOW + 100)
    assert entry.addresses == {OTHER: NOW + 3600}
    assert reports(outputs, "home-agent-listed") == [
        {"link_local": "fe80::2", "preference": "9", "addresses": str(OTHER)}
    ]


@requirement("RFC6275-10.5.1", "HA-48")
def test_advertisement_without_the_option_has_preference_0_and_the_router_lifetime() -> None:
    listed = make_list()
    listed.handle(advertised(address_option(OTHER), HomeAgentInformation(9, 100)), NOW)
    assert listed.handle(advertised(address_option(OTHER)), NOW + 1) == []
    (entry,) = listed.entries
    assert (entry.preference, entry.expires_at) == (0, NOW + 1801)


@requirement("RFC6275-10.5.1", "HA-48")
def test_addresses_of_several_advertisements_add_up() -> None:
    listed = make_list()
    second = OTHER + 1
    listed.handle(advertised(address_option(OTHER)), NOW)
    listed.handle(advertised(address_option(second)), NOW)
    assert list(listed.entries[0].addresses) == [OTHER, second]


@pytest.mark.parametrize(
    "option",
    [
        address_option(OTHER, router_address=False),
        address_option(HOME_PREFIX.network_address),
        address_option(IPv6Address("fe80::2")),
        address_option(IPv6Address("ff02::1")),
        address_option(OWN),
    ],
)
def test_option_without_another_home_agents_address_adds_none(option: PrefixInformation) -> None:
    listed = make_list()
    listed.handle(advertised(option), NOW)
    assert listed.entries[0].addresses == {}


@requirement("RFC6275-10.5.1", "HA-49")
def test_advertisement_without_the_h_bit_deletes_the_entry() -> None:
    listed = make_list()
    listed.handle(advertised(address_option(OTHER)), NOW)
    outputs = listed.handle(advertised(address_option(OTHER), home_agent=False), NOW + 1)
    assert listed.entries == ()
    assert len(reports(outputs, "home-agent-unlisted")) == 1
    assert listed.handle(advertised(home_agent=False), NOW + 2) == []


@requirement("RFC6275-10.5.1", "HA-50")
@pytest.mark.parametrize("option", [(HomeAgentInformation(0, 0),), ()])
def test_home_agent_lifetime_of_0_deletes_the_entry_at_once(option: Sequence[NdOption]) -> None:
    listed = make_list()
    listed.handle(advertised(address_option(OTHER)), NOW)
    lifetime = 1800 if option else 0
    listed.handle(advertised(*option, router_lifetime=lifetime), NOW + 1)
    assert listed.entries == ()


@requirement("RFC6275-10.1", "HA-51")
def test_entry_goes_when_its_lifetime_is_over() -> None:
    driver = Driver(listed := make_list())
    listed.handle(advertised(address_option(OTHER), HomeAgentInformation(0, 60)), driver.now)
    driver.advance(59.9)
    assert len(listed.entries) == 1
    outputs = driver.advance(0.2)
    assert listed.entries == () and len(reports(outputs, "home-agent-unlisted")) == 1
    assert listed.next_deadline() is None


@requirement("RFC6275-10.1", "HA-51")
def test_address_goes_when_its_prefix_ceases_to_be_valid() -> None:
    driver = Driver(listed := make_list())
    short, long = address_option(OTHER, valid_lifetime=60.0), address_option(OTHER + 1)
    listed.handle(advertised(short, long), driver.now)
    driver.advance(61.0)
    assert list(listed.entries[0].addresses) == [OTHER + 1]
    listed.handle(advertised(address_option(OTHER + 1, valid_lifetime=0.0)), driver.now)
    assert listed.entries[0].addresses == {}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (advertised(interface=ELSEWHERE), DropReason.UNEXPECTED_MESSAGE),
        (advertised(source=OTHER), DropReason.NOT_LINK_LOCAL),
    ],
)
def test_advertisement_from_elsewhere_is_dropped(event: PacketReceived, reason: DropReason) -> None:
    listed = make_list()
    assert listed.handle(event, NOW) == []
    assert listed.entries == () and listed.drops == {reason: 1}


def test_list_and_addresses_are_bounded_and_the_first_stay() -> None:
    listed = make_list()
    many = [address_option(OTHER + n) for n in range(MAX_LISTED_ADDRESSES + 1)]
    listed.handle(advertised(*many), NOW)
    assert len(listed.entries[0].addresses) == MAX_LISTED_ADDRESSES
    for number in range(MAX_LISTED_HOME_AGENTS):
        listed.handle(advertised(source=OTHER_LINK_LOCAL + 1 + number), NOW)
    assert len(listed.entries) == MAX_LISTED_HOME_AGENTS
    assert listed.drops == {DropReason.CACHE_FULL: 1}
    assert listed.entries[0].link_local == OTHER_LINK_LOCAL


# Replies.


@requirement("RFC6275-10.5.1", "HA-52")
def test_request_to_the_anycast_address_is_answered_from_a_unicast_address() -> None:
    listed = make_list()
    packet = only(listed.handle(request(0xBEEF), NOW), SendPacket).packet
    assert (packet.source, packet.destination) == (OWN, CARE_OF)
    assert packet.payload == HomeAgentAddressDiscoveryReply(0xBEEF, (OWN,))
    assert listed.replies == 1


@requirement("RFC6275-10.5.1", "HA-53")
def test_reply_lists_decreasing_preferences() -> None:
    listed = make_list(preference=5)
    for number, preference in enumerate((1, 9, 3)):
        listed.handle(
            advertised(
                address_option(OTHER + number),
                HomeAgentInformation(preference, 60),
                source=OTHER_LINK_LOCAL + number,
            ),
            NOW,
        )
    assert reply_of(listed).addresses == (OTHER + 1, OWN, OTHER + 2, OTHER)


@requirement("RFC6275-10.5.1", "HA-54")
def test_equal_preferences_come_in_a_random_order_each_time() -> None:
    listed = make_list()
    for number in range(3):
        options = [address_option(OTHER + 10 * number + n) for n in range(2)]
        listed.handle(advertised(*options, source=OTHER_LINK_LOCAL + number), NOW)
    replies = [reply_of(listed, NOW + n).addresses for n in range(20)]
    assert len({reply[0] for reply in replies}) > 2
    for reply in replies:
        assert set(reply) == set(replies[0])
        places = [reply.index(OTHER + 10 * 1 + n) for n in range(2)]
        assert abs(places[0] - places[1]) == 1  # one home agent's addresses stay together
    orders = {reply.index(OTHER) < reply.index(OTHER + 1) for reply in replies}
    assert orders == {True, False}


@requirement("RFC6275-10.5.1", "HA-55")
def test_reply_fits_into_1280_octets_with_the_best_preferences() -> None:
    listed = make_list(preference=1000)
    for number in range(100):
        listed.handle(
            advertised(
                address_option(OTHER + number),
                HomeAgentInformation(number, 60),
                source=OTHER_LINK_LOCAL + number,
            ),
            NOW,
        )
    packet = only(listed.handle(request(), NOW), SendPacket).packet
    assert 1280 - 16 < len(encode_packet(packet)) <= 1280
    reply = packet.payload
    assert isinstance(reply, HomeAgentAddressDiscoveryReply)
    assert reply.addresses[:2] == (OWN, OTHER + 99)
    assert OTHER + 23 not in reply.addresses and OTHER + 24 in reply.addresses


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (request(destination=OWN), DropReason.UNEXPECTED_MESSAGE),
        (request(source=IPv6Address("::")), DropReason.MULTICAST_SOURCE),
        (request(source=IPv6Address("ff02::1")), DropReason.MULTICAST_SOURCE),
        (request(source=ANYCAST), DropReason.MULTICAST_SOURCE),
    ],
)
def test_request_that_must_not_be_answered_is_dropped(
    event: PacketReceived, reason: DropReason
) -> None:
    listed = make_list()
    assert listed.handle(event, NOW) == []
    assert listed.drops == {reason: 1}


def test_replies_are_limited_in_rate() -> None:
    listed = make_list()
    answers = [listed.handle(request(), NOW) for _ in range(100)]
    assert sum(map(len, answers)) == DISCOVERY_REPLY_BURST
    assert listed.drops[DropReason.RATE_LIMITED] == 100 - DISCOVERY_REPLY_BURST
    assert listed.handle(request(), NOW + 1)


@pytest.mark.parametrize(
    ("prefix", "anycast"),
    [
        ("2001:db8:1::/64", "2001:db8:1:0:fdff:ffff:ffff:fffe"),
        ("2001:db8::/48", "2001:db8:0:ffff:ffff:ffff:ffff:fffe"),
        ("2001:db8::/112", "2001:db8::fffe"),
    ],
)
def test_anycast_address_is_that_of_rfc_2526(prefix: str, anycast: str) -> None:
    assert home_agents_anycast(IPv6Network(prefix)) == IPv6Address(anycast)


# Our own advertisements.


def make_advertiser(**changes: Any) -> HomeAgentAdvertiser:
    values: dict[str, Any] = {
        "address": OWN,
        "prefixes": (
            AdvertisedPrefix(prefix=HOME_PREFIX),
            AdvertisedPrefix(prefix=IPv6Network("2001:db8:2::/64")),
        ),
        "home_link": LINK,
        "link_layer_address": MAC,
    }
    return HomeAgentAdvertiser(AdvertiserSettings(**{**values, **changes}), random=Random(1))


def started(**changes: Any) -> tuple[Driver, HomeAgentAdvertiser]:
    driver = Driver(advertiser := make_advertiser(**changes))
    driver.note(advertiser.start(IPv6Address("fe80::1"), driver.now))
    return driver, advertiser


def solicitation(*options: NdOption, source: str = "fe80::99", interface: int = LINK) -> Any:
    message = RouterSolicitation(options=options)
    packet = IPv6Packet(IPv6Address(source), IPv6Address("ff02::2"), message, hop_limit=255)
    return PacketReceived(packet=packet, interface=interface)


def option_of(message: RouterAdvertisement, kind: type[Any]) -> Any:
    return next(iter(of_type(message.options, kind)), None)


@requirement("RFC6275-7.1", "FMT-26")
def test_advertisement_has_the_h_bit_and_our_global_address() -> None:
    driver, _ = started()
    driver.advance(0.0)
    ((action, message),) = sent([o for _, o in driver.log], RouterAdvertisement)
    assert action.packet.source == IPv6Address("fe80::1") and action.packet.hop_limit == 255
    assert action.packet.destination == ALL_NODES and action.interface == LINK
    assert message.home_agent and message.router_lifetime == 0
    first, second = of_type(message.options, PrefixInformation)
    assert first.router_address and first.address == OWN and first.prefix == HOME_PREFIX
    assert not second.router_address and second.address == second.prefix.network_address
    assert option_of(message, SourceLinkLayerAddress).address == MAC  # 7.5: MUST


@requirement("RFC6275-7.3", "FMT-27")
@pytest.mark.parametrize(("interval", "told"), [(10.0, 10.0), (0.1, 0.12)])
def test_advertisement_interval_is_told_with_slack_where_it_is_short(
    interval: float, told: float
) -> None:
    driver, _ = started(max_interval=interval)
    driver.advance(0.0)
    ((_, message),) = sent([o for _, o in driver.log], RouterAdvertisement)
    assert option_of(message, AdvertisementInterval).interval == pytest.approx(told)


@requirement("RFC6275-7.4", "FMT-28")
@pytest.mark.parametrize(
    ("preference", "is_default_router", "told"),
    [(0, True, None), (0, False, (0, 30)), (7, True, (7, 30)), (7, False, (7, 30))],
)
def test_home_agent_information_is_left_out_where_it_says_the_defaults(
    preference: int, is_default_router: bool, told: tuple[int, int] | None
) -> None:
    driver, _ = started(preference=preference, is_default_router=is_default_router)
    driver.advance(0.0)
    ((_, message),) = sent([o for _, o in driver.log], RouterAdvertisement)
    option = option_of(message, HomeAgentInformation)
    assert (option and (option.preference, option.lifetime)) == told
    assert message.router_lifetime == (30 if is_default_router else 0)


@requirement("RFC6275-7.5")
def test_router_lifetime_is_never_below_a_second() -> None:
    driver, _ = started(max_interval=0.07, is_default_router=True)
    driver.advance(0.0)
    ((_, message),) = sent([o for _, o in driver.log], RouterAdvertisement)
    assert message.router_lifetime == 1


@pytest.mark.parametrize(
    ("interval", "least", "initial"),
    [(1800.0, 594.0, 16.0), (10.0, 3.3, 10.0), (4.0, 3.0, 4.0), (0.07, 0.03, 0.07)],
)
def test_advertisements_come_at_random_within_the_interval(
    interval: float, least: float, initial: float
) -> None:
    driver, _ = started(max_interval=interval)
    driver.advance(interval * 30)
    times = driver.times_of(RouterAdvertisement)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(gap <= initial + 1e-9 for gap in gaps[:2])
    assert all(least - 1e-9 <= gap <= interval + 1e-9 for gap in gaps[2:])
    assert len(set(gaps)) > 5


def test_solicitations_are_answered_by_one_advertisement_soon() -> None:
    driver, advertiser = started()
    driver.advance(60.0)
    driver.log.clear()
    asked_at = driver.now
    for _ in range(5):
        advertiser.handle(solicitation(SourceLinkLayerAddress(MAC)), driver.now)
    driver.advance(0.5 + 3.0)
    times = driver.times_of(RouterAdvertisement)
    assert times and times[0] - asked_at <= 3.5
    assert all(b - a >= 3.0 for a, b in itertools.pairwise(times))


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (solicitation(interface=ELSEWHERE), DropReason.UNEXPECTED_MESSAGE),
        (solicitation(SourceLinkLayerAddress(MAC), source="::"), DropReason.MALFORMED),
    ],
)
def test_solicitation_that_is_not_valid_is_dropped(
    event: PacketReceived, reason: DropReason
) -> None:
    driver, advertiser = started()
    assert advertiser.handle(event, driver.now) == []
    assert advertiser.drops == {reason: 1}


def test_last_advertisement_takes_everything_back() -> None:
    driver, advertiser = started(is_default_router=True)
    driver.advance(1.0)
    outputs = advertiser.stop(driver.now)
    ((_, message),) = sent(outputs, RouterAdvertisement)
    assert not message.home_agent and message.router_lifetime == 0
    assert option_of(message, HomeAgentInformation) is None  # 7.4: not without the H bit
    assert only(outputs, LeaveGroup).group == IPv6Address("ff02::2")
    assert advertiser.next_deadline() is None and advertiser.stop(driver.now) == []
    listed = make_list(address=OTHER)
    listed.handle(advertised(source=IPv6Address("fe80::1")), NOW)
    packet = only(outputs, SendPacket).packet
    listed.handle(PacketReceived(packet=packet, interface=LINK), NOW)
    assert listed.entries == ()


def test_advertiser_without_its_link_is_silent_and_begins_anew() -> None:
    driver, advertiser = started()
    assert len(driver.all(JoinGroup)) == 1
    assert advertiser.start(IPv6Address("fe80::1"), driver.now) == []
    driver.advance(60.0)
    advertiser.pause()
    assert not advertiser.is_advertising and advertiser.next_deadline() is None
    assert advertiser.handle_timer(driver.now) == []
    advertiser.handle(solicitation(), driver.now)
    assert advertiser.drops == {DropReason.UNEXPECTED_MESSAGE: 1}
    driver.now += 10
    driver.note(advertiser.start(IPv6Address("fe80::1"), driver.now))
    driver.log.clear()
    driver.advance(0.0)
    assert len(driver.times_of(RouterAdvertisement)) == 1


def prefixes_said(driver: Driver) -> dict[IPv6Network, tuple[float, float]]:
    """Valid and preferred lifetimes of the latest advertisement."""
    messages = [message for _, message in sent([o for _, o in driver.log], RouterAdvertisement)]
    return {
        each.prefix: (round(each.valid_lifetime), round(each.preferred_lifetime))
        for each in messages[-1].options
        if isinstance(each, PrefixInformation)
    }


def test_changed_prefixes_are_advertised_soon_and_the_former_as_deprecated() -> None:
    driver, advertiser = started()
    new = AdvertisedPrefix(prefix=IPv6Network("2001:db8:9::/64"))
    driver.advance(60.0)
    driver.log.clear()
    changed_at = driver.now
    advertiser.use_prefixes((new,), driver.now)
    driver.advance(3.0)
    said = prefixes_said(driver)
    assert said[new.prefix] == (new.valid_lifetime, new.preferred_lifetime)
    (_, (left, preferred)) = said.popitem()
    assert 7190 <= left <= 7200 and preferred == 0
    driver.advance(changed_at + 7200.0 - driver.now + 30.0)
    assert list(prefixes_said(driver)) == [new.prefix]


def test_prefix_that_comes_back_is_said_as_ever() -> None:
    driver, advertiser = started()
    own, new = IPv6Network("2001:db8:1::/64"), IPv6Network("2001:db8:9::/64")
    advertiser.use_prefixes((AdvertisedPrefix(prefix=new),), driver.now)
    advertiser.use_prefixes((AdvertisedPrefix(prefix=own),), driver.now)
    driver.advance(3.0)
    lifetimes = prefixes_said(driver)
    assert lifetimes[own] == (VALID_LIFETIME, PREFERRED_LIFETIME) and lifetimes[new][1] == 0


def test_changed_prefixes_of_a_silent_advertiser_wait_for_its_link() -> None:
    driver, advertiser = started()
    advertiser.pause()
    advertiser.use_prefixes((), driver.now)
    assert advertiser.next_deadline() is None
