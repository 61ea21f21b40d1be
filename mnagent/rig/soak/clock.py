"""A daemon whose wall clock alone is stepped.

The machine's clock is everybody's, and no namespace holds CLOCK_REALTIME. So the daemon runs under
this program::

    python -m mnagent.rig.soak.clock OFFSET-FILE run -c CONFIGURATION

which adds the seconds in the file to all that Python tells of the wall clock (the compiled modules
read CLOCK_MONOTONIC alone), and `step` rings the timer by which the kernel tells a daemon that
somebody set the clock, in the daemon itself.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import time
from pathlib import Path

PIDFD_GETFD = 438
"""The system call's number, the same on every architecture."""
TFD_TIMER_ABSTIME = 1
_OFFSET = struct.Struct("=d")
_libc = ctypes.CDLL(None, use_errno=True)


def make_offset(path: Path) -> None:
    """A clock that is right."""
    path.write_bytes(_OFFSET.pack(0.0))


def step(path: Path, pid: int, seconds: float) -> int:
    """Set a running daemon's clock to so many seconds from the machine's, and let it hear of it;
    returns how many of its timers were rung. Raises OSError."""
    with path.open("r+b") as file:
        file.write(_OFFSET.pack(seconds))
    rung = 0
    for entry in Path("/proc", str(pid), "fdinfo").iterdir():
        try:
            text = entry.read_text()
        except FileNotFoundError:
            continue  # closed meanwhile
        words = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if words.get("clockid", "").strip() == str(time.CLOCK_REALTIME):
            _ring(pid, int(entry.name))
            rung += 1
    return rung


def _ring(pid: int, descriptor: int) -> None:
    process = os.pidfd_open(pid)
    try:
        timer = _libc.syscall(PIDFD_GETFD, process, descriptor, 0)
        if timer < 0:
            raise OSError(ctypes.get_errno(), "failed to reach a timer")
        try:
            # The first nanosecond of 1970 is over.
            setting = (ctypes.c_long * 4)(0, 0, 0, 1)
            if _libc.timerfd_settime(timer, TFD_TIMER_ABSTIME, setting, None) != 0:
                raise OSError(ctypes.get_errno(), "failed to ring a timer")
        finally:
            os.close(timer)
    finally:
        os.close(process)


def displace(path: Path) -> None:
    """Let this process read the wall clock with the offset in a file, as it is at each reading."""
    with path.open("rb") as file:
        shared = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    real_time, real_gettime = time.time, time.clock_gettime

    def offset() -> float:
        return float(_OFFSET.unpack(shared[:])[0])

    def clock_gettime(clock: int) -> float:
        return real_gettime(clock) + (offset() if clock == time.CLOCK_REALTIME else 0.0)

    time.time = lambda: real_time() + offset()
    time.time_ns = lambda: int(time.time() * 1e9)
    time.clock_gettime = clock_gettime


def main(arguments: list[str]) -> int:
    """The program; see the module's docstring."""
    displace(Path(arguments[0]))
    # By name: the rig knows the program under test as users do, not its modules.
    program = __import__("importlib").import_module("mnagent.cli.main")
    return int(program.main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
