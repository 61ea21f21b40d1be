"""Binding revocation (RFC 5846) at both ends, message by message."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from random import Random
from typing import Any

import pytest

from mnagent.core.actions import Action, SendPacket, StopIntercepting
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.core.indications import BindingDeleted, BindingRejected
from mnagent.mobility.home_agent import HomeAgent
from mnagent.mobility.home_registration import (
    CareOf,
    HomePath,
    HomeRegistration,
    HomeRegistrationSettings,
    RegistrationState,
)
from mnagent.wire.ipv6 import (
    DestinationOptions,
    HomeAddressOption,
    IPv6Packet,
    Type2RoutingHeader,
)
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    RevocationStatus,
    RevocationTrigger,
)
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    FOREIGN_SIDE,
    HOME_ADDRESS,
    HOME_AGENT_ADDRESS,
    OTHER_CARE_OF_ADDRESS,
    SETTINGS,
    actions_of,
    binding_update,
    make_home_agent,
    register,
    reports,
    sent,
)
from tests.support.requirement import requirement


def bound_home_agent() -> HomeAgent:
    home_agent = make_home_agent(home_link=None)
    register(home_agent)
    return home_agent


def indication_of(actions: list[Action]) -> BindingRevocationIndication:
    (action,) = sent(actions, BindingRevocationIndication)
    packet = action.packet
    assert packet.source == HOME_AGENT_ADDRESS
    assert packet.destination == CARE_OF_ADDRESS
    assert packet.type2_routing_header == Type2RoutingHeader(HOME_ADDRESS)
    assert isinstance(packet.payload, BindingRevocationIndication)
    return packet.payload


def received(message: Any, *, source: IPv6Address = CARE_OF_ADDRESS) -> PacketReceived:
    """From the mobile node at its care-of address."""
    headers = (DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),)
    packet = IPv6Packet(source, HOME_AGENT_ADDRESS, message, extension_headers=headers)
    return PacketReceived(packet=packet, interface=FOREIGN_SIDE)


def is_bound(home_agent: HomeAgent) -> bool:
    return any(entry.home_address == HOME_ADDRESS for entry in home_agent.bindings)


@requirement("RFC5846-6", "EXT-08")
def test_binding_revoked_ends_with_the_answer() -> None:
    home_agent = bound_home_agent()
    actions = home_agent.delete_binding(HOME_ADDRESS, 5.0)
    assert actions is not None
    indication = indication_of(actions)
    assert indication.trigger == RevocationTrigger.ADMINISTRATIVE_REASON
    assert is_bound(home_agent)
    answer = BindingRevocationAcknowledgement(
        status=RevocationStatus.SUCCESS, sequence=indication.sequence
    )
    ended = home_agent.handle(received(answer), 5.1)
    assert not is_bound(home_agent)
    assert actions_of(ended, StopIntercepting)
    (report,) = reports(ended, "binding-removed")
    assert ("reason", "revoked") in report.details
    assert home_agent.handle_timer(10.0) == []


def test_answer_with_another_number_ends_nothing() -> None:
    home_agent = bound_home_agent()
    answer = BindingRevocationAcknowledgement(status=RevocationStatus.SUCCESS, sequence=1)
    assert home_agent.handle(received(answer), 5.0) == []
    indication = indication_of(home_agent.delete_binding(HOME_ADDRESS, 6.0) or [])
    wrong = replace(answer, sequence=(indication.sequence + 1) % 65536)
    assert home_agent.handle(received(wrong), 6.1) == []
    assert is_bound(home_agent)
    assert home_agent.drops[DropReason.SEQUENCE_MISMATCH] == 2


def test_revocation_without_an_answer_is_sent_twice_and_then_ends_the_binding() -> None:
    home_agent = bound_home_agent()
    first = indication_of(home_agent.delete_binding(HOME_ADDRESS, 5.0) or [])
    assert home_agent.next_deadline() == 6.0
    assert indication_of(home_agent.handle_timer(6.0)) == first
    assert home_agent.handle_timer(7.0) == []
    ended = home_agent.handle_timer(8.0)
    assert not sent(ended, BindingRevocationIndication)
    assert not is_bound(home_agent)


def test_revocation_asked_for_again_goes_on_as_it_was() -> None:
    home_agent = bound_home_agent()
    indication_of(home_agent.delete_binding(HOME_ADDRESS, 5.0) or [])
    assert not sent(home_agent.delete_binding(HOME_ADDRESS, 5.5) or [], object)
    assert home_agent.next_deadline() == 6.0


def test_binding_update_calls_the_revocation_off() -> None:
    home_agent = bound_home_agent()
    home_agent.delete_binding(HOME_ADDRESS, 5.0)
    home_agent.handle(binding_update(sequence=2, source=OTHER_CARE_OF_ADDRESS), 5.5)
    assert home_agent.handle_timer(20.0) == []
    assert is_bound(home_agent)


def test_deregistration_ends_the_revocation() -> None:
    home_agent = bound_home_agent()
    home_agent.delete_binding(HOME_ADDRESS, 5.0)
    home_agent.handle(binding_update(sequence=2, lifetime=0), 5.5)
    assert home_agent.handle_timer(6.0) == []


@pytest.mark.parametrize(
    ("source", "status", "ends"),
    [(CARE_OF_ADDRESS, 2, True), (CARE_OF_ADDRESS, 1, False), (OTHER_CARE_OF_ADDRESS, 2, False)],
)
def test_mobile_node_that_knows_no_revocation_ends_it_too(
    source: IPv6Address, status: int, ends: bool
) -> None:
    home_agent = bound_home_agent()
    home_agent.delete_binding(HOME_ADDRESS, 5.0)
    packet = IPv6Packet(source, HOME_AGENT_ADDRESS, BindingError(status, HOME_ADDRESS))
    home_agent.handle(PacketReceived(packet=packet, interface=FOREIGN_SIDE), 5.1)
    assert is_bound(home_agent) is not ends


def test_node_that_is_served_no_more_is_told_once() -> None:
    home_agent = bound_home_agent()
    actions = home_agent.withdraw_unserved(replace(SETTINGS, mobile_nodes=()), 5.0)
    indication_of(actions)
    assert not is_bound(home_agent)
    assert home_agent.handle_timer(20.0) == []


# The mobile node.

CARE_OF = CareOf(address=CARE_OF_ADDRESS, interface=3)


def registration_bound() -> HomeRegistration:
    registration = HomeRegistration(
        HomeRegistrationSettings(home_address=HOME_ADDRESS, home_agent_address=HOME_AGENT_ADDRESS),
        random=Random(1),
    )
    (update,) = sent(registration.register(CARE_OF, 0.0), BindingUpdate)
    assert isinstance(update.packet.payload, BindingUpdate)
    accepted = BindingAcknowledgement(
        status=0, sequence=update.packet.payload.sequence, lifetime=600
    )
    registration.handle(to_mobile_node(accepted), 0.1)
    assert registration.state is RegistrationState.REGISTERED
    return registration


def to_mobile_node(message: Any, *, with_header: bool = True) -> PacketReceived:
    headers = (Type2RoutingHeader(HOME_ADDRESS),) if with_header else ()
    packet = IPv6Packet(HOME_AGENT_ADDRESS, CARE_OF_ADDRESS, message, extension_headers=headers)
    return PacketReceived(packet=packet, interface=3)


def revoked(registration: HomeRegistration, **changes: Any) -> list[Any]:
    fields: dict[str, Any] = {"trigger": 1, "sequence": 77} | changes
    return registration.handle(to_mobile_node(BindingRevocationIndication(**fields)), 5.0)


def answer_in(outputs: list[Any]) -> BindingRevocationAcknowledgement:
    (action,) = sent(outputs, BindingRevocationAcknowledgement)
    assert isinstance(action, SendPacket)
    assert action.packet.logical_source == HOME_ADDRESS
    assert action.packet.source == CARE_OF_ADDRESS
    assert action.packet.destination == HOME_AGENT_ADDRESS
    assert isinstance(action.packet.payload, BindingRevocationAcknowledgement)
    assert action.packet.payload.sequence == 77
    return action.packet.payload


@requirement("RFC5846-6", "EXT-08")
def test_mobile_node_answers_and_registers_again_after_a_while() -> None:
    registration = registration_bound()
    outputs = revoked(registration)
    assert answer_in(outputs).status == RevocationStatus.SUCCESS
    (report,) = reports(outputs, "binding-revoked")
    assert report.details == (("trigger", "1"),)
    assert actions_of(outputs, BindingRejected)
    assert registration.state is RegistrationState.REFUSED
    assert registration.bound_address is None
    assert not registration.may_be_bound(5.0)
    assert registration.next_deadline() == 13.0
    assert sent(registration.handle_timer(13.0), BindingUpdate)


@requirement("RFC5846-6.2.1", "EXT-09")
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"proxy_binding": True}, RevocationStatus.PROXY_BINDING_REVOCATION_NOT_SUPPORTED),
        ({"ipv4_only": True}, RevocationStatus.IPV4_HOME_ADDRESS_OPTION_REQUIRED),
        ({"is_global": True, "trigger": 128}, RevocationStatus.FUNCTION_NOT_SUPPORTED),
        ({"trigger": 2}, RevocationStatus.TRIGGER_NOT_SUPPORTED),
    ],
)
def test_revocation_that_is_not_for_mobile_nodes_is_refused(
    changes: dict[str, Any], status: RevocationStatus
) -> None:
    registration = registration_bound()
    outputs = revoked(registration, **changes)
    answer = answer_in(outputs)
    assert answer.status == status
    assert answer.proxy_binding is changes.get("proxy_binding", False)
    assert answer.is_global is changes.get("is_global", False)
    assert registration.state is RegistrationState.REGISTERED


def test_revocation_without_the_routing_header_is_dropped() -> None:
    registration = registration_bound()
    message = BindingRevocationIndication(trigger=1, sequence=77)
    assert registration.handle(to_mobile_node(message, with_header=False), 5.0) == []
    assert registration.drops[DropReason.NO_TYPE2_ROUTING_HEADER] == 1


@requirement("RFC5846-6.2.1", "EXT-09")
def test_revocation_of_a_binding_that_has_ended_is_answered_so() -> None:
    registration = registration_bound()
    revoked(registration)
    (answer,) = revoked(registration)
    assert answer_in([answer]).status == RevocationStatus.BINDING_DOES_NOT_EXIST


def test_revocation_while_deregistering_is_as_good_as_the_answer() -> None:
    registration = registration_bound()
    registration.deregister(4.0)
    outputs = revoked(registration)
    assert answer_in(outputs).status == RevocationStatus.SUCCESS
    assert actions_of(outputs, BindingDeleted)
    assert registration.state is RegistrationState.UNREGISTERED


def test_revocation_without_a_care_of_address_leaves_the_node_silent() -> None:
    registration = registration_bound()
    registration.suspend()
    assert answer_in(revoked(registration)).status == RevocationStatus.SUCCESS
    assert registration.state is RegistrationState.UNREGISTERED
    assert registration.handle_timer(100.0) == []


def test_revocation_on_the_home_link_ends_the_deregistration() -> None:
    registration = registration_bound()
    registration.deregister_at_home(HomePath(interface=2), 4.0)
    assert actions_of(revoked(registration), BindingDeleted)
