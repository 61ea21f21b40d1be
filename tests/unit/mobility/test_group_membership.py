"""What the home agent keeps of the groups that mobile nodes listen to."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import Action, ForwardGroups, JoinGroup, LeaveGroup, SendThroughTunnel
from mnagent.mobility.addresses import ALL_NODES, UNSPECIFIED_ADDRESS
from mnagent.mobility.group_membership import (
    LISTENING_INTERVAL,
    MAX_GROUPS,
    MAX_GROUPS_OF_A_BINDING,
    QUERY_INTERVAL,
    STARTUP_QUERY_INTERVAL,
    GroupMemberships,
    is_forwarded,
)
from mnagent.wire.ipv6 import HopByHopOptions, RouterAlert
from mnagent.wire.mld import (
    ListenerDone,
    ListenerQuery,
    ListenerRecord,
    ListenerReport,
    ListenerReportVersion2,
    RecordType,
)
from tests.support.home_link import HOME_ADDRESS, HOME_AGENT_ADDRESS, HOME_LINK, OTHER_HOME_ADDRESS
from tests.support.requirement import requirement

GROUP = IPv6Address("ff0e::1")
OTHER_GROUP = IPv6Address("ff05::2")
SOURCE = IPv6Address("2001:db8::5")


def memberships(home_link: int | None = HOME_LINK) -> GroupMemberships:
    made = GroupMemberships(HOME_AGENT_ADDRESS, home_link)
    made.bound(HOME_ADDRESS, 0.0)
    return made


def listens(groups: GroupMemberships, *wanted: IPv6Address, now: float = 1.0) -> list[Action]:
    records = tuple(ListenerRecord(RecordType.MODE_IS_EXCLUDE, each) for each in wanted)
    actions = groups.receive(HOME_ADDRESS, ListenerReportVersion2(records), now)
    assert actions is not None
    return actions


@requirement("RFC6275-10.4.3")
def test_binding_that_begins_is_asked_for_its_groups_as_the_rfc_wants() -> None:
    groups = GroupMemberships(HOME_AGENT_ADDRESS, HOME_LINK)
    (action,) = groups.bound(HOME_ADDRESS, 0.0)
    assert isinstance(action, SendThroughTunnel)
    assert action.home_address == HOME_ADDRESS
    packet = action.packet
    assert packet.source.is_link_local
    assert (packet.destination, packet.hop_limit) == (ALL_NODES, 1)
    assert packet.extension_headers == (HopByHopOptions((RouterAlert(0),)),)
    assert packet.payload == ListenerQuery(500, UNSPECIFIED_ADDRESS, 2, 125)
    assert groups.bound(HOME_ADDRESS, 1.0) == []


def test_questions_are_repeated_soon_and_then_from_time_to_time() -> None:
    groups = memberships()
    times = []
    for _ in range(3):
        at = groups.next_deadline()
        assert at is not None
        times.append(at)
        (action,) = groups.handle_timer(at)
        assert isinstance(action, SendThroughTunnel)
    assert times == [
        STARTUP_QUERY_INTERVAL,
        STARTUP_QUERY_INTERVAL + QUERY_INTERVAL,
        STARTUP_QUERY_INTERVAL + 2 * QUERY_INTERVAL,
    ]
    assert groups.handle_timer(times[-1]) == []


@requirement("RFC6275-10.4.3")
@pytest.mark.parametrize("home_link", [HOME_LINK, None])
def test_group_is_joined_on_the_home_link_and_forwarded(home_link: int | None) -> None:
    groups = memberships(home_link)
    actions = listens(groups, GROUP, OTHER_GROUP)
    assert actions[0] == ForwardGroups(home_address=HOME_ADDRESS, groups=(OTHER_GROUP, GROUP))
    joined = [] if home_link is None else [OTHER_GROUP, GROUP]
    assert actions[1:] == [JoinGroup(interface=HOME_LINK, group=group) for group in joined]
    assert listens(groups, GROUP, now=2.0) == []
    assert groups.rejoin() == [JoinGroup(interface=HOME_LINK, group=group) for group in joined]


def test_group_of_two_mobile_nodes_is_left_with_the_last() -> None:
    groups = memberships()
    groups.bound(OTHER_HOME_ADDRESS, 0.0)
    listens(groups, GROUP)
    assert groups.receive(OTHER_HOME_ADDRESS, ListenerReport(GROUP), 1.0) == [
        ForwardGroups(home_address=OTHER_HOME_ADDRESS, groups=(GROUP,))
    ]
    assert groups.unbound(HOME_ADDRESS) == [ForwardGroups(home_address=HOME_ADDRESS, groups=())]
    assert groups.unbound(OTHER_HOME_ADDRESS) == [
        ForwardGroups(home_address=OTHER_HOME_ADDRESS, groups=()),
        LeaveGroup(interface=HOME_LINK, group=GROUP),
    ]
    assert groups.unbound(OTHER_HOME_ADDRESS) == []
    assert groups.next_deadline() is None


def test_group_that_is_reported_no_more_ends() -> None:
    groups = memberships()
    listens(groups, GROUP, now=1.0)
    listens(groups, OTHER_GROUP, now=100.0)
    actions: list[Action] = []
    while (at := groups.next_deadline()) is not None and at <= 1.0 + LISTENING_INTERVAL:
        actions += groups.handle_timer(at)
    assert [each for each in actions if not isinstance(each, SendThroughTunnel)] == [
        ForwardGroups(home_address=HOME_ADDRESS, groups=(OTHER_GROUP,)),
        LeaveGroup(interface=HOME_LINK, group=GROUP),
    ]
    assert groups.groups_of(HOME_ADDRESS) == {OTHER_GROUP}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (ListenerReport(OTHER_GROUP), {GROUP, OTHER_GROUP}),
        (ListenerDone(GROUP), set()),
        (ListenerDone(OTHER_GROUP), {GROUP}),
        *(
            (ListenerReportVersion2((ListenerRecord(kind, group, sources),)), expected)
            for kind, group, sources, expected in [
                (RecordType.CHANGE_TO_EXCLUDE_MODE, OTHER_GROUP, (), {GROUP, OTHER_GROUP}),
                (RecordType.ALLOW_NEW_SOURCES, OTHER_GROUP, (SOURCE,), {GROUP, OTHER_GROUP}),
                (RecordType.MODE_IS_INCLUDE, OTHER_GROUP, (SOURCE,), {GROUP, OTHER_GROUP}),
                (RecordType.MODE_IS_INCLUDE, GROUP, (), set()),
                (RecordType.CHANGE_TO_INCLUDE_MODE, GROUP, (), set()),
                (RecordType.BLOCK_OLD_SOURCES, GROUP, (SOURCE,), {GROUP}),
                (9, GROUP, (), {GROUP}),
            ]
        ),
    ],
)
def test_every_kind_of_report_is_understood(
    message: ListenerReport | ListenerDone | ListenerReportVersion2, expected: set[IPv6Address]
) -> None:
    groups = memberships()
    listens(groups, GROUP)
    groups.receive(HOME_ADDRESS, message, 2.0)
    assert groups.groups_of(HOME_ADDRESS) == expected


@requirement("RFC6275-10.4.2", "HA-38")
@pytest.mark.parametrize("group", ["ff02::16", "ff01::5", "ff00::1", "2001:db8::1", "fe80::1"])
def test_group_of_link_scope_is_no_group_to_forward(group: str) -> None:
    groups = memberships()
    assert listens(groups, IPv6Address(group)) == []
    assert not is_forwarded(IPv6Address(group))


def test_groups_of_one_binding_are_bounded() -> None:
    groups = memberships()
    listens(groups, *(GROUP + at for at in range(MAX_GROUPS_OF_A_BINDING + 5)))
    assert len(groups.groups_of(HOME_ADDRESS)) == MAX_GROUPS_OF_A_BINDING
    assert listens(groups, GROUP, now=2.0) == []


def test_groups_of_all_bindings_together_are_bounded() -> None:
    groups = GroupMemberships(HOME_AGENT_ADDRESS, None)
    full = MAX_GROUPS // MAX_GROUPS_OF_A_BINDING
    for at in range(full + 1):
        groups.bound(HOME_ADDRESS + at, 0.0)
        records = tuple(
            ListenerRecord(RecordType.MODE_IS_EXCLUDE, GROUP + at * 1000 + each)
            for each in range(MAX_GROUPS_OF_A_BINDING)
        )
        groups.receive(HOME_ADDRESS + at, ListenerReportVersion2(records), 1.0)
    assert groups.groups_of(HOME_ADDRESS + full) == frozenset()
    # What is joined already costs nothing more.
    groups.receive(HOME_ADDRESS + full, ListenerReport(GROUP), 1.0)
    assert groups.groups_of(HOME_ADDRESS + full) == {GROUP}


def test_report_without_a_binding_is_nobodys() -> None:
    groups = memberships()
    assert groups.receive(OTHER_HOME_ADDRESS, ListenerReport(GROUP), 1.0) is None
    assert groups.groups_of(OTHER_HOME_ADDRESS) == frozenset()
