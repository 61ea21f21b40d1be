"""What was compiled comes back for the same sources, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from boards.recipe import objects, package, steps


def _compile(build: Path) -> None:
    (build / "lib/mnagent").mkdir(parents=True)
    for name in (
        "lib/fast.so",
        "fast.c",
        "fast.o",
        "lib/mnagent/removed.py",
        "lib/mnagent/data.toml",
    ):
        (build / name).write_text(name)


def test_objects_of_the_same_sources_come_back_later_than_these(tmp_path: Path) -> None:
    cache = steps.Cache(tmp_path / "cache")
    with objects.kept(cache, "objects-1", tmp_path / "first"):
        _compile(tmp_path / "first")
    source = tmp_path / "fast.pyx"
    source.write_text("checked out anew")
    with objects.kept(cache, "objects-1", tmp_path / "second"):
        times = {entry.stat().st_mtime_ns for entry in (tmp_path / "second").rglob("*.*")}
        assert min(times) >= source.stat().st_mtime_ns
        assert (tmp_path / "second/lib/fast.so").read_text() == "lib/fast.so"


def test_modules_and_data_do_not_come_back(tmp_path: Path) -> None:
    cache = steps.Cache(tmp_path / "cache")
    with objects.kept(cache, "objects-1", tmp_path / "first"):
        _compile(tmp_path / "first")
    with objects.kept(cache, "objects-1", tmp_path / "second"):
        names = {entry.name for entry in (tmp_path / "second").rglob("*.*")}
    assert names == {"fast.so", "fast.c", "fast.o"}


def test_objects_of_a_build_that_failed_are_not_kept(tmp_path: Path) -> None:
    cache = steps.Cache(tmp_path / "cache")
    with pytest.raises(RuntimeError), objects.kept(cache, "objects-1", tmp_path / "first"):
        _compile(tmp_path / "first")
        raise RuntimeError
    assert cache.find("objects-1") is None


def test_name_of_objects_changes_with_each_source_and_tool(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    other.write_text("2")
    names = {
        objects.name({"a": one}, "bookworm"),
        objects.name({"a": other}, "bookworm"),
        objects.name({"b": one}, "bookworm"),
        objects.name({"a": one}, "trixie"),
        objects.name({"a": one, "b": other}, "bookworm"),
    }
    assert len(names) == 5


def test_change_to_python_compiles_nothing_again() -> None:
    made_of = package.compiled_sources()
    assert "setup.py" in made_of
    assert any(name.endswith(".pyx") for name in made_of)
    assert not any(name.startswith("mnagent/") for name in made_of)
