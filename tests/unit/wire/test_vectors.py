"""The packets of tests/vectors/wire.toml, drawn by hand, against the codecs."""

from __future__ import annotations

import math
import tomllib
from dataclasses import MISSING, fields, is_dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from mnagent.wire.packet import decode_packet, encode_packet

VECTORS = tomllib.loads(
    (Path(__file__).parents[2] / "vectors" / "wire.toml").read_text(encoding="utf-8")
)["vector"]


def plain(value: Any) -> Any:
    """A value as the vector file writes it: fields that have their default are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = {"kind": type(value).__name__}
        for field in fields(value):
            content = getattr(value, field.name)
            if field.default is MISSING or content != field.default:
                shown[field.name] = plain(content)
        return shown
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, IPv6Address):
        return str(value)
    return "infinite" if value == math.inf else value


def octets_of(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex("".join(vector["hex"].split()))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector_decoded_is_the_written_form(vector: dict[str, Any]) -> None:
    assert plain(decode_packet(octets_of(vector))) == vector["decoded"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector_encoded_has_the_written_octets(vector: dict[str, Any]) -> None:
    octets = octets_of(vector)
    encoded = encode_packet(decode_packet(octets))
    assert (encoded == octets) is vector.get("canonical", True)
    assert decode_packet(encoded) == decode_packet(octets)


def test_vectors_have_a_source_and_a_name_of_their_own() -> None:
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)
    assert all("RFC" in vector["source"] for vector in VECTORS)
