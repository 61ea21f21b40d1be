"""The direct path over real TUN devices and links: two mobile nodes' engines, a namespace each."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from mnagent.datapath import DirectPathEntry, Engine, NextHop, PeerBindingEntry, Tables
from mnagent.datapath.features import active_features, cuts_behind_extension_headers
from tests.ext.namespaces import Namespaces, entered, open_tunnel_device
from tests.support.requirement import requirement

pytestmark = pytest.mark.root

LEFT = IPv6Address("2001:db8:1::10")
RIGHT = IPv6Address("2001:db8:9::9")
LEFT_CARE_OF = IPv6Address("2001:db8:2::10")
RIGHT_CARE_OF = IPv6Address("2001:db8:2::20")
OCTETS = 4 << 20


@dataclass
class Node:
    """One end."""

    namespace: str
    engine: Engine
    tun: int
    wake: int
    own: IPv6Address
    care_of: IPv6Address
    hop: NextHop


@contextlib.contextmanager
def node(
    topology: Namespaces, namespace: str, peer: str, own: IPv6Address, care_of: IPv6Address
) -> Iterator[Node]:
    with entered(namespace):
        tun = open_tunnel_device("mnagent0")
        topology.ip(namespace, "link set mnagent0 mtu 1452 up")
        topology.ip(namespace, f"addr add {own}/128 dev mnagent0 nodad")
        wake = os.eventfd(0, os.EFD_NONBLOCK)
        engine = Engine(tun_fd=tun, wake_fd=wake)
        interface = topology.index(namespace, "eth0")
        engine.attach(interface)
        engine.start()
    hop = NextHop(
        interface=interface,
        source_mac=topology.link_layer_address(namespace, "eth0"),
        destination_mac=topology.link_layer_address(peer, "eth0"),
    )
    try:
        yield Node(namespace, engine, tun, wake, own, care_of, hop)
    finally:
        engine.close()
        os.close(tun)
        os.close(wake)


@pytest.fixture
def ends() -> Iterator[tuple[Namespaces, Node, Node]]:
    with contextlib.ExitStack() as stack:
        topology = stack.enter_context(Namespaces("direct"))
        left, right = topology.add("left"), topology.add("right")
        topology.link((left, "eth0"), (right, "eth0"))
        for namespace, care_of in ((left, LEFT_CARE_OF), (right, RIGHT_CARE_OF)):
            topology.ip(namespace, f"addr add {care_of}/64 dev eth0 nodad")
        topology.keep_from_kernel(left, "eth0", LEFT_CARE_OF)
        topology.keep_from_kernel(right, "eth0", RIGHT_CARE_OF)
        nodes = (
            stack.enter_context(node(topology, left, right, LEFT, LEFT_CARE_OF)),
            stack.enter_context(node(topology, right, left, RIGHT, RIGHT_CARE_OF)),
        )
        topology.ip(left, f"route add {RIGHT}/128 dev mnagent0 src {LEFT}")
        topology.ip(right, f"route add {LEFT}/128 dev mnagent0 src {RIGHT}")
        yield topology, *nodes


def optimize(
    mine: Node, other: Node, *, both_mobile: bool = True, by_neighbour: bool = False
) -> None:
    """Tables of both: who is mobile decides what is inserted. ``mine`` always is."""
    hops = {one.own: None if by_neighbour else one.hop for one in (mine, other)}
    for one, peer in ((mine, other), (other, mine)):
        is_mobile = both_mobile or one is mine
        peer_is_mobile = both_mobile or one is other
        path = DirectPathEntry(
            home_address=one.own,
            correspondent=peer.own,
            care_of_address=one.care_of,
            next_hop=hops[one.own],
            mtu=1452,
        )
        binding = PeerBindingEntry(
            home_address=peer.own,
            care_of_address=peer.care_of,
            next_hop=hops[one.own],
            mtu=1476,
        )
        tables = Tables(
            local_addresses=(one.own, one.care_of),
            direct_paths=(path,) if is_mobile else (),
            peer_bindings=(binding,) if peer_is_mobile else (),
        )
        with entered(one.namespace):
            one.engine.publish(tables)


def ping(source: Node, destination: Node, *, size: int = 56) -> bool:
    command = ["ip", "netns", "exec", source.namespace, "ping", "-6", "-c", "3", "-i", "0.05"]
    command += ["-W", "1", "-s", str(size), "-I", str(source.own), str(destination.own)]
    return subprocess.run(command, capture_output=True).returncode == 0


def transfer(source: Node, destination: Node) -> int:
    """Octets that arrived, unharmed, over one TCP connection."""
    pattern = bytes(range(256)) * 256
    received = bytearray()
    with entered(destination.namespace):
        server = socket.create_server((str(destination.own), 6275), family=socket.AF_INET6)
        server.settimeout(5)

    def take() -> None:
        connection, _ = server.accept()
        connection.settimeout(5)
        with connection:
            while data := connection.recv(1 << 20):
                received.extend(data)

    taker = threading.Thread(target=take)
    taker.start()
    with entered(source.namespace):
        sender = socket.create_connection((str(destination.own), 6275), timeout=5)
    with sender, contextlib.suppress(TimeoutError):
        for _ in range(OCTETS // len(pattern)):
            sender.sendall(pattern)
    taker.join(10)
    server.close()
    assert received == pattern * (len(received) // len(pattern))
    return len(received)


def bad_checksums(one: Node) -> int:
    with entered(one.namespace):
        lines = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
        lines += Path("/proc/thread-self/net/netstat").read_text().splitlines()
    counts = dict(line.split()[:2] for line in lines if line.split()[0].endswith("CsumErrors"))
    return sum(int(value) for value in counts.values())


@requirement("RFC6275-9.3", "CN-02", "CN-10", "CN-60")
@pytest.mark.parametrize("by_neighbour", [False, True], ids=["packet-socket", "raw-socket"])
def test_two_mobile_nodes_reach_each_other_directly(
    ends: tuple[Namespaces, Node, Node], by_neighbour: bool
) -> None:
    _, left, right = ends
    optimize(left, right, by_neighbour=by_neighbour)
    assert ping(left, right)
    assert ping(right, left, size=1400)
    assert ping(left, right, size=3000)
    assert transfer(left, right) == OCTETS
    for one in (left, right):
        counters = one.engine.counters()
        assert counters["sent-direct"] > 9
        assert counters["tunnelled"] == counters["drop-no-peer-binding"] == 0
        assert bad_checksums(one) == 0


@requirement("RFC6275-9.3", "CN-02", "CN-10")
def test_mobile_node_and_correspondent_reach_each_other_directly(
    ends: tuple[Namespaces, Node, Node],
) -> None:
    topology, left, right = ends
    topology.keep_from_kernel(right.namespace, "eth0", RIGHT)
    right.care_of = RIGHT
    optimize(left, right, both_mobile=False)
    assert ping(left, right, size=1400)
    assert ping(right, left)
    assert transfer(left, right) == OCTETS
    assert transfer(right, left) == OCTETS
    assert bad_checksums(left) == bad_checksums(right) == 0


@pytest.mark.parametrize("offload", ["whole", "cut-by-kernel", "no-offload-at-all", "plain-only"])
def test_stream_arrives_whatever_the_link_cuts(
    ends: tuple[Namespaces, Node, Node], offload: str
) -> None:
    _, left, right = ends
    settings = {
        "whole": "",
        "cut-by-kernel": "tso off",
        "no-offload-at-all": "tso off gso off tx off",
        "plain-only": "gro on",
    }[offload]
    if settings:
        for one in (left, right):
            command = ["ip", "netns", "exec", one.namespace, "ethtool", "-K", "eth0"]
            if subprocess.run([*command, *settings.split()], capture_output=True).returncode:
                pytest.skip("needs ethtool")
    optimize(left, right)
    assert transfer(left, right) == OCTETS
    assert transfer(right, left) == OCTETS
    assert bad_checksums(left) == bad_checksums(right) == 0
    assert left.engine.counters()["frames-failed"] == 0


def test_packet_above_the_path_is_answered_to_the_program(
    ends: tuple[Namespaces, Node, Node],
) -> None:
    topology, left, right = ends
    optimize(left, right)
    for one, route in ((left, RIGHT), (right, LEFT)):
        topology.ip(one.namespace, "link set mnagent0 mtu 1500")
        topology.ip(one.namespace, f"route replace {route}/128 dev mnagent0 src {one.own}")
    command = ["ip", "netns", "exec", left.namespace, "ping", "-6", "-c", "2", "-i", "0.05"]
    command += ["-W", "1", "-M", "do", "-s", "1440", "-I", str(LEFT), str(RIGHT)]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert "mtu" in (shown.stdout + shown.stderr).lower()
    assert left.engine.counters()["packet-too-big"] >= 1
    assert transfer(left, right) == OCTETS


def test_packet_without_a_binding_is_handed_up_and_not_answered_by_the_kernel(
    ends: tuple[Namespaces, Node, Node],
) -> None:
    _, left, right = ends
    optimize(left, right)
    with entered(right.namespace):
        right.engine.publish(Tables(local_addresses=(RIGHT, RIGHT_CARE_OF)))
    right.engine.take_handed_up()
    assert not ping(left, right)
    assert right.engine.counters()["drop-bad-routing-header"] == 3
    with entered(right.namespace):
        path = DirectPathEntry(
            home_address=RIGHT, correspondent=LEFT, care_of_address=RIGHT_CARE_OF
        )
        right.engine.publish(Tables(local_addresses=(RIGHT, RIGHT_CARE_OF), direct_paths=(path,)))
    assert not ping(left, right)
    assert right.engine.counters()["drop-no-peer-binding"] == 3
    shown = [item.data for item in right.engine.take_handed_up()]
    assert len([data for data in shown if data[6] == 43]) == 3


def test_traffic_wakes_python_at_once(ends: tuple[Namespaces, Node, Node]) -> None:
    _, left, right = ends
    optimize(left, right)
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(left.wake)
    with entered(left.namespace):
        sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with sender:
        sender.sendto(b"first", (str(RIGHT), 7))
    assert select.select([left.wake], [], [], 2)[0]
    (entry,) = [entry for entry in left.engine.take_traffic() if entry.protocol == 17]
    assert (entry.local, entry.peer, entry.packets_out) == (LEFT, RIGHT, 1)
    assert (entry.destination_port, entry.direct) == (7, True)


def test_features_of_a_link_are_read(ends: tuple[Namespaces, Node, Node]) -> None:
    _, left, _ = ends
    with entered(left.namespace), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as handle:
        features = active_features(handle, "eth0")
        assert {"tx-checksum-ip-generic", "tx-tcp6-segmentation"} <= features
        assert cuts_behind_extension_headers(handle, "eth0")
        assert not cuts_behind_extension_headers(handle, "nothing")
