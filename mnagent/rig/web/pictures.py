"""Pictures as inline SVG. Everything is placed by percent of the width and by pixels of height, so
that text keeps its size on a telephone; colours are of the style sheet, light and dark."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from mnagent.rig.library import PHASES, TRAFFIC_SPAN, Handover, Traffic
from mnagent.rig.web.live import Story
from mnagent.rig.web.markup import Child, Markup, element, join

COLUMNS: Final = 240
"""Of a traffic strip."""
STRIP: Final = 48
"""Pixels of its height."""
LETTER_SHARE: Final = 2.6
"""Percent of the width that a letter takes on a telephone."""
LABEL_ROW: Final = 15
FIRST_MILLISECOND: Final = 0.5
"""Where the logarithmic scale begins; what came earlier is drawn there."""


def _percent(value: float) -> str:
    return f"{value:.2f}%"


def _text(x: float, y: float, text: str, *, class_: str = "", anchor: str = "start") -> Markup:
    return element("text", text, x=_percent(x), y=y, class_=class_ or None, text_anchor=anchor)


def _rectangle(x: float, y: float, *, width: float, height: float, class_: str) -> Markup:
    return element("rect", x=_percent(x), y=y, width=_percent(width), height=height, class_=class_)


def _line(ends: tuple[float, float, float, float], class_: str) -> Markup:
    x1, y1, x2, y2 = ends
    return element("line", x1=_percent(x1), y1=y1, x2=_percent(x2), y2=y2, class_=class_)


def _picture(height: float, label: str, *parts: Child) -> Markup:
    return element("svg", parts, width="100%", height=height, role="img", aria_label=label)


class _Rows:
    """Gives labels rows, so that none covers another, be the screen a telephone's."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def place(self, x: float, text: str) -> tuple[int, str]:
        """The row of a label at a place, and on which side of the place it is."""
        share = LETTER_SHARE * (len(text) + 1)
        anchor = "end" if x + share > 99 else "start"
        begin = x - share if anchor == "end" else x
        for row, end in enumerate(self._ends):
            if begin >= end:
                self._ends[row] = begin + share
                return row, anchor
        self._ends.append(begin + share)
        return len(self._ends) - 1, anchor

    @property
    def count(self) -> int:
        return len(self._ends)


def traffic_strip(story: Story) -> Markup:
    """Probes over the whole run, by when they left: the share that was answered, and in red that
    which was not; and the L2 event of each handover."""
    begin, end = story.span
    begin = math.floor(begin / TRAFFIC_SPAN) * TRAFFIC_SPAN
    length = max(end - begin, 1.0)

    def place(at: float) -> float:
        return (at - begin) / length * 99.0 + 0.5

    rows = _Rows()
    marks, labels = [], []
    for handover in story.handovers:
        x = place(handover.at)
        row, anchor = rows.place(x, handover.destination)
        marks.append((x, row))
        labels.append(_text(x, 12 + row * LABEL_ROW, handover.destination, anchor=anchor))
    top = 4 + rows.count * LABEL_ROW
    bottom = top + STRIP
    lines = [_line((x, 14 + row * LABEL_ROW, x, bottom), "event") for x, row in marks]
    bars = join(_bars(story.traffic, begin, length, top))
    axis = join(_seconds(length, bottom))
    silent = "" if story.traffic else "; no probes yet"
    label = f"Traffic over {length:.0f} seconds with {len(marks)} handovers{silent}"
    return _picture(bottom + 20, label, bars, lines, labels, axis)


def _bars(traffic: Iterable[Traffic], begin: float, length: float, top: float) -> Iterator[Markup]:
    # A column is a whole number of spans: each then holds as many as the next.
    seconds = TRAFFIC_SPAN * math.ceil(length / TRAFFIC_SPAN / COLUMNS)
    sent: Counter[int] = Counter()
    answered: Counter[int] = Counter()
    for each in traffic:
        column = int((each.at - begin) / seconds + 0.001)
        sent[column] += each.sent
        answered[column] += min(each.answered, each.sent)
    width = seconds / length * 99.0
    for column, out in sorted(sent.items()):
        x = column * width + 0.5
        lost = STRIP * (out - answered[column]) / (out or 1)
        if answered[column]:
            bar = STRIP - lost
            yield _rectangle(x, top + lost, width=width, height=bar, class_="answered")
        if lost:
            yield _rectangle(x, top, width=width, height=lost, class_="silent")


def _seconds(length: float, y: float) -> Iterator[Markup]:
    yield _line((0.5, y, 99.5, y), "axis")
    for second in _ticks(length):
        x = second / length * 99.0 + 0.5
        yield _line((x, y, x, y + 4), "axis")
        anchor = "start" if second == 0 else "end" if x > 95 else "middle"
        yield _text(x, y + 17, f"{second:g} s", class_="small", anchor=anchor)


def _ticks(length: float, most: int = 6) -> list[float]:
    """Round numbers from 0 to a length."""
    raw = length / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    return [index * step for index in range(int(length / step) + 1)]


def handover_lane(handover: Handover, longest: float) -> Markup:
    """The phases of a handover on a logarithmic scale that ends at ``longest`` milliseconds."""
    top_power = math.log10(max(longest, 10.0) * 1.3)
    low_power = math.log10(FIRST_MILLISECOND)

    def place(milliseconds: float) -> float:
        power = math.log10(max(milliseconds, FIRST_MILLISECOND))
        return 3.0 + (power - low_power) / (top_power - low_power) * 95.0

    reached = sorted(
        (place(handover.phases[phase]), short, handover.phases[phase])
        for phase, short in PHASES.items()
        if phase in handover.phases
    )
    rows, labels = _Rows(), []
    for x, short, milliseconds in [(0.5, "L2", 0.0), *reached]:
        labels.append((x, *rows.place(x, short), short, milliseconds))
    base = 6 + rows.count * LABEL_ROW
    marks = [
        [
            _line((x, 14 + row * LABEL_ROW, x, base + 8), "stem"),
            element(
                "circle",
                element("title", f"{short}: {milliseconds:g} ms"),
                cx=_percent(x),
                cy=base + 8,
                r=4,
                class_=f"phase phase-{short.lower()}",
            ),
            _text(x, 12 + row * LABEL_ROW, short, anchor=anchor),
        ]
        for x, row, anchor, short, milliseconds in labels
    ]
    axis = [_line((0.5, base + 8, 99.5, base + 8), "axis")]
    for power in range(0, int(top_power) + 1):
        x = place(10.0**power)
        axis.append(_line((x, base + 8, x, base + 14), "axis"))
        axis.append(_text(x, base + 27, f"{10**power} ms", class_="small", anchor="middle"))
    told = ", ".join(f"{short} {milliseconds:g} ms" for *_, short, milliseconds in labels[1:])
    return _picture(base + 32, f"{handover.move}, from the L2 event: {told}", axis, marks)


@dataclass(frozen=True, slots=True)
class Column:
    """Of a course: one commit."""

    name: str
    median: float | None
    worst: float | None
    """The 95th percentile."""


COURSE: Final = 90
"""Pixels of its height."""
SHORT_COMMIT: Final = 10
"""Characters of a commit's name in a picture."""
NAME_PLACES: Final = {0: (), 1: ((55.0, "middle"),), 2: ((12.0, "start"), (99.5, "end"))}
"""Where the names of the first and the last commit go, in percent, by how many there are."""


def course(title: str, columns: Sequence[Column]) -> Markup:
    """How median and 95th percentile of a phase went from commit to commit."""
    most = max((column.worst or 0.0 for column in columns), default=0.0) or 1.0
    step = 86.0 / max(1, len(columns) - 1)

    def place(index: int, value: float) -> tuple[float, float]:
        x = 12.0 + index * step if len(columns) > 1 else 55.0
        return x, 8 + COURSE * (1 - value / most)

    parts: list[Child] = [
        _line((12, 8 + COURSE, 99.5, 8 + COURSE), "axis"),
        _text(
            10.5, 14, f"{most:.0f}" if most >= 10 else f"{most:.1f}", class_="small", anchor="end"
        ),
        _text(10.5, 8 + COURSE, "0", class_="small", anchor="end"),
    ]
    ends = columns[:1] if len(columns) < 2 else (columns[0], columns[-1])
    for column, (x, anchor) in zip(ends, NAME_PLACES[len(ends)], strict=True):
        name = column.name[:SHORT_COMMIT]
        parts.append(_text(x, COURSE + 22, name, class_="small", anchor=anchor))
    for kind in ("worst", "median"):
        points = [
            (place(index, value), column.name, value)
            for index, column in enumerate(columns)
            if (value := getattr(column, kind)) is not None
        ]
        for (before, _, _), (after, _, _) in pairwise(points):
            parts.append(_line((*before, *after), f"course {kind}"))
        for (x, y), name, value in points:
            tip = element("title", f"{name}: {value:g} ms")
            parts.append(element("circle", tip, cx=_percent(x), cy=y, r=3.5, class_=kind))
    return _picture(COURSE + 26, f"{title}: median and 95th percentile by commit", parts)
