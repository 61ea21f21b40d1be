"""``mnagent rig serve``: the page about places, runs and their comparison."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web

from mnagent.rig.library import DEFAULT_FOLDER, Library
from mnagent.rig.namespace import RigError
from mnagent.rig.web.application import Site
from mnagent.rig.web.gate import Gate, read_token
from mnagent.rig.web.places import Places

PORT = 6275
EXIT_TROUBLE = 2
SHUTDOWN = 1.0
"""Seconds that streams get to end."""


def parser() -> argparse.ArgumentParser:
    """Of the command's own options."""
    made = argparse.ArgumentParser(
        prog="mnagent rig serve",
        description="Show places, what runs, past results and how they compare, as a web page.",
    )
    made.add_argument(
        "--results",
        type=Path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help="library of results (default: $MNAGENT_RESULTS, else rig-results)",
    )
    made.add_argument(
        "--listen",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen (default: %(default)s); beyond loopback a token is needed",
    )
    made.add_argument("--port", type=int, default=PORT, help="0: any (default: %(default)s)")
    made.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="ask for the token in FILE, mode 0600; made where there is none",
    )
    made.add_argument(
        "--coordinator",
        default=os.environ.get("LG_COORDINATOR"),
        metavar="HOST:PORT",
        help="show the places of this labgrid coordinator (default: $LG_COORDINATOR; without one, "
        "this machine's targets)",
    )
    return made


def main(arguments: list[str]) -> int:
    """Serve until SIGINT or SIGTERM; exit status 2 when it cannot."""
    options = parser().parse_args(arguments)
    try:
        gate = _gate(options.listen, options.token_file)
        asyncio.run(_serve(gate, options))
    except (RigError, OSError) as error:
        print(f"mnagent rig serve: {error}", file=sys.stderr)
        return EXIT_TROUBLE
    return 0


def _gate(listen: str, token_file: Path | None) -> Gate:
    try:
        is_loopback = ip_address(listen).is_loopback
    except ValueError:
        raise RigError(f"--listen needs an IPv4 or IPv6 address, not {listen}") from None
    if token_file is None and not is_loopback:
        raise RigError(
            f"{listen} can be reached from elsewhere: name a file for a token with --token-file, "
            "or listen on 127.0.0.1 and come through `ssh -L`"
        )
    return Gate(None if token_file is None else read_token(token_file))


async def _serve(gate: Gate, options: argparse.Namespace) -> None:
    site = Site(Library(options.results), gate, Places(options.coordinator))
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    # No access log: nothing that is asked for is written down.
    runner = web.AppRunner(site.application(), access_log=None, shutdown_timeout=SHUTDOWN)
    await runner.setup()
    try:
        await web.TCPSite(runner, options.listen, options.port).start()
        host, bound = runner.addresses[0][:2]
        print(f"http://{f'[{host}]' if ':' in host else host}:{bound}/", flush=True)
        await stopped.wait()
    finally:
        await runner.cleanup()
