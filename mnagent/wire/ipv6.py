"""IPv6 packets as values: the fixed header, extension headers and their options.

RFC 8200, and RFC 6275 6.3 (Home Address option) and 6.4 (type 2 routing header).

Padding options are not values: the encoder makes what alignment asks for, the decoder skips it.
`mnagent.wire.packet` turns a whole packet into octets and back.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from ipaddress import IPv6Address
from struct import pack, unpack_from
from typing import TYPE_CHECKING, Final

from mnagent.wire.buffer import DecodeError, unsigned
from mnagent.wire.constants import (
    NEXT_HEADER_DESTINATION_OPTIONS,
    NEXT_HEADER_FRAGMENT,
    NEXT_HEADER_HOP_BY_HOP,
    NEXT_HEADER_ROUTING,
    OPTION_HOME_ADDRESS,
    OPTION_PAD1,
    OPTION_PADN,
    OPTION_ROUTER_ALERT,
    OPTION_TUNNEL_ENCAPSULATION_LIMIT,
    ROUTING_TYPE_2,
)

if TYPE_CHECKING:
    from mnagent.wire.packet import Payload


class OptionAction(enum.IntEnum):
    """What a node that does not know an option does: its type's two highest bits (RFC 8200 4.2)."""

    SKIP = 0
    DISCARD = 1
    DISCARD_AND_REPORT = 2
    DISCARD_AND_REPORT_UNLESS_MULTICAST = 3


@dataclass(frozen=True, slots=True)
class HomeAddressOption:
    """Home Address option: the packet's source is a care-of address of this node (RFC 6275 6.3)."""

    home_address: IPv6Address


@dataclass(frozen=True, slots=True)
class TunnelEncapsulationLimit:
    """How many more levels of tunnelling are allowed (RFC 2473 4.1.1)."""

    limit: int


@dataclass(frozen=True, slots=True)
class RouterAlert:
    """Routers should look inside (RFC 2711)."""

    value: int


@dataclass(frozen=True, slots=True)
class UnknownOption:
    """Any other option, kept as it is."""

    option_type: int
    data: bytes

    @property
    def action(self) -> OptionAction:
        """What RFC 8200 4.2 asks of a node that does not know this type."""
        return OptionAction(self.option_type >> 6)


Option = HomeAddressOption | TunnelEncapsulationLimit | RouterAlert | UnknownOption


@dataclass(frozen=True, slots=True)
class HopByHopOptions:
    """Hop-by-Hop Options header; only the first header may be one (RFC 8200 4.3)."""

    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class DestinationOptions:
    """Destination Options header (RFC 8200 4.6)."""

    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class Type2RoutingHeader:
    """Type 2 routing header: the home address the packet goes to in the end (RFC 6275 6.4)."""

    home_address: IPv6Address
    segments_left: int = 1
    """1 on the wire; anything else makes the receiver discard the packet (RFC 6275 11.3.3)."""


@dataclass(frozen=True, slots=True)
class RoutingHeader:
    """A routing header of any other type (RFC 8200 4.4)."""

    routing_type: int
    segments_left: int
    data: bytes
    """What follows the first four octets: 4, 12, 20 ... octets."""


@dataclass(frozen=True, slots=True)
class FragmentHeader:
    """Fragment header (RFC 8200 4.5)."""

    offset: int
    """Octets, a multiple of 8."""
    more_fragments: bool
    identification: int

    @property
    def is_whole(self) -> bool:
        """True for an atomic fragment, whose payload is all there (RFC 6946)."""
        return self.offset == 0 and not self.more_fragments


ExtensionHeader = (
    HopByHopOptions | DestinationOptions | Type2RoutingHeader | RoutingHeader | FragmentHeader
)


@dataclass(frozen=True, slots=True)
class RawPayload:
    """A payload this package has no codec for, or a piece of one in a fragment."""

    next_header: int
    data: bytes


@dataclass(frozen=True, slots=True)
class IPv6Packet:
    """One IPv6 packet. The addresses are those of the fixed header, as they are on the wire."""

    source: IPv6Address
    destination: IPv6Address
    payload: Payload
    _: KW_ONLY
    extension_headers: tuple[ExtensionHeader, ...] = ()
    hop_limit: int = 64
    traffic_class: int = 0
    flow_label: int = 0

    @property
    def home_address_options(self) -> tuple[IPv6Address, ...]:
        """Home addresses of all Home Address options; at most one is valid (RFC 6275 6.3)."""
        return tuple(
            option.home_address
            for header in self.extension_headers
            if isinstance(header, DestinationOptions)
            for option in header.options
            if isinstance(option, HomeAddressOption)
        )

    @property
    def home_address_option(self) -> IPv6Address | None:
        """Home address of the first Home Address option, or None."""
        # Asked for many times of each packet: a loop costs a quarter of the above.
        for header in self.extension_headers:
            if isinstance(header, DestinationOptions):
                for option in header.options:
                    if isinstance(option, HomeAddressOption):
                        return option.home_address
        return None

    @property
    def type2_routing_header(self) -> Type2RoutingHeader | None:
        """The first type 2 routing header, or None."""
        for header in self.extension_headers:
            if isinstance(header, Type2RoutingHeader):
                return header
        return None

    @property
    def type2_home_address(self) -> IPv6Address | None:
        """Home address of the first type 2 routing header, or None."""
        header = self.type2_routing_header
        return None if header is None else header.home_address

    @property
    def logical_source(self) -> IPv6Address:
        """What the upper layer sees: the Home Address option's, else the header's source."""
        return self.home_address_option or self.source

    @property
    def logical_destination(self) -> IPv6Address:
        """The type 2 routing header's address while it has segments left, else the header's."""
        header = self.type2_routing_header
        if header is not None and header.segments_left:
            return header.home_address
        return self.destination


# Option codecs. Position counts from the start of the header that holds the options.

_HOME_ADDRESS_LENGTH: Final = 16


def _encode_option(option: Option) -> tuple[bytes, int, int]:
    """Octets of an option and its alignment: position = ``remainder`` modulo ``modulus``."""
    match option:
        case HomeAddressOption(home_address):
            data = home_address.packed
            return bytes((OPTION_HOME_ADDRESS, len(data))) + data, 8, 6
        case TunnelEncapsulationLimit(limit):
            return bytes((OPTION_TUNNEL_ENCAPSULATION_LIMIT, 1, unsigned(limit, 8, "limit"))), 1, 0
        case RouterAlert(value):
            return pack("!BBH", OPTION_ROUTER_ALERT, 2, unsigned(value, 16, "value")), 2, 0
        case _:
            if option.option_type in _KNOWN_OPTIONS:
                raise ValueError(f"option type {option.option_type} has a class of its own")
            option_type = unsigned(option.option_type, 8, "option type")
            length = unsigned(len(option.data), 8, "option length")
            return bytes((option_type, length)) + option.data, 1, 0


def _padding(octets: int) -> bytes:
    """Pad1 or PadN of so many octets; the two mobility padding options have the same form."""
    if octets < 2:
        return bytes(octets)
    return bytes((OPTION_PADN, octets - 2)) + bytes(octets - 2)


def pad_options(encoded: Iterable[tuple[bytes, int, int]], start: int) -> bytes:
    """Join (octets, modulus, remainder) with padding, the first at position ``start``.

    Each starts at ``remainder`` modulo ``modulus``; the last padding runs to a multiple of 8.
    """
    result = bytearray()
    for octets, modulus, remainder in encoded:
        result += _padding((remainder - start - len(result)) % modulus)
        result += octets
    result += _padding(-(start + len(result)) % 8)
    return bytes(result)


def split_options(data: bytes, offset: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield (type, data, offset in the packet) of each option that is no padding.

    ``offset`` is where ``data`` starts in the packet. IPv6 and mobility options share the form.
    """
    position, end = 0, len(data)
    while position < end:
        option_type = data[position]
        if option_type == OPTION_PAD1:
            position += 1
            continue
        if position + 2 > end:
            raise DecodeError("option without a length", offset + position)
        following = position + 2 + data[position + 1]
        if following > end:
            raise DecodeError("option runs past its header", offset + position + 1)
        if option_type != OPTION_PADN:
            yield option_type, data[position + 2 : following], offset + position
        position = following


def _decode_option(option_type: int, data: bytes, offset: int) -> Option:
    expected = _KNOWN_OPTIONS.get(option_type)
    if expected is None:
        return UnknownOption(option_type, data)
    if len(data) != expected:
        raise DecodeError(f"option {option_type} with length {len(data)}", offset + 1)
    if option_type == OPTION_HOME_ADDRESS:
        return HomeAddressOption(IPv6Address(data))
    if option_type == OPTION_TUNNEL_ENCAPSULATION_LIMIT:
        return TunnelEncapsulationLimit(data[0])
    return RouterAlert(int.from_bytes(data, "big"))


_KNOWN_OPTIONS: Final = {
    OPTION_PAD1: 0,
    OPTION_PADN: 0,
    OPTION_TUNNEL_ENCAPSULATION_LIMIT: 1,
    OPTION_ROUTER_ALERT: 2,
    OPTION_HOME_ADDRESS: _HOME_ADDRESS_LENGTH,
}
"""Type to length of data; the padding types never reach it."""


# Extension headers.


def header_number(header: ExtensionHeader) -> int:
    """The Next Header value that announces this header."""
    match header:
        case HopByHopOptions():
            return NEXT_HEADER_HOP_BY_HOP
        case DestinationOptions():
            return NEXT_HEADER_DESTINATION_OPTIONS
        case Type2RoutingHeader() | RoutingHeader():
            return NEXT_HEADER_ROUTING
        case _:
            return NEXT_HEADER_FRAGMENT


def encode_extension_header(header: ExtensionHeader, next_header: int) -> bytes:
    """Octets of one extension header; ValueError when a field does not fit.

    ::

        +---------------+---------------+---------------+---------------+
        |  Next Header  |  Hdr Ext Len  |  options, or Routing Type,    |
        +---------------+---------------+  Segments Left, data ...      |
    """
    match header:
        case HopByHopOptions(options) | DestinationOptions(options):
            body = pad_options(map(_encode_option, options), 2)
        case Type2RoutingHeader(home_address, segments_left):
            left = unsigned(segments_left, 8, "segments left")
            body = pack("!BBxxxx", ROUTING_TYPE_2, left) + home_address.packed
        case RoutingHeader(routing_type, segments_left, data):
            if routing_type == ROUTING_TYPE_2:
                raise ValueError("routing type 2 has a class of its own")
            kind = unsigned(routing_type, 8, "routing type")
            body = bytes((kind, unsigned(segments_left, 8, "segments left"))) + data
        case _:
            return _encode_fragment_header(header, next_header)
    if (len(body) + 2) % 8:
        raise ValueError(f"header of {len(body) + 2} octets is no multiple of 8")
    return bytes((next_header, unsigned(len(body) // 8, 8, "header length"))) + body


def _encode_fragment_header(header: FragmentHeader, next_header: int) -> bytes:
    if header.offset % 8:
        raise ValueError(f"fragment offset {header.offset} is no multiple of 8")
    field = unsigned(header.offset, 16, "fragment offset") | header.more_fragments
    identification = unsigned(header.identification, 32, "identification")
    return pack("!BxHI", next_header, field, identification)


_FRAGMENT_HEADER_LENGTH: Final = 8
_TYPE2_EXTENSION_LENGTH: Final = 2


def decode_extension_header(
    number: int, data: bytes, offset: int
) -> tuple[ExtensionHeader, int, int]:
    """Decode the header at ``offset``: its value, the next header's number, its length."""
    available = len(data) - offset
    if available < 8:
        raise DecodeError("extension header is cut off", offset)
    next_header = data[offset]
    if number == NEXT_HEADER_FRAGMENT:
        field, identification = unpack_from("!HI", data, offset + 2)
        fragment = FragmentHeader(field & 0xFFF8, bool(field & 1), identification)
        return fragment, next_header, _FRAGMENT_HEADER_LENGTH
    length = (data[offset + 1] + 1) * 8
    if length > available:
        raise DecodeError("extension header runs past the packet", offset + 1)
    if number == NEXT_HEADER_ROUTING:
        return _decode_routing_header(data[offset : offset + length], offset), next_header, length
    options = tuple(
        _decode_option(*found)
        for found in split_options(data[offset + 2 : offset + length], offset + 2)
    )
    if number == NEXT_HEADER_HOP_BY_HOP:
        return HopByHopOptions(options), next_header, length
    return DestinationOptions(options), next_header, length


def _decode_routing_header(data: bytes, offset: int) -> Type2RoutingHeader | RoutingHeader:
    routing_type, segments_left = data[2], data[3]
    if routing_type != ROUTING_TYPE_2:
        return RoutingHeader(routing_type, segments_left, data[4:])
    if data[1] != _TYPE2_EXTENSION_LENGTH:
        raise DecodeError("type 2 routing header of a wrong length", offset + 1)
    return Type2RoutingHeader(IPv6Address(data[8:24]), segments_left)
