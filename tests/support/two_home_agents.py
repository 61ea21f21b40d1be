"""A home link with a router and two home agents, neither of which is the router.

::

    home agent 1 ::1 --+
    home agent 2 ::2 --+-- home link 2001:db8:1::/64 -- home router -- core -- router A -- link A
                                                                        |  `-- router B -- link B
                                                                  correspondent
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from random import Random
from types import MappingProxyType

from mnagent.agent.agent import Agent
from mnagent.agent.build import build_agent
from mnagent.agent.snapshot import HomeAgentSnapshot, MobileNodeSnapshot
from mnagent.config.model import Configuration
from mnagent.ipsec.keys import KeySet, generate_pair, load_key_file
from tests.support.nodes import AgentNode, Host, Router
from tests.support.topology import CORRESPONDENT, HOME_ADDRESS, HOME_PREFIX, configuration_of
from tests.support.world import Link, World

HOME_AGENTS = (IPv6Address("2001:db8:1::1"), IPv6Address("2001:db8:1::2"))
_NOTHING: Mapping[str, str] = MappingProxyType({})


def make_key_sets(seed: int) -> tuple[tuple[KeySet, KeySet], ...]:
    """For each home agent the mobile node's keys and its own."""
    random = Random(seed)
    made = []
    for home_agent in HOME_AGENTS:
        texts = generate_pair(HOME_ADDRESS, home_agent, random_bytes=random.randbytes)
        mobile_node, other = (load_key_file(text) for text in texts)
        made.append((mobile_node, other))
    return tuple(made)


def mobile_node_of(home_agents: Sequence[IPv6Address], **options: str) -> Configuration:
    """Options are keys of the table, as they stand in the file."""
    listed = ", ".join(f'"{address}"' for address in home_agents)
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    return configuration_of(f"""
role = "mobile-node"
[mobile_node]
home_address = "{HOME_ADDRESS}"
home_agent = [{listed}]
interfaces = ["eth0"]
keys = ["/etc/mnagent/1.toml", "/etc/mnagent/2.toml"]
{lines}""")


def home_agent_of(address: IPv6Address, **options: str) -> Configuration:
    """Options are keys of the table, as they stand in the file."""
    given = {"advertise": "true", "advertisement_interval": "4.0", **options}
    lines = "".join(f"{name} = {value}\n" for name, value in given.items())
    return configuration_of(f"""
role = "home-agent"
[home_agent]
address = "{address}"
home_prefix = "{HOME_PREFIX}"
home_link = "eth0"
{lines}
[[home_agent.mobile_nodes]]
home_address = "{HOME_ADDRESS}"
keys = "/etc/mnagent/keys.toml"
""")


class TwoHomeAgents:
    """The network, with agents running."""

    def __init__(
        self,
        world: World,
        *,
        home_agents: Sequence[IPv6Address] = HOME_AGENTS,
        mobile_node: Mapping[str, str] = _NOTHING,
        options: Sequence[Mapping[str, str]] = (_NOTHING, _NOTHING),
    ) -> None:
        """``home_agents`` are those the mobile node is configured with; it has keys of both.
        ``options`` are keys of each home agent's table."""
        self.world = world
        self._key_sets = make_key_sets(world.seed)
        self._mobile_configuration = mobile_node_of(home_agents, **mobile_node)
        self._agent_configurations = [
            home_agent_of(address, **given)
            for address, given in zip(HOME_AGENTS, options, strict=True)
        ]
        self.home = world.link("home")
        self.core = world.link("core", delay=0.01)
        self.home_router = self._router("home-router", self.home, "1", own="ff")
        self.link_a, self.link_b = world.link("a"), world.link("b")
        self.router_a = self._router("router-a", self.link_a, "a")
        self.router_b = self._router("router-b", self.link_b, "b")
        self.correspondent = Host(world, "correspondent")
        port = self.correspondent.add_port(self.core, f"{CORRESPONDENT}/64")
        self._add_core_routes(self.correspondent, "c")
        assert port.link is self.core
        self.agents: list[AgentNode] = []
        self.agents += [self._home_agent(which) for which in (0, 1)]
        self.mobile_node = AgentNode(
            world,
            "mobile-node",
            keys=[keys[0] for keys in self._key_sets],
            home_address=HOME_ADDRESS,
        )
        self.port = self.mobile_node.add_port()
        self.mobile_node.start(self.new_mobile_node())

    def new_mobile_node(self) -> Agent:
        """A fresh agent that finds the records of the last one."""
        return build_agent(
            self._mobile_configuration,
            random=Random(self.world.random.random()),
            persisted=dict(self.mobile_node.records),
            associations=[keys[0] for keys in self._key_sets],
        )

    def new_home_agent(self, which: int) -> Agent:
        """A fresh agent that finds the bindings its last one kept."""
        return build_agent(
            self._agent_configurations[which],
            random=Random(self.world.random.random()),
            persisted={},
            kept=dict(self.agents[which].journal) if which < len(self.agents) else {},
            associations=[self._key_sets[which][1]],
        )

    def _router(self, name: str, link: Link, letter: str, *, own: str = "1") -> Router:
        router = Router(self.world, name)
        access = router.add_port(link, f"2001:db8:{letter}::{own}/64")
        router.add_port(self.core, f"2001:db8:c::{letter}/64")
        router.advertise(access, f"2001:db8:{letter}::/64")
        self._add_core_routes(router, letter)
        return router

    def _home_agent(self, which: int) -> AgentNode:
        node = AgentNode(self.world, f"home-agent-{which + 1}", keys=[self._key_sets[which][1]])
        port = node.add_port(self.home, f"{HOME_AGENTS[which]}/64")
        node.add_route("::/0", port, "2001:db8:1::ff")
        node.start(self.new_home_agent(which))
        return node

    def _add_core_routes(self, node: Host, own: str) -> None:
        for letter in {"1", "a", "b"} - {own}:
            node.add_route(f"2001:db8:{letter}::/64", node.ports[-1], f"2001:db8:c::{letter}")

    # What tests ask and do.

    def move(self, link: Link) -> None:
        """Plug the mobile node in elsewhere."""
        self.mobile_node.attach(self.port, link)

    @property
    def status(self) -> MobileNodeSnapshot:
        """The mobile node's."""
        agent = self.mobile_node.agent
        assert agent is not None
        snapshot = agent.snapshot(self.world.now).mobile_node
        assert snapshot is not None
        return snapshot

    def status_of(self, which: int) -> HomeAgentSnapshot:
        """A home agent's."""
        agent = self.agents[which].agent
        assert agent is not None
        snapshot = agent.snapshot(self.world.now).home_agent
        assert snapshot is not None
        return snapshot

    def is_served_by(self, which: int) -> bool:
        """Both ends agree on it."""
        status = self.status
        return (
            status.state == "registered"
            and status.home_agent == str(HOME_AGENTS[which])
            and self.agents[which].agent is not None
            and any(
                each.home_address == str(HOME_ADDRESS) for each in self.status_of(which).bindings
            )
        )

    def register(self, which: int, *, timeout: float = 10.0) -> None:
        """Move to link A and wait until this home agent serves."""
        self.move(self.link_a)
        self.world.run_until(lambda: self.is_served_by(which), timeout=timeout)

    def exchange(self, *, interval: float = 0.1) -> None:
        """Have the correspondent and the mobile node ping each other without end."""
        self.mobile_node.watch_tunnel()
        self._ping(interval, 0)

    def _ping(self, interval: float, sequence: int) -> None:
        self.correspondent.ping(CORRESPONDENT, HOME_ADDRESS, sequence % 65536)
        self.mobile_node.ping(HOME_ADDRESS, CORRESPONDENT, sequence % 65536)
        self.world.after(interval, lambda: self._ping(interval, sequence + 1))

    def replies_since(self, host: Host, start: float) -> list[float]:
        """When echo replies came."""
        return [
            at
            for at, packet in host.delivered
            if at >= start and type(packet.payload).__name__ == "EchoReply"
        ]
