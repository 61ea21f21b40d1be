"""Tells what goes on around a mobile node, while it goes on, as lines of a live log."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, Self

from mnagent.rig.daemon import DaemonEvent
from mnagent.rig.handover import Handover as Measured
from mnagent.rig.host import Process, Record, boottime
from mnagent.rig.library import PHASES, TRAFFIC_SPAN, Handover, Line, Traffic
from mnagent.rig.roaming import Move, Roaming
from mnagent.rig.topology import MOBILE

INTERVAL: Final = 0.2
"""Seconds between looks."""
PATIENCE: Final = 1.0
"""Seconds that a reply is waited for before its probe is told to be lost."""
QUIET: Final = 0.7
"""Seconds without an event after which the daemon is asked for its own record of the handover. It
is left alone before: telling must not change what is told."""
EVENT_PHASES: Final = {
    "care-of-address-ready": "care_of_address_ready",
    "binding-update-sent": "update_sent",
    "binding-accepted": "acknowledged",
    "deregistered": "acknowledged",
}
"""Events of the daemon that are phases."""


class Trip(Protocol):
    """A `Move`, or a handover that was measured."""

    @property
    def origin(self) -> str: ...
    @property
    def destination(self) -> str: ...
    @property
    def link_down_at(self) -> float: ...
    @property
    def link_up_at(self) -> float: ...


class Telling:
    """An asynchronous context, within which the first mobile node of a rig is told of: its traffic
    and its handovers, while they go on and when they are over."""

    def __init__(
        self,
        tell: Callable[[Line], None],
        roaming: Roaming,
        *,
        trips: Sequence[Move] | None = None,
    ) -> None:
        """``trips`` are what handovers are told of in place of the rig's moves, by one who adds to
        them and tells (`tell`) of those that are over; the node is not asked for its record."""
        self._tell = tell
        self._trips = trips
        self._roaming = roaming
        self._task: asyncio.Task[None] | None = None
        self._told: dict[int, Handover] = {}
        self._events = 0
        self._ask_at: float | None = None
        self._traffic_until = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._go_on())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._tell_traffic(boottime())

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            self._tell_traffic(boottime() - PATIENCE)
            self._tell_events()
            if self._ask_at is not None and boottime() >= self._ask_at:
                self._ask_at = None
                await self._tell_record()

    def _tell_traffic(self, until: float) -> None:
        ping = self._ping()
        if ping is not None:
            for line in probes(ping.records, since=self._traffic_until, until=until):
                self._tell(line)
                self._traffic_until = line.at + TRAFFIC_SPAN

    def _ping(self) -> Process | None:
        processes = self._roaming.hosts[MOBILE].processes
        return next((each for each in reversed(processes) if each.name == "ping"), None)

    def tell(self, line: Line) -> None:
        """Tell something else, or of a handover that is over; it has a cause."""
        if isinstance(line, Handover):
            self._told[line.number] = line
        self._tell(line)

    def _tell_events(self) -> None:
        events = self._roaming.mobile_node.events
        trips = trips_of(self._roaming.moves if self._trips is None else self._trips)
        if len(events) == self._events or not trips:
            return
        self._events = len(events)
        if self._trips is None:
            self._ask_at = boottime() + QUIET
        self._tell_new([from_events(trips[-1], len(trips), events)])

    async def _tell_record(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            records = await self._roaming.mobile_node.handovers()
            self._tell_new(from_records(records, trips_of(self._roaming.moves)))

    def _tell_new(self, handovers: Iterable[Handover]) -> None:
        for each in handovers:
            before = self._told.get(each.number)
            # The record has a cause, and is better than what events say.
            if each != before and (each.cause or before is None or not before.cause):
                self._told[each.number] = each
                self._tell(each)


def trips_of(moves: Sequence[Move]) -> list[Move]:
    """Those that are handovers of the first mobile node."""
    return [move for move in moves if move.role == MOBILE and move.origin != "nowhere"]


def probes(records: Sequence[Record], *, since: float, until: float) -> list[Traffic]:
    """What became of the probes that left from an instant on, in whole spans before another."""
    sent: Counter[int] = Counter()
    answered: Counter[int] = Counter()
    for record in reversed(records):
        if record["at"] < since:
            break
        if record["kind"] == "sent":
            sent[_span(record["at"])] += 1
        elif record["kind"] == "reply":
            answered[_span(record["sent_at"])] += 1
    first, end = _span(since + TRAFFIC_SPAN / 2), _span(until)
    return [
        Traffic(at=round(span * TRAFFIC_SPAN, 1), sent=sent[span], answered=answered[span])
        for span in sorted(sent)
        if first <= span < end
    ]


def _span(at: float) -> int:
    return int(at / TRAFFIC_SPAN)


def from_events(trip: Trip, number: int, events: Iterable[DaemonEvent]) -> Handover:
    """What the daemon's events say of a trip so far."""
    reached: dict[str, float] = {}
    for event in events:
        phase = EVENT_PHASES.get(event.name)
        if phase is not None and event.at >= trip.link_up_at:
            reached.setdefault(phase, round((event.at - trip.link_up_at) * 1000, 1))
    return Handover(
        number=number,
        origin=trip.origin,
        destination=trip.destination,
        at=trip.link_up_at,
        phases=reached,
    )


def from_records(records: Iterable[Mapping[str, Any]], trips: Sequence[Trip]) -> list[Handover]:
    """What the daemon's record of handovers (``mnagent handovers --json``) says of each trip; those
    it has none of are left out. They are numbered from 1, as the trips are."""
    found: dict[int, Handover] = {}
    for record in records:
        at = float(record["link_up_at"])
        number = sum(trip.link_down_at <= at for trip in trips)
        if number and number not in found:
            found[number] = _from_record(record, number, trips[number - 1])
    return [found[number] for number in sorted(found)]


def _from_record(record: Mapping[str, Any], number: int, trip: Trip) -> Handover:
    at = float(record["link_up_at"])
    phases = {
        phase: round((instant - at) * 1000, 1)
        for phase in PHASES
        if (instant := record.get(f"{phase}_at")) is not None
    }
    return Handover(
        number=number,
        origin=trip.origin,
        destination=trip.destination,
        at=at,
        phases=phases,
        cause=str(record.get("cause", "")),
    )


def as_recorded(
    measured: Sequence[Measured], records: Iterable[Mapping[str, Any]]
) -> list[Handover]:
    """What the rig measured of each handover, with the phases that the node itself told in its
    ``records``."""
    by_number = {each.number: each for each in from_records(records, measured)}
    return [
        _joined(number, each, by_number.get(number))
        for number, each in enumerate(measured, start=1)
    ]


def _joined(number: int, measured: Measured, told: Handover | None) -> Handover:
    at = measured.link_up_at if told is None else told.at
    instants = {
        "care_of_address_ready": measured.care_of_address_at,
        "acknowledged": measured.acknowledged_at,
        "direct_path": measured.direct_at,
        "resumed": measured.resumed_at,
    }
    seen = {
        phase: round((instant - at) * 1000, 1)
        for phase, instant in instants.items()
        if instant is not None
    }
    return Handover(
        number=number,
        origin=measured.origin,
        destination=measured.destination,
        at=at,
        phases={**seen, **(told.phases if told else {})},
        cause=told.cause if told else "",
        lost=measured.lost,
    )
