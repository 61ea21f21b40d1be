"""Every value survives a round trip, and whatever decodes has one canonical form."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mnagent.wire.buffer import DecodeError
from mnagent.wire.checksum import internet_checksum
from mnagent.wire.ipv6 import IPv6Packet, RawPayload
from mnagent.wire.packet import decode_invoking, decode_packet, encode_packet
from tests.support import wire_values


@given(wire_values.packets)
def test_packet_encoded_and_decoded_is_the_same(packet: IPv6Packet) -> None:
    assert decode_packet(encode_packet(packet)) == packet


@given(wire_values.packets, st.binary(max_size=20))
def test_packet_with_link_padding_behind_it_is_the_same(packet: IPv6Packet, tail: bytes) -> None:
    assert decode_packet(encode_packet(packet) + tail) == packet


@given(wire_values.flat_packets, st.data())
def test_packet_cut_short_raises_decode_error(packet: IPv6Packet, data: st.DataObject) -> None:
    octets = encode_packet(packet)
    cut = octets[: data.draw(st.integers(0, len(octets) - 1))]
    try:
        decode_packet(cut)
    except DecodeError as error:
        assert 0 <= error.offset <= len(octets)
    else:
        raise AssertionError("a cut packet decoded")


@given(wire_values.flat_packets, st.data())
def test_invoking_packet_cut_short_keeps_its_headers(
    packet: IPv6Packet, data: st.DataObject
) -> None:
    octets = encode_packet(packet)
    whole = decode_invoking(octets)
    assert isinstance(whole.payload, RawPayload)
    start = len(octets) - len(whole.payload.data)
    quoted = decode_invoking(octets[: data.draw(st.integers(start, len(octets)))])
    assert (quoted.source, quoted.destination) == (packet.source, packet.destination)
    assert quoted.extension_headers == packet.extension_headers


@given(st.binary(max_size=200))
def test_octets_of_any_kind_decode_or_raise_decode_error(data: bytes) -> None:
    try:
        decode_packet(data)
    except DecodeError as error:
        assert error.offset <= len(data)


@given(st.binary(max_size=300))
def test_checksum_of_any_octets_equals_the_sum_of_words(data: bytes) -> None:
    padded = data + bytes(len(data) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    assert internet_checksum(data) == total ^ 0xFFFF
