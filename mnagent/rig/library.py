"""The library of results: a folder with one folder for each run, whatever it ran on.

A run's folder is named after when it began, what was played and on what. It holds

``run.json``     what is known of the run, a `Run`; rewritten as a whole when the run ends
``live.jsonl``   what happened, a line each (`Step`, `Handover`, `Traffic`), written as it happens
``junit.xml``    its verdicts as JUnit has them, written when it ends
anything else    reports, pictures, captures, logs: flat, and shown by name

Whoever writes a run holds a lock on ``live.jsonl``, so that a run that goes on can be told from one
that was killed. The demo, the Wi-Fi machine and the boards all write with a
`mnagent.rig.recorder.Recorder`; the page reads with a `Library`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

FORMAT: Final = 1
"""Of ``run.json``; a reader refuses a later one."""
DEFAULT_FOLDER: Final = Path(os.environ.get("MNAGENT_RESULTS", "rig-results"))
TRAFFIC_SPAN: Final = 0.1
"""Seconds that a `Traffic` line is about."""
RUN_FILE: Final = "run.json"
LIVE_FILE: Final = "live.jsonl"
PHASES: Final = {
    "router_solicited": "RS",
    "router_advertised": "RA",
    "care_of_address_ready": "CoA",
    "update_sent": "BU",
    "acknowledged": "BA",
    "first_packet_out": "out",
    "first_packet_in": "in",
    "direct_path": "direct",
    "resumed": "all",
}
"""Phases of a handover in their usual order, and what pictures call them; ``direct_path``
and ``resumed`` (all kinds of traffic had come again) are what the rig saw."""

_NAME: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[a-z0-9][a-z0-9.-]{0,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A claim about the run, and whether it held."""

    claim: str
    held: bool
    detail: str = ""
    part: str = ""
    """Of the run, where it has several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """One change of the point of attachment, finished or as far as it has come."""

    number: int
    """Counted from 1; what is told later of the same number replaces what was told before."""
    origin: str
    destination: str
    at: float
    """The L2 event, in seconds on the CLOCK_BOOTTIME of the node."""
    phases: dict[str, float] = field(default_factory=dict)
    """Milliseconds from the L2 event to each of `PHASES`; missing what was not reached."""
    cause: str = ""
    """What the node took for the cause, or what the rig did."""
    lost: int | None = None
    """Probes without an answer."""
    part: str = ""
    """Of the run, where it has several."""

    @property
    def move(self) -> str:
        """From where to where."""
        return f"{self.origin} → {self.destination}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A line of the story. ``at`` as of a `Handover`."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What became of the probes of a short while."""

    at: float
    """When the while began, a multiple of `TRAFFIC_SPAN`, as of a `Handover`."""
    sent: int
    answered: int
    """How many of them were."""


Line = Step | Handover | Traffic
_KINDS: Final[Mapping[str, type[Any]]] = {
    "step": Step,
    "handover": Handover,
    "traffic": Traffic,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


def encode_line(line: Line) -> str:
    """A line of a live log, with its end."""
    record = {"kind": _NAMES[type(line)], **msgspec.to_builtins(line)}
    return msgspec.json.encode(record).decode() + "\n"


def decode_line(text: bytes) -> Line | None:
    """The reverse; None for what makes no sense."""
    try:
        record = msgspec.json.decode(text, type=dict[str, Any])
        kind = _KINDS[record.pop("kind")]
        line: Line = msgspec.convert(record, kind)
    except (msgspec.MsgspecError, KeyError, TypeError):
        return None
    return line


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is known of a run; ``run.json`` holds just this."""

    scenario: str
    """What was played: ``demo``, ``wifi``, ..."""
    target: str
    """On what: ``namespaces``, ``wifi-machine``, ``qemu-virt``, ..."""
    started_at: str
    """ISO 8601, UTC."""
    commit: str = ""
    """Of the program that was tested, as `commit` gives it; empty when not known."""
    kernel: str = ""
    """Of the machine with the mobile node."""
    board: str = ""
    """Model, where there is one."""
    image: dict[str, Any] | None = None
    """Manifest of the board's card image."""
    settings: dict[str, str] = field(default_factory=dict)
    """What was chosen: only runs with the same settings are compared."""
    facts: dict[str, str] = field(default_factory=dict)
    """Whatever else was found out about what was tested."""
    succeeded: bool | None = None
    """None until it has ended."""
    seconds: float = 0.0
    """How long it took."""
    error: str = ""
    """Why it could not be carried out."""
    verdicts: tuple[Verdict, ...] = ()
    handovers: tuple[Handover, ...] = ()
    format: int = FORMAT

    @property
    def series(self) -> str:
        """Runs with the same one can be compared."""
        settings = (f"{name} {value}" for name, value in sorted(self.settings.items()))
        return ", ".join(filter(None, (self.scenario, self.target, self.board, *settings)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A run in the library."""

    name: str
    folder: Path
    run: Run | None
    """None for one that cannot be read."""
    fault: str = ""
    """Why it cannot."""
    running: bool = False

    def files(self) -> list[Path]:
        """Reports and whatever else there is, by name."""
        hidden = (RUN_FILE, LIVE_FILE)
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.name not in hidden and not path.name.startswith(".") and _is_plain(path)
        )

    def file(self, name: str) -> Path | None:
        """A file of its folder by name, None when there is none."""
        path = self.folder / name
        is_inside = name == path.name and not name.startswith(".")
        return path if is_inside and _is_plain(path) else None


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


class Library:
    """The runs of a folder. What was read is kept until its file changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, tuple[tuple[int, int], Run | None, str]] = {}

    def entries(self) -> list[Entry]:
        """All runs, the latest first; none where there is no folder."""
        try:
            names = sorted(os.listdir(self.folder), reverse=True)
        except FileNotFoundError:
            return []
        found = [entry for name in names if (entry := self.entry(name)) is not None]
        for gone in self._read.keys() - {entry.name for entry in found}:
            self._read.pop(gone, None)
        return found

    def state(self) -> object:
        """Another value whenever a run was added or removed."""
        try:
            found = self.folder.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_nlink

    def entry(self, name: str) -> Entry | None:
        """A run by name, None when there is none."""
        folder = self.folder / name
        if not _NAME.fullmatch(name) or folder.is_symlink() or not folder.is_dir():
            return None
        run, fault = self._run(name, folder / RUN_FILE)
        running = run is not None and run.succeeded is None and _is_locked(folder / LIVE_FILE)
        return Entry(name=name, folder=folder, run=run, fault=fault, running=running)

    def _run(self, name: str, path: Path) -> tuple[Run | None, str]:
        try:
            state = path.stat()
            stamp = (state.st_mtime_ns, state.st_size)
            if name in self._read and self._read[name][0] == stamp:
                return self._read[name][1:]
            run, fault = _decode(path.read_bytes())
        except OSError as error:
            return None, f"{RUN_FILE}: {error.strerror}"
        self._read[name] = (stamp, run, fault)
        return run, fault


def _decode(data: bytes) -> tuple[Run | None, str]:
    try:
        run = msgspec.json.decode(data, type=Run)
    except msgspec.DecodeError as error:
        return None, f"{RUN_FILE}: {error}"
    if run.format > FORMAT:
        return None, f"{RUN_FILE}: format {run.format}, this program reads up to {FORMAT}"
    return run, ""


def _is_locked(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class LiveReader:
    """Reads what happened in a run, also while it goes on."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LIVE_FILE
        self._offset = 0

    def read(self) -> list[Line]:
        """The lines that were added since the last call; those that make no sense are left out.
        Raises OSError."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [line for text in whole.splitlines() if (line := decode_line(text)) is not None]
