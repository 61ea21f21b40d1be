"""Tells a recorder what goes on around a mobile node, while it goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from mnagent.control.client import Client, ControlError
from mnagent.rig.host import Process, Record, boottime
from mnagent.rig.library import PHASES, TRAFFIC_SPAN, Handover, Recorder, Traffic
from mnagent.rig.roaming import Move, Roaming
from mnagent.rig.topology import MOBILE

INTERVAL: Final = 0.1
"""Seconds between looks."""
PATIENCE: Final = 1.0
"""Seconds that a reply is waited for before its probe is told to be lost."""
CURIOSITY: Final = 2.0
"""Seconds after an event in which the daemon is asked how far the handover is. At other times it is
left alone, so that telling costs what is told nothing."""


class Telling:
    """An asynchronous context, within which it is told."""

    def __init__(self, recorder: Recorder, roaming: Roaming) -> None:
        self._recorder = recorder
        self._roaming = roaming
        self._task: asyncio.Task[None] | None = None
        self._told: dict[int, Handover] = {}
        self._events = 0
        self._curious_until = 0.0
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
            await self._tell_handovers()

    def _tell_traffic(self, until: float) -> None:
        ping = self._ping()
        if ping is not None:
            for line in probes(ping.records, since=self._traffic_until, until=until):
                self._recorder.tell(line)
                self._traffic_until = line.at + TRAFFIC_SPAN

    def _ping(self) -> Process | None:
        processes = self._roaming.hosts[MOBILE].processes
        return next((each for each in reversed(processes) if each.name == "ping"), None)

    async def _tell_handovers(self) -> None:
        agent = self._roaming.mobile_node
        if len(agent.events) != self._events:
            self._events = len(agent.events)
            self._curious_until = boottime() + CURIOSITY
        if boottime() > self._curious_until:
            return
        with contextlib.suppress(OSError, ControlError):
            answer = await Client(agent.socket).handovers()
            for each in of_moves(answer["handovers"], self._roaming.moves):
                if self._told.get(each.number) != each:
                    self._told[each.number] = each
                    self._recorder.tell(each)


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
    first, end = int(since / TRAFFIC_SPAN + 0.5), int(until / TRAFFIC_SPAN)
    return [
        Traffic(at=round(span * TRAFFIC_SPAN, 1), sent=sent[span], answered=answered[span])
        for span in sorted(sent)
        if first <= span < end
    ]


def _span(at: float) -> int:
    return int(at / TRAFFIC_SPAN)


def of_moves(records: Iterable[Mapping[str, Any]], moves: Sequence[Move]) -> list[Handover]:
    """The daemon's record of each move of the first mobile node; those it has none of are left
    out."""
    own = [move for move in moves if move.role == MOBILE]
    found: dict[int, Handover] = {}
    for record in records:
        at = float(record["link_up_at"])
        number = sum(move.link_down_at <= at for move in own) - 1
        if number > 0 and number not in found:
            move = own[number]
            found[number] = of_record(record, number, origin=move.origin, to=move.destination)
    return [found[number] for number in sorted(found)]


def of_record(record: Mapping[str, Any], number: int, *, origin: str, to: str) -> Handover:
    """What a daemon's handover record (``mnagent handovers --json``) says of a move."""
    at = float(record["link_up_at"])
    phases = {
        phase: round((instant - at) * 1000, 1)
        for phase in PHASES
        if (instant := record.get(f"{phase}_at")) is not None
    }
    cause = str(record.get("cause", ""))
    return Handover(number=number, origin=origin, destination=to, at=at, phases=phases, cause=cause)
