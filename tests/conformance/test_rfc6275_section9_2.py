"""Processing Mobility Headers, and answering those that cannot be processed (RFC 6275 9.2, 9.3)."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import SendPacket
from mnagent.wire.checksum import upper_layer_checksum
from mnagent.wire.icmp6 import ParameterProblem
from mnagent.wire.ipv6 import (
    DestinationOptions,
    HomeAddressOption,
    IPv6Packet,
    RawPayload,
    Type2RoutingHeader,
)
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    UnknownMobilityMessage,
)
from mnagent.wire.packet import encode_packet
from tests.support.agents import ROUTER, AgentDriver, answers
from tests.support.matching import kinds, of_type
from tests.support.packets import binding_acknowledgement, datagram, router_advertisement
from tests.support.requirement import requirement
from tests.support.topology import HOME_ADDRESS, HOME_AGENT

PEER = IPv6Address("2001:db8:f::1")
PEER_HOME_ADDRESS = IPv6Address("2001:db8:e::1")
CARE_OF = IPv6Address("2001:db8:a::10")
UNSPECIFIED = IPv6Address("::")
MULTICAST = IPv6Address("ff0e::1")
MOBILITY_HEADER = 135


def raw_message(
    source: IPv6Address,
    message: bytes,
    *,
    destination: IPv6Address = CARE_OF,
    wrong_checksum: bool = False,
) -> bytes:
    """A Mobility Header given in octets, its checksum filled in."""
    checksum = upper_layer_checksum(source, destination, MOBILITY_HEADER, message)
    checksum = checksum ^ 0x5555 if wrong_checksum else checksum
    message = message[:4] + checksum.to_bytes(2, "big") + message[6:]
    return encode_packet(IPv6Packet(source, destination, RawPayload(MOBILITY_HEADER, message)))


def header(
    *, protocol: int = 59, length: int = 1, message_type: int = 6, octets: int = 16
) -> bytes:
    return bytes((protocol, length, message_type, 0, 0, 0)) + bytes(octets - 6)


def unknown(source: IPv6Address = PEER, **fields: object) -> IPv6Packet:
    return IPv6Packet(source, CARE_OF, UnknownMobilityMessage(99, bytes(10)), **fields)  # type: ignore[arg-type]


def home_address_options(*addresses: IPv6Address) -> tuple[DestinationOptions, ...]:
    return tuple(DestinationOptions((HomeAddressOption(address),)) for address in addresses)


@requirement("RFC6275-9.2", "MHP-01")
def test_wrong_checksum_is_dropped_in_silence_and_counted() -> None:
    driver = AgentDriver()
    actions = driver.receive(raw_message(PEER, header(), wrong_checksum=True))
    assert kinds(actions) == ["PersistRecord"] * 2, "the first event's, nothing of the packet's"
    assert driver.drop_count("bad-checksum") == 1


@requirement("RFC6275-9.2", "MHP-02")
def test_unknown_type_is_answered_with_a_binding_error() -> None:
    driver = AgentDriver()
    ((packet, error),) = answers(driver.receive(unknown()), BindingError)
    assert (packet.source, packet.destination) == (CARE_OF, PEER)
    assert (error.status, error.home_address) == (2, UNSPECIFIED)
    assert driver.drop_count("unknown-mobility-message") == 1


@requirement("RFC6275-9.3.3", "MHP-03")
def test_unknown_type_with_a_home_address_option_names_it_and_goes_to_the_source() -> None:
    driver = AgentDriver()
    offending = unknown(extension_headers=home_address_options(PEER_HOME_ADDRESS))
    ((packet, error),) = answers(driver.receive(offending), BindingError)
    assert packet.destination == PEER
    assert packet.extension_headers == ()
    assert error.home_address == PEER_HOME_ADDRESS


@requirement("RFC6275-9.2", "MHP-04")
def test_piggybacked_payload_is_answered_with_a_pointer_at_payload_proto() -> None:
    driver = AgentDriver()
    offending = raw_message(PEER, header(protocol=6))
    ((packet, problem),) = answers(driver.receive(offending), ParameterProblem)
    assert (packet.source, packet.destination) == (CARE_OF, PEER)
    assert (problem.code, problem.pointer) == (0, 40)
    assert problem.invoking == offending
    assert driver.drop_count("payload-protocol") == 1


@requirement("RFC6275-9.2", "MHP-05")
def test_too_short_message_is_answered_with_a_pointer_at_header_len() -> None:
    driver = AgentDriver()
    offending = raw_message(PEER, header(message_type=3, length=1))
    ((packet, problem),) = answers(driver.receive(offending), ParameterProblem)
    assert packet.destination == PEER
    assert (problem.code, problem.pointer) == (0, 41)
    assert driver.drop_count("message-too-short") == 1


@requirement("RFC6275-9.2", "MHP-06")
def test_header_longer_than_the_packet_is_dropped() -> None:
    driver = AgentDriver()
    actions = driver.receive(raw_message(PEER, header(length=30)))
    assert not of_type(actions, SendPacket)
    assert driver.drop_count("malformed") == 1


@requirement("RFC6275-11.7.3", "MN-28")
def test_acknowledgement_with_a_malformed_option_is_dropped() -> None:
    driver = AgentDriver()
    message = header(length=1, octets=16)
    message = message[:12] + bytes((2, 200, 0, 0))
    actions = driver.receive(raw_message(PEER, message))
    assert not of_type(actions, SendPacket)
    assert driver.drop_count("malformed") == 1


@requirement("RFC6275-9.2", "MHP-07")
def test_longer_message_than_its_fixed_part_is_accepted() -> None:
    driver = AgentDriver()
    driver.visit("2001:db8:a::/64")
    snapshot = driver.agent.snapshot(driver.now).mobile_node
    assert snapshot is not None and snapshot.care_of_address is not None
    care_of_address = IPv6Address(snapshot.care_of_address)
    assert snapshot.sequence is not None
    # Two units more than needed, all of it padding.
    message = bytes((59, 3, 6, 0, 0, 0, 0, 0)) + snapshot.sequence.to_bytes(2, "big")
    message += (25).to_bytes(2, "big") + bytes((1, 18)) + bytes(18)
    checksum = upper_layer_checksum(HOME_AGENT, HOME_ADDRESS, MOBILITY_HEADER, message)
    message = message[:4] + checksum.to_bytes(2, "big") + message[6:]
    packet = encode_packet(
        IPv6Packet(
            HOME_AGENT,
            care_of_address,
            RawPayload(MOBILITY_HEADER, message),
            extension_headers=(Type2RoutingHeader(HOME_ADDRESS),),
        )
    )
    driver.receive(packet, protected_by=driver.binding_spi)
    snapshot = driver.agent.snapshot(driver.now).mobile_node
    assert snapshot is not None and snapshot.state == "registered"
    assert snapshot.binding_lifetime_remaining == 100


@requirement("RFC6275-9.3.3", "MHP-08")
@pytest.mark.parametrize("source", [UNSPECIFIED, MULTICAST])
def test_offending_packet_from_no_unicast_address_is_not_answered(source: IPv6Address) -> None:
    driver = AgentDriver()
    assert not of_type(driver.receive(unknown(source)), SendPacket)
    assert not of_type(driver.receive(raw_message(source, header(protocol=6))), SendPacket)


@requirement("RFC6275-9.3.3", "MHP-09")
def test_flood_of_offending_packets_is_answered_at_a_limited_rate() -> None:
    driver = AgentDriver()
    errors = problems = 0
    for _ in range(1000):
        driver.now += 0.001
        errors += len(answers(driver.receive(unknown()), BindingError))
        offending = raw_message(PEER, header(protocol=6))
        problems += len(answers(driver.receive(offending), ParameterProblem))
    assert 1 <= errors <= 25 and 1 <= problems <= 25
    assert driver.drop_count("unknown-mobility-message") == 1000
    assert driver.drop_count("rate-limited") > 900


@requirement("RFC6275-9.3.3", "MHP-10")
def test_binding_error_is_never_answered_with_a_binding_error() -> None:
    driver = AgentDriver()
    for status in (1, 2, 3, 255):
        packet = IPv6Packet(PEER, CARE_OF, BindingError(status, UNSPECIFIED))
        assert not answers(driver.receive(packet), BindingError)


@requirement("RFC6275-6.3", "FMT-20")
def test_packet_with_two_home_address_options_is_dropped() -> None:
    driver = AgentDriver()
    packet = unknown(extension_headers=home_address_options(PEER_HOME_ADDRESS, HOME_ADDRESS))
    assert not of_type(driver.receive(packet), SendPacket)
    assert driver.drop_count("two-home-address-options") == 1


@requirement("RFC6275-9.3.1", "CN-05", "CN-06")
@pytest.mark.parametrize("address", [MULTICAST, IPv6Address("::1"), IPv6Address("fe80::9")])
def test_home_address_option_with_an_address_that_is_not_routable_is_dropped(
    address: IPv6Address,
) -> None:
    driver = AgentDriver()
    packet = unknown(extension_headers=home_address_options(address))
    assert not of_type(driver.receive(packet), SendPacket)
    assert driver.drop_count("home-address-not-routable") == 1


@requirement("RFC6275-11.3.3", "MN-36", "MN-37")
@pytest.mark.parametrize(
    "routing_header",
    [
        Type2RoutingHeader(PEER_HOME_ADDRESS),
        Type2RoutingHeader(HOME_ADDRESS, segments_left=0),
        Type2RoutingHeader(HOME_ADDRESS, segments_left=2),
        Type2RoutingHeader(IPv6Address("fe80::1")),
    ],
)
def test_type2_routing_header_that_does_not_fit_is_dropped(
    routing_header: Type2RoutingHeader,
) -> None:
    driver = AgentDriver()
    packet = datagram(PEER, CARE_OF, b"x")
    packet = IPv6Packet(
        PEER,
        CARE_OF,
        RawPayload(17, packet.payload.data),
        extension_headers=(routing_header,),  # type: ignore[union-attr]
    )
    assert not of_type(driver.receive(packet), SendPacket)
    assert driver.drop_count("bad-type2-routing-header") == 1


@requirement("RFC6275-11.3.3", "MN-35")
def test_packet_out_of_a_strangers_tunnel_is_dropped() -> None:
    driver = AgentDriver()
    inner = IPv6Packet(PEER, HOME_ADDRESS, UnknownMobilityMessage(99, bytes(10)))
    assert not of_type(driver.receive(inner, tunnel_source=PEER), SendPacket)
    assert driver.drop_count("unknown-peer") == 1


@requirement("RFC6275-11.7.3", "MN-18", "MN-21")
@pytest.mark.parametrize("status", [0, 135])
def test_acknowledgement_without_protection_is_dropped(status: int) -> None:
    driver = AgentDriver()
    driver.visit("2001:db8:a::/64")
    packet = binding_acknowledgement(
        HOME_AGENT, HOME_ADDRESS, care_of_address=CARE_OF, sequence=1, status=status
    )
    assert isinstance(packet.payload, BindingAcknowledgement)
    assert not of_type(driver.receive(packet), SendPacket)
    assert driver.drop_count("not-protected") == 1
    driver.receive(packet, protected_by=driver.binding_spi + 1)
    assert driver.drop_count("wrong-security-association") == 1


def test_octets_that_are_no_packet_are_dropped_and_counted() -> None:
    driver = AgentDriver()
    for data in (b"", b"\x45" + bytes(60), bytes(39)):
        assert not of_type(driver.receive(data), SendPacket)
    assert driver.drop_count("malformed") == 3


@requirement("RFC4861-6.1.2", "MOV-08")
def test_neighbour_discovery_from_beyond_the_link_or_with_a_wrong_checksum_is_dropped() -> None:
    driver = AgentDriver()
    driver.link_up()
    advertisement = router_advertisement(ROUTER, "2001:db8:a::/64", hop_limit=254)
    assert driver.receive(advertisement) == []
    assert driver.drop_count("bad-hop-limit") == 1
    octets = bytearray(encode_packet(router_advertisement(ROUTER, "2001:db8:a::/64")))
    octets[42] ^= 0x55
    assert driver.receive(bytes(octets)) == []
    assert driver.drop_count("bad-checksum") == 1
