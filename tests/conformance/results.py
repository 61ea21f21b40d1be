"""What became of the tests that name conformance rows: ``pytest --conformance-results FILE``.

FILE gets JSON, a list of tests with the rows they name, whether they see the program from outside,
and how they ended. `page` makes the report of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

PROPERTY = "conformance"
_RESULTS = pytest.StashKey["Results"]()


class Results:
    """Collects reports, those of parallel workers too: they come with the tests' properties."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test ended: the worst one counts, and only a call that passed is a pass."""
        described = dict(report.user_properties).get(PROPERTY)
        if described is None:
            return
        test = self.tests.setdefault(
            report.nodeid, {"test": report.nodeid, **described, "result": "skipped", "seconds": 0}
        )
        test["seconds"] = round(test["seconds"] + report.duration, 3)
        if report.failed:
            test["result"] = "failed"
        elif report.passed and report.when == "call" and test["result"] != "failed":
            test["result"] = "passed"

    def pytest_sessionfinish(self) -> None:
        """Write them."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(list(self.tests.values()), indent=1) + "\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that asks for the results."""
    parser.addoption(
        "--conformance-results",
        metavar="FILE",
        help="write how the tests that name conformance rows ended to FILE",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect where it is wanted, in the process that hears of all tests."""
    output = config.getoption("--conformance-results")
    if output is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(config.invocation_params.dir / output))


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Note on each test what it covers, so that its report says so."""
    for item in items:
        markers = list(item.iter_markers("requirement"))
        if not markers:
            continue
        described = {
            "sections": [marker.args[0] for marker in markers],
            "rows": sorted({row for marker in markers for row in marker.args[1:]}),
            "is_black_box": item.get_closest_marker("blackbox") is not None,
        }
        item.user_properties.append((PROPERTY, described))
