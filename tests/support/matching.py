"""Finding things in lists of actions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from mnagent.core.actions import ReportEvent, SendPacket

Kind = TypeVar("Kind")


def of_type(outputs: Iterable[object], kind: type[Kind]) -> list[Kind]:
    """The outputs of one type, in order."""
    return [output for output in outputs if isinstance(output, kind)]


def only(outputs: Iterable[object], kind: type[Kind]) -> Kind:
    """The one output of a type; AssertionError when there is none or more."""
    outputs = list(outputs)
    found = of_type(outputs, kind)
    assert len(found) == 1, f"{len(found)} {kind.__name__} in {outputs}"
    return found[0]


def sent(outputs: Iterable[object], message: type[Kind]) -> list[tuple[SendPacket, Kind]]:
    """Packets whose payload is of a type, with the payload."""
    return [
        (output, output.packet.payload)
        for output in of_type(outputs, SendPacket)
        if isinstance(output.packet.payload, message)
    ]


def reports(outputs: Iterable[object], name: str) -> list[dict[str, str]]:
    """Details of the reports of one name."""
    return [dict(report.details) for report in of_type(outputs, ReportEvent) if report.name == name]


def kinds(outputs: Iterable[object]) -> list[str]:
    """The names of the outputs' types, in order."""
    return [type(output).__name__ for output in outputs]
