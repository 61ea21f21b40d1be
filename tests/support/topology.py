"""The network most scenarios happen in.

::

    home link 2001:db8:1::/64 --- home agent --- core 2001:db8:c::/64 --- router A --- link A
                                                   |         |
                                            correspondent    +---------- router B --- link B
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import MappingProxyType

from mnagent.agent.agent import Agent
from mnagent.agent.build import build_agent
from mnagent.config import load
from mnagent.config.model import Configuration
from mnagent.ipsec.keys import KeySet, generate_pair, load_key_file
from tests.support.correspondent_host import CorrespondentHost
from tests.support.nodes import AgentNode, Host, Router
from tests.support.world import Link, World

HOME_ADDRESS = IPv6Address("2001:db8:1::10")
HOME_AGENT = IPv6Address("2001:db8:1::1")
HOME_PREFIX = IPv6Network("2001:db8:1::/64")
PREFIX_A = IPv6Network("2001:db8:a::/64")
PREFIX_B = IPv6Network("2001:db8:b::/64")
CORRESPONDENT = IPv6Address("2001:db8:c::99")

_NOTHING: Mapping[str, str | int | float | bool] = MappingProxyType({})


SERVED_EXTRA = ""
"""Further lines of the mobile node's table at the home agent, for tests to set."""


def make_keys(seed: int, *, home_address: IPv6Address = HOME_ADDRESS) -> tuple[KeySet, KeySet]:
    """Matching keys of a mobile node and of its home agent."""
    random = Random(seed)
    texts = generate_pair(home_address, HOME_AGENT, random_bytes=random.randbytes)
    mobile_node, home_agent = (load_key_file(text) for text in texts)
    return mobile_node, home_agent


def configuration_of(text: str) -> Configuration:
    """What the loader makes of a file with this text."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mnagent.toml"
        path.write_text(text)
        return load(path)


def _lines(options: Mapping[str, str | int | float | bool | None]) -> str:
    # JSON's strings, numbers and booleans are TOML's too.
    return "".join(
        f"{name} = {json.dumps(value)}\n" for name, value in options.items() if value is not None
    )


def mobile_node_configuration(**options: str | int | float | bool) -> Configuration:
    """As a file would say it; options are keys of its table."""
    text = f"""
role = "mobile-node"
[mobile_node]
home_address = "{HOME_ADDRESS}"
home_agent = "{HOME_AGENT}"
interfaces = ["eth0", "eth1"]
keys = "/etc/mnagent/keys.toml"
"""
    return configuration_of(text + _lines(options))


def home_agent_configuration(**options: str | int | float | bool | None) -> Configuration:
    """As a file would say it; options are keys of its table. None leaves a key out."""
    text = f"""
role = "home-agent"
[home_agent]
address = "{HOME_AGENT}"
home_prefix = "{HOME_PREFIX}"
{_lines({"home_link": "eth0", **options})}
[[home_agent.mobile_nodes]]
home_address = "{HOME_ADDRESS}"
keys = "/etc/mnagent/keys.toml"{SERVED_EXTRA}
"""
    return configuration_of(text)


class Topology:
    """The nodes and links, with agents running on the mobile node and the home agent."""

    def __init__(
        self,
        world: World,
        *,
        mobile_node: Mapping[str, str | int | float | bool] = _NOTHING,
        home_agent: Mapping[str, str | int | float | bool] = _NOTHING,
        access_loss: float = 0.0,
        access_reorder: float = 0.0,
        access_duplicate: float = 0.0,
        core_delay: float = 0.01,
        with_router_addresses: bool = False,
        with_correspondent: bool = False,
    ) -> None:
        """``mobile_node`` and ``home_agent`` are keys of their tables of the configuration.

        ``with_correspondent`` gives the correspondent the role of that name.
        """
        self.world = world
        self._configurations = (
            mobile_node_configuration(**mobile_node),
            home_agent_configuration(**home_agent),
        )
        self._keys = make_keys(world.seed)
        trouble = {
            "loss": access_loss,
            "reorder": access_reorder,
            "duplicate": access_duplicate,
        }
        self.home = world.link("home", **trouble)
        self.link_a = world.link("a", **trouble)
        self.link_b = world.link("b", **trouble)
        self.core = world.link("core", delay=core_delay)
        self.router_a = self._router("router-a", self.link_a, "a")
        self.router_b = self._router("router-b", self.link_b, "b")
        self.home_agent = self._home_agent(with_router_addresses)
        self.correspondent: Host = Host(world, "correspondent")
        if with_correspondent:
            self.correspondent = CorrespondentHost(
                world, "correspondent", addresses=(CORRESPONDENT,)
            )
        port = self.correspondent.add_port(self.core, f"{CORRESPONDENT}/64")
        self._add_core_routes(self.correspondent, port)
        self.mobile_node = AgentNode(
            world, "mobile-node", keys=self._keys[:1], home_address=HOME_ADDRESS
        )
        self.port = self.mobile_node.add_port()
        self.home_agent.start(self.new_home_agent())
        self.mobile_node.start(self.new_mobile_node())

    def new_mobile_node(self) -> Agent:
        """A fresh agent that finds the records of the last one."""
        return build_agent(
            self._configurations[0],
            random=Random(self.world.random.random()),
            persisted=dict(self.mobile_node.records),
            associations=self._keys[:1],
            kept=dict(self.mobile_node.journal),
        )

    def new_home_agent(self) -> Agent:
        """A fresh agent without bindings."""
        return build_agent(
            self._configurations[1],
            random=Random(self.world.random.random()),
            persisted={},
            associations=self._keys[1:],
        )

    def _router(self, name: str, link: Link, letter: str) -> Router:
        router = Router(self.world, name)
        access = router.add_port(link, f"2001:db8:{letter}::1/64")
        core = router.add_port(self.core, f"2001:db8:c::{letter}/64")
        router.advertise(access, f"2001:db8:{letter}::/64")
        self._add_core_routes(router, core)
        return router

    def _home_agent(self, with_router_addresses: bool) -> AgentNode:
        node = AgentNode(self.world, "home-agent", keys=self._keys[1:])
        home = node.add_port(self.home, f"{HOME_AGENT}/64")
        core = node.add_port(self.core, "2001:db8:c::1/64")
        node.with_router_addresses = with_router_addresses
        node.advertise(home, str(HOME_PREFIX))
        self._add_core_routes(node, core)
        return node

    def _add_core_routes(self, node: Host, port: object) -> None:
        core = next(p for p in node.ports if p is port)
        for prefix, via in (("1", "1"), ("a", "a"), ("b", "b")):
            network = f"2001:db8:{prefix}::/64"
            if not any(
                str(IPv6Network((address, length), strict=False)) == network
                for addresses in node.addresses.values()
                for address, length in addresses.items()
            ):
                node.add_route(network, core, f"2001:db8:c::{via}")

    # What tests ask and do.

    def move(self, link: Link, *, carrier_lost: bool = True) -> None:
        """Plug the mobile node in elsewhere."""
        self.mobile_node.attach(self.port, link, carrier_lost=carrier_lost)

    @property
    def state(self) -> str:
        """The mobile node's state, as its status shows it."""
        agent = self.mobile_node.agent
        assert agent is not None
        snapshot = agent.snapshot(self.world.now).mobile_node
        assert snapshot is not None
        return snapshot.state

    @property
    def is_unanswered(self) -> bool:
        """Whether the mobile node says that its home agent does not answer."""
        agent = self.mobile_node.agent
        assert agent is not None
        snapshot = agent.snapshot(self.world.now).mobile_node
        assert snapshot is not None
        return snapshot.unanswered

    @property
    def bound_to(self) -> IPv6Address | None:
        """The care-of address in the home agent's cache, or None."""
        agent = self.home_agent.agent
        assert agent is not None
        snapshot = agent.snapshot(self.world.now).home_agent
        assert snapshot is not None
        addresses = [IPv6Address(binding.care_of_address) for binding in snapshot.bindings]
        return addresses[0] if addresses else None

    def is_registered_in(self, prefix: IPv6Network) -> bool:
        """Both ends agree that the mobile node is there."""
        bound = self.bound_to
        return self.state == "registered" and bound is not None and bound in prefix

    def register_in(self, link: Link, prefix: IPv6Network, *, timeout: float = 10.0) -> None:
        """Move and wait until both ends agree."""
        self.move(link)
        self.world.run_until(lambda: self.is_registered_in(prefix), timeout=timeout)

    def return_home(self, *, timeout: float = 10.0) -> None:
        """Move home and wait until the home address is in use there."""
        self.move(self.home)
        self.world.run_until(lambda: self.state == "at-home", timeout=timeout)
