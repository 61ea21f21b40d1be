"""Programs on a board, reached over SSH at its home address, as if it were a namespace of the rig.

One connection carries all of them, from the correspondent's namespace: it is itself an application
that must survive every handover. What programs tell of the board's clock is told in the rig's.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from mnagent.rig.daemon import AgentDaemon
from mnagent.rig.host import Host, Process, Record, boottime
from mnagent.rig.namespace import Namespace, RigError, run

FOLDER = "/run/mnagent-rig"
"""On the board."""
MODULES = ("mnagent.rig.traffic", "mnagent.rig.board.on_board")
"""Those that need nothing but Python, and are copied there."""
SOCKET = "/run/mnagent/control.sock"
SAMPLES = 12
"""Of the board's clock; the one that came fastest counts."""
POLL_INTERVAL = 0.5
END_TIMEOUT = 5.0
"""Seconds that a program may take to end after its input."""


def ssh_command(key: Path) -> tuple[str, ...]:
    """The SSH client for a board that answers late and whose host keys are new, without what a user
    has configured."""
    options = (
        "BatchMode=yes",
        "ConnectTimeout=60",
        "LogLevel=ERROR",
        "ServerAliveInterval=0",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "GlobalKnownHostsFile=/dev/null",
    )
    flags = (word for option in options for word in ("-o", option))
    return ("ssh", "-F", "none", "-i", str(key), *flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a board is treated that is not as quick as this machine."""

    patience: float = 1.0
    """How many times as long as usual its programs may take."""
    interval: float = 0.02
    """Seconds between two probes, and between two writes to a connection."""


class RemoteProcess(Process):
    """The near end of a program on the board."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        *,
        offset: Callable[[], float],
        patience: float,
    ) -> None:
        self._offset = offset
        self._patience = patience
        super().__init__(name, process)

    def accept(self, record: Record) -> None:
        """Take what it told, in the rig's time."""
        offset = self._offset()
        shifted = dict(record)
        for key in ("at", "sent_at"):
            if key in shifted:
                shifted[key] += offset
        super().accept(shifted)

    async def wait_for(
        self, found: Callable[[Record], bool], *, timeout: float | None = None
    ) -> Record:
        """As that of other programs, with more patience."""
        usual = 10.0 if timeout is None else timeout
        return await super().wait_for(found, timeout=usual * self._patience)

    async def wait_for_kind(self, kind: str, *, timeout: float | None = None) -> Record:
        """As that of other programs, with more patience."""
        return await self.wait_for(lambda record: record["kind"] == kind, timeout=timeout)


class RemoteHost(Host):
    """A board; ``namespace`` is where the connection comes from."""

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        *,
        address: IPv6Address,
        key: Path,
        manner: Manner,
    ) -> None:
        super().__init__(namespace, directory)
        self.manner = manner
        self.offset = 0.0
        """Seconds by which the rig's clock is ahead of the board's."""
        self._path = directory / "ssh"
        self._ssh = (*ssh_command(key), "-S", str(self._path))
        self._destination = f"root@{address}"

    async def connect(self, *, timeout: float) -> None:
        """Open the connection, copy the programs, compare the clocks. Raises RigError."""
        try:
            async with asyncio.timeout(timeout):
                while not await self._open():
                    await asyncio.sleep(POLL_INTERVAL)
                await self._copy()
                await self._compare_clocks()
        except TimeoutError:
            words = (self.directory / "ssh.log").read_text(errors="replace")[-400:]
            raise RigError(f"no SSH connection within {timeout:.0f} s: {words}") from None

    async def _open(self) -> bool:
        """True once the connection stands, False when it was refused."""
        master = await super().start("ssh", (*self._ssh, "-M", "-N", self._destination))
        while master.returncode is None:
            with contextlib.suppress(RigError):
                await super().run(*self._ssh, "-O", "check", self._destination)
                return True
            await asyncio.sleep(POLL_INTERVAL)
        self.processes.remove(master)
        return False

    async def _copy(self) -> None:
        await self.run("mkdir", "-p", FOLDER)
        for module in MODULES:
            specification = importlib.util.find_spec(module)
            assert specification is not None and specification.origin is not None
            text = Path(specification.origin).read_text()
            command = self._command(("sh", "-c", f"cat >{_file(module)}"))
            name = self.namespace.name
            await asyncio.to_thread(run, "ip", "netns", "exec", name, *command, stdin=text)

    async def _compare_clocks(self) -> None:
        process = await self.start_module("clock", "mnagent.rig.board.on_board", "clock")
        self.offset = 0.0
        samples = []
        answers = process.follow()
        for _ in range(SAMPLES):
            asked = boottime()
            process.tell({})
            answer = await anext(answers)
            answered = boottime()
            samples.append((answered - asked, (asked + answered) / 2 - answer["at"]))
        _, self.offset = min(samples)
        # In order: an SSH server may mistake what it still says of one session for the next one's.
        process.end_input()
        with contextlib.suppress(TimeoutError):
            await process.wait(timeout=END_TIMEOUT * self.manner.patience)
        await process.stop()

    def _command(self, command: Sequence[str]) -> tuple[str, ...]:
        return (*self._ssh, self._destination, shlex.join(command))

    def watch(self, name: str, process: asyncio.subprocess.Process) -> Process:
        """Follow a program on the board."""
        patience = self.manner.patience
        return RemoteProcess(name, process, offset=lambda: self.offset, patience=patience)

    async def start(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program on the board."""
        settings = [f"{key}={value}" for key, value in (environment or {}).items()]
        return await super().start(name, self._command(("env", *settings, *command)))

    async def start_module(self, name: str, module: str, *arguments: str) -> Process:
        """Start one of the programs that were copied."""
        environment = {"MNAGENT_RIG_INTERVAL": str(self.manner.interval)}
        command = ("python3", "-u", _file(module), *arguments)
        return await self.start(name, command, environment=environment)

    async def run(self, *command: str) -> str:
        """Run a tool on the board to its end; returns what it printed. Raises RigError."""
        near = ("ip", "netns", "exec", self.namespace.name, *self._command(command))
        return await asyncio.to_thread(run, *near, stdin="")


def _file(module: str) -> str:
    return f"{FOLDER}/{module.rpartition('.')[2]}.py"


class RemoteAgent(AgentDaemon):
    """The agent that a board's service manager runs: followed, not started."""

    def __init__(self, host: RemoteHost, name: str, settings: Mapping[str, Any]) -> None:
        super().__init__(host, name, settings)
        self._board = host

    async def start(self) -> None:
        """Begin to follow it."""
        program = "mnagent.rig.board.on_board"
        self.process = await self._board.start_module("events", program, "events", SOCKET)
        self._follower = asyncio.create_task(self._follow())

    def log_tail(self, lines: int = 8) -> str:
        """How following it ended; its own log is on the board."""
        log = self._board.directory / "events.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        status = None if self.process is None else self.process.returncode
        return "\n".join((f"followed until status {status}", *text.splitlines()[-lines:]))

    async def status(self) -> dict[str, Any]:
        """Its status, as ``mnagent status --json`` shows it. Raises RigError."""
        return dict(json.loads(await self._board.run("mnagent", "status", "--json")))

    async def handovers(self) -> list[dict[str, Any]]:
        """Its record of handovers. Raises RigError."""
        shown = json.loads(await self._board.run("mnagent", "handovers", "--json"))
        return list(shown["handovers"])

    async def _follow(self) -> None:
        assert self.process is not None
        async for record in self.process.follow():
            if record["kind"] == "event":
                self.accept(record)
        self._notify()
