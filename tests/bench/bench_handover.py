"""What a handover costs, in the rig, beside what physics allows.

    python -m tests.bench.bench_handover [--handovers 50] [--cases unknown,known,...] [--json FILE]

The mobile node moves between two foreign links, 5 ms from each access router and 20 ms one way from
the home agent, while a correspondent sends it 500 packets a second. The downlink gap is the
time from the last packet on the old link to the first on the new, less the time without link. No
handover can be faster than a round trip to the access router (to learn where one is) and one to the
home agent (to tell it); with a known link the first falls away where the address needs no answer.

Needs root. Each handover is told by two witnesses: the receiver of the stream (kernel timestamps)
and an rtnetlink socket of the rig; the daemon's own record explains where the time went.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnagent.control.client import Client
from mnagent.rig.advertising import RadvdTiming
from mnagent.rig.carrier import CarrierWatch
from mnagent.rig.dhcp_servers import Pool, start_dhcp_server
from mnagent.rig.host import Process, boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.namespace import RigError, remove_stale
from mnagent.rig.roaming import Move, Roaming, RoamingSettings
from mnagent.rig.topology import (
    ACCESS,
    FOREIGN_PREFIXES,
    HOME_ADDRESS,
    HOME_AGENT,
    LINK_A,
    LINK_B,
    MOBILE_INTERFACE,
)

ACCESS_DELAY = 0.005
"""Seconds one way to the access router."""
CORE_DELAY = 0.015
"""Seconds one way from the access router to the home agent: 20 ms from the node."""
ALLOWANCE = 0.010
"""Seconds over the physical limit that the median may take."""
LATE_ALLOWANCE = 0.025
"""Seconds over the physical limit that the 95th percentile may take."""
STREAM_PORT = 47010
STREAM_INTERVAL = 0.002
RESUME_TIMEOUT = 20.0
REMEMBERED = ("known-links*",)
"""Records of what the daemon knows of links."""
DWELL = 0.3
"""Seconds on a link after traffic has resumed, so that it is in steady use."""
PHASES = {
    "RS": "router_solicited_at",
    "RA": "router_advertised_at",
    "address": "care_of_address_ready_at",
    "BU": "update_sent_at",
    "BA": "acknowledged_at",
    "first in": "first_packet_in_at",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is varied."""

    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Of `RoamingSettings`."""
    forget_links: bool = False
    """Restart the daemon's knowledge before each move: every link is new to it."""
    dhcp_server: str | None = None
    """Server on each access router (`mnagent.rig.dhcp_servers`), whose round trip counts too."""
    router_round_trips: int = 1
    """How many to the access router, which also serves DHCPv6, are part of the limit."""
    judged: bool = True
    """Whether the limit applies (with radvd's defaults the router's own delay is beyond us)."""


CASES = {
    "unknown": Case(
        title="unknown link, SLAAC, optimistic DAD",
        settings={"mobile_node": {"optimistic": True}},
        forget_links=True,
    ),
    "dhcp6": Case(
        title="unknown link, DHCPv6 with rapid commit (dnsmasq on the access router)",
        settings={"advertising": RadvdTiming(managed=True)},
        forget_links=True,
        router_round_trips=2,
        dhcp_server="dnsmasq",
    ),
    "known": Case(title="known link", settings={}),
    "radvd-defaults": Case(
        title="radvd's default delays",
        settings={"advertising": RadvdTiming.defaults()},
        forget_links=True,
        judged=False,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One handover; seconds."""

    gap: float
    """From the link coming up to the first packet."""
    gap_from_plug: float
    """The same from just before the cable was plugged in."""
    phases: dict[str, float]
    """From link up, by the daemon's own record."""

    def own_time(self, home_agent: float) -> float | None:
        """What is neither waiting for the router nor the round trip to the home agent; seconds."""
        waited = self.phases.get("RA")
        return None if waited is None else self.gap - waited - home_agent


class Bench:
    """One case, measured."""

    def __init__(self, case: Case, handovers: int) -> None:
        self._case = case
        self._handovers = handovers

    async def run(self) -> dict[str, Any]:
        """Build the rig, roam, and say what it took. Raises RigError."""
        settings = RoamingSettings(
            impairment=Impairment(delay=CORE_DELAY),
            access=Impairment(delay=ACCESS_DELAY),
            **self._case.settings,
        )
        async with Roaming(settings) as roaming:
            receiver = await self._begin(roaming)
            carrier = CarrierWatch(roaming.topology["mobile"], MOBILE_INTERFACE)
            try:
                round_trips = await self._round_trips(roaming)
                samples = [
                    await self._measure(roaming, receiver, carrier) for _ in range(self._handovers)
                ]
            finally:
                carrier.close()
            return self._summary(samples, round_trips)

    async def _begin(self, roaming: Roaming) -> Process:
        await self._serve(roaming)
        await roaming.home_agent.start()
        await roaming.mobile_node.start()
        for link in (LINK_A, LINK_B, LINK_A):
            await roaming.settled(roaming.move(link))
        mobile, correspondent = roaming.hosts["mobile"], roaming.hosts["correspondent"]
        module = "mnagent.rig.stream"
        receiver = await mobile.start_module("receiver", module, "receive", str(STREAM_PORT))
        await receiver.wait_for_kind("listening")
        arguments = ("send", str(HOME_ADDRESS), str(STREAM_PORT), str(STREAM_INTERVAL))
        await correspondent.start_module("sender", module, *arguments)
        await receiver.wait_for_kind("first")
        await asyncio.sleep(1.5)  # until the duplicate address detection of the start is over
        return receiver

    async def _serve(self, roaming: Roaming) -> None:
        if self._case.dhcp_server is None:
            return
        for router, prefix in (
            ("router-a", FOREIGN_PREFIXES[LINK_A]),
            ("router-b", FOREIGN_PREFIXES[LINK_B]),
        ):
            pool = Pool(
                prefix=prefix,
                first=prefix[0x1000],
                last=prefix[0x1FFF],
                renew_after=1800,
                preferred_lifetime=3600,
                valid_lifetime=7200,
            )
            host = roaming.hosts[router]
            await start_dhcp_server(host, self._case.dhcp_server, ACCESS, pool)

    async def _measure(self, roaming: Roaming, receiver: Process, carrier: CarrierWatch) -> Sample:
        if self._case.forget_links:
            await self._forget(roaming)
        destination = LINK_B if roaming.topology.position == LINK_A else LINK_A
        move = roaming.move(destination)
        gap = await receiver.wait_for(
            lambda record: record["kind"] == "gap" and record["at"] > move.link_up_at,
            timeout=RESUME_TIMEOUT,
        )
        await roaming.settled(move)
        await asyncio.sleep(DWELL)
        up_at = carrier.usable_after(move.link_up_at)
        if up_at is None:
            raise RigError("nobody saw the link come up")
        return Sample(
            gap=gap["at"] - up_at,
            gap_from_plug=gap["at"] - move.link_up_at,
            phases=await self._phases(roaming, move),
        )

    async def _phases(self, roaming: Roaming, move: Move) -> dict[str, float]:
        answer = await Client(roaming.mobile_node.socket).handovers()
        record = next((r for r in answer["handovers"] if r["link_up_at"] >= move.link_down_at), {})
        return {
            name: record[key] - record["link_up_at"]
            for name, key in PHASES.items()
            if record.get(key) is not None
        }

    async def _forget(self, roaming: Roaming) -> None:
        """A daemon that has never seen the next link, nor its router the daemon: started anew, its
        memory of links gone, and that of the router on its neighbours."""
        await roaming.mobile_node.stop()
        records = roaming.directory / "mobile-node.state" / "records"
        for record in (path for pattern in REMEMBERED for path in records.glob(pattern)):
            record.unlink()
        started_at = boottime()
        await roaming.mobile_node.start()
        await roaming.mobile_node.wait_for(
            "binding-accepted", after=started_at, timeout=RESUME_TIMEOUT
        )
        await asyncio.sleep(DWELL)
        router = "router-b" if roaming.topology.position == LINK_A else "router-a"
        roaming.topology[router].ip(f"neigh flush dev {ACCESS}")

    async def _round_trips(self, roaming: Roaming) -> dict[str, float]:
        """Measured with ping from the node, the smallest of several; seconds."""
        router = "2001:db8:a::1" if roaming.topology.position == LINK_A else "2001:db8:b::1"
        status = await roaming.mobile_node.status()
        source = str(status["mobile_node"]["care_of_address"])
        return {
            "access_router": await _ping(roaming, router, source),
            "home_agent": await _ping(roaming, str(HOME_AGENT), source),
        }

    def _summary(self, samples: Sequence[Sample], round_trips: dict[str, float]) -> dict[str, Any]:
        waits = self._case.router_round_trips
        limit = round_trips["home_agent"] + waits * round_trips["access_router"]
        gaps = _distribution([sample.gap for sample in samples])
        times = (sample.own_time(round_trips["home_agent"]) for sample in samples)
        own = [time for time in times if time is not None]
        return {
            "title": self._case.title,
            "handovers": len(samples),
            "round_trip_ms": {name: _ms(value) for name, value in round_trips.items()},
            "router_round_trips": waits,
            "limit_ms": _ms(limit),
            "target_median_ms": _ms(limit + ALLOWANCE),
            "target_p95_ms": _ms(limit + LATE_ALLOWANCE),
            "gap_ms": gaps,
            "gap_from_plug_ms": _distribution([sample.gap_from_plug for sample in samples]),
            "own_time_ms": _distribution(own) if own else None,
            "phases_ms": {
                name: _distribution(values)
                for name in PHASES
                if (values := [s.phases[name] for s in samples if name in s.phases])
            },
            "within_target": not self._case.judged
            or (
                gaps["median"] <= _ms(limit + ALLOWANCE)
                and gaps["p95"] <= _ms(limit + LATE_ALLOWANCE)
            ),
            "samples_ms": [_ms(sample.gap) for sample in samples],
        }


async def _ping(roaming: Roaming, destination: str, source: str) -> float:
    command = ("ping", "-6", "-n", "-c", "10", "-i", "0.05", "-I", source, destination)
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", roaming.topology["mobile"].name, *command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    printed, _ = await process.communicate()
    times = [
        float(word.removeprefix("time="))
        for word in printed.decode().split()
        if word.startswith("time=")
    ]
    if not times:
        raise RigError(f"no answer from {destination}")
    return min(times) / 1000


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _distribution(values: Iterable[float]) -> dict[str, float]:
    ordered = sorted(values)
    rank = max(0, -(-95 * len(ordered) // 100) - 1)
    return {
        "median": _ms(statistics.median(ordered)),
        "p95": _ms(ordered[rank]),
        "max": _ms(ordered[-1]),
        "min": _ms(ordered[0]),
    }


def show(name: str, result: dict[str, Any]) -> None:
    """For people."""
    trips, gaps = result["round_trip_ms"], result["gap_ms"]
    print(f"\n{name}: {result['title']}, {result['handovers']} handovers")
    print(
        f"  limit   {result['router_round_trips']} x RTT(access router) "
        f"{trips['access_router']} + RTT(home agent) "
        f"{trips['home_agent']} = {result['limit_ms']} ms; "
        f"target median {result['target_median_ms']}, p95 {result['target_p95_ms']} ms"
    )
    print(f"  gap     median {gaps['median']}  p95 {gaps['p95']}  max {gaps['max']} ms")
    if result["own_time_ms"]:
        print(f"  added after the advertisement came: {result['own_time_ms']['median']} ms median")
    phases = result["phases_ms"].items()
    print("  phases  " + "  ".join(f"{key} {value['median']}" for key, value in phases) + " ms")
    print("  " + ("within target" if result["within_target"] else "MISSES THE TARGET"), flush=True)


def main(argv: list[str]) -> int:
    """The program; exit status 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="bench_handover")
    parser.add_argument("--handovers", type=int, default=50, help="a case (default: 50)")
    parser.add_argument("--cases", default=",".join(CASES), help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("bench_handover: network namespaces need root", file=sys.stderr)
        return 2
    remove_stale()
    cases = {}
    for name in arguments.cases.split(","):
        cases[name] = asyncio.run(Bench(CASES[name], arguments.handovers).run())
        show(name, cases[name])
    if arguments.json:
        machine = {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "processors": os.cpu_count(),
            "load_average": os.getloadavg(),
        }
        arguments.json.write_text(json.dumps({"machine": machine, "cases": cases}, indent=2))
    return 0 if all(result["within_target"] for result in cases.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
