"""Back and forth between two links, again and again: nothing sticks, nothing leaks.

``MNAGENT_PING_PONG`` in the environment says how often (default 30; 200 is the figure promised).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnagent.control.client import Client
from mnagent.rig.host import boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.namespace import run
from mnagent.rig.roaming import Roaming, RoamingSettings
from mnagent.rig.topology import (
    ACCESS,
    FOREIGN_PREFIXES,
    HOME_ADDRESS,
    LINK_A,
    LINK_B,
    MOBILE_INTERFACE,
)
from tests.support.requirement import requirement

HALF = max(2, int(os.environ.get("MNAGENT_PING_PONG", "30")) // 4 * 2)
"""Moves in each half: even, so that every look is at the same link."""
WARM_UP = 10
"""Moves before the first look: caches are full then."""
PERIOD = 1.0
"""Seconds between two moves."""
MEMORY_ALLOWANCE = 640
"""Kilobytes that the daemon may grow in the second half, when its bounded histories (handovers,
events) are full or nearly so."""
HAND_UP_SLOTS = 512
"""Packets in each of the engine's rings for what it hands up: their memory is the system's until
they have been used once, so they are, before the first look."""
SOLICITATIONS = f"""
import socket, struct, time
link = socket.if_nametoindex("{ACCESS}")
ours = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
target = socket.inet_pton(socket.AF_INET6, "fe80::dead")
for _ in range({HAND_UP_SLOTS} + 100):
    ours.sendto(struct.pack("!BBHI", 135, 0, 0, 0) + target, ("ff02::1", 0, 0, link))
    time.sleep(0.002)
"""
DETECTION = 1.5
"""Seconds until duplicate address detection of the last address is over."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the node holds of the kernel, and of memory."""

    addresses: frozenset[str]
    routes: int
    rules: int
    descriptors: int
    associations: int
    memory: int
    """Kilobytes resident."""


async def look(roaming: Roaming) -> Look:
    mobile = roaming.topology["mobile"]
    process = roaming.mobile_node.process
    assert process is not None
    proc = Path("/proc", str(process.pid))
    shown: list[dict[str, Any]] = json.loads(mobile.show("-json", "-6", "addr", "show"))
    addresses = frozenset(
        f"{link['ifname']} {address['local']}"
        for link in shown
        for address in link.get("addr_info", ())
        if address["scope"] == "global"
    )
    memory = next(
        int(line.split()[1])
        for line in (proc / "status").read_text().splitlines()
        if line.startswith("VmRSS:")
    )
    return Look(
        addresses=addresses,
        routes=len(mobile.show("-6", "route", "show", "table", "all").splitlines()),
        rules=len(mobile.show("-6", "rule", "show").splitlines()),
        descriptors=len(list((proc / "fd").iterdir())),
        associations=len(mobile.show("xfrm", "state").splitlines()),
        memory=memory,
    )


async def use_rings(roaming: Roaming) -> None:
    """Have the engine hand up more packets than fit."""
    handed_up = "handed-up"
    before = (await roaming.mobile_node.status())["counters"][handed_up]
    router = roaming.topology["router-a"]
    command = ("ip", "netns", "exec", router.name, sys.executable, "-c", SOLICITATIONS)
    await asyncio.to_thread(run, *command)
    after = (await roaming.mobile_node.status())["counters"][handed_up]
    assert after - before > HAND_UP_SLOTS


async def ping_pong(roaming: Roaming, moves: int) -> None:
    """One move a period, whether or not the last is through."""
    next_at = boottime()
    for _ in range(moves):
        roaming.move(LINK_B if roaming.topology.position == LINK_A else LINK_A)
        next_at += PERIOD
        await asyncio.sleep(max(0.0, next_at - boottime()))
    await roaming.settled(roaming.moves[-1])
    await asyncio.sleep(DETECTION)


async def play() -> tuple[list[Look], dict[str, Any], dict[str, Any]]:
    settings = RoamingSettings(impairment=Impairment(delay=0.015), access=Impairment(delay=0.005))
    async with Roaming(settings) as roaming:
        await roaming.home_agent.start()
        await roaming.mobile_node.start()
        await roaming.settled(roaming.move(LINK_A))
        await ping_pong(roaming, WARM_UP)
        await use_rings(roaming)
        before = await look(roaming)
        await ping_pong(roaming, HALF)
        half_time = await look(roaming)
        await ping_pong(roaming, HALF)
        after = await look(roaming)
        handovers = await Client(roaming.mobile_node.socket).handovers()
        return [before, half_time, after], await roaming.mobile_node.status(), handovers


@requirement("RFC6275-11.5.1", "MOV-01")
def test_ping_pong_between_two_links_leaves_nothing_stuck_and_nothing_behind() -> None:
    (before, half_time, after), status, handovers = asyncio.run(play())
    node = status["mobile_node"]
    assert node["state"] == "registered"
    assert node["bound_care_of_address"] == node["care_of_address"] == node["tunnel"]
    link = LINK_A if (WARM_UP + 2 * HALF) % 2 == 0 else LINK_B
    prefix = FOREIGN_PREFIXES[link]
    own = {text.split()[1] for text in after.addresses if text.startswith(MOBILE_INTERFACE)}
    assert own == {node["care_of_address"]}
    assert node["care_of_address"].startswith(str(prefix.network_address).rstrip(":"))
    assert any(str(HOME_ADDRESS) in text for text in after.addresses)
    for name in ("addresses", "routes", "rules", "descriptors", "associations"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.memory - half_time.memory < MEMORY_ALLOWANCE
    assert handovers["totals"]["count"] == WARM_UP + 2 * HALF
    unfinished = [one for one in handovers["handovers"] if one["acknowledged_at"] is None]
    assert unfinished == []
