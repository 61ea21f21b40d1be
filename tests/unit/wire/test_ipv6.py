"""Extension headers and their options."""

from __future__ import annotations

import pytest

from mnagent.wire.buffer import DecodeError
from mnagent.wire.ipv6 import (
    DestinationOptions,
    ExtensionHeader,
    FragmentHeader,
    HomeAddressOption,
    HopByHopOptions,
    IPv6Packet,
    OptionAction,
    RawPayload,
    RouterAlert,
    RoutingHeader,
    TunnelEncapsulationLimit,
    Type2RoutingHeader,
    UnknownOption,
    decode_extension_header,
    encode_extension_header,
    header_number,
)
from tests.support.octets import DESTINATION, HOME_ADDRESS, SOURCE

HOME_HEX = HOME_ADDRESS.packed.hex()


@pytest.mark.parametrize(
    ("header", "octets"),
    [
        (HopByHopOptions(), "3b00010400000000"),
        (DestinationOptions(), "3b00010400000000"),
        (HopByHopOptions((RouterAlert(0),)), "3b00050200000100"),
        (HopByHopOptions((RouterAlert(0x1234),)), "3b00050212340100"),
        (DestinationOptions((TunnelEncapsulationLimit(4),)), "3b00040104010100"),
        (DestinationOptions((UnknownOption(0x1E, b"abcd"),)), "3b001e0461626364"),
        (DestinationOptions((UnknownOption(0x1E, b"abc"),)), "3b001e0361626300"),
        (
            DestinationOptions((TunnelEncapsulationLimit(4), RouterAlert(0))),
            "3b01" + "040104" + "00" + "05020000" + "010400000000",
        ),
        (
            DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),
            "3b02" + "01020000" + "c910" + HOME_HEX,
        ),
        (
            DestinationOptions((TunnelEncapsulationLimit(4), HomeAddressOption(HOME_ADDRESS))),
            "3b02" + "040104" + "00" + "c910" + HOME_HEX,
        ),
        (Type2RoutingHeader(HOME_ADDRESS), "3b020201" + "00000000" + HOME_HEX),
        (RoutingHeader(4, 1, b"abcd"), "3b00040161626364"),
        (FragmentHeader(0, False, 1), "3b00000000000001"),
        (FragmentHeader(65528, True, 0xA0B0C0D0), "3b00fff9a0b0c0d0"),
    ],
)
def test_header_encoded_has_the_expected_octets(header: ExtensionHeader, octets: str) -> None:
    data = encode_extension_header(header, 59)
    assert data.hex() == octets
    assert decode_extension_header(header_number(header), data, 0) == (header, 59, len(data))


@pytest.mark.parametrize(
    "header",
    [
        DestinationOptions((UnknownOption(0xC9, bytes(16)),)),
        DestinationOptions((UnknownOption(0, b""),)),
        DestinationOptions((UnknownOption(256, b""),)),
        DestinationOptions((UnknownOption(30, bytes(256)),)),
        DestinationOptions((UnknownOption(30, bytes(255)),) * 9),
        DestinationOptions((TunnelEncapsulationLimit(256),)),
        DestinationOptions((RouterAlert(-1),)),
        Type2RoutingHeader(HOME_ADDRESS, 256),
        RoutingHeader(2, 0, bytes(20)),
        RoutingHeader(4, 0, b"abc"),
        RoutingHeader(256, 0, bytes(4)),
        RoutingHeader(4, 256, bytes(4)),
        FragmentHeader(4, False, 0),
        FragmentHeader(65536, False, 0),
        FragmentHeader(0, False, 1 << 32),
    ],
)
def test_header_with_an_impossible_field_is_refused(header: ExtensionHeader) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode_extension_header(header, 59)


@pytest.mark.parametrize(
    ("number", "octets", "offset"),
    [
        (60, "", 0),
        (60, "3b000104000000", 0),
        (44, "3b000000000000", 0),
        (60, "3b01010400000000", 1),
        (0, "3b00c90101000000", 3),
        (60, "3b00040200000000", 3),
        (60, "3b00050100000000", 3),
        (60, "3b001e0500000000", 3),
        (60, "3b0001030000001e", 7),
        (43, "3b00020100000000", 1),
    ],
)
def test_header_malformed_raises_decode_error_where_it_is(
    number: int, octets: str, offset: int
) -> None:
    with pytest.raises(DecodeError) as raised:
        decode_extension_header(number, bytes(5) + bytes.fromhex(octets), 5)
    assert raised.value.offset == offset + 5


def test_fragment_header_reserved_bits_are_ignored() -> None:
    data = bytes.fromhex("3bff000e00000001")
    assert decode_extension_header(44, data, 0) == (FragmentHeader(8, False, 1), 59, 8)


@pytest.mark.parametrize(
    ("option_type", "action"),
    [
        (0x1E, OptionAction.SKIP),
        (0x5E, OptionAction.DISCARD),
        (0x9E, OptionAction.DISCARD_AND_REPORT),
        (0xDE, OptionAction.DISCARD_AND_REPORT_UNLESS_MULTICAST),
    ],
)
def test_unknown_option_says_what_to_do_with_it(option_type: int, action: OptionAction) -> None:
    assert UnknownOption(option_type, b"").action is action


def test_packet_without_mobility_headers_has_plain_logical_addresses() -> None:
    packet = IPv6Packet(
        SOURCE,
        DESTINATION,
        RawPayload(59, b""),
        extension_headers=(HopByHopOptions((HomeAddressOption(HOME_ADDRESS),)),),
    )
    assert packet.home_address_options == ()
    assert packet.home_address_option is None
    assert packet.type2_home_address is None
    assert packet.type2_routing_header is None
    assert (packet.logical_source, packet.logical_destination) == (SOURCE, DESTINATION)


def test_packet_with_mobility_headers_has_the_home_addresses_as_logical_ones() -> None:
    packet = IPv6Packet(
        SOURCE,
        DESTINATION,
        RawPayload(59, b""),
        extension_headers=(
            RoutingHeader(4, 0, bytes(4)),
            Type2RoutingHeader(SOURCE),
            DestinationOptions((RouterAlert(0), HomeAddressOption(HOME_ADDRESS))),
        ),
    )
    assert packet.home_address_option == HOME_ADDRESS
    assert packet.type2_home_address == SOURCE
    assert (packet.logical_source, packet.logical_destination) == (HOME_ADDRESS, SOURCE)
