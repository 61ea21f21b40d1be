from __future__ import annotations

import math

import pytest

from mnagent.core.actions import PersistRecord
from mnagent.core.drops import DropReason
from mnagent.core.indications import BindingDeleted
from mnagent.mobility.binding_status import name_of, sentence_of
from mnagent.mobility.home_registration import (
    _TRANSITIONS,
    CareOf,
    HomePath,
    RegistrationState,
)
from mnagent.wire.icmp6 import EchoRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingUpdate
from tests.support.driver import CARE_OF_A, CARE_OF_B, HOME_AGENT, INTERFACE, RegistrationDriver
from tests.support.matching import of_type, only, reports
from tests.support.packets import received
from tests.support.requirement import requirement

HOME_PATH = HomePath(interface=INTERFACE)


def test_every_state_has_a_row_and_every_target_is_a_state() -> None:
    assert set(_TRANSITIONS) == set(RegistrationState)
    for row in _TRANSITIONS.values():
        assert set(row.values()) <= set(RegistrationState)


def test_suspended_registration_is_silent_and_goes_on_where_the_binding_still_lives() -> None:
    driver = RegistrationDriver(lifetime=600)
    driver.establish()
    driver.registration.suspend()
    driver.advance(550)
    assert len(driver.updates()) == 1
    driver.register(CARE_OF_A)
    assert driver.registration.state is RegistrationState.REFRESHING
    driver.registration.suspend()
    driver.register(CARE_OF_A)
    assert driver.registration.is_bound_to(CARE_OF_A, driver.now)
    driver.acknowledge()
    assert driver.registration.state is RegistrationState.REGISTERED


def test_binding_that_ends_while_suspended_leaves_nothing() -> None:
    driver = RegistrationDriver(lifetime=100)
    driver.establish()
    driver.registration.suspend()
    driver.advance(130)
    assert driver.registration.state is RegistrationState.UNREGISTERED
    assert driver.registration.bound_address is None
    assert not driver.registration.may_be_bound(driver.now)
    assert driver.all(PersistRecord)[-1].value == "0"


def test_acknowledged_address_is_not_trusted_after_a_later_update_for_another() -> None:
    driver = RegistrationDriver()
    driver.establish(CARE_OF_A)
    driver.register(CARE_OF_B)
    assert not driver.registration.is_bound_to(CARE_OF_A, driver.now)
    driver.register(CARE_OF_A)
    assert driver.registration.state is RegistrationState.REGISTERING


def test_deregistration_without_any_possible_binding_is_done_at_once() -> None:
    driver = RegistrationDriver()
    for outputs in (
        driver.registration.deregister(driver.now),
        driver.registration.deregister_at_home(HOME_PATH, driver.now),
    ):
        assert only(outputs, BindingDeleted).answered is False
    driver.establish()
    driver.registration.suspend()
    assert only(driver.registration.deregister(driver.now), BindingDeleted)


def test_bounded_deregistration_gives_up_after_its_tries() -> None:
    driver = RegistrationDriver()
    driver.establish()
    driver.note(driver.registration.deregister(driver.now, tries=2))
    outputs = driver.advance(10)
    assert [update.lifetime for update in driver.updates()] == [600, 0, 0]
    assert only(outputs, BindingDeleted).answered is False


def test_refused_bounded_deregistration_ends_without_another_try() -> None:
    driver = RegistrationDriver()
    driver.establish()
    driver.note(driver.registration.deregister(driver.now, tries=2))
    outputs = driver.acknowledge(status=129)
    assert reports(outputs, "binding-rejected") and of_type(outputs, BindingDeleted)


@pytest.mark.parametrize("record", [None, "0", "-5", "inf", "nan", "soon"])
def test_record_of_no_binding_means_none(record: str | None) -> None:
    driver = RegistrationDriver(persisted_binding=record)
    assert not driver.registration.may_be_bound(driver.now)


def test_record_of_a_binding_counts_from_the_start() -> None:
    driver = RegistrationDriver(persisted_binding="600")
    assert driver.registration.may_be_bound(driver.now)
    driver.note(driver.registration.deregister_at_home(HOME_PATH, driver.now))
    assert driver.updates()[-1].lifetime == 0
    outputs = driver.advance(700)
    assert of_type(outputs, BindingDeleted)


def test_update_over_a_restored_record_outlives_it() -> None:
    driver = RegistrationDriver(persisted_binding="600", lifetime=600)
    driver.register()
    driver.advance(300)
    driver.acknowledge()
    assert driver.registration.may_be_bound(driver.now + 590)


def test_message_that_is_no_answer_is_dropped() -> None:
    driver = RegistrationDriver()
    driver.establish()
    packet = IPv6Packet(HOME_AGENT, CARE_OF_A, EchoRequest(1, 1))
    assert driver.registration.handle(received(packet), driver.now) == []
    assert driver.registration.drops[DropReason.UNEXPECTED_MESSAGE] == 1


def test_expiry_of_an_old_binding_does_not_disturb_a_refused_node() -> None:
    driver = RegistrationDriver(lifetime=100)
    driver.establish(CARE_OF_A)
    driver.register(CARE_OF_B)
    driver.acknowledge(status=130)
    driver.advance(3)
    state = driver.registration.state
    assert state is RegistrationState.REFUSED
    driver.now += 98
    driver.note(driver.registration.handle_timer(driver.now))
    assert reports([o for _, o in driver.log], "binding-expired")


def test_remaining_lifetime_without_a_binding_is_zero() -> None:
    driver = RegistrationDriver(home_address_valid_until=math.inf)
    assert driver.registration.remaining(driver.now) == 0
    driver.register()
    assert driver.registration.remaining(driver.now) == 0
    assert driver.times_of(BindingUpdate) == [driver.now]


@pytest.mark.parametrize(
    ("status", "name", "sentence"),
    [
        (0, "binding-update-accepted", "The binding was accepted."),
        (7, "7", "has no known meaning."),
        (133, "not-home-agent-for-this-mobile-node", "Trying again later."),
        (134, "duplicate-address-detection-failed", "choose another"),
        (199, "199", "Trying again later."),
    ],
)
def test_every_status_has_a_name_and_a_sentence(status: int, name: str, sentence: str) -> None:
    assert name_of(status) == name
    assert sentence in sentence_of(status)


def test_duplicate_home_address_refuses_every_further_registration() -> None:
    driver = RegistrationDriver()
    driver.register()
    driver.acknowledge(status=134)
    assert driver.register(CARE_OF_B) == []
    assert driver.registration.state is RegistrationState.ADDRESS_DUPLICATE


def test_timer_that_comes_hours_late_registers_anew() -> None:
    driver = RegistrationDriver(lifetime=100)
    driver.establish()
    driver.now += 7200
    driver.note(driver.registration.handle_timer(driver.now))
    assert driver.registration.state is RegistrationState.REGISTERING
    assert driver.registration.may_be_bound(driver.now)
    driver.acknowledge()
    assert driver.registration.state is RegistrationState.REGISTERED


def test_deregistration_that_slept_past_the_end_of_the_binding_is_over() -> None:
    driver = RegistrationDriver(lifetime=100)
    driver.establish()
    driver.note(driver.registration.deregister_at_home(HOME_PATH, driver.now))
    driver.advance(99)
    driver.now += 50  # the end of the binding is due, and behind it the next try
    outputs = driver.note(driver.registration.handle_timer(driver.now))
    assert only(outputs, BindingDeleted).answered is False
    assert driver.registration.state is RegistrationState.UNREGISTERED
    assert driver.registration.next_deadline() is None


def test_deregistration_given_up_in_the_instant_of_a_try_is_over() -> None:
    driver = RegistrationDriver(lifetime=8)
    driver.establish()
    driver.advance(1)
    driver.note(driver.registration.deregister_at_home(HOME_PATH, driver.now))
    assert driver.advance(60)
    assert len(driver.all(BindingDeleted)) == 1
    assert driver.registration.next_deadline() is None


@requirement("RFC6275-11.8", "MN-07")
def test_release_asked_for_again_from_the_same_address_keeps_its_back_off() -> None:
    driver = RegistrationDriver(lifetime=600)
    driver.establish()
    driver.registration.suspend()
    for _ in range(20):
        care_of = CareOf(address=CARE_OF_B, interface=INTERFACE, valid_until=driver.now + 3600)
        driver.note(driver.registration.release(care_of, driver.now))
        driver.advance(5)
    released = len(driver.updates()) - 1
    assert released == 8, "at 0, 1, 3, 7, 15, 31, 63 and 95 s"
    driver.registration.release(CareOf(address=CARE_OF_A, interface=INTERFACE), driver.now)
    driver.advance(1)
    assert driver.registration.entry is not None
    assert driver.registration.entry.care_of_address == CARE_OF_A
