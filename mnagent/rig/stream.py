"""A steady one-way stream, for measuring when packets begin to arrive again::

    python -m mnagent.rig.stream send ADDRESS PORT INTERVAL    UDP packets, numbered and dated
    python -m mnagent.rig.stream receive PORT                  one JSON line a gap

``receive`` notes each packet with the kernel's timestamp, and prints an object for every arrival
that comes more than ``GAP`` after the one before, with both instants. Ends at the end of its
standard input. Instants are seconds on CLOCK_BOOTTIME.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import sys
import time

GAP = 0.008
"""Seconds between two arrivals from which on it is a gap."""
SO_TIMESTAMPNS_NEW = 64
_TIMESTAMP = struct.Struct("=qq")
_PACKET = struct.Struct("!Qd")


def now() -> float:
    """Seconds on CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def send(destination: str, port: int, interval: float) -> None:
    """Send until the end of the input, never faster than the interval."""
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stream,
        selectors.DefaultSelector() as selector,
    ):
        selector.register(0, selectors.EVENT_READ)
        number, next_at = 0, now()
        while True:
            if selector.select(max(0.0, next_at - now())):
                return
            number += 1
            with contextlib.suppress(OSError):
                stream.sendto(_PACKET.pack(number, now()), (destination, port))
            next_at = max(next_at + interval, now())


def receive(port: int) -> None:
    """Report gaps until the end of the input."""
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stream,
        selectors.DefaultSelector() as selector,
    ):
        stream.bind(("::", port))
        stream.setblocking(False)
        stream.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1)
        selector.register(0, selectors.EVENT_READ)
        selector.register(stream, selectors.EVENT_READ)
        print(json.dumps({"kind": "listening"}), flush=True)
        latest: float | None = None
        while True:
            for key, _ in selector.select():
                if key.fileobj is not stream:
                    if not os.read(0, 4096):
                        return
                    continue
                latest = _take(stream, latest)


def _take(stream: socket.socket, latest: float | None) -> float | None:
    with contextlib.suppress(BlockingIOError):
        while True:
            data, ancillary, _, _ = stream.recvmsg(64, 64)
            seconds, nanoseconds = _TIMESTAMP.unpack(ancillary[0][2])
            # The kernel dates packets by the wall clock.
            at = seconds + nanoseconds / 1e9 - (time.time() - now())
            number = _PACKET.unpack(data)[0]
            if latest is None:
                print(json.dumps({"kind": "first", "at": at, "number": number}), flush=True)
            elif at - latest > GAP:
                gap = {"kind": "gap", "last_at": latest, "at": at, "number": number}
                print(json.dumps(gap), flush=True)
            latest = at
    return latest


def main(arguments: list[str]) -> int:
    """The program; see the module's docstring."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        if arguments[0] == "send":
            send(arguments[1], int(arguments[2]), float(arguments[3]))
        else:
            receive(int(arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
