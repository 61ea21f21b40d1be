"""Boards reached as real ones are, by power switch, serial console, cable and SSH, also through a
labgrid coordinator: all on this machine, with boards made of paper."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mnagent.rig.board.bench import Bench, environment
from mnagent.rig.topology import LINK_A, LINK_B
from tests.support.farm import farm
from tests.support.paper_board import PaperBoard

PATH = (LINK_B, LINK_A)
pytestmark = pytest.mark.skipif(shutil.which("dropbear") is None, reason="needs dropbear")


def test_place_of_a_farm_roams_and_every_check_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_board_with_ssh_alone_roams_and_is_left_as_it_was(tmp_path: Path) -> None:
    with PaperBoard(tmp_path) as board:
        board.power(True)
        file = tmp_path / "my-board.yaml"
        file.write_text(yaml.safe_dump(without_power_and_console(board), sort_keys=False))
        with Bench(environment(str(file)), tmp_path / "evidence") as bench:
            bench.strategy.transition("roaming")
            result = bench.travel(PATH[:1])
        assert [check for check in result.checks if not check.held] == []
        files = on_board(board, "ls /etc/mnagent /etc/mnagent/keys")
        assert files.split() == ["/etc/mnagent:", "keys", "/etc/mnagent/keys:"]
        login = on_board(board, "cat /root/.ssh/authorized_keys")
        assert login == board.key.with_suffix(".pub").read_text()
        assert board.interface in subprocess.check_output(["ip", "link"], text=True)


def without_power_and_console(board: PaperBoard) -> dict[str, Any]:
    """The environment of a Raspberry Pi, with less, and for this board."""
    made: dict[str, Any] = yaml.safe_load(environment("pi-ssh").read_text())
    target = made["targets"]["main"]
    for name in ("NetworkPowerPort", "RawSerialPort"):
        del target["resources"][name]
    for name in ("NetworkPowerDriver", "SerialDriver", "ShellDriver"):
        del target["drivers"][name]
    target["resources"]["NetworkService"]["address"] = str(board.address)
    target["resources"]["AccessPort"]["interface"] = board.interface
    target["drivers"]["SSHDriver"]["keyfile"] = str(board.key)
    return made


def on_board(board: PaperBoard, command: str) -> str:
    """What a command prints there."""
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
    flags = [word for option in options for word in ("-o", option)]
    ssh = ("ssh", "-F", "none", "-i", str(board.key), *flags, f"root@{board.address}", command)
    return subprocess.run(ssh, check=True, capture_output=True, text=True).stdout
