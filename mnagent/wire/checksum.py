"""The Internet checksum (RFC 1071) and its IPv6 pseudo-header form (RFC 8200 8.1)."""

from __future__ import annotations

from ipaddress import IPv6Address


def internet_checksum(data: bytes) -> int:
    """Complement of the ones' complement sum of ``data``; an odd last octet is padded with zero.

    Over data that holds its own correct checksum the answer is 0.
    """
    number = int.from_bytes(data, "big")
    if len(data) % 2:
        number <<= 8
    # A ones' complement sum of 16-bit words is the number itself modulo 65535: 65536 is 1 there.
    total = number % 0xFFFF
    if total == 0 and number:
        total = 0xFFFF
    return 0xFFFF - total


def upper_layer_checksum(
    source: IPv6Address, destination: IPv6Address, next_header: int, data: bytes
) -> int:
    """Checksum of an upper-layer packet with the IPv6 pseudo-header.

    ``source`` and ``destination`` are the logical ones: the home address of a Home Address option
    and the final destination of a routing header (RFC 6275 6.1.1, 6.3).
    """
    return internet_checksum(
        b"".join(
            (
                source.packed,
                destination.packed,
                len(data).to_bytes(4, "big"),
                next_header.to_bytes(4, "big"),
                data,
            )
        )
    )
