"""Two mobile nodes of one home agent talk to each other while both roam."""

from __future__ import annotations

from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.agent.build import build_agent
from mnagent.core.actions import SendPacket, SetDirectPath
from mnagent.ipsec.association import SecurityAssociationDatabase
from mnagent.ipsec.esp_reference import ReferenceEsp
from mnagent.wire.buffer import DecodeError
from mnagent.wire.ipv6 import IPv6Packet, RawPayload
from mnagent.wire.mobility import CareOfTestInit, HomeTestInit
from mnagent.wire.packet import decode_packet
from tests.support.nodes import AgentNode
from tests.support.requirement import requirement
from tests.support.topology import (
    HOME_ADDRESS,
    HOME_AGENT,
    HOME_PREFIX,
    Topology,
    configuration_of,
    make_keys,
)
from tests.support.world import Link, World

OTHER = IPv6Address("2001:db8:1::20")


class TwoNodes:
    """The usual network, and a second mobile node in it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.net = Topology(world)
        own, others = make_keys(world.seed), make_keys(world.seed + 1, home_address=OTHER)
        home_agent = self.net.home_agent
        served = (own[1], others[1])
        home_agent.esp = ReferenceEsp(
            SecurityAssociationDatabase(a for keys in served for a in keys.associations)
        )
        home_agent.start(
            build_agent(
                configuration_of(_home_agent_text()),
                random=Random(world.seed),
                persisted={},
                associations=served,
            )
        )
        self.first = self.net.mobile_node
        self.second = AgentNode(world, "second", keys=others[:1], home_address=OTHER)
        self.port = self.second.add_port()
        self.second.start(
            build_agent(
                configuration_of(_mobile_node_text()),
                random=Random(world.seed + 1),
                persisted={},
                associations=others[:1],
            )
        )
        self.number = 0

    def move_second(self, link: Link) -> None:
        """Plug the second node in elsewhere."""
        self.second.attach(self.port, link)

    def exchange(self, duration: float, *, interval: float = 0.1) -> range:
        """One datagram each way every interval."""
        first = self.number
        for _ in range(round(duration / interval)):
            self.first.send_data(OTHER, b"%d" % self.number)
            self.second.send_data(HOME_ADDRESS, b"%d" % self.number)
            self.number += 1
            self.world.run_for(interval)
        return range(first, self.number)

    def lost(self, numbers: range) -> tuple[list[int], list[int]]:
        """What did not arrive, at the second and at the first node."""
        self.world.run_for(1)
        to_second, to_first = set(self.second.received_data()), set(self.first.received_data())
        return (
            [n for n in numbers if b"%d" % n not in to_second],
            [n for n in numbers if b"%d" % n not in to_first],
        )


def _home_agent_text() -> str:
    nodes = "".join(
        f'[[home_agent.mobile_nodes]]\nhome_address = "{address}"\nkeys = "/etc/keys.toml"\n'
        for address in (HOME_ADDRESS, OTHER)
    )
    return (
        f'role = "home-agent"\n[home_agent]\naddress = "{HOME_AGENT}"\n'
        f'home_prefix = "{HOME_PREFIX}"\nhome_link = "eth0"\n{nodes}'
    )


def _mobile_node_text() -> str:
    return (
        f'role = "mobile-node"\n[mobile_node]\nhome_address = "{OTHER}"\n'
        f'home_agent = "{HOME_AGENT}"\ninterfaces = ["eth0"]\nkeys = "/etc/keys.toml"\n'
    )


def direct_payload(link: Link, since: float) -> list[IPv6Packet]:
    """Datagrams on a link that are in no tunnel."""
    found = []
    for at, frame in link.frames:
        try:
            packet = decode_packet(frame.data)
        except DecodeError:
            continue
        if at >= since and isinstance(packet.payload, RawPayload):
            found.append(packet)
    return found


def is_to_home_address(action: SendPacket) -> bool:
    """Tests of a mobile peer never go to a care-of address of it."""
    is_test = isinstance(action.packet.payload, HomeTestInit | CareOfTestInit)
    return not is_test or action.packet.destination in (HOME_ADDRESS, OTHER)


@requirement("RFC6275-9.3", "CN-60", "RR-11")
def test_both_directions_carry_home_address_option_and_routing_header_in_one_packet() -> None:
    with World(seed=71) as world:
        pair = TwoNodes(world)
        pair.net.move(pair.net.link_a)
        pair.move_second(pair.net.link_b)
        pair.exchange(5)
        since = world.now
        numbers = pair.exchange(3)
        assert pair.lost(numbers) == ([], [])
        packets = direct_payload(pair.net.core, since)
        assert len(packets) == 2 * len(numbers)
        pairs = {(packet.home_address_option, packet.type2_home_address) for packet in packets}
        assert pairs == {(HOME_ADDRESS, OTHER), (OTHER, HOME_ADDRESS)}
        for node in (pair.first, pair.second):
            for action in node.done(SendPacket):
                assert isinstance(action, SendPacket)
                assert is_to_home_address(action)


@requirement("RFC6275-5.2.9", "CN-60", "RR-11")
@pytest.mark.parametrize("seed", range(72, 77))
def test_both_nodes_that_move_at_the_same_time_find_each_other_again(seed: int) -> None:
    with World(seed=seed) as world:
        pair = TwoNodes(world)
        pair.net.move(pair.net.link_a)
        pair.move_second(pair.net.link_b)
        pair.exchange(5)
        for _ in range(4):
            here, there = pair.net.link_a, pair.net.link_b
            if pair.net.port.link is here:
                here, there = there, here
            moved_at = world.now
            pair.net.move(here)
            pair.move_second(there)
            pair.exchange(world.random.uniform(1, 20))
            for node in (pair.first, pair.second):
                paths = [at for at, action in node.actions if isinstance(action, SetDirectPath)]
                assert min(at for at in paths if at > moved_at) - moved_at < 0.4
        assert all(is_to_home_address(a) for a in pair.first.done(SendPacket))  # type: ignore[arg-type]
        pair.exchange(30)
        since = world.now
        numbers = pair.exchange(3)
        assert pair.lost(numbers) == ([], [])
        assert len(direct_payload(pair.net.core, since)) == 2 * len(numbers)


@requirement("RFC6275-11.7.2", "RET-09", "CN-60")
def test_node_that_returns_home_is_reached_there_by_the_other() -> None:
    with World(seed=77) as world:
        pair = TwoNodes(world)
        pair.net.move(pair.net.link_a)
        pair.move_second(pair.net.link_b)
        pair.exchange(5)
        pair.net.return_home()
        pair.exchange(5)
        numbers = pair.exchange(3)
        assert pair.lost(numbers) == ([], [])
        pair.net.move(pair.net.link_a)
        pair.exchange(15)
        numbers = pair.exchange(3)
        assert pair.lost(numbers) == ([], [])
