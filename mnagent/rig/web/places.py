"""What there is to run scenarios on: the places of a labgrid coordinator where one is named, else
this machine's own targets."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mnagent.rig

ENVIRONMENTS: Final = Path(mnagent.rig.__file__).parent / "env"
"""A labgrid environment for each kind of board."""
TIMEOUT: Final = 3.0
"""Seconds a coordinator may take to answer."""
FRESH: Final = 3.0
"""Seconds an answer is used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Somewhere a scenario can run."""

    name: str
    kind: str
    state: str
    mood: str
    """``good``, ``busy`` or ``bad``, for the colour beside the words."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Local:
    kind: str
    tools: tuple[str, ...]
    command: str


LOCAL: Final = {
    "namespaces": _Local(
        kind="network namespaces", tools=("ip", "radvd"), command="sudo mnagent demo"
    ),
    "wifi-machine": _Local(
        kind="virtual machine with simulated radios",
        tools=("qemu-system-x86_64",),
        command="mnagent rig wifi",
    ),
}


def local_places(running: Collection[str]) -> list[Place]:
    """This machine's own targets; ``running`` names those in use."""
    places = []
    for name, local in LOCAL.items():
        missing = [tool for tool in local.tools if shutil.which(tool) is None]
        state, mood = (f"needs {', '.join(missing)}", "bad") if missing else ("free", "good")
        if name in running:
            state, mood = "in use", "busy"
        place = Place(name=name, kind=local.kind, state=state, mood=mood, detail=local.command)
        places.append(place)
    for path in sorted(ENVIRONMENTS.glob("*.yaml")):
        if path.stem not in LOCAL:
            state, mood = ("in use", "busy") if path.stem in running else ("not in use", "good")
            kind, about = "board", _about(path)
            places.append(Place(name=path.stem, kind=kind, state=state, mood=mood, detail=about))
    return places


def _about(path: Path) -> str:
    """The first sentence of the comment an environment begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    text = " ".join(line.lstrip("# ") for line in lines[:count])
    return text.partition(". ")[0].rstrip(".")


class Places:
    """Asks for them, and uses an answer again for a moment."""

    def __init__(self, coordinator: str | None) -> None:
        """``coordinator``: ``HOST:PORT`` of a labgrid coordinator."""
        self._coordinator = coordinator
        self._asking = asyncio.Lock()
        self._known: tuple[list[Place], str] = ([], "")
        self._known_until = 0.0

    async def find(self, running: Collection[str]) -> tuple[list[Place], str]:
        """The places, and why there are none where something is wrong."""
        if self._coordinator is None:
            return await asyncio.to_thread(local_places, running), ""
        async with self._asking:
            if time.monotonic() >= self._known_until:
                self._known = await _ask(self._coordinator)
                self._known_until = time.monotonic() + FRESH
            return self._known


async def _ask(coordinator: str) -> tuple[list[Place], str]:
    try:
        # Only where a coordinator is named: both are large.
        import grpc
        from labgrid.remote.generated import labgrid_coordinator_pb2 as messages
        from labgrid.remote.generated import labgrid_coordinator_pb2_grpc as services
    except ModuleNotFoundError as error:
        return [], f"{error.name} is not installed: `pip install 'mnagent[rig]'` brings it"
    async with grpc.aio.insecure_channel(coordinator) as channel:
        request = services.CoordinatorStub(channel).GetPlaces
        try:
            answer = await request(messages.GetPlacesRequest(), timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return [], f"The coordinator {coordinator} does not answer: {error.code().name.lower()}"
    return sorted(map(_place, answer.places), key=lambda place: place.name), ""


def _place(told: Any) -> Place:
    """As the coordinator tells it."""
    if told.acquired:
        state, mood = f"taken by {told.acquired}", "busy"
    elif told.reservation:
        state, mood = f"reserved ({told.reservation})", "busy"
    else:
        state, mood = "free", "good"
    tags = [f"{name}={value}" for name, value in sorted(told.tags.items())]
    kinds = sorted({match.cls for match in told.matches})
    return Place(
        name=told.name,
        kind=", ".join(kinds) or "no resources",
        state=state,
        mood=mood,
        detail="; ".join(filter(None, (told.comment, ", ".join(tags)))),
    )
