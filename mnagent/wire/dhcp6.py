"""DHCPv6 messages between clients and servers, and their options (RFC 8415 8 and 21).

Times are seconds; hundredths of a second and 0xffffffff exist only on the wire. Messages between
relay agents and servers have another layout and no place on a client's port: they do not decode.

An identity association holds addresses, an address holds status codes. Anything nested deeper, or
at another place, does not decode, so that no message can make the decoder recurse without end.
Other known options that somebody put inside of these two are passed over.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from struct import pack, unpack_from
from typing import Final, TypeVar

from mnagent.wire import constants
from mnagent.wire.buffer import DecodeError, unsigned
from mnagent.wire.constants import DHCP6_INFINITE_LIFETIME

MIN_DUID_LENGTH: Final = 3
MAX_DUID_LENGTH: Final = 130
"""Octets with the two of the type (RFC 8415 11.1)."""
MAX_ELAPSED_TIME: Final = 655.35
"""Seconds; a longer time is sent as this (RFC 8415 21.9)."""
INFINITE_LIFETIME: Final = math.inf
"""A lifetime that never ends, and a T1 or T2 that never comes."""


class Dhcp6MessageType(enum.IntEnum):
    """RFC 8415 7.3."""

    SOLICIT = constants.DHCP6_SOLICIT
    ADVERTISE = constants.DHCP6_ADVERTISE
    REQUEST = constants.DHCP6_REQUEST
    CONFIRM = constants.DHCP6_CONFIRM
    RENEW = constants.DHCP6_RENEW
    REBIND = constants.DHCP6_REBIND
    REPLY = constants.DHCP6_REPLY
    RELEASE = constants.DHCP6_RELEASE
    DECLINE = constants.DHCP6_DECLINE
    INFORMATION_REQUEST = constants.DHCP6_INFORMATION_REQUEST


class Dhcp6Status(enum.IntEnum):
    """RFC 8415 21.13."""

    SUCCESS = 0
    UNSPEC_FAIL = 1
    NO_ADDRS_AVAIL = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    USE_MULTICAST = 5


@dataclass(frozen=True, slots=True)
class ClientIdentifier:
    """DUID of the client (RFC 8415 21.2)."""

    duid: bytes
    """3 to 130 octets."""


@dataclass(frozen=True, slots=True)
class ServerIdentifier:
    """DUID of the server (RFC 8415 21.3)."""

    duid: bytes
    """3 to 130 octets."""


@dataclass(frozen=True, slots=True)
class StatusCode:
    """How it went (RFC 8415 21.13); where it is missing, it went well."""

    code: int
    """A `Dhcp6Status`, or a number of later specifications."""
    message: bytes = b""
    """For people; UTF-8 when the server keeps to the specification."""


@dataclass(frozen=True, slots=True)
class UnknownDhcp6Option:
    """Any other option, kept as it is; receivers ignore it."""

    option_type: int
    data: bytes


AddressOption = StatusCode | UnknownDhcp6Option


@dataclass(frozen=True, slots=True)
class LeasedAddress:
    """An address of an identity association: option IA Address (RFC 8415 21.6)."""

    address: IPv6Address
    preferred_lifetime: float
    """Seconds, or INFINITE_LIFETIME."""
    valid_lifetime: float
    """Seconds, or INFINITE_LIFETIME; 0 takes it back."""
    options: tuple[AddressOption, ...] = ()


AssociationOption = LeasedAddress | StatusCode | UnknownDhcp6Option


@dataclass(frozen=True, slots=True)
class IdentityAssociation:
    """Non-temporary addresses of one interface: option IA_NA (RFC 8415 21.4)."""

    identifier: int
    """IAID, unique among the client's."""
    renew_after: float = 0
    """T1 in seconds, or INFINITE_LIFETIME; 0 leaves it to the client."""
    rebind_after: float = 0
    """T2 in seconds, or INFINITE_LIFETIME; 0 leaves it to the client."""
    options: tuple[AssociationOption, ...] = ()


@dataclass(frozen=True, slots=True)
class OptionRequest:
    """Options the client wants (RFC 8415 21.7)."""

    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """How much a server wants to be chosen (RFC 8415 21.8)."""

    value: int
    """255 ends the client's wait for other servers."""


@dataclass(frozen=True, slots=True)
class ElapsedTime:
    """How long the client has been trying (RFC 8415 21.9)."""

    elapsed: float
    """Seconds; the wire carries hundredths, at most 655.35 seconds."""


@dataclass(frozen=True, slots=True)
class RapidCommit:
    """Two messages instead of four (RFC 8415 21.14)."""


@dataclass(frozen=True, slots=True)
class DnsServers:
    """Recursive name servers, best first (RFC 3646 3)."""

    addresses: tuple[IPv6Address, ...]


@dataclass(frozen=True, slots=True)
class InformationRefreshTime:
    """When to ask for information again (RFC 8415 21.23)."""

    time: float
    """Seconds, or INFINITE_LIFETIME."""


@dataclass(frozen=True, slots=True)
class SolicitMaxTimeout:
    """SOL_MAX_RT of this network (RFC 8415 21.24)."""

    time: int
    """Seconds; of use from 60 to 86400."""


@dataclass(frozen=True, slots=True)
class InformationMaxTimeout:
    """INF_MAX_RT of this network (RFC 8415 21.25)."""

    time: int
    """Seconds; of use from 60 to 86400."""


Dhcp6Option = (
    ClientIdentifier
    | ServerIdentifier
    | IdentityAssociation
    | LeasedAddress
    | OptionRequest
    | Preference
    | ElapsedTime
    | StatusCode
    | RapidCommit
    | DnsServers
    | InformationRefreshTime
    | SolicitMaxTimeout
    | InformationMaxTimeout
    | UnknownDhcp6Option
)

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class Dhcp6Message:
    """A message between a client and a server (RFC 8415 8)."""

    message_type: int
    """A `Dhcp6MessageType`, or a number of later specifications."""
    transaction: int
    """Transaction identifier, 24 bits."""
    options: tuple[Dhcp6Option, ...] = ()

    def first(self, kind: type[Kind]) -> Kind | None:
        """The first option of a kind."""
        return next((option for option in self.options if isinstance(option, kind)), None)


_KNOWN: Final = {
    constants.DHCP6_OPTION_CLIENT_IDENTIFIER,
    constants.DHCP6_OPTION_SERVER_IDENTIFIER,
    constants.DHCP6_OPTION_IA_NA,
    constants.DHCP6_OPTION_IA_ADDRESS,
    constants.DHCP6_OPTION_OPTION_REQUEST,
    constants.DHCP6_OPTION_PREFERENCE,
    constants.DHCP6_OPTION_ELAPSED_TIME,
    constants.DHCP6_OPTION_STATUS_CODE,
    constants.DHCP6_OPTION_RAPID_COMMIT,
    constants.DHCP6_OPTION_DNS_SERVERS,
    constants.DHCP6_OPTION_INFORMATION_REFRESH_TIME,
    constants.DHCP6_OPTION_SOL_MAX_RT,
    constants.DHCP6_OPTION_INF_MAX_RT,
}
_RELAY_MESSAGES: Final = {constants.DHCP6_RELAY_FORWARD, constants.DHCP6_RELAY_REPLY}
_MESSAGE_HEADER: Final = 4
_OPTION_HEADER: Final = 4

# Encoding.


def encode_dhcp6_message(message: Dhcp6Message) -> bytes:
    """Octets of a message, the payload of its UDP datagram; ValueError when a field does not fit.

    ::

        |  msg-type  |         transaction-id           |
        |                    options ...                |
    """
    if message.message_type in _RELAY_MESSAGES:
        raise ValueError(f"message type {message.message_type} is for relay agents")
    head = unsigned(message.message_type, 8, "message type") << 24
    head |= unsigned(message.transaction, 24, "transaction identifier")
    return head.to_bytes(4, "big") + _encode_options(message.options, _TOP)


def _framed(option_type: int, data: bytes) -> bytes:
    """
    ::

        |        option-code       |       option-len     |
        |                  option-data                    |
    """
    return pack("!HH", option_type, unsigned(len(data), 16, "option length")) + data


_TOP: Final = 0
_IN_ASSOCIATION: Final = 1
_IN_ADDRESS: Final = 2
_PLACES: Final = {
    constants.DHCP6_OPTION_IA_NA: _TOP,
    constants.DHCP6_OPTION_IA_ADDRESS: _IN_ASSOCIATION,
}
"""How deep the options stand that hold others."""


def _encode_options(options: Iterable[Dhcp6Option], place: int) -> bytes:
    encoded = []
    for option in options:
        option_type, data = _encode_option(option)
        if _PLACES.get(option_type, place) != place:
            raise ValueError(f"option {option_type} is at a wrong place")
        encoded.append(_framed(option_type, data))
    return b"".join(encoded)


def _encode_option(option: Dhcp6Option) -> tuple[int, bytes]:
    match option:
        case ClientIdentifier(duid):
            return constants.DHCP6_OPTION_CLIENT_IDENTIFIER, _checked_duid(duid)
        case ServerIdentifier(duid):
            return constants.DHCP6_OPTION_SERVER_IDENTIFIER, _checked_duid(duid)
        case IdentityAssociation():
            return constants.DHCP6_OPTION_IA_NA, _encode_association(option)
        case LeasedAddress(address, preferred, valid, nested):
            lifetimes = pack("!II", _encode_lifetime(preferred), _encode_lifetime(valid))
            data = address.packed + lifetimes + _encode_options(nested, _IN_ADDRESS)
            return constants.DHCP6_OPTION_IA_ADDRESS, data
        case OptionRequest(codes):
            data = b"".join(pack("!H", unsigned(code, 16, "option code")) for code in codes)
            return constants.DHCP6_OPTION_OPTION_REQUEST, data
        case StatusCode(code, message):
            data = pack("!H", unsigned(code, 16, "status code")) + message
            return constants.DHCP6_OPTION_STATUS_CODE, data
        case DnsServers(addresses):
            data = b"".join(address.packed for address in addresses)
            return constants.DHCP6_OPTION_DNS_SERVERS, data
        case UnknownDhcp6Option(option_type, data):
            if option_type in _KNOWN:
                raise ValueError(f"option {option_type} has a class of its own")
            return unsigned(option_type, 16, "option code"), data
        case _:
            return _encode_number(option)


def _encode_number(
    option: Preference
    | ElapsedTime
    | RapidCommit
    | InformationRefreshTime
    | SolicitMaxTimeout
    | InformationMaxTimeout,
) -> tuple[int, bytes]:
    match option:
        case Preference(value):
            data = bytes((unsigned(value, 8, "preference"),))
            return constants.DHCP6_OPTION_PREFERENCE, data
        case ElapsedTime(elapsed):
            hundredths = unsigned(min(elapsed, MAX_ELAPSED_TIME) * 100 + 0.5, 16, "elapsed time")
            return constants.DHCP6_OPTION_ELAPSED_TIME, pack("!H", hundredths)
        case InformationRefreshTime(time):
            code = constants.DHCP6_OPTION_INFORMATION_REFRESH_TIME
            return code, pack("!I", _encode_lifetime(time))
        case SolicitMaxTimeout(time):
            return constants.DHCP6_OPTION_SOL_MAX_RT, pack("!I", unsigned(time, 32, "SOL_MAX_RT"))
        case InformationMaxTimeout(time):
            return constants.DHCP6_OPTION_INF_MAX_RT, pack("!I", unsigned(time, 32, "INF_MAX_RT"))
        case _:
            return constants.DHCP6_OPTION_RAPID_COMMIT, b""


def _encode_association(option: IdentityAssociation) -> bytes:
    """
    ::

        |                   IAID (4 octets)               |
        |                        T1                       |
        |                        T2                       |
        |                 IA_NA-options                   |
    """
    head = pack(
        "!III",
        unsigned(option.identifier, 32, "IAID"),
        _encode_lifetime(option.renew_after),
        _encode_lifetime(option.rebind_after),
    )
    return head + _encode_options(option.options, _IN_ASSOCIATION)


def _checked_duid(duid: bytes) -> bytes:
    if not MIN_DUID_LENGTH <= len(duid) <= MAX_DUID_LENGTH:
        raise ValueError(f"DUID of {len(duid)} octets")
    return duid


def _encode_lifetime(lifetime: float) -> int:
    if lifetime == INFINITE_LIFETIME:
        return DHCP6_INFINITE_LIFETIME
    return unsigned(lifetime, 32, "lifetime")


# Decoding.


def decode_dhcp6_message(data: bytes) -> Dhcp6Message:
    """Decode the payload of a UDP datagram; DecodeError when it is no message for a client.

    ``DecodeError.offset`` counts from the start of the message.
    """
    if len(data) < _MESSAGE_HEADER:
        raise DecodeError("DHCPv6 message is cut off", 0)
    if data[0] in _RELAY_MESSAGES:
        raise DecodeError(f"message type {data[0]} is for relay agents", 0)
    transaction = int.from_bytes(data[1:_MESSAGE_HEADER], "big")
    return Dhcp6Message(data[0], transaction, _decode_options(data, _MESSAGE_HEADER, len(data), 0))


def _decode_options(data: bytes, start: int, end: int, place: int) -> tuple[Dhcp6Option, ...]:
    """The options from ``start`` to ``end``."""
    options: list[Dhcp6Option] = []
    position = start
    while position < end:
        if end - position < _OPTION_HEADER:
            raise DecodeError("option is cut off", position)
        option_type, length = unpack_from("!HH", data, position)
        content = position + _OPTION_HEADER
        if length > end - content:
            raise DecodeError("option runs past what holds it", position + 2)
        if _PLACES.get(option_type, place) != place:
            raise DecodeError(f"option {option_type} is at a wrong place", position)
        options.append(_decode_option(option_type, data, content, content + length))
        position = content + length
    return tuple(options)


_MINIMUM_LENGTHS: Final = {
    constants.DHCP6_OPTION_CLIENT_IDENTIFIER: MIN_DUID_LENGTH,
    constants.DHCP6_OPTION_SERVER_IDENTIFIER: MIN_DUID_LENGTH,
    constants.DHCP6_OPTION_IA_NA: 12,
    constants.DHCP6_OPTION_IA_ADDRESS: 24,
    constants.DHCP6_OPTION_STATUS_CODE: 2,
}
_MAXIMUM_LENGTHS: Final = {
    constants.DHCP6_OPTION_CLIENT_IDENTIFIER: MAX_DUID_LENGTH,
    constants.DHCP6_OPTION_SERVER_IDENTIFIER: MAX_DUID_LENGTH,
}
_FIXED_LENGTHS: Final = {
    constants.DHCP6_OPTION_PREFERENCE: 1,
    constants.DHCP6_OPTION_ELAPSED_TIME: 2,
    constants.DHCP6_OPTION_RAPID_COMMIT: 0,
    constants.DHCP6_OPTION_INFORMATION_REFRESH_TIME: 4,
    constants.DHCP6_OPTION_SOL_MAX_RT: 4,
    constants.DHCP6_OPTION_INF_MAX_RT: 4,
}
_UNIT_LENGTHS: Final = {
    constants.DHCP6_OPTION_OPTION_REQUEST: 2,
    constants.DHCP6_OPTION_DNS_SERVERS: 16,
}


def _check_length(option_type: int, length: int, offset: int) -> None:
    if (
        length != _FIXED_LENGTHS.get(option_type, length)
        or length < _MINIMUM_LENGTHS.get(option_type, 0)
        or length > _MAXIMUM_LENGTHS.get(option_type, length)
        or length % _UNIT_LENGTHS.get(option_type, 1)
    ):
        raise DecodeError(f"option {option_type} with length {length}", offset)


def _decode_option(option_type: int, data: bytes, start: int, end: int) -> Dhcp6Option:
    _check_length(option_type, end - start, start - 2)
    match option_type:
        case constants.DHCP6_OPTION_CLIENT_IDENTIFIER:
            return ClientIdentifier(data[start:end])
        case constants.DHCP6_OPTION_SERVER_IDENTIFIER:
            return ServerIdentifier(data[start:end])
        case constants.DHCP6_OPTION_IA_NA:
            return _decode_association(data, start, end)
        case constants.DHCP6_OPTION_IA_ADDRESS:
            return _decode_leased_address(data, start, end)
        case constants.DHCP6_OPTION_OPTION_REQUEST:
            return OptionRequest(_numbers(data[start:end], 2))
        case constants.DHCP6_OPTION_STATUS_CODE:
            return StatusCode(int.from_bytes(data[start : start + 2], "big"), data[start + 2 : end])
        case constants.DHCP6_OPTION_RAPID_COMMIT:
            return RapidCommit()
        case constants.DHCP6_OPTION_DNS_SERVERS:
            return DnsServers(tuple(map(IPv6Address, _numbers(data[start:end], 16))))
        case _ if option_type in _KNOWN:
            return _decode_number(option_type, int.from_bytes(data[start:end], "big"))
        case _:
            return UnknownDhcp6Option(option_type, data[start:end])


def _decode_number(option_type: int, number: int) -> Dhcp6Option:
    match option_type:
        case constants.DHCP6_OPTION_PREFERENCE:
            return Preference(number)
        case constants.DHCP6_OPTION_ELAPSED_TIME:
            return ElapsedTime(number / 100)
        case constants.DHCP6_OPTION_INFORMATION_REFRESH_TIME:
            return InformationRefreshTime(_decode_lifetime(number))
        case constants.DHCP6_OPTION_SOL_MAX_RT:
            return SolicitMaxTimeout(number)
        case _:
            return InformationMaxTimeout(number)


def _decode_association(data: bytes, start: int, end: int) -> IdentityAssociation:
    identifier, renew_after, rebind_after = unpack_from("!III", data, start)
    options = _decode_options(data, start + 12, end, _IN_ASSOCIATION)
    return IdentityAssociation(
        identifier,
        _decode_lifetime(renew_after),
        _decode_lifetime(rebind_after),
        tuple(o for o in options if isinstance(o, LeasedAddress | StatusCode | UnknownDhcp6Option)),
    )


def _decode_leased_address(data: bytes, start: int, end: int) -> LeasedAddress:
    preferred, valid = unpack_from("!II", data, start + 16)
    options = _decode_options(data, start + 24, end, _IN_ADDRESS)
    return LeasedAddress(
        IPv6Address(data[start : start + 16]),
        _decode_lifetime(preferred),
        _decode_lifetime(valid),
        tuple(o for o in options if isinstance(o, StatusCode | UnknownDhcp6Option)),
    )


def _numbers(data: bytes, size: int) -> tuple[int, ...]:
    return tuple(int.from_bytes(data[i : i + size], "big") for i in range(0, len(data), size))


def _decode_lifetime(field: int) -> float:
    return INFINITE_LIFETIME if field == DHCP6_INFINITE_LIFETIME else field
