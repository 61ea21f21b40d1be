"""How many tunnels may be around a packet (RFC 2473 4.1.1), and errors about such packets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mnagent.core.security import Direction
from mnagent.datapath import Pipeline, TunnelEntry
from tests.ext import packets
from tests.ext.packets import ipv6, udp
from tests.ext.scenario import (
    AGENT,
    CARE_OF,
    CORRESPONDENT,
    HOME,
    STRANGER,
    agent_pipeline,
    agent_tunnel,
    association,
    mobile_pipeline,
    mobile_tunnel,
    slow_esp,
    verdicts,
)
from tests.support.requirement import requirement

SPI = 0x4321
PADDING = bytes([1, 1, 0])


def limit_header(next_header: int, limit: int) -> bytes:
    return bytes([next_header, 0, 4, 1, limit]) + PADDING


def tunnel_packet(limit: int | None, *, before: bytes = b"", first: int = 60) -> bytes:
    """A packet for the mobile node that a tunnel elsewhere made."""
    inner = udp(STRANGER, CORRESPONDENT, b"x")
    if limit is None:
        return ipv6(CORRESPONDENT, HOME, packets.IPV6, inner)
    return ipv6(CORRESPONDENT, HOME, first, before + limit_header(packets.IPV6, limit) + inner)


def limited_agent(limit: int | None = 4) -> Pipeline:
    return agent_pipeline(tunnels=(replace(agent_tunnel(), encapsulation_limit=limit),))


def error_about(frame: bytes, kind: int, *, value: int = 0, code: int = 0) -> bytes:
    body = bytes([kind, code, 0, 0]) + value.to_bytes(4, "big") + frame[: 1280 - 48]
    return packets.with_checksum(ipv6(STRANGER, AGENT, packets.ICMPV6, body), 42)


@requirement("RFC2473-4.1.1", "HA-65")
@pytest.mark.parametrize("limit", [0, 4, 255])
def test_configured_limit_is_sent_with_every_packet(limit: int) -> None:
    inner = udp(CORRESPONDENT, HOME, b"data", traffic_class=0x28)
    (frame,) = limited_agent(limit).process_outbound([inner]).frames
    assert frame[:4] == inner[:4]
    assert frame[6] == packets.DESTINATION_OPTIONS
    assert frame[40:48] == limit_header(packets.IPV6, limit)
    assert frame[48:] == inner
    assert int.from_bytes(frame[4:6], "big") == len(frame) - 40


@requirement("RFC2473-4.1.1")
def test_limit_goes_before_esp() -> None:
    oracle = slow_esp(("aes-gcm-16", 20), SPI)
    tunnel = replace(mobile_tunnel(outbound_spi=SPI), encapsulation_limit=4)
    pipeline = mobile_pipeline(association(oracle, Direction.OUTBOUND), tunnel=tunnel)
    inner = udp(HOME, CORRESPONDENT, b"data")
    (frame,) = pipeline.process_outbound([inner]).frames
    assert (frame[6], frame[40:48]) == (60, limit_header(packets.ESP, 4))
    assert oracle.open(frame[48:])[0] == inner
    assert int.from_bytes(frame[4:6], "big") == len(frame) - 40


@requirement("RFC2473-4.1.1")
@pytest.mark.parametrize("tunnel", [mobile_tunnel(), replace(mobile_tunnel(), mtu=1280)])
def test_packet_with_a_limit_is_taken_out_of_the_tunnel(tunnel: TunnelEntry) -> None:
    inner = udp(CORRESPONDENT, HOME, b"data")
    frame = ipv6(AGENT, CARE_OF, 60, limit_header(packets.IPV6, 0) + inner)
    assert mobile_pipeline(tunnel=tunnel).process_inbound([frame]).to_tunnel == [bytes(10) + inner]


@requirement("RFC2473-4.1.1", "HA-65")
@pytest.mark.parametrize(
    ("before", "first", "pointer"),
    [
        (b"", 60, 44),
        (bytes([60, 0, 1, 4, 0, 0, 0, 0]), 0, 52),
        (bytes([60, 0, 1, 4, 0, 0, 0, 0]), 60, 52),
        (bytes([60, 0, 0, 1, 0, 0, 0, 9]), 44, 52),
    ],
)
def test_packet_that_may_enter_no_further_tunnel_is_answered(
    before: bytes, first: int, pointer: int
) -> None:
    pipeline = limited_agent()
    packet = tunnel_packet(0, before=before, first=first)
    frames, (record,), _ = pipeline.process_outbound([packet])
    error = record[10:]
    assert frames == []
    assert (error[8:24], error[24:40]) == (AGENT.packed, CORRESPONDENT.packed)
    assert error[40:42] == bytes([4, 0])
    assert int.from_bytes(error[44:48], "big") == pointer
    assert packet[pointer] == 0
    assert error[48:] == packet
    assert packets.upper_layer(error) == 0xFFFF
    assert verdicts(pipeline) == {"drop-encapsulation-limit": 1}


@requirement("RFC2473-4.1.1")
@pytest.mark.parametrize("configured", [None, 4])
def test_limit_of_a_nested_packet_is_one_less(configured: int | None) -> None:
    packet = tunnel_packet(7)
    (frame,) = limited_agent(configured).process_outbound([packet]).frames
    assert frame[40:48] == limit_header(packets.IPV6, 6)
    assert frame[48:] == packet


@pytest.mark.parametrize(
    "packet",
    [
        tunnel_packet(None),
        udp(CORRESPONDENT, HOME, b"x"),
        # No limit in it, cut off, behind a later fragment's header, of another length.
        ipv6(CORRESPONDENT, HOME, 60, bytes([59, 0, 1, 4, 0, 0, 0, 0])),
        ipv6(CORRESPONDENT, HOME, 60, bytes([59, 9, 1, 4, 0, 0, 0, 0])),
        ipv6(CORRESPONDENT, HOME, 60, bytes([59, 0, 1, 4])),
        ipv6(CORRESPONDENT, HOME, 60, bytes([59, 0, 0, 0, 0, 0, 4, 1])),
        ipv6(CORRESPONDENT, HOME, 60, bytes([59, 0, 4, 2, 0, 0, 0, 0])),
        ipv6(CORRESPONDENT, HOME, 44, bytes([60, 0, 0, 9, 0, 0, 0, 9, 59, 0, 4, 1, 0, 0, 0, 0])),
        ipv6(CORRESPONDENT, HOME, 60, bytes([60, 0, 1, 4, 0, 0, 0, 0]) * 9),
    ],
)
def test_packet_that_says_nothing_gets_no_limit(packet: bytes) -> None:
    (frame,) = limited_agent(None).process_outbound([packet]).frames
    assert (frame[6], frame[40:]) == (packets.IPV6, packet)


def test_nested_packet_is_told_the_size_that_leaves_room_for_the_option() -> None:
    pipeline = limited_agent(None)
    room = 1460 - 8
    fits = ipv6(
        CORRESPONDENT, HOME, 60, limit_header(packets.UDP, 3) + bytes(room - packets_head())
    )
    over = ipv6(
        CORRESPONDENT, HOME, 60, limit_header(packets.UDP, 3) + bytes(room + 1 - packets_head())
    )
    frames, (record,), _ = pipeline.process_outbound([fits, over])
    assert [len(frame) for frame in frames] == [1500]
    assert int.from_bytes(record[54:58], "big") == room


def packets_head() -> int:
    return 40 + 8


@requirement("RFC2473-7.1", "HA-39")
def test_packet_with_a_limit_that_the_path_does_not_take_leaves_in_fragments() -> None:
    tunnel = replace(agent_tunnel(), mtu=1280, path_mtu=1280, encapsulation_limit=4)
    inner = udp(CORRESPONDENT, HOME, bytes(1280 - 48))
    frames = agent_pipeline(tunnels=(tunnel,)).process_outbound([inner]).frames
    # The option goes into each fragment: what is fragmented is the inner packet alone.
    assert [len(frame) for frame in frames] == [1280, 40 + 8 + 8 + 1280 - 1224]
    assert [frame[6] for frame in frames] == [packets.DESTINATION_OPTIONS] * 2
    assert [frame[40:48] for frame in frames] == [limit_header(packets.FRAGMENT, 4)] * 2
    assert [frame[48] for frame in frames] == [packets.IPV6] * 2
    received = mobile_pipeline(tunnel=replace(mobile_tunnel(), mtu=1280))
    assert received.process_inbound(frames).to_tunnel == [bytes(10) + inner]


@requirement("RFC2473-8.2", "HA-41")
@pytest.mark.parametrize(("kind", "value"), [(1, 0), (3, 0), (4, 44)])
def test_error_about_a_packet_with_a_limit_is_relayed(kind: int, value: int) -> None:
    pipeline = limited_agent()
    inner = udp(CORRESPONDENT, HOME, b"x")
    (frame,) = pipeline.process_outbound([inner]).frames
    (record,), handed_up = pipeline.process_inbound([error_about(frame, kind, value=value)])[1:]
    assert (record[18:34], record[34:50]) == (AGENT.packed, CORRESPONDENT.packed)
    assert record[50:52] == bytes([1, 3])
    assert record[58:] == inner
    assert handed_up == []


@requirement("RFC2473-8.2")
def test_other_problems_of_a_packet_with_a_limit_concern_us_alone() -> None:
    pipeline = limited_agent()
    (frame,) = pipeline.process_outbound([udp(CORRESPONDENT, HOME, b"x")]).frames
    for value, code in ((6, 0), (44, 1)):
        error = error_about(frame, 4, value=value, code=code)
        _, to_tunnel, (shown,) = pipeline.process_inbound([error])
        assert (to_tunnel, shown.data) == ([], error)
    cut = error_about(frame[:60], 1)
    _, to_tunnel, (shown,) = pipeline.process_inbound([cut])
    assert (to_tunnel, shown.data) == ([], cut)


@requirement("RFC2473-8.2", "HA-41")
def test_packet_too_big_about_a_packet_with_a_limit_counts_the_option() -> None:
    pipeline = limited_agent()
    (frame,) = pipeline.process_outbound([udp(CORRESPONDENT, HOME, bytes(1390))]).frames
    error = error_about(frame, 2, value=1400)
    _, (record,), (shown,) = pipeline.process_inbound([error])
    assert record[50:52] == bytes([2, 0])
    assert int.from_bytes(record[54:58], "big") == 1400 - 48
    assert (shown.data, shown.tunnel_source) == (error, CARE_OF)
