"""The steps: each done to the standing rig, to daemons, links, kernels and clocks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv6Address
from random import Random
from typing import TYPE_CHECKING

from mnagent.rig.daemon import MOBILE_NODE_KEYS, AgentDaemon
from mnagent.rig.host import boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.keyfile import read_associations
from mnagent.rig.namespace import Namespace, RigError, run
from mnagent.rig.roaming import Roaming
from mnagent.rig.soak import clock, plan
from mnagent.rig.soak.attacks import ATTACKS, Scene
from mnagent.rig.soak.plan import Step
from mnagent.rig.topology import (
    CORRESPONDENT,
    FOREIGN_PREFIXES,
    HOME,
    HOME_ADDRESS,
    HOME_AGENT,
    LINK_A,
    LINK_B,
)

if TYPE_CHECKING:
    from mnagent.rig.soak.story import Rig

SETTLE = 30.0
"""Seconds a handover on bad links may take within a step."""
LOSSY = Impairment(delay=0.005, jitter=0.02, loss=0.3, duplicate=0.2)
PACE = 24
"""Packets of an attack sent in one go."""
RECORDED = 400
"""Messages kept for replaying, the latest."""
SMALL, ORDINARY = 1280, 1500
ROUTING_TABLES = ("6275", "6276")


async def is_settled(roaming: Roaming) -> bool:
    """Whether the mobile node is registered from the link that it is on, or home."""
    try:
        node = (await roaming.mobile_node.status())["mobile_node"]
    except OSError:
        return False
    position = roaming.topology.position
    if position == HOME:
        return node["bound_care_of_address"] is None
    bound = node["bound_care_of_address"]
    return (
        node["state"] == "registered"
        and bound is not None
        and IPv6Address(bound) in FOREIGN_PREFIXES[position or ""]
    )


class Fault:
    """One step being done."""

    def __init__(self, rig: Rig, step: Step, random: Random) -> None:
        self._rig = rig
        self._roaming = rig.roaming
        self._step = step
        self._random = random
        self.killed_mobile_at: float | None = None
        self.is_attack = step.kind in ATTACKS
        self._packets = 0

    async def do(self) -> int:
        """Do it; returns how many packets attackers sent."""
        deeds: dict[str, Callable[[], Awaitable[None]]] = {
            plan.HANDOVER: self._handover,
            plan.RAPID_HANDOVERS: self._rapid_handovers,
            plan.MOBILE_NODE_KILLED: lambda: self._kill_in_handover("mobile-node"),
            plan.HOME_AGENT_KILLED: lambda: self._kill_in_handover("home-agent"),
            plan.BOTH_KILLED: lambda: self._kill_in_handover("mobile-node", "home-agent"),
            plan.CACHE_LOST: self._lose_cache,
            plan.CORRESPONDENT_KILLED: lambda: self._kill("correspondent"),
            plan.LOSSY_LINKS: self._lossy_links,
            plan.CLOCK_STEPPED: self._step_clocks,
            plan.FLUSHED: self._flush,
            plan.SMALL_MTU: self._small_mtu,
        }
        await deeds.get(self._step.kind, self._attack)()
        return self._packets

    async def _handover(self) -> None:
        for link in self._step.links:
            self._roaming.move(link)
            async with asyncio.timeout(SETTLE):
                while not await is_settled(self._roaming):
                    await asyncio.sleep(0.03)

    async def _rapid_handovers(self) -> None:
        for link in self._step.links:
            self._roaming.move(link)
            await asyncio.sleep(self._random.random() * 0.15)

    # Daemons

    async def _kill_in_handover(self, *names: str) -> None:
        for link in self._step.links:
            self._roaming.move(link)
        await asyncio.sleep(self._step.delay)
        await self._kill(*names)

    async def _kill(self, *names: str) -> None:
        for name in names:
            if name == "mobile-node":
                self.killed_mobile_at = boottime()
            await self._roaming.agents[name].kill()
        await asyncio.sleep(self._random.random() * 0.5)
        await asyncio.gather(*(self._roaming.agents[name].start() for name in names))

    async def _lose_cache(self) -> None:
        await self._roaming.home_agent.kill()
        self._roaming.home_agent.lose_state()
        await self._roaming.home_agent.start()

    # Links

    async def _lossy_links(self) -> None:
        for link in (LINK_A, LINK_B):
            await self._roaming.impair(link, LOSSY)
        try:
            with contextlib.suppress(TimeoutError):
                await self._handover()
            await asyncio.sleep(1.0)
        finally:
            for link in (LINK_A, LINK_B):
                await self._roaming.impair(link, self._roaming.settings.impairment)

    async def _small_mtu(self) -> None:
        self._set_mtu(SMALL)
        try:
            await self._handover()
            await asyncio.sleep(0.5)
        finally:
            self._set_mtu(ORDINARY)

    def _set_mtu(self, octets: int) -> None:
        topology = self._roaming.topology
        topology["core"].ip(f"link set to-a mtu {octets}", f"link set to-b mtu {octets}")
        for router in ("router-a", "router-b"):
            topology[router].ip(f"link set to-core mtu {octets}")

    # Kernels and clocks

    async def _step_clocks(self) -> None:
        for agent in self._roaming.agents.values():
            if self._random.random() < 0.7:
                self._step_clock(agent)
        await asyncio.sleep(0.3)

    def _step_clock(self, agent: AgentDaemon) -> None:
        assert agent.process is not None
        path = agent.configuration.with_suffix(".clock")
        # `ip netns exec` becomes the program: the same process.
        clock.step(path, agent.process.pid, self._step.seconds)

    async def _flush(self) -> None:
        role = self._random.choice(("mobile", "home-agent", "correspondent"))
        namespace = self._roaming.topology[role]
        for flush in self._random.sample((_flush_rules, _flush_routes, _flush_tables), k=2):
            flush(namespace)
        await asyncio.sleep(0.2)

    # Attackers

    async def _attack(self) -> None:
        scene = await self._scene()
        packets = ATTACKS[self._step.kind](self._random, scene)
        position = self._roaming.topology.position
        role = "router-b" if position == LINK_B else "router-a"
        for start in range(0, len(packets), PACE):
            self._packets += send(self._roaming.topology[role], packets[start : start + PACE])
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.3)

    async def _scene(self) -> Scene:
        status = await self._roaming.mobile_node.status()
        bound = status["mobile_node"]["bound_care_of_address"]
        associations = read_associations(self._roaming.directory / MOBILE_NODE_KEYS)
        del self._rig.recorded[:-RECORDED]
        return Scene(
            home_address=HOME_ADDRESS,
            home_agent=HOME_AGENT,
            correspondent=CORRESPONDENT,
            care_of_address=HOME_ADDRESS if bound is None else IPv6Address(bound),
            spis=[item.spi for item in associations],
            recorded=list(self._rig.recorded),
        )


def send(namespace: Namespace, packets: Sequence[bytes]) -> int:
    """Send packets, headers and all; returns how many the kernel took."""
    taken = 0
    with (
        namespace.inside(),
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender,
    ):
        index = socket.if_nametoindex("access")
        for packet in packets:
            destination = IPv6Address(packet[24:40])
            scope = index if destination.is_multicast else 0
            with contextlib.suppress(OSError):
                sender.sendto(packet, (str(destination), 0, 0, scope))
                taken += 1
    return taken


def _flush_rules(namespace: Namespace) -> None:
    namespace.show("-6", "rule", "flush")
    namespace.show("-6", "rule", "add", "priority", "32766", "lookup", "main")


def _flush_routes(namespace: Namespace) -> None:
    for table in ROUTING_TABLES:
        # There is nothing to flush in a table that nobody made.
        with contextlib.suppress(RigError):
            namespace.show("-6", "route", "flush", "table", table)


def _flush_tables(namespace: Namespace) -> None:
    # An owned table is left alone by the kernel, which then says so.
    with contextlib.suppress(RigError):
        run("ip", "netns", "exec", namespace.name, "nft", "flush", "ruleset")
