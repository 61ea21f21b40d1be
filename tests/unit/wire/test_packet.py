"""Whole packets: the fixed header, the chain of headers, nesting and what stays raw."""

from __future__ import annotations

import pytest

from mnagent.wire.buffer import DecodeError
from mnagent.wire.esp import EspPacket
from mnagent.wire.icmp6 import EchoRequest
from mnagent.wire.ipv6 import (
    DestinationOptions,
    ExtensionHeader,
    FragmentHeader,
    HopByHopOptions,
    IPv6Packet,
    RawPayload,
    RouterAlert,
    RoutingHeader,
)
from mnagent.wire.mobility import BindingRefreshRequest
from mnagent.wire.packet import (
    MobilityHeaderError,
    Payload,
    decode_invoking,
    decode_packet,
    encode_packet,
)
from tests.support.octets import DESTINATION, HOME_ADDRESS, SOURCE, mobility_packet, packet_of


def packet(payload: Payload, *headers: ExtensionHeader, **fields: int) -> IPv6Packet:
    return IPv6Packet(SOURCE, DESTINATION, payload, extension_headers=headers, **fields)


def nested(levels: int) -> IPv6Packet:
    result = packet(RawPayload(17, b"udp"))
    for _ in range(levels - 1):
        result = packet(result)
    return result


def test_fixed_header_has_its_fields_in_place() -> None:
    octets = encode_packet(
        packet(RawPayload(17, b"abc"), hop_limit=255, traffic_class=0xB8, flow_label=0xABCDE)
    )
    assert octets[:8].hex() == "6b8abcde000311ff"
    assert octets[8:24] == SOURCE.packed
    assert octets[24:40] == DESTINATION.packed
    assert octets[40:] == b"abc"


@pytest.mark.parametrize(
    "impossible",
    [
        packet(RawPayload(256, b"")),
        packet(RawPayload(17, bytes(65536))),
        packet(RawPayload(17, b""), hop_limit=256),
        packet(RawPayload(17, b""), traffic_class=256),
        packet(RawPayload(17, b""), flow_label=1 << 20),
        packet(RawPayload(17, b""), DestinationOptions(), HopByHopOptions()),
        packet(BindingRefreshRequest(), FragmentHeader(0, True, 1)),
        packet(BindingRefreshRequest(), FragmentHeader(8, False, 1)),
        packet(EchoRequest(1, 1), RoutingHeader(4, 1, bytes(4))),
        nested(5),
    ],
)
def test_packet_that_cannot_be_is_refused(impossible: IPv6Packet) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode_packet(impossible)


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"", 0),
        (bytes.fromhex("60") + bytes(38), 0),
        (bytes.fromhex("45") + bytes(39), 0),
        (encode_packet(packet(RawPayload(17, b"abc")))[:-1], 4),
        (packet_of(60, bytes.fromhex("0000010400000000") + bytes(8)), 48),
        (packet_of(60, bytes.fromhex("3c00010400000000") * 17), 40 + 16 * 8),
        (packet_of(58, b"\x80\0\0"), 40),
        (packet_of(50, bytes(7)), 40),
        (packet_of(41, bytes(39)), 0),
        (packet_of(41, encode_packet(nested(4))), 0),
    ],
    ids=[
        "empty",
        "short-header",
        "version-4",
        "short-payload",
        "late-hop-by-hop",
        "too-many-headers",
        "short-icmpv6",
        "short-esp",
        "short-inner",
        "too-deep",
    ],
)
def test_packet_malformed_raises_decode_error_where_it_is(data: bytes, offset: int) -> None:
    with pytest.raises(DecodeError) as raised:
        decode_packet(data)
    assert raised.value.offset == offset


def test_packets_nested_to_the_limit_survive() -> None:
    assert decode_packet(encode_packet(nested(4))) == nested(4)


@pytest.mark.parametrize(
    "sent",
    [
        packet(RawPayload(59, b"")),
        packet(RawPayload(51, bytes(12))),
        packet(RawPayload(6, b"tcp"), HopByHopOptions((RouterAlert(0),)), DestinationOptions()),
        packet(EspPacket(256, 1, bytes(16)), DestinationOptions()),
        packet(BindingRefreshRequest(), FragmentHeader(0, False, 9)),
        packet(RawPayload(58, b"\x80"), FragmentHeader(0, True, 9)),
        packet(RawPayload(60, b"\x80"), FragmentHeader(1448, False, 9)),
        packet(RawPayload(135, b"half"), RoutingHeader(4, 1, bytes(4))),
        packet(RawPayload(135, b"half"), RoutingHeader(4, 1, bytes(4)), DestinationOptions()),
    ],
)
def test_packet_survives_a_round_trip(sent: IPv6Packet) -> None:
    assert decode_packet(encode_packet(sent)) == sent


def test_octets_after_a_mobility_header_are_ignored() -> None:
    octets = mobility_packet(bytes.fromhex("3b00000000000000"))
    longer = octets[:5] + bytes((octets[5] + 4,)) + octets[6:] + b"tail"
    assert decode_packet(longer) == decode_packet(octets)


def test_memoryview_decodes_into_octets_of_its_own() -> None:
    octets = bytearray(encode_packet(packet(RawPayload(17, b"abc"))))
    decoded = decode_packet(memoryview(octets))  # type: ignore[arg-type]
    octets[-1] = 0
    assert decoded.payload == RawPayload(17, b"abc")


def test_error_within_a_tunnel_speaks_of_the_inner_packet() -> None:
    inner = encode_packet(
        IPv6Packet(HOME_ADDRESS, DESTINATION, RawPayload(135, bytes.fromhex("3b0100")))
    )
    with pytest.raises(MobilityHeaderError) as raised:
        decode_packet(packet_of(41, inner))
    error = raised.value
    assert (error.source, error.offset, error.invoking) == (HOME_ADDRESS, 40, inner)


def test_invoking_packet_keeps_its_payload_raw() -> None:
    octets = encode_packet(packet(BindingRefreshRequest(), DestinationOptions()))
    quoted = decode_invoking(octets[:-3])
    assert quoted == packet(RawPayload(135, octets[48:-3]), DestinationOptions())


@pytest.mark.parametrize("size", [0, 39, 47])
def test_invoking_packet_without_its_headers_raises_decode_error(size: int) -> None:
    octets = encode_packet(packet(BindingRefreshRequest(), DestinationOptions()))
    with pytest.raises(DecodeError):
        decode_invoking(octets[:size])
