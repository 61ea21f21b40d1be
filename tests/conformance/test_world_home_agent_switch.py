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


def bindings(net: TwoHomeAgents, which: int) -> list[str]:
    agent = net.agents[which].agent
    assert agent is not None
    snapshot = agent.snapshot(net.world.now).home_agent
    assert snapshot is not None
    return [each.care_of_address for each in snapshot.bindings]
