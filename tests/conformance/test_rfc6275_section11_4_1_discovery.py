"""RFC 6275 11.4.1: the mobile node finds home agents, tries them, and leaves those that fail."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from ipaddress import IPv6Address
from random import Random
from typing import Any

import pytest

from mnagent.core.actions import HoldTunnel, PersistRecord, SetTunnel
from mnagent.core.drops import DropReason
from mnagent.core.events import LinkDown, ShutdownRequested, TunnelActivity
from mnagent.core.indications import Output
from mnagent.mobility.home_agent_discovery import HomeAgentDiscovery
from mnagent.mobility.mobile_node import MobileNode, MobileNodeSettings
from mnagent.wire.icmp6 import HomeAgentAddressDiscoveryReply, HomeAgentAddressDiscoveryRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingStatus, BindingUpdate
from tests.support.driver import (
    CARE_OF_A,
    CARE_OF_B,
    HOME_ADDRESS,
    HOME_AGENT,
    INTERFACE,
    Driver,
    MobileNodeDriver,
)
from tests.support.matching import of_type, reports, sent
from tests.support.packets import binding_acknowledgement, received
from tests.support.requirement import requirement

ANYCAST = IPv6Address("2001:db8:1:0:fdff:ffff:ffff:fffe")
SECOND, THIRD = HOME_AGENT + 1, HOME_AGENT + 2
TIMEOUT = 1.5
"""InitialBindackTimeoutFirstReg."""


class Node(MobileNodeDriver):
    """A mobile node with the keys of three home agents."""

    def __init__(
        self,
        *home_agents: IPv6Address,
        usable: Sequence[IPv6Address] = (HOME_AGENT, SECOND, THIRD),
        records: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        records = records or {}
        self.node = MobileNode(
            MobileNodeSettings(
                home_address=HOME_ADDRESS,
                home_agent_address=HOME_AGENT,
                home_agents=home_agents,
                usable_home_agents=tuple(usable),
                optimistic_tunnel=True,
                **settings,
            ),
            random=Random(1),
            persisted_sequence=records.get(f"sequence.{HOME_ADDRESS}"),
            persisted_binding=records.get(f"binding.{HOME_ADDRESS}"),
            persisted_home_agent=records.get(f"home-agent.{HOME_ADDRESS}"),
            persisted_home_agents=records.get(f"home-agents.{HOME_ADDRESS}"),
        )
        Driver.__init__(self, self.node)

    def go(self, address: IPv6Address = CARE_OF_A) -> list[Output]:
        """To a foreign link."""
        return self.link_up() + self.visit(address)

    def answer(self, source: IPv6Address | None = None, **fields: Any) -> list[Output]:
        """The home agent registered with, or another one, acknowledges its newest update."""
        source = source or self.node.home_agent_address
        update, care_of = self.newest(source)
        values: dict[str, Any] = {
            "sequence": update.sequence,
            "lifetime": update.lifetime,
            "care_of_address": care_of,
            **fields,
        }
        return self.tell(received(binding_acknowledgement(source, HOME_ADDRESS, **values)))

    def newest(self, home_agent: IPv6Address) -> tuple[BindingUpdate, IPv6Address | None]:
        pairs = sent([output for _, output in self.log], BindingUpdate)
        action, update = next(p for p in reversed(pairs) if p[0].packet.destination == home_agent)
        source = action.packet.source
        return update, None if source == HOME_ADDRESS else source

    def reply(
        self, *addresses: IPv6Address, identifier: int | None = None, **packet: Any
    ) -> list[Output]:
        """A home agent answers the newest request."""
        values: dict[str, Any] = {"source": SECOND, "destination": CARE_OF_A, **packet}
        known = self.requests()[-1].identifier if identifier is None else identifier
        values["payload"] = HomeAgentAddressDiscoveryReply(known, addresses)
        return self.tell(received(IPv6Packet(**values)))

    def requests(self) -> list[HomeAgentAddressDiscoveryRequest]:
        log = [output for _, output in self.log]
        return [message for _, message in sent(log, HomeAgentAddressDiscoveryRequest)]

    def asked(self) -> list[tuple[float, IPv6Address]]:
        """Updates that are no deregistrations: when, and whom."""
        return [
            (round(at - 1000.0, 3), action.packet.destination)
            for at, output in self.log
            for action, update in sent([output], BindingUpdate)
            if update.lifetime
        ]

    def records(self) -> dict[str, str]:
        return {record.key: record.value for record in self.all(PersistRecord)}


def destinations(outputs: Sequence[Output]) -> list[IPv6Address]:
    return [action.packet.destination for action, _ in sent(outputs, BindingUpdate)]


# Discovery.


@requirement("RFC6275-11.4.1", "DHA-01")
def test_unknown_home_agent_is_asked_for_at_the_anycast_address() -> None:
    node = Node()
    outputs = node.go()
    ((action, _),) = sent(outputs, HomeAgentAddressDiscoveryRequest)
    assert (action.packet.source, action.packet.destination) == (CARE_OF_A, ANYCAST)
    assert action.interface == INTERFACE
    assert destinations(outputs) == []
    assert node.node.home_agents.is_discovering


@requirement("RFC6275-11.4.1", "DHA-02")
def test_request_goes_again_after_twice_as_long_four_times() -> None:
    node = Node()
    node.go()
    node.advance(92.9)
    start = node.times_of(HomeAgentAddressDiscoveryRequest)[0]
    times = [at - start for at in node.times_of(HomeAgentAddressDiscoveryRequest)]
    assert times == [0.0, 3.0, 9.0, 21.0, 45.0]
    assert len({request.identifier for request in node.requests()}) == 1


@requirement("RFC6275-11.4.1", "DHA-02")
def test_unanswered_discovery_ends_with_those_that_keys_are_for() -> None:
    node = Node()
    node.go()
    outputs = node.advance(93.1)
    assert len(reports(outputs, "home-agent-discovery-failed")) == 1
    assert destinations(outputs) == [HOME_AGENT]
    node.answer()
    assert node.node.state == "registered"
    node.advance(180.0)
    assert len(node.requests()) == 5


@requirement("RFC6275-11.4.1", "DHA-03")
def test_reply_with_another_identifier_is_ignored() -> None:
    node = Node()
    node.go()
    wrong = node.requests()[0].identifier ^ 1
    assert node.reply(SECOND, identifier=wrong) == []
    assert node.node.drops == {DropReason.WRONG_IDENTIFIER: 1}
    assert node.node.home_agents.is_discovering


@requirement("RFC6275-11.4.1", "DHA-03")
def test_reply_that_nobody_asked_for_is_ignored() -> None:
    node = Node(HOME_AGENT)
    node.go()
    assert node.reply(SECOND, identifier=1) == []
    assert node.node.drops == {DropReason.UNEXPECTED_MESSAGE: 1}


@requirement("RFC6275-11.4.1", "DHA-03")
def test_reply_to_another_address_is_ignored() -> None:
    node = Node()
    node.go()
    assert node.reply(SECOND, destination=CARE_OF_B) == []
    assert node.node.drops == {DropReason.UNEXPECTED_MESSAGE: 1}


def test_reply_without_a_usable_address_is_ignored() -> None:
    node = Node()
    node.go()
    assert node.reply(IPv6Address("fe80::1"), IPv6Address("ff02::1")) == []
    assert node.node.drops == {DropReason.NO_ADDRESSES_AVAILABLE: 1}


@requirement("RFC6275-11.4.1", "DHA-04")
def test_listed_home_agents_are_tried_in_order_and_not_too_soon() -> None:
    node = Node()
    node.go()
    node.reply(THIRD, HOME_AGENT, SECOND)
    node.advance(3 * TIMEOUT)
    asked = node.asked()
    first = {which: at for at, which in reversed(asked)}
    assert sorted(first, key=lambda which: first[which])[:2] == [THIRD, HOME_AGENT]
    assert first[HOME_AGENT] - first[THIRD] >= TIMEOUT


@requirement("RFC6275-11.4.1", "DHA-04")
def test_list_is_stored_and_used_after_a_restart() -> None:
    node = Node()
    node.go()
    node.reply(THIRD, SECOND)
    assert node.records()[f"home-agents.{HOME_ADDRESS}"] == f"{THIRD} {SECOND}"
    again = Node(records={f"home-agents.{HOME_ADDRESS}": f"{THIRD} {SECOND}"})
    assert destinations(again.go()) == [THIRD]
    assert again.node.home_agents.candidates == (THIRD, SECOND)


def test_stored_list_that_cannot_be_read_counts_as_none() -> None:
    node = Node(records={f"home-agents.{HOME_ADDRESS}": "nonsense"})
    assert sent(node.go(), HomeAgentAddressDiscoveryRequest)


def test_listed_home_agents_without_keys_are_told_of_and_not_used() -> None:
    node = Node(usable=(HOME_AGENT,))
    node.go()
    outputs = node.reply(SECOND, THIRD)
    assert reports(outputs, "home-agents-without-keys") == [{"home_agents": f"{SECOND} {THIRD}"}]
    assert destinations(outputs) == [HOME_AGENT]
    assert node.node.home_agents.discovered == (SECOND, THIRD)
    node.advance(60.0)
    assert len({request.identifier for request in node.requests()}) > 1


def test_discovery_goes_on_from_another_care_of_address() -> None:
    node = Node()
    node.go()
    node.visit(CARE_OF_A)
    assert len(node.requests()) == 1
    node.visit(CARE_OF_B)
    log = [output for _, output in node.log]
    pairs = sent(log, HomeAgentAddressDiscoveryRequest)
    assert [action.packet.source for action, _ in pairs] == [CARE_OF_A, CARE_OF_B]
    assert pairs[0][1].identifier != pairs[1][1].identifier


def test_discovery_ends_when_there_is_no_care_of_address() -> None:
    node = Node()
    node.go()
    node.tell(LinkDown(interface=INTERFACE))
    assert not node.node.home_agents.is_discovering
    node.advance(10.0)
    assert len(node.requests()) == 1


def test_discovery_that_is_over_has_no_deadline() -> None:
    discovery = HomeAgentDiscovery(
        MobileNodeSettings(home_address=HOME_ADDRESS, home_agent_address=HOME_AGENT).home_prefix,
        random=Random(1),
    )
    assert discovery.handle_timer(1000.0) == [] and discovery.next_deadline() is None


# Failing over.


def registered(*home_agents: IPv6Address, **settings: Any) -> Node:
    node = Node(*(home_agents or (HOME_AGENT, SECOND)), **settings)
    node.go()
    node.answer()
    return node


@requirement("RFC6275-11.4.1", "DHA-04", "DHA-06")
def test_silent_home_agent_is_replaced_by_the_next_within_the_timeout() -> None:
    node = registered(path_check_interval=60.0)
    node.advance(60.0)  # the check on schedule is not answered
    begun = node.asked()[-1][0]
    outputs = node.advance(TIMEOUT)
    assert destinations(outputs)[-1] == SECOND
    assert node.asked()[-1] == (begun + TIMEOUT, SECOND)
    tunnel = of_type(outputs, SetTunnel)[-1]
    assert (tunnel.remote, tunnel.local) == (SECOND, CARE_OF_A)
    assert isinstance(outputs[[type(o) for o in outputs].index(HoldTunnel)], HoldTunnel)
    node.answer()
    assert node.node.state == "registered" and node.node.home_agent_address == SECOND
    assert node.records()[f"home-agent.{HOME_ADDRESS}"] == str(SECOND)


@requirement("RFC6275-11.4.1", "DHA-04")
def test_silence_in_the_tunnel_leads_to_the_next_home_agent_within_seconds() -> None:
    node = registered(path_silence=1.0)
    for second in range(5):
        node.tell(TunnelActivity(home_address=HOME_ADDRESS, packets_out=second, packets_in=second))
        node.advance(1.0)
    died_at = node.now
    for second in range(5, 10):
        node.tell(TunnelActivity(home_address=HOME_ADDRESS, packets_out=second, packets_in=4))
        node.advance(1.0)
    at = next(at for at, which in node.asked() if which == SECOND)
    assert at + 1000.0 - died_at <= 1.0 + TIMEOUT + 1.0


def test_home_agent_that_carries_packets_is_not_left_for_a_lost_answer() -> None:
    node = registered(path_check_interval=60.0)
    node.advance(60.0)
    for packets in range(1, 5):
        node.advance(1.0)
        node.tell(
            TunnelActivity(home_address=HOME_ADDRESS, packets_out=packets, packets_in=packets)
        )
    assert node.node.home_agent_address == HOME_AGENT
    node.advance(2.0)
    assert node.node.home_agent_address == SECOND


def test_home_agent_has_longer_after_a_movement() -> None:
    node = registered()
    node.visit(CARE_OF_B)
    node.advance(2 * TIMEOUT - 0.1)
    assert node.node.home_agent_address == HOME_AGENT
    node.advance(0.2)
    assert node.node.home_agent_address == SECOND


@requirement("RFC6275-11.4.1", "DHA-05")
def test_new_registration_is_tried_first_with_the_home_agent_that_has_one() -> None:
    node = registered(HOME_AGENT, SECOND, THIRD)
    node.visit(CARE_OF_B)
    node.advance(2 * TIMEOUT + 0.1)
    node.answer()
    assert node.node.home_agent_address == SECOND
    assert destinations(node.visit(CARE_OF_A))[-1:] == [SECOND]


@requirement("RFC6275-11.4.1", "DHA-05")
def test_home_agent_of_the_last_registration_comes_first_after_a_restart() -> None:
    records = {f"home-agent.{HOME_ADDRESS}": str(SECOND), f"binding.{HOME_ADDRESS}": "600"}
    node = Node(HOME_AGENT, SECOND, records=records)
    assert destinations(node.go()) == [SECOND]
    other = Node(HOME_AGENT, THIRD, records=records)
    assert destinations(other.go()) == [HOME_AGENT]


@pytest.mark.parametrize(
    "status",
    [
        BindingStatus.INSUFFICIENT_RESOURCES,
        BindingStatus.HOME_REGISTRATION_NOT_SUPPORTED,
        BindingStatus.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE,
        BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED,
    ],
)
@requirement("RFC6275-11.4.1", "DHA-04")
def test_refusal_leads_to_the_next_home_agent_at_once(status: BindingStatus) -> None:
    node = Node(HOME_AGENT, SECOND)
    node.go()
    outputs = node.answer(status=status, lifetime=0)
    assert destinations(outputs) == [SECOND]
    node.answer()
    assert node.node.state == "registered"


def test_all_that_refuse_are_asked_again_ever_less_often() -> None:
    node = Node(HOME_AGENT, SECOND, usable=(HOME_AGENT, SECOND))
    node.go()
    for _ in range(4):
        node.answer(status=BindingStatus.INSUFFICIENT_RESOURCES, lifetime=0)
        node.answer(status=BindingStatus.INSUFFICIENT_RESOURCES, lifetime=0)
        asked = len(node.asked())
        while len(node.asked()) == asked:
            node.advance(1.0)
        while node.node.home_agent_address != HOME_AGENT:
            node.advance(1.0)
    times = [at for at, which in node.asked() if which == HOME_AGENT]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[-1] > gaps[0] >= 8.0


@requirement("RFC6275-11.7.1", "DHA-06")
def test_all_that_are_silent_are_asked_round_and_round_ever_slower() -> None:
    node = Node(HOME_AGENT, SECOND, usable=(HOME_AGENT, SECOND))
    node.go()
    node.advance(300.0)
    changes = [at for at, output in node.log if reports([output], "home-agent-chosen")]
    gaps = [later - earlier for earlier, later in itertools.pairwise(changes)]
    assert gaps[0] < gaps[-1]
    assert max(gaps) == 32.0 and gaps[-1] == 32.0
    assert node.requests() == []  # it could bring up nobody that we have keys for


@requirement("RFC6275-11.7.1", "DHA-06")
def test_only_home_agent_goes_on_being_asked_every_32_seconds() -> None:
    node = Node(HOME_AGENT, usable=(HOME_AGENT,))
    node.go()
    node.advance(300.0)
    times = [at for at, _ in node.asked()]
    assert times[-1] - times[-2] == 32.0
    assert {which for _, which in node.asked()} == {HOME_AGENT}


def test_round_without_an_answer_asks_the_home_link() -> None:
    node = Node(HOME_AGENT)
    node.go()
    node.advance(2 * TIMEOUT + 0.1)
    assert len(node.requests()) == 1
    outputs = node.reply(THIRD)
    assert destinations(outputs) == [THIRD]
    assert node.node.home_agents.candidates == (THIRD, HOME_AGENT)


def test_current_home_agent_stays_when_nobody_answers_discovery() -> None:
    node = Node(HOME_AGENT)
    node.go()
    node.advance(2 * TIMEOUT + 93.2)
    assert node.node.home_agent_address == HOME_AGENT
    assert node.node.home_agents.candidates == (HOME_AGENT,)


# The home agent that was left.


def left(**settings: Any) -> Node:
    """Registered with the second; the first may still have a binding."""
    node = registered(path_check_interval=60.0, **settings)
    node.advance(60.0 + TIMEOUT)
    node.answer()
    assert node.node.home_agent_address == SECOND
    return node


def deregistrations(outputs: Sequence[Output]) -> list[IPv6Address]:
    return [
        action.packet.destination
        for action, update in sent(outputs, BindingUpdate)
        if not update.lifetime
    ]


@requirement("RFC6275-11.4.1", "DHA-07")
def test_binding_with_the_home_agent_that_was_left_is_deleted_there() -> None:
    node = left()
    assert deregistrations([output for _, output in node.log]) == [HOME_AGENT]
    assert len(deregistrations(node.advance(8.0))) == 3  # again and again: 1, 2, 4 s
    outputs = node.answer(HOME_AGENT, lifetime=0)
    assert reports(outputs, "former-binding-ended") == [
        {"home_agent": str(HOME_AGENT), "answered": "True"}
    ]
    assert deregistrations(node.advance(20.0)) == []
    assert node.node.state == "registered"


def test_binding_with_the_home_agent_that_was_left_is_deleted_from_the_new_link() -> None:
    node = left()
    node.advance(3.0)
    node.visit(CARE_OF_B)
    outputs = node.answer()
    (action,) = [a for a, update in sent(outputs, BindingUpdate) if not update.lifetime]
    assert (action.packet.source, action.packet.destination) == (CARE_OF_B, HOME_AGENT)


def test_binding_with_the_home_agent_that_was_left_is_deleted_from_home() -> None:
    node = left()
    node.come_home(addresses=((SECOND, b"\x02\0\0\0\0\2"),))
    outputs = node.answer(SECOND, care_of_address=None, lifetime=0)
    assert deregistrations(outputs) == [HOME_AGENT]
    (action,) = [a for a, _ in sent(outputs, BindingUpdate)]
    assert action.packet.source == HOME_ADDRESS


def test_binding_with_the_home_agent_that_was_left_is_forgotten_at_its_end() -> None:
    node = left(lifetime=120.0)
    for _ in range(5):
        node.advance(50.0)
        node.answer(SECOND)
    assert deregistrations(node.advance(60.0)) == []
    assert HOME_AGENT not in node.node._former


def test_binding_with_the_home_agent_that_was_left_lapses_while_nowhere() -> None:
    node = left(lifetime=120.0)
    node.tell(LinkDown(interface=INTERFACE))
    assert deregistrations(node.advance(400.0)) == []
    assert HOME_AGENT not in node.node._former


def test_home_agent_that_was_left_is_taken_up_again_with_its_binding() -> None:
    node = left()
    node.advance(60.0 + TIMEOUT)
    assert node.node.home_agent_address == HOME_AGENT
    node.answer(HOME_AGENT)
    assert node.node.state == "registered"
    sent_last = [output for at, output in node.log if at == node.now]
    assert deregistrations(sent_last) == [SECOND]


@requirement("RFC6275-11.4.1", "DHA-05")
def test_second_home_agent_that_finds_the_address_in_use_sends_us_back_to_the_first() -> None:
    node = registered(path_check_interval=60.0, usable=(HOME_AGENT, SECOND))
    node.advance(60.0 + TIMEOUT)
    assert node.node.home_agent_address == SECOND
    status = BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED
    outputs = node.answer(SECOND, status=status, lifetime=0)
    assert destinations(outputs) == [HOME_AGENT]
    node.answer(HOME_AGENT)
    assert node.node.state == "registered"


def test_acknowledgement_of_an_older_update_does_not_end_the_former_binding() -> None:
    node = left()
    packet = binding_acknowledgement(
        HOME_AGENT, HOME_ADDRESS, sequence=1, lifetime=0, care_of_address=CARE_OF_A
    )
    node.tell(received(packet))
    assert node.node.drops == {DropReason.SEQUENCE_MISMATCH: 1}
    assert node.node.state == "registered"


@requirement("RFC6275-11.7.1", "DHA-07")
def test_stopping_deregisters_with_the_present_home_agent_only() -> None:
    node = left()
    node.advance(20.0)
    node.log.clear()
    outputs = node.tell(ShutdownRequested())
    assert deregistrations(outputs) == [SECOND]


def test_silence_while_nowhere_costs_no_home_agent() -> None:
    node = registered(HOME_AGENT, SECOND)
    node.tell(LinkDown(interface=INTERFACE))
    node.advance(60.0)
    assert node.node.home_agent_address == HOME_AGENT
