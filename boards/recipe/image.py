"""From a tree of files to a card: partitions without loop devices or mounts.

The card has three: ``boot`` (FAT, what the firmware reads and the user edits), ``state`` (ext4,
what the agent must not forget, always writable) and ``root`` (ext4, last, so that it can grow).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from boards.recipe import steps
from boards.recipe.description import Board
from boards.recipe.errors import BuildError

MEBIBYTE = 1 << 20
START_MEBIBYTES = 4
"""Before the first partition: aligned as cards like it."""

BOOT_LABEL = "BOOT"
STATE_LABEL = "mnagent-state"
ROOT_LABEL = "mnagent-root"

# Fixed, so that two images of the same files differ in no more than they must.
_DISK_IDENTIFIER = "0x6d6e6167"
_BOOT_IDENTIFIER = "6d6e0001"
_STATE_UUID = "6d6e6167-0002-4000-8000-000000000002"
_ROOT_UUID = "6d6e6167-0003-4000-8000-000000000003"
_HASH_SEED = "6d6e6167-0004-4000-8000-000000000004"
_SPARE = 1.15
"""Of the files' size: inodes, journal, and room for the first boot before the file system grows."""
_SPARE_MEBIBYTES = 96


def assemble(board: Board, tree: Path, image: Path, *, source_date: int, card: int | None) -> None:
    """Make ``image`` from the files in ``tree``, whose boot/firmware is moved out of it.

    ``card`` is the size in MiB the image must have, None for the least; raises `BuildError` when
    the files do not fit.
    """
    place = image.parent
    boot = place / "boot.fat"
    state = place / "state.ext4"
    root = place / "root.ext4"
    _make_boot(board, tree, boot, source_date)
    _make_ext4(state, board.size.state_mebibytes, STATE_LABEL, _STATE_UUID, None, source_date)
    fixed = START_MEBIBYTES + board.size.boot_mebibytes + board.size.state_mebibytes
    size = _root_size(tree) if card is None else card - fixed
    if size < _root_size(tree):
        raise BuildError(
            f"the files do not fit a card of {card} MiB; "
            f"at least {fixed + _root_size(tree)} MiB are needed"
        )
    _make_ext4(root, size, ROOT_LABEL, _ROOT_UUID, tree, source_date)
    steps.run(["e2fsck", "-fn", root])
    _partition(image, board, size)
    offset = START_MEBIBYTES
    for part in (boot, state, root):
        _copy_sparse(part, image, offset)
        offset += part.stat().st_size // MEBIBYTE
        part.unlink()


def _make_boot(board: Board, tree: Path, target: Path, source_date: int) -> None:
    folder = tree / "boot" / "firmware"
    _truncate(target, board.size.boot_mebibytes)
    for entry in [folder, *folder.rglob("*")]:
        os.utime(entry, (source_date, source_date))
    steps.run(
        ["mkfs.vfat", "-F", "32", "-n", BOOT_LABEL, "-i", _BOOT_IDENTIFIER, "--invariant", target]
    )
    entries = sorted(folder.iterdir())
    steps.run(
        ["mcopy", "-m", "-s", "-i", target, *entries, "::/"],
        environment={"MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"},
    )
    shutil.rmtree(folder)
    folder.mkdir()


def _make_ext4(
    target: Path, mebibytes: int, label: str, uuid: str, tree: Path | None, source_date: int
) -> None:
    _truncate(target, mebibytes)
    steps.run(
        [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-L",
            label,
            "-U",
            uuid,
            "-E",
            f"hash_seed={_HASH_SEED},lazy_itable_init=0,lazy_journal_init=0",
            "-m",
            "1",
            *(("-d", tree) if tree is not None else ()),
            target,
        ],
        environment={
            "E2FSPROGS_FAKE_TIME": str(source_date),
            "SOURCE_DATE_EPOCH": str(source_date),
        },
    )


def _root_size(tree: Path) -> int:
    """MiB for the root file system: its files, in whole blocks, and something to spare."""
    blocks = sum(-(-entry.lstat().st_size // 4096) + 1 for entry in tree.rglob("*"))
    return int(blocks * 4096 / MEBIBYTE * _SPARE) + _SPARE_MEBIBYTES


def _partition(image: Path, board: Board, root_mebibytes: int) -> None:
    boot, state = board.size.boot_mebibytes, board.size.state_mebibytes
    _truncate(image, START_MEBIBYTES + boot + state + root_mebibytes)
    steps.run(
        ["sfdisk", "-q", image],
        standard_input=(
            f"label: dos\nlabel-id: {_DISK_IDENTIFIER}\n"
            f"start={START_MEBIBYTES}MiB, size={boot}MiB, type=c, bootable\n"
            f"start={START_MEBIBYTES + boot}MiB, size={state}MiB, type=83\n"
            f"start={START_MEBIBYTES + boot + state}MiB, size={root_mebibytes}MiB, type=83\n"
        ),
    )


def _truncate(path: Path, mebibytes: int) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(mebibytes * MEBIBYTE)


def _copy_sparse(source: Path, image: Path, offset_mebibytes: int) -> None:
    steps.run(
        [
            "dd",
            f"if={source}",
            f"of={image}",
            "bs=1M",
            f"seek={offset_mebibytes}",
            "conv=notrunc,sparse",
            "status=none",
        ]
    )
