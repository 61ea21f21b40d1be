"""The program under test: mnagent in its two roles, as a real process.

`AgentDaemon` starts ``mnagent run``, learns what it does through its control socket, and can stop
it or kill it outright. Nothing here sleeps for a fixed time: everything waits for an event or a
status.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from mnagent.control.client import Client
from mnagent.rig.host import START_TIMEOUT, Host, Process
from mnagent.rig.namespace import RigError, run

MNAGENT = (sys.executable, "-m", "mnagent.cli.main")
POLL_INTERVAL = 0.02
"""Seconds between two looks at a socket that is not there yet."""
MOBILE_NODE_KEYS = "mobile-node.toml"
HOME_AGENT_KEYS = "home-agent.toml"


@dataclass(frozen=True, slots=True)
class DaemonEvent:
    """One entry of the daemon's event history."""

    name: str
    at: float
    """Seconds on CLOCK_BOOTTIME."""
    details: Mapping[str, str]


def toml_value(value: Any) -> str:
    """One TOML value of the kinds configurations hold."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case list():
            return f"[{', '.join(toml_value(item) for item in value)}]"
        case _:
            return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def toml_document(settings: Mapping[str, Any]) -> str:
    """A TOML document of one level of tables, and lists of tables under ``table.name`` keys."""
    lines = [f"{key} = {toml_value(value)}" for key, value in settings.items() if not _deep(value)]
    for key, value in settings.items():
        if _deep(value):
            for table in value if isinstance(value, list) else [value]:
                lines.append(f"\n[[{key}]]" if isinstance(value, list) else f"\n[{key}]")
                lines += [f"{name} = {toml_value(item)}" for name, item in table.items()]
    return "\n".join(lines) + "\n"


def _deep(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    )


def make_keys(directory: Path, *, home_address: IPv6Address, home_agent: IPv6Address) -> None:
    """Make the key files of both ends with ``mnagent keygen``, over old ones. Raises RigError."""
    run(
        *MNAGENT,
        "keygen",
        "--home-address",
        str(home_address),
        "--home-agent",
        str(home_agent),
        "--output",
        str(directory),
        "--force",
    )


class AgentDaemon:
    """One ``mnagent run`` in a host, over as many lives as a scenario gives it."""

    def __init__(self, host: Host, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        self.events: list[DaemonEvent] = []
        """What its event stream told, over all its lives."""
        self.process: Process | None = None
        self.program: tuple[str, ...] = MNAGENT
        """What is started, with the arguments of ``mnagent``."""
        self._host = host
        self.state = host.directory / f"{name}.state"
        self._lives = 0
        self._changed = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self.socket = host.directory / f"{name}.sock"
        self.configuration = host.directory / f"{name}.conf.toml"
        machine = {
            "state_directory": str(self.state),
            "control_socket": str(self.socket),
            "log_level": os.environ.get("MNAGENT_RIG_LOG_LEVEL", "debug"),
        }
        self.write({**settings, "host": {**machine, **settings.get("host", {})}})

    def write(self, settings: Mapping[str, Any]) -> None:
        """Write its configuration; it is read at the next start."""
        self.configuration.write_text(toml_document(settings))

    async def start(self) -> None:
        """Start it; returns once its control socket answers. Raises RigError."""
        self.process = await self.launch()
        await self._wait_for_socket(self.process)
        self._follower = asyncio.create_task(self._follow())

    async def launch(self) -> Process:
        """Start the program and return at once. Raises RigError when it cannot even be started."""
        self._lives += 1
        command = (*self.program, "run", "-c", str(self.configuration))
        return await self._host.start(self.name, command)

    async def _wait_for_socket(self, process: Process) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while True:
                    with contextlib.suppress(OSError):
                        await self.status()
                        return
                    if process.returncode is not None:
                        raise RigError(f"{self.name} ended: {self.log_tail()}")
                    await asyncio.sleep(POLL_INTERVAL)
        except TimeoutError:
            raise RigError(f"{self.name} does not answer: {self.log_tail()}") from None

    def log_tail(self, lines: int = 8) -> str:
        """The end of what it wrote on standard error."""
        log = self._host.directory / f"{self.name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])

    async def status(self) -> dict[str, Any]:
        """Its status, as ``mnagent status --json`` shows it. Raises OSError."""
        status: dict[str, Any] = await Client(self.socket).status()
        return status

    async def handovers(self) -> list[dict[str, Any]]:
        """Its record of handovers, as ``mnagent handovers --json`` shows it. Raises OSError."""
        return list((await Client(self.socket).handovers())["handovers"])

    async def _follow(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            async for event in Client(self.socket).events():
                details = {key: str(value) for key, value in dict(event["details"]).items()}
                self.events.append(DaemonEvent(event["name"], float(event["at"]), details))
                self._notify()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for(
        self,
        name: str,
        *,
        after: float,
        timeout: float,
        matching: Callable[[DaemonEvent], bool] = lambda event: True,
    ) -> DaemonEvent:
        """The first event of a name at or after an instant. Raises RigError after ``timeout`` s."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    changed = self._changed
                    if (event := self.find(name, after=after, matching=matching)) is not None:
                        return event
                    if self.process is None or self.process.returncode is not None:
                        raise RigError(f"{self.name} ended: {self.log_tail()}")
                    await changed.wait()
        except TimeoutError:
            seen = [event.name for event in self.events if event.at >= after]
            raise RigError(
                f"{self.name}: no {name} within {timeout} s, only {', '.join(seen) or 'nothing'}"
            ) from None

    def find(
        self,
        name: str,
        *,
        after: float,
        matching: Callable[[DaemonEvent], bool] = lambda event: True,
    ) -> DaemonEvent | None:
        """The first event of a name at or after an instant, so far."""
        for event in self.events:
            if event.name == name and event.at >= after and matching(event):
                return event
        return None

    async def kill(self) -> None:
        """SIGKILL: it gets no chance to tidy up."""
        await self._end(signal.SIGKILL)

    def lose_state(self) -> None:
        """Remove the bindings it kept, as a broken disk would, between two of its lives."""
        (self.state / "bindings.journal").unlink(missing_ok=True)

    async def stop(self, *, timeout: float = 10.0) -> None:
        """SIGTERM, and wait for its end."""
        await self._end(signal.SIGTERM, timeout)

    async def _end(self, number: int, timeout: float = 10.0) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await self.process.wait(timeout=timeout)
            await self.process.stop()
            self.process = None
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower
            self._follower = None
