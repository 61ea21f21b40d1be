"""Boards in the loop, as far as no board is needed: environments, states, files, programs."""

from __future__ import annotations

import ast
import base64
import json
import re
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from labgrid import Target
from labgrid.driver import Driver
from labgrid.protocol import PowerProtocol
from labgrid.strategy import StrategyError

import mnagent
from mnagent.rig.board import bench, drivers, on_board
from mnagent.rig.board.drivers import AccessProtocol, RadioDriver, Surroundings, access_point
from mnagent.rig.board.portal import Portal
from mnagent.rig.board.strategy import LINE, RoamingStrategy, Status, put_text
from mnagent.rig.namespace import RigError
from mnagent.rig.roaming import Move, Roaming, RoamingSettings
from mnagent.rig.topology import LINK_A, LINK_B
from mnagent.rig.wifi.bench import WirelessRoaming

ROOT = Path(mnagent.__file__).parent


# The drivers of a place bind to what a coordinator tells: see tests/rig/test_farm.py.
@pytest.mark.parametrize("name", sorted({*bench.names()} - {"place"}))
def test_environment_that_comes_with_the_rig_makes_a_target(name: str) -> None:
    made = bench.Bench(bench.environment(name), Path("unused"))
    target = made.environment.get_target("main")
    assert isinstance(target.get_strategy(), RoamingStrategy)
    assert target.get_strategy().status is Status.unknown


def test_environment_of_a_farm_without_a_place_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LG_PLACE", raising=False)
    with pytest.raises(RigError, match="LG_PLACE"):
        bench.Bench(bench.environment("place"), Path("unused"))


def test_environments_are_those_of_the_documentation() -> None:
    assert bench.names() == ["namespaces", "pi-ssh", "place", "qemu-raspi3b", "qemu-virt", "wifi"]


def test_environment_unknown_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(RigError, match="namespaces, pi-ssh"):
        bench.environment("pi")


def test_environment_of_ones_own_is_taken_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.touch()
    assert bench.environment(str(file)) == file


def test_card_image_of_the_command_line_replaces_that_of_the_environment(tmp_path: Path) -> None:
    made = bench.Bench(bench.environment("qemu-virt"), tmp_path, image=tmp_path / "other.img.zst")
    assert made.environment.config.get_image_path("card") == str(tmp_path / "other.img.zst")


def test_labgrid_is_imported_by_the_board_rig_and_the_list_of_places_alone() -> None:
    for path in ROOT.rglob("*.py"):
        if path.is_relative_to(ROOT / "rig/board") or path == ROOT / "rig/web/places.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert not re.match(r"labgrid|pexpect|mnagent\.rig\.board", name), path


class FakePower(Driver, PowerProtocol):  # type: ignore[misc]
    """Remembers what it was told."""

    def __init__(self, target: Target, name: str) -> None:
        super().__init__(target, name)
        self.told: list[str] = []

    def on(self) -> None:
        self.told.append("on")

    def off(self) -> None:
        self.told.append("off")

    def cycle(self) -> None:
        self.told.append("cycle")


class FakeAccess(Driver, AccessProtocol):  # type: ignore[misc]
    """A cable to nowhere."""

    is_namespace = True

    def attach(self, surroundings: Surroundings) -> None:
        """Nothing."""

    def detach(self) -> None:
        """Nothing."""

    def set_carrier(self, up: bool) -> None:
        """Nothing."""

    @property
    def facts(self) -> dict[str, str]:
        return {"board": "none"}


@pytest.fixture
def strategy() -> RoamingStrategy:
    """With power and a cable, and nothing that runs commands."""
    target = Target("main")
    FakePower(target, "power")
    FakeAccess(target, "access")
    return RoamingStrategy(target, "strategy")


def test_transition_from_unknown_begins_with_no_power(strategy: RoamingStrategy) -> None:
    strategy.transition("booted")
    assert strategy.power.told == ["off", "on"]
    assert strategy.status is Status.booted


def test_transition_to_a_later_state_goes_through_all_between(strategy: RoamingStrategy) -> None:
    strategy.transition("configured")
    assert list(strategy.times) == ["off", "booted", "shell", "configured"]
    assert strategy.facts == {"board": "none"}


def test_transition_to_a_state_that_was_passed_does_nothing(strategy: RoamingStrategy) -> None:
    strategy.transition("configured")
    strategy.transition("booted")
    assert strategy.power.told == ["off", "on"]
    assert strategy.status is Status.configured


def test_transition_to_off_cuts_the_power(strategy: RoamingStrategy) -> None:
    strategy.transition("booted")
    strategy.transition("off")
    assert strategy.power.told == ["off", "on", "off"]
    assert strategy.status is Status.off


def test_board_that_nothing_runs_commands_on_is_refused(
    strategy: RoamingStrategy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(FakeAccess, "is_namespace", False)
    around = Surroundings(portal=None, roaming=None, folder=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(RigError, match="before RoamingStrategy"):
        strategy.join(around)


def test_transition_to_roaming_without_a_rig_is_refused(strategy: RoamingStrategy) -> None:
    with pytest.raises(StrategyError) as refusal:
        strategy.transition("roaming")
    assert "join() comes first" in str(refusal.value.__cause__)


class FakeWireless(WirelessRoaming):
    """Remembers what its station was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    async def connect(self, name: str) -> Move:
        self.told.append(f"connect {name}")
        return self._arrive(name)

    async def roam(self, name: str) -> Move:
        self.told.append(f"roam {name}")
        return self._arrive(name)

    async def disconnect(self) -> None:
        self.told.append("disconnect")
        self.topology.positions["mobile"] = None

    def _arrive(self, name: str) -> Move:
        self.topology.positions["mobile"] = name
        return Move("somewhere", name, 1.0, 1.0)


def test_radio_joins_the_first_access_point_of_a_link_and_roams_to_that_of_the_next(
    tmp_path: Path,
) -> None:
    driver, roaming, portal = RadioDriver(Target("main"), "radio"), FakeWireless(), Portal()
    around = Surroundings(portal, roaming, tmp_path)
    try:
        assert driver.move(around, LINK_A, hands=0.0).destination == access_point(LINK_A) == "ap-1"
        assert driver.move(around, LINK_B, hands=0.0).destination == access_point(LINK_B) == "ap-2"
        driver.pull(around)
        driver.move(around, LINK_B, hands=0.0)
    finally:
        portal.close()
    assert roaming.told == ["connect ap-1", "roam ap-2", "disconnect", "connect ap-2"]


def test_radio_takes_no_radio_of_a_machine_that_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "RADIOS", tmp_path)
    driver = RadioDriver(Target("main"), "radio")
    assert isinstance(driver.network(RoamingSettings()), WirelessRoaming)
    (tmp_path / "phy0").mkdir()
    with pytest.raises(RigError, match="ci/rig --target wifi"):
        driver.network(RoamingSettings())


def test_network_of_a_cable_has_no_radios() -> None:
    made = FakeAccess(Target("main"), "access").network(RoamingSettings())
    assert type(made) is Roaming


class LocalShell:
    """Runs commands here, as a board would."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, command: str) -> None:
        self.lines.append(command)
        subprocess.run(["sh", "-c", command], check=True)


def test_text_put_on_a_board_arrives_whole_in_short_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnagent.rig.board.strategy.PART", str(tmp_path / "part"))
    shell = LocalShell()
    text = "".join(f'key{number} = "it\'s {number}"\n' for number in range(200))
    file = tmp_path / "a folder/file"
    put_text(shell, text, str(file), mode=0o600)
    assert file.read_text() == text
    assert file.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "part").exists()
    pieces = [shlex.split(line)[1] for line in shell.lines if line.startswith("echo ")]
    assert base64.b64decode("".join(pieces)).decode() == text
    assert max(map(len, pieces)) <= LINE


def test_text_appended_on_a_board_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnagent.rig.board.strategy.PART", str(tmp_path / "part"))
    file = tmp_path / "keys"
    file.write_text("the owner's\n")
    put_text(LocalShell(), "the rig's\n", str(file), append=True)
    assert file.read_text() == "the owner's\nthe rig's\n"


def test_portal_gives_results_and_errors_to_its_caller() -> None:
    async def good() -> int:
        return 6275

    async def bad() -> None:
        raise RigError("no")

    portal = Portal()
    try:
        assert portal(good()) == 6275
        with pytest.raises(RigError, match="no"):
            portal(bad())
    finally:
        portal.close()


def on_board_program(*arguments: str) -> subprocess.Popen[str]:
    """The program as it runs on a board: with nothing but Python."""
    command = [sys.executable, "-I", "-S", str(on_board.__file__), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_clock_of_a_board_answers_each_line() -> None:
    answered, _ = on_board_program("clock").communicate("{}\n{}\n", timeout=30)
    first, second = (json.loads(line) for line in answered.splitlines())
    assert first["kind"] == "clock" and first["at"] <= second["at"]


def test_events_of_a_board_are_passed_on_until_the_agent_ends(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    event = {"name": "link-up", "at": 1.5, "details": {"interface": "eth0"}}

    def agent(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            assert json.loads(connection.recv(4096)) == {"id": 1, "method": "events"}
            told = json.dumps({"id": 1, "result": {}}) + "\n" + json.dumps({"event": event}) + "\n"
            half = len(told) - 9
            connection.sendall(told[:half].encode())
            connection.sendall(told[half:].encode())

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=agent, args=(server,))
        thread.start()
        process = on_board_program("events", str(path))
        assert process.stdout is not None and process.stdin is not None
        told = process.stdout.read()
        thread.join()
        process.stdin.close()
        assert process.wait(timeout=30) == 0
    assert json.loads(told) == {"kind": "event", **event}
