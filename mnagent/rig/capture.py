"""Captures: one pcap file a link, nanosecond timestamps of the kernel, no tool needed.

As a program it captures several interfaces, in any namespaces, each into its own file::

    python -m mnagent.rig.capture NAMESPACE:INTERFACE:FILE ...

It prints ``{"kind": "ready"}`` when all sockets listen, and at the end of its standard input takes
what the kernel still holds, prints ``{"kind": "finished", "packets": ..., "dropped": ...}`` and
ends.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mnagent.rig.namespace import NAMESPACE_DIRECTORY, enter

MAGIC_NANOSECONDS = 0xA1B23C4D
LINKTYPE_ETHERNET = 1
SNAPSHOT_LENGTH = 262144
FRAME_LIMIT = 16384
"""Octets read of one frame; larger than any MTU used here."""
ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_STATISTICS = 6
PACKET_MR_PROMISC = 1
SO_TIMESTAMPNS_NEW = 64
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER = 16 * 1024 * 1024
WRITE_INTERVAL = 0.05
"""Seconds between looks at what has arrived. The kernel dates and keeps it meanwhile: waking up for
each frame would cost more than writing it."""

_FILE_HEADER = struct.Struct("=IHHiIII")
_RECORD_HEADER = struct.Struct("=IIII")
_TIMESTAMP = struct.Struct("=qq")


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One frame of a capture."""

    at: float
    """Seconds on CLOCK_REALTIME."""
    data: bytes
    """The Ethernet frame."""


def write_header(file: BinaryIO) -> None:
    """Begin a pcap file of Ethernet frames with nanosecond timestamps."""
    file.write(_FILE_HEADER.pack(MAGIC_NANOSECONDS, 2, 4, 0, 0, SNAPSHOT_LENGTH, LINKTYPE_ETHERNET))


def write_frame(file: BinaryIO, frame: bytes, seconds: int, nanoseconds: int) -> None:
    """Append one frame."""
    file.write(_RECORD_HEADER.pack(seconds, nanoseconds, len(frame), len(frame)) + frame)


def read_capture(path: Path) -> Iterator[CapturedFrame]:
    """The frames of a file written here. Raises ValueError when it is no such file."""
    data = path.read_bytes()
    if len(data) < _FILE_HEADER.size or _FILE_HEADER.unpack_from(data)[0] != MAGIC_NANOSECONDS:
        raise ValueError(f"{path} is not a capture with nanosecond timestamps")
    offset = _FILE_HEADER.size
    while offset + _RECORD_HEADER.size <= len(data):
        seconds, nanoseconds, length, _ = _RECORD_HEADER.unpack_from(data, offset)
        offset += _RECORD_HEADER.size
        yield CapturedFrame(seconds + nanoseconds / 1e9, data[offset : offset + length])
        offset += length


class Post:
    """One interface being listened to, both ways."""

    def __init__(self, namespace: str, interface: str) -> None:
        with enter(Path(NAMESPACE_DIRECTORY, namespace)):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1)
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            index = socket.if_nametoindex(interface)
            membership = struct.pack("=iHH8x", index, PACKET_MR_PROMISC, 0)
            self.socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
            self.socket.bind((interface, ETH_P_ALL))
        self.socket.setblocking(False)

    def arrivals(self, limit: int = FRAME_LIMIT) -> Iterator[tuple[bytes, int, int]]:
        """All frames that have arrived, the first ``limit`` octets of each, with seconds and
        nanoseconds of CLOCK_REALTIME."""
        while True:
            try:
                frame, ancillary, _, _ = self.socket.recvmsg(limit, 64)
            except BlockingIOError:
                return
            except OSError:
                # An interface that goes away reports ENETDOWN once; what came before is there.
                continue
            yield frame, *_TIMESTAMP.unpack(ancillary[0][2])

    def drops(self) -> int:
        """Frames that the kernel had to drop since it was last asked."""
        statistics = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        return int(struct.unpack("=II", statistics)[1])


class Tap(Post):
    """One interface being captured into one file."""

    def __init__(self, namespace: str, interface: str, path: Path) -> None:
        super().__init__(namespace, interface)
        self.file = path.open("wb")
        write_header(self.file)
        self.packets = 0
        self.dropped = 0

    def drain(self) -> None:
        """Write all that has arrived."""
        for frame, seconds, nanoseconds in self.arrivals():
            write_frame(self.file, frame, seconds, nanoseconds)
            self.packets += 1

    def close(self) -> None:
        """Take the rest, close the file, and learn what the kernel had to drop."""
        self.drain()
        self.dropped = self.drops()
        self.socket.close()
        self.file.close()


def main(arguments: list[str]) -> int:
    """The program; see the module's docstring."""
    taps = []
    for argument in arguments:
        namespace, interface, path = argument.split(":", 2)
        taps.append(Tap(namespace, interface, Path(path)))
    print(json.dumps({"kind": "ready"}), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while not select.select([0], [], [], WRITE_INTERVAL)[0]:
            for tap in taps:
                tap.drain()
    for tap in taps:
        tap.close()
    totals = {
        "packets": sum(tap.packets for tap in taps),
        "dropped": sum(tap.dropped for tap in taps),
    }
    print(json.dumps({"kind": "finished", **totals}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
