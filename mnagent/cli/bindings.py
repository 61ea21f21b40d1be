"""``mnagent bindings``: a running home agent's bindings: shown, ended, sent elsewhere."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from mnagent.cli.duration import duration
from mnagent.cli.status import ask, control_socket

POLL_INTERVAL: Final = 0.2
"""Seconds between looks at who is still there."""


def main(arguments: argparse.Namespace) -> int:
    """Do what was asked for; with several addresses the first that fails ends it."""
    path = control_socket(arguments)
    if arguments.action == "delete":
        for home_address in arguments.home_addresses:
            ask(path, "delete-binding", home_address=str(home_address))
            print(f"{home_address}: the binding has ended")
        return 0
    if arguments.action == "switch":
        return _switch(arguments, path)
    answer = _all(path)
    if arguments.json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print("\n".join(render(answer)))
    return 0


def _switch(arguments: argparse.Namespace, path: Path) -> int:
    """Exit status 1 when somebody is still there after ``--wait``."""
    answer = ask(
        path,
        "switch-home-agent",
        home_addresses=" ".join(map(str, arguments.home_addresses)),
        home_agents=" ".join(map(str, arguments.home_agents)),
    )
    asked = set(answer["home_addresses"])
    for home_address in answer["home_addresses"]:
        print(f"{home_address}: asked to switch to another home agent")
    if not asked:
        print("No mobile node has a binding here that can be switched.")
    give_up_at = time.monotonic() + arguments.wait
    while arguments.wait and (left := _bound(path) & asked):
        if time.monotonic() >= give_up_at:
            print(f"still here: {', '.join(sorted(left))}", file=sys.stderr)
            return 1
        time.sleep(POLL_INTERVAL)
    return 0


def _bound(path: Path) -> set[str]:
    return {each["home_address"] for each in _all(path)["bindings"]}


def _all(path: Path) -> dict[str, Any]:
    """All bindings; the agent tells them page by page."""
    bindings: list[Any] = []
    after = ""
    while True:
        answer = ask(path, "bindings", after=after)
        bindings += answer.get("bindings") or ()
        if not answer.get("left"):
            return {"now": answer.get("now", 0.0), "bindings": bindings}
        after = bindings[-1]["home_address"]


def render(answer: Mapping[str, Any]) -> Iterator[str]:
    """A table for people."""
    bindings = answer.get("bindings") or ()
    if not bindings:
        yield "No bindings."
        return
    width = max(len(each["home_address"]) for each in bindings)
    care_of = max(len(each["care_of_address"]) for each in bindings)
    yield f"{'home address':<{max(width, 12)}}  {'care-of address':<{max(care_of, 15)}}  left"
    for each in bindings:
        left = duration(each["lifetime_remaining"])
        yield (
            f"{each['home_address']:<{max(width, 12)}}  "
            f"{each['care_of_address']:<{max(care_of, 15)}}  {left}"
        )
