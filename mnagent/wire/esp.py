"""ESP framing (RFC 4303 2): the header in the clear, and the trailer inside what is encrypted.

Keys and transforms are not the business of this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack, unpack_from
from typing import Final

from mnagent.wire.buffer import DecodeError, unsigned

ESP_HEADER_LENGTH: Final = 8


@dataclass(frozen=True, slots=True)
class EspPacket:
    """A protected payload, as it is on the wire::

    +---------------------------------------------------------------+
    |               Security Parameters Index (SPI)                 |
    +---------------------------------------------------------------+
    |                      Sequence Number                          |
    +---------------------------------------------------------------+
    |  data: initialisation vector, ciphertext, integrity check ... |
    """

    spi: int
    """1 to 2**32 - 1; 0 is never on the wire (RFC 4303 2.1)."""
    sequence: int
    data: bytes


def encode_esp(packet: EspPacket) -> bytes:
    """Octets of the packet; ValueError when a field does not fit."""
    spi = unsigned(packet.spi, 32, "SPI")
    if spi == 0:
        raise ValueError("SPI 0 is never on the wire")
    return pack("!II", spi, unsigned(packet.sequence, 32, "sequence number")) + packet.data


def decode_esp(data: bytes, offset: int) -> EspPacket:
    """Decode the ESP packet that fills ``data``, at ``offset`` of its IPv6 packet."""
    if len(data) < ESP_HEADER_LENGTH:
        raise DecodeError("ESP header is cut off", offset)
    spi, sequence = unpack_from("!II", data)
    if spi == 0:
        raise DecodeError("ESP with SPI 0", offset)
    return EspPacket(spi, sequence, data[ESP_HEADER_LENGTH:])


def add_trailer(payload: bytes, next_header: int, *, block_size: int = 4) -> bytes:
    """What to encrypt: payload, padding 1, 2, 3 ..., Pad Length, Next Header (RFC 4303 2.4).

    The result is a multiple of ``block_size`` octets (4 at least, 256 at most).
    """
    length = -(len(payload) + 2) % block_size
    return payload + bytes(range(1, length + 1)) + bytes((length, next_header))


def remove_trailer(plaintext: bytes) -> tuple[bytes, int]:
    """The payload and its Next Header; DecodeError when the padding is not that of RFC 4303 2.4.

    The offset of the error counts within the plaintext.
    """
    if len(plaintext) < 2:
        raise DecodeError("ESP trailer is cut off", 0)
    length, next_header = plaintext[-2], plaintext[-1]
    end = len(plaintext) - 2 - length
    if end < 0 or plaintext[end:-2] != bytes(range(1, length + 1)):
        raise DecodeError("ESP padding is wrong", max(end, 0))
    return plaintext[:end], next_header
