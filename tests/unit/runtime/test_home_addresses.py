"""Tables, rules and addresses of several home addresses."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import SetHomeAddress, UseHomeLink
from mnagent.runtime.host import HostState
from mnagent.runtime.policy_routing import MobileNodeRouting, PeerRouting
from mnagent.system.clock import ManualClock
from mnagent.system.kernel import MAIN_TABLE, FakeKernel, LinkInformation, Route

HOME = IPv6Address("2001:db8:1::10")
NEW = IPv6Address("2001:db8:2::10")
PEER = IPv6Address("2001:db8:c::99")
ROUTER = IPv6Address("fe80::1")
TUNNEL, LINK = 9, 3


class Bench:
    """The routing of a mobile node over a kernel of dictionaries."""

    def __init__(self, *more: IPv6Address) -> None:
        self.kernel = FakeKernel()
        self.kernel.links[LINK] = LinkInformation(
            interface=LINK, name="eth0", link_layer_address=b"", mtu=1500, needs_resolution=False
        )
        host = HostState(self.kernel, ManualClock())
        self.peers = PeerRouting(
            host,
            tunnel_interface=TUNNEL,
            table=6276,
            priority=6274,
            home_address=HOME,
            new_connections=True,
        )
        self.routing = MobileNodeRouting(
            host,
            home_address=HOME,
            tunnel_interface=TUNNEL,
            table=6275,
            priority=6275,
            new_connections=True,
            more_home_addresses=more,
            more_tables=(6277,),
            peers=self.peers,
        )
        self.routing.start()

    @property
    def sources(self) -> dict[IPv6Address | None, int]:
        """Table by the source that a rule is about."""
        return {rule.source: rule.table for rule in self.kernel.rules if rule.priority == 6275}

    def routes(self, table: int) -> list[Route]:
        return [route for route in self.kernel.routes.values() if route.table == table]


def at_home(home_address: IPv6Address) -> UseHomeLink:
    return UseHomeLink(home_address=home_address, prefix_length=64, interface=LINK, router=ROUTER)


def formed(*, preferred: bool = True, home_address: IPv6Address = NEW) -> SetHomeAddress:
    return SetHomeAddress(home_address=home_address, like=HOME, preferred=preferred)


def test_each_home_address_has_a_table_of_its_own() -> None:
    assert Bench(NEW).sources == {HOME: 6275, NEW: 6277}


def test_home_address_that_is_formed_later_gets_what_the_first_has() -> None:
    bench = Bench()
    bench.routing.set_home_address(formed())
    assert bench.sources == {HOME: 6275, NEW: 6277}
    assert bench.kernel.addresses == {(TUNNEL, HOME): 128, (TUNNEL, NEW): 128}
    bench.routing.tunnel_mtu_changed(NEW, 1400)
    bench.routing.direct_path_mtu_changed(NEW, PEER, 1380)
    assert {route.mtu for route in bench.routes(6277)} == {1400, 1380}
    assert {route.mtu for route in bench.routes(6275)} == {None}


def test_home_address_that_ends_leaves_nothing_and_frees_its_table() -> None:
    bench = Bench()
    for _ in range(2):
        bench.routing.set_home_address(formed())
        bench.routing.direct_path_mtu_changed(NEW, PEER, 1380)
        bench.routing.use_home_link(at_home(NEW))
        bench.routing.remove_home_address(NEW)
        bench.routing.remove_home_address(NEW)
        assert bench.sources == {HOME: 6275}
        assert bench.routes(6277) == []
        assert bench.kernel.addresses == {(TUNNEL, HOME): 128}
    bench.routing.tunnel_mtu_changed(NEW, 1400)
    bench.routing.direct_path_mtu_changed(NEW, PEER, 1380)
    bench.routing.leave_home_link(NEW)
    assert bench.routes(6277) == []


def test_home_address_beyond_the_tables_is_refused() -> None:
    bench = Bench(NEW)
    with pytest.raises(OSError, match="no route table"):
        bench.routing.set_home_address(formed(home_address=IPv6Address("2001:db8:3::10")))


def test_deprecated_home_address_is_so_for_the_kernel_also_when_it_is_put_back() -> None:
    bench = Bench()
    bench.routing.set_home_address(formed())
    bench.routing.use_home_link(at_home(HOME))
    bench.routing.set_home_address(formed(home_address=HOME, preferred=False))
    assert bench.kernel.deprecated == {(TUNNEL, HOME), (LINK, HOME)}
    bench.routing.leave_home_link(HOME)
    bench.routing.use_home_link(at_home(HOME))
    assert (LINK, HOME) in bench.kernel.deprecated
    bench.routing.set_home_address(formed(home_address=HOME))
    assert bench.kernel.deprecated == set()


def test_main_table_leads_new_connections_to_the_first_preferred_home_address() -> None:
    bench = Bench(NEW)
    bench.routing.use_home_link(at_home(HOME))
    bench.routing.use_home_link(at_home(NEW))
    assert {route.source for route in bench.routes(MAIN_TABLE)} == {HOME}
    bench.routing.set_home_address(formed(home_address=HOME, preferred=False))
    assert {route.source for route in bench.routes(MAIN_TABLE)} == {NEW}
    bench.routing.leave_home_link(NEW)
    bench.routing.leave_home_link(HOME)
    assert bench.routes(MAIN_TABLE) == []


def test_peers_are_reached_directly_from_every_home_address() -> None:
    bench = Bench()
    bench.routing.set_home_address(formed())
    bench.peers.mtu_changed(PEER, 1400)
    third = IPv6Address("2001:db8:3::10")
    bench.peers.set_home_address(third)
    rules = [rule for rule in bench.kernel.rules if rule.table == 6276]
    assert {rule.source for rule in rules} == {HOME, NEW, third}
    bench.peers.remove_home_address(third)
    bench.routing.remove_home_address(NEW)
    rules = [rule for rule in bench.kernel.rules if rule.table == 6276]
    assert {rule.source for rule in rules} == {HOME}
