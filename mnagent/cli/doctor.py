"""``mnagent doctor``: looks for what would keep the agent from working here."""

from __future__ import annotations

import argparse
import json

from mnagent.cli.doctor_checks import Finding, Level, run_checks
from mnagent.cli.errors import EXIT_FAILED, EXIT_OK
from mnagent.cli.probe import Probe
from mnagent.config import Configuration, ConfigurationError, Role, load
from mnagent.runtime.key_files import load_key_sets

MARKS = {Level.GOOD: "ok", Level.NOTE: "--", Level.WARNING: "!", Level.ERROR: "ERROR"}


def main(arguments: argparse.Namespace, probe: Probe | None = None) -> int:
    """Show every finding with its remedy; exit status 1 when one of them is an error."""
    configuration, findings = _check_configuration(arguments)
    findings += run_checks(probe or Probe(), configuration)
    if arguments.json:
        print(json.dumps([_as_json(finding) for finding in findings], indent=2))
    else:
        _show(findings)
    return EXIT_FAILED if any(one.level is Level.ERROR for one in findings) else EXIT_OK


def _check_configuration(
    arguments: argparse.Namespace,
) -> tuple[Configuration | None, list[Finding]]:
    """The configuration as far as it is good, and what is to say about it."""
    if arguments.config is None:
        return None, []
    try:
        configuration = load(arguments.config)
    except ConfigurationError as error:
        return None, [_of(error, "configuration")]
    good = Finding(
        check="configuration", level=Level.GOOD, text=f"{configuration.path} is well-formed"
    )
    if configuration.role is Role.CORRESPONDENT:
        none = Finding(check="keys", level=Level.GOOD, text="a correspondent needs no keys")
        return configuration, [good, none]
    try:
        load_key_sets(configuration)
    except ConfigurationError as error:
        return configuration, [good, _of(error, "keys")]
    keys = Finding(check="keys", level=Level.GOOD, text="the key files are private and fit")
    return configuration, [good, keys]


def _of(error: ConfigurationError, check: str) -> Finding:
    where = f"{error.path}: {error.key_path}" if error.key_path else str(error.path)
    return Finding(
        check=check, level=Level.ERROR, text=f"{where}: {error.expected}", remedy=error.remedy
    )


def _as_json(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "level": finding.level.value,
        "text": finding.text,
        "remedy": finding.remedy,
    }


def _show(findings: list[Finding]) -> None:
    for finding in findings:
        print(f"{MARKS[finding.level]:>5}  {finding.check}: {finding.text}")
        if finding.remedy:
            print(f"{'':>5}  -> {finding.remedy}")
    errors = sum(finding.level is Level.ERROR for finding in findings)
    warnings = sum(finding.level is Level.WARNING for finding in findings)
    print()
    if errors:
        print(f"The agent cannot work here yet: {errors} to repair, {warnings} to look at.")
    elif warnings:
        print(f"The agent can work here; {warnings} to look at.")
    else:
        print("The agent can work here.")
