"""Returning home, in every way, with real packets (RFC 6275 11.5.5)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from ipaddress import IPv6Address
from typing import Any

import pytest

from mnagent.rig.advertising import RadvdTiming
from mnagent.rig.host import boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.namespace import Namespace, run
from mnagent.rig.roaming import Roaming, RoamingSettings, Traffic
from mnagent.rig.topology import (
    FOREIGN_PREFIXES,
    HOME,
    HOME_ADDRESS,
    LINK_A,
    LINK_B,
    MOBILE_INTERFACE,
)
from mnagent.wire.buffer import DecodeError
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation
from mnagent.wire.packet import decode_packet
from tests.support.requirement import requirement

NEARBY = Impairment(delay=0.005)
SECOND_INTERFACE = "eth1"
ETH_P_ALL = 3
ESP = 50
UNSPECIFIED = IPv6Address("::")


@contextlib.asynccontextmanager
async def away(**settings: Any) -> AsyncIterator[Roaming]:
    """A mobile node registered from link A."""
    async with Roaming(RoamingSettings(impairment=NEARBY, **settings)) as roaming:
        await roaming.home_agent.start()
        move = roaming.move(LINK_A)
        await roaming.mobile_node.start()
        await roaming.settled(move)
        yield roaming


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@contextlib.contextmanager
def overheard(namespace: Namespace, interface: str) -> Any:
    """What is sent and received on an interface: a function that gives all so far."""
    with namespace.inside():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        listener.bind((interface, ETH_P_ALL))
    packets: list[IPv6Packet] = []

    def heard() -> list[IPv6Packet]:
        with contextlib.suppress(BlockingIOError):
            while True:
                data = listener.recv(65536)
                with contextlib.suppress(DecodeError, ValueError):
                    packets.append(decode_packet(data))
        return packets

    with listener:
        yield heard


def about_home(packets: list[IPv6Packet], kind: type[Any]) -> list[IPv6Packet]:
    """Neighbour discovery about the home address."""
    return [
        each
        for each in packets
        if isinstance(each.payload, kind) and each.payload.target == HOME_ADDRESS
    ]


async def bindings(roaming: Roaming) -> list[dict[str, Any]]:
    status = await roaming.home_agent.status()
    return [*status["home_agent"]["bindings"]]


async def survives(traffic: Traffic, since: float) -> None:
    await traffic.resumed(since, timeout=20)
    await traffic.finish()
    assert Traffic.survived(traffic.outgoing)
    assert Traffic.survived(traffic.incoming)


@requirement("RFC6275-11.5.5", "RET-11")
@pytest.mark.parametrize("stay", [0.0, 0.1, 0.4, 0.9])
def test_leaving_again_within_a_second_registers_again(stay: float) -> None:
    async def scenario() -> None:
        async with away() as roaming:
            traffic = await Traffic.start(roaming)
            roaming.move(HOME)
            await asyncio.sleep(stay)
            move = roaming.move(LINK_B)
            await roaming.settled(move)
            (binding,) = await bindings(roaming)
            assert IPv6Address(binding["care_of_address"]) in FOREIGN_PREFIXES[LINK_B]
            await survives(traffic, boottime())

    play(scenario)


@requirement("RFC6275-11.5.5", "RET-05")
def test_binding_expired_before_the_return_is_followed_by_a_probe_and_no_update() -> None:
    async def scenario() -> None:
        async with away(lifetime=4) as roaming:
            traffic = await Traffic.start(roaming)
            mobile = roaming.topology["mobile"]
            roaming.topology.unplug()
            await asyncio.sleep(5.0)
            assert await bindings(roaming) == []
            with overheard(mobile, MOBILE_INTERFACE) as heard:
                since = boottime()
                move = roaming.move(HOME)
                await roaming.settled(move)
                # The home agent's kernel may ask for the home address, too, from its own.
                questions = about_home(heard(), NeighborSolicitation)
                own = [each for each in questions if each.source in (UNSPECIFIED, HOME_ADDRESS)]
                assert [each.source for each in own] == [UNSPECIFIED]
            sent = roaming.mobile_node.find("binding-update-sent", after=since)
            assert sent is None
            await survives(traffic, boottime())

    play(scenario)


@requirement("RFC6275-11.5.5", "RET-03", "RET-04")
def test_unknown_link_layer_address_of_the_home_agent_is_asked_for_from_nobody() -> None:
    async def scenario() -> None:
        async with away(home_advertising=RadvdTiming(addresses=False)) as roaming:
            traffic = await Traffic.start(roaming)
            mobile = roaming.topology["mobile"]
            with overheard(mobile, MOBILE_INTERFACE) as heard:
                await roaming.settled(roaming.move(HOME))
                questions = about_home(heard(), NeighborSolicitation)
                answers = about_home(heard(), NeighborAdvertisement)
            # One question, which the home agent answers to all: no probing of the home address.
            own = [each for each in questions if each.source in (UNSPECIFIED, HOME_ADDRESS)]
            assert [each.source for each in own] == [UNSPECIFIED]
            assert not answers[0].payload.solicited
            await survives(traffic, boottime())

    play(scenario)


@requirement("RFC6275-11.5.5", "RET-06", "RET-08")
def test_lost_acknowledgement_is_waited_for_and_the_home_address_answered() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            traffic = await Traffic.start(roaming)
            switch, mobile = roaming.topology["switch"], roaming.topology["mobile"]
            rules = (
                "add table bridge lossy; add chain bridge lossy forwarded"
                " { type filter hook forward priority 0; };"
                f" add rule bridge lossy forwarded oifname mobile-port ip6 nexthdr {ESP} drop"
            )
            run("ip", "netns", "exec", switch.name, "nft", rules)
            with overheard(mobile, MOBILE_INTERFACE) as heard:
                since = boottime()
                move = roaming.move(HOME)
                await roaming.mobile_node.wait_for("binding-update-sent", after=since, timeout=5)
                await asyncio.sleep(2.5)
                assert roaming.mobile_node.find("returned-home", after=since) is None
                assert await bindings(roaming) == []
                run("ip", "netns", "exec", switch.name, "nft", "delete table bridge lossy")
                await roaming.settled(move)
                answers = about_home(heard(), NeighborAdvertisement)
                assert any(each.source == HOME_ADDRESS for each in answers)
            updates = [
                event
                for event in roaming.mobile_node.events
                if event.name == "binding-update-sent" and event.at >= since
            ]
            assert len(updates) >= 2
            await survives(traffic, boottime())

    play(scenario)


def give_second_interface(roaming: Roaming) -> None:
    """The mobile node's other interface, plugged into the home link, without carrier yet."""
    mobile, switch = roaming.topology["mobile"], roaming.topology["switch"]
    mobile.ip(f"link add {SECOND_INTERFACE} type veth peer name second-port netns {switch.name}")
    for namespace, interface in ((switch, "second-port"), (mobile, SECOND_INTERFACE)):
        namespace.complete_checksums(interface)
    switch.ip(f"link set second-port master {HOME}")
    mobile.ip(f"link set {SECOND_INTERFACE} up")


@requirement("RFC6275-11.5.5", "RET-01", "RET-10")
def test_home_link_reached_by_another_interface_is_the_home_link() -> None:
    async def scenario() -> None:
        settings = RoamingSettings(
            impairment=NEARBY, mobile_node={"interfaces": [SECOND_INTERFACE, MOBILE_INTERFACE]}
        )
        async with Roaming(settings) as roaming:
            give_second_interface(roaming)
            await roaming.home_agent.start()
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            await roaming.settled(move)
            traffic = await Traffic.start(roaming)
            switch = roaming.topology["switch"]
            since = boottime()
            switch.ip("link set second-port up")
            await roaming.mobile_node.wait_for("returned-home", after=since, timeout=10)
            assert await bindings(roaming) == []
            await traffic.resumed(boottime(), timeout=10)
            since = boottime()
            switch.ip("link set second-port down")
            await roaming.mobile_node.wait_for("binding-accepted", after=since, timeout=10)
            (binding,) = await bindings(roaming)
            assert IPv6Address(binding["care_of_address"]) in FOREIGN_PREFIXES[LINK_A]
            await survives(traffic, boottime())

    play(scenario)
