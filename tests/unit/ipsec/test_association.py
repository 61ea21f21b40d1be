"""The association database, replay windows and sequence numbers."""

from __future__ import annotations

import pytest

from mnagent.core.security import Direction
from mnagent.ipsec.association import (
    MAX_SEQUENCE,
    ReplayWindow,
    SecurityAssociationDatabase,
    SequenceCounter,
    SequenceExhausted,
)
from tests.support.requirement import requirement
from tests.unit.ipsec.esp_packets import association


def accept(window: ReplayWindow, sequence: int) -> bool:
    fresh = window.is_fresh(sequence)
    if fresh:
        window.advance(sequence)
    return fresh


@requirement("RFC4303-3.4.3", "SEC-18")
def test_replay_window_each_number_is_accepted_once_in_any_order() -> None:
    window = ReplayWindow(64)
    order = [1, 5, 3, 2, 4, 64, 10, 70, 7]
    assert [accept(window, sequence) for sequence in order] == [True] * len(order)
    assert [accept(window, sequence) for sequence in order] == [False] * len(order)


def test_replay_window_number_left_of_it_is_refused() -> None:
    window = ReplayWindow(64)
    assert accept(window, 100)
    assert accept(window, 37)
    assert not accept(window, 36)


def test_replay_window_zero_is_never_a_number() -> None:
    assert not ReplayWindow(64).is_fresh(0)


def test_replay_window_leap_forgets_what_is_behind() -> None:
    window = ReplayWindow(64)
    assert accept(window, 1)
    assert accept(window, MAX_SEQUENCE)
    assert not window.is_fresh(1)
    assert accept(window, MAX_SEQUENCE - 63)
    assert not accept(window, MAX_SEQUENCE)
    assert window.highest == MAX_SEQUENCE


def test_replay_window_of_size_zero_checks_nothing() -> None:
    window = ReplayWindow(0)
    assert accept(window, 9)
    assert accept(window, 9)
    assert accept(window, 0)


def test_replay_window_late_advance_left_of_it_changes_nothing() -> None:
    window = ReplayWindow(64)
    window.advance(1000)
    window.advance(1)
    assert window.highest == 1000


def test_replay_window_agrees_with_a_set_of_seen_numbers() -> None:
    window, seen, highest = ReplayWindow(128), set(), 0
    sequence = 1
    for step in range(4000):
        sequence = (sequence * 48271 + step) % 3000 + 1
        expected = sequence > highest or (highest - sequence < 128 and sequence not in seen)
        assert accept(window, sequence) is expected
        seen.add(sequence)
        highest = max(highest, sequence)


def test_sequence_counter_goes_up_to_its_limit() -> None:
    counter = SequenceCounter(next=10, limit=12)
    assert counter.left == 2
    assert (counter.take(), counter.take()) == (10, 11)
    assert counter.left == 0
    with pytest.raises(SequenceExhausted):
        counter.take()


def test_sequence_counter_never_cycles() -> None:
    counter = SequenceCounter(next=MAX_SEQUENCE, limit=MAX_SEQUENCE + 5)
    assert counter.take() == MAX_SEQUENCE
    with pytest.raises(SequenceExhausted, match="new keys"):
        counter.take()


def test_database_finds_by_spi_and_direction() -> None:
    outbound, inbound = association(), association(Direction.INBOUND, spi=0x777)
    database = SecurityAssociationDatabase([outbound, inbound])
    assert database.outbound(outbound.spi) is outbound
    assert database.find_inbound(0x777) is inbound
    assert database.find_inbound(outbound.spi) is None
    assert set(database) == {outbound, inbound}
    assert len(database) == 2


def test_database_one_spi_twice_in_a_direction_raises() -> None:
    database = SecurityAssociationDatabase([association()])
    database.add(association(Direction.INBOUND))
    with pytest.raises(ValueError, match="used twice"):
        database.add(association())


@pytest.mark.parametrize("spi", [0, 255, 2**32])
def test_database_impossible_spi_raises(spi: int) -> None:
    with pytest.raises(ValueError, match="SPI"):
        SecurityAssociationDatabase([association(spi=spi)])


def test_database_remove_forgets_the_state() -> None:
    database = SecurityAssociationDatabase([association(), association(Direction.INBOUND)])
    for direction in Direction:
        database.remove(0x1234ABCD, direction)
        database.remove(0x1234ABCD, direction)
    assert len(database) == 0
    with pytest.raises(KeyError):
        database.counter(0x1234ABCD)
    with pytest.raises(KeyError):
        database.window(0x1234ABCD)
    with pytest.raises(KeyError):
        database.outbound(0x1234ABCD)
