"""Packets by hand, from the figures of the RFCs: the tester's own codec, which shares nothing with
the one under test and can say what that one never would.

Building: `mobility` and the functions after it make Mobility Headers with a checksum of zero,
`packet` puts headers before a payload and fills the checksum in. Reading: `read_packet`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address

HOP_BY_HOP, ROUTING, FRAGMENT, ESP, NO_NEXT, DESTINATION_OPTIONS = 0, 43, 44, 50, 59, 60
IPV6, UDP, ICMP, MOBILITY = 41, 17, 58, 135

REFRESH_REQUEST, HOME_TEST_INIT, CARE_OF_TEST_INIT, HOME_TEST, CARE_OF_TEST = 0, 1, 2, 3, 4
BINDING_UPDATE, BINDING_ACKNOWLEDGEMENT, BINDING_ERROR = 5, 6, 7
HOME_AGENT_SWITCH, BINDING_REVOCATION = 12, 16
UNKNOWN_MESSAGE = 200
REVOCATION_INDICATION, REVOCATION_ACKNOWLEDGEMENT = 1, 2
"""Binding revocation types (RFC 5846 section 5)."""

ACKNOWLEDGE, HOME, LINK_LOCAL, KEY_MANAGEMENT = 0x8000, 0x4000, 0x2000, 0x1000
"""Flags of a Binding Update."""

UNREACHABLE, TOO_BIG, TIME_EXCEEDED, PARAMETER_PROBLEM = 1, 2, 3, 4
ECHO_REQUEST, ECHO_REPLY = 128, 129
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 133, 134
NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT, REDIRECT = 135, 136, 137
DISCOVERY_REQUEST, DISCOVERY_REPLY, PREFIX_SOLICITATION, PREFIX_ADVERTISEMENT = 144, 145, 146, 147

ALL_NODES = IPv6Address("ff02::1")
ALL_ROUTERS = IPv6Address("ff02::2")
UNSPECIFIED = IPv6Address("::")

_IPV6_HEADER = struct.Struct("!IHBB16s16s")


def checksum(source: IPv6Address, destination: IPv6Address, protocol: int, data: bytes) -> int:
    """Over the pseudo-header of RFC 8200 section 8.1 and the data; 0 where the data has a good
    one in it."""
    covered = source.packed + destination.packed + struct.pack("!II", len(data), protocol) + data
    covered += b"\0" * (len(covered) % 2)
    total = sum(struct.unpack(f"!{len(covered) // 2}H", covered))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


# Mobility Header


@dataclass(frozen=True, slots=True)
class Option:
    """A mobility option and where it must begin, as ``modulus`` n + ``remainder``."""

    kind: int
    data: bytes
    modulus: int = 1
    remainder: int = 0

    @property
    def octets(self) -> bytes:
        """As sent."""
        return bytes([self.kind, len(self.data)]) + self.data


def padding(length: int) -> bytes:
    """Pad1 or PadN."""
    if length < 2:
        return bytes(length)
    return bytes([1, length - 2, *[0] * (length - 2)])


def alternate_care_of_address(address: IPv6Address) -> Option:
    """Section 6.2.5."""
    return Option(3, address.packed, 8, 6)


def nonce_indices(home: int, care_of: int) -> Option:
    """Section 6.2.6."""
    return Option(4, struct.pack("!HH", home, care_of), 2, 0)


AUTHORIZATION = Option(5, bytes(12), 8, 2)
"""Section 6.2.7, still without its authenticator; see `authorize`."""


def mobile_node_identifier(identifier: str, subtype: int = 1) -> Option:
    """RFC 4283 section 3; 1 is a network access identifier."""
    return Option(8, bytes([subtype]) + identifier.encode())


def message_identifier(timestamp: int) -> Option:
    """RFC 4285 section 6."""
    return Option(10, struct.pack("!Q", timestamp), 8, 2)


def message_authentication(spi: int, authenticator: bytes = bytes(12), subtype: int = 1) -> Option:
    """RFC 4285 section 5; 1 is between mobile node and home agent."""
    return Option(9, struct.pack("!BI", subtype, spi) + authenticator, 4, 1)


def mobility(
    kind: int,
    body: bytes,
    *options: Option,
    payload_protocol: int = NO_NEXT,
    header_length: int | None = None,
    reserved: int = 0,
) -> bytes:
    """A Mobility Header with its options aligned and padded, checksum zero (section 6.1.1)."""
    data = bytes(6) + body
    for option in options:
        data += padding((option.remainder - len(data)) % option.modulus) + option.octets
    data += padding(-len(data) % 8)
    length = len(data) // 8 - 1 if header_length is None else header_length
    return bytes([payload_protocol, length, kind, reserved, 0, 0]) + data[6:]


def home_test_init(cookie: bytes) -> bytes:
    """Section 6.1.3."""
    return mobility(HOME_TEST_INIT, bytes(2) + cookie)


def care_of_test_init(cookie: bytes) -> bytes:
    """Section 6.1.4."""
    return mobility(CARE_OF_TEST_INIT, bytes(2) + cookie)


def home_test(nonce_index: int, cookie: bytes, token: bytes) -> bytes:
    """Section 6.1.5."""
    return mobility(HOME_TEST, struct.pack("!H", nonce_index) + cookie + token)


def care_of_test(nonce_index: int, cookie: bytes, token: bytes) -> bytes:
    """Section 6.1.6."""
    return mobility(CARE_OF_TEST, struct.pack("!H", nonce_index) + cookie + token)


def binding_update(
    sequence: int, *options: Option, lifetime: int, flags: int = ACKNOWLEDGE
) -> bytes:
    """Section 6.1.7; the lifetime in seconds."""
    return mobility(BINDING_UPDATE, struct.pack("!HHH", sequence, flags, lifetime // 4), *options)


def binding_acknowledgement(
    sequence: int, *options: Option, lifetime: int, status: int = 0, flags: int = 0
) -> bytes:
    """Section 6.1.8; the lifetime in seconds."""
    body = struct.pack("!BBHH", status, flags, sequence, lifetime // 4)
    return mobility(BINDING_ACKNOWLEDGEMENT, body, *options)


def binding_error(status: int, home_address: IPv6Address) -> bytes:
    """Section 6.1.9."""
    return mobility(BINDING_ERROR, bytes([status, 0]) + home_address.packed)


def home_agent_switch(*home_agents: IPv6Address) -> bytes:
    """RFC 5142 section 4."""
    listed = b"".join(address.packed for address in home_agents)
    return mobility(HOME_AGENT_SWITCH, bytes([len(home_agents), 0]) + listed)


def binding_revocation(kind: int, detail: int, sequence: int, flags: int = 0) -> bytes:
    """RFC 5846 sections 5.1 and 5.2; ``detail`` is the trigger or the status, flags P 0x8000,
    V 0x4000, G 0x2000."""
    return mobility(BINDING_REVOCATION, struct.pack("!BBHH", kind, detail, sequence, flags))


def binding_key(home_token: bytes, care_of_token: bytes = b"") -> bytes:
    """Kbm (section 5.2.5)."""
    return hashlib.sha1(home_token + care_of_token).digest()


def authenticator(
    key: bytes, care_of_address: IPv6Address, correspondent: IPv6Address, message: bytes
) -> bytes:
    """Of a message that ends with an authenticator and has a checksum of zero (section 6.2.7)."""
    data = care_of_address.packed + correspondent.packed + message[:4] + bytes(2) + message[6:-12]
    return hmac.new(key, data, "sha1").digest()[:12]


def authorize(
    key: bytes, care_of_address: IPv6Address, correspondent: IPv6Address, message: bytes
) -> bytes:
    """The message with its authenticator filled in."""
    return message[:-12] + authenticator(key, care_of_address, correspondent, message)


# ICMPv6, its checksum zero


def icmp(kind: int, code: int, body: bytes) -> bytes:
    """Any message; ``body`` is what follows the checksum."""
    return bytes([kind, code, 0, 0]) + body


def echo_request(sequence: int, data: bytes = b"") -> bytes:
    """RFC 4443 section 4.1."""
    return icmp(ECHO_REQUEST, 0, struct.pack("!HH", 0xB0B, sequence) + data)


def link_layer_option(kind: int, address: bytes) -> bytes:
    """1 source, 2 target (RFC 4861 section 4.6.1)."""
    return bytes([kind, 1]) + address


def neighbor_solicitation(target: IPv6Address, source_mac: bytes | None) -> bytes:
    """RFC 4861 section 4.3."""
    option = link_layer_option(1, source_mac) if source_mac else b""
    return icmp(NEIGHBOR_SOLICITATION, 0, bytes(4) + target.packed + option)


def neighbor_advertisement(target: IPv6Address, mac: bytes, flags: int = 0x60) -> bytes:
    """RFC 4861 section 4.4; flags R 0x80, S 0x40, O 0x20."""
    return icmp(
        NEIGHBOR_ADVERTISEMENT,
        0,
        bytes([flags, 0, 0, 0]) + target.packed + link_layer_option(2, mac),
    )


def prefix_information(
    prefix: IPv6Address, *, flags: int = 0xC0, valid: int = 3600, preferred: int = 3600
) -> bytes:
    """RFC 4861 section 4.6.2, of 64 bits; flags L 0x80, A 0x40, R 0x20."""
    return struct.pack("!BBBBIII", 3, 4, 64, flags, valid, preferred, 0) + prefix.packed


def router_advertisement(*options: bytes, lifetime: int = 1800, flags: int = 0) -> bytes:
    """RFC 4861 section 4.2; flags M 0x80, O 0x40, H 0x20."""
    return icmp(
        ROUTER_ADVERTISEMENT,
        0,
        struct.pack("!BBHII", 64, flags, lifetime, 0, 0) + b"".join(options),
    )


def home_agent_information(preference: int, lifetime: int) -> bytes:
    """Section 7.4, the lifetime in seconds."""
    return struct.pack("!BBHHH", 8, 1, 0, preference, lifetime)


def identified(kind: int, identifier: int, body: bytes = b"", *, flags: int = 0) -> bytes:
    """Home agent address discovery and mobile prefix discovery (sections 6.5 to 6.8)."""
    return icmp(kind, 0, struct.pack("!HH", identifier, flags) + body)


def error(kind: int, code: int, value: int, quoted: bytes) -> bytes:
    """An ICMPv6 error: ``value`` is pointer, MTU or unused."""
    return icmp(kind, code, struct.pack("!I", value) + quoted[: 1280 - 48])


# Whole packets


@dataclass(frozen=True, slots=True)
class Header:
    """An extension header: its number, and all of it but the number of the next."""

    protocol: int
    rest: bytes


def destination_options(*options: bytes) -> Header:
    """Padded to a multiple of 8 octets."""
    data = b"".join(options)
    data += padding(-(len(data) + 2) % 8)
    return Header(DESTINATION_OPTIONS, bytes([(len(data) + 2) // 8 - 1]) + data)


def home_address_option(address: IPv6Address) -> Header:
    """Section 6.3, aligned to 8n + 6."""
    return destination_options(padding(4), bytes([0xC9, 16]) + address.packed)


def routing_header(
    address: IPv6Address, *, kind: int = 2, segments_left: int = 1, length: int = 2
) -> Header:
    """Section 6.4."""
    return Header(ROUTING, bytes([length, kind, segments_left, 0, 0, 0, 0]) + address.packed)


def packet(
    source: IPv6Address,
    destination: IPv6Address,
    payload: bytes,
    *headers: Header,
    protocol: int = MOBILITY,
    hop_limit: int = 64,
    good_checksum: bool = True,
) -> bytes:
    """A packet. The checksum of a Mobility Header or ICMPv6 message is filled in over the home
    address of a Home Address option and of a type 2 routing header (section 6.1.1)."""
    first, last = source, destination
    for header in headers:
        if header.protocol == DESTINATION_OPTIONS and b"\xc9\x10" in header.rest:
            at = header.rest.index(b"\xc9\x10") + 2
            first = IPv6Address(header.rest[at : at + 16])
        elif header.protocol == ROUTING and header.rest[1] == 2:
            last = IPv6Address(header.rest[7:23])
    at = {MOBILITY: 4, ICMP: 2, UDP: 6}.get(protocol)
    if at is not None:
        # What follows a Mobility Header is not covered.
        covered = payload[: 8 * (payload[1] + 1)] if protocol == MOBILITY else payload
        sum_ = checksum(first, last, protocol, covered) ^ (0 if good_checksum else 0x5A5A)
        payload = payload[:at] + struct.pack("!H", sum_) + payload[at + 2 :]
    chain = [*(header.protocol for header in headers), protocol]
    body = b"".join(
        bytes([next_]) + header.rest for header, next_ in zip(headers, chain[1:], strict=True)
    )
    start = _IPV6_HEADER.pack(
        6 << 28,
        len(body) + len(payload),
        chain[0],
        hop_limit,
        source.packed,
        destination.packed,
    )
    return start + body + payload


def datagram(source_port: int, destination_port: int, data: bytes) -> bytes:
    """UDP, its checksum zero."""
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(data), 0) + data


# Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A Mobility Header, its fixed part still octets."""

    payload_protocol: int
    header_length: int
    kind: int
    reserved: int
    body: bytes
    options: dict[int, bytes]
    offsets: dict[int, int]
    """Where each option begins, from the Mobility Header's first octet."""
    octets: bytes

    @property
    def sequence(self) -> int:
        """Of a Binding Update or Acknowledgement."""
        at = 0 if self.kind == BINDING_UPDATE else 2
        return int.from_bytes(self.body[at : at + 2], "big")

    @property
    def lifetime(self) -> int:
        """Of both, in seconds."""
        return int.from_bytes(self.body[4:6], "big") * 4

    @property
    def flags(self) -> int:
        """Of a Binding Update, 16 bits; of an Acknowledgement, 8 bits."""
        if self.kind == BINDING_UPDATE:
            return int.from_bytes(self.body[2:4], "big")
        return self.body[1]

    @property
    def status(self) -> int:
        """Of a Binding Acknowledgement or Error."""
        return self.body[0]

    @property
    def revocation(self) -> tuple[int, int, int]:
        """Of a binding revocation: its type, trigger or status, and sequence number."""
        return self.body[0], self.body[1], int.from_bytes(self.body[2:4], "big")

    @property
    def home_agents(self) -> list[IPv6Address]:
        """Of a Home Agent Switch."""
        return addresses_of(self.body[2:])

    @property
    def home_address(self) -> IPv6Address:
        """Of a Binding Error."""
        return IPv6Address(self.body[2:18])

    @property
    def nonce_index(self) -> int:
        """Of a Home Test or Care-of Test."""
        return int.from_bytes(self.body[:2], "big")

    @property
    def cookie(self) -> bytes:
        """Of the four messages of return routability."""
        return self.body[2:10]

    @property
    def token(self) -> bytes:
        """Of a Home Test or Care-of Test."""
        return self.body[10:18]

    @property
    def alternate_care_of_address(self) -> IPv6Address | None:
        """Of a Binding Update."""
        return IPv6Address(self.options[3]) if 3 in self.options else None


_FIXED = {0: 2, 1: 10, 2: 10, 3: 18, 4: 18, 5: 6, 6: 6, 7: 18, 16: 6}
"""Octets of a message's fixed part after the checksum."""


def addresses_of(data: bytes) -> list[IPv6Address]:
    """Those that follow each other in a message."""
    return [IPv6Address(data[at : at + 16]) for at in range(0, len(data), 16)]


def read_mobility(data: bytes) -> Message:
    """Raises ValueError or IndexError for what is none."""
    if len(data) != 8 * (data[1] + 1):
        raise ValueError("the header length is wrong")
    end = 6 + _FIXED.get(data[2], len(data) - 6)
    if data[2] == HOME_AGENT_SWITCH:
        end = 8 + 16 * data[6]
    options, offsets, at = {}, {}, end
    while at < len(data):
        if data[at] == 0:
            at += 1
            continue
        length = data[at + 1]
        if at + 2 + length > len(data):
            raise ValueError("an option is too long")
        if data[at] != 1:
            options[data[at]] = data[at + 2 : at + 2 + length]
            offsets[data[at]] = at
        at += 2 + length
    return Message(
        payload_protocol=data[0],
        header_length=data[1],
        kind=data[2],
        reserved=data[3],
        body=data[6:end],
        options=options,
        offsets=offsets,
        octets=data,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A received packet, down to its upper layer."""

    source: IPv6Address
    destination: IPv6Address
    hop_limit: int
    headers: Sequence[tuple[int, bytes]]
    """Number and octets of the extension headers, in order."""
    protocol: int
    payload: bytes
    octets: bytes
    spi: int | None = None
    """Of the ESP that was taken off."""
    icv_is_good: bool = True
    home_address: IPv6Address | None = None
    """In the Home Address option."""
    routed_to: IPv6Address | None = None
    """In the type 2 routing header."""
    header_numbers: Sequence[int] = field(default=())
    """Extension headers, ESP and upper layer, in order."""

    @property
    def message(self) -> Message | None:
        """The Mobility Header, if it is one."""
        return read_mobility(self.payload) if self.protocol == MOBILITY else None

    @property
    def inner(self) -> Packet | None:
        """What it carries, if it is a tunnel's."""
        return read_packet(self.payload) if self.protocol == IPV6 else None

    @property
    def icmp_type(self) -> int | None:
        """Of an ICMPv6 message."""
        return self.payload[0] if self.protocol == ICMP else None

    @property
    def identifier(self) -> int:
        """Of a message of home agent address discovery or mobile prefix discovery."""
        return int.from_bytes(self.payload[4:6], "big")

    @property
    def target(self) -> IPv6Address | None:
        """Of a Neighbor Solicitation or Advertisement."""
        if self.icmp_type in (NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT):
            return IPv6Address(self.payload[8:24])
        return None

    @property
    def checksum_is_good(self) -> bool:
        """Of the upper layer, over the addresses that section 6.1.1 names."""
        source = self.home_address or self.source
        destination = self.routed_to or self.destination
        return checksum(source, destination, self.protocol, self.payload) == 0


def read_packet(data: bytes) -> Packet:
    """Raises ValueError, IndexError or struct.error for what is no packet."""
    word, length, following, hop_limit, source, destination = _IPV6_HEADER.unpack_from(data)
    if word >> 28 != 6:
        raise ValueError("no IPv6")
    data = data[: 40 + length]
    headers, at = [], 40
    home_address = routed_to = None
    while following in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS):
        header = data[at : at + 8 * (data[at + 1] + 1)]
        headers.append((following, header))
        if following == ROUTING and header[2] == 2:
            routed_to = IPv6Address(header[8:24])
        elif following == DESTINATION_OPTIONS:
            home_address = _home_address(header) or home_address
        following, at = header[0], at + len(header)
    return Packet(
        source=IPv6Address(source),
        destination=IPv6Address(destination),
        hop_limit=hop_limit,
        headers=headers,
        protocol=following,
        payload=data[at:],
        octets=data,
        home_address=home_address,
        routed_to=routed_to,
        header_numbers=(*(number for number, _ in headers), following),
    )


def _home_address(header: bytes) -> IPv6Address | None:
    at = 2
    while at < len(header):
        if header[at] == 0:
            at += 1
            continue
        if header[at] == 0xC9:
            return IPv6Address(header[at + 2 : at + 18])
        at += 2 + header[at + 1]
    return None


def without_esp(received: Packet, protocol: int, payload: bytes, *, good: bool) -> Packet:
    """The packet with its ESP taken off."""
    return replace(
        received,
        protocol=protocol,
        payload=payload,
        spi=int.from_bytes(received.payload[:4], "big"),
        icv_is_good=good,
        header_numbers=(*received.header_numbers, protocol),
    )
