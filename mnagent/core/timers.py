"""Named deadlines: how a machine tells when it next wants to run.

A machine never reads a clock. It sets deadlines here and its owner calls ``handle_timer(now)`` once
the earliest has come. Deadlines are seconds on the caller's clock (CLOCK_BOOTTIME in the daemon, so
that lifetimes run on through suspend; virtual time in tests).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


class Timers(Generic[Name]):
    """A set of named deadlines, at most one per name."""

    __slots__ = ("_deadlines",)

    def __init__(self) -> None:
        self._deadlines: dict[Name, float] = {}

    def __contains__(self, name: Name) -> bool:
        return name in self._deadlines

    def set(self, name: Name, deadline: float) -> None:
        """Arm ``name`` at ``deadline`` (seconds), replacing what it was."""
        self._deadlines[name] = deadline

    def cancel(self, name: Name) -> None:
        """Disarm ``name``; nothing happens when it is not armed."""
        self._deadlines.pop(name, None)

    def clear(self) -> None:
        """Disarm all."""
        self._deadlines.clear()

    def deadline(self, name: Name) -> float | None:
        """When ``name`` is due, or None when it is not armed."""
        return self._deadlines.get(name)

    def next_deadline(self) -> float | None:
        """The earliest deadline, or None when nothing is armed."""
        return min(self._deadlines.values(), default=None)

    def pop_due(self, now: float) -> list[Name]:
        """Disarm and return the names due at ``now``, earliest first."""
        due = sorted(
            (deadline, index, name)
            for index, (name, deadline) in enumerate(self._deadlines.items())
            if deadline <= now
        )
        for _, _, name in due:
            del self._deadlines[name]
        return [name for _, _, name in due]


def earliest(*deadlines: float | None) -> float | None:
    """The earliest of several ``next_deadline()`` answers, or None when none is armed."""
    return min((deadline for deadline in deadlines if deadline is not None), default=None)
