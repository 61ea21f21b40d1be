"""RFC 6275 11.4.2 and 11.4.3: the mobile node asks for, and hears of, its home link's prefixes."""

from __future__ import annotations

from ipaddress import IPv6Address
from itertools import pairwise
from typing import Any

import pytest

from mnagent.core.drops import DropReason
from mnagent.wire.icmp6 import MobilePrefixSolicitation
from mnagent.wire.ndisc import Mtu, UnknownNdOption
from tests.support.driver import CARE_OF_A, CARE_OF_B, HOME_ADDRESS, HOME_AGENT
from tests.support.matching import sent
from tests.support.prefixes import (
    HOME_PREFIX,
    NEW_PREFIX,
    DiscoveryDriver,
    information,
)
from tests.support.requirement import requirement


@requirement("RFC6275-11.4.2", "MPD-01")
def test_solicitation_carries_home_address_option_and_random_identifier() -> None:
    driver = DiscoveryDriver()
    ((action, message),) = sent(driver.registered(), MobilePrefixSolicitation)
    packet = action.packet
    assert packet.source == CARE_OF_A
    assert packet.destination == HOME_AGENT
    assert packet.home_address_option == HOME_ADDRESS
    assert 0 < message.identifier < 1 << 16
    driver.answer(information())
    driver.registered(is_hinted=True)
    assert len(set(driver.identifiers)) == 2


@requirement("RFC6275-11.4.2", "MPD-01")
@pytest.mark.parametrize(
    ("lifetimes", "expected"),
    [
        ({"valid": 1000.0}, 900.0),
        ({"valid": 10_000.0, "preferred": 1000.0}, 900.0),
        ({"valid": 61.0}, 60.0),
    ],
)
def test_home_address_about_to_end_is_asked_about(
    lifetimes: dict[str, float], expected: float
) -> None:
    driver = DiscoveryDriver()
    driver.registered()
    driver.answer(information(**lifetimes))
    answered_at = driver.now
    driver.advance(expected + 1)
    assert driver.times_of(MobilePrefixSolicitation)[1:] == [answered_at + expected]


@requirement("RFC6275-11.7.3", "MPD-01")
def test_status_1_makes_the_node_ask() -> None:
    driver = DiscoveryDriver()
    driver.registered()
    driver.answer(information(valid=float("inf")))
    assert driver.registered() == []
    assert sent(driver.registered(is_hinted=True), MobilePrefixSolicitation)


@requirement("RFC6275-11.8", "MPD-02")
def test_unanswered_solicitation_goes_again_ever_more_slowly() -> None:
    driver = DiscoveryDriver()
    driver.registered()
    driver.advance(200)
    times = driver.times_of(MobilePrefixSolicitation)
    intervals = [late - early for early, late in pairwise(times)]
    assert intervals == [3, 6, 12, 24, 32, 32, 32, 32]


@requirement("RFC6275-11.4.3", "MPD-03")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": IPv6Address("2001:db8:1::2")}, DropReason.UNKNOWN_PEER),
        ({"home_address": None}, DropReason.NO_TYPE2_ROUTING_HEADER),
        ({"protected_by": None}, DropReason.NOT_PROTECTED),
    ],
)
def test_advertisement_that_fails_a_test_is_discarded(
    changes: dict[str, Any], reason: DropReason
) -> None:
    driver = DiscoveryDriver()
    driver.registered()
    assert driver.answer(information(NEW_PREFIX), **changes) == []
    assert driver.prefixes == {}
    assert driver.discovery.drops == {reason: 1}
    assert driver.discovery.is_asking


@requirement("RFC6275-11.4.3", "MPD-04")
def test_unsolicited_advertisement_is_discarded_and_answered_by_a_solicitation() -> None:
    driver = DiscoveryDriver()
    driver.registered()
    driver.answer(information())
    outputs = driver.hear(0, information(NEW_PREFIX))
    assert len(sent(outputs, MobilePrefixSolicitation)) == 1
    assert NEW_PREFIX not in driver.prefixes
    assert driver.discovery.drops == {DropReason.WRONG_PREFIX_IDENTIFIER: 1}


@requirement("RFC6275-11.4.3", "MPD-04")
def test_unsolicited_advertisement_while_an_answer_is_awaited_makes_no_more_noise() -> None:
    driver = DiscoveryDriver()
    driver.registered()
    assert driver.hear(0, information(NEW_PREFIX)) == []
    assert driver.prefixes == {}


@requirement("RFC6275-11.4.3", "MPD-04")
def test_second_answer_to_one_solicitation_is_unsolicited() -> None:
    driver = DiscoveryDriver()
    driver.registered()
    identifier = driver.identifiers[-1]
    driver.answer(information())
    driver.hear(identifier, information(NEW_PREFIX))
    assert list(driver.prefixes) == [HOME_PREFIX]


@requirement("RFC6275-11.4.3", "MPD-05")
def test_accepted_advertisement_sets_the_lifetimes_even_to_shorter_ones() -> None:
    driver = DiscoveryDriver()
    driver.registered()
    driver.answer(information(valid=86400.0), information(NEW_PREFIX, valid=40.0))
    assert driver.prefixes == {HOME_PREFIX: 86400.0, NEW_PREFIX: 40.0}
    driver.registered(is_hinted=True)
    driver.answer(information(valid=30.0, preferred=0.0), information(NEW_PREFIX, valid=0.0))
    assert driver.prefixes == {HOME_PREFIX: 30.0}


@requirement("RFC6275-11.4.3", "MPD-07")
def test_unknown_options_in_an_advertisement_are_ignored() -> None:
    driver = DiscoveryDriver()
    driver.registered()
    driver.answer(UnknownNdOption(200, bytes(6)), Mtu(1400), information())
    assert list(driver.prefixes) == [HOME_PREFIX]


def test_solicitation_follows_the_node_to_another_care_of_address() -> None:
    driver = DiscoveryDriver()
    driver.registered()
    ((action, _),) = sent(driver.registered(CARE_OF_B), MobilePrefixSolicitation)
    assert action.packet.source == CARE_OF_B


def test_suspended_discovery_is_silent_and_takes_no_answer() -> None:
    driver = DiscoveryDriver()
    driver.registered()
    driver.discovery.suspend()
    assert driver.advance(100) == []
    assert driver.discovery.ask(driver.now) == []
    assert driver.answer(information()) == []
    assert driver.prefixes == {}


def test_prefix_about_to_end_is_asked_about_once_there_is_a_way() -> None:
    driver = DiscoveryDriver()
    driver.registered()
    driver.answer(information(valid=1000.0))
    driver.discovery.suspend()
    assert driver.advance(950) == []
    driver.registered(is_hinted=True)
    assert len(driver.identifiers) == 2


def test_question_that_is_open_is_not_asked_twice() -> None:
    driver = DiscoveryDriver()
    driver.registered()
    driver.answer(information(valid=100.0))
    driver.advance(85)
    driver.registered(is_hinted=True)
    assert len(driver.advance(6)) == 1  # the retransmission alone
