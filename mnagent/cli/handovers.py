"""``mnagent handovers``: how long each phase of each handover took."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mnagent.cli.duration import duration
from mnagent.cli.status import ask, control_socket

COLUMNS = (
    ("RS", "router_solicited_at"),
    ("RA", "router_advertised_at"),
    ("address", "care_of_address_ready_at"),
    ("DAD", "duplicate_detection_ended_at"),
    ("BU", "update_sent_at"),
    ("BA", "acknowledged_at"),
    ("out", "first_packet_out_at"),
    ("in", "first_packet_in_at"),
)
CORRESPONDENT_COLUMNS = (
    ("tests", "tests_started_at"),
    ("passed", "tests_passed_at"),
    ("BU", "update_sent_at"),
    ("BA", "acknowledged_at"),
    ("out", "first_packet_out_at"),
    ("in", "first_packet_in_at"),
)
WIDTH = 8


def main(arguments: argparse.Namespace) -> int:
    """Print the handovers the agent remembers."""
    answer = ask(control_socket(arguments), "handovers")
    if arguments.json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print("\n".join(render(answer)))
    return 0


def render(answer: Mapping[str, Any]) -> Iterator[str]:
    """Several lines for people."""
    handovers: Sequence[Mapping[str, Any]] = answer.get("handovers") or ()
    if not handovers:
        yield "No handover yet."
        return
    now = float(answer.get("now", 0.0))
    yield "Milliseconds from the link event to each phase; - was not reached, or not needed:"
    heads = "".join(f"{name:>{WIDTH}}" for name, _ in COLUMNS)
    yield f"{'#':>4}  {'ago':>11}  {'interface':<10}  {'cause':<11}{heads}  to"
    for one in handovers:
        start = float(one["link_up_at"])
        times = "".join(f"{_since(start, one.get(name)):>{WIDTH}}" for _, name in COLUMNS)
        where = "(home)" if one.get("at_home") else one.get("care_of_address") or "-"
        if one.get("access_point"):
            where += f" at {one['access_point']}"
        yield (
            f"{one.get('number', 0):>4}  {duration(now - start):>11}  "
            f"{one.get('interface') or '-':<10}  {one.get('cause', ''):<11}{times}  {where}"
        )
    yield from _correspondents(handovers)


def _correspondents(handovers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The direct paths, where there are any."""
    if not any(one.get("correspondents") for one in handovers):
        return
    yield ""
    yield "The same for each correspondent: address tests, its binding, and what went directly:"
    heads = "".join(f"{name:>{WIDTH}}" for name, _ in CORRESPONDENT_COLUMNS)
    yield f"{'#':>4}{heads}  correspondent"
    for one in handovers:
        start = float(one["link_up_at"])
        for correspondent, reached in dict(one.get("correspondents") or {}).items():
            times = "".join(
                f"{_since(start, reached.get(name)):>{WIDTH}}" for _, name in CORRESPONDENT_COLUMNS
            )
            yield f"{one.get('number', 0):>4}{times}  {correspondent}"


def _since(start: float, instant: float | None) -> str:
    return "-" if instant is None else f"{(instant - start) * 1000:.1f}"
