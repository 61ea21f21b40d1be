"""A small tree becomes a card, and what is on the card is what was in the tree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from boards.recipe import description, image
from boards.recipe.errors import BuildError

TOOLS = ("mke2fs", "mcopy", "mkfs.vfat", "sfdisk", "e2fsck", "debugfs")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SOURCE_DATE = 1_700_000_000

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool, path=PATH) is None for tool in TOOLS),
    reason="needs dosfstools, e2fsprogs, fdisk and mtools",
)


@pytest.fixture(autouse=True)
def _with_tools_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", PATH)


def _tree(folder: Path) -> Path:
    (folder / "boot/firmware/keys").mkdir(parents=True)
    (folder / "boot/firmware/cmdline.txt").write_text("quiet\n")
    (folder / "etc").mkdir()
    (folder / "etc/hostname").write_text("board\n")
    return folder


def _assemble(place: Path, *, card: int | None = None) -> Path:
    board = description.load("virt")
    place.mkdir()
    made = place / "card.img"
    image.assemble(board, _tree(place / "tree"), made, source_date=SOURCE_DATE, card=card)
    return made


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_card_has_the_files_and_three_partitions(tmp_path: Path) -> None:
    made = _assemble(tmp_path / "one")
    board = description.load("virt")
    assert len(_run("sfdisk", "-l", "-o", "Start", str(made)).strip().splitlines()[-3:]) == 3
    boot = f"{made}@@{image.START_MEBIBYTES}M"
    assert _run("mtype", "-i", boot, "::/cmdline.txt") == "quiet\n"
    offset = image.START_MEBIBYTES + board.size.boot_mebibytes + board.size.state_mebibytes
    root = tmp_path / "root.ext4"
    with made.open("rb") as card, root.open("wb") as file:
        card.seek(offset * image.MEBIBYTE)
        shutil.copyfileobj(card, file)
    assert _run("debugfs", "-R", "cat /etc/hostname", str(root)) == "board\n"
    assert _run("e2fsck", "-fn", str(root))


def test_card_of_the_size_asked_is_made(tmp_path: Path) -> None:
    made = _assemble(tmp_path / "one", card=512)
    assert made.stat().st_size == 512 * image.MEBIBYTE


def test_card_that_is_too_small_is_refused_with_the_least_size(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"do not fit a card of 300 MiB; at least \d+ MiB"):
        _assemble(tmp_path / "one", card=300)
