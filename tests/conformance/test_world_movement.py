"""Moves in a whole network: several interfaces, moves that overtake each other, moves that nobody
tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mnagent.agent.agent import Agent
from mnagent.agent.handovers import HandoverRecord
from mnagent.agent.snapshot import MobileNodeSnapshot
from mnagent.core.actions import HoldTunnel, SendPacket
from mnagent.core.events import LinkDown, LinkUp
from mnagent.wire.mobility import BindingUpdate
from tests.support.nodes import HELD_PACKETS
from tests.support.requirement import requirement
from tests.support.topology import CORRESPONDENT, HOME_ADDRESS, PREFIX_A, PREFIX_B, Topology
from tests.support.world import Link, Port, World

ROUTER_ADVERTISEMENT = 134


@contextmanager
def network(seed: int, **options: object) -> Iterator[Topology]:
    with World(seed=seed) as world:
        yield Topology(world, mobile_node=dict(options))  # type: ignore[arg-type]


def snapshot(net: Topology) -> MobileNodeSnapshot:
    agent = net.mobile_node.agent
    assert isinstance(agent, Agent)
    shown = agent.snapshot(net.world.now).mobile_node
    assert shown is not None
    return shown


def handovers(net: Topology) -> tuple[HandoverRecord, ...]:
    return snapshot(net).handovers


def second_interface(net: Topology, link: Link) -> Port:
    port = net.mobile_node.add_port()
    net.mobile_node.attach(port, link)
    return port


def updates(net: Topology) -> int:
    return sum(
        isinstance(action, SendPacket) and isinstance(action.packet.payload, BindingUpdate)
        for _, action in net.mobile_node.actions
    )


def stream(net: Topology, *, duration: float, interval: float = 0.01) -> int:
    """Echo requests from the correspondent to the home address; returns how many."""
    count = round(duration / interval)
    for number in range(count):
        net.world.after(
            number * interval, lambda: net.correspondent.ping(CORRESPONDENT, HOME_ADDRESS)
        )
    return count


@requirement("RFC6275-11.5.1", "MOV-02")
def test_advertisement_of_the_home_link_read_only_on_the_next_link_costs_seconds_at_most() -> None:
    with network(30) as net:
        net.return_home()
        advertised = net.home.frames[-1][1]
        for _, frame in net.home.frames:
            if frame.data[40] == ROUTER_ADVERTISEMENT:
                advertised = frame
        net.move(net.link_a)
        net.world.after(0.001, lambda: net.mobile_node.receive(net.port, advertised))
        net.world.run_for(0.05)
        assert net.state.startswith("at-home"), "it was taken in"
        net.world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=4.0)
        assert snapshot(net).home_addresses[1:] == (), "the foreign prefix is none of the home link"
        net.world.run_for(30.0)
        assert net.is_registered_in(PREFIX_A)


@requirement("RFC6275-11.5.4", "MOV-12")
def test_move_to_a_better_interface_while_the_old_one_works_loses_no_packet() -> None:
    with network(31) as net:
        port = second_interface(net, net.link_b)
        net.world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=10)
        net.world.run_for(2)
        waits = len(net.mobile_node.done(HoldTunnel))
        sent = stream(net, duration=2.0)
        net.world.run_for(0.5)
        net.move(net.link_a)
        net.world.run_for(4)
        assert net.is_registered_in(PREFIX_A)
        assert port.link is net.link_b, "the old interface kept its link"
        assert len(net.correspondent.echo_replies()) == sent
        assert len(net.mobile_node.done(HoldTunnel)) == waits, "nothing had to wait"


@requirement("RFC6275-11.7.1", "MN-13")
@pytest.mark.parametrize("seed", range(5))
def test_three_moves_in_two_seconds_end_where_the_node_is(seed: int) -> None:
    with network(40 + seed) as net:
        net.register_in(net.link_b, PREFIX_B)
        for link in (net.link_a, net.link_b, net.link_a):
            net.move(link)
            net.world.run_for(0.66)
        net.world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=5)
        net.world.run_for(60)
        assert net.is_registered_in(PREFIX_A)
        net.correspondent.ping(CORRESPONDENT, HOME_ADDRESS)
        net.world.run_for(1)
        assert len(net.correspondent.echo_replies()) == 1


@requirement("RFC6275-11.8", "MN-24")
@pytest.mark.parametrize("after", [0.0, 0.005, 0.02, 0.5, 1.2, 3.5])
def test_move_during_an_unanswered_update_ends_where_the_node_is(after: float) -> None:
    with network(50) as net:
        net.register_in(net.link_b, PREFIX_B)
        net.home_agent.detach(net.home_agent.ports[1])
        seen = updates(net)
        net.move(net.link_a)
        net.world.run_until(lambda: updates(net) > seen, timeout=5)
        net.world.run_for(after)
        net.home_agent.attach(net.home_agent.ports[1], net.core)
        net.move(net.link_b)
        net.world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=5)
        net.world.run_for(100)
        assert net.is_registered_in(PREFIX_B)


def test_packets_that_wait_for_a_registration_are_bounded() -> None:
    with network(60, early_tunnel=False) as net:
        net.register_in(net.link_b, PREFIX_B)
        net.mobile_node.detach(net.port)
        for _ in range(5000):
            net.mobile_node.send_data(CORRESPONDENT, b"waits")
        net.move(net.link_a)
        net.world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=5)
        net.world.run_for(1)
        dropped = net.mobile_node.verdicts["held-dropped"]
        assert 0 < len(net.correspondent.received_data()) <= 5000 - dropped
        assert 5000 - dropped <= HELD_PACKETS


@requirement("RFC6275-11.5.1", "MOV-06")
@pytest.mark.parametrize("optimistic", [True, False])
def test_move_that_no_event_told_is_found_by_what_does_not_come_back(optimistic: bool) -> None:
    with network(70, optimistic=optimistic) as net:
        # Advertisements nobody asked for would tell of the new link by themselves.
        net.register_in(net.link_a, PREFIX_A)
        net.mobile_node.watch_tunnel()
        net.world.run_for(5)
        net.link_b.attach(net.port)
        for second in range(20):
            net.world.after(float(second), lambda: net.mobile_node.send_data(CORRESPONDENT, b"x"))
        net.world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=15)
        net.world.run_for(5)
        assert net.is_registered_in(PREFIX_B)


@requirement("RFC6275-11.5.1", "MOV-06")
def test_move_of_an_idle_node_that_no_event_told_is_found_on_the_schedule() -> None:
    with network(71, path_check_interval=30) as net:
        net.register_in(net.link_a, PREFIX_A)
        net.world.run_for(5)
        net.link_b.attach(net.port)
        net.world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=40)


def test_flapping_preferred_interface_does_not_drag_the_node_along() -> None:
    with network(80) as net:
        second_interface(net, net.link_b)
        net.register_in(net.link_a, PREFIX_A)
        for _ in range(10):
            net.mobile_node.detach(net.port)
            net.world.run_for(0.5)
            net.move(net.link_a)
            net.world.run_for(0.5)
        flaps = len(handovers(net))
        assert flaps < 10, "moved with every flap"
        net.world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=120)


@requirement("RFC6275-11.5.1", "MOV-05")
def test_roam_within_one_link_is_no_handover() -> None:
    with network(90) as net:
        net.register_in(net.link_a, PREFIX_A)
        before = len(handovers(net))
        for _ in range(5):
            net.move(net.link_a, carrier_lost=False)
            net.world.run_for(2)
        assert net.is_registered_in(PREFIX_A)
        assert len(handovers(net)) == before


def test_every_move_is_one_handover_with_its_phases_in_order() -> None:
    with network(91) as net:
        net.mobile_node.watch_tunnel(interval=0.01)
        net.register_in(net.link_a, PREFIX_A)
        for link, prefix in ((net.link_b, PREFIX_B), (net.link_a, PREFIX_A)) * 3:
            stream(net, duration=0.5)
            net.register_in(link, prefix)
            net.world.run_for(2)
        net.return_home()
        *moves, home = handovers(net)[-7:]
        assert snapshot(net).handover_totals["count"] >= 7
        assert home.at_home and home.acknowledged_at is not None
        for move in moves:
            instants = (
                move.link_up_at,
                move.care_of_address_ready_at,
                move.update_sent_at,
                move.acknowledged_at,
                move.first_packet_in_at,
            )
            assert None not in instants
            assert list(instants) == sorted(instants, key=float)  # type: ignore[arg-type]


def test_interface_that_vanishes_and_another_that_appears_is_a_handover() -> None:
    with network(92) as net:
        net.register_in(net.link_a, PREFIX_A)
        net.mobile_node.tell(LinkDown(interface=net.port.index))
        net.link_a.detach(net.port)
        second_interface(net, net.link_b)
        net.world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=5)
        assert handovers(net)[-1].interface == "eth1"


def test_resume_in_another_place_is_a_handover() -> None:
    with network(93) as net:
        net.register_in(net.link_a, PREFIX_A)
        net.link_b.attach(net.port)
        net.world.run_for(0.5)
        again = LinkUp(
            interface=net.port.index, name=net.port.name, link_layer_address=net.port.mac
        )
        net.mobile_node.tell(again)
        net.world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=3)
