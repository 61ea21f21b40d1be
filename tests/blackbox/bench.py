"""A node under test in a namespace, a real daemon in it, and the tester at the far end of its
links::

    [ node: mnagent run ]--eth0--------------------------[ tester, with no network stack ]
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Interface
from pathlib import Path
from typing import Any

from mnagent.control.client import request
from mnagent.rig.daemon import MNAGENT, toml_document
from mnagent.rig.host import PR_SET_PDEATHSIG
from mnagent.rig.namespace import RUN_DIRECTORY, Namespace, run, unique_prefix
from tests.blackbox.tester import Tester

START_TIMEOUT = 15.0
POLL_INTERVAL = 0.01
"""Seconds between two looks at what cannot be waited for otherwise."""

STANDING: list[Bench] = []
"""Those built and not closed, for the reports of failures."""

_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Cable:
    """A link of the node: its interface, its addresses, its router."""

    interface: str
    addresses: tuple[str, ...] = ()
    default_router: str | None = None


@dataclass(slots=True)
class Bench:
    """A node, its daemon and the tester; `close` removes it all."""

    tester: Tester
    node: Namespace
    outside: Namespace
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    macs: dict[str, bytes] = field(default_factory=dict)
    """Of the node's interfaces."""

    @classmethod
    def build(cls, *cables: Cable) -> Bench:
        """Namespaces and cables; the tester listens."""
        prefix = unique_prefix()
        RUN_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        directory = RUN_DIRECTORY / prefix
        directory.mkdir(mode=0o700)
        node = Namespace.create(f"{prefix}-node")
        outside = Namespace.create(f"{prefix}-tester")
        bench = cls(Tester(), node, outside, directory)
        STANDING.append(bench)
        try:
            for number, cable in enumerate(cables):
                bench._lay(cable, 100 + 2 * number)
            bench.tester.start()
        except BaseException:
            bench.close()
            raise
        return bench

    def _lay(self, cable: Cable, index: int) -> None:
        name = cable.interface
        self.outside.sysctl(ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
        self.node.sysctl(ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0)
        self.node.ip(
            f"link add name {name} index {index} type veth peer name {name}"
            f" netns {self.outside.name}"
        )
        self.node.complete_checksums(name)
        self.outside.ip(f"link set {name} up")
        addresses = [IPv6Interface(address) for address in cable.addresses]
        self.node.ip(
            f"link set {name} up", *(f"addr add {each} dev {name} nodad" for each in addresses)
        )
        if cable.default_router:
            self.node.ip(f"route add default via {cable.default_router} dev {name}")
        shown = json.loads(self.node.show("-json", "link", "show", "dev", name))[0]
        mac = bytes.fromhex(shown["address"].replace(":", ""))
        self.macs[name] = mac
        self.tester.attach(self.outside, name, mac)

    def lay_anew(self, cable: Cable) -> None:
        """Remove the interface, and make another one of its name."""
        self.tester.detach(cable.interface)
        self.node.ip(f"link del {cable.interface}")
        self._lay(cable, 200)

    @property
    def _socket(self) -> Path:
        return self.directory / "control.sock"

    def start_daemon(self, settings: Mapping[str, Any]) -> None:
        """Start ``mnagent run``; returns once its control socket answers."""
        host = {
            "state_directory": str(self.directory / "state"),
            "control_socket": str(self._socket),
            "log_level": "debug",
        }
        configuration = self.directory / "agent.toml"
        configuration.write_text(
            toml_document({**settings, "host": {**host, **settings.get("host", {})}})
        )
        with (self.directory / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.node.name, *MNAGENT, "run", "-c", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            with contextlib.suppress(OSError):
                self.status()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"mnagent does not run:\n{self.log_tail()}")
            time.sleep(POLL_INTERVAL)

    def status(self) -> dict[str, Any]:
        """As ``mnagent status --json``. Raises OSError."""
        return request(self._socket, "status")

    def counters(self) -> dict[str, int]:
        """The daemon's counters. Raises OSError."""
        return request(self._socket, "counters")

    def control(self, method: str, **arguments: str) -> Any:
        """What an administrator asks for. Raises OSError."""
        return request(self._socket, method, arguments=arguments)

    def log_tail(self, lines: int = 12) -> str:
        """The end of what the daemon wrote."""
        log = self.directory / "agent.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def stop_daemon(self, number: int = signal.SIGTERM) -> int:
        """Stop it; returns its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(timeout=15)
        self.process = None
        return status

    def run_in_node(self, *command: str) -> str:
        """Run a program in the node's namespace to its end."""
        return run("ip", "netns", "exec", self.node.name, *command)

    def close(self) -> None:
        """End and remove all of it."""
        STANDING.remove(self)
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            stack.callback(self.outside.remove)
            stack.callback(self.node.remove)
            stack.callback(self.tester.close)
            if self.process is not None:
                self.process.kill()
                self.process.wait()
