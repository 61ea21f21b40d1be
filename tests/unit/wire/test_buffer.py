"""Range checks of the encoders, and the decoders' one error."""

from __future__ import annotations

import math

import pytest

from mnagent.wire.buffer import DecodeError, milliseconds, sized, unsigned


@pytest.mark.parametrize(("value", "bits"), [(0, 8), (255, 8), (255.9, 8), (65535, 16)])
def test_unsigned_within_its_bits_is_truncated_to_an_integer(value: float, bits: int) -> None:
    assert unsigned(value, bits, "field") == int(value)


@pytest.mark.parametrize(
    ("value", "bits"), [(-1, 8), (256, 8), (65536, 16), (math.inf, 32), (math.nan, 32)]
)
def test_unsigned_outside_its_bits_raises_value_error(value: float, bits: int) -> None:
    with pytest.raises(ValueError, match=f"field {value} does not fit {bits} bits"):
        unsigned(value, bits, "field")


def test_sized_of_another_length_raises_value_error() -> None:
    assert sized(b"abc", 3, "cookie") == b"abc"
    with pytest.raises(ValueError, match="cookie is 3 octets, not 8"):
        sized(b"abc", 8, "cookie")


def test_milliseconds_rounds_to_the_nearest() -> None:
    assert milliseconds(0.0296, 32, "timer") == 30


def test_milliseconds_for_ever_raises_value_error() -> None:
    with pytest.raises(ValueError, match="timer"):
        milliseconds(math.inf, 32, "timer")


def test_decode_error_tells_reason_and_offset() -> None:
    error = DecodeError("nonsense", 7)
    assert (error.reason, error.offset, str(error)) == ("nonsense", 7, "nonsense (octet 7)")
