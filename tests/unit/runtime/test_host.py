from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest

from mnagent.link.messages import (
    AddressMessage,
    LinkMessage,
    NeighbourMessage,
    RouteMessage,
    RuleMessage,
)
from mnagent.runtime.host import HostState, OwnAddress
from mnagent.system.clock import ManualClock
from mnagent.system.kernel import FakeKernel, Route, Rule

HOME = IPv6Address("2001:db8:1::10")
ROUTER = IPv6Address("fe80::1")
OWN = OwnAddress(interface=2, address=HOME, prefix_length=128)
ROUTE = Route(table=6275, interface=2, source=HOME)
RULE = Rule(priority=6275, table=6275, source=HOME, chooses_source=True)
ROUTE_GONE = RouteMessage(
    destination=IPv6Network("::/0"), table=6275, interface=2, metric=256, removed=True
)
RULE_GONE = RuleMessage(priority=6275, table=6275, source=HOME, removed=True)
ADDRESS_GONE = AddressMessage(interface=2, address=HOME, prefix_length=128, removed=True)


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def host(kernel: FakeKernel, clock: ManualClock) -> HostState:
    return HostState(kernel, clock)


def test_route_for_a_purpose_replaces_the_former_one(host: HostState, kernel: FakeKernel) -> None:
    host.set_route("x", ROUTE)
    other = replace(ROUTE, interface=3, gateway=ROUTER)
    host.set_route("x", other)
    assert list(kernel.routes.values()) == [other]
    assert host.route("x") == other


def test_route_with_another_mtu_is_the_same_route(host: HostState, kernel: FakeKernel) -> None:
    host.set_route("x", ROUTE)
    host.set_route("x", replace(ROUTE, mtu=1400))
    assert list(kernel.routes.values()) == [replace(ROUTE, mtu=1400)]


def test_route_the_kernel_refuses_is_not_remembered(host: HostState, kernel: FakeKernel) -> None:
    host.set_route("x", ROUTE)
    kernel.failure = 101
    with pytest.raises(OSError):
        host.set_route("x", replace(ROUTE, interface=3))
    with pytest.raises(OSError):
        host.set_route("y", ROUTE)
    assert host.route("x") == ROUTE
    assert host.route("y") is None


def test_route_whose_change_the_kernel_refuses_keeps_its_lifetime(
    host: HostState, kernel: FakeKernel, clock: ManualClock
) -> None:
    host.set_route("x", ROUTE)
    kernel.failure = 101
    with pytest.raises(OSError):
        host.set_route("x", replace(ROUTE, lifetime=30))
    kernel.failure = None
    clock.advance(31.0)
    assert host.handle(ROUTE_GONE)
    host.clear()
    assert not kernel.routes


@pytest.mark.parametrize(
    "message",
    [
        ROUTE_GONE,
        LinkMessage(interface=2, name="eth0", usable=True),
        replace(ADDRESS_GONE, prefix_length=128),
    ],
    ids=lambda message: type(message).__name__,
)
def test_route_put_back_gets_the_rest_of_its_lifetime(
    host: HostState,
    kernel: FakeKernel,
    clock: ManualClock,
    message: RouteMessage | LinkMessage | AddressMessage,
) -> None:
    host.set_address(OWN, pinned=True)
    host.set_route("x", replace(ROUTE, lifetime=30))
    clock.advance(20.5)
    assert host.handle(message)
    assert [route.lifetime for route in kernel.routes.values()] == [9]
    clock.advance(9.0)
    assert host.handle(message)
    assert [route.lifetime for route in kernel.routes.values()] == [1]


def test_route_flushed_by_others_is_put_back(host: HostState, kernel: FakeKernel) -> None:
    host.set_route("x", ROUTE)
    kernel.routes.clear()
    assert host.handle(ROUTE_GONE)
    assert list(kernel.routes.values()) == [ROUTE]


def test_route_we_removed_is_not_put_back(host: HostState, kernel: FakeKernel) -> None:
    host.set_route("x", ROUTE)
    host.remove_route("x")
    assert not host.handle(ROUTE_GONE)
    assert kernel.routes == {}


def test_route_that_expired_is_not_put_back(
    host: HostState, kernel: FakeKernel, clock: ManualClock
) -> None:
    host.set_route("x", replace(ROUTE, lifetime=30))
    kernel.routes.clear()
    clock.advance(30.0)
    assert not host.handle(ROUTE_GONE)
    assert kernel.routes == {}


def test_rule_flushed_by_others_is_put_back(host: HostState, kernel: FakeKernel) -> None:
    host.set_rule("x", RULE)
    kernel.rules.clear()
    assert host.handle(RULE_GONE)
    assert kernel.rules == {RULE}


def test_rule_of_others_is_left_alone(host: HostState, kernel: FakeKernel) -> None:
    host.set_rule("x", RULE)
    assert not host.handle(replace(RULE_GONE, priority=1))
    assert not host.handle(replace(RULE_GONE, removed=False))


def test_rule_for_a_purpose_replaces_the_former_one(host: HostState, kernel: FakeKernel) -> None:
    host.set_rule("x", RULE)
    host.set_rule("x", replace(RULE, priority=7))
    assert kernel.rules == {replace(RULE, priority=7)}


def test_pinned_address_is_put_back_with_its_routes(host: HostState, kernel: FakeKernel) -> None:
    host.set_address(OWN, pinned=True)
    host.set_route("x", ROUTE)
    kernel.addresses.clear()
    kernel.routes.clear()
    assert host.handle(ADDRESS_GONE)
    assert kernel.addresses == {(2, HOME): 128}
    assert list(kernel.routes.values()) == [ROUTE]


def test_other_address_that_vanishes_is_forgotten(host: HostState, kernel: FakeKernel) -> None:
    host.set_address(OWN)
    kernel.addresses.clear()
    assert not host.handle(ADDRESS_GONE)
    assert kernel.addresses == {}
    assert host.addresses == frozenset()


def test_address_with_another_prefix_length_replaces_the_former(
    host: HostState, kernel: FakeKernel
) -> None:
    host.set_address(OWN)
    host.set_address(replace(OWN, prefix_length=64))
    assert kernel.addresses == {(2, HOME): 64}
    assert host.has_address_in(2, IPv6Network("2001:db8:1::/64"))
    assert not host.has_address_in(3, IPv6Network("2001:db8:1::/64"))


def test_link_that_comes_back_gets_its_routes(host: HostState, kernel: FakeKernel) -> None:
    host.set_route("x", ROUTE)
    kernel.routes.clear()
    assert host.handle(LinkMessage(interface=2, name="eth0", usable=True))
    assert list(kernel.routes.values()) == [ROUTE]


def test_overrun_reasserts_everything(host: HostState, kernel: FakeKernel) -> None:
    host.set_address(OWN, pinned=True)
    host.set_route("x", ROUTE)
    host.set_rule("x", RULE)
    kernel.addresses.clear()
    kernel.routes.clear()
    kernel.rules.clear()
    assert host.reassert()
    assert (len(kernel.addresses), len(kernel.routes), len(kernel.rules)) == (1, 1, 1)


def test_reassertion_leaves_routes_alone_that_are_there(
    host: HostState, kernel: FakeKernel
) -> None:
    host.set_route("x", ROUTE)
    kernel.routes.clear()
    host.reassert({ROUTE.identity})
    assert kernel.routes == {}


def test_reassertion_that_fails_is_tried_again(host: HostState, kernel: FakeKernel) -> None:
    host.set_rule("x", RULE)
    kernel.rules.clear()
    kernel.failure = 100
    assert not host.handle(RULE_GONE)
    kernel.failure = None
    assert host.reassert()
    assert kernel.rules == {RULE}


def test_clear_removes_everything(host: HostState, kernel: FakeKernel) -> None:
    host.set_address(OWN, pinned=True)
    host.set_route("x", ROUTE)
    host.set_rule("x", RULE)
    host.clear()
    assert not (kernel.addresses or kernel.routes or kernel.rules)
    assert not host.handle(ADDRESS_GONE)


def test_neighbour_notification_concerns_nothing_of_ours(host: HostState) -> None:
    assert not host.handle(NeighbourMessage(interface=2, address=ROUTER))
