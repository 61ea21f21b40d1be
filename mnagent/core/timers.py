"""Named deadlines: how a machine tells when it next wants to run.

A machine never reads a clock. It sets deadlines here and its owner calls ``handle_timer(now)`` once
the earliest has come. Deadlines are seconds on the caller's clock (CLOCK_BOOTTIME in the daemon, so
that lifetimes run on through suspend; virtual time in tests).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


_SLACK = 64
"""Outdated deadlines that are not worth tidying up."""


class Timers(Generic[Name]):
    """A set of named deadlines, at most one per name.

    There may be very many: every method but `clear` costs at most the logarithm of their number, in
    the long run. A heap holds every deadline that was ever set; those that were moved or cancelled
    are thrown out when they come up, or all at once when they are the most of it.
    """

    __slots__ = ("_deadlines", "_heap", "_serial")

    def __init__(self) -> None:
        self._deadlines: dict[Name, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Name]] = []
        self._serial = 0
        """Tells which of two names with the same deadline was armed first."""

    def __contains__(self, name: Name) -> bool:
        return name in self._deadlines

    def __len__(self) -> int:
        """How many are armed."""
        return len(self._deadlines)

    def set(self, name: Name, deadline: float) -> None:
        """Arm ``name`` at ``deadline`` (seconds), replacing what it was."""
        armed = self._deadlines.get(name)
        if armed is None:
            self._serial += 1
            serial = self._serial
        elif armed[0] == deadline:
            return
        else:
            serial = armed[1]
        self._deadlines[name] = (deadline, serial)
        heappush(self._heap, (deadline, serial, name))
        if len(self._heap) > 2 * len(self._deadlines) + _SLACK:
            self._tidy_up()

    def _tidy_up(self) -> None:
        self._heap = [(*armed, name) for name, armed in self._deadlines.items()]
        heapify(self._heap)

    def cancel(self, name: Name) -> None:
        """Disarm ``name``; nothing happens when it is not armed."""
        self._deadlines.pop(name, None)

    def clear(self) -> None:
        """Disarm all."""
        self._deadlines.clear()
        self._heap.clear()

    def deadline(self, name: Name) -> float | None:
        """When ``name`` is due, or None when it is not armed."""
        armed = self._deadlines.get(name)
        return None if armed is None else armed[0]

    def next_deadline(self) -> float | None:
        """The earliest deadline, or None when nothing is armed."""
        heap = self._heap
        while heap:
            deadline, serial, name = heap[0]
            if self._deadlines.get(name) == (deadline, serial):
                return deadline
            heappop(heap)
        return None

    def due(self, now: float) -> Iterator[Name]:
        """The names due at ``now``, earliest first, each disarmed as it is handed out.

        What handling one cancels or moves is left out: after a suspend many may be due at once,
        and the first may well make an end of the others. What it arms waits for the next time.
        """
        due: deque[tuple[float, int, Name]] = deque()
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            due.append(heappop(self._heap))
        try:
            while due:
                deadline, serial, name = due.popleft()
                if self._deadlines.get(name) == (deadline, serial):
                    del self._deadlines[name]
                    yield name
        finally:
            for entry in due:
                heappush(self._heap, entry)


def earliest(*deadlines: float | None) -> float | None:
    """The earliest of several ``next_deadline()`` answers, or None when none is armed."""
    return min((deadline for deadline in deadlines if deadline is not None), default=None)
