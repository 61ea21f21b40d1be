"""Network namespaces, TUN devices and engines inside them, for tests and the benchmark."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x0002, 0x1000, 0x4000

_libc = ctypes.CDLL(None, use_errno=True)


def run(*command: str) -> str:
    """Run a command, raise with its output when it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Make the calling thread work in a namespace: descriptors opened there stay there."""
    with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{name}") as inside:
        if _libc.setns(inside.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "failed to enter a namespace")
        try:
            yield
        finally:
            _libc.setns(before.fileno(), CLONE_NEWNET)


class Namespaces:
    """Namespaces with a common unique prefix, removed on exit."""

    def __init__(self, prefix: str) -> None:
        self.prefix = f"{prefix}-{os.getpid()}"
        self._names: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def add(self, name: str) -> str:
        """Make a namespace that neither does DAD nor autoconfiguration; returns its full name."""
        full = f"{self.prefix}-{name}"
        run("ip", "netns", "add", full)
        self._names.append(full)
        with entered(full):
            for scope in ("all", "default"):
                for key, value in (("accept_dad", 0), ("accept_ra", 0), ("autoconf", 0)):
                    Path(f"/proc/sys/net/ipv6/conf/{scope}/{key}").write_text(str(value))
        self.ip(full, "link set lo up")
        return full

    def ip(self, namespace: str, arguments: str) -> str:
        """``ip`` inside a namespace."""
        return run("ip", "-n", namespace, *arguments.split())

    def link(self, left: tuple[str, str], right: tuple[str, str], *, mtu: int = 1500) -> None:
        """A veth pair, each end given as namespace and interface name, both up."""
        run(
            *("ip", "-n", left[0], "link", "add", left[1], "mtu", str(mtu), "type", "veth"),
            *("peer", "name", right[1], "mtu", str(mtu), "netns", right[0]),
        )
        for namespace, interface in (left, right):
            self.ip(namespace, f"link set {interface} up")

    def forward(self, namespace: str) -> None:
        """Make a namespace a router."""
        with entered(namespace):
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")

    def keep_from_kernel(
        self, namespace: str, interface: str, address: object, *, hook: str = "ingress"
    ) -> None:
        """Drop the tunnel's packets before the kernel answers them with errors, as the daemon
        does: at the link's ingress, or behind what receives after it ("prerouting").
        """
        family, where = "netdev", f"ingress device {interface}"
        if hook == "prerouting":
            family, where = "ip6", "prerouting"
        protocols = "{ 41, 43, 50, 60, 135 }"
        rules = f"""
            add table {family} mnagent
            add chain {family} mnagent in {{ type filter hook {where} priority -450 ; }}
            add rule {family} mnagent in ip6 daddr {address} ip6 nexthdr {protocols} drop
        """
        command = ["ip", "netns", "exec", namespace, "nft", "-f", "-"]
        subprocess.run(command, input=rules, text=True, check=True)

    def link_layer_address(self, namespace: str, interface: str) -> bytes:
        """Six octets."""
        with entered(namespace):
            text = run("ip", "-o", "link", "show", interface)
        return bytes.fromhex(text.split("link/ether ")[1].split()[0].replace(":", ""))

    def index(self, namespace: str, interface: str) -> int:
        """Interface index."""
        return int(self.ip(namespace, f"-o link show {interface}").split(":")[0])


def open_tunnel_device(name: str) -> int:
    """Open a TUN device as the engine wants it; the descriptor is the caller's to close."""
    return _open_device(name, IFF_TUN | IFF_NO_PI | IFF_VNET_HDR)


def open_ethernet_device(name: str) -> int:
    """Open a TAP device: what is sent on it is read from the descriptor, the caller's to close."""
    return _open_device(name, IFF_TAP | IFF_NO_PI)


def _open_device(name: str, flags: int) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), flags)
    fcntl.ioctl(descriptor, TUNSETIFF, request)
    return descriptor
