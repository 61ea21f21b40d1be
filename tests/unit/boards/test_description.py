"""Board descriptions: what is merged, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from boards.recipe import description
from boards.recipe.errors import BuildError

LAYER = """
suite = "bookworm"
architecture = "arm64"
hostname = "board"
packages = ["systemd", "python3"]
kernel_command_line = ["rw"]
[size]
boot_mebibytes = 128
state_mebibytes = 16
"""
BOARD = """
title = "A board"
layers = ["base"]
console = "ttyS0,115200"
proven = "nothing"
"""


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    """A folder with one layer and one board."""
    (tmp_path / "layers/base").mkdir(parents=True)
    (tmp_path / "layers/base/layer.toml").write_text(LAYER)
    (tmp_path / "one").mkdir()
    (tmp_path / "one/board.toml").write_text(BOARD)
    return tmp_path


@pytest.mark.parametrize("name", description.names())
def test_board_of_the_project_is_well_described(name: str) -> None:
    board = description.load(name)
    assert board.name == name
    assert "python3" in board.packages
    assert board.overlays


def test_board_appends_lists_and_replaces_values(boards: Path) -> None:
    (boards / "one/board.toml").write_text(
        'packages = ["iw", "python3"]\nhostname = "own"\n'
        + BOARD
        + "[size]\nboot_mebibytes = 256\n"
    )
    board = description.load("one", boards)
    assert board.packages == ("systemd", "python3", "iw")
    assert board.hostname == "own"
    assert (board.size.boot_mebibytes, board.size.state_mebibytes) == (256, 16)


def test_overlays_come_in_the_order_of_layers_with_the_boards_own_last(boards: Path) -> None:
    for place in ("layers/base", "one"):
        (boards / place / "overlay").mkdir()
    board = description.load("one", boards)
    assert board.overlays == (boards / "layers/base/overlay", boards / "one/overlay")


def test_unknown_board_is_refused_with_the_names_there_are(boards: Path) -> None:
    with pytest.raises(BuildError, match="no board 'two'; there are: one"):
        description.load("two", boards)
    with pytest.raises(BuildError, match="no board"):
        description.load("../one", boards)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title = ", r"board.toml: Invalid value"),
        (BOARD.replace('layers = ["base"]', ""), "layers: a list of names"),
        (BOARD.replace('["base"]', '["other"]'), "no layer 'other'"),
        (BOARD + "colour = 1\n", "colour: unknown key; known are"),
        (BOARD + "packages = 1\n", "packages: a list of strings"),
        (BOARD + 'packages = ["Bad Name"]\n', "packages: 'Bad Name' cannot be right"),
        (BOARD + 'initramfs_modules = ["a b"]\n', "initramfs_modules: 'a b' cannot be right"),
        (BOARD + 'kernel_command_line = ["a b"]\n', "kernel_command_line: 'a b' cannot be right"),
        (BOARD + 'device_trees = ["../x.dtb"]\n', "device_trees: .* cannot be right"),
        (BOARD + 'suite = "sid"\n', "suite: 'sid' is none of"),
        (BOARD + 'architecture = "mips"\n', "architecture: 'mips' is none of"),
        (BOARD + 'hostname = "-x"\n', "hostname: '-x' cannot be right"),
        (BOARD + "hostname = 5\n", "hostname: a string is needed"),
        (BOARD + "size = 5\n", "size: a table is needed"),
        (BOARD + "[size]\nroot_mebibytes = 5\n", "size.root_mebibytes: unknown key"),
        (BOARD + "[size]\nboot_mebibytes = 5\n", "size.boot_mebibytes: an integer from 64"),
        (BOARD.replace("ttyS0,115200", "serial"), "console: 'serial' cannot be right"),
        (BOARD.replace('title = "A board"', ""), "title: missing"),
    ],
)
def test_bad_description_is_refused_with_file_key_and_remedy(
    boards: Path, text: str, words: str
) -> None:
    (boards / "one/board.toml").write_text(text)
    with pytest.raises(BuildError, match=words):
        description.load("one", boards)


def test_layer_with_a_boards_key_is_refused(boards: Path) -> None:
    (boards / "layers/base/layer.toml").write_text(LAYER.replace("[size]", 'title = "x"\n[size]'))
    with pytest.raises(BuildError, match=r"layer.toml: title: belongs into a board.toml"):
        description.load("one", boards)
