"""Building and bending packets by the octet, for tests of what peers may send."""

from __future__ import annotations

from ipaddress import IPv6Address

from mnagent.wire.checksum import upper_layer_checksum
from mnagent.wire.ipv6 import ExtensionHeader, IPv6Packet, RawPayload
from mnagent.wire.packet import encode_packet

SOURCE = IPv6Address("2001:db8:2::10")
DESTINATION = IPv6Address("2001:db8:1::1")
HOME_ADDRESS = IPv6Address("2001:db8:1::10")


def with_checksum(
    data: bytes,
    next_header: int,
    *,
    source: IPv6Address = SOURCE,
    destination: IPv6Address = DESTINATION,
    at: int | None = None,
    covered: int | None = None,
) -> bytes:
    """``data`` with its checksum made, over the first ``covered`` octets (default all).

    The field is at ``at``, by default where Mobility Header (135) or ICMPv6 (58) has it.
    """
    at = at if at is not None else {135: 4, 58: 2}[next_header]
    blank = data[:at] + bytes(2) + data[at + 2 :]
    checksum = upper_layer_checksum(source, destination, next_header, blank[:covered])
    return blank[:at] + checksum.to_bytes(2, "big") + blank[at + 2 :]


def packet_of(
    next_header: int,
    data: bytes,
    *,
    source: IPv6Address = SOURCE,
    destination: IPv6Address = DESTINATION,
    extension_headers: tuple[ExtensionHeader, ...] = (),
) -> bytes:
    """An IPv6 packet around payload octets, taken as they are."""
    packet = IPv6Packet(
        source, destination, RawPayload(next_header, data), extension_headers=extension_headers
    )
    return encode_packet(packet)


def mobility_packet(header: str | bytes, *, covered: int | None = None) -> bytes:
    """A packet with this Mobility Header (hexadecimal or octets) and a right checksum."""
    data = bytes.fromhex(header) if isinstance(header, str) else header
    return packet_of(135, with_checksum(data, 135, covered=covered))


def icmp6_packet(message: str | bytes) -> bytes:
    """A packet with this ICMPv6 message (hexadecimal or octets) and a right checksum."""
    data = bytes.fromhex(message) if isinstance(message, str) else message
    return packet_of(58, with_checksum(data, 58))
