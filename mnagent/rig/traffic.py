"""Applications that know nothing of mobility, and say what they noticed.

Each is a small program with ordinary sockets, bound to nothing; it prints one JSON object a line,
and ends at the end of its standard input::

    python -m mnagent.rig.traffic ping ADDRESS              ICMPv6 echo every 20 ms
    python -m mnagent.rig.traffic serve PORT                accept one TCP connection
    python -m mnagent.rig.traffic connect ADDRESS PORT      open one TCP connection
    python -m mnagent.rig.traffic answer PORT               numbered datagrams to who sends some
    python -m mnagent.rig.traffic datagrams ADDRESS PORT    numbered datagrams to an address

Both ends of a connection send 1000 octets every 20 ms and check every octet they receive. At the
end of its input an end finishes its direction; ``finished`` comes once both directions have ended,
and holds what was sent and received. Datagrams go both ways at the same pace, each with a sequence
number; the end that answers does so from the address it was asked at, as servers of QUIC do. All
times are seconds on CLOCK_BOOTTIME.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import selectors
import socket
import struct
import sys
import time
from typing import Any

INTERVAL = float(os.environ.get("MNAGENT_RIG_INTERVAL", "0.02"))
"""Seconds between probes, and between writes to a connection; more where the processor is emulated,
so that measuring does not cost what is measured."""
CHUNK = 1000
"""Octets of one write."""
PATTERN = bytes(random.Random(6275).choices(b"abcdefghijklmnopqrstuvwxyz", k=65521))
"""What connections carry, over and over; the length is a prime so that no shift looks right.

Letters alone, which no dissector takes for a protocol."""
DATAGRAM_FILLING = bytes(200)
LINGER = 1.0
"""Seconds for which the last packets are waited for."""
ECHO_REQUEST = 128
ECHO_REPLY = 129


def now() -> float:
    """Seconds on CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def report(kind: str, **details: Any) -> None:
    """Print one line."""
    print(json.dumps({"kind": kind, "at": now(), **details}), flush=True)


def pattern_at(position: int, length: int) -> bytes:
    """The octets a connection carries from ``position`` on."""
    start = position % len(PATTERN)
    repeated = PATTERN[start:] + PATTERN * (1 + length // len(PATTERN))
    return repeated[:length]


def input_ended() -> bool:
    """True when standard input has nothing more to say; call it when it is readable."""
    return not os.read(0, 4096)


class Ping:
    """Echo requests at a steady pace, sequence numbers kept, each reply reported."""

    def __init__(self, destination: str) -> None:
        self._identifier = os.getpid() & 0xFFFF
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        self._socket.setblocking(False)
        # As ping(8) does: the source address is chosen now and kept.
        self._socket.connect((destination, 0))
        report("source", address=self._socket.getsockname()[0])
        self._sequence = 0
        self._sent_at: dict[int, float] = {}

    def run(self) -> None:
        """Probe until the end of the input, then wait a little for the last replies."""
        next_at = now()
        ends_at = float("inf")
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(self._socket, selectors.EVENT_READ)
            while now() < ends_at:
                for key, _ in selector.select(max(0.0, next_at - now())):
                    if key.fileobj is self._socket:
                        self._receive()
                    elif input_ended():
                        selector.unregister(0)
                        ends_at = now() + LINGER
                        next_at = ends_at
                if now() >= next_at and now() < ends_at:
                    self._send()
                    next_at += INTERVAL
        report("finished", sent=self._sequence)

    def _send(self) -> None:
        self._sequence += 1
        self._sent_at[self._sequence] = now()
        header = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, self._identifier, self._sequence % 65536)
        report("sent", sequence=self._sequence)
        with contextlib.suppress(OSError):
            # A failed send is a lost packet, which is what ping(8) makes of it too.
            self._socket.send(header + struct.pack("!Q", self._sequence))

    def _receive(self) -> None:
        while True:
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                # An ICMPv6 error for one of our probes, reported by the connected socket.
                continue
            if len(data) < 16 or data[0] != ECHO_REPLY or data[4:6] != self._identifier_octets():
                continue
            sequence = struct.unpack_from("!Q", data, 8)[0]
            if (sent_at := self._sent_at.pop(sequence, None)) is not None:
                report("reply", sequence=sequence, sent_at=sent_at)

    def _identifier_octets(self) -> bytes:
        return struct.pack("!H", self._identifier)


class Connection:
    """One end of a TCP connection that carries the pattern both ways."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sent = 0
        self._received = 0
        self._finishing = False
        self._peer_finished = False
        local, peer = connected.getsockname()[0], connected.getpeername()[0]
        report("connected", local=local, peer=peer)

    def run(self) -> bool:
        """Carry until both directions have ended; True when every octet was right."""
        try:
            intact = self._carry()
        except OSError as error:
            report("failed", error=str(error), sent=self._sent, received=self._received)
            return False
        if intact:
            report("finished", sent=self._sent, received=self._received)
        return intact

    def _carry(self) -> bool:
        next_at = now()
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(self._socket, selectors.EVENT_READ)
            while not (self._finishing and self._peer_finished):
                patience = None if self._finishing else max(0.0, next_at - now())
                for key, _ in selector.select(patience):
                    if key.fileobj is self._socket:
                        if not self._receive():
                            return False
                        if self._peer_finished:
                            selector.unregister(self._socket)
                            self._finish()
                    elif input_ended():
                        selector.unregister(0)
                        self._finish()
                if not self._finishing and now() >= next_at:
                    self._send()
                    next_at += INTERVAL
        return True

    def _finish(self) -> None:
        if not self._finishing:
            self._finishing = True
            self._socket.shutdown(socket.SHUT_WR)

    def _send(self) -> None:
        # A full buffer while nothing gets through is no error: skip this turn.
        with contextlib.suppress(BlockingIOError):
            self._sent += self._socket.send(pattern_at(self._sent, CHUNK))
            report("sent", octets=self._sent)

    def _receive(self) -> bool:
        data = self._socket.recv(1 << 18)
        if not data:
            self._peer_finished = True
            return True
        if data != pattern_at(self._received, len(data)):
            report("corrupt", received=self._received)
            return False
        self._received += len(data)
        report("received", octets=self._received)
        return True


class Datagrams:
    """Numbered datagrams, one each 20 ms, to a peer that does the same."""

    def __init__(self, *, port: int, peer: str | None) -> None:
        """With no peer, the first that sends something is it."""
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._peer: tuple[Any, ...] | None = None
        self._source: list[tuple[int, int, bytes]] = []
        self._sent = 0
        self._received: set[int] = set()
        self._duplicates = 0
        if peer is None:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            self._socket.bind(("::", port))
            report("listening", port=port)
        else:
            self._peer = (peer, port)
            self._socket.connect(self._peer)
            report("source", address=self._socket.getsockname()[0])

    def run(self) -> None:
        """Go on until the end of the input, then wait a little for the last datagrams."""
        next_at = now()
        ends_at = float("inf")
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(self._socket, selectors.EVENT_READ)
            while now() < ends_at:
                for key, _ in selector.select(max(0.0, next_at - now())):
                    if key.fileobj is self._socket:
                        self._receive()
                    elif input_ended():
                        selector.unregister(0)
                        ends_at = next_at = now() + LINGER
                if now() >= next_at and now() < ends_at:
                    self._send()
                    next_at += INTERVAL
        received = len(self._received)
        report("finished", sent=self._sent, received=received, duplicates=self._duplicates)

    def _send(self) -> None:
        if self._peer is None:
            return
        self._sent += 1
        report("sent", sequence=self._sent)
        data = struct.pack("!Q", self._sent) + DATAGRAM_FILLING
        with contextlib.suppress(OSError):
            if self._source:
                self._socket.sendmsg([data], self._source, 0, self._peer)
            else:
                self._socket.send(data)

    def _receive(self) -> None:
        while True:
            try:
                data, ancillary, _, peer = self._socket.recvmsg(4096, 64)
            except BlockingIOError:
                return
            except OSError:
                # An ICMPv6 error for one of our datagrams.
                continue
            if self._peer is None:
                self._peer = peer
                # The address it came to, at whatever interface: 0.
                self._source = [
                    (level, kind, value[:16] + bytes(4)) for level, kind, value in ancillary
                ]
            sequence = struct.unpack_from("!Q", data)[0]
            self._duplicates += sequence in self._received
            self._received.add(sequence)
            report("received", sequence=sequence)


def serve(port: int) -> bool:
    """Accept one connection on any address and carry the pattern over it."""
    with socket.create_server(("::", port), family=socket.AF_INET6) as listener:
        report("listening", port=port)
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(listener, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if listener in ready:
                    break
                if input_ended():
                    return True
        accepted, _ = listener.accept()
    with accepted:
        return Connection(accepted).run()


def connect(destination: str, port: int) -> bool:
    """Open a connection and carry the pattern over it."""
    try:
        connected = socket.create_connection((destination, port), timeout=10)
    except OSError as error:
        report("failed", error=str(error), sent=0, received=0)
        return False
    with connected:
        return Connection(connected).run()


def main(arguments: list[str]) -> int:
    """The program; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="mnagent.rig.traffic")
    commands = parser.add_subparsers(dest="command", required=True)
    ping = commands.add_parser("ping")
    ping.add_argument("destination")
    server = commands.add_parser("serve")
    server.add_argument("port", type=int)
    client = commands.add_parser("connect")
    client.add_argument("destination")
    client.add_argument("port", type=int)
    answering = commands.add_parser("answer")
    answering.add_argument("port", type=int)
    datagrams = commands.add_parser("datagrams")
    datagrams.add_argument("destination")
    datagrams.add_argument("port", type=int)
    options = parser.parse_args(arguments)
    intact = True
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        if options.command == "ping":
            Ping(options.destination).run()
        elif options.command == "serve":
            intact = serve(options.port)
        elif options.command == "answer":
            Datagrams(port=options.port, peer=None).run()
        elif options.command == "datagrams":
            Datagrams(port=options.port, peer=options.destination).run()
        else:
            intact = connect(options.destination, options.port)
    return 0 if intact else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
