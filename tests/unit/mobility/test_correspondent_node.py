"""What the correspondent node owes its host and the roles it is part of."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.core.actions import Action, RemovePeerBinding, SendPacket, SetPeerBinding
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    ActionFailed,
    AddressAppeared,
    AddressVanished,
    LinkDown,
    PacketReceived,
    ShutdownRequested,
    TrafficSeen,
)
from mnagent.mobility.binding_error import BINDING_ERROR_BURST
from mnagent.mobility.correspondent_cache import PeerBinding, PeerBindingCache, PeerKey
from mnagent.mobility.correspondent_node import (
    BINDING_ERROR_SHARES,
    HOST_FAILURE_DELAY,
    STRANGER_TEST_RATE,
    CorrespondentNode,
    CorrespondentNodeSettings,
)
from mnagent.wire.icmp6 import DestinationUnreachable, EchoRequest
from mnagent.wire.ipv6 import (
    DestinationOptions,
    HomeAddressOption,
    IPv6Packet,
    RawPayload,
    Type2RoutingHeader,
)
from mnagent.wire.mobility import BindingAcknowledgement, BindingError, BindingStatus, HomeTest
from mnagent.wire.packet import encode_packet
from tests.support.correspondent import (
    CARE_OF_ADDRESS,
    CORRESPONDENT,
    HOME_ADDRESS,
    OTHER_CARE_OF_ADDRESS,
    OTHER_CORRESPONDENT,
    OTHER_HOME_ADDRESS,
    Peer,
    arrived,
    bound,
    home_address_option,
    make_correspondent,
    only_acknowledgement,
)
from tests.support.matching import reports, sent
from tests.support.requirement import requirement

ADDRESS = IPv6Address("2001:db8:c::77")
SET = SetPeerBinding(home_address=HOME_ADDRESS, care_of_address=CARE_OF_ADDRESS)
REMOVED = RemovePeerBinding(home_address=HOME_ADDRESS)


def appeared(
    address: IPv6Address = ADDRESS,
    *,
    interface: int = 2,
    tentative: bool = False,
    duplicate: bool = False,
) -> AddressAppeared:
    return AddressAppeared(
        interface=interface,
        address=address,
        prefix_length=64,
        tentative=tentative,
        duplicate=duplicate,
    )


def vanished(interface: int = 2) -> AddressVanished:
    return AddressVanished(interface=interface, address=ADDRESS)


def bindings_told(actions: list[Action]) -> list[SetPeerBinding | RemovePeerBinding]:
    return [each for each in actions if isinstance(each, SetPeerBinding | RemovePeerBinding)]


def data_packet(source: IPv6Address, home_address: IPv6Address = HOME_ADDRESS) -> PacketReceived:
    headers = (home_address_option(home_address),)
    packet = IPv6Packet(source, CORRESPONDENT, EchoRequest(1, 1), extension_headers=headers)
    return arrived(packet)


def unreachable(invoking: bytes) -> PacketReceived:
    error = DestinationUnreachable(3, invoking)
    return arrived(IPv6Packet(OTHER_CARE_OF_ADDRESS, CORRESPONDENT, error))


@pytest.mark.parametrize(
    "changes", [{"max_lifetime": 3.0}, {"max_lifetime": 421.0}, {"max_bindings": 0}]
)
def test_settings_that_make_no_sense_raise(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(CorrespondentNodeSettings(), **changes)  # type: ignore[arg-type]


def test_correspondent_grants_no_more_than_its_settings() -> None:
    node = make_correspondent(max_lifetime=62.0)
    peer = Peer().run_tests(node)
    assert only_acknowledgement(node.handle(peer.update(), 0.0)).lifetime == 60.0


def test_correspondent_reports_what_becomes_of_a_binding() -> None:
    node = make_correspondent()
    peer = Peer().run_tests(node)
    (created,) = reports(node.handle(peer.update(1), 0.0), "peer-binding-created")
    assert created == {
        "home_address": str(HOME_ADDRESS),
        "care_of_address": str(CARE_OF_ADDRESS),
        "correspondent": str(CORRESPONDENT),
        "lifetime": "420",
    }
    assert reports(node.handle(peer.update(2), 1.0), "peer-binding-updated")
    (removed,) = reports(node.handle(peer.deregistration(3), 2.0), "peer-binding-removed")
    assert removed["reason"] == "deregistered"


def test_correspondent_refresh_from_the_same_place_tells_the_host_nothing() -> None:
    node = make_correspondent()
    peer = bound(node)
    assert bindings_told(node.handle(peer.update(2), 10.0)) == []
    assert node.bindings[0].expires_at == 430.0


@pytest.mark.parametrize("own", ["care-of", "home"])
def test_correspondent_binding_to_itself_is_prohibited(own: str) -> None:
    node = make_correspondent()
    peer = Peer().run_tests(node)
    address = CARE_OF_ADDRESS if own == "care-of" else HOME_ADDRESS
    node.handle(appeared(address), 0.0)
    actions = node.handle(peer.update(), 0.0)
    assert only_acknowledgement(actions).status is BindingStatus.ADMINISTRATIVELY_PROHIBITED
    assert reports(actions, "peer-binding-rejected")[0]["status"] == "129"
    assert node.bindings == ()


# Addresses.


def test_correspondent_serves_addresses_that_appear_until_they_vanish() -> None:
    node = make_correspondent()
    peer = Peer(correspondent=ADDRESS)
    assert node.handle(peer.home_test_init(), 0.0) == []
    node.handle(appeared(), 0.0)
    peer.run_tests(node)
    assert ADDRESS in node.addresses
    node.handle(vanished(), 1.0)
    assert node.handle(peer.home_test_init(), 2.0) == []
    assert CORRESPONDENT in node.addresses


def test_correspondent_serves_an_address_that_is_still_on_another_interface() -> None:
    node = make_correspondent()
    node.handle(appeared(interface=2), 0.0)
    node.handle(appeared(interface=3), 0.0)
    node.handle(vanished(2), 1.0)
    assert ADDRESS in node.addresses
    node.handle(vanished(3), 1.0)
    assert ADDRESS not in node.addresses


def test_correspondent_serves_no_address_that_may_be_anothers() -> None:
    node = make_correspondent()
    node.handle(appeared(tentative=True), 0.0)
    assert ADDRESS not in node.addresses
    node.handle(appeared(), 0.0)
    node.handle(appeared(duplicate=True), 0.0)
    assert ADDRESS not in node.addresses
    node.handle(appeared(IPv6Address("fe80::1")), 0.0)
    assert IPv6Address("fe80::1") not in node.addresses


def test_correspondent_with_two_addresses_keeps_two_bindings_and_the_latest_place() -> None:
    node = make_correspondent()
    first = bound(node, sequence=100)
    second = Peer(correspondent=OTHER_CORRESPONDENT, care_of_address=OTHER_CARE_OF_ADDRESS)
    second.run_tests(node, 1.0)
    actions = node.handle(second.update(5), 1.0)
    assert bindings_told(actions) == [replace(SET, care_of_address=OTHER_CARE_OF_ADDRESS)]
    assert [each.sequence for each in node.bindings] == [100, 5]
    assert bindings_told(node.handle(second.deregistration(6), 2.0)) == [SET]
    assert bindings_told(node.handle(first.deregistration(101), 3.0)) == [REMOVED]


def test_correspondent_bindings_of_two_addresses_that_end_at_once_are_removed_once() -> None:
    node = make_correspondent()
    bound(node)
    bound(node, peer=Peer(correspondent=OTHER_CORRESPONDENT))
    actions = node.handle_timer(420.0)
    assert bindings_told(actions) == [REMOVED]
    assert len(reports(actions, "peer-binding-removed")) == 2


# Roles.


def test_claims_what_is_a_correspondents_and_nothing_else() -> None:
    node = make_correspondent(refuse_home_registrations=False)
    peer = Peer().run_tests(node)
    elsewhere = Peer(correspondent=ADDRESS)
    acknowledgement = BindingAcknowledgement(status=0, sequence=1, lifetime=4)
    headers = (home_address_option(HOME_ADDRESS),)
    behind_option = IPv6Packet(
        CARE_OF_ADDRESS, CORRESPONDENT, acknowledgement, extension_headers=headers
    )
    plain = IPv6Packet(CARE_OF_ADDRESS, CORRESPONDENT, EchoRequest(1, 1))
    assert node.claims(peer.home_test_init())
    assert node.claims(peer.care_of_test_init())
    assert node.claims(peer.update())
    assert node.claims(data_packet(CARE_OF_ADDRESS))
    assert not node.claims(peer.update(home_registration=True))
    assert not node.claims(elsewhere.home_test_init())
    assert not node.claims(arrived(behind_option))
    assert not node.claims(arrived(plain))
    assert not node.claims(unreachable(bytes(60)))
    assert make_correspondent().claims(peer.update(home_registration=True))


def test_correspondent_counts_what_it_does_not_claim() -> None:
    node = make_correspondent(refuse_home_registrations=False)
    assert node.handle(Peer().update(home_registration=True), 0.0) == []
    assert node.drops[DropReason.UNEXPECTED_MESSAGE] == 1


@pytest.mark.parametrize(
    "invoking",
    [
        b"",
        bytes(40),
        encode_packet(IPv6Packet(CORRESPONDENT, CARE_OF_ADDRESS, RawPayload(17, bytes(8)))),
        encode_packet(
            IPv6Packet(
                CORRESPONDENT,
                CARE_OF_ADDRESS,
                RawPayload(17, bytes(8)),
                extension_headers=(Type2RoutingHeader(OTHER_HOME_ADDRESS),),
            )
        ),
    ],
    ids=["nothing", "rubbish", "not-by-binding", "no-binding"],
)
def test_correspondent_errors_about_other_packets_are_not_its_own(invoking: bytes) -> None:
    node = make_correspondent()
    bound(node)
    assert not node.claims(unreachable(invoking))
    assert node.handle(unreachable(invoking), 1.0) == []


def test_correspondent_that_is_mobile_itself_recognises_its_packets_in_errors() -> None:
    node = make_correspondent()
    bound(node)
    headers = (home_address_option(CORRESPONDENT), Type2RoutingHeader(HOME_ADDRESS))
    quoted = IPv6Packet(
        OTHER_CARE_OF_ADDRESS, CARE_OF_ADDRESS, RawPayload(17, b""), extension_headers=headers
    )
    assert node.claims(unreachable(encode_packet(quoted)))


def test_correspondent_ignores_events_of_other_machines() -> None:
    node = make_correspondent()
    assert node.handle(LinkDown(interface=2), 0.0) == []
    assert node.handle(TrafficSeen(local=CORRESPONDENT, peer=HOME_ADDRESS), 0.0) == []


# Binding Errors.


def test_binding_error_is_not_sent_for_a_packet_that_overtook_its_binding() -> None:
    node = make_correspondent()
    bound(node)
    assert node.handle(data_packet(CARE_OF_ADDRESS), 0.1) == []
    assert node.drops[DropReason.NO_BINDING] == 0


def test_binding_error_is_not_sent_for_two_home_address_options() -> None:
    node = make_correspondent()
    options = (HomeAddressOption(HOME_ADDRESS), HomeAddressOption(OTHER_HOME_ADDRESS))
    packet = IPv6Packet(
        CARE_OF_ADDRESS,
        CORRESPONDENT,
        EchoRequest(1, 1),
        extension_headers=(DestinationOptions(options),),
    )
    assert node.handle(arrived(packet), 0.0) == []
    assert node.drops[DropReason.TWO_HOME_ADDRESS_OPTIONS] == 1


@requirement("RFC6275-9.3.3", "CN-03")
def test_binding_errors_to_one_prefix_are_limited_and_leave_the_others_theirs() -> None:
    node = make_correspondent()
    flood = [
        action
        for number in range(1000)
        for action in node.handle(
            data_packet(IPv6Address(0x20010DB8_000A_0000 << 64 | number + 1)), 0.0
        )
    ]
    assert len(flood) == BINDING_ERROR_BURST
    others = [IPv6Address((0x20010DB8_0100 << 80) | (number << 64) | 1) for number in range(32)]
    heard = [node.handle(data_packet(source), 0.0) for source in others]
    assert sum(map(len, heard)) >= 32 * (BINDING_ERROR_SHARES - 4) / BINDING_ERROR_SHARES


# Tests.


def test_tests_of_strangers_over_their_budget_are_dropped() -> None:
    node = make_correspondent()
    event = Peer().home_test_init()
    answers = [node.handle(event, 0.0) for _ in range(int(STRANGER_TEST_RATE) + 5)]
    assert sum(map(len, answers)) == STRANGER_TEST_RATE
    assert node.drops[DropReason.RATE_LIMITED] == 5
    assert sent(node.handle(event, 0.1), HomeTest)


# Failures and the end.


def test_host_that_cannot_use_a_binding_ends_it_and_refuses_new_ones_for_a_while() -> None:
    node = make_correspondent()
    peer = bound(node)
    actions = node.handle(ActionFailed(action=SET, errno=errno.ENOBUFS), 1.0)
    assert bindings_told(actions) == [REMOVED]
    assert reports(actions, "peer-binding-removed")[0]["reason"] == "host-refused"
    refused = only_acknowledgement(node.handle(peer.update(2), 2.0))
    assert refused.status is BindingStatus.INSUFFICIENT_RESOURCES
    later = 1.0 + HOST_FAILURE_DELAY
    assert only_acknowledgement(node.handle(peer.update(3), later)).is_accepted


def test_host_failure_says_why() -> None:
    node = make_correspondent()
    bound(node)
    failed = ActionFailed(action=SET, errno=errno.EPERM, reason="not permitted")
    (removed,) = reports(node.handle(failed, 1.0), "peer-binding-removed")
    assert removed["reason"] == "not permitted"


def test_host_failure_of_something_else_changes_nothing() -> None:
    node = make_correspondent()
    bound(node)
    other = replace(SET, home_address=OTHER_HOME_ADDRESS)
    for action in (other, REMOVED, SendPacket(packet=Peer().home_test_init().packet)):
        assert node.handle(ActionFailed(action=action, errno=errno.EPERM), 1.0) == []
    assert len(node.bindings) == 1


def test_shutdown_puts_the_host_back_and_ends_all_service() -> None:
    node = make_correspondent()
    peer = bound(node)
    assert node.handle(ShutdownRequested(), 1.0) == [REMOVED]
    assert node.bindings == ()
    assert node.next_deadline() is None
    assert node.handle(peer.home_test_init(), 2.0) == []
    assert node.handle_timer(3.0) == []


def test_restarted_correspondent_tells_that_nonces_are_gone() -> None:
    peer = Peer().run_tests(make_correspondent())
    node = CorrespondentNode(
        CorrespondentNodeSettings(addresses=frozenset((CORRESPONDENT,))),
        random=Random(2),
    )
    answer = only_acknowledgement(node.handle(peer.update(), 0.0))
    assert answer.status is BindingStatus.EXPIRED_NONCES


def test_correspondent_turned_off_still_answers_home_address_options() -> None:
    node = make_correspondent(enabled=False)
    ((_, error),) = sent(node.handle(data_packet(CARE_OF_ADDRESS), 0.0), BindingError)
    assert error.status == 1


# Deadlines.


def test_correspondent_timer_forgets_nonces_and_bindings_in_time() -> None:
    node = make_correspondent()
    bound(node)
    assert node.next_deadline() == 240.0
    node.handle_timer(240.0)
    assert node.next_deadline() == 420.0
    node.handle_timer(420.0)
    assert node.next_deadline() is None


def test_update_just_before_the_nonces_end_needs_no_guard_for_long() -> None:
    node = make_correspondent()
    peer = bound(node)
    node.handle(peer.deregistration(2), 239.0)
    assert node.next_deadline() == 240.0
    node.handle_timer(240.0)
    assert node.next_deadline() is None


def entry(home_address: IPv6Address = HOME_ADDRESS) -> PeerBinding:
    return PeerBinding(
        home_address=home_address,
        correspondent=CORRESPONDENT,
        care_of_address=CARE_OF_ADDRESS,
        sequence=1,
        granted_lifetime=420.0,
        registered_at=0.0,
        updated_at=0.0,
        expires_at=420.0,
        guarded_until=240.0,
        used_at=0.0,
    )


def test_cache_that_is_full_raises_for_a_caller_that_did_not_ask() -> None:
    cache = PeerBindingCache(max_entries=1)
    cache.store(entry())
    with pytest.raises(OverflowError, match="full"):
        cache.store(entry(OTHER_HOME_ADDRESS))


def test_cache_that_is_full_does_not_guard_a_stranger() -> None:
    cache = PeerBindingCache(max_entries=1)
    cache.store(entry())
    key = PeerKey(OTHER_HOME_ADDRESS, CORRESPONDENT)
    cache.guard(key, 5, until=100.0, now=0.0)
    assert cache.last_sequence(key) is None
    assert len(cache) == 1


def test_cache_knows_care_of_addresses_as_long_as_someone_is_there() -> None:
    cache = PeerBindingCache(max_entries=2)
    first, second = entry(), entry(OTHER_HOME_ADDRESS)
    cache.store(first)
    cache.store(second)
    cache.remove(first, 300.0)
    assert cache.knows(CARE_OF_ADDRESS)
    cache.store(replace(second, care_of_address=OTHER_CARE_OF_ADDRESS))
    assert not cache.knows(CARE_OF_ADDRESS)
    assert cache.knows(OTHER_CARE_OF_ADDRESS)
    assert not cache.knows(HOME_ADDRESS)


def test_cache_entry_tells_its_remaining_lifetime() -> None:
    assert entry().remaining_lifetime(400.0) == 20.0
    assert entry().remaining_lifetime(500.0) == 0.0


def test_deregistration_that_asks_for_no_answer_gets_none() -> None:
    node = make_correspondent()
    peer = bound(node)
    actions = node.handle(peer.deregistration(2, acknowledge=False), 1.0)
    assert bindings_told(actions) == [REMOVED]
    assert not sent(actions, BindingAcknowledgement)
