"""A board reached as all real ones are, by power switch, serial console, cable and SSH, through a
labgrid coordinator: all on this machine, with a board made of paper."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mnagent.rig.board.bench import Bench, environment
from mnagent.rig.topology import LINK_A, LINK_B
from tests.support.farm import farm
from tests.support.paper_board import PaperBoard

PATH = (LINK_B, LINK_A)


def test_place_of_a_farm_roams_and_every_check_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("dropbear") is None:
        pytest.skip("needs dropbear")
    with PaperBoard(tmp_path) as board:
        resources = {
            "NetworkPowerPort": {"model": "shelly_gen2", "host": board.power_host, "index": 0},
            "NetworkSerialPort": {
                "host": "127.0.0.1",
                "port": board.serial_port,
                "protocol": "raw",
            },
            "AccessPort": {"interface": board.interface},
        }
        with farm(tmp_path, resources) as variables:
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            with Bench(environment("place"), tmp_path / "evidence") as bench:
                bench.strategy.transition("roaming")
                result = bench.travel(PATH)
            assert [check for check in result.checks if not check.held] == []
            assert [handover.destination for handover in result.handovers] == list(PATH)
            assert result.facts["mnagent"].startswith("mnagent ")
        assert board.starts == 1
        assert not board.is_on
