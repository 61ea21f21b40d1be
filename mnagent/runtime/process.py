"""What the daemon does to itself: privileges, core dumps, the service manager's messages, one copy
only."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import resource
import socket
from pathlib import Path

PRIORITY = -10
"""Nice value."""
COLLECTION_THRESHOLD = 20_000
"""New objects before the garbage collector looks: hardly any of ours are in cycles, and a home
agent makes thousands for each batch of Binding Updates."""
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_SET_THP_DISABLE = 41
CAP_NET_BIND_SERVICE = 10
"""For the DHCPv6 client's port, which is opened when an interface asks for it."""
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_BPF = 39
"""For the in-kernel engine's maps."""
NEEDED_CAPABILITIES = (1 << CAP_NET_ADMIN) | (1 << CAP_NET_RAW)
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63


class PrivilegeError(OSError):
    """The process may not do what the daemon has to do."""


class StateInUse(Exception):
    """Another copy uses the state directory, and would use the same sequence numbers."""


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def effective_capabilities() -> int:
    """The bit mask of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def require_capabilities() -> None:
    """Raise `PrivilegeError` unless the network may be configured."""
    missing = NEEDED_CAPABILITIES & ~effective_capabilities()
    if missing:
        raise PrivilegeError(
            1,
            "CAP_NET_ADMIN and CAP_NET_RAW are needed: run as root, or by the systemd unit, "
            "which grants just these",
        )


def reason_of(error: Exception) -> str:
    """Why something failed, in words that name the file where there is one."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def be_prompt() -> None:
    """Ahead of ordinary programs when something moves: a handover is a few milliseconds of work
    that everybody waits for. Where we may not, the service manager has to (``Nice=``)."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)


def postpone_collection() -> None:
    """A start makes what stays; with a hundred thousand mobile nodes, walking over all of it again
    and again is most of what a start costs. Until `settle_memory` or `resume_collection`."""
    gc.disable()


def use_small_pages() -> None:
    """Take memory page by page, where the kernel would give 2 MiB for the first octet used of them:
    on a small machine with 1 GiB that is 7 MB for nothing. What is there already stays as it is."""
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def resume_collection() -> None:
    """The garbage collector is to run by itself."""
    gc.enable()


def settle_memory() -> None:
    """What is there when the start is over stays: the garbage collector need not walk over it again
    in the middle of a handover. What the start alone needed goes back to the system."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTION_THRESHOLD, *gc.get_threshold()[1:])
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the C library may be another's
    if trim is not None:
        trim(0)
    resume_collection()


def forbid_core_dumps() -> None:
    """Keys must not end up in a core file, nor be read by a debugger of another process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def drop_capabilities(*, opens_low_ports: bool, uses_bpf: bool) -> None:
    """Keep what is needed, as far as it is there. Call before threads start: they inherit it.

    ``opens_low_ports`` keeps CAP_NET_BIND_SERVICE as well, ``uses_bpf`` CAP_BPF.
    """
    wanted = NEEDED_CAPABILITIES | (opens_low_ports << CAP_NET_BIND_SERVICE)
    wanted |= uses_bpf << CAP_BPF
    kept = wanted & effective_capabilities()
    library = ctypes.CDLL(None, use_errno=True)
    for capability in range(_LAST_CAPABILITY + 1):
        if not wanted >> capability & 1:
            library.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapabilityData * 2)()
    for at in range(2):
        data[at].effective = data[at].permitted = kept >> 32 * at & 0xFFFFFFFF
    if library.capset(ctypes.byref(header), data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"failed to drop capabilities: {os.strerror(code)}")
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def lock(path: Path) -> int:
    """Take the lock that only one daemon may hold; the descriptor keeps it. `StateInUse` if
    taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StateInUse(
            f"another copy is running (process {holder or 'unknown'}, lock {path}); "
            "stop it, or give this one another state_directory",
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def boot_identifier() -> str:
    """Different after every boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class ServiceManager:
    """sd_notify(3): silent where there is no service manager."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_interval: float | None = None
        """Seconds between two signs of life, None when none are wanted."""
        if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            microseconds = int(environment.get("WATCHDOG_USEC", "0") or 0)
            if microseconds > 0:
                self.watchdog_interval = microseconds / 2_000_000

    def notify(self, state: str) -> None:
        """Send a state such as ``READY=1``."""
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagram:
            try:
                datagram.sendto(state.encode(), address)
            except OSError:
                return
