"""The import table of the architecture (README, "Rooms and who may import whom"), as a test."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mnagent

ROOT = Path(mnagent.__file__).parent

PURE = frozenset({"core", "wire"})
MACHINES = frozenset({"mobility", "autoconf", "ipsec", "link"})
INNER = PURE | MACHINES | {"config", "agent"}

# room -> rooms it may import beside itself
ROOMS: dict[str, frozenset[str]] = {
    "wire": frozenset(),
    "core": frozenset({"wire"}),
    "mobility": PURE,
    "autoconf": PURE,
    "ipsec": PURE,
    "link": PURE,
    "config": frozenset({"core"}),
    "agent": INNER,
    "system": PURE | {"datapath"},
    "datapath": PURE,
    "runtime": INNER | {"system", "datapath", "control"},
    "control": frozenset({"config"}),
    "cli": INNER | {"runtime", "control", "config", "datapath", "rig"},
    "rig": frozenset({"control", "wire", "ipsec", "rig"}),
}

# room -> packages from outside the standard library it may import
LIBRARIES: dict[str, frozenset[str]] = {
    "config": frozenset({"msgspec"}),
    "ipsec": frozenset({"cryptography"}),
    "control": frozenset({"msgspec"}),
    "runtime": frozenset({"pyroute2"}),
    "cli": frozenset({"netifaces", "rich"}),
    "rig": frozenset(
        {
            "aiohttp",
            "attr",
            "cryptography",
            "grpc",
            "labgrid",
            "msgspec",
            "pexpect",
            "pyroute2",
            "rich",
            "scapy",
        }
    ),
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module a file imports, also inside functions, with its line."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.lineno, node.module or ""
            if node.module == "mnagent":
                yield from ((node.lineno, f"mnagent.{alias.name}") for alias in node.names)


def room_files() -> list[tuple[str, Path]]:
    return [
        (path.relative_to(ROOT).parts[0], path)
        for path in sorted(ROOT.rglob("*.py"))
        if len(path.relative_to(ROOT).parts) > 1
    ]


@pytest.mark.parametrize(
    ("room", "path"), room_files(), ids=lambda value: str(value).removeprefix(f"{ROOT}/")
)
def test_room_imports_only_what_the_table_allows(room: str, path: Path) -> None:
    assert room in ROOMS, f"{path}: a room that the table does not know"
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] == "mnagent":
            if len(parts) == 1 or not (ROOT / parts[1]).is_dir():
                continue  # the version
            other = parts[1]
            assert other == room or other in ROOMS[room], f"{path}:{line}: {room} imports {other}"
        elif parts[0] not in sys.stdlib_module_names:
            allowed = LIBRARIES.get(room, frozenset())
            assert parts[0] in allowed, f"{path}:{line}: {room} imports {parts[0]}"


@pytest.mark.parametrize("room", sorted(MACHINES))
def test_machine_rooms_never_import_each_other(room: str) -> None:
    assert not ROOMS[room] & MACHINES


@pytest.mark.parametrize("room", ["wire", "core", "mobility", "autoconf", "ipsec", "link", "agent"])
def test_protocol_core_reads_no_clock_and_no_entropy(room: str) -> None:
    """What runs below the runtime is told the time and given its randomness."""
    forbidden = {"time", "asyncio", "socket", "threading", "secrets", "subprocess"}
    for path in sorted((ROOT / room).rglob("*.py")):
        for line, name in imports(path):
            assert name.split(".")[0] not in forbidden, f"{path}:{line}: imports {name}"
