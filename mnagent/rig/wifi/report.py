"""The results for people and for programs: a page with a timeline, JUnit, JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from mnagent.rig.report import STYLE
from mnagent.rig.wifi.results import Outcome, Results, Roam, median_of

PHASES = (
    ("left", "began_at", "#bdc3c7"),
    ("nl80211", "connected_at", "#8e44ad"),
    ("link up", "link_up_at", "#2980b9"),
    ("RS", "solicited_at", "#16a085"),
    ("RA", "advertised_at", "#27ae60"),
    ("address", "care_of_address_at", "#f1c40f"),
    ("BU", "update_sent_at", "#e67e22"),
    ("BA", "acknowledged_at", "#c0392b"),
    ("traffic", "resumed_at", "#2c3e50"),
)
"""What a timeline marks: name, field of a roam, colour."""
WIDTH, LEFT, ROW = 1100, 250, 26
MAX_BEFORE, MAX_AFTER = 2.5, 1.5
"""Seconds around the nl80211 event that a timeline shows at most."""


def as_junit(results: Results) -> str:
    """JUnit XML: one suite, a case for each scenario."""
    failures = [outcome for outcome in results.outcomes if not outcome.succeeded]
    errors = [outcome for outcome in failures if outcome.error]
    suite = ElementTree.Element(
        "testsuite",
        name="wifi",
        tests=str(len(results.outcomes)),
        failures=str(len(failures) - len(errors)),
        errors=str(len(errors)),
        time=f"{sum(outcome.seconds for outcome in results.outcomes):.1f}",
    )
    for outcome in results.outcomes:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname="rig.wifi",
            name=outcome.name,
            time=f"{outcome.seconds:.1f}",
        )
        false = [claim for claim in outcome.claims if not claim.held]
        if outcome.error:
            ElementTree.SubElement(case, "error", message=outcome.error)
        elif false or not outcome.claims:
            text = "\n".join(f"not true: {claim.text} ({claim.detail})" for claim in false)
            first = false[0].text if false else "nothing was claimed"
            ElementTree.SubElement(case, "failure", message=first).text = text
        ElementTree.SubElement(case, "system-out").text = "\n".join(_lines(outcome))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def _lines(outcome: Outcome) -> Iterator[str]:
    yield outcome.title
    for claim in outcome.claims:
        yield f"{'ok  ' if claim.held else 'FAIL'} {claim.text} ({claim.detail})"


def as_text(results: Results) -> str:
    """A few lines for a terminal."""
    lines = []
    for outcome in results.outcomes:
        lines.append(
            f"{'ok  ' if outcome.succeeded else 'FAIL'} {outcome.title}{_figures(outcome)}"
        )
        lines += [
            f"       not true: {claim.text}{f' ({claim.detail})' if claim.detail else ''}"
            for claim in outcome.claims
            if not claim.held
        ]
        lines += [f"       {outcome.error}"] if outcome.error else []
    lines.append(
        f"     {results.seconds:.0f} s from boot on, {results.host_seconds:.0f} s for the host"
        f" at a load of {results.host_load:.1f}"
    )
    return "\n".join(lines)


def _figures(outcome: Outcome) -> str:
    if not outcome.roams:
        return ""
    moved = [roam.registration_ms for roam in outcome.roams if roam.changes_link]
    middle = median_of(moved)
    registered = "" if middle is None else f", registered {middle:.0f} ms after nl80211 (median)"
    return f": {len(outcome.roams)} roams{registered}"


def as_html(results: Results) -> str:
    """The page; needs nothing but itself."""
    good = "good" if results.succeeded else "bad"
    verdict = "Every claim was true." if results.succeeded else "Not every claim was true."
    trips = ", ".join(f"{name} {value} ms" for name, value in results.round_trips_ms.items())
    legend = " ".join(
        f'<span style="border-bottom: 3px solid {colour}">{name}</span>'
        for name, _, colour in PHASES
    )
    sections = "".join(_section(outcome) for outcome in results.outcomes)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>mnagent rig wifi</title><style>{STYLE}</style></head>
<body>

<h1>A mobile node roams over Wi-Fi</h1>

<p><strong class="{good}">{verdict}</strong> Linux {html.escape(results.kernel)} with simulated
radios, commit {html.escape(results.commit or "unknown")}; {results.seconds:.0f} s from boot on,
{results.host_seconds:.0f} s for the host at a load of {results.host_load:.1f}. Round
trips: {html.escape(trips or "not measured")}.</p>

<p>Timelines are drawn around the nl80211 event: {legend}. Dots are probes by when they left, green
if they were answered.</p>

{_table(results)}

{sections}

</body></html>
"""


def _table(results: Results) -> str:
    """A row a scenario: how many roams, and how long after the nl80211 event those to another link
    were registered."""
    rows = []
    for outcome in results.outcomes:
        times = [roam.registration_ms for roam in outcome.roams if roam.changes_link]
        known = [time for time in times if time is not None]
        figures = (
            len(outcome.roams) or "",
            sum(roam.updates for roam in outcome.roams) or "",
            "" if not known else f"{median_of(times):.0f}",
            "" if not known else f"{max(known):.0f}",
            f"{outcome.seconds:.0f}",
        )
        verdict = '<span class="good">✓</span>' if outcome.succeeded else "✗"
        cells = "".join(f"<td>{figure}</td>" for figure in figures)
        rows.append(f"<tr><td>{verdict} {html.escape(outcome.title)}</td>{cells}</tr>")
    return (
        "<table><tr><th>Scenario</th><th>Roams</th><th>Binding Updates</th>"
        "<th>Registered, median ms</th><th>Longest, ms</th><th>Seconds</th></tr>\n"
        + "\n".join(rows)
        + "</table>"
    )


def _section(outcome: Outcome) -> str:
    claims = "".join(
        f'<li class="{"good" if claim.held else "bad"}">{"✓" if claim.held else "✗"}'
        f" {html.escape(claim.text)}"
        f' <span class="small">{html.escape(claim.detail)}</span></li>'
        for claim in outcome.claims
    )
    error = f'<p class="bad">{html.escape(outcome.error)}</p>' if outcome.error else ""
    return (
        f"\n<h2>{html.escape(outcome.title)}</h2>\n\n<ul>{claims}</ul>\n{error}"
        f"{timeline(outcome.roams) if outcome.roams else ''}\n"
    )


def timeline(roams: list[Roam]) -> str:
    """One row a roam, all on one scale, with the nl80211 event at the same place."""
    shown = [roam for roam in roams if roam.connected_at is not None]
    before = min(MAX_BEFORE, max((_origin(roam) - roam.began_at for roam in shown), default=0.1))
    ends = [(roam.resumed_at or roam.acknowledged_at or _origin(roam)) for roam in shown]
    after = max((end - _origin(roam) for end, roam in zip(ends, shown, strict=True)), default=0.1)
    after = min(MAX_AFTER, after + 0.1)
    scale = (WIDTH - LEFT - 10) / (before + after)
    rows = [
        _row(roam, 10 + index * ROW, LEFT + before * scale, scale)
        for index, roam in enumerate(shown)
    ]
    height = 20 + len(shown) * ROW
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" xmlns="http://www.w3.org/2000/svg" role="img"'
        f' aria-label="timeline">{"".join(rows)}</svg>'
    )


def _origin(roam: Roam) -> float:
    return roam.began_at if roam.connected_at is None else roam.connected_at


def _row(roam: Roam, top: float, zero: float, scale: float) -> str:
    def place(instant: float) -> float:
        return min(WIDTH - 5.0, max(float(LEFT), zero + (instant - _origin(roam)) * scale))

    label = f"{roam.origin} → {roam.destination}, {roam.means}"
    total = roam.registration_ms
    parts = [f'<text x="4" y="{top + 12}">{html.escape(label)}</text>']
    if roam.changes_link and total is not None:
        parts.append(f'<text x="{LEFT - 50}" y="{top + 12}">{total:.0f} ms</text>')
    marks = [
        (getattr(roam, field), name, colour)
        for name, field, colour in PHASES
        if getattr(roam, field) is not None
    ]
    for (at, name, colour), (end, *_) in zip(marks, [*marks[1:], marks[-1]], strict=True):
        x, width = place(at), max(2.0, place(end) - place(at))
        since = roam.since_connected(at)
        parts.append(
            f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="14" fill="{colour}">'
            f"<title>{name}: {since} ms</title></rect>"
        )
    for instants, colour in ((roam.replies, "#27ae60"), (roam.lost, "#c0392b")):
        parts += [
            f'<circle cx="{place(at):.1f}" cy="{top + 19}" r="1.6" fill="{colour}"/>'
            for at in instants
            if LEFT < place(at) < WIDTH - 5
        ]
    return "".join(parts)


def write_reports(results: Results, directory: Path) -> Path:
    """Write ``report.html``, ``junit.xml`` and ``results.json``; returns the page. Raises
    OSError."""
    page = directory / "report.html"
    page.write_text(as_html(results))
    (directory / "junit.xml").write_text(as_junit(results))
    (directory / "results.json").write_text(json.dumps(results.as_record(), indent=1) + "\n")
    return page
