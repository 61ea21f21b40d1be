"""Finished pieces are whole or not there; commands that fail say how they ended."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from boards.recipe import steps
from boards.recipe.errors import BuildError, told


def test_piece_is_found_once_its_block_ended_well(tmp_path: Path) -> None:
    cache = steps.Cache(tmp_path)
    assert cache.find("thing-1") is None
    with cache.make("thing-1") as piece:
        piece.write_text("done")
        assert cache.find("thing-1") is None
    found = cache.find("thing-1")
    assert found is not None
    assert found.read_text() == "done"


def test_piece_that_failed_leaves_nothing(tmp_path: Path) -> None:
    cache = steps.Cache(tmp_path)
    with pytest.raises(RuntimeError), cache.make("thing-1") as piece:
        piece.mkdir()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_cache_removes_what_a_killed_build_left(tmp_path: Path) -> None:
    dead = tmp_path / "unfinished-999999999-x"
    alive = tmp_path / f"unfinished-{os.getpid()}-x"
    for left in (dead, alive):
        (left / "piece").mkdir(parents=True)
    steps.Cache(tmp_path)
    assert not dead.exists()
    assert alive.exists()


def test_cache_keeps_the_pieces_used_last(tmp_path: Path) -> None:
    cache = steps.Cache(tmp_path)
    for number in range(3):
        with cache.make(f"thing-{number}", keep=2) as piece:
            piece.write_text("")
        os.utime(tmp_path / f"thing-{number}", (number, number))
    with cache.make("other-1", keep=2) as piece:
        piece.write_text("")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other-1", "thing-1", "thing-2"]


def test_digest_changes_with_contents_names_and_modes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    first = steps.digest(tmp_path)
    file.write_text("b")
    second = steps.digest(tmp_path)
    file.chmod(0o755)
    third = steps.digest(tmp_path)
    file.rename(tmp_path / "other")
    assert len({first, second, third, steps.digest(tmp_path)}) == 4


def test_failed_command_is_told_with_its_last_words() -> None:
    with pytest.raises(BuildError, match=r"ended with 3:\nbroken"):
        steps.run(["sh", "-c", "echo broken >&2; exit 3"])


def test_full_disk_is_told_with_the_remedy() -> None:
    with pytest.raises(BuildError, match="the disk is full: make room"):
        steps.run(["sh", "-c", "echo 'write: No space left on device' >&2; exit 1"])


def test_missing_command_is_named() -> None:
    with pytest.raises(BuildError, match="no-such-command is not installed"):
        steps.run(["no-such-command"])
    with pytest.raises(BuildError, match="apt install a-package"):
        steps.need_tools({"no-such-command": "a-package", "sh": "dash"})


def _raise(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (BuildError("no such board"), 1, "boards/x: no such board\n"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/out/card.img"),
            1,
            "boards/x: /out/card.img: No space left on device; the disk is full: make room",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), 1, "boards/x: /out: Perm"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_ends_a_command_is_told_in_one_line(
    error: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told("boards/x", lambda: _raise(error)) == status
    said = capsys.readouterr().err
    assert said.startswith(words)
    assert said.count("\n") <= 1


def _lock_and_tell(folder: Path, told_to: Any) -> None:
    with steps.Cache(folder).locked():
        told_to.send("locked")


def test_second_build_with_a_cache_waits_for_the_first(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    second = context.Process(target=_lock_and_tell, args=(tmp_path, there))
    with steps.Cache(tmp_path).locked():
        second.start()
        assert not here.poll(2)
    assert here.poll(30)
    second.join()
    assert second.exitcode == 0
