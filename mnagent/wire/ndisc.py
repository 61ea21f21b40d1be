"""Neighbour discovery messages and options (RFC 4861 4), with the changes of RFC 6275 7.

Times are seconds; milliseconds and 0xffffffff exist only on the wire. What depends on the packet
around a message (hop limit 255, a link-local source) is for the receiver to check.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from ipaddress import IPv6Address, IPv6Network
from struct import pack, unpack_from
from typing import ClassVar, Final

from mnagent.wire import constants
from mnagent.wire.buffer import DecodeError, milliseconds, unsigned
from mnagent.wire.constants import ND_INFINITE_LIFETIME

INFINITE_LIFETIME: Final = math.inf
"""A lifetime that never ends."""


@dataclass(frozen=True, slots=True)
class SourceLinkLayerAddress:
    """Link-layer address of the sender (RFC 4861 4.6.1)."""

    address: bytes
    """6, 14, 22 ... octets."""


@dataclass(frozen=True, slots=True)
class TargetLinkLayerAddress:
    """Link-layer address of the target (RFC 4861 4.6.1)."""

    address: bytes
    """6, 14, 22 ... octets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixInformation:
    """A prefix of the link (RFC 4861 4.6.2, RFC 6275 7.2)."""

    address: IPv6Address
    """The prefix, or the router's whole global address when ``router_address`` is set."""
    prefix_length: int = 64
    on_link: bool = True
    autonomous: bool = True
    router_address: bool = False
    """The R flag: ``address`` is an address of the sending router."""
    valid_lifetime: float
    """Seconds, or INFINITE_LIFETIME."""
    preferred_lifetime: float
    """Seconds, or INFINITE_LIFETIME."""

    @property
    def prefix(self) -> IPv6Network:
        """The prefix alone, without the host bits of a router address."""
        return IPv6Network((self.address, self.prefix_length), strict=False)


@dataclass(frozen=True, slots=True)
class RedirectedHeader:
    """The packet that a Redirect is about (RFC 4861 4.6.3)."""

    data: bytes
    """As much of it as fits; the encoder fills it up with zeros to a multiple of 8 octets."""


@dataclass(frozen=True, slots=True)
class Mtu:
    """MTU of the link (RFC 4861 4.6.4)."""

    mtu: int
    """Octets."""


@dataclass(frozen=True, slots=True)
class AdvertisementInterval:
    """Longest time between two unsolicited advertisements of this router (RFC 6275 7.3)."""

    interval: float
    """Seconds; the wire carries milliseconds."""

    @classmethod
    def of_router(cls, max_interval: float) -> AdvertisementInterval:
        """The option for a router's MaxRtrAdvInterval (seconds): 20 ms more below 200 ms (7.5)."""
        return cls(max_interval + (0.02 if max_interval < 0.2 else 0))


@dataclass(frozen=True, slots=True)
class HomeAgentInformation:
    """What a home agent says of itself (RFC 6275 7.4)."""

    preference: int
    """Higher is preferred; 0 where the option is missing."""
    lifetime: int
    """Seconds, up to 65535. Never sent as 0; a receiver takes 0 as the end (RFC 6275 10.5.1)."""


@dataclass(frozen=True, slots=True)
class Nonce:
    """Random octets that tell our own looped-back solicitation (RFC 3971 5.3.2, RFC 7527)."""

    data: bytes
    """6, 14, 22 ... octets."""


@dataclass(frozen=True, slots=True)
class UnknownNdOption:
    """Any other option, kept as it is; receivers ignore it."""

    option_type: int
    data: bytes
    """6, 14, 22 ... octets."""


NdOption = (
    SourceLinkLayerAddress
    | TargetLinkLayerAddress
    | PrefixInformation
    | RedirectedHeader
    | Mtu
    | AdvertisementInterval
    | HomeAgentInformation
    | Nonce
    | UnknownNdOption
)


@dataclass(frozen=True, slots=True)
class RouterSolicitation:
    """Asks routers to advertise now (RFC 4861 4.1)."""

    message_type: ClassVar[int] = constants.ICMPV6_ROUTER_SOLICITATION
    options: tuple[NdOption, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterAdvertisement:
    """A router and its link (RFC 4861 4.2, RFC 6275 7.1)."""

    message_type: ClassVar[int] = constants.ICMPV6_ROUTER_ADVERTISEMENT
    current_hop_limit: int = 0
    """0: unspecified."""
    managed: bool = False
    other: bool = False
    home_agent: bool = False
    """The H flag: the router is a home agent on this link."""
    router_lifetime: int = 0
    """Seconds, up to 65535; 0: no default router."""
    reachable_time: float = 0
    """Seconds; 0: unspecified."""
    retransmission_timer: float = 0
    """Seconds; 0: unspecified."""
    options: tuple[NdOption, ...] = ()


@dataclass(frozen=True, slots=True)
class NeighborSolicitation:
    """Asks for the link-layer address of a target, or whether anyone has it (RFC 4861 4.3)."""

    message_type: ClassVar[int] = constants.ICMPV6_NEIGHBOR_SOLICITATION
    target: IPv6Address
    options: tuple[NdOption, ...] = ()


@dataclass(frozen=True, slots=True)
class NeighborAdvertisement:
    """Tells the link-layer address of a target (RFC 4861 4.4)."""

    message_type: ClassVar[int] = constants.ICMPV6_NEIGHBOR_ADVERTISEMENT
    target: IPv6Address
    _: KW_ONLY
    router: bool = False
    solicited: bool = False
    override: bool = False
    options: tuple[NdOption, ...] = ()


@dataclass(frozen=True, slots=True)
class Redirect:
    """A better first hop (RFC 4861 4.5)."""

    message_type: ClassVar[int] = constants.ICMPV6_REDIRECT
    target: IPv6Address
    destination: IPv6Address
    options: tuple[NdOption, ...] = ()


NdMessage = (
    RouterSolicitation
    | RouterAdvertisement
    | NeighborSolicitation
    | NeighborAdvertisement
    | Redirect
)

# Options: type, length in units of 8 octets, data.

_FIXED_LENGTHS: Final = {
    constants.ND_PREFIX_INFORMATION: 32,
    constants.ND_MTU: 8,
    constants.ND_ADVERTISEMENT_INTERVAL: 8,
    constants.ND_HOME_AGENT_INFORMATION: 8,
}
"""Octets of the options that have one size."""
_KNOWN: Final = {
    *_FIXED_LENGTHS,
    constants.ND_SOURCE_LINK_LAYER_ADDRESS,
    constants.ND_TARGET_LINK_LAYER_ADDRESS,
    constants.ND_REDIRECTED_HEADER,
    constants.ND_NONCE,
}

_ON_LINK: Final = 0x80
_AUTONOMOUS: Final = 0x40
_ROUTER_ADDRESS: Final = 0x20
_MAX_PREFIX_LENGTH: Final = 128


def _framed(option_type: int, data: bytes) -> bytes:
    size = len(data) + 2
    if size % 8:
        raise ValueError(f"option {option_type} of {size} octets is no multiple of 8")
    return bytes((option_type, unsigned(size // 8, 8, "option length"))) + data


def _encode_lifetime(lifetime: float) -> int:
    if lifetime == INFINITE_LIFETIME:
        return ND_INFINITE_LIFETIME
    return unsigned(lifetime, 32, "lifetime")


def _decode_lifetime(field: int) -> float:
    return INFINITE_LIFETIME if field == ND_INFINITE_LIFETIME else field


def _encode_prefix_information(option: PrefixInformation) -> bytes:
    length = option.prefix_length
    if not 0 <= length <= _MAX_PREFIX_LENGTH:
        raise ValueError(f"prefix length {length} is not within 0 to {_MAX_PREFIX_LENGTH}")
    flags = (
        _ON_LINK * option.on_link
        | _AUTONOMOUS * option.autonomous
        | _ROUTER_ADDRESS * option.router_address
    )
    lifetimes = _encode_lifetime(option.valid_lifetime), _encode_lifetime(option.preferred_lifetime)
    data = pack("!BBIIxxxx", length, flags, *lifetimes) + option.address.packed
    return _framed(constants.ND_PREFIX_INFORMATION, data)


def _encode_option(option: NdOption) -> bytes:
    match option:
        case SourceLinkLayerAddress(address):
            return _framed(constants.ND_SOURCE_LINK_LAYER_ADDRESS, address)
        case TargetLinkLayerAddress(address):
            return _framed(constants.ND_TARGET_LINK_LAYER_ADDRESS, address)
        case PrefixInformation():
            return _encode_prefix_information(option)
        case RedirectedHeader(data):
            return _framed(constants.ND_REDIRECTED_HEADER, bytes(6) + data + bytes(-len(data) % 8))
        case Mtu(mtu):
            return _framed(constants.ND_MTU, pack("!xxI", unsigned(mtu, 32, "MTU")))
        case AdvertisementInterval(interval):
            field = milliseconds(interval, 32, "advertisement interval")
            return _framed(constants.ND_ADVERTISEMENT_INTERVAL, pack("!xxI", field))
        case HomeAgentInformation(preference, lifetime):
            if lifetime == 0:
                raise ValueError("a home agent lifetime of 0 is never sent")
            fields = unsigned(preference, 16, "preference"), unsigned(lifetime, 16, "lifetime")
            return _framed(constants.ND_HOME_AGENT_INFORMATION, pack("!xxHH", *fields))
        case Nonce(data):
            return _framed(constants.ND_NONCE, data)
        case _:
            if option.option_type in _KNOWN:
                raise ValueError(f"option type {option.option_type} has a class of its own")
            return _framed(unsigned(option.option_type, 8, "option type"), option.data)


def encode_nd_options(options: Iterable[NdOption]) -> bytes:
    """Octets of a list of options; ValueError when a field does not fit."""
    return b"".join(map(_encode_option, options))


def decode_nd_options(data: bytes, offset: int) -> tuple[NdOption, ...]:
    """Decode the options that fill ``data``, which starts at ``offset`` of its packet."""
    options = []
    position, end = 0, len(data)
    while position < end:
        if end - position < 8:
            raise DecodeError("option is cut off", offset + position)
        length = data[position + 1] * 8
        if not 0 < length <= end - position:
            raise DecodeError("option of a wrong length", offset + position + 1)
        options.append(_decode_option(data[position : position + length], offset + position))
        position += length
    return tuple(options)


def _decode_option(data: bytes, offset: int) -> NdOption:
    option_type = data[0]
    if len(data) != _FIXED_LENGTHS.get(option_type, len(data)):
        raise DecodeError(f"option {option_type} of {len(data)} octets", offset + 1)
    match option_type:
        case constants.ND_SOURCE_LINK_LAYER_ADDRESS:
            return SourceLinkLayerAddress(data[2:])
        case constants.ND_TARGET_LINK_LAYER_ADDRESS:
            return TargetLinkLayerAddress(data[2:])
        case constants.ND_PREFIX_INFORMATION:
            return _decode_prefix_information(data, offset)
        case constants.ND_REDIRECTED_HEADER:
            return RedirectedHeader(data[8:])
        case constants.ND_MTU:
            return Mtu(int.from_bytes(data[4:8], "big"))
        case constants.ND_ADVERTISEMENT_INTERVAL:
            return AdvertisementInterval(int.from_bytes(data[4:8], "big") / 1000)
        case constants.ND_HOME_AGENT_INFORMATION:
            return HomeAgentInformation(*unpack_from("!HH", data, 4))
        case constants.ND_NONCE:
            return Nonce(data[2:])
        case _:
            return UnknownNdOption(option_type, data[2:])


def _decode_prefix_information(data: bytes, offset: int) -> PrefixInformation:
    length, flags, valid, preferred = unpack_from("!BBII", data, 2)
    if length > _MAX_PREFIX_LENGTH:
        raise DecodeError(f"prefix length {length}", offset + 2)
    return PrefixInformation(
        address=IPv6Address(data[16:32]),
        prefix_length=length,
        on_link=bool(flags & _ON_LINK),
        autonomous=bool(flags & _AUTONOMOUS),
        router_address=bool(flags & _ROUTER_ADDRESS),
        valid_lifetime=_decode_lifetime(valid),
        preferred_lifetime=_decode_lifetime(preferred),
    )


# Messages. The body is what follows type, code and checksum; it starts at octet 4.

_MANAGED: Final = 0x80
_OTHER: Final = 0x40
_HOME_AGENT: Final = 0x20
_ROUTER: Final = 0x80000000
_SOLICITED: Final = 0x40000000
_OVERRIDE: Final = 0x20000000


def encode_nd_body(message: NdMessage) -> bytes:
    """What follows the ICMPv6 header of four octets; ValueError when a field does not fit."""
    match message:
        case RouterSolicitation():
            fixed = bytes(4)
        case RouterAdvertisement():
            fixed = _encode_router_advertisement(message)
        case NeighborSolicitation(target):
            fixed = bytes(4) + target.packed
        case NeighborAdvertisement(target):
            flags = (
                _ROUTER * message.router
                | _SOLICITED * message.solicited
                | _OVERRIDE * message.override
            )
            fixed = pack("!I", flags) + target.packed
        case _:
            fixed = bytes(4) + message.target.packed + message.destination.packed
    return fixed + encode_nd_options(message.options)


def _encode_router_advertisement(message: RouterAdvertisement) -> bytes:
    flags = _MANAGED * message.managed | _OTHER * message.other | _HOME_AGENT * message.home_agent
    return pack(
        "!BBHII",
        unsigned(message.current_hop_limit, 8, "current hop limit"),
        flags,
        unsigned(message.router_lifetime, 16, "router lifetime"),
        milliseconds(message.reachable_time, 32, "reachable time"),
        milliseconds(message.retransmission_timer, 32, "retransmission timer"),
    )


MINIMUM_LENGTHS: Final = {
    constants.ICMPV6_ROUTER_SOLICITATION: 8,
    constants.ICMPV6_ROUTER_ADVERTISEMENT: 16,
    constants.ICMPV6_NEIGHBOR_SOLICITATION: 24,
    constants.ICMPV6_NEIGHBOR_ADVERTISEMENT: 24,
    constants.ICMPV6_REDIRECT: 40,
}
"""Octets of a message without options, the ICMPv6 header included."""


def decode_nd_message(data: bytes, offset: int) -> NdMessage:
    """Decode a whole message, at ``offset`` of its packet, that MINIMUM_LENGTHS was checked for."""
    message_type = data[0]
    start = MINIMUM_LENGTHS[message_type]
    options = decode_nd_options(data[start:], offset + start)
    if message_type == constants.ICMPV6_ROUTER_SOLICITATION:
        return RouterSolicitation(options)
    if message_type == constants.ICMPV6_ROUTER_ADVERTISEMENT:
        return _decode_router_advertisement(data, options)
    target = IPv6Address(data[8:24])
    if target.is_multicast:
        raise DecodeError("target is multicast", offset + 8)
    if message_type == constants.ICMPV6_NEIGHBOR_SOLICITATION:
        return NeighborSolicitation(target, options)
    if message_type == constants.ICMPV6_REDIRECT:
        return Redirect(target, IPv6Address(data[24:40]), options)
    flags = int.from_bytes(data[4:8], "big")
    return NeighborAdvertisement(
        target,
        router=bool(flags & _ROUTER),
        solicited=bool(flags & _SOLICITED),
        override=bool(flags & _OVERRIDE),
        options=options,
    )


def _decode_router_advertisement(data: bytes, options: tuple[NdOption, ...]) -> RouterAdvertisement:
    hop_limit, flags, lifetime, reachable, retransmission = unpack_from("!BBHII", data, 4)
    return RouterAdvertisement(
        current_hop_limit=hop_limit,
        managed=bool(flags & _MANAGED),
        other=bool(flags & _OTHER),
        home_agent=bool(flags & _HOME_AGENT),
        router_lifetime=lifetime,
        reachable_time=reachable / 1000,
        retransmission_timer=retransmission / 1000,
        options=options,
    )
