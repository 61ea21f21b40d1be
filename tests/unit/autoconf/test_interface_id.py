from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from random import Random

import pytest

from mnagent.autoconf import interface_id
from mnagent.autoconf.interface_id import (
    eui64_identifier,
    is_reserved_identifier,
    make_address,
    random_identifier,
    stable_identifier,
)

PREFIX = IPv6Network("2001:db8:a::/64")
OTHER = IPv6Network("2001:db8:b::/64")


def test_eui64_identifier_inserts_fffe_and_flips_the_universal_bit() -> None:
    identifier = eui64_identifier(bytes.fromhex("00163e123456"))
    assert make_address(PREFIX, identifier) == IPv6Address("2001:db8:a::216:3eff:fe12:3456")


def test_eui64_identifier_of_no_ethernet_address_raises() -> None:
    with pytest.raises(ValueError, match="not 6"):
        eui64_identifier(bytes(8))


def test_stable_identifier_is_the_same_in_the_same_place_and_different_elsewhere() -> None:
    one = stable_identifier(b"secret", PREFIX, interface_name="wlan0")
    assert one == stable_identifier(b"secret", PREFIX, interface_name="wlan0")
    others = {
        stable_identifier(b"other", PREFIX, interface_name="wlan0"),
        stable_identifier(b"secret", OTHER, interface_name="wlan0"),
        stable_identifier(b"secret", PREFIX, interface_name="eth0"),
        stable_identifier(b"secret", PREFIX, interface_name="wlan0", duplicates=1),
    }
    assert len(others) == 4 and one not in others


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        (0, True),
        (1, False),
        (0x02005EFFFE000000, True),
        (0x02005EFFFE00FFFF, True),
        (0x02005EFFFE010000, False),
        (0x02005EFFFE005213, True),
        (0xFDFFFFFFFFFFFF80, True),
        (0xFDFFFFFFFFFFFFFF, True),
        (0xFDFFFFFFFFFFFF7F, False),
    ],
)
def test_reserved_identifiers_are_those_of_rfc_5453(identifier: int, expected: bool) -> None:
    assert is_reserved_identifier(identifier) is expected


def test_stable_identifier_passes_over_reserved_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = stable_identifier(b"secret", PREFIX, interface_name="wlan0")
    monkeypatch.setattr(interface_id, "is_reserved_identifier", lambda i: i == plain)
    assert stable_identifier(b"secret", PREFIX, interface_name="wlan0") != plain


def test_random_identifiers_differ_and_pass_over_reserved_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = Random(1)
    first, second = random_identifier(random), random_identifier(random)
    assert first != second
    monkeypatch.setattr(interface_id, "is_reserved_identifier", lambda i: i == first)
    assert random_identifier(Random(1)) == second
