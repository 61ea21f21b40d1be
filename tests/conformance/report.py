"""Which rows of `rows.toml` have a test: run ``python tests/conformance/report.py [FILE]``.

``pytest --conformance-report FILE`` does it at the end of a run, and fails where this would: over
all tests, whichever of them ran.

Collects the tests without running them, reads their `requirement` markers, and writes what is
covered and what is not to FILE (``build/conformance.txt``). The exit status is 1 when a row has
neither a test nor a reason, when a row of a group that must be complete has no test, when a test
names a row that does not exist, or when the tests cannot be collected.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS_FILE = Path(__file__).with_name("rows.toml")
DEFAULT_OUTPUT = ROOT / "build" / "conformance.txt"
COMPLETE_GROUPS = frozenset({"FMT", "MHP"})
"""Groups whose rows must all have a test; a reason is no excuse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One requirement."""

    id: str
    role: str
    section: str
    """RFC and section, empty for a promise of this software alone."""
    when: str
    then: str
    level: str
    reason: str = ""
    """Why it has no test yet."""

    @property
    def group(self) -> str:
        """The letters of the row's name."""
        return self.id.partition("-")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What the markers say about the rows."""

    covered: Mapping[Row, Sequence[str]]
    """Row to names of tests."""
    waiting: Sequence[Row]
    """No test, but a reason."""
    missing: Sequence[Row]
    """Neither, or no test in a group that must be complete."""
    unknown: Mapping[str, Sequence[str]]
    """Names of rows that do not exist, with the tests that name them."""

    @property
    def is_complete(self) -> bool:
        """True when nothing is missing and every name is known."""
        return not self.missing and not self.unknown

    @property
    def summary(self) -> str:
        """One line."""
        total = len(self.covered) + len(self.waiting) + len(self.missing)
        return (
            f"conformance: {len(self.covered)} of {total} rows have tests, "
            f"{len(self.waiting)} wait with a reason, {len(self.missing)} are missing, "
            f"{len(self.unknown)} unknown names"
        )


@dataclass(slots=True)
class MarkerCollector:
    """A pytest plugin that notes which test names which row."""

    tests: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Row name to node ids, parameters left out."""

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        """Read the markers of every test."""
        for item in items:
            name = item.nodeid.partition("[")[0]
            for marker in item.iter_markers("requirement"):
                for row in marker.args[1:]:
                    if name not in self.tests[row]:
                        self.tests[row].append(name)


def load_rows(path: Path = ROWS_FILE) -> tuple[Row, ...]:
    """The rows; raises `TypeError` for an unknown or missing field, `ValueError` for a
    name twice."""
    rows = tuple(Row(**table) for table in tomllib.loads(path.read_text())["row"])
    if len({row.id for row in rows}) != len(rows):
        raise ValueError(f"{path}: a row's name occurs twice")
    return rows


def compare(rows: Iterable[Row], tests: Mapping[str, Sequence[str]]) -> Coverage:
    """Set the rows against the tests that name them."""
    rows = tuple(rows)
    known = {row.id for row in rows}
    uncovered = [row for row in rows if not tests.get(row.id)]
    waiting = [row for row in uncovered if row.reason and row.group not in COMPLETE_GROUPS]
    return Coverage(
        covered={row: tests[row.id] for row in rows if tests.get(row.id)},
        waiting=waiting,
        missing=[row for row in uncovered if row not in waiting],
        unknown={name: found for name, found in tests.items() if name not in known},
    )


def render(coverage: Coverage) -> str:
    """The report as text."""
    lines = [coverage.summary, "", *_by_group(coverage)]
    for title, rows in (("MISSING", coverage.missing), ("WAITING", coverage.waiting)):
        lines += ["", f"{title} ({len(rows)})"]
        lines += [f"  {row.id:8} {_shorten(row.when)}" + _reason(row) for row in rows]
    if coverage.unknown:
        lines += ["", "UNKNOWN NAMES"]
        lines += [f"  {name:8} {', '.join(tests)}" for name, tests in coverage.unknown.items()]
    lines += ["", f"COVERED ({len(coverage.covered)})"]
    for row, tests in coverage.covered.items():
        partly = f"  (in part: {row.reason})" if row.reason else ""
        lines.append(f"  {row.id:8} {row.section}: {_shorten(row.when)}{partly}")
        lines += [f"           {name}" for name in tests]
    return "\n".join(lines) + "\n"


def _by_group(coverage: Coverage) -> list[str]:
    groups: dict[str, list[int]] = {}
    everything = (coverage.covered, coverage.waiting, coverage.missing)
    for index, rows in enumerate(everything):
        for row in rows:
            groups.setdefault(row.group, [0, 0, 0])[index] += 1
    lines = [f"{'group':8}{'tests':>8}{'waiting':>9}{'missing':>9}"]
    return lines + [
        f"{name:8}{tested:8}{waiting:9}{missing:9}"
        for name, (tested, waiting, missing) in groups.items()
    ]


def _shorten(text: str, width: int = 90) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _reason(row: Row) -> str:
    return f"  [{row.reason}]" if row.reason else ""


def collect(arguments: Sequence[str] = ()) -> tuple[dict[str, list[str]], str]:
    """Markers of all tests under ``tests``, and pytest's complaint if it could not collect them."""
    collector = MarkerCollector()
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = pytest.main(
            [
                "--collect-only",
                "-q",
                "-p",
                "no:cacheprovider",
                *(arguments or [str(ROOT / "tests")]),
            ],
            plugins=[collector],
        )
    is_good = status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    return dict(collector.tests), "" if is_good else output.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Write the report; returns the exit status."""
    output = Path(arguments[0]) if arguments else DEFAULT_OUTPUT
    tests, complaint = collect()
    coverage = compare(load_rows(), tests)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(render(coverage))
    print(coverage.summary)
    for row in coverage.missing:
        print(f"  missing: {row.id} ({row.section}) {_shorten(row.when)}")
    for name, found in coverage.unknown.items():
        print(f"  unknown: {name} in {', '.join(found)}")
    if complaint:
        print(complaint)
    return 0 if coverage.is_complete and not complaint else 1


_OUTCOME = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that asks for a report."""
    parser.addoption(
        "--conformance-report",
        metavar="FILE",
        help="write which conformance rows have tests to FILE; fail when one has none",
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Report in a process of its own: parallel workers and deselected tests are no matter there."""
    config = session.config
    output = config.getoption("--conformance-report")
    if output is None or hasattr(config, "workerinput"):
        return
    command = [sys.executable, __file__, str(config.invocation_params.dir / output)]
    report = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    config.stash[_OUTCOME] = report.stdout + report.stderr
    if report.returncode and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show the report's summary."""
    for line in config.stash.get(_OUTCOME, "").splitlines():
        terminalreporter.write_line(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
