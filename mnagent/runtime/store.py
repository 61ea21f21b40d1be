"""Records as files: one per key, replaced atomically and synced before `put` returns."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

from mnagent.system.store import KEY_PATTERN, check_key

_SUFFIX = ".record"


def write_atomically(path: Path, text: str, *, synced: bool = True) -> None:
    """Replace a file so that a crash leaves the old or the new content, never a mixture.

    ``synced`` also survives a power cut; without it only a crash of this process.
    """
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode())
        if synced:
            os.fsync(descriptor)
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
        """Every record."""
        records: dict[str, str] = {}
        for path in self._directory.glob(f"*{_SUFFIX}"):
            key = path.name.removesuffix(_SUFFIX)
            if KEY_PATTERN.fullmatch(key):
                with contextlib.suppress(UnicodeDecodeError):
                    records[key] = path.read_text()
        return records

    def put(self, key: str, value: str) -> None:
        """Keep ``value`` under ``key``; OSError when it cannot be made safe."""
        check_key(key)
        write_atomically(self._directory / f"{key}{_SUFFIX}", value)

    def put_all(self, records: Mapping[str, str]) -> None:
        """Keep many records, synced together: each is old or new after a crash, and all are new
        once this returns."""
        written = []
        for key, value in records.items():
            check_key(key)
            path = self._directory / f"{key}{_SUFFIX}"
            temporary = path.with_name(path.name + ".new")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600)
            try:
                os.write(descriptor, value.encode())
            finally:
                os.close(descriptor)
            written.append((temporary, path))
        self._sync_file_system()
        for temporary, path in written:
            temporary.replace(path)
        self._sync_file_system()

    def _sync_file_system(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(directory) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
        finally:
            os.close(directory)
