"""Receiving Binding Acknowledgements and Binding Errors (RFC 6275 11.7.3, 11.3.5, 11.3.6)."""

from __future__ import annotations

from ipaddress import IPv6Address
from itertools import pairwise

import pytest

from mnagent.core.actions import HoldTunnel, RemoveTunnel, SetTunnel
from mnagent.core.drops import DropReason
from mnagent.core.indications import BindingAccepted, BindingRejected
from mnagent.mobility import constants
from mnagent.mobility.home_registration import RegistrationState
from mnagent.wire.icmp6 import ParameterProblem
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingError, BindingRefreshRequest, BindingUpdate
from mnagent.wire.mobility_options import BindingRefreshAdvice
from mnagent.wire.packet import encode_packet
from tests.support.driver import (
    CARE_OF_A,
    CARE_OF_B,
    HOME_ADDRESS,
    HOME_AGENT,
    MobileNodeDriver,
    RegistrationDriver,
)
from tests.support.matching import of_type, only, reports, sent
from tests.support.packets import binding_acknowledgement, received
from tests.support.requirement import requirement

STRANGER = IPv6Address("2001:db8:f::1")


@requirement("RFC6275-11.7.3", "MN-13")
def test_acknowledgement_stops_retransmission_and_opens_the_tunnel() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.visit()
    outputs = driver.acknowledge()
    assert only(outputs, SetTunnel).local == CARE_OF_A
    entry = driver.node.registration.entry
    assert entry is not None and entry.acknowledged
    driver.advance(100)
    assert len(driver.updates()) == 1


@requirement("RFC6275-11.7.3", "MN-14")
def test_shorter_granted_lifetime_is_counted_from_when_the_update_left() -> None:
    driver = RegistrationDriver(lifetime=600)
    driver.register()
    driver.now += 1.0
    driver.acknowledge(lifetime=60)
    assert driver.registration.remaining(driver.now) == pytest.approx(59)


@requirement("RFC6275-11.7.3", "MN-14")
def test_longer_granted_lifetime_than_asked_for_is_not_believed() -> None:
    driver = RegistrationDriver(lifetime=60)
    driver.establish(lifetime=6000)
    assert driver.registration.remaining(driver.now) == pytest.approx(60)


@requirement("RFC6275-11.7.3", "MN-15")
def test_binding_is_refreshed_well_before_its_end() -> None:
    driver = RegistrationDriver(lifetime=100)
    driver.establish()
    driver.advance(79.9)
    assert len(driver.updates()) == 1
    driver.advance(15)
    assert len(driver.updates()) > 1
    assert driver.registration.state is RegistrationState.REFRESHING
    driver.acknowledge()
    assert driver.registration.state is RegistrationState.REGISTERED


@requirement("RFC6275-11.7.3", "MN-16")
def test_refresh_advice_of_the_home_agent_is_followed() -> None:
    driver = RegistrationDriver(lifetime=600)
    driver.establish(options=(BindingRefreshAdvice(100),))
    driver.advance(99.9)
    assert len(driver.updates()) == 1
    driver.advance(0.2)
    assert len(driver.updates()) == 2


@requirement("RFC6275-11.7.3", "MN-16")
@pytest.mark.parametrize("interval", [0, 599])
def test_refresh_advice_that_makes_no_sense_changes_nothing(interval: int) -> None:
    driver = RegistrationDriver(lifetime=600)
    driver.establish(options=(BindingRefreshAdvice(interval),))
    driver.advance(600 * constants.REFRESH_FRACTION - 0.1)
    assert len(driver.updates()) == 1
    driver.advance(0.2)
    assert len(driver.updates()) == 2


@requirement("RFC6275-11.7.3", "MN-17")
def test_acknowledgement_with_a_wrong_sequence_number_is_ignored() -> None:
    driver = RegistrationDriver()
    driver.register()
    sequence = driver.updates()[0].sequence
    assert driver.acknowledge(sequence=(sequence + 1) % 2**16) == []
    assert driver.registration.drops[DropReason.SEQUENCE_MISMATCH] == 1
    driver.advance(1.5)
    assert len(driver.updates()) == 2


@requirement("RFC6275-11.7.3", "MN-19")
def test_acknowledgement_from_a_stranger_is_ignored() -> None:
    driver = RegistrationDriver()
    driver.register()
    sequence = driver.updates()[0].sequence
    packet = binding_acknowledgement(
        STRANGER, HOME_ADDRESS, care_of_address=CARE_OF_A, sequence=sequence
    )
    assert driver.registration.handle(received(packet), driver.now) == []
    assert driver.registration.drops[DropReason.UNKNOWN_PEER] == 1


@requirement("RFC6275-11.7.3", "MN-19")
def test_acknowledgement_without_any_update_sent_is_ignored() -> None:
    driver = RegistrationDriver()
    packet = binding_acknowledgement(
        HOME_AGENT, HOME_ADDRESS, care_of_address=CARE_OF_A, sequence=1
    )
    assert driver.registration.handle(received(packet), driver.now) == []
    assert driver.registration.drops[DropReason.UNKNOWN_PEER] == 1


@requirement("RFC6275-11.7.3", "MN-19")
def test_acknowledgement_for_another_home_address_is_ignored() -> None:
    driver = RegistrationDriver()
    driver.register()
    packet = binding_acknowledgement(
        HOME_AGENT,
        HOME_ADDRESS + 1,
        care_of_address=CARE_OF_A,
        sequence=driver.updates()[0].sequence,
    )
    assert driver.registration.handle(received(packet), driver.now) == []
    assert driver.registration.bound_address is None


@requirement("RFC6275-11.7.3", "MN-20")
def test_sequence_out_of_window_resumes_after_the_home_agents_number() -> None:
    driver = RegistrationDriver()
    driver.register()
    driver.acknowledge(status=135, sequence=4711)
    assert driver.updates()[-1].sequence == 4712
    driver.acknowledge()
    assert driver.registration.bound_address == CARE_OF_A


@requirement("RFC6275-11.7.3", "MN-20")
def test_endless_sequence_out_of_window_is_paced_by_the_back_off() -> None:
    driver = RegistrationDriver()
    driver.register()
    for _ in range(200):
        driver.acknowledge(status=135, sequence=4711)
        driver.advance(0.5)
    assert len(driver.updates()) < 15


@requirement("RFC6275-11.7.3", "MN-20")
def test_sequence_out_of_window_without_an_outstanding_update_is_ignored() -> None:
    driver = RegistrationDriver()
    driver.establish()
    assert driver.acknowledge(status=135, sequence=4711) == []
    assert driver.registration.drops[DropReason.UNEXPECTED_MESSAGE] == 1


@requirement("RFC6275-11.7.3", "MN-23")
def test_duplicate_home_address_is_reported_and_never_registered_again() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.visit(CARE_OF_A)
    outputs = driver.acknowledge(status=134)
    assert only(outputs, RemoveTunnel).home_address == HOME_ADDRESS
    assert reports(outputs, "duplicate-address") == [{"address": str(HOME_ADDRESS)}]
    assert driver.node.state == "home-address-duplicate"
    driver.visit(CARE_OF_B)
    driver.come_home()
    driver.advance(4000)
    assert len(driver.updates()) == 1
    assert not driver.all(SetTunnel)


@requirement("RFC6275-11.7.3", "MN-24")
@pytest.mark.parametrize("status", [128, 129, 130, 131, 132, 133, 139, 174, 200])
def test_refusal_is_reported_with_a_sentence_and_retried_ever_more_slowly(status: int) -> None:
    driver = RegistrationDriver()
    driver.register()
    (report,) = reports(driver.acknowledge(status=status), "binding-rejected")
    assert report["status"] == str(status) and report["sentence"].endswith(".")
    for _ in range(20):
        while driver.registration.state is RegistrationState.REFUSED:
            driver.advance(1)
        driver.acknowledge(status=status)
    times = driver.times_of(BindingUpdate)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[0] >= 8 and gaps[-1] == pytest.approx(256, abs=1)
    assert of_type([o for _, o in driver.log], BindingRejected)


@requirement("RFC6275-11.7.3", "MN-24")
def test_refused_node_that_moves_tries_at_once() -> None:
    driver = RegistrationDriver()
    driver.register(CARE_OF_A)
    driver.acknowledge(status=130)
    driver.register(CARE_OF_A)
    assert len(driver.updates()) == 1
    driver.register(CARE_OF_B)
    assert len(driver.updates()) == 2
    driver.acknowledge()
    assert driver.registration.bound_address == CARE_OF_B


@requirement("RFC6275-11.7.3", "MN-24")
def test_acceptance_for_no_time_counts_as_a_refusal() -> None:
    driver = RegistrationDriver()
    driver.register()
    outputs = driver.acknowledge(lifetime=0)
    assert reports(outputs, "binding-rejected") and not of_type(outputs, BindingAccepted)
    assert driver.registration.state is RegistrationState.REFUSED


@requirement("RFC6275-11.7.3", "MN-24")
def test_refused_refresh_leaves_the_tunnel_until_the_binding_ends() -> None:
    driver = MobileNodeDriver(lifetime=100)
    driver.link_up()
    driver.visit()
    driver.acknowledge()
    driver.advance(86)
    outputs = driver.acknowledge(status=130)
    assert not of_type(outputs, HoldTunnel)
    assert driver.node.tunnel_address == CARE_OF_A
    outputs = driver.advance(15)
    assert of_type(outputs, HoldTunnel)
    assert driver.node.tunnel_address is None


@requirement("RFC6275-11.3.6", "MN-46")
def test_unknown_binding_from_the_home_agent_brings_a_new_update() -> None:
    driver = RegistrationDriver()
    driver.establish()
    driver.advance(10)
    error = IPv6Packet(HOME_AGENT, CARE_OF_A, BindingError(1, HOME_ADDRESS))
    driver.note(driver.registration.handle(received(error), driver.now))
    assert len(driver.updates()) == 2
    driver.advance(1.4)
    assert len(driver.updates()) == 2, "the home agent probes the home address again"
    driver.note(driver.registration.handle(received(error), driver.now))
    assert len(driver.updates()) == 2, "one update is on its way already"


@requirement("RFC6275-11.3.6", "MN-45", "MN-49")
@pytest.mark.parametrize(
    ("source", "status", "home_address"),
    [(STRANGER, 1, HOME_ADDRESS), (HOME_AGENT, 2, HOME_ADDRESS), (HOME_AGENT, 1, STRANGER)],
)
def test_other_binding_errors_are_ignored(
    source: IPv6Address, status: int, home_address: IPv6Address
) -> None:
    driver = RegistrationDriver()
    driver.establish()
    error = IPv6Packet(source, CARE_OF_A, BindingError(status, home_address))
    assert driver.registration.handle(received(error), driver.now) == []
    assert len(driver.updates()) == 1


@requirement("RFC6275-11.7.4", "MN-50")
def test_refresh_request_is_followed_for_the_home_agent_and_ignored_from_others() -> None:
    driver = RegistrationDriver()
    driver.establish()
    stranger = IPv6Packet(STRANGER, CARE_OF_A, BindingRefreshRequest())
    assert driver.registration.handle(received(stranger), driver.now) == []
    request = IPv6Packet(HOME_AGENT, CARE_OF_A, BindingRefreshRequest())
    driver.note(driver.registration.handle(received(request), driver.now))
    assert len(driver.updates()) == 2


@requirement("RFC6275-11.3.5", "MN-43")
def test_icmp_errors_change_nothing_and_only_fitting_ones_are_reported_once() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    ((action, _),) = sent(driver.visit(), BindingUpdate)
    quoted = encode_packet(action.packet)
    before = driver.node.registration.state
    for invoking in (b"", quoted[:30], bytes(48), quoted[:8] + STRANGER.packed + quoted[24:]):
        forged = IPv6Packet(STRANGER, CARE_OF_A, ParameterProblem(1, 40, invoking))
        assert driver.tell(received(forged)) == []
    genuine = IPv6Packet(HOME_AGENT, CARE_OF_A, ParameterProblem(1, 40, quoted))
    assert reports(driver.tell(received(genuine)), "binding-update-undeliverable")
    assert driver.tell(received(genuine)) == []
    assert driver.node.registration.state is before
    driver.advance(1.5)
    assert len(driver.updates()) == 2
    driver.acknowledge()
    assert driver.node.tunnel_address == CARE_OF_A


@requirement("RFC6275-11.3.5", "MN-42")
def test_icmp_error_creates_no_binding_update_list_entry() -> None:
    driver = RegistrationDriver()
    assert driver.registration.handle_icmp_error(bytes(64)) == []
    assert driver.registration.entry is None
