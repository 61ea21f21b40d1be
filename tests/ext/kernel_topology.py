"""Two namespaces and a link for the in-kernel engine's tests, one engine of any kind in each."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address

from mnagent.core.actions import TunnelEnd
from mnagent.datapath import (
    DirectPathEntry,
    Engine,
    NextHop,
    PeerBindingEntry,
    Tables,
    TunnelEntry,
)
from mnagent.datapath.kernel_engine import KernelEngine
from mnagent.system.datapath import Datapath
from tests.ext.namespaces import Namespaces, entered, open_tunnel_device

HOME = IPv6Address("2001:db8:1::10")
FAR = IPv6Address("2001:db8:9::9")
NEAR_CARE_OF = IPv6Address("2001:db8:2::10")
FAR_CARE_OF = IPv6Address("2001:db8:2::20")
"""The home agent's address, or the far end's care-of address."""
TUNNEL_DEVICE = "mnagent0"
OCTETS = 8 << 20

MakeEngine = Callable[[int, int, int], Datapath]
"""Of the TUN device's descriptor, an eventfd, and the device's interface index."""


def user_space(tun: int, wake: int, interface: int) -> Datapath:
    return Engine(tun_fd=tun, wake_fd=wake)


def kernel(tun: int, wake: int, interface: int) -> Datapath:
    return KernelEngine(tun_fd=tun, wake_fd=wake, tunnel_interface=interface)


def kernel_by_filter(tun: int, wake: int, interface: int) -> Datapath:
    return KernelEngine(tun_fd=tun, wake_fd=wake, tunnel_interface=interface, by_filter=True)


@dataclass
class Node:
    """One end."""

    namespace: str
    engine: Datapath
    own: IPv6Address
    care_of: IPv6Address
    hop: NextHop
    tunnel_interface: int

    def publish(self, tables: Tables) -> None:
        with entered(self.namespace):
            self.engine.publish(tables)


@contextlib.contextmanager
def node(
    topology: Namespaces,
    namespace: str,
    peer: str,
    addresses: tuple[IPv6Address, IPv6Address],
    make: MakeEngine,
) -> Iterator[Node]:
    own, care_of = addresses
    with contextlib.ExitStack() as stack:
        with entered(namespace):
            tun = open_tunnel_device(TUNNEL_DEVICE)
            stack.callback(os.close, tun)
            topology.ip(namespace, f"link set {TUNNEL_DEVICE} mtu 1452 up")
            topology.ip(namespace, f"addr add {own}/128 dev {TUNNEL_DEVICE} nodad")
            wake = os.eventfd(0, os.EFD_NONBLOCK)
            stack.callback(os.close, wake)
            tunnel_interface = topology.index(namespace, TUNNEL_DEVICE)
            engine = make(tun, wake, tunnel_interface)
            interface = topology.index(namespace, "eth0")
            engine.attach(interface)
            engine.start()

        def close() -> None:
            with entered(namespace):
                engine.close()

        stack.callback(close)
        hop = NextHop(
            interface=interface,
            source_mac=topology.link_layer_address(namespace, "eth0"),
            destination_mac=topology.link_layer_address(peer, "eth0"),
        )
        yield Node(namespace, engine, own, care_of, hop, tunnel_interface)


@contextlib.contextmanager
def two_ends(makers: tuple[MakeEngine, MakeEngine]) -> Iterator[tuple[Namespaces, Node, Node]]:
    """A mobile node and whoever is at the other end of its tunnel or direct path."""
    with contextlib.ExitStack() as stack:
        topology = stack.enter_context(Namespaces("kernel"))
        near, far = topology.add("near"), topology.add("far")
        topology.link((near, "eth0"), (far, "eth0"))
        for namespace, care_of, make in (
            (near, NEAR_CARE_OF, makers[0]),
            (far, FAR_CARE_OF, makers[1]),
        ):
            topology.ip(namespace, f"addr add {care_of}/64 dev eth0 nodad")
            hook = "ingress" if make is user_space else "prerouting"
            topology.keep_from_kernel(namespace, "eth0", care_of, hook=hook)
        ends = (
            stack.enter_context(node(topology, near, far, (HOME, NEAR_CARE_OF), makers[0])),
            stack.enter_context(node(topology, far, near, (FAR, FAR_CARE_OF), makers[1])),
        )
        topology.ip(near, f"route add {FAR}/128 dev {TUNNEL_DEVICE} src {HOME}")
        topology.ip(far, f"route add {HOME}/128 dev {TUNNEL_DEVICE} src {FAR}")
        yield topology, *ends


def tunnel_tables(near: Node, far: Node, *, hold: bool = False) -> tuple[Tables, Tables]:
    """A tunnel for HOME; both ends' tables."""
    entry = TunnelEntry(
        end=TunnelEnd.MOBILE_NODE,
        home_address=HOME,
        local=near.care_of,
        remote=far.care_of,
        next_hop=near.hop,
        mtu=1452,
        path_mtu=1500,
        hold=hold,
    )
    other = replace(
        entry,
        end=TunnelEnd.HOME_AGENT,
        local=far.care_of,
        remote=near.care_of,
        next_hop=far.hop,
        hold=False,
    )
    return (
        Tables(tunnels=(entry,), local_addresses=(near.own, near.care_of)),
        Tables(tunnels=(other,), local_addresses=(far.own, far.care_of)),
    )


def direct_tables(near: Node, far: Node, *, both_mobile: bool) -> tuple[Tables, Tables]:
    """Route optimization; only ``near`` is mobile, or both are."""
    made = []
    for one, peer in ((near, far), (far, near)):
        path = DirectPathEntry(
            home_address=one.own,
            correspondent=peer.own,
            care_of_address=one.care_of,
            next_hop=one.hop,
            mtu=1452,
        )
        binding = PeerBindingEntry(
            home_address=peer.own, care_of_address=peer.care_of, next_hop=one.hop, mtu=1452
        )
        made.append(
            Tables(
                local_addresses=(one.own, one.care_of),
                direct_paths=(path,) if both_mobile or one is near else (),
                peer_bindings=(binding,) if both_mobile or peer is near else (),
            )
        )
    return made[0], made[1]


def ping(source: Node, destination: Node, *, size: int = 56, options: str = "") -> bool:
    command = ["ip", "netns", "exec", source.namespace, "ping", "-6", "-c", "3", "-i", "0.05"]
    command += [*options.split(), "-W", "1", "-s", str(size)]
    command += ["-I", str(source.own), str(destination.own)]
    return subprocess.run(command, capture_output=True).returncode == 0


def transfer(source: Node, destination: Node, *, octets: int = OCTETS) -> int:
    """Octets that arrived, unharmed, over one TCP connection."""
    pattern = bytes(range(256)) * 256
    received = bytearray()
    with entered(destination.namespace):
        server = socket.create_server((str(destination.own), 6275), family=socket.AF_INET6)
        server.settimeout(5)

    def take() -> None:
        with contextlib.suppress(TimeoutError):
            connection, _ = server.accept()
            connection.settimeout(5)
            with connection:
                while data := connection.recv(1 << 20):
                    received.extend(data)

    taker = threading.Thread(target=take)
    taker.start()
    with contextlib.suppress(TimeoutError), entered(source.namespace):
        sender = socket.create_connection(
            (str(destination.own), 6275), timeout=5, source_address=(str(source.own), 0)
        )
        with sender:
            for _ in range(octets // len(pattern)):
                sender.sendall(pattern)
    taker.join(10)
    server.close()
    assert received == pattern * (len(received) // len(pattern))
    return len(received)
