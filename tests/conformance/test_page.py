"""The conformance report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.page import build, main, render
from tests.conformance.report import ROOT, Row, load_rows


def row(name: str, reason: str = "") -> Row:
    return Row(
        id=name,
        role="HA",
        section="RFC 6275 9.2",
        when="a < b",
        then="does",
        level="MUST",
        reason=reason,
    )


def ran(name: str, *rows: str, result: str = "passed", outside: bool = False) -> dict[str, Any]:
    return {"test": name, "rows": list(rows), "is_black_box": outside, "result": result}


def test_report_tells_passed_failed_skipped_waiting_and_missing_rows_apart() -> None:
    rows = [row(f"HA-0{number}") for number in range(1, 5)] + [row("HA-05", "not yet")]
    tests = [
        ran("a", "HA-01", "HA-02", outside=True),
        ran("b", "HA-02", result="failed"),
        ran("c", "HA-03", result="skipped"),
    ]
    report = build(rows, tests)
    assert [each.result for each in report.rows] == [
        "passed",
        "failed",
        "skipped",
        "missing",
        "waiting",
    ]
    assert report.black_box == 2
    assert not report.is_good


@pytest.mark.parametrize(
    ("rows", "tests"),
    [
        ([row("HA-01")], [ran("a", "HA-01", result="failed")]),
        ([row("HA-01")], [ran("a", "HA-01"), ran("b", "HA-01", result="skipped")]),
        ([row("HA-01")], []),
        ([row("FMT-01", "no excuse")], []),
        ([row("HA-01")], [ran("a", "HA-01", "HA-99")]),
    ],
    ids=["failed", "skipped", "missing", "no-excuse", "unknown"],
)
def test_report_with_a_fault_is_not_good(rows: list[Row], tests: list[dict[str, Any]]) -> None:
    assert not build(rows, tests).is_good


def test_report_counts_the_later_run_of_a_test() -> None:
    tests = [ran("a", "HA-01", result="failed"), ran("a", "HA-01")]
    assert build([row("HA-01")], tests).is_good


def test_page_holds_every_row_and_nothing_from_elsewhere() -> None:
    page = render(build([row("HA-01"), row("HA-02", "not yet")], [ran("a<b", "HA-01")]))
    assert "HA-01" in page and "not yet" in page
    assert "a &lt; b" in page and "a&lt;b" in page
    assert "<!--" not in page
    assert "http" not in page and "src=" not in page and "@import" not in page


def test_main_writes_both_files_and_tells_by_its_status(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    names = [each.id for each in load_rows()]
    results.write_text(json.dumps([ran("a", *names)]))
    assert main([str(tmp_path), str(results)]) == 0
    written = json.loads((tmp_path / "conformance.json").read_text())
    assert len(written["rows"]) == len(names)
    assert (tmp_path / "conformance.html").exists()
    results.write_text(json.dumps([ran("a", *names, result="failed")]))
    assert main([str(tmp_path), str(results)]) == 1


def test_results_of_a_run_name_rows_and_outcomes(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    test = "tests/conformance/test_rfc6275_section12_constants.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    subprocess.run(
        [*command, "--conformance-results", str(output)], cwd=ROOT, check=True, capture_output=True
    )
    tests = json.loads(output.read_text())
    assert tests
    assert all(each["result"] == "passed" and "OPS-01" in each["rows"] for each in tests)
    assert not any(each["is_black_box"] for each in tests)
