from __future__ import annotations

from mnagent.core.timers import Timers, earliest


def test_timers_armed_tell_the_earliest_and_come_out_in_order() -> None:
    timers: Timers[str] = Timers()
    assert timers.next_deadline() is None
    timers.set("late", 3.0)
    timers.set("early", 1.0)
    timers.set("never", 9.0)
    assert timers.next_deadline() == 1.0
    assert timers.deadline("late") == 3.0
    assert timers.pop_due(3.0) == ["early", "late"]
    assert timers.deadline("late") is None
    assert "never" in timers and "late" not in timers


def test_timer_set_again_moves_and_cancelled_is_gone() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    timers.set("a", 5.0)
    assert timers.pop_due(4.0) == []
    timers.cancel("a")
    timers.cancel("a")
    assert timers.next_deadline() is None
    timers.set("b", 1.0)
    timers.clear()
    assert timers.pop_due(9.0) == []


def test_earliest_of_none_is_none() -> None:
    assert earliest() is None
    assert earliest(None, None) is None
    assert earliest(None, 2.0, 1.0) == 1.0
