"""The attack and chaos suite as a program: ``python -m mnagent.rig.soak --minutes 30``.

Exit status 0 only if no invariant was violated, 1 if one was, 2 if the bench itself is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import sys
from pathlib import Path

from mnagent.rig.namespace import RigError, remove_stale
from mnagent.rig.soak import page
from mnagent.rig.soak.plan import STAGES, Stage
from mnagent.rig.soak.record import Findings
from mnagent.rig.soak.story import Soak

DEFAULT_MINUTES = 30.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ci/soak",
        description="Attack and disturb real daemons in network namespaces, and watch that nothing"
        " gives way. A failed run is repeated with its --seed; --replay repeats one round of it.",
    )
    parser.add_argument("--minutes", type=float, default=DEFAULT_MINUTES, metavar="N")
    parser.add_argument("--seed", metavar="TEXT", help="of all randomness (default: a new one)")
    parser.add_argument(
        "--replay", metavar="STAGE/ROUND", help="only this round, for example endurance/3"
    )
    parser.add_argument("--output", type=Path, default=Path("build"), metavar="DIRECTORY")
    return parser


def _replayed(text: str) -> tuple[list[Stage], int]:
    name, _, number = text.rpartition("/")
    stages = [stage for stage in STAGES if stage.name == name]
    if not stages or not number.isdecimal():
        known = ", ".join(f"{stage.name}/0" for stage in STAGES)
        raise RigError(f"no round {text}: write a stage and a number, as in {known}")
    return stages, int(number)


async def _run(soak: Soak, replay: str | None) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    if replay is None:
        await soak.run()
    else:
        stages, first = _replayed(replay)
        await soak.run(stages, first_round=first, rounds=1)


def _fresh(output: Path) -> Path:
    """Where evidence goes, without that of an earlier run."""
    evidence = output / "soak-evidence"
    shutil.rmtree(evidence, ignore_errors=True)
    return evidence


def _give_back(*paths: Path) -> None:
    """Files made under sudo belong to who called it."""
    if (owner := os.environ.get("SUDO_UID")) is not None:
        for path in paths:
            os.chown(path, int(owner), int(os.environ.get("SUDO_GID", "-1")))


def main(arguments: list[str]) -> int:
    """Run; returns the exit status."""
    options = _parser().parse_args(arguments)
    findings = Findings(seed=options.seed or secrets.token_hex(4), minutes=options.minutes)
    print(f"seed {findings.seed}", flush=True)
    try:
        if os.geteuid() != 0:
            raise RigError("network namespaces need root: try `sudo`")
        remove_stale()
        soak = Soak(findings, lambda text: print(text, flush=True), _fresh(options.output))
        asyncio.run(_run(soak, options.replay))
    except RigError as error:
        print(f"ci/soak: {error}", file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        print("ci/soak: stopped, nothing is left behind", file=sys.stderr)
        return 130
    _give_back(options.output, *page.write(findings, options.output))
    print(page.summary(findings))
    for violation in findings.broken:
        where = f"{violation.stage}/{violation.round}, step {violation.step}"
        print(f"VIOLATED: {violation.invariant}: {violation.detail} ({where})")
    print(page.verdict(findings))
    return 0 if findings.held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
