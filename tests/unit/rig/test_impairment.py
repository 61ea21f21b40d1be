"""The delay line of the rig's wires, told the time."""

from __future__ import annotations

import random

from mnagent.rig.impairment import DelayLine, Impairment


def make_line(**settings: float) -> DelayLine:
    return DelayLine(Impairment(**settings), random.Random(1))  # type: ignore[arg-type]


def test_delay_line_without_impairment_delivers_at_once() -> None:
    line = make_line()
    line.offer(b"frame", 5.0)
    assert line.next_deadline() == 5.0
    assert line.pop_due(5.0) == [b"frame"]
    assert line.next_deadline() is None


def test_delay_line_with_delay_keeps_frames_in_order_until_due() -> None:
    line = make_line(delay=0.02)
    line.offer(b"one", 1.0)
    line.offer(b"two", 1.0)
    line.offer(b"three", 1.001)
    assert line.pop_due(1.0199) == []
    assert line.pop_due(1.02) == [b"one", b"two"]
    assert line.pop_due(1.021) == [b"three"]
    assert line.counters.carried == 3


def test_delay_line_with_loss_loses_about_that_share() -> None:
    line = make_line(loss=0.25)
    for _ in range(4000):
        line.offer(b"frame", 0.0)
    assert 900 < line.counters.lost < 1100
    assert len(line.pop_due(0.0)) == 4000 - line.counters.lost


def test_delay_line_with_duplicates_delivers_some_twice() -> None:
    line = make_line(duplicate=0.5)
    for _ in range(100):
        line.offer(b"frame", 0.0)
    assert len(line.pop_due(0.0)) == 100 + line.counters.duplicated > 120


def test_delay_line_with_jitter_reorders() -> None:
    line = make_line(jitter=0.01)
    frames = [bytes([number]) for number in range(50)]
    for number, frame in enumerate(frames):
        line.offer(frame, number / 10000)
    delivered = line.pop_due(1.0)
    assert sorted(delivered) == frames
    assert delivered != frames


def test_delay_line_with_rate_spaces_frames_by_their_length() -> None:
    line = make_line(rate=8000.0, delay=0.5)
    line.offer(bytes(100), 0.0)
    line.offer(bytes(200), 0.0)
    assert line.next_deadline() == 0.6
    assert len(line.pop_due(0.6)) == 1
    assert line.next_deadline() == 0.8


def test_delay_line_with_rate_drops_the_tail_of_a_full_queue() -> None:
    line = make_line(rate=8000.0, queue=3)
    for _ in range(10):
        line.offer(bytes(100), 0.0)
    assert line.counters.overflowed == 6
    assert len(line.pop_due(10.0)) == 4


def test_delay_line_impaired_anew_applies_to_later_frames_only() -> None:
    line = make_line(delay=1.0)
    line.offer(b"slow", 0.0)
    line.impairment = Impairment(delay=0.1)
    line.offer(b"fast", 0.0)
    assert line.pop_due(0.5) == [b"fast"]
