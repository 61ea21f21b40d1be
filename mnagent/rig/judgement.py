"""What became of a journey: handovers, connections and captures, held against what must be true.

The same for every kind of mobile node: a namespace, an emulated board, a real one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnagent.rig.capture import read_capture
from mnagent.rig.checks import Check, LinkSummary, check_captures, summarize
from mnagent.rig.daemon import MOBILE_NODE_KEYS
from mnagent.rig.flows import (
    Flow,
    Places,
    Stay,
    check_flows,
    check_never,
    check_tests,
    follow,
    observe,
)
from mnagent.rig.handover import Handover, datagram_faults, lost_probes, measure
from mnagent.rig.host import Process, boottime
from mnagent.rig.keyfile import read_associations
from mnagent.rig.report import Point, Result
from mnagent.rig.roaming import Roaming, Traffic
from mnagent.rig.topology import (
    CORRESPONDENT,
    FOREIGN_PREFIXES,
    HOME_ADDRESS,
    HOME_AGENT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """Where the node went and what must be true of it. Times in seconds."""

    path: tuple[str, ...]
    """The handovers, by the links they lead to."""
    visited: tuple[str, ...]
    """Foreign links where the node was registered."""
    delay: float
    """One way, between a foreign link and the core."""
    home_delay: float = 0.0
    """One way, between core and home agent."""
    loss: float = 0.0
    """Share of frames, 0 to 1."""
    payload_protection: str = "none"
    gap_limit: float = 1.0
    """From link up within which all traffic must have resumed."""
    optimizes: bool = False
    """Whether the correspondent takes bindings."""
    goes_direct: bool = False
    """Whether flows must leave the tunnel."""
    interval: float = 0.02
    """Between probes."""
    slack: float = 0.1
    """By which instants told by the node may be wrong, and a packet late beyond the delays."""

    @property
    def in_flight(self) -> float:
        """How long a packet and its answer may be on their way."""
        return 2 * (self.delay + self.home_delay) + self.slack


class Judge:
    """Looks at a journey that is over, while the rig still stands."""

    def __init__(self, roaming: Roaming, traffic: Traffic, journey: Journey) -> None:
        self._roaming = roaming
        self._traffic = traffic
        self._journey = journey

    def judge(
        self,
        captures: dict[str, Path],
        *,
        dropped: int,
        problems: list[str],
        records: list[dict[str, Any]],
        facts: dict[str, str] | None = None,
    ) -> Result:
        """All that was found. ``dropped`` frames the captures missed, ``problems`` the journey met,
        ``records`` are the node's own of its handovers, ``facts`` say what was tested."""
        traffic = self._traffic
        handovers = measure(self._roaming, traffic)
        links = {
            name: summarize(read_capture(path), home_address=HOME_ADDRESS, home_agent=HOME_AGENT)
            for name, path in captures.items()
        }
        tcp_survived = Traffic.survived(traffic.outgoing)
        incoming_tcp_survived = Traffic.survived(traffic.incoming)
        flows, path_checks = self._follow(handovers, captures)
        checks = [
            Check("the outgoing TCP connection survived, every octet in order", tcp_survived),
            Check(
                "the incoming TCP connection survived, every octet in order", incoming_tcp_survived
            ),
            *self._handover_checks(handovers, traffic.ping),
            *self._datagram_checks(handovers),
            *self._capture_checks(links),
            *path_checks,
            Check(
                "the captures are complete", dropped == 0, f"{dropped} missed" if dropped else ""
            ),
        ]
        checks += [Check("the story went on without trouble", False, text) for text in problems]
        return Result(
            handovers=handovers,
            checks=checks,
            tcp_survived=tcp_survived,
            incoming_tcp_survived=incoming_tcp_survived,
            ping_sent=len(traffic.ping.of_kind("sent")),
            ping_lost=len(lost_probes(traffic.ping)),
            delay=self._journey.delay,
            payload_protection=self._journey.payload_protection,
            round_trips=[
                Point(record["sent_at"], (record["at"] - record["sent_at"]) * 1000)
                for record in traffic.ping.of_kind("reply")
            ],
            lost=[record["at"] for record in lost_probes(traffic.ping)],
            progress=_progress(traffic),
            flows=flows,
            home_delay=self._journey.home_delay,
            records=records,
            interval=self._journey.interval,
            facts=facts or {},
        )

    def _follow(
        self, handovers: list[Handover], captures: dict[str, Path]
    ) -> tuple[list[Flow] | None, list[Check]]:
        """Which way each flow went, and what must be true of that."""
        if not self._journey.optimizes:
            return None, []
        associations = read_associations(self._roaming.directory / MOBILE_NODE_KEYS)
        seen = {
            name: observe(read_capture(captures[name]), associations)
            for name in (*FOREIGN_PREFIXES, "core-correspondent", "core-home-agent")
        }
        places = Places(
            node=HOME_ADDRESS,
            peer=CORRESPONDENT,
            links={name: seen[name] for name in FOREIGN_PREFIXES},
            at_peer=seen["core-correspondent"],
            at_home_agent=seen["core-home-agent"],
        )
        stays = _stays(handovers)
        flows = follow(places, stays)
        if not self._journey.goes_direct:
            return flows, check_never(places, stays)
        protected = any(item.purpose == "return_routability" for item in associations)
        return flows, [*check_flows(flows), *check_tests(places, stays, protected=protected)]

    def _datagram_checks(self, handovers: list[Handover]) -> list[Check]:
        if self._traffic.datagrams is None or self._journey.loss:
            return []
        faults = datagram_faults(self._traffic, handovers, in_flight=self._journey.in_flight)
        claim = "no numbered datagram was lost but in a handover, and none came twice"
        return [Check(claim, not faults, "; ".join(faults))]

    def _handover_checks(self, handovers: list[Handover], ping: Process) -> list[Check]:
        limit = self._journey.gap_limit
        late = [
            f"{handover.origin} to {handover.destination}: "
            + ("never" if handover.resumed_at is None else f"{gap:.0f} ms")
            for handover in handovers
            if (gap := handover.since_link_up(handover.resumed_at)) is None or gap > limit * 1000
        ]
        checks = [
            Check(
                f"after each handover all traffic resumed within {limit * 1000:.0f} ms of link up",
                len(handovers) == len(self._journey.path) and not late,
                ", ".join(late),
            )
        ]
        if not self._journey.loss:
            stray = [
                record["sequence"]
                for record in lost_probes(ping)
                if not any(
                    handover.link_down_at - self._journey.in_flight
                    <= record["at"]
                    <= (handover.ping_resumed_at or float("inf"))
                    for handover in handovers
                )
            ]
            detail = f"{len(stray)} others" if stray else ""
            checks.append(Check("only probes of the gaps were lost", not stray, detail))
        return checks

    def _capture_checks(self, links: dict[str, LinkSummary]) -> list[Check]:
        return check_captures(
            links,
            foreign={link: FOREIGN_PREFIXES[link] for link in self._journey.visited},
            associations=read_associations(self._roaming.directory / MOBILE_NODE_KEYS),
            payload_protection=self._journey.payload_protection,
            optimized=self._journey.goes_direct,
        )


def _stays(handovers: list[Handover]) -> list[Stay]:
    """The time on each foreign link, on the clock of the captures."""
    offset = time.time() - boottime()
    ends = [*(handover.link_down_at for handover in handovers[1:]), float("inf")]
    return [
        Stay(
            link=handover.destination,
            prefix=FOREIGN_PREFIXES[handover.destination],
            begin=handover.link_up_at + offset,
            end=end + offset,
        )
        for handover, end in zip(handovers, ends, strict=True)
        if handover.destination in FOREIGN_PREFIXES
    ]


def _progress(traffic: Traffic) -> dict[str, list[Point]]:
    ends = {
        "outgoing, to the peer": traffic.outgoing[1],
        "outgoing, to the node": traffic.outgoing[0],
        "incoming, to the peer": traffic.incoming[1],
        "incoming, to the node": traffic.incoming[0],
    }
    return {
        name: [Point(record["at"], record["octets"]) for record in process.of_kind("received")]
        for name, process in ends.items()
    }
