"""Whatever arrives decodes to a value or raises DecodeError, and nothing else happens.

MNAGENT_FUZZ_COUNT sets the number of mutated packets (default 20000), MNAGENT_FUZZ_SEED the seed.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from mnagent.wire.buffer import DecodeError
from mnagent.wire.mobility import MINIMUM_LENGTHS, UnknownMobilityMessage
from mnagent.wire.packet import MobilityHeaderError, decode_invoking, decode_packet, encode_packet
from tests.support.mutation import load_corpus, mutations, repaired

CORPUS = load_corpus(Path(__file__).parent / "corpus")
COUNT = int(os.environ.get("MNAGENT_FUZZ_COUNT", "24000"))
SEED = int(os.environ.get("MNAGENT_FUZZ_SEED", "6275"))


def outcome_of(data: bytes) -> str:
    """Decode; check the error, or that the value has one canonical form."""
    try:
        packet = decode_packet(data)
    except DecodeError as error:
        assert 0 <= error.offset <= len(data)
        if isinstance(error, MobilityHeaderError):
            return error.problem.value
        return type(error).__name__
    try:
        octets = encode_packet(packet)
    except ValueError as error:
        # The one thing that is received and never sent (RFC 6275 7.4).
        assert "home agent lifetime" in str(error)
    else:
        assert decode_packet(octets) == packet
    return type(packet.payload).__name__


@pytest.mark.parametrize("name", CORPUS)
def test_corpus_packet_decodes_and_encodes_to_the_same_octets(name: str) -> None:
    assert encode_packet(decode_packet(CORPUS[name])) == CORPUS[name]


def test_corpus_holds_every_mobility_message() -> None:
    payloads = [decode_packet(data).payload for data in CORPUS.values()]
    types = {payload.message_type for payload in payloads if hasattr(payload, "message_type")}
    assert types >= set(MINIMUM_LENGTHS)
    assert any(isinstance(payload, UnknownMobilityMessage) for payload in payloads)


def test_mutated_packets_decode_or_raise_decode_error() -> None:
    seen = set()
    packets = mutations(list(CORPUS.values()), Random(SEED))
    for number, data in enumerate(islice(packets, COUNT)):
        try:
            seen.add(outcome_of(data))
        except Exception as error:
            error.add_note(f"packet {number} of seed {SEED}: {data.hex()}")
            raise
    if COUNT >= 24000:
        assert seen >= {
            "BindingUpdate",
            "BindingAcknowledgement",
            "UnknownMobilityMessage",
            "RouterAdvertisement",
            "IPv6Packet",
            "EspPacket",
            "RawPayload",
            "DecodeError",
            "ChecksumError",
            "checksum",
            "payload-protocol",
            "header-length",
            "truncated",
            "option",
        }


def test_quoted_packets_mutated_decode_or_raise_decode_error() -> None:
    packets = mutations(list(CORPUS.values()), Random(SEED + 1))
    for data in islice(packets, COUNT // 10):
        try:
            decode_invoking(data)
        except DecodeError as error:
            assert 0 <= error.offset <= len(data)


def test_mutations_of_one_seed_are_the_same_packets() -> None:
    corpus = list(CORPUS.values())
    first, second = (list(islice(mutations(corpus, Random(1)), 200)) for _ in range(2))
    assert first == second


def test_repaired_packet_that_was_whole_stays_the_same() -> None:
    for data in CORPUS.values():
        assert repaired(data) == data or data[0] != 0x60 or data[4:6] == bytes(2)
