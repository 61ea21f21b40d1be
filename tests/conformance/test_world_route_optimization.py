"""Mobile node, home agent and correspondent in one network: from the tunnel to the direct path."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import RemoveDirectPath, SendPacket, SetDirectPath, SetTunnel
from mnagent.wire.mobility import (
    BindingUpdate,
    CareOfTestInit,
    HomeTest,
    HomeTestInit,
)
from mnagent.wire.packet import decode_packet
from tests.support.correspondent_host import CorrespondentHost
from tests.support.nodes import AgentNode
from tests.support.packets import datagram
from tests.support.requirement import requirement
from tests.support.topology import (
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    PREFIX_A,
    Topology,
)
from tests.support.world import Link, World

CORE_DELAY = 0.01
ROUND_TRIP = 2 * (CORE_DELAY + 0.001)
"""Seconds between mobile node and correspondent and back."""


class Optimized:
    """A network whose correspondent takes bindings, and a flow in both directions."""

    def __init__(self, world: World, **options: object) -> None:
        self.world = world
        self.net = Topology(
            world,
            with_correspondent=True,
            core_delay=CORE_DELAY,
            **options,  # type: ignore[arg-type]
        )
        correspondent = self.net.correspondent
        assert isinstance(correspondent, CorrespondentHost)
        self.correspondent = correspondent
        self.number = 0

    @property
    def mobile_node(self) -> AgentNode:
        return self.net.mobile_node

    def warm(self) -> None:
        """Let the nodes of the core know each other, as they do in a network that is in use."""
        for router in ("2001:db8:a::1", "2001:db8:b::1", "2001:db8:1::1"):
            self.correspondent.ping(CORRESPONDENT, IPv6Address(router))
            self.net.home_agent.ping(IPv6Address("2001:db8:c::1"), IPv6Address(router))
        self.world.run_for(1)

    def register_in(self, link: Link, prefix: object) -> None:
        self.net.register_in(link, prefix)  # type: ignore[arg-type]

    def exchange(self, duration: float, *, interval: float = 0.05) -> tuple[int, int]:
        """One datagram each way every interval; how many were sent each way."""
        first = self.number
        steps = round(duration / interval)
        for _ in range(steps):
            self.mobile_node.send_data(CORRESPONDENT, b"out %d" % self.number)
            self.correspondent.send(datagram(CORRESPONDENT, HOME_ADDRESS, b"in %d" % self.number))
            self.number += 1
            self.world.run_for(interval)
        return first, self.number

    def received(self) -> tuple[set[bytes], set[bytes]]:
        """What the correspondent and the mobile node got."""
        return set(self.correspondent.received_data()), set(self.mobile_node.received_data())

    @property
    def is_direct(self) -> bool:
        """Both ends have the direct path, for the address where the mobile node is."""
        paths = self.mobile_node.done(SetDirectPath) + self.mobile_node.done(RemoveDirectPath)
        bindings = {b.care_of_address for b in self.correspondent.node.bindings}
        last = [a for _, a in self.mobile_node.actions if a in paths]
        return (
            bool(last)
            and isinstance(last[-1], SetDirectPath)
            and (last[-1].care_of_address in bindings)
        )

    def payload_at_home_agent(self) -> int:
        """Payload packets the home agent has carried so far."""
        agent = self.net.home_agent
        count = 0
        for link in self.world.links.values():
            for _, frame in link.frames:
                if frame.data[6] == 41 and HOME_AGENT.packed in (
                    frame.data[8:24],
                    frame.data[24:40],
                ):
                    count += 1
        assert agent.agent is not None
        return count


def sent_at(node: AgentNode, kind: type[object], *, to: object = CORRESPONDENT) -> list[float]:
    return [
        at
        for at, action in node.actions
        if isinstance(action, SendPacket)
        and isinstance(action.packet.payload, kind)
        and action.packet.destination == to
    ]


@requirement("RFC6275-11.3.1", "MN-31", "RR-06", "CN-02", "CN-10")
def test_flow_moves_to_the_direct_path_within_two_round_trips() -> None:
    with World(seed=51) as world:
        flow = Optimized(world)
        flow.register_in(flow.net.link_a, PREFIX_A)
        flow.warm()
        started_at = world.now
        flow.mobile_node.send_data(CORRESPONDENT, b"first")
        world.run_until(lambda: flow.is_direct, timeout=1)
        farther = 2 * (2 * CORE_DELAY + 0.003)  # through the home agent
        assert world.now - started_at <= farther + ROUND_TRIP + 0.02
        before = flow.payload_at_home_agent()
        first, last = flow.exchange(2)
        world.run_for(1)
        out, into = flow.received()
        assert {b"out %d" % n for n in range(first, last)} <= out
        assert {b"in %d" % n for n in range(first, last)} <= into
        assert flow.payload_at_home_agent() == before


@requirement("RFC6275-11.6.3", "RR-02")
def test_home_test_init_goes_through_an_esp_tunnel() -> None:
    with World(seed=52) as world:
        flow = Optimized(world)
        flow.register_in(flow.net.link_a, PREFIX_A)
        flow.exchange(1)
        assert flow.is_direct
        for _, frame in flow.net.link_a.frames:
            if frame.data[6] == 41:
                assert frame.data[46] != 135, "a Home Test message in a plain tunnel"
        (tunnel,) = set(flow.mobile_node.done(SetTunnel))
        assert isinstance(tunnel, SetTunnel) and tunnel.home_test_outbound_spi is not None
        (home_test,) = [e for e in flow.mobile_node.handed_up if e.tunnel_source == HOME_AGENT]
        assert isinstance(decode_packet(home_test.data).payload, HomeTest)
        assert home_test.protected_by == tunnel.home_test_inbound_spi
        outbound = tunnel.home_test_outbound_spi.to_bytes(4, "big")
        assert any(frame.data[40:44] == outbound for _, frame in flow.net.link_a.frames)


@requirement("RFC6275-11.7.2", "MN-51", "MN-54", "RR-07")
@pytest.mark.parametrize("dwell", [5.0, 100.0])
def test_handover_tests_the_care_of_address_at_once_and_tells_after_the_home_agent(
    dwell: float,
) -> None:
    with World(seed=53) as world:
        flow = Optimized(world)
        flow.register_in(flow.net.link_a, PREFIX_A)
        flow.warm()
        flow.exchange(dwell, interval=0.5)
        assert flow.is_direct
        moved_at = world.now
        flow.net.move(flow.net.link_b)
        world.run_until(lambda: flow.is_direct, timeout=3)
        updates = [t for t in sent_at(flow.mobile_node, BindingUpdate, to=HOME_AGENT)]
        home_update_at = next(t for t in updates if t > moved_at)
        tests = [t for t in sent_at(flow.mobile_node, CareOfTestInit) if t > moved_at]
        assert tests[0] == home_update_at
        assert not [t for t in sent_at(flow.mobile_node, HomeTestInit) if t > moved_at]
        assert world.now - home_update_at <= 2 * (CORE_DELAY + 0.001) + 1.5 * ROUND_TRIP + 0.02
        (correspondent_update_at,) = [
            t for t in sent_at(flow.mobile_node, BindingUpdate) if t > moved_at
        ]
        accepted_at = next(
            t
            for t, action in flow.mobile_node.actions
            if t > moved_at and getattr(action, "name", "") == "binding-accepted"
        )
        assert correspondent_update_at >= accepted_at
        first, last = flow.exchange(2)
        world.run_for(1)
        out, into = flow.received()
        assert {b"out %d" % n for n in range(first, last)} <= out
        assert {b"in %d" % n for n in range(first, last)} <= into


@requirement("RFC6275-11.7.2", "RR-07")
def test_home_token_is_kept_young_so_that_a_late_handover_needs_the_care_of_test_alone() -> None:
    with World(seed=54) as world:
        flow = Optimized(world)
        flow.register_in(flow.net.link_a, PREFIX_A)
        flow.exchange(300, interval=1.0)
        moved_at = world.now
        flow.net.move(flow.net.link_b)
        world.run_until(lambda: flow.is_direct, timeout=3)
        assert not [t for t in sent_at(flow.mobile_node, HomeTestInit) if t > moved_at]


@requirement("RFC6275-11.7.2", "RET-09", "RR-10")
def test_return_home_deletes_the_binding_and_traffic_goes_on() -> None:
    with World(seed=55) as world:
        flow = Optimized(world)
        flow.register_in(flow.net.link_a, PREFIX_A)
        flow.exchange(1)
        assert flow.correspondent.node.bindings
        flow.net.return_home()
        world.run_until(lambda: not flow.correspondent.node.bindings, timeout=5)
        first, last = flow.exchange(1)
        world.run_for(1)
        out, into = flow.received()
        assert {b"out %d" % n for n in range(first, last)} <= out
        assert {b"in %d" % n for n in range(first, last)} <= into


@requirement("RFC6275-11.3.6", "MN-47")
@pytest.mark.parametrize("interval", [0.02, 0.2, 0.45, 0.7])
def test_correspondent_that_forgot_everything_is_registered_again(interval: float) -> None:
    with World(seed=56) as world:
        flow = Optimized(world)
        flow.register_in(flow.net.link_a, PREFIX_A)
        flow.exchange(2)
        flow.correspondent.reboot()
        flow.exchange(6, interval=interval)
        assert flow.is_direct
        first, last = flow.exchange(1)
        world.run_for(1)
        out, _ = flow.received()
        assert {b"out %d" % n for n in range(first, last)} <= out


def updates_until_direct_after_a_crash(seed: int) -> int:
    """How many the correspondent got until the direct path was there again."""
    with World(seed=seed) as world:
        flow = Optimized(world)
        flow.register_in(flow.net.link_a, PREFIX_A)
        flow.warm()
        flow.exchange(1)
        node = flow.mobile_node
        node.kill()
        world.run_for(1)
        before = len(sent_at(node, BindingUpdate))
        node.start(flow.net.new_mobile_node())
        world.run_until(lambda: bool(direct_paths_of(node)), timeout=0.3)
        return len(sent_at(node, BindingUpdate)) - before


def direct_paths_of(node: AgentNode) -> list[str]:
    assert node.agent is not None
    view = node.agent.snapshot(node.world.now).mobile_node
    assert view is not None
    return [each.correspondent for each in view.correspondents if each.path == "direct"]


@requirement("RFC6275-11.7.3")
def test_mobile_node_that_crashed_is_direct_again_whatever_number_it_begins_with() -> None:
    updates = {updates_until_direct_after_a_crash(seed) for seed in range(60, 68)}
    assert updates == {1, 2}, "the second goes on after the number that the correspondent told"


@requirement("RFC6275-11.6.1", "RR-10")
@pytest.mark.parametrize("crashes_for", [5.0, 500.0])
def test_mobile_node_that_crashed_and_comes_up_at_home_ends_the_bindings_of_before(
    crashes_for: float,
) -> None:
    with World(seed=69) as world:
        flow = Optimized(world)
        flow.register_in(flow.net.link_a, PREFIX_A)
        flow.warm()
        flow.exchange(1)
        node = flow.mobile_node
        node.kill()
        flow.net.move(flow.net.home)
        world.run_for(crashes_for)
        node.start(flow.net.new_mobile_node())
        world.run_for(5)
        assert flow.correspondent.node.bindings == ()
        assert not any(key.startswith("told.") for key in node.journal)
        first, last = flow.exchange(1)
        world.run_for(1)
        out, into = flow.received()
        assert {b"out %d" % n for n in range(first, last)} <= out
        assert {b"in %d" % n for n in range(first, last)} <= into
        assert len(sent_at(node, BindingUpdate)) == (2 if crashes_for < 420 else 1)


@requirement("RFC6275-11.7.2", "MN-53")
def test_binding_is_refreshed_before_its_end_while_there_is_traffic_and_ends_without() -> None:
    with World(seed=57) as world:
        flow = Optimized(world)
        flow.register_in(flow.net.link_a, PREFIX_A)
        flow.exchange(900, interval=2.0)
        out, into = flow.received()
        assert len(out) == len(into) == 450
        removed = flow.mobile_node.done(RemoveDirectPath)
        assert removed == []
        world.run_for(600)
        assert not flow.is_direct and flow.correspondent.node.bindings == ()


@requirement("RFC6275-5.2.9", "RR-09")
def test_correspondent_without_support_is_reached_through_the_tunnel() -> None:
    with World(seed=58) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        for number in range(20):
            net.mobile_node.send_data(CORRESPONDENT, b"%d" % number)
            world.run_for(1)
        assert len(net.correspondent.received_data()) == 20
        assert len(sent_at(net.mobile_node, HomeTestInit)) == 3
        assert net.mobile_node.done(SetDirectPath) == []
        agent = net.mobile_node.agent
        assert agent is not None
        snapshot = agent.snapshot(world.now).mobile_node
        assert snapshot is not None
        (peer,) = snapshot.correspondents
        assert (peer.path, peer.state, peer.reason) == (
            "home-agent",
            "suspended",
            "no-answer-to-tests",
        )


@requirement("RFC6275-8.5", "MN-55")
def test_never_keeps_every_packet_of_the_home_address_in_the_tunnel() -> None:
    with World(seed=59) as world:
        flow = Optimized(world, mobile_node={"route_optimization": "never"})
        flow.register_in(flow.net.link_a, PREFIX_A)
        first, last = flow.exchange(5)
        world.run_for(1)
        out, into = flow.received()
        assert {b"out %d" % n for n in range(first, last)} == out
        assert {b"in %d" % n for n in range(first, last)} == into
        for _, frame in flow.net.link_a.frames:
            assert CORRESPONDENT.packed not in (frame.data[8:24], frame.data[24:40])
        assert flow.correspondent.node.bindings == ()


@requirement("RFC6275-11.3.1", "MN-31")
def test_direct_path_the_host_refuses_leaves_the_flow_in_the_tunnel() -> None:
    with World(seed=60) as world:
        flow = Optimized(world)
        flow.mobile_node.refused_actions = lambda action: isinstance(action, SetDirectPath)
        flow.register_in(flow.net.link_a, PREFIX_A)
        flow.exchange(2)
        world.run_for(1)
        assert len(flow.received()[0]) == 40


@requirement("RFC6275-11.8", "RR-07", "MN-51")
@pytest.mark.parametrize("seed", range(6))
def test_flow_survives_roaming_back_and_forth_over_bad_links(seed: int) -> None:
    with World(seed=seed) as world:
        flow = Optimized(world, access_loss=0.1, access_reorder=0.1, access_duplicate=0.05)
        links = [flow.net.link_a, flow.net.link_b, flow.net.home]
        flow.net.move(links[0])
        for _ in range(12):
            flow.exchange(world.random.uniform(0.2, 8), interval=0.2)
            flow.net.move(world.random.choice(links), carrier_lost=world.random.random() < 0.7)
        for link in links:
            link.loss = 0.0
        flow.net.move(flow.net.link_a)
        flow.exchange(90, interval=1.0)
        assert flow.is_direct
        first, last = flow.exchange(3)
        world.run_for(1)
        out, into = flow.received()
        assert {b"out %d" % n for n in range(first, last)} <= out
        assert {b"in %d" % n for n in range(first, last)} <= into
