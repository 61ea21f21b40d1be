"""Notices that the machine slept: CLOCK_BOOTTIME has run on while CLOCK_MONOTONIC stood still.

A timer that the kernel cancels whenever the wall clock jumps wakes us at resume, which is such a
jump; that somebody merely set the clock is told apart by the two clocks above.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time
from collections.abc import Callable

TFD_TIMER_ABSTIME = 1
TFD_TIMER_CANCEL_ON_SET = 2
MIN_SLEEP = 0.5
"""Seconds the machine must have slept to count; reading two clocks takes microseconds."""
_FAR = (1 << 62) // 10**9
"""Seconds; never comes."""


class SleepDetector:
    """Compares the two clocks."""

    def __init__(
        self,
        *,
        boottime: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        monotonic: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_MONOTONIC),
    ) -> None:
        self._boottime = boottime
        self._monotonic = monotonic
        self._slept = boottime() - monotonic()

    def check(self) -> float:
        """Seconds slept since the last look, 0 when not worth mentioning."""
        before, slept = self._slept, self._boottime() - self._monotonic()
        if slept - before < MIN_SLEEP:
            return 0.0
        self._slept = slept
        return slept - before


class _TimeSpecification(ctypes.Structure):
    _fields_ = (
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("value_seconds", ctypes.c_long),
        ("value_nanoseconds", ctypes.c_long),
    )


class ClockJumpWatch:
    """Calls back when the wall clock jumps."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._library = ctypes.CDLL(None, use_errno=True)
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = self._library.timerfd_create(time.CLOCK_REALTIME, flags)
        if descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._descriptor = int(descriptor)
        self._arm()
        loop.add_reader(self._descriptor, self._jumped)

    def _arm(self) -> None:
        specification = _TimeSpecification(value_seconds=_FAR)
        self._library.timerfd_settime(
            self._descriptor,
            TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET,
            ctypes.byref(specification),
            None,
        )

    def _jumped(self) -> None:
        with contextlib.suppress(OSError):  # ECANCELED is the news itself
            os.read(self._descriptor, 8)
        self._arm()
        self._callback()

    def close(self) -> None:
        """Give the descriptor back."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
