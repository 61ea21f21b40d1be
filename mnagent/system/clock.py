"""The clock the daemon runs on."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Seconds that never step and that run on through suspend (CLOCK_BOOTTIME)."""

    def now(self) -> float:
        """Seconds since some fixed instant, usually boot."""
        ...


class ManualClock:
    """A clock that a test moves."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """The seconds it was last moved to."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Move on by ``seconds`` and return the new time."""
        self._now += seconds
        return self._now
