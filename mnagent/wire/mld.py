"""Multicast Listener Discovery: who wants which group's packets (RFC 2710, RFC 3810).

::

    +---------------+---------------+---------------+---------------+
    |     Type      |     Code      |           Checksum            |
    +---------------+---------------+---------------+---------------+
    |     Maximum Response Code     |  Reserved, or records' count  |
    +---------------+---------------+---------------+---------------+
    |  group, or records ...
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from struct import pack, unpack_from
from typing import ClassVar, Final

from mnagent.wire import constants
from mnagent.wire.buffer import DecodeError, unsigned

MINIMUM_LENGTHS: Final = {
    constants.ICMPV6_LISTENER_QUERY: 24,
    constants.ICMPV6_LISTENER_REPORT: 24,
    constants.ICMPV6_LISTENER_DONE: 24,
    constants.ICMPV6_LISTENER_REPORT_VERSION_2: 8,
}
_QUERY_VERSION_2_LENGTH: Final = 28
_RECORD_LENGTH: Final = 20
_ADDRESS_LENGTH: Final = 16


class RecordType(enum.IntEnum):
    """What a record of a version 2 report says (RFC 3810 5.2.12)."""

    MODE_IS_INCLUDE = 1
    MODE_IS_EXCLUDE = 2
    CHANGE_TO_INCLUDE_MODE = 3
    CHANGE_TO_EXCLUDE_MODE = 4
    ALLOW_NEW_SOURCES = 5
    BLOCK_OLD_SOURCES = 6


@dataclass(frozen=True, slots=True)
class ListenerQuery:
    """Which groups are listened to? (RFC 3810 5.1; 24 octets are version 1, RFC 2710.)"""

    message_type: ClassVar[int] = constants.ICMPV6_LISTENER_QUERY
    maximum_response_code: int
    """Milliseconds below 32768 (RFC 3810 5.1.3)."""
    group: IPv6Address
    """Unspecified: all of them."""
    robustness: int | None = None
    """The querier's; None in a query of version 1, which has neither this nor what follows."""
    interval_code: int = 0
    """Seconds between queries, below 128 (RFC 3810 5.1.9)."""
    sources: tuple[IPv6Address, ...] = ()


@dataclass(frozen=True, slots=True)
class ListenerReport:
    """The sender listens to a group (RFC 2710)."""

    message_type: ClassVar[int] = constants.ICMPV6_LISTENER_REPORT
    group: IPv6Address


@dataclass(frozen=True, slots=True)
class ListenerDone:
    """The sender listens to a group no more (RFC 2710)."""

    message_type: ClassVar[int] = constants.ICMPV6_LISTENER_DONE
    group: IPv6Address


@dataclass(frozen=True, slots=True)
class ListenerRecord:
    """About one group (RFC 3810 5.2.4)."""

    record_type: int
    """See RecordType."""
    group: IPv6Address
    sources: tuple[IPv6Address, ...] = ()


@dataclass(frozen=True, slots=True)
class ListenerReportVersion2:
    """What the sender listens to, or what changed (RFC 3810 5.2)."""

    message_type: ClassVar[int] = constants.ICMPV6_LISTENER_REPORT_VERSION_2
    records: tuple[ListenerRecord, ...]


MldMessage = ListenerQuery | ListenerReport | ListenerDone | ListenerReportVersion2


def encode_mld_body(message: MldMessage) -> bytes:
    """What follows the checksum; ValueError when a field does not fit."""
    match message:
        case ListenerQuery():
            return _query_body(message)
        case ListenerReport(group) | ListenerDone(group):
            return bytes(4) + group.packed
        case _:
            count = unsigned(len(message.records), 16, "count of records")
            return pack("!HH", 0, count) + b"".join(map(_record_body, message.records))


def _query_body(query: ListenerQuery) -> bytes:
    code = unsigned(query.maximum_response_code, 16, "maximum response code")
    body = pack("!HH", code, 0) + query.group.packed
    if query.robustness is None:
        return body
    robustness = unsigned(query.robustness, 3, "robustness")
    interval = unsigned(query.interval_code, 8, "interval code")
    count = unsigned(len(query.sources), 16, "count of sources")
    return body + pack("!BBH", robustness, interval, count) + _packed(query.sources)


def _record_body(record: ListenerRecord) -> bytes:
    record_type = unsigned(record.record_type, 8, "record type")
    count = unsigned(len(record.sources), 16, "count of sources")
    return pack("!BBH", record_type, 0, count) + record.group.packed + _packed(record.sources)


def _packed(addresses: Iterable[IPv6Address]) -> bytes:
    return b"".join(address.packed for address in addresses)


def decode_mld_message(data: bytes, offset: int) -> MldMessage:
    """Decode the message that fills ``data``, at ``offset`` of its packet.

    The caller has checked the checksum and the least length of its type.
    """
    match data[0]:
        case constants.ICMPV6_LISTENER_QUERY:
            return _decode_query(data, offset)
        case constants.ICMPV6_LISTENER_REPORT:
            return ListenerReport(IPv6Address(data[8:24]))
        case constants.ICMPV6_LISTENER_DONE:
            return ListenerDone(IPv6Address(data[8:24]))
        case _:
            return ListenerReportVersion2(_decode_records(data, offset))


def _decode_query(data: bytes, offset: int) -> ListenerQuery:
    (code,) = unpack_from("!H", data, 4)
    group = IPv6Address(data[8:24])
    if len(data) < _QUERY_VERSION_2_LENGTH:
        return ListenerQuery(code, group)
    flags, interval, count = unpack_from("!BBH", data, 24)
    sources = _decode_sources(data, _QUERY_VERSION_2_LENGTH, count=count, offset=offset)
    return ListenerQuery(code, group, flags & 7, interval, sources)


def _decode_records(data: bytes, offset: int) -> tuple[ListenerRecord, ...]:
    (count,) = unpack_from("!H", data, 6)
    records, at = [], 8
    for _ in range(count):
        if at + _RECORD_LENGTH > len(data):
            raise DecodeError("record of a listener report is cut off", offset + at)
        record_type, auxiliary, sources = unpack_from("!BBH", data, at)
        group = IPv6Address(data[at + 4 : at + _RECORD_LENGTH])
        at += _RECORD_LENGTH
        listed = _decode_sources(data, at, count=sources, offset=offset)
        records.append(ListenerRecord(record_type, group, listed))
        at += sources * _ADDRESS_LENGTH + auxiliary * 4
    return tuple(records)


def _decode_sources(data: bytes, at: int, *, count: int, offset: int) -> tuple[IPv6Address, ...]:
    end = at + count * _ADDRESS_LENGTH
    if end > len(data):
        raise DecodeError("list of multicast sources is cut off", offset + at)
    return tuple(
        IPv6Address(data[each : each + _ADDRESS_LENGTH]) for each in range(at, end, _ADDRESS_LENGTH)
    )
