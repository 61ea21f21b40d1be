"""Board descriptions: one TOML file a board over layers that boards share.

A layer's lists are appended to those of the layers before it; every other value replaces the one
before. `load` checks everything that can be known without building.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards.recipe.errors import BuildError

BOARDS = Path(__file__).resolve().parents[1]
SUITES = ("bookworm", "trixie")
ARCHITECTURES = ("arm64",)

_LISTS = (
    "packages",
    "initramfs_modules",
    "kernel_command_line",
    "device_trees",
    "firmware_settings",
)
_STRINGS = ("title", "suite", "architecture", "hostname", "console", "proven")
_TABLES = ("size",)
_BOARD_ONLY = ("title", "layers", "console", "proven", "device_trees")

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_MODULE = re.compile(r"[A-Za-z0-9_-]+")
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CONSOLE = re.compile(r"tty[A-Za-z]+[0-9]+,[0-9]+")
_DEVICE_TREE = re.compile(r"[a-z0-9-]+\.dtb")
_WORD = re.compile(r"[!-~]+")
_BOARD_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of the partitions, mebibytes. The root file system takes what its files need and grows to the
    end of the card on first boot."""

    boot_mebibytes: int
    """FAT: firmware, kernel and the files a user edits."""
    state_mebibytes: int
    """What the agent must not forget: bindings, sequence numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A board, its layers merged in."""

    name: str
    title: str
    proven: str
    """What was tried, in a sentence; the rest is unproven."""
    suite: str
    """Release of Debian."""
    architecture: str
    hostname: str
    packages: tuple[str, ...]
    initramfs_modules: tuple[str, ...]
    kernel_command_line: tuple[str, ...]
    firmware_settings: tuple[str, ...]
    """Lines for config.txt."""
    device_trees: tuple[str, ...]
    """File names that the kernel package must have."""
    console: str
    size: Size
    overlays: tuple[Path, ...]
    """Folders copied over the root file system, in this order."""


def names() -> list[str]:
    """All boards there are."""
    return sorted(path.parent.name for path in BOARDS.glob("*/board.toml"))


def load(name: str, folder: Path = BOARDS) -> Board:
    """Read and check the board ``name`` below ``folder``; raises `BuildError`."""
    path = folder / name / "board.toml"
    if not _BOARD_NAME.fullmatch(name) or not path.is_file():
        known = ", ".join(sorted(entry.parent.name for entry in folder.glob("*/board.toml")))
        raise BuildError(f"no board {name!r}; there are: {known or 'none'}")
    own = _read(path)
    layers = own.pop("layers", None)
    if not isinstance(layers, list) or not layers or not all(isinstance(n, str) for n in layers):
        raise BuildError(f"{path}: layers: a list of names of folders in layers/ is needed")
    merged: dict[str, Any] = {key: [] for key in _LISTS}
    overlays = []
    for layer in layers:
        layer_path = folder / "layers" / layer / "layer.toml"
        if not layer_path.is_file():
            raise BuildError(f"{path}: layers: no layer {layer!r} ({layer_path} is missing)")
        values = _read(layer_path)
        for key in _BOARD_ONLY:
            if key in values:
                raise BuildError(f"{layer_path}: {key}: belongs into a board.toml, not a layer")
        _merge(merged, values)
        overlays.append(layer_path.with_name("overlay"))
    _merge(merged, own)
    overlays.append(path.with_name("overlay"))
    return _board(name, path, merged, tuple(entry for entry in overlays if entry.is_dir()))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BuildError(f"{path}: {error}") from None
    for key, value in values.items():
        _check_kind(path, key, value)
    return values


def _check_kind(path: Path, key: str, value: object) -> None:
    if key in _LISTS:
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise BuildError(f"{path}: {key}: a list of strings is needed")
    elif key in _STRINGS:
        if not isinstance(value, str):
            raise BuildError(f"{path}: {key}: a string is needed")
    elif key in _TABLES:
        if not isinstance(value, dict):
            raise BuildError(f"{path}: {key}: a table is needed")
    elif key != "layers":
        known = ", ".join(sorted((*_LISTS, *_STRINGS, *_TABLES, "layers")))
        raise BuildError(f"{path}: {key}: unknown key; known are {known}")


def _merge(merged: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key in _LISTS:
            merged[key] = [*merged[key], *(entry for entry in value if entry not in merged[key])]
        elif key in _TABLES:
            merged[key] = {**merged.get(key, {}), **value}
        else:
            merged[key] = value


def _board(name: str, path: Path, merged: dict[str, Any], overlays: tuple[Path, ...]) -> Board:
    for key in _STRINGS:
        if not merged.get(key):
            raise BuildError(f"{path}: {key}: missing, here and in all layers")
    _check_choice(path, "suite", merged["suite"], SUITES)
    _check_choice(path, "architecture", merged["architecture"], ARCHITECTURES)
    for key, pattern in (
        ("packages", _PACKAGE),
        ("initramfs_modules", _MODULE),
        ("device_trees", _DEVICE_TREE),
        ("kernel_command_line", _WORD),
    ):
        for entry in merged[key]:
            if not pattern.fullmatch(entry):
                raise BuildError(f"{path}: {key}: {entry!r} cannot be right ({pattern.pattern})")
    for key, pattern in (("hostname", _HOSTNAME), ("console", _CONSOLE)):
        if not pattern.fullmatch(merged[key]):
            raise BuildError(f"{path}: {key}: {merged[key]!r} cannot be right ({pattern.pattern})")
    return Board(
        name=name,
        size=_size(path, merged.get("size", {})),
        overlays=overlays,
        title=merged["title"],
        proven=merged["proven"],
        suite=merged["suite"],
        architecture=merged["architecture"],
        hostname=merged["hostname"],
        console=merged["console"],
        packages=tuple(merged["packages"]),
        initramfs_modules=tuple(merged["initramfs_modules"]),
        kernel_command_line=tuple(merged["kernel_command_line"]),
        firmware_settings=tuple(merged["firmware_settings"]),
        device_trees=tuple(merged["device_trees"]),
    )


def _check_choice(path: Path, key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BuildError(f"{path}: {key}: {value!r} is none of {', '.join(choices)}")


def _size(path: Path, values: Mapping[str, Any]) -> Size:
    least = {"boot_mebibytes": 64, "state_mebibytes": 8}
    for key in values:
        if key not in least:
            raise BuildError(f"{path}: size.{key}: unknown key; known are {', '.join(least)}")
    for key, limit in least.items():
        value = values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not limit <= value <= 4096:
            raise BuildError(f"{path}: size.{key}: an integer from {limit} to 4096 is needed")
    return Size(**values)
