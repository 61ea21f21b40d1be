from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest

from mnagent.core.events import (
    AddressAppeared,
    AddressVanished,
    DefaultRouterAppeared,
    DefaultRouterVanished,
    Event,
    LinkCause,
    LinkDown,
    LinkUp,
)
from mnagent.link.messages import (
    AddressMessage,
    LinkMessage,
    NeighbourMessage,
    RouteMessage,
    RuleMessage,
)
from mnagent.link.monitor import DOWN_DELAY, UP_BURST, UP_INTERVAL, LinkMonitor

MAC = bytes.fromhex("020000000001")
UP = LinkMessage(interface=3, name="wlan0", usable=True, link_layer_address=MAC, mtu=1500)
DOWN = replace(UP, usable=False)
TOLD_UP = LinkUp(interface=3, name="wlan0", link_layer_address=MAC, mtu=1500)
ADDRESS = AddressMessage(
    interface=3, address=IPv6Address("2001:db8:a::5"), prefix_length=64, valid_lifetime=100.0
)
AP_1, AP_2 = bytes.fromhex("02aa00000001"), bytes.fromhex("02aa00000002")
ROUTER = IPv6Address("fe80::1")
ROUTE = RouteMessage(
    destination=IPv6Network("::/0"), table=254, interface=3, gateway=ROUTER, protocol=9
)


@pytest.fixture
def monitor() -> LinkMonitor:
    return LinkMonitor(("wlan0", "eth0"), ignored=("mnagent0",), own_protocol=62)


def names(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_link_that_is_up_at_start_is_told_at_once(monitor: LinkMonitor) -> None:
    assert monitor.handle(UP, 10.0) == [TOLD_UP]
    assert monitor.next_deadline() is None


def test_link_without_carrier_at_start_is_told_when_it_comes(monitor: LinkMonitor) -> None:
    assert monitor.handle(DOWN, 0.0) == []
    assert monitor.handle(UP, 5.0) == [TOLD_UP]


def test_link_of_another_name_is_not_watched(monitor: LinkMonitor) -> None:
    assert monitor.handle(replace(UP, name="docker0"), 0.0) == []
    assert monitor.interfaces == {}


def test_monitor_without_names_watches_all_but_the_ignored() -> None:
    monitor = LinkMonitor((), ignored=("mnagent0",))
    assert names(monitor.handle(replace(UP, name="any"), 0.0)) == ["LinkUp"]
    assert monitor.handle(replace(UP, name="mnagent0", interface=9), 0.0) == []
    assert monitor.handle(replace(UP, name="lo", interface=1), 0.0) == []
    assert monitor.missing == ()


def test_link_down_is_told_after_the_delay(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    assert monitor.handle(DOWN, 10.0) == []
    assert monitor.next_deadline() == 10.0 + DOWN_DELAY
    assert monitor.handle_timer(10.0 + DOWN_DELAY) == [LinkDown(interface=3)]
    assert monitor.handle_timer(20.0) == []


def test_link_back_within_the_delay_is_another_up_without_a_down(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    monitor.handle(DOWN, 10.0)
    assert monitor.handle(UP, 10.1) == [TOLD_UP]
    assert monitor.next_deadline() is None


def flap(monitor: LinkMonitor, at: float) -> list[Event]:
    return monitor.handle(DOWN, at) + monitor.handle(UP, at + 0.001)


def test_flapping_link_is_told_a_few_times_and_then_once_an_interval(monitor: LinkMonitor) -> None:
    told = []
    for step in range(1000):
        now = 10.0 + step * 0.01
        told += [now for _ in flap(monitor, now)]
        told += [now for _ in monitor.handle_timer(now)]
    assert told[:UP_BURST] == [10.0, 10.01, 10.02]
    assert UP_BURST + 9.0 / UP_INTERVAL <= len(told) <= UP_BURST + 10.0 / UP_INTERVAL


def test_link_that_moves_every_second_is_told_each_time_at_once(monitor: LinkMonitor) -> None:
    assert [len(flap(monitor, float(second))) for second in range(200)] == [1] * 200


def test_flapping_link_that_ends_down_is_not_told_up(monitor: LinkMonitor) -> None:
    for step in range(UP_BURST + 1):
        flap(monitor, 10.0 + step / 100)
    assert monitor.next_deadline() is not None
    monitor.handle(DOWN, 10.05)
    assert monitor.handle_timer(11.0) == [LinkDown(interface=3)]


def test_flap_whose_notifications_were_merged_is_told_by_the_counter(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    assert monitor.handle(UP, 1.0) == []
    assert monitor.handle(replace(UP, carrier_changes=2), 2.0) == [TOLD_UP]


def test_changed_link_layer_address_is_another_up(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    other = bytes.fromhex("020000000002")
    assert monitor.handle(replace(UP, link_layer_address=other), 1.0) == [
        replace(TOLD_UP, link_layer_address=other)
    ]


def test_association_of_a_usable_link_is_another_up(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    roamed = replace(TOLD_UP, cause=LinkCause.ASSOCIATION, access_point=AP_1)
    assert monitor.associated(3, 1.0, access_point=AP_1) == [roamed]
    assert monitor.access_point(3) == AP_1
    assert monitor.associated(4, 1.0) == []
    assert monitor.access_point(4) == b""
    monitor.dissociated(3)
    monitor.dissociated(4)
    assert monitor.access_point(3) == b""


def test_association_that_the_carrier_told_already_is_not_told_again(monitor: LinkMonitor) -> None:
    monitor.handle(DOWN, 0.0)
    assert monitor.handle(UP, 5.0) == [TOLD_UP]
    assert monitor.associated(3, 5.01, access_point=AP_1) == []
    assert monitor.associated(3, 5.02, access_point=AP_1) == []
    assert names(monitor.associated(3, 5.03, access_point=AP_2)) == ["LinkUp"]


def test_association_before_the_carrier_is_told_with_it(monitor: LinkMonitor) -> None:
    monitor.handle(DOWN, 0.0)
    assert monitor.associated(3, 5.0, access_point=AP_1) == []
    assert monitor.handle(UP, 5.05) == [replace(TOLD_UP, access_point=AP_1)]
    assert monitor.associated(3, 5.06, access_point=AP_1) == []


def test_roam_that_keeps_the_carrier_is_told_each_time(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    for second, access_point in enumerate((AP_1, AP_2, AP_1), start=1):
        assert names(monitor.associated(3, float(second), access_point=access_point)) == ["LinkUp"]


def test_resume_tells_every_usable_link_again(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    monitor.handle(replace(DOWN, name="eth0", interface=4), 0.0)
    assert monitor.resumed(100.0) == [replace(TOLD_UP, cause=LinkCause.RESUME)]


def test_interface_that_vanishes_takes_addresses_and_link_along(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    monitor.handle(ADDRESS, 0.0)
    assert monitor.handle(replace(UP, removed=True), 1.0) == [
        AddressVanished(interface=3, address=ADDRESS.address),
        LinkDown(interface=3),
    ]
    assert monitor.missing == ("wlan0", "eth0")


def test_interface_that_is_renamed_is_forgotten(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    assert names(monitor.handle(replace(UP, name="other"), 1.0)) == ["LinkDown"]


def test_missing_names_those_that_do_not_exist(monitor: LinkMonitor) -> None:
    monitor.handle(DOWN, 0.0)
    assert monitor.missing == ("eth0",)


def test_missing_names_the_expected_too_where_all_are_watched() -> None:
    monitor = LinkMonitor((), expected=("wlan0", "eth0"))
    monitor.handle(DOWN, 0.0)
    assert monitor.missing == ("eth0",)


def test_address_is_told_once_and_again_when_it_changes(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    assert monitor.handle(replace(ADDRESS, tentative=True), 0.0) == [
        AddressAppeared(
            interface=3,
            address=ADDRESS.address,
            prefix_length=64,
            tentative=True,
            valid_lifetime=100.0,
        )
    ]
    assert monitor.handle(replace(ADDRESS, tentative=True), 0.0) == []
    assert names(monitor.handle(ADDRESS, 0.0)) == ["AddressAppeared"]


def test_address_of_an_unknown_interface_is_ignored(monitor: LinkMonitor) -> None:
    assert monitor.handle(ADDRESS, 0.0) == []


def test_address_that_was_never_told_does_not_vanish(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    assert monitor.handle(replace(ADDRESS, removed=True), 0.0) == []


def test_default_route_of_others_is_told_and_its_end(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    assert monitor.handle(ROUTE, 0.0) == [DefaultRouterAppeared(interface=3, router=ROUTER)]
    assert monitor.handle(ROUTE, 0.0) == []
    gone = replace(ROUTE, removed=True)
    assert monitor.handle(gone, 0.0) == [DefaultRouterVanished(interface=3, router=ROUTER)]
    assert monitor.handle(gone, 0.0) == []


@pytest.mark.parametrize(
    "other",
    [
        replace(ROUTE, protocol=62),
        replace(ROUTE, table=6275),
        replace(ROUTE, gateway=None),
        replace(ROUTE, destination=IPv6Network("2001:db8::/32")),
        replace(ROUTE, interface=4),
    ],
)
def test_route_that_is_no_foreign_default_route_is_ignored(
    monitor: LinkMonitor, other: RouteMessage
) -> None:
    monitor.handle(UP, 0.0)
    assert monitor.handle(other, 0.0) == []


def test_other_notifications_are_ignored(monitor: LinkMonitor) -> None:
    assert monitor.handle(RuleMessage(priority=1, table=2), 0.0) == []
    assert monitor.handle(NeighbourMessage(interface=3, address=ROUTER), 0.0) == []


def test_resync_tells_what_went_unseen(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    monitor.handle(ADDRESS, 0.0)
    monitor.handle(ROUTE, 0.0)
    monitor.resync_started()
    monitor.handle(UP, 1.0)
    assert monitor.resync_finished(1.0) == [
        AddressVanished(interface=3, address=ADDRESS.address),
        DefaultRouterVanished(interface=3, router=ROUTER),
    ]


def test_resync_forgets_interfaces_that_are_gone(monitor: LinkMonitor) -> None:
    monitor.handle(UP, 0.0)
    monitor.resync_started()
    assert names(monitor.resync_finished(1.0)) == ["LinkDown"]
    assert monitor.interfaces == {}


def test_resync_that_shows_the_same_tells_nothing(monitor: LinkMonitor) -> None:
    for message in (UP, ADDRESS, ROUTE):
        monitor.handle(message, 0.0)
    monitor.resync_started()
    for message in (UP, ADDRESS, ROUTE):
        assert monitor.handle(message, 1.0) == []
    assert monitor.resync_finished(1.0) == []
