"""The namespace scenarios: root, real processes, and nothing left behind, however they end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnagent.rig.namespace import Namespace, remove_stale
from mnagent.rig.topology import Topology

NEEDED_TOOLS = ("ip", "radvd")
"""By every scenario, wherever it runs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the mobile node of the scenarios of `test_target` is; see ci/rig."""
    group = parser.getgroup("rig")
    group.addoption(
        "--target", metavar="NAME|FILE.yaml", default="namespaces", help="labgrid environment"
    )
    group.addoption("--card-image", metavar="FILE.img.zst", help="image for an emulated board")
    group.addoption("--evidence-folder", metavar="DIR", help="where report, captures, logs go")
    group.addoption(
        "--results-library", metavar="DIR", help="keep the journey there, see RESULTS.md"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All in this folder need root."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.root)


@pytest.fixture(autouse=True)
def bench_is_whole() -> None:
    """Without root or the tools there is no bench."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    missing = [tool for tool in NEEDED_TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.fixture(scope="session", autouse=True)
def stale_rigs_are_removed() -> None:
    """What a killed test run left behind is in nobody's way."""
    if os.geteuid() == 0:
        remove_stale()


@pytest.fixture(scope="session")
def tshark_is_there() -> None:
    """For those that look into captures with it."""
    if shutil.which("tshark") is None:
        pytest.skip("needs tshark")


@pytest.fixture
def topology() -> Iterator[Topology]:
    """The namespaces and cables, without wires or daemons."""
    built = Topology()
    try:
        built.build()
        yield built
    finally:
        built.remove()


@pytest.fixture
def namespace(topology: Topology) -> Namespace:
    """The mobile node's."""
    return topology["mobile"]
