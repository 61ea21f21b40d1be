"""A wire that delays, loses, repeats and rate-limits frames, for kernels without netem.

Each end is a TAP device in a namespace; one process carries frames between the two. It is a
program::

    python -m mnagent.rig.impairment NAMESPACE:INTERFACE NAMESPACE:INTERFACE '{"delay": 0.02}'

which prints ``{"kind": "ready"}`` once both devices exist. Standard input takes one JSON object a
line: a new impairment, or ``{"report": true}`` for the counters. It ends at the end of its input,
and the devices with it.

A frame leaves at ``max(arrival, end of the frame before at the rate) + delay``. The process runs
with real-time priority where it may, and 1 us of timer slack, so that the delay is right to well
under a millisecond.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mnagent.rig.namespace import NAMESPACE_DIRECTORY, enter

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
PR_SET_TIMERSLACK = 29
FRAME_LIMIT = 9216
"""Octets of the largest frame carried."""
BATCH = 64
"""Frames taken from one end before the clock is looked at again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What the wire does to frames, each way alike."""

    delay: float = 0.0
    """Seconds from one end to the other."""
    jitter: float = 0.0
    """Seconds added at random, uniformly from 0; reorders."""
    loss: float = 0.0
    """Share of frames lost, 0 to 1."""
    duplicate: float = 0.0
    """Share of frames that arrive twice, 0 to 1."""
    rate: float | None = None
    """Bits a second, None for as fast as they come."""
    queue: int = 1000
    """Frames waiting for the rate before the tail is dropped."""


@dataclass(slots=True)
class Counters:
    """What became of the frames offered to one direction."""

    carried: int = 0
    lost: int = 0
    duplicated: int = 0
    overflowed: int = 0


@dataclass(slots=True)
class DelayLine:
    """One direction of the wire. Told the time; knows nothing of descriptors."""

    impairment: Impairment
    random: random.Random
    counters: Counters = field(default_factory=Counters)
    _waiting: list[tuple[float, int, bytes]] = field(default_factory=list)
    _number: int = 0
    _free_at: float = 0.0

    def offer(self, frame: bytes, now: float) -> None:
        """A frame entered at ``now`` (seconds)."""
        impairment = self.impairment
        if impairment.loss and self.random.random() < impairment.loss:
            self.counters.lost += 1
            return
        leaves_at = now
        if impairment.rate:
            leaves_at = self._serialize(len(frame), now, impairment)
            if leaves_at < 0:
                return
        leaves_at += impairment.delay
        if impairment.jitter:
            leaves_at += self.random.random() * impairment.jitter
        self._push(leaves_at, frame)
        if impairment.duplicate and self.random.random() < impairment.duplicate:
            self.counters.duplicated += 1
            self._push(leaves_at, frame)

    def _serialize(self, length: int, now: float, impairment: Impairment) -> float:
        assert impairment.rate is not None
        starts_at = max(now, self._free_at)
        time_of_one = length * 8 / impairment.rate
        if starts_at - now > impairment.queue * time_of_one:
            self.counters.overflowed += 1
            return -1.0
        self._free_at = starts_at + time_of_one
        return self._free_at

    def _push(self, leaves_at: float, frame: bytes) -> None:
        self._number += 1
        heapq.heappush(self._waiting, (leaves_at, self._number, frame))

    def next_deadline(self) -> float | None:
        """When the next frame leaves, or None when none waits."""
        return self._waiting[0][0] if self._waiting else None

    def pop_due(self, now: float) -> list[bytes]:
        """The frames that have left by ``now``, in their order."""
        due = []
        while self._waiting and self._waiting[0][0] <= now:
            due.append(heapq.heappop(self._waiting)[2])
        self.counters.carried += len(due)
        return due


def open_tap(name: str) -> int:
    """A TAP device in the thread's namespace; it lives as long as the descriptor. Raises
    OSError."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


class Wire:
    """Two ends and the two delay lines between them."""

    def __init__(self, left: int, right: int, impairment: Impairment) -> None:
        self._lines = {
            left: (right, DelayLine(impairment, random.Random(1))),
            right: (left, DelayLine(impairment, random.Random(2))),
        }
        self._commands = bytearray()
        os.set_blocking(0, False)

    def run(self) -> None:
        """Carry frames until standard input ends."""
        ends = list(self._lines)
        while True:
            readable, _, _ = select.select([0, *ends], [], [], self._patience())
            for descriptor in readable:
                if descriptor != 0:
                    self._take(descriptor)
                elif not self._command():
                    return
            self._deliver()

    def _patience(self) -> float | None:
        deadlines = [line.next_deadline() for _, line in self._lines.values()]
        earliest = min((deadline for deadline in deadlines if deadline is not None), default=None)
        return None if earliest is None else max(0.0, earliest - time.monotonic())

    def _take(self, end: int) -> None:
        line = self._lines[end][1]
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            for _ in range(BATCH):
                line.offer(os.read(end, FRAME_LIMIT), now)

    def _deliver(self) -> None:
        now = time.monotonic()
        for far_end, line in self._lines.values():
            for frame in line.pop_due(now):
                # EIO: the far device is down, as a real interface that is down takes nothing.
                with contextlib.suppress(BlockingIOError, OSError):
                    os.write(far_end, frame)

    def _command(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            data = os.read(0, 65536)
            if not data:
                return False
            self._commands += data
        while b"\n" in self._commands:
            line, _, rest = bytes(self._commands).partition(b"\n")
            self._commands = bytearray(rest)
            self._obey(json.loads(line))
        return True

    def _obey(self, command: dict[str, Any]) -> None:
        if not command.pop("report", False):
            for _, line in self._lines.values():
                line.impairment = Impairment(**command)
        counters = [asdict(line.counters) for _, line in self._lines.values()]
        print(json.dumps({"kind": "report", "directions": counters}), flush=True)


def _be_prompt() -> None:
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    gc.collect()
    gc.freeze()
    gc.disable()


def main(arguments: list[str]) -> int:
    """The program; see the module's docstring."""
    ends = []
    for end in arguments[:2]:
        namespace, _, interface = end.partition(":")
        with enter(Path(NAMESPACE_DIRECTORY, namespace)):
            ends.append(open_tap(interface))
    wire = Wire(ends[0], ends[1], Impairment(**json.loads(arguments[2])))
    _be_prompt()
    print(json.dumps({"kind": "ready"}), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        wire.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
