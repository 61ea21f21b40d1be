"""``mnagent bench crypto``: how much ESP traffic this processor can carry, by cipher and size."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass

from mnagent.cli.errors import EXIT_FAILED, EXIT_OK, CommandError
from mnagent.cli.processor import description, has_aes

SIZES = (100, 576, 1400)
"""Octets of packet before ESP: voice, small, and as large as a link carries."""
FIRST_ROUNDS = 200
LEAST_GAIN = 1.1
"""Times as fast another cipher must be to be worth a word."""

Measure = Callable[..., tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One cipher as it is called on the command line and in key files."""

    name: str
    transform: str
    key: int
    """Octets, salt included."""
    integrity_key: int = 0
    by_hand: bool = False
    """Whether key files may name it (RFC 8221 3: no counter may start anew with the same key)."""


SUITES = (
    Suite(
        name="aes-cbc-128",
        transform="aes-cbc-hmac-sha256-128",
        key=16,
        integrity_key=32,
        by_hand=True,
    ),
    Suite(
        name="aes-cbc-256",
        transform="aes-cbc-hmac-sha256-128",
        key=32,
        integrity_key=32,
        by_hand=True,
    ),
    Suite(name="aes-gcm-128", transform="aes-gcm-16", key=20),
    Suite(name="aes-gcm-256", transform="aes-gcm-16", key=36),
    Suite(name="chacha20-poly1305", transform="chacha20-poly1305", key=36),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one cipher does with packets of one size, on one core."""

    cipher: str
    octets: int
    seal_microseconds: float
    open_microseconds: float
    megabits_per_second: float
    """Of the slower of both directions."""
    by_hand: bool


def main(arguments: argparse.Namespace, measure: Measure | None = None) -> int:
    """Measure all of them, and say which to choose."""
    if measure is None:
        try:
            from mnagent.datapath._speed import measure as measure_speed
        except ImportError as error:
            raise CommandError(
                f"the compiled data path does not load: {error}", EXIT_FAILED
            ) from None
        measure = measure_speed
    results = [
        _result(suite, octets, arguments.seconds, measure) for suite in SUITES for octets in SIZES
    ]
    aes = has_aes(description())
    if arguments.json:
        document = {
            "aes_instructions": aes,
            "results": [asdict(result) for result in results],
            "choice": choice(results),
        }
        print(json.dumps(document, indent=2))
    else:
        _show(results, aes=aes)
    return EXIT_OK


def _result(suite: Suite, octets: int, seconds: float, measure: Measure) -> Result:
    key, integrity_key = os.urandom(suite.key), os.urandom(suite.integrity_key)

    def take(rounds: int) -> tuple[float, float]:
        return measure(
            transform=suite.transform,
            key=key,
            integrity_key=integrity_key,
            length=octets,
            rounds=rounds,
        )

    guess = max(sum(take(FIRST_ROUNDS)), 1e-9) / FIRST_ROUNDS
    rounds = max(FIRST_ROUNDS, int(seconds / guess))
    sealing, opening = (each / rounds for each in take(rounds))
    return Result(
        cipher=suite.name,
        octets=octets,
        seal_microseconds=round(sealing * 1e6, 3),
        open_microseconds=round(opening * 1e6, 3),
        megabits_per_second=round(octets * 8 / max(sealing, opening, 1e-12) / 1e6, 1),
        by_hand=suite.by_hand,
    )


def choice(results: list[Result]) -> dict[str, str]:
    """The fastest for large packets: of all ciphers, and of those that key files may name.

    The longer key is taken where it costs less than a tenth more.
    """
    large = [result for result in results if result.octets == max(SIZES)]
    by_hand = [result for result in large if result.by_hand]
    return {"key_files": _fastest(by_hand).cipher, "any": _fastest(large).cipher}


def _fastest(results: list[Result]) -> Result:
    best = max(result.megabits_per_second for result in results)
    near = [result for result in results if result.megabits_per_second * LEAST_GAIN >= best]
    return max(near, key=lambda result: ("128" not in result.cipher, result.megabits_per_second))


def _show(results: list[Result], *, aes: bool) -> None:
    print(f"This processor has {'' if aes else 'no '}instructions for AES.")
    print("ESP on one core, Mbit/s (the slower of sealing and opening):")
    print()
    print(f"{'':20}" + "".join(f"{size:>8} B" for size in SIZES))
    for suite in SUITES:
        own = {result.octets: result for result in results if result.cipher == suite.name}
        row = "".join(f"{own[size].megabits_per_second:>10.0f}" for size in SIZES)
        print(f"{suite.name:20}{row}{'   key files' if suite.by_hand else ''}")
    chosen = choice(results)
    print()
    print(f"With key files: mnagent keygen --encryption {chosen['key_files']}")
    if chosen["any"] != chosen["key_files"]:
        print(
            f"The fastest here is {chosen['any']}, which key files may not name: after a restart "
            "its counter could repeat (RFC 8221)."
        )
