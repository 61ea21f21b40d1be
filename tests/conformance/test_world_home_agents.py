"""Two home agents in one network: found, left when they die, and told when they come back."""

from __future__ import annotations

from ipaddress import IPv6Address
from itertools import pairwise

import pytest

from mnagent.core.actions import JoinAnycast, LeaveAnycast, SendPacket
from mnagent.wire.ndisc import RouterAdvertisement
from tests.support.matching import sent
from tests.support.nodes import Host
from tests.support.requirement import requirement
from tests.support.two_home_agents import HOME_AGENTS, TwoHomeAgents, home_agent_of
from tests.support.world import World

ANYCAST = IPv6Address("2001:db8:1:0:fdff:ffff:ffff:fffe")


def longest_gap(net: TwoHomeAgents, host: Host, start: float) -> float:
    """Between two echo replies."""
    times = net.replies_since(host, start)
    assert times
    return max(later - earlier for earlier, later in pairwise([start, *times]))


@requirement("RFC6275-10.5", "HA-48", "HA-52", "HA-56", "DHA-01", "DHA-04")
@pytest.mark.parametrize("preferences", [(1, 2), (2, 1), (0, 65535)])
def test_mobile_node_discovers_the_preferred_home_agent_and_registers(
    preferences: tuple[int, int],
) -> None:
    with World(seed=21) as world:
        first, second = preferences
        options = ({"preference": str(first)}, {"preference": str(second)})
        net = TwoHomeAgents(world, home_agents=(), options=options)
        world.run_for(5.0)
        (heard,) = net.status_of(0).home_agents
        assert heard.addresses == (str(HOME_AGENTS[1]),) and heard.preference == second
        best = 0 if first > second else 1
        net.register(best)
        expected = (str(HOME_AGENTS[best]), str(HOME_AGENTS[1 - best]))
        assert net.status.discovered_home_agents == expected
        assert net.status_of(0).advertising


@requirement("RFC6275-11.4.1", "DHA-04", "DHA-06")
@pytest.mark.parametrize("seed", [22, 23])
def test_traffic_resumes_within_seconds_of_a_home_agents_death(seed: int) -> None:
    with World(seed=seed) as world:
        net = TwoHomeAgents(world)
        world.run_for(3.0)
        net.register(0)
        net.exchange()
        world.run_for(5.0)
        died_at = world.now
        net.agents[0].kill()
        world.run_for(15.0)
        assert net.is_served_by(1)
        for host in (net.correspondent, net.mobile_node):
            assert longest_gap(net, host, died_at) < 5.0


@requirement("RFC6275-11.4.1", "DHA-04")
def test_taking_over_takes_one_round_trip_and_the_home_links_own_question() -> None:
    with World(seed=24) as world:
        options = ({"retransmission_timer": "0.1"}, {"retransmission_timer": "0.1"})
        net = TwoHomeAgents(world, options=options)
        world.run_for(3.0)
        net.register(0)
        net.exchange()
        world.run_for(5.0)
        net.agents[0].kill()
        world.run_until(lambda: net.status.home_agent == str(HOME_AGENTS[1]), timeout=10)
        noticed_at = world.now
        world.run_for(5.0)
        first = min(net.replies_since(net.mobile_node, noticed_at))
        assert first - noticed_at < 0.1 + 0.1 + 0.1  # the question, a ping's interval, the way


@requirement("RFC6275-11.4.1", "DHA-05", "DHA-07")
def test_home_agent_that_comes_back_is_not_returned_to() -> None:
    with World(seed=25) as world:
        net = TwoHomeAgents(world)
        world.run_for(3.0)
        net.register(0)
        net.exchange()
        net.agents[0].kill()
        world.run_until(lambda: net.is_served_by(1), timeout=15)
        net.agents[0].start(net.new_home_agent(0))
        back_at = world.now
        world.run_for(30.0)
        assert net.is_served_by(1) and net.status_of(0).bindings == ()
        assert net.mobile_node.reported("former-binding-ended")
        assert longest_gap(net, net.mobile_node, back_at) < 1.0


@requirement("RFC6275-10.4.1", "OPS-03")
@pytest.mark.parametrize("seed", [251, 252])
def test_home_agent_back_with_its_bindings_leaves_the_traffic_to_the_one_that_serves(
    seed: int,
) -> None:
    with World(seed=seed) as world:
        net = TwoHomeAgents(world)
        world.run_for(3.0)
        net.register(0)
        net.exchange()
        net.agents[0].kill()
        world.run_until(lambda: net.is_served_by(1), timeout=15)
        world.run_for(2.0)
        # What it hears of the mobile node comes later than its own question.
        net.mobile_node.refused_actions = lambda action: (
            isinstance(action, SendPacket) and action.packet.destination == HOME_AGENTS[0]
        )
        net.agents[0].start(net.new_home_agent(0))
        back_at = world.now
        world.run_for(20.0)
        assert net.agents[0].reported("bindings-restored")
        (removed,) = net.agents[0].reported("binding-removed")
        assert removed["reason"] == "served-elsewhere"
        assert net.is_served_by(1) and net.status_of(0).bindings == ()
        for host in (net.correspondent, net.mobile_node):
            assert longest_gap(net, host, back_at) < 0.5


@requirement("RFC6275-10.4.1", "OPS-03")
@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_home_agent_back_with_its_bindings_serves_on_where_nobody_else_does(
    seconds: float,
) -> None:
    with World(seed=253) as world:
        net = TwoHomeAgents(world, home_agents=HOME_AGENTS[:1])
        world.run_for(3.0)
        net.register(0)
        net.exchange()
        net.agents[0].kill()
        world.run_for(seconds)
        net.agents[0].start(net.new_home_agent(0))
        back_at = world.now
        world.run_for(10.0)
        assert net.is_served_by(0)
        assert not net.agents[0].reported("binding-removed")
        assert longest_gap(net, net.mobile_node, back_at) < 1.0


def test_mobile_node_returns_home_to_the_home_agent_that_took_over() -> None:
    with World(seed=26) as world:
        net = TwoHomeAgents(world)
        world.run_for(3.0)
        net.register(0)
        net.exchange()
        net.agents[0].kill()
        world.run_until(lambda: net.is_served_by(1), timeout=15)
        net.move(net.home)
        world.run_until(lambda: net.status.state == "at-home", timeout=10)
        start = world.now + 2.0
        world.run_for(10.0)
        assert net.status_of(1).bindings == ()
        assert longest_gap(net, net.correspondent, start) < 1.0


@requirement("RFC6275-7", "FMT-26")
def test_home_agent_that_stops_takes_its_advertisement_back() -> None:
    with World(seed=27) as world:
        net = TwoHomeAgents(world)
        world.run_for(5.0)
        assert len(net.status_of(1).home_agents) == 1
        net.agents[0].stop()
        world.run_for(1.0)
        assert net.status_of(1).home_agents == ()
        (left,) = net.agents[0].done(LeaveAnycast)
        assert isinstance(left, LeaveAnycast) and left.address == ANYCAST


def test_home_agent_without_discovery_leaves_the_anycast_address_alone() -> None:
    with World(seed=28) as world:
        quiet = {"discovery": "false", "advertise": "false"}
        net = TwoHomeAgents(world, options=({}, quiet))
        world.run_for(5.0)
        assert net.agents[1].done(JoinAnycast) == []
        assert net.status_of(1).home_agents == () and not net.status_of(1).advertising
        assert not sent(net.agents[1].done(SendPacket), RouterAdvertisement)


def test_home_agent_only_advertises_when_asked_to() -> None:
    with World(seed=29) as world:
        net = TwoHomeAgents(world, options=({"discovery": "false"}, {"advertise": "false"}))
        world.run_for(5.0)
        assert net.status_of(0).advertising and not net.status_of(1).advertising
        assert len(net.status_of(1).home_agents) == 1
        # It is told of nobody: what it does not list, mobile nodes cannot be told.
        assert net.status_of(0).home_agents == ()


def test_home_link_that_goes_and_comes_is_advertised_on_again() -> None:
    with World(seed=30) as world:
        net = TwoHomeAgents(world)
        world.run_for(5.0)
        agent = net.agents[0]
        agent.detach(agent.ports[0])
        assert not net.status_of(0).advertising
        world.run_for(20.0)
        assert net.status_of(1).home_agents == ()
        agent.attach(agent.ports[0], net.home)
        world.run_for(5.0)
        assert net.status_of(0).advertising and len(net.status_of(1).home_agents) == 1


def test_configuration_without_an_advertiser_is_the_default() -> None:
    configuration = home_agent_of(HOME_AGENTS[0], advertise="false").home_agent
    assert configuration is not None
    assert configuration.discovery and not configuration.advertise
