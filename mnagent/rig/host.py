"""Processes in a namespace: started, watched line by line, always ended.

A process started here dies with its parent (PR_SET_PDEATHSIG), so that not even SIGKILL on the rig
leaves one behind, and is no member of the terminal's foreground group: Ctrl-C reaches the rig
alone, which then ends things in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnagent.rig.namespace import Namespace, RigError, run

PR_SET_PDEATHSIG = 1
STREAM_LIMIT = 1 << 20
PATIENCE = float(os.environ.get("MNAGENT_RIG_PATIENCE", "1"))
"""How many times as long as usual programs may take where the processor is emulated."""
START_TIMEOUT = 10.0 * PATIENCE
"""Seconds a program may take to say that it is ready."""

_libc = ctypes.CDLL(None)

Record = dict[str, Any]


def boottime() -> float:
    """Seconds on CLOCK_BOOTTIME, the clock of every time in the rig."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def processor_seconds(pid: int) -> float:
    """Processor time that a process has taken, all its threads. Raises OSError when it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _begin_child() -> None:
    _die_with_parent()
    if PATIENCE > 1:
        # The rig itself gives way to what it tests; what it starts does not inherit that.
        os.setpriority(os.PRIO_PROCESS, 0, 0)


class Process:
    """A running program whose standard output is JSON lines, kept as `records`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.records: list[Record] = []
        self._process = process
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._notify())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, or None while it runs."""
        return self._process.returncode

    def accept(self, record: Record) -> None:
        """Take what it told."""
        self.records.append(record)
        self._notify()

    async def follow(self) -> AsyncIterator[Record]:
        """Its records, past and to come, until it ends."""
        seen = 0
        while True:
            changed, ended = self._changed, self._reader.done()
            for record in self.records[seen:]:
                seen += 1
                yield record
            if ended:
                return
            await changed.wait()

    def of_kind(self, kind: str) -> list[Record]:
        """The records of one kind, oldest first."""
        return [record for record in self.records if record["kind"] == kind]

    async def wait_for(
        self, found: Callable[[Record], bool], *, timeout: float = START_TIMEOUT
    ) -> Record:
        """The first record, past or to come, that ``found`` likes. Raises RigError when none does
        within ``timeout`` seconds or the program ends first."""
        seen = 0
        try:
            async with asyncio.timeout(timeout):
                while True:
                    changed, ended = self._changed, self._reader.done()
                    for record in self.records[seen:]:
                        if found(record):
                            return record
                    seen = len(self.records)
                    if ended:
                        raise RigError(f"{self.name} ended without what was waited for")
                    await changed.wait()
        except TimeoutError:
            raise RigError(f"{self.name} did not do what was waited for in {timeout} s") from None

    async def wait_for_kind(self, kind: str, *, timeout: float = START_TIMEOUT) -> Record:
        """The first record of a kind, as `wait_for`."""
        return await self.wait_for(lambda record: record["kind"] == kind, timeout=timeout)

    def tell(self, message: Record) -> None:
        """Write one JSON line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def end_input(self) -> None:
        """End its standard input: the helpers of the rig then finish."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def wait(self, *, timeout: float) -> int:
        """Wait for its end. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            code = await self._process.wait()
            await self._reader
            return code

    async def stop(self, *, timeout: float = 5.0) -> None:
        """End it: politely, then after ``timeout`` seconds with SIGKILL."""
        self.end_input()
        for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, timeout)):
            if self._process.returncode is not None:
                break
            self.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await self.wait(timeout=patience)
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and "kind" in record:
                    self.accept(record)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Host:
    """A namespace with processes in it, and a folder for what they write."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.namespace = namespace
        self.directory = directory
        self.processes: list[Process] = []
        """Those started, in order."""

    async def start(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program; what it says on standard error goes to ``<name>.log``. Raises
        RigError."""
        log = (self.directory / f"{name}.log").open("ab")
        try:
            process = await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", self.namespace.name, *command),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=STREAM_LIMIT,
                start_new_session=True,
                preexec_fn=_begin_child,
                env={**os.environ, **(environment or {})},
            )
        except OSError as error:
            raise RigError(f"failed to start {name}: {error}") from error
        finally:
            log.close()
        started = self.watch(name, process)
        self.processes.append(started)
        return started

    def watch(self, name: str, process: asyncio.subprocess.Process) -> Process:
        """Follow a program that was started."""
        return Process(name, process)

    async def start_module(self, name: str, module: str, *arguments: str) -> Process:
        """Start a Python module of the rig as a program. Raises RigError."""
        # On an emulated processor they give way to the programs that are tested.
        priority = ("nice",) if PATIENCE > 1 else ()
        return await self.start(name, (*priority, sys.executable, "-m", module, *arguments))

    async def run(self, *command: str) -> str:
        """Run a tool in the namespace to its end; returns what it printed. Raises RigError."""
        return await asyncio.to_thread(run, "ip", "netns", "exec", self.namespace.name, *command)

    async def stop(self) -> None:
        """End all its processes, latest first."""
        while self.processes:
            await self.processes.pop().stop()
