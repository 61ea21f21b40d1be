"""Addresses and routers on real links: what neighbours see, and what strangers do."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from ipaddress import IPv6Address, IPv6Interface
from pathlib import Path
from typing import Any

import pytest

from mnagent.rig.capture import read_capture
from mnagent.rig.daemon import DaemonEvent
from mnagent.rig.host import boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.namespace import run as run_command
from mnagent.rig.roaming import Roaming, RoamingSettings
from mnagent.rig.topology import ACCESS, FOREIGN_PREFIXES, LINK_A, LINK_B, MOBILE_INTERFACE
from mnagent.wire.buffer import DecodeError
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation, SourceLinkLayerAddress
from mnagent.wire.packet import decode_packet
from tests.support.requirement import requirement

ETHERNET_HEADER = 14
SETTINGS = RoamingSettings(impairment=Impairment(delay=0.005))
SHARED_LINK_LOCAL = "fe80::1"
SILENCE = 30.0
"""Seconds without router advertisements."""
LATE = 5.0
"""Seconds after it within which a solicitation is repeated (RFC 4861 6.3.7)."""


@contextlib.asynccontextmanager
async def bench(**mobile_node: Any) -> AsyncIterator[Roaming]:
    """The rig with the home agent running."""
    settings = RoamingSettings(impairment=Impairment(delay=0.005), mobile_node=mobile_node)
    async with Roaming(settings) as roaming:
        await roaming.home_agent.start()
        yield roaming


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def neighbour_messages(capture: Path) -> Iterator[tuple[float, IPv6Packet]]:
    """The Neighbor Solicitations and Advertisements of a capture."""
    for frame in read_capture(capture):
        if frame.data[12:14] != b"\x86\xdd":
            continue
        with contextlib.suppress(DecodeError):
            packet = decode_packet(frame.data[ETHERNET_HEADER:])
            if isinstance(packet.payload, NeighborSolicitation | NeighborAdvertisement):
                yield frame.at, packet


async def registered(
    roaming: Roaming, after: float, *, timeout: float = 15.0, other_than: str = ""
) -> DaemonEvent:
    """The next registration, of another address than one."""
    return await roaming.mobile_node.wait_for(
        "binding-accepted",
        after=after,
        timeout=timeout,
        matching=lambda event: event.details["care_of_address"] != other_than,
    )


def addresses_of(roaming: Roaming) -> str:
    """What the mobile node's kernel has."""
    show = ("-6", "addr", "show", "dev", MOBILE_INTERFACE, "scope", "global")
    return roaming.topology["mobile"].show(*show)


def forget_links(roaming: Roaming) -> None:
    """Of a daemon that does not run."""
    records = roaming.directory / "mobile-node.state" / "records"
    for record in records.glob("known-links*"):
        record.unlink()


@requirement("RFC4429-3.3", "MOV-16")
def test_optimistic_address_is_answered_for_by_us_and_then_by_the_kernel(tmp_path: Path) -> None:
    async def scenario() -> tuple[IPv6Address, float, dict[str, Path]]:
        async with bench() as roaming:
            captures = await roaming.start_captures(tmp_path)
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            await roaming.settled(move)
            unique = await roaming.mobile_node.wait_for(
                "address-unique", after=move.link_up_at, timeout=5
            )
            # Whoever asks now is answered as ever.
            router = roaming.topology["router-a"]
            router.ip(f"neigh flush dev {ACCESS}")
            address = unique.details["address"]
            ping = ("ping", "-6", "-n", "-c", "1", "-W", "2", address)
            run_command("ip", "netns", "exec", router.name, *ping)
            await roaming.finish_captures()
            offset = time.time() - boottime()
            return IPv6Address(address), unique.at + offset, captures

    address, unique_at, captures = asyncio.run(scenario())
    messages = list(neighbour_messages(captures[LINK_A]))
    answers = [
        (at, packet.payload)
        for at, packet in messages
        if isinstance(packet.payload, NeighborAdvertisement) and packet.payload.target == address
    ]
    early = [message for at, message in answers if at < unique_at]
    late = [message for at, message in answers if at > unique_at]
    assert {message.solicited for message in early} == {True, False}, "advertised, and answered"
    assert not any(message.override for message in early)
    assert any(message.override and message.solicited for message in late)
    asked = [p for at, p in messages if p.source == address and at < unique_at]
    assert not any(isinstance(packet.payload, NeighborSolicitation) for packet in asked)


@requirement("RFC9131-6.1.2", "MOV-16")
def test_router_has_asked_for_a_new_address_before_the_acknowledgement_comes(
    tmp_path: Path,
) -> None:
    async def scenario() -> tuple[float, dict[str, Path]]:
        async with bench() as roaming:
            captures = await roaming.start_captures(tmp_path)
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            accepted_at = await roaming.settled(move)
            await roaming.finish_captures()
            return accepted_at + time.time() - boottime(), captures

    accepted_at, captures = asyncio.run(scenario())
    resolved = [
        at
        for at, packet in neighbour_messages(captures[LINK_A])
        if isinstance(packet.payload, NeighborSolicitation)
        and packet.payload.target in FOREIGN_PREFIXES[LINK_A]
        and any(isinstance(o, SourceLinkLayerAddress) for o in packet.payload.options)
    ]
    assert resolved
    # The round trip to the home agent is 10 ms: without the question it would be asked then.
    assert resolved[0] < accepted_at - SETTINGS.impairment.delay


@pytest.mark.parametrize("optimistic", [True, False])
@requirement("RFC6275-11.5.3", "MOV-10")
def test_care_of_address_of_another_node_is_given_up_for_the_next(optimistic: bool) -> None:
    async def scenario() -> None:
        async with bench(optimistic=optimistic) as roaming:
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            first = await registered(roaming, move.link_up_at)
            taken = first.details["care_of_address"]
            await roaming.mobile_node.stop()
            forget_links(roaming)
            roaming.topology.add_host("stranger", LINK_A, IPv6Interface(f"{taken}/64"))
            restarted_at = boottime()
            await roaming.mobile_node.start()
            duplicate = await roaming.mobile_node.wait_for(
                "duplicate-address", after=restarted_at, timeout=10
            )
            assert duplicate.details["address"] == taken
            other = await registered(roaming, restarted_at, other_than=taken)
            assert IPv6Address(other.details["care_of_address"]) in FOREIGN_PREFIXES[LINK_A]
            assert taken not in addresses_of(roaming)
            name = "binding-accepted"
            accepted = [
                event.details["care_of_address"]
                for event in roaming.mobile_node.events
                if event.name == name and event.at > restarted_at
            ]
            assert taken not in accepted
            (binding,) = (await roaming.home_agent.status())["home_agent"]["bindings"]
            assert binding["care_of_address"] == other.details["care_of_address"]

    run(scenario)


@requirement("RFC6275-11.5.1", "MOV-07")
def test_links_whose_routers_share_their_link_local_address_are_told_apart() -> None:
    async def scenario() -> None:
        async with bench() as roaming:
            for router in ("router-a", "router-b"):
                host = roaming.topology[router]
                host.ip(
                    f"addr flush dev {ACCESS} scope link",
                    f"addr add {SHARED_LINK_LOCAL}/64 dev {ACCESS} scope link nodad",
                )
                for process in roaming.hosts[router].processes:
                    process.send_signal(signal.SIGHUP)
            await roaming.mobile_node.start()
            found = []
            for link in (LINK_A, LINK_B, LINK_A, LINK_B):
                move = roaming.move(link)
                await roaming.settled(move)
                await asyncio.sleep(0.2)
                found += [
                    event.details["router"]
                    for event in roaming.mobile_node.events
                    if event.name == "router-found" and event.at >= move.link_up_at
                ]
                shown = addresses_of(roaming)
                ours, other = FOREIGN_PREFIXES[link], {LINK_A: LINK_B, LINK_B: LINK_A}[link]
                assert str(ours.network_address).rstrip(":") in shown
                assert str(FOREIGN_PREFIXES[other].network_address).rstrip(":") not in shown
            assert set(found) == {SHARED_LINK_LOCAL}

    run(scenario)


@requirement("RFC4861-6.3.7", "MOV-17")
def test_advertisements_lost_for_half_a_minute_after_a_roam_are_asked_for_again() -> None:
    async def scenario() -> None:
        async with bench() as roaming:
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            await roaming.settled(move)
            router = roaming.topology["router-b"].name
            nft = ("ip", "netns", "exec", router, "nft", "-f", "-")
            lose = "icmpv6 type nd-router-advert drop"
            chain = "{ type filter hook output priority 0; }"
            run_command(
                *nft,
                stdin=f"add table ip6 lossy\nadd chain ip6 lossy out {chain}\n"
                f"add rule ip6 lossy out {lose}\n",
            )
            move = roaming.move(LINK_B)
            await asyncio.sleep(SILENCE)
            assert roaming.mobile_node.find("care-of-address-ready", after=move.link_up_at) is None
            run_command(*nft, stdin="delete table ip6 lossy\n")
            heard_at = boottime()
            accepted_at = await roaming.settled(move, timeout=LATE + 10)
            assert accepted_at - heard_at < LATE

    run(scenario)
