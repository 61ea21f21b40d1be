"""What there is to run scenarios on: this machine's own targets, or the places of a labgrid
coordinator."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Somewhere a scenario can run."""

    name: str
    kind: str
    state: str
    mood: str
    """``good``, ``busy`` or ``bad``, for the colour beside the words."""
    detail: str = ""


LOCAL = {
    "namespaces": ("network namespaces", ("ip", "radvd"), True, "mnagent demo"),
    "wifi-machine": (
        "virtual machine with simulated radios",
        ("qemu-system-x86_64",),
        False,
        "mnagent rig wifi",
    ),
}
"""By target: what it is, the tools it needs, whether it needs root, and the command."""


def local_places(running: Collection[str]) -> list[Place]:
    """This machine's own targets; ``running`` names those in use."""
    places = []
    for name, (kind, tools, needs_root, command) in LOCAL.items():
        missing = [tool for tool in tools if shutil.which(tool) is None]
        words = f"{command}, as root" if needs_root and os.geteuid() else command
        if name in running:
            state, mood = "in use", "busy"
        elif missing:
            state, mood = f"needs {', '.join(missing)}", "bad"
        else:
            state, mood = "free", "good"
        places.append(Place(name=name, kind=kind, state=state, mood=mood, detail=words))
    return places
