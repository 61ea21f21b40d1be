"""The home agent's side of the Home Agent Switch message (RFC 5142 5)."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import Action, ReportEvent, SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.mobility.home_agent import HomeAgent
from mnagent.wire.ipv6 import IPv6Packet, Type2RoutingHeader
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingErrorStatus,
    BindingStatus,
    HomeAgentSwitch,
)
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    FOREIGN_SIDE,
    HOME_ADDRESS,
    HOME_AGENT_ADDRESS,
    OTHER_CARE_OF_ADDRESS,
    OTHER_HOME_ADDRESS,
    binding_update,
    make_home_agent,
    register,
    reports,
    sent,
)
from tests.support.requirement import requirement

OTHERS = (IPv6Address("2001:db8:1::2"), IPv6Address("2001:db8:1::3"))


def ask(home_agent: HomeAgent, now: float, *home_addresses: IPv6Address) -> list[Action]:
    return home_agent.ask_to_switch(home_addresses, OTHERS, now)[1]


def times_of_switches(home_agent: HomeAgent, *, start: float, until: float) -> list[float]:
    """When the timer sends one."""
    times = []
    now: float | None = start
    while (now := home_agent.next_deadline()) is not None and now < until:
        times += [now for _ in sent(home_agent.handle_timer(now), HomeAgentSwitch)]
    return times


def answer_of(actions: list[Action]) -> BindingAcknowledgement:
    (action,) = sent(actions, BindingAcknowledgement)
    assert isinstance(action.packet.payload, BindingAcknowledgement)
    return action.packet.payload


@requirement("RFC5142-5.1", "EXT-05")
def test_switch_names_the_others_by_way_of_the_care_of_address() -> None:
    home_agent = make_home_agent(home_link=None)
    register(home_agent)
    (action,) = sent(ask(home_agent, 5.0), HomeAgentSwitch)
    assert action == SendPacket(
        packet=IPv6Packet(
            HOME_AGENT_ADDRESS,
            CARE_OF_ADDRESS,
            HomeAgentSwitch(OTHERS),
            extension_headers=(Type2RoutingHeader(HOME_ADDRESS),),
        )
    )


@requirement("RFC5142-5.2", "EXT-05")
def test_switch_is_repeated_with_growing_delay_while_the_binding_lives() -> None:
    home_agent = make_home_agent(home_link=None)
    register(home_agent, lifetime=400)
    ask(home_agent, 5.0)
    times = times_of_switches(home_agent, start=5.0, until=100.0)
    assert times == [10.0, 20.0, 40.0, 60.0, 80.0]


@requirement("RFC5142-5.3", "EXT-05")
def test_binding_is_served_but_not_extended_and_ends_when_asked_to() -> None:
    home_agent = make_home_agent(home_link=None)
    register(home_agent)
    ask(home_agent, 5.0)
    (before,) = home_agent.bindings
    refused = home_agent.handle(binding_update(sequence=2), 6.0)
    assert answer_of(refused).status == BindingStatus.ADMINISTRATIVELY_PROHIBITED
    assert home_agent.bindings == (before,)
    ended = home_agent.handle(binding_update(sequence=3, lifetime=0), 7.0)
    assert answer_of(ended).status == BindingStatus.BINDING_UPDATE_ACCEPTED
    assert home_agent.bindings == ()
    assert times_of_switches(home_agent, start=7.0, until=100.0) == []
    back = home_agent.handle(binding_update(sequence=4), 120.0)
    assert answer_of(back).status == BindingStatus.BINDING_UPDATE_ACCEPTED


def test_switch_follows_nothing_after_the_lifetime_of_the_binding() -> None:
    home_agent = make_home_agent(home_link=None)
    register(home_agent, lifetime=12)
    ask(home_agent, 5.0)
    assert times_of_switches(home_agent, start=5.0, until=100.0) == [10.0]
    assert home_agent.next_deadline() is None


@requirement("RFC5142-7", "EXT-05")
@pytest.mark.parametrize("rate", [1.0, 4.0])
def test_many_mobile_nodes_are_asked_no_faster_than_the_rate(rate: float) -> None:
    home_agent = make_home_agent(home_link=None, switch_rate=rate)
    register(home_agent)
    register(home_agent, home_address=OTHER_HOME_ADDRESS, source=OTHER_CARE_OF_ADDRESS)
    first = sent(ask(home_agent, 5.0), HomeAgentSwitch)
    assert len(first) == 1
    times = times_of_switches(home_agent, start=5.0, until=12.0)
    assert times == [5.0 + 1 / rate, 10.0, 10.0 + 1 / rate]


def test_only_those_named_are_asked() -> None:
    home_agent = make_home_agent(home_link=None)
    register(home_agent)
    register(home_agent, home_address=OTHER_HOME_ADDRESS, source=OTHER_CARE_OF_ADDRESS)
    unknown = IPv6Address("2001:db8:1::99")
    asked, actions = home_agent.ask_to_switch((OTHER_HOME_ADDRESS, unknown), (), 5.0)
    assert asked == (OTHER_HOME_ADDRESS,)
    (switch,) = sent(actions, HomeAgentSwitch)
    assert switch.packet.payload == HomeAgentSwitch()
    (report,) = reports(actions, "home-agent-switch-asked")
    assert isinstance(report, ReportEvent)


def binding_error(status: BindingErrorStatus, source: IPv6Address) -> PacketReceived:
    message = BindingError(status, IPv6Address("::"))
    packet = IPv6Packet(source, HOME_AGENT_ADDRESS, message)
    return PacketReceived(packet=packet, interface=FOREIGN_SIDE)


@requirement("RFC5142-5.3", "EXT-05", "EXT-07")
def test_mobile_node_that_does_not_understand_is_served_and_asked_rarely() -> None:
    home_agent = make_home_agent(home_link=None)
    register(home_agent, lifetime=400)
    error = binding_error(
        BindingErrorStatus.UNRECOGNIZED_MOBILITY_HEADER_TYPE, source=CARE_OF_ADDRESS
    )
    assert home_agent.handle(error, 4.0) == []
    ask(home_agent, 5.0)
    assert reports(home_agent.handle(error, 5.1), "home-agent-switch-not-understood")
    assert len(home_agent.bindings) == 1
    times = times_of_switches(home_agent, start=5.1, until=50.0)
    assert times == [pytest.approx(25.1), pytest.approx(45.1)]


def test_error_of_another_kind_or_from_elsewhere_changes_nothing() -> None:
    home_agent = make_home_agent(home_link=None)
    register(home_agent)
    ask(home_agent, 5.0)
    unrecognized = BindingErrorStatus.UNRECOGNIZED_MOBILITY_HEADER_TYPE
    unknown = BindingErrorStatus.UNKNOWN_BINDING_FOR_HOME_ADDRESS_OPTION
    assert home_agent.handle(binding_error(unrecognized, OTHER_CARE_OF_ADDRESS), 5.1) == []
    assert home_agent.handle(binding_error(unknown, CARE_OF_ADDRESS), 5.2) == []
    assert home_agent.drops[DropReason.UNEXPECTED_MESSAGE] == 2
    assert home_agent.next_deadline() == 10.0


def test_mobile_node_still_in_the_queue_cannot_have_misunderstood() -> None:
    home_agent = make_home_agent(home_link=None)
    register(home_agent)
    register(home_agent, home_address=OTHER_HOME_ADDRESS, source=OTHER_CARE_OF_ADDRESS)
    ask(home_agent, 5.0)
    error = binding_error(
        BindingErrorStatus.UNRECOGNIZED_MOBILITY_HEADER_TYPE, source=OTHER_CARE_OF_ADDRESS
    )
    assert home_agent.handle(error, 5.5) == []
    assert home_agent.next_deadline() == 6.0
