"""The mobile node towards correspondents: return routability and the direct path."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.blackbox import octets as o
from tests.blackbox.correspondent import is_echo_reply
from tests.blackbox.keys import RETURN_ROUTABILITY
from tests.blackbox.mobile_node import AGENT, HOME_ADDRESS, LIFETIME, Correspondent, MobileNode
from tests.support.requirement import requirement


@pytest.fixture(scope="module")
def node() -> Iterator[MobileNode]:
    """One daemon for all tests of this module."""
    node = MobileNode()
    try:
        yield node
        assert node.strays == []
    finally:
        node.bench.close()


@pytest.fixture
def peer(node: MobileNode) -> Correspondent:
    """A correspondent that the node never talked to; the node is on a link it never saw."""
    node.visit()
    return node.new_peer()


# Tests (RFC 6275 11.6.1)


@requirement("RFC6275-11.6.1", "RR-01", "RR-02", "SEC-03", "SEC-07", "FMT-01", "FMT-05", "FMT-06")
def test_both_tests_start_side_by_side(node: MobileNode, peer: Correspondent) -> None:
    home, care_of = node.start_tests(peer)
    assert (home.source, home.destination) == (node.care_of_address, AGENT)
    assert home.header_numbers == (o.ESP, o.IPV6)
    assert home.spi == node.keys[RETURN_ROUTABILITY].outbound.spi
    assert home.icv_is_good
    inner = home.inner
    assert (inner.source, inner.destination) == (HOME_ADDRESS, peer.address)
    assert inner.header_numbers == (o.MOBILITY,)
    assert care_of.source == node.care_of_address
    assert care_of.header_numbers == (o.MOBILITY,)
    for packet in (inner, care_of):
        assert packet.checksum_is_good
        message = packet.message
        assert (message.header_length, message.payload_protocol, message.reserved) == (1, 59, 0)
    assert inner.message.cookie != care_of.message.cookie


@requirement("RFC6275-11.8", "RR-03")
def test_unanswered_tests_are_repeated_with_new_cookies_and_back_off(
    node: MobileNode, peer: Correspondent
) -> None:
    node.start_tests(peer)
    for is_init in (
        lambda seen: seen.message.kind == o.CARE_OF_TEST_INIT and seen.destination == peer.address,
        lambda seen: (
            seen.inner.message.kind == o.HOME_TEST_INIT and seen.inner.destination == peer.address
        ),
    ):
        seen = [node.tester.expect_seen(is_init, within=6, skip=number) for number in range(3)]
        gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(seen)]
        assert gaps[0] == pytest.approx(1.0, abs=0.4)
        assert gaps[1] == pytest.approx(2.0, abs=0.6)
        messages = [each.packet.message or each.packet.inner.message for each in seen]
        assert len({message.cookie for message in messages}) == 3


@requirement("RFC6275-11.6.2", "RR-04", "RR-05")
def test_wrong_answers_are_ignored(node: MobileNode, peer: Correspondent) -> None:
    home, care_of = node.start_tests(peer)
    other = node.new_peer()
    test = o.home_test(1, home.inner.message.cookie, peer.home_token)
    plain = o.packet(peer.address, HOME_ADDRESS, test)
    node.tester.add(
        node.home_test(peer, home, cookie=bytes(8)),
        node.home_test(other, home),
        # Not by the tunnel, and by the tunnel without protection.
        o.packet(peer.address, node.care_of_address, test, o.routing_header(HOME_ADDRESS)),
        o.packet(peer.address, node.care_of_address, test),
        node.tunnelled(plain),
        node.care_of_test(peer, care_of, cookie=bytes(8)),
        node.care_of_test(other, care_of),
    )
    node.passes()
    node.tester.add(node.care_of_test(peer, care_of))
    node.refuses(lambda seen: seen.message.kind == o.BINDING_UPDATE)
    node.tester.add(node.home_test(peer, home))
    node.peer_update(peer)


@requirement("RFC6275-11.6.2", "RR-05")
def test_care_of_test_to_the_home_address_is_ignored(node: MobileNode, peer: Correspondent) -> None:
    home, care_of = node.start_tests(peer)
    test = o.care_of_test(2, care_of.message.cookie, peer.care_of_token)
    inner = o.packet(peer.address, HOME_ADDRESS, test)
    node.tester.add(node.home_test(peer, home), node.tunnelled(inner))
    node.refuses(lambda seen: seen.message.kind == o.BINDING_UPDATE)


# Binding Updates to correspondents (RFC 6275 11.7.2)


@requirement("RFC6275-11.7.2", "RR-06", "MN-53", "FMT-09", "FMT-17", "FMT-18", "FMT-19", "CN-33")
def test_binding_update_to_a_correspondent_is_authorized(
    node: MobileNode, peer: Correspondent
) -> None:
    update = node.begin(peer)
    assert update.source == node.care_of_address
    assert update.header_numbers == (o.DESTINATION_OPTIONS, o.MOBILITY)
    assert update.home_address == HOME_ADDRESS
    assert update.checksum_is_good
    message = update.message
    assert message.flags & (o.HOME | o.KEY_MANAGEMENT | o.LINK_LOCAL) == 0
    assert message.options[4] == b"\0\1\0\2"
    assert message.offsets[4] % 2 == 0
    assert message.offsets[5] % 8 == 2
    assert message.offsets[5] + 14 == len(message.octets)
    good = o.authenticator(peer.key, node.care_of_address, peer.address, message.octets)
    assert message.options[5] == good
    assert 0 < message.lifetime <= min(420, LIFETIME)


@requirement("RFC6275-11.7.2", "MN-11")
def test_first_sequence_numbers_to_correspondents_are_random(node: MobileNode) -> None:
    node.visit()
    numbers = {node.begin(node.new_peer()).message.sequence for _ in range(4)}
    assert len(numbers) == 4


@requirement("RFC6275-11.3.1", "MN-31", "MN-38", "FMT-19", "FMT-23", "MN-13")
def test_packets_take_the_direct_path_once_it_is_acknowledged(
    node: MobileNode, peer: Correspondent
) -> None:
    node.optimize(peer)
    node.tester.send(node.direct_ping(peer))
    reply = node.tester.expect(lambda seen: is_echo_reply(seen))
    assert (reply.source, reply.destination) == (node.care_of_address, peer.address)
    assert reply.header_numbers == (o.DESTINATION_OPTIONS, o.ICMP)
    assert reply.home_address == HOME_ADDRESS
    assert reply.checksum_is_good
    option = reply.headers[0][1]
    assert (len(option), option.index(b"\xc9\x10") % 8) == (24, 6)
    node.passes()
    assert len(node.tester.came(lambda seen: seen.destination == peer.address)) == 1


@requirement("RFC6275-11.7.3", "MN-18", "MN-21", "MN-19")
def test_acknowledgements_without_authority_are_ignored(
    node: MobileNode, peer: Correspondent
) -> None:
    update = node.begin(peer)
    stranger = node.new_peer()
    node.tester.add(
        node.peer_acknowledgement(peer, update, authorized=False),
        node.peer_acknowledgement(peer, update, key=bytes(20)),
        node.peer_acknowledgement(peer, update, sequence=(update.message.sequence + 1) % 65536),
        node.peer_acknowledgement(
            peer, update, status=135, sequence=(update.message.sequence + 9) % 65536, key=bytes(20)
        ),
        node.peer_acknowledgement(stranger, update, key=peer.key),
    )
    node.passes()
    again = node.peer_update(peer, skip=1)
    assert again.message.sequence == (update.message.sequence + 1) % 65536


@requirement("RFC6275-11.7.3", "MN-20")
def test_authorized_status_135_is_answered_with_the_next_number(
    node: MobileNode, peer: Correspondent
) -> None:
    update = node.begin(peer)
    last = (update.message.sequence + 500) % 65536
    node.tester.add(node.peer_acknowledgement(peer, update, status=135, sequence=last))
    again = node.peer_update(peer, skip=1)
    assert again.message.sequence == (last + 1) % 65536


@requirement("RFC6275-11.7.3", "MN-25", "RR-09")
@pytest.mark.parametrize("status", [128, 129, 130])
def test_refusal_by_a_correspondent_leaves_the_traffic_in_the_tunnel(
    node: MobileNode, peer: Correspondent, status: int
) -> None:
    update = node.begin(peer)
    node.tester.send(node.peer_acknowledgement(peer, update, status=status))
    node.is_tunnelled(peer)
    node.refuses(lambda seen: seen.destination == peer.address and seen.message is not None)


@requirement("RFC6275-11.7.3", "MN-26")
@pytest.mark.parametrize(
    ("status", "home", "care_of"), [(136, True, False), (137, False, True), (138, True, True)]
)
def test_expired_nonces_repeat_the_tests_that_need_it(
    node: MobileNode, peer: Correspondent, status: int, home: bool, care_of: bool
) -> None:
    update = node.begin(peer)
    node.tester.send(node.peer_acknowledgement(peer, update, status=status, authorized=False))
    answers = []
    if home:
        peer.home_token = b"newhome!"
        answers.append(node.home_test(peer, node.home_test_init(peer)))
    if care_of:
        peer.care_of_token = b"newcare!"
        answers.append(node.care_of_test(peer, node.care_of_test_init(peer)))
    node.tester.add(*answers)
    again = node.peer_update(peer).message
    good = o.authenticator(peer.key, node.care_of_address, peer.address, again.octets)
    assert again.options[5] == good


@requirement("RFC6275-11.3.5", "MN-41")
def test_correspondent_without_mobile_ipv6_is_left_alone(
    node: MobileNode, peer: Correspondent
) -> None:
    _, care_of = node.start_tests(peer)
    problem = o.error(o.PARAMETER_PROBLEM, 1, 6, care_of.octets)
    node.tester.send(o.packet(peer.address, care_of.source, problem, protocol=o.ICMP))
    node.is_tunnelled(peer)
    with pytest.raises(AssertionError, match="no such packet"):
        node.tester.expect(
            lambda seen: (
                seen.destination == peer.address and seen.message.kind == o.CARE_OF_TEST_INIT
            ),
            within=2.5,
        )


@requirement("RFC6275-11.3.6", "MN-47")
def test_binding_error_from_a_correspondent_brings_traffic_back_into_the_tunnel(
    node: MobileNode, peer: Correspondent
) -> None:
    node.optimize(peer)
    error = o.packet(peer.address, node.care_of_address, o.binding_error(1, HOME_ADDRESS))
    for _ in range(20):
        node.tester.send(error, node.tunnelled(node.ping(peer.address)))
        try:
            node.tester.expect(lambda seen: node.is_reply_in_tunnel(seen, peer.address), within=0.5)
            return
        except AssertionError:
            continue
    raise AssertionError("the traffic stays on a path that the correspondent refuses")


@requirement("RFC6275-11.7.2", "MN-50")
def test_binding_refresh_request_is_answered_with_a_binding_update(
    node: MobileNode, peer: Correspondent
) -> None:
    first = node.optimize(peer)
    request = o.packet(peer.address, HOME_ADDRESS, o.mobility(o.REFRESH_REQUEST, bytes(2)))
    node.tester.send(node.tunnelled(request))

    def answer(kind: int) -> None:
        if kind == o.HOME_TEST_INIT:
            node.tester.add(node.home_test(peer, node.home_test_init(peer)))
        else:
            node.tester.add(node.care_of_test(peer, node.care_of_test_init(peer)))

    seen = node.tester.expect(
        lambda seen: (
            seen.destination == peer.address
            and seen.message.kind in (o.BINDING_UPDATE, o.CARE_OF_TEST_INIT)
        )
    )
    if seen.message.kind == o.CARE_OF_TEST_INIT:
        answer(o.HOME_TEST_INIT)
        answer(o.CARE_OF_TEST_INIT)
    update = node.peer_update(peer).message
    assert update.lifetime > 0
    assert 0 < (update.sequence - first.message.sequence) % 65536 < 0x8000


@requirement("RFC6275-11.7.2", "MN-50")
def test_binding_refresh_request_of_a_stranger_is_ignored(
    node: MobileNode, peer: Correspondent
) -> None:
    request = o.packet(peer.address, HOME_ADDRESS, o.mobility(o.REFRESH_REQUEST, bytes(2)))
    node.tester.send(node.tunnelled(request))
    node.refuses(lambda seen: seen.message is not None or seen.destination == peer.address)


# Handovers


@requirement("RFC6275-5.2.7", "RR-07", "MN-51", "MN-54", "MN-12", "RR-12")
def test_handover_repeats_the_care_of_test_alone_and_waits_for_the_home_agent(
    node: MobileNode, peer: Correspondent
) -> None:
    first = node.optimize(peer)
    node.accepts = False
    node.move()
    home_update = node.update()
    init = node.care_of_test_init(peer)
    assert init.source == home_update.source
    assert init.header_numbers == (o.MOBILITY,)
    peer.care_of_token = b"careof-2"
    node.tester.add(node.care_of_test(peer, init))
    is_peer_update = lambda seen: (  # noqa: E731
        seen.message.kind == o.BINDING_UPDATE and seen.destination == peer.address
    )
    node.tester.add(
        o.packet(node.new_peer().address, init.source, o.mobility(o.UNKNOWN_MESSAGE, bytes(10)))
    )
    node.tester.expect(lambda seen: seen.message.kind == o.BINDING_ERROR)
    assert not node.tester.came(is_peer_update)
    node.tester.add(node.acceptance(home_update))
    update = node.peer_update(peer)
    good = o.authenticator(peer.key, update.source, peer.address, update.message.octets)
    assert update.message.options[5] == good
    assert 0 < (update.message.sequence - first.message.sequence) % 65536 < 0x8000
    assert not node.tester.came(
        lambda seen: (
            seen.inner.message.kind == o.HOME_TEST_INIT and seen.inner.destination == peer.address
        )
    )


@requirement("RFC6275-11.7.2", "RR-10", "RET-09", "CN-49")
def test_return_home_deregisters_at_the_correspondent(
    node: MobileNode, peer: Correspondent
) -> None:
    node.optimize(peer)
    node.accepts = True
    network = node.move(node.home_network())
    node.tester.plays[peer.address] = network.mac
    update = node.peer_update(peer)
    assert update.source == HOME_ADDRESS
    message = update.message
    assert message.lifetime == 0
    # With the home token alone, and a care-of nonce index of zero (RFC 6275 5.2.6, 6.2.6).
    assert message.options[4] == b"\0\1\0\0"
    key = o.binding_key(peer.home_token)
    good = o.authenticator(key, HOME_ADDRESS, peer.address, message.octets)
    assert message.options[5] == good
    assert not node.tester.came(lambda seen: seen.message.kind == o.CARE_OF_TEST_INIT)


# A peer that is mobile too (RFC 6275 9.2, 9.4)


@requirement("RFC6275-9.4", "CN-60", "RR-11")
def test_mobile_correspondent_is_asked_at_its_home_address_and_gets_both_headers(
    node: MobileNode, peer: Correspondent
) -> None:
    node.optimize(peer)
    other_care_of = node.new_peer().address
    cookie = b"its-home"
    init = o.packet(peer.address, HOME_ADDRESS, o.home_test_init(cookie))
    node.tester.send(node.tunnelled(init))
    home = node.tester.expect(lambda seen: (seen.inner or seen).message.kind == o.HOME_TEST)
    home_message = (home.inner or home).message
    assert (home.inner or home).destination == peer.address
    init = o.packet(other_care_of, HOME_ADDRESS, o.care_of_test_init(b"its-care"))
    node.tester.send(node.tunnelled(init))
    care_of = node.tester.expect(lambda seen: (seen.inner or seen).message.kind == o.CARE_OF_TEST)
    care_of_message = (care_of.inner or care_of).message
    key = o.binding_key(home_message.token, care_of_message.token)
    indices = o.nonce_indices(home_message.nonce_index, care_of_message.nonce_index)
    message = o.binding_update(77, indices, o.AUTHORIZATION, lifetime=400)
    message = o.authorize(key, other_care_of, HOME_ADDRESS, message)
    option = o.home_address_option(peer.address)
    inner = o.packet(other_care_of, HOME_ADDRESS, message, option)
    node.tester.send(node.tunnelled(inner))
    answer = node.tester.expect(
        lambda seen: (seen.inner or seen).message.kind == o.BINDING_ACKNOWLEDGEMENT
    )
    assert (answer.inner or answer).message.status == 0
    reply = node.tester.insist(
        node.tunnelled(node.ping(peer.address)),
        lambda seen: is_echo_reply(seen) and seen.destination == other_care_of,
    )
    assert reply.source == node.care_of_address
    assert reply.header_numbers == (o.ROUTING, o.DESTINATION_OPTIONS, o.ICMP) or (
        reply.header_numbers == (o.DESTINATION_OPTIONS, o.ROUTING, o.ICMP)
    )
    assert (reply.routed_to, reply.home_address) == (peer.address, HOME_ADDRESS)
    assert reply.checksum_is_good
