"""What ``mnagent doctor`` looks at: one small class, so that tests can put another machine in its
place."""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import os
import socket
import struct
from ipaddress import IPv6Address
from pathlib import Path

NETLINK_ROUTE = 0
RTM_GETRULE = 34
NLM_F_REQUEST = 0x1
NLM_F_DUMP = 0x300
NLMSG_ERROR = 2
NETLINK_TIMEOUT = 2.0
"""Seconds."""

KERNEL_ENGINE_REMEDY = "install clang and libbpf-dev, then `pip install .` again"


class Probe:
    """Looks at the machine; never changes anything that stays."""

    def read(self, path: str) -> str | None:
        """The text of a file, or None when it cannot be read."""
        try:
            return Path(path).read_text(errors="replace")
        except OSError:
            return None

    def files(self, pattern: str) -> list[str]:
        """Files below the root that match a glob pattern without its leading slash."""
        return [str(path) for path in sorted(Path("/").glob(pattern))]

    def try_open(self, path: str) -> int:
        """Open a device for reading and writing; 0, or the errno."""
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            return error.errno or -1
        return 0

    def try_packet_socket(self) -> int:
        """Open an AF_PACKET socket; 0, or the errno."""
        try:
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
        except OSError as error:
            return error.errno or -1
        return 0

    def try_ingress_table(self) -> str | None:
        """Make an nftables table as the agent does, and let it go; the error, or None."""
        from mnagent.runtime.nftables import Shield
        from mnagent.runtime.process import CAP_NET_ADMIN, effective_capabilities

        if not effective_capabilities() >> CAP_NET_ADMIN & 1:
            return os.strerror(errno.EPERM)  # libnftables would say so itself, on standard error
        loopback = socket.if_nametoindex("lo")
        try:
            shield = Shield(
                f"mnagent_doctor_{os.getpid()}", home_agents=frozenset({IPv6Address("::1")})
            )
            try:
                shield.attach(loopback, "lo")
            finally:
                shield.close()
        except OSError as error:
            return error.strerror or str(error)
        return None

    def try_policy_rules(self) -> int:
        """Ask the kernel for its IPv6 rules; 0, or the errno (EOPNOTSUPP: built without them)."""
        try:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as netlink:
                netlink.settimeout(NETLINK_TIMEOUT)
                body = struct.pack("=B11x", socket.AF_INET6)
                flags = NLM_F_REQUEST | NLM_F_DUMP
                head = struct.pack("=IHHII", 16 + len(body), RTM_GETRULE, flags, 1, 0)
                netlink.send(head + body)
                answer = netlink.recv(65536)
        except OSError as error:
            return error.errno or -1
        if struct.unpack_from("=H", answer, 4)[0] == NLMSG_ERROR:
            return int(-struct.unpack_from("=i", answer, 16)[0])
        return 0

    def processes(self) -> set[str]:
        """Names of the programs that run in this network namespace."""
        names = set()
        ours = self._network_namespace("self")
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and self._network_namespace(entry.name) == ours:
                name = self.read(f"/proc/{entry.name}/comm")
                if name is not None:
                    names.add(name.strip())
        return names

    def _network_namespace(self, process: str) -> str | None:
        try:
            return os.readlink(f"/proc/{process}/ns/net")
        except OSError:
            return None

    def engine_error(self) -> str | None:
        """Why the compiled engine cannot be loaded, or None."""
        if importlib.util.find_spec("mnagent.datapath._engine") is None:
            return "it is not built"
        try:
            importlib.import_module("mnagent.datapath._engine")
        except ImportError as error:
            return str(error)
        return None

    def kernel_engine_error(self) -> tuple[str, str] | None:
        """Why there is no in-kernel engine, with the remedy, or None when it can be loaded."""
        if importlib.util.find_spec("mnagent.datapath._kernel") is None:
            return "it is not built", KERNEL_ENGINE_REMEDY
        try:
            from mnagent.datapath.kernel_links import OBJECT, KernelLinks
        except ImportError as error:
            return str(error), "install libbpf1"
        if not OBJECT.exists():
            return f"{OBJECT} is missing", KERNEL_ENGINE_REMEDY
        try:
            KernelLinks(None, room={}).close()
        except OSError as error:
            remedy = (
                "run as root (CAP_BPF, CAP_NET_ADMIN, and before Linux 6.8 CAP_PERFMON); "
                "the kernel needs CONFIG_BPF_SYSCALL"
            )
            return str(error), remedy
        return None

    def has_bpf_file_system(self) -> bool:
        """Whether the in-kernel engine can carry packets on while the agent restarts."""
        from mnagent.runtime.engines import find_bpf_file_system

        return find_bpf_file_system() is not None

    def libcrypto_version(self) -> str | None:
        """Such as ``OpenSSL 3.0.11 19 Sep 2023``, or None without the library."""
        for name in ("libcrypto.so.3", "libcrypto.so"):
            try:
                library = ctypes.CDLL(name)
                library.OpenSSL_version.restype = ctypes.c_char_p
                return str(library.OpenSSL_version(0).decode(errors="replace"))
            except (OSError, AttributeError):
                continue
        return None

    def interfaces(self) -> dict[str, list[str]]:
        """Interface names and their IPv6 addresses."""
        import netifaces

        return {
            name: [
                str(one["addr"]).partition("%")[0]
                for one in netifaces.ifaddresses(name).get(netifaces.AF_INET6, [])
            ]
            for name in netifaces.interfaces()
        }
