"""What a run in network namespaces leaves in the library of results, and tells while it goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mnagent.rig.demo import Demo, DemoOptions, Narrator
from mnagent.rig.library import Handover, Library, LiveReader, Step, Traffic
from mnagent.rig.recorder import Recorder, new_run
from mnagent.rig.recording import record
from mnagent.rig.topology import HOME, LINK_A


def test_demo_is_told_live_and_kept(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    options = DemoOptions(output=output, dwell=1.5, path=(LINK_A, HOME))
    with Recorder(tmp_path / "library", new_run("demo", "namespaces")) as recorder:
        result = asyncio.run(Demo(options, Narrator(recorder)).run())
        record(result, output, recorder)
    (entry,) = Library(tmp_path / "library").entries()
    assert entry.run is not None
    assert len(entry.run.verdicts) == len(result.checks)
    assert {f"{link}.pcap" for link in ("home", "link-a")} <= {path.name for path in entry.files()}
    away, back = entry.run.handovers
    assert [away.move, back.move] == ["home → link-a", "link-a → home"]
    assert {"router_solicited", "care_of_address_ready", "acknowledged", "resumed"} <= set(
        away.phases
    )
    assert 0 <= away.phases["care_of_address_ready"] <= away.phases["acknowledged"]
    lines = LiveReader(entry.folder).read()
    told = {line.number: line for line in lines if isinstance(line, Handover)}
    assert told[1].cause == away.cause
    assert told[1].phases["acknowledged"] == away.phases["acknowledged"]
    assert told[1].phases["router_solicited"] == away.phases["router_solicited"]
    assert any(isinstance(line, Step) and "link-a" in line.text for line in lines)
    traffic = [line for line in lines if isinstance(line, Traffic)]
    assert sum(line.sent for line in traffic) == result.ping_sent
    lost = sum(line.sent - line.answered for line in traffic)
    # The probes on their way when the ping ended may have been waited for longer than told.
    assert abs(lost - result.ping_lost) <= 2
