"""Interface identifiers: stable and opaque (RFC 7217), from the link-layer address, or random."""

from __future__ import annotations

import enum
import hashlib
import hmac
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Final

from mnagent.autoconf.constants import INTERFACE_IDENTIFIER_BITS

EUI48_LENGTH: Final = 6
"""Octets."""
_IDENTIFIER_OCTETS: Final = INTERFACE_IDENTIFIER_BITS // 8
_UNIVERSAL_LOCAL_BIT: Final = 0x02


class IdentifierKind(enum.Enum):
    """How the lower 64 bits of an address are made."""

    STABLE = "stable"
    """The same in the same prefix, unrelated in others (RFC 7217)."""
    EUI64 = "eui64"
    """From the link-layer address, the same everywhere (RFC 4291 2.5.1)."""
    TEMPORARY = "temporary"
    """Random, and another one each day (RFC 8981)."""


def eui64_identifier(link_layer_address: bytes) -> int:
    """The modified EUI-64 of a 48-bit link-layer address (RFC 2464 4).

    Raises:
        ValueError: it has not six octets.
    """
    if len(link_layer_address) != EUI48_LENGTH:
        raise ValueError(
            f"link-layer address of {len(link_layer_address)} octets, not {EUI48_LENGTH}"
        )
    first = link_layer_address[0] ^ _UNIVERSAL_LOCAL_BIT
    octets = bytes((first,)) + link_layer_address[1:3] + b"\xff\xfe" + link_layer_address[3:]
    return int.from_bytes(octets, "big")


def stable_identifier(
    secret: bytes, prefix: IPv6Network, *, interface_name: str, duplicates: int = 0
) -> int:
    """The identifier F(prefix, interface, counter, secret) of RFC 7217 section 5.

    ``duplicates`` counts the addresses in this prefix that turned out to be in use. Reserved
    identifiers are passed over.
    """
    counter = 0
    while True:
        text = f"{prefix.with_prefixlen}|{interface_name}|{duplicates}|{counter}"
        digest = hmac.new(secret, text.encode(), hashlib.sha256).digest()
        identifier = int.from_bytes(digest[:_IDENTIFIER_OCTETS], "big")
        if not is_reserved_identifier(identifier):
            return identifier
        counter += 1


def random_identifier(random: Random) -> int:
    """A random identifier (RFC 8981 3.3.1)."""
    while True:
        identifier = random.getrandbits(INTERFACE_IDENTIFIER_BITS)
        if not is_reserved_identifier(identifier):
            return identifier


def is_reserved_identifier(identifier: int) -> bool:
    """Whether the identifier belongs to anycast or to proxies (RFC 5453)."""
    return (
        identifier == 0
        or 0x02005EFFFE000000 <= identifier <= 0x02005EFFFE00FFFF
        or identifier == 0x02005EFFFE005213
        or 0xFDFFFFFFFFFFFF80 <= identifier <= 0xFDFFFFFFFFFFFFFF
    )


def make_address(prefix: IPv6Network, identifier: int) -> IPv6Address:
    """The address with this identifier in a prefix of 64 bits."""
    return IPv6Address(int(prefix.network_address) | identifier)
