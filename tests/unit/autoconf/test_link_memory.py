from __future__ import annotations

import json
import math
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from mnagent.autoconf.constants import (
    MAX_KNOWN_ACCESS_POINTS,
    MAX_KNOWN_ROUTERS,
    MAX_PREFIXES,
    MAX_PROBED_ROUTERS,
    RESTORED_LIFETIME,
)
from mnagent.autoconf.link_memory import (
    KnownAddress,
    KnownRouter,
    LinkMemory,
    decode_record,
    encode_record,
)
from tests.support.requirement import requirement

NOW = 1000.0
ADDRESS = IPv6Address("2001:db8:a::10")


def router(number: int = 1, *, net: str = "a", **fields: Any) -> KnownRouter:
    prefix = IPv6Network(f"2001:db8:{net}::/64")
    values: dict[str, Any] = {
        "router": IPv6Address(f"fe80::{number:x}"),
        "link_layer_address": bytes((2, 0, 0, 0, 0, number)),
        "expires_at": NOW + 1800,
        "prefixes": ((prefix, NOW + 3600),),
        "addresses": (
            KnownAddress(address=prefix[16], valid_until=NOW + 3600, preferred_until=NOW + 1800),
        ),
        "seen_at": NOW,
    }
    return KnownRouter(**{**values, **fields})


def decode(text: str | None, **options: Any) -> dict[str, LinkMemory]:
    values: dict[str, Any] = {"identifiers": "stable", "now": NOW, "never": frozenset()}
    return decode_record(text, **{**values, **options})


def encode(*routers: KnownRouter) -> str:
    return encode_record({"wlan0": LinkMemory(routers)}, identifiers="stable", now=NOW)


def test_memory_tells_a_change_from_a_repetition() -> None:
    memory = LinkMemory()
    assert memory.remember(router())
    assert not memory.remember(router(expires_at=NOW + 9000, seen_at=NOW + 1))
    assert memory.routers[0].expires_at == NOW + 9000
    assert memory.remember(router(addresses=()))
    assert memory.remember(router(2))
    assert len(memory.routers) == 2


@requirement("RFC6059-5.9", "MOV-18")
def test_memory_that_is_full_forgets_the_router_not_seen_for_longest() -> None:
    memory = LinkMemory()
    for number in range(MAX_KNOWN_ROUTERS + 1):
        memory.remember(router(number + 1, net=f"{number + 1:x}", seen_at=NOW + number))
    assert len(memory.routers) == MAX_KNOWN_ROUTERS
    assert IPv6Address("fe80::1") not in {each.router for each in memory.routers}


@requirement("RFC6059-5.5.2", "MOV-18")
def test_candidates_are_the_latest_with_a_valid_address() -> None:
    dead = [
        router(1, addresses=()),
        router(2, expires_at=NOW),
        router(3, addresses=(replace(router().addresses[0], valid_until=NOW),)),
    ]
    alive = [router(number, net=f"{number:x}", seen_at=NOW - number) for number in range(4, 12)]
    memory = LinkMemory([*dead, *reversed(alive)])
    found = memory.candidates(NOW)
    assert [each.router for each in found] == alive[:MAX_PROBED_ROUTERS]
    assert all(each.target == each.router.router for each in found)
    assert len(memory.routers) == len(alive), "what is over is forgotten"


@requirement("RFC6059-5.5.2", "MOV-18")
def test_routers_heard_through_the_same_access_point_are_asked_first() -> None:
    here, elsewhere = b"\2\0\0\0\0\x01", b"\2\0\0\0\0\x02"
    routers = [router(number, net=f"{number:x}", seen_at=NOW - number) for number in range(1, 10)]
    routers[8] = replace(routers[8], access_points=(elsewhere, here))
    routers[7] = replace(routers[7], access_points=(here,))
    memory = LinkMemory(routers)
    found = [each.router for each in memory.candidates(NOW, access_point=here)]
    assert found == [routers[7], routers[8], *routers[: MAX_PROBED_ROUTERS - 2]]
    for unknown in (b"", b"\2\0\0\0\0\x03"):
        found = [each.router for each in memory.candidates(NOW, access_point=unknown)]
        assert found == routers[:MAX_PROBED_ROUTERS]


def test_access_points_of_a_router_are_the_latest_first_and_bounded() -> None:
    memory = LinkMemory()
    points = [bytes((2, 0, 0, 0, 0, number)) for number in range(MAX_KNOWN_ACCESS_POINTS + 2)]
    for point in points:
        assert memory.remember(router(access_points=(point,)))
    assert not memory.remember(router(access_points=(points[-2],)))
    assert not memory.remember(router())
    (known,) = memory.routers
    assert known.access_points[:2] == (points[-2], points[-1])
    assert len(known.access_points) == MAX_KNOWN_ACCESS_POINTS
    (restored,) = decode(encode(known))["wlan0"].routers
    assert restored.access_points == known.access_points


def test_record_of_an_agent_that_knew_no_access_points_is_still_read() -> None:
    content = json.loads(encode(router()))
    del content["interfaces"]["wlan0"][0]["access_points"]
    (restored,) = decode(json.dumps(content))["wlan0"].routers
    assert restored.access_points == ()


def test_router_with_nothing_but_a_lease_is_a_candidate() -> None:
    assert LinkMemory([router(addresses=(), leased=(ADDRESS,))]).candidates(NOW)


@requirement("RFC6275-11.5.1", "MOV-07")
def test_namesakes_are_asked_for_by_an_address_only_one_has() -> None:
    one = router(net="a", router_addresses=(IPv6Address("2001:db8:a::1"),))
    two = router(net="b", router_addresses=(IPv6Address("2001:db8:b::1"),))
    nameless = router(net="c")
    found = LinkMemory([one, two, nameless]).candidates(NOW)
    assert {each.target for each in found} == {*one.router_addresses, *two.router_addresses}
    same = replace(nameless, router_addresses=one.router_addresses)
    assert LinkMemory([one, same]).candidates(NOW) == []
    other_port = router(net="b", link_layer_address=b"\2\0\0\0\0\x99")
    assert len(LinkMemory([one, other_port]).candidates(NOW)) == 2


def test_record_brings_back_what_it_was_made_of() -> None:
    known = router(router_addresses=(IPv6Address("2001:db8:a::1"),), seen_at=NOW - 5)
    later = decode(encode(known, router(2, net="b")), now=NOW + 50)["wlan0"].routers
    assert len(later) == 2 and later[0].is_same(known)
    assert later[0].router_addresses == known.router_addresses
    assert later[0].addresses[0].valid_until == NOW + 50 + 3600
    assert later[0].seen_at == NOW + 45


def test_record_is_believed_for_two_hours_at_most() -> None:
    endless = router(
        expires_at=math.inf,
        prefixes=((IPv6Network("2001:db8:a::/64"), math.inf),),
        addresses=(KnownAddress(address=ADDRESS, valid_until=math.inf, preferred_until=math.inf),),
    )
    (restored,) = decode(encode(endless))["wlan0"].routers
    assert restored.expires_at == NOW + RESTORED_LIFETIME
    assert restored.addresses[0].valid_until == NOW + RESTORED_LIFETIME


def test_address_that_was_not_found_unique_is_not_recorded() -> None:
    known = router()
    doubtful = replace(known, addresses=(replace(known.addresses[0], is_unique=False),))
    (restored,) = decode(encode(doubtful))["wlan0"].routers
    assert restored.addresses == ()
    assert LinkMemory([doubtful]).remember(known), "worth a record now"


def test_record_of_other_identifiers_is_void_and_the_home_address_never_comes_back() -> None:
    text = encode(router())
    assert decode(text, identifiers="temporary") == {}
    (restored,) = decode(text, never=frozenset((ADDRESS,)))["wlan0"].routers
    assert restored.addresses == ()


def changed(**fields: Any) -> str:
    content = json.loads(encode(router()))
    content["interfaces"]["wlan0"][0].update(fields)
    return json.dumps(content)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        " " * (1 << 18) + "{}",
        encode(router()).replace('"version":1', '"version":2'),
        encode(router()).replace('{"wlan0"', '{"wlan0":1,"x"'),
        changed(router="2001:db8::1"),
        changed(router=None),
        changed(link_layer_address="0200"),
        changed(link_layer_address=7),
        changed(lifetime=-1),
        changed(lifetime="long"),
        changed(lifetime=math.nan),
        changed(prefixes=[]),
        changed(prefixes=[["2001:db8:a::1/64", 1]]),
        changed(prefixes=[["2001:db8:a::/64", 1]] * (MAX_PREFIXES + 1)),
        changed(addresses=[["2001:db8:b::1", 1, 1]]),
        changed(addresses=[1]),
        changed(router_addresses={"a": 1}),
        changed(age=None),
        changed(access_points=["02:00"]),
        changed(access_points=["02"] * (MAX_PREFIXES + 1)),
        changed(access_points=[7]),
    ],
)
def test_record_with_anything_wrong_is_void(text: str | None) -> None:
    assert decode(text) == {}
