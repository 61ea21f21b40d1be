"""Addresses as text."""

from __future__ import annotations

from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.mobility.addresses import text_of


@pytest.mark.parametrize(
    "text",
    [
        "::",
        "::1",
        "1::",
        "2001:db8::1:0:0:1",
        "2001:0:0:1::1",
        "2001:db8:1:1:1:0:1:1",
        "fe80::1%3",
        "::ffff:192.0.2.1",
        "::192.0.2.1",
    ],
)
def test_text_of_an_address_is_what_str_says(text: str) -> None:
    assert text_of(IPv6Address(text)) == str(IPv6Address(text))


def test_text_of_addresses_with_zeros_anywhere_is_what_str_says() -> None:
    chance = Random(1)
    for _ in range(5000):
        groups = [chance.choice((0, 0, 1, 0x10, 0x1001, 0xFFFF)) for _ in range(8)]
        address = IPv6Address(":".join(f"{group:x}" for group in groups))
        assert text_of(address) == str(address)
