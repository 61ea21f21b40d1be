"""The library of results: what is written is what is read, whatever becomes of the writer."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import mnagent
from mnagent.rig.library import (
    FORMAT,
    LIVE_FILE,
    RUN_FILE,
    Handover,
    Library,
    LiveReader,
    Step,
    Traffic,
)
from mnagent.rig.recorder import Recorder, commit, new_run
from tests.support.results import HANDOVER, RUN, add_run


def test_library_without_a_folder_is_empty(tmp_path: Path) -> None:
    assert Library(tmp_path / "none").entries() == []


def test_run_finished_is_read_as_it_was_written(tmp_path: Path) -> None:
    name = add_run(tmp_path / "library")
    (entry,) = Library(tmp_path / "library").entries()
    assert entry.name == name
    assert name.startswith("20260102T030405Z-demo-namespaces-")
    assert not entry.running
    assert entry.run is not None
    assert entry.run.succeeded
    assert entry.run.handovers == (HANDOVER,)
    assert entry.run.verdicts[0].claim == "nothing was <lost>"
    assert replace(entry.run, succeeded=None, seconds=0.0, verdicts=(), handovers=()) == RUN


def test_library_shows_that_a_run_was_added(tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    states = [library.state()]
    for _ in range(2):
        add_run(tmp_path / "library")
        states.append(library.state())
    assert len(set(states)) == 3
    assert library.state() == states[-1]


def test_runs_are_listed_the_latest_first(tmp_path: Path) -> None:
    older = add_run(tmp_path)
    newer = add_run(tmp_path, started_at="2026-01-03T00:00:00+00:00")
    assert [entry.name for entry in Library(tmp_path).entries()] == [newer, older]


def test_run_within_its_recorder_is_running(tmp_path: Path) -> None:
    library = Library(tmp_path)
    with Recorder(tmp_path, RUN) as recorder:
        assert library.entries()[0].running
        recorder.finish(succeeded=True)
        assert not library.entries()[0].running


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("the bench fell down"), "the bench fell down"),
        (RuntimeError(), "RuntimeError"),
        (KeyboardInterrupt(), "stopped"),
        (asyncio.CancelledError(), "stopped"),
    ],
)
def test_run_left_by_an_exception_has_failed_with_it(
    tmp_path: Path, error: BaseException, text: str
) -> None:
    with pytest.raises(type(error)), Recorder(tmp_path, RUN):
        raise error
    (entry,) = Library(tmp_path).entries()
    assert entry.run is not None
    assert (entry.run.succeeded, entry.run.error) == (False, text)


def test_run_whose_writer_was_killed_is_not_running(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from mnagent.rig.recorder import *\n"
        "recorder = Recorder(Path(sys.argv[1]), new_run('demo', 'namespaces'))\n"
        "print('written', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        library = Library(tmp_path)
        assert library.entries()[0].running
        writer.kill()
    (entry,) = library.entries()
    assert not entry.running
    assert entry.run is not None
    assert entry.run.succeeded is None


def test_live_log_is_read_as_it_grows(tmp_path: Path) -> None:
    lines = [Step(at=1.0, text="ä"), Traffic(at=1.1, sent=5, answered=4), HANDOVER]
    with Recorder(tmp_path, RUN) as recorder:
        reader = LiveReader(recorder.folder)
        assert reader.read() == []
        for line in lines:
            recorder.tell(line)
            assert reader.read() == [line]


def test_live_log_leaves_out_what_makes_no_sense(tmp_path: Path) -> None:
    (tmp_path / LIVE_FILE).write_bytes(
        b'nonsense\n[]\n{"kind":"unknown"}\n{"at":1}\n{"kind":"step","at":"x","text":"t"}\n'
        b'{"kind":"step","at":1,"text":"good"}\n{"kind":"step","at":2,"te'
    )
    assert LiveReader(tmp_path).read() == [Step(at=1.0, text="good")]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "truncated"),
        ('{"scenario": 7}', "Expected `str`"),
        (json.dumps({"scenario": "a", "target": "b", "started_at": "c", "format": 99}), "99"),
    ],
)
def test_run_that_cannot_be_read_says_why(tmp_path: Path, text: str, fault: str) -> None:
    name = add_run(tmp_path)
    (tmp_path / name / RUN_FILE).write_text(text)
    (entry,) = Library(tmp_path).entries()
    assert entry.run is None
    assert fault in entry.fault
    assert str(FORMAT) in entry.fault or "99" not in fault


def test_run_without_its_file_says_so(tmp_path: Path) -> None:
    name = add_run(tmp_path)
    (tmp_path / name / RUN_FILE).unlink()
    (entry,) = Library(tmp_path).entries()
    assert "No such file" in entry.fault


def test_library_follows_a_file_that_changes(tmp_path: Path) -> None:
    name, library = add_run(tmp_path), Library(tmp_path)
    assert library.entries()[0].run is not None
    (tmp_path / name / RUN_FILE).write_text("broken")
    assert library.entries()[0].run is None
    (tmp_path / name / RUN_FILE).unlink()
    (tmp_path / name / "report.html").unlink()


@pytest.mark.parametrize("name", ["..", "x", "20260102T030405Z-", "20260102T030405Z-a/b", ".git"])
def test_names_that_are_no_runs_are_not_looked_up(tmp_path: Path, name: str) -> None:
    assert Library(tmp_path).entry(name) is None


def test_links_out_of_the_library_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    library = tmp_path / "library"
    name = add_run(library)
    (library / name / "link.txt").symlink_to(secret)
    (library / "20260102T030405Z-linked").symlink_to(library / name)
    entry = Library(library).entry(name)
    assert entry is not None
    assert entry.file("link.txt") is None
    assert entry.file("../../secret.txt") is None
    assert entry.file(".") is None
    assert "link.txt" not in [path.name for path in entry.files()]
    assert Library(library).entry("20260102T030405Z-linked") is None


def test_files_of_a_run_leave_out_its_own(tmp_path: Path) -> None:
    name = add_run(tmp_path)
    entry = Library(tmp_path).entry(name)
    assert entry is not None
    names = [path.name for path in entry.files()]
    assert names == ["junit.xml", "link-a.pcap", "report.html", "timeline.svg"]
    assert entry.file(RUN_FILE) is not None


def test_kept_files_are_copies(tmp_path: Path) -> None:
    original = tmp_path / "console.log"
    original.write_text("booted")
    with Recorder(tmp_path / "library", RUN) as recorder:
        recorder.keep([original])
        original.unlink()
        assert (recorder.folder / "console.log").read_text() == "booted"
        recorder.finish(succeeded=True)


def test_folder_name_is_safe_whatever_the_target_is_called(tmp_path: Path) -> None:
    add_run(tmp_path, target="Pi 3/B+ (über)")
    (entry,) = Library(tmp_path).entries()
    assert entry.name.startswith("20260102T030405Z-demo-pi-3-b-ber-")


def test_series_tell_runs_apart_that_cannot_be_compared() -> None:
    assert RUN.series == "demo, namespaces, delay 20 ms"
    assert replace(RUN, board="Pi 3", settings={}).series == "demo, namespaces, Pi 3"


def test_handover_knows_its_move() -> None:
    assert Handover(number=1, origin="a", destination="b", at=0.0).move == "a → b"


def test_new_run_says_what_is_tested_where() -> None:
    run = new_run("demo", "namespaces", board="Pi")
    assert run.kernel == os.uname().release
    assert run.board == "Pi"
    assert run.started_at.endswith("+00:00")


def test_commit_of_an_installed_package_is_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where it is installed within the tree of something else."""
    subprocess.run(("git", "init", "-q", str(tmp_path)), check=True)
    monkeypatch.setattr(mnagent, "__file__", str(tmp_path / "site" / "mnagent" / "__init__.py"))
    assert commit() == mnagent.__version__


def test_commit_of_a_tree_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mnagent" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    git = ("git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "m")):
        subprocess.run((*git, *command), check=True)
    monkeypatch.setattr(mnagent, "__file__", str(package))
    clean = commit()
    assert len(clean) == 12
    package.write_text("changed")
    assert commit() == f"{clean}-dirty"


def test_files_made_under_sudo_belong_to_who_called_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned: list[tuple[str, int, int]] = []
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "2345")
    monkeypatch.setattr(
        os, "chown", lambda path, user, group, **_: owned.append((Path(path).name, user, group))
    )
    name = add_run(tmp_path / "library")
    assert ("library", 1234, 2345) in owned
    assert (name, 1234, 2345) in owned
    assert (RUN_FILE, 1234, 2345) in owned
