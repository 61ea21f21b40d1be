"""How soon packets go directly, beside what the protocol's round trips allow (RFC 6275 11.6).

From the first packet: the tests and the Binding Update take two round trips to the farther of home
agent and correspondent. After a handover: one to the home agent and one and a half to the
correspondent. What is above that is our own; the goal is 20 ms. Run as root, on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from statistics import median

from mnagent.rig.impairment import Impairment
from mnagent.rig.roaming import Roaming, RoamingSettings, Traffic
from mnagent.rig.topology import CORRESPONDENT, LINK_A, LINK_B, MOBILE

SETTINGS = RoamingSettings(
    impairment=Impairment(delay=0.005),
    home_delay=0.005,
    mobile_node={"route_optimization": "on-traffic"},
)
TO_HOME_AGENT = 2 * (SETTINGS.impairment.delay + SETTINGS.home_delay)
TO_CORRESPONDENT = 2 * SETTINGS.impairment.delay
RATE_PAUSE = 0.8
"""Seconds between handovers so that MAX_UPDATE_RATE (RFC 6275 11.8) delays no message."""
PATIENCE = 15.0


@contextlib.asynccontextmanager
async def away(engine: str) -> AsyncIterator[Roaming]:
    """A mobile node registered from link A, and a correspondent that takes bindings."""
    async with Roaming(replace(SETTINGS, host={"engine": engine})) as roaming:
        await roaming.home_agent.start()
        await roaming.correspondent.start()
        move = roaming.move(LINK_A)
        await roaming.mobile_node.start()
        await roaming.settled(move)
        yield roaming


async def first_packet(engine: str) -> float:
    """Seconds from the first packet to the direct path."""
    async with away(engine) as roaming:
        ping = await roaming.hosts[MOBILE].start_module(
            "ping", "mnagent.rig.traffic", "ping", str(CORRESPONDENT)
        )
        first = await ping.wait_for_kind("sent")
        return await roaming.optimized(roaming.moves[-1]) - float(first["at"])


async def handovers(engine: str, count: int) -> list[float]:
    """Seconds from the care-of address to the direct path, for each handover."""
    spans = []
    async with away(engine) as roaming:
        traffic = await Traffic.start(roaming)
        await roaming.optimized(roaming.moves[-1])
        for number in range(count):
            await asyncio.sleep(RATE_PAUSE)
            move = roaming.move((LINK_B, LINK_A)[number % 2])
            direct_at = await roaming.optimized(move)
            ready = roaming.mobile_node.find("care-of-address-ready", after=move.link_up_at)
            assert ready is not None
            spans.append(direct_at - ready.at)
            await traffic.resumed(move.link_down_at, timeout=PATIENCE)
        await traffic.finish()
    return spans


def figures(spans: list[float], limit: float) -> dict[str, float]:
    """Milliseconds; ``own_ms`` is what the median has above the round trips."""
    middle = median(spans)
    return {
        "round_trips_ms": round(limit * 1000, 1),
        "median_ms": round(middle * 1000, 1),
        "max_ms": round(max(spans) * 1000, 1),
        "own_ms": round((middle - limit) * 1000, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--attempts", type=int, default=5, help="first packets measured")
    parser.add_argument("--handovers", type=int, default=10)
    parser.add_argument("--engine", choices=("auto", "kernel", "userspace"), default="auto")
    options = parser.parse_args()
    first = [asyncio.run(first_packet(options.engine)) for _ in range(options.attempts)]
    after = asyncio.run(handovers(options.engine, options.handovers))
    results = {
        "first_packet": figures(first, 2 * max(TO_HOME_AGENT, TO_CORRESPONDENT)),
        "handover": figures(after, TO_HOME_AGENT + 1.5 * TO_CORRESPONDENT),
    }
    print(json.dumps(results, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
