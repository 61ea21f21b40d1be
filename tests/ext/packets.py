"""Building and reading packets slowly and plainly, independent of the engine and of
`mnagent.wire`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address

TCP, UDP, IPV6, ROUTING, FRAGMENT, ESP, ICMPV6, DESTINATION_OPTIONS, MOBILITY = (
    *(6, 17, 41, 43, 44, 50, 58, 60, 135),
)
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
NEEDS_CHECKSUM, GSO_TCPV6, GSO_UDP, GSO_ECN = 1, 4, 5, 0x80


def checksum(data: bytes) -> int:
    """RFC 1071, the obvious way."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return total


def pseudo_header(source: bytes, destination: bytes, length: int, protocol: int) -> bytes:
    return source + destination + struct.pack(">IxxxB", length, protocol)


def ipv6(
    source: IPv6Address,
    destination: IPv6Address,
    protocol: int,
    payload: bytes,
    *,
    traffic_class: int = 0,
    flow_label: int = 0,
    hop_limit: int = 64,
) -> bytes:
    first = 6 << 28 | traffic_class << 20 | flow_label
    head = struct.pack(">IHBB", first, len(payload), protocol, hop_limit)
    return head + source.packed + destination.packed + payload


def upper_layer(packet: bytes) -> int:
    """The sum over pseudo-header and payload: 0xffff when the checksum is right."""
    return checksum(
        pseudo_header(packet[8:24], packet[24:40], len(packet) - 40, packet[6]) + packet[40:]
    )


def with_checksum(packet: bytes, field: int) -> bytes:
    blank = packet[:field] + b"\0\0" + packet[field + 2 :]
    value = ~upper_layer(blank) & 0xFFFF
    return blank[:field] + value.to_bytes(2, "big") + blank[field + 2 :]


def tcp(
    source: IPv6Address,
    destination: IPv6Address,
    data: bytes,
    *,
    sequence: int = 1000,
    flags: int = ACK,
    options: bytes = b"",
    acknowledgement: int = 77,
    ports: tuple[int, int] = (4000, 80),
    traffic_class: int = 0,
) -> bytes:
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack(">HHIIBBHHH", *ports, sequence, acknowledgement, offset, flags, 512, 0, 0)
    packet = ipv6(source, destination, TCP, head + options + data, traffic_class=traffic_class)
    return with_checksum(packet, 56)


def udp(
    source: IPv6Address, destination: IPv6Address, data: bytes, *, traffic_class: int = 0
) -> bytes:
    head = struct.pack(">HHHH", 5000, 6000, 8 + len(data), 0)
    return with_checksum(
        ipv6(source, destination, UDP, head + data, traffic_class=traffic_class), 46
    )


def home_address_option(home_address: IPv6Address, next_header: int) -> bytes:
    """A destination options header of 24 octets (RFC 6275 6.3)."""
    return bytes([next_header, 2, 1, 2, 0, 0, 0xC9, 16]) + home_address.packed


def type2_routing_header(home_address: IPv6Address, next_header: int) -> bytes:
    return bytes([next_header, 2, 2, 1, 0, 0, 0, 0]) + home_address.packed


@dataclass(frozen=True)
class Offload:
    """The virtio header."""

    flags: int = 0
    kind: int = 0
    header_length: int = 0
    size: int = 0
    start: int = 0
    offset: int = 0

    def encode(self) -> bytes:
        return struct.pack(
            "<BBHHHH",
            *(self.flags, self.kind, self.header_length, self.size, self.start, self.offset),
        )

    @classmethod
    def decode(cls, data: bytes) -> Offload:
        return cls(*struct.unpack("<BBHHHH", data[:10]))


def super_packet(packet: bytes, size: int, *, kind: int = GSO_TCPV6) -> tuple[bytes, bytes]:
    """Turn one long TCP packet into what the kernel hands over: (packet, virtio header)."""
    partial = checksum(pseudo_header(packet[8:24], packet[24:40], len(packet) - 40, TCP))
    packet = packet[:56] + partial.to_bytes(2, "big") + packet[58:]
    return packet, Offload(NEEDS_CHECKSUM, kind, 72, size, 40, 16).encode()


def segments(packet: bytes, offload: Offload) -> list[bytes]:
    """What a super-packet stands for, cut slowly."""
    if not offload.kind:
        return [packet]
    if offload.kind == GSO_UDP:
        return datagrams(packet, offload)
    head = offload.start + (packet[offload.start + 12] >> 4) * 4
    data = packet[head:]
    made = []
    for at in range(0, len(data), offload.size):
        piece = data[at : at + offload.size]
        flags = packet[53]
        if at + len(piece) < len(data):
            flags &= ~(FIN | PSH)
        if at and offload.kind & GSO_ECN:
            flags &= ~CWR
        sequence = (int.from_bytes(packet[44:48], "big") + at) % (1 << 32)
        segment = packet[:4] + struct.pack(">H", head - 40 + len(piece)) + packet[6:44]
        segment += struct.pack(">I", sequence) + packet[48:53] + bytes([flags])
        segment += packet[54:head] + piece
        made.append(with_checksum(segment, 56))
    return made


def datagrams(packet: bytes, offload: Offload) -> list[bytes]:
    """The same for one of UDP."""
    made = []
    for at in range(48, len(packet), offload.size):
        piece = packet[at : at + offload.size]
        length = struct.pack(">H", 8 + len(piece))
        datagram = packet[:4] + length + packet[6:44] + length + bytes(2) + piece
        made.append(with_checksum(datagram, 46))
    return made


def written_packets(records: list[bytes]) -> list[bytes]:
    """All single packets that writes to the TUN device stand for."""
    return [
        packet for record in records for packet in segments(record[10:], Offload.decode(record))
    ]
