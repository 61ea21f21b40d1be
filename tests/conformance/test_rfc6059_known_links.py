"""RFC 6059: a link that is known is usable after one round trip, and an unknown one no later."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.autoconf.constants import MAX_PROBED_ROUTERS, PERSIST_DELAY
from mnagent.autoconf.link_memory import KNOWN_LINKS_KEY
from mnagent.core.actions import Action, AddAddress, RemoveAddress, SendPacket
from mnagent.wire.ndisc import (
    NeighborAdvertisement,
    NeighborSolicitation,
    RouterAdvertisement,
    RouterSolicitation,
)
from mnagent.wire.packet import decode_packet
from tests.support.nodes import AgentNode, Router
from tests.support.requirement import requirement
from tests.support.topology import PREFIX_A, PREFIX_B, Topology
from tests.support.world import Link, World


def since(node: AgentNode, instant: float) -> list[Action]:
    return [action for at, action in node.actions if at >= instant]


def asked(actions: list[Action], kind: type[object]) -> list[SendPacket]:
    return [a for a in actions if isinstance(a, SendPacket) and isinstance(a.packet.payload, kind)]


def is_probe_for_duplicates(action: SendPacket) -> bool:
    return action.packet.source.is_unspecified


def silence(router: Router) -> tuple[str, ...]:
    """No advertisement of this router gets through any more; what it would have said."""
    (prefixes,) = router.advertised.values()
    router.advertised.clear()
    router.send_advertisement = lambda port: None  # type: ignore[method-assign]
    return prefixes


def visit_both(net: Topology) -> None:
    net.register_in(net.link_a, PREFIX_A)
    net.world.run_for(3)
    net.register_in(net.link_b, PREFIX_B)
    net.world.run_for(3)


@requirement("RFC6059-5.5.3", "MOV-17", "MOV-18")
def test_link_event_sends_one_solicitation_and_the_probes_at_the_same_instant() -> None:
    with World(seed=1) as world:
        net = Topology(world)
        visit_both(net)
        moved_at = world.now
        net.move(net.link_a)
        actions = since(net.mobile_node, moved_at)
        (solicitation,) = asked(actions, RouterSolicitation)
        own = net.mobile_node.link_local(net.port)
        assert solicitation.packet.source == own
        probes = asked(actions, NeighborSolicitation)
        targets = {action.packet.payload.target for action in probes}  # type: ignore[union-attr]
        routers = {r.link_local(r.ports[0]) for r in (net.router_a, net.router_b)}
        assert targets == routers
        for probe in probes:
            assert probe.packet.source == own and probe.packet.hop_limit == 255
            assert probe.link_layer_destination in {
                r.ports[0].mac for r in (net.router_a, net.router_b)
            }


@requirement("RFC6059-5.5.3", "MOV-18")
def test_no_more_than_six_known_routers_are_asked() -> None:
    with World(seed=2) as world:
        net = Topology(world)
        links: list[Link] = []
        for number in range(MAX_PROBED_ROUTERS + 3):
            link = world.link(f"extra-{number}")
            router = Router(world, f"router-{number}")
            port = router.add_port(link, f"2001:db8:{number + 0x100:x}::1/64")
            router.advertise(port, f"2001:db8:{number + 0x100:x}::/64")
            links.append(link)
            net.move(link)
            world.run_for(3)
        moved_at = world.now
        net.move(net.link_a)
        assert len(asked(since(net.mobile_node, moved_at), NeighborSolicitation)) == 6


@requirement("RFC6059-5.7.1", "MOV-19")
def test_known_link_is_registered_after_one_round_trip_without_any_advertisement() -> None:
    with World(seed=3) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        world.run_for(3)
        earlier = net.bound_to
        net.register_in(net.link_b, PREFIX_B)
        world.run_for(3)
        silence(net.router_a)
        moved_at = world.now
        net.move(net.link_a)
        world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=1)
        assert net.bound_to == earlier
        added = [a for a in since(net.mobile_node, moved_at) if isinstance(a, AddAddress)]
        assert added[0].address == earlier
        ready_at = next(at for at, a in net.mobile_node.actions if a is added[0])
        assert ready_at - moved_at == pytest.approx(2 * net.link_a.delay)
        world.run_for(3)
        for action in asked(since(net.mobile_node, moved_at), NeighborSolicitation):
            assert not is_probe_for_duplicates(action), "no detection for a known address"


@requirement("RFC6059-5.4", "MOV-21")
def test_addresses_are_not_used_between_the_link_event_and_the_decision() -> None:
    with World(seed=4) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        world.run_for(3)
        silence(net.router_a)
        net.router_a.addresses[2] = {}
        net.move(net.link_a, carrier_lost=False)
        states = net.mobile_node.agent.role.autoconfiguration.states()  # type: ignore[union-attr]
        assert {state.value for state in states[net.port.index].values()} == {"in-doubt"}
        world.run_for(10)
        assert net.state == "detached"


@requirement("RFC6059-5.7.2", "MOV-20", "MOV-07")
def test_advertisement_that_contradicts_the_known_router_takes_its_address_back() -> None:
    """Both routers have the same link-local and link-layer address, as virtual routers do."""
    with World(seed=5) as world:
        net = Topology(world)
        make_namesakes(net)
        net.register_in(net.link_a, PREFIX_A)
        world.run_for(3)
        earlier = net.bound_to
        moved_at = world.now
        net.move(net.link_b)
        world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=3)
        world.run_for(1)
        removed = [a for a in since(net.mobile_node, moved_at) if isinstance(a, RemoveAddress)]
        assert earlier in {action.address for action in removed}


@requirement("RFC6275-11.5.1", "MOV-07")
@pytest.mark.parametrize("with_router_addresses", [True, False])
def test_namesakes_are_asked_by_their_global_address_or_not_at_all(
    with_router_addresses: bool,
) -> None:
    with World(seed=6) as world:
        net = Topology(world)
        make_namesakes(net)
        for router in (net.router_a, net.router_b):
            router.with_router_addresses = with_router_addresses
        visit_both(net)
        moved_at = world.now
        net.move(net.link_a)
        world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=3)
        probes = [
            action
            for action in asked(since(net.mobile_node, moved_at), NeighborSolicitation)
            if not is_probe_for_duplicates(action)
        ]
        targets = {action.packet.payload.target for action in probes}  # type: ignore[union-attr]
        wanted = {IPv6Address("2001:db8:a::1"), IPv6Address("2001:db8:b::1")}
        assert targets == (wanted if with_router_addresses else set())
        in_b = [
            a
            for a in since(net.mobile_node, moved_at)
            if isinstance(a, AddAddress) and a.address in PREFIX_B
        ]
        assert in_b == [], "never taken for the other link"


def make_namesakes(net: Topology) -> None:
    net.router_b.ports[0].mac = net.router_a.ports[0].mac
    net.router_b.addresses[2] = {
        net.router_a.link_local(net.router_a.ports[0]): 64,
        IPv6Address("2001:db8:b::1"): 64,
    }


@requirement("RFC6059-5.5.2", "MOV-18", "MOV-19")
def test_known_links_survive_a_restart_of_the_daemon() -> None:
    with World(seed=7) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        earlier = net.bound_to
        world.run_for(PERSIST_DELAY + 2)
        assert KNOWN_LINKS_KEY in net.mobile_node.records
        net.mobile_node.kill()
        silence(net.router_a)
        world.run_for(5)
        net.mobile_node.start(net.new_mobile_node())
        # The probes wait for the link-local address, which the kernel tells after a second here.
        world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=2)
        assert net.bound_to == earlier


@pytest.mark.parametrize("record", ["", "{", "[]", '{"version":2}', "\x00", "9" * 100])
def test_record_that_is_not_as_it_should_be_is_as_good_as_none(record: str) -> None:
    with World(seed=8) as world:
        net = Topology(world)
        net.mobile_node.kill()
        net.mobile_node.records[KNOWN_LINKS_KEY] = record
        net.mobile_node.start(net.new_mobile_node())
        net.register_in(net.link_a, PREFIX_A)


@requirement("RFC6059-5.11", "MOV-18")
def test_probe_that_is_lost_goes_again_twice_and_no_more() -> None:
    with World(seed=9) as world:
        net = Topology(world)
        visit_both(net)
        silence(net.router_a)
        net.router_a.addresses[2] = {}
        moved_at = world.now
        net.move(net.link_a, carrier_lost=False)
        world.run_for(5)
        probes = asked(since(net.mobile_node, moved_at), NeighborSolicitation)
        to_a = [p for p in probes if p.link_layer_destination == net.router_a.ports[0].mac]
        assert len(to_a) == 3


def test_answers_from_the_wire_are_what_the_tests_think() -> None:
    with World(seed=10) as world:
        net = Topology(world)
        visit_both(net)
        net.move(net.link_a)
        world.run_for(1)
        kinds = {type(decode_packet(frame.data).payload) for _, frame in net.link_a.frames[-40:]}
        assert {NeighborAdvertisement, RouterAdvertisement} <= kinds


@requirement("RFC6059-5.7.1", "MOV-19")
def test_three_moves_in_two_seconds_end_in_the_right_place() -> None:
    with World(seed=11) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        for link in (net.link_b, net.link_a, net.link_b):
            net.move(link)
            world.run_for(0.3)
        silence(net.router_a)
        net.move(net.link_a)
        # This world's host checks its link-local address anew each time; the probe waits for it.
        world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=2)
        world.run_for(3)
        assert net.is_registered_in(PREFIX_A)
