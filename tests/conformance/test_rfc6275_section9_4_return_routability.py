"""The correspondent node's half of the return routability procedure (RFC 6275 5.2, 9.4)."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.mobility.nonces import MAX_NONCES
from mnagent.wire.ipv6 import IPv6Packet, Type2RoutingHeader
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingStatus,
    CareOfTest,
    HomeTest,
    HomeTestInit,
)
from tests.support.correspondent import (
    CARE_OF_ADDRESS,
    CORRESPONDENT,
    HOME_ADDRESS,
    OTHER_CARE_OF_ADDRESS,
    OTHER_CORRESPONDENT,
    OTHER_HOME_ADDRESS,
    Peer,
    arrived,
    bound,
    home_address_option,
    make_correspondent,
    only_acknowledgement,
    only_sent,
)
from tests.support.requirement import requirement

FLOOD = 100_000


def with_home_address_option(event: PacketReceived) -> PacketReceived:
    headers = (home_address_option(OTHER_HOME_ADDRESS),)
    return arrived(replace(event.packet, extension_headers=headers))


@requirement("RFC6275-9.4.1", "CN-16")
def test_home_test_init_is_answered_to_the_home_address() -> None:
    node = make_correspondent()
    event = Peer().home_test_init(cookie=b"12345678")
    packet, test = only_sent(node.handle(event, 0.0), HomeTest)
    assert (packet.source, packet.destination) == (CORRESPONDENT, HOME_ADDRESS)
    assert test.cookie == b"12345678"
    assert len(test.keygen_token) == 8
    assert packet.extension_headers == ()


@requirement("RFC6275-9.4.2", "CN-17")
def test_care_of_test_init_is_answered_to_the_care_of_address() -> None:
    node = make_correspondent()
    event = Peer().care_of_test_init(cookie=b"12345678")
    packet, test = only_sent(node.handle(event, 0.0), CareOfTest)
    assert (packet.source, packet.destination) == (CORRESPONDENT, CARE_OF_ADDRESS)
    assert test.cookie == b"12345678"
    assert packet.extension_headers == ()


@requirement("RFC6275-5.2.5", "CN-16", "CN-17")
def test_tokens_differ_by_address_and_by_kind_and_not_by_cookie() -> None:
    node = make_correspondent()
    one, other = Peer(), Peer(home_address=OTHER_HOME_ADDRESS)
    tokens = {
        one.ask_for_home_token(node).keygen_token,
        other.ask_for_home_token(node).keygen_token,
        one.ask_for_care_of_token(node).keygen_token,
        one.ask_for_care_of_token(node, address=HOME_ADDRESS).keygen_token,
    }
    assert len(tokens) == 4
    _, again = only_sent(node.handle(one.home_test_init(b"anothero"), 1.0), HomeTest)
    assert again.keygen_token == one.home_token


@requirement("RFC6275-9.4.1", "CN-18")
def test_home_test_init_with_a_home_address_option_is_ignored() -> None:
    node = make_correspondent()
    assert node.handle(with_home_address_option(Peer().home_test_init()), 0.0) == []
    assert node.drops[DropReason.HOME_ADDRESS_OPTION_IN_TEST] == 1


@requirement("RFC6275-9.4.2", "CN-19")
def test_care_of_test_init_with_a_home_address_option_is_ignored() -> None:
    node = make_correspondent()
    assert node.handle(with_home_address_option(Peer().care_of_test_init()), 0.0) == []
    assert node.drops[DropReason.HOME_ADDRESS_OPTION_IN_TEST] == 1


@requirement("RFC6275-9.4.1", "CN-20")
def test_tests_of_a_bound_mobile_node_are_answered_without_its_binding() -> None:
    node = make_correspondent()
    peer = bound(node)
    home, _ = only_sent(node.handle(peer.home_test_init(), 1.0), HomeTest)
    assert (home.destination, home.extension_headers) == (HOME_ADDRESS, ())
    event = peer.care_of_test_init(OTHER_CARE_OF_ADDRESS)
    care_of, _ = only_sent(node.handle(event, 1.0), CareOfTest)
    assert (care_of.destination, care_of.extension_headers) == (OTHER_CARE_OF_ADDRESS, ())


@requirement("RFC6275-5.2.2", "CN-21")
def test_nonce_index_changes_every_thirty_seconds() -> None:
    node = make_correspondent()
    peer = Peer()
    indices = [peer.ask_for_home_token(node, now).nonce_index for now in (0.0, 29.0, 30.0, 61.0)]
    assert indices[0] == indices[1]
    assert len(set(indices)) == 3


@requirement("RFC6275-5.2.7", "CN-22")
@pytest.mark.parametrize("issued_at", [0.0, 29.0])
def test_token_is_accepted_until_its_nonce_is_240_seconds_old(issued_at: float) -> None:
    node = make_correspondent()
    Peer(home_address=OTHER_HOME_ADDRESS).ask_for_home_token(node, 0.0)
    peer = Peer().run_tests(node, issued_at)
    assert only_acknowledgement(node.handle(peer.update(1), issued_at + 210.0)).is_accepted
    assert only_acknowledgement(node.handle(peer.update(2), 239.9)).is_accepted
    late = only_acknowledgement(node.handle(peer.update(3), 240.0))
    assert late.status is BindingStatus.EXPIRED_NONCES


@requirement("RFC6275-5.2.5", "CN-23")
def test_flood_of_tests_from_forged_sources_leaves_nothing_behind() -> None:
    node = make_correspondent()
    sources = [IPv6Address((0x20010DB8 << 96) | (each << 64) | 1) for each in range(500)]

    def flood(tests: int, start: float) -> None:
        for each in range(tests):
            packet = IPv6Packet(sources[each % 500], CORRESPONDENT, HomeTestInit(bytes(8)))
            event = PacketReceived(packet=packet, interface=2)
            assert len(node.handle(event, start + each / 1000)) == 1

    flood(5000, 0.0)
    gc.collect()
    before = sys.getallocatedblocks()
    flood(FLOOD, 1000.0)
    gc.collect()
    assert sys.getallocatedblocks() - before < 500
    assert node.bindings == ()
    node.handle_timer(2000.0)
    assert node.next_deadline() is None


@requirement("RFC6275-5.2.5", "CN-23")
def test_flood_of_tests_does_not_stop_service_to_bound_mobile_nodes() -> None:
    node = make_correspondent()
    peer = bound(node)
    now = 10.0
    for each in range(20_000):
        now = 10.0 + each / 100_000
        source = IPv6Address((0x20010DB9 << 96) | (each << 64) | 1)
        packet = IPv6Packet(source, CORRESPONDENT, HomeTestInit(bytes(8)))
        assert len(node.handle(PacketReceived(packet=packet, interface=2), now)) <= 1
    assert node.drops[DropReason.RATE_LIMITED] > 15_000
    peer.run_tests(node, now)
    assert only_acknowledgement(node.handle(peer.update(2), now)).is_accepted
    # Strangers have their share again as soon as the flood lets go.
    Peer(home_address=OTHER_HOME_ADDRESS, care_of_address=OTHER_CARE_OF_ADDRESS).run_tests(
        node, now + 0.1
    )


def test_nonces_stay_few_under_a_lasting_flood() -> None:
    node = make_correspondent()
    peer = Peer()
    indices = {peer.ask_for_home_token(node, float(now)).nonce_index for now in range(0, 2400, 10)}
    assert len(indices) == 2400 / 30
    deadline = node.next_deadline()
    assert deadline is not None and deadline >= 2400 - 30 * MAX_NONCES


@requirement("RFC6275-9.4", "CN-60")
def test_tests_of_a_mobile_correspondent_are_answered_from_its_home_address() -> None:
    # The correspondent is away itself; its home agent has tunnelled the message to it.
    node = make_correspondent()
    event = replace(Peer().home_test_init(), tunnel_source=IPv6Address("2001:db8:c::f"))
    packet, _ = only_sent(node.handle(event, 0.0), HomeTest)
    assert packet.source == CORRESPONDENT
    assert packet.extension_headers == ()


@requirement("RFC6275-6.2.7", "CN-60")
def test_update_by_routing_header_is_authorized_for_the_correspondents_home_address() -> None:
    node = make_correspondent()
    peer = Peer().run_tests(node)
    plain = peer.update().packet
    away = replace(
        plain,
        destination=IPv6Address("2001:db8:d::9"),
        extension_headers=(Type2RoutingHeader(CORRESPONDENT), *plain.extension_headers),
    )
    answer, _ = only_sent(node.handle(arrived(away), 0.0), BindingAcknowledgement)
    assert answer.source == CORRESPONDENT
    assert peer.is_authentic(answer)
    assert node.bindings[0].correspondent == CORRESPONDENT


def test_tests_from_addresses_nobody_can_have_are_ignored() -> None:
    node = make_correspondent()
    for source in ("ff0e::1", "fe80::1", "::", "::1", str(OTHER_CORRESPONDENT)):
        peer = Peer(home_address=IPv6Address(source), care_of_address=IPv6Address(source))
        assert node.handle(peer.home_test_init(), 0.0) == []
        assert node.handle(peer.care_of_test_init(), 0.0) == []
    assert node.drops[DropReason.HOME_ADDRESS_NOT_ROUTABLE] == 5
    assert node.drops[DropReason.CARE_OF_ADDRESS_NOT_ROUTABLE] == 5
