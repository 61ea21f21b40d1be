#!/usr/bin/env python3
"""How a home agent bears many mobile nodes: memory, Binding Updates and packets a second, lookups.

    mobile nodes --- home agent --- correspondent          one network namespace each

For each number of bindings: in memory, the octets of the engine's tables and the cost of a lookup;
then a real daemon in a namespace, its Binding Updates (ESP in and out, each node moved) and its
packets in both directions, in turns with those of a daemon that has few bindings. The daemon's
configuration and keys are made by the program, not read from files: hundreds of thousands of files
are not what is measured. A second's worth of Binding Updates is counted in the daemon's own
processor time, so that it means one core whatever else the machine does.

The kernel takes longer over many destinations than over few, whoever forwards: its routing table
fits no cache any more. So the same packets are also forwarded without a tunnel, by a host with as
many host routes, in turns with the others. `packets_ratio` is the home agent's rate with many
bindings over that with few, as measured; `packets_ratio_beside_forwarding` takes from each packet
through the many bindings the time by which plain forwarding became slower, no more: what is left
is what the tunnel's own tables cost.
Needs root. Rates depend on the machine; what has to hold anywhere is that they do not depend on the
number of bindings.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mnagent.core.actions import TunnelEnd
from mnagent.datapath import Changes, NextHop, Pipeline, TunnelEntry
from mnagent.ipsec.purpose import Purpose
from mnagent.runtime import service
from mnagent.runtime.process import postpone_collection
from tests.bench.scale_nodes import (
    AGENT,
    CORRESPONDENT,
    HOME_PREFIX,
    PURPOSES,
    MobileNodes,
    care_of_address,
    configuration,
    home_address,
    key_set,
)
from tests.ext.namespaces import Namespaces, entered

NUMBERS = (1, 100, 10_000, 100_000)
TARGETS = {
    "octets_per_binding": ("<=", 1024.0),
    "binding_updates_per_second": (">=", 5000.0),
    "packets_ratio": (">=", 0.9),
    "packets_ratio_beside_forwarding": (">=", 0.9),
}
MOVED = 20_000
"""Nodes that move, at most, in a run."""
PART = 4000
"""Of them, those that are measured at a time."""
MOVEMENTS = 20
"""Times that every node moves, at most, where there are few."""
REFERENCE = 100
"""Bindings of the daemon that packets are also sent through, for comparison."""
TURNS = 25
WINDOW = 128
"""Binding Updates without an answer at a time; the engine keeps 512 for the daemon."""
PACKETS = 200_000
PACKET_WINDOW = 1024
BURST = 64
FLOWS = 1 << 14
"""Different packets, each of a binding by chance; they are sent again and again."""
PATIENCE = 180.0
ETHERNET = b"\x86\xdd"
ROUTING_HEADER = 43
"""What a Binding Acknowledgement begins with; ESP is behind it."""


# In memory.


def measure_tables(bindings: int) -> dict[str, float]:
    """What the entries of so many bindings take in the engine, and how long a lookup lasts."""
    engine = Pipeline()
    empty = engine.memory_of_tables()
    hop = NextHop(interface=3, source_mac=bytes(6), destination_mac=bytes(6))
    began = time.perf_counter()
    for node in range(bindings):
        entry = TunnelEntry(
            end=TunnelEnd.HOME_AGENT,
            home_address=home_address(node),
            local=AGENT,
            remote=care_of_address(node, 0),
            next_hop=hop,
        )
        engine.change(Changes(tunnels=(entry,)))
    spent = time.perf_counter() - began
    plain = engine.memory_of_tables() - empty
    sizes = {}
    for purposes in (PURPOSES, tuple(Purpose)):
        for node in range(bindings):
            keys = key_set(node, TunnelEnd.HOME_AGENT, purposes)
            engine.change(Changes(associations=keys.associations))
        sizes[2 * len(purposes)] = engine.memory_of_tables() - empty
    chance = random.Random(1)
    some = [home_address(chance.randrange(bindings)).packed for _ in range(FLOWS)]
    return {
        "octets_per_binding_without_keys": plain / bindings,
        "octets_per_binding": sizes[4] / bindings,
        "octets_per_binding_with_8_associations": sizes[8] / bindings,
        "change_microseconds": spent / bindings * 1e6,
        "lookup_nanoseconds": min(engine.time_lookups(b"".join(some), rounds=20) for _ in range(3)),
    }


# The daemon.


def be_the_daemon(bindings: int, directory: Path) -> int:
    """In a process of its own: the daemon as `mnagent run` starts it, with keys made here."""
    postpone_collection()
    made = configuration(bindings, directory=directory)
    keys = tuple(key_set(node, TunnelEnd.HOME_AGENT) for node in range(bindings))
    return service.run(made, key_sets=keys)


class Topology(Namespaces):
    """Three hosts in a row; the mobile nodes are all one host."""

    def build(self) -> None:
        """Make it."""
        self.mobile, self.agent, self.correspondent = (
            self.add(name) for name in ("mobile", "agent", "correspondent")
        )
        self.link((self.mobile, "eth0"), (self.agent, "eth0"))
        self.link((self.agent, "eth1"), (self.correspondent, "eth0"))
        for namespace, interface, address in (
            (self.mobile, "eth0", "2001:db8:3::2/64"),
            (self.agent, "eth0", "2001:db8:3::1/64"),
            (self.agent, "eth0", f"{AGENT}/128"),
            (self.agent, "eth1", "2001:db8:4::2/64"),
            (self.correspondent, "eth0", f"{CORRESPONDENT}/64"),
        ):
            self.ip(namespace, f"addr add {address} dev {interface} nodad")
        self.forward(self.agent)
        self.ip(self.agent, "route add default via 2001:db8:3::2")
        # Care-of addresses are not on any interface: an error about each answer would cost.
        self.ip(self.mobile, "route add blackhole 2001:db8:2::/48")
        self.ip(self.correspondent, "route add default via 2001:db8:4::2")


@contextlib.contextmanager
def daemon(topology: Topology, bindings: int, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that is ready."""
    code = (*(sys.executable, __file__), "--daemon", str(bindings), "--directory", str(directory))
    process = subprocess.Popen(["ip", "netns", "exec", topology.agent, *code])
    try:
        deadline = time.monotonic() + PATIENCE
        while not (directory / "control.sock").exists() or not is_listening(topology):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the daemon did not start")
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()
        process.wait()


def is_listening(topology: Topology) -> bool:
    """The engine has its socket on the link."""
    with entered(topology.agent):
        table = Path("/proc/thread-self/net/packet").read_text()
    return any(
        line.split()[4] != "0" and line.split()[3].lower() in ("0003", "86dd")
        for line in lines_of(table)
    )


def lines_of(table: str) -> list[str]:
    return table.splitlines()[1:]


def processor_seconds(process: int) -> float:
    """Of all threads, in user space and in the kernel; finer than the ticks of /proc/PID/stat."""
    spent = 0
    for thread in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            spent += int((thread / "schedstat").read_text().split()[0])
    return spent / 1e9


def resident_megabytes(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return next(
        int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")
    )


# Binding Updates.


class Link:
    """Frames to and from a host at the other end of a link, by a packet socket."""

    def __init__(self, topology: Topology, namespace: str, peer: tuple[str, str]) -> None:
        with entered(namespace):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
            self.socket.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
            self.socket.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING
            self.socket.bind(("eth0", 0x86DD))
        own = topology.link_layer_address(namespace, "eth0")
        self.head = topology.link_layer_address(*peer) + own + ETHERNET

    def close(self) -> None:
        """Give the descriptor back."""
        self.socket.close()


def register(link: Link, updates: Sequence[bytes]) -> float:
    """Send them, few unanswered at a time, and wait for all answers; seconds. Lost ones again."""
    began = time.monotonic()
    sent = answered = 0
    link.socket.setblocking(False)
    while answered < len(updates):
        while sent < len(updates) and sent - answered < WINDOW:
            link.socket.send(link.head + updates[sent])
            sent += 1
        if not select.select([link.socket], [], [], 5)[0]:
            raise RuntimeError(f"{sent - answered} Binding Updates were not answered")
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = link.socket.recv(2048)
                answered += frame[20] == ROUTING_HEADER
    return time.monotonic() - began


def measure_updates(
    link: Link, nodes: MobileNodes, process: int, *, movement: int, of: range
) -> dict[str, float]:
    """One Binding Update of each of these nodes."""
    updates = list(nodes.binding_updates(of, movement=movement))
    count = len(updates)
    before = processor_seconds(process)
    wall = register(link, updates)
    spent = processor_seconds(process) - before
    return {
        "per_second": count / wall,
        "per_processor_second": count / spent,
        "processor_microseconds": spent / count * 1e6,
    }


# Packets.


class Sender:
    """Sends prepared frames, many with one system call."""

    class _Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))

    class _Message(ctypes.Structure):
        _fields_ = (
            ("name", ctypes.c_void_p),
            ("name_length", ctypes.c_uint32),
            ("vectors", ctypes.c_void_p),
            ("vector_count", ctypes.c_size_t),
            ("control", ctypes.c_void_p),
            ("control_length", ctypes.c_size_t),
            ("flags", ctypes.c_int),
            ("sent", ctypes.c_uint32),
        )

    def __init__(self, descriptor: int, frames: list[bytes]) -> None:
        self._descriptor = descriptor
        self._frames = frames
        self._library = ctypes.CDLL(None, use_errno=True)
        self._vectors = (self._Vector * len(frames))()
        self._messages = (self._Message * len(frames))()
        for at, frame in enumerate(frames):
            self._vectors[at] = self._Vector(frame, len(frame))
            self._messages[at].vectors = ctypes.addressof(self._vectors[at])
            self._messages[at].vector_count = 1
        self._at = 0

    def send(self, count: int) -> int:
        """Send up to so many; how many left."""
        count = min(count, len(self._frames) - self._at)
        address = ctypes.addressof(self._messages[self._at])
        sent = self._library.sendmmsg(self._descriptor, ctypes.c_void_p(address), count, 0)
        if sent < 0:
            return 0
        self._at = (self._at + sent) % len(self._frames)
        return int(sent)


def received_packets(namespace: str) -> Callable[[], int]:
    """How many packets came in by the namespace's link so far."""
    with entered(namespace):
        counters = open("/proc/thread-self/net/dev", "rb", buffering=0)  # noqa: SIM115

    def read() -> int:
        counters.seek(0)
        line = next(each for each in counters.read().splitlines() if b"eth0:" in each)
        return int(line.split(b":")[1].split()[1])

    return read


def datagram(source: bytes, destination: bytes) -> bytes:
    """100 octets from port 4000 to port 4000."""
    payload = bytes(100 - 48)
    length = 8 + len(payload)
    total = sum(struct.unpack("!16H", source + destination)) + 2 * length + 17 + 8000
    total += sum(struct.unpack(f"!{len(payload) // 2}H", payload))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    head = struct.pack("!IHBB", 0x60000000, length, 17, 63) + source + destination
    return head + struct.pack("!4H", 4000, 4000, length, ~total & 0xFFFF) + payload


def tunnelled(inner: bytes, source: bytes) -> bytes:
    head = struct.pack("!IHBB", 0x60000000, len(inner), 41, 63)
    return head + source + AGENT.packed + inner


def measure_packets(
    link: Link, frames: list[bytes], arrivals: Callable[[], int], process: int | None, count: int
) -> dict[str, float]:
    """Send so many, few under way at a time, and count those that arrive."""
    sender = Sender(link.socket.fileno(), [link.head + frame for frame in frames])
    link.socket.setblocking(True)
    before = 0.0 if process is None else processor_seconds(process)
    first, began = arrivals(), time.monotonic()
    sent = lost = 0
    while sent < count:
        sent += sender.send(min(BURST, count - sent))
        since = time.monotonic()
        while sent - lost - (arrivals() - first) > PACKET_WINDOW:
            if time.monotonic() - since > 0.2:
                lost = sent - (arrivals() - first)
    since = time.monotonic()
    while arrivals() - first < sent - lost and time.monotonic() - since < 0.2:
        time.sleep(0.001)
    wall = time.monotonic() - began
    arrived = arrivals() - first
    spent = 0.0 if process is None else processor_seconds(process) - before
    return {
        "per_second": arrived / wall,
        "processor_microseconds": spent / max(arrived, 1) * 1e6,
        "lost_share": max(0, count - arrived) / count,
    }


def packet_frames(
    bindings: int, movement: Callable[[int], int] | None
) -> tuple[list[bytes], list[bytes]]:
    """Of mobile nodes by chance: through the tunnel, or as they are without a ``movement``, to the
    correspondent, and from it to them."""
    chance = random.Random(2)
    up, down = [], []
    for _ in range(FLOWS):
        node = chance.randrange(bindings)
        home = home_address(node).packed
        inner = datagram(home, CORRESPONDENT.packed)
        if movement is not None:
            inner = tunnelled(inner, care_of_address(node, movement(node)).packed)
        up.append(inner)
        down.append(datagram(CORRESPONDENT.packed, home))
    return up, down


@dataclass(frozen=True, slots=True)
class Ways:
    """A network that carries packets in both directions."""

    process: int | None
    """Of the daemon, where there is one."""
    each: dict[str, tuple[Link, list[bytes], Callable[[], int]]]
    """Direction -> by which link, which frames, and how many arrived so far."""

    def send(self, way: str, packets: int) -> dict[str, float]:
        """So many packets that way."""
        link, frames, arrivals = self.each[way]
        return measure_packets(link, frames, arrivals, self.process, packets)


@dataclass(frozen=True, slots=True)
class Served:
    """A daemon that is up, in a network of its own, with all its nodes registered."""

    process: int
    nodes: MobileNodes
    mobile: Link
    found: dict[str, Any]
    ways: Ways


def links_of(topology: Topology, end: contextlib.ExitStack) -> tuple[Link, Link]:
    """The mobile nodes' and the correspondent's."""
    mobile = Link(topology, topology.mobile, (topology.agent, "eth0"))
    other = Link(topology, topology.correspondent, (topology.agent, "eth1"))
    end.callback(mobile.close)
    end.callback(other.close)
    return mobile, other


def ways_of(
    topology: Topology,
    links: tuple[Link, Link],
    frames: tuple[list[bytes], list[bytes]],
    process: int | None = None,
) -> Ways:
    each = {
        "packets_up": (links[0], frames[0], received_packets(topology.correspondent)),
        "packets_down": (links[1], frames[1], received_packets(topology.mobile)),
    }
    return Ways(process, each)


@contextlib.contextmanager
def served(bindings: int, *, moved: int) -> Iterator[Served]:
    """The nodes' first registrations are measured; that ``moved`` of them will have moved is known
    to the packets.
    """
    with Topology(f"scale{bindings}") as topology, contextlib.ExitStack() as end:
        directory = Path(end.enter_context(tempfile.TemporaryDirectory(prefix="scale-")))
        topology.build()
        began = time.monotonic()
        process = end.enter_context(daemon(topology, bindings, directory)).pid
        found: dict[str, Any] = {"start_seconds": time.monotonic() - began}
        found["start_processor_seconds"] = processor_seconds(process)
        found["megabytes_before"] = resident_megabytes(process)
        links = links_of(topology, end)
        nodes = MobileNodes(bindings)
        every = range(bindings)
        found["first"] = measure_updates(links[0], nodes, process, movement=0, of=every)
        last = movements_of(moved)
        frames = packet_frames(bindings, lambda node: last if node < moved else 0)
        yield Served(
            process=process,
            nodes=nodes,
            mobile=links[0],
            found=found,
            ways=ways_of(topology, links, frames, process),
        )


@contextlib.contextmanager
def plainly_forwarded(destinations: int) -> Iterator[Ways]:
    """The same network without a daemon: the host forwards what the tunnels would carry, each home
    address by a route of its own."""
    with Topology(f"plain{destinations}") as topology, contextlib.ExitStack() as end:
        topology.build()
        routes = "".join(
            f"route add {home_address(node)}/128 via 2001:db8:3::2 dev eth0\n"
            for node in range(destinations)
        )
        subprocess.run(
            ["ip", "-n", topology.agent, "-6", "-batch", "-"],
            input=routes.encode(),
            check=True,
        )
        # Nobody answers for what arrives.
        topology.ip(topology.mobile, f"route add blackhole {HOME_PREFIX}")
        frames = packet_frames(destinations, None)
        yield ways_of(topology, links_of(topology, end), frames)


def movements_of(moved: int) -> int:
    """How often each of so many nodes moves."""
    return max(1, min(MOVEMENTS, PART // max(moved, 1)))


def measure_movements(one: Served, moved: int) -> None:
    """In parts: of what the machine does besides, the best one has least."""
    last = movements_of(moved)
    for name, movements in (("moved", range(1, last + 1)), ("refreshed", [last] * last)):
        parts = [
            measure_updates(
                one.mobile,
                one.nodes,
                one.process,
                movement=movement,
                of=range(first, min(first + PART, moved)),
            )
            for movement in movements
            for first in range(0, moved, PART)
        ]
        one.found[name] = max(parts, key=lambda part: part["per_processor_second"])
        one.found[f"{name}_each"] = [part["per_processor_second"] for part in parts]
    one.found["megabytes"] = resident_megabytes(one.process)


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def best(runs: list[dict[str, float]]) -> float:
    """The rate of the turn that was disturbed least."""
    return max(run["per_second"] for run in runs)


def measure_turns(
    all_ways: dict[tuple[str, int], Ways], packets: int
) -> dict[tuple[str, int], dict[str, list[dict[str, float]]]]:
    """Packets, all networks in turns, so that they meet the same machine."""
    runs: dict[tuple[str, int], dict[str, list[dict[str, float]]]] = {}
    for _ in range(TURNS):
        for which, ways in all_ways.items():
            for way in ways.each:
                found = ways.send(way, packets // TURNS)
                runs.setdefault(which, {}).setdefault(way, []).append(found)
    return runs


def ratios_of(
    rates: dict[tuple[str, int], dict[str, float]], few: int, many: int
) -> dict[str, dict[str, float]]:
    """Way -> the home agent's best rate of many over that of few; the same of plain forwarding; and
    the home agent's without the time by which plain forwarding became slower."""
    found = {}
    for way, rate in rates["tunnel", few].items():
        slower = 1 / rates["plain", many][way] - 1 / rates["plain", few][way]
        own = 1 / rates["tunnel", many][way] - max(slower, 0.0)
        found[way] = {
            "tunnel": rates["tunnel", many][way] / rate,
            "forwarding": rates["plain", many][way] / rates["plain", few][way],
            "beside_forwarding": 1 / own / rate,
        }
    return found


# The whole.


def run_number(bindings: int, options: argparse.Namespace) -> dict[str, Any]:
    """Alone, and then beside the reference, whose figures are not kept."""
    found: dict[str, Any] = measure_tables(bindings)
    moved = min(options.moved, bindings)
    with contextlib.ExitStack() as end:
        together, all_ways = {}, {}
        few = min(REFERENCE, bindings)
        for number in sorted({few, bindings}):
            one = end.enter_context(served(number, moved=min(moved, number)))
            together[number], all_ways["tunnel", number] = one, one.ways
            all_ways["plain", number] = end.enter_context(plainly_forwarded(number))
        for number, one in together.items():
            measure_movements(one, min(moved, number))
        runs = measure_turns(all_ways, options.packets)
        found |= together[bindings].found
    for way, each in runs["tunnel", bindings].items():
        found[way] = middle(each)
        found[f"{way}_plain"] = middle(runs["plain", bindings][way])
    if bindings > REFERENCE:
        rates = {which: {way: best(each) for way, each in of.items()} for which, of in runs.items()}
        found["packets_ratio_each_way"] = ratios = ratios_of(rates, few, bindings)
        found["packets_ratio"] = min(each["tunnel"] for each in ratios.values())
        found["packets_ratio_beside_forwarding"] = min(
            each["beside_forwarding"] for each in ratios.values()
        )
    found["binding_updates_per_second"] = found["moved"]["per_processor_second"]
    return found


def summary(results: dict[int, dict[str, Any]]) -> dict[str, float]:
    """The figures that have targets, of the largest number."""
    most = results[max(results)]
    return {name: most[name] for name in TARGETS if name in most}


def show(results: dict[int, dict[str, Any]]) -> None:
    """A table, a column a number of bindings."""
    rows: dict[str, Callable[[dict[str, Any]], float]] = {
        "engine, octets a binding, no keys": lambda r: r["octets_per_binding_without_keys"],
        "  with 4 associations": lambda r: r["octets_per_binding"],
        "  with 8 associations": lambda r: r["octets_per_binding_with_8_associations"],
        "engine, change of a binding, us": lambda r: r["change_microseconds"],
        "engine, lookup, ns": lambda r: r["lookup_nanoseconds"],
        "daemon, start, s": lambda r: r["start_seconds"],
        "  of a core": lambda r: r["start_processor_seconds"],
        "daemon, resident, MB": lambda r: r["megabytes"],
        "first registrations/s of one core": lambda r: r["first"]["per_processor_second"],
        "movements/s of one core, best": lambda r: r["moved"]["per_processor_second"],
        "  median": lambda r: statistics.median(r["moved_each"]),
        "  by the clock": lambda r: r["moved"]["per_second"],
        "refreshes/s of one core": lambda r: r["refreshed"]["per_processor_second"],
        "packets/s up, by the clock": lambda r: r["packets_up"]["per_second"],
        "  us of the daemon, up": lambda r: r["packets_up"]["processor_microseconds"],
        "  up, without a tunnel": lambda r: r["packets_up_plain"]["per_second"],
        "packets/s down, by the clock": lambda r: r["packets_down"]["per_second"],
        "  us of the daemon, down": lambda r: r["packets_down"]["processor_microseconds"],
        "  down, without a tunnel": lambda r: r["packets_down_plain"]["per_second"],
    }
    print(f"{'bindings':36}" + "".join(f"{number:>12}" for number in results))
    for name, figure in rows.items():
        values = (figure(result) for result in results.values())
        print(f"{name:36}" + "".join(f"{value:12.1f}" for value in values))


def judge(figures: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Each figure beside its target."""
    judged = {}
    for name, value in figures.items():
        relation, limit = TARGETS[name]
        met = value <= limit if relation == "<=" else value >= limit
        judged[name] = {"value": value, "target": f"{relation} {limit:g}", "met": met}
        print(f"{name:36} {value:12.2f}   target {relation} {limit:g}: {'yes' if met else 'NO'}")
    return judged


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    parser.add_argument("--bindings", type=int, nargs="+", default=list(NUMBERS))
    parser.add_argument("--packets", type=int, default=PACKETS, help="in each direction")
    parser.add_argument("--moved", type=int, default=MOVED, help="nodes that move, at most")
    parser.add_argument("--daemon", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root for network namespaces")
    if options.daemon is not None:
        return be_the_daemon(options.daemon, options.directory)
    results = {}
    for bindings in sorted(options.bindings):
        results[bindings] = run_number(bindings, options)
        print(f"{bindings} bindings: done", flush=True)
    show(results)
    judged = judge(summary(results))
    if options.json:
        report = {"results": results, "targets": judged, "load": os.getloadavg()}
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
