"""How results of the demo and of the Wi-Fi machine come into the library."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from mnagent.rig.checks import Check
from mnagent.rig.library import LIVE_FILE, Library, LiveReader, Step
from mnagent.rig.recorder import LiveWriter, Recorder
from mnagent.rig.recording import known, record
from mnagent.rig.report import Result
from mnagent.rig.wifi import recording as wifi
from mnagent.rig.wifi.results import Claim, Outcome, Results, Roam
from tests.support.results import RUN
from tests.unit.rig.test_telling import measured


def result() -> Result:
    return Result(
        handovers=[measured()],
        checks=[Check("all is well", True, "quite")],
        tcp_survived=True,
        incoming_tcp_survived=True,
        ping_sent=100,
        ping_lost=4,
        delay=0.02,
        payload_protection="none",
        records=[{"link_up_at": 2.11, "cause": "carrier", "acknowledged_at": 2.19}],
    )


def test_demo_is_kept_with_pictures_and_captures_and_without_keys(tmp_path: Path) -> None:
    output = tmp_path / "output"
    (output / "wireshark").mkdir(parents=True)
    for name in ("report.html", "link-a.pcap", "wireshark/esp_sa", "mobile-node.toml"):
        (output / name).write_text(name)
    with Recorder(tmp_path / "library", RUN) as recorder:
        record(result(), output, recorder, board="Pi 3", facts={"system": "Debian"})
    (entry,) = Library(tmp_path / "library").entries()
    names = [path.name for path in entry.files()]
    assert names == ["junit.xml", "link-a.pcap", "phases.svg", "report.html", "timeline.svg"]
    for name in ("phases.svg", "timeline.svg"):
        ElementTree.parse(entry.folder / name)
    assert entry.run is not None
    assert (entry.run.board, entry.run.facts) == ("Pi 3", {"system": "Debian"})
    assert entry.run.verdicts[0].claim == "all is well"
    assert entry.run.handovers[0].phases["acknowledged"] == 80.0


def test_facts_become_fields_of_a_run() -> None:
    facts = {"commit": "c", "kernel": "6.12", "model": "Pi 3", "target": "pi", "image name": "i"}
    assert known({**facts, "system": "Debian"}) == {
        "commit": "c",
        "kernel": "6.12",
        "board": "Pi 3",
        "image": {"name": "i"},
        "facts": {"system": "Debian"},
    }
    assert known({"kernel": "", "board": "namespace"}) == {"board": "namespace", "facts": {}}


ROAM = Roam(
    means="command",
    origin="ap-1",
    destination="ap-2",
    changes_link=True,
    began_at=9.0,
    connected_at=10.0,
    solicited_at=10.01,
    acknowledged_at=10.08,
    resumed_at=9.9,
    lost=(9.5, 9.6),
)


def test_roam_counts_from_what_nl80211_told() -> None:
    told = wifi.as_handover(ROAM, 3, "across-links")
    assert told.phases == {"router_solicited": 10.0, "acknowledged": 80.0, "resumed": 0.0}
    assert (told.number, told.move, told.part) == (3, "ap-1 → ap-2", "across-links")
    assert (told.at, told.cause, told.lost) == (10.0, "command", 2)


def test_wifi_results_are_kept_by_scenario(tmp_path: Path) -> None:
    found = Results(
        kernel="6.1.0",
        outcomes=[
            Outcome(name="one", title="One", claims=[Claim("it held", True)], roams=[ROAM]),
            Outcome(name="two", title="Two", roams=[ROAM], error="the station fell asleep"),
        ],
    )
    output = tmp_path / "output"
    output.mkdir()
    (output / "results.json").write_text(json.dumps(found.as_record()))
    (output / "station.supplicant").write_text("psk=secret")
    with Recorder(tmp_path / "library", RUN) as recorder:
        wifi.record(found, output, recorder)
    (entry,) = Library(tmp_path / "library").entries()
    assert [path.name for path in entry.files()] == [
        "junit.xml",
        "one.svg",
        "results.json",
        "two.svg",
    ]
    assert entry.run is not None
    assert (entry.run.succeeded, entry.run.kernel) == (False, "6.1.0")
    assert entry.run.error == "two: the station fell asleep"
    assert [(each.number, each.part) for each in entry.run.handovers] == [(1, "one"), (2, "two")]
    assert entry.run.verdicts[0].part == "one"


def test_what_the_machine_tells_is_passed_on_to_the_end(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    lines = [Step(at=float(second), text="so far") for second in range(3)]
    with Recorder(tmp_path / "library", RUN) as recorder:
        with wifi.relay(shared, recorder):
            inside = LiveWriter(shared)
            for line in lines:
                inside.tell(line)
            inside.close()
        assert LiveReader(recorder.folder).read() == lines
        recorder.finish(succeeded=True)


def test_machine_that_tells_nothing_is_no_trouble(tmp_path: Path) -> None:
    with Recorder(tmp_path / "library", RUN) as recorder:
        with wifi.relay(tmp_path, recorder):
            pass
        assert (recorder.folder / LIVE_FILE).read_bytes() == b""
        recorder.finish(succeeded=True)
