"""Deterministic mutation of packets for fuzz tests: the same seed gives the same packets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from mnagent.wire.buffer import DecodeError
from mnagent.wire.ipv6 import RawPayload
from mnagent.wire.packet import decode_invoking
from tests.support.octets import with_checksum

_INTERESTING = (0, 1, 2, 5, 0x0C, 16, 0x3A, 0x3B, 0x3C, 41, 50, 0x7F, 0x80, 0x87, 0xC9, 0xFE, 0xFF)
_CHECKSUM_END = {58: 4, 135: 6}


def load_corpus(folder: Path) -> dict[str, bytes]:
    """The packets of a folder of ``*.hex`` files, by name."""
    return {path.stem: bytes.fromhex(path.read_text()) for path in sorted(folder.glob("*.hex"))}


def mutations(corpus: Sequence[bytes], random: Random) -> Iterator[bytes]:
    """Packets bent out of ``corpus``, without end.

    Half of them get their payload length and checksum repaired, so that what lies behind those
    checks is reached too.
    """
    while True:
        data = bytearray(random.choice(corpus))
        for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
            _mutate(data, corpus, random)
        yield repaired(bytes(data)) if random.random() < 0.5 else bytes(data)


def _mutate(data: bytearray, corpus: Sequence[bytes], random: Random) -> None:
    at = random.randrange(len(data) + 1)
    match random.randrange(6):
        case 0 if at < len(data):
            data[at] ^= 1 << random.randrange(8)
        case 1 if at < len(data):
            data[at] = random.choice(_INTERESTING)
        case 2:
            del data[at:]
        case 3:
            del data[at : at + random.choice((1, 2, 4, 8, 16))]
        case 4:
            data[at:at] = random.randbytes(random.choice((1, 2, 4, 8, 16)))
        case _:
            other = random.choice(corpus)
            start = random.randrange(len(other))
            data[at:at] = other[start : start + random.randrange(1, 64)]


def repaired(data: bytes) -> bytes:
    """The packet with its payload length and outermost checksum made right, as far as it is one."""
    if len(data) < 40:
        return data
    data = bytes((0x60,)) + data[1:4] + min(len(data) - 40, 0xFFFF).to_bytes(2, "big") + data[6:]
    try:
        packet = decode_invoking(data)
    except DecodeError:
        return data
    payload = packet.payload
    assert isinstance(payload, RawPayload)
    if len(payload.data) < _CHECKSUM_END.get(payload.next_header, len(payload.data) + 1):
        return data
    covered = (payload.data[1] + 1) * 8 if payload.next_header == 135 else None
    fixed = with_checksum(
        payload.data,
        payload.next_header,
        source=packet.logical_source,
        destination=packet.logical_destination,
        covered=covered,
    )
    return data[: len(data) - len(fixed)] + fixed
