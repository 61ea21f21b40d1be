"""The two address tests, one at a time."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from mnagent.core.actions import SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.mobility.constants import MAX_TOKEN_LIFETIME
from mnagent.mobility.return_routability import (
    AddressesTested,
    AddressTestOutput,
    AddressTestsFailed,
    ReturnRoutability,
)
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import (
    BindingRefreshRequest,
    CareOfTestInit,
    HomeTestInit,
)
from tests.support.driver import CARE_OF_A, CARE_OF_B, HOME_ADDRESS, HOME_AGENT, INTERFACE
from tests.support.matching import kinds, sent
from tests.support.return_routability import (
    CARE_OF_TOKEN,
    CORRESPONDENT,
    HOME_INDEX,
    HOME_TOKEN,
    arrives,
    care_of,
    care_of_test,
    cookie_of,
    home_test,
)


class TestsDriver:
    """The machine and its clock."""

    __test__ = False

    def __init__(self, **options: int) -> None:
        self.now = 1000.0
        self.machine = ReturnRoutability(
            home_address=HOME_ADDRESS,
            home_agent_address=HOME_AGENT,
            correspondent=CORRESPONDENT,
            random=Random(1),
            **options,
        )
        self.log: list[tuple[float, AddressTestOutput]] = []

    def note(self, outputs: list[AddressTestOutput]) -> list[AddressTestOutput]:
        self.log += [(self.now, output) for output in outputs]
        return outputs

    def start(self, address: object = CARE_OF_A, **options: bool) -> list[AddressTestOutput]:
        where = None if address is None else care_of(address)  # type: ignore[arg-type]
        return self.note(self.machine.start(where, self.now, **options))

    def tell(self, event: PacketReceived) -> list[AddressTestOutput] | DropReason:
        given = self.machine.handle(event, self.now)
        return given if isinstance(given, DropReason) else self.note(given)

    def home_cookie(self) -> bytes:
        return cookie_of([output for _, output in self.log], HomeTestInit)

    def care_of_cookie(self) -> bytes:
        return cookie_of([output for _, output in self.log], CareOfTestInit)

    def advance(self, duration: float) -> list[AddressTestOutput]:
        end = self.now + duration
        outputs: list[AddressTestOutput] = []
        while (deadline := self.machine.next_deadline()) is not None and deadline <= end:
            self.now = deadline
            outputs += self.note(self.machine.handle_timer(self.now))
        self.now = end
        return outputs

    def pass_both(self) -> None:
        self.start()
        self.tell(home_test(self.home_cookie()))
        assert self.tell(care_of_test(self.care_of_cookie())) == [AddressesTested()]

    def times_of(self, kind: type) -> list[float]:
        return [at for at, output in self.log if sent([output], kind)]


def test_tests_passed_give_both_tokens_with_their_indices() -> None:
    driver = TestsDriver()
    driver.pass_both()
    home, care_of_token = (
        driver.machine.home_token(driver.now),
        driver.machine.care_of_token(driver.now),
    )
    assert home is not None and care_of_token is not None
    assert (home.value, home.nonce_index) == (HOME_TOKEN, HOME_INDEX)
    assert care_of_token.value == CARE_OF_TOKEN
    assert not driver.machine.is_running


def test_token_never_shows_its_value() -> None:
    driver = TestsDriver()
    driver.pass_both()
    assert HOME_TOKEN.decode() not in repr(driver.machine.home_token(driver.now))


def test_tests_with_both_tokens_young_pass_without_a_message() -> None:
    driver = TestsDriver()
    driver.pass_both()
    driver.now += MAX_TOKEN_LIFETIME - 0.1
    assert driver.start() == [AddressesTested()]


def test_tests_with_old_tokens_run_again() -> None:
    driver = TestsDriver()
    driver.pass_both()
    driver.now += MAX_TOKEN_LIFETIME
    assert len(driver.start()) == 2


def test_token_age_counts_from_when_its_init_left() -> None:
    driver = TestsDriver()
    driver.start()
    driver.now += 0.5
    driver.tell(home_test(driver.home_cookie()))
    token = driver.machine.home_token(driver.now)
    assert token is not None and token.age(driver.now) == pytest.approx(0.5)


def test_home_token_that_ages_during_the_care_of_test_is_fetched_again() -> None:
    driver = TestsDriver()
    driver.pass_both()
    driver.now += MAX_TOKEN_LIFETIME - 0.5
    driver.start(CARE_OF_B)
    driver.now += 0.6
    outputs = driver.tell(care_of_test(driver.care_of_cookie(), CARE_OF_B))
    assert not isinstance(outputs, DropReason)
    assert len(sent(outputs, HomeTestInit)) == 1
    assert driver.tell(home_test(driver.home_cookie())) == [AddressesTested()]


def test_tests_at_home_ask_for_the_home_token_without_a_tunnel() -> None:
    driver = TestsDriver()
    (output,) = driver.start(None)
    assert sent([output], HomeTestInit)
    event = home_test(driver.home_cookie(), tunnel_source=None)
    assert driver.tell(event) == [AddressesTested()]


def test_home_test_at_home_through_a_tunnel_of_another_is_refused() -> None:
    driver = TestsDriver()
    driver.start(None)
    event = home_test(driver.home_cookie(), tunnel_source=CARE_OF_B)
    assert driver.tell(event) is DropReason.NOT_THROUGH_TUNNEL


def test_tests_for_a_deregistration_away_ask_for_the_home_token_alone() -> None:
    driver = TestsDriver()
    (output,) = driver.start(CARE_OF_A, home_only=True)
    assert sent([output], HomeTestInit)
    event = home_test(driver.home_cookie(), tunnel_source=None)
    assert driver.tell(event) is DropReason.NOT_THROUGH_TUNNEL
    assert driver.tell(home_test(driver.home_cookie())) == [AddressesTested()]


def test_home_token_refreshed_ahead_of_need_tells_nobody() -> None:
    driver = TestsDriver()
    driver.pass_both()
    driver.now += 100
    first = driver.home_cookie()
    assert kinds(driver.note(driver.machine.refresh_home_token(driver.now))) == ["SendPacket"]
    assert driver.machine.refresh_home_token(driver.now) == []
    assert driver.tell(home_test(first)) is DropReason.WRONG_COOKIE
    assert driver.tell(home_test(driver.home_cookie(), token=b"8 octets")) == []
    token = driver.machine.home_token(driver.now)
    assert token is not None and token.value == b"8 octets"


def test_home_token_refresh_without_an_answer_keeps_the_old_token() -> None:
    driver = TestsDriver()
    driver.pass_both()
    driver.note(driver.machine.refresh_home_token(driver.now))
    assert AddressTestsFailed() not in driver.advance(30)
    assert not driver.machine.is_running
    assert driver.machine.home_token(driver.now) is not None


def test_home_token_refresh_over_the_rate_limit_waits() -> None:
    driver = TestsDriver()
    for _ in range(3):
        driver.start()
    driver.machine.stop()
    assert driver.machine.refresh_home_token(driver.now) == []
    assert driver.machine.is_running


def test_tests_that_are_stopped_await_nothing() -> None:
    driver = TestsDriver()
    driver.start()
    cookie = driver.home_cookie()
    driver.machine.stop()
    assert driver.machine.next_deadline() is None
    assert driver.tell(home_test(cookie)) is DropReason.UNEXPECTED_MESSAGE


def test_tokens_that_are_forgotten_are_fetched_again() -> None:
    driver = TestsDriver()
    driver.pass_both()
    driver.machine.forget_home_token()
    assert len(sent(driver.start(), HomeTestInit)) == 1
    driver.tell(home_test(driver.home_cookie()))
    driver.machine.forget_care_of_token()
    outputs = driver.start()
    assert kinds(outputs) == ["SendPacket"] and sent(outputs, CareOfTestInit)


def test_another_message_is_not_for_the_tests() -> None:
    driver = TestsDriver()
    driver.start()
    assert driver.tell(arrives(BindingRefreshRequest())) is DropReason.UNEXPECTED_MESSAGE


def test_back_off_of_more_tries_than_usual_ends_at_32_seconds() -> None:
    driver = TestsDriver(max_failures=9)
    driver.start()
    outputs = driver.advance(300)
    assert outputs[-1] == AddressTestsFailed()
    gaps = [later - earlier for earlier, later in pairwise(driver.times_of(CareOfTestInit))]
    assert gaps == [1, 2, 4, 8, 16, 32, 32, 32]


def test_timer_that_is_early_does_nothing() -> None:
    driver = TestsDriver()
    driver.start()
    assert driver.machine.handle_timer(driver.now) == []


def test_rate_limit_lets_three_inits_of_a_type_out_within_a_second() -> None:
    driver = TestsDriver()
    outputs = [output for _ in range(4) for output in driver.start()]
    assert len(sent(outputs, HomeTestInit)) == len(sent(outputs, CareOfTestInit)) == 3
    later = driver.advance(1.0)
    assert len(sent(later, HomeTestInit)) == len(sent(later, CareOfTestInit)) == 1
    assert driver.tell(home_test(driver.home_cookie())) == []


def test_quoted_init_is_known_by_addresses_and_cookie() -> None:
    driver = TestsDriver()
    assert not driver.machine.has_sent(
        IPv6Packet(CARE_OF_A, CORRESPONDENT, CareOfTestInit(b"8" * 8))
    )
    outputs = driver.start()
    packets = [output.packet for output in outputs if isinstance(output, SendPacket)]
    assert all(driver.machine.has_sent(packet) for packet in packets)
    home, away = HomeTestInit(driver.home_cookie()), CareOfTestInit(driver.care_of_cookie())
    wrong = [
        IPv6Packet(HOME_ADDRESS, HOME_AGENT, home),
        IPv6Packet(CARE_OF_A, CORRESPONDENT, home),
        IPv6Packet(HOME_ADDRESS, CORRESPONDENT, HomeTestInit(b"8 octets")),
        IPv6Packet(CARE_OF_B, CORRESPONDENT, away),
        IPv6Packet(CARE_OF_A, CORRESPONDENT, CareOfTestInit(b"8 octets")),
        IPv6Packet(CARE_OF_A, CORRESPONDENT, BindingRefreshRequest()),
    ]
    assert not any(driver.machine.has_sent(packet) for packet in wrong)


def test_care_of_init_leaves_by_the_interface_of_its_address() -> None:
    driver = TestsDriver()
    ((action, _),) = sent(driver.start(), CareOfTestInit)
    assert action.interface == INTERFACE and action.packet.extension_headers == ()
