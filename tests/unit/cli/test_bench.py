"""``mnagent bench crypto``: what it measures, and what it tells to choose."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mnagent.cli import bench, keygen, main, processor
from mnagent.datapath._speed import measure

X86 = "processor : 0\nflags\t\t: fpu aes sse\n"
RASPBERRY_PI_4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"


def fake(costs: dict[int, float]) -> bench.Measure:
    """A processor on which a packet takes so many seconds, by octets of key."""

    def take(*, key: bytes, rounds: int, **_: Any) -> tuple[float, float]:
        return costs[len(key)] * rounds, costs[len(key)] * rounds / 2

    return take


def run(arguments: list[str], measured: bench.Measure) -> int:
    return bench.main(main.build_parser().parse_args(["bench", "crypto", *arguments]), measured)


def test_fastest_is_told_of_all_and_of_those_for_key_files(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["--json"], fake({16: 3e-6, 32: 4e-6, 20: 3e-6, 36: 2e-6})) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["choice"]["key_files"] == "aes-cbc-128"
    assert "256" in document["choice"]["any"] or "chacha" in document["choice"]["any"]
    slow = next(one for one in document["results"] if one["cipher"] == "aes-cbc-128")
    assert slow["seal_microseconds"] == 3.0
    assert slow["megabits_per_second"] == pytest.approx(slow["octets"] * 8 / 3, abs=0.1)


def test_longer_key_is_chosen_where_it_costs_little_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run([], fake({16: 3e-6, 32: 3.2e-6, 20: 9e-6, 36: 9e-6})) == 0
    shown = capsys.readouterr().out
    assert "keygen --encryption aes-cbc-256" in shown
    assert "may not name" not in shown


def test_cipher_that_key_files_may_not_name_is_told_with_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run([], fake({16: 3e-6, 32: 4e-6, 20: 1e-6, 36: 2e-6}))
    assert "The fastest here is aes-gcm-128, which key files may not name" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("suite", bench.SUITES, ids=lambda suite: suite.name)
def test_engine_seals_and_opens_as_often_as_asked(suite: bench.Suite) -> None:
    sealing, opening = measure(
        transform=suite.transform,
        key=bytes(suite.key),
        integrity_key=bytes(suite.integrity_key),
        length=1400,
        rounds=50,
    )
    assert sealing > 0
    assert opening > 0


def test_engine_refuses_keys_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        measure(transform="aes-gcm-16", key=b"short", integrity_key=b"", length=1, rounds=1)


@pytest.mark.parametrize(("text", "expected"), [(X86, True), (RASPBERRY_PI_4, False), ("", False)])
def test_aes_instructions_are_found_on_both_architectures(text: str, expected: bool) -> None:
    assert processor.has_aes(text) is expected


@pytest.mark.parametrize(
    ("text", "encryption", "told"),
    [
        (RASPBERRY_PI_4, "aes-cbc-256", True),
        (RASPBERRY_PI_4, "aes-cbc-128", False),
        (X86, "", False),
    ],
)
def test_keygen_tells_of_a_processor_without_aes(
    text: str,
    encryption: str,
    told: bool,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(keygen, "description", lambda: text)
    words = ["keygen", "--home-address", "2001:db8::1", "--home-agent", "2001:db8::2"]
    words += ["-o", str(tmp_path), *(["--encryption", encryption] if encryption else [])]
    assert keygen.main(main.build_parser().parse_args(words)) == 0
    assert ("mnagent bench crypto" in capsys.readouterr().out) is told
