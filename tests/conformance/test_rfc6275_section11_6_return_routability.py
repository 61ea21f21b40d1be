"""The return routability procedure at the mobile node (RFC 6275 11.6, 11.8, 5.2.7 and 5.2.9)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from mnagent.core.actions import ReportEvent, SetDirectPath
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.mobility.constants import MAX_TOKEN_LIFETIME
from mnagent.mobility.correspondent_registration import CorrespondentState
from mnagent.mobility.route_optimization import RouteOptimizationPolicy
from mnagent.wire.ipv6 import DestinationOptions, HomeAddressOption
from mnagent.wire.mobility import BindingUpdate, CareOfTestInit, HomeTestInit
from mnagent.wire.mobility_options import BindingAuthorizationData, NonceIndices
from tests.support.correspondent import reference_key
from tests.support.driver import (
    CARE_OF_A,
    CARE_OF_B,
    HOME_ADDRESS,
    HOME_AGENT,
    INTERFACE,
    MobileNodeDriver,
)
from tests.support.matching import of_type, reports, sent
from tests.support.requirement import requirement
from tests.support.return_routability import (
    CARE_OF_INDEX,
    CARE_OF_TOKEN,
    CORRESPONDENT,
    HOME_INDEX,
    HOME_TOKEN,
    CorrespondentDriver,
    care_of_test,
    cookie_of,
    expected_authenticator,
    home_test,
    traffic,
)


def registered_mobile_node() -> MobileNodeDriver:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.visit(CARE_OF_A)
    driver.acknowledge()
    return driver


@requirement("RFC6275-11.6.1", "RR-01", "RR-12", "FMT-29")
def test_both_tests_start_in_parallel_with_random_cookies_and_no_mobility_headers() -> None:
    outputs = registered_mobile_node().tell(traffic())
    ((home, home_init),) = sent(outputs, HomeTestInit)
    ((away, care_of_init),) = sent(outputs, CareOfTestInit)
    assert home.packet.source == HOME_ADDRESS and home.interface is None
    assert away.packet.source == CARE_OF_A and away.interface == INTERFACE
    assert home.packet.destination == away.packet.destination == CORRESPONDENT
    assert home.packet.extension_headers == away.packet.extension_headers == ()
    assert len(home_init.cookie) == len(care_of_init.cookie) == 8
    assert home_init.cookie != care_of_init.cookie


@requirement("RFC6275-6.1", "RR-12", "RR-11")
def test_tests_to_a_peer_with_a_binding_use_no_home_address_option_or_routing_header() -> None:
    driver = CorrespondentDriver(is_permanent=True)
    driver.establish()
    outputs = driver.advance(400)
    inits = sent(outputs, HomeTestInit) + sent(outputs, CareOfTestInit)
    assert inits
    for action, _ in inits:
        assert action.packet.extension_headers == ()
        assert action.packet.destination == CORRESPONDENT


@requirement("RFC6275-11.8", "RR-03")
def test_retransmitted_inits_have_new_cookies_and_back_off_from_one_second() -> None:
    driver = CorrespondentDriver(max_failures=8)
    driver.start()
    driver.advance(130)
    outputs = [output for _, output in driver.log]
    for kind in (HomeTestInit, CareOfTestInit):
        cookies = [message.cookie for _, message in sent(outputs, kind)]
        assert len(set(cookies)) == len(cookies) == 8
        gaps = [later - earlier for earlier, later in pairwise(driver.times_of(kind))]
        assert gaps == [1, 2, 4, 8, 16, 32, 32]


def refused_home_tests(cookie: bytes) -> dict[str, tuple[PacketReceived, DropReason]]:
    good = home_test(cookie)
    return {
        "source": (home_test(cookie, source=HOME_AGENT), DropReason.UNKNOWN_PEER),
        "destination": (home_test(cookie, destination=CARE_OF_A), DropReason.UNKNOWN_PEER),
        "direct": (replace(good, tunnel_source=None), DropReason.NOT_THROUGH_TUNNEL),
        "tunnel": (replace(good, tunnel_source=CARE_OF_B), DropReason.NOT_THROUGH_TUNNEL),
        "cookie": (home_test(b"8 octets"), DropReason.WRONG_COOKIE),
    }


@requirement("RFC6275-11.6.2", "RR-04")
@pytest.mark.parametrize("fault", ["source", "destination", "direct", "tunnel", "cookie"])
def test_home_test_with_a_fault_is_silently_ignored(fault: str) -> None:
    driver = CorrespondentDriver()
    cookie = cookie_of(driver.start(), HomeTestInit)
    event, reason = refused_home_tests(cookie)[fault]
    assert driver.tell(event) == []
    assert driver.registration.drops[reason] == 1
    assert driver.registration.tokens(driver.now) == (None, None)
    driver.answer_home_test()
    assert driver.registration.tokens(driver.now)[0] is not None


@requirement("RFC6275-11.6.2", "RR-04", "RR-05")
def test_test_messages_of_an_unknown_source_are_silently_ignored() -> None:
    driver = registered_mobile_node()
    assert driver.tell(home_test(b"8 octets")) == []
    assert driver.tell(care_of_test(b"8 octets")) == []
    assert driver.node.route_optimization.drops[DropReason.UNKNOWN_PEER] == 2


@requirement("RFC6275-11.6.2", "RR-04", "RR-05")
def test_test_messages_for_a_token_already_held_are_silently_ignored() -> None:
    driver = CorrespondentDriver()
    outputs = driver.start()
    driver.answer_home_test()
    again = home_test(cookie_of(outputs, HomeTestInit), token=b"8 octets")
    assert driver.tell(again) == []
    home, _ = driver.registration.tokens(driver.now)
    assert home is not None and home.value == HOME_TOKEN
    driver.answer_care_of_test()
    again = care_of_test(cookie_of(outputs, CareOfTestInit), token=b"8 octets")
    assert driver.tell(again) == []
    _, token = driver.registration.tokens(driver.now)
    assert token is not None and token.value == CARE_OF_TOKEN
    assert driver.registration.drops[DropReason.TOKEN_ALREADY_HELD] == 2


@requirement("RFC6275-11.6.2", "RR-05")
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"source": HOME_AGENT}, DropReason.UNKNOWN_PEER),
        ({"destination": CARE_OF_B}, DropReason.WRONG_CARE_OF_ADDRESS),
        ({"destination": HOME_ADDRESS}, DropReason.WRONG_CARE_OF_ADDRESS),
    ],
)
def test_care_of_test_with_a_wrong_address_is_silently_ignored(
    fields: dict[str, object], reason: DropReason
) -> None:
    driver = CorrespondentDriver()
    cookie = cookie_of(driver.start(), CareOfTestInit)
    assert driver.tell(care_of_test(cookie, **fields)) == []  # type: ignore[arg-type]
    assert driver.registration.drops[reason] == 1
    assert driver.registration.tokens(driver.now)[1] is None


@requirement("RFC6275-11.6.2", "RR-05")
def test_care_of_test_with_a_wrong_cookie_is_silently_ignored() -> None:
    driver = CorrespondentDriver()
    driver.start()
    assert driver.tell(care_of_test(b"8 octets")) == []
    assert driver.registration.drops[DropReason.WRONG_COOKIE] == 1


@requirement("RFC6275-11.6.2", "RR-06", "FMT-29")
def test_both_tokens_held_send_an_authorized_binding_update() -> None:
    driver = CorrespondentDriver()
    driver.start()
    assert driver.answer_care_of_test() == []
    ((action, update),) = sent(driver.answer_home_test(), BindingUpdate)
    packet = action.packet
    assert packet.source == CARE_OF_A and packet.destination == CORRESPONDENT
    assert packet.extension_headers == (DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),)
    assert update.acknowledge and not update.home_registration
    indices, authorization = update.options
    assert indices == NonceIndices(HOME_INDEX, CARE_OF_INDEX)
    key = reference_key(HOME_TOKEN, CARE_OF_TOKEN)
    assert authorization == BindingAuthorizationData(expected_authenticator(packet, key, CARE_OF_A))


@requirement("RFC6275-5.2.7", "RR-07")
def test_second_handover_reuses_the_home_token_and_tests_the_new_address_at_once() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.advance(100)
    driver.note(driver.registration.leave())
    outputs = driver.start(CARE_OF_B)
    assert sent(outputs, HomeTestInit) == []
    ((action, _),) = sent(outputs, CareOfTestInit)
    assert action.packet.source == CARE_OF_B
    assert driver.registration.tokens(driver.now)[1] is None
    ((action, update),) = sent(driver.answer_care_of_test(), BindingUpdate)
    assert action.packet.source == CARE_OF_B
    assert update.options[0] == NonceIndices(HOME_INDEX, CARE_OF_INDEX)


@requirement("RFC6275-5.2.7", "RR-07")
def test_handovers_in_a_row_are_delayed_by_nothing_of_the_address_left() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.advance(60)
    # Deep in the back-off of an address that never answered.
    driver.note(driver.registration.leave())
    stale = cookie_of(driver.start(CARE_OF_B), CareOfTestInit)
    driver.advance(2.5)
    driver.note(driver.registration.leave())
    newest = CARE_OF_B + 1
    assert len(sent(driver.start(newest), CareOfTestInit)) == 1
    # An answer to the address left, sent again to the new one, is not taken.
    assert driver.tell(care_of_test(stale, CARE_OF_B)) == []
    assert driver.tell(care_of_test(stale, newest)) == []
    assert driver.registration.tokens(driver.now)[1] is None
    # And the back-off starts anew.
    assert len(sent(driver.advance(1.0), CareOfTestInit)) == 1
    assert sent(driver.answer_care_of_test(), BindingUpdate)


@requirement("RFC6275-5.2.7", "RR-08")
@pytest.mark.parametrize(("age", "inits"), [(MAX_TOKEN_LIFETIME - 1, 0), (MAX_TOKEN_LIFETIME, 1)])
def test_home_token_is_used_for_210_seconds_and_no_longer(age: float, inits: int) -> None:
    driver = CorrespondentDriver(keep_home_token_young=False)
    driver.establish()
    driver.advance(age)
    driver.note(driver.registration.leave())
    assert len(sent(driver.start(CARE_OF_B), HomeTestInit)) == inits


@requirement("RFC6275-5.2.7", "RR-08")
def test_update_waiting_for_the_home_agent_does_not_use_a_token_that_grew_old() -> None:
    driver = CorrespondentDriver()
    driver.start(is_bound=False)
    driver.answer_home_test()
    driver.answer_care_of_test()
    driver.advance(MAX_TOKEN_LIFETIME)
    outputs = driver.note(driver.registration.home_registered(driver.now + 500, driver.now))
    assert sent(outputs, BindingUpdate) == []
    assert sent(outputs, HomeTestInit) and sent(outputs, CareOfTestInit)


@requirement("RFC6275-5.2.9", "RR-09")
@pytest.mark.parametrize("answers_home_test", [True, False])
def test_tests_that_fail_three_times_fall_back_to_the_tunnel(answers_home_test: bool) -> None:
    driver = CorrespondentDriver()
    driver.start()
    if answers_home_test:
        driver.answer_home_test()
    outputs = driver.advance(10)
    assert len(driver.times_of(CareOfTestInit)) == 3
    assert driver.registration.state is CorrespondentState.SUSPENDED
    (details,) = reports(outputs, "route-optimization-suspended")
    assert details["reason"] == "no-answer-to-tests" and details["seconds"] == "60"
    assert of_type([output for _, output in driver.log], SetDirectPath) == []


@requirement("RFC6275-8.5", "MN-55")
def test_route_optimization_is_on_by_default() -> None:
    default = RouteOptimizationPolicy()
    assert default.default.value == "on-traffic"
    outputs = registered_mobile_node().tell(traffic())
    assert sent(outputs, HomeTestInit)
    assert of_type(outputs, ReportEvent) == []
