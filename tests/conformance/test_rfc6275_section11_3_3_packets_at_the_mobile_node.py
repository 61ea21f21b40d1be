"""What a mobile node takes in, before any machine sees it (RFC 6275 6.4, 9.2 and 11.3.3)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.agent.dispatch import Dispatcher
from mnagent.core.drops import DropReason
from mnagent.core.events import DatagramReceived, PacketReceived
from mnagent.core.security import Direction, EspMode
from mnagent.ipsec.keys import KeySet, generate_pair, load_key_file
from mnagent.ipsec.mobility_policy import mobile_node_database
from mnagent.wire.ipv6 import HopByHopOptions, IPv6Packet, RouterAlert, Type2RoutingHeader
from mnagent.wire.mld import ListenerQuery
from mnagent.wire.mobility import BindingAcknowledgement
from mnagent.wire.packet import encode_packet
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    HOME_ADDRESS,
    HOME_AGENT_ADDRESS,
    HOME_LINK_LOCAL,
    OTHER_HOME_ADDRESS,
)
from tests.support.requirement import requirement

INTERFACE = 5


def make_keys(home_address: IPv6Address, seed: int) -> KeySet:
    random = Random(seed)
    text, _ = generate_pair(home_address, HOME_AGENT_ADDRESS, random_bytes=random.randbytes)
    return load_key_file(text)


KEYS = make_keys(HOME_ADDRESS, 1)
SPI = next(
    association.spi
    for association in KEYS.associations
    if association.direction is Direction.INBOUND and association.mode is EspMode.TRANSPORT
)


PAYLOAD_SPI = next(
    association.spi
    for association in KEYS.associations
    if association.direction is Direction.INBOUND and association.mode is EspMode.TUNNEL
)


def make_dispatcher() -> Dispatcher:
    return Dispatcher(
        mobile_node_database(KEYS),
        home_addresses=frozenset((HOME_ADDRESS,)),
        tunnel_peers=frozenset((HOME_AGENT_ADDRESS,)),
    )


def acknowledgement(header: Type2RoutingHeader | None = None, *, status: int = 0) -> IPv6Packet:
    """A Binding Acknowledgement on its way to the care-of address."""
    message = BindingAcknowledgement(status=status, sequence=1, lifetime=600)
    header = Type2RoutingHeader(HOME_ADDRESS) if header is None else header
    return IPv6Packet(HOME_AGENT_ADDRESS, CARE_OF_ADDRESS, message, extension_headers=(header,))


def arriving(data: bytes, *, protected_by: int | None = SPI) -> DatagramReceived:
    return DatagramReceived(data=data, interface=INTERFACE, protected_by=protected_by)


def receive(dispatcher: Dispatcher, event: DatagramReceived) -> PacketReceived | None:
    """What the machines get to see; nothing is ever answered here."""
    received, answers = dispatcher.receive(event, 0.0)
    assert answers == []
    return received


@requirement("RFC6275-11.3.3", "MN-38")
def test_mobile_node_valid_type2_routing_header_is_delivered_once_for_home_address() -> None:
    dispatcher = make_dispatcher()
    received = receive(dispatcher, arriving(encode_packet(acknowledgement())))
    assert received is not None
    assert received.packet.logical_destination == HOME_ADDRESS
    assert not dispatcher.drops


@requirement("RFC6275-11.3.3", "MN-36", "MN-37")
@pytest.mark.parametrize(
    "header",
    [
        Type2RoutingHeader(HOME_ADDRESS, segments_left=0),
        Type2RoutingHeader(HOME_ADDRESS, segments_left=2),
        Type2RoutingHeader(OTHER_HOME_ADDRESS),
        Type2RoutingHeader(HOME_LINK_LOCAL),
        Type2RoutingHeader(IPv6Address("ff0e::10")),
    ],
)
def test_mobile_node_type2_routing_header_that_does_not_fit_is_dropped(
    header: Type2RoutingHeader,
) -> None:
    dispatcher = make_dispatcher()
    assert receive(dispatcher, arriving(encode_packet(acknowledgement(header)))) is None
    assert sum(dispatcher.drops.values()) == 1


@requirement("RFC6275-11.3.3", "MN-36")
@pytest.mark.parametrize("extension_length", [0, 1, 3, 4, 255])
def test_mobile_node_type2_routing_header_of_a_wrong_length_is_dropped(
    extension_length: int,
) -> None:
    data = bytearray(encode_packet(acknowledgement()))
    data[41] = extension_length
    dispatcher = make_dispatcher()
    assert receive(dispatcher, arriving(bytes(data))) is None
    assert dispatcher.drops == {DropReason.MALFORMED: 1}


@requirement("RFC6275-11.7.3", "MN-18", "MN-21")
@pytest.mark.parametrize("status", [0, 128, 135])
@pytest.mark.parametrize(
    ("protected_by", "reason"),
    [(None, DropReason.NOT_PROTECTED), (SPI + 1, DropReason.WRONG_SECURITY_ASSOCIATION)],
)
def test_mobile_node_acknowledgement_without_its_protection_is_dropped(
    protected_by: int | None, reason: DropReason, status: int
) -> None:
    dispatcher = make_dispatcher()
    data = encode_packet(acknowledgement(status=status))
    assert receive(dispatcher, arriving(data, protected_by=protected_by)) is None
    assert dispatcher.drops == {reason: 1}


@requirement("RFC6275-11.7.3", "MN-28")
def test_mobile_node_acknowledgement_cut_or_with_a_broken_option_is_dropped() -> None:
    whole = encode_packet(acknowledgement())
    mobility_header = len(whole) - 16
    runs_past = bytearray(whole)
    runs_past[mobility_header + 1] = 9
    broken_option = bytearray(whole)
    broken_option[mobility_header + 13] = 77
    for data in (bytes(runs_past), bytes(broken_option), whole[:-4]):
        dispatcher = make_dispatcher()
        received, _ = dispatcher.receive(arriving(data), 0.0)
        assert received is None
        assert sum(dispatcher.drops.values()) == 1


def test_mobile_node_acknowledgement_with_protection_passes_and_others_headers_are_kept() -> None:
    dispatcher = make_dispatcher()
    packet = replace(acknowledgement(), traffic_class=0xB8)
    received = receive(dispatcher, arriving(encode_packet(packet)))
    assert received is not None
    assert received.packet.traffic_class == 0xB8


def listener_query(*, hop_limit: int = 1) -> bytes:
    """As the home agent asks through the tunnel."""
    query = ListenerQuery(500, IPv6Address("::"), 2, 125)
    alert = (HopByHopOptions((RouterAlert(0),)),)
    source, everybody = IPv6Address("fe80::1"), IPv6Address("ff02::1")
    return encode_packet(
        IPv6Packet(source, everybody, query, extension_headers=alert, hop_limit=hop_limit)
    )


def tunnelled(data: bytes, *, protected_by: int | None = None) -> DatagramReceived:
    return DatagramReceived(
        data=data,
        interface=INTERFACE,
        protected_by=protected_by,
        tunnel_source=HOME_AGENT_ADDRESS,
    )


@requirement("RFC6275-11.3.4", "MN-40")
def test_listener_query_comes_out_of_the_tunnel_whoever_it_says_it_is_from() -> None:
    dispatcher = make_dispatcher()
    assert receive(dispatcher, tunnelled(listener_query())) is not None
    assert receive(dispatcher, tunnelled(listener_query(), protected_by=PAYLOAD_SPI)) is not None
    assert receive(dispatcher, tunnelled(listener_query(), protected_by=SPI)) is None
    assert dispatcher.drops[DropReason.WRONG_SECURITY_ASSOCIATION] == 1
    assert receive(dispatcher, tunnelled(listener_query(hop_limit=2))) is None
    assert dispatcher.drops[DropReason.BAD_HOP_LIMIT] == 1
