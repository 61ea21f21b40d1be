"""Writes a run into the library of results, see `mnagent.rig.library`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

import mnagent
from mnagent.rig.junit import as_junit
from mnagent.rig.library import (
    DEFAULT_FOLDER,
    LIVE_FILE,
    RUN_FILE,
    Handover,
    Line,
    Run,
    Verdict,
    encode_line,
)

JUNIT_FILE: Final = "junit.xml"
COMMIT_VARIABLE: Final = "MNAGENT_RIG_COMMIT"
"""Says what `commit` says, where the tree's history is not to be had."""
_UNSAFE: Final = re.compile(r"[^a-z0-9.]+")


class LiveWriter:
    """Writes what happens into a folder, a line each, to be read at once."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self._file = (folder / LIVE_FILE).open("a", encoding="utf-8")

    def tell(self, line: Line) -> None:
        """Add a line. Raises OSError."""
        self._file.write(encode_line(line))
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
        name = f"{began}-{what}-{secrets.token_hex(3)}"
        self.folder = library / f".{name}"
        self.folder.mkdir()
        self._live = LiveWriter(self.folder)
        self._live.lock()
        self._write()
        # It appears when there is something to read and to be seen running.
        self.folder = self.folder.rename(library / name)

    @property
    def run(self) -> Run:
        """What is known of it so far."""
        return self._run

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
        """Copy files into the run's folder, but for empty ones. Raises OSError."""
        for path in files:
            if path.stat().st_size:
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
        (self.folder / JUNIT_FILE).write_text(as_junit(self._run), encoding="utf-8")
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


def begin(
    library: Path | None, scenario: str, target: str, **known: Any
) -> contextlib.AbstractContextManager[Recorder | None]:
    """A recorder of a `new_run`, in no library none. Raises OSError."""
    if library is None:
        return contextlib.nullcontext()
    return Recorder(library, new_run(scenario, target, **known))


def add_results_options(parser: argparse.ArgumentParser) -> None:
    """Which library keeps a run: ``results``, None for none."""
    parser.add_argument(
        "--results",
        type=Path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help="library that keeps this result for `mnagent rig serve` (default: $MNAGENT_RESULTS, "
        "else rig-results)",
    )
    parser.add_argument(
        "--no-results", dest="results", action="store_const", const=None, help="keep it in none"
    )


def commit() -> str:
    """Of the tree this program runs from, with ``-dirty`` where it was changed since; its version
    where that is no tree."""
    if told := os.environ.get(COMMIT_VARIABLE):
        return told
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
