#!/usr/bin/env python3
"""How fast the tunnel is, against plain forwarding and wireguard-go, all in one run.

    mobile --- router --- agent --- correspondent        one network namespace each

The tunnel runs between mobile and agent, each end in a process of its own. Every case is measured
in both
directions with one TCP connection and with 100-byte UDP datagrams (windowed, so that nobody is
flooded).
Needs root. Rates depend on the machine; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction, EspMode, EspTransform, SecurityAssociation
from mnagent.datapath import (
    DirectPathEntry,
    Engine,
    NextHop,
    PeerBindingEntry,
    Tables,
    TunnelEntry,
)
from tests.ext.namespaces import Namespaces, entered, open_tunnel_device, run

HOME = IPv6Address("2001:db8:1::10")
CARE_OF = IPv6Address("2001:db8:2::10")
AGENT = IPv6Address("2001:db8:3::1")
CORRESPONDENT = IPv6Address("2001:db8:4::1")
WIREGUARD_HOME = IPv6Address("2001:db8:5::10")
PORT = 6275
UDP_SIZE = 100
UDP_BURST = 32
UDP_WINDOW = 8
RECEIVE_LENGTH = 2048
WIREGUARD = "/usr/bin/wireguard-go"

fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Case:
    """One way to carry the traffic."""

    name: str
    transform: EspTransform | None = None
    tunnel: bool = True
    direct: bool = False
    """Route optimization: Home Address option up, type 2 routing header down."""


CASES = (
    Case("forwarding", tunnel=False),
    Case("tunnel"),
    Case("direct", tunnel=False, direct=True),
    Case("esp-aes-gcm", EspTransform.AES_GCM_16),
    Case("esp-aes-cbc", EspTransform.AES_CBC_HMAC_SHA256_128),
    Case("esp-chacha20", EspTransform.CHACHA20_POLY1305),
    Case("wireguard-go", tunnel=False),
)


class Topology(Namespaces):
    """The four namespaces, routed, without any tunnel."""

    def __init__(self, *, gro: bool) -> None:
        super().__init__("bench")
        self._gro = gro

    def build(self) -> None:
        self.mobile, self.router, self.agent, self.correspondent = (
            self.add(name) for name in ("mobile", "router", "agent", "correspondent")
        )
        self.link((self.mobile, "eth0"), (self.router, "eth0"))
        self.link((self.router, "eth1"), (self.agent, "eth0"))
        self.link((self.agent, "eth1"), (self.correspondent, "eth0"))
        for namespace, interface, address in (
            (self.mobile, "eth0", f"{CARE_OF}/64"),
            (self.router, "eth0", "2001:db8:2::1/64"),
            (self.router, "eth1", "2001:db8:3::2/64"),
            (self.agent, "eth0", f"{AGENT}/64"),
            (self.agent, "eth1", "2001:db8:4::2/64"),
            (self.correspondent, "eth0", f"{CORRESPONDENT}/64"),
        ):
            self.ip(namespace, f"addr add {address} dev {interface} nodad")
            if self._gro:
                run(
                    *("ip", "netns", "exec", namespace),
                    *("ethtool", "-K", interface, "gro", "on"),
                )
        self.keep_from_kernel(self.mobile, "eth0", CARE_OF)
        self.keep_from_kernel(self.agent, "eth0", AGENT)
        self.keep_from_kernel(self.correspondent, "eth0", CORRESPONDENT)
        self.forward(self.router)
        self.forward(self.agent)
        self.ip(self.mobile, "route add default via 2001:db8:2::1")
        self.ip(self.agent, "route add 2001:db8:2::/64 via 2001:db8:3::2")
        self.ip(self.router, "route add 2001:db8:4::/64 via 2001:db8:3::1")
        self.ip(self.correspondent, "route add default via 2001:db8:4::2")

    def next_hop(self, namespace: str, *, towards: tuple[str, str]) -> NextHop:
        return NextHop(
            interface=self.index(namespace, "eth0"),
            source_mac=self.link_layer_address(namespace, "eth0"),
            destination_mac=self.link_layer_address(*towards),
        )


def associations(transform: EspTransform, *, mobile: bool) -> tuple[SecurityAssociation, ...]:
    aead = transform.is_aead
    key_length = {EspTransform.AES_GCM_16: 20, EspTransform.CHACHA20_POLY1305: 36}
    return tuple(
        SecurityAssociation(
            spi=spi,
            direction=Direction.OUTBOUND if outbound else Direction.INBOUND,
            mode=EspMode.TUNNEL,
            transform=transform,
            home_address=HOME,
            peer=AGENT,
            encryption_key=bytes([spi & 0xFF]) * key_length.get(transform, 16),
            integrity_key=b"" if aead else bytes([spi & 0x0F]) * 32,
            replay_window=1024,
        )
        for spi, outbound in ((0x1001, mobile), (0x1002, not mobile))
    )


def tunnel_mtu(case: Case) -> int:
    if case.direct:
        return 1476
    return 1460 if case.transform is None else 1422 if case.transform.is_aead else 1398


def tunnel_tables(end: TunnelEnd, next_hop: NextHop, case: Case) -> Tables:
    mobile = end is TunnelEnd.MOBILE_NODE
    local, remote = (CARE_OF, AGENT) if mobile else (AGENT, CARE_OF)
    out, into = (0x1001, 0x1002) if mobile else (0x1002, 0x1001)
    sealed = case.transform is not None
    entry = TunnelEntry(
        end=end,
        home_address=HOME,
        local=local,
        remote=remote,
        next_hop=next_hop,
        mtu=tunnel_mtu(case),
        outbound_spi=out if sealed else None,
        inbound_spi=into if sealed else None,
    )
    return Tables(
        tunnels=(entry,),
        local_addresses=(local,),
        associations=associations(case.transform, mobile=mobile) if case.transform else (),
    )


def direct_tables(end: TunnelEnd, next_hop: NextHop, case: Case) -> Tables:
    mtu = tunnel_mtu(case)
    if end is TunnelEnd.MOBILE_NODE:
        path = DirectPathEntry(
            home_address=HOME,
            correspondent=CORRESPONDENT,
            care_of_address=CARE_OF,
            next_hop=next_hop,
            mtu=mtu,
        )
        return Tables(local_addresses=(CARE_OF, HOME), direct_paths=(path,))
    binding = PeerBindingEntry(
        home_address=HOME, care_of_address=CARE_OF, next_hop=next_hop, mtu=mtu
    )
    return Tables(local_addresses=(CORRESPONDENT,), peer_bindings=(binding,))


def drive_engine(namespace: str, end: TunnelEnd, next_hop: NextHop, case: Case, pipe: Any) -> None:
    """Body of a tunnel end's process."""
    make_tables = direct_tables if case.direct else tunnel_tables
    with entered(namespace):
        tun = open_tunnel_device("mnagent0")
        run("ip", "link", "set", "mnagent0", "mtu", str(tunnel_mtu(case)), "up")
        if end is TunnelEnd.MOBILE_NODE:
            run("ip", "addr", "add", f"{HOME}/128", "dev", "mnagent0", "nodad")
            run(*f"ip -6 route add {CORRESPONDENT} dev mnagent0 src {HOME}".split())
        else:
            run(*f"ip -6 route add {HOME} dev mnagent0".split())
        engine = Engine(tun_fd=tun, wake_fd=os.eventfd(0))
        engine.publish(make_tables(end, next_hop, case))
        engine.attach(next_hop.interface)
    engine.start()
    pipe.send("ready")
    pipe.recv()
    pipe.send(engine.counters())
    engine.close()


@contextlib.contextmanager
def engines(topology: Topology, case: Case) -> Iterator[list[int]]:
    """Both ends of the tunnel, each in a process; yields the process ids."""
    children = []
    for namespace, end, towards in (
        (topology.mobile, TunnelEnd.MOBILE_NODE, (topology.router, "eth0")),
        (topology.correspondent, TunnelEnd.HOME_AGENT, (topology.agent, "eth1"))
        if case.direct
        else (topology.agent, TunnelEnd.HOME_AGENT, (topology.router, "eth1")),
    ):
        ours, theirs = fork.Pipe()
        next_hop = topology.next_hop(namespace, towards=towards)
        child = fork.Process(
            target=drive_engine, args=(namespace, end, next_hop, case, theirs), daemon=True
        )
        child.start()
        theirs.close()
        children.append((child, ours))
    try:
        for _, ours in children:
            ours.recv()
        yield [child.pid for child, _ in children if child.pid]
        for _, ours in children:
            ours.send("stop")
            shown = {name: value for name, value in ours.recv().items() if value}
            if os.environ.get("BENCH_COUNTERS"):
                print("   ", shown)
    finally:
        for child, _ in children:
            child.join(2)
            if child.is_alive():
                child.kill()


@contextlib.contextmanager
def wireguard(topology: Topology) -> Iterator[list[int]]:
    """wireguard-go at both ends, on the same namespaces."""
    keys = [run("wg", "genkey").strip() for _ in range(2)]
    public = [
        subprocess.run(["wg", "pubkey"], input=key, capture_output=True, text=True).stdout.strip()
        for key in keys
    ]
    names = [f"wg{end}{os.getpid() % 100000}" for end in "ma"]
    namespaces = (topology.mobile, topology.agent)
    allowed = ("::/0", f"{WIREGUARD_HOME}/128")
    endpoints = (f"[{AGENT}]:51820", f"[{CARE_OF}]:51820")
    processes = []
    try:
        for name, namespace in zip(names, namespaces, strict=True):
            environment = {**os.environ, "WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"}
            command = ["ip", "netns", "exec", namespace, WIREGUARD, name]
            processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        for at, (name, namespace) in enumerate(zip(names, namespaces, strict=True)):
            path = Path(f"/var/run/wireguard/{name}.sock")
            for _ in range(200):
                if path.exists():
                    break
                time.sleep(0.02)
            command = ["ip", "netns", "exec", namespace, "wg", "set", name, "private-key"]
            command += ["/dev/stdin", "listen-port", "51820", "peer", public[1 - at]]
            command += ["endpoint", endpoints[at], "allowed-ips", allowed[at]]
            subprocess.run(command, input=keys[at], text=True, check=True)
            topology.ip(namespace, f"link set {name} mtu 1420 up")
        topology.ip(topology.mobile, f"addr add {WIREGUARD_HOME}/128 dev {names[0]} nodad")
        topology.ip(
            topology.mobile,
            f"route add {CORRESPONDENT} dev {names[0]} src {WIREGUARD_HOME}",
        )
        topology.ip(topology.agent, f"route add {WIREGUARD_HOME} dev {names[1]}")
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
            process.wait()


# Traffic.


def sink_tcp(namespace: str, address: IPv6Address, pipe: Any, seconds: float) -> None:
    with entered(namespace):
        server = socket.create_server((str(address), PORT), family=socket.AF_INET6)
        server.settimeout(seconds + 5)
    pipe.send("ready")
    connection, _ = server.accept()
    buffer = bytearray(1 << 20)
    warm_until = time.monotonic() + min(1.0, seconds / 4)
    while time.monotonic() < warm_until:
        connection.recv_into(buffer)
    pipe.send("begin")
    began, octets = time.monotonic(), 0
    while True:
        octets += connection.recv_into(buffer)
        now = time.monotonic()
        if now - began >= seconds:
            break
    pipe.send((octets, now - began))
    connection.close()


def source_tcp(namespace: str, source: IPv6Address, sink: IPv6Address) -> None:
    with entered(namespace):
        connection = socket.create_connection((str(sink), PORT), source_address=(str(source), 0))
    data = memoryview(bytes(256 << 10))
    with contextlib.suppress(OSError):
        while True:
            connection.send(data)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


class BatchReceiver:
    """recvmmsg: one call for many datagrams, so that the generator does not eat the machine."""

    def __init__(self, receiver: socket.socket, batch: int = 64) -> None:
        self._descriptor = receiver.fileno()
        self._batch = batch
        self._memory = ctypes.create_string_buffer(batch * RECEIVE_LENGTH)
        self._vectors = (_Vector * batch)()
        self._messages = (_Message * batch)()
        self._libc = ctypes.CDLL(None, use_errno=True)
        for at in range(batch):
            self._vectors[at].base = ctypes.addressof(self._memory) + at * RECEIVE_LENGTH
            self._vectors[at].length = RECEIVE_LENGTH
            self._messages[at].header.vectors = ctypes.pointer(self._vectors[at])
            self._messages[at].header.vector_count = 1

    def receive(self) -> int:
        """How many came; at least one, or 0 after the socket's time-out."""
        wait_for_one = 0x10000
        got: int = self._libc.recvmmsg(
            self._descriptor, self._messages, self._batch, wait_for_one, None
        )
        return max(got, 0)


class BatchSender:
    """sendmmsg: separate datagrams, as most programs send them, for one call."""

    def __init__(self, sender: socket.socket, batch: int, size: int) -> None:
        self._descriptor = sender.fileno()
        self._batch = batch
        self._memory = ctypes.create_string_buffer(size)
        self._vector = _Vector(ctypes.addressof(self._memory), size)
        self._messages = (_Message * batch)()
        self._libc = ctypes.CDLL(None, use_errno=True)
        for message in self._messages:
            message.header.vectors = ctypes.pointer(self._vector)
            message.header.vector_count = 1

    def send(self) -> None:
        """One batch."""
        self._libc.sendmmsg(self._descriptor, self._messages, self._batch, 0)


def sink_udp(namespace: str, address: IPv6Address, pipe: Any, seconds: float) -> None:
    with entered(namespace):
        receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 1, 0))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.bind((str(address), PORT))
    pipe.send("ready")
    _, peer = receiver.recvfrom(RECEIVE_LENGTH)
    receiver.connect(peer)
    batch = BatchReceiver(receiver)
    total = acknowledged = counted_from = 0
    began = time.monotonic() + min(1.0, seconds / 4)
    begun = False
    while True:
        total += batch.receive()
        while total - acknowledged >= UDP_BURST:
            acknowledged += UDP_BURST
            with contextlib.suppress(OSError):
                receiver.send(b"+")
        now = time.monotonic()
        if not begun and now >= began:
            begun, began, counted_from = True, now, total
            pipe.send("begin")
        if begun and now - began >= seconds:
            break
    pipe.send((total - counted_from, now - began))


def source_udp(namespace: str, source: IPv6Address, sink: IPv6Address) -> None:
    """Keep UDP_WINDOW bursts in flight; after a loss the window fills up again."""
    with entered(namespace):
        sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sender.bind((str(source), 0))
        sender.connect((str(sink), PORT))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sender.settimeout(0.02)
    burst = BatchSender(sender, UDP_BURST, UDP_SIZE)
    flying = 0
    with contextlib.suppress(ConnectionError):
        while True:
            while flying < UDP_WINDOW:
                burst.send()
                flying += 1
            try:
                sender.recv(16)
                flying -= 1
            except TimeoutError:
                flying = 0


def busy_seconds() -> float:
    """CPU time of the whole machine spent on anything."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def process_seconds(pids: list[int]) -> float:
    """CPU time of the tunnel's processes."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure(
    kind: str,
    ends: tuple[tuple[str, IPv6Address], tuple[str, IPv6Address]],
    pids: list[int],
    seconds: float,
) -> dict[str, float]:
    """One run from ``ends[0]`` to ``ends[1]``."""
    sinks: dict[str, Callable[..., None]] = {"tcp": sink_tcp, "udp": sink_udp}
    sources: dict[str, Callable[..., None]] = {"tcp": source_tcp, "udp": source_udp}
    ours, theirs = fork.Pipe()
    sink = fork.Process(target=sinks[kind], args=(*ends[1], theirs, seconds), daemon=True)
    sink.start()
    ours.recv()
    source = fork.Process(target=sources[kind], args=(*ends[0], ends[1][1]), daemon=True)
    source.start()
    try:
        if not ours.poll(15):
            raise RuntimeError(f"{kind}: nothing arrives")
        ours.recv()
        busy, own = busy_seconds(), process_seconds(pids)
        amount, spent = ours.recv()
        busy, own = busy_seconds() - busy, process_seconds(pids) - own
    finally:
        source.kill()
        sink.join(2)
        sink.kill()
        source.join()
        sink.join()
    packets = amount / 1380 if kind == "tcp" else amount
    octets = amount if kind == "tcp" else amount * UDP_SIZE
    return {
        "megabits_per_second": octets * 8 / spent / 1e6,
        "packets_per_second": packets / spent,
        "cpu_microseconds_per_packet": busy / max(packets, 1) * 1e6,
        "tunnel_cpu_microseconds_per_packet": own / max(packets, 1) * 1e6,
    }


def run_case(case: Case, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    results = {}
    with Topology(gro=options.gro) as topology:
        topology.build()
        home = HOME
        carrier: contextlib.AbstractContextManager[list[int]] = contextlib.nullcontext([])
        if case.tunnel or case.direct:
            carrier = engines(topology, case)
        elif case.name == "wireguard-go":
            carrier, home = wireguard(topology), WIREGUARD_HOME
        else:
            home = CARE_OF
        ends = ((topology.mobile, home), (topology.correspondent, CORRESPONDENT))
        with carrier as pids:
            for kind in options.traffic:
                for direction, pair in (("up", ends), ("down", ends[::-1])):
                    runs = [
                        measure(kind, pair, pids, options.seconds)  # type: ignore[arg-type]
                        for _ in range(options.repeat)
                    ]
                    results[f"{kind}-{direction}"] = {
                        key: statistics.median(single[key] for single in runs) for key in runs[0]
                    }
                    show(case.name, f"{kind}-{direction}", results[f"{kind}-{direction}"])
    return results


def show(case: str, traffic: str, result: dict[str, float]) -> None:
    print(
        f"{case:14} {traffic:9} {result['megabits_per_second']:9.0f} Mbit/s"
        f" {result['packets_per_second'] / 1e3:9.1f} kpackets/s"
        f" {result['cpu_microseconds_per_packet']:7.2f} us/packet"
        f" ({result['tunnel_cpu_microseconds_per_packet']:.2f} in the tunnel)",
        flush=True,
    )


def ratios(results: dict[str, Any], against: str) -> dict[str, dict[str, float]]:
    """Rate of every case over that of ``against``, per kind of traffic."""
    if against not in results:
        return {}
    return {
        case: {
            traffic: round(
                value["packets_per_second"] / results[against][traffic]["packets_per_second"], 2
            )
            for traffic, value in measured.items()
        }
        for case, measured in results.items()
        if case != against
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each run")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each, the median counts")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--traffic", nargs="+", choices=["tcp", "udp"], default=["tcp", "udp"])
    parser.add_argument("--gro", action="store_true", help="GRO on the links, as real cards have")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root for network namespaces")
    results: dict[str, Any] = {}
    for case in CASES:
        if options.case and case.name not in options.case:
            continue
        if case.name == "wireguard-go" and not (shutil.which("wg") and Path(WIREGUARD).exists()):
            print("wireguard-go    not installed, skipped")
            continue
        results[case.name] = run_case(case, options)
    report = {
        "results": results,
        "ratios_to_forwarding": ratios(results, "forwarding"),
        "ratios_to_wireguard_go": ratios(results, "wireguard-go"),
    }
    for against in ("forwarding", "wireguard_go"):
        for case_name, values in report[f"ratios_to_{against}"].items():
            print(f"{case_name:14} / {against}: {values}")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
