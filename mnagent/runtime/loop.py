"""The clock and the one timer of the daemon: CLOCK_BOOTTIME, which runs on through suspend."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time
from collections.abc import Callable

TFD_TIMER_ABSTIME = 1
TFD_NONBLOCK = os.O_NONBLOCK
TFD_CLOEXEC = os.O_CLOEXEC
_NANOSECONDS = 1_000_000_000


class BootClock:
    """CLOCK_BOOTTIME in seconds."""

    def now(self) -> float:
        """Seconds since boot, suspend included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_clock(self, instant: float) -> float:
        """The time of day at an instant of this clock, seconds since 1970, as we know it now."""
        return time.time() - (self.now() - instant)


class _TimeSpecification(ctypes.Structure):
    _fields_ = (
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("value_seconds", ctypes.c_long),
        ("value_nanoseconds", ctypes.c_long),
    )


class BootTimer:
    """One deadline on CLOCK_BOOTTIME. asyncio's own timers stand still while the machine sleeps."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._library = ctypes.CDLL(None, use_errno=True)
        descriptor = self._library.timerfd_create(time.CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC)
        if descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._descriptor = int(descriptor)
        self._deadline: float | None = None
        loop.add_reader(self._descriptor, self._expired)

    def arm(self, deadline: float | None) -> None:
        """Fire at ``deadline`` (seconds on CLOCK_BOOTTIME), or never. Re-arms only if it moved."""
        if deadline == self._deadline:
            return
        self._deadline = deadline
        specification = _TimeSpecification()
        if deadline is not None:
            total = max(1, int(deadline * _NANOSECONDS))
            specification.value_seconds = total // _NANOSECONDS
            specification.value_nanoseconds = total % _NANOSECONDS
        self._library.timerfd_settime(
            self._descriptor, TFD_TIMER_ABSTIME, ctypes.byref(specification), None
        )

    def _expired(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)
        self._deadline = None
        self._callback()

    def close(self) -> None:
        """Give the descriptor back."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
