"""Short runs in the Wi-Fi rig's machine, where it is there already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mnagent.rig.namespace import RigError
from mnagent.rig.topology import LINK_A, LINK_B
from mnagent.rig.wifi.command import CACHE
from mnagent.rig.wifi.hops import judge
from mnagent.rig.wifi.machine import OUTPUT, Image, Machine, describe, project_folder
from mnagent.rig.wifi.results import Results
from mnagent.rig.wifi.target import run

SCENARIO = "across-links"
ROAMS = 3
TIMEOUT = 1800.0
"""Seconds; a fraction of it where nobody else uses the processor."""


@pytest.fixture
def image() -> Image:
    """The image that this tree's description makes, never an older one."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs qemu-system-x86_64")
    try:
        description = describe()
    except RigError as error:
        pytest.skip(str(error))
    image = Image(project_folder() / CACHE / description.digest)
    if not image.folder.is_dir():
        pytest.skip(f"there is no machine {description.digest} yet: ci/wifi makes it")
    return image


@pytest.mark.may_skip(reason="ci/wifi makes the machine, which takes minutes")
def test_node_roams_between_access_points_of_two_links(image: Image, tmp_path: Path) -> None:
    errors: list[str] = []
    module = "mnagent.rig.wifi.scenarios"
    arguments = (str(OUTPUT), f"--roams={ROAMS}", SCENARIO)
    status = Machine(image=image).run(
        module, *arguments, output=tmp_path, timeout=TIMEOUT, errors=errors
    )
    assert status in (0, 1), errors
    results = Results.from_record(json.loads((tmp_path / "results.json").read_text()))
    across, connections = results.outcomes
    assert (across.name, connections.name) == (SCENARIO, "connections")
    assert not across.error and len(across.roams) == ROAMS
    assert all(roam.acknowledged_at is not None for roam in across.roams)
    # How fast the first visit to a link and the second are on average says little.
    failed = [claim for outcome in results.outcomes for claim in outcome.claims if not claim.held]
    assert not [claim for claim in failed if "median" not in claim.text]
    assert judge(tmp_path, {LINK_A, LINK_B}).succeeded


@pytest.mark.may_skip(reason="ci/wifi makes the machine, which takes minutes")
def test_scenario_of_every_target_passes_over_wifi_too(image: Image, tmp_path: Path) -> None:
    library = tmp_path / "library"
    assert run(Machine(image=image), tmp_path / "out", library, []) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [handover["to"] for handover in report["handovers"]] == [LINK_B, LINK_A]
    (kept,) = library.iterdir()
    assert json.loads((kept / "run.json").read_text())["succeeded"] is True
