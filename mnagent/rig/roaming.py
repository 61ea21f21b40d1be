"""Mobile nodes that roam: the topology with its wires, routers, daemons, traffic and captures.

What the demo tells as a story and what the scenarios of ``tests/rig`` poke at.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv6Address
from pathlib import Path
from types import TracebackType
from typing import Any

from mnagent.rig.advertising import RadvdTiming, start_radvd
from mnagent.rig.daemon import (
    HOME_AGENT_KEYS,
    MOBILE_NODE_KEYS,
    AgentDaemon,
    make_keys,
)
from mnagent.rig.host import PATIENCE, Host, Process, Record, boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.namespace import RigError
from mnagent.rig.topology import (
    ACCESS,
    ACCESS_WIRE,
    CORRESPONDENT,
    FOREIGN_PREFIXES,
    HOME,
    HOME_ADDRESS,
    HOME_ADDRESSES,
    HOME_AGENT,
    HOME_PREFIX,
    HOME_WIRE,
    LINK_A,
    LINK_B,
    MOBILE,
    MOBILE_INTERFACE,
    SECOND_MOBILE,
    Topology,
)

OUTGOING_PORT = 47001
INCOMING_PORT = 47002
DATAGRAM_PORT = 47003
AGENT_NAMES = {MOBILE: "mobile-node", SECOND_MOBILE: "mobile-node-2"}
"""Names of the mobile nodes' daemons."""
REGISTRATION_TIMEOUT = 15.0
"""Seconds a handover may take before the rig gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoamingSettings:
    """What can be varied."""

    impairment: Impairment = field(default_factory=lambda: Impairment(delay=0.02))
    access: Impairment | None = None
    """Between each foreign link and its router; None for a plain cable."""
    advertising: RadvdTiming = field(default_factory=RadvdTiming)
    """Of the routers of the foreign links."""
    home_advertising: RadvdTiming = field(default_factory=RadvdTiming)
    """Of the home agent, on the home link."""
    payload_protection: str = "none"
    """``none`` or ``esp``."""
    virtual_home: bool = False
    home_delay: float = 0.0
    """Seconds, one way, between core and home agent; above 0 there is a wire."""
    mobile_nodes: int = 1
    """How many there are."""
    lifetime: int = 600
    """Seconds of a binding."""
    mobile_node: dict[str, Any] = field(default_factory=dict)
    """Further keys of each mobile node's configuration."""
    home_agent: dict[str, Any] = field(default_factory=dict)
    """Further keys of the home agent's configuration."""
    correspondent: dict[str, Any] = field(default_factory=dict)
    """Further keys of the correspondent's configuration."""
    host: dict[str, Any] = field(default_factory=dict)
    """Further keys about the machine, of every daemon's configuration."""


@dataclass(frozen=True, slots=True)
class Move:
    """The mobile node was re-plugged. Instants are CLOCK_BOOTTIME seconds."""

    origin: str
    destination: str
    link_down_at: float
    """Just after the carrier was taken away: what is sent from here on is lost until it is back."""
    link_up_at: float
    """Just before the carrier was given back: what is measured from here is never too short."""
    role: str = MOBILE
    """Which mobile node."""


class Roaming:
    """An asynchronous context: built on entry (no daemons yet), all of it gone on exit.

    Raises RigError when the bench fails, on entry or in any method.
    """

    def __init__(self, settings: RoamingSettings | None = None) -> None:
        self.settings = settings or RoamingSettings()
        self.mobiles = (MOBILE, SECOND_MOBILE)[: self.settings.mobile_nodes]
        self.topology = Topology(
            virtual_home=self.settings.virtual_home,
            far_home=self.settings.home_delay > 0,
            access_wires=self.settings.access is not None,
            mobiles=self.mobiles,
        )
        self.hosts: dict[str, Host] = {}
        self.wires: dict[str, Process] = {}
        self.agents: dict[str, AgentDaemon] = {}
        self.capture: Process | None = None
        self.moves: list[Move] = []

    async def __aenter__(self) -> Roaming:
        try:
            await self._build()
        except BaseException:
            await self._tear_down()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._tear_down()

    @property
    def directory(self) -> Path:
        """Where configuration, keys, state and logs are while the rig stands."""
        return self.topology.directory

    @property
    def mobile_node(self) -> AgentDaemon:
        """The daemon on the mobile node."""
        return self.agents["mobile-node"]

    @property
    def home_agent(self) -> AgentDaemon:
        """The daemon on the home agent."""
        return self.agents["home-agent"]

    @property
    def correspondent(self) -> AgentDaemon:
        """The daemon on the correspondent, which runs only where a scenario starts it."""
        return self.agents["correspondent"]

    def agent_of(self, role: str) -> AgentDaemon:
        """The daemon on a mobile node."""
        return self.agents[AGENT_NAMES[role]]

    async def _build(self) -> None:
        topology = self.topology
        topology.build()
        roles = ("switch", "home-agent", "router-a", "router-b", "correspondent", *self.mobiles)
        for role in roles:
            self.hosts[role] = Host(topology[role], topology.directory)
        await self._lay_wires()
        for link, router in ((LINK_A, "router-a"), (LINK_B, "router-b")):
            await start_radvd(
                self.hosts[router], ACCESS, FOREIGN_PREFIXES[link], timing=self.settings.advertising
            )
        if not self.settings.virtual_home:
            await start_radvd(
                self.hosts["home-agent"],
                ACCESS,
                HOME_PREFIX,
                home_agent=True,
                timing=self.settings.home_advertising,
            )
        for role in self.mobiles:
            self.keys(role).mkdir(exist_ok=True)
            make_keys(self.keys(role), home_address=HOME_ADDRESSES[role], home_agent=HOME_AGENT)
            name = AGENT_NAMES[role]
            configuration = self.mobile_node_configuration(role)
            self.agents[name] = AgentDaemon(self.hosts[role], name, configuration)
        self.agents["home-agent"] = AgentDaemon(
            self.hosts["home-agent"], "home-agent", self.home_agent_configuration()
        )
        self.agents["correspondent"] = AgentDaemon(
            self.hosts["correspondent"], "correspondent", self.correspondent_configuration()
        )

    async def _lay_wires(self) -> None:
        impairments = dict.fromkeys(self.topology.wires, self.settings.impairment)
        if HOME_WIRE in impairments:
            impairments[HOME_WIRE] = Impairment(delay=self.settings.home_delay)
        if self.settings.access is not None:
            for link in impairments:
                if link.startswith(ACCESS_WIRE):
                    impairments[link] = self.settings.access
        for link, ends in self.topology.wires.items():
            self.wires[link] = await self.hosts["switch"].start_module(
                f"wire-{link}",
                "mnagent.rig.impairment",
                *ends,
                json.dumps(asdict(impairments[link])),
            )
        for link, wire in self.wires.items():
            await wire.wait_for_kind("ready")
            self.topology.join_wire(link)

    def keys(self, role: str = MOBILE) -> Path:
        """The folder with the key files of a mobile node and the home agent."""
        return self.directory if role == MOBILE else self.directory / role

    async def _tear_down(self) -> None:
        # Shielded: a second Ctrl-C must not leave half of it standing.
        await asyncio.shield(self._end_everything())

    async def _end_everything(self) -> None:
        try:
            with contextlib.suppress(Exception):
                await asyncio.gather(*(agent.kill() for agent in self.agents.values()))
            for host in self.hosts.values():
                with contextlib.suppress(Exception):
                    await host.stop()
        finally:
            self.topology.remove()

    def mobile_node_configuration(self, role: str = MOBILE) -> dict[str, Any]:
        """A mobile node's configuration."""
        return {
            "role": "mobile-node",
            "mobile_node": {
                "home_address": str(HOME_ADDRESSES[role]),
                "home_prefix_length": HOME_PREFIX.prefixlen,
                "home_agent": str(HOME_AGENT),
                "interfaces": [MOBILE_INTERFACE],
                "keys": str(self.keys(role) / MOBILE_NODE_KEYS),
                "lifetime": self.settings.lifetime,
                "payload_protection": self.settings.payload_protection,
                "route_optimization": "never",
                **self.settings.mobile_node,
            },
            "host": self.settings.host,
        }

    def home_agent_configuration(self) -> dict[str, Any]:
        """The home agent's configuration."""
        home_link = {} if self.settings.virtual_home else {"home_link": ACCESS}
        return {
            "role": "home-agent",
            "home_agent": {
                "address": str(HOME_AGENT),
                "home_prefix": str(HOME_PREFIX),
                **home_link,
                "interfaces": ["to-core"],
                "payload_protection": self.settings.payload_protection,
                **self.settings.home_agent,
            },
            "home_agent.mobile_nodes": [
                {
                    "home_address": str(HOME_ADDRESSES[role]),
                    "keys": str(self.keys(role) / HOME_AGENT_KEYS),
                }
                for role in self.mobiles
            ],
            "host": self.settings.host,
        }

    def correspondent_configuration(self) -> dict[str, Any]:
        """The correspondent's configuration."""
        return {
            "role": "correspondent",
            "correspondent": {"interfaces": ["eth0"], **self.settings.correspondent},
            "host": self.settings.host,
        }

    async def start_captures(self, directory: Path) -> dict[str, Path]:
        """Capture every link into ``directory``; returns link -> file."""
        files = {
            point.name: directory / f"{point.name}.pcap" for point in self.topology.capture_points
        }
        arguments = [
            f"{point.namespace.name}:{point.interface}:{files[point.name]}"
            for point in self.topology.capture_points
        ]
        self.capture = await self.hosts["switch"].start_module(
            "capture", "mnagent.rig.capture", *arguments
        )
        await self.capture.wait_for_kind("ready")
        return files

    async def finish_captures(self) -> int:
        """End the captures; returns how many frames the kernel could not hand over."""
        if self.capture is None:
            raise RigError("no capture was started")
        self.capture.end_input()
        await self.capture.wait(timeout=10 * PATIENCE)
        return int(self.capture.of_kind("finished")[0]["dropped"])

    async def impair(self, link: str, impairment: Impairment) -> None:
        """Change what the wire towards a foreign link does; returns once it does."""
        wire = self.wires[link]
        seen = len(wire.of_kind("report"))
        wire.tell(asdict(impairment))
        await wire.wait_for(lambda _: len(wire.of_kind("report")) > seen)

    def move(self, destination: str, role: str = MOBILE) -> Move:
        """Re-plug a mobile node."""
        origin = self.topology.positions[role] or "nowhere"
        self.topology.unplug(role)
        down_at = boottime()
        up_at = boottime()
        self.topology.plug(destination, role)
        self.moves.append(Move(origin, destination, down_at, up_at, role))
        return self.moves[-1]

    async def address_configured(self, *, timeout: float = REGISTRATION_TIMEOUT) -> None:
        """Wait until the mobile node's kernel has configured a care-of address of its own."""
        mobile = self.topology["mobile"]
        show = ("-6", "addr", "show", "dev", MOBILE_INTERFACE, "scope", "global", "-tentative")
        async with asyncio.timeout(timeout):
            while not mobile.show(*show).strip():
                await asyncio.sleep(0.05)

    async def settled(self, move: Move, *, timeout: float = REGISTRATION_TIMEOUT) -> float:
        """Wait until the mobile node is registered from where it moved to, or known to be home;
        returns when the home agent's answer came (for home: when the node had returned)."""
        agent = self.agent_of(move.role)
        if move.destination == HOME:
            event = await agent.wait_for("returned-home", after=move.link_up_at, timeout=timeout)
            return event.at
        prefix = FOREIGN_PREFIXES[move.destination]
        event = await agent.wait_for(
            "binding-accepted",
            after=move.link_up_at,
            timeout=timeout,
            matching=lambda event: IPv6Address(event.details["care_of_address"]) in prefix,
        )
        return event.at

    async def optimized(
        self,
        move: Move,
        peer: IPv6Address = CORRESPONDENT,
        *,
        timeout: float = REGISTRATION_TIMEOUT,
    ) -> float:
        """Wait until the mobile node sends to a peer directly from where it moved to; returns when
        it began. Raises RigError."""
        event = await self.agent_of(move.role).wait_for(
            "direct-path",
            after=move.link_up_at,
            timeout=timeout,
            matching=lambda event: event.details["correspondent"] == str(peer),
        )
        return event.at


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """Between whom traffic goes; both ends are roles of namespaces."""

    node: str = MOBILE
    node_address: IPv6Address = HOME_ADDRESS
    peer: str = "correspondent"
    peer_address: IPv6Address = CORRESPONDENT


@dataclass(slots=True)
class Traffic:
    """The kinds of traffic of the demo."""

    ping: Process
    outgoing: tuple[Process, Process]
    """The mobile node's end and the correspondent's of a connection the mobile node opened."""
    incoming: tuple[Process, Process]
    """The mobile node's end (a server) and the correspondent's of one it accepted."""
    datagrams: tuple[Process, Process] | None = None
    """The mobile node's end (a server) and the correspondent's of numbered datagrams."""

    @classmethod
    async def start(
        cls, roaming: Roaming, between: Between | None = None, *, datagrams: bool = False
    ) -> Traffic:
        """Start all; returns once both connections are up, and ping and datagrams answered."""
        between = between or Between()
        mobile, correspondent = roaming.hosts[between.node], roaming.hosts[between.peer]
        node_address, peer_address = str(between.node_address), str(between.peer_address)
        module = "mnagent.rig.traffic"
        ping = await mobile.start_module("ping", module, "ping", peer_address)
        outer = await correspondent.start_module(
            "outgoing-peer", module, "serve", str(OUTGOING_PORT)
        )
        inner = await mobile.start_module("incoming", module, "serve", str(INCOMING_PORT))
        await outer.wait_for_kind("listening")
        await inner.wait_for_kind("listening")
        outgoing = await mobile.start_module(
            "outgoing", module, "connect", peer_address, str(OUTGOING_PORT)
        )
        incoming = await correspondent.start_module(
            "incoming-peer", module, "connect", node_address, str(INCOMING_PORT)
        )
        traffic = cls(ping, (outgoing, outer), (inner, incoming))
        if datagrams:
            server = await mobile.start_module("datagrams", module, "answer", str(DATAGRAM_PORT))
            await server.wait_for_kind("listening")
            client = await correspondent.start_module(
                "datagrams-peer", module, "datagrams", node_address, str(DATAGRAM_PORT)
            )
            traffic = replace(traffic, datagrams=(server, client))
            for process in (server, client):
                await process.wait_for_kind("received", timeout=15)
        for process in (*traffic.outgoing, *traffic.incoming):
            await process.wait_for_kind("connected", timeout=15)
        await ping.wait_for_kind("reply", timeout=15)
        return traffic

    async def resumed(self, since: float, *, timeout: float) -> None:
        """Wait until all of it got something through that was sent after an instant, both ways."""
        for left, right in (self.outgoing, self.incoming):
            for sender, receiver in ((left, right), (right, left)):
                await receiver.wait_for(_is_beyond(octets_sent(sender, since)), timeout=timeout)
        if self.datagrams is not None:
            left, right = self.datagrams
            for sender, receiver in ((left, right), (right, left)):
                await receiver.wait_for(_is_later(datagrams_sent(sender, since)), timeout=timeout)
        await self.ping.wait_for(
            lambda record: record["kind"] == "reply" and record["sent_at"] >= since, timeout=timeout
        )

    async def finish(self) -> None:
        """End all of it in order; what became of it is in the processes' records."""
        datagrams = self.datagrams or ()
        processes = [self.ping, *self.outgoing, *self.incoming, *datagrams]
        for process in (self.ping, self.outgoing[0], self.incoming[1], *datagrams):
            process.end_input()
        for process in processes:
            with contextlib.suppress(TimeoutError):
                await process.wait(timeout=15)

    @staticmethod
    def survived(connection: tuple[Process, Process]) -> bool:
        """True when a connection ended in order and each end received all that the other sent."""
        ends = [process.of_kind("finished") for process in connection]
        if not all(ends):
            return False
        left, right = ends[0][0], ends[1][0]
        return bool(left["sent"] == right["received"] and right["sent"] == left["received"])


def octets_sent(sender: Process, before: float) -> int:
    """How much one end of a connection had written before an instant."""
    written = [record["octets"] for record in sender.of_kind("sent") if record["at"] < before]
    return written[-1] if written else 0


def datagrams_sent(sender: Process, before: float) -> int:
    """The number of the last datagram sent before an instant, 0 for none."""
    sent = [record["sequence"] for record in sender.of_kind("sent") if record["at"] < before]
    return sent[-1] if sent else 0


def _is_beyond(octets: int) -> Callable[[Record], bool]:
    return lambda record: record["kind"] == "received" and record["octets"] > octets


def _is_later(sequence: int) -> Callable[[Record], bool]:
    return lambda record: record["kind"] == "received" and record["sequence"] > sequence
