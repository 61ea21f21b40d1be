"""A mobile node that its home agent sends to another one (RFC 5142 6)."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import SendPacket
from mnagent.wire.ipv6 import IPv6Packet, Type2RoutingHeader
from mnagent.wire.mobility import HomeAgentSwitch
from tests.support.requirement import requirement
from tests.support.topology import HOME_ADDRESS, PREFIX_A
from tests.support.two_home_agents import HOME_AGENTS, TwoHomeAgents
from tests.support.world import World


def node_of(net: TwoHomeAgents) -> object:
    agent = net.mobile_node.agent
    assert agent is not None
    return agent.role.mobile_node  # type: ignore[union-attr]


def switch(net: TwoHomeAgents, sender: int, *suggested: IPv6Address) -> None:
    """As that home agent would send it, under its own association."""
    node = net.agents[sender]
    agent = node.agent
    assert agent is not None
    care_of_address = node_of(net).tunnel_address  # type: ignore[attr-defined]
    packet = IPv6Packet(
        HOME_AGENTS[sender],
        care_of_address,
        HomeAgentSwitch(suggested),
        extension_headers=(Type2RoutingHeader(HOME_ADDRESS),),
    )
    node.carry_out(agent._finish([SendPacket(packet=packet)], net.world.now))


def home_agent_of(net: TwoHomeAgents) -> IPv6Address:
    address: IPv6Address = node_of(net).home_agent_address  # type: ignore[attr-defined]
    return address


@requirement("RFC5142-6.1", "EXT-06")
@pytest.mark.parametrize(
    ("sender", "suggested", "expected"),
    [
        (0, (HOME_AGENTS[1],), 1),
        (0, (), 1),
        (0, (HOME_AGENTS[0], HOME_AGENTS[1]), 1),
        (1, (HOME_AGENTS[1],), 1),
        (1, (HOME_AGENTS[0],), 0),
        (1, (), 0),
    ],
)
def test_mobile_node_follows_the_list_and_leaves_the_former_one(
    sender: int, suggested: tuple[IPv6Address, ...], expected: int
) -> None:
    with World(seed=5142) as world:
        net = TwoHomeAgents(world)
        net.mobile_node.attach(net.port, net.link_a)
        world.run_until(lambda: bool(bindings(net, 0)), timeout=20.0)
        world.run_for(2.0)
        switch(net, sender, *suggested)
        world.run_for(10.0)
        assert home_agent_of(net) == HOME_AGENTS[expected]
        assert len(bindings(net, expected)) == 1
        assert bindings(net, 1 - expected) == []
        assert IPv6Address(bindings(net, expected)[0]) in PREFIX_A


@requirement("RFC5142-5.1", "EXT-05", "EXT-06")
def test_home_agent_that_is_to_go_down_sends_its_mobile_node_to_the_other() -> None:
    with World(seed=5143) as world:
        net = TwoHomeAgents(world)
        net.register(0)
        world.run_for(10.0)
        node = net.agents[0]
        assert node.agent is not None
        asked, actions = node.agent.ask_to_switch((), (), world.now)
        assert asked == (HOME_ADDRESS,)
        node.carry_out(actions)
        world.run_until(lambda: net.is_served_by(1) and not bindings(net, 0), timeout=5.0)
        net.exchange()
        world.run_for(2.0)
        assert net.replies_since(net.correspondent, world.now - 1.5)
        assert net.replies_since(net.mobile_node, world.now - 1.5)


@requirement("RFC5142-6.1", "EXT-07")
def test_mobile_node_told_not_to_follow_stays_and_says_that_it_knows_no_such_message() -> None:
    with World(seed=5144) as world:
        net = TwoHomeAgents(world, mobile_node={"home_agent_switch": "false"})
        net.register(0)
        node = net.agents[0]
        assert node.agent is not None
        _, actions = node.agent.ask_to_switch((), HOME_AGENTS[1:], world.now)
        node.carry_out(actions)
        world.run_for(3.0)
        assert net.is_served_by(0)
        assert node.reported("home-agent-switch-not-understood")
        counters = net.mobile_node.agent.counters  # type: ignore[union-attr]
        assert counters["drop-unknown-mobility-message"] == 1


@requirement("RFC5142-6.1", "EXT-06")
def test_switch_that_nothing_protects_is_not_followed() -> None:
    with World(seed=5145) as world:
        net = TwoHomeAgents(world)
        net.register(0)
        care_of_address = node_of(net).tunnel_address  # type: ignore[attr-defined]
        forged = IPv6Packet(
            HOME_AGENTS[0],
            care_of_address,
            HomeAgentSwitch(HOME_AGENTS[1:]),
            extension_headers=(Type2RoutingHeader(HOME_ADDRESS),),
        )
        net.correspondent.send(forged)
        world.run_for(5.0)
        assert net.is_served_by(0)
        counters = net.mobile_node.agent.counters  # type: ignore[union-attr]
        assert counters["drop-not-protected"] == 1


def bindings(net: TwoHomeAgents, which: int) -> list[str]:
    agent = net.agents[which].agent
    assert agent is not None
    snapshot = agent.snapshot(net.world.now).home_agent
    assert snapshot is not None
    return [each.care_of_address for each in snapshot.bindings]
