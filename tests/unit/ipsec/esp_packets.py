"""Packets, associations and header walks the ESP tests share, independent of the codecs."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from mnagent.core.security import Direction, EspMode, EspTransform, SecurityAssociation

HOME_ADDRESS = IPv6Address("2001:db8:1::10")
CARE_OF_ADDRESS = IPv6Address("2001:db8:a::10")
HOME_AGENT = IPv6Address("2001:db8:1::1")

KEY_LENGTHS = {
    EspTransform.AES_CBC_HMAC_SHA256_128: (16, 32),
    EspTransform.AES_GCM_16: (20, 0),
    EspTransform.CHACHA20_POLY1305: (36, 0),
    EspTransform.NULL_HMAC_SHA256_128: (0, 32),
}


def association(
    direction: Direction = Direction.OUTBOUND,
    *,
    transform: EspTransform = EspTransform.AES_CBC_HMAC_SHA256_128,
    mode: EspMode = EspMode.TRANSPORT,
    spi: int = 0x1234ABCD,
    replay_window: int = 64,
    encryption_key: bytes | None = None,
) -> SecurityAssociation:
    encryption_length, integrity_length = KEY_LENGTHS[transform]
    return SecurityAssociation(
        spi=spi,
        direction=direction,
        mode=mode,
        transform=transform,
        home_address=HOME_ADDRESS,
        peer=HOME_AGENT,
        encryption_key=encryption_key or bytes(range(1, encryption_length + 1)),
        integrity_key=bytes(range(101, 101 + integrity_length)),
        replay_window=replay_window,
    )


def ipv6(
    next_header: int,
    payload: bytes,
    *,
    source: IPv6Address = CARE_OF_ADDRESS,
    destination: IPv6Address = HOME_AGENT,
    traffic_class: int = 0,
) -> bytes:
    first = 0x60000000 | traffic_class << 20
    header = struct.pack("!IHBB", first, len(payload), next_header, 64)
    return header + source.packed + destination.packed + payload


def destination_options(next_header: int) -> bytes:
    """A Destination Options header of 24 octets with the Home Address option."""
    return bytes((next_header, 2, 1, 2, 0, 0, 0xC9, 16)) + HOME_ADDRESS.packed


def routing_header(next_header: int) -> bytes:
    """A type 2 routing header."""
    return bytes((next_header, 2, 2, 1, 0, 0, 0, 0)) + HOME_ADDRESS.packed
