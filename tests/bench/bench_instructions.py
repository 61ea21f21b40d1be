#!/usr/bin/env python3
"""How many instructions the user-space engine spends on a packet, here and on a board.

The stages run over memory ports and are counted exactly: the same on a busy machine as on a quiet
one, so that a change of the engine shows. For this machine's instruction set valgrind's callgrind
counts; for boards (aarch64, with and without instructions for AES) the engine is cross-compiled and
QEMU's user mode counts, see emulated.py. What libcrypto takes is counted apart there, as it depends
on the release of Debian. Needs no root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mnagent.core.actions import TunnelEnd
from mnagent.datapath import NextHop, Pipeline, Tables
from tests.bench import emulated
from tests.bench.carriers import CASES, CORRESPONDENT, HOME, Case, direct_tables, tunnel_tables
from tests.ext.packets import super_packet, tcp, udp

CASE_NAMES = [case.name for case in CASES if case.engine == "userspace"]
WORK = ("tcp", "udp-100")
SEGMENTS = 32
"""Fewer than a batch, so that nothing is flushed while it is counted."""
PAYLOAD = 1300
HERE = "here"
PROCESSORS = (HERE, *(processor.name for processor in emulated.PROCESSORS))
LIMITS = {
    "tcp": {"outbound": (1280, 1840), "inbound": (1985, 1930)},
    "udp-100": {"outbound": (1055, 1345), "inbound": (1235, 1145)},
}
"""Of the engine's own instructions a packet on aarch64, without ESP and with it."""
Figures = dict[str, int]
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


def carry(
    case: Case,
    work: str,
    direction: str,
    rounds: int,
    counted: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> None:
    """Body of the counted process. The other direction is carried too, but not counted; nor, where
    the caller says what counts, is the first round, in which libcrypto makes what it keeps.
    """
    mobile, agent = (pipeline(end, case) for end in (TunnelEnd.MOBILE_NODE, TunnelEnd.HOME_AGENT))
    whole, offloads = packets(work)
    for done in range(rounds + 1):
        here = counted if done else contextlib.nullcontext
        with here() if direction == "outbound" else contextlib.nullcontext():
            frames = mobile.process_outbound(whole, offloads).frames
        if len(frames) != SEGMENTS:
            raise RuntimeError(f"{len(frames)} frames left, not {SEGMENTS}")
        if direction == "inbound":
            with here():
                arrived = agent.process_inbound(frames, link_length=14).to_tunnel
            if not arrived:
                raise RuntimeError("nothing arrived")


def count_here(arguments: Sequence[str], rounds: int) -> Figures:
    """Instructions a packet within the functions counted."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "callgrind"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={found}"]
        command += ["--collect-atstart=no"]
        command += [f"--toggle-collect={name}" for name in COUNTED[arguments[2]]]
        command += [sys.executable, __file__, "--carry", *arguments, str(rounds)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        totals = [line for line in found.read_text().splitlines() if line.startswith("totals:")]
        return {"all": round(int(totals[0].split()[1]) / ((rounds + 1) * SEGMENTS))}


def count_emulated(processor: emulated.Processor, arguments: Sequence[str], rounds: int) -> Figures:
    """Instructions a packet, of the engine and of libcrypto."""
    engine, crypto = (
        round(each / (rounds * SEGMENTS))
        for each in emulated.count(
            processor, __file__, ["--emulated", "--carry", *arguments, str(rounds)]
        )
    )
    return {"all": engine + crypto, "engine": engine, "libcrypto": crypto}


def run(processor: str, options: argparse.Namespace) -> dict[str, Figures]:
    """All cases on one processor, shown as they come."""
    board = next((each for each in emulated.PROCESSORS if each.name == processor), None)
    results = {}
    for case in options.case or CASE_NAMES:
        for work in WORK:
            for direction in COUNTED:
                arguments = (case, work, direction)
                if board is None:
                    found = count_here(arguments, options.rounds)
                else:
                    found = count_emulated(board, arguments, options.rounds)
                results[" ".join(arguments)] = found
                show(processor, arguments, found)
    return results


def limit(arguments: Sequence[str]) -> int:
    """Instructions of the engine's own that a packet may take on an aarch64 board."""
    case, work, direction = arguments
    return LIMITS[work][direction][case.startswith("esp")]


def show(processor: str, arguments: Sequence[str], found: Figures) -> None:
    case, work, direction = arguments
    line = f"{processor:12} {case:14} {work:8} {direction:9} {found['all']:7} instructions a packet"
    if "engine" in found:
        most = limit(arguments)
        line += f"   libcrypto {found['libcrypto']:6}, engine {found['engine']:5}"
        line += f" (limit {most}: {'yes' if found['engine'] <= most else 'NO'})"
    print(line, flush=True)


def hindrance(processor: str) -> str:
    """What is missing to count for it, as Debian calls it; empty when nothing is."""
    if processor == HERE:
        return "" if shutil.which("valgrind") else "valgrind"
    return emulated.missing()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--case", action="append", choices=CASE_NAMES)
    parser.add_argument("--processor", action="append", choices=PROCESSORS)
    parser.add_argument("--short", action="store_true", help="one case, and all that it needs")
    parser.add_argument("--carry", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--emulated", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.short:
        options.case, options.processor, options.rounds = ["esp-aes-gcm"], list(PROCESSORS), 2
    named, options.processor = options.processor, options.processor or list(PROCESSORS)
    for processor in list(options.processor):
        if missing := hindrance(processor):
            if named:
                parser.error(f"{processor} needs: {missing}")
            print(f"{processor:12} left out: it needs {missing}")
            options.processor.remove(processor)
    return options


def main() -> int:
    options = parse()
    if options.carry:
        name, work, direction, rounds = options.carry
        case = next(case for case in CASES if case.name == name)
        if options.emulated:
            carry(case, work, direction, int(rounds), emulated.counted)
        else:
            carry(case, work, direction, int(rounds))
        return 0
    results = {processor: run(processor, options) for processor in options.processor}
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
