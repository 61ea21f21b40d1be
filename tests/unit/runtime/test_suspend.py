from __future__ import annotations

import asyncio

from mnagent.runtime.suspend import ClockJumpWatch, SleepDetector


class Clocks:
    def __init__(self) -> None:
        self.boottime, self.monotonic = 5000.0, 4000.0

    def detector(self) -> SleepDetector:
        return SleepDetector(boottime=lambda: self.boottime, monotonic=lambda: self.monotonic)


def test_machine_that_was_awake_has_not_slept() -> None:
    clocks = Clocks()
    detector = clocks.detector()
    clocks.boottime += 100.0
    clocks.monotonic += 100.0001
    assert detector.check() == 0.0


def test_sleep_is_told_once() -> None:
    clocks = Clocks()
    detector = clocks.detector()
    clocks.boottime += 3600.0
    assert detector.check() == 3600.0
    assert detector.check() == 0.0


def test_short_differences_add_up() -> None:
    clocks = Clocks()
    detector = clocks.detector()
    clocks.boottime += 0.4
    assert detector.check() == 0.0
    clocks.boottime += 0.4
    assert round(detector.check(), 6) == 0.8


def test_watch_waits_for_a_jump_and_gives_its_descriptor_back() -> None:
    async def watch() -> list[str]:
        jumps: list[str] = []
        watch = ClockJumpWatch(asyncio.get_running_loop(), lambda: jumps.append("jump"))
        watch._jumped()
        watch.close()
        return jumps

    assert asyncio.run(watch()) == ["jump"]
