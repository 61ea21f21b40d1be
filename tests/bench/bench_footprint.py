"""What the daemon needs to start and to stay: imports, memory, time to its first Binding Update.

    python -m tests.bench.bench_footprint [--json FILE] [--starts 3] [--evidence build/image]

It fails nothing: it prints, and records with --json. The first part needs no privileges: what is
imported, what of it comes from where, how long it takes. The second, as root, starts the daemon in
the rig's namespaces and takes the time from its start and from its care-of address to the first
Binding Update. With --evidence the figures of emulated boards that ci/image left there are shown
beside. Times are those of this machine and of who else uses it: look at the load that is recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from mnagent.rig.host import boottime
from mnagent.rig.namespace import RigError, remove_stale
from mnagent.rig.roaming import Roaming, RoamingSettings
from mnagent.rig.topology import LINK_A

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("", "asyncio", "mnagent.wire.packet", "mnagent.datapath", "mnagent.runtime.service")
"""Modules, each with what it needs; the first is the bare interpreter."""
TIMEOUT = 20.0
"""Seconds to wait for each event."""
_LOOK = """
import json, sys, time
before = time.process_time()
{statement}
took = time.process_time() - before
with open("/proc/self/status") as file:
    status = dict(line.split(":", 1) for line in file)
print(json.dumps({{"seconds": took, "rss": int(status["VmRSS"].split()[0]) / 1024,
                   "modules": sorted(sys.modules)}}))
"""
NEVER = ("cryptography", "cffi", "netifaces", "scapy", "rich", "pytest", "mnagent.rig")
"""What a daemon has no use for."""


def look_at_imports(module: str) -> dict[str, Any]:
    """Processor time, memory (MiB) and modules of an interpreter that imports ``module``."""
    script = _LOOK.format(statement=f"import {module}" if module else "")
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def imports() -> dict[str, Any]:
    """Each of `STEPS`; of the last also the modules, and what should not be among them."""
    looks = {step or "python": look_at_imports(step) for step in STEPS}
    modules = looks[STEPS[-1]]["modules"]
    for step, look in looks.items():
        print(
            f"{step:28}{look['rss']:7.1f} MiB{len(look['modules']):6} modules"
            f"{look['seconds'] * 1000:8.0f} ms"
        )
    packages = Counter(name.partition(".")[0] for name in modules)
    print("most modules:", ", ".join(f"{name} {count}" for name, count in packages.most_common(8)))
    needless = [name for name in modules if name.startswith(NEVER)]
    print("needless:", ", ".join(needless) or "none")
    figures = {step: {**look, "modules": len(look["modules"])} for step, look in looks.items()}
    return {"imports": figures, "modules": modules, "needless": needless}


async def first_binding_update() -> dict[str, float]:
    """Seconds from the daemon's start, and from its care-of address, to the first Binding Update,
    and its memory (MiB) when it is registered. Raises RigError."""
    async with Roaming(RoamingSettings()) as roaming:
        await roaming.home_agent.start()
        roaming.topology.plug(LINK_A)
        started = boottime()
        await roaming.mobile_node.start()
        process = roaming.mobile_node.process
        assert process is not None
        address = await roaming.mobile_node.wait_for(
            "care-of-address-ready", after=started, timeout=TIMEOUT
        )
        sent = await roaming.mobile_node.wait_for(
            "binding-update-sent", after=started, timeout=TIMEOUT
        )
        await roaming.mobile_node.wait_for("binding-accepted", after=started, timeout=TIMEOUT)
        status = Path(f"/proc/{process.pid}/status").read_text()
        memory = int(status.split("VmRSS:")[1].split()[0]) / 1024
    return {
        "from_start": sent.at - started,
        "from_care_of_address": sent.at - address.at,
        "rss": memory,
    }


def starts(count: int) -> dict[str, Any]:
    """So many starts, and the median of each figure."""
    remove_stale()
    samples = [asyncio.run(first_binding_update()) for _ in range(count)]
    medians = {name: statistics.median(one[name] for one in samples) for name in samples[0]}
    print(
        f"first Binding Update: {medians['from_start']:.2f} s after the start of the daemon, "
        f"{medians['from_care_of_address'] * 1000:.0f} ms after its care-of address; "
        f"{medians['rss']:.1f} MiB"
    )
    return {"samples": samples, "medians": medians}


def boards(folder: Path) -> dict[str, Any]:
    """What ci/image recorded of emulated boards."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    facts = {name: one for name, one in found.items() if "daemon_rss_mebibytes" in one}
    for name, one in facts.items():
        print(
            f"{name}: {one['daemon_rss_mebibytes']} MiB, {one.get('daemon_modules', '?')} modules; "
            f"first Binding Update {one.get('seconds_from_kernel_to_first_binding_update', '?')} s "
            "after the kernel started"
        )
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description="What the daemon needs to start and to stay.")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--starts", type=int, default=3, metavar="COUNT")
    parser.add_argument("--evidence", type=Path, default=ROOT / "build/image", metavar="FOLDER")
    arguments = parser.parse_args()
    document: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "load": os.getloadavg()[0],
        **imports(),
    }
    if os.geteuid() == 0 and arguments.starts > 0:
        try:
            document["starts"] = starts(arguments.starts)
        except RigError as error:
            print(f"no start could be timed: {error}")
    else:
        print("starts are timed by root only")
    document["boards"] = boards(arguments.evidence)
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
