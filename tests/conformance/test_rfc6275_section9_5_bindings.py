"""Binding Updates at the correspondent node (RFC 6275 9.5, 9.6)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from itertools import pairwise
from typing import Any

import pytest

from mnagent.agent.dispatch import Dispatcher
from mnagent.core.actions import RemovePeerBinding, SendPacket, SetPeerBinding
from mnagent.core.drops import DropReason
from mnagent.core.events import DatagramReceived, PacketReceived, TrafficSeen
from mnagent.ipsec.policy import SecurityPolicyDatabase
from mnagent.mobility.constants import MAX_RR_BINDING_LIFETIME, MAX_UPDATE_RATE
from mnagent.mobility.correspondent_node import CorrespondentNode
from mnagent.wire.checksum import upper_layer_checksum
from mnagent.wire.icmp6 import EchoRequest
from mnagent.wire.ipv6 import IPv6Packet, RawPayload, Type2RoutingHeader
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingRefreshRequest,
    BindingStatus,
    BindingUpdate,
)
from mnagent.wire.mobility_options import BindingAuthorizationData, NonceIndices
from mnagent.wire.packet import encode_packet
from tests.support.correspondent import (
    CARE_OF_ADDRESS,
    CORRESPONDENT,
    HOME_ADDRESS,
    OTHER_CARE_OF_ADDRESS,
    OTHER_HOME_ADDRESS,
    Peer,
    arrived,
    bound,
    home_address_option,
    make_correspondent,
    only_acknowledgement,
    only_sent,
)
from tests.support.matching import of_type, sent
from tests.support.requirement import requirement

UNKNOWN_INDEX = 0


def after_tests() -> tuple[CorrespondentNode, Peer]:
    """A correspondent and a mobile node that has run the tests."""
    node = make_correspondent()
    return node, Peer().run_tests(node)


def without_option(event: PacketReceived, kind: type[object]) -> PacketReceived:
    update = event.packet.payload
    assert isinstance(update, BindingUpdate)
    options = tuple(each for each in update.options if not isinstance(each, kind))
    return arrived(replace(event.packet, payload=replace(update, options=options)))


def traffic(packets_out: int = 1) -> TrafficSeen:
    return TrafficSeen(local=CORRESPONDENT, peer=HOME_ADDRESS, packets_out=packets_out)


def others(count: int) -> list[Peer]:
    """Mobile nodes of other home networks."""
    return [
        Peer(
            home_address=IPv6Address(f"2001:db8:100:{number:x}::1"),
            care_of_address=IPv6Address(f"2001:db8:200:{number:x}::1"),
        )
        for number in range(count)
    ]


@requirement("RFC6275-9.5.1", "CN-24")
def test_authentic_update_makes_a_binding_and_is_acknowledged() -> None:
    node, peer = after_tests()
    actions = node.handle(peer.update(sequence=77), 1.0)
    assert of_type(actions, SetPeerBinding) == [
        SetPeerBinding(home_address=HOME_ADDRESS, care_of_address=CARE_OF_ADDRESS)
    ]
    packet, answer = only_sent(actions, BindingAcknowledgement)
    assert (answer.status, answer.sequence) == (BindingStatus.BINDING_UPDATE_ACCEPTED, 77)
    assert (packet.source, packet.destination) == (CORRESPONDENT, CARE_OF_ADDRESS)
    assert packet.extension_headers == (Type2RoutingHeader(HOME_ADDRESS),)
    assert peer.is_authentic(packet)
    (entry,) = node.bindings
    assert (entry.home_address, entry.care_of_address) == (HOME_ADDRESS, CARE_OF_ADDRESS)
    assert entry.sequence == 77


@requirement("RFC6275-9.5.4", "CN-25")
def test_authentic_update_without_the_acknowledge_bit_is_not_acknowledged() -> None:
    node, peer = after_tests()
    actions = node.handle(peer.update(acknowledge=False), 1.0)
    assert of_type(actions, SetPeerBinding)
    assert not of_type(actions, SendPacket)
    assert len(node.bindings) == 1


@requirement("RFC6275-9.5.1", "CN-26")
def test_home_registration_is_not_supported() -> None:
    node = make_correspondent()
    event = without_option(
        without_option(Peer().update(home_registration=True), NonceIndices),
        BindingAuthorizationData,
    )
    packet, answer = only_sent(node.handle(event, 0.0), BindingAcknowledgement)
    assert answer.status is BindingStatus.HOME_REGISTRATION_NOT_SUPPORTED
    assert packet.destination == CARE_OF_ADDRESS
    assert packet.extension_headers == (Type2RoutingHeader(HOME_ADDRESS),)
    assert node.bindings == ()


@requirement("RFC6275-9.5.1", "CN-27")
def test_home_registration_with_nonce_indices_is_discarded() -> None:
    node, peer = after_tests()
    assert node.handle(peer.update(home_registration=True), 1.0) == []
    assert node.drops[DropReason.NONCE_INDICES_IN_HOME_REGISTRATION] == 1


@requirement("RFC6275-9.5.1", "CN-28")
@pytest.mark.parametrize("in_home_agent", [False, True])
def test_home_registration_of_a_bound_mobile_node_may_not_change_its_type(
    in_home_agent: bool,
) -> None:
    node = make_correspondent(refuse_home_registrations=not in_home_agent)
    peer = bound(node)
    before = node.bindings
    event = without_option(peer.update(2, home_registration=True), NonceIndices)
    event = without_option(event, BindingAuthorizationData)
    assert node.claims(event)
    answer = only_acknowledgement(node.handle(event, 1.0))
    assert answer.status is BindingStatus.REGISTRATION_TYPE_CHANGE_DISALLOWED
    assert node.bindings == before


@requirement("RFC6275-9.5.1", "CN-29")
@pytest.mark.parametrize("lifetime", [420, 0])
def test_update_without_nonce_indices_is_discarded(lifetime: float) -> None:
    node = make_correspondent()
    peer = bound(node)
    event = without_option(peer.update(2, lifetime), NonceIndices)
    assert node.handle(event, 1.0) == []
    assert node.drops[DropReason.NO_NONCE_INDICES] == 1
    assert len(node.bindings) == 1


@requirement("RFC6275-9.5.1", "CN-30")
def test_update_without_authorization_is_discarded() -> None:
    node, peer = after_tests()
    assert node.handle(without_option(peer.update(), BindingAuthorizationData), 1.0) == []
    assert node.drops[DropReason.NO_BINDING_AUTHORIZATION] == 1


@requirement("RFC6275-9.5.1", "CN-31", "CN-53")
@pytest.mark.parametrize(
    "changes",
    [
        {"key": bytes(20)},
        {"covered_address": HOME_ADDRESS},
        {"covered_address": OTHER_CARE_OF_ADDRESS},
        {"source": OTHER_CARE_OF_ADDRESS},
    ],
)
def test_update_with_a_wrong_authenticator_is_discarded(changes: dict[str, Any]) -> None:
    node, peer = after_tests()
    assert node.handle(peer.update(**changes), 1.0) == []
    assert node.drops[DropReason.BAD_AUTHENTICATOR] == 1
    assert node.bindings == ()


@requirement("RFC6275-9.5.1", "CN-31")
def test_update_changed_on_its_way_is_discarded() -> None:
    node, peer = after_tests()
    packet = peer.update().packet
    assert isinstance(packet.payload, BindingUpdate)
    changed = arrived(replace(packet, payload=replace(packet.payload, sequence=2)))
    assert node.handle(changed, 1.0) == []
    other_home = (home_address_option(OTHER_HOME_ADDRESS),)
    assert node.handle(arrived(replace(packet, extension_headers=other_home)), 1.0) == []
    assert node.drops[DropReason.BAD_AUTHENTICATOR] == 2


@requirement("RFC6275-6.2.7", "CN-31", "CN-33")
def test_update_is_verified_over_the_octets_received() -> None:
    """A reserved octet that no decoder keeps is authorized like all others."""
    node, peer = after_tests()
    event = peer.update()
    changed = bytearray(event.data)
    changed[64 + 3] ^= 0xFF
    assert node.handle(replace(event, data=bytes(changed)), 1.0) == []
    assert node.drops[DropReason.BAD_AUTHENTICATOR] == 1
    assert only_acknowledgement(node.handle(event, 1.0)).is_accepted


@requirement("RFC6275-9.5.1", "CN-32", "CN-53")
@pytest.mark.parametrize("trailer", ["00" * 8, "01060000000000 00", "080601616263 6465"])
def test_authorization_that_is_not_last_is_discarded(trailer: str) -> None:
    """Padding or another option after it; such a message does not pass the decoder."""
    _, peer = after_tests()
    octets = peer.update().data
    header = bytearray(octets[64:] + bytes.fromhex(trailer))
    header[1] += 1
    header[4:6] = bytes(2)
    checksum = upper_layer_checksum(HOME_ADDRESS, CORRESPONDENT, 135, bytes(header))
    header[4:6] = checksum.to_bytes(2, "big")
    packet = IPv6Packet(
        CARE_OF_ADDRESS,
        CORRESPONDENT,
        RawPayload(135, bytes(header)),
        extension_headers=(home_address_option(HOME_ADDRESS),),
    )
    dispatcher = Dispatcher(SecurityPolicyDatabase())
    event = DatagramReceived(data=encode_packet(packet), interface=2)
    assert dispatcher.receive(event, 0.0) == (None, [])
    assert dispatcher.drops[DropReason.MALFORMED] == 1


@requirement("RFC6275-9.5.1", "CN-33")
def test_deregistration_with_the_key_of_both_tokens_is_discarded() -> None:
    node = make_correspondent()
    peer = bound(node)
    assert node.handle(peer.deregistration(key=peer.registration_key), 1.0) == []
    assert node.drops[DropReason.BAD_AUTHENTICATOR] == 1
    assert len(node.bindings) == 1


@requirement("RFC6275-9.5.1", "CN-34", "CN-35", "CN-36", "CN-56")
@pytest.mark.parametrize("acknowledge", [True, False])
@pytest.mark.parametrize(
    ("home_is_known", "care_of_is_known", "status"),
    [
        (False, True, BindingStatus.EXPIRED_HOME_NONCE_INDEX),
        (True, False, BindingStatus.EXPIRED_CARE_OF_NONCE_INDEX),
        (False, False, BindingStatus.EXPIRED_NONCES),
    ],
)
def test_update_with_unknown_nonces_is_told_which(
    home_is_known: bool, care_of_is_known: bool, status: BindingStatus, acknowledge: bool
) -> None:
    node, peer = after_tests()
    indices = (
        peer.home_index if home_is_known else UNKNOWN_INDEX,
        peer.care_of_index if care_of_is_known else UNKNOWN_INDEX,
    )
    event = peer.update(9, indices=indices, acknowledge=acknowledge)
    packet, answer = only_sent(node.handle(event, 1.0), BindingAcknowledgement)
    assert (answer.status, answer.sequence, answer.lifetime) == (status, 9, 0)
    assert answer.options == ()
    assert packet.destination == CARE_OF_ADDRESS
    assert packet.extension_headers == (Type2RoutingHeader(HOME_ADDRESS),)
    assert node.bindings == ()


@requirement("RFC6275-9.5.1", "CN-34", "CN-35")
def test_update_with_one_nonce_expired_is_told_which() -> None:
    node = make_correspondent()
    peer = Peer()
    peer.ask_for_home_token(node, 0.0)
    peer.ask_for_care_of_token(node, 100.0)
    answer = only_acknowledgement(node.handle(peer.update(), 250.0))
    assert answer.status is BindingStatus.EXPIRED_HOME_NONCE_INDEX
    peer.ask_for_home_token(node, 250.0)
    answer = only_acknowledgement(node.handle(peer.update(), 350.0))
    assert answer.status is BindingStatus.EXPIRED_CARE_OF_NONCE_INDEX


@requirement("RFC6275-9.5.1", "CN-37")
@pytest.mark.parametrize("from_home", [True, False])
def test_deregistration_with_an_expired_home_nonce_is_told_so(from_home: bool) -> None:
    node = make_correspondent()
    peer = bound(node)
    event = peer.deregistration() if from_home else peer.update(2, 0)
    answer = only_acknowledgement(node.handle(event, 250.0))
    assert answer.status is BindingStatus.EXPIRED_HOME_NONCE_INDEX
    assert answer.options == ()
    assert len(node.bindings) == 1


@requirement("RFC6275-9.5.1", "CN-38")
@pytest.mark.parametrize("from_home", [True, False])
def test_deregistration_ignores_the_care_of_nonce_index(from_home: bool) -> None:
    node = make_correspondent()
    peer = bound(node)
    source = HOME_ADDRESS if from_home else CARE_OF_ADDRESS
    event = peer.deregistration(source=source, indices=(peer.home_index, UNKNOWN_INDEX))
    assert only_acknowledgement(node.handle(event, 1.0)).is_accepted
    assert node.bindings == ()


@requirement("RFC6275-9.5.1", "CN-39")
@pytest.mark.parametrize(("last", "newer"), [(15, 16), (15, 32782), (32783, 32784), (32783, 14)])
def test_newer_sequence_number_is_accepted(last: int, newer: int) -> None:
    node = make_correspondent()
    peer = bound(node, sequence=last)
    answer = only_acknowledgement(node.handle(peer.update(newer), 1.0))
    assert (answer.is_accepted, answer.sequence) == (True, newer)
    assert node.bindings[0].sequence == newer


@requirement("RFC6275-9.5.1", "CN-40", "CN-56")
@pytest.mark.parametrize("acknowledge", [True, False])
@pytest.mark.parametrize(
    ("last", "older"),
    [(15, 15), (15, 14), (15, 32783), (32783, 32783), (32783, 32782), (32783, 15)],
)
def test_older_sequence_number_is_answered_with_the_last(
    last: int, older: int, acknowledge: bool
) -> None:
    node = make_correspondent()
    peer = bound(node, sequence=last)
    before = node.bindings
    event = peer.update(older, acknowledge=acknowledge)
    packet, answer = only_sent(node.handle(event, 1.0), BindingAcknowledgement)
    assert answer.status is BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW
    assert (answer.sequence, answer.lifetime) == (last, 0)
    assert peer.is_authentic(packet)
    assert [replace(each, refresh_requests=0) for each in node.bindings] == list(before)


@requirement("RFC6275-9.5.1", "CN-41")
@pytest.mark.parametrize("sequence", [0, 1, 32768, 65535])
def test_first_update_may_have_any_sequence_number(sequence: int) -> None:
    node, peer = after_tests()
    assert only_acknowledgement(node.handle(peer.update(sequence), 1.0)).is_accepted


@requirement("RFC6275-9.5.1", "CN-42")
def test_alternate_care_of_address_is_what_is_bound_and_authorized() -> None:
    node = make_correspondent()
    peer = Peer()
    peer.ask_for_home_token(node)
    peer.ask_for_care_of_token(node, address=OTHER_CARE_OF_ADDRESS)
    actions = node.handle(peer.update(alternate=OTHER_CARE_OF_ADDRESS), 1.0)
    packet, answer = only_sent(actions, BindingAcknowledgement)
    assert answer.is_accepted
    assert packet.destination == CARE_OF_ADDRESS
    assert peer.is_authentic(packet, address=OTHER_CARE_OF_ADDRESS)
    assert node.bindings[0].care_of_address == OTHER_CARE_OF_ADDRESS


@requirement("RFC6275-9.5.1", "CN-42")
def test_alternate_care_of_address_without_a_test_of_its_own_is_discarded() -> None:
    node, peer = after_tests()
    assert node.handle(peer.update(alternate=OTHER_CARE_OF_ADDRESS), 1.0) == []
    event = peer.update(alternate=OTHER_CARE_OF_ADDRESS, covered_address=CARE_OF_ADDRESS)
    assert node.handle(event, 1.0) == []
    assert node.bindings == ()


@requirement("RFC6275-6.1.7", "CN-43")
@pytest.mark.parametrize("address", ["ff0e::1", "fe80::1", "::", "::1"])
def test_unroutable_care_of_address_is_discarded(address: str) -> None:
    node, peer = after_tests()
    assert node.handle(peer.update(alternate=IPv6Address(address)), 1.0) == []
    assert node.drops[DropReason.CARE_OF_ADDRESS_NOT_ROUTABLE] == 1


@requirement("RFC6275-9.5.2", "CN-44")
@pytest.mark.parametrize(
    ("asked", "granted"), [(262140, 420), (424, 420), (420, 420), (416, 416), (4, 4)]
)
def test_granted_lifetime_is_at_most_420_seconds_and_what_was_asked(
    asked: float, granted: float
) -> None:
    node, peer = after_tests()
    answer = only_acknowledgement(node.handle(peer.update(lifetime=asked), 1.0))
    assert answer.lifetime == granted <= MAX_RR_BINDING_LIFETIME
    assert node.bindings[0].expires_at == 1.0 + granted


@requirement("RFC6275-9.5.2", "CN-45")
def test_binding_whose_lifetime_is_over_is_deleted() -> None:
    node = make_correspondent()
    bound(node)
    assert of_type(node.handle_timer(419.9), RemovePeerBinding) == []
    actions = node.handle_timer(420.0)
    assert of_type(actions, RemovePeerBinding) == [RemovePeerBinding(home_address=HOME_ADDRESS)]
    assert node.bindings == ()
    packet = IPv6Packet(
        CARE_OF_ADDRESS,
        CORRESPONDENT,
        EchoRequest(1, 1),
        extension_headers=(home_address_option(HOME_ADDRESS),),
    )
    _, error = only_sent(node.handle(arrived(packet), 421.0), BindingError)
    assert error.status == 1


@requirement("RFC6275-9.5.2", "CN-46", "CN-56")
@pytest.mark.parametrize("acknowledge", [True, False])
def test_new_binding_is_refused_when_the_cache_is_full(acknowledge: bool) -> None:
    node = make_correspondent(max_bindings=2)
    for peer in others(2):
        bound(node, peer=peer)
    peer = Peer().run_tests(node)
    actions = node.handle(peer.update(acknowledge=acknowledge), 1.0)
    packet, answer = only_sent(actions, BindingAcknowledgement)
    assert answer.status is BindingStatus.INSUFFICIENT_RESOURCES
    assert peer.is_authentic(packet)
    assert len(node.bindings) == 2
    assert node.drops[DropReason.CACHE_FULL] == 1


@requirement("RFC6275-9.5.2", "CN-47")
def test_update_from_a_new_care_of_address_moves_the_binding_at_once() -> None:
    node = make_correspondent()
    peer = bound(node)
    registered_at = node.bindings[0].registered_at
    peer.care_of_address = OTHER_CARE_OF_ADDRESS
    peer.ask_for_care_of_token(node, 50.0)
    actions = node.handle(peer.update(2), 51.0)
    assert of_type(actions, SetPeerBinding | RemovePeerBinding) == [
        SetPeerBinding(home_address=HOME_ADDRESS, care_of_address=OTHER_CARE_OF_ADDRESS)
    ]
    (entry,) = node.bindings
    assert (entry.registered_at, entry.updated_at) == (registered_at, 51.0)
    packet, _ = only_sent(actions, BindingAcknowledgement)
    assert packet.destination == OTHER_CARE_OF_ADDRESS


@requirement("RFC6275-9.5.2", "CN-48")
def test_update_from_a_new_care_of_address_with_tokens_of_the_old_is_discarded() -> None:
    node = make_correspondent()
    peer = bound(node)
    peer.care_of_address = OTHER_CARE_OF_ADDRESS
    assert node.handle(peer.update(2), 10.0) == []
    assert node.bindings[0].care_of_address == CARE_OF_ADDRESS


@requirement("RFC6275-9.5.3", "CN-49")
@pytest.mark.parametrize("from_home", [True, False])
def test_deregistration_deletes_the_binding(from_home: bool) -> None:
    node = make_correspondent()
    peer = bound(node)
    event = peer.deregistration() if from_home else peer.update(2, 0)
    actions = node.handle(event, 10.0)
    assert of_type(actions, RemovePeerBinding) == [RemovePeerBinding(home_address=HOME_ADDRESS)]
    packet, answer = only_sent(actions, BindingAcknowledgement)
    assert (answer.status, answer.lifetime, answer.sequence) == (0, 0, 2)
    assert peer.is_authentic(packet, key=peer.deregistration_key, address=HOME_ADDRESS)
    assert node.bindings == ()


@requirement("RFC6275-9.5.3", "CN-49")
def test_deregistration_without_a_binding_makes_none() -> None:
    node, peer = after_tests()
    actions = node.handle(peer.deregistration(), 1.0)
    assert only_acknowledgement(actions).is_accepted
    assert not of_type(actions, SetPeerBinding | RemovePeerBinding)
    assert node.bindings == ()


@requirement("RFC6275-9.5.3", "CN-50")
@pytest.mark.parametrize("lifetime", [420, 0])
@pytest.mark.parametrize("alternate", [None, HOME_ADDRESS])
def test_care_of_address_equal_to_the_home_address_deregisters(
    lifetime: float, alternate: IPv6Address | None
) -> None:
    node = make_correspondent()
    peer = bound(node)
    source = HOME_ADDRESS if alternate is None else CARE_OF_ADDRESS
    event = peer.update(2, lifetime, source=source, alternate=alternate)
    answer = only_acknowledgement(node.handle(event, 10.0))
    assert (answer.is_accepted, answer.lifetime) == (True, 0)
    assert node.bindings == ()


@requirement("RFC6275-9.5.3", "CN-51")
def test_deregistration_without_return_routability_is_discarded() -> None:
    node = make_correspondent()
    bound(node)
    update = BindingUpdate(sequence=2, lifetime=0, acknowledge=True)
    headers = (home_address_option(HOME_ADDRESS),)
    packet = IPv6Packet(HOME_ADDRESS, CORRESPONDENT, update, extension_headers=headers)
    assert node.handle(arrived(packet), 10.0) == []
    assert len(node.bindings) == 1


@requirement("RFC6275-9.5.3", "CN-52")
def test_registration_replayed_after_the_deregistration_is_refused() -> None:
    node = make_correspondent()
    peer = bound(node)
    captured = [peer.update(2), peer.update(3, lifetime=200)]
    for event in captured:
        assert only_acknowledgement(node.handle(event, 5.0)).is_accepted
    node.handle(peer.deregistration(4), 10.0)
    for event in (peer.update(1), *captured):
        for now in (11.0, 239.9):
            answer = only_acknowledgement(node.handle(event, now))
            assert answer.status is BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW
    assert node.bindings == ()
    assert node.drops[DropReason.REPLAYED_NONCE] == 6
    # From then on the nonces are too old.
    answer = only_acknowledgement(node.handle(captured[0], 240.0))
    assert answer.status is BindingStatus.EXPIRED_NONCES


@requirement("RFC6275-5.2.8", "CN-52")
def test_registration_that_was_overtaken_by_the_deregistration_is_refused() -> None:
    node, peer = after_tests()
    node.handle(peer.deregistration(2), 1.0)
    answer = only_acknowledgement(node.handle(peer.update(1), 2.0))
    assert answer.status is BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW
    assert node.bindings == ()


@requirement("RFC6275-5.2.8", "CN-52")
def test_registration_replayed_after_the_binding_ended_is_refused() -> None:
    node, peer = after_tests()
    event = peer.update(1, lifetime=4)
    node.handle(event, 1.0)
    node.handle_timer(5.0)
    assert node.bindings == ()
    answer = only_acknowledgement(node.handle(event, 6.0))
    assert answer.status is BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW


@requirement("RFC6275-5.2.8", "CN-52")
def test_registration_replayed_is_refused_while_any_of_its_nonces_pairs_lives() -> None:
    node, peer = after_tests()
    early_home = (peer.home_token, peer.home_index)
    peer.run_tests(node, 100.0)
    captured = peer.update(1)
    assert only_acknowledgement(node.handle(captured, 101.0)).is_accepted
    # The next one is authorized with an older home token, whose nonce is soon gone.
    peer.home_token, peer.home_index = early_home
    assert only_acknowledgement(node.handle(peer.update(2), 102.0)).is_accepted
    node.handle(peer.deregistration(3), 103.0)
    answer = only_acknowledgement(node.handle(captured, 300.0))
    assert answer.status is BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW


@requirement("RFC6275-9.5.3", "CN-52")
def test_newer_registration_after_the_deregistration_is_accepted() -> None:
    node = make_correspondent()
    peer = bound(node)
    node.handle(peer.deregistration(2), 10.0)
    assert only_acknowledgement(node.handle(peer.update(3), 11.0)).is_accepted
    # The old deregistration does not end it.
    node.handle(peer.deregistration(2), 12.0)
    assert len(node.bindings) == 1


@requirement("RFC6275-9.5.4", "CN-54")
def test_update_from_a_multicast_address_is_discarded() -> None:
    node, peer = after_tests()
    event = peer.update(source=IPv6Address("ff0e::1"))
    assert node.handle(event, 1.0) == []
    assert node.drops[DropReason.MULTICAST_SOURCE] == 1


@requirement("RFC6275-9.5.4", "CN-55")
def test_update_from_the_home_address_is_acknowledged_without_a_routing_header() -> None:
    node = make_correspondent()
    peer = bound(node)
    packet, _ = only_sent(node.handle(peer.deregistration(), 1.0), BindingAcknowledgement)
    assert (packet.destination, packet.extension_headers) == (HOME_ADDRESS, ())


@requirement("RFC6275-6.1.8", "CN-57")
def test_acknowledgement_has_no_bit_set_beyond_the_rfc() -> None:
    node, peer = after_tests()
    event = peer.update()
    update = event.packet.payload
    assert isinstance(update, BindingUpdate)
    packet, answer = only_sent(node.handle(event, 1.0), BindingAcknowledgement)
    assert (answer.key_management_mobility, answer.other_flags) == (False, 0)
    header = encode_packet(packet)[40 + 24 :]
    assert header[3] == 0
    assert header[7] == 0


@requirement("RFC6275-9.5.5", "CN-58")
def test_binding_in_use_is_asked_to_be_refreshed_before_it_ends() -> None:
    node = make_correspondent()
    bound(node)
    assert node.handle(traffic(), 389.0) == []
    packet, _ = only_sent(node.handle(traffic(), 390.0), BindingRefreshRequest)
    assert (packet.source, packet.destination) == (CORRESPONDENT, HOME_ADDRESS)
    assert packet.extension_headers == ()


@requirement("RFC6275-9.5.5", "CN-58")
def test_binding_of_a_short_lifetime_is_asked_to_be_refreshed_in_its_last_quarter() -> None:
    node, peer = after_tests()
    node.handle(peer.update(lifetime=40), 0.0)
    assert node.handle(traffic(), 29.0) == []
    assert sent(node.handle(traffic(), 30.0), BindingRefreshRequest)


@requirement("RFC6275-9.5.5", "CN-58")
def test_refresh_requests_are_few_and_far_between() -> None:
    node = make_correspondent()
    bound(node)
    times = [
        now
        for now in (390 + step / 10 for step in range(299))
        if sent(node.handle(traffic(), now), BindingRefreshRequest)
    ]
    assert times == [390.0, 395.0, 400.0]
    assert all(later - earlier >= 1 / MAX_UPDATE_RATE for earlier, later in pairwise(times))


@requirement("RFC6275-9.5.5", "CN-58")
def test_refresh_requests_stop_when_an_update_comes() -> None:
    node = make_correspondent()
    peer = bound(node)
    assert sent(node.handle(traffic(), 395.0), BindingRefreshRequest)
    # Its nonces are too old, but the mobile node has heard.
    node.handle(peer.update(2), 396.0)
    assert not sent(node.handle(traffic(), 401.0), BindingRefreshRequest)
    peer.run_tests(node, 402.0)
    node.handle(peer.update(3), 403.0)
    assert not sent(node.handle(traffic(), 408.0), BindingRefreshRequest)


@requirement("RFC6275-9.5.5", "CN-58")
def test_binding_that_is_not_in_use_is_not_asked_to_be_refreshed() -> None:
    node = make_correspondent()
    bound(node)
    assert not sent(node.handle_timer(395.0), BindingRefreshRequest)
    other = TrafficSeen(local=CORRESPONDENT, peer=OTHER_HOME_ADDRESS, packets_out=1)
    assert node.handle(other, 396.0) == []


@requirement("RFC6275-9.6", "CN-59")
def test_binding_long_unused_makes_room_for_a_new_one() -> None:
    node = make_correspondent(max_bindings=2)
    used, unused = others(2)
    bound(node, peer=used)
    bound(node, peer=unused)
    seen = TrafficSeen(local=CORRESPONDENT, peer=used.home_address, packets_in=1)
    node.handle(seen, 290.0)
    peer = Peer().run_tests(node, 300.0)
    actions = node.handle(peer.update(), 300.0)
    assert only_acknowledgement(actions).is_accepted
    assert of_type(actions, RemovePeerBinding) == [
        RemovePeerBinding(home_address=unused.home_address)
    ]
    assert {each.home_address for each in node.bindings} == {used.home_address, HOME_ADDRESS}


@requirement("RFC6275-9.6", "CN-59")
def test_binding_whose_nonces_live_does_not_make_room() -> None:
    """It would have to be remembered against replays, which takes the same room."""
    node = make_correspondent(max_bindings=1)
    bound(node, peer=others(1)[0])
    peer = Peer().run_tests(node, 100.0)
    answer = only_acknowledgement(node.handle(peer.update(), 100.0))
    assert answer.status is BindingStatus.INSUFFICIENT_RESOURCES


@requirement("RFC6275-9.6", "CN-59")
def test_binding_of_a_full_cache_can_still_be_refreshed() -> None:
    node = make_correspondent(max_bindings=1)
    peer = bound(node)
    assert only_acknowledgement(node.handle(peer.update(2), 10.0)).is_accepted
    # Deregistered, its place is kept for its owner while a replay is possible.
    node.handle(peer.deregistration(3), 11.0)
    stranger = others(1)[0].run_tests(node, 12.0)
    refused = only_acknowledgement(node.handle(stranger.update(), 12.0))
    assert refused.status is BindingStatus.INSUFFICIENT_RESOURCES
    assert only_acknowledgement(node.handle(peer.update(4), 13.0)).is_accepted


@requirement("RFC6275-9.6", "CN-59")
def test_binding_expired_makes_room() -> None:
    node = make_correspondent(max_bindings=1)
    bound(node, peer=others(1)[0])
    peer = Peer().run_tests(node, 420.0)
    assert only_acknowledgement(node.handle(peer.update(), 420.0)).is_accepted
