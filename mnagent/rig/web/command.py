"""``mnagent rig serve``: the page about places, runs and their comparison."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import ssl
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
        "--certificate",
        type=Path,
        metavar="FILE",
        help="speak TLS with this certificate chain, PEM, and the key in it or in --key",
    )
    made.add_argument("--key", type=Path, metavar="FILE", help="of the certificate")
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
        gate = _gate(options)
        asyncio.run(_serve(gate, options))
    except (RigError, OSError) as error:
        print(f"mnagent rig serve: {error}", file=sys.stderr)
        return EXIT_TROUBLE
    return 0


def _gate(options: argparse.Namespace) -> Gate:
    listen, token_file = options.listen, options.token_file
    try:
        is_loopback = ip_address(listen).is_loopback
    except ValueError:
        raise RigError(f"--listen needs an IPv4 or IPv6 address, not {listen}") from None
    if is_loopback:
        return Gate(None if token_file is None else read_token(token_file))
    if token_file is None:
        raise RigError(
            f"{listen} can be reached from elsewhere: name a file for a token with --token-file, "
            "or listen on 127.0.0.1 and come through `ssh -L`"
        )
    if options.certificate is None:
        print(
            "mnagent rig serve: without --certificate, whoever sees the network sees the token",
            file=sys.stderr,
        )
    return Gate(read_token(token_file))


def _encryption(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.certificate, options.key)
    except OSError as error:  # also what OpenSSL complains of
        raise RigError(f"{options.certificate}: {error.strerror or error}") from error
    return context


async def _serve(gate: Gate, options: argparse.Namespace) -> None:
    site = Site(Library(options.results), gate, Places(options.coordinator))
    encryption = _encryption(options)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    # No access log: nothing that is asked for is written down.
    runner = web.AppRunner(site.application(), access_log=None, shutdown_timeout=SHUTDOWN)
    await runner.setup()
    try:
        address = (options.listen, options.port)
        await web.TCPSite(runner, *address, ssl_context=encryption).start()
        host, bound = runner.addresses[0][:2]
        scheme = "https" if encryption else "http"
        print(f"{scheme}://{f'[{host}]' if ':' in host else host}:{bound}/", flush=True)
        await stopped.wait()
    finally:
        await runner.cleanup()
