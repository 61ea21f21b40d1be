"""Packets between a correspondent node and mobile nodes (RFC 6275 8.2, 9.3)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.agent.dispatch import Dispatcher
from mnagent.core.actions import RemovePeerBinding
from mnagent.core.drops import DropReason
from mnagent.core.events import DatagramReceived, PacketReceived
from mnagent.ipsec.policy import SecurityPolicyDatabase
from mnagent.ipsec.selectors import Selector
from mnagent.mobility.correspondent_node import CorrespondentNode, CorrespondentNodeSettings
from mnagent.wire.esp import EspPacket
from mnagent.wire.icmp6 import DestinationUnreachable, EchoRequest
from mnagent.wire.ipv6 import DestinationOptions, IPv6Packet, RawPayload, Type2RoutingHeader
from mnagent.wire.mobility import BindingError, CareOfTest, HomeTest
from mnagent.wire.packet import encode_packet
from tests.support.correspondent import (
    CARE_OF_ADDRESS,
    CORRESPONDENT,
    HOME_ADDRESS,
    OTHER_CARE_OF_ADDRESS,
    Peer,
    arrived,
    bound,
    home_address_option,
    make_correspondent,
    only_sent,
)
from tests.support.matching import of_type
from tests.support.requirement import requirement

ROUTER = IPv6Address("2001:db8:9::1")
AUTHENTICATION = RawPayload(51, bytes(24))


def data_packet(
    payload: object = EchoRequest(1, 1),
    *,
    home_address: IPv6Address = HOME_ADDRESS,
    source: IPv6Address = CARE_OF_ADDRESS,
) -> PacketReceived:
    """A packet with a Home Address option, as the data path hands it up."""
    headers: tuple[DestinationOptions, ...] = (home_address_option(home_address),)
    packet = IPv6Packet(source, CORRESPONDENT, payload, extension_headers=headers)  # type: ignore[arg-type]
    return arrived(packet)


def unreachable(code: int = 3, *, care_of_address: IPv6Address = CARE_OF_ADDRESS) -> PacketReceived:
    """A router's complaint about a packet that was sent by the binding."""
    sent_packet = IPv6Packet(
        CORRESPONDENT,
        care_of_address,
        RawPayload(17, bytes(40)),
        extension_headers=(Type2RoutingHeader(HOME_ADDRESS),),
    )
    error = DestinationUnreachable(code, encode_packet(sent_packet))
    return arrived(IPv6Packet(ROUTER, CORRESPONDENT, error))


@requirement("RFC6275-8.2", "CN-01")
def test_route_optimization_is_on_by_default_and_can_be_turned_off() -> None:
    assert CorrespondentNodeSettings().enabled
    peer = Peer()
    node = make_correspondent(enabled=False)
    for event in (peer.home_test_init(), peer.care_of_test_init(), peer.update()):
        actions = node.handle(event, 0.0)
        _, error = only_sent(actions, BindingError)
        # As from a node that knows no such message, so that the mobile node does not ask again.
        assert error.status == 2
        assert not of_type([action.packet.payload for action in actions], HomeTest | CareOfTest)
    assert node.bindings == ()
    assert node.next_deadline() is None


@requirement("RFC6275-9.3.1", "CN-03")
def test_packet_without_binding_is_dropped_and_answered() -> None:
    node = make_correspondent()
    packet, error = only_sent(node.handle(data_packet(), 0.0), BindingError)
    assert (packet.source, packet.destination) == (CORRESPONDENT, CARE_OF_ADDRESS)
    assert (error.status, error.home_address) == (1, HOME_ADDRESS)
    assert packet.extension_headers == ()
    assert node.drops[DropReason.NO_BINDING] == 1


@requirement("RFC6275-9.3.1", "CN-04")
def test_packet_from_another_care_of_address_is_dropped_and_answered() -> None:
    node = make_correspondent()
    bound(node)
    event = data_packet(source=OTHER_CARE_OF_ADDRESS)
    packet, error = only_sent(node.handle(event, 1.0), BindingError)
    assert packet.destination == OTHER_CARE_OF_ADDRESS
    assert error.status == 1
    assert node.bindings[0].care_of_address == CARE_OF_ADDRESS


@requirement("RFC6275-9.3.1", "CN-05", "CN-06")
@pytest.mark.parametrize("address", ["ff0e::1", "ff02::1", "::1", "fe80::1", "::"])
def test_packet_with_an_unroutable_home_address_is_dropped(address: str) -> None:
    node = make_correspondent()
    assert node.handle(data_packet(home_address=IPv6Address(address)), 0.0) == []
    assert node.drops[DropReason.HOME_ADDRESS_NOT_ROUTABLE] == 1


@requirement("RFC6275-9.3.1", "CN-07")
@pytest.mark.parametrize("payload", [EspPacket(300, 1, bytes(20)), AUTHENTICATION])
def test_packet_with_ipsec_behind_its_option_gets_no_binding_error(payload: object) -> None:
    assert make_correspondent().handle(data_packet(payload), 0.0) == []


@requirement("RFC6275-9.3.1", "CN-07")
def test_packet_that_was_protected_gets_no_binding_error() -> None:
    event = replace(data_packet(), protected_by=300)
    assert make_correspondent().handle(event, 0.0) == []


@requirement("RFC6275-9.3.1", "CN-07")
def test_mobility_message_with_a_home_address_option_is_processed_without_a_binding() -> None:
    node = make_correspondent()
    peer = Peer().run_tests(node)
    assert peer.update().packet.home_address_option == HOME_ADDRESS
    node.handle(peer.update(), 0.0)
    assert len(node.bindings) == 1


@requirement("RFC6275-9.1", "CN-08")
def test_home_address_options_do_not_change_the_cache() -> None:
    node = make_correspondent()
    node.handle(data_packet(), 0.0)
    assert node.bindings == ()
    bound(node)
    before = node.bindings
    node.handle(data_packet(source=OTHER_CARE_OF_ADDRESS), 1.0)
    node.handle(data_packet(), 1.0)
    assert node.bindings == before


@requirement("RFC6275-9.3.2", "CN-12")
def test_security_policy_for_a_packet_with_a_routing_header_sees_the_home_address() -> None:
    packet = IPv6Packet(
        CORRESPONDENT,
        CARE_OF_ADDRESS,
        RawPayload(17, bytes(8)),
        extension_headers=(Type2RoutingHeader(HOME_ADDRESS),),
    )
    assert Selector(destination=HOME_ADDRESS).matches(packet)
    assert not Selector(destination=CARE_OF_ADDRESS).matches(packet)


@requirement("RFC6275-8.2", "CN-14")
def test_routing_header_at_a_node_that_is_not_mobile_is_discarded_in_silence() -> None:
    packet = IPv6Packet(
        ROUTER,
        CORRESPONDENT,
        EchoRequest(1, 1),
        extension_headers=(Type2RoutingHeader(HOME_ADDRESS),),
    )
    dispatcher = Dispatcher(SecurityPolicyDatabase())
    event = DatagramReceived(data=encode_packet(packet), interface=2)
    assert dispatcher.receive(event, 0.0) == (None, [])
    assert dispatcher.drops[DropReason.BAD_TYPE2_ROUTING_HEADER] == 1


@requirement("RFC6275-9.3.4", "CN-15")
def test_persistent_unreachability_deletes_the_binding() -> None:
    node = make_correspondent()
    bound(node)
    for now in (10.0, 10.1, 10.2, 11.0):
        assert node.handle(unreachable(), now) == []
    actions = node.handle(unreachable(), 13.0)
    assert of_type(actions, RemovePeerBinding) == [RemovePeerBinding(home_address=HOME_ADDRESS)]
    assert node.bindings == ()
    only_sent(node.handle(data_packet(), 14.0), BindingError)


@requirement("RFC6275-9.3.4", "CN-15")
def test_unreachability_now_and_then_keeps_the_binding() -> None:
    node = make_correspondent()
    peer = bound(node)
    for now in (10.0, 30.0, 50.0, 70.0):
        assert node.handle(unreachable(), now) == []
    node.handle(unreachable(), 71.0)
    # A Binding Update starts the count anew.
    node.handle(peer.update(2), 72.0)
    assert node.handle(unreachable(), 75.0) == []
    assert len(node.bindings) == 1


@requirement("RFC6275-9.3.4", "CN-15")
def test_unreachability_of_something_else_keeps_the_binding() -> None:
    node = make_correspondent()
    bound(node)
    for now in (10.0, 12.0, 14.0, 16.0):
        node.handle(unreachable(care_of_address=OTHER_CARE_OF_ADDRESS), now)
        # The mobile node is there; only nobody listens on that port.
        node.handle(unreachable(4), now)
    assert len(node.bindings) == 1


def test_correspondent_without_addresses_serves_nobody() -> None:
    node = CorrespondentNode(CorrespondentNodeSettings(), random=Random(1))
    assert node.handle(Peer().home_test_init(), 0.0) == []
    assert node.drops[DropReason.UNEXPECTED_MESSAGE] == 1
