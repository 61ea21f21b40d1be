from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from mnagent.autoconf.constants import PROBE_LIFETIME
from mnagent.autoconf.dna import DAMPING_TIME, MAX_PROBED_EVENTS, SimpleDna
from mnagent.autoconf.link_memory import KnownAddress, KnownRouter, LinkMemory
from mnagent.autoconf.own_address import OwnAddress
from mnagent.core.actions import SendPacket
from mnagent.wire.icmp6 import EchoRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import (
    NdOption,
    NeighborAdvertisement,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
    UnknownNdOption,
)
from tests.support.driver import Driver
from tests.support.packets import received
from tests.support.requirement import requirement

ROUTER, LINK_LOCAL = IPv6Address("fe80::1"), IPv6Address("fe80::10")
ROUTER_MAC, OTHER_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
OWN_MAC = bytes.fromhex("020000000010")
PREFIX = IPv6Network("2001:db8:a::/64")


class Dna(Driver):
    def __init__(self, *, link_local: IPv6Address | None = LINK_LOCAL) -> None:
        address = KnownAddress(address=PREFIX[16], valid_until=5000.0, preferred_until=5000.0)
        self.known = KnownRouter(
            router=ROUTER,
            link_layer_address=ROUTER_MAC,
            expires_at=5000.0,
            prefixes=((PREFIX, 5000.0),),
            addresses=(address,),
        )
        self.own = OwnAddress(2, OWN_MAC, link_local)
        self.memory = LinkMemory([self.known])
        self.dna = SimpleDna(self.own, self.memory)
        super().__init__(self.dna)

    def answer(
        self,
        *,
        told: bytes | None = ROUTER_MAC,
        frame: bytes = ROUTER_MAC,
        destination: IPv6Address = LINK_LOCAL,
        target: IPv6Address = ROUTER,
        **fields: Any,
    ) -> KnownRouter | None:
        options: tuple[NdOption, ...] = (UnknownNdOption(250, bytes(6)),)
        options += () if told is None else (TargetLinkLayerAddress(told),)
        flags = {"router": True, "solicited": True, **fields}
        message = NeighborAdvertisement(target, options=options, **flags)
        packet = IPv6Packet(target, destination, message, hop_limit=255)
        return self.dna.handle(received(packet, link_layer_source=frame), self.now)


@requirement("RFC6059-5.6.1", "MOV-18")
def test_probe_is_what_the_rfc_says() -> None:
    driver = Dna()
    (probe,) = driver.dna.link_came_up(driver.now)
    assert (probe.packet.source, probe.packet.destination) == (LINK_LOCAL, ROUTER)
    assert probe.packet.hop_limit == 255 and probe.link_layer_destination == ROUTER_MAC
    assert probe.packet.payload.target == ROUTER  # type: ignore[union-attr]
    assert probe.packet.payload.options == (SourceLinkLayerAddress(OWN_MAC),)  # type: ignore[union-attr]


def test_probe_of_a_node_without_a_link_layer_address_tells_none() -> None:
    driver = Dna()
    driver.own.link_layer_address = b""
    (probe,) = driver.dna.link_came_up(driver.now)
    assert probe.packet.payload.options == ()  # type: ignore[union-attr]


@requirement("RFC6059-5.7.1", "MOV-19")
@pytest.mark.parametrize("told", [ROUTER_MAC, None])
def test_answer_with_the_right_addresses_confirms_the_router_once(told: bytes | None) -> None:
    driver = Dna()
    driver.dna.link_came_up(driver.now)
    assert driver.answer(told=told) == driver.known
    assert driver.answer(told=told) is None
    assert driver.advance(1) == []


@requirement("RFC6059-5.7.1", "MOV-19")
@pytest.mark.parametrize(
    "fields",
    [
        {"told": OTHER_MAC},
        {"told": None, "frame": OTHER_MAC},
        {"target": IPv6Address("fe80::2")},
        {"router": False},
        {"solicited": False},
        {"destination": IPv6Address("ff02::1")},
    ],
)
def test_answer_that_is_not_quite_right_confirms_nothing(fields: dict[str, Any]) -> None:
    driver = Dna()
    driver.dna.link_came_up(driver.now)
    assert driver.answer(**fields) is None
    assert driver.answer() == driver.known


def test_answer_without_a_question_or_too_late_counts_for_nothing() -> None:
    driver = Dna()
    assert driver.answer() is None
    driver.dna.link_came_up(driver.now)
    echo = IPv6Packet(ROUTER, LINK_LOCAL, EchoRequest(1, 1))
    assert driver.dna.handle(received(echo), driver.now) is None
    driver.advance(PROBE_LIFETIME)
    assert driver.answer() is None


@requirement("RFC6059-5.7.3.1", "MOV-20")
def test_answer_after_the_routers_own_advertisement_is_ignored_and_nobody_asked_again() -> None:
    driver = Dna()
    driver.dna.link_came_up(driver.now)
    driver.dna.advertised(driver.known)
    assert driver.answer() is None
    assert driver.advance(1) == []


@requirement("RFC6059-5.11", "MOV-18")
def test_lost_probe_goes_again_twice() -> None:
    driver = Dna()
    driver.dna.link_came_up(driver.now)
    assert driver.dna.handle_timer(driver.now) == []
    assert len(driver.advance(1)) == 2
    assert [round(at - 1000, 3) for at, _ in driver.log] == [0.005, 0.04]


def test_probe_waits_for_the_link_local_address() -> None:
    driver = Dna(link_local=None)
    assert driver.dna.link_came_up(driver.now) == []
    assert driver.dna.link_local_appeared(driver.now) == []
    driver.own.link_local = LINK_LOCAL
    assert len(driver.dna.link_local_appeared(driver.now)) == 1
    assert driver.dna.link_local_appeared(driver.now) == [], "the timer goes on"
    assert len(driver.advance(1)) == 2


def test_link_local_address_that_comes_too_late_starts_nothing() -> None:
    driver = Dna(link_local=None)
    driver.dna.link_came_up(driver.now)
    driver.own.link_local = LINK_LOCAL
    driver.advance(PROBE_LIFETIME)
    assert driver.dna.link_local_appeared(driver.now) == []


def test_unknown_links_ask_nobody() -> None:
    driver = Dna()
    dna = SimpleDna(driver.own, LinkMemory())
    assert dna.link_came_up(driver.now) == [] and dna.next_deadline() is None


@requirement("RFC6059-5.11", "MOV-18")
def test_flapping_link_is_damped() -> None:
    driver = Dna()
    asked: list[SendPacket] = []
    for _ in range(MAX_PROBED_EVENTS + 3):
        asked += driver.dna.link_came_up(driver.now)
        driver.now += 0.01
    assert len(asked) == MAX_PROBED_EVENTS
    driver.now += DAMPING_TIME
    assert len(driver.dna.link_came_up(driver.now)) == 1
