"""A mobile node whose care-of addresses come from DHCPv6 (RFC 6275 11.5.3, RFC 8415)."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.wire.dhcp6 import Dhcp6MessageType
from tests.support.dhcp_server import ScriptedServer
from tests.support.nodes import DhcpServerNode
from tests.support.requirement import requirement
from tests.support.topology import PREFIX_A, PREFIX_B, Topology
from tests.support.world import World

LEASED_A = IPv6Address("2001:db8:a::1000")
LEASED_B = IPv6Address("2001:db8:b::1000")
M = Dhcp6MessageType


class Managed:
    """The usual network; the foreign links leave addresses to a server each."""

    def __init__(self, world: World, **options: str | bool) -> None:
        self.world = world
        self.topology = Topology(world, mobile_node=options)
        self.topology.router_a.managed = self.topology.router_b.managed = True
        self.server_a = ScriptedServer(addresses=(LEASED_A,))
        self.server_b = ScriptedServer(addresses=(LEASED_B,))
        self.node_a = DhcpServerNode(world, "server-a", self.topology.link_a, self.server_a)
        self.node_b = DhcpServerNode(world, "server-b", self.topology.link_b, self.server_b)


@pytest.fixture
def managed() -> Managed:
    return Managed(World(seed=7))


@requirement("RFC6275-11.5.3", "MOV-09")
@requirement("RFC6275-11.5.4", "MOV-13")
def test_mobile_node_roams_with_leased_addresses(managed: Managed) -> None:
    topology = managed.topology
    topology.register_in(topology.link_a, PREFIX_A)
    assert topology.bound_to == LEASED_A
    assert managed.server_a.types() == [M.SOLICIT]
    topology.register_in(topology.link_b, PREFIX_B)
    assert topology.bound_to == LEASED_B
    assert LEASED_A not in topology.mobile_node.addresses[topology.port.index]
    topology.return_home()


def test_mobile_node_back_on_the_link_of_its_lease_keeps_it(managed: Managed) -> None:
    topology = managed.topology
    topology.register_in(topology.link_a, PREFIX_A)
    topology.move(topology.link_a)
    topology.world.run_for(5)
    assert topology.bound_to == LEASED_A
    assert M.CONFIRM in managed.server_a.types()
    assert managed.server_a.types().count(M.SOLICIT) == 1


def test_lease_outlives_its_lifetime_by_renewals(managed: Managed) -> None:
    topology = managed.topology
    topology.register_in(topology.link_a, PREFIX_A)
    topology.world.run_for(1000)
    assert topology.is_registered_in(PREFIX_A)
    assert set(managed.server_a.types()) == {M.SOLICIT, M.RENEW}


@requirement("RFC6275-11.5.3", "MOV-10")
@pytest.mark.parametrize("optimistic", [True, False])
def test_duplicate_of_a_leased_address_is_declined_and_not_kept(optimistic: bool) -> None:
    managed = Managed(World(seed=3), optimistic=optimistic)
    topology = managed.topology
    stranger = managed.node_b.ports[0]
    managed.node_b.addresses[stranger.index][LEASED_A] = 128
    topology.link_a.attach(stranger)
    other = IPv6Address("2001:db8:a::2000")
    topology.move(topology.link_a)
    managed.world.run_until(lambda: M.DECLINE in managed.server_a.types(), timeout=10)
    managed.server_a.addresses = (other,)
    managed.world.run_until(lambda: topology.bound_to == other, timeout=10)
    assert LEASED_A not in topology.mobile_node.addresses[topology.port.index]


def test_shutdown_releases_the_lease(managed: Managed) -> None:
    topology = managed.topology
    topology.register_in(topology.link_a, PREFIX_A)
    topology.mobile_node.stop()
    topology.world.run_for(5)
    assert managed.server_a.types()[-1] == M.RELEASE


def test_restart_after_a_crash_shows_the_same_identifier(managed: Managed) -> None:
    topology = managed.topology
    topology.register_in(topology.link_a, PREFIX_A)
    topology.mobile_node.kill()
    topology.mobile_node.start(topology.new_mobile_node())
    topology.world.run_for(5)
    first, last = managed.server_a.received[0], managed.server_a.received[-1]
    assert last.message_type == M.SOLICIT
    assert (first.options[0], first.transaction) != (last.options[0], last.transaction)
    assert first.options[0] == last.options[0]


def test_dhcp6_switched_off_gets_no_address() -> None:
    managed = Managed(World(seed=5), dhcp6="off")
    managed.topology.move(managed.topology.link_a)
    managed.world.run_for(20)
    assert managed.server_a.received == []
    assert managed.topology.bound_to is None


def test_server_that_comes_late_is_found(managed: Managed) -> None:
    topology = managed.topology
    managed.server_a.is_silent = True
    topology.move(topology.link_a)
    topology.world.run_for(30)
    assert topology.bound_to is None
    managed.server_a.is_silent = False
    topology.world.run_until(lambda: topology.is_registered_in(PREFIX_A), timeout=60)
