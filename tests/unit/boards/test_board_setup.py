"""What a board does with the files of its boot partition, over a tree in a temporary folder."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from boards.recipe import description

SCRIPT = description.BOARDS / "layers/base/overlay/usr/lib/mnagent-board/setup.py"
WIFI = 'country=DE\nnetwork={\n    ssid="net"\n    psk="a password"\n}\n'
CONFIGURATION = 'role = "mobile-node"\n'


def _load() -> ModuleType:
    specification = importlib.util.spec_from_file_location("board_setup", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


board_setup = _load()


class Board:
    """A board's file systems, and a `run` that answers for its commands."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.boot = root / "boot/firmware"
        self.commands: list[list[str]] = []
        self.answers: dict[str, tuple[int, str]] = {
            "mnagent": (0, "mnagent 1.0"),
            "findmnt": (0, "/dev/mmcblk0p3"),
        }
        for folder in ("boot/firmware/keys", "boot/firmware/ssh", "var/lib/mnagent", "etc", "root"):
            (root / folder).mkdir(parents=True)

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.commands.append(list(command))
        status, output = self.answers.get(command[0], (0, ""))
        return subprocess.CompletedProcess(command, status, output, "")

    def start(self) -> int:
        """One start of the board; returns how many things went wrong."""
        board_setup.Setup(self.root, self.run).take_files()
        wrong: int = board_setup.Setup(self.root, self.run).finish()
        return wrong

    @property
    def report(self) -> str:
        return (self.boot / "mnagent-report.txt").read_text()

    def roles(self) -> list[str]:
        """Whose units have a configuration, and so start."""
        return sorted(path.stem for path in (self.root / "etc/mnagent").glob("*.toml"))


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_good_files_are_put_in_place_with_their_modes(board: Board) -> None:
    (board.boot / "mnagent.toml").write_text(CONFIGURATION)
    (board.boot / "keys/mobile-node.toml").write_text("a = 1\n")
    (board.boot / "wifi.conf").write_text(WIFI)
    (board.boot / "ssh/authorized_keys").write_text("ssh-ed25519 AAAA me\n")
    assert board.start() == 0
    etc = board.root / "etc"
    for path, mode in {
        etc / "mnagent/mobile-node.toml": 0o644,
        etc / "mnagent/keys/mobile-node.toml": 0o600,
        etc / "wpa_supplicant/board.conf": 0o600,
        board.root / "root/.ssh/authorized_keys": 0o600,
    }.items():
        assert path.stat().st_mode & 0o777 == mode
    assert board.roles() == ["mobile-node"]
    assert "all well" in board.report


def test_secrets_vanish_from_the_boot_partition_and_the_configuration_stays(board: Board) -> None:
    (board.boot / "mnagent.toml").write_text(CONFIGURATION)
    (board.boot / "keys/mobile-node.toml").write_text("secret = 1\n")
    (board.boot / "wifi.conf").write_text(WIFI)
    board.start()
    assert sorted(entry.name for entry in board.boot.rglob("*") if entry.is_file()) == [
        "mnagent-report.txt",
        "mnagent.toml",
    ]


def test_everything_is_there_again_after_a_start_from_a_fresh_root(board: Board) -> None:
    (board.boot / "mnagent.toml").write_text(CONFIGURATION)
    (board.boot / "keys/mobile-node.toml").write_text("a = 1\n")
    (board.boot / "wifi.conf").write_text(WIFI)
    (board.boot / "ssh/authorized_keys").write_text("ssh-ed25519 AAAA me\n")
    board.start()
    (board.root / "etc").rename(board.root / "etc-of-before")
    (board.root / "etc").mkdir()
    assert board.start() == 0
    for name in (
        "mnagent/mobile-node.toml",
        "mnagent/keys/mobile-node.toml",
        "wpa_supplicant/board.conf",
    ):
        old, new = board.root / "etc-of-before" / name, board.root / "etc" / name
        assert new.read_bytes() == old.read_bytes()


def test_refused_configuration_leaves_the_one_before_running(board: Board) -> None:
    (board.boot / "mnagent.toml").write_text(CONFIGURATION)
    board.start()
    (board.boot / "mnagent.toml").write_text(CONFIGURATION + "colour = 1\n")
    candidate = board.root / "etc/mnagent/candidate.toml"
    board.answers["mnagent"] = (2, f"mnagent: {candidate}: colour: unknown key")
    assert board.start() == 1
    assert "NOT TAKEN: mnagent: mnagent.toml: colour: unknown key" in board.report
    assert (board.root / "etc/mnagent/mobile-node.toml").read_text() == CONFIGURATION
    assert not candidate.exists()


def test_keys_that_do_not_fit_the_configuration_leave_those_before_in_use(board: Board) -> None:
    used = board.root / "etc/mnagent/keys/mobile-node.toml"
    (board.boot / "mnagent.toml").write_text(CONFIGURATION)
    (board.boot / "keys/mobile-node.toml").write_text("good = 1\n")
    assert board.start() == 0
    for name in ("mobile-node.toml", "other.toml"):
        (board.boot / "keys" / name).write_text("bad = 1\n")
    board.answers["mnagent"] = (2, f"mnagent: {used}: bad: unknown key")
    assert board.start() == 1
    assert "NOT TAKEN: mnagent: " in board.report
    assert [key.name for key in used.parent.iterdir()] == ["mobile-node.toml"]
    assert used.read_text() == "good = 1\n"
    assert (board.boot / "keys/mobile-node.toml").read_text() == "bad = 1\n"


def test_missing_key_is_said_in_the_words_of_the_agent(board: Board) -> None:
    (board.boot / "mnagent.toml").write_text(CONFIGURATION)
    board.answers["mnagent"] = (2, "mnagent: /etc/mnagent/keys/mobile-node.toml: not found")
    assert board.start() == 1
    assert "/etc/mnagent/keys/mobile-node.toml: not found" in board.report
    assert board.roles() == []


def test_keys_without_a_configuration_are_moved_into_the_board(board: Board) -> None:
    (board.boot / "keys/mobile-node.toml").write_text("a = 1\n")
    assert board.start() == 0
    assert not (board.boot / "keys/mobile-node.toml").exists()
    assert (board.root / "etc/mnagent/keys/mobile-node.toml").read_text() == "a = 1\n"
    assert "mnagent.toml: not there yet" in board.report


def test_full_card_leaves_the_secret_where_it_was_and_is_said(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if not any(name in path for name in ("/boot/firmware/", "/run/mnagent-board/")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name, text in {"wifi.conf": WIFI, "keys/mobile-node.toml": "a = 1\n"}.items():
        (board.boot / name).write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        assert board.start() == 3
    assert "wpa_supplicant/board.conf" not in board.report
    assert re.search("NOT DONE: .*wifi.conf: No space left on device", board.report)
    for name, text in {"wifi.conf": WIFI, "keys/mobile-node.toml": "a = 1\n"}.items():
        assert (board.boot / name).read_text() == text
    assert not list(board.root.rglob("*.new"))
    assert board.start() == 0
    assert (board.root / "etc/wpa_supplicant/board.conf").exists()


def test_taking_files_waits_for_nothing_that_the_agent_does_without(board: Board) -> None:
    (board.boot / "mnagent.toml").write_text(CONFIGURATION)
    board_setup.Setup(board.root, board.run).take_files()
    assert {command[0] for command in board.commands} == {"mnagent"}
    board.commands.clear()
    board_setup.Setup(board.root, board.run).take_files()
    assert board.commands == []


def test_clock_is_set_once_the_agent_has_started(board: Board) -> None:
    board.start()
    assert ["systemctl", "--no-block", "start", "systemd-timesyncd.service"] in board.commands


def test_another_role_replaces_the_one_before(board: Board) -> None:
    for role in ("mobile-node", "correspondent"):
        (board.boot / "mnagent.toml").write_text(f'role = "{role}"\n')
        assert board.start() == 0
        assert board.roles() == [role]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("mnagent.toml", "role = \n", "mnagent.toml: .*line 1"),
        ("mnagent.toml", 'role = "king"\n', "role must be one of .* not 'king'"),
        ("mnagent.toml", b"\xff\xfe\x00", "mnagent.toml: is not plain text"),
        ("keys/robot.toml", "a = \n", "keys/robot.toml: .*line 1"),
        ("wifi.conf", WIFI.replace("country=DE\n", ""), "country=XY"),
        ("wifi.conf", WIFI.replace("DE", "XX"), "country=XY"),
        ("wifi.conf", "country=DE\n", "at least one block"),
        ("wifi.conf", WIFI.replace("}", ""), "at least one block"),
        ("wifi.conf", WIFI.replace('ssid="net"', ""), "without ssid="),
        ("wifi.conf", WIFI.replace("a password", "short"), "8 to 63 characters"),
        ("ssh/authorized_keys", "# mine\nhello\n", "line 2 is no public key"),
        ("wifi.conf", "x" * ((1 << 20) + 1), "larger than 1 MiB"),
    ],
)
def test_bad_file_is_reported_and_left_where_it_was(
    board: Board, name: str, text: str | bytes, words: str
) -> None:
    path = board.boot / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(data)
    assert board.start() == 1
    assert path.read_bytes() == data
    assert "1 of your files" in board.report
    assert re.search(words, board.report)
    assert board.roles() == []


def test_files_of_other_systems_editors_are_understood(board: Board) -> None:
    (board.boot / "wifi.conf").write_bytes(b"\xef\xbb\xbf" + WIFI.replace("\n", "\r\n").encode())
    assert board.start() == 0
    kept = (board.root / "etc/wpa_supplicant/board.conf").read_bytes()
    assert b"\r" not in kept
    assert kept.startswith(b"ctrl_interface=DIR=/run/wpa_supplicant\ncountry=DE\n")


def test_root_file_system_grows_once(board: Board) -> None:
    board.start()
    grown = [command for command in board.commands if command[0] == "resize2fs"]
    assert grown == [["resize2fs", "/dev/mmcblk0p3"]]
    assert any("-N 3 /dev/mmcblk0" in command[-1] for command in board.commands)
    board.commands.clear()
    board.start()
    assert not any(command[0] == "resize2fs" for command in board.commands)


def test_root_that_is_no_partition_of_a_card_is_left_alone(board: Board) -> None:
    board.answers["findmnt"] = (0, "overlayroot")
    assert board.start() == 0
    assert not any(command[0] == "resize2fs" for command in board.commands)


def test_failure_to_grow_is_said_and_tried_again(board: Board) -> None:
    board.answers["resize2fs"] = (1, "resize2fs: no space")
    assert board.start() == 1
    assert "could not grow: resize2fs: no space" in board.report
    board.answers["resize2fs"] = (0, "")
    assert board.start() == 0


def test_serial_console_with_the_file_is_a_shell(board: Board) -> None:
    (board.boot / "serial-shell").touch()
    assert board.start() == 0
    options = (board.root / "run/mnagent-board/serial-console").read_text()
    assert "AGETTY_OPTIONS=--autologin root" in options.splitlines()
    assert "serial-shell" in board.report


def test_serial_console_without_the_file_asks_for_a_name(board: Board) -> None:
    assert board.start() == 0
    assert not (board.root / "run/mnagent-board/serial-console").exists()


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [("return 0", 0, "fine"), ("return 2", 2, "fine"), ("raise ValueError('odd')", 1, "odd")],
)
def test_agent_is_asked_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, status: int, words: str
) -> None:
    agent = tmp_path / "mnagent/cli/main.py"
    agent.parent.mkdir(parents=True)
    for folder in (agent.parent, agent.parent.parent):
        (folder / "__init__.py").touch()
    agent.write_text(f"def main(words):\n    print('fine', *words)\n    {text}\n")
    monkeypatch.setattr(board_setup, "AGENT", str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "mnagent"]:
        monkeypatch.delitem(sys.modules, name)
    done = board_setup._run(["mnagent", "check-config"])
    assert done.returncode == status
    assert words in done.stdout
    assert "mnagent.cli.main" not in sys.modules
