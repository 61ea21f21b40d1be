"""How the result of a journey, the demo's or a board's, is kept in the library of results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnagent.rig.library import Verdict
from mnagent.rig.recorder import Recorder
from mnagent.rig.report import Result, write_pictures
from mnagent.rig.telling import as_recorded

KEPT = ("report.html", "report.json", "*.pcap", "*.log")
"""Never the keys."""


def record(result: Result, output: Path, recorder: Recorder, **fields: Any) -> None:
    """Keep a result, and what is in its output folder; ``fields`` are further fields of the run.
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
        **fields,
    )


def known(facts: Mapping[str, str]) -> dict[str, Any]:
    """Facts about what was tested, as fields of a run."""
    image = {name.removeprefix("image "): value for name, value in facts.items() if _is_image(name)}
    fields: dict[str, Any] = {"image": image} if image else {}
    names = {"commit": "commit", "kernel": "kernel", "board": "board", "model": "board"}
    fields |= {field: facts[name] for name, field in names.items() if facts.get(name)}
    left_out = (*names, "target")
    fields["facts"] = {
        name: value for name, value in facts.items() if name not in left_out and not _is_image(name)
    }
    return fields


def _is_image(name: str) -> bool:
    return name.startswith("image ")
