"""What holds for every test: under CI a skip is a failure, for it proves nothing.

But for tests marked `may_skip`, which say what they need that CI's machine need not have."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

pytest_plugins = ("tests.conformance.report", "tests.conformance.results")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where CI is set (a laptop may lack tools; CI may not)."""
    report = yield
    may_skip = hasattr(report, "wasxfail") or item.get_closest_marker("may_skip")
    if report.skipped and os.environ.get("CI") and not may_skip:
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {report.longrepr}"
    return report
