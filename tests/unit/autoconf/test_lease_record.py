"""The record of leases, and what may be wrong with one."""

from __future__ import annotations

import json
import math
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from mnagent.autoconf.constants import RESTORED_LIFETIME
from mnagent.autoconf.lease_record import KeptLeases, decode_leases, encode_leases

ADDRESS, OTHER = IPv6Address("2001:db8:a::1000"), IPv6Address("2001:db8:a::1001")
KEPT = KeptLeases(
    server=b"server",
    prefixes=frozenset((IPv6Network("2001:db8:a::/64"),)),
    addresses=((ADDRESS, 1200.0, 1100.0), (OTHER, math.inf, math.inf)),
)


def decode(text: str | None, *never: IPv6Address) -> dict[str, KeptLeases]:
    return decode_leases(text, now=50.0, never=frozenset(never))


def test_record_comes_back_with_the_lifetimes_that_were_left() -> None:
    (found,) = decode(encode_leases({"eth0": KEPT}, 1000.0)).values()
    until = 50 + RESTORED_LIFETIME
    assert found.addresses == ((ADDRESS, 250.0, 150.0), (OTHER, until, until))
    assert (found.server, found.prefixes) == (KEPT.server, KEPT.prefixes)


def test_address_that_must_not_be_used_is_left_out() -> None:
    (found,) = decode(encode_leases({"eth0": KEPT}, 1000.0), ADDRESS).values()
    assert [address for address, *_ in found.addresses] == [OTHER]


def test_record_that_is_not_there_is_empty() -> None:
    assert decode(None) == {}


def changed(**changes: Any) -> str:
    content = json.loads(encode_leases({"eth0": KEPT}, 1000.0))
    content["interfaces"]["eth0"].update(changes)
    return json.dumps(content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version":2,"interfaces":{}}',
        '{"version":1,"interfaces":[]}',
        " " * (1 << 17),
        "[" * 60000,
        changed(server=""),
        changed(server="00" * 131),
        changed(server="no"),
        changed(prefixes=["2001:db8::1/64"]),
        changed(prefixes=[f"2001:db8:{n:x}::/64" for n in range(17)]),
        changed(addresses=[["2001:db8::1", 1, 1]] * 17),
        changed(addresses=[["2001:db8::1", -1, 1]]),
        changed(addresses=[["2001:db8::1", 1, "nan"]]),
        changed(addresses=[["2001:db8::1"]]),
        changed(addresses=[["192.0.2.1", 1, 1]]),
    ],
)
def test_record_that_is_not_as_it_should_be_is_void(text: str) -> None:
    assert decode(text) == {}
