"""Checks shared by the codecs: the one error a decoder raises, and range checks of the encoders."""

from __future__ import annotations


class DecodeError(ValueError):
    """The octets are no valid packet: the peer's fault. Nothing else leaves a decoder."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} (octet {offset})")
        self.reason = reason
        """What is wrong, in words."""
        self.offset = offset
        """Octet it points at, counted from the start of the innermost IPv6 packet that holds it."""


class ChecksumError(DecodeError):
    """The upper-layer checksum does not match (RFC 8200 8.1)."""


def unsigned(value: float, bits: int, name: str) -> int:
    """``value`` as an unsigned field of ``bits`` bits; ValueError when it does not fit."""
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{name} {value} does not fit {bits} bits")
    return int(value)


def sized(data: bytes, size: int, name: str) -> bytes:
    """``data`` when it is ``size`` octets long; ValueError otherwise."""
    if len(data) != size:
        raise ValueError(f"{name} is {len(data)} octets, not {size}")
    return data


def milliseconds(seconds: float, bits: int, name: str) -> int:
    """A span in seconds as an unsigned field in milliseconds, rounded to the nearest."""
    return unsigned(seconds * 1000 + 0.5, bits, name)
