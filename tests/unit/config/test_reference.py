"""reference.toml documents exactly the keys there are, with the defaults the code has."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mnagent.config import load
from mnagent.config.raw import TABLES, RawConfiguration

TEXT = resources.files("mnagent.config").joinpath("reference.toml").read_text()
DOCUMENT = tomllib.loads(TEXT)

NUMBERS = (int, float)


def comments() -> dict[str, str]:
    """The comment above each key and table header, by its path."""
    found: dict[str, str] = {}
    table, comment = "", []
    for line in TEXT.splitlines():
        if line.startswith("#"):
            comment.append(line.lstrip("# "))
            continue
        header = re.fullmatch(r"\[+([\w.]+)\]+", line)
        key = re.match(r"(\w+) = ", line)
        if header:
            table = header[1]
            found[table] = " ".join(comment)
        elif key:
            found[f"{table}.{key[1]}".lstrip(".")] = " ".join(comment)
        comment = []
    return found


COMMENTS = comments()


def table_at(path: str) -> dict[str, Any]:
    value: Any = DOCUMENT
    for name in filter(None, path.split(".")):
        value = value[name]
    table: dict[str, Any] = value[0] if isinstance(value, list) else value
    return table


def fields() -> list[tuple[str, str, msgspec.structs.FieldInfo]]:
    return [
        (path, f"{path}.{field.encode_name}".lstrip("."), field)
        for path, struct in TABLES.items()
        for field in msgspec.structs.fields(struct)
    ]


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


@pytest.mark.parametrize("path", TABLES)
def test_reference_table_has_exactly_the_keys_of_the_code(path: str) -> None:
    known = {field.encode_name for field in msgspec.structs.fields(TABLES[path])}
    assert set(table_at(path)) == known


@pytest.mark.parametrize(("table", "key", "field"), fields(), ids=lambda value: str(value)[:60])
def test_reference_key_states_the_default_of_the_code(
    table: str, key: str, field: msgspec.structs.FieldInfo
) -> None:
    if key in TABLES:
        return  # tables: their keys have the defaults
    comment, default = COMMENTS[key], default_of(field)
    value = table_at(table)[field.encode_name]
    if default is msgspec.NODEFAULT:
        assert comment.endswith("Required.")
    elif default is None or default == []:
        assert comment.endswith("Default: absent.")
    else:
        assert value == default
        stated = re.search(r"Default: (.+)\.$", comment)
        assert stated
        assert tomllib.loads(f"value = {stated[1]}")["value"] == default
    if isinstance(value, NUMBERS) and not isinstance(value, bool):
        assert "Unit: " in comment


def test_reference_decodes_strictly() -> None:
    msgspec.convert(DOCUMENT, RawConfiguration)


@pytest.mark.parametrize("role", ["mobile-node", "home-agent", "correspondent"])
def test_reference_without_the_other_roles_tables_loads(role: str, tmp_path: Path) -> None:
    names = ["mobile-node", "home-agent", "correspondent"]
    starts = [TEXT.index(f"[{name.replace('-', '_')}]\n") for name in names]
    ends = [*starts[1:], TEXT.index("[host]")]
    own = names.index(role)
    text = TEXT[: starts[0]] + TEXT[starts[own] : ends[own]] + TEXT[ends[-1] :]
    path = tmp_path / "mnagent.toml"
    path.write_text(text.replace('role = "mobile-node"', f'role = "{role}"'))
    assert load(path).role.value == role
