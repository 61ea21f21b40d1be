"""Sending Binding Updates to the home agent (RFC 6275 11.7.1, 11.8, 12 and 13)."""

from __future__ import annotations

import errno
import math
from itertools import pairwise
from random import Random

import pytest

from mnagent.core.actions import HoldTunnel, PersistRecord, SendPacket, SetTunnel
from mnagent.core.events import ActionFailed
from mnagent.core.indications import AddressUsable, BindingExpired
from mnagent.mobility import constants
from mnagent.mobility.mobile_node import MobileNodeSettings
from mnagent.mobility.sequence import SequenceCounter
from mnagent.wire.ipv6 import DestinationOptions, HomeAddressOption
from mnagent.wire.mobility import BindingUpdate
from mnagent.wire.mobility_options import AlternateCareOfAddress
from tests.support.driver import (
    CARE_OF_A,
    CARE_OF_B,
    HOME_ADDRESS,
    HOME_AGENT,
    INTERFACE,
    MobileNodeDriver,
    RegistrationDriver,
)
from tests.support.matching import kinds, of_type, only, sent
from tests.support.requirement import requirement


def intervals(times: list[float]) -> list[float]:
    return [round(later - earlier, 6) for earlier, later in pairwise(times)]


@requirement("RFC6275-11.7.1", "MN-01")
def test_binding_update_on_a_foreign_link_has_the_demanded_form() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    ((action, update),) = sent(driver.visit(CARE_OF_A), BindingUpdate)
    packet = action.packet
    assert update.home_registration and update.acknowledge and update.lifetime > 0
    assert packet.source == CARE_OF_A and packet.destination == HOME_AGENT
    assert packet.extension_headers == (DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),)
    assert update.options == (AlternateCareOfAddress(CARE_OF_A),)
    assert action.interface == INTERFACE


@requirement("RFC6275-11.7.1", "MN-02")
@pytest.mark.parametrize("compatible", [True, False])
def test_link_local_compatibility_follows_the_interface_identifiers(compatible: bool) -> None:
    driver = RegistrationDriver()
    driver.register(compatible=compatible)
    assert driver.updates()[-1].link_local_compatibility is compatible


@requirement("RFC6275-11.7.1", "MN-03")
def test_binding_update_with_manual_keys_leaves_key_management_mobility_clear() -> None:
    driver = RegistrationDriver()
    driver.register()
    assert not driver.updates()[-1].key_management_mobility


@requirement("RFC6275-11.7.1", "MN-04")
@pytest.mark.parametrize(
    ("home_valid", "care_of_valid", "expected"),
    [(math.inf, math.inf, 600), (102, 300, 100), (300, 102, 100), (300, 1, 4)],
)
def test_requested_lifetime_does_not_outlast_either_address(
    home_valid: float, care_of_valid: float, expected: float
) -> None:
    driver = RegistrationDriver(lifetime=600, home_address_valid_until=1000 + home_valid)
    driver.register(valid_for=care_of_valid)
    assert driver.updates()[-1].lifetime == expected


@requirement("RFC6275-11.7.1", "MN-05")
def test_registration_that_expires_is_made_anew_as_a_first_one() -> None:
    driver = RegistrationDriver(lifetime=40)
    driver.establish()
    driver.advance(39.9)
    before = len(driver.updates())
    driver.advance(2.0)
    assert driver.all(BindingExpired)
    times = driver.times_of(BindingUpdate)[before:]
    assert times[0] == pytest.approx(1040)
    assert intervals(times)[0] == pytest.approx(1.5)


@requirement("RFC6275-11.8", "MN-06")
def test_first_update_without_answer_goes_again_after_one_and_a_half_seconds() -> None:
    driver = RegistrationDriver()
    driver.register()
    driver.advance(1.49)
    assert len(driver.updates()) == 1
    driver.advance(0.02)
    assert len(driver.updates()) == 2


@requirement("RFC6275-11.8", "MN-07")
def test_unanswered_updates_back_off_to_thirty_two_seconds_and_go_on() -> None:
    driver = RegistrationDriver()
    driver.register()
    driver.advance(200)
    expected = [1.5, 3, 6, 12, 24, 32, 32, 32, 32]
    assert intervals(driver.times_of(BindingUpdate)) == expected


@requirement("RFC6275-11.8", "MN-07")
def test_refresh_without_answer_starts_at_one_second() -> None:
    driver = RegistrationDriver(lifetime=600)
    driver.establish()
    driver.advance(600 * constants.REFRESH_FRACTION + 8)
    assert intervals(driver.times_of(BindingUpdate)[1:]) == [1, 2, 4]


@requirement("RFC6275-11.8", "MN-08")
def test_retransmission_has_a_new_sequence_number_and_the_old_answer_is_ignored() -> None:
    driver = RegistrationDriver()
    driver.register()
    driver.advance(1.5)
    first, second = driver.updates()
    assert second.sequence == (first.sequence + 1) % 2**16
    assert driver.acknowledge(sequence=first.sequence) == []
    assert driver.registration.bound_address is None
    driver.acknowledge()
    assert driver.registration.bound_address == CARE_OF_A


@requirement("RFC6275-13", "MN-09")
def test_initial_timeout_of_the_first_registration_is_the_administrators() -> None:
    driver = RegistrationDriver(initial_bindack_timeout_first_registration=0.5)
    driver.register()
    driver.advance(2)
    assert intervals(driver.times_of(BindingUpdate)) == [0.5, 1.0]
    assert MobileNodeSettings(
        home_address=HOME_ADDRESS, home_agent_address=HOME_AGENT
    ).initial_bindack_timeout_first_registration == pytest.approx(1.5)


@requirement("RFC6275-11.5.3", "MN-10")
def test_rapid_movements_never_send_more_than_three_updates_a_second_and_end_right() -> None:
    driver = RegistrationDriver()
    for step in range(40):
        driver.register(CARE_OF_A if step % 2 else CARE_OF_B)
        driver.advance(0.1)
    driver.register(CARE_OF_A)
    driver.advance(1.0)
    times = driver.times_of(BindingUpdate)
    for start in times:
        assert len([at for at in times if start <= at < start + 1 - 1e-9]) <= 3
    entry = driver.registration.entry
    assert entry is not None and entry.care_of_address == CARE_OF_A
    driver.acknowledge()
    assert driver.registration.is_bound_to(CARE_OF_A, driver.now)


@requirement("RFC6275-11.8", "MN-10")
def test_answer_to_an_overtaken_update_does_not_end_the_newer_registration() -> None:
    driver = RegistrationDriver()
    for address in (CARE_OF_A, CARE_OF_B, CARE_OF_A, CARE_OF_B):
        driver.register(address)
    assert len(driver.updates()) == 3
    assert driver.acknowledge() == []
    driver.advance(1.0)
    assert driver.updates()[-1].options == (AlternateCareOfAddress(CARE_OF_B),)
    driver.acknowledge()
    assert driver.registration.bound_address == CARE_OF_B


@requirement("RFC6275-11.7.2", "MN-11")
def test_first_sequence_number_is_random() -> None:
    firsts = {SequenceCounter("s", random=Random(seed)).take()[0] for seed in range(20)}
    assert len(firsts) > 15


@requirement("RFC6275-11.7.2", "MN-12")
def test_sequence_numbers_go_on_over_movements_and_wrap() -> None:
    driver = RegistrationDriver(persisted_sequence="65533")
    for address in (CARE_OF_A, CARE_OF_B, CARE_OF_A, CARE_OF_B, CARE_OF_A):
        driver.establish(address)
        driver.advance(1)
    assert [update.sequence for update in driver.updates()] == [65533, 65534, 65535, 0, 1]


@requirement("RFC6275-11.7.2", "MN-12")
def test_sequence_numbers_are_reserved_before_they_are_sent_and_never_used_after_a_crash() -> None:
    driver = RegistrationDriver(persisted_sequence="100")
    used: list[int] = []
    reserved = 100
    for _ in range(200):
        for _, output in driver.log:
            if isinstance(output, PersistRecord) and output.key.startswith("sequence"):
                reserved = int(output.value)
            if isinstance(output, SendPacket) and isinstance(output.packet.payload, BindingUpdate):
                assert output.packet.payload.sequence < reserved
                used.append(output.packet.payload.sequence)
        driver.log.clear()
        driver.advance(32)
        driver.register(CARE_OF_A if len(used) % 2 else CARE_OF_B)
    after = RegistrationDriver(persisted_sequence=str(reserved))
    after.register()
    assert after.updates()[0].sequence > max(used)


@requirement("RFC6275-11.7.2", "MN-12")
def test_numbers_whose_record_was_not_kept_are_never_sent_and_so_not_used_after_a_crash() -> None:
    driver = MobileNodeDriver(persisted_sequence="100")
    kept, refused = 100, 0
    used: list[int] = []
    driver.link_up()
    outputs = driver.visit()
    for at in range(12):
        has_room, is_safe = at >= 4, True
        for output in outputs:
            if isinstance(output, PersistRecord) and output.key.startswith("sequence"):
                assert output.guards_packets
                is_safe = has_room
                if has_room:
                    kept = int(output.value)
                else:
                    refused += 1
                    driver.tell(ActionFailed(action=output, errno=errno.ENOSPC))
            if isinstance(output, SendPacket) and isinstance(output.packet.payload, BindingUpdate):
                used += [output.packet.payload.sequence] * is_safe
        outputs = driver.advance(32)
    assert refused >= 4 and len(used) >= 4
    assert kept > max(used), "after a crash it begins with the number kept"
    other = PersistRecord(key="links", value="")
    driver.tell(ActionFailed(action=other, errno=errno.ENOSPC))
    records = of_type(driver.advance(32), PersistRecord)
    assert not any(each.key.startswith("sequence") for each in records)


@requirement("RFC6275-11.3.1", "MN-34")
def test_tunnel_is_held_between_movement_and_acknowledgement() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    outputs = driver.visit()
    assert only(outputs, HoldTunnel).home_address == HOME_ADDRESS
    tunnel = only(driver.acknowledge(), SetTunnel)
    assert (tunnel.local, tunnel.remote) == (CARE_OF_A, HOME_AGENT)


@requirement("RFC6275-11.3.1", "MN-34")
def test_tunnel_is_set_with_the_update_when_optimistic() -> None:
    driver = MobileNodeDriver(optimistic_tunnel=True)
    driver.link_up()
    for address in (CARE_OF_A, CARE_OF_B):
        outputs = driver.visit(address)
        names = kinds(outputs)
        assert names.index("SendPacket") < names.index("SetTunnel")
        assert only(outputs, SetTunnel).local == address
        assert not of_type(driver.acknowledge(), SetTunnel)


@requirement("RFC6275-11.5.3", "MOV-14")
def test_deprecated_care_of_address_is_replaced_by_a_preferred_one() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.visit(CARE_OF_A)
    driver.acknowledge()
    other = CARE_OF_A + 1
    driver.tell(AddressUsable(interface=INTERFACE, address=other, prefix_length=64))
    assert len(driver.updates()) == 1
    soon = driver.now + 5
    driver.tell(
        AddressUsable(
            interface=INTERFACE, address=CARE_OF_A, prefix_length=64, preferred_until=soon
        )
    )
    driver.advance(6)
    assert driver.updates()[-1].options == (AlternateCareOfAddress(other),)


@requirement("RFC6275-12", "OPS-01")
def test_protocol_constants_are_those_of_the_rfc() -> None:
    expected = {
        "DHAAD_RETRIES": 4,
        "INITIAL_BINDACK_TIMEOUT": 1,
        "INITIAL_DHAAD_TIMEOUT": 3,
        "INITIAL_SOLICIT_TIMER": 3,
        "MAX_BINDACK_TIMEOUT": 32,
        "MAX_DELETE_BCE_TIMEOUT": 10,
        "MAX_NONCE_LIFETIME": 240,
        "MAX_TOKEN_LIFETIME": 210,
        "MAX_RO_FAILURE": 3,
        "MAX_RR_BINDING_LIFETIME": 420,
        "MAX_UPDATE_RATE": 3,
        "PREFIX_ADV_RETRIES": 3,
        "PREFIX_ADV_TIMEOUT": 3,
        "MAX_MOB_PFX_ADV_INTERVAL": 86_400,
        "MIN_DELAY_BETWEEN_RAS": 3,
        "MIN_MOB_PFX_ADV_INTERVAL": 600,
        "INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION": 1.5,
    }
    assert {name: getattr(constants, name) for name in expected} == expected
