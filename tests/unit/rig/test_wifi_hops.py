"""What the Wi-Fi rig makes of the captures of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mnagent.rig.capture import CapturedFrame, write_frame, write_header
from mnagent.rig.keyfile import read_associations
from mnagent.rig.namespace import RigError
from mnagent.rig.topology import LINK_A, LINK_B
from mnagent.rig.wifi.bench import CAPTIVE
from mnagent.rig.wifi.hops import judge, visited
from mnagent.rig.wifi.results import Outcome, Results
from tests.unit.rig.test_checks import CARE_OF_ADDRESS, HOME_ADDRESS, HOME_AGENT, PEER, esp, frame
from tests.unit.rig.test_keyfile import write_keys
from tests.unit.rig.test_wifi import ROAM


def good_frames(folder: Path) -> list[CapturedFrame]:
    spis = {
        one.outbound: one.spi
        for one in read_associations(write_keys(folder))
        if one.purpose == "binding"
    }
    return [
        frame(CARE_OF_ADDRESS, HOME_AGENT, 50, esp(spis[True])),
        frame(HOME_AGENT, CARE_OF_ADDRESS, 50, esp(spis[False])),
        frame(CARE_OF_ADDRESS, HOME_AGENT, 41, bytes(40)),
        frame(HOME_AGENT, CARE_OF_ADDRESS, 41, bytes(40)),
    ]


def write(path: Path, frames: list[CapturedFrame]) -> None:
    with path.open("wb") as file:
        write_header(file)
        for one in frames:
            write_frame(file, one.data, 0, 0)


def test_captures_of_a_good_run_are_found_good(tmp_path: Path) -> None:
    write(tmp_path / "link-a.pcap", good_frames(tmp_path))
    (tmp_path / "air.pcap").write_bytes(b"of another kind")
    outcome = judge(tmp_path, {LINK_A})
    assert outcome.succeeded and len(outcome.claims) == 5


def test_payload_outside_the_tunnel_is_found(tmp_path: Path) -> None:
    leak = frame(HOME_ADDRESS, PEER, 6, bytes(20))
    write(tmp_path / "link-a.pcap", [*good_frames(tmp_path), leak])
    failed = [claim.text for claim in judge(tmp_path, {LINK_A}).claims if not claim.held]
    assert failed == ["no packet from or to the home address outside the tunnel"]


def test_link_without_a_capture_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "link-a.pcap", good_frames(tmp_path))
    with pytest.raises(RigError, match="no capture of link-b"):
        judge(tmp_path, {LINK_A, LINK_B})


def test_captive_link_shows_what_was_tried_in_vain(tmp_path: Path) -> None:
    frames = good_frames(tmp_path)
    write(tmp_path / "link-a.pcap", frames)
    write(tmp_path / "captive.pcap", frames[:1])
    outcome = judge(tmp_path, {LINK_A, CAPTIVE})
    assert outcome.succeeded and outcome.claims[-2].detail == "1 sent, 0 answered"
    leak = frame(HOME_ADDRESS, PEER, 6, bytes(20))
    write(tmp_path / "captive.pcap", [*frames, leak])
    failed = [claim for claim in judge(tmp_path, {LINK_A, CAPTIVE}).claims if not claim.held]
    assert [claim.detail for claim in failed] == ["1 sent, 1 answered", "1 of them"]


def test_links_visited_are_those_the_station_roamed_between_and_its_first() -> None:
    results = Results(outcomes=[Outcome(name="x", title="X")])
    assert visited(results) == {LINK_A}
    results.outcomes[0].roams.append(ROAM)
    assert visited(results) == {LINK_A, LINK_B}
    results.outcomes[0].roams.append(replace(ROAM, origin="ap-4"))
    assert visited(results) == {LINK_A, LINK_B, CAPTIVE}
