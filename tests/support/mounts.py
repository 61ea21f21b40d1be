"""Mounts that only the calling thread and what it starts see."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNS = 0x00020000
_library = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def own_mounts() -> Iterator[None]:
    """Whatever is mounted meanwhile is unknown to other tests, and gone afterwards."""
    directory = Path.cwd()
    with open("/proc/thread-self/ns/mnt") as before:
        _check(_library.unshare(CLONE_NEWNS))
        try:
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            yield
        finally:
            _check(_library.setns(before.fileno(), CLONE_NEWNS))
            os.chdir(directory)  # the way back leads to the root directory


@contextlib.contextmanager
def bpf_file_system(parent: Path) -> Iterator[Path]:
    """One to pin in. Where it is mounted others find none, not even daemons of other tests."""
    where = parent / "bpf"
    where.mkdir()
    with own_mounts():
        subprocess.run(["mount", "-t", "bpf", "bpf", str(where)], check=True)
        yield where


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
