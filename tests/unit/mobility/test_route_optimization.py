"""The manager of correspondents: policy, table, pace and places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any

import pytest

from mnagent.core.actions import JournalRecord, RemoveDirectPath, SendPacket, SetDirectPath
from mnagent.core.events import ActionFailed, PacketReceived, TrafficSeen
from mnagent.core.indications import Output
from mnagent.mobility import route_optimization
from mnagent.mobility.correspondent_registration import (
    CorrespondentRegistrationSettings,
    CorrespondentState,
)
from mnagent.mobility.route_optimization import (
    MAX_CORRESPONDENTS,
    MAX_REFUSED_PEERS,
    START_BURST,
    RouteOptimization,
    RouteOptimizationMode,
    RouteOptimizationPolicy,
    RouteOptimizationRule,
)
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import (
    BindingRefreshRequest,
    BindingUpdate,
    CareOfTestInit,
    HomeTestInit,
)
from tests.support.driver import CARE_OF_A, CARE_OF_B, HOME_ADDRESS, HOME_AGENT, Driver
from tests.support.matching import of_type, only, sent
from tests.support.packets import received
from tests.support.requirement import requirement
from tests.support.return_routability import (
    CORRESPONDENT,
    acknowledgement_of,
    care_of,
    care_of_test,
    cookie_of,
    home_test,
    traffic,
)

NEVER, ALWAYS = RouteOptimizationMode.NEVER, RouteOptimizationMode.ALWAYS


def rule(mode: RouteOptimizationMode, prefix: object = "::/0", **fields: Any) -> Any:
    return RouteOptimizationRule(prefix=IPv6Network(prefix), mode=mode, **fields)  # type: ignore[arg-type]


class Manager(Driver):
    """Route optimization and correspondents that answer."""

    def __init__(
        self,
        *rules: RouteOptimizationRule,
        is_away: bool = True,
        told: Mapping[IPv6Address, float] | None = None,
        **settings: Any,
    ) -> None:
        self.manager = RouteOptimization(
            CorrespondentRegistrationSettings(
                home_address=HOME_ADDRESS, home_agent_address=HOME_AGENT, **settings
            ),
            RouteOptimizationPolicy(rules=rules),
            random=Random(1),
            told=told or {},
        )
        super().__init__(self.manager)
        if is_away:
            self.move()
            self.home_registered()

    def move(self, address: IPv6Address = CARE_OF_A, **fields: Any) -> list[Output]:
        return self.note(self.manager.move(care_of(address, **fields), self.now))

    def home_registered(self, address: IPv6Address = CARE_OF_A) -> list[Output]:
        return self.note(self.manager.home_registered(address, self.now + 10_000, self.now))

    def tell(self, event: PacketReceived) -> list[Output]:
        return self.note(self.manager.handle(event, self.now))

    def see(self, peer: IPv6Address = CORRESPONDENT, **fields: Any) -> list[Output]:
        return self.note(self.manager.handle(traffic(peer, **fields), self.now))

    def answer_tests(self, peer: IPv6Address = CORRESPONDENT) -> list[Output]:
        log = [output for _, output in self.log]
        homes = [p for p in sent(log, HomeTestInit) if p[0].packet.destination == peer]
        aways = [p for p in sent(log, CareOfTestInit) if p[0].packet.destination == peer]
        self.tell(home_test(homes[-1][1].cookie, source=peer))
        action, init = aways[-1]
        return self.tell(care_of_test(init.cookie, action.packet.source, source=peer))

    def answer_update(self, peer: IPv6Address = CORRESPONDENT, **fields: Any) -> list[Output]:
        log = [output for _, output in self.log]
        updates = [a for a, _ in sent(log, BindingUpdate) if a.packet.destination == peer]
        return self.tell(acknowledgement_of(updates[-1].packet, **fields))

    def answer_care_of_only(self, address: IPv6Address) -> list[Output]:
        log = [output for _, output in self.log]
        return self.tell(care_of_test(cookie_of(log, CareOfTestInit), address))

    def next_timer(self) -> float | None:
        return self.manager.next_deadline()

    def bind(self, peer: IPv6Address = CORRESPONDENT) -> None:
        self.see(peer)
        self.answer_tests(peer)
        only(self.answer_update(peer), SetDirectPath)

    def state_of(self, peer: IPv6Address = CORRESPONDENT) -> str | None:
        states = {s.correspondent: s.state for s in self.manager.status(self.now)}
        return states.get(peer)

    def reason_of(self, peer: IPv6Address = CORRESPONDENT) -> str | None:
        return {s.correspondent: s.reason for s in self.manager.status(self.now)}[peer]


def with_local(event: TrafficSeen, local: IPv6Address) -> TrafficSeen:
    return replace(event, local=local)


def peers(number: int) -> list[IPv6Address]:
    return [CORRESPONDENT + n for n in range(number)]


# Policy.


@pytest.mark.parametrize(
    "peer", [HOME_AGENT, HOME_ADDRESS, "fe80::1", "ff02::1", "ff0e::1", "::1", "::"]
)
def test_addresses_that_cannot_be_correspondents_are_never_optimized(peer: object) -> None:
    manager = Manager(rule(ALWAYS))
    assert manager.see(IPv6Address(peer)) == []  # type: ignore[arg-type]
    assert manager.reason_of(IPv6Address(peer)) == "policy"  # type: ignore[arg-type]


def test_first_matching_rule_decides() -> None:
    policy = RouteOptimizationPolicy(
        rules=(
            rule(NEVER, "2001:db8:c::/48", ports=((25, 25), (5000, 5010))),
            rule(ALWAYS, "2001:db8:c::/48"),
        )
    )
    assert policy.mode_of(CORRESPONDENT, 25) is NEVER
    assert policy.mode_of(CORRESPONDENT, 5005) is NEVER
    assert policy.mode_of(CORRESPONDENT, 5011) is ALWAYS
    assert policy.mode_of(CORRESPONDENT) is ALWAYS
    assert policy.mode_of(CARE_OF_A) is RouteOptimizationMode.ON_TRAFFIC


def test_single_address_to_be_always_optimized_is_bound_without_traffic() -> None:
    manager = Manager(
        rule(ALWAYS, f"{CORRESPONDENT}/128"),
        rule(ALWAYS, "2001:db8:d::/64"),
        rule(ALWAYS, "2001:db8:d::1/128", ports=((1, 2),)),
        rule(NEVER, "2001:db8:d::2/128"),
        is_away=False,
    )
    outputs = manager.move()
    assert {a.packet.destination for a, _ in sent(outputs, HomeTestInit)} == {CORRESPONDENT}
    manager.home_registered()
    manager.answer_tests()
    manager.answer_update()
    manager.advance(10_000)
    assert manager.state_of() == "suspended"  # Nobody answered the refresh; it is tried for ever.
    manager.move(CARE_OF_B)
    assert len(manager.manager.registrations) == 1


def test_always_starts_on_a_packet_received_and_outlives_traffic() -> None:
    manager = Manager(rule(ALWAYS))
    assert sent(manager.see(packets_in=1, packets_out=0), HomeTestInit)
    (registration,) = manager.manager.registrations
    manager.now += 10_000
    assert registration.is_active(manager.now)


def test_never_for_a_port_brings_the_peer_back_and_keeps_it_until_the_port_is_quiet() -> None:
    manager = Manager(rule(NEVER, ports=((25, 25),)))
    manager.bind()
    outputs = manager.see(destination_port=25)
    assert only(outputs, RemoveDirectPath).correspondent == CORRESPONDENT
    ((_, update),) = sent(outputs, BindingUpdate)
    assert update.lifetime == 0
    assert manager.reason_of() == "policy"
    assert manager.see(destination_port=25) == []
    assert manager.see(destination_port=80) == []
    manager.answer_update()
    assert manager.state_of() == "not-optimized" and manager.reason_of() == "policy"
    manager.now += 60
    assert sent(manager.see(destination_port=80), HomeTestInit)


def test_peer_forbidden_in_the_middle_of_its_tests_is_let_go() -> None:
    manager = Manager(rule(NEVER, ports=((25, 25),)))
    manager.see(destination_port=80)
    assert manager.see(destination_port=25) == []
    assert manager.manager.registrations == () and manager.next_timer() is None


def test_withdrawn_peer_allowed_again_while_it_deregisters_is_registered_after() -> None:
    manager = Manager(rule(NEVER, ports=((25, 25),)))
    manager.bind()
    manager.see(destination_port=25)
    manager.now += 60
    assert manager.see(destination_port=80) == []
    outputs = manager.answer_update()
    assert sent(outputs, CareOfTestInit) or sent(outputs, BindingUpdate)


def test_memory_of_forbidden_and_refused_peers_is_bounded() -> None:
    manager = Manager(rule(NEVER))
    for peer in peers(MAX_CORRESPONDENTS + 10):
        manager.see(peer)
    assert len(manager.manager.status(manager.now)) == MAX_REFUSED_PEERS
    assert len(manager.manager._forbidden_until) == MAX_CORRESPONDENTS


# The table.


def test_table_evicts_the_quietest_peer_without_a_binding(monkeypatch: Any) -> None:
    monkeypatch.setattr(route_optimization, "MAX_CORRESPONDENTS", 3)
    manager = Manager()
    bound, quiet, busy, new = peers(4)
    manager.bind(bound)
    for peer in (quiet, busy):
        manager.now += 1
        manager.see(peer)
    manager.tell(home_test(b"8 octets", source=quiet))
    manager.now += 1
    manager.see(quiet)
    manager.see(busy)
    manager.now += 1
    manager.see(busy)
    assert sent(manager.see(new), HomeTestInit)
    assert {r.correspondent for r in manager.manager.registrations} == {bound, busy, new}
    assert sum(manager.manager.drops.values()) == 1


def test_table_full_of_bindings_leaves_the_newcomer_in_the_tunnel(monkeypatch: Any) -> None:
    monkeypatch.setattr(route_optimization, "MAX_CORRESPONDENTS", 2)
    manager = Manager()
    first, second, new = peers(3)
    manager.bind(first)
    manager.bind(second)
    assert manager.see(new) == []
    assert manager.reason_of(new) == "table-full"


def test_flood_of_peers_is_paced_and_the_table_stays_bounded() -> None:
    manager = Manager()
    outputs = [o for peer in peers(2000) for o in manager.see(peer)]
    assert len(sent(outputs, HomeTestInit)) == START_BURST
    assert len(manager.manager.registrations) == MAX_CORRESPONDENTS
    outputs = manager.advance(0.5)
    assert 40 <= len(sent(outputs, HomeTestInit)) <= 51


def test_handover_with_many_peers_registers_all_in_parallel_the_liveliest_first() -> None:
    manager = Manager()
    everybody = peers(100)
    for peer in everybody:
        manager.bind(peer)
        manager.now += 0.1
    outputs = manager.move(CARE_OF_B)
    assert len(of_type(outputs, RemoveDirectPath)) == 100
    inits = sent(outputs, CareOfTestInit)
    assert len(inits) == START_BURST and inits[0][0].packet.destination == everybody[-1]
    outputs = manager.advance(0.5)
    assert len(sent(outputs, CareOfTestInit)) == 100 - START_BURST
    manager.advance(0.01)
    assert manager.manager._waits_until is None


def test_peers_that_wait_for_their_turn_are_forgotten_by_a_movement() -> None:
    manager = Manager()
    for peer in peers(100):
        manager.see(peer)
    assert manager.manager.suspend() == []
    assert manager.next_timer() is None


# Places.


def test_traffic_is_looked_at_while_away_and_of_the_home_address_only() -> None:
    manager = Manager(is_away=False)
    assert manager.see() == []
    manager.move()
    other = traffic(CORRESPONDENT)
    assert manager.manager.handle(with_local(other, CARE_OF_A), manager.now) == []
    assert sent(manager.see(), HomeTestInit)


def test_movement_to_the_same_address_only_updates_its_lifetime() -> None:
    manager = Manager()
    manager.see()
    assert manager.move(CARE_OF_A, valid_until=manager.now + 50) == []
    manager.answer_tests()
    assert manager.updates()[-1].lifetime == 48


def test_home_registration_of_another_address_is_not_taken() -> None:
    manager = Manager()
    manager.bind()
    manager.move(CARE_OF_B)
    assert manager.home_registered(CARE_OF_A) == []
    manager.answer_care_of_only(CARE_OF_B)
    assert len(manager.updates()) == 1
    assert len(sent(manager.home_registered(CARE_OF_B), BindingUpdate)) == 1


def test_home_registration_lost_holds_new_updates_back() -> None:
    manager = Manager()
    manager.see()
    manager.manager.home_lost()
    assert sent(manager.answer_tests(), BindingUpdate) == []
    assert manager.state_of() == "waiting-for-home-agent"


def test_quiet_peer_with_a_binding_is_told_of_a_movement_and_one_without_is_let_go() -> None:
    manager = Manager()
    bound, unbound = peers(2)
    manager.bind(bound)
    manager.see(unbound)
    manager.now += 100
    outputs = manager.move(CARE_OF_B)
    assert {a.packet.destination for a, _ in sent(outputs, CareOfTestInit)} == {bound}
    assert {r.correspondent for r in manager.manager.registrations} == {bound}


def test_no_link_takes_the_direct_paths_down_and_says_so() -> None:
    manager = Manager()
    manager.bind()
    assert only(manager.manager.suspend(), RemoveDirectPath).correspondent == CORRESPONDENT
    assert manager.reason_of() == "no-care-of-address"
    manager.move()
    assert only(manager.home_registered(), SetDirectPath).care_of_address == CARE_OF_A


def test_expiry_without_a_link_keeps_the_peer_until_there_is_one() -> None:
    manager = Manager()
    manager.bind()
    manager.manager.suspend()
    manager.advance(500)
    assert len(manager.manager.registrations) == 1
    manager.move()
    assert manager.manager.registrations == ()


def test_return_home_deregisters_who_may_be_bound_and_lets_the_others_go() -> None:
    manager = Manager()
    bound, unbound = peers(2)
    manager.bind(bound)
    manager.see(unbound)
    outputs = manager.note(manager.manager.return_home(manager.now))
    ((action, update),) = sent(outputs, BindingUpdate)
    assert action.packet.source == HOME_ADDRESS and update.lifetime == 0
    assert manager.reason_of(bound) == "at-home"
    assert manager.manager.return_home(manager.now) == []
    assert {r.correspondent for r in manager.manager.registrations} == {bound}
    manager.answer_update(bound)
    assert manager.manager.registrations == ()


@requirement("RFC6275-11.7.2", "MN-12", "CN-52")
def test_peer_met_again_after_it_was_forgotten_gets_a_higher_number() -> None:
    manager = Manager()
    manager.bind()
    manager.note(manager.manager.return_home(manager.now))
    manager.answer_update()
    assert manager.manager.registrations == ()
    manager.move()
    manager.home_registered()
    manager.bind()
    numbers = [u.sequence for _, u in sent([o for _, o in manager.log], BindingUpdate)]
    assert numbers == [(numbers[0] + n) % 65536 for n in range(3)]


def test_deregistration_at_home_without_an_answer_is_tried_again_until_the_binding_ends() -> None:
    manager = Manager()
    manager.bind()
    manager.note(manager.manager.return_home(manager.now))
    outputs = manager.advance(600)
    assert sent(outputs, HomeTestInit) or sent(outputs, BindingUpdate)
    assert manager.manager.registrations == ()


def test_failure_on_the_address_left_does_not_keep_a_peer_in_the_tunnel() -> None:
    manager = Manager()
    manager.see()
    manager.advance(10)
    assert manager.state_of() == "suspended" and manager.reason_of() == "no-answer-to-tests"
    assert sent(manager.move(CARE_OF_B), CareOfTestInit)
    assert manager.reason_of() == "in-progress"


def test_shutdown_says_goodbye_where_it_can() -> None:
    manager = Manager()
    manager.bind()
    outputs = manager.manager.shut_down(manager.now)
    assert of_type(outputs, RemoveDirectPath)
    ((_, update),) = sent(outputs, BindingUpdate)
    assert update.lifetime == 0
    assert manager.manager.registrations == () and manager.next_timer() is None


def test_shutdown_at_home_says_nothing() -> None:
    manager = Manager()
    manager.bind()
    manager.manager.return_home(manager.now)
    assert manager.manager.shut_down(manager.now) == []


# For people.


def test_status_tells_path_lifetime_and_ages_and_no_token() -> None:
    manager = Manager()
    manager.bind()
    manager.now += 7
    (status,) = manager.manager.status(manager.now)
    assert status.is_direct and status.reason is None and status.care_of_address == CARE_OF_A
    assert status.lifetime_remaining == 413
    assert status.home_token_age == status.care_of_token_age == 7
    assert "TOKN" not in repr(status)
    assert status.state == CorrespondentState.BOUND.value


def test_status_of_a_peer_that_was_refused_once_is_told_once() -> None:
    manager = Manager(rule(NEVER, ports=((25, 25),)))
    manager.bind()
    manager.see(destination_port=25)
    assert len(manager.manager.status(manager.now)) == 1


def test_direct_path_the_host_could_not_set_leaves_the_peer_to_the_tunnel() -> None:
    manager = Manager()
    manager.bind()
    path = only([output for _, output in manager.log], SetDirectPath)
    failed = ActionFailed(action=path, errno=19)
    outputs = manager.note(manager.manager.handle_failure(failed, manager.now))
    assert only(outputs, RemoveDirectPath).correspondent == CORRESPONDENT
    assert manager.reason_of() == "direct-path-not-possible"
    assert manager.manager.handle_failure(failed, manager.now) == []


def test_failure_of_another_action_or_for_an_unknown_peer_means_nothing_here() -> None:
    manager = Manager()
    manager.bind()
    path = only([output for _, output in manager.log], SetDirectPath)
    stranger = replace(path, correspondent=HOME_AGENT)
    removal = RemoveDirectPath(home_address=HOME_ADDRESS, correspondent=CORRESPONDENT)
    for action in (stranger, removal):
        failed = ActionFailed(action=action, errno=19)
        assert manager.manager.handle_failure(failed, manager.now) == []
    assert manager.state_of() == "bound"


def test_movement_of_a_peer_counts_only_while_something_is_under_way_to_it() -> None:
    manager = Manager()
    assert manager.manager.peer_moved(CORRESPONDENT, manager.now) == []
    manager.see()
    assert sent(manager.manager.peer_moved(CORRESPONDENT, manager.now), CareOfTestInit)


# What an earlier run told.


def records(outputs: Iterable[object]) -> list[tuple[str, bool]]:
    """Whose records, and whether they were made."""
    return [
        (each.key.rpartition(".")[2], each.value is not None)
        for each in of_type(outputs, JournalRecord)
    ]


def test_peer_that_may_be_bound_since_an_earlier_run_is_told_where_we_are() -> None:
    manager = Manager(told={CORRESPONDENT: 1400.0})
    manager.answer_tests()
    only(manager.answer_update(), SetDirectPath)
    ((action, update),) = sent(manager.all(SendPacket), BindingUpdate)
    assert action.packet.source == CARE_OF_A and update.lifetime > 0


def test_peer_bound_since_an_earlier_run_is_deregistered_where_the_policy_forbids_it_now() -> None:
    manager = Manager(rule(NEVER), told={CORRESPONDENT: 1400.0})
    init = cookie_of(manager.all(SendPacket), HomeTestInit)
    ((_, update),) = sent(manager.tell(home_test(init)), BindingUpdate)
    assert update.lifetime == 0
    assert records(manager.answer_update()) == [(str(CORRESPONDENT), False)]
    assert manager.manager.registrations == ()


def test_binding_of_an_earlier_run_that_is_over_is_forgotten() -> None:
    manager = Manager(told={CORRESPONDENT: 999.0})
    assert records(manager.all(JournalRecord)) == [(str(CORRESPONDENT), False)]
    assert manager.manager.registrations == ()


def test_more_bindings_of_an_earlier_run_than_there_is_room_for_are_forgotten() -> None:
    told = dict.fromkeys(peers(MAX_CORRESPONDENTS + 1), 1400.0)
    manager = Manager(told=told)
    last = str(peers(MAX_CORRESPONDENTS + 1)[-1])
    assert records(manager.all(JournalRecord)) == [(last, False)]
    assert len(manager.manager.registrations) == MAX_CORRESPONDENTS


def test_record_is_made_with_the_update_and_goes_with_the_binding() -> None:
    manager = Manager()
    manager.bind()
    assert records(manager.all(JournalRecord)) == [(str(CORRESPONDENT), True)]
    outputs = manager.advance(500)
    assert records(outputs)[-1] == (str(CORRESPONDENT), False)
    assert manager.manager.registrations == ()
    idle = Manager()
    idle.see()
    assert records(idle.advance(500)) == []


def test_many_updates_in_a_short_time_are_one_record_that_outlasts_them_all() -> None:
    manager = Manager()
    manager.bind()
    for _ in range(20):
        manager.advance(1)
        manager.tell(received(IPv6Packet(CORRESPONDENT, HOME_ADDRESS, BindingRefreshRequest())))
        manager.answer_update()
    updates = sent(manager.all(SendPacket), BindingUpdate)
    assert len(updates) > 15
    (record,) = manager.all(JournalRecord)
    last = manager.manager.registrations[0]
    assert 1000.0 + float(record.value or 0) > manager.now + last.remaining(manager.now)
    for _ in range(20):
        manager.advance(5)
        manager.tell(received(IPv6Packet(CORRESPONDENT, HOME_ADDRESS, BindingRefreshRequest())))
        manager.answer_update()
    assert 2 <= len(manager.all(JournalRecord)) <= 3


def test_record_goes_with_the_goodbye() -> None:
    manager = Manager()
    manager.bind()
    outputs = manager.note(manager.manager.shut_down(manager.now))
    assert sent(outputs, BindingUpdate)
    assert records(outputs)[-1] == (str(CORRESPONDENT), False)
