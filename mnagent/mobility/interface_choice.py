"""Which of several interfaces to use: an order, and patience with those that come and go.

The order is the administrator's list, or by kind: Ethernet before Wi-Fi before cellular, the better
signal first where that is known, and an interface that hears its access point badly after all that
do not. Small differences of signal change nothing, or the node would move with each measurement.

An interface whose link was lost again and again has to stay up for a while before the node moves to
it from one that works: it waits ``FIRST_HOLD`` seconds after the second loss within
``FLAP_MEMORY``, twice as long after each further one. With nowhere else to be, nothing is held.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from mnagent.core.events import LinkKind

SIGNAL_STEP: Final = 8.0
"""dB by which another interface of the same kind must be better to be preferred."""
FLAP_MEMORY: Final = 60.0
"""Seconds a loss of the link is remembered."""
MAX_LOSSES: Final = 6
"""Losses remembered of one interface."""
TOLERATED_LOSSES: Final = 1
"""Losses within the memory that have no consequence."""
FIRST_HOLD: Final = 1.0
"""Seconds an interface has to stay up after one loss too many."""

_KINDS: Final = (LinkKind.ETHERNET, LinkKind.WIFI, LinkKind.CELLULAR, LinkKind.OTHER)


@dataclass(slots=True)
class _Known:
    kind: LinkKind = LinkKind.OTHER
    signal: float | None = None
    is_weak: bool = False
    up_since: float = 0.0
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_LOSSES))


class InterfaceChoice:
    """Ranks interfaces by name. Remembers those that went, so that flapping is seen."""

    def __init__(self, names: tuple[str, ...], *, by_kind: bool = False) -> None:
        """``names`` in order of preference; empty takes all, in the order in which they came."""
        self._names = names
        self._by_kind = by_kind
        self._known: dict[str, _Known] = {}

    def accepts(self, name: str) -> bool:
        """Whether the node may use an interface of that name."""
        return not self._names or name in self._names

    def came(self, name: str, kind: LinkKind, now: float) -> None:
        """Its link came up."""
        known = self._known.setdefault(name, _Known())
        known.kind, known.up_since = kind, now

    def went(self, name: str, now: float) -> None:
        """Its link was lost."""
        if name in self._known:
            self._known[name].losses.append(now)
            self._known[name].signal, self._known[name].is_weak = None, False

    def measured(self, name: str, level: float, *, is_weak: bool) -> None:
        """Its signal, in dBm, and whether that is too little."""
        known = self._known.get(name)
        if known is not None:
            known.signal, known.is_weak = level, is_weak

    def held_until(self, name: str, now: float) -> float:
        """The instant before which the node does not leave another interface for this one."""
        known = self._known.get(name)
        if known is None:
            return now
        recent = sum(lost_at > now - FLAP_MEMORY for lost_at in known.losses)
        if recent <= TOLERATED_LOSSES:
            return now
        hold: float = FIRST_HOLD * 2 ** (recent - TOLERATED_LOSSES - 1)
        return known.up_since + hold

    def rank(self, name: str, *, current: str | None) -> tuple[float, ...]:
        """Sorts the best first; interfaces of equal rank stay in the order in which they came."""
        place = self._names.index(name) if name in self._names else 0
        if not self._by_kind:
            return (place,)
        known = self._known.get(name, _Known())
        signal = 0.0 if known.signal is None else known.signal
        bonus = SIGNAL_STEP if name == current else 0.0
        return (known.is_weak, _KINDS.index(known.kind), -(signal + bonus), place)
