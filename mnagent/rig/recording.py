"""How a demo's result is kept in the library of results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnagent.rig import library
from mnagent.rig.handover import Handover
from mnagent.rig.library import Recorder, Verdict
from mnagent.rig.report import Result, write_pictures
from mnagent.rig.telling import from_records

KEPT = ("report.html", "report.json", "*.pcap", "*.log")
"""Never the keys."""


def record(result: Result, output: Path, recorder: Recorder, **known: Any) -> None:
    """Keep a result, and what is in its output folder; ``known`` are further fields of the run.
    Raises OSError."""
    for pattern in KEPT:
        recorder.keep(sorted(output.glob(pattern)))
    write_pictures(result, recorder.folder)
    recorder.finish(
        succeeded=result.succeeded,
        verdicts=[
            Verdict(claim=each.claim, held=each.held, detail=each.detail) for each in result.checks
        ],
        handovers=as_recorded(result.handovers, result.records),
        **known,
    )


def as_recorded(
    measured: Sequence[Handover], records: Iterable[Mapping[str, Any]]
) -> list[library.Handover]:
    """What the rig measured of each handover, with the phases that the node itself told in its
    ``records``."""
    by_number = {each.number: each for each in from_records(records, measured)}
    return [
        _one(number, each, by_number.get(number)) for number, each in enumerate(measured, start=1)
    ]


def _one(number: int, measured: Handover, told: library.Handover | None) -> library.Handover:
    at = measured.link_up_at if told is None else told.at
    instants = {
        "care_of_address_ready": measured.care_of_address_at,
        "acknowledged": measured.acknowledged_at,
        "resumed": measured.resumed_at,
    }
    seen = {
        phase: round((instant - at) * 1000, 1)
        for phase, instant in instants.items()
        if instant is not None
    }
    return library.Handover(
        number=number,
        origin=measured.origin,
        destination=measured.destination,
        at=at,
        phases={**seen, **(told.phases if told else {})},
        cause=told.cause if told else "",
        lost=measured.lost,
    )
