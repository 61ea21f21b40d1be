"""What a correspondent registration does where the RFC leaves it to us."""

from __future__ import annotations

import pytest

from mnagent.core.actions import RemoveDirectPath, SetDirectPath
from mnagent.core.drops import DropReason
from mnagent.mobility.constants import MAX_RR_BINDING_LIFETIME, MAX_TOKEN_LIFETIME
from mnagent.mobility.correspondent_registration import (
    EARLY_HOME_TEST_DELAY,
    HOME_TOKEN_REFRESH_AGE,
    MAX_IMMEDIATE_RETRIES,
    MAX_ROUTE_OPTIMIZATION_RETRY_DELAY,
    CorrespondentState,
)
from mnagent.wire.icmp6 import ParameterProblem
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingUpdate, CareOfTestInit, HomeTestInit
from mnagent.wire.mobility_options import NonceIndices
from mnagent.wire.packet import encode_packet
from tests.support.driver import CARE_OF_A, CARE_OF_B, HOME_ADDRESS
from tests.support.matching import of_type, only, reports, sent
from tests.support.requirement import requirement
from tests.support.return_routability import (
    CORRESPONDENT,
    HOME_INDEX,
    CorrespondentDriver,
    acknowledgement_of,
    arrives,
    care_of,
)


def test_refresh_keeps_the_direct_path_and_the_old_binding_until_its_end() -> None:
    driver = CorrespondentDriver(is_permanent=True)
    driver.establish()
    outputs = driver.advance(MAX_RR_BINDING_LIFETIME * 0.85 + 1)
    assert sent(outputs, CareOfTestInit)
    driver.answer_care_of_test()
    driver.answer_home_test()
    assert driver.registration.remaining(driver.now) == pytest.approx(62)
    driver.acknowledge()
    assert driver.registration.remaining(driver.now) == MAX_RR_BINDING_LIFETIME
    assert driver.all(RemoveDirectPath) == []


@requirement("RFC6275-11.4.2", "MPD-06")
def test_home_address_that_ends_sooner_is_told_with_a_shorter_lifetime() -> None:
    driver = CorrespondentDriver(is_permanent=True)
    driver.establish()
    driver.advance(10)
    outputs = driver.note(driver.registration.home_registered(driver.now + 50, driver.now))
    ((_, update),) = sent(outputs, BindingUpdate)
    assert update.lifetime == 48
    driver.acknowledge()
    assert driver.registration.remaining(driver.now) == 48
    assert driver.all(RemoveDirectPath) == []


def test_refresh_without_an_answer_falls_back_to_the_tunnel() -> None:
    driver = CorrespondentDriver(is_permanent=True, keep_home_token_young=False)
    driver.establish()
    outputs = driver.advance(MAX_RR_BINDING_LIFETIME * 0.85 + 10)
    assert only(outputs, RemoveDirectPath).correspondent == CORRESPONDENT
    assert driver.registration.state is CorrespondentState.SUSPENDED


def test_binding_without_traffic_is_left_to_its_end() -> None:
    driver = CorrespondentDriver(keep_home_token_young=False)
    driver.establish()
    outputs = driver.advance(MAX_RR_BINDING_LIFETIME + 1)
    assert sent(outputs, HomeTestInit) == []
    assert of_type(outputs, RemoveDirectPath)
    assert driver.registration.state is CorrespondentState.IDLE
    assert not driver.registration.must_be_told(CARE_OF_A, driver.now)


def test_traffic_after_the_refresh_was_skipped_refreshes_now() -> None:
    driver = CorrespondentDriver(keep_home_token_young=False)
    driver.establish()
    driver.advance(380)
    assert sent(driver.note_traffic(), HomeTestInit)
    assert driver.note_traffic() == []


def test_report_without_packets_is_no_traffic() -> None:
    driver = CorrespondentDriver()
    driver.note_traffic(packets_out=0)
    assert not driver.registration.is_active(driver.now)


def test_expiry_during_a_refresh_ends_the_path_and_not_the_refresh() -> None:
    driver = CorrespondentDriver(is_permanent=True, max_failures=20)
    driver.establish()
    outputs = driver.advance(MAX_RR_BINDING_LIFETIME)
    assert of_type(outputs, RemoveDirectPath)
    assert driver.registration.state is CorrespondentState.TESTING
    driver.answer_home_test()
    driver.answer_care_of_test()
    only(driver.acknowledge(), SetDirectPath)


def test_binding_shorter_than_its_refresh_wait_ends() -> None:
    driver = CorrespondentDriver()
    driver.start()
    driver.answer_home_test()
    driver.answer_care_of_test()
    driver.now += 0.9
    driver.note_traffic()
    driver.acknowledge(lifetime=1.0 * 4)
    driver.advance(0.5)
    assert driver.registration.state is CorrespondentState.BOUND
    outputs = driver.advance(3)
    assert sent(outputs, BindingUpdate)


def test_refresh_timer_after_the_binding_ended_does_nothing() -> None:
    driver = CorrespondentDriver()
    driver.start()
    driver.answer_home_test()
    driver.answer_care_of_test()
    driver.advance(0.9)
    driver.acknowledge(lifetime=1)
    assert driver.registration.state is CorrespondentState.BOUND
    driver.note_traffic()
    outputs = driver.advance(2)
    assert sent(outputs, BindingUpdate) == [] and driver.registration.entry is not None
    assert driver.registration.state is CorrespondentState.IDLE


def test_home_token_is_renewed_ahead_of_need_only_while_there_is_traffic() -> None:
    quiet, busy = CorrespondentDriver(), CorrespondentDriver()
    for driver in (quiet, busy):
        driver.establish()
    busy.advance(HOME_TOKEN_REFRESH_AGE - 1)
    busy.note_traffic(packets_in=1)
    assert len(sent(busy.advance(1.5), HomeTestInit)) == 1
    assert sent(quiet.advance(HOME_TOKEN_REFRESH_AGE + 1), HomeTestInit) == []
    busy.answer_home_test(token=b"8 octets")
    home, _ = busy.registration.tokens(busy.now)
    assert home is not None and home.value == b"8 octets"
    assert busy.registration.state is CorrespondentState.BOUND


def test_home_token_renewal_without_an_answer_keeps_the_direct_path() -> None:
    driver = CorrespondentDriver(is_permanent=True)
    driver.establish()
    outputs = driver.advance(HOME_TOKEN_REFRESH_AGE + 30)
    assert len(sent(outputs, HomeTestInit)) == 3
    assert of_type(outputs, RemoveDirectPath) == []


def test_failures_double_the_time_in_the_tunnel_up_to_an_hour() -> None:
    driver = CorrespondentDriver()
    delays = []
    for _ in range(9):
        driver.start()
        (details,) = reports(driver.advance(10), "route-optimization-suspended")
        delays.append(float(details["seconds"]))
        driver.note(driver.registration.leave())
    assert delays[:3] == [60, 120, 240] and delays[-1] == MAX_ROUTE_OPTIMIZATION_RETRY_DELAY
    driver.establish()
    driver.binding_error(2)
    driver.note(driver.registration.leave())
    driver.start(CARE_OF_B)
    (details,) = reports(driver.advance(10), "route-optimization-suspended")
    assert details["seconds"] == "60"


def test_updates_without_an_answer_fall_back_to_the_tunnel() -> None:
    driver = CorrespondentDriver()
    driver.start()
    driver.answer_home_test()
    driver.answer_care_of_test()
    outputs = driver.advance(10)
    (details,) = reports(outputs, "route-optimization-suspended")
    assert details["reason"] == "no-answer-to-updates"
    assert len(driver.updates()) == 3
    assert driver.registration.may_be_bound(driver.now)
    assert driver.registration.must_be_told(CARE_OF_A, driver.now)


@pytest.mark.parametrize(
    ("fields", "is_proof"),
    [
        ({"packets_in": 1, "packets_out": 0, "direct": True}, True),
        ({"packets_in": 1, "packets_out": 1, "direct": True}, False),
        ({"packets_in": 1, "packets_out": 0, "direct": False}, False),
        ({"packets_in": 0, "packets_out": 1, "direct": True}, False),
    ],
)
def test_only_packets_that_surely_came_directly_disprove_a_binding_error(
    fields: dict[str, int], is_proof: bool
) -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.note_traffic(**fields)
    assert (driver.binding_error(1) == []) is is_proof


def test_late_acknowledgement_of_an_update_counts_while_new_tests_run() -> None:
    driver = CorrespondentDriver()
    driver.start()
    driver.answer_home_test()
    driver.answer_care_of_test()
    packet = driver.newest_update()
    driver.now += MAX_TOKEN_LIFETIME
    outputs = driver.advance(0)
    assert sent(outputs, HomeTestInit)
    driver.tell(acknowledgement_of(packet))
    assert driver.registration.state is CorrespondentState.BOUND
    assert driver.registration.next_deadline() is not None
    assert sent(driver.advance(5), HomeTestInit) == []


def test_home_agents_answer_does_not_end_a_suspension() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.refresh_request()
    driver.acknowledge(status=129)
    assert driver.note(driver.registration.home_registered(driver.now + 500, driver.now)) == []
    assert driver.registration.direct_address is None


def test_nonces_that_stay_unknown_end_in_the_tunnel() -> None:
    driver = CorrespondentDriver()
    driver.establish(status=138, is_signed=False)
    for _ in range(MAX_IMMEDIATE_RETRIES):
        driver.advance(2)
        driver.answer_home_test()
        driver.answer_care_of_test()
        outputs = driver.acknowledge(status=138, is_signed=False)
    (details,) = reports(outputs, "route-optimization-suspended")
    assert details["reason"] == "expired-nonces"
    assert driver.registration.is_refused


def test_acknowledgement_that_grants_nothing_is_a_refusal() -> None:
    driver = CorrespondentDriver()
    (details,) = reports(driver.establish(lifetime=0), "route-optimization-suspended")
    assert details["reason"] == "no-lifetime-granted"


def test_acknowledgement_with_nothing_outstanding_is_dropped() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    assert driver.acknowledge() == []
    assert driver.registration.drops[DropReason.UNEXPECTED_MESSAGE] == 1


def test_message_of_another_kind_is_dropped() -> None:
    driver = CorrespondentDriver()
    assert driver.tell(arrives(HomeTestInit(b"8 octets"))) == []
    assert driver.registration.drops[DropReason.UNEXPECTED_MESSAGE] == 1


@pytest.mark.parametrize("invoking", [b"", b"\x60" + bytes(60)])
def test_parameter_problem_that_quotes_nothing_of_ours_is_dropped(invoking: bytes) -> None:
    driver = CorrespondentDriver()
    driver.start()
    for code in (0, 1):
        problem = ParameterProblem(code, 40, invoking)
        assert driver.registration.handle_parameter_problem(problem, driver.now) == []
    assert driver.registration.state is CorrespondentState.TESTING


def test_parameter_problem_about_another_option_says_nothing() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    invoking = encode_packet(IPv6Packet(CARE_OF_A, CORRESPONDENT, HomeTestInit(b"8 octets")))
    problem = ParameterProblem(2, 40, invoking)
    assert driver.registration.handle_parameter_problem(problem, driver.now) == []


def test_care_of_address_left_and_come_back_to_serves_at_once_when_the_home_agent_agrees() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    assert of_type(driver.note(driver.registration.leave()), RemoveDirectPath)
    assert driver.start(CARE_OF_A, is_bound=False) == []
    assert driver.registration.state is CorrespondentState.BOUND
    outputs = driver.note(driver.registration.home_registered(driver.now + 500, driver.now))
    assert only(outputs, SetDirectPath).care_of_address == CARE_OF_A
    assert sent(outputs, BindingUpdate) == []


def test_care_of_address_come_back_to_after_telling_another_is_registered_again() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.registration.leave()
    driver.start(CARE_OF_B)
    driver.answer_care_of_test()
    driver.registration.leave()
    outputs = driver.start(CARE_OF_A)
    assert of_type(outputs, SetDirectPath) == [] and sent(outputs, CareOfTestInit)


def test_home_test_through_an_early_tunnel_leaves_the_home_agent_time_to_set_it_up() -> None:
    driver = CorrespondentDriver(early_tunnel=True)
    outputs = driver.start(CARE_OF_A, is_bound=False)
    assert sent(outputs, CareOfTestInit) and sent(outputs, HomeTestInit) == []
    outputs = driver.advance(EARLY_HOME_TEST_DELAY)
    assert len(sent(outputs, HomeTestInit)) == 1
    driver.answer_home_test()
    driver.answer_care_of_test()
    assert driver.registration.state is CorrespondentState.WAITING


@pytest.mark.parametrize(("early", "is_bound"), [(True, True), (False, False)])
def test_home_test_that_finds_the_tunnel_or_waits_for_it_leaves_at_once(
    early: bool, is_bound: bool
) -> None:
    driver = CorrespondentDriver(early_tunnel=early)
    assert sent(driver.start(CARE_OF_A, is_bound=is_bound), HomeTestInit)


def test_home_token_that_is_young_needs_no_delay() -> None:
    driver = CorrespondentDriver(early_tunnel=True)
    driver.establish()
    driver.note(driver.registration.leave())
    outputs = driver.start(CARE_OF_B, is_bound=False)
    assert sent(outputs, CareOfTestInit)
    assert sent(driver.advance(EARLY_HOME_TEST_DELAY * 2), HomeTestInit) == []


def test_update_waits_for_a_home_registration_that_lasts() -> None:
    driver = CorrespondentDriver()
    where = care_of(CARE_OF_A)
    driver.note(driver.registration.start(where, driver.now, home_bound_until=driver.now + 3))
    driver.answer_home_test()
    outputs = driver.answer_care_of_test()
    assert reports(outputs, "addresses-tested") and sent(outputs, BindingUpdate) == []
    assert driver.registration.state is CorrespondentState.WAITING
    outputs = driver.note(driver.registration.home_registered(driver.now + 600, driver.now))
    assert sent(outputs, BindingUpdate)


def test_update_without_an_answer_waits_when_the_home_agent_let_go() -> None:
    driver = CorrespondentDriver()
    driver.start()
    driver.answer_home_test()
    driver.answer_care_of_test()
    driver.registration.home_lost()
    driver.advance(1.5)
    assert len(driver.updates()) == 1
    assert driver.registration.state is CorrespondentState.WAITING


def test_address_with_new_lifetimes_limits_the_next_update() -> None:
    driver = CorrespondentDriver()
    driver.start()
    driver.registration.update_care_of(care_of(CARE_OF_A, valid_until=driver.now + 40))
    driver.answer_home_test()
    driver.answer_care_of_test()
    assert driver.updates()[-1].lifetime == 40


def test_updates_over_the_rate_limit_wait_and_the_newest_counts() -> None:
    driver = CorrespondentDriver()
    driver.establish(status=135, sequence=100)
    driver.acknowledge(status=135, sequence=200)
    assert len(driver.updates()) == 3
    packet = driver.newest_update()
    driver.acknowledge(status=135, sequence=300)
    assert len(driver.updates()) == 3
    assert driver.tell(acknowledgement_of(packet)) == []
    driver.advance(1)
    assert driver.updates()[-1].sequence == 301
    only(driver.acknowledge(), SetDirectPath)


def test_deregistration_away_is_authorized_for_the_home_address() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    outputs = driver.note(driver.registration.deregister(care_of(), driver.now))
    assert of_type(outputs, RemoveDirectPath) and sent(outputs, BindingUpdate) == []
    outputs = driver.note(driver.registration.home_registered(driver.now + 99, driver.now))
    ((action, update),) = sent(outputs, BindingUpdate)
    assert action.packet.source == CARE_OF_A and update.lifetime == 0
    assert update.options[0] == NonceIndices(HOME_INDEX, 0)
    assert reports(driver.acknowledge(), "correspondent-deregistered")
    assert driver.registration.state is CorrespondentState.IDLE
    assert not driver.registration.may_be_bound(driver.now)


def test_deregistration_with_an_old_home_token_tests_it_first() -> None:
    driver = CorrespondentDriver(keep_home_token_young=False)
    driver.establish()
    driver.advance(MAX_TOKEN_LIFETIME)
    where, until = care_of(), driver.now + 99
    outputs = driver.note(driver.registration.deregister(where, driver.now, home_bound_until=until))
    assert sent(outputs, HomeTestInit) and sent(outputs, CareOfTestInit) == []
    assert driver.note(driver.registration.home_registered(until, driver.now)) == []
    assert sent(driver.answer_home_test(), BindingUpdate)


def test_deregistration_whose_nonce_is_unknown_tests_again() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.note(driver.registration.deregister(None, driver.now))
    outputs = driver.acknowledge(status=136, is_signed=False)
    assert sent(outputs, HomeTestInit)
    assert sent(driver.answer_home_test(tunnel_source=None), BindingUpdate)
    assert reports(driver.acknowledge(status=129), "correspondent-deregistered")


def test_deregistration_whose_token_grew_old_tests_again() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.note(driver.registration.deregister(None, driver.now))
    driver.now += MAX_TOKEN_LIFETIME
    assert sent(driver.advance(0), HomeTestInit)
    assert driver.registration.state is CorrespondentState.DEREGISTERING


def test_deregistration_without_an_answer_gives_up_for_a_while() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.note(driver.registration.deregister(None, driver.now))
    driver.advance(20)
    assert driver.registration.state is CorrespondentState.SUSPENDED
    assert driver.registration.may_be_bound(driver.now)


def test_goodbye_sends_one_deregistration_and_awaits_nothing() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    outputs = driver.note(driver.registration.say_goodbye(driver.now))
    assert of_type(outputs, RemoveDirectPath)
    ((action, update),) = sent(outputs, BindingUpdate)
    assert update.lifetime == 0 and action.packet.source == CARE_OF_A
    assert driver.registration.state is CorrespondentState.IDLE


@pytest.mark.parametrize("situation", ["unbound", "old-token", "no-home-agent", "at-home"])
def test_goodbye_without_what_a_deregistration_needs_is_silent(situation: str) -> None:
    driver = CorrespondentDriver(keep_home_token_young=False)
    if situation == "unbound":
        driver.start()
    else:
        driver.establish()
    if situation == "old-token":
        driver.now += MAX_TOKEN_LIFETIME
    if situation == "no-home-agent":
        driver.registration.home_lost()
    if situation == "at-home":
        driver.registration.deregister(None, driver.now)
    assert sent(driver.registration.say_goodbye(driver.now), BindingUpdate) == []


def test_leaving_an_address_does_not_forgive_a_refusal() -> None:
    driver = CorrespondentDriver()
    driver.establish(status=129)
    assert driver.note(driver.registration.leave()) == []
    assert driver.registration.is_refused
    driver.advance(61)
    assert driver.registration.state is CorrespondentState.IDLE


def test_home_address_of_the_update_is_in_its_entry() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    entry = driver.registration.entry
    assert entry is not None and not entry.home_registration
    assert (entry.destination, entry.home_address) == (CORRESPONDENT, HOME_ADDRESS)


def test_tests_under_way_to_a_peer_that_moved_start_over() -> None:
    driver = CorrespondentDriver()
    driver.start()
    driver.answer_home_test()
    driver.advance(0.2)
    outputs = driver.note(driver.registration.peer_moved(driver.now))
    assert sent(outputs, HomeTestInit) == [] and len(sent(outputs, CareOfTestInit)) == 1
    assert sent(driver.answer_care_of_test(), BindingUpdate)


def test_update_under_way_to_a_peer_that_moved_goes_again() -> None:
    driver = CorrespondentDriver()
    driver.start()
    driver.answer_home_test()
    driver.answer_care_of_test()
    driver.advance(0.2)
    assert len(sent(driver.note(driver.registration.peer_moved(driver.now)), BindingUpdate)) == 1
    only(driver.acknowledge(), SetDirectPath)


def test_peer_that_moved_with_nothing_under_way_is_left_alone() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    assert driver.registration.peer_moved(driver.now) == []
