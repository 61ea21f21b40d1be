"""What a mobile node does besides registering: it discovers home agents and the home link's
prefixes, lets itself be sent to another home agent, and bears that its binding is ended."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from tests.blackbox import octets as o
from tests.blackbox.keys import BINDING, PREFIX_DISCOVERY
from tests.blackbox.mobile_node import AGENT, HOME_ADDRESS, HOME_PREFIX, MobileNode
from tests.blackbox.octets import Packet
from tests.support.requirement import requirement

ANYCAST = IPv6Address("2001:db8:1:0:fdff:ffff:ffff:fffe")
"""Mobile IPv6 Home-Agents of the home prefix (RFC 2526 sections 2 and 3)."""
OTHER_AGENT = IPv6Address("2001:db8:1::2")
WITHOUT_KEYS = IPv6Address("2001:db8:1::3")
NEW_PREFIX = IPv6Address("2001:db8:2::")
UNKNOWN_OPTION = b"\xc8\1" + bytes(6)
ADMINISTRATIVE_REASON = 1
NO_SUCH_BINDING, NO_SUCH_TRIGGER, NO_PROXY = 128, 133, 135
"""Of a Binding Revocation Acknowledgement (RFC 5846 section 5.2)."""
PROXY = 0x8000

_sequences = itertools.count(0x1234)


@pytest.fixture(scope="module")
def node() -> Iterator[MobileNode]:
    """One daemon for the tests of this module that leave it as it was; each moves it."""
    node = MobileNode(route_optimization="never")
    try:
        yield node
        assert node.strays == []
    finally:
        node.bench.close()


@pytest.fixture
def own_node(request: pytest.FixtureRequest) -> Iterator[MobileNode]:
    """A mobile node with keys for two home agents, for one test."""
    node = MobileNode(OTHER_AGENT, route_optimization="never", **request.param)
    try:
        yield node
        assert node.strays == []
    finally:
        node.bench.close()


def configured(**settings: object) -> pytest.MarkDecorator:
    """What the mobile node of a test is told."""
    return pytest.mark.parametrize("own_node", [settings], indirect=True, ids=[""])


BOTH_AGENTS = configured(home_agent=[str(AGENT), str(OTHER_AGENT)])


# Dynamic home agent address discovery (RFC 6275 11.4.1)


def is_request(seen: Packet) -> bool:
    """A Home Agent Address Discovery Request."""
    return seen.icmp_type == o.DISCOVERY_REQUEST


def reply(request: Packet, *addresses: IPv6Address, identifier: int | None = None) -> bytes:
    """The answer of some home agent."""
    listed = b"".join(address.packed for address in addresses)
    identifier = request.identifier if identifier is None else identifier
    message = o.identified(o.DISCOVERY_REPLY, identifier, listed)
    return o.packet(WITHOUT_KEYS, request.source, message, protocol=o.ICMP)


@requirement("RFC6275-11.4.1", "DHA-01", "DHA-03", "DHA-04", "FMT-24")
@configured(home_agent=None)
def test_home_agents_are_discovered_and_tried_in_the_order_of_the_reply(
    own_node: MobileNode,
) -> None:
    node = own_node
    node.accepts = False
    network = node.move()
    request = node.tester.expect(is_request)
    assert request.destination == ANYCAST
    assert network.holds(request.source)
    assert request.header_numbers == (o.ICMP,)
    assert request.checksum_is_good
    assert (request.payload[1], request.payload[6:]) == (0, bytes(2))
    # Of another request: it must not be believed, and comes before the one that is.
    node.tester.add(reply(request, AGENT, identifier=request.identifier ^ 1))
    node.tester.add(reply(request, WITHOUT_KEYS, OTHER_AGENT, AGENT))
    updates = [
        node.tester.expect(is_registration, within=8, what="registration", skip=number)
        for number in range(3)
    ]
    tried = [update.destination for update in updates]
    assert tried[0] == OTHER_AGENT
    assert tried[-1] == AGENT
    assert updates[0].spi == node.others[OTHER_AGENT][BINDING].outbound.spi
    assert updates[-1].spi == node.keys[BINDING].outbound.spi


def is_registration(seen: Packet) -> bool:
    """A Binding Update to any home agent, which is not a deregistration."""
    return (
        seen.message is not None
        and seen.message.kind == o.BINDING_UPDATE
        and seen.message.lifetime > 0
    )


@requirement("RFC6275-11.4.1", "DHA-02")
@configured(home_agent=None)
def test_request_that_is_not_answered_goes_again(own_node: MobileNode) -> None:
    own_node.move()
    first = own_node.tester.expect_seen(is_request)
    again = own_node.tester.expect_seen(is_request, within=5, skip=1)
    assert again.at - first.at == pytest.approx(3.0, abs=0.5)
    assert (again.packet.destination, again.packet.source) == (ANYCAST, first.packet.source)


# Mobile prefix discovery (RFC 6275 11.4.2, 11.4.3)


def is_solicitation(seen: Packet) -> bool:
    """A Mobile Prefix Solicitation."""
    return seen.icmp_type == o.PREFIX_SOLICITATION


def hinted(node: MobileNode) -> Packet:
    """Move it; its home agent hints that it should ask for the prefixes (status 1), and it does."""
    node.accepts = False
    node.move()
    node.tester.add(node.acknowledge(node.update(), status=1))
    node.accepts = True
    return node.tester.expect(is_solicitation)


def home_prefix(prefix: IPv6Address, agent: IPv6Address | None = None) -> bytes:
    """Prefix Information of the home link, where it has a home agent with that address."""
    return o.prefix_information(agent or prefix, flags=0xE0 if agent else 0xC0)


def advertisement(
    node: MobileNode,
    identifier: int,
    *options: bytes,
    purpose: str | None = PREFIX_DISCOVERY,
    source: IPv6Address = AGENT,
    is_routed: bool = True,
) -> bytes:
    """A Mobile Prefix Advertisement."""
    body = b"".join(options) or home_prefix(HOME_PREFIX, AGENT)
    message = o.identified(o.PREFIX_ADVERTISEMENT, identifier, body)
    return node.from_agent(
        message, protocol=o.ICMP, purpose=purpose, source=source, is_routed=is_routed
    )


@requirement("RFC6275-11.4.2", "MPD-01", "FMT-25", "SEC-04", "SEC-10")
def test_solicitation_is_as_the_figures_show_it(node: MobileNode) -> None:
    solicitation = hinted(node)
    assert node.network is not None and node.network.holds(solicitation.source)
    assert solicitation.destination == AGENT
    assert solicitation.header_numbers == (o.DESTINATION_OPTIONS, o.ESP, o.ICMP)
    assert solicitation.home_address == HOME_ADDRESS
    assert solicitation.spi == node.keys[PREFIX_DISCOVERY].outbound.spi
    assert solicitation.icv_is_good
    assert solicitation.checksum_is_good
    assert (solicitation.payload[1], solicitation.payload[6:]) == (0, bytes(2))
    node.tester.add(advertisement(node, solicitation.identifier))
    assert hinted(node).identifier != solicitation.identifier


@requirement("RFC6275-11.8", "MPD-02")
def test_solicitation_that_is_not_answered_goes_again(node: MobileNode) -> None:
    hinted(node)
    first, again = (
        node.tester.expect_seen(is_solicitation, within=5, skip=number) for number in (0, 1)
    )
    assert again.at - first.at == pytest.approx(3.0, abs=0.5)


@requirement("RFC6275-11.4.3", "MPD-04")
def test_unsolicited_advertisement_is_answered_by_a_solicitation(node: MobileNode) -> None:
    solicitation = hinted(node)
    node.tester.send(advertisement(node, solicitation.identifier))
    node.refuses(is_solicitation)
    # The answer came: what comes now was not asked for.
    node.tester.send(advertisement(node, solicitation.identifier))
    assert node.tester.expect(is_solicitation).home_address == HOME_ADDRESS


@requirement("RFC6275-11.4.3", "MPD-03", "SEC-04", "SEC-07")
@pytest.mark.parametrize(
    "fault",
    [{"purpose": None}, {"purpose": BINDING}, {"source": OTHER_AGENT}, {"is_routed": False}],
    ids=["unprotected", "other association", "other source", "no routing header"],
)
def test_advertisement_that_fails_a_test_is_discarded(node: MobileNode, fault: dict) -> None:
    solicitation = hinted(node)
    node.tester.send(advertisement(node, solicitation.identifier))
    node.refuses(is_solicitation)
    # One that passed them all would be answered now, see the test before.
    node.tester.send(advertisement(node, 0, **fault))
    node.refuses(is_solicitation)


@requirement("RFC6275-11.4.3", "MPD-05", "MPD-07")
@configured()
def test_new_home_prefix_brings_a_home_address_that_is_registered(own_node: MobileNode) -> None:
    node = own_node
    solicitation = hinted(node)
    node.accepts = False
    prefixes = home_prefix(HOME_PREFIX, AGENT), UNKNOWN_OPTION, home_prefix(NEW_PREFIX)
    node.tester.send(advertisement(node, solicitation.identifier, *prefixes))
    update = node.update()
    # The same interface identifier, under the same keys.
    assert update.home_address == IPv6Address("2001:db8:2::10")
    assert update.spi == node.keys[BINDING].outbound.spi
    assert update.checksum_is_good
    assert update.message.flags == o.ACKNOWLEDGE | o.HOME
    node.passes()


# Another home agent (RFC 5142)


@requirement("RFC5142-6.1", "EXT-06")
@BOTH_AGENTS
def test_mobile_node_that_is_sent_to_another_home_agent_leaves_the_first(
    own_node: MobileNode,
) -> None:
    node = own_node
    node.visit()
    # What nothing protects, or something else does, is not followed.
    switch = o.home_agent_switch(WITHOUT_KEYS, OTHER_AGENT)
    for purpose in (None, PREFIX_DISCOVERY):
        node.tester.send(node.from_agent(switch, purpose=purpose))
        node.refuses(lambda seen: seen.message is not None)
    node.tester.send(node.from_agent(switch))
    assert node.tester.expect(node.is_deregistration).home_address == HOME_ADDRESS
    update = node.tester.expect(is_registration)
    assert update.destination == OTHER_AGENT
    assert update.spi == node.others[OTHER_AGENT][BINDING].outbound.spi
    assert update.message.alternate_care_of_address == node.care_of_address


@requirement("RFC5142-6.1", "EXT-07")
@configured(home_agent_switch=False)
def test_mobile_node_told_not_to_follow_says_that_it_knows_no_such_message(
    own_node: MobileNode,
) -> None:
    own_node.visit()
    own_node.tester.send(own_node.from_agent(o.home_agent_switch(OTHER_AGENT)))
    answer = own_node.tester.expect(lambda seen: seen.message.kind == o.BINDING_ERROR)
    assert (answer.destination, answer.message.status) == (AGENT, 2)
    own_node.refuses(own_node.is_update)


# Revocation (RFC 5846)


def indication(sequence: int, *, trigger: int = ADMINISTRATIVE_REASON, flags: int = 0) -> bytes:
    """A Binding Revocation Indication."""
    return o.binding_revocation(o.REVOCATION_INDICATION, trigger, sequence, flags)


def answer_to(node: MobileNode, message: bytes) -> tuple[Packet, int]:
    """Send an indication under its association: the answer and its status."""
    sequence = struct.unpack_from("!H", message, 8)[0]
    node.tester.send(node.from_agent(message))
    answer = node.tester.expect(lambda seen: seen.message.kind == o.BINDING_REVOCATION)
    kind, status, echoed = answer.message.revocation
    assert (kind, echoed) == (o.REVOCATION_ACKNOWLEDGEMENT, sequence)
    return answer, status


@requirement("RFC5846-10", "EXT-08", "EXT-09")
def test_revoked_binding_is_given_up_and_not_asked_for_at_once(node: MobileNode) -> None:
    node.visit()
    answer, status = answer_to(node, indication(next(_sequences)))
    assert status == 0
    assert (answer.source, answer.destination) == (node.care_of_address, AGENT)
    assert answer.header_numbers == (o.DESTINATION_OPTIONS, o.ESP, o.MOBILITY)
    assert answer.home_address == HOME_ADDRESS
    assert answer.spi == node.keys[BINDING].outbound.spi
    assert answer.icv_is_good
    assert answer.checksum_is_good
    # Once more: the first answer was lost.
    assert answer_to(node, indication(next(_sequences)))[1] == NO_SUCH_BINDING
    with pytest.raises(AssertionError, match="no such packet"):
        node.tester.expect(node.is_update, within=2.5)


@requirement("RFC5846-6.2", "EXT-09")
@pytest.mark.parametrize(
    ("fault", "status"),
    [({"trigger": 200}, NO_SUCH_TRIGGER), ({"flags": PROXY}, NO_PROXY)],
    ids=["trigger", "proxy"],
)
def test_revocation_that_is_not_understood_is_refused_and_the_binding_kept(
    node: MobileNode, fault: dict, status: int
) -> None:
    node.visit()
    assert answer_to(node, indication(next(_sequences), **fault))[1] == status
    node.passes()


@requirement("RFC5846-6.2", "EXT-08", "SEC-07")
@pytest.mark.parametrize(
    "fault", [{"purpose": None}, {"source": OTHER_AGENT}], ids=["unprotected", "other source"]
)
def test_revocation_that_is_not_the_home_agents_is_ignored(node: MobileNode, fault: dict) -> None:
    node.visit()
    node.tester.send(node.from_agent(indication(next(_sequences)), **fault))
    node.refuses(lambda seen: seen.message is not None)
