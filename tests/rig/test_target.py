"""One scenario on whatever the mobile node is: a namespace, an emulated board, a real one.

``pytest --target NAME`` or ``--target FILE.yaml`` chooses; see mnagent/rig/env. ci/rig also builds
what a target needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mnagent.rig.board.bench import Bench, environment
from mnagent.rig.host import boottime
from mnagent.rig.report import Result
from mnagent.rig.topology import FOREIGN_PREFIXES, LINK_A, LINK_B
from tests.support.requirement import requirement

PATH = (LINK_B, LINK_A)


@pytest.fixture(scope="module")
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """The rig around the node that the command line chose; the node is off."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = request.config.getoption("--evidence-folder", default=None)
    image = request.config.getoption("--card-image", default=None)
    results = request.config.getoption("--results-library", default=None)
    with Bench(
        environment(request.config.getoption("--target", default="namespaces")),
        Path(folder).absolute() if folder else tmp_path_factory.mktemp("target"),
        image=Path(image).absolute() if image else None,
        results=Path(results).absolute() if results else None,
    ) as made:
        yield made


@pytest.fixture(scope="module")
def roaming_bench(bench: Bench) -> Bench:
    """The node is registered from the first link."""
    bench.strategy.transition("roaming")
    return bench


@pytest.fixture(scope="module")
def result(
    roaming_bench: Bench, record_testsuite_property: Callable[[str, object], None]
) -> Result:
    """One journey, looked at by several tests; what was tested goes into the JUnit file."""
    result = roaming_bench.travel(PATH)
    for name, value in result.facts.items():
        record_testsuite_property(name, value)
    return result


@requirement("RFC6275-11.7.1", "MN-01")
def test_node_powered_on_registers_from_a_foreign_link(roaming_bench: Bench) -> None:
    status = roaming_bench.portal(roaming_bench.roaming.mobile_node.status())
    assert status["role"] == "mobile-node"
    status = roaming_bench.portal(roaming_bench.roaming.home_agent.status())
    (binding,) = status["home_agent"]["bindings"]
    prefix = FOREIGN_PREFIXES[roaming_bench.strategy.first_link]
    assert binding["care_of_address"].startswith(str(prefix.network_address).removesuffix(":"))


def test_node_roams_between_links_and_every_check_holds(result: Result) -> None:
    failed = [f"{check.claim}: {check.detail}" for check in result.checks if not check.held]
    assert failed == []
    assert [handover.destination for handover in result.handovers] == list(PATH)


def test_node_whose_power_was_cut_registers_again(result: Result, bench: Bench) -> None:
    cut = boottime()
    bench.strategy.transition("off")
    bench.strategy.transition("roaming")
    refused = bench.roaming.home_agent.find("binding-update-rejected", after=cut)
    assert refused is None


def test_result_says_what_was_tested(result: Result, bench: Bench) -> None:
    assert result.facts["kernel"] and result.facts["commit"]
    assert (bench.folder / "report.html").read_text().count(result.facts["kernel"])
