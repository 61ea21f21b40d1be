"""How a run in the machine is kept in the library of results, and told while it goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mnagent.rig.library import Handover, LiveReader, Verdict
from mnagent.rig.recorder import Recorder
from mnagent.rig.report import PICTURE_STYLE
from mnagent.rig.wifi.report import timeline
from mnagent.rig.wifi.results import Results, Roam

KEPT: Final = ("report.html", "results.json", "*.log", "*.pcap")
INTERVAL: Final = 0.3
"""Seconds between looks at what the machine told."""


@contextlib.contextmanager
def relay(folder: Path, recorder: Recorder) -> Iterator[None]:
    """Within it, what is told in a folder that the machine shares is told to the recorder."""
    reader, ended = LiveReader(folder), threading.Event()

    def pass_on() -> None:
        with contextlib.suppress(FileNotFoundError):
            for line in reader.read():
                recorder.tell(line)

    def go_on() -> None:
        while not ended.wait(INTERVAL):
            pass_on()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        pass_on()


def record(results: Results, output: Path, recorder: Recorder) -> None:
    """Keep the results, and what is in their folder. Raises OSError."""
    for pattern in KEPT:
        recorder.keep(sorted(output.glob(pattern)))
    roams = [(outcome.name, roam) for outcome in results.outcomes for roam in outcome.roams]
    for outcome in results.outcomes:
        if outcome.roams:
            picture = timeline(outcome.roams).replace("</svg>", f"{PICTURE_STYLE}</svg>")
            (recorder.folder / f"{outcome.name}.svg").write_text(picture)
    errors = [f"{outcome.name}: {outcome.error}" for outcome in results.outcomes if outcome.error]
    recorder.finish(
        succeeded=results.succeeded,
        error="; ".join(errors),
        kernel=results.kernel,
        verdicts=[
            Verdict(claim=claim.text, held=claim.held, detail=claim.detail, part=outcome.name)
            for outcome in results.outcomes
            for claim in outcome.claims
        ],
        handovers=[
            as_handover(roam, number, part) for number, (part, roam) in enumerate(roams, start=1)
        ],
    )


def as_handover(roam: Roam, number: int, part: str = "") -> Handover:
    """A roam as the library has it; its L2 event is what nl80211 told."""
    at = roam.began_at if roam.connected_at is None else roam.connected_at
    instants = {
        "router_solicited": roam.solicited_at,
        "router_advertised": roam.advertised_at,
        "care_of_address_ready": roam.care_of_address_at,
        "update_sent": roam.update_sent_at,
        "acknowledged": roam.acknowledged_at,
        "resumed": roam.resumed_at,
    }
    return Handover(
        number=number,
        origin=roam.origin,
        destination=roam.destination,
        at=at,
        # Traffic may have gone on before nl80211 told.
        phases={
            phase: max(0.0, round((instant - at) * 1000, 1))
            for phase, instant in instants.items()
            if instant is not None
        },
        cause=roam.means,
        lost=len(roam.lost),
        part=part,
    )
