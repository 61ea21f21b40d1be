"""What a run found: steps, violations, memory. Plain values, for the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A step, and what became of the traffic."""

    stage: str
    round: int
    number: int
    kind: str
    links: tuple[str, ...]
    gap: float
    """Longest time without an answer to a ping, seconds."""
    packets: int = 0
    """Sent by attackers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """An invariant that did not hold."""

    invariant: str
    stage: str
    round: int
    step: str
    detail: str


@dataclass(slots=True)
class Findings:
    """Of a whole run."""

    seed: str
    minutes: float
    done: list[Done] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    judged: Counter[str] = field(default_factory=Counter)
    """How often each invariant was asked for."""
    frames: int = 0
    excused: Counter[str] = field(default_factory=Counter)
    """What a rule would forbid but nobody could help, such as packets of a dead daemon's node."""
    daemons: list[dict[str, Any]] = field(default_factory=list)
    """Longest life of each daemon in each stage: memory and descriptors."""
    counters: dict[str, Counter[str]] = field(default_factory=dict)
    """What the daemons dropped, by role."""
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether nothing was broken, and something was tried."""
        return not self.broken and bool(self.done)
