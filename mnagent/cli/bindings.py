"""``mnagent bindings``: shows the bindings of a running home agent, and ends them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from mnagent.cli.duration import duration
from mnagent.cli.status import ask, control_socket


def main(arguments: argparse.Namespace) -> int:
    """Do what was asked for; with several addresses the first that fails ends it."""
    path = control_socket(arguments)
    if arguments.action == "delete":
        for home_address in arguments.home_addresses:
            ask(path, "delete-binding", home_address=str(home_address))
            print(f"{home_address}: the binding has ended")
        return 0
    answer = ask(path, "bindings")
    if arguments.json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print("\n".join(render(answer)))
    return 0


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
