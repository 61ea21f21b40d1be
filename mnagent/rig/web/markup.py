"""HTML and SVG elements, escaped by construction: text becomes markup only through `element`."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Final

VOID: Final = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | int | float | Iterable["Child"] | None
"""What an element may hold: text (escaped unless it is `Markup`), several of them, or nothing."""


def element(
    name: str, /, *children: Child, **attributes: str | int | float | bool | None
) -> Markup:
    """An element. Of an attribute's name, ``_`` at the end is dropped and elsewhere becomes ``-``;
    False and None leave it out, True gives it no value."""
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Several, one after another."""
    return Markup("".join(_child(child) for child in children))


def _attribute(key: str, value: str | int | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(_text(value))}"'


def _child(child: Child) -> str:
    match child:
        case None:
            return ""
        case Markup():
            return child
        case str() | int() | float():
            return html.escape(_text(child))
        case _:
            return join(child)


def _text(value: str | int | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
