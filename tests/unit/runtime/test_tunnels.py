from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest

from mnagent.core.actions import RemovePeerBinding, SetPeerBinding, SetTunnel, TunnelEnd
from mnagent.core.security import Direction, EspMode, EspTransform, SecurityAssociation
from mnagent.link.messages import NeighbourMessage, Overrun, RuleMessage
from mnagent.runtime.next_hop import MAX_AT_ONCE, NextHopResolver, TunnelPath
from mnagent.runtime.tunnels import TunnelKeeper, tunnel_mtu
from mnagent.system.datapath import FakeDatapath
from mnagent.system.kernel import FakeKernel, LinkInformation, Path
from tests.support.requirement import requirement

HOME = IPv6Address("2001:db8:1::10")
AGENT = IPv6Address("2001:db8:1::1")
CARE_OF = IPv6Address("2001:db8:a::5")
OTHER_CARE_OF = IPv6Address("2001:db8:b::5")
ROUTER = IPv6Address("fe80::1")
ROUTER_MAC = bytes.fromhex("020000000001")
OUR_MAC = bytes.fromhex("020000000002")
OUTBOUND = SecurityAssociation(
    spi=300,
    direction=Direction.OUTBOUND,
    mode=EspMode.TUNNEL,
    transform=EspTransform.AES_CBC_HMAC_SHA256_128,
    home_address=HOME,
    peer=AGENT,
    encryption_key=bytes(32),
    integrity_key=bytes(32),
)
INBOUND = replace(OUTBOUND, spi=301, direction=Direction.INBOUND)
TUNNEL = SetTunnel(
    end=TunnelEnd.MOBILE_NODE, home_address=HOME, local=CARE_OF, remote=AGENT, interface=3
)


class RememberingGuard:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def guard(
        self,
        *,
        local_addresses: Iterable[IPv6Address],
        spis: Iterable[int],
    ) -> None:
        self.calls.append({"local": set(local_addresses), "spis": list(spis)})


class Bench:
    def __init__(
        self, *, end: TunnelEnd = TunnelEnd.MOBILE_NODE, sends_directly: bool = False
    ) -> None:
        self.kernel = FakeKernel()
        self.datapath = FakeDatapath()
        self.guard = RememberingGuard()
        self.mtus: list[tuple[IPv6Address, int]] = []
        self.resolver = NextHopResolver(self.kernel)
        self.keeper = TunnelKeeper(
            datapath=self.datapath,
            resolver=self.resolver,
            shield=self.guard,
            associations=(OUTBOUND, INBOUND),
            end=end,
            mtu_changed=lambda home, mtu: self.mtus.append((home, mtu)),
            sends_directly=sends_directly,
        )
        self.kernel.links[3] = LinkInformation(
            interface=3, name="wlan0", link_layer_address=OUR_MAC, mtu=1500, needs_resolution=True
        )
        self.kernel.paths[AGENT] = Path(interface=3, neighbour=ROUTER, mtu=1500)

    def entry(self) -> Any:
        (entry,) = self.datapath.tables[-1].tunnels
        return entry


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_tunnel_with_a_known_neighbour_sends_at_once(bench: Bench) -> None:
    bench.kernel.neighbours[3, ROUTER] = ROUTER_MAC
    bench.keeper.set_tunnel(TUNNEL)
    entry = bench.entry()
    assert not entry.hold
    assert entry.next_hop.destination_mac == ROUTER_MAC
    assert entry.next_hop.source_mac == OUR_MAC
    assert bench.mtus == [(HOME, 1460)]


def test_tunnel_without_a_resolved_neighbour_holds_and_solicits(bench: Bench) -> None:
    bench.keeper.set_tunnel(TUNNEL)
    assert bench.entry().hold
    assert bench.kernel.solicited == [(3, ROUTER)] * 1
    bench.kernel.neighbours[3, ROUTER] = ROUTER_MAC
    bench.keeper.refresh()
    assert not bench.entry().hold


def test_tunnel_without_a_route_holds_until_there_is_one(bench: Bench) -> None:
    path = bench.kernel.paths.pop(AGENT)
    bench.kernel.neighbours[3, ROUTER] = ROUTER_MAC
    bench.keeper.set_tunnel(TUNNEL)
    assert bench.entry().hold
    bench.kernel.paths[AGENT] = path
    bench.keeper.refresh()
    assert not bench.entry().hold


def test_link_without_resolution_leaves_sending_to_the_kernel(bench: Bench) -> None:
    bench.kernel.links[3] = replace(bench.kernel.links[3], needs_resolution=False)
    bench.keeper.set_tunnel(TUNNEL)
    assert not bench.entry().hold
    assert bench.entry().next_hop is None


def test_hold_keeps_the_ends_and_set_ends_it(bench: Bench) -> None:
    bench.kernel.neighbours[3, ROUTER] = ROUTER_MAC
    bench.keeper.set_tunnel(TUNNEL)
    bench.keeper.hold_tunnel(HOME)
    assert bench.entry().hold
    assert bench.entry().remote == AGENT
    bench.keeper.set_tunnel(TUNNEL)
    assert not bench.entry().hold


def test_hold_without_a_tunnel_queues(bench: Bench) -> None:
    bench.keeper.hold_tunnel(HOME)
    assert bench.entry().hold
    assert bench.entry().end is TunnelEnd.MOBILE_NODE


def test_removed_tunnel_leaves_the_tables(bench: Bench) -> None:
    bench.keeper.set_tunnel(TUNNEL)
    for _ in range(2):
        bench.keeper.remove_tunnel(HOME)
    assert bench.datapath.tables[-1].tunnels == ()
    assert bench.keeper.tunnel_mtu(HOME) is None


def test_same_state_is_published_once(bench: Bench) -> None:
    bench.keeper.set_tunnel(TUNNEL)
    published = len(bench.datapath.tables)
    bench.keeper.set_tunnel(TUNNEL)
    bench.keeper.refresh()
    assert len(bench.datapath.tables) == published


def test_shield_knows_addresses_and_inbound_associations(bench: Bench) -> None:
    bench.keeper.set_local_addresses(frozenset({CARE_OF, HOME}))
    bench.keeper.set_tunnel(TUNNEL)
    assert bench.guard.calls[-1] == {
        "local": {CARE_OF, HOME},
        "spis": [301],
    }


def test_new_local_address_is_known_to_engine_and_shield_at_once(bench: Bench) -> None:
    bench.keeper.add_local_address(HOME)
    bench.keeper.set_tunnel(TUNNEL)
    guarded = len(bench.guard.calls)
    for _ in range(2):
        bench.keeper.add_local_address(CARE_OF)
        assert CARE_OF in bench.datapath.tables[-1].local_addresses
        assert bench.guard.calls[-1]["local"] == {CARE_OF, HOME}
    assert len(bench.guard.calls) == guarded + 1


def test_new_local_address_stays_until_the_kernel_told_of_it_and_of_its_end(bench: Bench) -> None:
    bench.keeper.add_local_address(CARE_OF)
    bench.keeper.set_local_addresses(frozenset({HOME}))
    assert set(bench.datapath.tables[-1].local_addresses) == {CARE_OF, HOME}
    bench.keeper.set_local_addresses(frozenset({CARE_OF, HOME}))
    bench.keeper.set_local_addresses(frozenset({HOME}))
    assert bench.datapath.tables[-1].local_addresses == (HOME,)


def test_new_local_address_that_is_taken_away_unseen_goes(bench: Bench) -> None:
    bench.keeper.add_local_address(CARE_OF)
    bench.keeper.forget_local_address(CARE_OF)
    bench.keeper.set_local_addresses(frozenset({HOME}))
    assert bench.datapath.tables[-1].local_addresses == (HOME,)


def test_tunnel_with_an_unknown_association_is_refused(bench: Bench) -> None:
    with pytest.raises(KeyError):
        bench.keeper.set_tunnel(replace(TUNNEL, outbound_spi=999))
    with pytest.raises(KeyError):
        bench.keeper.set_tunnel(replace(TUNNEL, inbound_spi=300))


def test_protected_tunnel_has_a_smaller_mtu(bench: Bench) -> None:
    bench.kernel.neighbours[3, ROUTER] = ROUTER_MAC
    bench.keeper.set_tunnel(replace(TUNNEL, outbound_spi=300, inbound_spi=301))
    assert bench.mtus == [(HOME, 1406)]


def test_path_mtu_that_shrinks_is_told(bench: Bench) -> None:
    bench.kernel.neighbours[3, ROUTER] = ROUTER_MAC
    bench.keeper.set_tunnel(TUNNEL)
    bench.kernel.paths[AGENT] = replace(bench.kernel.paths[AGENT], mtu=1400)
    bench.keeper.refresh()
    assert bench.mtus == [(HOME, 1460), (HOME, 1360)]


SERVED = SetTunnel(
    end=TunnelEnd.HOME_AGENT, home_address=HOME, local=AGENT, remote=CARE_OF, interface=3
)
CORRESPONDENT_BINDING = SetPeerBinding(home_address=HOME, care_of_address=OTHER_CARE_OF)


@pytest.fixture
def serving() -> Bench:
    """A home agent's, with a way to the care-of addresses."""
    bench = Bench(end=TunnelEnd.HOME_AGENT, sends_directly=True)
    bench.kernel.neighbours[3, ROUTER] = ROUTER_MAC
    for address in (CARE_OF, OTHER_CARE_OF):
        bench.kernel.paths[address] = Path(interface=3, neighbour=ROUTER, mtu=1500)
    return bench


@requirement("RFC6275-9.3.2", "HA-40")
def test_home_agents_own_packets_go_where_the_tunnel_goes(serving: Bench) -> None:
    for care_of in (CARE_OF, OTHER_CARE_OF):
        serving.keeper.set_tunnel(replace(SERVED, remote=care_of))
        (peer,) = serving.datapath.tables[-1].peer_bindings
        assert (peer.home_address, peer.care_of_address) == (HOME, care_of)
        assert (peer.mtu, peer.next_hop) == (1476, serving.entry().next_hop)
    serving.keeper.remove_tunnel(HOME)
    assert serving.datapath.tables[-1].peer_bindings == ()


def test_home_agents_own_packets_are_in_the_state_that_is_told_whole(serving: Bench) -> None:
    serving.keeper.set_tunnel(SERVED)
    serving.keeper.publish()
    (peer,) = serving.datapath.tables[-1].peer_bindings
    assert peer.care_of_address == CARE_OF


@pytest.mark.parametrize(
    ("tunnel", "mtu", "neighbours"),
    [
        (replace(SERVED, outbound_spi=300, inbound_spi=301), 1500, {(3, ROUTER): ROUTER_MAC}),
        (SERVED, 1300, {(3, ROUTER): ROUTER_MAC}),
        (SERVED, 1500, {}),
    ],
    ids=["protected", "too narrow", "not resolved"],
)
def test_home_agents_own_packets_stay_in_a_tunnel_that_protects_fragments_or_holds(
    serving: Bench, tunnel: SetTunnel, mtu: int, neighbours: dict[tuple[int, IPv6Address], bytes]
) -> None:
    serving.kernel.neighbours.clear()
    serving.kernel.neighbours.update(neighbours)
    serving.kernel.paths[CARE_OF] = Path(interface=3, neighbour=ROUTER, mtu=mtu)
    serving.keeper.set_tunnel(tunnel)
    assert serving.datapath.tables[-1].peer_bindings == ()


def test_home_agent_that_is_no_correspondent_sends_all_through_the_tunnel(bench: Bench) -> None:
    bench.kernel.neighbours[3, ROUTER] = ROUTER_MAC
    bench.kernel.paths[CARE_OF] = Path(interface=3, neighbour=ROUTER, mtu=1500)
    bench.keeper.set_tunnel(SERVED)
    assert bench.datapath.tables[-1].peer_bindings == ()


def test_home_registration_stands_before_a_correspondents_binding_while_it_lasts(
    serving: Bench,
) -> None:
    serving.keeper.set_peer_binding(CORRESPONDENT_BINDING)
    serving.keeper.flush()

    def care_of_addresses() -> list[IPv6Address]:
        return [peer.care_of_address for peer in serving.datapath.tables[-1].peer_bindings]

    assert care_of_addresses() == [OTHER_CARE_OF]
    serving.keeper.set_tunnel(SERVED)
    assert care_of_addresses() == [CARE_OF]
    serving.keeper.remove_tunnel(HOME)
    assert care_of_addresses() == [OTHER_CARE_OF]
    serving.keeper.remove_peer_binding(RemovePeerBinding(home_address=HOME))
    serving.keeper.flush()
    assert care_of_addresses() == []


@pytest.mark.parametrize(
    ("path_mtu", "transform", "expected"),
    [
        (1500, None, 1460),
        (1280, None, 1280),
        (9000, None, 8960),
        (1500, EspTransform.AES_GCM_16, 1426),
        (1500, EspTransform.CHACHA20_POLY1305, 1426),
        (1500, EspTransform.NULL_HMAC_SHA256_128, 1434),
    ],
)
def test_tunnel_mtu_leaves_room_for_the_overhead(
    path_mtu: int, transform: EspTransform | None, expected: int
) -> None:
    assert tunnel_mtu(path_mtu, transform=transform) == expected


@pytest.mark.parametrize(("path_mtu", "expected"), [(1500, 1452), (1300, 1280)])
def test_tunnel_mtu_leaves_room_for_the_encapsulation_limit(path_mtu: int, expected: int) -> None:
    assert tunnel_mtu(path_mtu, transform=None, encapsulation_limit=0) == expected


def test_resolver_is_concerned_by_its_neighbours_and_by_routes(bench: Bench) -> None:
    neighbour = NeighbourMessage(interface=3, address=ROUTER)
    assert not bench.resolver.concerns(neighbour)
    bench.keeper.set_tunnel(TUNNEL)
    assert bench.resolver.concerns(neighbour)
    assert not bench.resolver.concerns(replace(neighbour, interface=4))
    assert not bench.resolver.concerns(replace(neighbour, address=HOME))
    assert bench.resolver.concerns(RuleMessage(priority=1, table=2))
    assert bench.resolver.concerns(Overrun())


def test_path_of_a_packet_too_big_is_asked_for_before_the_others(bench: Bench) -> None:
    others = [IPv6Address(f"2001:db8:e::{at:x}") for at in range(1, MAX_AT_ONCE + 1)]
    for remote in (*others, AGENT):
        bench.kernel.paths[remote] = Path(interface=3, neighbour=ROUTER, mtu=1500)
        bench.resolver.follow((TunnelPath(CARE_OF, remote, 3),))
    assert bench.resolver.refresh() == []
    for remote in (*others, AGENT):
        bench.kernel.paths[remote] = Path(interface=3, neighbour=ROUTER, mtu=1400)
    assert not bench.resolver.suspect({IPv6Address("2001:db8:f::1")})
    assert bench.resolver.suspect({others[0], IPv6Address("2001:db8:f::1")})
    changed = bench.resolver.refresh()
    assert [path.remote for path in changed] == [others[0], AGENT]
    bench.resolver.unfollow(TunnelPath(CARE_OF, AGENT, 3))
    assert not bench.resolver.suspect({AGENT})


def test_verification_solicits_each_neighbour_once(bench: Bench) -> None:
    bench.kernel.neighbours[3, ROUTER] = ROUTER_MAC
    bench.keeper.set_tunnel(TUNNEL)
    bench.kernel.solicited.clear()
    bench.resolver.verify()
    assert bench.kernel.solicited == [(3, ROUTER)]
