"""Which engine serves: the one in user space alone, or with the kernel's help."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnagent.config import Configuration, EngineChoice, PayloadProtection
from mnagent.datapath import Engine
from mnagent.system.datapath import Datapath

logger = logging.getLogger(__name__)

BPF_FILE_SYSTEM = Path("/sys/fs/bpf")
BUILD_REMEDY = "install clang and libbpf-dev, then `pip install .` again"


class NoKernelEngine(OSError):
    """The in-kernel engine was asked for and cannot be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """An engine, and what it is."""

    datapath: Datapath
    in_kernel: bool
    status: Callable[[], dict[str, Any]]
    """For ``mnagent status``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSizes:
    """What is taken at once, however little is used."""

    frames_in_user_space: int
    """How many may wait at each interface, 2 KiB each. The engine's thread may be late by the time
    they take to come."""
    frames_with_kernel: int
    """The same where the kernel serves: it leaves less."""
    room: int
    """See `KernelEngine`."""


MOBILE_NODE = EngineSizes(frames_in_user_space=512, frames_with_kernel=256, room=1 << 14)
"""6 ms of full frames at 1 Gbit/s; 1 MB of the kernel's memory."""
SERVER = EngineSizes(frames_in_user_space=2048, frames_with_kernel=512, room=1 << 18)
"""2 ms of a million packets a second; 16 MB of the kernel's memory."""


def sizes_for(configuration: Configuration) -> EngineSizes:
    """A mobile node is small, a home agent or a correspondent serves many. The kernel leaves
    everything where the payload is encrypted."""
    sizes = SERVER if configuration.mobile_node is None else MOBILE_NODE
    tunnelling = configuration.mobile_node or configuration.home_agent
    if tunnelling is not None and tunnelling.payload_protection is PayloadProtection.ESP:
        return replace(sizes, frames_with_kernel=sizes.frames_in_user_space)
    return sizes


def _in_user_space(tun: int, wake: int, *, sizes: EngineSizes, reason: str = "") -> ChosenEngine:
    """``reason``: why it is not the kernel's, where it might be."""
    shown = {"kind": "userspace", "reason": reason} if reason else {"kind": "userspace"}
    engine = Engine(tun_fd=tun, wake_fd=wake, ring_frames=sizes.frames_in_user_space)
    return ChosenEngine(engine, in_kernel=False, status=lambda: shown)


def choose_engine(
    choice: EngineChoice, *, tun: int, wake: int, name: str, interface: int, sizes: EngineSizes
) -> ChosenEngine:
    """Make the engine for a TUN device, given by descriptor, name and index.

    Raises `NoKernelEngine` where that one is asked for and not to be had.
    """
    if choice is EngineChoice.USERSPACE:
        _remove_pins(name)
        return _in_user_space(tun, wake, sizes=sizes)
    try:
        return _with_kernel(tun=tun, wake=wake, name=name, interface=interface, sizes=sizes)
    except (ImportError, OSError) as error:
        reason = _reason(error)
        if choice is EngineChoice.KERNEL:
            raise NoKernelEngine(
                f'{reason}; set host.engine = "auto" to do without the in-kernel engine'
            ) from error
        logger.info("without the in-kernel engine: %s", reason)
        _remove_pins(name)
        return _in_user_space(tun, wake, sizes=sizes, reason=reason)


def _with_kernel(
    *, tun: int, wake: int, name: str, interface: int, sizes: EngineSizes
) -> ChosenEngine:
    from mnagent.datapath.kernel_engine import KernelEngine

    pins = pin_directory(name, find_bpf_file_system())
    engine = KernelEngine(
        tun_fd=tun,
        wake_fd=wake,
        tunnel_interface=interface,
        pins=pins,
        ring_frames=sizes.frames_with_kernel,
        room=sizes.room,
    )
    return ChosenEngine(engine, in_kernel=True, status=engine.status)


def pin_directory(tunnel_interface: str, file_system: Path | None) -> Path | None:
    """Where this daemon's things are pinned in a BPF file system, None without one.

    The name tells network namespaces apart: they share the file system.
    """
    if file_system is None:
        return None
    namespace = os.stat("/proc/thread-self/ns/net").st_ino
    return file_system / f"mnagent-{namespace}-{tunnel_interface}"


def _remove_pins(name: str) -> None:
    """What a killed run with the in-kernel engine left would go on carrying packets."""
    directory = pin_directory(name, find_bpf_file_system())
    if directory is None or not directory.is_dir():
        return
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"it is not built, or libbpf is missing ({error}): {BUILD_REMEDY}"
    return str(error)


def find_bpf_file_system(mounts: Path = Path("/proc/self/mounts")) -> Path | None:
    """Where things can be pinned: the usual place, or another where that is hidden (containers)."""
    found = []
    for line in mounts.read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "bpf" and "rw" in options.split(","):
            found.append(Path(where))
    return BPF_FILE_SYSTEM if BPF_FILE_SYSTEM in found else next(iter(found), None)
