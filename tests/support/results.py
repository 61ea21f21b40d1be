"""A library of results with something in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mnagent.rig.library import Handover, Run, Step, Traffic, Verdict
from mnagent.rig.recorder import Recorder

RUN = Run(
    scenario="demo",
    target="namespaces",
    started_at="2026-01-02T03:04:05+00:00",
    commit="0123456789ab",
    kernel="6.12.0",
    settings={"delay": "20 ms"},
)
HANDOVER = Handover(
    number=1,
    origin="home",
    destination="link-a",
    at=100.0,
    phases={"router_solicited": 0.5, "update_sent": 7.0, "acknowledged": 49.0, "resumed": 120.0},
    cause="carrier",
    lost=3,
)


def add_run(
    library: Path, *, handovers: tuple[Handover, ...] = (HANDOVER,), held: bool = True, **known: Any
) -> str:
    """A finished run; returns its name."""
    with Recorder(library, replace(RUN, **known)) as recorder:
        tell_story(recorder)
        (recorder.folder / "report.html").write_text("<style>p { color: red }</style><p>report")
        (recorder.folder / "timeline.svg").write_text(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"/>'
        )
        (recorder.folder / "link-a.pcap").write_bytes(b"\0pcap")
        verdict = Verdict(claim="nothing was <lost>", held=held, detail="3 & 4")
        recorder.finish(succeeded=held, verdicts=[verdict], handovers=handovers)
    return recorder.folder.name


def tell_story(recorder: Recorder) -> None:
    """A handover with probes around it."""
    recorder.tell(Step(at=99.0, text="Moving from home to link-a"))
    for tenth in range(20):
        lost = 3 if tenth == 10 else 0
        recorder.tell(Traffic(at=round(99.0 + tenth / 10, 1), sent=5, answered=5 - lost))
    recorder.tell(HANDOVER)
