"""Real daemons in namespaces, one a module where they can serve all of its tests."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from mnagent.rig.namespace import remove_stale
from tests.blackbox.bench import STANDING


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All in this folder need root, and see the node from outside."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.blackbox)


@pytest.fixture(scope="session", autouse=True)
def bench_is_whole() -> None:
    """Without root there is no bench; what a killed run left behind is in nobody's way."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    remove_stale()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the daemons said of late."""
    report = yield
    if report.failed:
        for bench in STANDING:
            report.sections.append(("mnagent's log", bench.log_tail(30)))
    return report
