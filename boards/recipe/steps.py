"""Running commands, keeping what was built, and saying what goes on."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from boards.recipe.errors import BuildError, with_remedy

_QUOTED_LINES = 15


@contextmanager
def step(words: str) -> Iterator[None]:
    """Say what is done now, and how long it took."""
    started = time.monotonic()
    print(f"-- {words} ...", file=sys.stderr, flush=True)
    yield
    print(f"   {words}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    standard_input: str | None = None,
) -> str:
    """Run to the end and return standard output; raises `BuildError` with the last lines."""
    arguments = [str(argument) for argument in command]
    try:
        done = subprocess.run(
            arguments,
            env={**os.environ, **(environment or {})},
            cwd=directory,
            input=standard_input if standard_input is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise BuildError(f"{arguments[0]} is not installed") from None
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_QUOTED_LINES:])
        raise BuildError(
            f"`{_shown(arguments)}` ended with {done.returncode}:\n{with_remedy(last)}"
        )
    return done.stdout


def _shown(arguments: Sequence[str]) -> str:
    """What was run, without what `contained` puts before it."""
    own = contained([])
    if arguments[: len(own)] == own:
        arguments = arguments[len(own) :]
    return " ".join((*arguments[:4], "..."))


def contained(command: Sequence[str | Path]) -> list[str | Path]:
    """The command in namespaces of its own: nothing that it mounts or starts outlives it, nor does
    it outlive this process, however that ends."""
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *command,
    ]


def digest(*parts: str | bytes | Path) -> str:
    """One name for all of these: texts, contents of files, and of folders with modes and names."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            _add_path(total, part)
        else:
            total.update(part if isinstance(part, bytes) else part.encode())
        total.update(b"\0")
    return total.hexdigest()[:16]


def _add_path(total: hashlib._Hash, path: Path) -> None:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for entry in files:
        if "__pycache__" in entry.parts:
            continue
        total.update(f"{entry.relative_to(path)}\0{entry.lstat().st_mode}\0".encode())
        if entry.is_symlink():
            total.update(os.readlink(entry).encode())
        elif entry.is_file():
            total.update(entry.read_bytes())


class Cache:
    """Finished pieces by name. A piece appears whole or not at all, so that an interrupted build
    leaves nothing that a later one could take for finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)

    @property
    def folder(self) -> Path:
        """Where the pieces are."""
        return self._folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One build at a time: two would make the same pieces, or remove what the other uses."""
        with (self._folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"-- waiting for another build with {self._folder} ...", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def find(self, name: str) -> Path | None:
        """The piece of this name, if it is there; it counts as used now."""
        path = self._folder / name
        if not path.exists():
            return None
        os.utime(path)
        return path

    @contextmanager
    def make(self, name: str, *, keep: int = 2) -> Iterator[Path]:
        """A place to build the piece in; it gets its name when the block ends well.

        Of the pieces with the same first word only the ``keep`` used last stay.
        """
        target = self._folder / name
        with unfinished(self._folder) as place:
            yield place / "piece"
            _remove(target)
            (place / "piece").rename(target)
        kind = name.partition("-")[0]
        pieces = sorted(
            self._folder.glob(f"{kind}-*"), key=lambda piece: piece.stat().st_mtime, reverse=True
        )
        for old in pieces[keep:]:
            _remove(old)


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """A place for what is being built in ``folder``. It is gone when the block ends, or, if this
    process be killed, when the next one calls `remove_unfinished`."""
    place = Path(tempfile.mkdtemp(prefix=f"unfinished-{os.getpid()}-", dir=folder))
    try:
        yield place
    finally:
        _remove(place)


def remove_unfinished(folder: Path) -> None:
    """Remove what builds that were killed left in ``folder``."""
    for left in folder.glob("unfinished-*-*"):
        if not _is_alive(left.name):
            _remove(left)


def _is_alive(name: str) -> bool:
    process = name.split("-")[1]
    return process.isdigit() and Path("/proc", process).exists()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def need_tools(tools: Mapping[str, str]) -> None:
    """Raise `BuildError` naming the Debian packages of those commands that are missing."""
    missing = {
        package
        for command, package in tools.items()
        if shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None
    }
    if missing:
        raise BuildError(
            f"missing tools; install them with: apt install {' '.join(sorted(missing))}"
        )
