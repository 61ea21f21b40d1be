"""A mobile node that is given other lifetimes and policies while it is registered."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Network

from mnagent.core.actions import SendPacket, SetTunnel
from mnagent.mobility.path_watchdog import PathWatchdog
from mnagent.mobility.route_optimization import (
    RouteOptimizationMode,
    RouteOptimizationPolicy,
    RouteOptimizationRule,
)
from mnagent.wire.mobility import BindingUpdate
from tests.support.matching import of_type
from tests.unit.mobility.test_mobile_node import registered
from tests.unit.mobility.test_route_optimization import CORRESPONDENT, Manager

NEVER = RouteOptimizationRule(
    prefix=IPv6Network("::/0"), mode=RouteOptimizationMode.NEVER, ports=()
)


def test_longer_lifetime_is_asked_for_at_once() -> None:
    driver = registered()
    settings = replace(driver.node.settings, lifetime=1200.0)
    outputs = driver.node.reconfigure(settings, is_rekeyed=False, now=driver.now)
    (update,) = [each.packet.payload for each in of_type(outputs, SendPacket)]
    assert isinstance(update, BindingUpdate)
    assert update.lifetime == 1200.0


def test_same_settings_change_nothing() -> None:
    driver = registered()
    assert driver.node.reconfigure(driver.node.settings, is_rekeyed=False, now=driver.now) == []


def test_other_keys_set_the_tunnel_again() -> None:
    driver = registered()
    outputs = driver.node.reconfigure(driver.node.settings, is_rekeyed=True, now=driver.now)
    assert of_type(outputs, SetTunnel)


def test_policy_of_a_node_is_that_of_its_correspondents() -> None:
    driver = registered()
    policy = RouteOptimizationPolicy(rules=(NEVER,))
    settings = replace(driver.node.settings, route_optimization=policy)
    assert driver.node.reconfigure(settings, is_rekeyed=False, now=driver.now) == []
    assert driver.node.settings.route_optimization == policy


def test_policy_changed_at_home_does_nothing_until_the_node_leaves() -> None:
    manager = Manager(is_away=False)
    policy = RouteOptimizationPolicy(rules=(NEVER,))
    assert manager.manager.change_policy(policy, manager.now) == []


def test_policy_that_forbids_takes_direct_paths_back() -> None:
    manager = Manager()
    manager.bind()
    assert manager.state_of() == "bound"
    outputs = manager.manager.change_policy(RouteOptimizationPolicy(rules=(NEVER,)), manager.now)
    assert outputs
    assert manager.state_of() != "bound"


def test_policy_that_always_optimizes_a_peer_starts_with_it() -> None:
    manager = Manager()
    always = RouteOptimizationRule(
        prefix=IPv6Network((CORRESPONDENT, 128)), mode=RouteOptimizationMode.ALWAYS, ports=()
    )
    manager.manager.change_policy(RouteOptimizationPolicy(rules=(always,)), manager.now)
    assert manager.state_of() is not None


def test_policy_changed_at_home_starts_nothing() -> None:
    manager = Manager(is_away=False)
    assert manager.manager.change_policy(RouteOptimizationPolicy(), manager.now) == []


def test_watchdog_schedule_ends_and_begins_with_its_interval() -> None:
    watchdog = PathWatchdog(interval=60.0)
    watchdog.proven(0.0)
    assert watchdog.next_deadline() == 60.0
    watchdog.change_interval(0.0)
    assert watchdog.next_deadline() is None
    watchdog.change_interval(30.0)
    watchdog.proven(10.0)
    assert watchdog.next_deadline() == 40.0
