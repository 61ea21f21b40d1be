"""A bar chart as SVG, without any library."""

from __future__ import annotations

from html import escape

COLOURS = ("#4878a8", "#e49444", "#6a9f58", "#b07aa1", "#85b6b2", "#a87c5f", "#b8b0ac")
LEFT, WIDTH, BAR, GAP = 140, 560, 14, 18


def bar_chart(title: str, groups: dict[str, dict[str, float]]) -> str:
    """``groups`` are traffic -> case -> figure; every group has a scale of its own."""
    lines, top = [_text(10, 22, title, size=15)], 44
    cases = list(dict.fromkeys(case for bars in groups.values() for case in bars))
    for group, bars in groups.items():
        lines.append(_text(10, top + BAR - 3, group, size=13))
        top += BAR + 4
        most = max(bars.values(), default=0.0) or 1.0
        for case, value in bars.items():
            length = max(1.0, value / most * WIDTH)
            colour = COLOURS[cases.index(case) % len(COLOURS)]
            lines.append(_text(LEFT - 6, top + BAR - 3, case, anchor="end"))
            lines.append(
                f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>'
            )
            lines.append(_text(LEFT + length + 5, top + BAR - 3, f"{value:,.0f}"))
            top += BAR + 3
        top += GAP
    size = f'width="{LEFT + WIDTH + 90}" height="{top}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
            '<rect width="100%" height="100%" fill="white"/>',
            *lines,
            "</svg>\n",
        )
    )


def _text(x: float, y: float, text: str, *, size: int = 11, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(text)}</text>"
