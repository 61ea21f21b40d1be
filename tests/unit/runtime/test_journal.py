"""The journal: nothing that was written is lost, and nothing damaged is believed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mnagent.runtime.journal import MIN_REWRITE_LENGTH, Journal
from mnagent.system.clock import ManualClock


class Machine:
    """A machine whose clocks a test sets, with one journal."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "bindings.journal"
        self.clock = ManualClock(1000.0)
        self.wall = 5_000_000.0
        self.boot = "boot-1"

    def journal(self) -> Journal:
        return Journal(
            self.path, self.clock, boot_identifier=self.boot, wall_clock=lambda: self.wall
        )

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall += seconds

    def reboot(self, *, uptime: float, wall: float) -> None:
        self.boot, self.clock, self.wall = "boot-2", ManualClock(uptime), wall


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def killed_after(machine: Machine, **records: str | None) -> None:
    """A run that writes and then gets no chance to close."""
    journal = machine.journal()
    journal.open()
    for key, value in records.items():
        journal.note(key, value)
    journal.flush()


def test_journal_without_records_leaves_no_file(machine: Machine) -> None:
    journal = machine.journal()
    assert journal.open() == {}
    journal.flush()
    journal.close()
    assert not machine.path.exists()


def test_journal_keeps_what_a_killed_run_wrote(machine: Machine) -> None:
    killed_after(machine, a="1", b="two words")
    machine.advance(5.0)
    killed_after(machine, a="3", b=None, c="4")
    records = machine.journal().open()
    assert {key: (each.value, each.kept_at) for key, each in records.items()} == {
        "a": ("3", 1005.0),
        "c": ("4", 1005.0),
    }


def test_journal_is_private(machine: Machine) -> None:
    killed_after(machine, a="1")
    assert stat.S_IMODE(machine.path.stat().st_mode) == 0o600


def test_journal_of_an_earlier_boot_counts_the_time_between(machine: Machine) -> None:
    killed_after(machine, a="1")
    machine.reboot(uptime=30.0, wall=5_000_200.0)
    assert machine.journal().open()["a"].kept_at == pytest.approx(30.0 - 200.0)


def test_journal_of_an_earlier_boot_without_a_clock_counts_this_boot(machine: Machine) -> None:
    killed_after(machine, a="1")
    machine.reboot(uptime=30.0, wall=100.0)
    assert machine.journal().open()["a"].kept_at == 0.0


def test_journal_read_twice_in_the_next_boot_says_the_same(machine: Machine) -> None:
    killed_after(machine, a="1")
    machine.reboot(uptime=30.0, wall=5_000_200.0)
    first = machine.journal().open()["a"].kept_at
    machine.advance(10.0)
    assert machine.journal().open()["a"].kept_at == pytest.approx(first, abs=0.01)


def test_journal_leaves_out_a_line_that_was_cut_off(machine: Machine) -> None:
    killed_after(machine, a="1", b="2")
    machine.path.write_bytes(machine.path.read_bytes()[:-3])
    assert set(machine.journal().open()) == {"a"}


@pytest.mark.parametrize("position", range(30, 80, 7))
def test_journal_leaves_out_a_damaged_line(
    machine: Machine, position: int, caplog: pytest.LogCaptureFixture
) -> None:
    killed_after(machine, a="1" * 100, b="2")
    octets = bytearray(machine.path.read_bytes())
    octets[position] ^= 0x81
    machine.path.write_bytes(octets)
    assert set(machine.journal().open()) == {"b"}
    assert "1 damaged" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, b"mnagent-journal 2 boot\n", b"x\ny\n"])
def test_journal_that_cannot_be_read_is_put_aside(machine: Machine, content: bytes) -> None:
    machine.path.write_bytes(content)
    journal = machine.journal()
    assert journal.open() == {}
    journal.note("a", "1")
    journal.close()
    assert machine.path.with_name("bindings.journal.damaged").read_bytes() == content
    assert set(machine.journal().open()) == {"a"}


def test_journal_is_written_anew_once_it_is_mostly_history(machine: Machine) -> None:
    journal = machine.journal()
    journal.open()
    for number in range(3000):
        journal.note("key", str(number))
        journal.flush()
    assert machine.path.stat().st_size > MIN_REWRITE_LENGTH
    assert journal.is_dirty
    journal.sync()
    assert machine.path.stat().st_size < 200
    journal.note("key", "last")
    journal.flush()
    assert machine.journal().open()["key"].value == "last"


def test_journal_keeps_what_is_noted_while_it_is_written_anew(machine: Machine) -> None:
    journal = machine.journal()
    journal.open()
    for number in range(3000):
        journal.note("key", str(number))
        journal.flush()
    work = journal.begin_sync()
    journal.note("late", "1")
    journal.note("key", None)
    journal.flush()
    work()
    journal.end_sync()
    records = machine.journal().open()
    assert {key: each.value for key, each in records.items()} == {"late": "1"}


def test_journal_that_failed_to_write_writes_everything_later(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = machine.journal()
    journal.open()
    journal.note("a", "1")
    journal.flush()

    def refuse(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.write", refuse)
        for value in ("2", "3"):
            journal.note("a", value)
            journal.flush()
        journal.sync()
    assert caplog.text.count("No space left") == 1
    assert journal.is_dirty
    journal.sync()
    assert machine.journal().open()["a"].value == "3"


def test_journal_that_cannot_begin_keeps_no_descriptors(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = machine.journal()
    journal.open()

    def refuse(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr("os.write", refuse)
        for value in ("1", "2", "3"):
            journal.note("a", value)
            journal.flush()
    assert len(os.listdir("/proc/self/fd")) == len(before)
    journal.sync()
    assert machine.journal().open()["a"].value == "3"


def test_journal_that_begins_late_keeps_what_is_noted_meanwhile(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = machine.journal()
    journal.open()
    with monkeypatch.context() as patch:
        patch.setattr("os.open", lambda *arguments: os.read(-1, 1))
        journal.note("a", "1")
        journal.flush()
    caplog.clear()
    work = journal.begin_sync()
    journal.note("b", "2")
    journal.flush()
    work()
    journal.end_sync()
    assert not caplog.text
    records = machine.journal().open()
    assert not caplog.text
    assert {key: each.value for key, each in records.items()} == {"a": "1", "b": "2"}
