"""Multicast group membership through the tunnel (RFC 6275 10.4.3, 11.3.4)."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import (
    DeliverPacket,
    ForwardGroups,
    JoinGroup,
    LeaveGroup,
    RemoveTunnel,
    SendThroughTunnel,
)
from mnagent.core.drops import DropReason
from mnagent.core.events import LinkUp, MembershipReported, PacketReceived
from mnagent.core.records import KeptRecord
from mnagent.mobility import binding_record
from mnagent.mobility.addresses import ALL_NODES, UNSPECIFIED_ADDRESS
from mnagent.mobility.home_agent import HomeAgent
from mnagent.wire.ipv6 import HopByHopOptions, IPv6Packet, RouterAlert
from mnagent.wire.mld import (
    ListenerQuery,
    ListenerRecord,
    ListenerReportVersion2,
    MldMessage,
    RecordType,
)
from tests.support.driver import CARE_OF_A, CARE_OF_B, HOME_AGENT, INTERFACE, MobileNodeDriver
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    FOREIGN_SIDE,
    HOME_ADDRESS,
    HOME_AGENT_MAC,
    HOME_LINK,
    OTHER_CARE_OF_ADDRESS,
    OTHER_HOME_ADDRESS,
    actions_of,
    binding_update,
    make_home_agent,
    register,
)
from tests.support.matching import of_type
from tests.support.requirement import requirement

GROUP = IPv6Address("ff0e::6275")
ALL_REPORTS = IPv6Address("ff02::16")
LINK_LOCAL = IPv6Address("fe80::10")
QUERY = ListenerQuery(500, UNSPECIFIED_ADDRESS, 2, 125)
REPORT = ListenerReportVersion2((ListenerRecord(RecordType.MODE_IS_EXCLUDE, GROUP),))


def membership_packet(
    message: MldMessage, source: IPv6Address = LINK_LOCAL, *, to: IPv6Address = ALL_REPORTS
) -> IPv6Packet:
    alert = (HopByHopOptions((RouterAlert(0),)),)
    return IPv6Packet(source, to, message, extension_headers=alert, hop_limit=1)


def reported(tunnel_source: IPv6Address = CARE_OF_ADDRESS) -> PacketReceived:
    """A mobile node's report as it comes out of its tunnel."""
    return PacketReceived(
        packet=membership_packet(REPORT), interface=FOREIGN_SIDE, tunnel_source=tunnel_source
    )


def agent_with_binding() -> HomeAgent:
    home_agent = make_home_agent(multicast=True)
    register(home_agent)
    return home_agent


@requirement("RFC6275-10.4.3")
def test_home_agent_asks_when_the_binding_begins_and_not_at_its_renewal() -> None:
    home_agent = make_home_agent(multicast=True)
    (query,) = actions_of(register(home_agent), SendThroughTunnel)
    assert (query.home_address, query.packet.payload) == (HOME_ADDRESS, QUERY)
    renewed = home_agent.handle(binding_update(2), 2.0)
    assert actions_of(renewed, SendThroughTunnel) == []


@requirement("RFC6275-10.4.3")
def test_home_agent_forwards_what_is_reported_until_the_binding_ends() -> None:
    home_agent = agent_with_binding()
    assert home_agent.handle(reported(), 2.0) == [
        ForwardGroups(home_address=HOME_ADDRESS, groups=(GROUP,)),
        JoinGroup(interface=HOME_LINK, group=GROUP),
    ]
    deadline = home_agent.next_deadline()
    assert deadline is not None
    gone = home_agent.handle(binding_update(2, 0), 3.0)
    assert gone[:2] == [
        ForwardGroups(home_address=HOME_ADDRESS, groups=()),
        LeaveGroup(interface=HOME_LINK, group=GROUP),
    ]
    assert of_type(gone, RemoveTunnel)


@requirement("RFC6275-10.4.3")
def test_home_agent_asks_again_in_time() -> None:
    home_agent = agent_with_binding()
    asked = []
    while (deadline := home_agent.next_deadline()) is not None and deadline < 200.0:
        actions = home_agent.handle_timer(deadline)
        asked += [deadline] * len(actions_of(actions, SendThroughTunnel))
    assert asked == [1.0 + 31.25, 1.0 + 31.25 + 125.0]


def test_home_agent_that_comes_back_asks_those_it_serves() -> None:
    (entry,) = agent_with_binding().bindings
    record = binding_record.kept(entry, 2.0)
    assert record.value is not None
    kept = {record.key: KeptRecord(value=record.value, kept_at=2.0)}
    second = make_home_agent(multicast=True)
    (query,) = actions_of(second.restore(kept, 3.0), SendThroughTunnel)
    assert query.home_address == HOME_ADDRESS


def test_home_link_that_comes_back_has_its_groups_joined_again() -> None:
    home_agent = agent_with_binding()
    home_agent.handle(reported(), 2.0)
    up = LinkUp(interface=HOME_LINK, name="home", link_layer_address=HOME_AGENT_MAC)
    assert JoinGroup(interface=HOME_LINK, group=GROUP) in home_agent.handle(up, 3.0)
    without = make_home_agent()
    assert JoinGroup(interface=HOME_LINK, group=GROUP) not in without.handle(up, 3.0)


def test_home_link_made_anew_has_its_groups_joined_and_forwarded() -> None:
    home_agent = agent_with_binding()
    home_agent.handle(reported(), 2.0)
    anew = HOME_LINK + 7
    actions = home_agent.move(anew, HOME_AGENT_MAC, 3.0)
    left = actions.index(LeaveGroup(interface=HOME_LINK, group=GROUP))
    joined = actions.index(JoinGroup(interface=anew, group=GROUP))
    forwarded = actions.index(ForwardGroups(home_address=HOME_ADDRESS, groups=(GROUP,)))
    assert left < joined < forwarded
    idle = make_home_agent(multicast=True)
    register(idle)
    assert not actions_of(idle.move(anew, HOME_AGENT_MAC, 3.0), ForwardGroups)


@requirement("RFC6275-10.4.5", "HA-43")
def test_report_from_where_no_mobile_node_is_counts_for_nothing() -> None:
    home_agent = agent_with_binding()
    assert home_agent.handle(reported(OTHER_CARE_OF_ADDRESS), 2.0) == []
    assert home_agent.drops[DropReason.NO_BINDING] == 1


def test_one_of_several_home_addresses_at_a_care_of_address_has_the_groups() -> None:
    home_agent = agent_with_binding()
    register(home_agent, home_address=OTHER_HOME_ADDRESS, now=2.0)
    assert actions_of(home_agent.handle(reported(), 4.0), ForwardGroups) == [
        ForwardGroups(home_address=HOME_ADDRESS, groups=(GROUP,))
    ]


def test_home_agent_without_multicast_neither_asks_nor_listens() -> None:
    home_agent = make_home_agent()
    assert actions_of(register(home_agent), SendThroughTunnel) == []
    assert home_agent.handle(reported(), 2.0) == []
    assert home_agent.drops[DropReason.UNEXPECTED_MESSAGE] == 1


# The mobile node.


def registered() -> MobileNodeDriver:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.visit(CARE_OF_A)
    driver.acknowledge()
    return driver


def asked(driver: MobileNodeDriver, tunnel_source: IPv6Address = HOME_AGENT) -> list[object]:
    packet = membership_packet(QUERY, IPv6Address("fe80::1"), to=ALL_NODES)
    event = PacketReceived(
        packet=packet, interface=INTERFACE, tunnel_source=tunnel_source, data=b"query"
    )
    return [*driver.tell(event)]


def says(driver: MobileNodeDriver, source: IPv6Address = LINK_LOCAL) -> list[SendThroughTunnel]:
    """What leaves when the host says on the tunnel device what it listens to."""
    event = MembershipReported(packet=membership_packet(REPORT, source))
    return of_type(driver.tell(event), SendThroughTunnel)


@requirement("RFC6275-11.3.4", "MN-40")
def test_membership_is_reported_only_once_the_home_agent_has_asked() -> None:
    driver = registered()
    assert says(driver) == []
    assert asked(driver) == [DeliverPacket(data=b"query")]
    (report,) = says(driver)
    assert report.packet == membership_packet(REPORT)
    assert len(says(driver)) == 1


@requirement("RFC6275-11.3.4", "MN-40")
def test_report_has_a_link_local_source_when_the_device_has_none() -> None:
    driver = registered()
    asked(driver)
    (report,) = says(driver, UNSPECIFIED_ADDRESS)
    assert report.packet.source == LINK_LOCAL


@requirement("RFC6275-11.3.4", "MN-40")
def test_question_is_believed_from_the_home_agents_tunnel_alone() -> None:
    driver = registered()
    assert asked(driver, CARE_OF_B) == []
    assert says(driver) == []


@requirement("RFC6275-11.3.4", "MN-40")
def test_question_before_the_binding_counts_for_nothing() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.visit(CARE_OF_A)
    assert asked(driver) == []
    driver.acknowledge()
    assert says(driver) == []


@requirement("RFC6275-11.3.4", "MN-40")
def test_handover_does_not_need_another_question() -> None:
    driver = registered()
    asked(driver)
    driver.visit(CARE_OF_B)
    driver.acknowledge()
    assert len(says(driver)) == 1


@requirement("RFC6275-11.3.4", "MN-40")
@pytest.mark.parametrize("how", ["expired", "returned"])
def test_binding_that_has_ended_needs_another_question(how: str) -> None:
    driver = registered()
    asked(driver)
    if how == "expired":
        driver.advance(700.0)
    else:
        driver.come_home(addresses=((HOME_AGENT, HOME_AGENT_MAC),))
        driver.acknowledge()
    assert says(driver) == []
    driver.visit(CARE_OF_B)
    driver.acknowledge()
    assert says(driver) == []
    asked(driver)
    assert len(says(driver)) == 1
