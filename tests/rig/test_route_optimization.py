"""The direct path through real namespaces: with a correspondent, and between two mobile nodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from mnagent.agent.handovers import CORRESPONDENT_PHASES
from mnagent.rig.capture import read_capture
from mnagent.rig.checks import ENCAPSULATED_IPV6, MOBILITY, OuterPacket, outer_packets
from mnagent.rig.daemon import AgentDaemon
from mnagent.rig.demo import HOME_DELAY, Demo, DemoOptions, Narrator
from mnagent.rig.flows import DATAGRAMS, IN_FLIGHT, INCOMING, OUTGOING, PING
from mnagent.rig.host import boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.report import Result, as_json
from mnagent.rig.roaming import Between, Move, Roaming, RoamingSettings, Traffic
from mnagent.rig.topology import (
    CORRESPONDENT,
    HOME,
    HOME_ADDRESS,
    HOME_ADDRESSES,
    LINK_A,
    LINK_B,
    MOBILE,
    SECOND_MOBILE,
)
from tests.support.requirement import requirement

SETTINGS = RoamingSettings(
    impairment=Impairment(delay=0.005),
    home_delay=0.005,
    mobile_node={"route_optimization": "on-traffic"},
)
TWO_NODES = RoamingSettings(
    impairment=Impairment(delay=0.005),
    mobile_nodes=2,
    mobile_node={"route_optimization": "on-traffic"},
)
SECOND_ADDRESS = HOME_ADDRESSES[SECOND_MOBILE]
BETWEEN_NODES = Between(peer=SECOND_MOBILE, peer_address=SECOND_ADDRESS)
PATIENCE = 15.0
"""Seconds a direct path may take before the test gives up."""


def tell(output: Path, **options: Any) -> Result:
    """The demo's story with route optimization."""
    chosen = {"dwell": 0.7, "route_optimization": True, "home_delay": HOME_DELAY, **options}
    return asyncio.run(Demo(DemoOptions(output=output, **chosen), Narrator()).run())


def failed(result: Result) -> list[str]:
    return [f"{check.claim}: {check.detail}" for check in result.checks if not check.held]


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The whole story, looked at by several tests."""
    return tell(tmp_path_factory.mktemp("demo"))


@requirement("RFC6275-11.7.2", "MN-47", "MN-54")
def test_roaming_with_route_optimization_keeps_everything_alive_and_direct(story: Result) -> None:
    assert failed(story) == []


def test_roaming_with_route_optimization_reports_each_flow(story: Result) -> None:
    flows = {flow["flow"]: flow for flow in json.loads(as_json(story))["flows"]}
    assert set(flows) == {OUTGOING, INCOMING, PING, DATAGRAMS}
    for flow in flows.values():
        assert flow["path"] == "direct"
        assert flow["packets_at_home_agent_after_switch"] == 0
        assert [stay["link"] for stay in flow["stays"]] == [LINK_A, LINK_B, LINK_A]
        # 20 ms to the core each way, and 15 ms from there to the home agent twice as often.
        assert flow["rtt_direct_ms"] >= 40
        assert flow["rtt_via_home_agent_ms"] >= 100


def test_roaming_with_route_optimization_has_a_direct_path_per_foreign_link(story: Result) -> None:
    away = [handover for handover in story.handovers if handover.destination != HOME]
    assert all(handover.direct_at is not None for handover in away)
    assert [h.direct_at for h in story.handovers if h.destination == HOME] == [None]


def test_roaming_with_route_optimization_records_the_phases_of_the_correspondent(
    story: Result,
) -> None:
    away = [r for r in story.records if r["number"] and not r["at_home"]]
    assert len(away) == 3
    for record in away:
        reached = record["correspondents"][str(CORRESPONDENT)]
        assert reached.keys() == set(CORRESPONDENT_PHASES.values())
        tested = reached["tests_started_at"] <= reached["tests_passed_at"]
        assert tested and reached["tests_passed_at"] <= reached["update_sent_at"]
        assert record["acknowledged_at"] <= reached["update_sent_at"] < reached["acknowledged_at"]
        packets = (reached["first_packet_out_at"], reached["first_packet_in_at"])
        assert all(
            reached["acknowledged_at"] <= at < reached["acknowledged_at"] + 3 for at in packets
        )
    assert "acknowledged_at" in story.records[-1]["correspondents"][str(CORRESPONDENT)]


def test_roaming_with_payload_under_esp_goes_direct(tmp_path: Path) -> None:
    assert failed(tell(tmp_path, payload_protection="esp", path=(LINK_A, HOME))) == []


def test_roaming_with_policy_never_sends_everything_by_the_home_agent(tmp_path: Path) -> None:
    result = tell(tmp_path, policy="never", path=(LINK_A, LINK_B, HOME))
    assert failed(result) == []
    assert result.flows is not None
    assert {flow.path for flow in result.flows} == {"home-agent"}


@contextlib.asynccontextmanager
async def away_and_direct(settings: RoamingSettings = SETTINGS) -> AsyncIterator[Roaming]:
    """A mobile node registered from link A, and a correspondent that takes bindings."""
    async with Roaming(settings) as roaming:
        await roaming.home_agent.start()
        await roaming.correspondent.start()
        move = roaming.move(LINK_A)
        await roaming.mobile_node.start()
        await roaming.settled(move)
        yield roaming


async def finish(traffic: Traffic) -> None:
    """End the traffic; nothing may be missing from the connections, no datagram come twice."""
    await traffic.finish()
    assert Traffic.survived(traffic.outgoing)
    assert Traffic.survived(traffic.incoming)
    for end in traffic.datagrams or ():
        assert end.of_kind("finished")[0]["duplicates"] == 0


def test_first_packet_is_followed_by_the_direct_path() -> None:
    async def scenario() -> None:
        async with away_and_direct() as roaming:
            ping = await roaming.hosts[MOBILE].start_module(
                "ping", "mnagent.rig.traffic", "ping", str(CORRESPONDENT)
            )
            first = await ping.wait_for_kind("sent")
            assert await roaming.optimized(roaming.moves[-1]) > float(first["at"])

    run(scenario)


def test_mobile_node_as_a_server_of_datagrams_alone_is_talked_to_directly() -> None:
    async def scenario() -> None:
        async with away_and_direct() as roaming:
            module = "mnagent.rig.traffic"
            server = await roaming.hosts[MOBILE].start_module("server", module, "answer", "47100")
            await server.wait_for_kind("listening")
            client = await roaming.hosts["correspondent"].start_module(
                "client", module, "datagrams", str(HOME_ADDRESS), "47100"
            )
            await roaming.optimized(roaming.moves[-1])
            move = roaming.move(LINK_B)
            await roaming.optimized(move)
            since = boottime()
            for end in (server, client):
                await end.wait_for(lambda r: r["kind"] == "received" and r["at"] > since + 0.2)
            for end in (client, server):
                end.end_input()
            for end in (client, server):
                await end.wait(timeout=5)
                assert end.of_kind("finished")[0]["duplicates"] == 0
            assert await path_to_correspondent(roaming.mobile_node) == "direct"

    run(scenario)


async def path_to_correspondent(agent: AgentDaemon) -> str:
    correspondents = (await agent.status())["mobile_node"]["correspondents"]
    return str(next(c["path"] for c in correspondents if c["correspondent"] == str(CORRESPONDENT)))


def test_correspondent_without_mobility_is_reached_through_the_tunnel() -> None:
    async def scenario() -> None:
        async with Roaming(SETTINGS) as roaming:
            await roaming.home_agent.start()
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            await roaming.settled(move)
            traffic = await Traffic.start(roaming, datagrams=True)
            await roaming.mobile_node.wait_for(
                "route-optimization-suspended", after=move.link_up_at, timeout=PATIENCE
            )
            move = roaming.move(LINK_B)
            await roaming.settled(move)
            await traffic.resumed(move.link_down_at, timeout=PATIENCE)
            assert await path_to_correspondent(roaming.mobile_node) == "home-agent"
            await finish(traffic)

    run(scenario)


@requirement("RFC6275-11.3.6", "MN-46")
def test_correspondent_killed_and_restarted_is_optimized_again() -> None:
    async def scenario() -> None:
        async with away_and_direct() as roaming:
            traffic = await Traffic.start(roaming, datagrams=True)
            await roaming.optimized(roaming.moves[-1])
            await roaming.correspondent.kill()
            restarted_at = boottime()
            await roaming.correspondent.start()
            # What it cannot place is answered by a Binding Error: the tunnel, then directly again.
            node = roaming.mobile_node
            ended = await node.wait_for("direct-path-ended", after=restarted_at, timeout=PATIENCE)
            again = await node.wait_for("direct-path", after=ended.at, timeout=PATIENCE)
            await traffic.resumed(again.at, timeout=PATIENCE)
            await finish(traffic)

    run(scenario)


def test_correspondent_stopped_for_good_is_reached_through_the_tunnel() -> None:
    async def scenario() -> None:
        async with away_and_direct() as roaming:
            traffic = await Traffic.start(roaming, datagrams=True)
            await roaming.optimized(roaming.moves[-1])
            stopped_at = boottime()
            await roaming.correspondent.stop()
            await roaming.mobile_node.wait_for(
                "direct-path-ended", after=stopped_at, timeout=PATIENCE
            )
            await traffic.resumed(boottime(), timeout=PATIENCE)
            assert await path_to_correspondent(roaming.mobile_node) == "home-agent"
            await finish(traffic)

    run(scenario)


def test_correspondent_stopped_in_order_leaves_the_tunnel_to_carry_on() -> None:
    async def scenario() -> None:
        async with away_and_direct() as roaming:
            traffic = await Traffic.start(roaming, datagrams=True)
            await roaming.optimized(roaming.moves[-1])
            await roaming.correspondent.stop()
            await roaming.correspondent.start()
            restarted_at = boottime()
            await roaming.mobile_node.wait_for("direct-path", after=restarted_at, timeout=PATIENCE)
            await traffic.resumed(restarted_at, timeout=PATIENCE)
            await finish(traffic)

    run(scenario)


async def both_sent(traffic: Traffic, since: float) -> None:
    """Wait for a datagram that came after an instant, at each end."""
    for end in traffic.datagrams or ():
        await end.wait_for(lambda r: r["kind"] == "received" and r["at"] > since)


def payload_since(capture: Path, since: float) -> list[OuterPacket]:
    """The tunnel packets since an instant (CLOCK_BOOTTIME), and those between the two nodes."""
    begin = since + time.time() - boottime()
    nodes = {HOME_ADDRESS, SECOND_ADDRESS}
    return [
        packet
        for packet in outer_packets(read_capture(capture))
        if packet.at >= begin
        and (
            packet.protocol == ENCAPSULATED_IPV6
            or (
                {packet.logical_source, packet.logical_destination} == nodes
                and packet.protocol != MOBILITY
            )
        )
    ]


@contextlib.asynccontextmanager
async def two_nodes_away(first: str, second: str) -> AsyncIterator[Roaming]:
    """Two mobile nodes of one home agent, registered from a foreign link each."""
    async with Roaming(TWO_NODES) as roaming:
        await roaming.home_agent.start()
        moves = [roaming.move(first, MOBILE), roaming.move(second, SECOND_MOBILE)]
        for move in moves:
            await roaming.agent_of(move.role).start()
        for move in moves:
            await roaming.settled(move)
        yield roaming


async def both_direct(roaming: Roaming, *moves: Move) -> None:
    """Each of those that moved sends to the other directly."""
    for move in moves:
        peer = SECOND_ADDRESS if move.role == MOBILE else HOME_ADDRESS
        await roaming.optimized(move, peer, timeout=PATIENCE)


def test_two_mobile_nodes_that_move_one_after_the_other_talk_directly() -> None:
    async def scenario() -> None:
        async with two_nodes_away(LINK_A, LINK_B) as roaming:
            traffic = await Traffic.start(roaming, BETWEEN_NODES, datagrams=True)
            await both_direct(roaming, *roaming.moves)
            for destination, role in ((LINK_B, MOBILE), (LINK_A, SECOND_MOBILE)):
                move = roaming.move(destination, role)
                await both_direct(roaming, move)
                await traffic.resumed(move.link_down_at, timeout=PATIENCE)
            for role in (MOBILE, SECOND_MOBILE):
                move = roaming.move(HOME, role)
                await roaming.settled(move)
                await traffic.resumed(move.link_down_at, timeout=PATIENCE)
            await finish(traffic)

    run(scenario)


@pytest.mark.parametrize("links", [(LINK_B, LINK_A), (LINK_B, LINK_B)])
def test_two_mobile_nodes_that_move_at_the_same_time_talk_directly(
    links: tuple[str, str], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with two_nodes_away(LINK_A, LINK_A if links[0] == links[1] else LINK_B) as roaming:
            files = await roaming.start_captures(tmp_path)
            traffic = await Traffic.start(roaming, BETWEEN_NODES, datagrams=True)
            await both_direct(roaming, *roaming.moves)
            moves = [
                roaming.move(destination, role)
                for destination, role in zip(links, (MOBILE, SECOND_MOBILE), strict=True)
            ]
            await both_direct(roaming, *moves)
            await traffic.resumed(moves[0].link_down_at, timeout=PATIENCE)
            settled_at = boottime() + IN_FLIGHT
            await both_sent(traffic, settled_at + 0.2)
            await roaming.finish_captures()
            assert payload_since(files["core-home-agent"], settled_at) == []
            seen = payload_since(files[LINK_B], settled_at)
            assert seen
            assert all(packet.home_address and packet.routed_to for packet in seen)
            await finish(traffic)

    run(scenario)
