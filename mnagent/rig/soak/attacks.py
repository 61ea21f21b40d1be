"""What attackers send: packets made from octets by a given source of randomness, so that a seed
makes the same ones again. Nothing here is of use against a node that does as the standard says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from random import Random

from mnagent.rig.checks import (
    DESTINATION_OPTIONS,
    ENCAPSULATED_IPV6,
    ESP,
    FRAGMENT,
    HOME_ADDRESS_OPTION,
    ICMPV6,
    MOBILITY,
    PARAMETER_PROBLEM,
    ROUTING,
)
from mnagent.rig.soak.watch import MARKER

NOTHING = 59
UDP = 17
ECHO_REQUEST = 128
ROUTER_ADVERTISEMENT = 134
UNREACHABLE, TOO_BIG, TIME_EXCEEDED = 1, 2, 3
ALL_NODES = IPv6Address("ff02::1")
REQUESTS, HOME_TEST_INIT, CARE_OF_TEST_INIT, HOME_TEST, CARE_OF_TEST, UPDATE, ANSWER, ERROR = range(
    8
)
ATTACKER = IPv6Address("2001:db8:b::bad")
VICTIM = IPv6Address("2001:db8:b::dead")
"""Whom reflection would hit; nobody has the address."""
NOWHERE = IPv6Network("2001:db8:66::/64")
"""Where floods come from: on a link, the answers would fill its router's neighbour cache, which is
another attack, on routers (RFC 6583)."""
FLOOD = 1500
"""Packets of a flood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What an attacker on the way knows."""

    home_address: IPv6Address
    home_agent: IPv6Address
    correspondent: IPv6Address
    care_of_address: IPv6Address
    """The home address while at home."""
    spis: Sequence[int]
    """Of the mobile node's associations, seen on the way."""
    recorded: Sequence[bytes] = ()
    """Signalling that passed, as IPv6 packets."""

    @property
    def is_home(self) -> bool:
        """Then packets to the mobile node are passed on to the home link like any host's."""
        return self.care_of_address == self.home_address


Attack = Callable[[Random, Scene], list[bytes]]


def ipv6(
    source: IPv6Address, destination: IPv6Address, protocol: int, payload: bytes, hops: int = 64
) -> bytes:
    """A packet."""
    header = bytes([0x60, 0, 0, 0]) + len(payload).to_bytes(2, "big") + bytes([protocol, hops])
    return header + source.packed + destination.packed + payload


def summed(
    source: IPv6Address, destination: IPv6Address, protocol: int, body: bytes, at: int
) -> bytes:
    """An upper-layer body with its checksum filled in, two octets from ``at``."""
    pseudo = source.packed + destination.packed + len(body).to_bytes(4, "big")
    octets = pseudo + bytes([0, 0, 0, protocol]) + body[:at] + bytes(2) + body[at + 2 :]
    octets += bytes(len(octets) % 2)
    total = sum(int.from_bytes(octets[i : i + 2], "big") for i in range(0, len(octets), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return body[:at] + (~total & 0xFFFF).to_bytes(2, "big") + body[at + 2 :]


def home_address_option(address: IPv6Address, following: int) -> bytes:
    """Destination options with the option alone."""
    return bytes([following, 2, 1, 2, 0, 0, HOME_ADDRESS_OPTION, 16]) + address.packed


def type_2_routing(address: IPv6Address, following: int) -> bytes:
    """A type 2 routing header with one segment left."""
    return bytes([following, 2, 2, 1, 0, 0, 0, 0]) + address.packed


def mobility(source: IPv6Address, destination: IPv6Address, kind: int, body: bytes) -> bytes:
    """A mobility header, padded to a multiple of 8 octets."""
    length = -(-(6 + len(body)) // 8) * 8
    padding = length - 6 - len(body)
    pad = b"" if not padding else bytes(1) if padding == 1 else bytes([1, padding - 2])
    message = bytes([NOTHING, length // 8 - 1, kind, 0, 0, 0]) + body + pad.ljust(padding, b"\0")
    return summed(source, destination, MOBILITY, message, 4)


def icmp(source: IPv6Address, destination: IPv6Address, body: bytes) -> bytes:
    """An ICMPv6 message with its checksum."""
    return summed(source, destination, ICMPV6, body, 2)


def marked_echo(source: IPv6Address, destination: IPv6Address, random: Random) -> bytes:
    """An echo request nobody may answer or pass on."""
    body = bytes([ECHO_REQUEST, 0, 0, 0]) + random.randbytes(4) + MARKER
    return icmp(source, destination, body)


def forged_acknowledgements(random: Random, scene: Scene) -> list[bytes]:
    """Binding Acknowledgements in the clear, as if from home agent and correspondent."""
    packets = []
    for source in (scene.home_agent, scene.correspondent):
        for status in (0, 1, 128, 129, 130, 134, 135, 136, 174, random.randrange(256)):
            body = bytes([status, random.choice((0, 0x80))]) + random.randbytes(4)
            message = mobility(source, scene.home_address, ANSWER, body)
            routed = type_2_routing(scene.home_address, MOBILITY) + message
            packets.append(ipv6(source, scene.care_of_address, ROUTING, routed))
    return packets


def forged_errors(random: Random, scene: Scene) -> list[bytes]:
    """Binding Errors, as if from home agent and correspondent."""
    packets = []
    for source in (scene.home_agent, scene.correspondent):
        for status in (1, 2, random.randrange(256)):
            for named in (scene.home_address, VICTIM):
                body = bytes([status, 0]) + named.packed
                message = mobility(source, scene.care_of_address, ERROR, body)
                packets.append(ipv6(source, scene.care_of_address, MOBILITY, message))
    return packets


def forged_icmp(random: Random, scene: Scene) -> list[bytes]:
    """ICMPv6 errors that quote what the node may have sent."""
    node = scene.care_of_address
    update = mobility(node, scene.home_agent, UPDATE, random.randbytes(6))
    sealed = random.choice(scene.spis).to_bytes(4, "big") + random.randbytes(60)
    quotes = [
        ipv6(node, scene.home_agent, ESP, sealed),
        ipv6(
            node,
            scene.home_agent,
            DESTINATION_OPTIONS,
            home_address_option(scene.home_address, ESP) + sealed,
        ),
        ipv6(node, scene.correspondent, MOBILITY, update),
        random.randbytes(48),
    ]
    packets = []
    for source in (scene.home_agent, scene.correspondent, ATTACKER):
        for quote in quotes:
            for kind, code, word in (
                (UNREACHABLE, random.randrange(7), 0),
                (TOO_BIG, 0, random.choice((0, 68, 576, 1280, 0xFFFFFFFF))),
                (TIME_EXCEEDED, random.randrange(2), 0),
                (PARAMETER_PROBLEM, random.randrange(3), random.choice((6, 40, 46, 0xFFFF))),
            ):
                body = bytes([kind, code, 0, 0]) + word.to_bytes(4, "big") + quote
                packets.append(ipv6(source, node, ICMPV6, icmp(source, node, body)))
    return packets


def forged_advertisements(random: Random, scene: Scene) -> list[bytes]:
    """Router advertisements that no host may believe, and prefix advertisements in the clear."""
    bad = IPv6Network((random.getrandbits(32) << 64 | 0x20010DB8 << 96, 64))
    prefix = bytes([3, 4, 64, 0xE0]) + bytes([0, 0, 14, 16]) * 2 + bytes(4)
    prefix += bad.network_address.packed
    body = bytes([ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0, 7, 8]) + bytes(8)
    router = IPv6Address("fe80::bad")
    packets = []
    for source, options, hops in (
        (router, prefix, 64),
        (ATTACKER, prefix, 255),
        (router, prefix[:1] + b"\0" + prefix[2:], 255),
        (router, prefix[:20], 255),
    ):
        message = icmp(source, ALL_NODES, body + options)
        packets.append(ipv6(source, ALL_NODES, ICMPV6, message, hops))
    wrong = icmp(router, ALL_NODES, body + prefix)
    flipped = wrong[:2] + bytes([wrong[2] ^ 1]) + wrong[3:]
    packets.append(ipv6(router, ALL_NODES, ICMPV6, flipped, 255))
    advertisement = bytes([147, 0, 0, 0]) + random.randbytes(2) + bytes(2) + prefix
    node, agent = scene.care_of_address, scene.home_agent
    message = icmp(agent, scene.home_address, advertisement)
    routed = type_2_routing(scene.home_address, ICMPV6) + message
    packets.append(ipv6(agent, node, ROUTING, routed))
    return packets


def replays(random: Random, scene: Scene) -> list[bytes]:
    """All signalling that passed since, in another order."""
    return random.sample(scene.recorded, len(scene.recorded))


def spoofed_inner_packets(random: Random, scene: Scene) -> list[bytes]:
    """Through the tunnel in either direction, by who is not at its end or for whom it is not."""
    node, agent, home = scene.care_of_address, scene.home_agent, scene.home_address
    stranger = IPv6Address(int(home) + random.randrange(0x100, 0xFFFF))
    packets = []
    for outer, inner in (
        (node, stranger),
        (node, VICTIM),
        (node, IPv6Address("fe80::1")),
        (node, agent),
        (ATTACKER, home),
        (ATTACKER, VICTIM),
    ):
        target = scene.correspondent
        plain = ipv6(inner, target, ICMPV6, marked_echo(inner, target, random))
        packets.append(ipv6(outer, agent, ENCAPSULATED_IPV6, plain))
    for source in () if scene.is_home else (ATTACKER, scene.correspondent):
        plain = ipv6(ATTACKER, home, ICMPV6, marked_echo(ATTACKER, home, random))
        packets.append(ipv6(source, node, ENCAPSULATED_IPV6, plain))
    return packets


def reflections(random: Random, scene: Scene) -> list[bytes]:
    """Home Address options and type 2 routing headers that name a victim."""
    packets = []
    for target in (scene.correspondent, scene.home_agent):
        for source in (ATTACKER, scene.care_of_address):
            echo = marked_echo(VICTIM, target, random)
            options = home_address_option(VICTIM, ICMPV6) + echo
            packets.append(ipv6(source, target, DESTINATION_OPTIONS, options))
    targets = [scene.correspondent, scene.home_agent]
    for target in targets if scene.is_home else (*targets, scene.care_of_address):
        routed = type_2_routing(VICTIM, ICMPV6) + marked_echo(ATTACKER, VICTIM, random)
        packets.append(ipv6(ATTACKER, target, ROUTING, routed))
    return packets


def flood_of_tests(random: Random, scene: Scene) -> list[bytes]:
    """Home and Care-of Test Inits from addresses without number."""
    packets = []
    for _ in range(FLOOD):
        source, target = _somebody(random), _target(random, scene)
        kind = random.choice((HOME_TEST_INIT, CARE_OF_TEST_INIT))
        message = mobility(source, target, kind, bytes(2) + random.randbytes(8))
        packets.append(ipv6(source, target, MOBILITY, message))
    return packets


def flood_of_updates(random: Random, scene: Scene) -> list[bytes]:
    """Binding Updates of all kinds for all kinds of home addresses, none of them authorized."""
    packets = []
    for _ in range(FLOOD):
        source, target = _somebody(random), _target(random, scene)
        named = random.choice((scene.home_address, _somebody(random)))
        nonces = bytes([4, 4]) + random.randbytes(4)
        authorization = bytes([5, 12]) + random.randbytes(12)
        body = random.randbytes(2) + random.choice((b"\xc0\0", b"\x80\0", random.randbytes(2)))
        body += random.randbytes(2) + random.choice((b"", nonces + authorization))
        message = mobility(named, target, UPDATE, body)
        options = home_address_option(named, MOBILITY) + message
        packets.append(ipv6(source, target, DESTINATION_OPTIONS, options))
    return packets


def flood_of_esp(random: Random, scene: Scene) -> list[bytes]:
    """Under the right index with the wrong keys, to both ends of the tunnel."""
    node, agent = scene.care_of_address, scene.home_agent
    packets = []
    for _ in range(FLOOD):
        source, target = random.choice(((node, agent), (agent, node)))
        sealed = random.choice(scene.spis).to_bytes(4, "big")
        sealed += random.randbytes(4 + 16 * random.randrange(1, 8))
        packets.append(ipv6(source, target, ESP, sealed))
    return packets


def flood_of_fragments(random: Random, scene: Scene) -> list[bytes]:
    """First, middle and overlapping fragments of packets that are never whole."""
    node, agent = scene.care_of_address, scene.home_agent
    packets = []
    for _ in range(FLOOD):
        source, target = random.choice(((ATTACKER, agent), (ATTACKER, node), (agent, node)))
        protocol = random.choice((ESP, ENCAPSULATED_IPV6, MOBILITY))
        offset = random.randrange(0, 150) << 3 | 1
        header = bytes([protocol, 0]) + offset.to_bytes(2, "big") + random.randbytes(4)
        packets.append(ipv6(source, target, FRAGMENT, header + random.randbytes(128)))
    return packets


def malformed(random: Random, scene: Scene) -> list[bytes]:
    """Recorded signalling with octets changed, cut and lengthened."""
    packets = []
    for original in scene.recorded[-60:]:
        octets = bytearray(original)
        for _ in range(random.randrange(1, 4)):
            octets[random.randrange(40, len(octets))] = random.randrange(256)
        cut = octets[: random.randrange(41, len(octets) + 1)]
        for packet in (octets, cut):
            packet[4:6] = (len(packet) - 40).to_bytes(2, "big")
            packets.append(bytes(packet))
    return packets


def _somebody(random: Random) -> IPv6Address:
    return IPv6Address(int(NOWHERE.network_address) | random.getrandbits(62))


def _target(random: Random, scene: Scene) -> IPv6Address:
    return random.choice((scene.home_agent, scene.correspondent))


ATTACKS: Mapping[str, Attack] = {
    "forged binding acknowledgements": forged_acknowledgements,
    "forged binding errors": forged_errors,
    "forged ICMPv6 errors": forged_icmp,
    "forged advertisements": forged_advertisements,
    "replays": replays,
    "spoofed inner packets": spoofed_inner_packets,
    "reflection attempts": reflections,
    "flood of tests": flood_of_tests,
    "flood of binding updates": flood_of_updates,
    "flood of ESP": flood_of_esp,
    "flood of fragments": flood_of_fragments,
    "malformed signalling": malformed,
}
"""By the names of the report."""
