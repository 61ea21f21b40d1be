"""``mnagent status``: asks the running agent, and says the answer in sentences or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from mnagent.cli.errors import EXIT_FAILED, CommandError
from mnagent.cli.main import DEFAULT_CONTROL_SOCKET
from mnagent.cli.status_text import render
from mnagent.control.client import ControlError, request

CLEAR_SCREEN = "\x1b[H\x1b[2J\x1b[3J"


def main(arguments: argparse.Namespace) -> int:
    """Show the state once, or again and again until interrupted."""
    path = control_socket(arguments)
    if not arguments.watch:
        _show(ask(path, "status"), as_json=arguments.json)
        return 0
    try:
        _watch(path, as_json=arguments.json, interval=arguments.interval)
    except KeyboardInterrupt:
        return 0  # this is how one leaves it
    return 0


def control_socket(arguments: argparse.Namespace) -> Path:
    """Where the agent listens: as told, as configured, or the default."""
    if arguments.socket is not None:
        return Path(arguments.socket)
    if arguments.config is not None:
        from mnagent.config import load

        return load(arguments.config).host.control_socket
    return DEFAULT_CONTROL_SOCKET


def ask(path: Path, method: str, *, timeout: float = 5.0, **arguments: str) -> dict[str, Any]:
    """The agent's answer; CommandError says why there is none."""
    try:
        return request(path, method, timeout, arguments=arguments)
    except PermissionError:
        remedy = "run as root, or as the user the agent runs as"
        raise CommandError(f"{path}: may not ask the agent; {remedy}", EXIT_FAILED) from None
    except (FileNotFoundError, ConnectionError):
        remedy = "start it with `mnagent run`, or say where it is with -c FILE or --socket PATH"
        raise CommandError(f"{path}: no agent answers there; {remedy}", EXIT_FAILED) from None
    except TimeoutError:
        raise CommandError(f"{path}: the agent does not answer in time", EXIT_FAILED) from None
    except ControlError as error:
        if error.code == "refused":
            raise CommandError(error.message, EXIT_FAILED) from None
        raise CommandError(f"{path}: {error}", EXIT_FAILED) from None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}", EXIT_FAILED) from None


def _show(status: dict[str, Any], *, as_json: bool) -> None:
    print(json.dumps(status, indent=2, ensure_ascii=False) if as_json else render(status))


def _watch(path: Path, *, as_json: bool, interval: float) -> None:
    """Repaint on a terminal; elsewhere write one text, or one JSON line, after the other.

    An agent that goes away is waited for: one watches a restart this way.
    """
    on_terminal = sys.stdout.isatty()
    while True:
        try:
            status = ask(path, "status")
            text = json.dumps(status, ensure_ascii=False) if as_json else render(status)
        except CommandError as error:
            text = json.dumps({"error": str(error)}) if as_json else str(error)
        if on_terminal and not as_json:
            print(f"{CLEAR_SCREEN}{text}", flush=True)
        else:
            print(text if as_json else f"{text}\n", flush=True)
        time.sleep(interval)
