"""A mobile node and its home agent in one network: registration, tunnel and trouble."""

from __future__ import annotations

from ipaddress import IPv6Address
from itertools import pairwise
from random import Random

import pytest

from mnagent.core.actions import (
    AddAddress,
    HoldTunnel,
    RemoveAddress,
    RemoveDefaultRouter,
    RemoveTunnel,
    SendPacket,
    SetTunnel,
)
from mnagent.wire.icmp6 import ParameterProblem
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingUpdate, UnknownMobilityMessage
from mnagent.wire.packet import encode_packet
from tests.support.nodes import AgentNode
from tests.support.packets import datagram
from tests.support.requirement import requirement
from tests.support.topology import (
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    PREFIX_A,
    PREFIX_B,
    Topology,
)
from tests.support.world import World


def updates_of(node: AgentNode) -> list[tuple[float, SendPacket, BindingUpdate]]:
    return [
        (at, action, action.packet.payload)
        for at, action in node.actions
        if isinstance(action, SendPacket) and isinstance(action.packet.payload, BindingUpdate)
    ]


@requirement("RFC6275-11.3.1", "MN-29", "MN-30", "MN-01", "MN-13")
def test_traffic_of_the_home_address_goes_through_the_home_agent_both_ways() -> None:
    with World(seed=1) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.mobile_node.send_data(CORRESPONDENT, b"away")
        net.correspondent.ping(CORRESPONDENT, HOME_ADDRESS)
        world.run_for(1)
        assert net.correspondent.received_data() == [b"away"]
        assert net.correspondent.echo_replies() == [1]
        ((_, packet),) = [d for d in net.correspondent.delivered if d[1].source == HOME_ADDRESS][:1]
        assert packet.source == HOME_ADDRESS
        outer = [frame.data for _, frame in net.link_a.frames if frame.data[6] == 41]
        care_of_address = net.bound_to
        assert care_of_address is not None
        ends = {(data[8:24], data[24:40]) for data in outer}
        assert ends == {
            (care_of_address.packed, HOME_AGENT.packed),
            (HOME_AGENT.packed, care_of_address.packed),
        }


@requirement("RFC6275-11.3.1", "MN-34")
def test_packets_sent_before_the_acknowledgement_are_held_and_not_lost() -> None:
    with World(seed=2) as world:
        net = Topology(world, mobile_node={"early_tunnel": False})
        net.move(net.link_a)
        world.run_until(lambda: bool(updates_of(net.mobile_node)), timeout=5)
        for number in range(5):
            net.mobile_node.send_data(CORRESPONDENT, b"%d" % number)
        world.run_for(3)
        assert net.correspondent.received_data() == [b"0", b"1", b"2", b"3", b"4"]


@requirement("RFC6275-11.3.1", "MN-34")
def test_no_packet_leaves_with_a_stale_care_of_address() -> None:
    with World(seed=3) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.move(net.link_b)
        for _ in range(40):
            net.mobile_node.send_data(CORRESPONDENT, b"x")
            world.run_for(0.05)
        sources = {IPv6Address(f.data[8:24]) for _, f in net.link_b.frames if f.data[6] == 41}
        assert sources and not any(source in PREFIX_A for source in sources)
        assert len(net.correspondent.received_data()) == 40


@requirement("RFC6275-11.3.3", "MN-35")
def test_tunnelled_packet_from_another_than_the_home_agent_is_discarded() -> None:
    with World(seed=4) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        care_of_address = net.bound_to
        assert care_of_address is not None
        inner = datagram(CORRESPONDENT, HOME_ADDRESS, b"forged")
        net.correspondent.send(IPv6Packet(CORRESPONDENT, care_of_address, inner))
        world.run_for(1)
        assert net.mobile_node.received_data() == []
        assert net.mobile_node.verdicts["wrong-tunnel-source"] == 1


@requirement("RFC6275-11.7.1", "MN-12", "HA-13")
def test_handover_without_a_new_probe_takes_two_round_trips() -> None:
    with World(seed=5) as world:
        net = Topology(world, core_delay=0.02)
        net.register_in(net.link_a, PREFIX_A)
        start = world.now
        net.register_in(net.link_b, PREFIX_B)
        assert world.now - start < 0.2


@requirement("RFC6275-11.8", "MN-07", "MN-08")
@pytest.mark.parametrize("seed", range(20))
def test_registration_converges_over_lossy_links(seed: int) -> None:
    with World(seed=seed) as world:
        net = Topology(world, access_loss=0.3, access_reorder=0.2, access_duplicate=0.2)
        for link, prefix in ((net.link_a, PREFIX_A), (net.link_b, PREFIX_B)):
            net.register_in(link, prefix, timeout=300)
        net.return_home(timeout=200)
        world.run_until(lambda: net.bound_to is None, timeout=60)


@requirement("RFC6275-11.5.3", "MN-10")
@pytest.mark.parametrize("seed", range(5))
def test_fifty_rapid_movements_end_where_the_node_is(seed: int) -> None:
    with World(seed=seed) as world:
        net = Topology(world)
        random = Random(seed)
        for _ in range(50):
            net.move(random.choice([net.link_a, net.link_b, net.home]))
            world.run_for(random.choice([0.02, 0.1, 0.5, 2.0]))
        times = [at for at, _, _ in updates_of(net.mobile_node)]
        assert all(
            later - earlier >= 1 - 1e-6 for earlier, later in zip(times, times[3:], strict=False)
        )
        net.register_in(net.link_b, PREFIX_B, timeout=20)
        net.mobile_node.send_data(CORRESPONDENT, b"there")
        world.run_for(1)
        assert net.correspondent.received_data()[-1:] == [b"there"]


@requirement("RFC6275-11.5.1", "MOV-06")
def test_roam_without_loss_of_carrier_is_seen_and_registered() -> None:
    with World(seed=6) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.move(net.link_b, carrier_lost=False)
        world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=2)


@requirement("RFC6275-11.5.1", "MOV-05")
def test_roam_within_one_subnet_costs_no_new_address_and_the_tunnel_is_back_at_once() -> None:
    with World(seed=6) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        before = net.bound_to
        world.run_for(5)
        net.move(net.link_a, carrier_lost=False)
        assert isinstance(net.mobile_node.done(HoldTunnel)[-1], HoldTunnel)
        world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=1)
        assert net.bound_to == before
        addresses = {a.address for a in net.mobile_node.done(AddAddress)}  # type: ignore[union-attr]
        assert addresses == {before}


@requirement("RFC6275-11.5.1", "MOV-07")
def test_movement_to_a_router_with_the_same_link_local_address_is_seen() -> None:
    with World(seed=7) as world:
        net = Topology(world)
        net.router_b.ports[0].mac = net.router_a.ports[0].mac
        net.router_b.addresses[2] = {
            net.router_a.link_local(net.router_a.ports[0]): 64,
            IPv6Address("2001:db8:b::1"): 64,
        }
        net.register_in(net.link_a, PREFIX_A)
        # Neither carrier nor link event: only the next advertisement tells.
        net.link_b.attach(net.port)
        net.router_b.send_advertisement(net.router_b.ports[0])
        world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=5)


@requirement("RFC6275-11.3.6", "MN-46", "OPS-03")
def test_home_agent_that_lost_its_bindings_gets_them_back_with_the_next_packet() -> None:
    with World(seed=8) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.home_agent.kill()
        net.home_agent.routes = [r for r in net.home_agent.routes if r.port is not None]
        net.home_agent.start(net.new_home_agent())
        assert net.bound_to is None
        world.run_for(2)
        net.mobile_node.send_data(CORRESPONDENT, b"anyone there?")
        world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=5)
        net.mobile_node.send_data(CORRESPONDENT, b"good")
        world.run_for(1)
        assert net.correspondent.received_data()[-1] == b"good"


@requirement("RFC6275-11.7.1", "OPS-04", "MN-12")
def test_daemon_killed_away_and_started_again_registers_with_later_sequence_numbers() -> None:
    with World(seed=9) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.mobile_node.kill()
        world.run_for(3)
        before = max(update.sequence for _, _, update in updates_of(net.mobile_node))
        net.mobile_node.start(net.new_mobile_node())
        world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=3)
        after = updates_of(net.mobile_node)[-1][2].sequence
        assert 0 < (after - before) % 2**16 < 2**15
        assert net.mobile_node.agent is not None
        assert net.mobile_node.reported("binding-rejected") == []


@requirement("RFC6275-11.5.5", "OPS-04", "RET-04")
def test_daemon_killed_away_and_started_at_home_deregisters_first() -> None:
    with World(seed=10) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.mobile_node.kill()
        net.move(net.home)
        world.run_for(1)
        net.mobile_node.start(net.new_mobile_node())
        world.run_until(lambda: net.state == "at-home", timeout=5)
        assert net.bound_to is None


@requirement("RFC6275-11.7.1", "OPS-05")
def test_stop_away_deregisters_and_undoes_what_was_configured() -> None:
    with World(seed=11) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.mobile_node.stop()
        world.run_until(lambda: net.mobile_node.is_finished, timeout=5)
        assert net.bound_to is None
        assert updates_of(net.mobile_node)[-1][2].lifetime == 0
        node = net.mobile_node
        assert node.done(RemoveTunnel) and node.done(RemoveDefaultRouter)
        removed = {action.address for action in node.done(RemoveAddress)}  # type: ignore[union-attr]
        added = {action.address for action in node.done(AddAddress)}  # type: ignore[union-attr]
        assert added == removed


@requirement("RFC6275-11.7.1", "OPS-05")
def test_stop_with_a_silent_home_agent_ends_within_seconds() -> None:
    with World(seed=12) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.home_agent.kill()
        net.mobile_node.stop()
        world.run_until(lambda: net.mobile_node.is_finished, timeout=4)


@requirement("RFC6275-11.7.1", "OPS-05")
def test_stop_without_a_registration_is_immediate() -> None:
    with World(seed=13) as world:
        net = Topology(world)
        net.mobile_node.stop()
        assert net.mobile_node.is_finished


@requirement("RFC6275-11.5.3", "MOV-10", "MOV-16")
@pytest.mark.parametrize("optimistic", [True, False])
def test_duplicate_care_of_address_is_given_up_and_never_registered_again(
    optimistic: bool,
) -> None:
    with World(seed=14) as world:
        net = Topology(world, mobile_node={"optimistic": optimistic})
        net.router_a.valid_lifetime, net.router_a.preferred_lifetime = 20, 10
        net.register_in(net.link_a, PREFIX_A)
        taken = net.bound_to
        assert taken is not None
        net.register_in(net.link_b, PREFIX_B)
        world.run_for(30)  # until what is remembered of the link is void
        squatter = AgentNode(world, "squatter", keys=())
        squatter.add_port(net.link_a, f"{taken}/64")
        seen = len(updates_of(net.mobile_node))
        net.move(net.link_a)
        world.run_until(
            lambda: net.is_registered_in(PREFIX_A) and net.bound_to != taken, timeout=10
        )
        world.run_for(10)
        assert net.is_registered_in(PREFIX_A) and net.bound_to != taken
        assert net.mobile_node.reported("duplicate-address")
        sources = [a.packet.source for _, a, _ in updates_of(net.mobile_node)[seen:]]
        if not optimistic:
            assert taken not in sources
        first_other = next(i for i, source in enumerate(sources) if source != taken)
        assert taken not in sources[first_other:]


@requirement("RFC6275-13", "OPS-02", "MN-15")
def test_registration_lives_for_hours_on_refreshes_alone() -> None:
    with World(seed=15) as world:
        net = Topology(world, mobile_node={"lifetime": 120, "path_check_interval": 0})
        net.register_in(net.link_a, PREFIX_A)
        world.run_for(7200)
        assert net.is_registered_in(PREFIX_A)
        assert net.mobile_node.reported("binding-expired") == []
        times = [at for at, _, _ in updates_of(net.mobile_node)]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert min(gaps) > 90 and max(gaps) < 120


@requirement("RFC6275-11.7.1", "MN-24")
def test_silent_home_agent_is_reported_and_found_when_it_is_back() -> None:
    with World(seed=16) as world:
        net = Topology(world)
        net.home_agent.kill()
        net.move(net.link_a)
        world.run_for(100)
        assert len(net.mobile_node.reported("home-agent-unreachable")) == 1
        assert net.state == "registering"
        assert net.is_unanswered
        net.home_agent.start(net.new_home_agent())
        world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=40)
        assert not net.is_unanswered


def test_second_interface_takes_over_when_the_first_loses_its_link() -> None:
    with World(seed=17) as world:
        net = Topology(world)
        second = net.mobile_node.add_port()
        net.register_in(net.link_a, PREFIX_A)
        net.mobile_node.attach(second, net.link_b)
        world.run_for(3)
        assert net.is_registered_in(PREFIX_A), "the first in the list is preferred"
        net.mobile_node.detach(net.port)
        world.run_until(lambda: net.is_registered_in(PREFIX_B), timeout=1)
        tunnel = net.mobile_node.done(SetTunnel)[-1]
        assert isinstance(tunnel, SetTunnel) and tunnel.interface == second.index
        net.mobile_node.attach(net.port, net.link_a)
        world.run_until(lambda: net.is_registered_in(PREFIX_A), timeout=3)


@requirement("RFC6275-11.3.5", "MN-43")
def test_forged_parameter_problem_leaves_the_registration_alone() -> None:
    with World(seed=18) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        care_of_address = net.bound_to
        assert care_of_address is not None
        quoted = encode_packet(updates_of(net.mobile_node)[-1][1].packet)
        for invoking in (quoted, b"", bytes(100)):
            problem = ParameterProblem(1, 40, invoking)
            net.correspondent.send(IPv6Packet(CORRESPONDENT, care_of_address, problem))
        world.run_for(2)
        assert net.is_registered_in(PREFIX_A)
        assert len(updates_of(net.mobile_node)) >= 1


@requirement("RFC6275-9.2", "MHP-02", "EXT-15")
def test_unknown_mobility_message_to_a_mobile_node_is_answered() -> None:
    with World(seed=19) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        care_of_address = net.bound_to
        assert care_of_address is not None
        message = UnknownMobilityMessage(10, bytes(10))
        net.correspondent.send(IPv6Packet(CORRESPONDENT, care_of_address, message))
        world.run_for(1)
        (answer,) = [p for _, p in net.correspondent.delivered if p.source == care_of_address]
        assert answer.payload.status == 2  # type: ignore[union-attr]


@requirement("RFC6275-11.5.2", "MOV-08", "MOV-11")
@pytest.mark.parametrize("optimistic", [True, False])
def test_node_with_addresses_of_the_kernel_roams_and_returns(optimistic: bool) -> None:
    options = {"autoconfiguration": "kernel", "optimistic": optimistic}
    with World(seed=20) as world:
        net = Topology(world, mobile_node=options)
        net.mobile_node.configures_itself = True
        net.register_in(net.link_a, PREFIX_A)
        net.mobile_node.send_data(CORRESPONDENT, b"a")
        started = world.now
        net.register_in(net.link_b, PREFIX_B)
        assert (world.now - started < 1) is optimistic
        net.mobile_node.send_data(CORRESPONDENT, b"b")
        world.run_for(1)
        net.return_home()
        assert net.correspondent.received_data() == [b"a", b"b"]
        assert net.mobile_node.done(AddAddress) == []
