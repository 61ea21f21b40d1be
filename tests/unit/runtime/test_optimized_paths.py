"""Direct paths and peer bindings: what the engine is told, and where the kernel leads packets."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from mnagent.core.actions import (
    RemoveDirectPath,
    RemovePeerBinding,
    RemoveTunnel,
    SetDirectPath,
    SetPeerBinding,
    SetTunnel,
    TunnelEnd,
    UseHomeLink,
)
from mnagent.datapath import Changes, DirectPathEntry, NextHop, PeerBindingEntry
from mnagent.link.messages import RouteMessage
from mnagent.runtime.host import HostState
from mnagent.runtime.next_hop import MAX_AT_ONCE, NextHopResolver
from mnagent.runtime.optimized_paths import OptimizedPaths
from mnagent.runtime.policy_routing import MobileNodeRouting, PeerRouting
from mnagent.runtime.sockets import SOCKET_MARK
from mnagent.runtime.tunnels import TunnelKeeper
from mnagent.system.clock import ManualClock
from mnagent.system.datapath import FakeDatapath
from mnagent.system.kernel import FakeKernel, LinkInformation, Path, Route

HOME = IPv6Address("2001:db8:1::10")
AGENT = IPv6Address("2001:db8:1::1")
CARE_OF = IPv6Address("2001:db8:a::5")
CORRESPONDENT = IPv6Address("2001:db8:c::1")
PEER = IPv6Address("2001:db8:2::20")
PEER_CARE_OF = IPv6Address("2001:db8:b::6")
ROUTER = IPv6Address("fe80::1")
ROUTER_MAC = bytes.fromhex("020000000001")
OUR_MAC = bytes.fromhex("020000000002")
LINK, TUNNEL_INTERFACE = 3, 9
HOME_TABLE, PEER_TABLE = 6275, 6276
NEXT_HOP = NextHop(interface=LINK, source_mac=OUR_MAC, destination_mac=ROUTER_MAC)
TUNNEL = SetTunnel(
    end=TunnelEnd.MOBILE_NODE, home_address=HOME, local=CARE_OF, remote=AGENT, interface=LINK
)
BINDING = SetPeerBinding(home_address=PEER, care_of_address=PEER_CARE_OF)
NO_BINDING = RemovePeerBinding(home_address=PEER)


def direct(correspondent: IPv6Address) -> SetDirectPath:
    return SetDirectPath(
        home_address=HOME, correspondent=correspondent, care_of_address=CARE_OF, interface=LINK
    )


def not_direct(correspondent: IPv6Address) -> RemoveDirectPath:
    return RemoveDirectPath(home_address=HOME, correspondent=correspondent)


class Bench:
    """A keeper over fakes; every destination is behind one router."""

    def __init__(self, *, mobile_node: bool, mtu: int = 1500) -> None:
        self.kernel = FakeKernel()
        self.kernel.links[LINK] = LinkInformation(
            interface=LINK,
            name="wlan0",
            link_layer_address=OUR_MAC,
            mtu=1500,
            needs_resolution=True,
        )
        self.kernel.neighbours[LINK, ROUTER] = ROUTER_MAC
        for address in (AGENT, CORRESPONDENT, PEER_CARE_OF):
            self.kernel.paths[address] = Path(interface=LINK, neighbour=ROUTER, mtu=mtu)
        self.datapath = FakeDatapath()
        self.resolver = NextHopResolver(self.kernel, tunnel_interface=TUNNEL_INTERFACE)
        host = HostState(self.kernel, ManualClock())
        own = HOME if mobile_node else None
        peers = PeerRouting(
            host,
            tunnel_interface=TUNNEL_INTERFACE,
            table=PEER_TABLE,
            priority=6274,
            home_address=own,
            new_connections=mobile_node,
        )
        self.routing = MobileNodeRouting(
            host,
            home_address=HOME,
            tunnel_interface=TUNNEL_INTERFACE,
            table=HOME_TABLE,
            priority=6275,
            new_connections=True,
        )
        optimized = OptimizedPaths(self.resolver, set_peer_route=peers.mtu_changed)
        if mobile_node:
            optimized = OptimizedPaths(
                self.resolver,
                home_address=HOME,
                set_peer_route=peers.mtu_changed,
                set_direct_route=self.routing.direct_path_mtu_changed,
            )
        self.keeper = TunnelKeeper(
            datapath=self.datapath,
            resolver=self.resolver,
            shield=self,
            associations=(),
            end=TunnelEnd.MOBILE_NODE if mobile_node else TunnelEnd.HOME_AGENT,
            mtu_changed=lambda home, mtu: None,
            optimized=optimized,
        )
        self.keeper.publish()
        if mobile_node:
            self.keeper.set_tunnel(TUNNEL)

    def guard(self, **_: Any) -> None:
        """No shield here."""

    def apply(self, *actions: Any) -> None:
        """Take actions as the executor does, and publish as the service does afterwards."""
        methods: dict[type[Any], Any] = {
            SetPeerBinding: self.keeper.set_peer_binding,
            RemovePeerBinding: self.keeper.remove_peer_binding,
            SetDirectPath: self.keeper.set_direct_path,
            RemoveDirectPath: self.keeper.remove_direct_path,
        }
        for action in actions:
            methods[type(action)](action)
        self.keeper.flush()

    @property
    def tables(self) -> Any:
        return self.datapath.tables[-1]

    def mtus(self, table: int) -> dict[IPv6Network, int | None]:
        return {
            route.destination: route.mtu
            for route in self.kernel.routes.values()
            if route.table == table and route.destination.prefixlen == 128
        }


@pytest.fixture
def correspondent() -> Bench:
    return Bench(mobile_node=False)


@pytest.fixture
def mobile_node() -> Bench:
    return Bench(mobile_node=True)


def network(address: IPv6Address) -> IPv6Network:
    return IPv6Network((address, 128))


def test_peer_binding_reaches_the_engine_and_a_route_of_its_mtu(correspondent: Bench) -> None:
    for _ in range(2):
        correspondent.apply(BINDING)
    assert correspondent.tables.peer_bindings == (
        PeerBindingEntry(
            home_address=PEER, care_of_address=PEER_CARE_OF, next_hop=NEXT_HOP, mtu=1476
        ),
    )
    assert correspondent.mtus(PEER_TABLE) == {network(PEER): 1476}
    for _ in range(2):
        correspondent.apply(NO_BINDING)
    assert correspondent.tables.peer_bindings == ()
    assert correspondent.mtus(PEER_TABLE) == {}


def test_peer_routes_are_for_own_packets_without_our_mark(correspondent: Bench) -> None:
    assert correspondent.kernel.rules == set()
    correspondent.apply(BINDING)
    (rule,) = correspondent.kernel.rules
    assert (rule.priority, rule.table, rule.source) == (6274, PEER_TABLE, None)
    assert (rule.local_only, rule.unless_mark, rule.chooses_source) == (True, SOCKET_MARK, False)


def test_peer_that_moves_is_reached_by_its_new_path_at_once(correspondent: Bench) -> None:
    correspondent.apply(BINDING)
    correspondent.kernel.paths[CORRESPONDENT] = Path(interface=LINK, neighbour=ROUTER, mtu=1400)
    correspondent.apply(SetPeerBinding(home_address=PEER, care_of_address=CORRESPONDENT))
    (entry,) = correspondent.tables.peer_bindings
    assert (entry.care_of_address, entry.mtu) == (CORRESPONDENT, 1376)
    assert correspondent.mtus(PEER_TABLE) == {network(PEER): 1376}


def test_peer_out_of_reach_is_heard_and_answered_by_its_home_address(correspondent: Bench) -> None:
    del correspondent.kernel.paths[PEER_CARE_OF]
    correspondent.apply(BINDING)
    (entry,) = correspondent.tables.peer_bindings
    assert (entry.next_hop, entry.mtu) == (None, 1280)
    assert correspondent.mtus(PEER_TABLE) == {}


def test_peer_behind_a_path_too_narrow_is_answered_by_its_home_address() -> None:
    bench = Bench(mobile_node=False, mtu=1303)
    bench.apply(BINDING)
    assert len(bench.tables.peer_bindings) == 1
    assert bench.mtus(PEER_TABLE) == {}


def test_path_mtu_that_shrinks_moves_the_route(correspondent: Bench) -> None:
    correspondent.apply(BINDING)
    for mtu, routed in ((1400, {network(PEER): 1376}), (1280, {}), (1500, {network(PEER): 1476})):
        correspondent.kernel.paths[PEER_CARE_OF] = Path(interface=LINK, neighbour=ROUTER, mtu=mtu)
        correspondent.keeper.refresh()
        assert correspondent.mtus(PEER_TABLE) == routed


def test_direct_path_reaches_the_engine_and_a_route_of_its_mtu(mobile_node: Bench) -> None:
    for _ in range(2):
        mobile_node.apply(direct(CORRESPONDENT))
    assert mobile_node.tables.direct_paths == (
        DirectPathEntry(
            home_address=HOME,
            correspondent=CORRESPONDENT,
            care_of_address=CARE_OF,
            next_hop=NEXT_HOP,
            mtu=1476,
        ),
    )
    assert mobile_node.mtus(HOME_TABLE) == {network(CORRESPONDENT): 1476}
    for _ in range(2):
        mobile_node.apply(not_direct(CORRESPONDENT))
    assert mobile_node.tables.direct_paths == ()
    assert mobile_node.mtus(HOME_TABLE) == {}


@pytest.mark.parametrize(("mtu", "code"), [(None, errno.ENETUNREACH), (1303, errno.EMSGSIZE)])
def test_direct_path_that_cannot_carry_enough_fails_and_ends_the_former_one(
    mtu: int | None, code: int, mobile_node: Bench
) -> None:
    mobile_node.apply(direct(CORRESPONDENT))
    elsewhere = replace(direct(CORRESPONDENT), care_of_address=CARE_OF + 1)
    del mobile_node.kernel.paths[CORRESPONDENT]
    if mtu is not None:
        path = Path(interface=LINK, neighbour=ROUTER, mtu=mtu)
        mobile_node.kernel.paths[CORRESPONDENT] = path
    with pytest.raises(OSError) as caught:
        mobile_node.apply(elsewhere)
    assert caught.value.errno == code
    mobile_node.keeper.flush()
    assert mobile_node.tables.direct_paths == ()
    assert mobile_node.mtus(HOME_TABLE) == {}


def test_direct_path_that_becomes_too_narrow_rests_until_it_is_wide_again(
    mobile_node: Bench,
) -> None:
    mobile_node.apply(direct(CORRESPONDENT))
    for mtu, mtus in ((1303, []), (1304, [1280])):
        path = Path(interface=LINK, neighbour=ROUTER, mtu=mtu)
        mobile_node.kernel.paths[CORRESPONDENT] = path
        mobile_node.keeper.refresh()
        assert [entry.mtu for entry in mobile_node.tables.direct_paths] == mtus


def test_direct_path_before_the_neighbour_is_known_is_the_kernels_to_resolve(
    mobile_node: Bench,
) -> None:
    mobile_node.kernel.neighbours.clear()
    mobile_node.apply(direct(CORRESPONDENT))
    (entry,) = mobile_node.tables.direct_paths
    assert (entry.next_hop, entry.mtu) == (None, 1476)


def test_both_ends_mobile_go_to_the_care_of_address_with_room_for_two_headers(
    mobile_node: Bench,
) -> None:
    other = NextHop(interface=LINK, source_mac=OUR_MAC, destination_mac=bytes(6))
    mobile_node.kernel.neighbours[LINK, PEER_CARE_OF] = bytes(6)
    mobile_node.kernel.paths[PEER_CARE_OF] = Path(interface=LINK, neighbour=PEER_CARE_OF, mtu=1500)
    mobile_node.kernel.paths[PEER] = Path(interface=LINK, neighbour=ROUTER, mtu=1500)
    mobile_node.apply(direct(PEER))
    assert [entry.next_hop for entry in mobile_node.tables.direct_paths] == [NEXT_HOP]
    mobile_node.apply(BINDING)
    (entry,) = mobile_node.tables.direct_paths
    assert (entry.next_hop, entry.mtu) == (other, 1452)
    assert mobile_node.mtus(HOME_TABLE) == {network(PEER): 1452}
    assert mobile_node.mtus(PEER_TABLE) == {network(PEER): 1452}
    mobile_node.apply(NO_BINDING)
    assert [entry.mtu for entry in mobile_node.tables.direct_paths] == [1476]


def test_mobile_node_away_sends_to_a_mobile_peer_through_its_tunnel(mobile_node: Bench) -> None:
    mobile_node.apply(BINDING)
    (entry,) = mobile_node.tables.peer_bindings
    assert (entry.next_hop, entry.mtu) == (None, 1436)
    (rule,) = mobile_node.kernel.rules
    assert (rule.source, rule.chooses_source) == (HOME, True)
    (route,) = (each for each in mobile_node.kernel.routes.values() if each.table == PEER_TABLE)
    assert (route.source, route.mtu) == (HOME, 1436)


def test_mobile_node_at_home_sends_to_a_mobile_peer_from_its_home_address(
    mobile_node: Bench,
) -> None:
    mobile_node.apply(BINDING)
    mobile_node.keeper.remove_tunnel(RemoveTunnel(home_address=HOME).home_address)
    (entry,) = mobile_node.tables.peer_bindings
    assert (entry.next_hop, entry.mtu) == (NEXT_HOP, 1476)
    assert mobile_node.mtus(PEER_TABLE) == {network(PEER): 1476}


def test_home_link_takes_the_direct_routes_away(mobile_node: Bench) -> None:
    mobile_node.apply(direct(CORRESPONDENT))
    mobile_node.routing.use_home_link(
        UseHomeLink(home_address=HOME, prefix_length=64, interface=LINK, router=ROUTER)
    )
    assert mobile_node.mtus(HOME_TABLE) == {}
    mobile_node.apply(not_direct(CORRESPONDENT))
    assert mobile_node.mtus(HOME_TABLE) == {}


def test_route_that_is_refused_does_not_keep_the_path_from_the_engine(
    correspondent: Bench,
) -> None:
    correspondent.kernel.failure = errno.EPERM
    correspondent.apply(BINDING)
    assert len(correspondent.tables.peer_bindings) == 1
    assert correspondent.mtus(PEER_TABLE) == {}
    correspondent.kernel.failure = None
    correspondent.keeper.publish()
    assert correspondent.mtus(PEER_TABLE) == {network(PEER): 1476}


def test_routes_to_the_tunnel_concern_no_path(correspondent: Bench) -> None:
    correspondent.apply(BINDING)
    for interface, concerns in ((TUNNEL_INTERFACE, False), (LINK, True)):
        message = RouteMessage(destination=network(PEER), table=PEER_TABLE, interface=interface)
        assert correspondent.resolver.concerns(message) is concerns


def test_peer_route_comes_after_the_engine_knows_and_goes_before_it_forgets(
    correspondent: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    correspondent.keeper.publish()
    change, add, remove = (
        correspondent.datapath.change,
        correspondent.kernel.set_route,
        correspondent.kernel.remove_route,
    )

    def noting_change(changes: Changes) -> None:
        change(changes)
        order.append(f"engine {len(correspondent.datapath.tables[-1].peer_bindings)}")

    def noting_add(route: Route) -> None:
        order.append("route")
        add(route)

    def noting_remove(route: Route) -> None:
        order.append("no route")
        remove(route)

    monkeypatch.setattr(correspondent.datapath, "change", noting_change)
    monkeypatch.setattr(correspondent.kernel, "set_route", noting_add)
    monkeypatch.setattr(correspondent.kernel, "remove_route", noting_remove)
    correspondent.apply(BINDING)
    correspondent.apply(NO_BINDING)
    assert order == ["engine 1", "route", "no route", "engine 0"]


def test_many_changes_at_once_are_published_once(mobile_node: Bench) -> None:
    count = len(mobile_node.datapath.tables)
    mobile_node.apply(direct(CORRESPONDENT), direct(PEER_CARE_OF), BINDING)
    assert len(mobile_node.datapath.tables) == count + 1
    assert len(mobile_node.tables.direct_paths) == 2
    mobile_node.keeper.flush()
    mobile_node.apply(not_direct(AGENT), RemovePeerBinding(home_address=HOME))
    assert len(mobile_node.datapath.tables) == count + 1


def test_many_paths_are_asked_for_again_in_lots(correspondent: Bench) -> None:
    peers = [PEER_CARE_OF + number for number in range(MAX_AT_ONCE + 1)]
    wide = Path(interface=LINK, neighbour=ROUTER, mtu=1500)
    narrow = Path(interface=LINK, neighbour=ROUTER, mtu=1400)
    correspondent.kernel.paths.update(dict.fromkeys(peers, wide))
    correspondent.apply(
        *(
            SetPeerBinding(home_address=PEER + at, care_of_address=at_)
            for at, at_ in enumerate(peers)
        )
    )
    correspondent.kernel.paths.update(dict.fromkeys(peers, narrow))
    correspondent.resolver.invalidate()
    for left in (1, 0):
        assert correspondent.resolver.is_behind
        correspondent.keeper.refresh()
        mtus = [entry.mtu for entry in correspondent.tables.peer_bindings]
        assert mtus.count(1476) == left
    assert not correspondent.resolver.is_behind


def test_path_that_is_not_followed_any_more_is_not_asked_for(correspondent: Bench) -> None:
    correspondent.apply(BINDING)
    correspondent.resolver.invalidate()
    correspondent.apply(NO_BINDING)
    assert not correspondent.resolver.refresh()
