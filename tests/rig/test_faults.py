"""What goes wrong in the field, done to real daemons: each fault, and what must become of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from ipaddress import IPv6Address, IPv6Interface
from pathlib import Path
from typing import Any

import pytest

from mnagent.rig.capture import CapturedFrame, read_capture
from mnagent.rig.daemon import AgentDaemon, make_keys
from mnagent.rig.host import Process, Record, boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.namespace import RigError
from mnagent.rig.roaming import Roaming, RoamingSettings, Traffic
from mnagent.rig.topology import (
    CORRESPONDENT,
    HOME,
    HOME_ADDRESS,
    HOME_AGENT,
    LINK_A,
    LINK_B,
    MOBILE,
    MOBILE_INTERFACE,
)
from tests.support import mounts
from tests.support.requirement import requirement

EXIT_ALREADY_RUNNING = 3
SETTINGS = RoamingSettings(impairment=Impairment(delay=0.005))


@contextlib.asynccontextmanager
async def away(settings: RoamingSettings = SETTINGS) -> AsyncIterator[Roaming]:
    """A mobile node registered from link A."""
    async with Roaming(settings) as roaming:
        await roaming.home_agent.start()
        move = roaming.move(LINK_A)
        await roaming.mobile_node.start()
        await roaming.settled(move)
        yield roaming


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


async def rises(agent: AgentDaemon, counter: str, before: int, *, timeout: float = 5.0) -> None:
    """Wait until a counter is above what it was. Raises RigError."""
    try:
        async with asyncio.timeout(timeout):
            while (await counters(agent)).get(counter, 0) <= before:
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise RigError(f"{counter} of {agent.name} did not rise") from None


async def counters(agent: AgentDaemon) -> dict[str, int]:
    return dict((await agent.status())["counters"])


def test_mobile_node_killed_and_restarted_mid_connection_keeps_tcp_alive() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            traffic = await Traffic.start(roaming)
            await roaming.mobile_node.kill()
            restarted_at = boottime()
            await roaming.mobile_node.start()
            await roaming.mobile_node.wait_for("binding-accepted", after=restarted_at, timeout=15)
            await traffic.resumed(restarted_at, timeout=20)
            await traffic.finish()
            assert Traffic.survived(traffic.outgoing)
            assert Traffic.survived(traffic.incoming)

    run(scenario)


@pytest.fixture
def bpf_file_system(tmp_path: Path) -> Iterator[Path]:
    """Where the in-kernel engine can leave things; ``ip netns exec`` hides the usual place."""
    pytest.importorskip("mnagent.datapath._kernel", reason="built without libbpf")
    with mounts.bpf_file_system(tmp_path) as where:
        yield where


@pytest.mark.parametrize("role", [MOBILE, "home-agent"])
def test_traffic_goes_on_while_a_killed_daemon_is_dead(bpf_file_system: Path, role: str) -> None:
    async def scenario() -> None:
        async with away() as roaming:
            victim = roaming.mobile_node if role == MOBILE else roaming.home_agent
            status = await victim.status()
            assert status["engine"]["kind"] == "kernel"
            assert status["engine"]["survives_restart"]
            assert status["engine"]["in_kernel"] >= 1
            traffic = await Traffic.start(roaming)
            await victim.kill()
            await traffic.resumed(boottime(), timeout=5)
            assert list(bpf_file_system.glob("mnagent-*"))
            restarted_at = boottime()
            await victim.start()
            if role == MOBILE:
                await victim.wait_for("binding-accepted", after=restarted_at, timeout=15)
            await traffic.resumed(boottime(), timeout=20)
            await traffic.finish()
            assert Traffic.survived(traffic.outgoing)
            assert Traffic.survived(traffic.incoming)
            await roaming.mobile_node.stop()
            await roaming.home_agent.stop()

    run(scenario)
    assert list(bpf_file_system.glob("mnagent-*")) == []


@requirement("RFC6275-11.7.1", "OPS-04")
def test_mobile_node_killed_moved_and_restarted_keeps_tcp_alive() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            traffic = await Traffic.start(roaming)
            await roaming.mobile_node.kill()
            move = roaming.move(LINK_B)
            await roaming.mobile_node.start()
            await roaming.settled(move)
            await traffic.resumed(move.link_up_at, timeout=20)
            await traffic.finish()
            assert Traffic.survived(traffic.outgoing)
            assert Traffic.survived(traffic.incoming)

    run(scenario)


@requirement("RFC6275-10.3.1", "OPS-03")
def test_home_agent_killed_and_restarted_carries_packets_at_once() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            traffic = await Traffic.start(roaming)
            await roaming.home_agent.kill()
            await roaming.home_agent.start()
            serving_at = boottime()
            (binding,) = (await roaming.home_agent.status())["home_agent"]["bindings"]
            assert binding["home_address"] == str(HOME_ADDRESS)
            # Pings, not streams: those wait for their own retransmission timers first.
            reply = await traffic.ping.wait_for(
                lambda record: record["kind"] == "reply" and record["sent_at"] >= serving_at,
                timeout=10.0,
            )
            assert reply["sent_at"] - serving_at <= 1.0
            assert roaming.home_agent.find("binding-created", after=serving_at) is None
            await traffic.resumed(serving_at, timeout=20.0)
            await traffic.finish()
            assert Traffic.survived(traffic.outgoing)
            assert Traffic.survived(traffic.incoming)

    run(scenario)


@requirement("RFC6275-11.3.6", "MN-46")
def test_home_agent_killed_and_restarted_without_its_cache_recovers() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            traffic = await Traffic.start(roaming)
            await roaming.home_agent.kill()
            roaming.home_agent.lose_state()
            restarted_at = boottime()
            await roaming.home_agent.start()
            # Long before the binding would have ended: a tunnelled packet was answered by an error.
            await roaming.home_agent.wait_for("binding-created", after=restarted_at, timeout=10)
            await traffic.resumed(restarted_at, timeout=10)
            await traffic.finish()
            assert Traffic.survived(traffic.outgoing)
            assert Traffic.survived(traffic.incoming)

    run(scenario)


def test_second_daemon_is_refused_and_leaves_the_first_alone() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            second = await roaming.mobile_node.launch()
            assert await second.wait(timeout=10) == EXIT_ALREADY_RUNNING
            assert (await roaming.mobile_node.status())["role"] == "mobile-node"
            await pinged_from_home_address(roaming)

    run(scenario)


async def pinged_from_home_address(roaming: Roaming) -> Process:
    mobile = roaming.hosts["mobile"]
    ping = await mobile.start_module("ping", "mnagent.rig.traffic", "ping", str(CORRESPONDENT))
    await ping.wait_for_kind("reply")
    assert ping.of_kind("source")[0]["address"] == str(HOME_ADDRESS)
    return ping


def test_home_agent_silent_is_reported_and_found_again() -> None:
    async def scenario() -> None:
        async with Roaming(SETTINGS) as roaming:
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            await roaming.mobile_node.wait_for(
                "binding-update-sent", after=move.link_up_at, timeout=10
            )
            await roaming.home_agent.start()
            await roaming.settled(move, timeout=20)

    run(scenario)


def test_wrong_keys_are_dropped_and_counted_and_never_registered() -> None:
    async def scenario() -> None:
        async with Roaming(SETTINGS) as roaming:
            await roaming.home_agent.start()
            # The mobile node's keys are made anew; the home agent has read the old ones.
            make_keys(roaming.directory, home_address=HOME_ADDRESS, home_agent=HOME_AGENT)
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            for _ in range(2):
                await roaming.mobile_node.wait_for(
                    "binding-update-sent", after=move.link_up_at, timeout=10
                )
            with pytest.raises(RigError, match="no binding-accepted"):
                await roaming.settled(move, timeout=3)
            status = await roaming.home_agent.status()
            assert not status["home_agent"]["bindings"]

    run(scenario)


def test_interface_down_and_up_again_registers_again() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            mobile = roaming.topology["mobile"]
            down_at = boottime()
            mobile.ip(f"link set {MOBILE_INTERFACE} down")
            await roaming.mobile_node.wait_for("link-down", after=down_at, timeout=5)
            mobile.ip(f"link set {MOBILE_INTERFACE} up")
            up_at = boottime()
            await roaming.mobile_node.wait_for("care-of-address-ready", after=up_at, timeout=5)
            await pinged_from_home_address(roaming)

    run(scenario)


def test_interface_gone_while_running_is_survived_and_its_return_noticed() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            topology = roaming.topology
            gone_at = boottime()
            topology["mobile"].ip(f"link del {MOBILE_INTERFACE}")
            await roaming.mobile_node.wait_for("link-down", after=gone_at, timeout=5)
            topology.lay_mobile_cable()
            move = roaming.move(LINK_B)
            await roaming.settled(move)
            await pinged_from_home_address(roaming)

    run(scenario)


def test_care_of_address_duplicate_is_not_used() -> None:
    async def scenario() -> None:
        async with Roaming(SETTINGS) as roaming:
            await roaming.home_agent.start()
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            await roaming.settled(move)
            ready = roaming.mobile_node.find("care-of-address-ready", after=move.link_up_at)
            assert ready is not None
            taken = IPv6Address(ready.details["address"])
            await roaming.mobile_node.stop()
            # Somebody else has the address by the time the node comes back, to a link that it does
            # not remember: on a known link nobody is asked again (RFC 6059 5.7.1).
            roaming.topology["router-a"].ip(f"addr add {taken}/64 dev access nodad")
            for record in (roaming.directory / "mobile-node.state" / "records").glob(
                "known-links*"
            ):
                record.unlink()
            restarted_at = boottime()
            await roaming.mobile_node.start()
            event = await roaming.mobile_node.wait_for(
                "duplicate-address", after=restarted_at, timeout=15
            )
            assert event.details["address"] == str(taken)
            accepted = await roaming.mobile_node.wait_for(
                "binding-accepted", after=event.at, timeout=15
            )
            assert accepted.details["care_of_address"] != str(taken)

    run(scenario)


def inject(roaming: Roaming, role: str, packet: bytes) -> None:
    """Send a packet from a host, headers and all."""
    with roaming.topology[role].inside(), raw_socket() as sender:
        destination = socket.inet_ntop(socket.AF_INET6, packet[24:40])
        sender.sendto(packet, (destination, 0))


def raw_socket() -> socket.socket:
    return socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)


def ipv6(source: IPv6Address, destination: IPv6Address, protocol: int, payload: bytes) -> bytes:
    header = bytes([0x60, 0, 0, 0]) + len(payload).to_bytes(2, "big") + bytes([protocol, 64])
    return header + source.packed + destination.packed + payload


async def care_of_address(roaming: Roaming) -> IPv6Address:
    status = await roaming.mobile_node.status()
    return IPv6Address(status["mobile_node"]["bound_care_of_address"])


async def risen(agent: AgentDaemon, before: dict[str, int]) -> dict[str, int]:
    """The counters that have risen."""
    after = await counters(agent)
    return {
        name: after[name] - before.get(name, 0)
        for name in after
        if after[name] > before.get(name, 0)
    }


@requirement("RFC6275-10.4.5", "HA-43", "HA-44")
@requirement("RFC6275-10.4.5", "HA-44")
@pytest.mark.parametrize("counter", ["drop-inner-source", "drop-outer-source"])
def test_spoofed_source_is_dropped_and_counted_at_the_home_agent(counter: str) -> None:
    async def scenario() -> None:
        async with away() as roaming:
            outer = await care_of_address(roaming)
            inner_source = IPv6Address("2001:db8:1::66")
            if counter == "drop-outer-source":
                outer, inner_source = IPv6Address("2001:db8:a::1"), HOME_ADDRESS
            inner = ipv6(inner_source, CORRESPONDENT, 59, b"")
            before = await counters(roaming.home_agent)
            inject(roaming, "router-a", ipv6(outer, HOME_AGENT, 41, inner))
            await rises(roaming.home_agent, counter, before.get(counter, 0))

    run(scenario)


@requirement("RFC6275-11.7.3", "MN-18")
def test_binding_acknowledgement_forged_in_the_clear_changes_nothing() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            address = await care_of_address(roaming)
            # Type 2 routing header, then a Binding Acknowledgement: status 130, sequence 0.
            routing = bytes([135, 2, 2, 1, 0, 0, 0, 0]) + HOME_ADDRESS.packed
            message = bytes([59, 1, 6, 0, 0, 0, 130, 0, 0, 0, 0, 0, 1, 2, 0, 0])
            before = await counters(roaming.mobile_node)
            inject(roaming, "router-a", ipv6(HOME_AGENT, address, 43, routing + message))
            async with asyncio.timeout(5):
                while not await risen(roaming.mobile_node, before):
                    await asyncio.sleep(0.02)
            assert roaming.mobile_node.find("binding-rejected", after=0.0) is None
            await pinged_from_home_address(roaming)

    run(scenario)


@requirement("RFC4303-3.4.3", "SEC-18")
@requirement("RFC4303-3.4.3", "SEC-18")
def test_binding_update_replayed_is_dropped_and_counted(tmp_path: Any) -> None:
    async def scenario() -> None:
        async with Roaming(SETTINGS) as roaming:
            captures = await roaming.start_captures(tmp_path)
            await roaming.home_agent.start()
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            await roaming.settled(move)
            await roaming.finish_captures()
            update = next(frame for frame in read_capture(captures[LINK_A]) if is_update(frame))
            before = (await counters(roaming.home_agent)).get("drop-replay", 0)
            inject(roaming, "router-a", update.data[14:])
            await rises(roaming.home_agent, "drop-replay", before)

    run(scenario)


def is_update(frame: CapturedFrame) -> bool:
    """Destination options with ESP behind, to the home agent."""
    data = frame.data
    return data[12:14] == b"\x86\xdd" and data[20] == 60 and data[38:54] == HOME_AGENT.packed


@requirement("RFC6275-10.3.1", "HA-11")
def test_home_address_taken_on_the_home_link_is_refused_with_a_sentence() -> None:
    async def scenario() -> None:
        async with Roaming(SETTINGS) as roaming:
            roaming.topology.add_host("thief", HOME, IPv6Interface(f"{HOME_ADDRESS}/64"))
            await roaming.home_agent.start()
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            rejected = await roaming.mobile_node.wait_for(
                "binding-rejected", after=move.link_up_at, timeout=10
            )
            assert rejected.details["status"] == "134"
            assert rejected.details["sentence"]
            assert not (await roaming.home_agent.status())["home_agent"]["bindings"]

    run(scenario)


def test_policy_rules_flushed_by_another_program_come_back() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            mobile = roaming.topology["mobile"]
            ping = await pinged_from_home_address(roaming)
            mobile.show("-6", "rule", "flush")
            mobile.show("-6", "rule", "add", "priority", "32766", "lookup", "main")
            flushed_at = boottime()
            await ping.wait_for(
                lambda record: record["kind"] == "reply" and record["sent_at"] > flushed_at + 0.2,
                timeout=15,
            )

    run(scenario)


@requirement("RFC6275-11.7.1", "OPS-05")
def test_daemon_stopped_leaves_no_rule_route_or_device() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            mobile = roaming.topology["mobile"]
            await roaming.mobile_node.stop()
            assert "6275" not in mobile.show("-6", "rule")
            assert mobile.show("-6", "route", "show", "table", "6275").strip() == ""
            assert "mnagent0" not in mobile.show("link")

    run(scenario)


def reply_after(instant: float) -> Callable[[Record], bool]:
    return lambda record: record["kind"] == "reply" and record["sent_at"] > instant


def test_ping_pong_between_links_ends_registered() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            ping = await pinged_from_home_address(roaming)
            for link in (LINK_B, LINK_A, LINK_B, HOME, LINK_A, LINK_B):
                move = roaming.move(link)
                # Away again before the answer can be there.
                await roaming.mobile_node.wait_for("link-up", after=move.link_up_at, timeout=5)
            await roaming.settled(move)
            await ping.wait_for(reply_after(move.link_up_at), timeout=15)

    run(scenario)
