"""The benchmark's traffic: `generator.c`, compiled where it runs, and the processes around it."""

from __future__ import annotations

import atexit
import ctypes
import itertools
import multiprocessing
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv6Address
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles

from tests.ext.namespaces import entered

TCP_PAYLOAD = 1380
"""Octets a segment carries, about: what rates of packets are made of."""
ROUND_TRIP_PAUSE = 0.002
BEGIN = ctypes.CFUNCTYPE(None)
fork = multiprocessing.get_context("fork")
# One for each run: what is still on its way from the last one must not be taken for this one's.
ports = itertools.count(6276)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent from one end to the other."""

    name: str
    flows: int = 0
    """TCP connections; none means UDP."""
    size: int = 0
    """Octets of a datagram."""
    segments: bool = False
    """The sender hands bursts to the kernel as one, as QUIC does (UDP_SEGMENT)."""
    latency: bool = False


TRAFFIC = (
    Traffic("tcp", flows=1),
    Traffic("tcp-8", flows=8),
    Traffic("udp-100", size=100),
    Traffic("udp-1400", size=1340),
    Traffic("udp-segments", size=1340, segments=True),
    Traffic("round-trip", latency=True),
)


@dataclass(frozen=True, slots=True)
class End:
    """A namespace and the address used there."""

    namespace: str
    address: IPv6Address
    port: int = 0


class Outcome(ctypes.Structure):
    """What a receiver counted."""

    _fields_ = (("seconds", ctypes.c_double), ("octets", ctypes.c_uint64))


@cache
def library() -> ctypes.CDLL:
    """The generator, compiled now."""
    folder = tempfile.TemporaryDirectory(prefix="mnagent-bench-")
    atexit.register(folder.cleanup)
    made = f"{folder.name}/generator.so"
    source = str(Path(__file__).with_name("generator.c"))
    subprocess.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", made, source], check=True)
    return ctypes.CDLL(made)


def _datagram_socket(end: End) -> socket.socket:
    with entered(end.namespace):
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 1, 0))
    made.bind((str(end.address), end.port))
    return made


def receive(traffic: Traffic, end: End, pipe: Connection, seconds: float) -> None:
    """Body of the receiving process: says "ready", "begin", and (octets, seconds)."""
    warm = min(1.0, seconds / 4)
    outcome = Outcome()
    begin = BEGIN(lambda: pipe.send("begin"))
    arguments = (ctypes.c_double(warm), ctypes.c_double(seconds), begin, ctypes.byref(outcome))
    if traffic.flows:
        with entered(end.namespace):
            server = socket.create_server((str(end.address), end.port), family=socket.AF_INET6)
        pipe.send("ready")
        connections = [server.accept()[0] for _ in range(traffic.flows)]
        flows = (ctypes.c_int * traffic.flows)(*(each.fileno() for each in connections))
        library().receive_streams(flows, traffic.flows, *arguments)
    else:
        receiver = _datagram_socket(end)
        pipe.send("ready")
        if traffic.latency:
            library().echo(receiver.fileno())
        receiver.settimeout(10)
        receiver.connect(receiver.recvfrom(2048)[1])
        receiver.settimeout(None)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 1, 0))
        library().receive_datagrams(
            receiver.fileno(), traffic.size, int(traffic.segments), *arguments
        )
    pipe.send((outcome.octets, outcome.seconds))


def send(traffic: Traffic, source: End, sink: End) -> None:
    """Body of the sending process; it is killed."""
    if traffic.flows:
        with entered(source.namespace):
            connections = [
                socket.create_connection(
                    (str(sink.address), sink.port), source_address=(str(source.address), 0)
                )
                for _ in range(traffic.flows)
            ]
        flows = (ctypes.c_int * traffic.flows)(*(each.fileno() for each in connections))
        library().send_streams(flows, traffic.flows)
        return
    sender = _datagram_socket(source)
    sender.connect((str(sink.address), sink.port))
    library().send_datagrams(sender.fileno(), traffic.size, int(traffic.segments))


def measure_rate(
    traffic: Traffic,
    source: End,
    sink: End,
    seconds: float,
    busy: Callable[[tuple[int, int]], list[float]],
) -> tuple[dict[str, float], list[float]]:
    """Rates at the receiver, and what each of ``busy`` rose by, for each packet; it is told the
    process ids of sender and receiver.
    """
    library()
    sink = replace(sink, port=next(ports))
    ours, theirs = fork.Pipe()
    receiver = fork.Process(target=receive, args=(traffic, sink, theirs, seconds), daemon=True)
    receiver.start()
    _expect(ours, "ready")
    sender = fork.Process(target=send, args=(traffic, source, sink), daemon=True)
    sender.start()
    try:
        _expect(ours, "begin")
        ends = sender.pid or 0, receiver.pid or 0
        before = busy(ends)
        if not ours.poll(seconds + 15):
            raise RuntimeError(f"{traffic.name}: it stopped")
        octets, spent = ours.recv()
        spans = [after - at for at, after in zip(before, busy(ends), strict=True)]
    finally:
        for process in (sender, receiver):
            process.kill()
            process.join()
    packets = octets / (TCP_PAYLOAD if traffic.flows else traffic.size)
    rates = {
        "megabits_per_second": octets * 8 / spent / 1e6,
        "packets_per_second": packets / spent,
    }
    return rates, [span / max(packets, 1) * 1e6 for span in spans]


def _expect(pipe: Connection, word: str) -> None:
    if not pipe.poll(15) or pipe.recv() != word:
        raise RuntimeError("nothing arrives")


def measure_round_trips(source: End, sink: End, seconds: float) -> dict[str, float]:
    """Of lone packets, in microseconds."""
    library()
    sink = replace(sink, port=next(ports))
    ours, theirs = fork.Pipe()
    echo = fork.Process(
        target=receive, args=(Traffic("round-trip", latency=True), sink, theirs, 0), daemon=True
    )
    echo.start()
    try:
        _expect(ours, "ready")
        with closing(_datagram_socket(source)) as asking:
            asking.connect((str(sink.address), sink.port))
            count = max(20, int(seconds / ROUND_TRIP_PAUSE))
            spans = (ctypes.c_double * count)()
            answered = library().round_trips(
                asking.fileno(), count, ctypes.c_double(ROUND_TRIP_PAUSE), spans
            )
    finally:
        with suppress(ProcessLookupError):
            echo.kill()
        echo.join()
    if answered < count / 2:
        raise RuntimeError(f"only {answered} of {count} round trips were answered")
    found = [span * 1e6 for span in spans[:answered]]
    return {
        "least_microseconds": min(found),
        "p50_microseconds": median(found),
        "p99_microseconds": quantiles(found, n=100, method="inclusive")[98],
        "lost": float(count - answered),
    }
