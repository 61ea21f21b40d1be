from __future__ import annotations

from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.autoconf.constants import (
    MAX_UNREACHABILITY_PROBES,
    MIN_REACHABLE_TIME,
    REACHABLE_TIME,
)
from mnagent.autoconf.nud import RouterReachability, RouterUnreachable
from mnagent.autoconf.own_address import OwnAddress
from mnagent.core.actions import SendPacket
from tests.support.driver import Driver
from tests.support.matching import of_type, only, sent
from tests.support.requirement import requirement

ROUTER, OTHER = IPv6Address("fe80::1"), IPv6Address("fe80::2")
MAC, OTHER_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
LINK_LOCAL = IPv6Address("fe80::10")


class Watch(Driver):
    def __init__(self) -> None:
        self.own = OwnAddress(2, bytes.fromhex("020000000010"), LINK_LOCAL)
        self.watch = RouterReachability(self.own, random=Random(1))
        super().__init__(self.watch)  # type: ignore[arg-type]

    def hear(
        self,
        router: IPv6Address = ROUTER,
        mac: bytes = MAC,
        *,
        reachable_time: float = 0.0,
        interval: float | None = None,
    ) -> None:
        self.watch.router_advertised(
            router,
            link_layer_address=mac,
            reachable_time=reachable_time,
            interval=interval,
            now=self.now,
        )


@requirement("RFC4861-7.3", "MOV-02")
def test_router_that_is_silent_is_asked_by_unicast_and_given_up_after_five_probes() -> None:
    driver = Watch()
    driver.hear()
    assert driver.advance(REACHABLE_TIME * 0.49) == []
    outputs = driver.advance(REACHABLE_TIME * 1.1)
    probes = of_type(outputs, SendPacket)
    assert len(probes) == MAX_UNREACHABILITY_PROBES
    assert {probe.link_layer_destination for probe in probes} == {MAC}
    assert {probe.packet.source for probe in probes} == {LINK_LOCAL}
    assert only(outputs, RouterUnreachable).router == ROUTER
    assert driver.watch.next_deadline() is None and not driver.watch.is_watching


def test_any_packet_from_the_router_is_a_sign_of_life() -> None:
    driver = Watch()
    driver.hear()
    driver.hear(OTHER, OTHER_MAC)
    for _ in range(30):
        driver.watch.packet_received(MAC, driver.now)
        driver.advance(10)
    assert [verdict.router for verdict in driver.all(RouterUnreachable)] == [OTHER]


def test_answer_to_a_probe_ends_the_asking_whatever_frame_it_came_in() -> None:
    driver = Watch()
    driver.hear()
    driver.note(driver.watch.suspect(driver.now))  # type: ignore[arg-type]
    driver.watch.answered(ROUTER, driver.now)
    driver.watch.answered(OTHER, driver.now)
    assert driver.advance(5) == []


@requirement("RFC6275-11.5.1", "MOV-04")
def test_missing_advertisements_are_a_reason_to_ask() -> None:
    driver = Watch()
    driver.hear(interval=1.0)
    assert driver.advance(2.9) == []
    outputs = driver.advance(1.5)
    assert len(of_type(outputs, SendPacket)) == MAX_UNREACHABILITY_PROBES
    assert only(outputs, RouterUnreachable).router == ROUTER


def test_router_that_answers_but_advertises_no_more_is_not_asked_all_the_time() -> None:
    driver = Watch()
    driver.hear(interval=0.03)
    assert len(sent(driver.advance(0.15), object)) == 1
    driver.watch.packet_received(MAC, driver.now)
    assert driver.advance(10) == []


@pytest.mark.parametrize("asked", [0.001, 1.0])
def test_router_cannot_make_us_ask_without_end(asked: float) -> None:
    driver = Watch()
    driver.hear(reachable_time=asked)
    assert driver.advance(MIN_REACHABLE_TIME * 0.49) == []


def test_suspicion_asks_all_once_and_at_once() -> None:
    driver = Watch()
    driver.hear()
    driver.hear(OTHER, OTHER_MAC)
    assert len(driver.watch.suspect(driver.now)) == 2
    assert driver.watch.suspect(driver.now) == []


def test_without_a_link_local_address_nobody_is_asked_and_nobody_given_up() -> None:
    driver = Watch()
    driver.hear(interval=1.0)
    driver.own.link_local = None
    assert driver.advance(200) == []
    driver.own.link_local = LINK_LOCAL
    assert only(driver.advance(3), RouterUnreachable)


def test_router_without_a_link_layer_address_is_not_watched() -> None:
    driver = Watch()
    driver.hear(mac=b"")
    assert not driver.watch.is_watching


def test_forgotten_routers_are_watched_no_more() -> None:
    driver = Watch()
    driver.hear()
    driver.hear(OTHER, OTHER_MAC)
    driver.watch.forget(ROUTER)
    driver.watch.clear()
    assert driver.advance(200) == []
