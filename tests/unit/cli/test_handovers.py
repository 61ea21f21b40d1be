from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mnagent.cli import status
from mnagent.cli.handovers import render
from mnagent.cli.main import main

ANSWER: dict[str, Any] = {
    "now": 100.0,
    "handovers": [
        {
            "number": 1,
            "link_up_at": 40.0,
            "interface": "wlan0",
            "cause": "association",
            "care_of_address": "2001:db8:a::10",
            "router_solicited_at": 40.0005,
            "router_advertised_at": 40.011,
            "care_of_address_ready_at": 40.0112,
            "duplicate_detection_ended_at": None,
            "update_sent_at": 40.0113,
            "acknowledged_at": 40.0552,
            "first_packet_out_at": 40.012,
            "first_packet_in_at": 40.056,
            "at_home": False,
        },
        {"number": 2, "link_up_at": 90.0, "cause": "carrier", "at_home": True},
    ],
    "totals": {"count": 2, "phases": {}},
}


def test_render_shows_each_phase_in_milliseconds() -> None:
    _, heads, first, second = render(ANSWER)
    assert heads.split() == [
        *("#", "ago", "interface", "cause", "RS", "RA", "address", "DAD", "BU", "BA", "out", "in"),
        "to",
    ]
    shown = ["0.5", "11.0", "11.2", "-", "11.3", "55.2", "12.0", "56.0", "2001:db8:a::10"]
    assert first.split()[-9:] == shown
    assert second.split()[-1] == "(home)"


def test_render_shows_the_correspondents_of_a_handover() -> None:
    reached = {"tests_started_at": 40.012, "tests_passed_at": 40.1, "update_sent_at": 40.1001}
    first, second = ANSWER["handovers"]
    with_peer = {**first, "correspondents": {"2001:db8:c::99": reached}}
    shown = list(render({**ANSWER, "handovers": [with_peer, second]}))
    assert shown[4] == ""
    assert shown[6].split() == ["#", "tests", "passed", "BU", "BA", "out", "in", "correspondent"]
    assert shown[7].split() == ["1", "12.0", "100.0", "100.1", "-", "-", "-", "2001:db8:c::99"]


def test_render_without_handovers_says_so() -> None:
    assert list(render({"handovers": []})) == ["No handover yet."]


@pytest.mark.parametrize("as_json", [True, False])
def test_command_asks_the_agent(
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    asked: list[tuple[Path, str]] = []

    def request(path: Path, method: str, *_: Any, **__: Any) -> dict[str, Any]:
        asked.append((path, method))
        return ANSWER

    monkeypatch.setattr(status, "request", request)
    path = tmp_path / "control.sock"
    assert main(["handovers", "--socket", str(path), *(["--json"] if as_json else [])]) == 0
    assert asked == [(path, "handovers")]
    printed = capsys.readouterr().out
    assert (json.loads(printed) == ANSWER) if as_json else ("wlan0" in printed)
