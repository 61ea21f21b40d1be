"""What will be done, drawn from a seed before any of it is done: the same seed, stage and round are
the same steps again, whatever became of them the last time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from mnagent.rig.soak.attacks import ATTACKS
from mnagent.rig.topology import HOME, LINK_A, LINK_B

HANDOVER = "handover"
RAPID_HANDOVERS = "rapid handovers"
MOBILE_NODE_KILLED = "mobile node killed in a handover"
HOME_AGENT_KILLED = "home agent killed in a handover"
BOTH_KILLED = "both daemons killed in a handover"
CACHE_LOST = "home agent killed, its bindings lost"
CORRESPONDENT_KILLED = "correspondent killed"
LOSSY_LINKS = "loss, reordering and duplication"
CLOCK_STEPPED = "wall clock stepped by an hour"
FLUSHED = "rules and routes flushed by others"
SMALL_MTU = "MTU of 1280 on the way"

HOUR = 3600.0
STEPS = 18
"""Of a round."""
MAX_DELAY = 0.3
"""Seconds from the start of a handover to a kill in it, at most; often amid the registration."""
LINKS = (HOME, LINK_A, LINK_B)

_CALM = {HANDOVER: 12.0, RAPID_HANDOVERS: 3.0}
_DISTURBED = {
    LOSSY_LINKS: 1.0,
    CLOCK_STEPPED: 1.0,
    FLUSHED: 1.0,
    SMALL_MTU: 1.0,
    **dict.fromkeys(ATTACKS, 0.7),
}
_KILLED = {
    MOBILE_NODE_KILLED: 3.0,
    HOME_AGENT_KILLED: 3.0,
    BOTH_KILLED: 2.0,
    CACHE_LOST: 1.0,
    CORRESPONDENT_KILLED: 1.0,
}
KINDS: Sequence[str] = (*_CALM, *_KILLED, *_DISTURBED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One rig with its daemons, and rounds in it until its time is over."""

    name: str
    share: float
    """Of the time of the whole run."""
    kills: bool
    """Whether daemons are killed. Where they are not, memory and descriptors must stay flat."""
    payload_protection: str

    @property
    def weights(self) -> Mapping[str, float]:
        """How likely each kind of step is."""
        return {**_CALM, **_DISTURBED, **(_KILLED if self.kills else {})}


STAGES = (
    Stage(name="chaos", share=0.3, kills=True, payload_protection="none"),
    Stage(name="chaos under ESP", share=0.3, kills=True, payload_protection="esp"),
    Stage(name="endurance", share=0.4, kills=False, payload_protection="none"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing done to the rig."""

    number: int
    kind: str
    links: tuple[str, ...]
    """Where the mobile node is moved, one after another."""
    delay: float
    """Seconds until a daemon is killed, and about as long it stays dead."""
    seconds: float
    """By which a clock is stepped."""
    seed: str
    """Of what is drawn when the step is done."""


def plan_round(stage: Stage, seed: str, steps: int = STEPS, must: Sequence[str] = ()) -> list[Step]:
    """The steps of a round that starts and ends on link A; those that ``must`` be come first."""
    random = Random(seed)
    weights = stage.weights
    kinds = [*must, *random.choices(list(weights), list(weights.values()), k=steps)]
    plan, position = [], LINK_A
    for number, kind in enumerate([*kinds, HANDOVER]):
        links = tuple(_way(random, position, 1 if kind != RAPID_HANDOVERS else 3))
        if number == len(kinds):
            links = (LINK_A,) if position != LINK_A else (LINK_B, LINK_A)
        if kind in ATTACKS or kind in (CORRESPONDENT_KILLED, CLOCK_STEPPED, FLUSHED, CACHE_LOST):
            links = ()
        plan.append(
            Step(
                number=number,
                kind=kind,
                links=links,
                delay=random.random() * MAX_DELAY,
                seconds=random.choice((-HOUR, HOUR)),
                seed=f"{seed}/{number}",
            )
        )
        position = links[-1] if links else position
    return plan


def _way(random: Random, position: str, moves: int) -> list[str]:
    way: list[str] = []
    for _ in range(moves):
        position = random.choice([link for link in LINKS if link != position])
        way.append(position)
    return way
