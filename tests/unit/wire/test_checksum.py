"""The Internet checksum, with and without the pseudo-header."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.wire.checksum import internet_checksum, upper_layer_checksum


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        ("", 0xFFFF),
        ("0000", 0xFFFF),
        ("ffff", 0x0000),
        ("0001f203f4f5f6f7", 0x220D),  # the example of RFC 1071 3: sum ddf2
        ("ff", 0x00FF),
    ],
)
def test_internet_checksum_of_known_octets_is_the_known_one(data: str, checksum: int) -> None:
    assert internet_checksum(bytes.fromhex(data)) == checksum


def test_upper_layer_checksum_over_its_own_checksum_is_zero() -> None:
    addresses = IPv6Address("fe80::1"), IPv6Address("ff02::1")
    data = bytes.fromhex("80000000000100026162")
    checksum = upper_layer_checksum(*addresses, 58, data)
    whole = data[:2] + checksum.to_bytes(2, "big") + data[4:]
    assert upper_layer_checksum(*addresses, 58, whole) == 0
    assert upper_layer_checksum(*addresses, 135, whole) != 0
