"""The mobile node between links: routers, care-of addresses, and coming home."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from tests.blackbox import octets as o
from tests.blackbox.correspondent import is_echo_reply
from tests.blackbox.keys import BINDING
from tests.blackbox.mobile_node import AGENT, AGENT_MAC, HOME_ADDRESS, MobileNode, is_claim
from tests.blackbox.octets import Packet
from tests.blackbox.tester import solicited_node
from tests.support.requirement import requirement


@pytest.fixture(scope="module")
def node() -> Iterator[MobileNode]:
    """One daemon for all tests of this module."""
    node = MobileNode(route_optimization="never")
    try:
        yield node
        assert node.strays == []
    finally:
        node.bench.close()


def is_solicitation(seen: Packet) -> bool:
    """A Router Solicitation."""
    return seen.icmp_type == o.ROUTER_SOLICITATION


def is_probe(seen: Packet) -> bool:
    """A Neighbor Solicitation of duplicate address detection."""
    return seen.icmp_type == o.NEIGHBOR_SOLICITATION and seen.source == o.UNSPECIFIED


# Foreign links (RFC 6275 11.5, RFC 6059, RFC 4429)


@requirement("RFC6059-5.5.1", "MOV-17", "MOV-09", "MOV-16", "MOV-11")
def test_link_up_is_followed_by_a_solicitation_and_an_optimistic_address(node: MobileNode) -> None:
    network = node.move()
    solicitation = node.tester.expect(is_solicitation)
    assert solicitation.destination == o.ALL_ROUTERS
    assert solicitation.hop_limit == 255
    assert solicitation.source == o.UNSPECIFIED or solicitation.source.is_link_local
    if solicitation.source == o.UNSPECIFIED:
        assert len(solicitation.payload) == 8
    update = node.update()
    probe = node.tester.expect(lambda seen: is_probe(seen) and seen.target == update.source)
    assert probe.destination == solicited_node(update.source)
    assert network.holds(update.source)
    node.passes()
    assert not node.tester.came(
        lambda seen: seen.icmp_type == o.NEIGHBOR_SOLICITATION and seen.source == update.source
    )


@requirement("RFC6275-11.5.4", "MOV-03", "MOV-13", "MOV-21")
def test_care_of_address_of_the_link_left_is_not_used_again(node: MobileNode) -> None:
    former = node.visit()
    network = node.visit()
    assert network.holds(node.care_of_address)
    assert not node.tester.came(lambda seen: former.holds(seen.source))


@requirement("RFC6275-11.5.1", "MOV-01")
def test_another_router_on_the_link_changes_nothing(node: MobileNode) -> None:
    node.visit()
    other = node.new_network()
    node.tester.plays[other.router] = other.mac
    node.tester.send(other.advertisement(), mac=other.mac)
    node.refuses(node.is_update)


@requirement("RFC4861-6.1.2", "MOV-09", "OPS-06")
@pytest.mark.parametrize("fault", ["hop limit", "source"])
def test_invalid_router_advertisement_is_ignored(node: MobileNode, fault: str) -> None:
    node.accepts = True
    network = node.move(None)
    node.update()
    node.passes()
    forged = replace(network, prefix=IPv6Address("2001:db8:bad::"))
    packet = (
        forged.advertisement(hop_limit=254)
        if fault == "hop limit"
        else forged.advertisement(source=IPv6Address("2001:db8:bad::1"))
    )
    node.tester.send(packet, mac=network.mac)
    node.refuses(lambda seen: is_probe(seen) and forged.holds(seen.target))


@requirement("RFC6275-11.5.3", "MOV-10")
def test_duplicate_care_of_address_is_not_kept(node: MobileNode) -> None:
    node.visit()
    node.move()
    update = node.update()
    defence = o.neighbor_advertisement(update.source, bytes.fromhex("0200000000dd"), 0x20)
    node.tester.add(o.packet(update.source, o.ALL_NODES, defence, protocol=o.ICMP, hop_limit=255))
    again = node.tester.expect(
        lambda seen: node.is_update(seen) and seen.source != update.source, what="other address"
    )
    node.passes()
    assert node.care_of_address == again.source


@requirement("RFC6275-11.5.3", "MOV-14", "MOV-15")
def test_deprecated_care_of_address_is_replaced(node: MobileNode) -> None:
    network = node.visit()
    former = node.care_of_address
    newer = replace(node.new_network(), router=network.router, mac=network.mac)
    newer.options = [o.prefix_information(network.prefix, valid=3600, preferred=0)]
    node.tester.send(newer.advertisement(), mac=network.mac)
    update = node.tester.expect(lambda seen: node.is_update(seen) and newer.holds(seen.source))
    assert update.source != former
    assert update.message.alternate_care_of_address == update.source


@requirement("RFC6275-11.5.4", "MOV-12")
def test_former_care_of_address_is_still_listened_to_on_its_link(node: MobileNode) -> None:
    network = node.visit()
    former = node.care_of_address
    newer = replace(node.new_network(), router=network.router, mac=network.mac)
    newer.options = [o.prefix_information(network.prefix, valid=3600, preferred=0)]
    node.tester.send(newer.advertisement(), mac=network.mac)
    node.tester.expect(lambda seen: node.is_update(seen) and newer.holds(seen.source))
    peer = node.new_peer().address
    request = o.packet(peer, former, o.echo_request(1), protocol=o.ICMP)
    reply = node.tester.insist(request, lambda seen: is_echo_reply(seen) and seen.source == former)
    assert reply.destination == peer


# Home (RFC 6275 11.5.5)


@requirement("RFC6275-11.5.5", "RET-01", "RET-02", "RET-03", "RET-07", "SEC-02", "SEC-09")
@requirement("RFC6275-11.5.2", "MOV-08")
def test_return_home_deregisters_and_claims_the_home_address(node: MobileNode) -> None:
    node.visit()
    node.accepts = True
    node.move(node.home_network())
    update = node.tester.expect(node.is_deregistration)
    query = node.tester.expect(lambda seen: is_probe(seen) and seen.target == HOME_ADDRESS)
    assert query.destination == solicited_node(HOME_ADDRESS)
    assert (update.source, update.destination) == (HOME_ADDRESS, AGENT)
    assert update.header_numbers in (
        (o.ESP, o.MOBILITY),
        (o.DESTINATION_OPTIONS, o.ESP, o.MOBILITY),
    )
    assert update.spi == node.keys[BINDING].outbound.spi
    assert update.icv_is_good and update.checksum_is_good
    message = update.message
    assert message.flags & (o.ACKNOWLEDGE | o.HOME) == o.ACKNOWLEDGE | o.HOME
    assert message.alternate_care_of_address in (None, HOME_ADDRESS)
    claim = node.tester.expect(is_claim)
    assert claim.payload[4] & 0x60 == 0x20
    assert claim.payload[24:] == b"\2\1" + node.bench.macs["eth0"]
    seen = [each.packet for each in node.tester.came_seen(lambda seen: True)]
    first_claim, first_update = seen.index(claim), seen.index(update)
    assert first_update < first_claim
    assert not [each for each in seen[:first_update] if each.source == HOME_ADDRESS]


@requirement("RFC6275-11.5.5", "RET-10", "SEC-09")
def test_home_address_is_an_ordinary_address_at_home(node: MobileNode) -> None:
    node.visit()
    network = node.come_home()
    peer = node.new_peer().address
    node.tester.plays[peer] = network.mac
    request = node.ping(peer)
    reply = node.tester.insist(request, lambda seen: is_echo_reply(seen) or seen.inner is not None)
    assert reply.header_numbers == (o.ICMP,)
    assert (reply.source, reply.destination) == (HOME_ADDRESS, peer)


@requirement("RFC6275-11.5.5", "RET-08", "RET-06", "MN-07")
def test_deregistration_without_an_answer_is_repeated_and_the_address_defended(
    node: MobileNode,
) -> None:
    node.visit()
    node.accepts = False
    network = node.move(node.home_network())
    first = node.tester.expect_seen(node.is_deregistration)
    ask = o.packet(
        AGENT,
        solicited_node(HOME_ADDRESS),
        o.neighbor_solicitation(HOME_ADDRESS, AGENT_MAC),
        protocol=o.ICMP,
        hop_limit=255,
    )
    node.tester.add(ask, mac=AGENT_MAC)
    answer = node.tester.expect_seen(
        lambda seen: (
            seen.icmp_type == o.NEIGHBOR_ADVERTISEMENT
            and seen.target == HOME_ADDRESS
            and seen.destination == AGENT
        )
    )
    assert answer.destination_mac == AGENT_MAC
    assert answer.packet.payload[4] & 0x40
    second = node.tester.expect_seen(node.is_deregistration, within=3, skip=1)
    assert 0.6 < second.at - first.at < 2.0
    assert second.packet.message.sequence != first.packet.message.sequence
    assert not node.tester.came(is_claim)
    node.tester.add(node.acceptance(second.packet), mac=AGENT_MAC)
    node.tester.expect(is_claim)
    assert network.is_home


@requirement("RFC6275-11.5.5", "RET-11", "MN-05", "MN-12")
def test_leaving_home_again_at_once_registers_in_full(node: MobileNode) -> None:
    node.visit()
    node.come_home()
    last = node.updates[-1].message.sequence
    node.visit()
    update = node.updates[-1].message
    assert update.lifetime > 0
    assert 0 < (update.sequence - last) % 65536 < 0x8000
    assert update.alternate_care_of_address == node.care_of_address


@requirement("RFC6275-11.5.5", "RET-04")
def test_home_address_with_a_live_binding_is_not_probed_as_a_new_one(node: MobileNode) -> None:
    node.visit()
    node.come_home()
    probes = node.tester.came(lambda seen: is_probe(seen) and seen.target == HOME_ADDRESS)
    # What asks for the home agent's link-layer address looks the same, and comes before the update.
    seen = node.tester.came(lambda seen: True)
    update = next(each for each in seen if node.is_deregistration(each))
    assert all(seen.index(each) < seen.index(update) for each in probes)


# The daemon's own ends; these take it down, so they come last.


@requirement("RFC6275-11.7.2", "OPS-04", "MN-12")
def test_killed_daemon_goes_on_with_higher_numbers(node: MobileNode) -> None:
    node.visit()
    last = node.updates[-1].message.sequence
    node.bench.stop_daemon(signal.SIGKILL)
    node.tester.listen()
    node.accepts = True
    node.bench.start_daemon(node.settings)
    update = node.update()
    assert 0 < (update.message.sequence - last) % 65536 < 0x8000
    node.passes()


@requirement("RFC6275-11.7.1", "OPS-05")
def test_stopped_daemon_deregisters_and_leaves_nothing_behind(node: MobileNode) -> None:
    node.visit()
    node.tester.listen()
    assert node.bench.stop_daemon() == 0
    update = node.tester.expect(node.is_deregistration)
    assert update.home_address == HOME_ADDRESS
    assert "mnagent0" not in node.bench.node.show("link", "show")
    assert str(HOME_ADDRESS) not in node.bench.node.show("-6", "addr", "show")
    assert "6275" not in node.bench.node.show("-6", "rule", "show")
