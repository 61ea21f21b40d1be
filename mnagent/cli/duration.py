"""Spans of time for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Such as ``2 h 5 min``: the two largest units that count."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for name, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])
