"""Records as files: one per key, replaced atomically and synced before `put` returns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mnagent.system.store import KEY_PATTERN, check_key

_SUFFIX = ".record"


def write_all(descriptor: int, data: bytes) -> None:
    """Write every octet: a disk that fills up takes a part of them first, without a word."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_atomically(path: Path, text: str, *, synced: bool = True) -> None:
    """Replace a file so that a crash leaves the old or the new content, never a mixture.

    ``synced`` also survives a power cut; without it only a crash of this process. OSError names the
    file.
    """
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, text.encode())
        if synced:
            os.fsync(descriptor)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = str(path)  # a write names none
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    temporary.replace(path)
    if synced:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class FileStore:
    """A store in a directory that nobody else may read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in directory.glob("*.new"):
            stale.unlink()

    def load(self) -> Mapping[str, str]:
        """Every record, those that are damaged too: who reads one has to see that it is there."""
        records: dict[str, str] = {}
        for path in self._directory.glob(f"*{_SUFFIX}"):
            key = path.name.removesuffix(_SUFFIX)
            if KEY_PATTERN.fullmatch(key):
                records[key] = path.read_text(encoding="utf-8", errors="replace")
        return records

    def put(self, key: str, value: str) -> None:
        """Keep ``value`` under ``key``; OSError when it cannot be made safe."""
        check_key(key)
        write_atomically(self._directory / f"{key}{_SUFFIX}", value)
