"""The real daemon around an agent that does what a file says: ``python -m
tests.support.scripted_daemon CONFIGURATION DIRECTORY``.

Each file ``DIRECTORY/<number>.actions`` holds one Python expression that gives a list of actions,
with the names of `mnagent.core.actions` and of ``ipaddress``; it is carried out once and renamed to
``.done``. The events the agent saw are appended to ``DIRECTORY/events``, one repr a line. A number
behind the directory is that of a signal the daemon sends itself in the middle of its start.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnagent.config import load
from mnagent.core import actions as actions_module
from mnagent.core.actions import Action, Finish
from mnagent.core.events import Event, ShutdownRequested
from mnagent.runtime.service import run
from mnagent.wire.ipv6 import IPv6Packet, RawPayload
from mnagent.wire.ndisc import RouterSolicitation

POLL_INTERVAL = 0.02


class ScriptedAgent:
    """Has the face of `mnagent.agent.Agent`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._deadline = 0.0
        self._taken: list[Path] = []
        self.counters: dict[str, int] = {}
        self._names: dict[str, Any] = {
            **vars(actions_module),
            "address": ipaddress.IPv6Address,
            "IPv6Packet": IPv6Packet,
            "RawPayload": RawPayload,
            "RouterSolicitation": RouterSolicitation,
        }

    def handle(self, event: Event, now: float) -> list[Action]:
        """Note it; leave at once when asked to."""
        with (self._directory / "events").open("a") as file:
            file.write(f"{event!r}\n")
        return [Finish()] if isinstance(event, ShutdownRequested) else []

    def handle_timer(self, now: float) -> list[Action]:
        """Look for new files."""
        self._deadline = now + POLL_INTERVAL
        for path in self._taken:  # carried out since the last time
            path.rename(path.with_suffix(".done"))
        self._taken = sorted(self._directory.glob("*.actions"))
        return [action for path in self._taken for action in eval(path.read_text(), self._names)]

    def next_deadline(self) -> float:
        """Always soon."""
        return self._deadline

    def reconfigure(self, change: object, now: float) -> list[Action]:
        return []

    def bindings(self, after: ipaddress.IPv6Address | None, limit: int, now: float) -> None:
        return None

    def delete_binding(
        self, home_address: ipaddress.IPv6Address, now: float
    ) -> list[Action] | None:
        return None

    def ask_to_switch(
        self,
        home_addresses: tuple[ipaddress.IPv6Address, ...],
        home_agents: tuple[ipaddress.IPv6Address, ...],
        now: float,
    ) -> tuple[tuple[ipaddress.IPv6Address, ...], list[Action]]:
        return (), []

    def snapshot(self, now: float) -> ScriptedAgent:
        """Nothing to show."""
        return self

    def to_json(self) -> Mapping[str, Any]:
        """Nothing to show."""
        return {}


def main() -> int:
    """Run it."""
    configuration, directory = load(Path(sys.argv[1])), Path(sys.argv[2])

    def build(*_: object, **__: object) -> ScriptedAgent:
        for number in sys.argv[3:]:
            os.kill(os.getpid(), int(number))
        return ScriptedAgent(directory)

    return run(configuration, build=build)


if __name__ == "__main__":
    sys.exit(main())
