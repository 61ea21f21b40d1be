"""``mnagent``: reads the command line and hands over to the subcommand.

Exit status: 0 done, 1 it could not be done, 2 bad input (one line on standard error says which),
130 interrupted; ``run`` has more, see `mnagent.runtime.service`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import Any, NoReturn

from mnagent import __version__
from mnagent.cli.errors import (
    EXIT_BAD_INPUT,
    EXIT_BROKEN_PIPE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    CommandError,
)

DEFAULT_CONFIGURATION = Path("/etc/mnagent/mnagent.toml")
DEFAULT_CONTROL_SOCKET = Path("/run/mnagent/control.sock")
DEFAULT_WIDTH = 80
LOG_LEVELS = ("debug", "info", "warning", "error")
ENCRYPTIONS = ("aes-cbc-128", "aes-cbc-256")

COMMAND_MODULES = {
    "run": "mnagent.cli.run",
    "status": "mnagent.cli.status",
    "handovers": "mnagent.cli.handovers",
    "bindings": "mnagent.cli.bindings",
    "reload": "mnagent.cli.reload",
    "check-config": "mnagent.cli.check_config",
    "keygen": "mnagent.cli.keygen",
    "doctor": "mnagent.cli.doctor",
    "bench": "mnagent.cli.bench",
    "version": "mnagent.cli.version",
}
"""Each has ``main(arguments: argparse.Namespace) -> int``."""
RIG_MODULES = {
    "wifi": "mnagent.rig.wifi.command",
    "serve": "mnagent.rig.web.command",
}
"""Each has ``main(argv: list[str]) -> int``."""


class _HelpFormatter(argparse.HelpFormatter):
    """As wide as the terminal. argparse itself would ask `shutil`, even where no help is shown, and
    that brings every compression there is: 0.5 MB that a daemon keeps."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_terminal_width() - 2)


def _terminal_width() -> int:
    """In columns, 80 when there is no telling."""
    with contextlib.suppress(KeyError, ValueError):
        return int(os.environ["COLUMNS"])
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or DEFAULT_WIDTH
    return DEFAULT_WIDTH


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **options)

    def parse_known_args(self, *given: Any, **named: Any) -> Any:
        """As argparse's, but a subcommand tells of what it does not know itself, and not the
        command above it, whose help does not list its options."""
        known, unknown = super().parse_known_args(*given, **named)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (`{self.prog} --help` lists what there is)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status and raises nothing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Who read our output is gone. Nothing more can be said there, not even at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except CommandError as error:
        _say(str(error))
        return error.status
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return EXIT_FAILED
    except Exception as error:
        if not _is_configuration_error(error):
            raise
        _say(str(error))
        return EXIT_BAD_INPUT


def _say(message: str) -> None:
    one_line = " ".join(message.split())
    print(f"mnagent: {one_line}", file=sys.stderr)


def _is_configuration_error(error: Exception) -> bool:
    """Without importing the configuration's library for commands that need none."""
    module = sys.modules.get("mnagent.config.errors")
    return module is not None and isinstance(error, module.ConfigurationError)


def _dispatch(argv: list[str]) -> int:
    if argv[:1] == ["demo"]:
        return _rig("the demo", "mnagent.rig.demo", argv[1:])
    if argv[:1] == ["rig"] and argv[1:2] and argv[1] in RIG_MODULES:
        return _rig("the rig", RIG_MODULES[argv[1]], argv[2:])
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as ending:  # --help and --version
        return int(ending.code or 0)
    status: int = importlib.import_module(COMMAND_MODULES[arguments.command]).main(arguments)
    return status


def _rig(what: str, module: str, argv: list[str]) -> int:
    """A rig has options of its own, and libraries that a board does not have."""
    try:
        rig = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise CommandError(
            f"{what} needs {error.name}, which is not installed; "
            "run ci/setup in the source tree, and .venv/bin/mnagent there",
            EXIT_FAILED,
        ) from None
    try:
        status: int = rig.main(argv)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else EXIT_FAILED
    return status


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="mnagent",
        description="Mobile IPv6 agent: one address while you roam.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mnagent {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )
    _add_run(commands)
    _add_status(commands)
    _add_handovers(commands)
    _add_bindings(commands)
    _add_reload(commands)
    _add_check_config(commands)
    _add_keygen(commands)
    _add_doctor(commands)
    _add_bench(commands)
    commands.add_parser("demo", help="watch a mobile node roam, in namespaces on this machine")
    _add_rig(commands)
    commands.add_parser("version", help="print the version")
    return parser


_Commands = argparse._SubParsersAction


def _add_rig(commands: _Commands[_Parser]) -> None:
    """Only to say what there is: `_dispatch` hands over before."""
    parser = commands.add_parser(
        "rig", help="roam over Wi-Fi in a virtual machine (wifi), show it (serve)"
    )
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT", parser_class=_Parser)
    kinds.add_parser("wifi", help="roam between access points in a small virtual machine")
    kinds.add_parser("serve", help="show places, what runs and past results as a web page")


def _configuration_option(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", required=required, help="configuration file"
    )


def _add_run(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser("run", help="run the agent", allow_abbrev=False)
    _configuration_option(parser, required=True)
    parser.add_argument(
        "--log-level", choices=LOG_LEVELS, help="least important message logged (host.log_level)"
    )


def _agent_options(parser: argparse.ArgumentParser) -> None:
    """Which agent to ask."""
    where = parser.add_mutually_exclusive_group()
    _configuration_option_of(where, "configuration of the agent to ask")
    where.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help=f"control socket of the agent to ask (default: {DEFAULT_CONTROL_SOCKET})",
    )


def _add_handovers(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "handovers", help="show how long the latest handovers took", allow_abbrev=False
    )
    _agent_options(parser)
    parser.add_argument("--json", action="store_true", help="print them as JSON")


def _add_bindings(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "bindings", help="show or end the bindings of a home agent", allow_abbrev=False
    )
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=_Parser
    )
    show = actions.add_parser("list", help="show all of them", allow_abbrev=False)
    _agent_options(show)
    show.add_argument("--json", action="store_true", help="print them as JSON")
    delete = actions.add_parser(
        "delete", help="end those of some home addresses", allow_abbrev=False
    )
    _agent_options(delete)
    delete.add_argument(
        "home_addresses", type=_address, nargs="+", metavar="ADDRESS", help="home address"
    )
    switch = actions.add_parser(
        "switch", help="send mobile nodes to another home agent", allow_abbrev=False
    )
    _agent_options(switch)
    switch.add_argument(
        "home_addresses",
        type=_address,
        nargs="*",
        metavar="ADDRESS",
        help="home address (default: all)",
    )
    switch.add_argument(
        "--home-agent",
        dest="home_agents",
        type=_address,
        action="append",
        default=[],
        metavar="ADDRESS",
        help="where to; again for the next to try (default: those heard on the home link)",
    )
    switch.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait until they have left, at most so long (default: not at all)",
    )


def _add_reload(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "reload", help="have the agent read its configuration again", allow_abbrev=False
    )
    _agent_options(parser)


def _add_status(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser("status", help="show what the agent does", allow_abbrev=False)
    _agent_options(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument("--watch", action="store_true", help="show it again each interval")
    parser.add_argument(
        "--interval",
        type=_interval,
        default=1.0,
        metavar="SECONDS",
        help="time between two looks with --watch (default: 1)",
    )


def _configuration_option_of(group: argparse._MutuallyExclusiveGroup, text: str) -> None:
    group.add_argument("-c", "--config", type=Path, metavar="FILE", help=text)


def _add_check_config(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "check-config", help="check a configuration and its key files", allow_abbrev=False
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("file", type=Path, nargs="?", metavar="FILE", help="configuration file")
    _configuration_option_of(where, "the same")
    parser.add_argument(
        "--without-keys", action="store_true", help="leave the key files it names alone"
    )


def _add_keygen(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "keygen", help="make matching key files for both ends", allow_abbrev=False
    )
    parser.add_argument(
        "--home-address",
        type=_address,
        required=True,
        metavar="ADDRESS",
        help="the mobile node's address",
    )
    parser.add_argument(
        "--home-agent",
        type=_address,
        required=True,
        action="append",
        metavar="ADDRESS",
        help="the home agent's address; again for each further home agent",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="where to write them"
    )
    parser.add_argument(
        "--encryption",
        choices=ENCRYPTIONS,
        default="aes-cbc-256",
        help="cipher and key length (default: aes-cbc-256)",
    )
    parser.add_argument(
        "--protection",
        choices=("ipsec", "authentication-option"),
        default="ipsec",
        help="what the keys are for, as `protection` in the configurations (default: ipsec)",
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")


def _add_doctor(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "doctor", help="find what would keep the agent from working here", allow_abbrev=False
    )
    _configuration_option(parser, required=False)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def _add_bench(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "bench", help="measure what this machine can do", allow_abbrev=False
    )
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT", parser_class=_Parser)
    crypto = kinds.add_parser(
        "crypto", help="measure what each cipher costs, and say which to choose", allow_abbrev=False
    )
    crypto.add_argument(
        "--seconds",
        type=_interval,
        default=0.2,
        metavar="SECONDS",
        help="time to spend on each cipher and size (default: 0.2)",
    )
    crypto.add_argument("--json", action="store_true", help="print the figures as JSON")


def _address(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except AddressValueError:
        raise argparse.ArgumentTypeError(f"expected an IPv6 address, found {text!r}") from None


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.05 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"expected 0.05 to 86400 seconds, found {text!r}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
