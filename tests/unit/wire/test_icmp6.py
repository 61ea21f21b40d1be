"""ICMPv6 messages other than neighbour discovery."""

from __future__ import annotations

import pytest

from mnagent.wire.buffer import ChecksumError, DecodeError
from mnagent.wire.icmp6 import (
    DestinationUnreachable,
    DestinationUnreachableCode,
    EchoReply,
    EchoRequest,
    HomeAgentAddressDiscoveryReply,
    HomeAgentAddressDiscoveryRequest,
    Icmp6Message,
    MobilePrefixAdvertisement,
    MobilePrefixSolicitation,
    PacketTooBig,
    ParameterProblem,
    ParameterProblemCode,
    TimeExceeded,
    UnknownIcmp6,
    decode_icmp6_message,
    encode_icmp6_message,
    quote,
)
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import NeighborSolicitation, RouterSolicitation
from mnagent.wire.packet import decode_packet, encode_packet
from tests.support.octets import DESTINATION, SOURCE, icmp6_packet


@pytest.mark.parametrize(
    ("message", "octets"),
    [
        (
            DestinationUnreachable(DestinationUnreachableCode.ADDRESS_UNREACHABLE, b"pkt"),
            "01030000 00000000 706b74",
        ),
        (PacketTooBig(1280, b"pkt"), "02000000 00000500 706b74"),
        (TimeExceeded(1, b"pkt"), "03010000 00000000 706b74"),
        (
            ParameterProblem(ParameterProblemCode.UNRECOGNIZED_OPTION, 46, b"pkt"),
            "04020000 0000002e 706b74",
        ),
        (EchoRequest(1, 2, b"ping"), "80000000 00010002 70696e67"),
        (EchoReply(1, 2), "81000000 00010002"),
        (HomeAgentAddressDiscoveryRequest(7), "90000000 00070000"),
        (
            HomeAgentAddressDiscoveryReply(7, (SOURCE,)),
            "91000000 00070000" + SOURCE.packed.hex(),
        ),
        (MobilePrefixSolicitation(7), "92000000 00070000"),
        (MobilePrefixAdvertisement(7, other=True), "93000000 00074000"),
        (UnknownIcmp6(200, 3, b"abc"), "c8030000 616263"),
        (UnknownIcmp6(133, 1, b""), "85010000"),
        (UnknownIcmp6(99, 0, b""), "63000000"),
    ],
)
def test_message_encoded_has_the_expected_octets(message: Icmp6Message, octets: str) -> None:
    data = bytes.fromhex(octets.replace(" ", ""))
    assert encode_icmp6_message(message) == data
    assert decode_icmp6_message(data, 40) == message


@pytest.mark.parametrize(
    "message",
    [
        DestinationUnreachable(256, b""),
        PacketTooBig(1 << 32, b""),
        ParameterProblem(0, -1, b""),
        EchoRequest(65536, 0),
        EchoReply(0, 65536),
        HomeAgentAddressDiscoveryRequest(65536),
        UnknownIcmp6(1, 5, b""),
        UnknownIcmp6(144, 0, b""),
        UnknownIcmp6(256, 0, b""),
        UnknownIcmp6(200, 256, b""),
    ],
)
def test_message_with_an_impossible_field_is_refused(message: Icmp6Message) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode_icmp6_message(message)


@pytest.mark.parametrize("message_type", [1, 2, 3, 4, 128, 129, 133, 144, 145, 146, 147])
def test_message_cut_short_raises_decode_error(message_type: int) -> None:
    with pytest.raises(DecodeError, match="cut off") as raised:
        decode_packet(icmp6_packet(bytes((message_type, 0, 0, 0, 0, 0, 0))))
    assert raised.value.offset == 40


@pytest.mark.parametrize("message_type", [128, 134, 136, 144, 147])
def test_message_with_a_code_it_does_not_have_stays_unknown(message_type: int) -> None:
    payload = decode_packet(icmp6_packet(bytes((message_type, 1)) + bytes(46))).payload
    assert payload == UnknownIcmp6(message_type, 1, bytes(44))


def test_packet_too_big_code_is_ignored() -> None:
    assert decode_icmp6_message(bytes.fromhex("0207000000000500"), 40) == PacketTooBig(1280, b"")


def test_unknown_message_tells_errors_from_the_rest() -> None:
    assert UnknownIcmp6(127, 0, b"").is_error
    assert not UnknownIcmp6(200, 0, b"").is_error


def test_discovery_reply_ending_within_an_address_raises_decode_error() -> None:
    with pytest.raises(DecodeError) as raised:
        decode_packet(icmp6_packet(bytes.fromhex("9100000000010000") + bytes(17)))
    assert raised.value.offset == 48


def test_checksum_that_is_wrong_raises_checksum_error() -> None:
    octets = bytearray(encode_packet(IPv6Packet(SOURCE, DESTINATION, EchoRequest(1, 1))))
    octets[-1] ^= 1
    with pytest.raises(ChecksumError) as raised:
        decode_packet(bytes(octets))
    assert raised.value.offset == 42


def test_quote_keeps_the_error_within_the_minimum_mtu() -> None:
    error = ParameterProblem(0, 0, quote(bytes(1500)))
    assert len(encode_packet(IPv6Packet(SOURCE, DESTINATION, error))) == 1280
    assert len(quote(bytes(1500), overhead=24)) == 1208
    assert quote(bytes(60)) == bytes(60)


@pytest.mark.parametrize("message", [RouterSolicitation(), NeighborSolicitation(SOURCE)])
def test_neighbour_discovery_goes_through_the_same_door(message: Icmp6Message) -> None:
    assert decode_icmp6_message(encode_icmp6_message(message), 40) == message
