"""ESP header and trailer."""

from __future__ import annotations

import pytest

from mnagent.wire.buffer import DecodeError
from mnagent.wire.esp import EspPacket, add_trailer, decode_esp, encode_esp, remove_trailer


def test_esp_packet_has_its_fields_in_place() -> None:
    packet = EspPacket(0x01020304, 0xA0B0C0D0, b"data")
    assert encode_esp(packet) == bytes.fromhex("01020304a0b0c0d0") + b"data"
    assert decode_esp(encode_esp(packet), 40) == packet


@pytest.mark.parametrize("spi", [0, -1, 1 << 32])
def test_esp_packet_with_a_wrong_spi_is_refused(spi: int) -> None:
    with pytest.raises(ValueError, match="SPI"):
        encode_esp(EspPacket(spi, 1, b""))


@pytest.mark.parametrize("data", ["", "00000001000000", "0000000000000001"])
def test_esp_packet_cut_or_with_spi_zero_raises_decode_error(data: str) -> None:
    with pytest.raises(DecodeError) as raised:
        decode_esp(bytes.fromhex(data), 40)
    assert raised.value.offset == 40


@pytest.mark.parametrize("block_size", [4, 16, 256])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 14, 15, 16, 100])
def test_trailer_added_fills_blocks_and_comes_off(size: int, block_size: int) -> None:
    payload = bytes(range(size))
    plaintext = add_trailer(payload, 135, block_size=block_size)
    assert len(plaintext) % block_size == 0
    assert remove_trailer(plaintext) == (payload, 135)


def test_trailer_padding_counts_from_one() -> None:
    assert add_trailer(b"\xaa", 41) == bytes.fromhex("aa010129")
    assert add_trailer(b"", 41, block_size=8) == bytes.fromhex("0102030405060629")


@pytest.mark.parametrize(
    ("plaintext", "offset"), [("", 0), ("29", 0), ("010329", 0), ("aa020129", 1), ("00ff29", 0)]
)
def test_trailer_that_is_wrong_raises_decode_error(plaintext: str, offset: int) -> None:
    with pytest.raises(DecodeError) as raised:
        remove_trailer(bytes.fromhex(plaintext))
    assert raised.value.offset == offset
