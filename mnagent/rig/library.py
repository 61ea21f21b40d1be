"""The library of results: a folder with one folder for each run, whatever it ran on.

A run's folder is named after when it began, what was played and on what. It holds

``run.json``     what is known of the run, a `Run`; rewritten as a whole when the run ends
``live.jsonl``   what happened, a line each (`Step`, `Handover`, `Traffic`), written as it happens
anything else    reports, pictures, captures, logs: flat, and shown by name

Whoever writes a run holds a lock on ``live.jsonl``, so that a run that goes on can be told from one
that was killed. The demo, the Wi-Fi machine and the boards all write with a `Recorder`; the page
reads with a `Library`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

import mnagent

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
    "resumed": "all",
}
"""Phases of a handover in their usual order, and what pictures call them; ``resumed`` is when the
last of all kinds of traffic had come again, as the rig saw it."""

_NAME: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[a-z0-9][a-z0-9.-]{0,100}")
_UNSAFE: Final = re.compile(r"[^a-z0-9.]+")


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


class LiveWriter:
    """Writes what happens into a folder, a line each, to be read at once."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self._file = (folder / LIVE_FILE).open("a", encoding="utf-8")

    def tell(self, line: Line) -> None:
        """Add a line. Raises OSError."""
        record = {"kind": _NAMES[type(line)], **msgspec.to_builtins(line)}
        self._file.write(msgspec.json.encode(record).decode() + "\n")
        self._file.flush()

    def lock(self) -> None:
        """Say that the run goes on, for as long as this is open."""
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def close(self) -> None:
        """Nothing more happens."""
        self._file.close()


class Recorder:
    """A run that is being written: a context, within which the run goes on.

    When an exception leaves it before `finish`, the run has failed with that error.
    """

    def __init__(self, library: Path, run: Run) -> None:
        """Begin a run. Raises OSError."""
        self._run = run
        self._began = time.monotonic()
        if not library.exists():
            library.mkdir(parents=True)
            give_back(library)
        began = datetime.fromisoformat(run.started_at).strftime("%Y%m%dT%H%M%SZ")
        what = _UNSAFE.sub("-", f"{run.scenario}-{run.target}".lower()).strip("-")
        self.folder = library / f"{began}-{what}-{secrets.token_hex(3)}"
        self.folder.mkdir()
        self._live = LiveWriter(self.folder)
        self._live.lock()
        self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._run.succeeded is None and error is not None:
            stopped = isinstance(error, asyncio.CancelledError | KeyboardInterrupt)
            text = "stopped" if stopped else str(error) or type(error).__name__
            self.finish(succeeded=False, error=text)
        self._live.close()
        give_back(self.folder)

    def tell(self, line: Line) -> None:
        """Add a line to what happened. Raises OSError."""
        self._live.tell(line)

    def keep(self, files: Iterable[Path]) -> None:
        """Copy files into the run's folder. Raises OSError."""
        for path in files:
            shutil.copyfile(path, self.folder / path.name)

    def finish(
        self,
        *,
        succeeded: bool,
        error: str = "",
        verdicts: Sequence[Verdict] = (),
        handovers: Sequence[Handover] = (),
        **changes: Any,
    ) -> None:
        """The run has ended; ``changes`` are of further fields of the `Run`. Raises OSError."""
        self._run = replace(
            self._run,
            succeeded=succeeded,
            error=error,
            verdicts=tuple(verdicts),
            handovers=tuple(handovers),
            **{"seconds": round(time.monotonic() - self._began, 1), **changes},
        )
        self._write()

    def _write(self) -> None:
        written = self.folder / f".{RUN_FILE}.new"
        written.write_bytes(msgspec.json.format(msgspec.json.encode(self._run), indent=1) + b"\n")
        written.replace(self.folder / RUN_FILE)


def new_run(scenario: str, target: str, **known: Any) -> Run:
    """A run that begins now, of this program on this kernel unless ``known`` says otherwise."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    here = {"commit": commit(), "kernel": os.uname().release}
    return Run(scenario=scenario, target=target, started_at=now, **{**here, **known})


def commit() -> str:
    """Of the tree this program runs from, with ``-dirty`` where it was changed since; its version
    where that is no tree."""
    package = Path(mnagent.__file__).resolve()
    tree = ("git", "-C", str(package.parent.parent))
    try:
        # An installed package may lie within a tree that is not its own.
        for command in (
            (*tree, "ls-files", "--error-unmatch", str(package)),
            (*tree, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"),
        ):
            ended = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return mnagent.__version__
    return ended.stdout.strip()


def give_back(*paths: Path) -> None:
    """Files made under sudo belong to who called it."""
    if (owner := os.environ.get("SUDO_UID")) is None:
        return
    group = os.environ.get("SUDO_GID", "-1")
    for path in paths:
        for entry in (path, *path.rglob("*")) if path.is_dir() else (path,):
            os.chown(entry, int(owner), int(group), follow_symlinks=False)


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
        return [line for text in whole.splitlines() if (line := _line(text)) is not None]


def _line(text: bytes) -> Line | None:
    try:
        record = msgspec.json.decode(text, type=dict[str, Any])
        kind = _KINDS[record.pop("kind")]
        line: Line = msgspec.convert(record, kind)
    except (msgspec.MsgspecError, KeyError, TypeError):
        return None
    return line
