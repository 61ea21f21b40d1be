"""``mnagent rig wifi``: build the machine if need be, boot it, play the scenarios, report."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from mnagent.rig.namespace import RigError
from mnagent.rig.recorder import Recorder, add_results_options, begin
from mnagent.rig.wifi.hops import judge, visited
from mnagent.rig.wifi.machine import (
    OUTPUT,
    Machine,
    build,
    describe,
    project_folder,
)
from mnagent.rig.wifi.recording import record, relay
from mnagent.rig.wifi.report import as_text, write_reports
from mnagent.rig.wifi.results import Results
from mnagent.rig.wifi.scenarios import SCENARIOS

CACHE = Path("build/wifi-machine")
REPORT = Path("build/wifi")
SECONDS_A_ROAM = 60.0
SECONDS_FOR_ALL = 3600.0
"""A run takes a small part of it where nobody else uses the processor."""
EXIT_BENCH = 2


def parser() -> argparse.ArgumentParser:
    """Of the command's own options."""
    made = argparse.ArgumentParser(
        prog="mnagent rig wifi",
        description="Let a mobile node roam between access points in a small virtual machine.",
        epilog="scenarios: " + "; ".join(f"{one.name}: {one.title}" for one in SCENARIOS),
    )
    made.add_argument("names", nargs="*", metavar="SCENARIO", help="only these")
    made.add_argument("--roams", type=int, default=10, help="in across-links (default: 10)")
    made.add_argument("--output", type=Path, default=REPORT, help=f"default: {REPORT}")
    made.add_argument("--cache", type=Path, default=CACHE, help=f"default: {CACHE}")
    add_results_options(made)
    made.add_argument("--build-only", action="store_true", help="make the machine and end")
    return made


def main(arguments: list[str]) -> int:
    """The command; exit status 0 when every claim was true, 1 when not, 2 when the rig failed."""
    options = parser().parse_intermixed_args(arguments)
    known = {scenario.name for scenario in SCENARIOS}
    if unknown := set(options.names) - known:
        print(f"mnagent rig wifi: no scenario {', '.join(sorted(unknown))}", file=sys.stderr)
        return EXIT_BENCH
    try:
        image = build(describe(), options.cache)
        if options.build_only:
            print(f"the machine is in {image.folder}")
            return 0
        settings = {"scenarios": " ".join(options.names) or "all", "roams": str(options.roams)}
        started = begin(options.results, "wifi", "wifi-machine", kernel="", settings=settings)
        with started as recorder:
            return _run(Machine(image=image), options, recorder)
    except RigError as error:
        print(f"mnagent rig wifi: {error}", file=sys.stderr)
        return EXIT_BENCH


def _run(machine: Machine, options: argparse.Namespace, recorder: Recorder | None) -> int:
    retries: list[str] = []
    started = time.monotonic()
    # What an earlier run found must not pass for this one's.
    for found in (options.output / "results.json", *options.output.glob("*.pcap")):
        found.unlink(missing_ok=True)
    status = machine.run(
        "mnagent.rig.wifi.scenarios",
        str(OUTPUT),
        f"--roams={options.roams}",
        *options.names,
        output=options.output,
        timeout=SECONDS_FOR_ALL + options.roams * SECONDS_A_ROAM,
        errors=retries,
        watch=lambda folder: relay(folder, recorder) if recorder else contextlib.nullcontext(),
    )
    for text in retries:
        print(f"the boot was tried again: {text}")
    found = options.output / "results.json"
    if status not in (0, 1) or not found.exists():
        raise RigError(f"the scenarios did not end in order, status {status}; see {options.output}")
    results = Results.from_record(json.loads(found.read_text()))
    results.outcomes.append(judge(options.output, visited(results)))
    results.commit = _commit()
    results.host_seconds = round(time.monotonic() - started, 1)
    results.host_load = round(max(os.getloadavg()[:2]), 1)
    page = write_reports(results, options.output)
    if recorder is not None:
        record(results, options.output, recorder)
    print(as_text(results))
    print(f"report: {page}")
    return 0 if results.succeeded else 1


def _commit() -> str:
    """Of the tree this program runs from, empty where it is none."""
    command = ("git", "-C", str(project_folder()), "describe", "--always", "--dirty")
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return shown.stdout.strip()
