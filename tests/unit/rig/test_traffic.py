"""What connections carry."""

from __future__ import annotations

from mnagent.rig.traffic import PATTERN, pattern_at


def test_pattern_continues_where_it_left_off() -> None:
    whole = pattern_at(0, 200_000)
    assert len(whole) == 200_000
    for position in (0, 1, 999, len(PATTERN) - 1, len(PATTERN), 150_000):
        assert pattern_at(position, 1000) == whole[position : position + 1000]


def test_pattern_shifted_looks_wrong() -> None:
    assert pattern_at(1, 1000) != pattern_at(0, 1000)
