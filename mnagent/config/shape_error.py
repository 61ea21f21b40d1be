"""What a decoder says of a file of the wrong shape, in our words and with a remedy."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from mnagent.config.errors import ConfigurationError
from mnagent.config.raw import TABLES

REFERENCE = Path(__file__).with_name("reference.toml")

_KIND_NAMES = {
    "str": "a string",
    "str | array": "a string or a list",
    "int | str": "a whole number or a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "object | null": "a table",
    "str | null": "a string",
}


def shape_error(path: Path, message: str, shape: type[msgspec.Struct]) -> ConfigurationError:
    """Put the decoder's words into ours: its path is ``$.mobile_node.lifetime``.

    ``shape`` is what the whole file was to be.
    """
    words, _, place = message.partition(" - at `$")
    table = place.rstrip("`").lstrip(".")
    remedy = f"see {REFERENCE}, which has every key with its unit and default"
    named = re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", words)
    if named:
        key_path = f"{table}.{named[2]}" if table else named[2]
        if named[1] == "missing required":
            return ConfigurationError(path, key_path, "missing, and has no default", remedy)
        expected = f"unknown key{_meant(table, named[2], shape)}"
        return ConfigurationError(path, key_path, expected, remedy)
    kinds = re.fullmatch(r"Expected `(.*)`, got `(.*)`", words)
    if kinds:
        wanted, found = (_KIND_NAMES.get(kind, kind) for kind in kinds.groups())
        if table in TABLES and wanted == "a list":
            remedy = f"write [[{table}]] above each of them"
        return ConfigurationError(path, table, f"expected {wanted}, found {found}", remedy)
    return ConfigurationError(path, table, words, remedy)


def _meant(table: str, name: str, shape: type[msgspec.Struct]) -> str:
    """What was probably meant by an unknown key."""
    from difflib import get_close_matches  # few are wrong, and every daemon would carry it

    here = re.sub(r"\[\d+\]", "", table)
    own = shape if here == "" else TABLES[here]
    wanted = name.replace("-", "_")
    close = get_close_matches(wanted, own.__struct_fields__, n=1, cutoff=0.7)
    if close:
        return f', perhaps "{close[0]}"'
    others = [
        f"[{other}]"
        for other, fields in TABLES.items()
        if other and fields is not own and wanted in fields.__struct_fields__
    ]
    return f", it belongs in {' or '.join(others)}" if others else ""
