"""Correspondent registration at the mobile node (RFC 6275 11.7.2 to 11.7.4, 11.3.5 and 11.3.6)."""

from __future__ import annotations

import math
from ipaddress import IPv6Address, IPv6Network
from itertools import pairwise

import pytest

from mnagent.core.actions import RemoveDirectPath, SendPacket, SetDirectPath, UseHomeLink
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.mobility.correspondent_registration import RESTART_DELAY, CorrespondentState
from mnagent.mobility.route_optimization import (
    RouteOptimizationMode,
    RouteOptimizationPolicy,
    RouteOptimizationRule,
)
from mnagent.wire.icmp6 import DestinationUnreachable, ParameterProblem
from mnagent.wire.ipv6 import DestinationOptions, HomeAddressOption, IPv6Packet, RawPayload
from mnagent.wire.mobility import (
    BindingError,
    BindingRefreshRequest,
    BindingStatus,
    BindingUpdate,
    CareOfTestInit,
    HomeTestInit,
)
from mnagent.wire.mobility_options import BindingRefreshAdvice, NonceIndices
from mnagent.wire.packet import encode_packet
from tests.support.correspondent import reference_key
from tests.support.driver import (
    CARE_OF_A,
    CARE_OF_B,
    HOME_ADDRESS,
    HOME_AGENT,
    INTERFACE,
    MobileNodeDriver,
)
from tests.support.matching import of_type, only, reports, sent
from tests.support.packets import received
from tests.support.requirement import requirement
from tests.support.return_routability import (
    CORRESPONDENT,
    HOME_INDEX,
    HOME_TOKEN,
    CorrespondentDriver,
    acknowledgement_of,
    arrives,
    care_of,
    care_of_test,
    cookie_of,
    expected_authenticator,
    home_test,
    traffic,
)

PEERS = [CORRESPONDENT + n for n in range(5)]


class Node(MobileNodeDriver):
    """A mobile node whose correspondents answer."""

    def register(self, address: IPv6Address = CARE_OF_A) -> list[object]:
        """Arrive, and have the home agent accept."""
        self.link_up()
        return [*self.visit(address), *self.acknowledge()]

    def answer_tests(self, peer: IPv6Address = CORRESPONDENT) -> list[object]:
        """Answer the newest Inits to one peer; what comes of the last answer."""
        log = [o for _, o in self.log if isinstance(o, SendPacket)]
        mine = [o for o in log if o.packet.destination == peer]
        outputs: list[object] = []
        if sent(mine, HomeTestInit):
            outputs += self.tell(home_test(cookie_of(mine, HomeTestInit), source=peer))
        action, init = sent(mine, CareOfTestInit)[-1]
        event = care_of_test(init.cookie, action.packet.source, source=peer)
        return [*outputs, *self.tell(event)]

    def answer_update(self, peer: IPv6Address = CORRESPONDENT, **fields: object) -> list[object]:
        """Answer the newest Binding Update to one peer."""
        updates = sent([o for _, o in self.log], BindingUpdate)
        packet = [a.packet for a, _ in updates if a.packet.destination == peer][-1]
        return [*self.tell(acknowledgement_of(packet, **fields))]  # type: ignore[arg-type]

    def optimize(self, peer: IPv6Address = CORRESPONDENT) -> None:
        """From the first packet to the direct path."""
        self.tell(traffic(peer))
        self.answer_tests(peer)
        only(self.answer_update(peer), SetDirectPath)


def updates_to(outputs: list[object], peer: IPv6Address = CORRESPONDENT) -> list[BindingUpdate]:
    return [u for a, u in sent(outputs, BindingUpdate) if a.packet.destination == peer]


@requirement("RFC6275-11.7.2", "MN-54")
def test_tests_leave_with_the_home_update_and_the_update_waits_for_its_answer() -> None:
    node = Node()
    node.register()
    node.optimize()
    node.now += 10
    outputs = node.visit(CARE_OF_B)
    node.tell(traffic())
    assert only(outputs, RemoveDirectPath).correspondent == CORRESPONDENT
    assert len(sent(outputs, CareOfTestInit)) == 1 and len(sent(outputs, BindingUpdate)) == 1
    assert updates_to(node.answer_tests()) == []
    outputs = node.acknowledge()
    assert len(updates_to(outputs)) == 1
    assert of_type(outputs, SetDirectPath) == []
    path = only(node.answer_update(), SetDirectPath)
    assert (path.care_of_address, path.interface) == (CARE_OF_B, INTERFACE)


@requirement("RFC6275-11.7.2", "MN-51")
def test_new_home_registration_registers_every_correspondent_in_parallel() -> None:
    node = Node()
    node.register()
    for peer in PEERS:
        node.optimize(peer)
    node.now += 300
    outputs = node.visit(CARE_OF_B)
    assert {path.correspondent for path in of_type(outputs, RemoveDirectPath)} == set(PEERS)
    inits = sent(outputs, CareOfTestInit)
    assert {action.packet.destination for action, _ in inits} == set(PEERS)
    for peer in PEERS:
        node.answer_tests(peer)
    updates = sent(node.acknowledge(), BindingUpdate)
    assert {action.packet.destination for action, _ in updates} == set(PEERS)


@requirement("RFC6275-11.7.2", "MN-52")
def test_packet_through_the_tunnel_starts_a_registration_by_policy() -> None:
    rule = RouteOptimizationRule(
        prefix=IPv6Network("2001:db8:c::/64"), mode=RouteOptimizationMode.ALWAYS
    )
    node = Node(route_optimization=RouteOptimizationPolicy(rules=(rule,)))
    node.register()
    outputs = node.tell(traffic(packets_in=1, packets_out=0))
    assert sent(outputs, HomeTestInit) and sent(outputs, CareOfTestInit)


@requirement("RFC6275-11.7.2", "MN-52")
def test_packets_that_are_only_received_start_nothing_by_default() -> None:
    node = Node()
    node.register()
    assert node.tell(traffic(packets_in=1, packets_out=0)) == []
    assert sent(node.tell(traffic(packets_in=1, packets_out=1)), HomeTestInit)


@requirement("RFC6275-11.7.2", "MN-53")
@pytest.mark.parametrize(
    ("home", "care_of_valid", "expected"),
    [(10_000, math.inf, 420), (102, math.inf, 100), (10_000, 51, 48)],
)
def test_lifetime_outlasts_neither_home_registration_nor_address_nor_420_seconds(
    home: float, care_of_valid: float, expected: float
) -> None:
    driver = CorrespondentDriver()
    where = care_of(CARE_OF_A, valid_until=driver.now + care_of_valid)
    until = driver.now + home
    driver.note(driver.registration.start(where, driver.now, home_bound_until=until))
    driver.answer_home_test()
    ((_, update),) = sent(driver.answer_care_of_test(), BindingUpdate)
    assert update.lifetime == expected


@requirement("RFC6275-8.5", "MN-55")
@pytest.mark.parametrize("is_global", [True, False])
def test_route_optimization_can_be_switched_off_globally_and_for_a_peer(is_global: bool) -> None:
    rule = RouteOptimizationRule(
        prefix=IPv6Network((CORRESPONDENT, 128)), mode=RouteOptimizationMode.NEVER
    )
    policy = (
        RouteOptimizationPolicy(default=RouteOptimizationMode.NEVER)
        if is_global
        else RouteOptimizationPolicy(rules=(rule,))
    )
    node = Node(route_optimization=policy)
    node.register()
    assert node.tell(traffic()) == []
    assert bool(node.tell(traffic(CORRESPONDENT + 1))) is not is_global
    assert reports(node.actions(), "direct-path") == []


@requirement("RFC6275-11.7.3", "MN-16")
def test_refresh_advice_of_a_correspondent_is_ignored() -> None:
    driver = CorrespondentDriver(is_permanent=True, keep_home_token_young=False)
    driver.establish(options=(BindingRefreshAdvice(8),))
    assert sent(driver.advance(350), HomeTestInit) == []
    assert sent(driver.advance(10), HomeTestInit) != []


@requirement("RFC6275-11.7.3", "MN-25")
@pytest.mark.parametrize("status", [128, 129, 130, 131, 174, 200])
def test_refusal_suspends_route_optimization_for_a_period(status: int) -> None:
    driver = CorrespondentDriver()
    outputs = driver.establish(status=status)
    assert driver.registration.state is CorrespondentState.SUSPENDED
    (details,) = reports(outputs, "route-optimization-suspended")
    assert details["seconds"] == "60"
    assert sent(driver.advance(59.9), HomeTestInit) == []
    driver.advance(0.2)
    assert driver.registration.state is CorrespondentState.IDLE


@requirement("RFC6275-11.7.3", "MN-25")
def test_refused_refresh_takes_the_direct_path_down() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.refresh_request()
    outputs = driver.acknowledge(status=129)
    assert only(outputs, RemoveDirectPath).correspondent == CORRESPONDENT


@requirement("RFC6275-11.7.3", "MN-26")
@pytest.mark.parametrize(
    ("status", "home", "away"),
    [
        (BindingStatus.EXPIRED_HOME_NONCE_INDEX, 1, 0),
        (BindingStatus.EXPIRED_CARE_OF_NONCE_INDEX, 0, 1),
        (BindingStatus.EXPIRED_NONCES, 1, 1),
    ],
)
def test_unknown_nonces_repeat_the_tests_they_came_from(
    status: BindingStatus, home: int, away: int
) -> None:
    driver = CorrespondentDriver()
    outputs = driver.establish(status=status, is_signed=False)
    assert len(sent(outputs, HomeTestInit)) == home
    assert len(sent(outputs, CareOfTestInit)) == away
    if home:
        outputs = driver.answer_home_test()
    if away:
        outputs = driver.answer_care_of_test()
    assert len(sent(outputs, BindingUpdate)) == 1
    only(driver.acknowledge(), SetDirectPath)


@requirement("RFC6275-11.3.1", "MN-31")
def test_direct_path_waits_for_the_acknowledgement_and_ends_with_the_binding() -> None:
    driver = CorrespondentDriver()
    driver.start()
    driver.answer_home_test()
    assert of_type(driver.answer_care_of_test(), SetDirectPath) == []
    path = only(driver.acknowledge(lifetime=100), SetDirectPath)
    assert path == SetDirectPath(
        home_address=HOME_ADDRESS,
        correspondent=CORRESPONDENT,
        care_of_address=CARE_OF_A,
        interface=INTERFACE,
    )
    assert of_type(driver.advance(99.9), RemoveDirectPath) == []
    assert only(driver.advance(0.2), RemoveDirectPath).correspondent == CORRESPONDENT


@requirement("RFC6275-11.7.3")
@pytest.mark.parametrize("fault", ["key", "unsigned", "sequence", "destination"])
def test_acknowledgement_that_proves_nothing_is_ignored(fault: str) -> None:
    driver = CorrespondentDriver()
    driver.start()
    driver.answer_home_test()
    driver.answer_care_of_test()
    update = driver.newest_update().payload
    assert isinstance(update, BindingUpdate)
    event = {
        "key": acknowledgement_of(driver.newest_update(), key=b"k" * 20),
        "unsigned": acknowledgement_of(driver.newest_update(), is_signed=False),
        "sequence": acknowledgement_of(driver.newest_update(), sequence=update.sequence ^ 1),
        "destination": arrives(
            acknowledgement_of(driver.newest_update()).packet.payload,  # type: ignore[arg-type]
            destination=CARE_OF_A,
        ),
    }[fault]
    assert driver.tell(event) == []
    assert driver.registration.state is CorrespondentState.UPDATING
    only(driver.acknowledge(), SetDirectPath)


@requirement("RFC6275-11.7.3")
def test_sequence_out_of_window_goes_on_after_the_number_given() -> None:
    driver = CorrespondentDriver()
    driver.start()
    driver.answer_home_test()
    driver.answer_care_of_test()
    forged = driver.acknowledge(status=135, sequence=7, is_signed=False)
    assert forged == []
    ((_, update),) = sent(driver.acknowledge(status=135, sequence=7), BindingUpdate)
    assert update.sequence == 8
    only(driver.acknowledge(), SetDirectPath)


@requirement("RFC6275-11.7.2")
def test_updates_are_numbered_from_a_random_start_and_never_twice() -> None:
    driver = CorrespondentDriver(max_failures=6)
    driver.start()
    driver.answer_home_test()
    driver.answer_care_of_test()
    driver.advance(32)
    numbers = [update.sequence for update in driver.updates()]
    assert all(later - earlier == 1 for earlier, later in pairwise(numbers))
    assert numbers[0] not in (0, 1) and len(numbers) == 6
    gaps = [later - earlier for earlier, later in pairwise(driver.times_of(BindingUpdate))]
    assert gaps == [1, 2, 4, 8, 16]


# ICMPv6 errors.


def parameter_problem(
    packet: IPv6Packet, *, code: int = 1, pointer: int = 40, source: IPv6Address = CORRESPONDENT
) -> ParameterProblem:
    return ParameterProblem(code, pointer, encode_packet(packet))


@requirement("RFC6275-11.3.5", "MN-41")
@pytest.mark.parametrize("kind", [HomeTestInit, CareOfTestInit, BindingUpdate])
def test_correspondent_that_knows_no_mobility_header_is_left_to_the_tunnel(kind: type) -> None:
    node = Node()
    node.register()
    node.tell(traffic())
    if kind is BindingUpdate:
        node.answer_tests()
    packet = sent([o for _, o in node.log], kind)[-1][0].packet
    error = received(IPv6Packet(CORRESPONDENT, packet.source, parameter_problem(packet)))
    outputs = node.tell(error)
    (details,) = reports(outputs, "route-optimization-suspended")
    assert details["reason"] == "mobility-header-not-supported"
    node.now += 30
    assert node.tell(traffic()) == []
    outputs = node.advance(31)
    assert sent(outputs, BindingUpdate if kind is BindingUpdate else HomeTestInit)


@requirement("RFC6275-11.3.5", "MN-41")
def test_movement_does_not_change_a_correspondents_mind() -> None:
    node = Node()
    node.register()
    node.tell(traffic())
    packet = sent([o for _, o in node.log], HomeTestInit)[-1][0].packet
    node.tell(received(IPv6Packet(CORRESPONDENT, HOME_ADDRESS, parameter_problem(packet))))
    node.now += 1
    assert sent(node.visit(CARE_OF_B), CareOfTestInit) == []


@requirement("RFC6275-11.3.5", "MN-42")
def test_icmp_error_from_a_node_without_an_entry_creates_none() -> None:
    node = Node()
    node.register()
    packet = IPv6Packet(CARE_OF_A, CORRESPONDENT, CareOfTestInit(b"8 octets"))
    for error in (
        parameter_problem(packet),
        ParameterProblem(1, 40, b"short"),
        DestinationUnreachable(1, encode_packet(packet)),
    ):
        assert node.tell(received(IPv6Packet(CORRESPONDENT, CARE_OF_A, error))) == []
    assert node.node.route_optimization.registrations == ()


@requirement("RFC6275-11.3.5", "MN-43")
@pytest.mark.parametrize("kind", [HomeTestInit, BindingUpdate, BindingRefreshRequest])
def test_forged_parameter_problem_is_ignored(kind: type) -> None:
    node = Node()
    node.register()
    node.optimize()
    packet = {
        HomeTestInit: IPv6Packet(HOME_ADDRESS, CORRESPONDENT, HomeTestInit(b"8 octets")),
        BindingUpdate: IPv6Packet(
            CARE_OF_A, CORRESPONDENT, BindingUpdate(sequence=1, lifetime=420)
        ),
        BindingRefreshRequest: IPv6Packet(CARE_OF_A, CORRESPONDENT, BindingRefreshRequest()),
    }[kind]
    error = parameter_problem(packet)
    assert node.tell(received(IPv6Packet(CORRESPONDENT, CARE_OF_A, error))) == []
    forged = IPv6Packet(CARE_OF_A, HOME_AGENT, BindingRefreshRequest())
    error = parameter_problem(forged)
    assert node.tell(received(IPv6Packet(HOME_AGENT, CARE_OF_A, error))) == []
    assert node.node.state == "registered"
    (registration,) = node.node.route_optimization.registrations
    assert registration.direct_address == CARE_OF_A


def option_refused(packet: IPv6Packet) -> PacketReceived:
    """The correspondent's host does not know the Home Address option in a packet."""
    pointer = encode_packet(packet).index(0xC9, 40)
    problem = parameter_problem(packet, code=2, pointer=pointer)
    return received(IPv6Packet(CORRESPONDENT, CARE_OF_A, problem))


def payload_on_the_direct_path() -> IPv6Packet:
    headers = (DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),)
    return IPv6Packet(CARE_OF_A, CORRESPONDENT, RawPayload(17, bytes(8)), extension_headers=headers)


@requirement("RFC6275-11.3.5", "MN-44")
def test_unrecognized_home_address_option_is_told_once_and_discarded() -> None:
    node = Node()
    node.register()
    node.optimize()
    node.now += 1
    outputs = node.tell(option_refused(payload_on_the_direct_path()))
    (details,) = reports(outputs, "home-address-option-refused")
    assert details == {"correspondent": str(CORRESPONDENT)}
    assert of_type(outputs, RemoveDirectPath) == []
    assert node.tell(option_refused(payload_on_the_direct_path())) == []


def test_unrecognized_home_address_option_has_the_binding_asked_for_again_now_and_then() -> None:
    node = Node()
    node.register()
    node.optimize()
    node.now += 1
    outputs = node.tell(option_refused(payload_on_the_direct_path()))
    assert len(updates_to(outputs)) == 1
    node.answer_update()
    node.now += 5
    assert node.tell(option_refused(payload_on_the_direct_path())) == []
    node.now += 5
    assert len(updates_to(node.tell(option_refused(payload_on_the_direct_path())))) == 1
    (registration,) = node.node.route_optimization.registrations
    assert registration.direct_address == CARE_OF_A


def test_unrecognized_home_address_option_of_our_update_leads_to_the_tunnel_for_a_moment() -> None:
    node = Node()
    node.register()
    node.optimize()
    node.now += 1
    outputs = node.tell(option_refused(payload_on_the_direct_path()))
    ((action, _),) = sent(outputs, BindingUpdate)
    outputs = node.tell(option_refused(action.packet))
    assert only(outputs, RemoveDirectPath).correspondent == CORRESPONDENT
    (details,) = reports(outputs, "route-optimization-suspended")
    assert details["reason"] == "home-address-option-not-supported"
    assert float(details["seconds"]) == RESTART_DELAY


# Binding Errors and Binding Refresh Requests.


@requirement("RFC6275-11.3.6", "MN-45")
@pytest.mark.parametrize("status", [1, 2])
def test_binding_error_without_an_entry_is_ignored(status: int) -> None:
    node = Node()
    node.register()
    error = BindingError(status, HOME_ADDRESS)
    assert node.tell(arrives(error, destination=CARE_OF_A)) == []
    assert node.node.route_optimization.registrations == ()


@requirement("RFC6275-11.3.6", "MN-46")
def test_binding_error_of_the_home_agent_sends_a_home_update() -> None:
    node = Node()
    node.register()
    node.now += 5
    error = BindingError(1, HOME_ADDRESS)
    ((_, update),) = sent(
        node.tell(arrives(error, source=HOME_AGENT, destination=CARE_OF_A)), BindingUpdate
    )
    assert update.home_registration


@requirement("RFC6275-11.3.6", "MN-47")
def test_unknown_binding_without_progress_uses_the_tunnel_and_tests_again() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    outputs = driver.binding_error(1)
    assert only(outputs, RemoveDirectPath).correspondent == CORRESPONDENT
    assert sent(outputs, HomeTestInit) and sent(outputs, CareOfTestInit)
    assert driver.registration.entry is None


@requirement("RFC6275-11.3.6", "MN-48")
def test_unknown_binding_with_recent_progress_is_ignored_for_a_while() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.note_traffic(packets_in=1, packets_out=0, direct=True)
    assert driver.binding_error(1) == []
    driver.now += 3
    assert of_type(driver.binding_error(1), RemoveDirectPath)


@requirement("RFC6275-11.3.6", "MN-48")
@pytest.mark.parametrize(
    "fields", [{"destination": CARE_OF_B}, {"home_address": CARE_OF_B}, {"status": 9}]
)
def test_binding_error_about_something_else_is_ignored(fields: dict[str, object]) -> None:
    driver = CorrespondentDriver()
    driver.establish()
    assert driver.binding_error(**fields) == []  # type: ignore[arg-type]
    assert driver.registration.direct_address == CARE_OF_A


@requirement("RFC6275-11.3.6", "MN-49")
def test_unrecognized_message_type_ceases_the_attempt_that_awaits_an_answer() -> None:
    driver = CorrespondentDriver()
    driver.start()
    (details,) = reports(driver.binding_error(2), "route-optimization-suspended")
    assert details["reason"] == "message-type-not-supported"


@requirement("RFC6275-11.3.6", "MN-49")
def test_unrecognized_message_type_is_ignored_when_nothing_is_awaited() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    assert driver.binding_error(2) == []
    assert driver.registration.state is CorrespondentState.BOUND


@requirement("RFC6275-11.3.6", "MN-49")
def test_unrecognized_message_type_from_a_node_that_may_have_a_binding_is_ignored() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.binding_error(1)
    assert driver.binding_error(2) == []
    assert driver.registration.state is CorrespondentState.TESTING
    assert driver.registration.drops[DropReason.UNEXPECTED_MESSAGE] == 1


@requirement("RFC6275-11.3.6", "MN-47")
def test_unknown_binding_that_may_be_forged_leaves_a_binding_to_be_told_of_movements() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.binding_error(1)
    assert driver.registration.must_be_told(CARE_OF_B, driver.now)
    driver.now += 420
    assert not driver.registration.must_be_told(CARE_OF_B, driver.now)


@requirement("RFC6275-11.7.4", "MN-50")
def test_refresh_request_with_young_tokens_sends_an_update_at_once() -> None:
    driver = CorrespondentDriver()
    driver.establish()
    driver.advance(50)
    ((_, update),) = sent(driver.refresh_request(), BindingUpdate)
    assert update.lifetime == 420
    driver.acknowledge()
    assert driver.registration.remaining(driver.now) == 420
    assert driver.all(RemoveDirectPath) == []


@requirement("RFC6275-11.7.4", "MN-50")
def test_refresh_request_with_old_tokens_runs_the_tests_first() -> None:
    driver = CorrespondentDriver(keep_home_token_young=False)
    driver.establish()
    driver.advance(250)
    outputs = driver.refresh_request()
    assert sent(outputs, HomeTestInit) and sent(outputs, CareOfTestInit)
    assert of_type(outputs, RemoveDirectPath) == []
    driver.answer_home_test()
    assert sent(driver.answer_care_of_test(), BindingUpdate)


@requirement("RFC6275-11.7.4", "MN-50")
def test_refresh_request_without_a_binding_is_ignored() -> None:
    node = Node()
    node.register()
    request = arrives(BindingRefreshRequest(), tunnel_source=HOME_AGENT)
    assert node.tell(request) == []
    driver = CorrespondentDriver()
    driver.start()
    assert driver.refresh_request() == []
    assert driver.registration.drops[DropReason.NO_BINDING] == 1


# Return home.


@requirement("RFC6275-11.7.2", "RR-10", "RET-09")
@pytest.mark.parametrize("absence", [20.0, 250.0])
def test_return_home_deregisters_with_the_home_token_alone(absence: float) -> None:
    node = Node()
    node.register()
    node.optimize()
    node.now += absence
    outputs = node.come_home()
    assert only(outputs, RemoveDirectPath).correspondent == CORRESPONDENT
    assert updates_to(outputs) == [] and sent(outputs, HomeTestInit) == []
    node.advance(4)
    outputs = node.acknowledge()
    only(outputs, UseHomeLink)
    if absence > 210:
        ((action, init),) = sent(outputs, HomeTestInit)
        assert action.packet.source == HOME_ADDRESS
        outputs = node.tell(home_test(init.cookie, tunnel_source=None))
    assert sent([o for _, o in node.log][-20:], CareOfTestInit) == []
    ((action, update),) = [
        (a, u) for a, u in sent(outputs, BindingUpdate) if a.packet.destination == CORRESPONDENT
    ]
    assert action.packet.source == HOME_ADDRESS and action.packet.extension_headers == ()
    assert update.lifetime == 0 and update.options[0] == NonceIndices(HOME_INDEX, 0)
    key = reference_key(HOME_TOKEN)
    expected = expected_authenticator(action.packet, key, HOME_ADDRESS)
    assert update.options[1].authenticator == expected  # type: ignore[union-attr]
    outputs = node.answer_update()
    assert reports(outputs, "correspondent-deregistered")
    assert node.node.route_optimization.registrations == ()
