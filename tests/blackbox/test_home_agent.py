"""The home agent with a virtual home link, as mobile nodes and attackers see it."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from tests.blackbox import octets as o
from tests.blackbox.correspondent import is_echo_reply, is_icmp_error
from tests.blackbox.home_agent import AGENT, CORRESPONDENT, MAX_LIFETIME, HomeAgent, MobileNode
from tests.blackbox.keys import BINDING, RETURN_ROUTABILITY
from tests.support.requirement import requirement


@pytest.fixture(scope="module")
def agent() -> Iterator[HomeAgent]:
    """One daemon for all tests of this module."""
    agent = HomeAgent(virtual=True)
    try:
        yield agent
    finally:
        agent.bench.close()


@pytest.fixture
def mobile(agent: HomeAgent) -> MobileNode:
    """A mobile node that is served and has not been heard of."""
    return agent.mobile_node()


# Registration (RFC 6275 10.3.1)


@requirement("RFC6275-10.3.1", "HA-01", "HA-21", "HA-66", "SEC-01", "SEC-06", "FMT-02", "FMT-22")
def test_first_registration_is_accepted_under_esp(mobile: MobileNode) -> None:
    mobile.send_update(lifetime=600)
    answer = mobile.acknowledgement()
    assert (answer.source, answer.destination) == (AGENT, mobile.care_of_address)
    assert answer.header_numbers == (o.ROUTING, o.ESP, o.MOBILITY)
    assert answer.routed_to == mobile.home_address
    message = answer.message
    assert (message.status, message.sequence, message.lifetime) == (0, mobile.sequence, 600)
    assert (message.flags, message.payload_protocol) == (0, 59)
    mobile.becomes_reachable()


@requirement("RFC6275-10.3.1", "HA-02")
def test_registration_without_acknowledge_is_acknowledged(mobile: MobileNode) -> None:
    mobile.send_update(flags=o.HOME)
    assert mobile.acknowledgement().message.status == 0


@requirement("RFC6275-10.3.1", "HA-03", "SEC-07")
def test_registration_without_esp_is_ignored(mobile: MobileNode) -> None:
    packet = o.packet(mobile.care_of_address, AGENT, mobile.message(), mobile.home_address_option)
    mobile.tester.send(packet, link="out")
    mobile.is_silent()
    assert not mobile.is_reachable()


@requirement("RFC6275-5.1", "HA-03", "HA-04", "SEC-08")
def test_registration_by_another_nodes_association_is_ignored(
    agent: HomeAgent, mobile: MobileNode
) -> None:
    attacker = agent.mobile_node()
    mobile.register()
    message = o.packet(mobile.home_address, AGENT, mobile.message())[40:]
    sealed = attacker.keys[BINDING].outbound.seal(message)
    mobile.tester.send(
        o.packet(
            attacker.care_of_address,
            AGENT,
            sealed,
            mobile.home_address_option,
            protocol=o.ESP,
        ),
        link="out",
    )
    mobile.is_silent()
    assert mobile.is_reachable()


@requirement("RFC6275-10.3.1", "HA-03", "SEC-08", "SEC-10")
@pytest.mark.parametrize("purpose", [RETURN_ROUTABILITY, "payload", "prefix_discovery"])
def test_registration_by_an_association_for_something_else_is_ignored(
    mobile: MobileNode, purpose: str
) -> None:
    message = o.packet(mobile.home_address, AGENT, mobile.message())[40:]
    sealed = mobile.keys[purpose].outbound.seal(message)
    packet = o.packet(
        mobile.care_of_address, AGENT, sealed, mobile.home_address_option, protocol=o.ESP
    )
    mobile.tester.send(packet, link="out")
    mobile.is_silent()


@requirement("RFC4303-3.4", "SEC-18", "SEC-07")
def test_registration_with_wrong_integrity_check_value_is_ignored(mobile: MobileNode) -> None:
    packet = mobile.away(mobile.message())
    for at in (len(packet) - 1, len(packet) - 20, 70):
        mobile.tester.send(packet[:at] + bytes([packet[at] ^ 1]) + packet[at + 1 :], link="out")
        mobile.is_silent()


@requirement("RFC4303-3.4", "SEC-18", "SEC-15")
def test_replayed_registration_is_ignored(agent: HomeAgent, mobile: MobileNode) -> None:
    first = mobile.away(mobile.message())
    mobile.tester.send(first, link="out")
    mobile.acknowledgement()
    mobile.send_update(source=mobile.other_care_of_address)
    mobile.acknowledgement()
    mobile.tester.send(first, link="out")
    mobile.is_silent()
    assert mobile.is_reachable(mobile.other_care_of_address)


@requirement("RFC6275-10.3.1", "HA-08")
def test_registration_without_home_address_option_is_refused(mobile: MobileNode) -> None:
    sealed = mobile.seal(mobile.message())
    mobile.tester.send(o.packet(mobile.care_of_address, AGENT, sealed, protocol=o.ESP), link="out")
    mobile.is_silent()
    assert not mobile.is_reachable()


@requirement("RFC6275-9.3.1", "HA-09")
@pytest.mark.parametrize("address", ["ff02::1", "fe80::100"])
@pytest.mark.parametrize("flags", [o.ACKNOWLEDGE | o.HOME, o.ACKNOWLEDGE | o.HOME | o.LINK_LOCAL])
def test_home_address_that_is_not_routable_is_dropped(
    mobile: MobileNode, address: str, flags: int
) -> None:
    home_address = IPv6Address(address)
    whole = o.packet(home_address, AGENT, mobile.message(flags=flags))[40:]
    sealed = mobile.keys[BINDING].outbound.seal(whole)
    option = o.home_address_option(home_address)
    mobile.tester.send(
        o.packet(mobile.care_of_address, AGENT, sealed, option, protocol=o.ESP), link="out"
    )
    mobile.is_silent()


@requirement("RFC6275-9.5.1", "HA-10", "FMT-17")
def test_registration_with_nonce_indices_is_ignored(mobile: MobileNode) -> None:
    mobile.send_update(o.nonce_indices(1, 1))
    mobile.is_silent()


@requirement("RFC6275-10.3.1", "HA-13", "HA-21", "HA-47")
def test_reregistration_moves_the_tunnel_at_once(mobile: MobileNode) -> None:
    mobile.register()
    mobile.register(source=mobile.other_care_of_address)
    assert not mobile.is_reachable()


@requirement("RFC6275-10.3.1", "HA-16")
@pytest.mark.parametrize("asked", [MAX_LIFETIME + 4, 0xFFFF * 4, 8])
def test_granted_lifetime_is_no_longer_than_asked_or_allowed(
    mobile: MobileNode, asked: int
) -> None:
    mobile.send_update(lifetime=asked)
    assert mobile.acknowledgement().message.lifetime == min(asked, MAX_LIFETIME)


@requirement("RFC6275-10.3.1", "HA-19")
def test_binding_ends_with_its_lifetime(mobile: MobileNode) -> None:
    mobile.register(lifetime=4)
    began = time.monotonic()
    while mobile.is_reachable():
        assert time.monotonic() < began + 10
    assert time.monotonic() > began + 2.5


@requirement("RFC6275-10.3.1", "HA-20", "HA-21")
def test_key_management_mobility_is_not_granted_with_manual_keys(mobile: MobileNode) -> None:
    mobile.send_update(flags=o.ACKNOWLEDGE | o.HOME | o.KEY_MANAGEMENT)
    answer = mobile.acknowledgement().message
    assert (answer.status, answer.flags & 0x80) == (0, 0)


@requirement("RFC6275-10.3.1", "HA-22", "FMT-15")
def test_refresh_advice_is_in_acceptances_alone_and_shorter_than_the_lifetime(
    mobile: MobileNode,
) -> None:
    message = mobile.register().message
    if 2 in message.options:
        assert int.from_bytes(message.options[2], "big") * 4 < message.lifetime
        assert message.offsets[2] % 2 == 0
    mobile.send_update(lifetime=0)
    assert 2 not in mobile.acknowledgement().message.options


@requirement("RFC6275-10.3.1", "HA-23")
@pytest.mark.parametrize("back", [0, 1, 32768])
def test_old_sequence_number_is_refused_with_the_last_one(mobile: MobileNode, back: int) -> None:
    mobile.register()
    last = mobile.sequence
    mobile.send_update(sequence=(last - back) % 0x10000)
    answer = mobile.acknowledgement().message
    assert (answer.status, answer.sequence) == (135, last)
    assert mobile.is_reachable()


@requirement("RFC6275-9.5.1", "HA-24")
def test_correspondent_registration_of_a_registered_home_address_is_refused(
    mobile: MobileNode,
) -> None:
    mobile.register()
    mobile.send_update(flags=o.ACKNOWLEDGE)
    assert mobile.acknowledgement().message.status == 139
    assert mobile.is_reachable()


@requirement("RFC6275-15.1", "HA-65")
def test_care_of_address_that_is_the_home_agents_is_refused(mobile: MobileNode) -> None:
    mobile.tester.send(mobile.away(mobile.message(care_of_address=AGENT)), link="out")
    assert mobile.acknowledgement().message.status >= 128
    assert not mobile.is_reachable()


@requirement("RFC6275-15.1", "HA-65")
def test_care_of_address_that_is_a_served_home_address_is_refused(
    agent: HomeAgent, mobile: MobileNode
) -> None:
    other = agent.mobile_node().home_address
    mobile.tester.send(mobile.away(mobile.message(care_of_address=other)), link="out")
    assert mobile.acknowledgement().message.status >= 128


# Deregistration (RFC 6275 10.3.2)


@requirement("RFC6275-10.3.2", "HA-25", "HA-66")
@pytest.mark.parametrize("flags", [o.ACKNOWLEDGE | o.HOME, o.HOME])
def test_deregistration_from_a_foreign_link_ends_the_tunnel(mobile: MobileNode, flags: int) -> None:
    mobile.register()
    mobile.send_update(lifetime=0, flags=flags)
    answer = mobile.acknowledgement()
    assert answer.destination == mobile.care_of_address
    assert answer.routed_to == mobile.home_address
    assert (answer.message.status, answer.message.lifetime) == (0, 0)
    mobile.becomes_unreachable()


@requirement("RFC6275-10.3.2", "HA-27", "HA-66")
@pytest.mark.parametrize("flags", [o.ACKNOWLEDGE | o.HOME, o.HOME])
def test_deregistration_without_a_binding_is_refused(mobile: MobileNode, flags: int) -> None:
    mobile.send_update(lifetime=0, flags=flags)
    answer = mobile.acknowledgement().message
    assert (answer.status, answer.sequence) == (133, mobile.sequence)


@requirement("RFC6275-10.3.2", "HA-29")
def test_update_overtaken_by_its_deregistration_is_refused(mobile: MobileNode) -> None:
    mobile.register()
    overtaken = mobile.message()
    mobile.send_update(lifetime=0)
    mobile.acknowledgement()
    mobile.tester.send(mobile.away(overtaken), link="out")
    assert mobile.acknowledgement().message.status == 135
    mobile.becomes_unreachable()


# The tunnel (RFC 6275 10.4.2, 10.4.5, RFC 2473)


@requirement("RFC6275-10.4.2", "HA-36")
def test_packets_for_the_home_address_are_tunnelled(mobile: MobileNode) -> None:
    mobile.register()
    sent = mobile.to_home_address()
    mobile.tester.send(sent, link="out")
    outer = mobile.tester.expect(mobile.is_tunnelled)
    assert outer.source == AGENT
    assert outer.header_numbers[-1] == o.IPV6
    inner = outer.inner
    assert inner.hop_limit == 63
    assert inner.octets == sent[:7] + b"\x3f" + sent[8:]


@requirement("RFC6275-9.3.2", "HA-40", "CN-10")
def test_home_agents_own_packets_take_a_routing_header_instead_of_the_tunnel(
    mobile: MobileNode,
) -> None:
    request = o.packet(mobile.home_address, AGENT, o.echo_request(9), protocol=o.ICMP)
    for source in (mobile.care_of_address, mobile.other_care_of_address):
        mobile.register(source=source)
        reply = mobile.tester.insist(mobile.tunnel(request, source), is_echo_reply, link="out")
        assert (reply.source, reply.destination) == (AGENT, source)
        assert reply.header_numbers == (o.ROUTING, o.ICMP)
        assert reply.routed_to == mobile.home_address
        assert reply.checksum_is_good


@requirement("RFC6275-10.4.2", "HA-39")
def test_packet_that_does_not_fit_the_tunnel_is_answered_with_its_mtu(mobile: MobileNode) -> None:
    mobile.register()
    mobile.tester.send(mobile.to_home_address(1500 - 48), link="out")
    answer = mobile.tester.expect(is_icmp_error)
    assert answer.destination == CORRESPONDENT
    assert answer.payload[0] == o.TOO_BIG
    mtu = struct.unpack_from("!I", answer.payload, 4)[0]
    assert 1280 <= mtu <= 1460
    mobile.tester.send(mobile.to_home_address(mtu - 48), link="out")
    outer = mobile.tester.expect(mobile.is_tunnelled)
    assert len(outer.octets) <= 1500


def test_packet_for_an_address_that_nobody_registered_is_answered_not_sent_back(
    mobile: MobileNode,
) -> None:
    # RFC 4443 3.1; by the default route it would go round between here and the router.
    mobile.tester.send(mobile.to_home_address(), link="out")
    answer = mobile.tester.expect(lambda seen: seen.destination != AGENT)
    assert answer.destination == CORRESPONDENT
    assert answer.payload[0] == o.UNREACHABLE
    assert o.read_packet(answer.payload[8:]).destination == mobile.home_address


@requirement("RFC2473-8", "HA-41")
def test_error_about_a_tunnelled_packet_reaches_its_sender(mobile: MobileNode) -> None:
    mobile.register()
    sent = mobile.to_home_address()
    mobile.tester.send(sent, link="out")
    outer = mobile.tester.expect(mobile.is_tunnelled)
    router = IPv6Address("2001:db8:ee::1")
    complaint = o.error(o.UNREACHABLE, 3, 0, outer.octets)
    mobile.tester.send(o.packet(router, AGENT, complaint, protocol=o.ICMP), link="out")
    relayed = mobile.tester.expect(is_icmp_error)
    assert relayed.destination == CORRESPONDENT
    assert relayed.payload[0] == o.UNREACHABLE
    quoted = o.read_packet(relayed.payload[8:])
    assert (quoted.source, quoted.destination) == (CORRESPONDENT, mobile.home_address)


@requirement("RFC6275-10.4.5", "HA-42")
def test_tunnelled_packets_of_the_home_address_are_forwarded(mobile: MobileNode) -> None:
    mobile.register()
    inner = mobile.from_home_address()
    mobile.tester.send(mobile.tunnel(inner), link="out")
    seen = mobile.tester.expect(lambda seen: seen.source == mobile.home_address)
    assert seen.destination == CORRESPONDENT
    assert seen.header_numbers == (o.ICMP,)
    assert seen.payload == inner[40:]
    assert seen.hop_limit == 63


@requirement("RFC6275-10.4.5", "HA-43")
def test_tunnelled_packets_from_elsewhere_are_discarded(mobile: MobileNode) -> None:
    mobile.register()
    inner = mobile.from_home_address()
    mobile.tester.send(mobile.tunnel(inner, mobile.other_care_of_address), link="out")
    mobile.refuses(lambda seen: seen.source == mobile.home_address)


@requirement("RFC6275-10.4.5", "HA-44")
@pytest.mark.parametrize("source", ["2001:db8:1::fff", "2001:db8:a::1", str(AGENT), "::1"])
def test_tunnelled_packets_with_a_spoofed_source_are_discarded(
    mobile: MobileNode, source: str
) -> None:
    mobile.register()
    inner = o.packet(IPv6Address(source), CORRESPONDENT, o.echo_request(1), protocol=o.ICMP)
    mobile.tester.send(mobile.tunnel(inner), link="out")
    mobile.refuses(lambda seen: seen.destination == CORRESPONDENT)


@requirement("RFC6275-10.4.5", "HA-44", "HA-04")
def test_tunnelled_packets_with_another_nodes_home_address_are_discarded(
    agent: HomeAgent, mobile: MobileNode
) -> None:
    mobile.register()
    victim = agent.mobile_node()
    victim.register()
    mobile.tester.send(mobile.tunnel(victim.from_home_address()), link="out")
    mobile.refuses(lambda seen: seen.destination == CORRESPONDENT)


# Return routability through the home agent (RFC 6275 10.4.6, RFC 3776 3.2)


@requirement("RFC3776-3.2", "HA-46", "SEC-03", "SEC-11")
def test_home_test_messages_pass_the_tunnel_under_esp(mobile: MobileNode) -> None:
    mobile.register()
    init = o.packet(mobile.home_address, CORRESPONDENT, o.home_test_init(b"cookie88"))
    mobile.tester.send(mobile.protected_tunnel(init), link="out")
    seen = mobile.tester.expect(lambda seen: seen.message.kind == o.HOME_TEST_INIT)
    assert (seen.source, seen.destination) == (mobile.home_address, CORRESPONDENT)
    assert seen.checksum_is_good
    test = o.packet(CORRESPONDENT, mobile.home_address, o.home_test(3, b"cookie88", b"tokentok"))
    mobile.tester.send(test, link="out")
    outer = mobile.tester.expect(mobile.is_tunnelled)
    assert outer.header_numbers == (o.ESP, o.IPV6)
    assert outer.spi == mobile.keys[RETURN_ROUTABILITY].inbound.spi
    assert outer.icv_is_good
    assert (outer.source, outer.destination) == (AGENT, mobile.care_of_address)
    assert outer.inner.message.token == b"tokentok"


@requirement("RFC3776-3.2", "HA-46", "SEC-07")
def test_home_test_init_in_the_plain_tunnel_is_discarded(mobile: MobileNode) -> None:
    mobile.register()
    init = o.packet(mobile.home_address, CORRESPONDENT, o.home_test_init(bytes(8)))
    mobile.tester.send(mobile.tunnel(init), link="out")
    mobile.refuses(lambda seen: seen.source == mobile.home_address)


@requirement("RFC6275-10.4.6", "HA-47", "SEC-17")
def test_home_test_follows_the_care_of_address_with_the_same_keys(mobile: MobileNode) -> None:
    mobile.register()
    mobile.register(source=mobile.other_care_of_address)
    test = o.packet(CORRESPONDENT, mobile.home_address, o.home_test(3, bytes(8), bytes(8)))
    mobile.tester.send(test, link="out")
    other = mobile.other_care_of_address
    outer = mobile.tester.expect(lambda seen: mobile.is_tunnelled(seen, other))
    assert outer.spi == mobile.keys[RETURN_ROUTABILITY].inbound.spi


@requirement("RFC4877-4.3", "SEC-11")
def test_home_test_init_to_the_home_agent_itself_is_answered_in_the_tunnel(
    mobile: MobileNode,
) -> None:
    mobile.register()
    init = o.packet(mobile.home_address, AGENT, o.home_test_init(b"to-agent"))
    mobile.tester.send(mobile.protected_tunnel(init), link="out")
    outer = mobile.tester.expect(mobile.is_tunnelled)
    assert outer.header_numbers == (o.ESP, o.IPV6)
    answer = outer.inner.message
    assert (answer.kind, answer.cookie) == (o.HOME_TEST, b"to-agent")


# What any node must do (RFC 6275 9.2, 9.3)


@requirement("RFC6275-9.3.3", "MHP-02", "MHP-03", "EXT-15")
@pytest.mark.parametrize("has_option", [False, True])
def test_unknown_message_is_answered_with_binding_error(
    mobile: MobileNode, has_option: bool
) -> None:
    headers = (mobile.home_address_option,) if has_option else ()
    message = o.mobility(o.UNKNOWN_MESSAGE, bytes(10))
    mobile.tester.send(o.packet(mobile.care_of_address, AGENT, message, *headers), link="out")
    answer = mobile.tester.expect(lambda seen: seen.message.kind == o.BINDING_ERROR)
    assert answer.destination == mobile.care_of_address
    assert answer.message.status == 2
    assert answer.message.home_address == (mobile.home_address if has_option else o.UNSPECIFIED)


@requirement("RFC6275-9.2", "MHP-01", "MHP-05", "MHP-06")
def test_registration_that_is_malformed_inside_esp_is_not_accepted(mobile: MobileNode) -> None:
    good = o.packet(mobile.home_address, AGENT, mobile.message())[40:]
    wrong_checksum = good[:4] + bytes([good[4] ^ 1]) + good[5:]
    too_long = o.packet(
        mobile.home_address, AGENT, good[:1] + b"\x09" + good[2:4] + bytes(2) + good[6:]
    )[40:]
    short = o.packet(mobile.home_address, AGENT, o.mobility(o.BINDING_UPDATE, bytes(2)))[40:]
    for message in (wrong_checksum, too_long, short):
        sealed = mobile.keys[BINDING].outbound.seal(message)
        packet = o.packet(
            mobile.care_of_address, AGENT, sealed, mobile.home_address_option, protocol=o.ESP
        )
        mobile.tester.send(packet, link="out")
        mobile.refuses(mobile.is_acknowledgement)
    assert not mobile.is_reachable()


@requirement("RFC6275-9.3.1", "CN-03", "HA-09")
def test_data_with_home_address_option_is_not_forwarded_or_reflected(mobile: MobileNode) -> None:
    mobile.register()
    packet = o.packet(
        mobile.other_care_of_address,
        AGENT,
        o.echo_request(1),
        mobile.home_address_option,
        protocol=o.ICMP,
    )
    mobile.tester.send(packet, link="out")
    answer = mobile.tester.expect(lambda seen: seen.message.kind == o.BINDING_ERROR)
    assert answer.destination == mobile.other_care_of_address
    assert (answer.message.status, answer.message.home_address) == (1, mobile.home_address)
    assert not mobile.tester.came(lambda seen: seen.icmp_type == o.ECHO_REPLY)
