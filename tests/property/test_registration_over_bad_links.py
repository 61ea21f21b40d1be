"""A mobile node and its home agent over links that lose, delay, reorder and duplicate.

Both machines run without security associations here, so copies that an anti-replay window would
stop reach them too. Whatever happened: once the losses stop, both ends agree.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mnagent.core.actions import (
    LeaveHomeLink,
    RemoveTunnel,
    SendPacket,
    SetTunnel,
    UseHomeLink,
)
from mnagent.core.events import LinkDown, LinkUp, PacketReceived
from mnagent.core.indications import AddressUsable, RouterFound
from mnagent.mobility.addresses import ALL_NODES, UNSPECIFIED_ADDRESS
from mnagent.mobility.mobile_node import MobileNode, MobileNodeSettings
from mnagent.wire.ipv6 import IPv6Packet, RawPayload
from mnagent.wire.mobility import BindingUpdate
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation
from mnagent.wire.packet import decode_packet, encode_packet
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    CORRESPONDENT,
    FOREIGN_SIDE,
    HOME_ADDRESS,
    HOME_AGENT_ADDRESS,
    HOME_LINK,
    HOME_PREFIX,
    OTHER_CARE_OF_ADDRESS,
    make_home_agent,
)
from tests.support.requirement import requirement
from tests.support.world import Frame, Port, World

ROUTER = IPv6Address("fe80::1")
INTERFACE = 5
CARE_OF_ADDRESSES = {"a": CARE_OF_ADDRESS, "b": OTHER_CARE_OF_ADDRESS}
PLACES = ("home", "a", "b", "nowhere")
CONVERGENCE = 120.0
"""Seconds: three of the longest back-off, and one duplicate address detection at each end."""
LIFETIME = 300.0


class Node:
    """A machine with ports, driven by the world's clock."""

    def __init__(self, world: World, machine: Any) -> None:
        self.world = world
        self.machine = machine
        self._armed: float | None = None

    def feed(self, event: Any) -> None:
        """Hand in an event and do what comes out."""
        self._do(self.machine.handle(event, self.world.now))

    def receive(self, port: Port, frame: Frame) -> None:
        """A frame arrived: decode it and hand it in, unless the host would not."""
        packet = decode_packet(frame.data)
        if self.is_for_us(packet):
            self.feed(
                PacketReceived(packet=packet, interface=port.index, link_layer_source=frame.source)
            )

    def is_for_us(self, packet: IPv6Packet) -> bool:
        return True

    def carry_out(self, action: Any) -> None:
        """Do one thing that the machine asks for."""
        raise NotImplementedError

    def _do(self, outputs: list[Any]) -> None:
        for output in outputs:
            self.carry_out(output)
        self._arm()

    def _arm(self) -> None:
        deadline = self.machine.next_deadline()
        if deadline is not None and deadline != self._armed:
            assert deadline >= self.world.now, "a deadline in the past"
            self._armed = deadline
            self.world.at(deadline, self._run_timers)

    def _run_timers(self) -> None:
        deadline = self.machine.next_deadline()
        if deadline is not None and deadline <= self.world.now:
            self._do(self.machine.handle_timer(self.world.now))
        else:
            self._arm()


class HomeAgentNode(Node):
    """The home agent, a port on the home link and one towards the foreign links."""

    def __init__(self, world: World) -> None:
        super().__init__(world, make_home_agent(max_lifetime=LIFETIME))
        self.home = Port(self, HOME_LINK, "home0", world.new_mac())
        self.foreign = Port(self, FOREIGN_SIDE, "core0", world.new_mac())
        self.mobile_node_mac = b""
        self.tunnel: IPv6Address | None = None
        self.feed(LinkUp(interface=HOME_LINK, name="home0", link_layer_address=self.home.mac))

    def carry_out(self, action: Any) -> None:
        match action:
            case SetTunnel(remote=remote):
                self.tunnel = remote
            case RemoveTunnel():
                self.tunnel = None
            case SendPacket(packet=packet) if packet.destination.is_multicast:
                self.home.send(b"\x33\x33\0\0\0\1", encode_packet(packet))
            case SendPacket(packet=packet, link_layer_destination=bytes(mac)):
                self.home.send(mac, encode_packet(packet))
            case SendPacket(packet=packet) if packet.destination not in HOME_PREFIX:
                self.foreign.send(self.mobile_node_mac, encode_packet(packet))

    def restart(self) -> None:
        """Come back without any memory, as after a crash."""
        self.machine = make_home_agent(max_lifetime=LIFETIME)
        self.tunnel = None
        self.feed(LinkUp(interface=HOME_LINK, name="home0", link_layer_address=self.home.mac))

    def take_payload(self, care_of_address: IPv6Address) -> None:
        """A packet of the mobile node came out of a tunnel: the engine knows it or hands it up."""
        if self.tunnel != care_of_address:
            packet = IPv6Packet(HOME_ADDRESS, CORRESPONDENT, RawPayload(6, bytes(20)))
            self.feed(
                PacketReceived(packet=packet, interface=FOREIGN_SIDE, tunnel_source=care_of_address)
            )


class MobileNodeNode(Node):
    """The mobile node, its one port, and the host beneath it."""

    def __init__(self, world: World, home_agent: HomeAgentNode) -> None:
        settings = MobileNodeSettings(
            home_address=HOME_ADDRESS, home_agent_address=HOME_AGENT_ADDRESS, lifetime=LIFETIME
        )
        super().__init__(world, MobileNode(settings, random=Random(world.random.random())))
        self.port = Port(self, INTERFACE, "wlan0", world.new_mac())
        self.home_agent = home_agent
        home_agent.mobile_node_mac = self.port.mac
        self.addresses: set[IPv6Address] = set()
        self.tunnel: IPv6Address | None = None
        self.place = "nowhere"
        self.updates_sent: list[float] = []

    def is_for_us(self, packet: IPv6Packet) -> bool:
        message = packet.payload
        if isinstance(message, NeighborSolicitation) and message.target in self.addresses:
            self._defend(message.target)
        return (
            packet.destination.is_multicast
            or packet.destination in self.addresses
            or (self.place == "home" and packet.destination == HOME_ADDRESS)
        )

    def _defend(self, target: IPv6Address) -> None:
        """What the host's own neighbour discovery does for an address it has."""
        message = NeighborAdvertisement(target, override=True)
        packet = IPv6Packet(target, ALL_NODES, message, hop_limit=255)
        self.port.send(b"\x33\x33\0\0\0\1", encode_packet(packet))

    def move(self, place: str) -> None:
        """Change the place: the link goes, and comes back with what is there."""
        if self.port.link is not None:
            self.port.link.detach(self.port)
            self.addresses.clear()
            self.feed(LinkDown(interface=INTERFACE))
        self.place = place
        if place == "nowhere":
            return
        self.world.links["home" if place == "home" else "core"].attach(self.port)
        self.feed(LinkUp(interface=INTERFACE, name="wlan0", link_layer_address=self.port.mac))
        prefix = HOME_PREFIX
        if place != "home":
            address = CARE_OF_ADDRESSES[place]
            self.addresses.add(address)
            prefix = IPv6Network((address, 64), strict=False)
            self.feed(AddressUsable(interface=INTERFACE, address=address, prefix_length=64))
        self.feed(RouterFound(interface=INTERFACE, router=ROUTER, prefixes=(prefix,)))

    def carry_out(self, action: Any) -> None:
        match action:
            case SetTunnel(local=local):
                self.tunnel = local
            case RemoveTunnel():
                self.tunnel = None
            case UseHomeLink():
                self.addresses.add(HOME_ADDRESS)
            case LeaveHomeLink():
                self.addresses.discard(HOME_ADDRESS)
            case SendPacket(packet=packet, link_layer_destination=mac):
                self._send(packet, mac)

    def _send(self, packet: IPv6Packet, mac: bytes | None) -> None:
        if isinstance(packet.payload, BindingUpdate):
            self.updates_sent.append(self.world.now)
        assert packet.source in {*self.addresses, HOME_ADDRESS, UNSPECIFIED_ADDRESS} or (
            packet.source.is_link_local
        )
        if packet.destination.is_multicast:
            mac = b"\x33\x33\0\0\0\1"
        elif mac is None:
            mac = self.home_agent.home.mac if self.place == "home" else self.home_agent.foreign.mac
        self.port.send(mac, encode_packet(packet))


class Scene:
    """Home link, the way to the foreign links, and both nodes."""

    def __init__(self, seed: int, *, loss: float, reorder: float, duplicate: float) -> None:
        self.world = World(seed=seed)
        for name, delay in (("home", 0.001), ("core", 0.02)):
            self.world.link(name, delay=delay, loss=loss, reorder=reorder, duplicate=duplicate)
        self.home_agent = HomeAgentNode(self.world)
        self.world.links["home"].attach(self.home_agent.home)
        self.world.links["core"].attach(self.home_agent.foreign)
        self.mobile_node = MobileNodeNode(self.world, self.home_agent)

    def heal(self) -> None:
        """From now on the links are perfect."""
        for link in self.world.links.values():
            link.loss = link.reorder = link.duplicate = 0.0

    @property
    def agrees(self) -> bool:
        """Both ends have the same idea of where the mobile node is, and it is the truth."""
        node, agent = self.mobile_node, self.home_agent
        bound = [entry.care_of_address for entry in agent.machine.bindings]
        if node.place == "home":
            return bound == [] and agent.tunnel is None and node.machine.state == "at-home"
        address = CARE_OF_ADDRESSES[node.place]
        registered = node.machine.registration.bound_address
        return (
            bound == [address]
            and agent.tunnel == node.tunnel == registered == address
            and node.machine.state in ("registered", "refreshing")
        )

    def travel(self, journey: list[tuple[str, float]]) -> None:
        """Be at each place for so many seconds."""
        for place, duration in journey:
            self.mobile_node.move(place)
            self.world.run_for(duration)


JOURNEYS = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from((0.01, 0.3, 1.0, 1.5, 3.0, 12.0, 100.0))),
    max_size=8,
)
PROBABILITIES = st.sampled_from((0.0, 0.1, 0.3, 0.6))


@requirement("RFC6275-11.8", "HA-14", "HA-29")
@settings(max_examples=60, deadline=None)
@given(
    journey=JOURNEYS,
    last=st.sampled_from(("home", "a", "b")),
    seed=st.integers(0, 2**16),
    loss=PROBABILITIES,
    reorder=PROBABILITIES,
    duplicate=PROBABILITIES,
)
@example(
    # The home agent's binding ends a little after the mobile node's own count of it.
    journey=[("a", 100.0), ("nowhere", 100.0), ("nowhere", 100.0)],
    last="home",
    seed=0,
    loss=0.0,
    reorder=0.0,
    duplicate=0.0,
)
@example(
    journey=[("a", 1.5), ("home", 0.3), ("a", 3.0)],
    last="b",
    seed=1,
    loss=0.3,
    reorder=0.3,
    duplicate=0.3,
)
def test_both_ends_after_losses_stop_agree_on_the_care_of_address(
    journey: list[tuple[str, float]],
    last: str,
    seed: int,
    loss: float,
    reorder: float,
    duplicate: float,
) -> None:
    scene = Scene(seed, loss=loss, reorder=reorder, duplicate=duplicate)
    with scene.world as world:
        scene.travel(journey)
        scene.mobile_node.move(last)
        world.run_for(2.0)
        scene.heal()
        world.run_until(lambda: scene.agrees, timeout=CONVERGENCE)
        world.run_for(1.0)
        for _ in range(20):
            world.run_for(LIFETIME / 10)
            assert scene.agrees, "agreed, but not for good"


@requirement("RFC6275-11.8", "HA-13")
@pytest.mark.parametrize("seed", range(5))
def test_both_ends_over_perfect_links_agree_at_once(seed: int) -> None:
    scene = Scene(seed, loss=0.0, reorder=0.0, duplicate=0.0)
    with scene.world as world:
        scene.mobile_node.move("a")
        world.run_until(lambda: scene.agrees, timeout=1.5)
        scene.mobile_node.move("b")
        world.run_until(lambda: scene.agrees, timeout=0.1)
        scene.mobile_node.move("home")
        world.run_until(lambda: scene.agrees, timeout=0.1)
        assert len(scene.mobile_node.updates_sent) == 3


@requirement("RFC6275-11.3.6", "OPS-03", "MN-46")
@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_both_ends_after_home_agent_restart_agree_soon(loss: float) -> None:
    scene = Scene(11, loss=0.0, reorder=0.0, duplicate=0.0)
    with scene.world as world:
        scene.travel([("a", 5.0)])
        assert scene.agrees
        scene.home_agent.restart()
        scene.world.links["core"].loss = loss
        for _ in range(40):
            # Half a second of traffic at a time, until the home agent knows its node again.
            if scene.home_agent.tunnel is None:
                scene.home_agent.take_payload(CARE_OF_ADDRESS)
            world.run_for(0.5)
        scene.heal()
        world.run_until(lambda: scene.agrees, timeout=CONVERGENCE if loss else 0.0)


def test_both_ends_moving_without_a_pause_agree_in_the_end() -> None:
    scene = Scene(7, loss=0.2, reorder=0.2, duplicate=0.2)
    with scene.world as world:
        for index in range(50):
            scene.mobile_node.move("ab"[index % 2])
            world.run_for(2.0)
        scene.heal()
        world.run_until(lambda: scene.agrees, timeout=CONVERGENCE)
