"""When a node's link came and went, as its kernel tells every program that listens.

A thread with an rtnetlink socket of its own in the node's namespace; the parsing is the rig's, so
that the program under test is not its own witness.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from dataclasses import dataclass

from mnagent.rig.namespace import Namespace

NETLINK_ROUTE = 0
RTMGRP_LINK = 1
RTM_NEWLINK = 16
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000
IFLA_OPERSTATE = 16
OPERATIONAL_UP = 6
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class CarrierChange:
    """What the kernel told of the link."""

    at: float
    """Seconds on CLOCK_BOOTTIME."""
    usable: bool


class CarrierWatch:
    """Watches one interface until closed."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        self.changes: list[CarrierChange] = []
        self._index = namespace.interface_index(interface)
        with namespace.inside():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self._socket.bind((0, RTMGRP_LINK))
        self._socket.settimeout(0.2)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._ending.set()
        self._thread.join()
        self._socket.close()

    def usable_after(self, instant: float) -> float | None:
        """When the link was first told to be usable after an instant."""
        return next((c.at for c in self.changes if c.usable and c.at >= instant), None)

    def _watch(self) -> None:
        while not self._ending.is_set():
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            at = time.clock_gettime(time.CLOCK_BOOTTIME)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, offset)
                if kind == RTM_NEWLINK:
                    self._note(data[offset + _HEADER.size : offset + length], at)
                offset += max(_HEADER.size, (length + 3) & ~3)

    def _note(self, message: bytes, at: float) -> None:
        _, _, index, flags, _ = _LINK.unpack_from(message)
        if index != self._index:
            return
        state = 0
        offset = _LINK.size
        while offset + _ATTRIBUTE.size <= len(message):
            length, kind = _ATTRIBUTE.unpack_from(message, offset)
            if kind == IFLA_OPERSTATE:
                state = message[offset + _ATTRIBUTE.size]
            offset += max(_ATTRIBUTE.size, (length + 3) & ~3)
        usable = bool(flags & IFF_UP and flags & IFF_LOWER_UP and state == OPERATIONAL_UP)
        # Also one that changes nothing: the kernel merges what follows in quick succession, and a
        # link that went and came may be told as one that is up.
        self.changes.append(CarrierChange(at, usable))
