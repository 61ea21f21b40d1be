"""The mobile node: registration with its home agent and the tunnel, as seen from its links."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address

import pytest

from tests.blackbox import octets as o
from tests.blackbox.correspondent import is_echo_reply
from tests.blackbox.keys import BINDING
from tests.blackbox.mobile_node import AGENT, HOME_ADDRESS, LIFETIME, MobileNode
from tests.blackbox.octets import Option, Packet
from tests.support.requirement import requirement


@pytest.fixture(scope="module")
def node() -> Iterator[MobileNode]:
    """One daemon for all tests of this module; each test moves it to a new link."""
    # Tests of return routability would be in the way, and their silence a reason to update.
    node = MobileNode(route_optimization="never")
    try:
        yield node
        assert node.strays == []
    finally:
        node.bench.close()


# Binding Updates (RFC 6275 11.7.1)


@requirement("RFC6275-11.7.1", "MN-01", "MN-03", "MN-02", "SEC-01", "FMT-01", "FMT-02")
@requirement("RFC6275-6.1.7", "FMT-09", "FMT-16", "FMT-19")
def test_binding_update_is_as_the_figures_show_it(node: MobileNode) -> None:
    network = node.move()
    update = node.update()
    assert network.holds(update.source)
    assert update.destination == AGENT
    assert update.header_numbers == (o.DESTINATION_OPTIONS, o.ESP, o.MOBILITY)
    assert update.home_address == HOME_ADDRESS
    option = update.headers[0][1]
    assert (len(option), option.index(b"\xc9\x10") % 8) == (24, 6)
    assert update.spi == node.keys[BINDING].outbound.spi
    assert update.icv_is_good
    assert update.checksum_is_good
    message = update.message
    assert (message.payload_protocol, message.reserved) == (59, 0)
    assert message.flags == o.ACKNOWLEDGE | o.HOME
    assert message.alternate_care_of_address == update.source
    assert message.offsets[3] % 8 == 6
    assert len(message.octets) == 32
    assert 0 < message.lifetime <= LIFETIME
    node.passes()


@requirement("RFC6275-11.7.2", "MN-08", "MN-12", "RET-11")
def test_sequence_numbers_go_on_from_link_to_link(node: MobileNode) -> None:
    for _ in range(3):
        node.visit()
    numbers = [update.message.sequence for update in node.updates]
    for earlier, later in itertools.pairwise(numbers):
        assert 0 < (later - earlier) % 0x10000 < 0x8000


@requirement("RFC6275-11.7.1", "MN-04", "MN-53")
def test_lifetime_is_no_longer_than_the_care_of_addresss(node: MobileNode) -> None:
    network = node.new_network()
    network.valid = network.preferred = 100
    node.visit(network)
    assert node.updates[-1].message.lifetime <= 100


@requirement("RFC6275-11.8", "MN-07", "MN-08")
def test_unanswered_update_is_repeated_with_back_off_and_new_numbers(node: MobileNode) -> None:
    node.visit()
    node.accepts = False
    node.move()
    seen = [node.tester.expect_seen(node.is_update, within=6, skip=number) for number in range(3)]
    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(seen)]
    assert gaps[0] == pytest.approx(1.0, abs=0.4)
    assert gaps[1] == pytest.approx(2.0, abs=0.5)
    numbers = [each.packet.message.sequence for each in seen]
    assert [(number - numbers[0]) % 0x10000 for number in numbers] == [0, 1, 2]


@requirement("RFC6275-11.8", "MN-10")
def test_updates_are_no_more_than_three_a_second(node: MobileNode) -> None:
    node.visit()
    started = len(node.updates)
    arrivals: list[float] = []

    def note(seen: object) -> None:
        if len(node.updates) > started + len(arrivals):
            arrivals.append(time.monotonic())

    node.tester.reactions.append(note)
    try:
        for _ in range(8):
            node.move()
            node.tester.expect(lambda seen: seen.icmp_type == o.ROUTER_SOLICITATION)
        node.update()
    finally:
        node.tester.reactions.remove(note)
    for first, fourth in zip(arrivals, arrivals[3:], strict=False):
        # A little less, for the tester notes them after the node sent them.
        assert fourth - first > 0.9
    node.passes()


# Binding Acknowledgements (RFC 6275 11.7.3)


@requirement("RFC6275-11.7.3", "MN-13", "MN-30", "MN-29")
def test_acknowledged_update_is_not_repeated_and_the_tunnel_works(node: MobileNode) -> None:
    node.visit()
    peer = node.new_peer()
    node.tester.send(node.tunnelled(node.ping(peer.address)))
    reply = node.tester.expect(lambda seen: node.is_reply_in_tunnel(seen, peer.address))
    assert (reply.source, reply.destination) == (node.care_of_address, AGENT)
    assert reply.header_numbers[-1] == o.IPV6
    assert reply.inner.source == HOME_ADDRESS
    assert not node.tester.came(node.is_update)


def _shorten(message: bytes) -> bytes:
    return message[:1] + b"\0" + message[2:]


def _flip(message: bytes) -> bytes:
    return message[:4] + bytes([message[4] ^ 1]) + message[5:]


BAD_ANSWERS: dict[str, Callable[[MobileNode, Packet], bytes]] = {
    "wrong sequence": lambda node, update: node.acknowledge(
        update, sequence=(update.message.sequence + 1) % 0x10000
    ),
    "old sequence": lambda node, update: node.acknowledge(
        update, sequence=(update.message.sequence - 1) % 0x10000
    ),
    "not protected": lambda node, update: node.acknowledge(update, protect=False),
    "other association": lambda node, update: node.acknowledge(update, purpose="payload"),
    "other source": lambda node, update: node.acknowledge(
        update, source=IPv6Address("2001:db8:1::2")
    ),
    "too short": lambda node, update: node.acknowledge(update, spoil=_shorten),
    "bad checksum": lambda node, update: node.acknowledge(update, spoil=_flip),
    "bad option": lambda node, update: node.acknowledge(update, Option(2, b"\xff" * 4)),
    "bad integrity check": lambda node, update: node.acknowledge(update)[:-1] + b"\0",
}


@requirement("RFC6275-11.7.3", "MN-17", "MN-18", "MN-19", "MN-28", "SEC-07", "SEC-18", "MHP-01")
def test_bad_acknowledgements_are_ignored_and_the_update_is_repeated(node: MobileNode) -> None:
    node.visit()
    node.accepts = False
    node.move()
    first = node.update()
    node.tester.add(*(bad(node, first) for bad in BAD_ANSWERS.values()))
    second = node.update(within=3, skip=1)
    assert second.message.sequence == (first.message.sequence + 1) % 0x10000
    node.tester.add(*(bad(node, second) for bad in BAD_ANSWERS.values()))
    third = node.update(within=5, skip=2)
    node.tester.send(node.acceptance(third))
    node.passes()
    assert not node.tester.came(node.is_update)


@requirement("RFC6275-11.7.3", "MN-08", "MN-17")
def test_acknowledgement_of_the_update_before_is_not_accepted(node: MobileNode) -> None:
    node.visit()
    node.accepts = False
    node.move()
    first = node.update()
    node.update(within=3, skip=1)
    node.tester.add(node.acceptance(first))
    node.update(within=4, skip=2)


@requirement("RFC4303-3.4", "SEC-18")
def test_replayed_acknowledgement_is_ignored(node: MobileNode) -> None:
    node.visit()
    node.accepts = False
    node.move()
    update = node.update()
    refusal = node.acknowledge(
        update, status=135, sequence=(update.message.sequence + 100) % 0x10000
    )
    node.tester.add(refusal)
    again = node.update(skip=1)
    node.tester.add(refusal)
    node.tester.add(node.acceptance(again))
    node.passes()
    assert len(node.tester.came(node.is_update)) == 2


@requirement("RFC6275-11.7.3", "MN-20")
def test_status_135_is_answered_with_the_number_after_the_home_agents(node: MobileNode) -> None:
    node.visit()
    node.accepts = False
    node.move()
    update = node.update()
    last = (update.message.sequence + 1000) % 0x10000
    node.tester.add(node.acknowledge(update, status=135, sequence=last))
    # At once, but no more than three updates a second leave.
    again = node.update(within=2, skip=1)
    assert again.message.sequence == (last + 1) % 0x10000
    node.tester.add(node.acceptance(again))
    node.passes()


@requirement("RFC6275-11.7.3", "MN-14", "MN-15", "MN-05")
def test_granted_lifetime_is_kept_to(node: MobileNode) -> None:
    node.visit()
    node.granted = 4
    try:
        node.move()
        granted = node.tester.expect_seen(node.is_update)
        refresh = node.tester.expect_seen(node.is_update, within=4.5, skip=1)
    finally:
        node.granted = None
    assert 1.0 < refresh.at - granted.at < 4.0
    assert refresh.packet.message.lifetime > 4


@requirement("RFC6275-11.7.3", "MN-16", "FMT-15")
def test_refresh_advice_is_followed(node: MobileNode) -> None:
    node.visit()
    node.accepts = False
    node.move()
    update = node.tester.expect_seen(node.is_update)
    advice = Option(2, b"\0\1", 2, 0)
    node.tester.add(node.acknowledge(update.packet, advice, lifetime=LIFETIME))
    node.accepts = True
    refresh = node.tester.expect_seen(node.is_update, within=6, skip=1)
    assert 1.0 < refresh.at - update.at <= 4.5


@requirement("RFC6275-11.7.3", "MN-24")
def test_refusal_is_not_answered_in_a_tight_loop(node: MobileNode) -> None:
    node.visit()
    node.accepts = False
    node.move()
    update = node.tester.expect_seen(node.is_update)
    node.tester.add(node.acknowledge(update.packet, status=129, lifetime=0))
    with pytest.raises(AssertionError, match="no such packet"):
        node.tester.expect(node.is_update, within=2.5, skip=1)


@requirement("RFC6275-8.5", "MN-55", "MN-52")
def test_switched_off_route_optimization_keeps_everything_in_the_tunnel(node: MobileNode) -> None:
    node.visit()
    peer = node.new_peer()
    for _ in range(3):
        node.is_tunnelled(peer)
    assert not node.tester.came(
        lambda seen: seen.destination == peer.address or seen.inner.message.kind == o.HOME_TEST_INIT
    )


# Errors (RFC 6275 11.3.5, 11.3.6)


@requirement("RFC6275-11.3.6", "MN-46")
def test_binding_error_from_the_home_agent_makes_it_register_again(node: MobileNode) -> None:
    node.visit()
    before = node.updates[-1].message.sequence
    error = o.packet(AGENT, node.care_of_address, o.binding_error(1, HOME_ADDRESS))
    node.tester.send(error)
    assert node.update().message.sequence == (before + 1) % 0x10000


@requirement("RFC6275-11.3.6", "MN-45", "MN-49", "MHP-10")
@pytest.mark.parametrize("status", [1, 2])
def test_binding_error_from_a_stranger_is_ignored(node: MobileNode, status: int) -> None:
    node.visit()
    error = o.binding_error(status, HOME_ADDRESS)
    node.tester.send(o.packet(node.new_peer().address, node.care_of_address, error))
    node.refuses(lambda seen: seen.message is not None)


@requirement("RFC6275-11.3.5", "MN-43", "MN-42")
@pytest.mark.parametrize("code", [0, 1, 2])
def test_forged_parameter_problem_changes_nothing(node: MobileNode, code: int) -> None:
    node.visit()
    quoted = o.packet(
        node.care_of_address, AGENT, bytes(40), o.home_address_option(HOME_ADDRESS), protocol=o.ESP
    )
    for source in (AGENT, node.new_peer().address):
        problem = o.error(o.PARAMETER_PROBLEM, code, 40, quoted)
        node.tester.send(o.packet(source, node.care_of_address, problem, protocol=o.ICMP))
        node.refuses(lambda seen: node.is_update(seen))


@requirement("RFC6275-9.2", "MHP-02", "EXT-15")
@pytest.mark.parametrize("kind", [8, 14, o.UNKNOWN_MESSAGE])
def test_unknown_message_is_answered_with_binding_error(node: MobileNode, kind: int) -> None:
    node.visit()
    peer = node.new_peer().address
    node.tester.send(o.packet(peer, node.care_of_address, o.mobility(kind, bytes(10))))
    answer = node.tester.expect(lambda seen: seen.message.kind == o.BINDING_ERROR)
    assert (answer.destination, answer.message.status) == (peer, 2)


# Packets (RFC 6275 11.3.1, 11.3.3, 6.4)


@requirement("RFC6275-11.3.3", "MN-35")
def test_tunnelled_packet_from_another_than_the_home_agent_is_discarded(node: MobileNode) -> None:
    node.visit()
    peer = node.new_peer().address
    for source in (peer, IPv6Address("2001:db8:1::2")):
        node.tester.send(node.tunnelled(node.ping(peer), source))
        node.refuses(lambda seen: node.is_reply_in_tunnel(seen, peer) or seen.destination == peer)


@requirement("RFC6275-11.3.3", "MN-36", "MN-37", "FMT-22")
@pytest.mark.parametrize(
    "header",
    [
        o.routing_header(HOME_ADDRESS, segments_left=2),
        o.routing_header(HOME_ADDRESS, length=4),
        o.routing_header(IPv6Address("2001:db8:1::99")),
        o.routing_header(IPv6Address("fe80::10")),
        o.routing_header(IPv6Address("ff02::1")),
    ],
    ids=["segments", "length", "foreign", "link-local", "multicast"],
)
def test_wrong_type_2_routing_header_is_discarded(node: MobileNode, header: o.Header) -> None:
    node.visit()
    peer = node.new_peer().address
    request = o.packet(peer, node.care_of_address, o.echo_request(1), header, protocol=o.ICMP)
    node.tester.send(request)
    node.refuses(
        lambda seen: (
            node.is_reply_in_tunnel(seen, peer)
            or seen.destination == peer
            or (is_echo_reply(seen) and seen.destination != AGENT)
        )
    )


@requirement("RFC6275-11.3.1", "MN-32", "MN-34", "MOV-09")
def test_nothing_of_the_home_address_is_on_a_foreign_link_outside_the_tunnel(
    node: MobileNode,
) -> None:
    node.visit()
    node.leave()
    node.visit()
    assert node.strays == []


@requirement("RFC6275-8.5", "MN-33")
def test_care_of_address_answers_natively(node: MobileNode) -> None:
    node.visit()
    peer = node.new_peer().address
    node.tester.send(o.packet(peer, node.care_of_address, o.echo_request(1), protocol=o.ICMP))
    reply = node.tester.expect(is_echo_reply)
    assert (reply.source, reply.destination) == (node.care_of_address, peer)
    assert reply.header_numbers == (o.ICMP,)
