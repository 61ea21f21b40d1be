"""A thin rtnetlink socket: requests that are answered at once, and notifications.

Requests are synchronous: the kernel answers inside the system call, in some tens of microseconds,
so that actions are carried out in order without yielding to the event loop between them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network
from typing import Any, NamedTuple

from mnagent.core.events import LinkKind
from mnagent.link.messages import (
    AddressMessage,
    LinkMessage,
    Message,
    NeighbourMessage,
    Overrun,
    RouteMessage,
    RuleMessage,
)
from mnagent.runtime.link_kinds import kind_of
from mnagent.runtime.rtnetlink_types import fibmsg, ifaddrmsg, ifinfmsg, ndmsg, rtmsg
from mnagent.system.kernel import Route

NETLINK_ROUTE = 0
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12
SO_RCVBUFFORCE = 33
SO_ATTACH_FILTER = 26
BPF_LOAD_WORD, BPF_LOAD_HALF, BPF_EQUAL, BPF_RETURN = 0x20, 0x28, 0x15, 0x06

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

RTNLGRP_LINK = 1
RTNLGRP_NEIGH = 3
RTNLGRP_IPV6_IFADDR = 9
RTNLGRP_IPV6_ROUTE = 11
RTNLGRP_IPV6_RULE = 19
GROUPS = (
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV6_RULE,
)

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
OPERATIONAL_UP = ("UP", "UNKNOWN")
IFA_F_TEMPORARY = 0x01
IFA_F_OPTIMISTIC = 0x04
IFA_F_DADFAILED = 0x08
IFA_F_DEPRECATED = 0x20
IFA_F_TENTATIVE = 0x40
FIB_RULE_FIND_SADDR = 0x10000
INFINITE = 0xFFFFFFFF
NUD_INCOMPLETE = 0x01
NUD_STALE = 0x04
NUD_FAILED = 0x20
NUD_USABLE = 0x02 | NUD_STALE | 0x08 | 0x10 | 0x40 | 0x80
"""REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT."""
RT_TABLE_MAIN = 254
RTN_UNICAST, RTN_UNREACHABLE = 1, 7
RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS = 1, 2, 4, 5, 6, 7, 8
RTA_TABLE, RTA_EXPIRES = 15, 23
RTAX_LOCK, RTAX_MTU = 1, 2
RTNH_F_ONLINK = 4
NLA_TYPE_MASK = 0x3FFF

_TYPES: dict[int, Any] = {
    **dict.fromkeys((RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK), ifinfmsg),
    **dict.fromkeys((RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR), ifaddrmsg),
    **dict.fromkeys((RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE), rtmsg),
    **dict.fromkeys((RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH), ndmsg),
    **dict.fromkeys((RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE), fibmsg),
}
_HEADER = struct.Struct("=IHHII")
_BPF_INSTRUCTION = struct.Struct("=HBBI")
_RTMSG = struct.Struct("=8BI")
_RTMSG_TYPE = 7
_RTA = struct.Struct("=HH")
_RTA_ADDRESS = struct.Struct("=HH16s")
_RTA_WORD = struct.Struct("=HHI")
_BUFFER = 1 << 16


def new_message(message_type: int, header_flags: int, **fields: Any) -> Any:
    """A pyroute2 message of that type, its header filled in; ``fields`` are header fields."""
    message = _TYPES[message_type]()
    message["header"]["type"] = message_type
    message["header"]["flags"] = header_flags | NLM_F_REQUEST
    for name, value in fields.items():
        message[name] = value
    return message


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, message_type, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield message_type, flags, sequence, data[offset : offset + length]
        offset += (length + 3) & ~3


def _decode(message_type: int, data: bytes) -> Any:
    message = _TYPES[message_type](data)
    message.decode()
    return message


class RouteAnswer(NamedTuple):
    """What the kernel says about the way of one packet."""

    route_type: int
    interface: int | None
    gateway: IPv6Address | None
    mtu: int | None
    """Octets, None where the route says nothing."""


def route_body(route: Route, *, protocol: int) -> bytes:
    """A route as it stands behind the netlink header."""
    words = [(RTA_TABLE, route.table), (RTA_OIF, route.interface), (RTA_PRIORITY, route.metric)]
    if route.lifetime is not None:
        words.append((RTA_EXPIRES, route.lifetime))
    addresses = [(RTA_GATEWAY, route.gateway), (RTA_PREFSRC, route.source)]
    if route.destination.prefixlen:
        addresses.append((RTA_DST, route.destination.network_address))
    metrics = b""
    if route.mtu is not None:
        metrics = _RTA_WORD.pack(8, RTAX_MTU, route.mtu)
        if route.locks_mtu:
            metrics += _RTA_WORD.pack(8, RTAX_LOCK, 1 << RTAX_MTU)
        metrics = _RTA.pack(_RTA.size + len(metrics), RTA_METRICS) + metrics
    return b"".join(
        (
            _RTMSG.pack(
                *(socket.AF_INET6, route.destination.prefixlen, 0, 0),
                *(route.table if route.table < 256 else 0, protocol, 0),
                RTN_UNREACHABLE if route.unreachable else RTN_UNICAST,
                RTNH_F_ONLINK if route.gateway is not None else 0,
            ),
            *(_RTA_WORD.pack(8, kind, value) for kind, value in words),
            *(
                _RTA_ADDRESS.pack(20, kind, address.packed)
                for kind, address in addresses
                if address is not None
            ),
            metrics,
        )
    )


def _attributes(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset + _RTA.size <= len(data):
        length, kind = _RTA.unpack_from(data, offset)
        if length < _RTA.size:
            return
        yield kind & NLA_TYPE_MASK, data[offset + _RTA.size : offset + length]
        offset += (length + 3) & ~3


@lru_cache(maxsize=64)
def _gateway(value: bytes) -> IPv6Address:
    """One and the same for all that go that way: tables find it at once."""
    return IPv6Address(value)


@lru_cache(maxsize=64)
def _mtu_of(metrics: bytes) -> int | None:
    """The same of almost all routes."""
    value = dict(_attributes(metrics, 0)).get(RTAX_MTU, b"")
    return int.from_bytes(value, sys.byteorder) or None


def _read_route(part: bytes) -> RouteAnswer:
    interface = gateway = mtu = None
    for kind, value in _attributes(part, _HEADER.size + _RTMSG.size):
        if kind == RTA_OIF:
            interface = int.from_bytes(value, sys.byteorder)
        elif kind == RTA_GATEWAY:
            gateway = _gateway(value)
        elif kind == RTA_METRICS:
            mtu = _mtu_of(value)
    return RouteAnswer(
        route_type=part[_HEADER.size + _RTMSG_TYPE],
        interface=interface,
        gateway=gateway,
        mtu=mtu,
    )


class RequestSocket:
    """Sends one request at a time and waits for its answer."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    @property
    def port(self) -> int:
        """What the kernel's notifications of our changes name."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()

    def change(self, message: Any) -> None:
        """Send a change and wait for its acknowledgement; OSError with the kernel's errno."""
        message["header"]["flags"] |= NLM_F_ACK
        for _ in self._exchange(message):
            pass

    def ask(self, message: Any) -> Any:
        """Send a question that has one answer."""
        message["header"]["flags"] |= NLM_F_ACK
        answers = list(self._exchange(message))
        if not answers:
            raise OSError(errno.ENOENT, "no answer from the kernel")
        return answers[0]

    def dump(self, message: Any) -> list[Any]:
        """Read a whole table; read again when it changed meanwhile."""
        message["header"]["flags"] |= NLM_F_DUMP
        answers: list[Any] = []
        for _ in range(5):
            self._interrupted = False
            answers = list(self._exchange(message))
            if not self._interrupted:
                break
        return answers

    def _exchange(self, message: Any) -> Iterator[Any]:
        message["header"]["sequence_number"] = self._next_sequence()
        message.reset()
        message.encode()
        for message_type, part in self._transact(bytes(message.data)):
            if message_type in _TYPES:
                yield _decode(message_type, part)

    def ask_for_route(
        self, destination: IPv6Address, *, source: IPv6Address, interface: int | None
    ) -> RouteAnswer:
        """Where a packet would go. By hand, for a home agent asks at every movement of a mobile
        node."""
        attributes = (
            _RTA_ADDRESS.pack(20, RTA_DST, destination.packed)
            + _RTA_ADDRESS.pack(20, RTA_SRC, source.packed)
            + (b"" if interface is None else _RTA_WORD.pack(8, RTA_OIF, interface))
        )
        body = _RTMSG.pack(socket.AF_INET6, 128, 128, 0, 0, 0, 0, 0, 0) + attributes
        # The route or an error is all the answer: no acknowledgement is asked for.
        request = self._framed(RTM_GETROUTE, NLM_F_REQUEST, body)
        for message_type, part in self._transact(request):
            if message_type == RTM_NEWROUTE:
                return _read_route(part)
        raise OSError(errno.ENOENT, "no answer from the kernel")

    def change_route(self, message_type: int, flags: int, body: bytes) -> None:
        """The same as `change`, of a body that `route_body` made."""
        flags |= NLM_F_REQUEST | NLM_F_ACK
        for _ in self._transact(self._framed(message_type, flags, body)):
            pass

    def _framed(self, message_type: int, flags: int, body: bytes) -> bytes:
        length = _HEADER.size + len(body)
        return _HEADER.pack(length, message_type, flags, self._next_sequence(), 0) + body

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        return self._sequence

    def _transact(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Send a request that bears the latest sequence number; what comes until its end."""
        self._socket.sendto(data, (0, 0))
        while True:
            data, sender = self._socket.recvfrom(_BUFFER)
            if sender[0] != 0:
                continue
            for message_type, flags, sequence, part in _split(data):
                if sequence != self._sequence:
                    continue
                if flags & NLM_F_DUMP_INTR:
                    self._interrupted = True
                if message_type == NLMSG_DONE:
                    return
                if message_type == NLMSG_ERROR:
                    code = -int(struct.unpack_from("=i", part, _HEADER.size)[0])
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                yield message_type, part

    _interrupted = False


RECEIVE_BUFFER = 8 << 20
"""Octets; the kernel counts some hundred for each notification besides its own."""


class NotificationSocket:
    """Receives rtnetlink notifications; never blocks."""

    def __init__(self, *, ignoring_routes_of: int | None = None) -> None:
        """``ignoring_routes_of`` is the port of a socket whose changes of routes are of no
        interest: a home agent makes one for every mobile node."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_ROUTE
        )
        if ignoring_routes_of is not None:
            self._ignore_routes(ignoring_routes_of)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._socket.bind((0, 0))
        for group in GROUPS:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def _ignore_routes(self, port: int) -> None:
        """By a filter, so that they do not fill the buffer either. BPF loads big-endian; what it
        looks at is in the machine's order."""
        program = b"".join(
            _BPF_INSTRUCTION.pack(*instruction)
            for instruction in (
                (BPF_LOAD_WORD, 0, 0, 12),  # nlmsg_pid
                (BPF_EQUAL, 0, 3, socket.htonl(port)),
                (BPF_LOAD_HALF, 0, 0, 4),  # nlmsg_type
                (BPF_EQUAL, 2, 0, socket.htons(RTM_NEWROUTE)),
                (BPF_EQUAL, 1, 0, socket.htons(RTM_DELROUTE)),
                (BPF_RETURN, 0, 0, 0xFFFFFFFF),
                (BPF_RETURN, 0, 0, 0),
            )
        )
        held = ctypes.create_string_buffer(program)
        count = len(program) // _BPF_INSTRUCTION.size
        descriptor = struct.pack("HL", count, ctypes.addressof(held))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, descriptor)

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()

    def receive(self) -> list[Message]:
        """Everything that waits; an `Overrun` where the kernel had to drop some.

        Only the kernel (port 0) is believed: any process may send to a netlink socket.
        """
        messages: list[Message] = []
        while True:
            try:
                data, sender = self._socket.recvfrom(_BUFFER)
            except BlockingIOError:
                return messages
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                messages.append(Overrun())
                continue
            if sender[0] != 0:
                continue
            for message_type, _, _, part in _split(data):
                value = decode_notification(message_type, part)
                if value is not None:
                    messages.append(value)


def decode_notification(message_type: int, data: bytes) -> Message | None:
    """One netlink message as the value the daemon works with, or None when it is of no interest."""
    if message_type not in _TYPES:
        return None
    return convert(message_type, _decode(message_type, data))


def convert(message_type: int, message: Any) -> Message | None:
    """A decoded pyroute2 message as the value the daemon works with, or None."""
    if message_type in (RTM_NEWLINK, RTM_DELLINK):
        return _convert_link(message, message_type == RTM_DELLINK)
    if message.get("family") != socket.AF_INET6:
        return None
    if message_type in (RTM_NEWADDR, RTM_DELADDR):
        return _convert_address(message, message_type == RTM_DELADDR)
    if message_type in (RTM_NEWROUTE, RTM_DELROUTE):
        return _convert_route(message, message_type == RTM_DELROUTE)
    if message_type in (RTM_NEWRULE, RTM_DELRULE):
        return _convert_rule(message, message_type == RTM_DELRULE)
    if message_type in (RTM_NEWNEIGH, RTM_DELNEIGH):
        return _convert_neighbour(message, message_type == RTM_DELNEIGH)
    return None


def link_layer_bytes(text: str | None) -> bytes:
    """``02:00:...`` as octets, empty when there is none or it is not one."""
    if not text:
        return b""
    try:
        return bytes.fromhex(text.replace(":", ""))
    except ValueError:
        return b""


def _convert_link(message: Any, removed: bool) -> Message | None:
    if message.get_attr("IFLA_WIRELESS") is not None:
        return None
    if message.get("family") not in (0, None):
        return None  # a bridge port's or an AF_INET6 notice: not about the link itself
    flags = message["flags"]
    carrier = message.get_attr("IFLA_CARRIER")
    usable = bool(
        flags & IFF_UP
        and flags & IFF_LOWER_UP
        and carrier != 0
        and message.get_attr("IFLA_OPERSTATE") in OPERATIONAL_UP
    )
    name = message.get_attr("IFLA_IFNAME") or ""
    return LinkMessage(
        interface=message["index"],
        name=name,
        usable=usable and not removed,
        carrier_changes=message.get_attr("IFLA_CARRIER_CHANGES") or 0,
        link_layer_address=link_layer_bytes(message.get_attr("IFLA_ADDRESS")),
        mtu=message.get_attr("IFLA_MTU") or 1500,
        master=message.get_attr("IFLA_MASTER") or 0,
        removed=removed,
        kind=LinkKind.OTHER if removed else kind_of(name, message.get("ifi_type") or 0),
    )


def _lifetime(seconds: int) -> float | None:
    return None if seconds == INFINITE else float(seconds)


def _convert_address(message: Any, removed: bool) -> Message | None:
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    if text is None:
        return None
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    cache = message.get_attr("IFA_CACHEINFO") or {}
    return AddressMessage(
        interface=message["index"],
        address=IPv6Address(text),
        prefix_length=message["prefixlen"],
        tentative=bool(flags & IFA_F_TENTATIVE) and not flags & IFA_F_OPTIMISTIC,
        optimistic=bool(flags & IFA_F_OPTIMISTIC),
        deprecated=bool(flags & IFA_F_DEPRECATED),
        duplicate=bool(flags & IFA_F_DADFAILED),
        temporary=bool(flags & IFA_F_TEMPORARY),
        protocol=message.get_attr("IFA_PROTO") or 0,
        valid_lifetime=_lifetime(cache.get("ifa_valid", INFINITE)),
        preferred_lifetime=_lifetime(cache.get("ifa_preferred", INFINITE)),
        removed=removed,
    )


def _convert_route(message: Any, removed: bool) -> Message | None:
    is_known = message["type"] in (RTN_UNICAST, RTN_UNREACHABLE)
    if not is_known or message["flags"] & 0x200:  # RTM_F_CLONED
        return None
    gateway = message.get_attr("RTA_GATEWAY")
    destination = message.get_attr("RTA_DST") or "::"
    cache = message.get_attr("RTA_CACHEINFO") or {}
    return RouteMessage(
        destination=IPv6Network((destination, message["dst_len"]), strict=False),
        table=message.get_attr("RTA_TABLE") or message["table"],
        interface=message.get_attr("RTA_OIF") or 0,
        gateway=IPv6Address(gateway) if gateway else None,
        protocol=message["proto"],
        metric=message.get_attr("RTA_PRIORITY") or 0,
        expires=bool(cache.get("rta_expires")),
        removed=removed,
    )


def _convert_rule(message: Any, removed: bool) -> Message:
    source = message.get_attr("FRA_SRC")
    return RuleMessage(
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") or message["table"],
        protocol=message.get_attr("FRA_PROTOCOL") or 0,
        source=IPv6Address(source) if source else None,
        mark=message.get_attr("FRA_FWMARK"),
        chooses_source=bool(message["flags"] & FIB_RULE_FIND_SADDR),
        removed=removed,
    )


def _convert_neighbour(message: Any, removed: bool) -> Message | None:
    text = message.get_attr("NDA_DST")
    if text is None:
        return None
    link_layer_address = link_layer_bytes(message.get_attr("NDA_LLADDR"))
    state = message["state"]
    return NeighbourMessage(
        interface=message["ifindex"],
        address=IPv6Address(text),
        link_layer_address=link_layer_address,
        usable=bool(state & NUD_USABLE) and bool(link_layer_address) and not removed,
        failed=bool(state & NUD_FAILED),
        stale=bool(state & NUD_STALE),
        removed=removed,
    )
