"""De-registration and expiry at the home agent (RFC 6275 10.3.2 and 9.6)."""

from __future__ import annotations

import pytest

from mnagent.core.actions import (
    InterceptHomeAddress,
    LeaveGroup,
    RemoveTunnel,
    SetTunnel,
    StopIntercepting,
)
from mnagent.mobility.addresses import solicited_node_group
from mnagent.mobility.home_agent import HomeAgent
from mnagent.wire.ipv6 import Type2RoutingHeader
from mnagent.wire.mobility import BindingAcknowledgement, BindingStatus
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    HOME_ADDRESS,
    HOME_LINK,
    MOBILE_NODE_MAC,
    actions_of,
    binding_update,
    make_home_agent,
    only_acknowledgement,
    register,
    reports,
    sent,
    solicitation,
    update_from_home,
)
from tests.support.requirement import requirement


def registered_home_agent(**changes: object) -> HomeAgent:
    home_agent = make_home_agent(**changes)
    register(home_agent)
    return home_agent


def assert_given_back(actions: list[object]) -> None:
    assert StopIntercepting(home_address=HOME_ADDRESS) in actions
    assert RemoveTunnel(home_address=HOME_ADDRESS) in actions
    group = solicited_node_group(HOME_ADDRESS)
    assert LeaveGroup(interface=HOME_LINK, group=group) in actions


@requirement("RFC6275-10.3.1", "HA-19")
def test_home_agent_lifetime_over_gives_the_home_address_back() -> None:
    home_agent = registered_home_agent()
    for _ in range(2):
        home_agent.handle_timer(home_agent.next_deadline() or 0.0)
    assert home_agent.next_deadline() == 601.0
    assert home_agent.handle_timer(600.9) == []
    actions = home_agent.handle_timer(601.0)
    assert_given_back([*actions])
    assert ("reason", "expired") in reports(actions, "binding-removed")[0].details
    assert home_agent.bindings == ()
    assert home_agent.next_deadline() is None


@requirement("RFC6275-9.6", "HA-19")
def test_home_agent_lifetime_over_holds_even_before_the_timer_ran() -> None:
    home_agent = registered_home_agent()
    actions = home_agent.handle(solicitation(), 700.0)
    assert_given_back([*actions])
    assert not sent(actions, object)


@requirement("RFC6275-10.3.2", "HA-25")
@pytest.mark.parametrize("acknowledge", [True, False])
def test_home_agent_deregistration_from_afar_is_acknowledged_by_routing_header(
    acknowledge: bool,
) -> None:
    home_agent = registered_home_agent(refresh_advice=60)
    update = binding_update(sequence=2, lifetime=0, acknowledge=acknowledge)
    actions = home_agent.handle(update, 5.0)
    assert_given_back([*actions])
    (answer,) = sent(actions, BindingAcknowledgement)
    assert answer.packet.destination == CARE_OF_ADDRESS
    assert answer.packet.extension_headers == (Type2RoutingHeader(HOME_ADDRESS),)
    acknowledgement = only_acknowledgement(actions)
    assert acknowledgement.status == BindingStatus.BINDING_UPDATE_ACCEPTED
    assert (acknowledgement.lifetime, acknowledgement.sequence) == (0, 2)
    assert acknowledgement.options == ()
    assert home_agent.bindings == ()


@requirement("RFC6275-10.3.2", "HA-26", "SEC-02")
@pytest.mark.parametrize("home_address", [HOME_ADDRESS, None])
def test_home_agent_deregistration_at_home_is_acknowledged_to_home_address(
    home_address: object,
) -> None:
    home_agent = registered_home_agent()
    actions = home_agent.handle(update_from_home(home_address=home_address), 5.0)
    assert_given_back([*actions])
    (answer,) = sent(actions, BindingAcknowledgement)
    assert answer.packet.destination == HOME_ADDRESS
    assert answer.packet.extension_headers == ()
    assert (answer.interface, answer.link_layer_destination) == (HOME_LINK, MOBILE_NODE_MAC)
    assert only_acknowledgement(actions).lifetime == 0
    assert actions.index(StopIntercepting(home_address=HOME_ADDRESS)) < actions.index(answer)


@requirement("RFC6275-10.3.2", "HA-26")
def test_home_agent_care_of_address_that_is_home_address_deregisters() -> None:
    """A tunnel to the home address itself would go round; RFC 3775 9.5.1 said it in words."""
    home_agent = registered_home_agent()
    update = update_from_home(lifetime=600, home_address=HOME_ADDRESS)
    assert only_acknowledgement(home_agent.handle(update, 5.0)).lifetime == 0
    assert home_agent.bindings == ()


@requirement("RFC6275-10.3.2", "HA-27")
@pytest.mark.parametrize("update", [binding_update(lifetime=0), update_from_home()])
def test_home_agent_deregistration_without_binding_is_refused(update: object) -> None:
    actions = make_home_agent().handle(update, 0.0)  # type: ignore[arg-type]
    status = only_acknowledgement(actions).status
    assert status == BindingStatus.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE
    assert not actions_of(actions, StopIntercepting)


@requirement("RFC6275-10.3.2", "HA-27")
def test_home_agent_deregistration_while_probing_is_refused_and_ends_the_probe() -> None:
    home_agent = make_home_agent()
    home_agent.handle(binding_update(sequence=1), 0.0)
    assert home_agent.handle(update_from_home(sequence=1), 0.2) == []
    actions = home_agent.handle(update_from_home(sequence=2), 0.5)
    status = only_acknowledgement(actions).status
    assert status == BindingStatus.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE
    assert home_agent.probing == ()
    late = only_acknowledgement(home_agent.handle(binding_update(sequence=1), 0.6))
    assert late.status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW


@requirement("RFC6275-10.3.2", "HA-28")
def test_home_agent_refusal_to_home_link_goes_to_link_layer_address() -> None:
    home_agent = registered_home_agent()
    actions = home_agent.handle(update_from_home(sequence=1), 5.0)
    (answer,) = sent(actions, BindingAcknowledgement)
    status = only_acknowledgement(actions).status
    assert status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW
    assert (answer.interface, answer.link_layer_destination) == (HOME_LINK, MOBILE_NODE_MAC)


@requirement("RFC6275-10.3.2", "HA-28")
def test_home_agent_refusal_to_another_link_is_routed() -> None:
    home_agent = registered_home_agent()
    update = binding_update(sequence=1, link_layer_source=MOBILE_NODE_MAC)
    (answer,) = sent(home_agent.handle(update, 5.0), BindingAcknowledgement)
    assert (answer.interface, answer.link_layer_destination) == (None, None)


@requirement("RFC6275-10.3.2", "HA-29")
def test_home_agent_update_overtaken_by_deregistration_is_refused() -> None:
    home_agent = registered_home_agent()
    home_agent.handle(update_from_home(sequence=3), 5.0)
    actions = home_agent.handle(binding_update(sequence=2), 14.9)
    (answer,) = sent(actions, BindingAcknowledgement)
    assert answer.packet.destination == CARE_OF_ADDRESS
    acknowledgement = only_acknowledgement(actions)
    assert acknowledgement.status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW
    assert acknowledgement.sequence == 3
    assert home_agent.bindings == home_agent.probing == ()


@requirement("RFC6275-10.3.2", "HA-29")
def test_home_agent_deregistered_entry_is_forgotten_after_max_delete_bce_timeout() -> None:
    home_agent = registered_home_agent()
    home_agent.handle(update_from_home(sequence=3), 5.0)
    assert home_agent.next_deadline() == 15.0
    assert home_agent.handle_timer(15.0) == []
    home_agent.handle(binding_update(sequence=2), 15.1)
    assert home_agent.probing == (HOME_ADDRESS,)


@requirement("RFC6275-10.3.2", "HA-29")
def test_home_agent_deregistration_again_is_acknowledged_again() -> None:
    """The first acknowledgement may have been lost."""
    home_agent = registered_home_agent()
    home_agent.handle(update_from_home(sequence=2), 5.0)
    actions = home_agent.handle(update_from_home(sequence=3), 6.0)
    acknowledgement = only_acknowledgement(actions)
    assert acknowledgement.status == BindingStatus.BINDING_UPDATE_ACCEPTED
    assert acknowledgement.sequence == 3
    assert not actions_of(actions, StopIntercepting)


@requirement("RFC6275-10.3.1", "HA-29", "HA-01")
def test_home_agent_registration_soon_after_deregistration_probes_again() -> None:
    home_agent = registered_home_agent()
    home_agent.handle(update_from_home(sequence=2), 5.0)
    assert not actions_of(home_agent.handle(binding_update(sequence=3), 6.0), SetTunnel)
    actions = home_agent.handle_timer(7.0)
    assert only_acknowledgement(actions).status == BindingStatus.BINDING_UPDATE_ACCEPTED
    assert InterceptHomeAddress(home_address=HOME_ADDRESS) in actions
