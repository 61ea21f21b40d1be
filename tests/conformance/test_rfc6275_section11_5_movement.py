"""RFC 6275 11.5.1 to 11.5.4: noticing a movement, and the care-of address it leads to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import IPv6Address, IPv6Network

import pytest

from mnagent.core.actions import Action, AddAddress, RemoveAddress, SendPacket, SetTunnel
from mnagent.wire.checksum import upper_layer_checksum
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingUpdate
from mnagent.wire.ndisc import (
    AdvertisementInterval,
    NeighborSolicitation,
    RouterAdvertisement,
    RouterSolicitation,
    SourceLinkLayerAddress,
)
from mnagent.wire.packet import encode_packet
from tests.support.agents import ROUTER, AgentDriver
from tests.support.nodes import ALL_NODES, AgentNode, Router, multicast_mac
from tests.support.packets import router_advertisement
from tests.support.requirement import requirement
from tests.support.topology import (
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    PREFIX_A,
    PREFIX_B,
    Topology,
)
from tests.support.world import Port, World

PREFIX_C = IPv6Network("2001:db8:cc::/64")


def since(node: AgentNode, instant: float) -> list[Action]:
    return [action for at, action in node.actions if at >= instant]


def asked(actions: list[Action], kind: type[object]) -> list[IPv6Packet]:
    return [
        action.packet
        for action in actions
        if isinstance(action, SendPacket) and isinstance(action.packet.payload, kind)
    ]


def move_unseen(net: Topology) -> None:
    """To link B, without a word from the link layer."""
    net.link_b.attach(net.port)


def further_router(net: Topology) -> Router:
    """On link A, with another prefix."""
    router = Router(net.world, "router-c")
    port = router.add_port(net.link_a, "2001:db8:cc::1/64")
    router.advertise(port, str(PREFIX_C))
    return router


def advertise_often(router: Router, port: Port, interval: float) -> Callable[[], None]:
    """From now on, with the Advertisement Interval option (RFC 6275 7.3); what ends it."""
    is_silent = False

    def be_silent() -> None:
        nonlocal is_silent
        is_silent = True

    def send(port: Port) -> None:
        if is_silent:
            return
        packet = router_advertisement(
            router.link_local(port), *router.advertised[port.index], mac=port.mac
        )
        message = packet.payload
        assert isinstance(message, RouterAdvertisement)
        options = (*message.options, AdvertisementInterval(interval))
        packet = replace(packet, payload=replace(message, options=options))
        port.send(multicast_mac(ALL_NODES), encode_packet(packet))

    def repeat() -> None:
        send(port)
        router.world.after(interval, repeat)

    router.send_advertisement = send  # type: ignore[method-assign]
    repeat()
    return be_silent


@requirement("RFC6275-11.5.1", "MOV-01", "MOV-13")
def test_advertisement_of_a_further_router_moves_nobody() -> None:
    with World(seed=1) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        world.run_for(3)
        further_router(net)
        world.run_for(200)
        assert net.is_registered_in(PREFIX_A)
        updates = asked(since(net.mobile_node, 0), BindingUpdate)
        assert not any(packet.source in PREFIX_C for packet in updates)
        assert net.mobile_node.reported("path-doubtful") == [], "packets still go the right way"


@requirement("RFC6275-11.5.1", "MOV-02", "MOV-13")
def test_default_router_that_dies_is_noticed_and_another_one_taken() -> None:
    with World(seed=2) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        further_router(net).world.run_for(40)
        net.link_a.detach(net.router_a.ports[0])
        taken: Callable[[], bool] = lambda: any(  # noqa: E731
            packet.source in PREFIX_C for packet in asked(since(net.mobile_node, 0), BindingUpdate)
        )
        world.run_until(taken, timeout=60)
        assert net.mobile_node.reported("router-unreachable")


@requirement("RFC6275-11.5.1", "MOV-02", "MOV-11")
@pytest.mark.parametrize("seed", range(5))
def test_movement_that_no_link_event_told_is_noticed_by_silence(seed: int) -> None:
    with World(seed=seed) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.router_b.interval = 10_000
        world.run_for(40)
        moved_at = world.now
        move_unseen(net)
        world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=60)
        (lost,) = net.mobile_node.reported("router-unreachable")
        assert IPv6Address(lost["router"]) == net.router_a.link_local(net.router_a.ports[0])
        assert asked(since(net.mobile_node, moved_at), RouterSolicitation)


@requirement("RFC6275-11.5.1", "MOV-04")
def test_missing_advertisements_make_the_node_ask_and_find_that_it_moved() -> None:
    with World(seed=3) as world:
        net = Topology(world)
        advertise_often(net.router_a, net.router_a.ports[0], 0.5)
        net.router_b.interval = 10_000
        net.register_in(net.link_a, PREFIX_A)
        world.run_for(31)
        moved_at = world.now
        move_unseen(net)
        world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=4)
        assert world.now - moved_at < 3


@requirement("RFC6275-11.5.1", "MOV-04")
def test_missing_advertisements_of_a_router_that_answers_move_nobody() -> None:
    with World(seed=4) as world:
        net = Topology(world)
        stop = advertise_often(net.router_a, net.router_a.ports[0], 0.5)
        net.register_in(net.link_a, PREFIX_A)
        stop()
        before = world.now
        world.run_for(120)
        assert net.is_registered_in(PREFIX_A)
        assert net.mobile_node.reported("router-unreachable") == []
        assert asked(since(net.mobile_node, before), NeighborSolicitation)


@requirement("RFC6275-11.5.4", "MOV-03", "MOV-13")
def test_care_of_address_of_the_link_left_is_removed() -> None:
    with World(seed=5) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        world.run_for(3)
        old = net.bound_to
        net.move(net.link_b, carrier_lost=False)
        world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=2)
        removed = {a.address for a in net.mobile_node.done(RemoveAddress)}  # type: ignore[union-attr]
        assert old in removed


@requirement("RFC6275-11.5.1", "MOV-05")
def test_roam_within_one_subnet_asks_the_router_by_unicast_and_hands_nothing_over() -> None:
    with World(seed=6) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        world.run_for(3)
        before, moved_at = net.bound_to, world.now
        net.move(net.link_a, carrier_lost=False)
        world.run_until(lambda: net.state == "registered", timeout=0.1)
        assert net.bound_to == before
        actions = since(net.mobile_node, moved_at)
        (probe,) = asked(actions, NeighborSolicitation)
        assert probe.destination == net.router_a.link_local(net.router_a.ports[0])
        world.run_for(5)
        # One update says that the node is still there; nothing of the care-of address is new.
        updates = asked(since(net.mobile_node, moved_at), BindingUpdate)
        assert [packet.source for packet in updates] == [before]
        assert net.bound_to == before


@requirement("RFC6275-11.5.1", "MOV-06", "MOV-17")
def test_roam_to_another_subnet_solicits_at_once_and_changes_the_address() -> None:
    with World(seed=7) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        world.run_for(3)
        moved_at = world.now
        net.move(net.link_b, carrier_lost=False)
        assert asked(since(net.mobile_node, moved_at), RouterSolicitation)
        world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=0.2)


@requirement("RFC6275-11.5.1", "MOV-06", "MOV-17")
def test_router_that_cannot_be_heard_for_half_a_minute_is_found_soon_after() -> None:
    with World(seed=8) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        world.run_for(3)
        net.router_b.interval = 10_000
        world.run_for(60)  # the periodic one of before is over
        net.router_b.send_advertisement = partial(  # type: ignore[method-assign]
            advertise_after, net.router_b, world.now + 30.0
        )
        moved_at = world.now
        net.move(net.link_b, carrier_lost=False)
        world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=40)
        assert 30 < world.now - moved_at < 35


def advertise_after(router: Router, instant: float, port: Port) -> None:
    if router.world.now > instant:
        Router.send_advertisement(router, port)


@requirement("RFC6275-11.5.2", "MOV-08")
def test_advertisement_of_the_home_prefix_means_home() -> None:
    with World(seed=9) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.move(net.home)
        world.run_until(lambda: net.state == "at-home", timeout=5)


@requirement("RFC6275-11.5.3", "MOV-09")
def test_nothing_about_the_new_address_is_sent_from_the_home_address() -> None:
    with World(seed=10) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.register_in(net.link_b, PREFIX_B)
        world.run_for(3)
        for link in (net.link_a, net.link_b):
            sources = {
                IPv6Address(frame.data[8:24]) for _, frame in link.frames if frame.data[6] == 58
            }
            assert HOME_ADDRESS not in sources
        own = net.mobile_node.link_local(net.port)
        for packet in asked(since(net.mobile_node, 0), RouterSolicitation):
            assert packet.source in (own, IPv6Address("::"))


@requirement("RFC6275-11.5.4", "MOV-12")
def test_packets_to_the_old_care_of_address_are_taken_while_its_link_is_there() -> None:
    with World(seed=12) as world:
        net = Topology(world, core_delay=0.2)
        second = net.mobile_node.add_port()
        net.mobile_node.attach(second, net.link_b)
        world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=5)
        world.run_for(3)
        for number in range(20):
            net.correspondent.ping(CORRESPONDENT, HOME_ADDRESS, sequence=number)
            world.run_for(0.05)
            if number == 5:
                net.move(net.link_a)
        world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=5)
        world.run_for(3)
        assert sorted(net.correspondent.echo_replies()) == list(range(20))
        tunnels = [a.local for a in net.mobile_node.done(SetTunnel)]  # type: ignore[union-attr]
        assert tunnels[0] in PREFIX_B and tunnels[-1] in PREFIX_A


@requirement("RFC6275-11.5.3", "MOV-14")
def test_address_that_is_deprecated_gives_way_to_one_of_another_prefix() -> None:
    with World(seed=13) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        world.run_for(3)
        port = net.router_a.ports[0]
        net.router_a.addresses[port.index][IPv6Address("2001:db8:cc::1")] = 64
        for node in (net.home_agent, net.correspondent, net.router_b):
            node.add_route(str(PREFIX_C), node.ports[-1], "2001:db8:c::a")
        net.router_a.send_advertisement(port)
        net.router_a.advertised[port.index] = (str(PREFIX_A), str(PREFIX_C))
        net.router_a.preferred_lifetime = 0.0
        send(net.router_a, port, str(PREFIX_A), preferred=0.0)
        send(net.router_a, port, str(PREFIX_C), preferred=1800.0)
        world.run_until(lambda: net.is_registered_in(PREFIX_C), timeout=5)


def send(router: Router, port: Port, prefix: str, *, preferred: float) -> None:
    packet = router_advertisement(
        router.link_local(port), str(prefix), mac=port.mac, preferred=preferred
    )
    port.send(multicast_mac(ALL_NODES), encode_packet(packet))


@requirement("RFC4862-5.5.3", "MOV-15")
def test_readvertised_prefix_prolongs_the_address_and_the_next_binding() -> None:
    with World(seed=14) as world:
        net = Topology(world, mobile_node={"lifetime": 600})
        net.router_a.valid_lifetime, net.router_a.preferred_lifetime = 100, 100
        net.register_in(net.link_a, PREFIX_A)
        world.run_for(20)
        (first, *_) = asked(since(net.mobile_node, 0), BindingUpdate)
        assert isinstance(first.payload, BindingUpdate) and first.payload.lifetime <= 100
        net.router_a.valid_lifetime, net.router_a.preferred_lifetime = 3600, 1800
        world.run_for(300)
        assert net.is_registered_in(PREFIX_A)
        last = asked(since(net.mobile_node, 0), BindingUpdate)[-1]
        assert isinstance(last.payload, BindingUpdate) and last.payload.lifetime == 600
        assert net.mobile_node.reported("binding-expired") == []


@requirement("RFC4429-3.1", "MOV-16", "MOV-10")
def test_optimistic_address_solicits_nobody_but_sends_the_update() -> None:
    with World(seed=15) as world:
        net = Topology(world, mobile_node={"optimistic": True})
        net.move(net.link_a)
        world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=5)
        care_of_address = net.bound_to
        (checked_at,) = [
            at
            for at, action in net.mobile_node.actions
            if isinstance(action, SendPacket)
            and isinstance(action.packet.payload, NeighborSolicitation)
            and action.packet.payload.target == care_of_address
        ]
        added_at = next(at for at, a in net.mobile_node.actions if isinstance(a, AddAddress))
        assert checked_at == added_at, "nobody waited before the probe"
        world.run_for(3)
        for packet in asked(since(net.mobile_node, 0), (NeighborSolicitation, RouterSolicitation)):  # type: ignore[arg-type]
            assert packet.source != care_of_address
            if packet.source.is_unspecified:
                options = packet.payload.options  # type: ignore[union-attr]
                assert not any(isinstance(o, SourceLinkLayerAddress) for o in options)
        assert {u.destination for u in asked(since(net.mobile_node, 0), BindingUpdate)} == {
            HOME_AGENT
        }


@requirement("RFC4861-6.1.2", "MOV-17")
@pytest.mark.parametrize("option", [bytes(8), bytes((3, 0, *bytes(30))), bytes((24, 1))])
def test_advertisement_with_an_option_of_no_length_is_dropped_whole(option: bytes) -> None:
    driver = AgentDriver()
    driver.link_up()
    message = RouterAdvertisement(router_lifetime=1800)
    data = encode_packet(IPv6Packet(ROUTER, ALL_NODES, message, hop_limit=255))
    payload = bytearray(data[40:] + option)
    payload[2:4] = bytes(2)
    payload[2:4] = upper_layer_checksum(ROUTER, ALL_NODES, 58, bytes(payload)).to_bytes(2, "big")
    whole = data[:4] + len(payload).to_bytes(2, "big") + data[6:40] + bytes(payload)
    assert driver.receive(whole) == []
    assert driver.drop_count("malformed") == 1
