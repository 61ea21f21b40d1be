"""Whole IPv6 packets to octets and back, with the checksums of Mobility Header and ICMPv6.

Decoding goes: fixed header, extension headers as far as they are known, then the payload. A payload
that is not all there (a fragment), not for this node yet (a routing header with segments left) or
not of a known protocol stays a `RawPayload`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv6Address
from struct import pack
from typing import Final

from mnagent.wire import constants
from mnagent.wire.buffer import ChecksumError, DecodeError, unsigned
from mnagent.wire.checksum import upper_layer_checksum
from mnagent.wire.constants import (
    IPV6_HEADER_LENGTH,
    MAX_EXTENSION_HEADERS,
    MAX_NESTING,
    NEXT_HEADER_DESTINATION_OPTIONS,
    NEXT_HEADER_ESP,
    NEXT_HEADER_FRAGMENT,
    NEXT_HEADER_HOP_BY_HOP,
    NEXT_HEADER_ICMPV6,
    NEXT_HEADER_IPV6,
    NEXT_HEADER_MOBILITY,
    NEXT_HEADER_NONE,
    NEXT_HEADER_ROUTING,
)
from mnagent.wire.esp import EspPacket, decode_esp, encode_esp
from mnagent.wire.icmp6 import (
    ICMPV6_HEADER_LENGTH,
    Icmp6Message,
    decode_icmp6_message,
    encode_icmp6_message,
)
from mnagent.wire.ipv6 import (
    ExtensionHeader,
    FragmentHeader,
    HopByHopOptions,
    IPv6Packet,
    RawPayload,
    RoutingHeader,
    decode_extension_header,
    encode_extension_header,
    header_number,
)
from mnagent.wire.mobility import (
    MINIMUM_LENGTHS,
    BindingAcknowledgement,
    BindingError,
    BindingRefreshRequest,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    CareOfTest,
    CareOfTestInit,
    HomeAgentSwitch,
    HomeTest,
    HomeTestInit,
    MobilityMessage,
    UnknownMobilityMessage,
    decode_mobility_message,
    encode_mobility_message,
)

Payload = MobilityMessage | Icmp6Message | EspPacket | IPv6Packet | RawPayload


class MobilityHeaderProblem(enum.Enum):
    """What is wrong with a Mobility Header (RFC 6275 9.2)."""

    CHECKSUM = "checksum"
    """To be discarded in silence."""
    PAYLOAD_PROTOCOL = "payload-protocol"
    """To be answered with a Parameter Problem."""
    HEADER_LENGTH = "header-length"
    """Shorter than its type allows: to be answered with a Parameter Problem."""
    TRUNCATED = "truncated"
    """Longer than the packet: to be discarded in silence."""
    OPTION = "option"
    """A malformed mobility option: to be discarded in silence."""


class MobilityHeaderError(DecodeError):
    """A Mobility Header that is to be discarded, with all that its answer needs.

    Offset, addresses and ``invoking`` are those of the innermost IPv6 packet, which holds it.
    """

    def __init__(
        self, reason: str, offset: int, *, problem: MobilityHeaderProblem, opened: _Opened
    ) -> None:
        super().__init__(reason, offset)
        self.problem = problem
        packet = opened.packet
        self.source: IPv6Address = packet.source
        """Source address of the IPv6 header, where a Parameter Problem goes to."""
        self.destination: IPv6Address = packet.destination
        self.home_address: IPv6Address | None = packet.home_address_option
        """From the Home Address option."""
        self.message_type: int | None = None
        """MH Type, once it is known."""
        self.invoking: bytes = opened.data
        """The whole packet, to be quoted by a Parameter Problem."""

    @property
    def wants_parameter_problem(self) -> bool:
        """True when the sender is to be told by Parameter Problem, code 0, pointer ``offset``."""
        return self.problem in (
            MobilityHeaderProblem.PAYLOAD_PROTOCOL,
            MobilityHeaderProblem.HEADER_LENGTH,
        )


@dataclass(frozen=True, slots=True)
class _Opened:
    """A packet whose headers are decoded and whose payload is not."""

    packet: IPv6Packet
    """With a RawPayload."""
    data: bytes
    """The whole packet without what follows its payload length."""
    next_header: int
    """Protocol of the payload."""
    offset: int
    """Where the payload starts."""


_MOBILITY_CLASSES: Final = (
    BindingUpdate,
    BindingAcknowledgement,
    BindingRefreshRequest,
    HomeTestInit,
    CareOfTestInit,
    HomeTest,
    CareOfTest,
    BindingError,
    HomeAgentSwitch,
    BindingRevocationIndication,
    BindingRevocationAcknowledgement,
    UnknownMobilityMessage,
)
_EXTENSION_HEADERS: Final = {
    NEXT_HEADER_HOP_BY_HOP,
    NEXT_HEADER_ROUTING,
    NEXT_HEADER_FRAGMENT,
    NEXT_HEADER_DESTINATION_OPTIONS,
}
_MOBILITY_CHECKSUM: Final = slice(4, 6)
_ICMPV6_CHECKSUM: Final = slice(2, 4)


def encode_packet(packet: IPv6Packet) -> bytes:
    """Octets of a whole packet, checksums and lengths made; ValueError when a field does not fit.

    ::

        |Version| Traffic Class |           Flow Label                  |
        |         Payload Length        |  Next Header  |   Hop Limit   |
        |  Source Address (16), Destination Address (16)                |
    """
    return _encode_packet(packet, MAX_NESTING)


def _encode_packet(packet: IPv6Packet, levels: int) -> bytes:
    if levels == 0:
        raise ValueError(f"more than {MAX_NESTING} IPv6 headers in one packet")
    next_header, data = _encode_payload(packet, levels)
    parts = [data]
    for index, header in reversed(tuple(enumerate(packet.extension_headers))):
        if index and isinstance(header, HopByHopOptions):
            raise ValueError("Hop-by-Hop Options must come first")
        parts.append(encode_extension_header(header, next_header))
        next_header = header_number(header)
    body = b"".join(reversed(parts))
    first = (
        6 << 28
        | unsigned(packet.traffic_class, 8, "traffic class") << 20
        | unsigned(packet.flow_label, 20, "flow label")
    )
    length = unsigned(len(body), 16, "payload length")
    hop_limit = unsigned(packet.hop_limit, 8, "hop limit")
    addresses = packet.source.packed + packet.destination.packed
    return pack("!IHBB", first, length, next_header, hop_limit) + addresses + body


def _encode_payload(packet: IPv6Packet, levels: int) -> tuple[int, bytes]:
    """The payload's protocol number and octets."""
    payload = packet.payload
    if isinstance(payload, RawPayload):
        return unsigned(payload.next_header, 8, "next header"), payload.data
    if _stays_raw(packet.extension_headers):
        raise ValueError("the payload of a fragment or before the final destination must be raw")
    if isinstance(payload, EspPacket):
        return NEXT_HEADER_ESP, encode_esp(payload)
    if isinstance(payload, IPv6Packet):
        return NEXT_HEADER_IPV6, _encode_packet(payload, levels - 1)
    if isinstance(payload, _MOBILITY_CLASSES):
        number, field = NEXT_HEADER_MOBILITY, _MOBILITY_CHECKSUM
        data = bytearray(encode_mobility_message(payload))
    else:
        number, field = NEXT_HEADER_ICMPV6, _ICMPV6_CHECKSUM
        data = bytearray(encode_icmp6_message(payload))
    addresses = packet.logical_source, packet.logical_destination
    checksum = upper_layer_checksum(*addresses, number, bytes(data))
    data[field] = checksum.to_bytes(2, "big")
    return number, bytes(data)


def _stays_raw(headers: tuple[ExtensionHeader, ...]) -> bool:
    """True when these headers keep the payload from being read here."""
    return any(
        (isinstance(header, FragmentHeader) and not header.is_whole)
        or (isinstance(header, RoutingHeader) and header.segments_left > 0)
        for header in headers
    )


def decode_packet(data: bytes) -> IPv6Packet:
    """Decode a whole packet; octets after its payload length are ignored.

    DecodeError, or its kinds ChecksumError and MobilityHeaderError, when it is not valid.
    """
    return _decode_packet(data, MAX_NESTING)


def decode_invoking(data: bytes) -> IPv6Packet:
    """Decode a packet as an ICMPv6 error quotes it: the payload stays raw, its end may be missing.

    DecodeError when its headers are not all there.
    """
    return _open(data, allow_truncated=True).packet


def _decode_packet(data: bytes, levels: int) -> IPv6Packet:
    if levels == 0:
        raise DecodeError(f"more than {MAX_NESTING} IPv6 headers in one packet", 0)
    opened = _open(data, allow_truncated=False)
    packet = opened.packet
    if _stays_raw(packet.extension_headers):
        return packet
    return IPv6Packet(
        packet.source,
        packet.destination,
        _decode_payload(opened, levels),
        extension_headers=packet.extension_headers,
        hop_limit=packet.hop_limit,
        traffic_class=packet.traffic_class,
        flow_label=packet.flow_label,
    )


def _open(data: bytes, *, allow_truncated: bool) -> _Opened:
    if len(data) < IPV6_HEADER_LENGTH:
        raise DecodeError("IPv6 header is cut off", 0)
    first = int.from_bytes(data[:4], "big")
    if first >> 28 != 6:
        raise DecodeError("not IPv6", 0)
    end = IPV6_HEADER_LENGTH + int.from_bytes(data[4:6], "big")
    if end > len(data) and not allow_truncated:
        raise DecodeError("packet is shorter than its payload length", 4)
    data = bytes(data[:end])
    headers, next_header, offset = _decode_extension_headers(data)
    packet = IPv6Packet(
        IPv6Address(data[8:24]),
        IPv6Address(data[24:40]),
        RawPayload(next_header, data[offset:]),
        extension_headers=headers,
        hop_limit=data[7],
        traffic_class=first >> 20 & 0xFF,
        flow_label=first & 0xFFFFF,
    )
    return _Opened(packet, data, next_header, offset)


def _decode_extension_headers(data: bytes) -> tuple[tuple[ExtensionHeader, ...], int, int]:
    """The extension headers, the number of what follows them, and its offset."""
    headers: list[ExtensionHeader] = []
    number, offset = data[6], IPV6_HEADER_LENGTH
    while number in _EXTENSION_HEADERS:
        if number == NEXT_HEADER_HOP_BY_HOP and headers:
            raise DecodeError("Hop-by-Hop Options is not the first header", offset)
        if len(headers) == MAX_EXTENSION_HEADERS:
            raise DecodeError("too many extension headers", offset)
        header, number, length = decode_extension_header(number, data, offset)
        headers.append(header)
        offset += length
        if isinstance(header, FragmentHeader) and not header.is_whole:
            break
    return tuple(headers), number, offset


def _decode_payload(opened: _Opened, levels: int) -> Payload:
    match opened.next_header:
        case constants.NEXT_HEADER_MOBILITY:
            return _decode_mobility(opened)
        case constants.NEXT_HEADER_ICMPV6:
            return _decode_icmp6(opened)
        case constants.NEXT_HEADER_ESP:
            return decode_esp(opened.data[opened.offset :], opened.offset)
        case constants.NEXT_HEADER_IPV6:
            return _decode_packet(opened.data[opened.offset :], levels - 1)
        case _:
            return opened.packet.payload


def _checksum_is_right(opened: _Opened, data: bytes) -> bool:
    """Whether the sum over ``data`` and the pseudo-header of the logical addresses comes out."""
    source, destination = opened.packet.logical_source, opened.packet.logical_destination
    return upper_layer_checksum(source, destination, opened.next_header, data) == 0


def _decode_icmp6(opened: _Opened) -> Icmp6Message:
    data, offset = opened.data[opened.offset :], opened.offset
    if len(data) < ICMPV6_HEADER_LENGTH:
        raise DecodeError("ICMPv6 header is cut off", offset)
    if not _checksum_is_right(opened, data):
        raise ChecksumError("ICMPv6 checksum is wrong", offset + 2)
    return decode_icmp6_message(data, offset)


def _decode_mobility(opened: _Opened) -> MobilityMessage:
    """Check in the order of RFC 6275 9.2, then decode."""
    data, offset = opened.data[opened.offset :], opened.offset

    def fail(problem: MobilityHeaderProblem, reason: str, at: int) -> MobilityHeaderError:
        error = MobilityHeaderError(reason, at, problem=problem, opened=opened)
        error.message_type = data[2] if len(data) > 2 else None
        return error

    if len(data) < 8:
        raise fail(MobilityHeaderProblem.TRUNCATED, "Mobility Header is cut off", offset)
    if (data[1] + 1) * 8 > len(data):
        reason = "Mobility Header runs past the packet"
        raise fail(MobilityHeaderProblem.TRUNCATED, reason, offset + 1)
    data = data[: (data[1] + 1) * 8]
    if not _checksum_is_right(opened, data):
        raise fail(MobilityHeaderProblem.CHECKSUM, "Mobility Header checksum is wrong", offset + 4)
    minimum = MINIMUM_LENGTHS.get(data[2])
    if minimum is not None:
        if data[0] != NEXT_HEADER_NONE:
            reason = f"payload protocol {data[0]} after a Mobility Header"
            raise fail(MobilityHeaderProblem.PAYLOAD_PROTOCOL, reason, offset)
        if len(data) < minimum:
            reason = f"Mobility Header of {len(data)} octets is too short for type {data[2]}"
            raise fail(MobilityHeaderProblem.HEADER_LENGTH, reason, offset + 1)
    try:
        return decode_mobility_message(data, offset)
    except DecodeError as error:
        raise fail(MobilityHeaderProblem.OPTION, error.reason, error.offset) from None
