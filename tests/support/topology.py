"""The network most scenarios happen in.

::

    home link 2001:db8:1::/64 --- home agent --- core 2001:db8:c::/64 --- router A --- link A
                                                   |         |
                                            correspondent    +---------- router B --- link B
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from random import Random

from mnagent.agent.agent import Agent
from mnagent.agent.build import build_agent
from mnagent.config.model import (
    Autoconfiguration,
    Configuration,
    HomeAgentConfiguration,
    HostConfiguration,
    LogLevel,
    MobileNodeConfiguration,
    NewConnections,
    PayloadProtection,
    Role,
    ServedMobileNode,
)
from mnagent.ipsec.keys import KeySet, generate_pair, load_key_file
from tests.support.nodes import AgentNode, Host, Router
from tests.support.world import Link, World

HOME_ADDRESS = IPv6Address("2001:db8:1::10")
HOME_AGENT = IPv6Address("2001:db8:1::1")
HOME_PREFIX = IPv6Network("2001:db8:1::/64")
PREFIX_A = IPv6Network("2001:db8:a::/64")
PREFIX_B = IPv6Network("2001:db8:b::/64")
CORRESPONDENT = IPv6Address("2001:db8:c::99")

_HOST = HostConfiguration(
    tunnel_interface="mnagent0",
    route_table=6275,
    rule_priority=6275,
    state_directory=Path("/var/lib/mnagent"),
    control_socket=Path("/run/mnagent/control.sock"),
    log_level=LogLevel.INFO,
)


def make_keys(seed: int, *, home_address: IPv6Address = HOME_ADDRESS) -> tuple[KeySet, KeySet]:
    """Matching keys of a mobile node and of its home agent."""
    random = Random(seed)
    texts = generate_pair(home_address, HOME_AGENT, random_bytes=random.randbytes)
    mobile_node, home_agent = (load_key_file(text) for text in texts)
    return mobile_node, home_agent


def mobile_node_configuration(
    *,
    home_address: IPv6Address = HOME_ADDRESS,
    lifetime: int = 600,
    autoconfiguration: Autoconfiguration = Autoconfiguration.AGENT,
    payload_protection: PayloadProtection = PayloadProtection.NONE,
    optimistic: bool = True,
    interfaces: tuple[str, ...] = ("eth0", "eth1"),
) -> Configuration:
    """As a file would say it."""
    return Configuration(
        path=Path("mobile-node.toml"),
        role=Role.MOBILE_NODE,
        mobile_node=MobileNodeConfiguration(
            home_address=home_address,
            home_prefix_length=64,
            home_agent=HOME_AGENT,
            interfaces=interfaces,
            keys=Path("keys.toml"),
            lifetime=lifetime,
            initial_bindack_timeout_first_registration=1.5,
            autoconfiguration=autoconfiguration,
            new_connections=NewConnections.HOME_ADDRESS,
            payload_protection=payload_protection,
            optimistic=optimistic,
        ),
        home_agent=None,
        host=_HOST,
    )


def home_agent_configuration(
    *,
    home_addresses: tuple[IPv6Address, ...] = (HOME_ADDRESS,),
    payload_protection: PayloadProtection = PayloadProtection.NONE,
    home_link: str | None = "eth0",
    max_lifetime: int = 3600,
) -> Configuration:
    """As a file would say it."""
    return Configuration(
        path=Path("home-agent.toml"),
        role=Role.HOME_AGENT,
        mobile_node=None,
        home_agent=HomeAgentConfiguration(
            address=HOME_AGENT,
            home_prefix=HOME_PREFIX,
            home_link=home_link,
            interfaces=(),
            max_lifetime=max_lifetime,
            payload_protection=payload_protection,
            mobile_nodes=tuple(
                ServedMobileNode(home_address=address, keys=Path("keys.toml"))
                for address in home_addresses
            ),
        ),
        host=_HOST,
    )


class Topology:
    """The nodes and links, with agents running on the mobile node and the home agent."""

    def __init__(
        self,
        world: World,
        *,
        lifetime: int = 600,
        payload_protection: PayloadProtection = PayloadProtection.NONE,
        optimistic: bool = True,
        access_loss: float = 0.0,
        access_reorder: float = 0.0,
        access_duplicate: float = 0.0,
        core_delay: float = 0.01,
        with_router_addresses: bool = False,
    ) -> None:
        self.world = world
        self._configurations = (
            mobile_node_configuration(
                lifetime=lifetime, payload_protection=payload_protection, optimistic=optimistic
            ),
            home_agent_configuration(payload_protection=payload_protection),
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
        self.correspondent = Host(world, "correspondent")
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
