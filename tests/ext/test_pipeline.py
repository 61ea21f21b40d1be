"""The engine's stages over memory ports: encapsulation, checks, errors, holding, coalescing."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from mnagent.core.security import Direction, EspMode
from mnagent.datapath import NextHop, Pipeline, SequenceExhausted, Tables
from tests.ext import packets
from tests.ext.packets import (
    ACK,
    CWR,
    FIN,
    GSO_ECN,
    GSO_TCPV6,
    PSH,
    Offload,
    home_address_option,
    ipv6,
    segments,
    super_packet,
    tcp,
    type2_routing_header,
    udp,
    written_packets,
)
from tests.ext.scenario import (
    AGENT,
    CARE_OF,
    CORRESPONDENT,
    HOME,
    OTHER_CARE_OF,
    OTHER_HOME,
    STRANGER,
    SUITES,
    agent_pipeline,
    agent_tunnel,
    association,
    mobile_pipeline,
    mobile_tunnel,
    slow_esp,
    verdicts,
)
from tests.support.requirement import requirement

SPI = 0x1234


def tunnelled(inner: bytes, source: IPv6Address = AGENT, to: IPv6Address = CARE_OF) -> bytes:
    """Plain encapsulation, as the engine should make it."""
    outer = ipv6(source, to, packets.IPV6, inner)
    return inner[:4] + outer[4:]


# Out.


@requirement("RFC6275-11.3.1", "MN-30")
def test_mobile_packet_is_encapsulated_to_the_home_agent() -> None:
    pipeline = mobile_pipeline()
    inner = udp(HOME, CORRESPONDENT, b"hello", traffic_class=0xB9)
    frames, to_tunnel, _ = pipeline.process_outbound([inner])
    assert frames == [tunnelled(inner, CARE_OF, AGENT)]
    assert to_tunnel == []
    assert verdicts(pipeline) == {"tunnelled": 1}
    assert pipeline.activity() == {HOME: (1, 0)}


@requirement("RFC6275-10.4.2", "HA-36")
def test_packet_to_the_home_address_is_encapsulated_to_the_care_of_address() -> None:
    pipeline = agent_pipeline()
    first, second = (udp(CORRESPONDENT, home, b"x") for home in (HOME, OTHER_HOME))
    frames, _, _ = pipeline.process_outbound([first, second])
    assert frames == [tunnelled(first), tunnelled(second, AGENT, OTHER_CARE_OF)]


def test_next_hop_puts_an_ethernet_header_first() -> None:
    pipeline = Pipeline()
    hop = NextHop(interface=2, source_mac=b"\2source"[:6], destination_mac=b"\2desti")
    pipeline.publish(Tables(tunnels=(replace(mobile_tunnel(), next_hop=hop),)))
    inner = udp(HOME, CORRESPONDENT, b"hello")
    frames, _, _ = pipeline.process_outbound([inner])
    head = hop.destination_mac + hop.source_mac + b"\x86\xdd"
    assert frames == [head + tunnelled(inner, CARE_OF, AGENT)]


@requirement("RFC6040-4.1")
@pytest.mark.parametrize("ecn", range(4))
def test_congestion_bits_are_copied_out(ecn: int) -> None:
    frames, _, _ = mobile_pipeline().process_outbound(
        [udp(HOME, CORRESPONDENT, b"", traffic_class=0x20 | ecn)]
    )
    assert frames[0][:2] == frames[0][40:42]


@requirement("RFC6275-11.3.1", "MN-32", "HA-38")
@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (udp(STRANGER, CORRESPONDENT, b""), "drop-no-tunnel"),
        (udp(CORRESPONDENT, HOME, b""), "drop-no-tunnel"),
        (udp(IPv6Address("fe80::1"), IPv6Address("ff02::2"), b""), "drop-link-scope"),
        (udp(HOME, IPv6Address("ff02::1:2"), b""), "drop-link-scope"),
        (udp(HOME, CORRESPONDENT, b"xyz")[:-1], "drop-truncated"),
        (udp(HOME, CORRESPONDENT, b"xyz")[:39], "drop-truncated"),
        (b"", "drop-truncated"),
        (b"\x45" + udp(HOME, CORRESPONDENT, b"")[1:], "drop-not-ipv6"),
    ],
)
def test_packet_that_cannot_be_tunnelled_is_dropped(packet: bytes, verdict: str) -> None:
    pipeline = mobile_pipeline()
    assert pipeline.process_outbound([packet]).frames == []
    assert verdicts(pipeline) == {verdict: 1}


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_esp_tunnel_opens_with_the_oracle(suite: tuple[str, int]) -> None:
    oracle = slow_esp(suite, SPI)
    pipeline = mobile_pipeline(
        association(oracle, Direction.OUTBOUND), tunnel=mobile_tunnel(outbound_spi=SPI)
    )
    inners = [udp(HOME, CORRESPONDENT, bytes(length)) for length in (0, 1, 17, 1000)]
    frames, _, _ = pipeline.process_outbound(inners)
    for at, (frame, inner) in enumerate(zip(frames, inners, strict=True)):
        assert frame[6] == 50
        assert int.from_bytes(frame[4:6], "big") == len(frame) - 40
        assert oracle.open(frame[40:]) == (inner, 41, at + 1)


def test_missing_association_drops_instead_of_sending_in_the_clear() -> None:
    pipeline = mobile_pipeline(tunnel=mobile_tunnel(outbound_spi=SPI))
    assert pipeline.process_outbound([udp(HOME, CORRESPONDENT, b"")]).frames == []
    assert verdicts(pipeline) == {"drop-no-association": 1}


@requirement("RFC2473-7.1", "HA-39")
@pytest.mark.parametrize("end", ["mobile-node", "home-agent"])
def test_packet_above_the_tunnel_mtu_is_answered_too_big(end: str) -> None:
    mobile = end == "mobile-node"
    pipeline = mobile_pipeline() if mobile else agent_pipeline()
    source, to = (HOME, CORRESPONDENT) if mobile else (CORRESPONDENT, HOME)
    fits = udp(source, to, bytes(1460 - 48))
    over = udp(source, to, bytes(1461 - 48))
    frames, to_tunnel, _ = pipeline.process_outbound([fits, over])
    assert [len(frame) for frame in frames] == [1500]
    (record,) = to_tunnel
    error = record[10:]
    assert record[:10] == bytes(10)
    assert error[8:24] == (CARE_OF if mobile else AGENT).packed
    assert error[24:40] == source.packed
    assert (error[40], error[41]) == (2, 0)
    assert int.from_bytes(error[44:48], "big") == 1460
    assert len(error) == 1280
    assert error[48:] == over[: 1280 - 48]
    assert packets.upper_layer(error) == 0xFFFF
    assert verdicts(pipeline) == {"tunnelled": 1, "packet-too-big": 1}


def test_tunnel_mtu_never_goes_below_1280() -> None:
    pipeline = mobile_pipeline(tunnel=mobile_tunnel(mtu=1000))
    frames, to_tunnel, _ = pipeline.process_outbound([udp(HOME, CORRESPONDENT, bytes(1232))])
    assert (len(frames), to_tunnel) == (1, [])


def test_errors_too_big_are_rate_limited_and_never_about_errors() -> None:
    pipeline = mobile_pipeline()
    big = udp(HOME, CORRESPONDENT, bytes(2000))
    error = ipv6(HOME, CORRESPONDENT, packets.ICMPV6, bytes([1, 0]) + bytes(2000))
    assert pipeline.process_outbound([error]).to_tunnel == []
    answered = len(pipeline.process_outbound([big] * 500).to_tunnel)
    assert 100 <= answered <= 200
    assert verdicts(pipeline)["drop-rate-limited"] == 500 - answered


@pytest.mark.parametrize("flags", [ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR])
@pytest.mark.parametrize("kind", [GSO_TCPV6, GSO_TCPV6 | GSO_ECN])
@pytest.mark.parametrize("length", [1, 999, 1000, 1001, 3456, 65000])
def test_super_packet_is_cut_as_the_reference_cuts(length: int, kind: int, flags: int) -> None:
    data = random.Random(length).randbytes(length)
    whole = tcp(HOME, CORRESPONDENT, data, flags=flags, options=bytes(12), sequence=2**32 - 1500)
    packet, header = super_packet(whole, 1000, kind=kind)
    frames, _, _ = mobile_pipeline().process_outbound([packet], [header])
    expected = segments(packet, Offload.decode(header))
    assert [frame[40:] for frame in frames] == expected
    assert all(packets.upper_layer(frame[40:]) == 0xFFFF for frame in frames)


def test_super_packet_through_esp_is_cut_as_the_reference_cuts() -> None:
    oracle = slow_esp(("aes-gcm-16", 20), SPI)
    pipeline = mobile_pipeline(
        association(oracle, Direction.OUTBOUND), tunnel=mobile_tunnel(outbound_spi=SPI)
    )
    packet, header = super_packet(tcp(HOME, CORRESPONDENT, bytes(30000)), 1300)
    frames, _, _ = pipeline.process_outbound([packet], [header])
    opened = [oracle.open(frame[40:])[0] for frame in frames]
    assert opened == segments(packet, Offload.decode(header))


def test_segments_above_the_mtu_are_answered_too_big() -> None:
    pipeline = mobile_pipeline()
    packet, header = super_packet(tcp(HOME, CORRESPONDENT, bytes(9000)), 1441)
    frames, to_tunnel, _ = pipeline.process_outbound([packet], [header])
    assert (frames, len(to_tunnel)) == ([], 1)


@pytest.mark.parametrize(
    "offload",
    [
        Offload(1, 4, 60, 0, 40, 16),
        Offload(1, 4, 60, 1000, 38, 16),
        Offload(1, 4, 60, 1000, 41, 16),
        Offload(1, 4, 60, 1000, 65000, 16),
        Offload(1, 1, 60, 1000, 40, 16),
        Offload(1, 3, 60, 1000, 40, 6),
        Offload(1, 0, 60, 0, 40, 60000),
        Offload(1, 0, 60, 0, 0, 16),
    ],
)
def test_offload_that_makes_no_sense_is_dropped(offload: Offload) -> None:
    pipeline = mobile_pipeline()
    packet = tcp(HOME, CORRESPONDENT, bytes(1200))
    assert pipeline.process_outbound([packet], [offload.encode()]).frames == []
    assert verdicts(pipeline) == {"drop-bad-offload": 1}


def test_checksum_left_to_the_device_is_completed() -> None:
    right = udp(HOME, CORRESPONDENT, b"some data")
    partial = packets.checksum(packets.pseudo_header(right[8:24], right[24:40], 17, packets.UDP))
    packet = right[:46] + partial.to_bytes(2, "big") + right[48:]
    header = Offload(flags=1, start=40, offset=6).encode()
    frames, _, _ = mobile_pipeline().process_outbound([packet], [header])
    assert frames[0][40:] == right


def test_held_packets_leave_in_order_when_the_tunnel_moves() -> None:
    pipeline = mobile_pipeline(tunnel=mobile_tunnel(hold=True))
    inners = [udp(HOME, CORRESPONDENT, bytes([at])) for at in range(3)]
    assert pipeline.process_outbound(inners).frames == []
    assert verdicts(pipeline) == {"held": 3}
    moved = replace(mobile_tunnel(), local=OTHER_CARE_OF)
    pipeline.publish(Tables(tunnels=(moved,)))
    last = udp(HOME, CORRESPONDENT, b"last")
    frames, _, _ = pipeline.process_outbound([last])
    assert frames == [tunnelled(inner, OTHER_CARE_OF, AGENT) for inner in [*inners, last]]
    assert verdicts(pipeline) == {"held": 3, "tunnelled": 4}


def test_hold_queue_is_bounded_and_drops_the_oldest() -> None:
    pipeline = mobile_pipeline(tunnel=mobile_tunnel(hold=True))
    inners = [udp(HOME, CORRESPONDENT, at.to_bytes(2, "big")) for at in range(300)]
    pipeline.process_outbound(inners)
    assert verdicts(pipeline) == {"held": 300, "drop-hold-overflow": 44}
    pipeline.publish(Tables(tunnels=(mobile_tunnel(),)))
    assert [frame[40:] for frame in pipeline.process_outbound([]).frames] == inners[44:]
    assert verdicts(pipeline)["tunnelled"] == 256


def test_removed_tunnel_drops_what_it_held() -> None:
    pipeline = mobile_pipeline(tunnel=mobile_tunnel(hold=True))
    pipeline.process_outbound([udp(HOME, CORRESPONDENT, b"")] * 2)
    pipeline.publish(Tables())
    assert pipeline.process_outbound([]).frames == []
    assert verdicts(pipeline) == {"held": 2, "drop-no-tunnel": 2}


# Errors about what the tunnel sent.


def error_about(frame: bytes, kind: int, *, value: int = 0, code: int = 0) -> bytes:
    """An ICMPv6 error from a router between the tunnel's ends."""
    body = bytes([kind, code, 0, 0]) + value.to_bytes(4, "big") + frame[: 1280 - 48]
    source = IPv6Address(frame[8:24])
    return packets.with_checksum(ipv6(STRANGER, source, packets.ICMPV6, body), 42)


@requirement("RFC2473-8", "HA-41")
@pytest.mark.parametrize("kind", [1, 3])
@pytest.mark.parametrize("end", ["mobile-node", "home-agent"])
def test_error_about_the_tunnel_is_relayed_to_the_inner_sender(end: str, kind: int) -> None:
    if end == "mobile-node":
        pipeline, inner, local = mobile_pipeline(), udp(HOME, CORRESPONDENT, b"x"), CARE_OF
    else:
        pipeline, inner, local = agent_pipeline(), udp(CORRESPONDENT, HOME, b"x"), AGENT
    (frame,) = pipeline.process_outbound([inner]).frames
    (record,), handed_up = pipeline.process_inbound([error_about(frame, kind)])[1:]
    relayed = record[10:]
    assert (relayed[8:24], relayed[24:40]) == (local.packed, inner[8:24])
    assert relayed[40:42] == b"\1\3"
    assert relayed[48:] == inner
    assert packets.upper_layer(relayed) == 0xFFFF
    assert handed_up == []
    assert verdicts(pipeline) == {"tunnelled": 1, "relayed-error": 1}


@requirement("RFC2473-8.1")
@pytest.mark.parametrize(("reported", "told"), [(1400, 1360), (1300, 1280), (0, 1280)])
def test_packet_too_big_is_relayed_and_handed_up(reported: int, told: int) -> None:
    pipeline = mobile_pipeline()
    inner = udp(HOME, CORRESPONDENT, bytes(1400))
    (frame,) = pipeline.process_outbound([inner]).frames
    error = error_about(frame, 2, value=reported)
    (record,), (received,) = pipeline.process_inbound([error])[1:]
    assert record[50:52] == b"\2\0"
    assert int.from_bytes(record[54:58], "big") == told
    assert packets.upper_layer(record[10:]) == 0xFFFF
    assert (received.data, received.tunnel_source) == (error, AGENT)


def test_packet_too_big_about_a_small_packet_is_only_handed_up() -> None:
    pipeline = mobile_pipeline()
    (frame,) = pipeline.process_outbound([udp(HOME, CORRESPONDENT, b"small")]).frames
    _, to_tunnel, handed_up = pipeline.process_inbound([error_about(frame, 2, value=1280)])
    assert (to_tunnel, len(handed_up)) == ([], 1)


def test_parameter_problem_about_the_tunnel_is_handed_up_and_not_relayed() -> None:
    pipeline = mobile_pipeline()
    error = error_about(tunnelled(udp(HOME, CORRESPONDENT, b"x"), CARE_OF, AGENT), 4, value=6)
    _, to_tunnel, (received,) = pipeline.process_inbound([error])
    assert (to_tunnel, received.data, received.tunnel_source) == ([], error, None)


@pytest.mark.parametrize("kind", [1, 2])
def test_error_about_esp_is_handed_up(kind: int) -> None:
    oracle = slow_esp(("aes-gcm-16", 20), SPI)
    pipeline = mobile_pipeline(
        association(oracle, Direction.OUTBOUND), tunnel=mobile_tunnel(outbound_spi=SPI)
    )
    (frame,) = pipeline.process_outbound([udp(HOME, CORRESPONDENT, b"x")]).frames
    error = error_about(frame, kind, value=1400)
    _, to_tunnel, (received,) = pipeline.process_inbound([error])
    assert to_tunnel == []
    assert (received.data, received.tunnel_source) == (error, AGENT if kind == 2 else None)


def test_error_about_a_registration_is_handed_up() -> None:
    pipeline = mobile_pipeline()
    registration = ipv6(CARE_OF, AGENT, 60, home_address_option(HOME, 135) + MESSAGE)
    error = error_about(registration, 1)
    assert [item.data for item in pipeline.process_inbound([error]).handed_up] == [error]


def test_forged_error_is_not_believed() -> None:
    inner = udp(HOME, CORRESPONDENT, bytes(1400))
    ours = tunnelled(inner, CARE_OF, AGENT)
    for error, verdict in (
        (error_about(tunnelled(inner, STRANGER, AGENT), 2, value=1280), "not-ours"),
        (error_about(tunnelled(udp(STRANGER, HOME, b""), CARE_OF, AGENT), 1), "not-ours"),
        (error_about(ipv6(CARE_OF, AGENT, packets.UDP, bytes(8)), 1), "not-ours"),
        (error_about(ours, 2, value=1280)[:-1] + b"\1", "drop-bad-checksum"),
        (ipv6(STRANGER, CARE_OF, packets.ICMPV6, bytes([1, 0]) + bytes(6)), "not-ours"),
    ):
        pipeline = mobile_pipeline()
        assert list(pipeline.process_inbound([error])) == [[], [], []]
        assert verdicts(pipeline) == {verdict: 1}


# In.


@requirement("RFC6275-10.4.5", "HA-42")
@pytest.mark.parametrize("end", ["mobile-node", "home-agent"])
def test_tunnelled_packet_reaches_the_tunnel_device_unchanged(end: str) -> None:
    if end == "mobile-node":
        pipeline, inner = mobile_pipeline(), udp(CORRESPONDENT, HOME, b"data")
        frame = tunnelled(inner)
    else:
        pipeline, inner = agent_pipeline(), udp(HOME, CORRESPONDENT, b"data")
        frame = tunnelled(inner, CARE_OF, AGENT)
    frames, to_tunnel, handed_up = pipeline.process_inbound([frame])
    assert to_tunnel == [bytes(10) + inner]
    assert (frames, handed_up) == ([], [])
    assert verdicts(pipeline) == {"decapsulated": 1}
    assert pipeline.activity()[HOME] == (0, 1)


@requirement("RFC6275-10.4.5", "HA-43", "HA-44")
@pytest.mark.parametrize(
    ("frame", "verdict"),
    [
        (tunnelled(udp(HOME, CORRESPONDENT, b""), STRANGER, AGENT), "drop-outer-source"),
        (tunnelled(udp(HOME, CORRESPONDENT, b""), OTHER_CARE_OF, AGENT), "drop-outer-source"),
        (tunnelled(udp(STRANGER, CORRESPONDENT, b""), CARE_OF, AGENT), "drop-inner-source"),
        (tunnelled(udp(CORRESPONDENT, HOME, b""), CARE_OF, AGENT), "drop-inner-source"),
        (
            tunnelled(udp(IPv6Address("fe80::1"), HOME, b""), CARE_OF, AGENT),
            "drop-inner-scope",
        ),
        (
            tunnelled(udp(HOME, IPv6Address("ff02::1"), b""), CARE_OF, AGENT),
            "drop-inner-scope",
        ),
        (tunnelled(udp(HOME, CORRESPONDENT, b""), CARE_OF, STRANGER), "not-local"),
        (ipv6(CARE_OF, AGENT, packets.IPV6, b"\x45" + bytes(60)), "drop-inner-malformed"),
        (ipv6(CARE_OF, AGENT, packets.IPV6, b"\x60" + bytes(10)), "drop-inner-malformed"),
        (
            ipv6(CARE_OF, AGENT, packets.IPV6, udp(HOME, CORRESPONDENT, b"abc")[:-1]),
            "drop-inner-malformed",
        ),
        (ipv6(CARE_OF, AGENT, packets.FRAGMENT, bytes(8)), "drop-fragment"),
        (
            ipv6(CARE_OF, AGENT, packets.FRAGMENT, b"\x29\0\0\1" + bytes(15)),
            "drop-fragment",
        ),
        (
            ipv6(CARE_OF, AGENT, packets.FRAGMENT, b"\x29\0\xff\xf8" + bytes(12)),
            "drop-fragment",
        ),
        (ipv6(CARE_OF, AGENT, packets.UDP, bytes(16)), "not-ours"),
        (
            ipv6(CARE_OF, AGENT, packets.DESTINATION_OPTIONS, b"\x29\x02" + bytes(6)),
            "drop-bad-extension-header",
        ),
        (
            ipv6(CARE_OF, AGENT, packets.DESTINATION_OPTIONS, b"\x29\0\xc9\x10" + bytes(4)),
            "drop-bad-extension-header",
        ),
        (ipv6(CARE_OF, AGENT, packets.ESP, bytes(7)), "drop-truncated"),
        (ipv6(CARE_OF, AGENT, packets.ESP, bytes(64)), "drop-unknown-spi"),
        (bytes(39), "drop-truncated"),
        (b"\x45" + bytes(60), "drop-not-ipv6"),
    ],
)
def test_packet_at_the_home_agent_that_must_not_pass_is_dropped(frame: bytes, verdict: str) -> None:
    pipeline = agent_pipeline()
    _, to_tunnel, handed_up = pipeline.process_inbound([frame])
    assert (to_tunnel, handed_up) == ([], [])
    assert verdicts(pipeline) == {verdict: 1}


def test_packet_through_a_tunnel_the_home_agent_lost_is_handed_up() -> None:
    pipeline = agent_pipeline()
    inner = udp(STRANGER, CORRESPONDENT, b"")
    _, to_tunnel, (up,) = pipeline.process_inbound([tunnelled(inner, STRANGER, AGENT)])
    assert to_tunnel == []
    assert (up.data, up.tunnel_source) == (inner, STRANGER)
    assert verdicts(pipeline) == {"handed-up": 1}


def test_packets_through_a_lost_tunnel_are_handed_up_at_a_limited_rate() -> None:
    pipeline = agent_pipeline()
    frame = tunnelled(udp(STRANGER, CORRESPONDENT, b""), STRANGER, AGENT)
    for _ in range(300):
        pipeline.process_inbound([frame])
    assert verdicts(pipeline)["drop-no-binding"] >= 100


@requirement("RFC6275-11.3.3", "MN-35")
@pytest.mark.parametrize(
    ("frame", "verdict"),
    [
        (tunnelled(udp(CORRESPONDENT, HOME, b""), STRANGER), "drop-outer-source"),
        (tunnelled(udp(CORRESPONDENT, OTHER_HOME, b"")), "drop-inner-source"),
        (tunnelled(udp(HOME, HOME, b"")), "drop-inner-source"),
        (tunnelled(udp(CORRESPONDENT, OTHER_HOME, b""), STRANGER), "drop-no-binding"),
    ],
)
def test_packet_at_the_mobile_node_that_must_not_pass_is_dropped(
    frame: bytes, verdict: str
) -> None:
    pipeline = mobile_pipeline()
    assert pipeline.process_inbound([frame]).to_tunnel == []
    assert verdicts(pipeline) == {verdict: 1}


def test_packet_by_esp_without_a_tunnel_is_shown_when_it_is_its_own() -> None:
    oracle = slow_esp(("aes-cbc-hmac-sha256-128", 16), SPI)
    for home, shown in ((HOME, 1), (OTHER_HOME, 0)):
        pipeline = agent_pipeline(association(oracle, Direction.INBOUND), tunnels=())
        inner = udp(home, CORRESPONDENT, b"")
        frame = ipv6(CARE_OF, AGENT, packets.ESP, oracle.seal(inner, 41, 1))
        handed_up = pipeline.process_inbound([frame]).handed_up
        assert [(item.data, item.protected_by) for item in handed_up] == [(inner, SPI)] * shown
        assert verdicts(pipeline) == {"handed-up" if shown else "drop-inner-source": 1}


# Fragments of the outer packet.


def small_path(suite: tuple[str, int] | None) -> tuple[Pipeline, Pipeline]:
    """Both ends over a path of 1280 octets, which 1280 octets of payload do not fit."""
    sealed = suite is not None
    oracle = slow_esp(suite or SUITES[0], SPI)
    entry = replace(mobile_tunnel(mtu=1280, outbound_spi=SPI if sealed else None), path_mtu=1280)
    return (
        mobile_pipeline(association(oracle, Direction.OUTBOUND), tunnel=entry),
        agent_pipeline(
            association(oracle, Direction.INBOUND),
            tunnels=(agent_tunnel(inbound_spi=SPI if sealed else None),),
        ),
    )


@requirement("RFC2473-7.1")
@pytest.mark.parametrize("suite", [None, *SUITES], ids=str)
@pytest.mark.parametrize("backwards", [False, True])
def test_packet_that_the_path_cannot_carry_whole_crosses_in_fragments(
    suite: tuple[str, int] | None, backwards: bool
) -> None:
    mobile, agent = small_path(suite)
    inners = [udp(HOME, CORRESPONDENT, bytes([at]) * 1232) for at in range(3)]
    frames = mobile.process_outbound(inners).frames
    assert len(frames) == 6
    assert all(len(frame) <= 1280 and frame[6] == packets.FRAGMENT for frame in frames)
    assert len({frame[44:48] for frame in frames}) == 3
    arrived = agent.process_inbound(frames[::-1] if backwards else frames).to_tunnel
    expected = inners[::-1] if backwards else inners
    assert written_packets(arrived) == expected
    assert verdicts(agent) == {"decapsulated": 3, "fragment-kept": 3}
    assert mobile.counters()["fragments-sent"] == 6


def test_packet_that_fits_the_path_is_not_fragmented() -> None:
    mobile, _ = small_path(None)
    (frame,) = mobile.process_outbound([udp(HOME, CORRESPONDENT, bytes(1192))]).frames
    assert (len(frame), frame[6]) == (1280, packets.IPV6)


@requirement("RFC5722-3")
def test_overlapping_fragments_are_dropped() -> None:
    mobile, agent = small_path(None)
    first, second = mobile.process_outbound([udp(HOME, CORRESPONDENT, bytes(1232))]).frames
    assert agent.process_inbound([first, first, second]).to_tunnel == []
    assert verdicts(agent) == {"fragment-kept": 2, "drop-fragment": 1}


def test_reassembly_is_bounded_and_the_oldest_gives_way() -> None:
    mobile, agent = small_path(None)
    inner = udp(HOME, CORRESPONDENT, bytes(1232))
    frames = mobile.process_outbound([inner] * 40).frames
    firsts, seconds = frames[::2], frames[1::2]
    agent.process_inbound(firsts)
    assert agent.process_inbound(seconds[:24]).to_tunnel == []
    agent.process_inbound(firsts)
    assert verdicts(agent)["fragment-kept"] == 104


def test_congestion_in_any_fragment_reaches_the_inner_packet() -> None:
    mobile, agent = small_path(None)
    inner = udp(HOME, CORRESPONDENT, bytes(1232), traffic_class=2)
    first, second = mobile.process_outbound([inner]).frames
    second = bytes([second[0], second[1] | 0x30]) + second[2:]
    (arrived,) = written_packets(agent.process_inbound([first, second]).to_tunnel)
    assert arrived == udp(HOME, CORRESPONDENT, bytes(1232), traffic_class=3)


ECN_TABLE = {
    # (inner, outer): result; RFC 6040 figure 4. 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE.
    **{(0, outer): 0 for outer in (0, 1, 2)},
    (0, 3): None,
    **{(2, 0): 2, (2, 2): 2, (2, 1): 1, (2, 3): 3},
    **{(1, 0): 1, (1, 2): 1, (1, 1): 1, (1, 3): 3},
    **{(3, outer): 3 for outer in range(4)},
}


@requirement("RFC6040-4.2")
@pytest.mark.parametrize(("inner_ecn", "outer_ecn"), sorted(ECN_TABLE))
def test_congestion_bits_are_merged_in(inner_ecn: int, outer_ecn: int) -> None:
    pipeline = mobile_pipeline()
    inner = udp(CORRESPONDENT, HOME, b"data", traffic_class=0x48 | inner_ecn)
    frame = ipv6(AGENT, CARE_OF, packets.IPV6, inner, traffic_class=0x90 | outer_ecn)
    written = written_packets(pipeline.process_inbound([frame]).to_tunnel)
    expected = ECN_TABLE[inner_ecn, outer_ecn]
    if expected is None:
        assert written == []
        assert verdicts(pipeline) == {"drop-ecn": 1}
    else:
        assert written == [udp(CORRESPONDENT, HOME, b"data", traffic_class=0x48 | expected)]


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_esp_tunnel_of_the_oracle_is_decapsulated(suite: tuple[str, int]) -> None:
    oracle = slow_esp(suite, SPI)
    pipeline = mobile_pipeline(
        association(oracle, Direction.INBOUND), tunnel=mobile_tunnel(inbound_spi=SPI)
    )
    inner = udp(CORRESPONDENT, HOME, b"secret")
    frame = ipv6(STRANGER, CARE_OF, packets.ESP, oracle.seal(inner, 41, 1))
    assert pipeline.process_inbound([frame, frame]).to_tunnel == [bytes(10) + inner]
    assert verdicts(pipeline) == {"decapsulated": 1, "drop-replay": 1}


@requirement("RFC3776-3.4", "SEC-05", "SEC-17")
def test_esp_is_found_by_spi_from_any_outer_source_at_the_home_agent() -> None:
    oracle = slow_esp(("aes-cbc-hmac-sha256-128", 16), SPI)
    pipeline = agent_pipeline(
        association(oracle, Direction.INBOUND), tunnels=(agent_tunnel(inbound_spi=SPI),)
    )
    inner = udp(HOME, CORRESPONDENT, b"secret")
    frame = ipv6(STRANGER, AGENT, packets.ESP, oracle.seal(inner, 41, 1))
    assert pipeline.process_inbound([frame]).to_tunnel == [bytes(10) + inner]


def test_plain_packet_where_esp_is_asked_for_is_dropped() -> None:
    oracle = slow_esp(("aes-cbc-hmac-sha256-128", 16), SPI)
    pipeline = mobile_pipeline(
        association(oracle, Direction.INBOUND), tunnel=mobile_tunnel(inbound_spi=SPI)
    )
    assert pipeline.process_inbound([tunnelled(udp(CORRESPONDENT, HOME, b""))]).to_tunnel == []
    assert verdicts(pipeline) == {"drop-not-protected": 1}


@requirement("RFC3776-4.2", "SEC-08")
def test_association_of_one_node_does_not_carry_anothers_home_address() -> None:
    oracle = slow_esp(("aes-cbc-hmac-sha256-128", 16), SPI)
    tunnels = (agent_tunnel(inbound_spi=SPI), agent_tunnel(OTHER_HOME, OTHER_CARE_OF))
    pipeline = agent_pipeline(association(oracle, Direction.INBOUND), tunnels=tunnels)
    inner = udp(OTHER_HOME, CORRESPONDENT, b"forged")
    frame = ipv6(CARE_OF, AGENT, packets.ESP, oracle.seal(inner, 41, 1))
    assert pipeline.process_inbound([frame]).to_tunnel == []
    assert verdicts(pipeline) == {"drop-inner-source": 1}


def test_association_that_two_tunnels_name_carries_both_their_home_addresses() -> None:
    oracle = slow_esp(("aes-cbc-hmac-sha256-128", 16), SPI)
    tunnels = (agent_tunnel(inbound_spi=SPI), agent_tunnel(OTHER_HOME, inbound_spi=SPI))
    pipeline = agent_pipeline(association(oracle, Direction.INBOUND), tunnels=tunnels)
    for sequence, home_address in ((1, HOME), (2, OTHER_HOME)):
        inner = udp(home_address, CORRESPONDENT, b"renumbered")
        frame = ipv6(CARE_OF, AGENT, packets.ESP, oracle.seal(inner, 41, sequence))
        assert pipeline.process_inbound([frame]).to_tunnel == [bytes(10) + inner]


def test_association_other_than_the_tunnels_is_refused() -> None:
    oracle = slow_esp(("aes-cbc-hmac-sha256-128", 16), SPI)
    pipeline = agent_pipeline(
        association(oracle, Direction.INBOUND), tunnels=(agent_tunnel(inbound_spi=SPI + 1),)
    )
    frame = ipv6(CARE_OF, AGENT, packets.ESP, oracle.seal(udp(HOME, CORRESPONDENT, b""), 41, 1))
    assert pipeline.process_inbound([frame]).to_tunnel == []
    assert verdicts(pipeline) == {"drop-wrong-association": 1}


def test_dummy_packet_is_counted_and_gone() -> None:
    oracle = slow_esp(("aes-cbc-hmac-sha256-128", 16), SPI)
    pipeline = agent_pipeline(association(oracle, Direction.INBOUND))
    frame = ipv6(CARE_OF, AGENT, packets.ESP, oracle.seal(bytes(20), 59, 1))
    assert pipeline.process_inbound([frame]).handed_up == []
    assert verdicts(pipeline) == {"drop-dummy": 1}


MESSAGE = bytes([59, 0, 5, 0]) + bytes(12)


@requirement("RFC3776-3.1", "SEC-01", "SEC-02")
@pytest.mark.parametrize("suite", SUITES, ids=str)
@pytest.mark.parametrize("extension", ["none", "home-address-option", "type-2-routing-header"])
def test_transport_esp_is_handed_up_as_it_was_protected(
    suite: tuple[str, int], extension: str
) -> None:
    oracle = slow_esp(suite, SPI)
    pipeline = Pipeline()
    outbound = association(oracle, Direction.OUTBOUND, mode=EspMode.TRANSPORT)
    inbound = association(oracle, Direction.INBOUND, mode=EspMode.TRANSPORT)
    pipeline.publish(Tables(associations=(outbound, inbound), local_addresses=(AGENT,)))
    head, first = b"", packets.MOBILITY
    if extension == "home-address-option":
        head, first = home_address_option(HOME, packets.MOBILITY), packets.DESTINATION_OPTIONS
    elif extension == "type-2-routing-header":
        head, first = type2_routing_header(HOME, packets.MOBILITY), packets.ROUTING
    packet = ipv6(CARE_OF, AGENT, first, head + MESSAGE)
    protected = pipeline.protect(SPI, packet)
    assert protected[: 40 + len(head)].count(b"\x32")
    esp = protected[40 + len(head) :]
    assert oracle.open(esp) == (MESSAGE, packets.MOBILITY, 1)
    ethernet = b"\2desti\2sourc\x86\xdd"
    (received,) = pipeline.process_inbound(
        [ethernet + protected], link_length=14, interface=7
    ).handed_up
    assert received.data == packet
    assert (received.interface, received.link_layer_source) == (7, b"\2sourc")
    assert (received.protected_by, received.tunnel_source) == (SPI, None)
    assert verdicts(pipeline) == {"handed-up": 1}


def test_mode_of_the_association_must_match_the_packet() -> None:
    oracle = slow_esp(("aes-cbc-hmac-sha256-128", 16), SPI)
    inner = udp(HOME, CORRESPONDENT, b"")
    for mode, payload, next_header in (
        (EspMode.TRANSPORT, inner, 41),
        (EspMode.TUNNEL, MESSAGE, packets.MOBILITY),
    ):
        pipeline = agent_pipeline(association(oracle, Direction.INBOUND, mode=mode))
        frame = ipv6(CARE_OF, AGENT, packets.ESP, oracle.seal(payload, next_header, 1))
        assert list(pipeline.process_inbound([frame])) == [[], [], []]
        assert verdicts(pipeline) == {"drop-wrong-association": 1}


def test_protect_refuses_unknown_spi_and_spent_sequence() -> None:
    oracle = slow_esp(("aes-cbc-hmac-sha256-128", 16), SPI)
    pipeline = Pipeline()
    pipeline.set_sequence(SPI, next=1000, limit=1002)
    pipeline.publish(Tables(associations=(association(oracle, Direction.OUTBOUND),)))
    packet = ipv6(CARE_OF, AGENT, packets.MOBILITY, MESSAGE)
    with pytest.raises(KeyError):
        pipeline.protect(SPI + 1, packet)
    assert [oracle.open(pipeline.protect(SPI, packet)[40:])[2] for _ in range(2)] == [1000, 1001]
    with pytest.raises(SequenceExhausted):
        pipeline.protect(SPI, packet)
    pipeline.set_sequence(SPI, next=1002, limit=1003)
    assert oracle.open(pipeline.protect(SPI, packet)[40:])[2] == 1002
    assert pipeline.sequences() == {SPI: (1003, 1003)}
    assert pipeline.sequence_number(SPI) == 1003


def test_sequence_and_window_survive_publishing_and_not_a_new_key() -> None:
    oracle = slow_esp(("aes-cbc-hmac-sha256-128", 16), SPI)
    outbound, inbound = (
        association(oracle, way) for way in (Direction.OUTBOUND, Direction.INBOUND)
    )
    tables = Tables(
        tunnels=(agent_tunnel(inbound_spi=SPI),),
        associations=(outbound, inbound),
        local_addresses=(AGENT,),
    )
    pipeline = Pipeline()
    pipeline.publish(tables)
    frame = ipv6(CARE_OF, AGENT, packets.ESP, oracle.seal(udp(HOME, CORRESPONDENT, b""), 41, 1))
    pipeline.protect(SPI, ipv6(CARE_OF, AGENT, packets.MOBILITY, MESSAGE))
    pipeline.process_inbound([frame])
    pipeline.publish(replace(tables, tunnels=(agent_tunnel(HOME, STRANGER, inbound_spi=SPI),)))
    pipeline.process_inbound([frame])
    assert verdicts(pipeline) == {"decapsulated": 1, "drop-replay": 1}
    assert pipeline.sequence_number(SPI) == 2
    fresh = replace(outbound, encryption_key=bytes(16))
    pipeline.publish(replace(tables, associations=(fresh,)))
    assert pipeline.sequence_number(SPI) == 1


def test_tunnel_with_spent_sequence_drops() -> None:
    oracle = slow_esp(("aes-gcm-16", 20), SPI)
    pipeline = mobile_pipeline(
        association(oracle, Direction.OUTBOUND), tunnel=mobile_tunnel(outbound_spi=SPI)
    )
    pipeline.set_sequence(SPI, next=1, limit=3)
    packet, header = super_packet(tcp(HOME, CORRESPONDENT, bytes(5000)), 1000)
    frames, _, _ = pipeline.process_outbound([packet], [header])
    assert len(frames) == 2
    assert verdicts(pipeline) == {"drop-sequence-exhausted": 1}


@pytest.mark.parametrize(
    "packet",
    [
        ipv6(IPv6Address("fe80::1"), IPv6Address("ff02::1"), 58, bytes([134, 0]) + bytes(14)),
        ipv6(STRANGER, IPv6Address("ff02::1:ff00:10"), 58, bytes([135, 0]) + bytes(22)),
        ipv6(STRANGER, AGENT, 58, bytes([144, 0]) + bytes(6)),
        ipv6(STRANGER, AGENT, packets.MOBILITY, MESSAGE),
        ipv6(STRANGER, AGENT, 60, home_address_option(HOME, 135) + MESSAGE),
        ipv6(STRANGER, AGENT, 43, type2_routing_header(HOME, 135) + MESSAGE),
    ],
)
def test_packet_for_the_control_plane_is_handed_up_as_it_is(packet: bytes) -> None:
    pipeline = agent_pipeline()
    padded = packet + bytes(9)
    (received,) = pipeline.process_inbound([padded]).handed_up
    assert (received.data, received.protected_by, received.tunnel_source) == (packet, None, None)
    assert verdicts(pipeline) == {"handed-up": 1}


def test_echo_request_is_left_to_the_kernel() -> None:
    pipeline = agent_pipeline()
    assert (
        pipeline.process_inbound([ipv6(STRANGER, AGENT, 58, bytes([128]) + bytes(7))]).handed_up
        == []
    )
    assert verdicts(pipeline) == {"not-ours": 1}


def test_mobility_message_through_the_tunnel_is_handed_up_with_its_outer_source() -> None:
    pipeline = mobile_pipeline()
    message = ipv6(CORRESPONDENT, HOME, packets.MOBILITY, MESSAGE)
    (received,) = pipeline.process_inbound([tunnelled(message)]).handed_up
    assert (received.data, received.tunnel_source) == (message, AGENT)


def test_hand_up_queue_is_bounded() -> None:
    pipeline = agent_pipeline()
    packet = ipv6(STRANGER, AGENT, packets.MOBILITY, MESSAGE)
    assert len(pipeline.process_inbound([packet] * 600).handed_up) == 512
    long = ipv6(STRANGER, AGENT, packets.MOBILITY, bytes(2009))
    assert pipeline.process_inbound([long]).handed_up == []
    counts = verdicts(pipeline)
    assert counts["drop-hand-up-full"] == 88
    assert counts["drop-hand-up-too-large"] == 1


# Coalescing.


def stream(pieces: list[int], **fields: int) -> list[bytes]:
    """TCP segments of one connection, in order."""
    made, at = [], 1000
    for length in pieces:
        made.append(
            tcp(CORRESPONDENT, HOME, random.Random(at).randbytes(length), sequence=at, **fields)
        )  # type: ignore[arg-type]
        at += length
    return made


def deliver(inners: list[bytes]) -> list[bytes]:
    return mobile_pipeline().process_inbound([tunnelled(inner) for inner in inners]).to_tunnel


def test_segments_in_order_become_one_super_packet() -> None:
    inners = stream([1000] * 40 + [77])
    written = deliver(inners)
    assert len(written) == 1
    assert written_packets(written) == inners


def test_super_packet_never_grows_beyond_65535() -> None:
    inners = stream([1440] * 60)
    written = deliver(inners)
    assert len(written) == 2
    assert max(len(record) - 10 for record in written) <= 65535
    assert written_packets(written) == inners


@pytest.mark.parametrize(
    "second",
    [
        tcp(CORRESPONDENT, HOME, bytes(100), sequence=1101),
        tcp(CORRESPONDENT, HOME, bytes(101), sequence=1100),
        tcp(CORRESPONDENT, HOME, bytes(100), sequence=1100, flags=ACK | FIN),
        tcp(CORRESPONDENT, HOME, bytes(100), sequence=1100, acknowledgement=78),
        tcp(CORRESPONDENT, HOME, bytes(100), sequence=1100, options=bytes(4)),
        tcp(CORRESPONDENT, HOME, bytes(100), sequence=1100, ports=(4001, 80)),
        tcp(CORRESPONDENT, HOME, bytes(100), sequence=1100, traffic_class=3),
        tcp(CORRESPONDENT, HOME, b"", sequence=1100),
        udp(CORRESPONDENT, HOME, bytes(100)),
    ],
)
def test_packet_that_does_not_continue_a_run_stays_apart(second: bytes) -> None:
    first = tcp(CORRESPONDENT, HOME, bytes(100))
    assert [record[10:] for record in deliver([first, second])] == [first, second]


def test_bad_checksum_is_neither_merged_nor_repaired() -> None:
    inners = stream([100, 100, 100])
    inners[1] = inners[1][:-1] + bytes([inners[1][-1] ^ 1])
    written = deliver(inners)
    assert [record[10:] for record in written] == inners


def test_pushed_segment_ends_a_run() -> None:
    first, second, third = stream([100, 100, 100])
    second = tcp(CORRESPONDENT, HOME, second[60:], sequence=1100, flags=ACK | PSH)
    written = deliver([first, second, third])
    assert len(written) == 2
    assert written_packets(written) == [first, second, third]


def test_order_within_each_flow_is_kept_whatever_arrives() -> None:
    generator = random.Random(6275)
    for _ in range(200):
        flows: dict[tuple[int, int], list[bytes]] = {}
        inners = []
        for _ in range(generator.randrange(1, 200)):
            ports = (generator.randrange(4000, 4004), 80)
            flow = flows.setdefault(ports, [])
            sequence = 1000 + sum(len(inner) - 60 for inner in flow)
            packet = tcp(
                CORRESPONDENT,
                HOME,
                generator.randbytes(generator.choice([0, 50, 100, 100, 100, 100])),
                sequence=sequence + generator.choice([0, 0, 0, 0, 7]),
                ports=ports,
                flags=generator.choice([ACK, ACK, ACK, ACK | PSH, ACK | FIN]),
            )
            flow.append(packet)
            inners.append(packet)
        arrived = written_packets(deliver(inners))
        for ports, sent in flows.items():
            head = ports[0].to_bytes(2, "big")
            assert [packet for packet in arrived if packet[40:42] == head] == sent


def test_run_that_the_link_already_merged_passes_with_its_offload() -> None:
    packet, header = super_packet(tcp(CORRESPONDENT, HOME, bytes(5000)), 1000)
    offload = replace(Offload.decode(header), start=40 + 14 + 40, header_length=114)
    frame = b"\2desti\2sourc\x86\xdd" + tunnelled(packet)
    written = (
        mobile_pipeline()
        .process_inbound([frame], link_length=14, offloads=[offload.encode()])
        .to_tunnel
    )
    assert written_packets(written) == segments(packet, Offload.decode(header))
