"""``mnagent reload``: has the running agent read its configuration again, and says what came of
it."""

from __future__ import annotations

import argparse

from mnagent.cli.status import ask, control_socket

TIMEOUT = 60.0
"""Seconds; a home agent of very many mobile nodes reads as many key files."""


def main(arguments: argparse.Namespace) -> int:
    """Exit status 1, with the old configuration in force, when the new one was refused."""
    changed = ask(control_socket(arguments), "reload", timeout=TIMEOUT)["changed"]
    print(f"reloaded: {', '.join(changed)}" if changed else "reloaded: nothing has changed")
    return 0
