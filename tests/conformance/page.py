"""The conformance report: ``python tests/conformance/page.py FOLDER RESULTS...``.

Reads what `results` wrote (where a test is in several files the last one counts: it was run again),
sets it against the rows, and writes ``conformance.html``, one page without anything from elsewhere,
and ``conformance.json`` into FOLDER. The exit status is 1 when a test of a row failed or was
skipped, when a row has neither a test nor a reason, or a test names a row that does not exist.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.conformance.report import COMPLETE_GROUPS, Row, load_rows

PASSED, FAILED, SKIPPED, WAITING, MISSING = "passed", "failed", "skipped", "waiting", "missing"
RESULTS = (FAILED, MISSING, SKIPPED, WAITING, PASSED)
"""What a row can come to, worst first."""
TEMPLATE = Path(__file__).with_name("page.html")

Test = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """A row and what its tests say."""

    row: Row
    tests: Sequence[Test]

    @property
    def result(self) -> str:
        """One of `RESULTS`."""
        outcomes = {test["result"] for test in self.tests}
        for outcome in (FAILED, SKIPPED, PASSED):
            if outcome in outcomes:
                return outcome
        has_excuse = self.row.reason and self.row.group not in COMPLETE_GROUPS
        return WAITING if has_excuse else MISSING

    @property
    def is_black_box(self) -> bool:
        """Whether a test that passed sees it from outside."""
        return any(test["is_black_box"] and test["result"] == PASSED for test in self.tests)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "id": self.row.id,
            "role": self.row.role,
            "section": self.row.section,
            "level": self.row.level,
            "when": self.row.when,
            "then": self.row.then,
            "result": self.result,
            "black_box": self.is_black_box,
            "reason": self.row.reason,
            "tests": [
                {"name": test["test"], "result": test["result"], "black_box": test["is_black_box"]}
                for test in self.tests
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All rows, and the tests that name rows which do not exist."""

    rows: Sequence[RowResult]
    unknown: Mapping[str, Sequence[str]]

    @property
    def is_good(self) -> bool:
        """Whether every row has a test that passed, or a reason to wait."""
        good = all(row.result in (PASSED, WAITING) for row in self.rows)
        return good and not self.unknown

    @property
    def counts(self) -> dict[str, int]:
        """Rows by result."""
        found = Counter(row.result for row in self.rows)
        return {result: found[result] for result in reversed(RESULTS)}

    @property
    def black_box(self) -> int:
        """How many rows were seen from outside."""
        return sum(row.is_black_box for row in self.rows)

    @property
    def summary(self) -> str:
        """One line."""
        counts = ", ".join(f"{number} {result}" for result, number in self.counts.items())
        return (
            f"conformance: of {len(self.rows)} rows {counts}; "
            f"{self.black_box} also seen from outside"
        )

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "good": self.is_good,
            "counts": self.counts,
            "black_box": self.black_box,
            "unknown": dict(self.unknown),
            "rows": [row.to_json() for row in self.rows],
        }


def build(rows: Iterable[Row], tests: Iterable[Test]) -> Report:
    """Set tests against rows; of a test that is there twice the later one counts."""
    latest = {test["test"]: test for test in tests}
    named: dict[str, list[Test]] = {}
    for test in latest.values():
        for name in test["rows"]:
            named.setdefault(name, []).append(test)
    results = [RowResult(row=row, tests=named.pop(row.id, [])) for row in rows]
    unknown = {name: [test["test"] for test in found] for name, found in named.items()}
    return Report(rows=results, unknown=unknown)


def render(report: Report) -> str:
    """The page."""
    tiles = "".join(
        f'<li class="{result}"><b>{number}</b> {result}</li>'
        for result, number in report.counts.items()
    )
    tiles += f'<li class="outside"><b>{report.black_box}</b> seen from outside</li>'
    groups = list(dict.fromkeys(row.row.group for row in report.rows))
    unknown = "".join(
        f"<p class=failed>Unknown row {escape(name)}, named by {escape(', '.join(tests))}</p>"
        for name, tests in report.unknown.items()
    )
    return (
        TEMPLATE.read_text()
        .replace("<!--summary-->", tiles)
        .replace("<!--unknown-->", unknown)
        .replace("<!--groups-->", "".join(f"<option>{group}</option>" for group in groups))
        .replace("<!--results-->", "".join(f"<option>{each}</option>" for each in RESULTS))
        .replace("<!--rows-->", "\n".join(_render_row(row) for row in report.rows))
    )


def _render_row(result: RowResult) -> str:
    row = result.row
    outside = sum(test["is_black_box"] for test in result.tests)
    tests = "".join(
        f'<li class="{test["result"]}">{escape(test["test"])}'
        + (" <i>from outside</i>" if test["is_black_box"] else "")
        + "</li>"
        for test in result.tests
    )
    shown = f"{len(result.tests)}" + (f", {outside} from outside" if outside else "")
    details = f"<details><summary>{shown}</summary><ul>{tests}</ul></details>" if tests else "none"
    reason = f'<p class="reason">{escape(row.reason)}</p>' if row.reason else ""
    cells = (
        f"<td>{row.id}",
        f"<td>{escape(row.section) or '(product)'}",
        f"<td>{escape(row.level)}",
        f"<td>{escape(row.when)}<p>{escape(row.then)}</p>{reason}",
        f'<td data-sort="{RESULTS.index(result.result)}"><span>{result.result}</span>',
        f'<td data-sort="{int(result.is_black_box)}">{"yes" if result.is_black_box else ""}',
        f'<td data-sort="{len(result.tests)}">{details}',
    )
    attributes = (
        f'class="{result.result}" data-group="{row.group}" data-result="{result.result}" '
        f'data-outside="{int(result.is_black_box)}"'
    )
    return f"<tr {attributes}>{''.join(cells)}</tr>"


def main(arguments: Sequence[str]) -> int:
    """Write the report; returns the exit status."""
    folder, *files = map(Path, arguments)
    tests = [test for file in files for test in json.loads(file.read_text())]
    report = build(load_rows(), tests)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "conformance.html").write_text(render(report))
    (folder / "conformance.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")
    print(report.summary)
    for row in report.rows:
        if row.result not in (PASSED, WAITING):
            print(f"  {row.result}: {row.row.id} ({row.row.section}) {row.row.when}")
            for test in row.tests:
                if test["result"] != PASSED:
                    print(f"      {test['test']}")
    for name, found in report.unknown.items():
        print(f"  unknown row: {name} in {', '.join(found)}")
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
