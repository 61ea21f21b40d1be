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
    assert list(timers.due(3.0)) == ["early", "late"]
    assert timers.deadline("late") is None
    assert "never" in timers and "late" not in timers


def test_timer_set_again_moves_and_cancelled_is_gone() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    timers.set("a", 5.0)
    assert list(timers.due(4.0)) == []
    timers.cancel("a")
    timers.cancel("a")
    assert timers.next_deadline() is None
    timers.set("b", 1.0)
    timers.clear()
    assert list(timers.due(9.0)) == []


def test_timer_set_to_what_it_is_comes_out_once() -> None:
    timers: Timers[str] = Timers()
    for deadline in (5.0, 7.0, 5.0, 5.0):
        timers.set("a", deadline)
    assert len(timers) == 1
    assert list(timers.due(9.0)) == ["a"]
    assert list(timers.due(9.0)) == []


def test_timers_of_one_deadline_come_out_as_they_were_armed() -> None:
    timers: Timers[str] = Timers()
    for name in ("first", "second", "third"):
        timers.set(name, 1.0)
    timers.set("first", 2.0)
    timers.set("first", 1.0)
    assert list(timers.due(1.0)) == ["first", "second", "third"]


def test_timers_moved_over_and_over_do_not_pile_up() -> None:
    timers: Timers[int] = Timers()
    for deadline in range(10_000):
        timers.set(deadline % 10, float(deadline))
    assert len(timers._heap) < 200
    assert timers.next_deadline() == 9990.0
    assert list(timers.due(10_000.0)) == list(range(10))


def test_earliest_of_none_is_none() -> None:
    assert earliest() is None
    assert earliest(None, None) is None
    assert earliest(None, 2.0, 1.0) == 1.0


def test_timers_due_one_cancelled_by_the_handling_of_another_is_left_out() -> None:
    timers: Timers[str] = Timers()
    for name in ("first", "cancelled", "moved", "last"):
        timers.set(name, 1.0)
    handled = []
    for name in timers.due(5.0):
        handled.append(name)
        if name == "first":
            timers.cancel("cancelled")
            timers.set("moved", 2.0)
            timers.set("first", 1.0)
    assert handled == ["first", "last"], "what is armed meanwhile waits for the next time"
    assert list(timers.due(5.0)) == ["first", "moved"]
    assert timers.next_deadline() is None


def test_timers_due_not_asked_to_the_end_stay_armed() -> None:
    timers: Timers[str] = Timers()
    timers.set("first", 1.0)
    timers.set("second", 2.0)
    due = timers.due(5.0)
    assert next(due) == "first"
    due.close()  # type: ignore[attr-defined]
    assert timers.next_deadline() == 2.0
    assert list(timers.due(5.0)) == ["second"]
