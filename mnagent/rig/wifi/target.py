"""The scenario for every kind of mobile node, over Wi-Fi, in the machine::

    python -m mnagent.rig.wifi.target --output DIR [--cache DIR] [--results DIR] [PYTEST OPTION ...]

Everything runs inside, pytest and labgrid too: for the target ``wifi`` access points, routers and
the node are namespaces next to the scenario, as for the target ``namespaces``, and nothing has to
be controlled through a console. They add nothing to the image, for the machine sees this program's
Python packages anyway. Reports, captures and the run for the library of results are carried out
when the machine has ended. The exit status is pytest's, or 2 when the machine failed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from mnagent.rig.namespace import RigError
from mnagent.rig.recorder import COMMIT_VARIABLE, commit, give_back
from mnagent.rig.wifi.command import CACHE
from mnagent.rig.wifi.machine import OUTPUT, Machine, build, describe, project_folder

NAME = "wifi"
SCENARIO = "tests/rig/test_target.py"
"""In the tree."""
RESULTS = "results"
"""Folder of the output where the run is, until it is carried into the library."""
TIMEOUT = 1800.0
"""Seconds; a small part of it where nobody else uses the processor."""
EXIT_BENCH = 2
ENVIRONMENT = {
    # A skip proves nothing.
    "CI": "1",
    # Plugins that the scenario does not need take an emulated processor long to load.
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}


def parser() -> argparse.ArgumentParser:
    """Of the command's own options; all others are pytest's."""
    made = argparse.ArgumentParser(prog="mnagent.rig.wifi.target", allow_abbrev=False)
    made.add_argument("--output", type=Path, required=True, help="where reports go")
    made.add_argument("--cache", type=Path, default=CACHE, help=f"default: {CACHE}")
    made.add_argument("--results", type=Path, help="library that keeps the run")
    return made


def command(*options: str) -> list[str]:
    """pytest's arguments inside."""
    where = ["--target", NAME, "--evidence-folder", str(OUTPUT)]
    kept = ["--results-library", str(OUTPUT / RESULTS), "--junitxml", str(OUTPUT / "junit.xml")]
    return ["-p", "no:cacheprovider", SCENARIO, *where, *kept, *options]


def main(arguments: list[str]) -> int:
    """The program; see the module's docstring."""
    options, others = parser().parse_known_args(arguments)
    try:
        if not (project_folder() / SCENARIO).exists():
            raise RigError(f"there is no {SCENARIO} beside this program: it needs the source tree")
        machine = Machine(image=build(describe(), options.cache))
        return run(machine, options.output, options.results, others)
    except RigError as error:
        print(f"mnagent.rig.wifi.target: {error}", file=sys.stderr)
        return EXIT_BENCH


def run(machine: Machine, output: Path, library: Path | None, others: list[str]) -> int:
    """Boot the machine, let pytest run inside, carry out what it leaves. Raises RigError."""
    shutil.rmtree(output / RESULTS, ignore_errors=True)
    # What an earlier run found must not pass for this one's.
    for pattern in ("junit.xml", "report.*", "*.pcap"):
        for found in output.glob(pattern):
            found.unlink()
    errors: list[str] = []
    try:
        status = machine.run(
            "pytest",
            *command(*others),
            output=output,
            timeout=TIMEOUT,
            errors=errors,
            environment={**ENVIRONMENT, COMMIT_VARIABLE: commit()},
        )
    finally:
        for text in errors:
            print(f"the boot was tried again: {text}")
        carry_out(output / RESULTS, library)
    return status


def carry_out(results: Path, library: Path | None) -> None:
    """Move the runs of one library of results into another, or nowhere."""
    if library is not None and results.is_dir():
        library.mkdir(parents=True, exist_ok=True)
        give_back(library)
        for found in results.iterdir():
            shutil.move(found, library / found.name)
            give_back(library / found.name)
    shutil.rmtree(results, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
