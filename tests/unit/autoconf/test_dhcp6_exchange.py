"""Retransmission of DHCPv6 messages (RFC 8415 15)."""

from __future__ import annotations

from random import Random

import pytest

from mnagent.autoconf.dhcp6_exchange import Retransmission, Schedule, is_max_timeout

NOW = 1000.0


def waits(
    schedule: Schedule, count: int, *, seed: int = 1, is_solicit: bool = False
) -> list[float]:
    """The first waits, each started at the end of the one before."""
    retransmission = Retransmission(schedule, random=Random(seed), is_solicit=is_solicit)
    now, found = NOW, []
    for _ in range(count):
        retransmission.message_sent(now)
        assert retransmission.deadline is not None
        found.append(retransmission.deadline - now)
        now = retransmission.deadline
    return found


@pytest.mark.parametrize("seed", range(20))
def test_waits_double_up_to_the_maximum_with_a_tenth_of_randomness(seed: int) -> None:
    first, *others = waits(Schedule(1.0, 30.0), 10, seed=seed)
    assert 0.9 <= first <= 1.1
    before = first
    for wait in others:
        assert wait <= 33.0
        assert 1.9 * before <= wait + 1e-9 <= 2.1 * before or 27.0 <= wait <= 33.0
        before = wait
    assert before >= 27.0


@pytest.mark.parametrize("seed", range(20))
def test_first_wait_of_a_solicit_is_longer_than_its_initial_time(seed: int) -> None:
    (wait,) = waits(Schedule(1.0, 3600.0), 1, seed=seed, is_solicit=True)
    assert 1.0 < wait <= 1.1


def test_count_ends_after_so_many_transmissions() -> None:
    retransmission = Retransmission(Schedule(1.0, count=2), random=Random(1))
    retransmission.message_sent(NOW)
    assert not retransmission.is_exhausted(NOW + 1)
    retransmission.message_sent(NOW + 1)
    assert retransmission.is_exhausted(NOW + 3)


def test_duration_cuts_the_last_wait_short() -> None:
    retransmission = Retransmission(Schedule(4.0, duration=5.0), random=Random(1))
    retransmission.message_sent(NOW)
    retransmission.message_sent(NOW + 4)
    assert retransmission.deadline == NOW + 5
    assert not retransmission.is_exhausted(NOW + 4.9)
    assert retransmission.is_exhausted(NOW + 5)


def test_time_elapsed_counts_from_the_first_transmission() -> None:
    retransmission = Retransmission(Schedule(1.0), random=Random(1))
    assert retransmission.elapsed(NOW) == 0
    assert retransmission.deadline is None
    retransmission.message_sent(NOW)
    retransmission.message_sent(NOW + 1)
    assert retransmission.elapsed(NOW + 3) == 3


@pytest.mark.parametrize(("value", "believed"), [(59, False), (60, True), (86400, True)])
def test_maximum_timeout_of_a_server_is_believed_within_limits(value: int, believed: bool) -> None:
    assert is_max_timeout(value) is believed
    assert not is_max_timeout(86401)


def test_duration_ends_at_the_deadline_however_its_sum_is_rounded() -> None:
    started = 1014.16
    assert (started + 10.0) - started < 10.0, "rounded down"
    retransmission = Retransmission(Schedule(1.0, 4.0, duration=10.0), random=Random(1))
    retransmission.message_sent(started)
    retransmission.message_sent(started + 9)
    assert retransmission.deadline == started + 10.0
    assert retransmission.is_exhausted(retransmission.deadline)
