"""The engine over real TUN devices and AF_PACKET sockets: two engines in one process, a namespace
each.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction, EspMode, EspTransform, SecurityAssociation
from mnagent.datapath import Engine, HandedUp, NextHop, Tables, TunnelEntry
from tests.ext.namespaces import (
    Namespaces,
    entered,
    open_ethernet_device,
    open_tunnel_device,
    run,
)

pytestmark = pytest.mark.root

HOME = IPv6Address("2001:db8:1::10")
AGENT = IPv6Address("2001:db8:1::1")
CARE_OF = IPv6Address("2001:db8:2::10")
AGENT_OUTER = IPv6Address("2001:db8:2::1")
RING_FRAMES = 512
MANY = 100
MAX_PORTS = 32
QUEUE = "tc qdisc replace dev eth0 root pfifo limit 1000"


@dataclass
class Node:
    """One end of the tunnel."""

    namespace: str
    interface: int
    engine: Engine
    tun: int
    wake: int
    tables: Tables

    def publish(self, **changes: object) -> None:
        self.tables = replace(self.tables, **changes)  # type: ignore[arg-type]
        with entered(self.namespace):
            self.engine.publish(self.tables)

    def ping(self, destination: IPv6Address, *, source: IPv6Address, size: int = 56) -> bool:
        command = ["ip", "netns", "exec", self.namespace, "ping", "-6", "-c", "3", "-i", "0.05"]
        command += ["-W", "1", "-s", str(size), "-I", str(source), str(destination)]
        return subprocess.run(command, capture_output=True).returncode == 0


def start_node(
    topology: Namespaces, namespace: str, *, peer: str, end: TunnelEnd, by_neighbour: bool
) -> Node:
    with entered(namespace):
        tun = open_tunnel_device("mnagent0")
        topology.ip(namespace, "link set mnagent0 mtu 1460 up")
        wake = os.eventfd(0, os.EFD_NONBLOCK)
        engine = Engine(tun_fd=tun, wake_fd=wake, ring_frames=RING_FRAMES)
        interface = topology.index(namespace, "eth0")
        local, remote = (CARE_OF, AGENT_OUTER)
        if end is TunnelEnd.HOME_AGENT:
            local, remote = remote, local
        next_hop = NextHop(
            interface=interface,
            source_mac=topology.link_layer_address(namespace, "eth0"),
            destination_mac=topology.link_layer_address(peer, "eth0"),
        )
        tunnel = TunnelEntry(
            end=end,
            home_address=HOME,
            local=local,
            remote=remote,
            next_hop=None if by_neighbour else next_hop,
            mtu=1460,
        )
        tables = Tables(tunnels=(tunnel,), local_addresses=(local,))
        engine.publish(tables)
        engine.attach(interface)
        engine.start()
    return Node(namespace, interface, engine, tun, wake, tables)


@pytest.fixture(params=[False, True], ids=["packet-socket", "raw-socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Node, Node]]:
    with Namespaces("datapath") as topology:
        mobile, agent = topology.add("mobile"), topology.add("agent")
        topology.link((mobile, "eth0"), (agent, "eth0"))
        topology.ip(mobile, f"addr add {CARE_OF}/64 dev eth0 nodad")
        topology.ip(agent, f"addr add {AGENT_OUTER}/64 dev eth0 nodad")
        topology.ip(agent, f"addr add {AGENT}/128 dev lo nodad")
        topology.keep_from_kernel(mobile, "eth0", CARE_OF)
        topology.keep_from_kernel(agent, "eth0", AGENT_OUTER)
        nodes = (
            start_node(
                topology,
                mobile,
                peer=agent,
                end=TunnelEnd.MOBILE_NODE,
                by_neighbour=request.param,
            ),
            start_node(
                topology,
                agent,
                peer=mobile,
                end=TunnelEnd.HOME_AGENT,
                by_neighbour=request.param,
            ),
        )
        topology.ip(mobile, f"addr add {HOME}/128 dev mnagent0 nodad")
        topology.ip(mobile, f"route add {AGENT}/128 dev mnagent0 src {HOME}")
        topology.ip(agent, f"route add {HOME}/128 dev mnagent0")
        try:
            yield nodes
        finally:
            for node in nodes:
                node.engine.close()
                os.close(node.tun)
                os.close(node.wake)


def associations(mode: EspMode, direction: Direction) -> tuple[SecurityAssociation, ...]:
    """Two directions; ``direction`` is that of SPI 0x1000."""
    other = Direction.INBOUND if direction is Direction.OUTBOUND else Direction.OUTBOUND
    return tuple(
        SecurityAssociation(
            spi=spi,
            direction=way,
            mode=mode,
            transform=EspTransform.AES_CBC_HMAC_SHA256_128,
            home_address=HOME,
            peer=AGENT_OUTER,
            encryption_key=bytes([spi & 0xFF]) * 16,
            integrity_key=bytes([spi & 0x0F]) * 32,
            replay_window=64,
        )
        for spi, way in ((0x1001, direction), (0x1002, other))
    )


def test_plain_tunnel_ping_both_ways_answers(ends: tuple[Node, Node]) -> None:
    mobile, agent = ends
    assert mobile.ping(AGENT, source=HOME)
    assert mobile.ping(AGENT, source=HOME, size=1400)
    assert agent.ping(HOME, source=AGENT)
    assert mobile.engine.counters()["tunnelled"] >= 9


def test_esp_tunnel_ping_both_ways_answers(ends: tuple[Node, Node]) -> None:
    for node, direction in zip(ends, (Direction.OUTBOUND, Direction.INBOUND), strict=True):
        out, into = (0x1001, 0x1002) if direction is Direction.OUTBOUND else (0x1002, 0x1001)
        node.publish(
            associations=associations(EspMode.TUNNEL, direction),
            tunnels=(
                replace(node.tables.tunnels[0], outbound_spi=out, inbound_spi=into, mtu=1380),
            ),
        )
    mobile, agent = ends
    assert mobile.ping(AGENT, source=HOME)
    assert agent.ping(HOME, source=AGENT, size=1300)
    assert mobile.engine.counters()["drop-not-protected"] == 0


def test_esp_transport_packet_reaches_the_other_control_plane(ends: tuple[Node, Node]) -> None:
    mobile, agent = ends
    mobile.publish(associations=associations(EspMode.TRANSPORT, Direction.OUTBOUND))
    agent.publish(associations=associations(EspMode.TRANSPORT, Direction.INBOUND))
    message = bytes([59, 0, 0, 0]) + bytes(4)
    header = b"\x60\0\0\0" + len(message).to_bytes(2, "big") + bytes([135, 64])
    packet = header + CARE_OF.packed + AGENT_OUTER.packed + message
    protected = mobile.engine.protect(0x1001, packet)
    with entered(mobile.namespace):
        import socket

        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
            sender.sendto(protected, (str(AGENT_OUTER), 0))
    received: list[HandedUp] = []
    while not received:  # neighbour discovery comes up as well, and first
        assert select.select([agent.wake], [], [], 2)[0]
        os.read(agent.wake, 8)
        received = [item for item in agent.engine.take_handed_up() if item.protected_by]
    assert [(item.data, item.protected_by) for item in received] == [(packet, 0x1001)]
    assert received[0].interface == agent.interface
    assert len(received[0].link_layer_source) == 6
    assert 0 <= time.time_ns() - received[0].arrived_at < 10**10


def test_link_of_1280_octets_carries_packets_of_1280_octets(ends: tuple[Node, Node]) -> None:
    mobile, agent = ends
    if mobile.tables.tunnels[0].next_hop is None:
        for node in ends:
            node.publish(tunnels=(replace(node.tables.tunnels[0], path_mtu=1280),))
    for node in ends:
        with entered(node.namespace):
            run("ip", "link", "set", "eth0", "mtu", "1280")
        node.publish(tunnels=(replace(node.tables.tunnels[0], mtu=1280),))
    assert mobile.ping(AGENT, source=HOME, size=1232)
    assert agent.ping(HOME, source=AGENT, size=1232)
    assert mobile.engine.counters()["fragments-sent"] >= 12
    assert agent.engine.counters()["fragment-kept"] >= 6


def test_spoofed_outer_source_is_dropped_and_counted(ends: tuple[Node, Node]) -> None:
    mobile, agent = ends
    agent.publish(tunnels=(replace(agent.tables.tunnels[0], remote=IPv6Address("2001:db8:2::66")),))
    assert not mobile.ping(AGENT, source=HOME)
    assert agent.engine.counters()["drop-outer-source"] == 3


def test_held_tunnel_sends_its_packets_once_released(ends: tuple[Node, Node]) -> None:
    mobile, _ = ends
    tunnel = mobile.tables.tunnels[0]
    mobile.publish(tunnels=(replace(tunnel, hold=True),))
    assert not mobile.ping(AGENT, source=HOME)
    assert mobile.engine.counters()["held"] == 3
    before = mobile.engine.counters()["tunnelled"]
    mobile.publish(tunnels=(tunnel,))
    deadline = time.monotonic() + 5
    while mobile.engine.counters()["tunnelled"] < before + 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mobile.engine.counters()["tunnelled"] == before + 3


def test_frames_larger_than_a_slot_of_the_ring_arrive_whole(ends: tuple[Node, Node]) -> None:
    for node in ends:
        for interface, mtu in (("eth0", 9000), ("mnagent0", 8000)):
            run("ip", "-n", node.namespace, "link", "set", interface, "mtu", str(mtu))
    for node in ends:
        node.publish(tunnels=(replace(node.tables.tunnels[0], mtu=8000),))
    assert ends[0].ping(AGENT, source=HOME, size=4000)
    assert ends[0].ping(AGENT, source=HOME, size=40)
    assert all(node.engine.counters()["fragments-sent"] == 0 for node in ends)


def test_frames_that_find_the_ring_full_are_counted_and_the_others_carried(
    ends: tuple[Node, Node],
) -> None:
    mobile, agent = ends
    agent.engine.stop()
    header = bytes([0x60, 0, 0, 0, 0, 24, 50, 64]) + CARE_OF.packed + AGENT_OUTER.packed
    unknown = b"\xff" * 6 + b"\x02" * 6 + b"\x86\xdd" + header + bytes([0x77]) * 24
    sent = 700
    with entered(mobile.namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.bind(("eth0", 0))
        for _ in range(sent):
            sender.send(unknown)
    agent.engine.start()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        counters = agent.engine.counters()
        if counters["drop-unknown-spi"] + counters["receive-overruns"] >= sent:
            break
        time.sleep(0.01)
    # Neighbour discovery may have taken some places.
    assert RING_FRAMES - 48 < counters["drop-unknown-spi"] <= RING_FRAMES
    assert counters["receive-overruns"] >= sent - RING_FRAMES
    assert mobile.ping(AGENT, source=HOME)


def test_interface_that_was_down_costs_no_processor_time_and_carries_on(
    ends: tuple[Node, Node],
) -> None:
    mobile, _ = ends
    link = ("ip", "-n", mobile.namespace, "link", "set", "eth0")
    run(*link, "down")
    run(*link, "up")
    run("ip", "-n", mobile.namespace, "addr", "add", f"{CARE_OF}/64", "dev", "eth0", "nodad")
    assert mobile.ping(AGENT, source=HOME)
    used = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - used < 0.1


def test_device_with_little_room_gets_a_queue_and_loses_no_frame() -> None:
    with Namespaces("narrow") as topology:
        namespace = topology.add("narrow")
        with entered(namespace), contextlib.ExitStack() as end:
            tap = open_ethernet_device("eth0")  # whose other side nobody reads
            end.callback(os.close, tap)
            topology.ip(namespace, "link set eth0 txqueuelen 4 up")
            subprocess.run(QUEUE.split(), check=True)
            tun = open_tunnel_device("mnagent0")
            end.callback(os.close, tun)
            topology.ip(namespace, "link set mnagent0 mtu 1460 up")
            topology.ip(namespace, f"addr add {HOME}/128 dev mnagent0 nodad")
            topology.ip(namespace, f"route add {AGENT}/128 dev mnagent0 src {HOME}")
            wake = os.eventfd(0, os.EFD_NONBLOCK)
            end.callback(os.close, wake)
            engine = Engine(tun_fd=tun, wake_fd=wake, ring_frames=RING_FRAMES)
            end.callback(engine.close)
            interface = topology.index(namespace, "eth0")
            mac = bytes.fromhex("020000000001")
            hop = NextHop(interface=interface, source_mac=mac, destination_mac=mac)
            tunnel = TunnelEntry(
                end=TunnelEnd.MOBILE_NODE,
                home_address=HOME,
                local=CARE_OF,
                remote=AGENT_OUTER,
                next_hop=hop,
                mtu=1460,
            )
            engine.publish(Tables(tunnels=(tunnel,), local_addresses=(CARE_OF,)))
            engine.attach(interface)
            engine.start()
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                for _ in range(MANY):
                    sender.sendto(b"x", (str(AGENT), 9))
            deadline = time.monotonic() + 5.0
            while engine.counters()["frames-sent"] < MANY and time.monotonic() < deadline:
                time.sleep(0.01)
            assert engine.counters()["frames-sent"] == MANY
            assert engine.counters()["frames-failed"] == 0


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_detached_interface_that_was_only_sent_by_gives_its_descriptors_back(
    ends: tuple[Node, Node],
) -> None:
    near, _ = ends
    (tunnel,) = near.tables.tunnels
    with entered(near.namespace):
        before = descriptors()
        for _ in range(MAX_PORTS + 1):
            run("ip", "link", "add", "way-out", "type", "veth", "peer", "name", "beyond")
            index = socket.if_nametoindex("way-out")
            hop = NextHop(interface=index, source_mac=bytes(6), destination_mac=bytes(6))
            near.publish(tunnels=(replace(tunnel, next_hop=hop),))
            assert descriptors() > before
            run("ip", "link", "del", "way-out")
            near.engine.detach(index)
            assert descriptors() == before
    near.publish(tunnels=(tunnel,))
    assert near.ping(AGENT, source=HOME)
