"""Runs of one kind side by side, commit by commit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from mnagent.rig.library import Handover, Run
from mnagent.rig.web.pictures import Column

MAX_COMMITS: Final = 60
"""Compared at most, the latest."""


@dataclass(slots=True)
class Commit:
    """All runs of one commit."""

    commit: str
    since: str
    """When the first of them began."""
    runs: int = 0
    passed: int = 0
    _handovers: list[Handover] = field(default_factory=list)

    def add(self, run: Run, handovers: Iterable[Handover]) -> None:
        """One more run, with those of its handovers that are compared."""
        self.runs += 1
        self.passed += bool(run.succeeded)
        self._handovers += handovers

    @property
    def handovers(self) -> int:
        """How many are compared."""
        return len(self._handovers)

    def spans(self, phase: str) -> tuple[float | None, float | None]:
        """Median and 95th percentile in milliseconds; None where the phase never was."""
        values = [each.phases[phase] for each in self._handovers if phase in each.phases]
        return (
            (round(median(values), 1), round(percentile(values, 95), 1))
            if values
            else (
                None,
                None,
            )
        )


def _of(handover: Handover) -> set[str]:
    return {handover.part or handover.move, handover.move}


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(1, math.ceil(len(ranked) * percent / 100)) - 1]


class Comparison:
    """What can be compared, and what was chosen of it; an unknown choice falls back."""

    def __init__(self, runs: Sequence[Run], *, series: str = "", chosen: str = "") -> None:
        """``runs`` come the latest first."""
        finished = [run for run in runs if run.succeeded is not None]
        self.kinds = list(dict.fromkeys(run.series for run in finished))
        self.series = series if series in self.kinds else next(iter(self.kinds), "")
        own = [run for run in reversed(finished) if run.series == self.series]
        self.choices = sorted({name for run in own for each in run.handovers for name in _of(each)})
        """Kinds of handovers: moves, and parts of the scenario."""
        self.chosen = chosen if chosen in self.choices else ""
        commits: dict[str, Commit] = {}
        for run in own:
            name = run.commit or "unknown"
            into = commits.setdefault(name, Commit(name, run.started_at))
            into.add(run, (each for each in run.handovers if self.chosen in ("", *_of(each))))
        self.columns = list(commits.values())[-MAX_COMMITS:]
        """The earliest first."""

    def course(self, phase: str) -> list[Column]:
        """For the picture of a phase."""
        spans = [(each.commit, *each.spans(phase)) for each in self.columns]
        return [Column(name, middle, worst) for name, middle, worst in spans]
