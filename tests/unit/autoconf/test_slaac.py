from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import IPv6Address
from random import Random
from typing import Any

import pytest

from mnagent.autoconf.constants import (
    MAX_ADDRESSES,
    MAX_KNOWN_DUPLICATES,
    MAX_PREFIXES,
    REGENERATION_ADVANCE,
    TEMPORARY_PREFERRED_LIFETIME,
    TEMPORARY_VALID_LIFETIME,
)
from mnagent.autoconf.interface_id import IdentifierKind, eui64_identifier
from mnagent.autoconf.link_memory import KnownAddress
from mnagent.autoconf.slaac import AddressState, Slaac, SlaacSettings
from mnagent.core.actions import AddAddress, RemoveAddress, SendPacket
from mnagent.core.indications import AddressLost, AddressUsable, Output
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import NeighborAdvertisement, PrefixInformation
from tests.support.driver import Driver
from tests.support.matching import kinds, of_type, only, reports
from tests.support.packets import received
from tests.support.requirement import requirement

MAC = bytes.fromhex("020000000010")
A, B = "2001:db8:a::", "2001:db8:b::"


class Slaacs(Driver):
    def __init__(self, **settings: Any) -> None:
        self.slaac = Slaac(
            2,
            name="wlan0",
            settings=SlaacSettings(secret=b"secret", **settings),
            random=Random(1),
        )
        self.slaac.link_layer_address = MAC
        super().__init__(self.slaac)

    def hear(
        self, *prefixes: str, first: bool = False, contradiction: bool = False, **fields: Any
    ) -> list[Output]:
        values: dict[str, Any] = {"valid_lifetime": 3600.0, "preferred_lifetime": 1800.0, **fields}
        options = [PrefixInformation(address=IPv6Address(p), **values) for p in prefixes]
        return self.note(
            self.slaac.advertised(
                options, is_first=first, is_contradiction=contradiction, now=self.now
            )
        )

    def object_to(self, address: IPv6Address) -> list[Output]:
        packet = IPv6Packet(address, IPv6Address("ff02::1"), NeighborAdvertisement(address))
        return self.note(self.slaac.handle(received(packet), self.now))

    @property
    def addresses(self) -> list[IPv6Address]:
        return list(self.slaac.states())


@requirement("RFC4429-3.3", "MOV-16")
def test_optimistic_address_is_usable_at_once_after_its_probe_has_left() -> None:
    driver = Slaacs(optimistic=True)
    names = kinds(driver.hear(A))
    assert names == ["JoinGroup", "SendPacket", "AddAddress", "AddressUsable"]
    assert only(driver.all(AddressUsable), AddressUsable).optimistic
    outputs = driver.advance(1)
    assert not only(outputs, AddressUsable).optimistic
    assert list(driver.slaac.states().values()) == [AddressState.PREFERRED]


@requirement("RFC4862-5.4", "MOV-10")
def test_other_address_is_neither_configured_nor_offered_before_detection_ends() -> None:
    driver = Slaacs(optimistic=False)
    outputs = driver.hear(A) + driver.advance(0.99)
    assert not of_type(outputs, AddAddress) and not of_type(outputs, AddressUsable)
    assert list(driver.slaac.states().values()) == [AddressState.TENTATIVE]
    outputs = driver.advance(0.02)
    assert kinds(outputs) == ["LeaveGroup", "AddAddress", "AddressUsable"]


@pytest.mark.parametrize("optimistic", [True, False])
def test_duplicate_is_taken_back_and_the_next_identifier_tried(optimistic: bool) -> None:
    driver = Slaacs(optimistic=optimistic)
    driver.hear(A)
    (first,) = driver.addresses
    outputs = driver.object_to(first)
    assert reports(outputs, "duplicate-address")[0]["address"] == str(first)
    assert bool(of_type(outputs, RemoveAddress)) is optimistic
    assert bool(of_type(outputs, AddressLost)) is optimistic
    (second,) = driver.addresses
    assert second != first
    driver.advance(1)
    assert {usable.address for usable in driver.all(AddressUsable)[-1:]} == {second}


def test_prefix_where_everything_is_duplicate_is_given_up() -> None:
    driver = Slaacs()
    driver.hear(A)
    seen = []
    while driver.addresses:
        seen += driver.addresses
        driver.object_to(driver.addresses[0])
    assert len(seen) == len(set(seen)) == 3
    assert not of_type(driver.hear(A), AddAddress)
    driver.note(driver.slaac.link_came_up())
    assert of_type(driver.hear(A), AddAddress), "another link is another chance"


def test_eui64_address_is_made_from_the_link_layer_address_and_not_replaced() -> None:
    driver = Slaacs(identifiers=IdentifierKind.EUI64)
    driver.hear(A)
    (address,) = driver.addresses
    assert int(address) & (2**64 - 1) == eui64_identifier(MAC)
    driver.object_to(address)
    assert driver.addresses == []


@requirement("RFC6275-11.5.5", "RET-04")
@pytest.mark.parametrize("kind", list(IdentifierKind))
def test_home_address_is_never_formed(kind: IdentifierKind) -> None:
    plain = Slaacs(identifiers=kind)
    plain.hear(A)
    (home_address,) = plain.addresses
    driver = Slaacs(identifiers=kind, never=frozenset(plain.addresses))
    driver.hear(A)
    assert home_address not in driver.addresses
    assert bool(driver.addresses) is (kind is not IdentifierKind.EUI64)


def test_host_that_found_the_duplicate_itself_is_believed() -> None:
    driver = Slaacs()
    driver.hear(A)
    (first,) = driver.addresses
    assert only(driver.slaac.address_duplicate(first, driver.now), AddressLost).address == first
    assert driver.slaac.address_duplicate(IPv6Address("2001:db8::9"), driver.now) == []


def test_address_the_host_refused_is_taken_back() -> None:
    driver = Slaacs()
    driver.hear(A)
    outputs = driver.slaac.address_refused(driver.addresses[0])
    assert of_type(outputs, AddressLost)
    assert driver.addresses == []


@pytest.mark.parametrize(
    "fields",
    [
        {"autonomous": False},
        {"valid_lifetime": 100.0, "preferred_lifetime": 200.0},
        {"prefix_length": 56},
        {"valid_lifetime": 0.0, "preferred_lifetime": 0.0},
    ],
)
def test_prefix_that_is_not_for_addresses_forms_none(fields: dict[str, Any]) -> None:
    assert Slaacs().hear(A, **fields) == []


def test_link_local_prefix_forms_none() -> None:
    assert Slaacs().hear("fe80::") == []


def test_addresses_of_a_link_are_bounded() -> None:
    driver = Slaacs()
    driver.hear(*(f"2001:db8:{n:x}::" for n in range(MAX_PREFIXES + 3)))
    assert len(driver.addresses) == MAX_PREFIXES


@requirement("RFC4862-5.5.3", "MOV-15")
def test_repeated_advertisement_refreshes_the_lifetimes() -> None:
    driver = Slaacs()
    driver.hear(A)
    driver.advance(1000)
    usable = only(driver.hear(A), AddressUsable)
    assert usable.valid_until == driver.now + 3600
    assert usable.preferred_until == driver.now + 1800


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (3600, 60, 3600),
        (9000, 60, 7200),
        (3600, 4000, 4000),
        (9000, 8000, 8000),
        (math.inf, math.inf, math.inf),
    ],
)
def test_advertisement_cannot_end_an_address_before_two_hours(
    first: float, second: float, expected: float
) -> None:
    driver = Slaacs()
    driver.hear(A, valid_lifetime=first, preferred_lifetime=10.0)
    outputs = driver.hear(A, valid_lifetime=second, preferred_lifetime=0.0)
    assert only(outputs, AddressUsable).valid_until == driver.now + expected
    lifetime = only(outputs, AddAddress).valid_lifetime
    assert lifetime == (None if expected == math.inf else expected)


def test_address_ends_with_its_valid_lifetime() -> None:
    driver = Slaacs()
    driver.hear(A, valid_lifetime=50.0, preferred_lifetime=20.0)
    outputs = driver.advance(51)
    assert kinds(outputs)[-2:] == ["AddressLost", "RemoveAddress"]
    assert driver.addresses == []


@requirement("RFC6059-5.4", "MOV-21")
def test_link_event_puts_addresses_in_doubt_and_the_same_prefix_confirms_them() -> None:
    driver = Slaacs()
    driver.hear(A)
    driver.advance(2)
    (address,) = driver.addresses
    outputs = driver.slaac.link_came_up()
    assert only(outputs, AddressLost).address == address
    assert list(driver.slaac.states().values()) == [AddressState.IN_DOUBT]
    outputs = driver.hear(A, first=True)
    assert only(outputs, AddressUsable).address == address
    assert not of_type(outputs, SendPacket), "no second detection"


def test_link_event_during_detection_starts_it_anew_on_confirmation() -> None:
    driver = Slaacs()
    driver.hear(A)
    driver.slaac.link_came_up()
    assert driver.advance(5) == []
    outputs = driver.hear(A, first=True)
    assert of_type(outputs, SendPacket) and only(outputs, AddressUsable).optimistic


@requirement("RFC6275-11.5.4", "MOV-03")
def test_other_prefix_on_a_new_link_removes_the_old_address() -> None:
    driver = Slaacs()
    driver.hear(A)
    (old,) = driver.addresses
    driver.slaac.link_came_up()
    outputs = driver.hear(B, first=True)
    assert only(outputs, RemoveAddress).address == old
    assert len(driver.addresses) == 1 and driver.addresses[0] != old


def test_remove_all_takes_a_tentative_address_back_without_a_word() -> None:
    driver = Slaacs(optimistic=False)
    driver.hear(A)
    assert kinds(driver.slaac.remove_all()) == ["LeaveGroup"]
    assert driver.addresses == []


def test_second_link_event_tells_no_second_loss() -> None:
    driver = Slaacs()
    driver.hear(A)
    driver.advance(2)
    assert of_type(driver.slaac.link_came_up(), AddressLost)
    assert driver.slaac.link_came_up() == []


@requirement("RFC6059-5.7.2", "MOV-20")
def test_contradicting_advertisement_removes_addresses_that_were_not_in_doubt() -> None:
    driver = Slaacs()
    driver.hear(A)
    driver.advance(2)
    outputs = driver.hear(B, contradiction=True)
    assert kinds(outputs)[:2] == ["AddressLost", "RemoveAddress"]
    assert len(driver.addresses) == 1


def test_first_advertisement_of_a_link_leaves_confirmed_addresses_alone() -> None:
    driver = Slaacs()
    driver.hear(A, B)
    driver.advance(2)
    known = driver.slaac.known()
    driver.slaac.link_came_up()
    driver.slaac.restore(known[:1], driver.now)
    outputs = driver.hear(first=True)
    assert only(outputs, RemoveAddress).address == known[1].address
    assert driver.addresses == [known[0].address]


def test_duplicate_of_an_earlier_visit_is_tried_last_on_the_next_one() -> None:
    driver = Slaacs()
    driver.hear(A)
    (first,) = driver.addresses
    driver.object_to(first)
    (second,) = driver.addresses
    driver.advance(2)
    driver.slaac.link_came_up()
    driver.slaac.remove_all()
    driver.hear(A, first=True)
    assert driver.addresses == [second]
    driver.object_to(second)
    (third,) = driver.addresses
    assert third not in (first, second)


def test_memory_of_duplicates_is_bounded() -> None:
    driver = Slaacs()
    for number in range(max(MAX_KNOWN_DUPLICATES, MAX_ADDRESSES) + 3):
        driver.hear(f"2001:db8:{number:x}::")
        driver.object_to(driver.addresses[-1])
        driver.slaac.remove_all()
    assert len(driver.slaac._known_duplicates) == MAX_KNOWN_DUPLICATES
    assert len(driver.slaac._duplicates) == MAX_ADDRESSES


def test_link_without_link_layer_addresses_gets_stable_identifiers() -> None:
    driver = Slaacs(identifiers=IdentifierKind.EUI64)
    driver.slaac.link_layer_address = b""
    driver.hear(A)
    other = Slaacs()
    other.hear(A)
    assert driver.addresses == other.addresses


def remembered(text: str = "2001:db8:a::77", valid: float = 5000.0) -> KnownAddress:
    return KnownAddress(address=IPv6Address(text), valid_until=valid, preferred_until=valid)


@requirement("RFC6059-5.7.1", "MOV-19")
def test_remembered_address_is_preferred_at_once_without_detection() -> None:
    driver = Slaacs()
    outputs = driver.note(driver.slaac.restore([remembered()], driver.now))
    assert kinds(outputs) == ["AddAddress", "AddressUsable"]
    assert not only(outputs, AddressUsable).optimistic
    assert only(outputs, AddressUsable).valid_until == 5000.0
    assert driver.slaac.known() == [remembered()]


def test_remembered_address_takes_the_place_of_a_doubtful_one_but_of_no_other() -> None:
    driver = Slaacs()
    driver.hear(A)
    (formed,) = driver.addresses
    assert driver.slaac.restore([remembered()], driver.now) == []
    driver.slaac.link_came_up()
    outputs = driver.slaac.restore([remembered()], driver.now)
    assert only(outputs, RemoveAddress).address == formed
    assert only(outputs, AddressUsable).address == remembered().address


def test_home_address_is_not_recalled() -> None:
    driver = Slaacs(never=frozenset((remembered().address,)))
    assert driver.slaac.restore([remembered()], driver.now) == []


@requirement("RFC4429-3.3", "MOV-19")
def test_address_left_while_it_was_checked_is_usable_again_and_checked_anew() -> None:
    driver = Slaacs()
    driver.hear(A)
    (known,) = driver.slaac.known()
    assert not known.is_unique
    driver.slaac.link_came_up()
    outputs = driver.note(driver.slaac.restore([known], driver.now))
    assert kinds(outputs) == ["JoinGroup", "SendPacket", "AddAddress", "AddressUsable"]
    assert only(outputs, AddressUsable).optimistic
    driver.advance(1)
    assert driver.slaac.known() == [replace(known, is_unique=True)]


def test_address_in_doubt_or_not_usable_yet_is_not_worth_remembering() -> None:
    driver = Slaacs(optimistic=False)
    driver.hear(A)
    assert driver.slaac.known() == []
    driver.advance(1)
    driver.slaac.link_came_up()
    assert driver.slaac.known() == []


def test_remembered_address_that_turned_out_to_be_a_duplicate_is_not_recalled() -> None:
    driver = Slaacs()
    driver.hear(A)
    (known,) = driver.slaac.known()
    driver.object_to(known.address)
    driver.slaac.link_came_up()
    driver.slaac.remove_all()
    assert driver.slaac.restore([known], driver.now) == []


@requirement("RFC8981-3.4", "MOV-14")
def test_temporary_address_has_a_successor_before_it_is_deprecated_and_ends_after_two_days() -> (
    None
):
    driver = Slaacs(identifiers=IdentifierKind.TEMPORARY)
    lifetimes = {"valid_lifetime": math.inf, "preferred_lifetime": math.inf}
    usable = only(driver.hear(A, **lifetimes), AddressUsable)
    assert usable.valid_until == driver.now + TEMPORARY_VALID_LIFETIME
    lived = usable.preferred_until - driver.now
    assert TEMPORARY_PREFERRED_LIFETIME * 0.6 <= lived <= TEMPORARY_PREFERRED_LIFETIME
    driver.advance(lived - REGENERATION_ADVANCE - 1)
    assert len(driver.addresses) == 1
    driver.advance(2)
    old, new = driver.addresses
    assert old == usable.address != new
    refreshed = [u for u in driver.hear(A, **lifetimes) if isinstance(u, AddressUsable)]
    assert refreshed[0].valid_until == usable.valid_until, "no advertisement prolongs it"
    driver.advance(TEMPORARY_VALID_LIFETIME)
    assert old not in driver.addresses and driver.addresses


def test_temporary_address_in_doubt_gets_no_successor() -> None:
    driver = Slaacs(identifiers=IdentifierKind.TEMPORARY)
    driver.hear(A, valid_lifetime=math.inf, preferred_lifetime=math.inf)
    driver.slaac.link_came_up()
    driver.advance(TEMPORARY_PREFERRED_LIFETIME)
    assert len(driver.addresses) == 1


def test_temporary_address_that_is_recalled_keeps_its_end() -> None:
    driver = Slaacs(identifiers=IdentifierKind.TEMPORARY)
    driver.slaac.restore([remembered(valid=3000.0)], driver.now)
    refreshed = driver.hear(A, valid_lifetime=math.inf, preferred_lifetime=math.inf)
    assert only(refreshed, AddressUsable).valid_until == 3000.0


def test_temporary_addresses_are_bounded_too() -> None:
    driver = Slaacs(identifiers=IdentifierKind.TEMPORARY)
    lifetimes = {"valid_lifetime": math.inf, "preferred_lifetime": math.inf}
    driver.hear(*(f"2001:db8:{n:x}::" for n in range(50)), **lifetimes)
    assert len(driver.addresses) == MAX_PREFIXES
    for _ in range(5):
        driver.advance(TEMPORARY_PREFERRED_LIFETIME / 2)
        assert len(driver.addresses) <= MAX_ADDRESSES


def test_prefix_with_a_home_address_alone_forms_none_of_it() -> None:
    plain = Slaacs(identifiers=IdentifierKind.EUI64)
    plain.hear(A)
    driver = Slaacs(identifiers=IdentifierKind.EUI64, never=frozenset(plain.addresses))
    assert driver.hear(A) == []
