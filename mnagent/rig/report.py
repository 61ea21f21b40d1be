"""The demo's result for people and programs: JSON, a table, and a page with a timeline picture."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnagent.rig.checks import Check
from mnagent.rig.flows import Flow
from mnagent.rig.handover import Handover
from mnagent.rig.telling import as_recorded
from mnagent.rig.web.pictures import handover_lane

COLUMNS = (
    "from",
    "to",
    "care-of ready",
    "answered",
    "first out",
    "first in",
    "all resumed",
    "lost",
)
"""Times in milliseconds from link up; answered: the Binding Acknowledgement came; lost: probes."""
DIRECT_COLUMN = "direct path"
"""Before the last but one, where there was any."""
FLOW_COLUMNS = (
    "flow",
    "link",
    "path",
    "round trip by home agent",
    "round trip directly",
    "at home agent after switch",
)


@dataclass(frozen=True, slots=True)
class Point:
    """Something of one kind of traffic, for the picture."""

    at: float
    """Seconds on CLOCK_BOOTTIME."""
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that a demo found."""

    handovers: list[Handover]
    checks: list[Check]
    tcp_survived: bool
    incoming_tcp_survived: bool
    ping_sent: int
    ping_lost: int
    delay: float
    """Seconds, one way, between a foreign link and the core."""
    payload_protection: str
    round_trips: list[Point] = field(default_factory=list)
    """Of answered probes, milliseconds."""
    lost: list[float] = field(default_factory=list)
    """When lost probes were sent."""
    progress: dict[str, list[Point]] = field(default_factory=dict)
    """Octets received so far, by direction of a connection."""
    flows: list[Flow] | None = None
    """Which way each flow went, None for a demo without route optimization."""
    home_delay: float = 0.0
    """Seconds, one way, between core and home agent."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """The mobile node's own handover record, as ``mnagent handovers --json`` gives it."""
    interval: float = 0.02
    """Seconds between probes."""
    facts: dict[str, str] = field(default_factory=dict)
    """What was tested: board, kernel, image, commit."""

    @property
    def succeeded(self) -> bool:
        """True when every check held."""
        return all(check.held for check in self.checks)


def as_json(result: Result) -> str:
    """The report programs read."""
    document: dict[str, Any] = {
        "succeeded": result.succeeded,
        "facts": result.facts,
        "tcp_survived": result.tcp_survived,
        "incoming_tcp_survived": result.incoming_tcp_survived,
        "ping_sent": result.ping_sent,
        "ping_lost": result.ping_lost,
        "delay_ms": result.delay * 1000,
        "interval_ms": result.interval * 1000,
        "payload_protection": result.payload_protection,
        "home_delay_ms": result.home_delay * 1000,
        "handovers": [handover.as_record() for handover in result.handovers],
        "handover_record": result.records,
        "checks": [
            {"claim": check.claim, "held": check.held, "detail": check.detail}
            for check in result.checks
        ],
    }
    if result.flows is not None:
        document["flows"] = [flow.as_record() for flow in result.flows]
    return json.dumps(document, indent=2) + "\n"


def columns(handovers: Iterable[Handover]) -> tuple[str, ...]:
    """Those of the per-handover table: with the direct path only where there was one."""
    if all(handover.direct_at is None for handover in handovers):
        return COLUMNS
    return (*COLUMNS[:-2], DIRECT_COLUMN, *COLUMNS[-2:])


PHASES = {
    "RS": "router_solicited_at",
    "RA": "router_advertised_at",
    "address": "care_of_address_ready_at",
    "DAD end": "duplicate_detection_ended_at",
    "BU": "update_sent_at",
    "BA": "acknowledged_at",
    "first out": "first_packet_out_at",
    "first in": "first_packet_in_at",
}


CORRESPONDENT_PHASES = {
    "tests begin": "tests_started_at",
    "tests passed": "tests_passed_at",
    "BU": "update_sent_at",
    "BA": "acknowledged_at",
    "first out": "first_packet_out_at",
    "first in": "first_packet_in_at",
}


def correspondent_rows(records: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The same for each correspondent of each handover."""
    rows = []
    for record in records:
        start = record["link_up_at"]
        where = "home" if record.get("at_home") else str(record.get("care_of_address"))
        for correspondent, reached in dict(record.get("correspondents") or {}).items():
            times = [_since(start, reached.get(name)) for name in CORRESPONDENT_PHASES.values()]
            rows.append((correspondent, where, *times))
    return rows


def _since(start: float, instant: float | None) -> str:
    return "-" if instant is None else f"{(instant - start) * 1000:.1f}"


def phase_rows(records: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The daemon's record of each handover: cause, where to, and the time of each phase."""
    rows = []
    for record in records:
        start = record["link_up_at"]
        times = [_since(start, record.get(name)) for name in PHASES.values()]
        where = "home" if record.get("at_home") else str(record.get("care_of_address"))
        rows.append((str(record.get("cause")), where, *times))
    return rows


def table_rows(handovers: Sequence[Handover]) -> list[tuple[str, ...]]:
    """The per-handover table, under `columns`."""
    shows_direct = DIRECT_COLUMN in columns(handovers)
    rows = []
    for handover in handovers:
        instants = [
            handover.care_of_address_at,
            handover.acknowledged_at,
            handover.first_out_at,
            handover.first_in_at,
            handover.resumed_at,
        ]
        if shows_direct:
            instants.insert(-1, handover.direct_at)
        times = [
            "-" if (span := handover.since_link_up(instant)) is None else f"{span:.0f} ms"
            for instant in instants
        ]
        rows.append((handover.origin, handover.destination, *times, str(handover.lost)))
    return rows


def flow_rows(flows: Iterable[Flow]) -> list[tuple[str, ...]]:
    """The per-flow table, under `FLOW_COLUMNS`: each stay, then what held in all."""
    rows: list[tuple[str, ...]] = []
    for flow in flows:
        for record in [stay.as_record() for stay in flow.stays] + [flow.as_record()]:
            at_home_agent = record["packets_at_home_agent_after_switch"]
            rows.append(
                (
                    flow.name,
                    record.get("link", "all"),
                    record["path"],
                    _milliseconds(record["rtt_via_home_agent_ms"]),
                    _milliseconds(record["rtt_direct_ms"]),
                    "-" if at_home_agent is None else str(at_home_agent),
                )
            )
    return rows


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def plain_table(handovers: Sequence[Handover]) -> str:
    """The per-handover table as plain text."""
    return aligned([columns(handovers), *table_rows(handovers)])


def aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Rows of cells as plain text."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


WIDTH = 1100
LEFT = 150
ROW = 70
LINK_COLOURS = {"home": "#dbeedb", "link-a": "#dbe6f7", "link-b": "#f7e8d4"}


class Timeline:
    """The picture: where the node was, what was lost, and how each kind of traffic went on."""

    def __init__(self, result: Result) -> None:
        self._result = result
        instants = [point.at for points in result.progress.values() for point in points]
        instants += [point.at for point in result.round_trips]
        instants += [handover.link_up_at for handover in result.handovers]
        self._begin = min(instants, default=0.0)
        self._end = max(instants, default=1.0)
        self._parts: list[str] = []

    def render(self) -> str:
        """The SVG element."""
        rows = 1 + len(self._result.progress)
        height = 40 + rows * ROW + 30
        self._links(height - 30)
        self._round_trips(40)
        for index, (name, points) in enumerate(self._result.progress.items(), start=1):
            self._progress(40 + index * ROW, name, points)
        self._axis(height - 30)
        return (
            f'<svg viewBox="0 0 {WIDTH} {height}" xmlns="http://www.w3.org/2000/svg"'
            f' role="img" aria-label="timeline">{"".join(self._parts)}</svg>'
        )

    def _x(self, at: float) -> float:
        return LEFT + (at - self._begin) / ((self._end - self._begin) or 1) * (WIDTH - LEFT - 10)

    def _text(self, x: float, y: float, text: str, extra: str = "") -> None:
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {extra}>{html.escape(text)}</text>')

    def _links(self, bottom: float) -> None:
        handovers = self._result.handovers
        starts = [self._begin, *(handover.link_up_at for handover in handovers)]
        ends = [*(handover.link_down_at for handover in handovers), self._end]
        names = [handovers[0].origin] if handovers else []
        names += [handover.destination for handover in handovers]
        for start, end, name in zip(starts, ends, names, strict=False):
            left, right = self._x(start), self._x(end)
            self._parts.append(
                f'<rect x="{left:.1f}" y="10" width="{max(0.0, right - left):.1f}"'
                f' height="{bottom - 10:.1f}" fill="{LINK_COLOURS.get(name, "#eee")}"/>'
            )
            self._text(left + 4, 24, name)
        for handover in handovers:
            if (resumed_at := handover.resumed_at) is not None:
                left, right = self._x(handover.link_down_at), self._x(resumed_at)
                self._parts.append(
                    f'<rect x="{left:.1f}" y="30" width="{right - left:.1f}"'
                    f' height="{bottom - 30:.1f}" fill="#c0392b" fill-opacity="0.25">'
                    f"<title>{handover.origin} to {handover.destination}:"
                    f" {handover.since_link_up(resumed_at)} ms</title></rect>"
                )

    def _round_trips(self, top: float) -> None:
        self._text(4, top + ROW / 2, "ping round trip")
        highest = max((point.value for point in self._result.round_trips), default=1.0)
        self._text(4, top + ROW / 2 + 14, f"0 to {highest:.0f} ms", 'class="small"')
        for point in self._result.round_trips:
            y = top + ROW - 8 - point.value / highest * (ROW - 16)
            self._parts.append(
                f'<circle cx="{self._x(point.at):.1f}" cy="{y:.1f}" r="1.2" fill="#1f618d"/>'
            )
        for at in self._result.lost:
            x = self._x(at)
            self._parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + ROW - 6}" y2="{top + ROW}"'
                ' stroke="#c0392b"/>'
            )

    def _progress(self, top: float, name: str, points: list[Point]) -> None:
        self._text(4, top + ROW / 2, name)
        highest = max((point.value for point in points), default=1.0) or 1.0
        self._text(4, top + ROW / 2 + 14, f"{highest / 1000:.0f} kB in order", 'class="small"')
        path = " ".join(
            f"{self._x(point.at):.1f},{top + ROW - 4 - point.value / highest * (ROW - 10):.1f}"
            for point in points
        )
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="#196f3d" stroke-width="1.5"/>'
        )

    def _axis(self, y: float) -> None:
        span = self._end - self._begin
        step = max(1, round(span / 15))
        for second in range(0, int(span) + 1, step):
            x = self._x(self._begin + second)
            self._parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 5}" stroke="#555"/>'
            )
            self._text(x, y + 18, f"{second} s", 'text-anchor="middle" class="small"')


def phases_picture(handovers: list[Handover]) -> str:
    """One bar a handover: link up, care-of address ready, acknowledged, all traffic resumed."""
    ends = [handover.since_link_up(handover.resumed_at) or 0.0 for handover in handovers]
    scale = (WIDTH - LEFT - 100) / (max(ends, default=1.0) or 1.0)
    parts = []
    for index, (handover, end) in enumerate(zip(handovers, ends, strict=True)):
        y = 10 + index * 34
        parts.append(f'<text x="4" y="{y + 16}">{handover.origin} → {handover.destination}</text>')
        start = 0.0
        for instant, colour, name in (
            (handover.care_of_address_at, "#5dade2", "care-of address ready"),
            (handover.acknowledged_at, "#f5b041", "binding acknowledged"),
            (handover.resumed_at, "#c0392b", "all traffic resumed"),
        ):
            until = handover.since_link_up(instant)
            if until is None or until <= start:
                continue
            parts.append(
                f'<rect x="{LEFT + start * scale:.1f}" y="{y}" height="22" fill="{colour}"'
                f' width="{(until - start) * scale:.1f}"><title>{name}: {until} ms</title></rect>'
            )
            start = until
        parts.append(f'<text x="{LEFT + end * scale + 6:.1f}" y="{y + 16}">{end:.0f} ms</text>')
    height = 20 + len(handovers) * 34
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" xmlns="http://www.w3.org/2000/svg">'
        f"{''.join(parts)}</svg>"
    )


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1140px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; } td, th { padding: .25em .9em; border-bottom: 1px solid #ccc;
text-align: left; } svg { width: 100%; font: 12px sans-serif; }
svg[viewBox] { height: auto; }
.small { font-size: 10px; fill: #555; } .good { color: #196f3d; } .bad { color: #c0392b; }
code { background: #f2f2f2; padding: .1em .3em; }
figure { margin: .5em 0; } svg .axis, svg .stem { stroke: #bbb; } svg .phase { fill: #2f7fb0; }
svg .phase-l2 { fill: #6b3fa0; } svg .phase-ba { fill: #12653a; } svg .phase-all { fill: #8a4b00; }
"""


def as_html(result: Result, captures: Iterable[str]) -> str:
    """The page people read; needs nothing but itself."""
    verdict = "Every check held." if result.succeeded else "Not every check held."
    path = " → ".join(
        [result.handovers[0].origin, *(handover.destination for handover in result.handovers)]
        if result.handovers
        else []
    )
    table = _table(columns(result.handovers), table_rows(result.handovers))
    phases = _table(("cause", "to", *PHASES), phase_rows(result.records))
    checks = "".join(
        f'<li class="{"good" if check.held else "bad"}">{"✓" if check.held else "✗"}'
        f" {html.escape(check.claim)}{_detail(check)}</li>"
        for check in result.checks
    )
    files = "".join(f"<li><code>{html.escape(name)}</code></li>" for name in captures)
    good = "good" if result.succeeded else "bad"
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>mnagent demo</title><style>{STYLE}</style></head>
<body>

<h1>A mobile node roams</h1>

<p><strong class="{good}">{verdict}</strong> {html.escape(path)}, {result.delay * 1000:.0f} ms
one way between the foreign links and the core, payload protection
{html.escape(result.payload_protection)}; {result.ping_lost} of {result.ping_sent} probes lost.</p>
{_facts_section(result)}
<h2>Timeline</h2>

<p>Red: from link down until all traffic had resumed.</p>

{Timeline(result).render()}

<h2>Handovers</h2>

<p>Milliseconds from link up; lost probes, one each {result.interval * 1000:.0f} ms.</p>

{table}

<p>Blue until the care-of address was ready, yellow until the binding was acknowledged, red until
the last kind of traffic had resumed.</p>

{phases_picture(result.handovers)}
{_flows_section(result)}
<h2>Phases</h2>

<p>The mobile node's own record, milliseconds from the link event; the pictures are logarithmic.</p>

{_lanes(result)}
{phases}
{_correspondents_section(result)}
<h2>Checks</h2>

<ul>{checks}</ul>

<h2>Captures</h2>

<ul>{files}</ul>

<p>Decrypted: <code>WIRESHARK_CONFIG_DIR=wireshark tshark -r link-a.pcap -Y mipv6</code></p>

</body></html>
"""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _facts_section(result: Result) -> str:
    if not result.facts:
        return ""
    return f"\n<h2>What was tested</h2>\n\n{_table(('what', 'which'), result.facts.items())}\n"


def _flows_section(result: Result) -> str:
    if result.flows is None:
        return ""
    return f"""
<h2>Paths</h2>

<p>From the captures: the round trip of each flow through the home agent and directly
({result.home_delay * 1000:.0f} ms one way between core and home agent), and how many of its packets
the home agent still saw after the direct path was in use.</p>

{_table(FLOW_COLUMNS, flow_rows(result.flows))}
"""


def _correspondents_section(result: Result) -> str:
    rows = correspondent_rows(result.records)
    if not rows:
        return ""
    return f"""
<p>For each correspondent: address tests, its binding, and the first packets that went directly.</p>

{_table(("correspondent", "to", *CORRESPONDENT_PHASES), rows)}
"""


def _lanes(result: Result) -> str:
    """A picture of each handover's phases, all on one scale."""
    told = as_recorded(result.handovers, result.records)
    longest = max((max(each.phases.values(), default=0.0) for each in told), default=0.0)
    return "\n".join(
        f"<figure><figcaption>{html.escape(each.move)}</figcaption>"
        f"{handover_lane(each, longest)}</figure>"
        for each in told
    )


def _detail(check: Check) -> str:
    return f' <span class="small">({html.escape(check.detail)})</span>' if check.detail else ""


def write_report(result: Result, directory: Path, *, json_file: Path | None) -> Path:
    """Write ``report.html`` and ``report.json``; returns the page. Raises OSError."""
    page = directory / "report.html"
    page.write_text(as_html(result, sorted(path.name for path in directory.glob("*.pcap"))))
    (directory / "report.json").write_text(as_json(result))
    if json_file is not None:
        json_file.write_text(as_json(result))
    return page


PICTURE_STYLE = "<style>text { font: 12px sans-serif } .small { font-size: 10px }</style>"


def write_pictures(result: Result, directory: Path) -> None:
    """The report's pictures as files of their own. Raises OSError."""
    pictures = {
        "timeline.svg": Timeline(result).render(),
        "phases.svg": phases_picture(result.handovers),
    }
    for name, picture in pictures.items():
        (directory / name).write_text(picture.replace("</svg>", f"{PICTURE_STYLE}</svg>"))
