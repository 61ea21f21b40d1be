"""``mnagent demo``: a mobile node leaves home, visits two foreign links and comes back.

Real daemons, routers and packets in network namespaces (the picture is in `mnagent.rig.topology`),
while an ordinary TCP connection, an incoming one to a server on the node, and a ping go on. With
``--route-optimization`` the correspondent runs mnagent too, numbered datagrams to a server on the
node are added, and on each foreign link all flows leave the tunnel for the direct path. Ends
with a table of the handovers and a verdict; the exit status is 0 only if everything survived and
every check held. However it is ended, it leaves no namespace, process or interface behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mnagent.rig.checks import Check
from mnagent.rig.daemon import MOBILE_NODE_KEYS
from mnagent.rig.flows import (
    Flow,
)
from mnagent.rig.handover import Handover, measure
from mnagent.rig.host import boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.judgement import Journey, Judge
from mnagent.rig.keyfile import read_associations, write_wireshark_profile
from mnagent.rig.library import Step
from mnagent.rig.namespace import RigError, remove_stale
from mnagent.rig.recorder import Recorder, add_results_options, begin, give_back
from mnagent.rig.recording import record
from mnagent.rig.report import (
    FLOW_COLUMNS,
    Result,
    aligned,
    columns,
    flow_rows,
    plain_table,
    table_rows,
    write_report,
)
from mnagent.rig.roaming import Move, Roaming, RoamingSettings, Traffic
from mnagent.rig.telling import Telling
from mnagent.rig.topology import (
    CORRESPONDENT,
    FOREIGN_PREFIXES,
    HOME,
    HOME_ADDRESS,
    HOME_AGENT,
    LINK_A,
    LINK_B,
)

PATH = (LINK_A, LINK_B, LINK_A, HOME)
"""Where the node goes, from home."""
HOME_DELAY = 0.015
"""Seconds, one way, between core and home agent with route optimization: what it saves."""
RESUME_TIMEOUT = 20.0
"""Seconds after a handover until the demo gives up waiting for traffic."""
NEEDED_TOOLS = ("ip", "radvd")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the command line chose."""

    output: Path
    json_file: Path | None = None
    delay: float = 0.02
    """Seconds, one way."""
    loss: float = 0.0
    """Share of frames, 0 to 1."""
    payload_protection: str = "none"
    gap_limit: float = 1.0
    """Seconds from link up within which all traffic must have resumed."""
    dwell: float = 2.0
    """Seconds of traffic on each link after it has resumed."""
    route_optimization: bool = False
    policy: str = "on-traffic"
    """The mobile node's, with route optimization."""
    home_delay: float = 0.0
    """Seconds, one way, between core and home agent."""
    results: Path | None = None
    """The library of results that gets this one."""
    path: tuple[str, ...] = PATH


class Narrator:
    """Tells the story: with rich on a terminal, in plain lines elsewhere."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.recorder = recorder
        """Is told, too."""
        self._console = None
        if sys.stdout.isatty():
            try:
                from rich.console import Console
            except ImportError:
                return
            self._console = Console(highlight=False)

    def say(self, text: str) -> None:
        """One line of the story."""
        if self._console is None:
            print(text, flush=True)
        else:
            self._console.print(text, markup=False)

    def step(self, text: str) -> None:
        """Something begins."""
        if self.recorder is not None:
            self.recorder.tell(Step(at=boottime(), text=text))
        if self._console is None:
            print(f"== {text}", flush=True)
        else:
            self._console.rule(text, align="left", style="blue")

    def table(self, handovers: list[Handover]) -> None:
        """The handovers so far."""
        if self._console is None:
            print(plain_table(handovers), flush=True)
            return
        self._draw("From link up, per handover", columns(handovers), table_rows(handovers))

    def flows(self, flows: Sequence[Flow]) -> None:
        """Which way each flow went."""
        if self._console is None:
            print(aligned([FLOW_COLUMNS, *flow_rows(flows)]), flush=True)
            return
        self._draw("Paths, per flow", FLOW_COLUMNS, flow_rows(flows))

    def _draw(self, title: str, header: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
        from rich.table import Table

        assert self._console is not None
        table = Table(title=title, title_justify="left")
        for index, column in enumerate(header):
            table.add_column(column, justify="left" if index < 2 else "right")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def check(self, check: Check) -> None:
        """One claim and whether it held."""
        detail = f" ({check.detail})" if check.detail else ""
        if self._console is None:
            print(f"{'ok  ' if check.held else 'FAIL'} {check.claim}{detail}", flush=True)
        else:
            mark, style = ("✓", "green") if check.held else ("✗", "bold red")
            self._console.print(f"{mark} {check.claim}{detail}", style=style, markup=False)


class Demo:
    """The story, told once."""

    def __init__(self, options: DemoOptions, narrator: Narrator) -> None:
        self._options = options
        self._narrator = narrator
        self._problems: list[str] = []
        self._records: list[dict[str, Any]] = []

    async def run(self) -> Result:
        """Tell it. Raises RigError when the bench, or a daemon's start, fails."""
        options = self._options
        self._narrator.step("Building a home link, two foreign links and a correspondent")
        async with Roaming(self._settings()) as roaming, self._telling(roaming):
            try:
                captures = await roaming.start_captures(options.output)
                traffic = await self._begin(roaming)
                for destination in options.path:
                    await self._move(roaming, traffic, destination)
                self._narrator.step("Ending the connections in order")
                await traffic.finish()
                dropped = await self._end(roaming)
            finally:
                self._keep_logs(roaming)
            return Judge(roaming, traffic, self._journey()).judge(
                captures, dropped=dropped, problems=self._problems, records=self._records
            )

    def _journey(self) -> Journey:
        options = self._options
        return Journey(
            path=options.path,
            visited=tuple(link for link in FOREIGN_PREFIXES if link in options.path),
            delay=options.delay,
            home_delay=options.home_delay,
            loss=options.loss,
            payload_protection=options.payload_protection,
            gap_limit=options.gap_limit,
            optimizes=self._optimizes,
            goes_direct=self._goes_direct,
        )

    def _telling(self, roaming: Roaming) -> contextlib.AbstractAsyncContextManager[object]:
        recorder = self._narrator.recorder
        return contextlib.nullcontext() if recorder is None else Telling(recorder.tell, roaming)

    def _settings(self) -> RoamingSettings:
        options = self._options
        return RoamingSettings(
            impairment=Impairment(delay=options.delay, loss=options.loss),
            home_delay=options.home_delay,
            payload_protection=options.payload_protection,
            mobile_node={"route_optimization": options.policy} if self._optimizes else {},
        )

    @property
    def _optimizes(self) -> bool:
        return self._options.route_optimization

    @property
    def _goes_direct(self) -> bool:
        return self._optimizes and self._options.policy != "never"

    async def _begin(self, roaming: Roaming) -> Traffic:
        self._narrator.step("Starting the home agent and the mobile node, at home")
        await roaming.home_agent.start()
        if self._optimizes:
            await roaming.correspondent.start()
            self._narrator.say(f"{CORRESPONDENT} runs mnagent too, as a correspondent")
        move = roaming.move(HOME)
        await roaming.mobile_node.start()
        await roaming.settled(move)
        self._narrator.say(f"{HOME_ADDRESS} is home, its home agent is {HOME_AGENT}")
        self._narrator.step(
            "Starting an outgoing and an incoming TCP connection, and a ping"
            + (", and datagrams to a server on the node" if self._optimizes else "")
        )
        traffic = await Traffic.start(roaming, datagrams=self._optimizes)
        await asyncio.sleep(self._options.dwell)
        return traffic

    async def _move(self, roaming: Roaming, traffic: Traffic, destination: str) -> None:
        self._narrator.step(f"Moving from {roaming.topology.position} to {destination}")
        move = roaming.move(destination)
        try:
            await roaming.settled(move, timeout=RESUME_TIMEOUT)
            await traffic.resumed(move.link_down_at, timeout=RESUME_TIMEOUT)
            if self._goes_direct:
                await self._go_direct(roaming, traffic, move)
        except RigError as error:
            self._problems.append(f"{move.origin} to {destination}: {error}")
            self._narrator.say(str(error))
        await asyncio.sleep(self._options.dwell)
        self._tell(measure(roaming, traffic)[-1], move)
        if self._goes_direct and move.destination != HOME:
            after = _round_trip(traffic, boottime() - self._options.dwell / 2)
            self._narrator.say(f"on the direct path: {after or 'nothing'}")

    async def _go_direct(self, roaming: Roaming, traffic: Traffic, move: Move) -> None:
        if move.destination == HOME:
            await roaming.mobile_node.wait_for(
                "correspondent-deregistered", after=move.link_up_at, timeout=RESUME_TIMEOUT
            )
            self._narrator.say("the correspondent has forgotten the care-of address")
            return
        direct_at = await roaming.optimized(move, timeout=RESUME_TIMEOUT)
        span = (direct_at - move.link_up_at) * 1000
        before = _round_trip(traffic, move.link_up_at, direct_at)
        # A correspondent with a binding sends to the care-of address before until it is told.
        self._narrator.say(f"in the tunnel at first: {before or 'what the node sent'}")
        self._narrator.say(f"direct path {span:.0f} ms after link up")

    def _tell(self, handover: Handover, move: Move) -> None:
        gap = handover.since_link_up(handover.resumed_at)
        when = "not resumed" if gap is None else f"all traffic resumed after {gap:.0f} ms"
        self._narrator.say(f"now on {move.destination}: {when}, {handover.lost} probes lost")

    async def _end(self, roaming: Roaming) -> int:
        with contextlib.suppress(OSError):
            self._records = await roaming.mobile_node.handovers()
        for agent in (roaming.mobile_node, roaming.home_agent, roaming.correspondent):
            await agent.stop()
        return await roaming.finish_captures()

    def _keep_logs(self, roaming: Roaming) -> None:
        output = self._options.output
        associations = read_associations(roaming.directory / MOBILE_NODE_KEYS)
        write_wireshark_profile(output / "wireshark", associations)
        for log in roaming.directory.glob("*.log"):
            if log.stat().st_size:
                shutil.copy(log, output / log.name)


def _round_trip(traffic: Traffic, begin: float, end: float = float("inf")) -> str:
    """What the ping measured between two instants; empty for nothing."""
    spans = [
        record["at"] - record["sent_at"]
        for record in traffic.ping.of_kind("reply")
        if record["sent_at"] >= begin and record["at"] <= end
    ]
    return f"round trip {median(spans) * 1000:.1f} ms" if spans else ""


async def tell(options: DemoOptions, narrator: Narrator) -> Result:
    """Run the demo so that SIGINT, SIGTERM and SIGHUP end it in order; raises CancelledError
    then."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    stopping = False

    def stop() -> None:
        # Only the first counts: taking everything down must not itself be interrupted.
        nonlocal stopping
        if not stopping:
            stopping = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    return await Demo(options, narrator).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mnagent demo", description="Watch a mobile node roam, in network namespaces."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo-out"),
        metavar="DIR",
        help="captures, report, logs, keys (default: %(default)s)",
    )
    add_results_options(parser)
    parser.add_argument(
        "--delay",
        type=float,
        default=20.0,
        metavar="MS",
        help="one way, milliseconds (default: 20)",
    )
    parser.add_argument(
        "--loss", type=float, default=0.0, metavar="PERCENT", help="of frames (default: 0)"
    )
    parser.add_argument("--payload", choices=("none", "esp"), default="none")
    parser.add_argument(
        "--limit", type=float, default=1000.0, metavar="MS", help="longest gap (default: 1000)"
    )
    parser.add_argument(
        "--dwell", type=float, default=2.0, metavar="S", help="stay on each link (default: 2)"
    )
    parser.add_argument(
        "--route-optimization",
        action="store_true",
        help="let the correspondent take bindings: flows leave the tunnel for the direct path",
    )
    parser.add_argument(
        "--policy",
        choices=("on-traffic", "always", "never"),
        default="on-traffic",
        help="of route optimization (default: on-traffic)",
    )
    parser.add_argument(
        "--home-delay",
        type=float,
        metavar="MS",
        help="one way between core and home agent (default: 15 with route optimization, else 0)",
    )
    parser.add_argument(
        "--cleanup", action="store_true", help="only remove what killed demos left behind"
    )
    return parser


def _prepare(output: Path) -> None:
    if os.geteuid() != 0:
        raise RigError("network namespaces need root: try `sudo mnagent demo`")
    for tool in NEEDED_TOOLS:
        if shutil.which(tool) is None:
            raise RigError(f"{tool} is not installed: try `apt install iproute2 radvd`")
    output.mkdir(parents=True, exist_ok=True)
    for old in (*output.glob("*.pcap"), *output.glob("*.log")):
        old.unlink()


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status: 0 only if everything held."""
    arguments = _parser().parse_args(argv)
    home_delay = HOME_DELAY if arguments.route_optimization else 0.0
    if arguments.home_delay is not None:
        home_delay = arguments.home_delay / 1000
    options = DemoOptions(
        output=arguments.output,
        json_file=arguments.json,
        delay=arguments.delay / 1000,
        loss=arguments.loss / 100,
        payload_protection=arguments.payload,
        gap_limit=arguments.limit / 1000,
        dwell=arguments.dwell,
        route_optimization=arguments.route_optimization,
        policy=arguments.policy,
        home_delay=home_delay,
        results=arguments.results,
    )
    try:
        if arguments.cleanup:
            for name in remove_stale():
                print(f"removed {name}")
            return 0
        _prepare(options.output)
        remove_stale()
        return _play(options)
    except RigError as error:
        print(f"mnagent demo: {error}", file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        print("mnagent demo: stopped, nothing is left behind", file=sys.stderr)
        return 130


def _play(options: DemoOptions) -> int:
    with _begun(options) as recorder:
        narrator = Narrator(recorder)
        result = asyncio.run(tell(options, narrator))
        page = write_report(result, options.output, json_file=options.json_file)
        if recorder is not None:
            record(result, options.output, recorder)
    give_back(options.output, *([options.json_file] if options.json_file else []))
    narrator.table(result.handovers)
    if result.flows is not None:
        narrator.flows(result.flows)
    for check in result.checks:
        narrator.check(check)
    narrator.say(f"report: {page}")
    verdict = "everything survived" if result.succeeded else "NOT everything held"
    narrator.say(f"{verdict}: {result.ping_lost} of {result.ping_sent} probes lost")
    return 0 if result.succeeded else 1


def _begun(options: DemoOptions) -> contextlib.AbstractContextManager[Recorder | None]:
    settings = {
        "delay": f"{options.delay * 1000:g} ms",
        "home delay": f"{options.home_delay * 1000:g} ms",
        "loss": f"{options.loss * 100:g} %",
        "payload protection": options.payload_protection,
        "route optimization": options.policy if options.route_optimization else "off",
    }
    return begin(options.results, "demo", "namespaces", settings=settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
