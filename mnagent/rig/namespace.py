"""Network namespaces with an owner: made under unique names, gone with their owner or by
`remove_stale`.

Every name is ``mnrig-<pid>-<start>-<number>-<role>``: the pid and start time (in clock ticks since
boot, from /proc) of the process that made it, so that a name whose owner is dead can be told from a
running rig's, even after the pid was used again.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NAMESPACE_DIRECTORY = Path("/run/netns")
RUN_DIRECTORY = Path("/run/mnrig")
"""Holds one folder a rig: generated configuration, sockets, state, logs."""

CLONE_NEWNET = 0x40000000
SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM = 0x17

_NAME = re.compile(r"mnrig-(?P<pid>\d+)-(?P<start>\d+)-\d+(-(?P<role>.+))?")
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


class RigError(Exception):
    """The bench itself is broken: a command failed, a tool is missing, a peer did not start."""


def start_time(pid: int) -> int | None:
    """When a process started (clock ticks since boot), or None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def unique_prefix() -> str:
    """A name for one rig of this process, never used before."""
    pid = os.getpid()
    return f"mnrig-{pid}-{start_time(pid)}-{next(_numbers)}"


def is_stale(name: str) -> bool:
    """True when ``name`` is a rig's and the process that made it is gone."""
    match = _NAME.fullmatch(name)
    return match is not None and start_time(int(match["pid"])) != int(match["start"])


def remove_stale() -> list[str]:
    """Remove what rigs of dead owners left behind; returns the names removed."""
    removed = []
    for directory in (NAMESPACE_DIRECTORY, RUN_DIRECTORY):
        if not directory.is_dir():
            continue
        for entry in sorted(directory.iterdir()):
            if not is_stale(entry.name):
                continue
            if directory is NAMESPACE_DIRECTORY:
                Namespace(entry.name).remove()
            else:
                shutil.rmtree(entry, ignore_errors=True)
            removed.append(entry.name)
    return removed


def run(*command: str, stdin: str | None = None) -> str:
    """Run a tool of the bench to its end; returns what it printed. Raises RigError when it
    fails."""
    try:
        # In a session of its own: Ctrl-C is the rig's alone, which must be able to finish what it
        # began, above all taking things down.
        result = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise RigError(f"{command[0]} is not installed") from error
    if result.returncode != 0:
        shown = f"{' '.join(command)}{' <<< ' + stdin.strip() if stdin else ''}"
        raise RigError(f"failed to run {shown}: {result.stderr.strip() or result.returncode}")
    return result.stdout


class Namespace:
    """One network namespace, by name."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def create(cls, name: str) -> Namespace:
        """Make it, with its loopback interface up. Raises RigError."""
        run("ip", "netns", "add", name)
        namespace = cls(name)
        namespace.ip("link set lo up")
        return namespace

    @property
    def path(self) -> Path:
        """The file that stands for it."""
        return NAMESPACE_DIRECTORY / self.name

    @property
    def exists(self) -> bool:
        """True while the name is there."""
        return self.path.exists()

    def ip(self, *commands: str) -> None:
        """Run iproute2 commands in it, in order (``"link set lo up"``). Raises RigError."""
        run("ip", "-n", self.name, "-batch", "-", stdin="\n".join(commands) + "\n")

    def show(self, *arguments: str) -> str:
        """What an iproute2 command prints. Raises RigError."""
        return run("ip", "-n", self.name, *arguments)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Put the calling thread into the namespace: sockets and /proc/sys/net are then its own.

        Sockets keep the namespace they were made in. Do not await inside.
        """
        with enter(self.path):
            yield

    def sysctl(self, **settings: int | str) -> None:
        """Write /proc/sys/net settings; ``ipv6__conf__all__forwarding=1`` names the path."""
        with self.inside():
            for key, value in settings.items():
                Path("/proc/sys/net", *key.split("__")).write_text(str(value))

    def interface_index(self, interface: str) -> int:
        """The index of an interface in it. Raises RigError when there is none."""
        with self.inside():
            try:
                return socket.if_nametoindex(interface)
            except OSError as error:
                raise RigError(f"no interface {interface} in {self.name}") from error

    def complete_checksums(self, interface: str) -> None:
        """Let the kernel compute transport checksums (and segment) before the device, as a capture
        or a raw socket at the far end of a virtual link would otherwise see them unfinished."""
        value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STXCSUM, 0))
        request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
        with self.inside(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, SIOCETHTOOL, request)

    def pids(self) -> list[int]:
        """The processes in it."""
        return [int(word) for word in run("ip", "netns", "pids", self.name).split()]

    def remove(self) -> None:
        """End the processes in it and remove it; nothing happens when it is gone."""
        if not self.exists:
            return
        deadline = time.monotonic() + 5
        while pids := [pid for pid in self.pids() if pid != os.getpid()]:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        run("ip", "netns", "del", self.name)


def set_namespace(path: Path) -> None:
    """Move the calling thread into the network namespace ``path`` stands for. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"failed to enter {path}: {os.strerror(error)}")
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def enter(path: Path) -> Iterator[None]:
    """Move the calling thread into a network namespace and back."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        set_namespace(path)
        try:
            yield
        finally:
            if _libc.setns(home, CLONE_NEWNET) != 0:
                raise RigError("failed to return to the first network namespace")
    finally:
        os.close(home)
