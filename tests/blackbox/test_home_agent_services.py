"""What a home agent does besides registrations and tunnels: it is discovered, tells the home link's
prefixes, and ends bindings, as mobile nodes, neighbours and administrators see it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest

from tests.blackbox import octets as o
from tests.blackbox.home_agent import AGENT, HomeAgent, MobileNode
from tests.blackbox.keys import BINDING, PREFIX_DISCOVERY
from tests.blackbox.octets import Packet
from tests.support.requirement import requirement

ANYCAST = IPv6Address("2001:db8:1:0:fdff:ffff:ffff:fffe")
"""Mobile IPv6 Home-Agents of the home prefix (RFC 2526 sections 2 and 3)."""
OTHER_AGENT = IPv6Address("2001:db8:1::a2")
OTHER_LINK_LOCAL = IPv6Address("fe80::a2")
OTHER_MAC = bytes.fromhex("0200000000a2")
HOME_PREFIX = IPv6Network("2001:db8:1::/64")
PREFERENCE = 5
SWITCH_REFUSED = 129

_identifiers = itertools.count(0x4242)


@pytest.fixture(scope="module")
def agent() -> Iterator[HomeAgent]:
    """One daemon for all tests of this module."""
    agent = HomeAgent(virtual=False, preference=PREFERENCE, switch_rate=100.0)
    try:
        yield agent
    finally:
        agent.bench.close()


@pytest.fixture
def mobile(agent: HomeAgent) -> MobileNode:
    """A mobile node that is served and has not been heard of."""
    return agent.mobile_node()


# Dynamic home agent address discovery (RFC 6275 10.5)


def discovered(mobile: MobileNode) -> tuple[Packet, list[IPv6Address]]:
    """Ask, as a mobile node does that knows nobody: the reply and the addresses in it."""
    identifier = next(_identifiers)
    request = o.identified(o.DISCOVERY_REQUEST, identifier)
    packet = o.packet(mobile.care_of_address, ANYCAST, request, protocol=o.ICMP)
    mobile.tester.send(packet, link="out")
    reply = mobile.tester.expect(
        lambda seen: seen.icmp_type == o.DISCOVERY_REPLY and seen.identifier == identifier
    )
    return reply, o.addresses_of(reply.payload[8:])


def advertise_other(
    mobile: MobileNode, *, preference: int, lifetime: int = 600, is_home_agent: bool = True
) -> None:
    """A Router Advertisement of another home agent on the home link."""
    message = o.router_advertisement(
        o.prefix_information(OTHER_AGENT, flags=0xE0),
        *([o.home_agent_information(preference, lifetime)] if is_home_agent else []),
        lifetime=0,
        flags=0x20 if is_home_agent else 0,
    )
    packet = o.packet(OTHER_LINK_LOCAL, o.ALL_NODES, message, protocol=o.ICMP, hop_limit=255)
    mobile.tester.send(packet, link="home", mac=OTHER_MAC)
    mobile.barrier()


@requirement("RFC6275-10.5.1", "HA-52", "FMT-24")
def test_discovery_request_to_the_anycast_address_is_answered_from_a_unicast_one(
    mobile: MobileNode,
) -> None:
    reply, addresses = discovered(mobile)
    assert (reply.source, reply.destination) == (AGENT, mobile.care_of_address)
    assert reply.header_numbers == (o.ICMP,)
    assert reply.checksum_is_good
    assert (reply.payload[1], reply.payload[6] & 0x7F, reply.payload[7]) == (0, 0, 0)
    assert addresses == [AGENT]


@requirement("RFC6275-10.5.1", "HA-48", "HA-49", "HA-50", "HA-53")
@pytest.mark.parametrize("end", ["no home agent any more", "lifetime 0"])
def test_other_home_agent_is_listed_by_preference_until_it_takes_its_leave(
    mobile: MobileNode, end: str
) -> None:
    advertise_other(mobile, preference=PREFERENCE + 1)
    assert discovered(mobile)[1] == [OTHER_AGENT, AGENT]
    advertise_other(mobile, preference=PREFERENCE - 1)
    assert discovered(mobile)[1] == [AGENT, OTHER_AGENT]
    advertise_other(mobile, preference=7, lifetime=0, is_home_agent=end == "lifetime 0")
    assert discovered(mobile)[1] == [AGENT]


@requirement("RFC6275-10.5.1", "HA-51")
def test_other_home_agent_is_forgotten_with_its_lifetime(mobile: MobileNode) -> None:
    advertise_other(mobile, preference=7, lifetime=2)
    assert discovered(mobile)[1] == [OTHER_AGENT, AGENT]
    time.sleep(2.1)
    assert discovered(mobile)[1] == [AGENT]


@requirement("RFC4861-6.1.2", "HA-48", "OPS-06")
def test_advertisement_of_a_home_agent_that_was_forwarded_is_ignored(mobile: MobileNode) -> None:
    message = o.router_advertisement(
        o.prefix_information(OTHER_AGENT, flags=0xE0),
        o.home_agent_information(9, 600),
        flags=0x20,
    )
    packet = o.packet(OTHER_LINK_LOCAL, o.ALL_NODES, message, protocol=o.ICMP, hop_limit=254)
    mobile.tester.send(packet, link="home", mac=OTHER_MAC)
    mobile.barrier()
    assert discovered(mobile)[1] == [AGENT]


# Mobile prefix discovery (RFC 6275 10.6)


def solicitation(mobile: MobileNode, identifier: int, *, protect: bool = True) -> bytes:
    """A Mobile Prefix Solicitation from the care-of address."""
    message = o.identified(o.PREFIX_SOLICITATION, identifier)
    source, option = mobile.care_of_address, mobile.home_address_option
    if not protect:
        return o.packet(source, AGENT, message, option, protocol=o.ICMP)
    whole = o.packet(mobile.home_address, AGENT, message, protocol=o.ICMP)[40:]
    sealed = mobile.keys[PREFIX_DISCOVERY].outbound.seal(whole, o.ICMP)
    return o.packet(source, AGENT, sealed, option, protocol=o.ESP)


def is_prefix_advertisement(seen: Packet) -> bool:
    """Of a home agent's, by any way."""
    return seen.icmp_type == o.PREFIX_ADVERTISEMENT


@requirement("RFC6275-10.6.2", "HA-57", "HA-62", "FMT-25", "SEC-04")
def test_solicitation_of_a_registered_node_is_answered_with_the_prefixes(
    mobile: MobileNode,
) -> None:
    mobile.register()
    identifier = next(_identifiers)
    mobile.tester.send(solicitation(mobile, identifier), link="out")
    answer = mobile.tester.expect(is_prefix_advertisement)
    assert answer.header_numbers == (o.ROUTING, o.ESP, o.ICMP)
    assert (answer.source, answer.destination) == (AGENT, mobile.care_of_address)
    assert answer.routed_to == mobile.home_address
    assert answer.spi == mobile.keys[PREFIX_DISCOVERY].inbound.spi
    assert answer.icv_is_good
    assert answer.checksum_is_good
    assert answer.identifier == identifier
    # Neither the M nor the O bit, nor anything reserved.
    assert (answer.payload[1], answer.payload[6:8]) == (0, bytes(2))
    options = answer.payload[8:]
    assert (options[0], options[1], options[2], len(options)) == (3, 4, 64, 32)
    # The R bit, and with it the whole address.
    assert options[3] & 0x20
    assert IPv6Address(options[16:32]) == AGENT


@requirement("RFC6275-6.8", "HA-61")
def test_advertisements_to_one_node_are_a_second_apart(mobile: MobileNode) -> None:
    mobile.register()
    mobile.tester.send(solicitation(mobile, 1), link="out")
    first = mobile.tester.expect_seen(is_prefix_advertisement)
    mobile.tester.add(solicitation(mobile, 2), solicitation(mobile, 3), link="out")
    second = mobile.tester.expect_seen(is_prefix_advertisement, skip=1)
    # The tester sees each of them some time after it was sent.
    assert second.at - first.at > 0.9
    assert second.packet.identifier == 3


@requirement("RFC6275-10.6.2", "HA-58", "SEC-04", "SEC-07")
def test_solicitation_that_nothing_protects_is_not_answered(mobile: MobileNode) -> None:
    mobile.register()
    mobile.tester.send(solicitation(mobile, 1, protect=False), link="out")
    mobile.refuses(is_prefix_advertisement)
    plain = o.identified(o.PREFIX_SOLICITATION, 2)
    packet = o.packet(mobile.home_address, AGENT, plain, protocol=o.ICMP)
    mobile.tester.send(packet, link="home", mac=OTHER_MAC)
    mobile.refuses(is_prefix_advertisement)


@requirement("RFC6275-10.6.2", "HA-57")
def test_solicitation_of_a_node_without_a_binding_is_not_answered(mobile: MobileNode) -> None:
    mobile.tester.send(solicitation(mobile, 1), link="out")
    mobile.refuses(is_prefix_advertisement)


# Revocation (RFC 5846)


def is_for(mobile: MobileNode, seen: Packet, kind: int) -> bool:
    """A message of the home agent's to this node, protected as its acknowledgements are."""
    return (
        seen.message is not None
        and seen.message.kind == kind
        and (seen.destination, seen.routed_to) == (mobile.care_of_address, mobile.home_address)
        and seen.spi == mobile.keys[BINDING].inbound.spi
        and seen.icv_is_good
        and seen.checksum_is_good
    )


def answer_revocation(mobile: MobileNode, sequence: int) -> None:
    """A Binding Revocation Acknowledgement from the care-of address."""
    message = o.binding_revocation(o.REVOCATION_ACKNOWLEDGEMENT, 0, sequence)
    mobile.tester.add(mobile.away(message), link="out")


@requirement("RFC5846-9.1", "EXT-08")
def test_binding_that_is_deleted_is_revoked_and_ends_with_the_answer(
    agent: HomeAgent, mobile: MobileNode
) -> None:
    mobile.register()
    mobile.tester.listen()
    agent.bench.control("delete-binding", home_address=str(mobile.home_address))
    indication = mobile.tester.expect(lambda seen: is_for(mobile, seen, o.BINDING_REVOCATION))
    assert indication.header_numbers == (o.ROUTING, o.ESP, o.MOBILITY)
    kind, trigger, sequence = indication.message.revocation
    assert (kind, trigger) == (o.REVOCATION_INDICATION, 1)
    # An answer to something else ends nothing.
    answer_revocation(mobile, (sequence + 1) % 0x10000)
    assert mobile.is_reachable()
    answer_revocation(mobile, sequence)
    mobile.becomes_unreachable()


@requirement("RFC5846-9.1", "EXT-08")
def test_revocation_that_is_not_answered_goes_again_and_ends_the_binding(
    agent: HomeAgent, mobile: MobileNode
) -> None:
    mobile.register()
    mobile.tester.listen()
    agent.bench.control("delete-binding", home_address=str(mobile.home_address))

    def is_indication(seen: Packet) -> bool:
        return is_for(mobile, seen, o.BINDING_REVOCATION)

    first = mobile.tester.expect_seen(is_indication)
    second = mobile.tester.expect_seen(is_indication, skip=1)
    assert second.at - first.at > 0.9
    assert second.packet.message.revocation == first.packet.message.revocation
    mobile.becomes_unreachable()


# Sending mobile nodes elsewhere (RFC 5142)


@requirement("RFC5142-5", "EXT-05")
def test_home_agent_that_is_to_go_down_names_others_and_extends_no_binding(
    agent: HomeAgent, mobile: MobileNode
) -> None:
    mobile.register()
    mobile.tester.listen()
    asked = agent.bench.control(
        "switch-home-agent",
        home_addresses=str(mobile.home_address),
        home_agents=str(OTHER_AGENT),
    )
    assert asked == {"home_addresses": [str(mobile.home_address)]}
    switch = mobile.tester.expect(lambda seen: is_for(mobile, seen, o.HOME_AGENT_SWITCH))
    assert switch.header_numbers == (o.ROUTING, o.ESP, o.MOBILITY)
    assert switch.message.home_agents == [OTHER_AGENT]
    mobile.send_update()
    assert mobile.acknowledgement().message.status == SWITCH_REFUSED
    assert mobile.is_reachable()
    mobile.send_update(lifetime=0)
    assert mobile.acknowledgement().message.status == 0
    mobile.becomes_unreachable()
