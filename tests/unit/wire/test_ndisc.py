"""Neighbour discovery messages and options."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest

from mnagent.wire.buffer import DecodeError
from mnagent.wire.icmp6 import decode_icmp6_message, encode_icmp6_message
from mnagent.wire.ndisc import (
    INFINITE_LIFETIME,
    AdvertisementInterval,
    HomeAgentInformation,
    Mtu,
    NdMessage,
    NdOption,
    NeighborAdvertisement,
    NeighborSolicitation,
    Nonce,
    PrefixInformation,
    Redirect,
    RedirectedHeader,
    RouterAdvertisement,
    RouterSolicitation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
    UnknownNdOption,
    decode_nd_options,
    encode_nd_options,
)
from tests.support.octets import icmp6_packet

MAC = bytes.fromhex("020000000001")
TARGET = IPv6Address("fe80::1")
TARGET_HEX = TARGET.packed.hex()
PREFIX = IPv6Address("2001:db8:1::")


def prefix_information(**changes: object) -> PrefixInformation:
    fields: dict[str, object] = {
        "address": PREFIX,
        "valid_lifetime": 7200,
        "preferred_lifetime": 3600,
    }
    return PrefixInformation(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "octets"),
    [
        (RouterSolicitation(), "85000000 00000000"),
        (
            RouterSolicitation((SourceLinkLayerAddress(MAC),)),
            "85000000 00000000 0101 020000000001",
        ),
        (RouterAdvertisement(), "86000000 00000000 00000000 00000000"),
        (
            RouterAdvertisement(
                current_hop_limit=64,
                managed=True,
                other=True,
                home_agent=True,
                router_lifetime=1800,
                reachable_time=30,
                retransmission_timer=1.5,
            ),
            "86000000 40e00708 00007530 000005dc",
        ),
        (NeighborSolicitation(TARGET), "87000000 00000000" + TARGET_HEX),
        (NeighborAdvertisement(TARGET), "88000000 00000000" + TARGET_HEX),
        (NeighborAdvertisement(TARGET, router=True), "88000000 80000000" + TARGET_HEX),
        (NeighborAdvertisement(TARGET, solicited=True), "88000000 40000000" + TARGET_HEX),
        (
            NeighborAdvertisement(TARGET, override=True, options=(TargetLinkLayerAddress(MAC),)),
            "88000000 20000000" + TARGET_HEX + "0201 020000000001",
        ),
        (
            Redirect(TARGET, PREFIX, (RedirectedHeader(b"12345678"),)),
            "89000000 00000000"
            + TARGET_HEX
            + PREFIX.packed.hex()
            + "0402 000000000000 3132333435363738",
        ),
    ],
)
def test_message_encoded_has_the_expected_octets(message: NdMessage, octets: str) -> None:
    data = bytes.fromhex(octets.replace(" ", ""))
    assert encode_icmp6_message(message) == data
    assert decode_icmp6_message(data, 40) == message


@pytest.mark.parametrize(
    ("option", "octets"),
    [
        (SourceLinkLayerAddress(MAC), "0101020000000001"),
        (TargetLinkLayerAddress(MAC), "0201020000000001"),
        (
            prefix_information(),
            "030440c0 00001c20 00000e10 00000000" + PREFIX.packed.hex(),
        ),
        (
            prefix_information(on_link=False, autonomous=False, prefix_length=48),
            "03043000 00001c20 00000e10 00000000" + PREFIX.packed.hex(),
        ),
        (
            prefix_information(
                valid_lifetime=INFINITE_LIFETIME, preferred_lifetime=INFINITE_LIFETIME
            ),
            "030440c0 ffffffff ffffffff 00000000" + PREFIX.packed.hex(),
        ),
        (Mtu(1500), "0501 0000 000005dc"),
        (AdvertisementInterval(0.07), "0701 0000 00000046"),
        (HomeAgentInformation(0xFFFF, 1), "0801 0000 ffff 0001"),
        (Nonce(b"abcdef"), "0e01 616263646566"),
        (UnknownNdOption(0xFD, b"abcdef"), "fd01 616263646566"),
    ],
)
def test_option_encoded_has_the_expected_octets(option: NdOption, octets: str) -> None:
    data = bytes.fromhex(octets.replace(" ", ""))
    assert encode_nd_options((option,)) == data
    assert decode_nd_options(data, 56) == (option,)


def test_prefix_information_with_a_router_address_has_a_clean_prefix() -> None:
    option = prefix_information(address=IPv6Address("2001:db8:1::1"), router_address=True)
    assert option.prefix == IPv6Network("2001:db8:1::/64")


def test_reserved_fields_set_on_input_are_ignored() -> None:
    data = "03 04 40 df 00001c20 00000e10 ffffffff" + PREFIX.packed.hex() + "0501 ffff 000005dc"
    octets = bytes.fromhex("86000000 001fffff 00000000 00000000" + data)
    options = (prefix_information(), Mtu(1500))
    assert decode_icmp6_message(octets, 40) == RouterAdvertisement(
        router_lifetime=0xFFFF, options=options
    )


@pytest.mark.parametrize(
    "option",
    [
        SourceLinkLayerAddress(bytes(5)),
        Nonce(bytes(7)),
        Mtu(1 << 32),
        AdvertisementInterval(4294967.296),
        HomeAgentInformation(-1, 1),
        HomeAgentInformation(0, 0),
        HomeAgentInformation(0, 65536),
        RedirectedHeader(bytes(2040)),
        UnknownNdOption(3, bytes(30)),
        UnknownNdOption(14, bytes(6)),
        UnknownNdOption(256, bytes(6)),
        prefix_information(prefix_length=129),
        prefix_information(prefix_length=-1),
        prefix_information(valid_lifetime=1 << 32),
        prefix_information(preferred_lifetime=-1),
    ],
)
def test_option_with_an_impossible_field_is_refused(option: NdOption) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode_nd_options((option,))


@pytest.mark.parametrize(
    "message",
    [
        RouterAdvertisement(current_hop_limit=256),
        RouterAdvertisement(router_lifetime=65536),
        RouterAdvertisement(reachable_time=1e9),
        RouterAdvertisement(retransmission_timer=-1),
    ],
)
def test_router_advertisement_with_an_impossible_field_is_refused(message: NdMessage) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode_icmp6_message(message)


@pytest.mark.parametrize(
    ("octets", "offset"),
    [
        ("01", 56),
        ("01010000000000", 56),
        ("0100000000000000", 57),
        ("0102000000000000", 57),
        ("0502000000000000" + "00" * 8, 57),
        ("0301000000000000", 57),
        ("0702000000000000" + "00" * 8, 57),
        ("0802000000000000" + "00" * 8, 57),
        ("0304810000000000" + "00" * 24, 58),
        ("0501000000000500" + "0e", 64),
    ],
)
def test_options_malformed_raise_decode_error_where_it_is(octets: str, offset: int) -> None:
    with pytest.raises(DecodeError) as raised:
        decode_nd_options(bytes.fromhex(octets), 56)
    assert raised.value.offset == offset


@pytest.mark.parametrize("message_type", [135, 136, 137])
def test_target_that_is_multicast_raises_decode_error(message_type: int) -> None:
    data = bytes((message_type, 0, 0, 0, 0, 0, 0, 0, 0xFF, 2)) + bytes(30)
    with pytest.raises(DecodeError) as raised:
        decode_icmp6_message(data[: 40 if message_type == 137 else 24], 40)
    assert raised.value.offset == 48


def test_home_agent_information_with_lifetime_zero_is_received() -> None:
    options = decode_nd_options(bytes.fromhex("0801000000090000"), 56)
    assert options == (HomeAgentInformation(9, 0),)


def test_message_with_a_broken_option_is_no_packet() -> None:
    assert icmp6_packet("85000000 00000000 0100 000000000000")[40] == 133
    with pytest.raises(DecodeError):
        decode_icmp6_message(bytes.fromhex("85000000000000000100000000000000"), 40)
