"""The report: JSON for machines, a page for people, a few lines for the terminal."""

from __future__ import annotations

import html
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from mnagent.rig.soak import story, watch
from mnagent.rig.soak.record import Done, Findings

INVARIANTS = (
    *watch.RULES,
    story.CONNECTIONS,
    story.RESUMED,
    story.UNDISTURBED,
    story.KERNEL,
    story.BEHIND,
    story.DESCRIPTORS,
    story.MEMORY,
    story.ALIVE,
    story.ERRORS,
    story.COMPLETE,
)
"""All of them, in the order of the report."""

_PAGE = """\
<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>mnagent: attack and chaos suite</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
td, th {{ border-bottom: 1px solid #ccc; padding: .25rem .7rem; text-align: left; }}
td.n, th.n {{ text-align: right; }}
.bad {{ color: #b00; font-weight: 600; }} .good {{ color: #070; }}
</style>
<h1>Attack and chaos suite</h1>
<p class="{mood}">{verdict}</p>
<p>{summary}</p>
{body}
</html>
"""


def as_json(findings: Findings) -> str:
    """All of it."""
    document = {
        "seed": findings.seed,
        "minutes": findings.minutes,
        "seconds": round(findings.seconds, 1),
        "held": findings.held,
        "frames_judged": findings.frames,
        "handovers": handovers(findings),
        "kills": kills(findings),
        "steps": kinds(findings.done),
        "invariants": [
            {
                "invariant": name,
                "asked": findings.judged[name],
                "broken": sum(each.invariant == name for each in findings.broken),
            }
            for name in INVARIANTS
        ],
        "violations": [asdict(each) for each in findings.broken],
        "excused": dict(findings.excused),
        "daemons": findings.daemons,
        "dropped": {
            role: {name: count for name, count in sorted(counts.items()) if count}
            for role, counts in findings.counters.items()
        },
    }
    return json.dumps(document, indent=1) + "\n"


def handovers(findings: Findings) -> int:
    """How many there were."""
    return sum(len(each.links) for each in findings.done)


def kills(findings: Findings) -> int:
    """How many daemons were killed."""
    count = Counter(each.kind for each in findings.done)
    both = sum(number for kind, number in count.items() if kind.startswith("both"))
    return both + sum(number for kind, number in count.items() if "killed" in kind)


def kinds(done: Sequence[Done]) -> list[dict[str, Any]]:
    """Counts and gaps by kind of step, gaps in milliseconds."""
    by_kind: defaultdict[str, list[Done]] = defaultdict(list)
    for each in done:
        by_kind[each.kind].append(each)
    return [
        {
            "kind": kind,
            "count": len(steps),
            "packets": sum(each.packets for each in steps),
            "gap_median_ms": round(median(each.gap for each in steps) * 1000),
            "gap_max_ms": round(max(each.gap for each in steps) * 1000),
        }
        for kind, steps in sorted(by_kind.items())
    ]


def verdict(findings: Findings) -> str:
    """One sentence."""
    if findings.held:
        return "No invariant was violated."
    if not findings.done:
        return "Nothing was tried."
    return f"{len(findings.broken)} violations."


def summary(findings: Findings) -> str:
    """What was done, and how to do it again."""
    return (
        f"Seed {findings.seed}, {findings.seconds / 60:.1f} minutes, {len(findings.done)} steps,"
        f" {handovers(findings)} handovers, {kills(findings)} daemons killed,"
        f" {sum(each.packets for each in findings.done)} packets of attackers,"
        f" {findings.frames} frames judged."
    )


def as_page(findings: Findings) -> str:
    """HTML."""
    document = json.loads(as_json(findings))
    body = [
        "<h2>Invariants</h2>",
        _table(document["invariants"], ("invariant", "asked", "broken")),
        "<h2>Steps</h2>",
        _table(document["steps"], ("kind", "count", "packets", "gap_median_ms", "gap_max_ms")),
        "<h2>Violations</h2>",
        _table(document["violations"], ("invariant", "stage", "round", "step", "detail")),
        "<h2>Daemons</h2>",
        _table(
            document["daemons"],
            ("stage", "daemon", "handovers", "memory_kb", "descriptors", "threads", "growth"),
        ),
        "<h2>Counted by the daemons</h2>",
        _table(
            [
                {"daemon": role, "counter": name, "count": count}
                for role, counts in document["dropped"].items()
                for name, count in counts.items()
                if name.startswith("drop-")
            ],
            ("daemon", "counter", "count"),
        ),
        "<h2>Allowed</h2>",
        _table(
            [{"what": what, "packets": n} for what, n in document["excused"].items()],
            ("what", "packets"),
        ),
    ]
    return _PAGE.format(
        mood="good" if findings.held else "bad",
        verdict=verdict(findings),
        summary=html.escape(summary(findings)),
        body="\n".join(body),
    )


def _table(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> str:
    lines = ["<table>", _row([column.replace("_", " ") for column in columns], "th")]
    lines += [_row([row[column] for column in columns], "td") for row in rows]
    return "\n".join([*lines, "</table>"]) if len(lines) > 2 else "<p>none</p>"


def _row(cells: Sequence[Any], tag: str) -> str:
    shown = [
        f"<{tag}{' class=n' if isinstance(cell, int) else ''}>{html.escape(str(cell))}</{tag}>"
        for cell in cells
    ]
    return f"<tr>{''.join(shown)}</tr>"


def write(findings: Findings, directory: Path) -> tuple[Path, Path]:
    """Write ``soak.html`` and ``soak.json``; returns both."""
    directory.mkdir(parents=True, exist_ok=True)
    page, data = directory / "soak.html", directory / "soak.json"
    page.write_text(as_page(findings))
    data.write_text(as_json(findings))
    return page, data
