"""The Wi-Fi rig without its machine: what is built, how it is booted, how results are read."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mnagent.rig.impairment import Impairment
from mnagent.rig.namespace import RigError
from mnagent.rig.wifi import command
from mnagent.rig.wifi.bench import ACCESS_POINTS, netem, parse_sightings
from mnagent.rig.wifi.control import ControlSocket, parse_fields
from mnagent.rig.wifi.machine import (
    EXIT_NO_RESULT,
    Image,
    Machine,
    _Builder,
    _exit_status,
    build,
    console_tail,
    describe,
)
from mnagent.rig.wifi.report import as_html, as_junit, as_text, write_reports
from mnagent.rig.wifi.results import Claim, Outcome, Results, Roam, median_of
from mnagent.rig.wifi.scenarios import SCENARIOS, _frugal

ROAM = Roam(
    means="command",
    origin="ap-1",
    destination="ap-2",
    changes_link=True,
    began_at=10.0,
    connected_at=10.125,
    link_up_at=10.15,
    noticed_at=10.13,
    access_point="02:00:00:00:02:00",
    update_sent_at=10.1875,
    acknowledged_at=10.25,
    updates=1,
    care_of_addresses=("2001:db8:b::1",),
    replies=(10.02, 10.2),
    lost=(10.05, 10.1),
    resumed_at=10.26,
)


def results(*, held: bool = True, error: str = "") -> Results:
    outcome = Outcome(
        name="across-links",
        title="Roams <across> links",
        seconds=4.0,
        claims=[Claim("all noticed", True), Claim("fast & cheap", held, "172 ms of 92 ms")],
        roams=[ROAM],
        error=error,
    )
    return Results(
        kernel="6.1.0", seconds=60.0, round_trips_ms={"home-agent": 62.0}, outcomes=[outcome]
    )


# The machine.


def test_description_of_another_machine_has_another_digest() -> None:
    description = describe((3, 11))
    assert description.suite == "bookworm"
    assert describe((3, 11)).digest == description.digest
    changed = {
        replace(description, packages=(*description.packages, "iw")).digest,
        replace(description, modules=description.modules[1:]).digest,
        replace(description, init=description.init + "#").digest,
        describe((3, 13)).digest,
        description.digest,
    }
    assert len(changed) == 5


def test_python_of_no_debian_release_is_refused_with_those_that_are_not() -> None:
    with pytest.raises(RigError, match=r"3\.12.*3\.11 or 3\.13"):
        describe((3, 12))


def test_modules_needed_to_boot_are_among_those_installed() -> None:
    description = describe((3, 11))
    assert set(description.boot_modules) <= set(description.modules)


def test_machine_shares_the_program_for_reading_and_the_job_for_writing(tmp_path: Path) -> None:
    line = Machine(image=Image(tmp_path / "image")).command(tmp_path / "job")
    shares = {part.split(",")[1]: part for part in line if part.startswith("local,")}
    assert shares.keys() == {"id=project", "id=packages", "id=job"}
    assert shares["id=project"].endswith("readonly=on")
    assert shares["id=packages"].endswith("readonly=on")
    assert f"path={tmp_path / 'job'}" in shares["id=job"]
    assert "readonly" not in shares["id=job"]
    disk = next(part for part in line if str(tmp_path / "image" / "disk") in part)
    assert disk.endswith("readonly=on")


def test_finished_image_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = describe((3, 11))
    folder = tmp_path / "cache" / description.digest
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert build(description, Path("cache")).folder == folder


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_initramfs_has_its_script_and_the_modules_in_the_order_of_loading(tmp_path: Path) -> None:
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "root/bin/busybox").write_bytes(b"\x7fELF")
    modules = [tmp_path / name for name in ("virtio.ko", "virtio_blk.ko")]
    for module in modules:
        module.write_bytes(module.name.encode())
    _Builder(describe((3, 11)), tmp_path)._write_initramfs(modules)
    archive = tmp_path / "initramfs"
    listed = subprocess.run(
        ("cpio", "-tv", "--quiet"), input=archive.read_bytes(), capture_output=True, check=True
    )
    rows = {line.split()[-1]: line.split()[0] for line in listed.stdout.decode().splitlines()}
    assert rows["init"] == "-rwxr-xr-x" and rows["proc"].startswith("d")
    assert {"bin/busybox", "modules/00-virtio.ko", "modules/01-virtio_blk.ko"} <= rows.keys()
    assert describe((3, 11)).early.encode() in archive.read_bytes()


@pytest.mark.parametrize(("written", "status"), [("0\n", 0), ("3\n", 3), ("", EXIT_NO_RESULT)])
def test_exit_status_of_a_job_comes_back(tmp_path: Path, written: str, status: int) -> None:
    (tmp_path / "status").write_text(written)
    assert _exit_status(tmp_path / "status") == status


def test_job_without_exit_status_has_failed(tmp_path: Path) -> None:
    assert _exit_status(tmp_path / "status") == EXIT_NO_RESULT
    assert console_tail(tmp_path / "console.log") == "it said nothing"


# The air.


def test_access_points_have_radios_channels_and_links_of_their_own() -> None:
    plans = list(ACCESS_POINTS.values())
    assert len({plan.radio for plan in plans}) == len({plan.channel for plan in plans}) == 4
    assert 0 not in {plan.radio for plan in plans}
    assert ACCESS_POINTS["ap-1"].link == ACCESS_POINTS["ap-3"].link != ACCESS_POINTS["ap-2"].link


def test_hostapd_is_told_of_both_ways_to_authenticate_and_of_none_where_open() -> None:
    protected = ACCESS_POINTS["ap-2"].configuration(Path("/run/x"))
    assert "wpa_key_mgmt=WPA-PSK SAE\n" in protected
    assert {"interface=wlan2", "bridge=link-b", "channel=6"} <= set(protected.splitlines())
    assert "wpa" not in ACCESS_POINTS["ap-4"].configuration(Path("/run/x"))


def test_sightings_are_the_stations_on_the_clock_of_the_rig() -> None:
    text = (
        "1700000000.250000: wlan0 (phy #0): disconnected (local request) reason: 1\n"
        "1700000000.500000: wlan0 (phy #0): connected to 02:00:00:00:02:00\n"
        "1700000000.600000: phy #1: regulatory\n"
        "1700000000.700000: wlan2 (phy #2): new station 02:00:00:00:00:00\n"
        "1700000000.750000: wlan0 (phy #0): roamed to 02:00:00:00:03:00\n"
        "1700000001.0"
    )
    seen = parse_sightings(text, "wlan0", offset=1700000000.0)
    assert [(one.at, one.is_connect) for one in seen] == [(0.25, False), (0.5, True), (0.75, True)]


def test_netem_is_told_delay_jitter_and_loss() -> None:
    line = " ".join(netem("to-a", Impairment(delay=0.02, jitter=0.001, loss=0.01)))
    assert "dev to-a root netem" in line
    assert line.endswith("delay 20000us 1000us loss 1.0000%")


def test_fields_of_an_answer_leave_out_what_is_none() -> None:
    assert parse_fields("bssid=02:00\nwpa_state=COMPLETED\nFAIL") == {
        "bssid": "02:00",
        "wpa_state": "COMPLETED",
    }


def test_control_socket_tells_orders_refused_and_nobody_there(tmp_path: Path) -> None:
    path = tmp_path / "wlan0"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))

        def answer() -> None:
            for reply in (b"OK\n", b"FAIL\n"):
                _, sender = server.recvfrom(4096)
                server.sendto(reply, sender)

        thread = threading.Thread(target=answer)
        thread.start()
        control = ControlSocket(path)
        control.tell("SCAN")
        with pytest.raises(RigError, match="refused ROAM"):
            control.tell("ROAM")
        thread.join()
    path.unlink()
    with pytest.raises(RigError, match="does not answer PING"):
        control.ask("PING")
    assert list(tmp_path.iterdir()) == []


# The results.


def test_results_are_the_same_after_a_journey_as_json() -> None:
    whole = results()
    assert Results.from_record(json.loads(json.dumps(whole.as_record()))) == whole


def test_roam_counts_from_the_nl80211_event() -> None:
    assert ROAM.registration_ms == 125.0
    assert ROAM.from_link_up_ms == 100.0
    assert replace(ROAM, connected_at=None).registration_ms is None
    assert replace(ROAM, acknowledged_at=None).from_link_up_ms is None
    assert median_of([1.0, None, 4.0, 2.0]) == 2.0
    assert median_of([None]) is None


def test_scenario_without_a_claim_or_with_an_error_has_not_succeeded() -> None:
    assert results().succeeded
    assert not results(held=False).succeeded
    assert not results(error="the bench broke").succeeded
    assert not Results().succeeded
    assert not Outcome(name="x", title="x").succeeded


def test_junit_tells_failures_from_errors() -> None:
    for whole, expected in (
        (results(), ("0", "0")),
        (results(held=False), ("1", "0")),
        (results(error="the bench broke"), ("0", "1")),
    ):
        suite = ElementTree.fromstring(as_junit(whole))
        assert (suite.attrib["failures"], suite.attrib["errors"]) == expected
    failure = ElementTree.fromstring(as_junit(results(held=False))).find("testcase/failure")
    assert failure is not None
    assert failure.attrib["message"] == "fast & cheap"


def test_page_and_text_tell_what_was_not_true(tmp_path: Path) -> None:
    page = write_reports(results(held=False), tmp_path).read_text()
    assert "Not every claim was true." in page
    assert "Roams &lt;across&gt; links" in page
    assert page.count("<circle") == len(ROAM.replies) + len(ROAM.lost)
    assert "BA: 125.0 ms" in page
    assert "not true: fast & cheap (172 ms of 92 ms)" in as_text(results(held=False))
    assert "the bench broke" in as_html(results(error="the bench broke"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html",
        "junit.xml",
        "results.json",
    }


# The command.


def test_every_scenario_has_a_name_of_its_own_and_a_title() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert all(scenario.title != scenario.name for scenario in SCENARIOS)


def test_unknown_scenario_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["nowhere"]) == 2
    assert "no scenario nowhere" in capsys.readouterr().err


def test_run_that_left_nothing_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "build", lambda description, cache: Image(cache))
    monkeypatch.setattr(Machine, "run", lambda *args, **options: 0)
    (tmp_path / "results.json").write_text(json.dumps(results().as_record()))
    folder = str(tmp_path)
    options = ["--output", folder, "--cache", folder, "--results", folder]
    assert command.main(options) == 2
    assert "did not end in order" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shares", "held"),
    [({"daemon": 0.06, "captures": 0.5}, True), ({"daemon": 0.92}, False), ({}, False)],
    ids=["working", "spinning", "gone"],
)
def test_daemon_that_takes_the_processor_is_noticed(shares: dict[str, float], held: bool) -> None:
    claim = _frugal(shares)
    assert claim.held is held
    assert claim.detail == ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
