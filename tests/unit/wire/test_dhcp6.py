"""DHCPv6 messages and options: layouts of RFC 8415, and what does not decode."""

from __future__ import annotations

import math
from ipaddress import IPv6Address
from typing import Any

import pytest

from mnagent.wire.buffer import DecodeError
from mnagent.wire.dhcp6 import (
    ClientIdentifier,
    Dhcp6Message,
    Dhcp6MessageType,
    Dhcp6Status,
    DnsServers,
    ElapsedTime,
    IdentityAssociation,
    InformationMaxTimeout,
    InformationRefreshTime,
    LeasedAddress,
    OptionRequest,
    Preference,
    RapidCommit,
    ServerIdentifier,
    SolicitMaxTimeout,
    StatusCode,
    UnknownDhcp6Option,
    decode_dhcp6_message,
    encode_dhcp6_message,
)

ADDRESS = IPv6Address("2001:db8:a::5")
DUID = bytes.fromhex("0004000102030405060708090a0b0c0d0e0f")
HEADER = bytes.fromhex("07123456")

LAYOUTS: dict[str, tuple[Any, str]] = {
    "client-identifier": (ClientIdentifier(b"\0\4\1"), "0001 0003 000401"),
    "server-identifier": (ServerIdentifier(b"\0\1\2"), "0002 0003 000102"),
    "association": (IdentityAssociation(7, 10, 20), "0003 000c 00000007 0000000a 00000014"),
    "association-for-ever": (
        IdentityAssociation(7, math.inf, math.inf),
        "0003 000c 00000007 ffffffff ffffffff",
    ),
    "association-with-address": (
        IdentityAssociation(
            1, 2, 3, (LeasedAddress(ADDRESS, 4, math.inf, (StatusCode(0, b"ok"),)), StatusCode(2))
        ),
        "0003 0036 00000001 00000002 00000003"
        " 0005 0020 20010db8000a00000000000000000005 00000004 ffffffff 000d 0004 0000 6f6b"
        " 000d 0002 0002",
    ),
    "option-request": (OptionRequest((23, 82)), "0006 0004 0017 0052"),
    "preference": (Preference(255), "0007 0001 ff"),
    "elapsed-time": (ElapsedTime(1.25), "0008 0002 007d"),
    "status-code": (StatusCode(Dhcp6Status.NO_BINDING, b"no"), "000d 0004 0003 6e6f"),
    "rapid-commit": (RapidCommit(), "000e 0000"),
    "dns-servers": (DnsServers((ADDRESS,)), "0017 0010 20010db8000a00000000000000000005"),
    "refresh-time": (InformationRefreshTime(600), "0020 0004 00000258"),
    "refresh-never": (InformationRefreshTime(math.inf), "0020 0004 ffffffff"),
    "sol-max-rt": (SolicitMaxTimeout(60), "0052 0004 0000003c"),
    "inf-max-rt": (InformationMaxTimeout(86400), "0053 0004 00015180"),
    "unknown": (UnknownDhcp6Option(4711, b"abc"), "1267 0003 616263"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_option_has_the_layout_of_the_specification_both_ways(name: str) -> None:
    option, layout = LAYOUTS[name]
    message = Dhcp6Message(Dhcp6MessageType.REPLY, 0x123456, (option,))
    octets = HEADER + bytes.fromhex(layout)
    assert encode_dhcp6_message(message) == octets
    assert decode_dhcp6_message(octets) == message


def test_message_of_an_unknown_type_is_kept() -> None:
    message = Dhcp6Message(99, 1)
    assert decode_dhcp6_message(encode_dhcp6_message(message)) == message


def test_message_gives_its_first_option_of_a_kind() -> None:
    message = Dhcp6Message(7, 1, (Preference(1), Preference(2)))
    assert message.first(Preference) == Preference(1)
    assert message.first(RapidCommit) is None


def test_elapsed_time_beyond_its_field_is_sent_as_the_longest() -> None:
    octets = encode_dhcp6_message(Dhcp6Message(1, 0, (ElapsedTime(10_000),)))
    assert octets.endswith(b"\xff\xff")


def test_known_option_at_the_wrong_place_inside_an_association_is_passed_over() -> None:
    inner = "0007 0001 ff 000e 0000"
    octets = HEADER + bytes.fromhex(f"0003 0015 00000007 00000000 00000000 {inner}")
    assert decode_dhcp6_message(octets).first(IdentityAssociation) == IdentityAssociation(7)
    address = f"0005 0021 {ADDRESS.packed.hex()} 00000001 00000002 {inner}"
    octets = HEADER + bytes.fromhex(f"0003 0031 00000007 00000000 00000000 {address}")
    association = decode_dhcp6_message(octets).first(IdentityAssociation)
    assert association == IdentityAssociation(7, options=(LeasedAddress(ADDRESS, 1, 2),))


HOSTILE = {
    "empty": ("", 0),
    "cut-header": ("071234", 0),
    "relay-forward": ("0c123456", 0),
    "relay-reply": ("0d123456", 0),
    "cut-option-header": ("07123456 0001 00", 4),
    "option-past-the-end": ("07123456 000d 0005 0000", 6),
    "longest-length": ("07123456 0001 ffff 0000", 6),
    "empty-client-identifier": ("07123456 0001 0000", 6),
    "short-server-identifier": ("07123456 0002 0002 0001", 6),
    "long-client-identifier": ("07123456 0001 0083" + "00" * 131, 6),
    "short-association": ("07123456 0003 000b" + "00" * 11, 6),
    "short-address": ("07123456 0003 0023 00000000 00000000 00000000 0005 0017" + "00" * 23, 22),
    "address-past-its-association": (
        "07123456 0003 0010 00000000 00000000 00000000 0005 0018" + "00" * 24,
        22,
    ),
    "address-outside": ("07123456 0005 0018" + "00" * 24, 4),
    "association-inside": (
        "07123456 0003 001c 00000000 00000000 00000000 0003 000c" + "00" * 12,
        20,
    ),
    "odd-option-request": ("07123456 0006 0003 000000", 6),
    "long-preference": ("07123456 0007 0002 0000", 6),
    "short-elapsed-time": ("07123456 0008 0001 00", 6),
    "empty-status": ("07123456 000d 0001 00", 6),
    "full-rapid-commit": ("07123456 000e 0001 00", 6),
    "odd-dns-servers": ("07123456 0017 0011" + "00" * 17, 6),
    "short-refresh-time": ("07123456 0020 0003 000000", 6),
    "long-sol-max-rt": ("07123456 0052 0005 0000000000", 6),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_message_does_not_decode_and_says_where(name: str) -> None:
    octets, offset = HOSTILE[name]
    with pytest.raises(DecodeError) as raised:
        decode_dhcp6_message(bytes.fromhex(octets))
    assert raised.value.offset == offset


UNFIT: dict[str, Dhcp6Message] = {
    "type": Dhcp6Message(256, 0),
    "relay": Dhcp6Message(12, 0),
    "transaction": Dhcp6Message(1, 1 << 24),
    "short-duid": Dhcp6Message(1, 0, (ClientIdentifier(b""),)),
    "long-duid": Dhcp6Message(1, 0, (ServerIdentifier(bytes(131)),)),
    "known-as-unknown": Dhcp6Message(1, 0, (UnknownDhcp6Option(1, b"abc"),)),
    "lifetime": Dhcp6Message(1, 0, (IdentityAssociation(0, 1 << 32),)),
    "address-outside": Dhcp6Message(1, 0, (LeasedAddress(ADDRESS, 1, 2),)),
    "option-length": Dhcp6Message(1, 0, (UnknownDhcp6Option(99, bytes(1 << 16)),)),
}


@pytest.mark.parametrize("name", UNFIT)
def test_message_with_a_field_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode_dhcp6_message(UNFIT[name])
