"""Which packets between a mobile node and its home agent need which association."""

from __future__ import annotations

import random
import re
from ipaddress import IPv6Address

import pytest

from mnagent.core.drops import DropReason
from mnagent.core.security import EspMode
from mnagent.ipsec.keys import KeySet, generate_pair, load_key_file
from mnagent.ipsec.mobility_policy import home_agent_database, mobile_node_database
from mnagent.ipsec.policy import SecurityPolicyDatabase
from mnagent.ipsec.purpose import Purpose
from mnagent.wire.icmp6 import EchoRequest, MobilePrefixAdvertisement, MobilePrefixSolicitation
from mnagent.wire.ipv6 import (
    DestinationOptions,
    HomeAddressOption,
    IPv6Packet,
    Type2RoutingHeader,
)
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingUpdate,
    CareOfTestInit,
    HomeTest,
    HomeTestInit,
)
from tests.support.requirement import requirement

HOME_AGENT = IPv6Address("2001:db8:1::1")
HOME_ADDRESS = IPv6Address("2001:db8:1::10")
OTHER_HOME_ADDRESS = IPv6Address("2001:db8:1::20")
CARE_OF_ADDRESS = IPv6Address("2001:db8:a::10")
CORRESPONDENT = IPv6Address("2001:db8:c::5")

UPDATE = BindingUpdate(sequence=1, lifetime=60, acknowledge=True, home_registration=True)
ACKNOWLEDGEMENT = BindingAcknowledgement(status=0, sequence=1, lifetime=60)
HOME_TEST_INIT = HomeTestInit(cookie=bytes(8), options=())
HOME_TEST = HomeTest(nonce_index=1, cookie=bytes(8), keygen_token=bytes(8), options=())
ECHO = EchoRequest(identifier=1, sequence=1, data=b"")


def key_sets(home_address: IPv6Address = HOME_ADDRESS, seed: int = 1) -> tuple[KeySet, KeySet]:
    texts = generate_pair(home_address, HOME_AGENT, random_bytes=random.Random(seed).randbytes)
    return load_key_file(texts[0]), load_key_file(texts[1])


MOBILE_NODE_KEYS, HOME_AGENT_KEYS = key_sets()
OTHER_KEYS = key_sets(OTHER_HOME_ADDRESS, 2)[1]


def mobile_node(*, payload: bool = False, away: bool = True) -> SecurityPolicyDatabase:
    database = mobile_node_database(MOBILE_NODE_KEYS, protect_payload=payload)
    if away:
        database.activate_tunnel(HOME_ADDRESS)
    return database


def home_agent(*, payload: bool = False, away: bool = True) -> SecurityPolicyDatabase:
    database = home_agent_database(
        HOME_AGENT, [HOME_AGENT_KEYS, OTHER_KEYS], protect_payload=payload
    )
    if away:
        database.activate_tunnel(HOME_ADDRESS)
    return database


def from_mobile_node(payload, home_address=HOME_ADDRESS) -> IPv6Packet:  # type: ignore[no-untyped-def]
    """As it goes out away from home: Home Address option, care-of address as the source."""
    return IPv6Packet(
        CARE_OF_ADDRESS,
        HOME_AGENT,
        payload,
        extension_headers=(DestinationOptions((HomeAddressOption(home_address),)),),
    )


def to_mobile_node(payload) -> IPv6Packet:  # type: ignore[no-untyped-def]
    """As it goes out to a node away from home: type 2 routing header."""
    return IPv6Packet(
        HOME_AGENT,
        CARE_OF_ADDRESS,
        payload,
        extension_headers=(Type2RoutingHeader(HOME_ADDRESS),),
    )


def tunnelled(inner: IPv6Packet, *, to_home: bool) -> IPv6Packet:
    ends = (CARE_OF_ADDRESS, HOME_AGENT) if to_home else (HOME_AGENT, CARE_OF_ADDRESS)
    return IPv6Packet(*ends, inner)


def outbound_spi(database: SecurityPolicyDatabase, packet: IPv6Packet) -> int | None:
    policy = database.outbound(packet)
    if policy is None:
        return None
    assert policy.associations is not None
    return policy.associations.outbound.spi


def spi(keys: KeySet, purpose: Purpose) -> tuple[int, int]:
    """Outbound and inbound."""
    pair = keys.pairs[purpose]
    return pair.outbound.spi, pair.inbound.spi


BINDING_OUT, BINDING_IN = spi(MOBILE_NODE_KEYS, Purpose.BINDING)


@requirement("RFC3776-3.1", "SEC-01", "SEC-10")
def test_binding_update_away_is_matched_by_its_home_address_option() -> None:
    assert outbound_spi(mobile_node(), from_mobile_node(UPDATE)) == BINDING_OUT
    assert home_agent().inbound(from_mobile_node(UPDATE), BINDING_OUT) is None


@requirement("RFC3776-3.1", "SEC-02")
def test_binding_update_at_home_is_matched_by_its_source() -> None:
    packet = IPv6Packet(HOME_ADDRESS, HOME_AGENT, UPDATE)
    assert outbound_spi(mobile_node(away=False), packet) == BINDING_OUT
    assert home_agent(away=False).inbound(packet, BINDING_OUT) is None


@requirement("RFC3776-3.1", "SEC-01", "SEC-02")
@pytest.mark.parametrize(
    "packet",
    [to_mobile_node(ACKNOWLEDGEMENT), IPv6Packet(HOME_AGENT, HOME_ADDRESS, ACKNOWLEDGEMENT)],
    ids=["away", "at-home"],
)
def test_acknowledgement_is_matched_by_its_logical_destination(packet: IPv6Packet) -> None:
    assert outbound_spi(home_agent(), packet) == BINDING_IN
    assert mobile_node().inbound(packet, BINDING_IN) is None
    assert mobile_node().inbound(packet, None) is DropReason.NOT_PROTECTED


def test_binding_update_in_the_clear_is_refused() -> None:
    assert home_agent().inbound(from_mobile_node(UPDATE), None) is DropReason.NOT_PROTECTED


@requirement("RFC3776-4.2", "SEC-08")
def test_binding_update_by_another_nodes_association_is_refused() -> None:
    packet = from_mobile_node(UPDATE, OTHER_HOME_ADDRESS)
    assert home_agent().inbound(packet, BINDING_OUT) is DropReason.WRONG_SECURITY_ASSOCIATION
    at_home = IPv6Packet(OTHER_HOME_ADDRESS, HOME_AGENT, UPDATE)
    assert home_agent().inbound(at_home, BINDING_OUT) is DropReason.WRONG_SECURITY_ASSOCIATION


@requirement("RFC3776-4.2", "SEC-08")
def test_binding_update_by_an_association_for_something_else_is_refused() -> None:
    for purpose in (Purpose.PREFIX_DISCOVERY, Purpose.RETURN_ROUTABILITY, Purpose.PAYLOAD):
        other, _ = spi(MOBILE_NODE_KEYS, purpose)
        verdict = home_agent(payload=True).inbound(from_mobile_node(UPDATE), other)
        assert verdict is DropReason.WRONG_SECURITY_ASSOCIATION


@pytest.mark.parametrize("payload", [False, True])
def test_binding_update_smuggled_through_the_tunnel_is_refused(payload: bool) -> None:
    inner = IPv6Packet(HOME_ADDRESS, HOME_AGENT, UPDATE)
    database = home_agent(payload=payload)
    assert database.inbound(tunnelled(inner, to_home=True), None) is DropReason.NOT_PROTECTED
    verdict = database.inbound(inner, None, tunnel_source=CARE_OF_ADDRESS)
    assert verdict is DropReason.NOT_PROTECTED
    tunnel_spi, _ = spi(MOBILE_NODE_KEYS, Purpose.PAYLOAD)
    verdict = database.inbound(inner, tunnel_spi, tunnel_source=CARE_OF_ADDRESS)
    assert verdict is DropReason.WRONG_SECURITY_ASSOCIATION


def test_acknowledgement_smuggled_through_the_tunnel_is_refused() -> None:
    inner = IPv6Packet(HOME_AGENT, HOME_ADDRESS, ACKNOWLEDGEMENT)
    verdict = mobile_node().inbound(inner, None, tunnel_source=HOME_AGENT)
    assert verdict is DropReason.NOT_PROTECTED


def test_home_registration_of_a_stranger_is_refused() -> None:
    packet = from_mobile_node(UPDATE, IPv6Address("2001:db8:1::77"))
    assert home_agent().inbound(packet, None) is DropReason.NOT_PROTECTED
    assert home_agent().inbound(packet, BINDING_OUT) is DropReason.WRONG_SECURITY_ASSOCIATION


def test_correspondent_registration_of_a_stranger_at_the_home_agent_passes() -> None:
    update = BindingUpdate(sequence=1, lifetime=60)
    packet = from_mobile_node(update, IPv6Address("2001:db8:1::77"))
    assert home_agent().inbound(packet, None) is None


def test_acknowledgement_from_home_agent_to_another_address_is_refused() -> None:
    packet = IPv6Packet(HOME_AGENT, CARE_OF_ADDRESS, ACKNOWLEDGEMENT)
    assert mobile_node().inbound(packet, None) is DropReason.NOT_PROTECTED
    assert mobile_node().inbound(packet, BINDING_IN) is DropReason.WRONG_SECURITY_ASSOCIATION


def test_acknowledgement_from_a_correspondent_passes_in_the_clear() -> None:
    packet = IPv6Packet(
        CORRESPONDENT,
        CARE_OF_ADDRESS,
        ACKNOWLEDGEMENT,
        extension_headers=(Type2RoutingHeader(HOME_ADDRESS),),
    )
    assert mobile_node().inbound(packet, None) is None


@requirement("RFC3776-3.3", "SEC-04", "SEC-10")
def test_prefix_discovery_has_its_own_transport_associations() -> None:
    there, back = spi(MOBILE_NODE_KEYS, Purpose.PREFIX_DISCOVERY)
    solicitation = from_mobile_node(MobilePrefixSolicitation(identifier=7))
    advertisement = to_mobile_node(
        MobilePrefixAdvertisement(identifier=7, managed=False, other=False, options=())
    )
    assert outbound_spi(mobile_node(), solicitation) == there
    assert home_agent().inbound(solicitation, there) is None
    assert outbound_spi(home_agent(), advertisement) == back
    assert mobile_node().inbound(advertisement, back) is None
    assert mobile_node().inbound(advertisement, None) is DropReason.NOT_PROTECTED


@requirement("RFC4877-4.3", "SEC-10")
def test_other_icmpv6_and_mobility_messages_need_no_protection() -> None:
    for payload in (ECHO, CareOfTestInit(cookie=bytes(8), options=())):
        assert outbound_spi(mobile_node(), from_mobile_node(payload)) is None
        assert home_agent().inbound(from_mobile_node(payload), None) is None


@requirement("RFC3776-3.2", "SEC-03", "SEC-10")
def test_home_test_in_the_tunnel_is_matched_by_the_inner_packet() -> None:
    there, back = spi(MOBILE_NODE_KEYS, Purpose.RETURN_ROUTABILITY)
    init = tunnelled(IPv6Packet(HOME_ADDRESS, CORRESPONDENT, HOME_TEST_INIT), to_home=True)
    test = tunnelled(IPv6Packet(CORRESPONDENT, HOME_ADDRESS, HOME_TEST), to_home=False)
    assert outbound_spi(mobile_node(), init) == there
    assert home_agent().inbound(init, there) is None
    assert home_agent().inbound(init, None) is DropReason.NOT_PROTECTED
    assert outbound_spi(home_agent(), test) == back
    assert mobile_node().inbound(test, back) is None
    policy = mobile_node().outbound(init)
    assert policy is not None
    assert policy.purpose.mode is EspMode.TUNNEL


@requirement("RFC3776-3.2", "SEC-03")
def test_home_test_whose_tunnel_is_removed_already_is_matched_as_tunnelled() -> None:
    _, back = spi(MOBILE_NODE_KEYS, Purpose.RETURN_ROUTABILITY)
    test = IPv6Packet(CORRESPONDENT, HOME_ADDRESS, HOME_TEST)
    verdict = mobile_node().inbound(test, None, tunnel_source=HOME_AGENT)
    assert verdict is DropReason.NOT_PROTECTED
    assert mobile_node().inbound(test, back, tunnel_source=HOME_AGENT) is None
    assert mobile_node().inbound(test, back) is None


@requirement("RFC4877-4.3", "SEC-11")
def test_home_test_init_to_the_home_agent_itself_comes_by_the_tunnel_too() -> None:
    there, _ = spi(MOBILE_NODE_KEYS, Purpose.RETURN_ROUTABILITY)
    init = tunnelled(IPv6Packet(HOME_ADDRESS, HOME_AGENT, HOME_TEST_INIT), to_home=True)
    assert home_agent().inbound(init, there) is None


@requirement("RFC3776-4.2", "SEC-09")
def test_tunnel_policies_sleep_at_home_and_wake_with_the_tunnel() -> None:
    database = mobile_node(payload=True, away=False)
    inner = IPv6Packet(HOME_ADDRESS, CORRESPONDENT, ECHO)
    packet = tunnelled(inner, to_home=True)
    assert database.outbound(packet) is None
    database.activate_tunnel(HOME_ADDRESS)
    assert database.outbound(packet) is not None
    assert database.outbound(inner) is None  # never what does not enter the tunnel
    database.deactivate_tunnel(HOME_ADDRESS)
    database.deactivate_tunnel(HOME_ADDRESS)
    assert database.outbound(packet) is None
    assert outbound_spi(database, IPv6Packet(HOME_ADDRESS, HOME_AGENT, UPDATE)) == BINDING_OUT


@requirement("RFC3776-3.4", "SEC-05")
def test_payload_is_plain_unless_asked_for() -> None:
    packet = tunnelled(IPv6Packet(HOME_ADDRESS, CORRESPONDENT, ECHO), to_home=True)
    assert mobile_node().outbound(packet) is None
    assert mobile_node().tunnel_associations(HOME_ADDRESS).payload is None
    assert home_agent().inbound(packet, None) is None


@requirement("RFC3776-3.4", "SEC-05")
def test_payload_with_protection_covers_the_whole_tunnel() -> None:
    there, back = spi(MOBILE_NODE_KEYS, Purpose.PAYLOAD)
    for payload in (ECHO, HOME_TEST_INIT):
        packet = tunnelled(IPv6Packet(HOME_ADDRESS, CORRESPONDENT, payload), to_home=True)
        assert outbound_spi(mobile_node(payload=True), packet) == there
        assert home_agent(payload=True).inbound(packet, there) is None
        assert home_agent(payload=True).inbound(packet, None) is DropReason.NOT_PROTECTED
    pair = home_agent(payload=True).tunnel_associations(HOME_ADDRESS).payload
    assert pair is not None
    assert (pair.outbound.spi, pair.inbound.spi) == (back, there)


@requirement("RFC3776-4.3", "SEC-07")
def test_home_test_with_unencrypted_payload_protection_keeps_its_own_associations() -> None:
    text, _ = generate_pair(HOME_ADDRESS, HOME_AGENT, random_bytes=random.Random(1).randbytes)
    for name in ("outbound", "inbound"):
        pattern = rf"(\[payload\.{name}\]\nspi.*\n)transform.*\nencryption_key.*\n"
        text = re.sub(pattern, r'\1transform = "null-hmac-sha256-128"\n', text)
    database = mobile_node_database(load_key_file(text), protect_payload=True)
    database.activate_tunnel(HOME_ADDRESS)
    init = tunnelled(IPv6Packet(HOME_ADDRESS, CORRESPONDENT, HOME_TEST_INIT), to_home=True)
    assert outbound_spi(database, init) == spi(MOBILE_NODE_KEYS, Purpose.RETURN_ROUTABILITY)[0]


def test_spoofed_inner_source_by_a_nodes_own_association_is_refused() -> None:
    there, _ = spi(MOBILE_NODE_KEYS, Purpose.PAYLOAD)
    packet = tunnelled(IPv6Packet(OTHER_HOME_ADDRESS, CORRESPONDENT, ECHO), to_home=True)
    verdict = home_agent(payload=True).inbound(packet, there)
    assert verdict is DropReason.WRONG_SECURITY_ASSOCIATION


def binding_only() -> KeySet:
    text, _ = generate_pair(HOME_ADDRESS, HOME_AGENT, random_bytes=random.Random(1).randbytes)
    return load_key_file(text[: text.index("[prefix_discovery")])


def test_database_binding_keys_only_protects_bindings_only() -> None:
    database = mobile_node_database(binding_only())
    assert [policy.purpose for policy in database.policies] == [
        Purpose.BINDING,
        Purpose.BINDING,
        Purpose.PREFIX_DISCOVERY,
    ]


def test_database_payload_protection_without_keys_raises() -> None:
    with pytest.raises(ValueError, match="no payload keys"):
        mobile_node_database(binding_only(), protect_payload=True)


@requirement("RFC3776-4.2", "SEC-08")
def test_database_two_key_sets_of_one_home_address_raises() -> None:
    with pytest.raises(ValueError, match="two sets of keys"):
        home_agent_database(HOME_AGENT, [HOME_AGENT_KEYS, HOME_AGENT_KEYS])
