"""Mobility options (RFC 6275 6.2, 4283, 4285): what may follow the fixed part of a message.

Padding is made and skipped here, never seen by callers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from struct import pack, unpack
from typing import Final

from mnagent.wire.buffer import DecodeError, unsigned
from mnagent.wire.constants import (
    LIFETIME_UNIT,
    MOBILITY_OPTION_ALTERNATE_CARE_OF_ADDRESS,
    MOBILITY_OPTION_BINDING_AUTHORIZATION_DATA,
    MOBILITY_OPTION_BINDING_REFRESH_ADVICE,
    MOBILITY_OPTION_MESSAGE_AUTHENTICATION,
    MOBILITY_OPTION_MOBILE_NODE_IDENTIFIER,
    MOBILITY_OPTION_NONCE_INDICES,
    MOBILITY_OPTION_PAD1,
    MOBILITY_OPTION_PADN,
    MOBILITY_OPTION_REPLAY_PROTECTION,
)
from mnagent.wire.ipv6 import pad_options, split_options


@dataclass(frozen=True, slots=True)
class BindingRefreshAdvice:
    """When the home agent wants a new registration; only in its answer (RFC 6275 6.2.4)."""

    interval: float
    """Seconds, up to 262140; the wire carries multiples of 4, rounded down."""


@dataclass(frozen=True, slots=True)
class AlternateCareOfAddress:
    """The care-of address to bind, where the packet's source is not to be it (RFC 6275 6.2.5)."""

    address: IPv6Address


@dataclass(frozen=True, slots=True)
class NonceIndices:
    """Which nonces made the keygen tokens (RFC 6275 6.2.6)."""

    home: int
    care_of: int


@dataclass(frozen=True, slots=True)
class BindingAuthorizationData:
    """Authenticator keyed with the binding management key; the last option (RFC 6275 6.2.7)."""

    authenticator: bytes
    """12 octets for the 96-bit MAC of RFC 6275; 4 modulo 8 in any case, as nothing may pad it."""


@dataclass(frozen=True, slots=True)
class MobileNodeIdentifier:
    """Identity of a mobile node, such as a network access identifier (RFC 4283)."""

    identifier: bytes
    subtype: int = 1
    """1: network access identifier."""


@dataclass(frozen=True, slots=True)
class MessageAuthentication:
    """Authenticates a message by a key the two ends share (RFC 4285 5)."""

    spi: int
    """Mobility SPI, 32 bits: which key it is."""
    authenticator: bytes
    """12 octets for MN-HA."""
    subtype: int = 1
    """1: mobile node and home agent; 2: mobile node and AAA server."""


@dataclass(frozen=True, slots=True)
class ReplayProtection:
    """When a message was made (RFC 4285 6)."""

    timestamp: int
    """64 bits as NTP has them: seconds since 1900 in the upper 32, fractions in the lower."""


@dataclass(frozen=True, slots=True)
class UnknownMobilityOption:
    """Any other option, kept as it is; receivers skip it (RFC 6275 6.2.1)."""

    option_type: int
    data: bytes


MobilityOption = (
    BindingRefreshAdvice
    | AlternateCareOfAddress
    | NonceIndices
    | BindingAuthorizationData
    | MobileNodeIdentifier
    | MessageAuthentication
    | ReplayProtection
    | UnknownMobilityOption
)

_FIXED_LENGTHS: Final = {
    MOBILITY_OPTION_BINDING_REFRESH_ADVICE: 2,
    MOBILITY_OPTION_ALTERNATE_CARE_OF_ADDRESS: 16,
    MOBILITY_OPTION_NONCE_INDICES: 4,
    MOBILITY_OPTION_REPLAY_PROTECTION: 8,
}
_KNOWN: Final = {
    MOBILITY_OPTION_PAD1,
    MOBILITY_OPTION_PADN,
    *_FIXED_LENGTHS,
    MOBILITY_OPTION_BINDING_AUTHORIZATION_DATA,
    MOBILITY_OPTION_MOBILE_NODE_IDENTIFIER,
    MOBILITY_OPTION_MESSAGE_AUTHENTICATION,
}
_AUTHORIZATION_REMAINDER: Final = 2
"""Binding Authorization Data starts at 8n+2 (RFC 6275 6.2.7)."""


def _encode(option: MobilityOption) -> tuple[bytes, int, int]:
    """Octets of an option and its alignment: position = remainder modulo modulus."""
    match option:
        case BindingRefreshAdvice(interval):
            units = unsigned(interval // LIFETIME_UNIT, 16, "refresh interval in units")
            return pack("!BBH", MOBILITY_OPTION_BINDING_REFRESH_ADVICE, 2, units), 2, 0
        case AlternateCareOfAddress(address):
            head = bytes((MOBILITY_OPTION_ALTERNATE_CARE_OF_ADDRESS, 16))
            return head + address.packed, 8, 6
        case NonceIndices(home, care_of):
            indices = unsigned(home, 16, "home nonce index"), unsigned(care_of, 16, "care-of index")
            return pack("!BBHH", MOBILITY_OPTION_NONCE_INDICES, 4, *indices), 2, 0
        case BindingAuthorizationData(authenticator):
            if len(authenticator) % 8 != 4:
                raise ValueError(f"authenticator of {len(authenticator)} octets would need padding")
            length = unsigned(len(authenticator), 8, "authenticator length")
            head = bytes((MOBILITY_OPTION_BINDING_AUTHORIZATION_DATA, length))
            return head + authenticator, 8, _AUTHORIZATION_REMAINDER
        case MobileNodeIdentifier(identifier, subtype):
            length = unsigned(len(identifier) + 1, 8, "identifier length")
            kind = unsigned(subtype, 8, "identifier subtype")
            head = bytes((MOBILITY_OPTION_MOBILE_NODE_IDENTIFIER, length, kind))
            return head + identifier, 1, 0
        case MessageAuthentication(spi, authenticator, subtype):
            length = unsigned(len(authenticator) + 5, 8, "authenticator length")
            kind = unsigned(subtype, 8, "authentication subtype")
            fields = (length, kind, unsigned(spi, 32, "mobility SPI"))
            head = pack("!BBBI", MOBILITY_OPTION_MESSAGE_AUTHENTICATION, *fields)
            return head + authenticator, 4, 1
        case ReplayProtection(timestamp):
            head = bytes((MOBILITY_OPTION_REPLAY_PROTECTION, 8))
            return head + pack("!Q", unsigned(timestamp, 64, "timestamp")), 8, 2
        case _:
            if option.option_type in _KNOWN:
                raise ValueError(f"option type {option.option_type} has a class of its own")
            option_type = unsigned(option.option_type, 8, "option type")
            length = unsigned(len(option.data), 8, "option length")
            return bytes((option_type, length)) + option.data, 1, 0


def encode_mobility_options(options: Iterable[MobilityOption], start: int) -> bytes:
    """Octets of the options, the first at position ``start`` of the Mobility Header, padded to 8.

    ValueError when Binding Authorization Data is not the last one.
    """
    options = tuple(options)
    if any(isinstance(option, BindingAuthorizationData) for option in options[:-1]):
        raise ValueError("Binding Authorization Data must be the last option")
    return pad_options(map(_encode, options), start)


def decode_mobility_options(data: bytes, start: int, offset: int) -> tuple[MobilityOption, ...]:
    """Decode the options that fill ``data``.

    ``start`` is the position of ``data`` in the Mobility Header, ``offset`` that in the packet.
    """
    options = []
    for option_type, content, position in split_options(data, offset):
        if option_type == MOBILITY_OPTION_BINDING_AUTHORIZATION_DATA:
            at = position - offset
            if at + 2 + len(content) != len(data):
                raise DecodeError("Binding Authorization Data is not last", position)
            if (start + at) % 8 != _AUTHORIZATION_REMAINDER:
                raise DecodeError("Binding Authorization Data is not aligned", position)
        options.append(_decode(option_type, content, position))
    return tuple(options)


def _decode(option_type: int, data: bytes, offset: int) -> MobilityOption:
    if option_type == MOBILITY_OPTION_BINDING_AUTHORIZATION_DATA:
        return BindingAuthorizationData(data)
    if option_type == MOBILITY_OPTION_MOBILE_NODE_IDENTIFIER:
        if not data:
            raise DecodeError("mobile node identifier without a subtype", offset + 1)
        return MobileNodeIdentifier(data[1:], data[0])
    if option_type == MOBILITY_OPTION_MESSAGE_AUTHENTICATION:
        if len(data) < 5:
            raise DecodeError("message authentication without a mobility SPI", offset + 1)
        return MessageAuthentication(int.from_bytes(data[1:5], "big"), data[5:], data[0])
    expected = _FIXED_LENGTHS.get(option_type)
    if expected is None:
        return UnknownMobilityOption(option_type, data)
    if len(data) != expected:
        raise DecodeError(f"mobility option {option_type} with length {len(data)}", offset + 1)
    if option_type == MOBILITY_OPTION_BINDING_REFRESH_ADVICE:
        return BindingRefreshAdvice(int.from_bytes(data, "big") * LIFETIME_UNIT)
    if option_type == MOBILITY_OPTION_ALTERNATE_CARE_OF_ADDRESS:
        return AlternateCareOfAddress(IPv6Address(data))
    if option_type == MOBILITY_OPTION_REPLAY_PROTECTION:
        return ReplayProtection(int.from_bytes(data, "big"))
    return NonceIndices(*unpack("!HH", data))
