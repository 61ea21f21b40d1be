"""What has happened in a run so far, put together from its lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from mnagent.rig.library import Handover, Line, Step, Traffic

MAX_STEPS: Final = 200
MAX_HANDOVERS: Final = 500
MAX_TRAFFIC: Final = 50_000
"""Lines remembered of each kind; the oldest go first."""


class Story:
    """Grows as lines come."""

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self.steps: deque[Step] = deque(maxlen=MAX_STEPS)
        self.traffic: deque[Traffic] = deque(maxlen=MAX_TRAFFIC)
        self._handovers: dict[int, Handover] = {}
        self.add(lines)

    def add(self, lines: Iterable[Line]) -> None:
        """Lines that have come, in their order."""
        for line in lines:
            match line:
                case Step():
                    self.steps.append(line)
                case Traffic():
                    self.traffic.append(line)
                case Handover():
                    self._handovers[line.number] = line
                    if len(self._handovers) > MAX_HANDOVERS:
                        del self._handovers[min(self._handovers)]

    @property
    def handovers(self) -> list[Handover]:
        """By number."""
        return [self._handovers[number] for number in sorted(self._handovers)]

    @property
    def span(self) -> tuple[float, float]:
        """The first and the last instant that anything is known of."""
        lines: list[Step | Traffic] = [*self.steps, *self.traffic]
        ends = [(line.at, line.at) for line in lines]
        ends += [(each.at, each.at + _last(each) / 1000) for each in self.handovers]
        return min((begin for begin, _ in ends), default=0.0), max(
            (end for _, end in ends), default=0.0
        )

    @property
    def now(self) -> str:
        """The step it has come to."""
        return self.steps[-1].text if self.steps else "It begins"


def _last(handover: Handover) -> float:
    return max(handover.phases.values(), default=0.0)
