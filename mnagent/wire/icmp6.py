"""ICMPv6 messages (RFC 4443) and those of RFC 6275 6.5 to 6.8; neighbour discovery is in `ndisc`.

::

    +---------------+---------------+---------------+---------------+
    |     Type      |     Code      |           Checksum            |
    +---------------+---------------+---------------+---------------+
    |  body ...

The checksum is `mnagent.wire.packet`'s work.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from ipaddress import IPv6Address
from struct import pack, unpack_from
from typing import ClassVar, Final

from mnagent.wire import constants, mld, ndisc
from mnagent.wire.buffer import DecodeError, unsigned
from mnagent.wire.constants import IPV6_HEADER_LENGTH, MINIMUM_IPV6_MTU
from mnagent.wire.mld import MldMessage
from mnagent.wire.ndisc import NdMessage, NdOption, decode_nd_options, encode_nd_options

ICMPV6_HEADER_LENGTH: Final = 4


class DestinationUnreachableCode(enum.IntEnum):
    """Why a destination cannot be reached (RFC 4443 3.1)."""

    NO_ROUTE = 0
    ADMINISTRATIVELY_PROHIBITED = 1
    BEYOND_SCOPE_OF_SOURCE = 2
    ADDRESS_UNREACHABLE = 3
    PORT_UNREACHABLE = 4
    SOURCE_ADDRESS_FAILED_POLICY = 5
    REJECT_ROUTE = 6


class ParameterProblemCode(enum.IntEnum):
    """What is wrong with a packet (RFC 4443 3.4)."""

    ERRONEOUS_HEADER_FIELD = 0
    UNRECOGNIZED_NEXT_HEADER = 1
    UNRECOGNIZED_OPTION = 2


@dataclass(frozen=True, slots=True)
class DestinationUnreachable:
    """The packet could not be delivered (RFC 4443 3.1)."""

    message_type: ClassVar[int] = constants.ICMPV6_DESTINATION_UNREACHABLE
    code: int
    """See DestinationUnreachableCode."""
    invoking: bytes
    """As much of the packet complained about as fits."""


@dataclass(frozen=True, slots=True)
class PacketTooBig:
    """The packet does not fit the next link (RFC 4443 3.2)."""

    message_type: ClassVar[int] = constants.ICMPV6_PACKET_TOO_BIG
    mtu: int
    """Octets."""
    invoking: bytes


@dataclass(frozen=True, slots=True)
class TimeExceeded:
    """Hop limit (code 0) or reassembly time (code 1) ran out (RFC 4443 3.3)."""

    message_type: ClassVar[int] = constants.ICMPV6_TIME_EXCEEDED
    code: int
    invoking: bytes


@dataclass(frozen=True, slots=True)
class ParameterProblem:
    """The packet holds something the receiver could not process (RFC 4443 3.4)."""

    message_type: ClassVar[int] = constants.ICMPV6_PARAMETER_PROBLEM
    code: int
    """See ParameterProblemCode."""
    pointer: int
    """Octet of the invoking packet."""
    invoking: bytes


@dataclass(frozen=True, slots=True)
class EchoRequest:
    """Ping (RFC 4443 4.1)."""

    message_type: ClassVar[int] = constants.ICMPV6_ECHO_REQUEST
    identifier: int
    sequence: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class EchoReply:
    """Answer to a ping (RFC 4443 4.2)."""

    message_type: ClassVar[int] = constants.ICMPV6_ECHO_REPLY
    identifier: int
    sequence: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class HomeAgentAddressDiscoveryRequest:
    """A mobile node looks for home agents on its home link (RFC 6275 6.5)."""

    message_type: ClassVar[int] = constants.ICMPV6_HOME_AGENT_ADDRESS_DISCOVERY_REQUEST
    identifier: int


@dataclass(frozen=True, slots=True)
class HomeAgentAddressDiscoveryReply:
    """The home agents of a link, the most preferred first (RFC 6275 6.6)."""

    message_type: ClassVar[int] = constants.ICMPV6_HOME_AGENT_ADDRESS_DISCOVERY_REPLY
    identifier: int
    """That of the request."""
    addresses: tuple[IPv6Address, ...] = ()


@dataclass(frozen=True, slots=True)
class MobilePrefixSolicitation:
    """A mobile node asks for the prefixes of its home link (RFC 6275 6.7)."""

    message_type: ClassVar[int] = constants.ICMPV6_MOBILE_PREFIX_SOLICITATION
    identifier: int
    options: tuple[NdOption, ...] = ()


@dataclass(frozen=True, slots=True)
class MobilePrefixAdvertisement:
    """The prefixes of the home link (RFC 6275 6.8)."""

    message_type: ClassVar[int] = constants.ICMPV6_MOBILE_PREFIX_ADVERTISEMENT
    identifier: int
    """That of the solicitation, or 0 in an unsolicited one."""
    _: KW_ONLY
    managed: bool = False
    other: bool = False
    options: tuple[NdOption, ...] = ()


@dataclass(frozen=True, slots=True)
class UnknownIcmp6:
    """Any other type, or a known type with a code it does not have; kept as it is."""

    message_type: int
    code: int
    data: bytes
    """What follows the checksum."""

    @property
    def is_error(self) -> bool:
        """True for the error types, which must never be answered with an error (RFC 4443 2.4)."""
        return self.message_type < _FIRST_INFORMATIONAL


Icmp6Error = DestinationUnreachable | PacketTooBig | TimeExceeded | ParameterProblem
Icmp6Message = (
    Icmp6Error
    | EchoRequest
    | EchoReply
    | HomeAgentAddressDiscoveryRequest
    | HomeAgentAddressDiscoveryReply
    | MobilePrefixSolicitation
    | MobilePrefixAdvertisement
    | NdMessage
    | MldMessage
    | UnknownIcmp6
)

_ERROR_HEADER_LENGTH: Final = 8
_FIRST_INFORMATIONAL: Final = 128
_MANAGED: Final = 0x8000
_OTHER: Final = 0x4000

_ANY_CODE: Final = {
    constants.ICMPV6_DESTINATION_UNREACHABLE,
    constants.ICMPV6_PACKET_TOO_BIG,
    constants.ICMPV6_TIME_EXCEEDED,
    constants.ICMPV6_PARAMETER_PROBLEM,
}
"""Types whose code means something or is ignored; the others need code 0."""

_MINIMUM_LENGTHS: Final = {
    constants.ICMPV6_DESTINATION_UNREACHABLE: 8,
    constants.ICMPV6_PACKET_TOO_BIG: 8,
    constants.ICMPV6_TIME_EXCEEDED: 8,
    constants.ICMPV6_PARAMETER_PROBLEM: 8,
    constants.ICMPV6_ECHO_REQUEST: 8,
    constants.ICMPV6_ECHO_REPLY: 8,
    constants.ICMPV6_HOME_AGENT_ADDRESS_DISCOVERY_REQUEST: 8,
    constants.ICMPV6_HOME_AGENT_ADDRESS_DISCOVERY_REPLY: 8,
    constants.ICMPV6_MOBILE_PREFIX_SOLICITATION: 8,
    constants.ICMPV6_MOBILE_PREFIX_ADVERTISEMENT: 8,
    **ndisc.MINIMUM_LENGTHS,
    **mld.MINIMUM_LENGTHS,
}


def quote(packet: bytes, *, overhead: int = 0) -> bytes:
    """As much of ``packet`` as an error may quote: it stays within 1280 octets (RFC 4443 2.4).

    ``overhead`` is the length in octets of extension headers the error message will carry.
    """
    return packet[: MINIMUM_IPV6_MTU - IPV6_HEADER_LENGTH - _ERROR_HEADER_LENGTH - overhead]


def encode_icmp6_message(message: Icmp6Message) -> bytes:
    """A whole ICMPv6 message with a checksum of zero; ValueError when a field does not fit."""
    code, body = _code_and_body(message)
    message_type = unsigned(message.message_type, 8, "type")
    return pack("!BBxx", message_type, unsigned(code, 8, "code")) + body


def _code_and_body(message: Icmp6Message) -> tuple[int, bytes]:
    match message:
        case DestinationUnreachable(code, invoking) | TimeExceeded(code, invoking):
            return code, bytes(4) + invoking
        case PacketTooBig(mtu, invoking):
            return 0, pack("!I", unsigned(mtu, 32, "MTU")) + invoking
        case ParameterProblem(code, pointer, invoking):
            return code, pack("!I", unsigned(pointer, 32, "pointer")) + invoking
        case EchoRequest(identifier, sequence, data) | EchoReply(identifier, sequence, data):
            return 0, _identified(identifier, unsigned(sequence, 16, "sequence")) + data
        case HomeAgentAddressDiscoveryRequest(identifier):
            return 0, _identified(identifier)
        case HomeAgentAddressDiscoveryReply(identifier, addresses):
            listed = b"".join(address.packed for address in addresses)
            return 0, _identified(identifier) + listed
        case MobilePrefixSolicitation(identifier, options):
            return 0, _identified(identifier) + encode_nd_options(options)
        case MobilePrefixAdvertisement(identifier):
            flags = _MANAGED * message.managed | _OTHER * message.other
            return 0, _identified(identifier, flags) + encode_nd_options(message.options)
        case UnknownIcmp6(message_type, code, data):
            if message_type in _ANY_CODE or (code == 0 and message_type in _MINIMUM_LENGTHS):
                raise ValueError(f"ICMPv6 type {message_type} has a class of its own")
            return code, data
        case (
            mld.ListenerQuery()
            | mld.ListenerReport()
            | mld.ListenerDone()
            | mld.ListenerReportVersion2()
        ):
            return 0, mld.encode_mld_body(message)
        case _:
            return 0, ndisc.encode_nd_body(message)


def _identified(identifier: int, second: int = 0) -> bytes:
    return pack("!HH", unsigned(identifier, 16, "identifier"), second)


def decode_icmp6_message(data: bytes, offset: int) -> Icmp6Message:
    """Decode the ICMPv6 message that fills ``data``, at ``offset`` of its packet.

    The caller has checked that there are four octets, and the checksum.
    """
    message_type, code = data[0], data[1]
    minimum = _MINIMUM_LENGTHS.get(message_type)
    if minimum is None or (code and message_type not in _ANY_CODE):
        return UnknownIcmp6(message_type, code, data[ICMPV6_HEADER_LENGTH:])
    if len(data) < minimum:
        raise DecodeError(f"ICMPv6 type {message_type} is cut off", offset)
    decoder = _DECODERS.get(message_type)
    return ndisc.decode_nd_message(data, offset) if decoder is None else decoder(data, offset)


def _decode_destination_unreachable(data: bytes, offset: int) -> DestinationUnreachable:
    return DestinationUnreachable(data[1], data[8:])


def _decode_packet_too_big(data: bytes, offset: int) -> PacketTooBig:
    return PacketTooBig(int.from_bytes(data[4:8], "big"), data[8:])


def _decode_time_exceeded(data: bytes, offset: int) -> TimeExceeded:
    return TimeExceeded(data[1], data[8:])


def _decode_parameter_problem(data: bytes, offset: int) -> ParameterProblem:
    return ParameterProblem(data[1], int.from_bytes(data[4:8], "big"), data[8:])


def _decode_echo_request(data: bytes, offset: int) -> EchoRequest:
    identifier, sequence = unpack_from("!HH", data, 4)
    return EchoRequest(identifier, sequence, data[8:])


def _decode_echo_reply(data: bytes, offset: int) -> EchoReply:
    identifier, sequence = unpack_from("!HH", data, 4)
    return EchoReply(identifier, sequence, data[8:])


def _identifier(data: bytes) -> int:
    return int.from_bytes(data[4:6], "big")


def _decode_discovery_request(data: bytes, offset: int) -> HomeAgentAddressDiscoveryRequest:
    return HomeAgentAddressDiscoveryRequest(_identifier(data))


def _decode_discovery_reply(data: bytes, offset: int) -> HomeAgentAddressDiscoveryReply:
    listed = data[8:]
    if len(listed) % 16:
        raise DecodeError("list of home agents ends within an address", offset + 8)
    addresses = tuple(IPv6Address(listed[at : at + 16]) for at in range(0, len(listed), 16))
    return HomeAgentAddressDiscoveryReply(_identifier(data), addresses)


def _decode_prefix_solicitation(data: bytes, offset: int) -> MobilePrefixSolicitation:
    return MobilePrefixSolicitation(_identifier(data), decode_nd_options(data[8:], offset + 8))


def _decode_prefix_advertisement(data: bytes, offset: int) -> MobilePrefixAdvertisement:
    flags = int.from_bytes(data[6:8], "big")
    return MobilePrefixAdvertisement(
        _identifier(data),
        managed=bool(flags & _MANAGED),
        other=bool(flags & _OTHER),
        options=decode_nd_options(data[8:], offset + 8),
    )


_DECODERS: Final[dict[int, Callable[[bytes, int], Icmp6Message]]] = {
    constants.ICMPV6_DESTINATION_UNREACHABLE: _decode_destination_unreachable,
    constants.ICMPV6_PACKET_TOO_BIG: _decode_packet_too_big,
    constants.ICMPV6_TIME_EXCEEDED: _decode_time_exceeded,
    constants.ICMPV6_PARAMETER_PROBLEM: _decode_parameter_problem,
    constants.ICMPV6_ECHO_REQUEST: _decode_echo_request,
    constants.ICMPV6_ECHO_REPLY: _decode_echo_reply,
    constants.ICMPV6_HOME_AGENT_ADDRESS_DISCOVERY_REQUEST: _decode_discovery_request,
    constants.ICMPV6_HOME_AGENT_ADDRESS_DISCOVERY_REPLY: _decode_discovery_reply,
    constants.ICMPV6_MOBILE_PREFIX_SOLICITATION: _decode_prefix_solicitation,
    constants.ICMPV6_MOBILE_PREFIX_ADVERTISEMENT: _decode_prefix_advertisement,
    **dict.fromkeys(mld.MINIMUM_LENGTHS, mld.decode_mld_message),
}
