from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from mnagent.autoconf.constants import MAX_PREFIXES, MAX_ROUTERS
from mnagent.autoconf.link_memory import KnownRouter
from mnagent.autoconf.router_discovery import Advertised, RouterDiscovery
from mnagent.core.actions import AddDefaultRouter, RemoveDefaultRouter
from mnagent.core.drops import DropReason
from mnagent.core.indications import RouterFound, RouterLost
from mnagent.wire.ndisc import RouterSolicitation, SourceLinkLayerAddress
from tests.support.driver import Driver
from tests.support.matching import of_type, only, sent
from tests.support.packets import received, router_advertisement
from tests.support.requirement import requirement

ROUTER = IPv6Address("fe80::1")
OTHER_ROUTER = IPv6Address("fe80::2")
LINK_LOCAL = IPv6Address("fe80::10")
MAC = bytes.fromhex("020000000010")
ROUTER_MAC = bytes.fromhex("020000000001")


class Discovery(Driver):
    def __init__(self, **options: Any) -> None:
        self.discovery = RouterDiscovery(2, random=Random(1), **options)
        super().__init__(self.discovery)

    def link_up(self) -> list[Any]:
        return self.note(self.discovery.link_came_up(self.now))

    def hear(self, *prefixes: str, router: IPv6Address = ROUTER, **fields: Any) -> Advertised:
        packet = router_advertisement(router, *prefixes, **fields)
        advertised = self.discovery.handle(received(packet), self.now)
        assert advertised is not None
        self.note(advertised.outputs)
        return advertised

    def solicitations(self) -> list[float]:
        return self.times_of(RouterSolicitation)


@requirement("RFC6059-5.5.1", "MOV-17", "MOV-09")
def test_link_up_solicits_at_once_from_the_link_local_address() -> None:
    driver = Discovery()
    driver.discovery.own.link_layer_address = MAC
    driver.discovery.own.link_local = LINK_LOCAL
    ((action, message),) = sent(driver.link_up(), RouterSolicitation)
    assert action.packet.source == LINK_LOCAL
    assert message.options == (SourceLinkLayerAddress(MAC),)
    assert action.packet.hop_limit == 255


@requirement("RFC4861-6.3.7", "MOV-17")
def test_link_up_without_a_link_local_address_solicits_from_nobody() -> None:
    driver = Discovery()
    driver.discovery.own.link_layer_address = MAC
    ((action, message),) = sent(driver.link_up(), RouterSolicitation)
    assert action.packet.source == IPv6Address("::") and message.options == ()


def test_unanswered_solicitations_back_off_and_never_stop() -> None:
    driver = Discovery()
    driver.link_up()
    driver.advance(400)
    times = driver.solicitations()
    quick, patient = times[:7], times[6:]
    offsets = [round(at - times[0], 6) for at in quick]
    assert offsets == [0, 0.02, 0.04, 0.08, 0.5, 1.5, 4]
    gaps = [b - a for a, b in pairwise(patient)]
    steady = [gap for gap in gaps if gap < 5]
    assert 12 <= len(steady) <= 14, "for a minute"
    for gap, nominal in zip(gaps[len(steady) :], [8, 16, 32, 64, 64], strict=False):
        assert nominal <= gap <= nominal * 1.1


def test_advertisement_ends_the_soliciting_and_makes_a_default_route() -> None:
    driver = Discovery()
    driver.link_up()
    advertised = driver.hear("2001:db8:a::/64", mac=ROUTER_MAC, addresses=("2001:db8:a::1",))
    assert advertised.is_new_link
    route = only(advertised.outputs, AddDefaultRouter)
    assert (route.router, route.lifetime, route.link_layer_address) == (ROUTER, 1800, ROUTER_MAC)
    found = only(advertised.outputs, RouterFound)
    assert found.prefixes == (IPv6Network("2001:db8:a::/64"),)
    assert found.addresses == ((IPv6Address("2001:db8:a::1"), ROUTER_MAC),)
    driver.advance(100)
    assert len(driver.solicitations()) == 1
    assert not driver.hear("2001:db8:a::/64").is_new_link


def test_router_without_link_layer_option_is_known_by_its_frame() -> None:
    driver = Discovery()
    driver.link_up()
    found = only(driver.hear("2001:db8:a::/64").outputs, RouterFound)
    assert found.link_layer_address == received(router_advertisement(ROUTER)).link_layer_source


def test_routes_are_left_to_the_kernel_where_it_keeps_them() -> None:
    driver = Discovery(configure_routes=False)
    driver.link_up()
    driver.hear("2001:db8:a::/64")
    driver.note(driver.discovery.link_went_down())
    assert not driver.all(AddDefaultRouter) and not driver.all(RemoveDefaultRouter)
    assert driver.all(RouterFound) and driver.all(RouterLost)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"hop_limit": 254}, DropReason.BAD_HOP_LIMIT),
        ({"router": IPv6Address("2001:db8::1")}, DropReason.NOT_LINK_LOCAL),
    ],
)
def test_advertisement_that_may_come_from_elsewhere_is_dropped(
    fields: dict[str, Any], reason: DropReason
) -> None:
    driver = Discovery()
    driver.link_up()
    router = fields.pop("router", ROUTER)
    packet = router_advertisement(router, "2001:db8:a::/64", **fields)
    assert driver.discovery.handle(received(packet), driver.now) is None
    assert driver.discovery.drops[reason] == 1


def test_router_is_forgotten_when_its_lifetime_ends_and_others_are_asked_for() -> None:
    driver = Discovery()
    driver.link_up()
    driver.hear("2001:db8:a::/64", lifetime=100)
    driver.advance(99)
    assert not driver.all(RouterLost)
    outputs = driver.advance(2)
    assert only(outputs, RouterLost).router == ROUTER
    assert of_type(outputs, RemoveDefaultRouter)
    assert len(sent(outputs, RouterSolicitation)) > 1


def test_expiry_of_one_of_two_routers_asks_nobody() -> None:
    driver = Discovery()
    driver.link_up()
    driver.hear("2001:db8:a::/64", lifetime=100)
    driver.hear("2001:db8:a::/64", router=OTHER_ROUTER)
    outputs = driver.advance(101)
    assert only(outputs, RouterLost) and not sent(outputs, RouterSolicitation)


def test_router_that_resigns_is_forgotten() -> None:
    driver = Discovery()
    driver.link_up()
    driver.hear("2001:db8:a::/64")
    assert only(driver.hear("2001:db8:a::/64", lifetime=0).outputs, RouterLost)
    assert driver.hear("2001:db8:a::/64", lifetime=0).outputs == ()


@requirement("RFC6059-5.4", "MOV-21")
def test_second_link_up_doubts_every_router_and_the_same_one_is_confirmed() -> None:
    driver = Discovery()
    driver.link_up()
    driver.hear("2001:db8:a::/64")
    assert only(driver.link_up(), RouterLost).router == ROUTER
    assert not of_type(driver.link_up(), RouterLost)
    advertised = driver.hear("2001:db8:a::/64")
    assert advertised.is_new_link and only(advertised.outputs, RouterFound)


@requirement("RFC6059-5.7.2", "MOV-20")
def test_other_router_after_a_link_up_takes_the_place_of_the_doubtful_one() -> None:
    driver = Discovery()
    driver.link_up()
    driver.hear("2001:db8:a::/64")
    driver.link_up()
    outputs = driver.hear("2001:db8:b::/64", router=OTHER_ROUTER).outputs
    assert only(outputs, RemoveDefaultRouter).router == ROUTER
    assert not of_type(outputs, RouterLost), "it was told lost already"


@requirement("RFC6275-11.5.1", "MOV-07")
def test_same_router_with_none_of_its_prefixes_is_another_link() -> None:
    driver = Discovery()
    driver.link_up()
    driver.hear("2001:db8:a::/64", "2001:db8:a1::/64")
    assert not driver.hear("2001:db8:a1::/64").is_new_link
    assert not driver.hear().is_new_link
    advertised = driver.hear("2001:db8:b::/64")
    assert advertised.is_new_link
    assert only(advertised.outputs, RouterFound).prefixes == (IPv6Network("2001:db8:b::/64"),)


def test_prefixes_end_with_their_lifetime_and_not_by_a_forged_shorter_one() -> None:
    driver = Discovery()
    driver.link_up()
    driver.hear("2001:db8:a::/64", "2001:db8:c::/64")
    driver.hear("2001:db8:b::/64", "2001:db8:a::/64", valid=50)
    driver.advance(60)
    found = only(driver.hear().outputs, RouterFound)
    assert set(found.prefixes or ()) == {
        IPv6Network("2001:db8:a::/64"),
        IPv6Network("2001:db8:c::/64"),
    }, "nobody shortens the life of a prefix below two hours"
    driver.advance(3600)
    driver.hear(lifetime=9000)
    assert only(driver.hear("2001:db8:a::/64", valid=0).outputs, RouterFound).prefixes == ()


@requirement("RFC6275-11.5.1", "MOV-01")
def test_tables_a_link_can_fill_are_bounded() -> None:
    driver = Discovery()
    driver.link_up()
    many = [f"2001:db8:{n:x}::/64" for n in range(MAX_PREFIXES + 5)]
    found = only(driver.hear(*many).outputs, RouterFound)
    assert found.prefixes is not None and len(found.prefixes) == MAX_PREFIXES
    for number in range(2, MAX_ROUTERS + 5):
        packet = router_advertisement(IPv6Address(f"fe80::{number:x}"), "2001:db8:a::/64")
        driver.discovery.handle(received(packet), driver.now)
    assert driver.discovery.drops[DropReason.CACHE_FULL] == 4


KNOWN = KnownRouter(
    router=ROUTER,
    link_layer_address=ROUTER_MAC,
    expires_at=2000.0,
    prefixes=((IPv6Network("2001:db8:a::/64"), 2000.0),),
    router_addresses=(IPv6Address("2001:db8:a::1"),),
)


@requirement("RFC6059-5.7.1", "MOV-19")
def test_restored_router_gets_its_route_back_and_is_still_asked_to_advertise() -> None:
    driver = Discovery()
    driver.link_up()
    outputs = driver.note(driver.discovery.restore(KNOWN, driver.now))
    assert only(outputs, AddDefaultRouter).lifetime == 1000
    found = only(outputs, RouterFound)
    assert found.prefixes == (IPv6Network("2001:db8:a::/64"),)
    assert found.addresses == ((IPv6Address("2001:db8:a::1"), ROUTER_MAC),)
    assert len(sent(driver.advance(0.1), RouterSolicitation)) == 3
    driver.advance(1000)
    assert driver.all(RouterLost)


def test_restored_router_takes_the_place_of_routers_in_doubt() -> None:
    driver = Discovery()
    driver.link_up()
    driver.hear("2001:db8:b::/64", router=OTHER_ROUTER)
    driver.link_up()
    outputs = driver.discovery.restore(KNOWN, driver.now)
    assert only(outputs, RemoveDefaultRouter).router == OTHER_ROUTER
    assert [known.router for known in driver.discovery.routers(driver.now)] == [ROUTER]


@requirement("RFC6059-5.7.2", "MOV-20")
def test_advertisement_that_contradicts_a_restored_router_counts() -> None:
    driver = Discovery()
    driver.link_up()
    driver.discovery.restore(KNOWN, driver.now)
    advertised = driver.hear("2001:db8:b::/64", mac=ROUTER_MAC)
    assert advertised.is_contradiction and advertised.is_first
    assert only(advertised.outputs, RouterFound).prefixes == (IPv6Network("2001:db8:b::/64"),)


def test_first_advertisement_leaves_a_restored_router_alone() -> None:
    driver = Discovery()
    driver.link_up()
    driver.discovery.restore(KNOWN, driver.now)
    outputs = driver.hear("2001:db8:a::/64", router=OTHER_ROUTER).outputs
    assert not of_type(outputs, RemoveDefaultRouter)
    assert len(driver.discovery.routers(driver.now)) == 2


def test_full_table_takes_no_restored_router() -> None:
    driver = Discovery()
    driver.link_up()
    for number in range(2, MAX_ROUTERS + 2):
        driver.hear("2001:db8:a::/64", router=IPv6Address(f"fe80::{number:x}"))
    assert driver.discovery.restore(KNOWN, driver.now) == []


@requirement("RFC6275-11.5.1", "MOV-07")
@pytest.mark.parametrize(
    ("prefixes", "fields", "is_other_link"),
    [
        (("a", "f"), {"mac": ROUTER_MAC}, False),
        (("a",), {"mac": ROUTER_MAC}, False),
        ((), {"mac": MAC}, False),
        (("a", "f"), {"mac": MAC}, False),
        (("b", "f"), {"mac": ROUTER_MAC}, False),
        (("b", "f"), {"mac": MAC}, True),
        (("a", "f"), {"mac": ROUTER_MAC, "addresses": ("2001:db8:a::2",)}, True),
        (("a", "f"), {"mac": ROUTER_MAC, "addresses": ("2001:db8:a::1",)}, False),
    ],
)
def test_namesake_is_known_by_its_link_layer_address_prefixes_and_global_address(
    prefixes: tuple[str, ...], fields: dict[str, Any], is_other_link: bool
) -> None:
    driver = Discovery()
    driver.link_up()
    driver.hear("2001:db8:a::/64", "2001:db8:f::/64", mac=ROUTER_MAC, addresses=("2001:db8:a::1",))
    driver.hear("2001:db8:a::/64", mac=ROUTER_MAC)
    advertised = driver.hear(*(f"2001:db8:{p}::/64" for p in prefixes), **fields)
    assert advertised.is_contradiction is is_other_link


def test_router_that_is_not_reachable_is_forgotten_on_request() -> None:
    driver = Discovery()
    driver.link_up()
    driver.hear("2001:db8:a::/64")
    assert only(driver.discovery.forget(ROUTER), RouterLost)


def test_asking_once_more_doubts_nobody() -> None:
    driver = Discovery()
    driver.link_up()
    assert driver.discovery.ask(driver.now) == [], "it is asking already"
    driver.hear("2001:db8:a::/64")
    (packet,) = driver.discovery.ask(driver.now)
    assert sent([packet], RouterSolicitation)
    assert not driver.all(RouterLost)


@requirement("RFC6275-11.5.1", "MOV-02")
def test_last_router_that_resigns_is_sought_again() -> None:
    driver = Discovery()
    driver.link_up()
    driver.hear("2001:db8:a::/64")
    driver.hear("2001:db8:a::/64", router=OTHER_ROUTER)
    before = len(driver.solicitations())
    driver.hear(lifetime=0)
    driver.advance(10)
    assert len(driver.solicitations()) == before, "there is another one"
    driver.hear(router=OTHER_ROUTER, lifetime=0)
    assert len(driver.solicitations()) == before + 1
    driver.advance(100)
    driver.hear(router=OTHER_ROUTER, lifetime=0)
    assert len(driver.solicitations()) > before + 5, "what it repeats ends nothing"
    driver.hear("2001:db8:a::/64", router=OTHER_ROUTER)
    asked = len(driver.solicitations())
    driver.advance(100)
    assert len(driver.solicitations()) == asked
