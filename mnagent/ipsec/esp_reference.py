"""ESP in plain Python (RFC 4303): oracle for the compiled one, and ESP of virtual-time tests.

A packet is protected where it stands: the ESP header goes after the extension headers and before
the upper layer, which is transport mode. Tunnel mode is the same operation on a packet whose
upper layer is another IPv6 packet (next header 41): the octets on the wire are those of RFC 4303
section 3.1.2, and RFC 3776 section 4.3 allows an implementation to work so.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ ---
    |               Security Parameters Index (SPI)                 | ^ authenticated
    |                        Sequence Number                        | |
    |                      initialization vector                    | | ---
    |                    payload, padding 1 2 3 ...                 | | ^ encrypted
    |                               |  Pad Length   |  Next Header  | v v
    |                   integrity check value (16)                  | ---
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

Extended sequence numbers, traffic-flow padding and dummy packets are not made; dummy packets are
recognised and refused with their own reason.
"""

from __future__ import annotations

import enum
import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from mnagent.core.security import Direction, EspMode, EspTransform, SecurityAssociation
from mnagent.ipsec.association import SecurityAssociationDatabase

PROTOCOL_HOP_BY_HOP = 0
PROTOCOL_IPV6 = 41
PROTOCOL_ROUTING = 43
PROTOCOL_FRAGMENT = 44
PROTOCOL_ESP = 50
PROTOCOL_NO_NEXT_HEADER = 59
PROTOCOL_DESTINATION_OPTIONS = 60

IPV6_HEADER_LENGTH = 40
ESP_HEADER_LENGTH = 8
INTEGRITY_CHECK_VALUE_LENGTH = 16
AES_BLOCK_LENGTH = 16
SALT_LENGTH = 4
MAX_PAYLOAD_LENGTH = 0xFFFF

_EXTENSION_HEADERS = (PROTOCOL_HOP_BY_HOP, PROTOCOL_ROUTING, PROTOCOL_DESTINATION_OPTIONS)

_VECTOR_LENGTH = {
    EspTransform.AES_CBC_HMAC_SHA256_128: 16,
    EspTransform.AES_GCM_16: 8,
    EspTransform.CHACHA20_POLY1305: 8,
    EspTransform.NULL_HMAC_SHA256_128: 0,
}
"""Octets of the explicit initialization vector (RFC 3602 2.1, RFC 4106 3.1, RFC 7634 2)."""


class EspFailure(enum.Enum):
    """Why a packet could not be unprotected."""

    TRUNCATED = "truncated"
    NOT_ESP = "not-esp"
    FRAGMENT = "fragment"
    UNKNOWN_SPI = "unknown-spi"
    REPLAYED = "replayed"
    AUTHENTICATION = "authentication"
    PADDING = "padding"
    DUMMY = "dummy"
    WRONG_MODE = "wrong-mode"


class EspError(ValueError):
    """A packet that ESP refuses; ``failure`` says why."""

    def __init__(self, failure: EspFailure) -> None:
        super().__init__(f"ESP refused the packet: {failure.value}")
        self.failure = failure


@dataclass(frozen=True, slots=True)
class _UpperLayer:
    """Where a packet's upper layer starts, and which octet names it."""

    next_header_at: int
    offset: int
    protocol: int


def protect(
    association: SecurityAssociation,
    sequence: int,
    packet: bytes,
    *,
    initialization_vector: bytes | None = None,
) -> bytes:
    """Put ESP between the extension headers and the upper layer of an IPv6 packet.

    Args:
        association: an outbound association; one in tunnel mode takes only packets that carry IPv6.
        sequence: 1 to 2**32 - 1, never used before with these keys (RFC 4303 3.3.3).
        packet: a whole IPv6 packet, in the clear.
        initialization_vector: for vectors of known answer; by default the sequence number,
        encrypted
            for CBC so that nobody can foresee it (NIST SP 800-38A, appendix C).

    Raises:
        ValueError: the packet, the sequence number or the association does not fit.
    """
    if association.direction is not Direction.OUTBOUND:
        raise ValueError("an outbound association is needed to protect a packet")
    if not 0 < sequence < 2**32:
        raise ValueError("an ESP sequence number is 1 to 2**32 - 1")
    upper = _find_upper_layer(packet)
    if association.mode is EspMode.TUNNEL and upper.protocol != PROTOCOL_IPV6:
        raise ValueError("a tunnel mode association protects IPv6 in IPv6 only")
    vector = initialization_vector
    if vector is None:
        vector = _default_vector(association, sequence)
    header = struct.pack("!II", association.spi, sequence)
    plain = _pad(association.transform, packet[upper.offset :], upper.protocol)
    return _replace_upper_layer(
        packet, upper, header + vector + _seal(association, header, vector, plain), PROTOCOL_ESP
    )


def protect_tunnel(
    association: SecurityAssociation,
    sequence: int,
    inner: bytes,
    *,
    source: IPv6Address,
    destination: IPv6Address,
) -> bytes:
    """Put a whole IPv6 packet into an ESP tunnel (RFC 4303 3.1.2).

    The outer header copies the traffic class, ECN included (RFC 6040 4.1), and has hop limit 64.
    """
    if len(inner) > MAX_PAYLOAD_LENGTH:
        raise ValueError("the packet is longer than IPv6 can carry")
    traffic_class = int.from_bytes(inner[:2], "big") & 0x0FF0
    outer = struct.pack("!HHHBB", 0x6000 | traffic_class, 0, len(inner), PROTOCOL_IPV6, 64)
    return protect(association, sequence, outer + source.packed + destination.packed + inner)


def unprotect(associations: Iterable[SecurityAssociation], packet: bytes) -> tuple[bytes, int, int]:
    """Verify and remove the ESP of an IPv6 packet.

    The association is found by SPI alone, so that a mobile node may change its address (RFC 6275
    10.3.1). Replays are the caller's to find: check the sequence number against a `ReplayWindow`.

    Returns:
        The packet without ESP (its outer header and extension headers still there, the inner IPv6
        packet as its upper layer in tunnel mode), the SPI, and the sequence number.

    Raises:
        EspError: with the reason.
    """
    upper = _find_esp(packet)
    spi, sequence = _read_esp_header(packet, upper)
    for association in associations:
        if association.spi == spi and association.direction is Direction.INBOUND:
            return _unprotect_with(association, packet, upper), spi, sequence
    raise EspError(EspFailure.UNKNOWN_SPI)


class ReferenceEsp:
    """Both directions for a set of associations, sequence numbers and replay windows kept."""

    def __init__(self, database: SecurityAssociationDatabase) -> None:
        self.database = database

    def protect(self, spi: int, packet: bytes) -> bytes:
        """Protect with the outbound association of this SPI and its next sequence number.

        Raises:
            KeyError: no such association.
            SequenceExhausted: the association's sequence numbers have run out.
        """
        association = self.database.outbound(spi)
        return protect(association, self.database.counter(spi).take(), packet)

    def unprotect(self, packet: bytes) -> tuple[bytes, int]:
        """The packet without ESP and the SPI; window checked, authenticated, then window moved.

        Raises:
            EspError: with the reason.
        """
        upper = _find_esp(packet)
        spi, sequence = _read_esp_header(packet, upper)
        association = self.database.find_inbound(spi)
        if association is None:
            raise EspError(EspFailure.UNKNOWN_SPI)
        window = self.database.window(spi)
        if not window.is_fresh(sequence):
            raise EspError(EspFailure.REPLAYED)
        plain = _unprotect_with(association, packet, upper)
        window.advance(sequence)
        return plain, spi


def _find_upper_layer(packet: bytes) -> _UpperLayer:
    """Walk the extension headers that stand before ESP.

    Raises:
        EspError: the packet is not whole, or is a fragment (RFC 4303 3.3.4 protects whole packets).
    """
    if len(packet) < IPV6_HEADER_LENGTH or packet[0] >> 4 != 6:
        raise EspError(EspFailure.TRUNCATED)
    if IPV6_HEADER_LENGTH + int.from_bytes(packet[4:6], "big") != len(packet):
        raise EspError(EspFailure.TRUNCATED)
    next_header_at, offset = 6, IPV6_HEADER_LENGTH
    while packet[next_header_at] in _EXTENSION_HEADERS:
        if offset + 2 > len(packet):
            raise EspError(EspFailure.TRUNCATED)
        next_header_at, offset = offset, offset + 8 * (packet[offset + 1] + 1)
        if offset > len(packet):
            raise EspError(EspFailure.TRUNCATED)
    if packet[next_header_at] == PROTOCOL_FRAGMENT:
        raise EspError(EspFailure.FRAGMENT)
    return _UpperLayer(next_header_at, offset, packet[next_header_at])


def _find_esp(packet: bytes) -> _UpperLayer:
    upper = _find_upper_layer(packet)
    if upper.protocol != PROTOCOL_ESP:
        raise EspError(EspFailure.NOT_ESP)
    if upper.offset + ESP_HEADER_LENGTH > len(packet):
        raise EspError(EspFailure.TRUNCATED)
    return upper


def _read_esp_header(packet: bytes, upper: _UpperLayer) -> tuple[int, int]:
    spi, sequence = struct.unpack_from("!II", packet, upper.offset)
    return spi, sequence


def _replace_upper_layer(packet: bytes, upper: _UpperLayer, content: bytes, protocol: int) -> bytes:
    payload_length = upper.offset - IPV6_HEADER_LENGTH + len(content)
    if payload_length > MAX_PAYLOAD_LENGTH:
        raise ValueError("the protected packet is longer than IPv6 can carry")
    head = bytearray(packet[: upper.offset])
    head[4:6] = payload_length.to_bytes(2, "big")
    head[upper.next_header_at] = protocol
    return bytes(head) + content


def _unprotect_with(association: SecurityAssociation, packet: bytes, upper: _UpperLayer) -> bytes:
    header_end = upper.offset + ESP_HEADER_LENGTH
    vector_end = header_end + _VECTOR_LENGTH[association.transform]
    header = packet[upper.offset : header_end]
    vector = packet[header_end:vector_end]
    sealed = packet[vector_end:]
    if len(sealed) < INTEGRITY_CHECK_VALUE_LENGTH + 2:
        raise EspError(EspFailure.TRUNCATED)
    plain = _open(association, header, vector, sealed)
    pad_length, protocol = plain[-2], plain[-1]
    content_length = len(plain) - 2 - pad_length
    if content_length < 0 or plain[content_length:-2] != bytes(range(1, pad_length + 1)):
        raise EspError(EspFailure.PADDING)
    if protocol == PROTOCOL_NO_NEXT_HEADER:
        raise EspError(EspFailure.DUMMY)
    if association.mode is EspMode.TUNNEL and protocol != PROTOCOL_IPV6:
        raise EspError(EspFailure.WRONG_MODE)
    return _replace_upper_layer(packet, upper, plain[:content_length], protocol)


def _pad(transform: EspTransform, content: bytes, protocol: int) -> bytes:
    """Pad to the cipher's block, or to 4 octets, with 1, 2, 3 ... (RFC 4303 2.4)."""
    alignment = AES_BLOCK_LENGTH if transform is EspTransform.AES_CBC_HMAC_SHA256_128 else 4
    pad_length = -(len(content) + 2) % alignment
    return content + bytes(range(1, pad_length + 1)) + bytes((pad_length, protocol))


def _default_vector(association: SecurityAssociation, sequence: int) -> bytes:
    length = _VECTOR_LENGTH[association.transform]
    counter = sequence.to_bytes(length, "big") if length else b""
    if association.transform is not EspTransform.AES_CBC_HMAC_SHA256_128:
        return counter
    key = algorithms.AES(association.encryption_key)
    block = Cipher(key, modes.ECB()).encryptor()  # one block: the nonce of SP 800-38A appendix C
    return block.update(counter) + block.finalize()


def _aead(association: SecurityAssociation) -> tuple[AESGCM | ChaCha20Poly1305, bytes]:
    key = association.encryption_key[:-SALT_LENGTH]
    salt = association.encryption_key[-SALT_LENGTH:]
    if association.transform is EspTransform.AES_GCM_16:
        return AESGCM(key), salt
    return ChaCha20Poly1305(key), salt


def _check_value(association: SecurityAssociation, authenticated: bytes) -> bytes:
    """HMAC-SHA-256-128 (RFC 4868 2.3): the first half of the digest."""
    digest = hmac.digest(association.integrity_key, authenticated, "sha256")
    return digest[:INTEGRITY_CHECK_VALUE_LENGTH]


def _seal(association: SecurityAssociation, header: bytes, vector: bytes, plain: bytes) -> bytes:
    """Ciphertext and integrity check value."""
    if association.transform.is_aead:
        cipher, salt = _aead(association)
        return cipher.encrypt(salt + vector, plain, header)
    sealed = plain
    if association.transform is EspTransform.AES_CBC_HMAC_SHA256_128:
        key = algorithms.AES(association.encryption_key)
        encryptor = Cipher(key, modes.CBC(vector)).encryptor()
        sealed = encryptor.update(plain) + encryptor.finalize()
    return sealed + _check_value(association, header + vector + sealed)


def _open(association: SecurityAssociation, header: bytes, vector: bytes, sealed: bytes) -> bytes:
    """The padded plaintext of what `_seal` made.

    Raises:
        EspError: not authentic, or not a whole number of blocks.
    """
    if association.transform.is_aead:
        cipher, salt = _aead(association)
        try:
            return cipher.decrypt(salt + vector, sealed, header)
        except InvalidTag:
            raise EspError(EspFailure.AUTHENTICATION) from None
    content = sealed[:-INTEGRITY_CHECK_VALUE_LENGTH]
    received = sealed[-INTEGRITY_CHECK_VALUE_LENGTH:]
    if not hmac.compare_digest(_check_value(association, header + vector + content), received):
        raise EspError(EspFailure.AUTHENTICATION)
    if association.transform is not EspTransform.AES_CBC_HMAC_SHA256_128:
        return content
    if len(content) % AES_BLOCK_LENGTH:
        raise EspError(EspFailure.TRUNCATED)
    key = algorithms.AES(association.encryption_key)
    decryptor = Cipher(key, modes.CBC(vector)).decryptor()
    return bytes(decryptor.update(content) + decryptor.finalize())
