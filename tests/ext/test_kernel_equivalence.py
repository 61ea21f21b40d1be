"""One corpus through the in-kernel engine, the one in user space, and a slow reference.

Packets are put into the tunnel device's and the link's queue and caught behind the engine, over
real devices in namespaces; each engine has to make the same of each packet, octet for octet.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import subprocess
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

pytest.importorskip("mnagent.datapath._kernel", reason="built without libbpf")

from mnagent.core.actions import TunnelEnd
from mnagent.datapath import DirectPathEntry, PeerBindingEntry, Tables, TunnelEntry
from tests.ext import packets
from tests.ext.kernel_topology import (
    FAR_CARE_OF,
    HOME,
    NEAR_CARE_OF,
    TUNNEL_DEVICE,
    MakeEngine,
    Node,
    kernel,
    kernel_by_filter,
    two_ends,
    user_space,
)
from tests.ext.namespaces import entered
from tests.ext.packets import home_address_option, ipv6, tcp, type2_routing_header, udp

pytestmark = pytest.mark.root

ETH_P_ALL, ETH_P_IPV6 = 3, 0x86DD
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
QUIET = 0.4
"""Seconds without a packet after which no more are expected."""
PEER = IPv6Address("2001:db8:8::8")
PEER_CARE_OF = IPv6Address("2001:db8:7::7")
STRANGER = IPv6Address("2001:db8:66::6")
DIRECT = IPv6Address("2001:db8:55::5")
LINK_LOCAL = IPv6Address("fe80::1")
GROUP = IPv6Address("ff0e::1")
SERVED = IPv6Address("2001:db8:1::44")
"""A home address this node is the home agent of."""
SERVED_CARE_OF = IPv6Address("2001:db8:6::6")


def tables_of(near: Node) -> Tables:
    """A mobile node that has a direct path to one mobile and one fixed correspondent, and is home
    agent of another node: all there is at once."""
    tunnel = TunnelEntry(
        end=TunnelEnd.MOBILE_NODE,
        home_address=HOME,
        local=NEAR_CARE_OF,
        remote=FAR_CARE_OF,
        next_hop=near.hop,
        mtu=1452,
        path_mtu=1500,
    )
    served = replace(tunnel, end=TunnelEnd.HOME_AGENT, home_address=SERVED, remote=SERVED_CARE_OF)
    binding = PeerBindingEntry(
        home_address=PEER, care_of_address=PEER_CARE_OF, next_hop=near.hop, mtu=1428
    )
    direct = DirectPathEntry(
        home_address=HOME,
        correspondent=DIRECT,
        care_of_address=NEAR_CARE_OF,
        next_hop=near.hop,
        mtu=1452,
    )
    return Tables(
        tunnels=(tunnel, served),
        local_addresses=(HOME, NEAR_CARE_OF),
        peer_bindings=(binding,),
        direct_paths=(direct, replace(direct, correspondent=PEER, mtu=1428)),
    )


class Ports:
    """A port of its own for each packet: nothing is merged."""

    def __init__(self) -> None:
        self._next = 1024

    def __call__(self, packet: bytes) -> bytes:
        self._next += 1
        at = 46 if packet[6] == packets.UDP else 56
        return packets.with_checksum(packet[:40] + struct.pack(">H", self._next) + packet[42:], at)


def plain_packets(
    source: IPv6Address, destination: IPv6Address, port: Ports | None = None
) -> list[bytes]:
    """What the kernel serves, in all sizes and traffic classes."""
    port = port or Ports()
    made = [port(udp(source, destination, bytes(size))) for size in (0, 1, 100, 1000, 1300)]
    made += [port(tcp(source, destination, bytes(size))) for size in (0, 1, 1300)]
    made += [
        port(udp(source, destination, b"class", traffic_class=value)) for value in range(0, 256, 17)
    ]
    echo = bytes([128, 0, 0, 0, 0, 1, 0, 1]) + b"echo"
    made.append(packets.with_checksum(ipv6(source, destination, packets.ICMPV6, echo), 42))
    labelled = port(udp(source, destination, b"label"))
    made.append(labelled[:1] + b"\x0a\xbc\xde" + labelled[4:])
    return made


def unusual_packets(source: IPv6Address, destination: IPv6Address) -> list[bytes]:
    """What user space judges."""
    payload = bytes(range(40))
    fragment = bytes([17, 0, 0, 1, 0, 0, 0, 9])
    hop_by_hop = bytes([17, 0, 1, 4, 0, 0, 0, 0])
    error = bytes([3, 0, 0, 0, 0, 0, 0, 0]) + payload
    return [
        ipv6(source, destination, 44, fragment + payload),
        ipv6(source, destination, 0, hop_by_hop + payload),
        ipv6(source, destination, 60, bytes([17, 0, 1, 4, 0, 0, 0, 0]) + payload),
        ipv6(source, destination, 43, bytes([17, 2, 0, 0]) + bytes(20) + payload),
        ipv6(source, destination, 132, payload),
        ipv6(source, destination, 59, b""),
        packets.with_checksum(ipv6(source, destination, 58, error), 42),
        ipv6(source, destination, 17, b"\x01\x02"),
    ]


def outbound_corpus() -> tuple[list[bytes], list[bytes]]:
    """(What the kernel serves, what it leaves)."""
    ways = ((HOME, STRANGER), (HOME, DIRECT), (HOME, PEER), (STRANGER, SERVED))
    served = [each for way in ways for each in plain_packets(*way)]
    left = [each for way in ways for each in unusual_packets(*way)]
    for source, destination in ((LINK_LOCAL, STRANGER), (HOME, LINK_LOCAL), (STRANGER, DIRECT)):
        left.append(udp(source, destination, b"astray"))
    left += [udp(HOME, destination, bytes(1440)) for destination in (DIRECT, PEER, STRANGER)]
    return served, left


def slowly_sent(packet: bytes) -> bytes:
    """What leaves, made plainly (RFC 2473, RFC 6275 6.3, 6.4)."""
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    payload, protocol = packet[40:], packet[6]
    first = packet[:4]
    if destination == SERVED:
        made = ipv6(NEAR_CARE_OF, SERVED_CARE_OF, 41, packet)
    elif destination == PEER:
        headers = type2_routing_header(PEER, 60) + home_address_option(HOME, protocol)
        made = ipv6(NEAR_CARE_OF, PEER_CARE_OF, 43, headers + payload)
    elif destination == DIRECT:
        made = ipv6(NEAR_CARE_OF, DIRECT, 60, home_address_option(source, protocol) + payload)
    else:
        made = ipv6(NEAR_CARE_OF, FAR_CARE_OF, 41, packet)
    return first + made[4:]


def with_class(packet: bytes, value: int) -> bytes:
    return bytes([0x60 | value >> 4, (value & 15) << 4 | packet[1] & 15]) + packet[2:]


def inbound_corpus() -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """(What the kernel serves, with what the host is to get; what it leaves)."""
    served: list[tuple[bytes, bytes]] = []
    port = Ports()
    for inner in plain_packets(STRANGER, HOME, port):
        served.append((ipv6(FAR_CARE_OF, NEAR_CARE_OF, 41, inner), inner))
    for inner in plain_packets(SERVED, STRANGER, port):
        served.append((ipv6(SERVED_CARE_OF, NEAR_CARE_OF, 41, inner), inner))
    for outer_ecn in range(4):
        for inner_ecn in range(4):
            inner = with_class(udp(STRANGER, HOME, bytes([outer_ecn, inner_ecn])), inner_ecn)
            result = inner_ecn
            if outer_ecn == 3:
                if not inner_ecn:
                    continue
                result = 3
            elif outer_ecn == 1 and inner_ecn == 2:
                result = 1
            inner = port(inner)
            outer = with_class(ipv6(FAR_CARE_OF, NEAR_CARE_OF, 41, inner), outer_ecn)
            served.append((outer, with_class(inner, result)))
    for inner in plain_packets(DIRECT, HOME, port):
        headers = type2_routing_header(HOME, inner[6])
        served.append((ipv6(DIRECT, NEAR_CARE_OF, 43, headers + inner[40:]), inner))
    for inner in plain_packets(PEER, HOME, port):
        headers = type2_routing_header(HOME, 60) + home_address_option(PEER, inner[6])
        served.append((ipv6(PEER_CARE_OF, NEAR_CARE_OF, 43, headers + inner[40:]), inner))
    for inner in plain_packets(PEER, HOME, port):
        headers = home_address_option(PEER, inner[6])
        served.append((ipv6(PEER_CARE_OF, HOME, 60, headers + inner[40:]), inner))
    return [_same_class(outer, result) for outer, result in served], inbound_left()


def _same_class(outer: bytes, result: bytes) -> tuple[bytes, bytes]:
    """On a direct path there is one IPv6 header, whose traffic class the host gets."""
    return (outer, result) if outer[6] == 41 else (result[:4] + outer[4:], result)


def inbound_left() -> list[bytes]:
    """What is wrong, or unusual."""
    good = udp(STRANGER, HOME, b"payload")
    option = home_address_option(PEER, 17)
    routing = type2_routing_header(HOME, 17)
    made = [
        ipv6(STRANGER, NEAR_CARE_OF, 41, good),
        ipv6(LINK_LOCAL, NEAR_CARE_OF, 41, good),
        ipv6(GROUP, NEAR_CARE_OF, 41, good),
        ipv6(FAR_CARE_OF, NEAR_CARE_OF, 41, udp(HOME, HOME, b"loop")),
        ipv6(FAR_CARE_OF, NEAR_CARE_OF, 41, udp(LINK_LOCAL, HOME, b"scope")),
        ipv6(FAR_CARE_OF, NEAR_CARE_OF, 41, udp(GROUP, HOME, b"group")),
        ipv6(FAR_CARE_OF, NEAR_CARE_OF, 41, udp(STRANGER, STRANGER, b"nobody's")),
        ipv6(FAR_CARE_OF, NEAR_CARE_OF, 41, udp(SERVED, STRANGER, b"from elsewhere")),
        ipv6(FAR_CARE_OF, NEAR_CARE_OF, 41, good[:4] + b"\xff\xff" + good[6:]),
        ipv6(FAR_CARE_OF, NEAR_CARE_OF, 41, b"\x45" + good[1:]),
        ipv6(FAR_CARE_OF, NEAR_CARE_OF, 41, good[:30]),
        with_class(ipv6(FAR_CARE_OF, NEAR_CARE_OF, 41, good), 3),
        ipv6(STRANGER, HOME, 60, option + good[40:]),
        ipv6(PEER_CARE_OF, HOME, 60, home_address_option(STRANGER, 17) + good[40:]),
        ipv6(PEER_CARE_OF, HOME, 60, home_address_option(GROUP, 17) + good[40:]),
        ipv6(PEER_CARE_OF, HOME, 60, option[:2] + bytes(4) + option[6:] + good[40:]),
        ipv6(PEER_CARE_OF, HOME, 60, option[:10]),
        ipv6(DIRECT, NEAR_CARE_OF, 43, routing[:3] + b"\0" + routing[4:] + good[40:]),
        ipv6(DIRECT, NEAR_CARE_OF, 43, routing[:3] + b"\2" + routing[4:] + good[40:]),
        ipv6(DIRECT, NEAR_CARE_OF, 43, type2_routing_header(STRANGER, 17) + good[40:]),
        ipv6(HOME, NEAR_CARE_OF, 43, routing + good[40:]),
        ipv6(LINK_LOCAL, NEAR_CARE_OF, 43, routing + good[40:]),
        ipv6(PEER_CARE_OF, HOME, 60, home_address_option(PEER, 43) + routing + good[40:]),
    ]
    for inner in unusual_packets(STRANGER, HOME):
        made.append(ipv6(FAR_CARE_OF, NEAR_CARE_OF, 41, inner))
        headers = type2_routing_header(HOME, inner[6])
        made.append(ipv6(DIRECT, NEAR_CARE_OF, 43, headers + inner[40:]))
    return made


def mutations(corpus: list[bytes], *, seed: int, count: int = 150) -> list[bytes]:
    """Copies with one octet changed, or cut short."""
    chooser = random.Random(seed)
    made = []
    for _ in range(count):
        packet = bytearray(chooser.choice(corpus))
        if chooser.random() < 0.2:
            packet = packet[: chooser.randrange(41, len(packet) + 1)]
        else:
            packet[chooser.randrange(min(len(packet), 120))] ^= 1 << chooser.randrange(8)
        made.append(bytes(packet))
    return made


def catcher(namespace: str, device: str) -> socket.socket:
    """Hears what comes in by a device, without link headers."""
    with entered(namespace):
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        ear.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        # Before the link's rules, which drop what the far end would have to carry.
        ear.bind((device, ETH_P_ALL))
    return ear


def caught(ear: socket.socket) -> list[bytes]:
    found = []
    while select.select([ear], [], [], QUIET)[0]:
        packet, (_, protocol, *_) = ear.recvfrom(1 << 16)
        if protocol == ETH_P_IPV6:
            found.append(packet)
    return found


def is_ours(packet: bytes) -> bool:
    """Not what hosts say by themselves: neighbour and multicast listener discovery."""
    return not (packet[24] == 0xFF and packet[25] == 2) and packet[8:10] != b"\xfe\x80"


def through(
    near: Node, far: Node, corpus: list[bytes], *, outbound: bool
) -> tuple[list[bytes], dict[str, int]]:
    """What comes out, in no order, and what the counters say."""
    if outbound:
        ear = catcher(far.namespace, "eth0")
        place, device, address = near.namespace, TUNNEL_DEVICE, b""
    else:
        ear = catcher(near.namespace, TUNNEL_DEVICE)
        place, device, address = far.namespace, "eth0", far.hop.destination_mac
    before = near.engine.counters()
    with entered(place):
        mouth = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IPV6))
    with mouth, ear:
        for at, packet in enumerate(corpus):
            mouth.sendto(packet, (device, ETH_P_IPV6, 0, 0, address))
            if at % 16 == 15:
                select.select([], [], [], 0.002)
        found = sorted(filter(is_ours, caught(ear)))
    after = near.engine.counters()
    changed = {name: after[name] - before.get(name, 0) for name in after}
    return found, {name: value for name, value in changed.items() if value}


def run(make: MakeEngine, corpus: list[bytes], *, outbound: bool) -> tuple[list[bytes], int]:
    """What comes out, and how many of the packets the kernel served."""
    with two_ends((make, user_space)) as (topology, near, far):
        for namespace in (near.namespace, far.namespace):
            quiet(namespace)
        topology.ip(near.namespace, f"link set {TUNNEL_DEVICE} mtu 1500")
        near.publish(tables_of(near))
        found, counters = through(near, far, corpus, outbound=outbound)
        return found, counters.get("kernel-packets", 0)


def quiet(namespace: str) -> None:
    """Keep the hosts from answering: what is caught is the engine's."""
    rules = """
        add table ip6 quiet
        add chain ip6 quiet in { type filter hook input priority 0 ; policy drop ; }
        add chain ip6 quiet forward { type filter hook forward priority 0 ; policy drop ; }
        add chain ip6 quiet out { type filter hook output priority 0 ; policy drop ; }
    """
    command = ["ip", "netns", "exec", namespace, "nft", "-f", "-"]
    subprocess.run(command, input=rules, text=True, check=True)


ENGINES: dict[str, MakeEngine] = {"tcx": kernel, "clsact": kernel_by_filter}
engines = pytest.mark.parametrize("engine", sorted(ENGINES))


@engines
def test_plain_packets_leave_the_kernel_as_the_slow_reference_makes_them(engine: str) -> None:
    corpus, _ = outbound_corpus()
    found, served = run(ENGINES[engine], corpus, outbound=True)
    assert found == sorted(map(slowly_sent, corpus))
    assert served == len(corpus)


@engines
def test_plain_packets_come_in_as_the_slow_reference_makes_them(engine: str) -> None:
    corpus, _ = inbound_corpus()
    found, served = run(ENGINES[engine], [outer for outer, _ in corpus], outbound=False)
    assert found == sorted(inner for _, inner in corpus)
    assert served == len(corpus)


def test_every_packet_leaves_both_engines_alike() -> None:
    served, left = outbound_corpus()
    corpus = served + left
    by_kernel, count = run(kernel, corpus, outbound=True)
    by_user_space, none = run(user_space, corpus, outbound=True)
    assert by_kernel == by_user_space
    assert (count, none) == (len(served), 0)


def test_every_packet_comes_in_by_both_engines_alike() -> None:
    served, left = inbound_corpus()
    corpus = [outer for outer, _ in served] + left
    by_kernel, count = run(kernel, corpus, outbound=False)
    by_user_space, none = run(user_space, corpus, outbound=False)
    assert by_kernel == by_user_space
    assert (count, none) == (len(served), 0)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("outbound", [True, False], ids=["outbound", "inbound"])
def test_damaged_packets_become_the_same_in_both_engines(outbound: bool, seed: int) -> None:
    good = outbound_corpus()[0] if outbound else [outer for outer, _ in inbound_corpus()[0]]
    corpus = mutations(good, seed=seed)
    by_kernel, _ = run(kernel, corpus, outbound=outbound)
    by_user_space, _ = run(user_space, corpus, outbound=outbound)
    assert by_kernel == by_user_space
