"""Damaged packets through the whole pipeline: every one gets exactly one verdict, and none
crashes it.

Run under AddressSanitizer by ci/sanitize. MNAGENT_MUTATIONS is how many (default 100000).
"""

from __future__ import annotations

import os
import random
import resource
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from mnagent.core.security import Direction, EspMode
from mnagent.datapath import DirectPathEntry, PeerBindingEntry, Pipeline, Tables
from tests.ext import packets
from tests.ext.packets import (
    home_address_option,
    ipv6,
    super_packet,
    tcp,
    type2_routing_header,
    udp,
)
from tests.ext.scenario import (
    AGENT,
    CARE_OF,
    CORRESPONDENT,
    HOME,
    OTHER_CARE_OF,
    OTHER_HOME,
    STRANGER,
    agent_tunnel,
    association,
    mobile_tunnel,
    slow_esp,
    verdicts,
)
from tests.support.requirement import requirement

MUTATIONS = int(os.environ.get("MNAGENT_MUTATIONS", "100000"))
TUNNEL = slow_esp(("aes-gcm-16", 20), 0x1000)
TRANSPORT = slow_esp(("aes-cbc-hmac-sha256-128", 16), 0x2000)
PEER = IPv6Address("2001:db8:6::6")
PEER_CARE_OF = IPv6Address("2001:db8:66::6")
NULL = slow_esp(("null-hmac-sha256-128", 0), 0x3000)


def everything(*, whole: bool = False) -> Pipeline:
    """Both roles at once."""
    pipeline = Pipeline(passes_super_packets=whole)
    path = DirectPathEntry(
        home_address=HOME, correspondent=CORRESPONDENT, care_of_address=CARE_OF, mtu=1452
    )
    pipeline.publish(
        Tables(
            direct_paths=(
                replace(path, correspondent=STRANGER),
                replace(path, correspondent=PEER),
            ),
            peer_bindings=(
                PeerBindingEntry(home_address=PEER, care_of_address=PEER_CARE_OF, mtu=1476),
            ),
            tunnels=(mobile_tunnel(), agent_tunnel(OTHER_HOME, OTHER_CARE_OF)),
            associations=(
                association(TUNNEL, Direction.INBOUND, replay_window=0),
                association(NULL, Direction.INBOUND, replay_window=0),
                association(TRANSPORT, Direction.INBOUND, mode=EspMode.TRANSPORT, replay_window=0),
            ),
            local_addresses=(CARE_OF, HOME, AGENT),
        )
    )
    return pipeline


def direct_corpus() -> list[bytes]:
    """Payload with a Home Address option, a type 2 routing header, both, and what may precede."""
    segment, datagram = tcp(PEER, HOME, bytes(200))[40:], udp(PEER, HOME, b"z" * 30)[40:]
    option, routing = home_address_option, type2_routing_header
    before = bytes([60, 0, 5, 2, 0, 0, 1, 0])
    piece = bytes([packets.UDP, 0, 0, 1, 0, 0, 0, 1])
    quoted = ipv6(CARE_OF, PEER_CARE_OF, 43, routing(PEER, 60) + option(HOME, 17) + datagram)
    error = ipv6(STRANGER, CARE_OF, packets.ICMPV6, bytes([2, 0, 0, 0, 0, 0, 5, 80]) + quoted)
    return [
        ipv6(PEER_CARE_OF, CARE_OF, 60, option(PEER, packets.TCP) + segment),
        ipv6(PEER_CARE_OF, CARE_OF, 0, before + option(PEER, packets.UDP) + datagram),
        ipv6(STRANGER, CARE_OF, 43, routing(HOME, packets.UDP) + datagram),
        ipv6(PEER_CARE_OF, CARE_OF, 43, routing(HOME, 60) + option(PEER, 6) + segment),
        ipv6(PEER_CARE_OF, CARE_OF, 60, option(PEER, 43) + routing(HOME, 17) + datagram),
        ipv6(PEER_CARE_OF, CARE_OF, 43, routing(HOME, 60) + option(PEER, 44) + piece + datagram),
        ipv6(AGENT, CARE_OF, 41, ipv6(PEER_CARE_OF, HOME, 60, option(PEER, 17) + datagram)),
        packets.with_checksum(error, 42),
    ]


def inbound_corpus() -> list[bytes]:
    inner = tcp(CORRESPONDENT, HOME, bytes(300))
    message = bytes([59, 1, 5, 0]) + bytes(12)
    option = home_address_option(HOME, packets.MOBILITY)
    sealed = TRANSPORT.seal(message, packets.MOBILITY, 1)
    return [
        ipv6(AGENT, CARE_OF, packets.IPV6, inner),
        ipv6(AGENT, CARE_OF, packets.IPV6, udp(CORRESPONDENT, HOME, b"x" * 40)),
        ipv6(OTHER_CARE_OF, AGENT, packets.IPV6, udp(OTHER_HOME, CORRESPONDENT, b"y")),
        ipv6(AGENT, CARE_OF, packets.ESP, TUNNEL.seal(inner, 41, 1)),
        ipv6(AGENT, CARE_OF, packets.ESP, NULL.seal(inner, 41, 1)),
        ipv6(CARE_OF, AGENT, packets.ESP, sealed),
        ipv6(CARE_OF, AGENT, 60, option + message),
        ipv6(CARE_OF, AGENT, 60, home_address_option(HOME, packets.ESP) + sealed),
        ipv6(AGENT, CARE_OF, 43, type2_routing_header(HOME, packets.ESP) + sealed),
        ipv6(AGENT, CARE_OF, 58, bytes([134, 0]) + bytes(30)),
        ipv6(AGENT, CARE_OF, 58, bytes([2, 0]) + bytes(6) + ipv6(CARE_OF, AGENT, 41, inner)),
        ipv6(AGENT, CARE_OF, packets.FRAGMENT, b"\x29\0\0\1\0\0\0\7" + inner[:200]),
        ipv6(AGENT, CARE_OF, packets.FRAGMENT, b"\x29\0\0\xc8\0\0\0\7" + inner[200:]),
    ]


def mutate(generator: random.Random, packet: bytes) -> bytes:
    """A few damaged octets, preferably in headers; sometimes cut or grown."""
    damaged = bytearray(packet)
    for _ in range(generator.choice([0, 1, 1, 2, 5])):
        at = generator.randrange(min(len(damaged), generator.choice([8, 60, 140, 2000])))
        damaged[at] = generator.choice([0, 255, generator.randrange(256), damaged[at] ^ 1])
    if generator.random() < 0.3:
        del damaged[generator.randrange(len(damaged)) :]
    if generator.random() < 0.1:
        damaged += generator.randbytes(generator.randrange(20))
    if generator.random() < 0.5 and len(damaged) >= 40:
        damaged[4:6] = (len(damaged) - 40).to_bytes(2, "big")
    return bytes(damaged)


@requirement("RFC6275-9.2", "OPS-06")
def test_mutated_inbound_packets_are_all_accounted_for() -> None:
    generator, pipeline, corpus = random.Random(1), everything(), inbound_corpus()
    done = 0
    while done < MUTATIONS:
        batch = [mutate(generator, generator.choice(corpus)) for _ in range(64)]
        offloads = [
            bytes(10) if generator.random() < 0.9 else generator.randbytes(10) for _ in batch
        ]
        result = pipeline.process_inbound(batch, offloads=offloads)
        done += len(batch)
        counters = pipeline.counters()
        assert counters["packets-inbound"] == done
        assert result.frames == []
    assert len(verdicts(pipeline)) > 15


@requirement("RFC6275-9.2", "OPS-06")
@pytest.mark.parametrize("whole", [False, True])
def test_mutated_outbound_packets_are_all_accounted_for(whole: bool) -> None:
    generator, pipeline = random.Random(2), everything(whole=whole)
    whole = tcp(HOME, CORRESPONDENT, bytes(3000))
    corpus = [
        super_packet(whole, 1000),
        super_packet(tcp(CORRESPONDENT, OTHER_HOME, bytes(200)), 7),
        (udp(HOME, CORRESPONDENT, bytes(100)), bytes(10)),
        (udp(HOME, CORRESPONDENT, bytes(1600)), bytes(10)),
        super_packet(tcp(HOME, PEER, bytes(3000)), 1000),
        super_packet(tcp(HOME, STRANGER, bytes(3000)), 1000),
        (ipv6(HOME, PEER, 0, bytes([60, 0, 5, 2, 0, 0, 1, 0, 17, 0]) + bytes(60)), bytes(10)),
        (ipv6(HOME, PEER, 43, bytes([44, 0]) + bytes(6) + bytes([17]) + bytes(60)), bytes(10)),
    ]
    for _ in range(MUTATIONS // 8):
        packet, header = generator.choice(corpus)
        if generator.random() < 0.3:
            header = mutate(generator, header)[:10].ljust(10, b"\0")
        result = pipeline.process_outbound([mutate(generator, packet)], [header])
        assert whole or all(len(frame) <= 1500 for frame in result.frames)
    assert len(verdicts(pipeline)) >= 6


@pytest.mark.parametrize("at", range(len(inbound_corpus())))
def test_truncation_at_every_length_is_accounted_for(at: int) -> None:
    packet, pipeline = inbound_corpus()[at], everything()
    for length in range(len(packet)):
        pipeline.process_inbound([packet[:length]])
        pipeline.process_inbound(
            [packet[:4] + max(0, length - 40).to_bytes(2, "big") + packet[6:length]]
        )
    verdicts(pipeline)
    assert pipeline.counters()["decapsulated"] == 0


def test_work_does_not_leak() -> None:
    generator, corpus = random.Random(3), inbound_corpus()

    def work(rounds: int) -> int:
        for _ in range(rounds):
            pipeline = everything()
            pipeline.process_inbound(corpus)
            pipeline.process_outbound([udp(HOME, CORRESPONDENT, bytes(generator.randrange(1000)))])
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = work(200)
    assert work(400) - before < 4096
