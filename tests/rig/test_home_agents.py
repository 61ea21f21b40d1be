"""Two home agents on a home link whose router is neither of them: discovery, and failing over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from ipaddress import IPv6Address, IPv6Interface
from typing import Any

import pytest

from mnagent.rig.daemon import MNAGENT, AgentDaemon
from mnagent.rig.host import Host, boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.namespace import run
from mnagent.rig.roaming import Move, Roaming, RoamingSettings, Traffic
from mnagent.rig.topology import HOME, HOME_ADDRESS, HOME_AGENT, HOME_PREFIX, LINK_A, MOBILE
from tests.support.requirement import requirement

ADDRESSES = (IPv6Address("2001:db8:1::a1"), IPv6Address("2001:db8:1::a2"))
SETTINGS = RoamingSettings(impairment=Impairment(delay=0.005))
POLL_INTERVAL = 0.05
DETECTION = 4.5
"""Seconds until an answer is missed (path_silence, and the counters' second), and missed for long
enough (home_agent_timeout)."""


class TwoHomeAgents:
    """A `Roaming` whose home agent's place is a router without a daemon."""

    def __init__(self, roaming: Roaming) -> None:
        self.roaming = roaming
        self.agents: list[AgentDaemon] = []

    async def build(self, *, home_agents: list[str], agent: dict[str, Any]) -> None:
        """Put both on the home link; the mobile node is told ``home_agents``."""
        keys = self.roaming.directory / "pairs"
        named = [word for address in ADDRESSES for word in ("--home-agent", str(address))]
        run(*MNAGENT, "keygen", "--home-address", str(HOME_ADDRESS), *named, "-o", str(keys))
        for number, address in enumerate(ADDRESSES, 1):
            name = f"home-agent-{number}"
            namespace = self.roaming.topology.add_host(
                f"ha{number}", HOME, IPv6Interface(f"{address}/64")
            )
            namespace.ip(f"route add default via {HOME_AGENT}")
            host = self.roaming.hosts[name] = Host(namespace, self.roaming.directory)
            daemon = AgentDaemon(
                host,
                name,
                {
                    "role": "home-agent",
                    "home_agent": {
                        "address": str(address),
                        "home_prefix": str(HOME_PREFIX),
                        "home_link": "eth0",
                        "interfaces": ["eth0"],
                        "advertise": True,
                        "advertisement_interval": 4.0,
                        "preference": 10 * (3 - number),
                        **agent,
                    },
                    "home_agent.mobile_nodes": [
                        {
                            "home_address": str(HOME_ADDRESS),
                            "keys": str(keys / f"home-agent-{number}.toml"),
                        }
                    ],
                },
            )
            self.roaming.agents[name] = daemon
            self.agents.append(daemon)
        configuration = self.roaming.mobile_node_configuration()
        configuration["mobile_node"] |= {
            "home_agent": home_agents,
            "keys": [str(keys / f"mobile-node-{number}.toml") for number in (1, 2)],
        }
        name = "mobile-node"
        self.roaming.agents[name] = AgentDaemon(self.roaming.hosts[MOBILE], name, configuration)

    async def listed(self) -> None:
        """Wait until each home agent has heard the other."""
        async with asyncio.timeout(15):
            for agent, other in zip(self.agents, reversed(ADDRESSES), strict=True):
                while True:
                    status = (await agent.status())["home_agent"]
                    if any(str(other) in one["addresses"] for one in status["home_agents"]):
                        break
                    await asyncio.sleep(POLL_INTERVAL)


@contextlib.asynccontextmanager
async def two_home_agents(
    home_agents: list[str], **agent: Any
) -> AsyncIterator[tuple[Roaming, TwoHomeAgents, Move]]:
    """A mobile node registered from link A."""
    async with Roaming(SETTINGS) as roaming:
        there = TwoHomeAgents(roaming)
        await there.build(home_agents=home_agents, agent=agent)
        for daemon in there.agents:
            await daemon.start()
        await there.listed()
        move = roaming.move(LINK_A)
        await roaming.mobile_node.start()
        await roaming.settled(move)
        yield roaming, there, move


def run_scenario(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@requirement("RFC6275-11.4.1", "DHA-01", "DHA-04", "HA-52", "HA-53")
def test_mobile_node_without_a_home_agent_discovers_the_preferred_one() -> None:
    async def scenario() -> None:
        async with two_home_agents([]) as (roaming, _, move):
            found = await roaming.mobile_node.wait_for(
                "home-agents-discovered", after=move.link_up_at, timeout=5
            )
            listed = [IPv6Address(text) for text in found.details["home_agents"].split()]
            # The router of the home link says that it is one too, but not by which address.
            assert listed == list(ADDRESSES)
            status = (await roaming.mobile_node.status())["mobile_node"]
            assert status["home_agent"] == str(ADDRESSES[0])
            assert status["home_agents"] == [str(address) for address in ADDRESSES]
            assert status["discovered_home_agents"] == [str(address) for address in listed]

    run_scenario(scenario)


@pytest.mark.parametrize("retransmission_timer", [1.0, 0.1])
@requirement("RFC6275-11.4.1", "DHA-04", "DHA-06")
def test_home_agent_killed_under_traffic_is_replaced_by_the_next(
    retransmission_timer: float, record_property: Callable[[str, object], None]
) -> None:
    async def scenario() -> None:
        named = [str(address) for address in ADDRESSES]
        async with two_home_agents(named, retransmission_timer=retransmission_timer) as there:
            roaming, pair, _ = there
            traffic = await Traffic.start(roaming)
            await pair.agents[0].kill()
            killed_at = boottime()
            chosen = await roaming.mobile_node.wait_for(
                "home-agent-chosen", after=killed_at, timeout=DETECTION + 2
            )
            assert chosen.details["home_agent"] == named[1]
            accepted = await roaming.mobile_node.wait_for(
                "binding-accepted", after=chosen.at, timeout=5
            )
            resumed_at = await traffic.resumed(killed_at, timeout=20)
            record_property("chosen_after", round(chosen.at - killed_at, 3))
            record_property("accepted_after", round(accepted.at - killed_at, 3))
            record_property("resumed_after", str(resumed_at))
            await traffic.finish()
            assert Traffic.survived(traffic.outgoing)
            assert Traffic.survived(traffic.incoming)
            assert accepted.at - chosen.at < retransmission_timer + 1.0

    run_scenario(scenario)


@requirement("RFC6275-11.4.1", "DHA-05")
def test_home_agent_that_comes_back_is_told_that_its_binding_is_over() -> None:
    async def scenario() -> None:
        named = [str(address) for address in ADDRESSES]
        async with two_home_agents(named, retransmission_timer=0.1) as (roaming, pair, _):
            traffic = await Traffic.start(roaming)
            await pair.agents[0].kill()
            killed_at = boottime()
            await roaming.mobile_node.wait_for("home-agent-chosen", after=killed_at, timeout=10)
            await traffic.resumed(killed_at, timeout=20)
            await pair.agents[0].start()
            back_at = boottime()
            # It kept the binding over its death, and asks the home link who serves by now.
            removed = await pair.agents[0].wait_for("binding-removed", after=back_at - 5, timeout=5)
            restored = await pair.agents[0].wait_for(
                "bindings-restored", after=back_at - 5, timeout=5
            )
            assert removed.details["reason"] in ("served-elsewhere", "deregistered")
            assert removed.at - restored.at < 1.5
            await roaming.mobile_node.wait_for("former-binding-ended", after=back_at, timeout=40)
            first = (await pair.agents[0].status())["home_agent"]
            second = (await pair.agents[1].status())["home_agent"]
            assert first["bindings"] == []
            assert [one["home_address"] for one in second["bindings"]] == [str(HOME_ADDRESS)]
            await traffic.resumed(boottime(), timeout=10)
            await traffic.finish()
            assert Traffic.survived(traffic.outgoing)
            assert Traffic.survived(traffic.incoming)
            status = (await roaming.mobile_node.status())["mobile_node"]
            assert status["home_agent"] == named[1]

    run_scenario(scenario)


@requirement("RFC5142-5.1", "EXT-05", "EXT-06")
def test_home_agent_sends_its_mobile_node_to_the_other_under_traffic(
    record_property: Callable[[str, object], None],
) -> None:
    async def scenario() -> None:
        named = [str(address) for address in ADDRESSES]
        async with two_home_agents(named, retransmission_timer=0.1) as (roaming, pair, _):
            traffic = await Traffic.start(roaming)
            first = pair.agents[0]
            asked_at = boottime()
            command = [*MNAGENT, "bindings", "switch", "--socket", str(first.socket)]
            process = await asyncio.create_subprocess_exec(*command, "--wait", "10")
            assert await process.wait() == 0
            chosen = await roaming.mobile_node.wait_for(
                "home-agent-chosen", after=asked_at, timeout=5
            )
            assert chosen.details["home_agent"] == named[1]
            accepted = await roaming.mobile_node.wait_for(
                "binding-accepted", after=chosen.at, timeout=5
            )
            record_property("accepted_after", round(accepted.at - asked_at, 3))
            assert (await first.status())["home_agent"]["bindings"] == []
            await traffic.resumed(accepted.at, timeout=5)
            await traffic.finish()
            assert Traffic.survived(traffic.outgoing)
            assert Traffic.survived(traffic.incoming)

    run_scenario(scenario)
