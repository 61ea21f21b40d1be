"""The scenario for every target, over Wi-Fi, without its machine: what is asked of it and kept."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mnagent.rig.recorder import COMMIT_VARIABLE, commit
from mnagent.rig.wifi import target
from mnagent.rig.wifi.machine import Image, Machine


class FakeMachine(Machine):
    """Leaves what pytest would, without booting."""

    __slots__ = ()
    jobs: list[list[str]]

    def _boot(self, job: Path, timeout: float, errors: list[str]) -> int:
        self.jobs.append(shlex.split((job / "command").read_text()))
        errors.append("it hung once")
        run = job / "out" / target.RESULTS / "20261123T170000Z-journey-wifi-0"
        run.mkdir(parents=True)
        (run / "run.json").write_text("{}")
        (job / "out" / "junit.xml").write_text("<testsuites/>")
        return 1


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    monkeypatch.setattr(FakeMachine, "jobs", [], raising=False)
    monkeypatch.setattr("compileall.compile_dir", lambda *_, **__: True)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/qemu-system-x86_64")
    return FakeMachine(image=Image(tmp_path / "image"))


def test_scenario_runs_inside_with_the_options_of_the_command_line(
    machine: FakeMachine, tmp_path: Path
) -> None:
    assert target.run(machine, tmp_path / "out", None, ["-k", "roams between"]) == 1
    ((program, *words),) = machine.jobs
    assert program == "env"
    assert f"{COMMIT_VARIABLE}={commit()}" in words
    assert "CI=1" in words
    assert words[words.index("-m") + 1] == "pytest"
    assert words[-2:] == ["-k", "roams between"]
    assert words[words.index("--target") + 1] == "wifi"
    assert (target.project_folder() / target.SCENARIO).exists()


def test_run_is_carried_into_the_library_and_reports_stay(
    machine: FakeMachine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library, output = tmp_path / "library", tmp_path / "out"
    (output / target.RESULTS / "of an earlier run").mkdir(parents=True)
    (output / "report.html").write_text("of an earlier run")
    target.run(machine, output, library, [])
    (run,) = library.iterdir()
    assert (run / "run.json").read_text() == "{}"
    assert [path.name for path in output.iterdir()] == ["junit.xml"]
    assert "it hung once" in capsys.readouterr().out


def test_run_is_kept_nowhere_without_a_library(machine: FakeMachine, tmp_path: Path) -> None:
    target.run(machine, tmp_path / "out", None, [])
    assert not (tmp_path / "out" / target.RESULTS).exists()


def test_options_that_are_not_the_commands_own_are_pytests() -> None:
    options, others = target.parser().parse_known_args(["--output", "x", "-k", "roams", "-x"])
    assert (options.output, others) == (Path("x"), ["-k", "roams", "-x"])


def test_commit_is_what_the_environment_says_where_it_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, "0123abcd")
    assert commit() == "0123abcd"
