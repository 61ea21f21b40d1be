"""The home network gets another prefix while the mobile node roams (RFC 6275 10.6, 11.4.2-3)."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any

from mnagent.agent.build import build_agent
from mnagent.ipsec.association import SecurityAssociationDatabase
from mnagent.ipsec.esp_reference import ReferenceEsp
from mnagent.wire.packet import encode_packet
from tests.support.nodes import ALL_NODES, Router, multicast_mac
from tests.support.packets import datagram, router_advertisement
from tests.support.requirement import requirement
from tests.support.topology import (
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    HOME_PREFIX,
    PREFIX_A,
    PREFIX_B,
    Topology,
    configuration_of,
    make_keys,
    mobile_node_configuration,
)
from tests.support.world import World

NEW_PREFIX = IPv6Network("2001:db8:2::/64")
NEW_HOME_ADDRESS = IPv6Address("2001:db8:2::10")
SECOND_HOME_ADDRESS = IPv6Address("2001:db8:1::11")
INTERVALS = {
    "min_prefix_advertisement_interval": 5.0,
    "max_prefix_advertisement_interval": 20.0,
}
LONG = 40_000.0
"""Seconds."""


class Renumbering:
    """The usual network, with a router on the home link that says what its prefixes are."""

    def __init__(self, world: World, **home_agent: Any) -> None:
        self.world = world
        self.net = Topology(world, home_agent={**INTERVALS, **home_agent})
        self.router = Router(world, "home-router")
        self.port = self.router.add_port(self.net.home, "2001:db8:1::fe/64")
        for node in (self.net.correspondent, self.net.router_a, self.net.router_b):
            core = next(port for port in node.ports if port.link is self.net.core)
            node.add_route(str(NEW_PREFIX), core, "2001:db8:c::1")
        self.numbers: dict[IPv6Address, int] = {}

    def advertise(
        self, prefix: IPv6Network, *, valid: float = LONG, preferred: float = LONG
    ) -> None:
        """Say once how long a prefix of the home link lasts."""
        packet = router_advertisement(
            self.router.link_local(self.port),
            str(prefix),
            mac=self.port.mac,
            valid=valid,
            preferred=preferred,
        )
        self.port.send(multicast_mac(ALL_NODES), encode_packet(packet))

    def home_addresses(self) -> dict[str, dict[str, Any]]:
        """What the mobile node's status says of each."""
        agent = self.net.mobile_node.agent
        assert agent is not None
        snapshot = agent.snapshot(self.world.now).to_json()["mobile_node"]
        return {each["home_address"]: each for each in snapshot["home_addresses"]}

    def is_registered(self, home_address: IPv6Address) -> bool:
        """Both ends say so."""
        agent = self.net.home_agent.agent
        assert agent is not None
        bindings = agent.snapshot(self.world.now).to_json()["home_agent"]["bindings"]
        own = self.home_addresses().get(str(home_address))
        return (
            own is not None
            and own["state"] == "registered"
            and any(each["home_address"] == str(home_address) for each in bindings)
        )

    def wait_registered(self, home_address: IPv6Address, *, timeout: float = 120.0) -> None:
        """Until both ends say so."""
        self.world.run_until(lambda: self.is_registered(home_address), timeout=timeout)

    def exchange(self, home_address: IPv6Address, *, count: int = 5) -> int:
        """Datagrams both ways, one a tenth of a second; returns how many arrived."""
        node, peer = self.net.mobile_node, self.net.correspondent
        before = len(node.received_data()) + len(peer.received_data())
        for number in range(count):
            node.send(datagram(home_address, CORRESPONDENT, b"up %d" % number))
            peer.send(datagram(CORRESPONDENT, home_address, b"down %d" % number))
            self.world.run_for(0.1)
        self.world.run_for(1.0)
        return len(node.received_data()) + len(peer.received_data()) - before


@requirement("RFC6275-11.4.3", "MPD-05")
def test_new_prefix_is_learnt_and_a_home_address_in_it_registered() -> None:
    with World(seed=61) as world:
        there = Renumbering(world)
        there.net.register_in(there.net.link_a, PREFIX_A)
        there.advertise(NEW_PREFIX)
        there.wait_registered(NEW_HOME_ADDRESS)
        assert there.exchange(HOME_ADDRESS) == 10
        assert there.exchange(NEW_HOME_ADDRESS) == 10


@requirement("RFC6275-11.4.3", "MPD-05")
def test_renumbered_home_network_loses_no_packet_of_either_home_address() -> None:
    with World(seed=62) as world:
        there = Renumbering(world)
        there.advertise(HOME_PREFIX)
        there.net.register_in(there.net.link_a, PREFIX_A)
        there.advertise(NEW_PREFIX)
        there.wait_registered(NEW_HOME_ADDRESS)
        there.advertise(HOME_PREFIX, valid=8000.0, preferred=0.0)
        world.run_until(
            lambda: not there.home_addresses()[str(HOME_ADDRESS)]["preferred"], timeout=120
        )
        assert there.net.mobile_node.home_addresses == {HOME_ADDRESS: False, NEW_HOME_ADDRESS: True}
        there.net.register_in(there.net.link_b, PREFIX_B)
        there.wait_registered(HOME_ADDRESS)
        there.wait_registered(NEW_HOME_ADDRESS)
        assert there.exchange(HOME_ADDRESS) == 10
        assert there.exchange(NEW_HOME_ADDRESS) == 10
        for _ in range(9):
            world.run_for(1000)
            there.advertise(NEW_PREFIX)
        assert list(there.home_addresses()) == [str(NEW_HOME_ADDRESS)]
        assert there.net.mobile_node.home_addresses == {NEW_HOME_ADDRESS: True}
        assert there.exchange(NEW_HOME_ADDRESS) == 10
        assert there.net.bound_to in PREFIX_B
        assert not there.is_registered(HOME_ADDRESS)


def two_home_addresses(world: World) -> Topology:
    """The usual network, with a node that has two configured home addresses with keys each."""
    net = Topology(world, with_correspondent=True)
    pairs = [
        make_keys(world.seed + number, home_address=HOME_ADDRESS + number) for number in (0, 1)
    ]
    nodes = "".join(
        f'[[home_agent.mobile_nodes]]\nhome_address = "{pair[1].home_address}"\nkeys = "/k"\n'
        for pair in pairs
    )
    home_agent = configuration_of(
        f'role = "home-agent"\n[home_agent]\naddress = "{HOME_AGENT}"\n'
        f'home_prefix = "{HOME_PREFIX}"\nhome_link = "eth0"\n{nodes}'
    )
    configuration = mobile_node_configuration(
        more_home_addresses=[str(SECOND_HOME_ADDRESS)],  # type: ignore[arg-type]
    )
    for node, end, which in (
        (net.mobile_node, configuration, 0),
        (net.home_agent, home_agent, 1),
    ):
        keys = [pair[which] for pair in pairs]
        node.esp = ReferenceEsp(
            SecurityAssociationDatabase(a for each in keys for a in each.associations)
        )
        agent = build_agent(end, random=Random(world.seed), persisted={}, associations=keys)
        node.start(agent)
    net.mobile_node.home_addresses[SECOND_HOME_ADDRESS] = True
    return net


def test_two_configured_home_addresses_roam_and_take_direct_paths_each() -> None:
    with World(seed=63) as world:
        net = two_home_addresses(world)
        agent = net.mobile_node.agent
        assert agent is not None

        def states() -> set[str]:
            status = agent.snapshot(world.now).to_json()["mobile_node"]
            return {each["state"] for each in status["home_addresses"]}

        def direct() -> set[str]:
            status = agent.snapshot(world.now).to_json()["mobile_node"]
            paths = [each for each in status["correspondents"] if each["path"] == "direct"]
            return {each["home_address"] for each in paths}

        both = {str(HOME_ADDRESS), str(SECOND_HOME_ADDRESS)}
        for link in (net.link_a, net.link_b):
            net.move(link)
            world.run_until(lambda: states() == {"registered"}, timeout=10)
            for _ in range(20):
                for home_address in (HOME_ADDRESS, SECOND_HOME_ADDRESS):
                    net.mobile_node.send(datagram(home_address, CORRESPONDENT, b"up"))
                world.run_for(0.1)
            assert direct() == both
        net.move(net.home)
        world.run_until(lambda: states() == {"at-home"}, timeout=10)
        before = len(net.correspondent.received_data())
        for home_address in (HOME_ADDRESS, SECOND_HOME_ADDRESS):
            net.mobile_node.send(datagram(home_address, CORRESPONDENT, b"from home"))
        world.run_for(2)
        assert len(net.correspondent.received_data()) == before + 2
