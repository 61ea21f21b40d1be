"""The home agent on its home link: duplicate address detection, proxying, and nodes that are
home."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from tests.blackbox import octets as o
from tests.blackbox.bench import Cable
from tests.blackbox.correspondent import wait_until
from tests.blackbox.home_agent import AGENT, CORRESPONDENT, REGISTER, HomeAgent, MobileNode
from tests.blackbox.octets import Packet
from tests.blackbox.tester import multicast_mac, solicited_node
from tests.support.requirement import requirement

NEIGHBOUR = IPv6Address("2001:db8:1::aa")
NEIGHBOUR_MAC = bytes.fromhex("0200000000aa")
HOME_MAC = bytes.fromhex("0200000000cc")
"""Of a mobile node that is home."""
OTHER_MAC = bytes.fromhex("0200000000bb")
ROUTER_FLAG, SOLICITED, OVERRIDE = 0x80, 0x40, 0x20


@pytest.fixture(scope="module")
def agent() -> Iterator[HomeAgent]:
    """One daemon for all tests of this module."""
    agent = HomeAgent(virtual=False)
    agent.tester.plays[NEIGHBOUR] = NEIGHBOUR_MAC
    try:
        yield agent
    finally:
        agent.bench.close()


@pytest.fixture
def mobile(agent: HomeAgent) -> MobileNode:
    """A mobile node that is served and has not been heard of."""
    return agent.mobile_node()


def is_probe(seen: Packet, target: IPv6Address) -> bool:
    """A Neighbor Solicitation of duplicate address detection."""
    return (
        seen.icmp_type == o.NEIGHBOR_SOLICITATION
        and seen.target == target
        and seen.source == o.UNSPECIFIED
    )


def is_advertisement(seen: Packet, target: IPv6Address) -> bool:
    """A Neighbor Advertisement for an address."""
    return seen.icmp_type == o.NEIGHBOR_ADVERTISEMENT and seen.target == target


def solicit(mobile: MobileNode, target: IPv6Address, to: IPv6Address | None = None) -> None:
    """Ask for an address, as the neighbour."""
    message = o.neighbor_solicitation(target, NEIGHBOUR_MAC)
    destination = to or solicited_node(target)
    packet = o.packet(NEIGHBOUR, destination, message, protocol=o.ICMP, hop_limit=255)
    mobile.tester.send(packet, link="home", mac=NEIGHBOUR_MAC)


def refuses_here(mobile: MobileNode, target: IPv6Address) -> None:
    """No advertisement for an address, though one for the home agent's comes afterwards."""

    def barrier() -> None:
        message = o.neighbor_solicitation(AGENT, NEIGHBOUR_MAC)
        packet = o.packet(NEIGHBOUR, solicited_node(AGENT), message, protocol=o.ICMP, hop_limit=255)
        mobile.tester.insist(packet, lambda seen: is_advertisement(seen, AGENT), link="home")
        mobile.barrier()

    mobile.tester.refuses(lambda seen: is_advertisement(seen, target), barrier)


@requirement("RFC6275-10.3.1", "HA-01", "HA-12", "HA-15", "HA-30", "HA-31")
def test_first_registration_probes_and_then_claims_both_addresses(
    agent: HomeAgent, mobile: MobileNode
) -> None:
    began = time.monotonic()
    mobile.send_update(flags=REGISTER | o.LINK_LOCAL)
    addresses = (mobile.home_address, mobile.link_local_address)
    for address in addresses:
        probe = mobile.tester.expect(lambda seen, a=address: is_probe(seen, a))
        assert probe.destination == solicited_node(address)
        assert probe.hop_limit == 255
        # No source link-layer address (RFC 4861 section 4.3); a nonce may be there (RFC 7527).
        assert probe.payload[24:25] in (b"", b"\x0e")
    assert str(mobile.home_address) not in agent.bench.node.show("-6", "addr", "show")
    assert mobile.acknowledgement().message.status == 0
    assert time.monotonic() - began > 0.9
    for address in addresses:
        seen = mobile.tester.expect_seen(lambda seen, a=address: is_advertisement(seen, a))
        claim = seen.packet
        assert claim.destination == o.ALL_NODES
        assert seen.destination_mac == multicast_mac(o.ALL_NODES)
        assert claim.payload[4] == OVERRIDE
        assert claim.payload[24:] == b"\2\1" + agent.bench.macs["home"]
        assert claim.hop_limit == 255
    assert mobile.tester.expect(lambda seen: is_advertisement(seen, addresses[0])).source == AGENT


@requirement("RFC6275-10.3.1", "HA-13", "HA-01")
def test_reregistration_is_acknowledged_without_probing(mobile: MobileNode) -> None:
    mobile.register()
    mobile.send_update(source=mobile.other_care_of_address)
    mobile.acknowledgement(within=0.8)
    assert not mobile.tester.came(lambda seen: is_probe(seen, mobile.home_address))


@requirement("RFC6275-10.3.1", "HA-14")
def test_update_repeated_while_probing_is_answered_once_and_latest(mobile: MobileNode) -> None:
    mobile.send_update()
    mobile.tester.expect(lambda seen: is_probe(seen, mobile.home_address))
    for _ in range(3):
        mobile.tester.add(mobile.away(mobile.message()), link="out")
    assert mobile.acknowledgement().message.sequence == mobile.sequence
    mobile.barrier()
    assert len(mobile.tester.came(mobile.is_acknowledgement)) == 1
    assert len(mobile.tester.came(lambda seen: is_probe(seen, mobile.home_address))) == 1


@requirement("RFC6275-10.3.1", "HA-11", "HA-12")
@pytest.mark.parametrize("how", ["advertisement", "simultaneous probe", "link-local address"])
def test_home_address_that_somebody_has_is_refused(mobile: MobileNode, how: str) -> None:
    mobile.send_update(flags=REGISTER | o.LINK_LOCAL)
    mobile.tester.expect(lambda seen: is_probe(seen, mobile.home_address))
    address = mobile.link_local_address if how.startswith("link") else mobile.home_address
    if how == "simultaneous probe":
        source, destination = o.UNSPECIFIED, solicited_node(address)
        message = o.neighbor_solicitation(address, None)
    else:
        source, destination = address, o.ALL_NODES
        message = o.neighbor_advertisement(address, OTHER_MAC, OVERRIDE)
    packet = o.packet(source, destination, message, protocol=o.ICMP, hop_limit=255)
    mobile.tester.add(packet, link="home", mac=OTHER_MAC)
    assert mobile.acknowledgement().message.status == 134
    solicit(mobile, mobile.home_address)
    refuses_here(mobile, mobile.home_address)
    assert not mobile.is_reachable()


@requirement("RFC6275-10.4.1", "HA-32")
@pytest.mark.parametrize("is_unicast", [False, True])
def test_solicitation_for_a_registered_home_address_is_answered(
    agent: HomeAgent, mobile: MobileNode, is_unicast: bool
) -> None:
    mobile.register()
    solicit(mobile, mobile.home_address, mobile.home_address if is_unicast else None)
    answer = mobile.tester.expect(
        lambda seen: is_advertisement(seen, mobile.home_address) and seen.destination == NEIGHBOUR
    )
    assert answer.payload[4] == SOLICITED
    assert answer.payload[24:] == b"\2\1" + agent.bench.macs["home"]
    assert answer.hop_limit == 255


@requirement("RFC6275-10.4.1", "HA-33")
def test_solicitation_for_an_address_without_a_binding_is_not_answered(
    mobile: MobileNode,
) -> None:
    for address in (mobile.home_address, IPv6Address("2001:db8:1::fffe")):
        solicit(mobile, address)
        refuses_here(mobile, address)


@requirement("RFC6275-10.4.1", "HA-34", "HA-25")
def test_solicitation_after_deregistration_is_not_answered(mobile: MobileNode) -> None:
    mobile.register()
    mobile.send_update(lifetime=0)
    assert mobile.acknowledgement().message.status == 0
    mobile.becomes_unreachable()
    solicit(mobile, mobile.home_address)
    refuses_here(mobile, mobile.home_address)


@requirement("RFC6275-10.4.1", "HA-34", "HA-19")
def test_solicitation_after_the_lifetime_is_not_answered(mobile: MobileNode) -> None:
    mobile.register(lifetime=4)
    wait_until(lambda: not mobile.is_reachable(), within=10)
    solicit(mobile, mobile.home_address)
    refuses_here(mobile, mobile.home_address)


@requirement("RFC6275-10.4.1", "HA-35")
def test_probe_of_another_node_for_a_registered_home_address_is_defended(
    mobile: MobileNode,
) -> None:
    mobile.register()
    message = o.neighbor_solicitation(mobile.home_address, None)
    destination = solicited_node(mobile.home_address)
    packet = o.packet(o.UNSPECIFIED, destination, message, protocol=o.ICMP, hop_limit=255)
    mobile.tester.send(packet, link="home", mac=OTHER_MAC)
    answer = mobile.tester.expect(lambda seen: is_advertisement(seen, mobile.home_address))
    assert answer.destination == o.ALL_NODES
    assert answer.payload[4] & SOLICITED == 0


@requirement("RFC4861-7.1.1", "HA-32", "OPS-06")
def test_solicitation_that_was_forwarded_is_ignored(mobile: MobileNode) -> None:
    mobile.register()
    message = o.neighbor_solicitation(mobile.home_address, NEIGHBOUR_MAC)
    packet = o.packet(
        NEIGHBOUR, solicited_node(mobile.home_address), message, protocol=o.ICMP, hop_limit=254
    )
    mobile.tester.send(packet, link="home", mac=NEIGHBOUR_MAC)
    mobile.tester.refuses(
        lambda seen: is_advertisement(seen, mobile.home_address) and seen.destination == NEIGHBOUR,
        mobile.barrier,
    )


@requirement("RFC6275-10.3.2", "HA-26", "HA-28", "SEC-02")
@pytest.mark.parametrize("has_option", [False, True])
def test_deregistration_from_the_home_link_is_acknowledged_there(
    mobile: MobileNode, has_option: bool
) -> None:
    mobile.register()
    message = mobile.message(lifetime=0, care_of_address=mobile.home_address)
    headers = (mobile.home_address_option,) if has_option else ()
    sealed = mobile.seal(message)
    packet = o.packet(mobile.home_address, AGENT, sealed, *headers, protocol=o.ESP)
    mobile.tester.send(packet, link="home", mac=HOME_MAC)
    answer = mobile.acknowledgement()
    seen = mobile.tester.expect_seen(mobile.is_acknowledgement)
    assert (seen.link, seen.destination_mac) == ("home", HOME_MAC)
    assert answer.destination == mobile.home_address
    assert answer.header_numbers == (o.ESP, o.MOBILITY)
    assert (answer.message.status, answer.message.lifetime) == (0, 0)
    mobile.becomes_unreachable()


@requirement("RFC6275-10.3.2", "HA-27", "HA-28", "SEC-02")
def test_refusal_on_the_home_link_goes_to_the_nodes_own_link_layer_address(
    mobile: MobileNode,
) -> None:
    message = mobile.message(lifetime=0, care_of_address=mobile.home_address)
    packet = o.packet(mobile.home_address, AGENT, mobile.seal(message), protocol=o.ESP)
    mobile.tester.send(packet, link="home", mac=HOME_MAC)
    answer = mobile.tester.expect_seen(mobile.is_acknowledgement)
    assert (answer.link, answer.destination_mac) == ("home", HOME_MAC)
    assert answer.packet.message.status == 133


@requirement("RFC6275-10.4.2", "HA-36")
def test_packets_from_the_home_link_are_tunnelled(agent: HomeAgent, mobile: MobileNode) -> None:
    mobile.register()
    sent = mobile.to_home_address(source=NEIGHBOUR)
    mobile.tester.send(sent, link="home", mac=NEIGHBOUR_MAC)
    outer = mobile.tester.expect(mobile.is_tunnelled)
    assert outer.inner.octets == sent[:7] + b"\x3f" + sent[8:]
    mobile.refuses(lambda seen: seen.icmp_type == o.REDIRECT)


@requirement("RFC6275-10.4.5", "HA-42", "HA-45")
def test_tunnelled_packets_for_the_home_link_are_forwarded_without_redirect(
    mobile: MobileNode,
) -> None:
    mobile.register()
    for destination in (NEIGHBOUR, CORRESPONDENT):
        inner = mobile.from_home_address(destination)
        mobile.tester.send(mobile.tunnel(inner), link="out")
        seen = mobile.tester.expect_seen(lambda seen: seen.source == mobile.home_address)
        assert seen.packet.destination == destination
        assert seen.link == ("home" if destination == NEIGHBOUR else "out")
        # The tunnel's packets come and go by the uplink: a router would tell a neighbour of it.
        mobile.refuses(lambda seen: seen.icmp_type == o.REDIRECT or redirects_inside(seen))


def redirects_inside(seen: Packet) -> bool:
    """A Redirect in the tunnel."""
    return seen.inner is not None and seen.inner.icmp_type == o.REDIRECT


@requirement("RFC6275-10.4.2", "HA-38")
@pytest.mark.parametrize("group", ["ff02::1", "ff02::fb", "ff01::1"])
def test_multicast_of_link_scope_is_not_tunnelled(mobile: MobileNode, group: str) -> None:
    mobile.register()
    packet = o.packet(NEIGHBOUR, IPv6Address(group), o.echo_request(1), protocol=o.ICMP)
    mobile.tester.send(packet, link="home", mac=NEIGHBOUR_MAC)
    mobile.refuses(lambda seen: seen.destination == mobile.care_of_address)


@requirement("RFC6275-10.4.2", "HA-37")
def test_packet_for_the_link_local_address_is_answered_with_address_unreachable(
    mobile: MobileNode,
) -> None:
    mobile.register(flags=REGISTER | o.LINK_LOCAL)
    packet = o.packet(NEIGHBOUR, mobile.link_local_address, o.echo_request(1), protocol=o.ICMP)
    mobile.tester.send(packet, link="home", mac=NEIGHBOUR_MAC)
    answer = mobile.tester.expect(lambda seen: seen.icmp_type == o.UNREACHABLE)
    assert answer.destination == NEIGHBOUR
    assert answer.payload[1] == 3
    mobile.refuses(lambda seen: seen.destination == mobile.care_of_address)


def test_home_link_made_anew_keeps_the_binding_and_defends_it_there(agent: HomeAgent) -> None:
    mobile = agent.mobile_node()
    mobile.register()
    agent.bench.lay_anew(Cable("home", (f"{AGENT}/64",)))

    def is_claim(seen: Packet) -> bool:
        return is_advertisement(seen, mobile.home_address)

    mobile.tester.expect(lambda seen: is_probe(seen, mobile.home_address))
    claim = mobile.tester.expect_seen(is_claim)
    assert claim.link == "home"
    assert claim.packet.payload[24:] == b"\2\1" + agent.bench.macs["home"]
    assert mobile.is_reachable()
    mobile.send_update(source=mobile.other_care_of_address)
    mobile.acknowledgement(within=0.8)
