"""One agent per control socket: a lock file that the kernel releases whatever happens to us."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType


class AlreadyRunning(OSError):
    """Another agent holds the lock."""

    def __init__(self, path: Path, process: int | None) -> None:
        who = f"process {process}" if process is not None else "another process"
        super().__init__(
            f"{path}: an agent is already running here as {who}; "
            "stop it, or give this one another host.control_socket"
        )
        self.path = path
        self.process = process
        """Its process id, when it is known."""


class DaemonLock:
    """Held from before the agent touches anything until its end.

    Take it first thing in the daemon: a second copy then stops before it has done any harm.
    """

    def __init__(self, control_socket: Path) -> None:
        self._path = control_socket.with_name(control_socket.name + ".lock")
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """True between `acquire` and `release`."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock; the directory is made, for us alone, when it is missing.

        Raises:
            AlreadyRunning: naming the process that has it.
            OSError: the directory or the file cannot be made.
        """
        if self.held:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            error.strerror = f"{error.strerror}; correct host.control_socket"
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process = _process_in(descriptor)
            os.close(descriptor)
            raise AlreadyRunning(self._path, process) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let the next one in. The file stays: removing it would let two in at once."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> DaemonLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _process_in(descriptor: int) -> int | None:
    try:
        return int(os.pread(descriptor, 32, 0))
    except ValueError:
        return None
