#!/usr/bin/env python3
"""How fast the data path is, beside plain forwarding and others' tunnels, all in one run.

    mobile --- router --- agent --- correspondent        one network namespace each

Every case carries one and eight TCP connections, datagrams of 100 and 1400 octets (windowed, so
that nobody is flooded), datagrams the sender hands over in bursts, and lone packets there and back;
upwards the mobile end encapsulates, downwards the other one does. With --rounds the cases take
turns, and the median of each round's ratios counts: rates depend on the machine and on what else it
does. Where much else runs, ratios of processor time a packet are steadier: that of sender, receiver
and what is between them, with what the kernel does meanwhile. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.carriers import (
    CASES,
    FORWARDING,
    STRONGSWAN,
    WIREGUARD_GO,
    Carrier,
    Case,
    carrying,
    is_installed,
)
from tests.bench.generator import TRAFFIC, Traffic, measure_rate, measure_round_trips
from tests.bench.picture import bar_chart

DIRECTIONS = ("up", "down")
RATE, ROUND_TRIP = "packets_per_second", "p50_microseconds"
PROCESSOR_TIME = "cpu_all-of-it"
Figures = dict[str, float]
Results = dict[str, dict[str, Figures]]
"""Case -> traffic and direction -> figures."""


@dataclass(frozen=True, slots=True)
class Target:
    """A case's rate beside that of another, or its round trip above it in microseconds."""

    case: str
    traffic: str
    against: str
    ratio: float = 0.0
    microseconds: float = 0.0


TARGETS = (
    *(
        Target(f"{case}-kernel", f"tcp-{way}", FORWARDING, ratio=0.9)
        for case in ("tunnel", "direct")
        for way in DIRECTIONS
    ),
    *(
        Target(f"{case}-kernel", f"udp-100-{way}", FORWARDING, ratio=0.7)
        for case in ("tunnel", "direct")
        for way in DIRECTIONS
    ),
    *(Target("tunnel", f"tcp-{way}", WIREGUARD_GO, ratio=8.0) for way in DIRECTIONS),
    *(Target("esp-aes-gcm", f"tcp-{way}", WIREGUARD_GO, ratio=7.0) for way in DIRECTIONS),
    *(
        Target(case, "round-trip-up", FORWARDING, microseconds=60.0)
        for case in ("tunnel", "esp-aes-gcm")
    ),
)


def busy_seconds() -> float:
    """CPU time of the whole machine spent on anything."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def process_seconds(pid: int) -> float:
    """CPU time of one process, with what the kernel does for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(carrier: Carrier, traffic: Traffic, direction: str, seconds: float) -> Figures:
    """One run; CPU times are microseconds a packet."""
    source, sink = carrier.mobile, carrier.correspondent
    if direction == "down":
        source, sink = sink, source
    if traffic.latency:
        return measure_round_trips(source, sink, seconds)
    rates, spans = measure_rate(
        traffic,
        source,
        sink,
        seconds,
        lambda ends: [
            busy_seconds(),
            sum(map(process_seconds, (*ends, *carrier.processes.values()))),
            *map(process_seconds, carrier.processes.values()),
        ],
    )
    # What comes in by a link is served by whoever runs there and then: mostly by these.
    names = ("machine", "all-of-it", *carrier.processes)
    return rates | {f"cpu_{name}": span for name, span in zip(names, spans, strict=True)}


def run_case(case: Case, options: argparse.Namespace) -> dict[str, Figures]:
    """All traffic of a case, in a network of its own."""
    measured = {}
    with carrying(case) as carrier:
        for traffic in TRAFFIC:
            if traffic.name not in options.traffic:
                continue
            for direction in options.directions:
                if traffic.latency and direction != options.directions[0]:
                    continue
                key = f"{traffic.name}-{'up' if traffic.latency else direction}"
                measured[key] = measure(carrier, traffic, direction, options.seconds)
                show(case, key, measured[key])
    return measured


def show(case: Case, key: str, figures: Figures) -> None:
    if ROUND_TRIP in figures:
        text = "   ".join(
            f"{name} {figures[f'{name}_microseconds']:.0f} us" for name in ("least", "p50", "p99")
        )
    else:
        cpu = ", ".join(
            f"{name[4:]} {value:.2f}" for name, value in figures.items() if name[:4] == "cpu_"
        )
        text = (
            f"{figures['megabits_per_second']:9.0f} Mbit/s {figures[RATE] / 1e3:9.1f} kpackets/s"
            f"   us a packet: {cpu}"
        )
    print(f"{case.name:14} {key:18} {text}", flush=True)


def middle(rounds: list[Results]) -> Results:
    """The median of each figure."""
    return {
        case: {
            key: {
                name: statistics.median(each[case][key][name] for each in rounds)
                for name in figures
            }
            for key, figures in measured.items()
        }
        for case, measured in rounds[0].items()
    }


def ratios(rounds: list[Results], against: str) -> dict[str, dict[str, float]]:
    """Rate of every case over that of ``against`` in the same round, the median of the rounds."""
    if against not in rounds[0] or not any(RATE in each for each in rounds[0][against].values()):
        return {}
    return {
        case: {
            key: round(
                statistics.median(
                    each[case][key][RATE] / each[against][key][RATE] for each in rounds
                ),
                2,
            )
            for key, figures in measured.items()
            if RATE in figures
        }
        for case, measured in rounds[0].items()
        if case != against
    }


def compare(target: Target, rounds: list[Results]) -> dict[str, object] | None:
    """The figure beside the target; None where it was not measured."""
    pairs = [
        (each[target.case][target.traffic], each[target.against][target.traffic])
        for each in rounds
        if target.traffic in each.get(target.case, {}) and target.against in each
    ]
    if not pairs:
        return None
    name = f"{target.case} {target.traffic}"
    if target.ratio:
        found = statistics.median(own[RATE] / other[RATE] for own, other in pairs)
        spared = statistics.median(
            other[PROCESSOR_TIME] / own[PROCESSOR_TIME] for own, other in pairs
        )
        return {
            "what": f"{name}, times {target.against}",
            "found": round(found, 2),
            "by_processor_time": round(spared, 2),
            "target": target.ratio,
            "met": found >= target.ratio,
        }
    found = statistics.median(own[ROUND_TRIP] - other[ROUND_TRIP] for own, other in pairs)
    return {
        "what": f"{name}, us above {target.against}",
        "found": round(found, 1),
        "target": target.microseconds,
        "met": found <= target.microseconds,
    }


def draw(results: Results) -> str:
    """Packets a second, and round trips, of every case."""
    groups: dict[str, dict[str, float]] = {}
    for case, measured in results.items():
        for key, figures in measured.items():
            latency = ROUND_TRIP in figures
            label = f"{key}, p50 microseconds" if latency else f"{key}, thousand packets a second"
            value = figures[ROUND_TRIP] if latency else figures[RATE] / 1e3
            groups.setdefault(label, {})[case] = value
    return bar_chart("mnagent: one network, every way through it", groups)


def report(rounds: list[Results], options: argparse.Namespace) -> None:
    """Print ratios and targets, write what was asked for."""
    against = {name: ratios(rounds, name) for name in (FORWARDING, WIREGUARD_GO, STRONGSWAN)}
    for other, by_case in against.items():
        for case, values in by_case.items():
            print(f"{case:14} / {other}: {values}")
    targets = [found for target in TARGETS if (found := compare(target, rounds))]
    for each in targets:
        verdict = "met" if each["met"] else "missed"
        spared = each.get("by_processor_time")
        other = f", by processor time a packet {spared}" if spared else ""
        print(f"{each['what']}: {each['found']} (target {each['target']}) {verdict}{other}")
    results = middle(rounds)
    if options.picture:
        Path(options.picture).write_text(draw(results))
    if options.json:
        whole = {
            "results": results,
            "ratios_to_forwarding": against[FORWARDING],
            "ratios_to_wireguard_go": against[WIREGUARD_GO],
            "ratios_to_strongswan": against[STRONGSWAN],
            "targets": targets,
            "rounds": rounds,
            "load": os.getloadavg(),
        }
        Path(options.json).write_text(json.dumps(whole, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    parser.add_argument("--picture", metavar="FILE", help="draw them here, as SVG")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each run")
    parser.add_argument("--rounds", type=int, default=1, help="how often all cases take turns")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    names = [traffic.name for traffic in TRAFFIC]
    parser.add_argument("--traffic", nargs="+", choices=names, default=names)
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=DIRECTIONS)
    parser.add_argument(
        "--short", action="store_true", help="only see that it works: its figures mean nothing"
    )
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root for network namespaces")
    if options.short:
        options.seconds, options.directions = 0.3, ("up",)
    return options


def main() -> int:
    options = parse()
    rounds: list[Results] = []
    for _ in range(options.rounds):
        rounds.append({})
        for case in CASES:
            if options.case and case.name not in options.case:
                continue
            if is_installed(case):
                rounds[-1][case.name] = run_case(case, options)
            elif len(rounds) == 1:
                print(f"{case.name:14} is not installed: left out")
    report(rounds, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
