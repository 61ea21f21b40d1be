"""The list of conformance rows and the report over it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.conformance.report import Row, compare, load_rows, render

GROUP_SIZES = {
    "FMT": 29,
    "MHP": 10,
    "CN": 60,
    "HA": 66,
    "MN": 55,
    "RR": 12,
    "MOV": 21,
    "RET": 11,
    "DHA": 7,
    "MPD": 7,
    "SEC": 18,
    "NEMO": 10,
    "MCOA": 9,
    "EXT": 15,
    "OPS": 6,
}


def row(name: str, reason: str = "") -> Row:
    return Row(
        id=name, role="HA", section="RFC 6275 9.2", when="it", then="does", level="", reason=reason
    )


def test_rows_are_complete_and_numbered_without_gaps() -> None:
    rows = load_rows()
    assert Counter(each.group for each in rows) == GROUP_SIZES
    for group, size in GROUP_SIZES.items():
        names = [each.id for each in rows if each.group == group]
        assert names == [f"{group}-{number:02d}" for number in range(1, size + 1)]
    assert all(each.when and each.then and each.role and each.level for each in rows)


def test_rows_with_a_name_twice_raise(tmp_path: Path) -> None:
    text = '[[row]]\nid = "HA-01"\nrole = "HA"\nsection = ""\nwhen = "a"\nthen = "b"\nlevel = "c"\n'
    path = tmp_path / "rows.toml"
    path.write_text(text * 2)
    with pytest.raises(ValueError, match="twice"):
        load_rows(path)


def test_report_tells_covered_waiting_and_missing_rows_apart() -> None:
    rows = [row("HA-01"), row("HA-02", "not yet"), row("HA-03"), row("FMT-01", "no excuse")]
    coverage = compare(rows, {"HA-01": ["test_a"], "HA-99": ["test_b"]})
    assert list(coverage.covered) == [rows[0]]
    assert coverage.waiting == [rows[1]]
    assert coverage.missing == [rows[2], rows[3]]
    assert coverage.unknown == {"HA-99": ["test_b"]}
    assert not coverage.is_complete
    text = render(coverage)
    assert "1 of 4 rows have tests" in text
    assert "HA-99" in text and "not yet" in text


def test_report_of_rows_with_tests_or_reasons_is_complete() -> None:
    coverage = compare([row("HA-01"), row("HA-02", "not yet")], {"HA-01": ["test_a"]})
    assert coverage.is_complete
