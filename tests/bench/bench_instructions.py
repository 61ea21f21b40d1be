#!/usr/bin/env python3
"""How many instructions the user-space engine spends on a packet.

The stages run over memory ports under valgrind's callgrind, which counts them exactly: the same on
a busy machine as on a quiet one, so that a change of the engine shows. The figures are those of
this machine's instruction set; a processor without AES instructions spends more on ESP.
Needs valgrind; no root.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mnagent.core.actions import TunnelEnd
from mnagent.datapath import NextHop, Pipeline, Tables
from tests.bench.carriers import CASES, CORRESPONDENT, HOME, Case, direct_tables, tunnel_tables
from tests.ext.packets import super_packet, tcp, udp

CASE_NAMES = [case.name for case in CASES if case.engine == "userspace"]
WORK = ("tcp", "udp-100")
SEGMENTS = 32
"""Fewer than a batch, so that nothing is flushed while it is counted."""
PAYLOAD = 1300
LINK = NextHop(interface=1, source_mac=b"\x02" * 6, destination_mac=b"\x04" * 6)
COUNTED = {
    "outbound": ("*8datapath_9_outbound_outbound",),
    "inbound": ("*8datapath_8_inbound_inbound", "*8datapath_9_coalesce_flush_tunnel"),
}
"""Functions that are counted with all they call; none calls another of its direction."""


def pipeline(end: TunnelEnd, case: Case) -> Pipeline:
    """One end of the case's path."""
    made = Pipeline()
    tables: Tables = (direct_tables if case.direct else tunnel_tables)(end, LINK, case)
    made.publish(tables)
    return made


def packets(work: str) -> tuple[list[bytes], list[bytes]]:
    """SEGMENTS packets as the TUN device hands them over, and their virtio headers."""
    if work == "tcp":
        whole = tcp(HOME, CORRESPONDENT, bytes(SEGMENTS * PAYLOAD))
        return tuple([part] for part in super_packet(whole, PAYLOAD))  # type: ignore[return-value]
    return [udp(HOME, CORRESPONDENT, bytes(100))] * SEGMENTS, [bytes(10)] * SEGMENTS


def carry(case: Case, work: str, direction: str, rounds: int) -> None:
    """Body of the counted process. The other direction is carried too, but not counted."""
    mobile, agent = (pipeline(end, case) for end in (TunnelEnd.MOBILE_NODE, TunnelEnd.HOME_AGENT))
    whole, offloads = packets(work)
    for _ in range(rounds):
        frames = mobile.process_outbound(whole, offloads).frames
        if len(frames) != SEGMENTS:
            raise RuntimeError(f"{len(frames)} frames left, not {SEGMENTS}")
        if direction == "inbound" and not agent.process_inbound(frames, link_length=14).to_tunnel:
            raise RuntimeError("nothing arrived")


def count(case: str, work: str, direction: str, rounds: int) -> int:
    """Instructions a packet within the functions counted."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "callgrind"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={found}"]
        command += ["--collect-atstart=no"]
        command += [f"--toggle-collect={name}" for name in COUNTED[direction]]
        command += [sys.executable, __file__, "--carry", case, work, direction, str(rounds)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        totals = [line for line in found.read_text().splitlines() if line.startswith("totals:")]
        return round(int(totals[0].split()[1]) / (rounds * SEGMENTS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--case", action="append", choices=CASE_NAMES)
    parser.add_argument("--carry", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.carry:
        name, work, direction, rounds = options.carry
        carry(next(case for case in CASES if case.name == name), work, direction, int(rounds))
        return 0
    if shutil.which("valgrind") is None:
        parser.error("needs valgrind")
    results: dict[str, dict[str, int]] = {}
    for case in options.case or CASE_NAMES:
        for work in WORK:
            for direction in COUNTED:
                found = count(case, work, direction, options.rounds)
                results.setdefault(case, {})[f"{work}-{direction}"] = found
                print(
                    f"{case:14} {work:8} {direction:9} {found:7} instructions a packet", flush=True
                )
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
