"""What a node holds of its kernel, and a daemon of memory: looked at from outside, compared."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

from mnagent.rig.namespace import Namespace, run

NEIGHBOUR_ALLOWANCE = 32
"""Neighbours a kernel may remember more than before: routers and peers of other links."""
WARM_UP = 1 / 3
"""Share of a run after which memory has to be flat: histories and caches of fixed size fill."""
PASSING = re.compile(
    r" (expires \d+sec|hoplimit \d+|pref \w+|error -?\d+|proto \w+|mtu( lock)? \d+)"
)
"""What changes from one look to the next in a route that stays the same; the MTU follows the
path's, which a kernel remembers for ten minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What a namespace's kernel holds."""

    addresses: frozenset[str]
    routes: frozenset[str]
    rules: frozenset[str]
    links: frozenset[str]
    proxies: frozenset[str]
    """Addresses answered for on the home link."""
    tables: frozenset[str]
    """Of nftables."""
    associations: frozenset[str]
    """Of the kernel's IPsec."""
    neighbours: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What a daemon holds."""

    pid: int
    descriptors: int
    threads: int
    memory: int
    """Kilobytes resident that are its own: pages of files come and go."""


def look_into_kernel(namespace: Namespace) -> Kernel:
    """Look. Raises RigError."""
    shown = json.loads(namespace.show("-json", "-6", "addr", "show"))
    lines = {
        "routes": namespace.show("-6", "route", "show", "table", "all"),
        "rules": namespace.show("-6", "rule", "show"),
        "proxies": namespace.show("-6", "neigh", "show", "proxy"),
        "tables": run("ip", "netns", "exec", namespace.name, "nft", "list", "tables"),
        "associations": namespace.show("xfrm", "state"),
    }
    kept = {name: _lines(text) for name, text in lines.items()}
    links = json.loads(namespace.show("-json", "link", "show"))
    return Kernel(
        addresses=frozenset(
            f"{link['ifname']} {address['local']}/{address['prefixlen']}"
            for link in shown
            for address in link.get("addr_info", ())
        ),
        links=frozenset(link["ifname"] for link in links),
        neighbours=len(namespace.show("-6", "neigh", "show").splitlines()),
        **kept,
    )


def _lines(text: str) -> frozenset[str]:
    # Multicast routes come with an interface's first group and need no looking after.
    return frozenset(
        PASSING.sub("", line).strip() for line in text.splitlines() if "ff00::/8" not in line
    )


def look_at_program(pid: int) -> Program:
    """Look. Raises OSError when it has ended."""
    proc = Path("/proc", str(pid))
    status = dict(
        line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
    )
    return Program(
        pid=pid,
        descriptors=len(list((proc / "fd").iterdir())),
        threads=int(status["Threads"]),
        memory=int(status["RssAnon"].split()[0]),
    )


def differences(before: Kernel, after: Kernel) -> list[str]:
    """What is there that was not, and what is gone."""
    found = []
    for item in fields(Kernel):
        old, new = getattr(before, item.name), getattr(after, item.name)
        if isinstance(old, int):
            if new > old + NEIGHBOUR_ALLOWANCE:
                found.append(f"{item.name}: {old}, now {new}")
            continue
        found += [f"{item.name}: {text} is left over" for text in sorted(new - old)]
        found += [f"{item.name}: {text} is missing" for text in sorted(old - new)]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Of one life of a daemon, after its warm-up."""

    samples: int
    moves: int
    """Handovers between the halves that are compared."""
    kilobytes: int
    """Of the later half over the earlier one, medians."""


class Memory:
    """Samples of daemons over their lives."""

    def __init__(self) -> None:
        self._samples: defaultdict[tuple[str, int], list[tuple[int, Program]]] = defaultdict(list)

    def add(self, name: str, moves: int, program: Program) -> None:
        """One look at a daemon, after so many handovers."""
        self._samples[name, program.pid].append((moves, program))

    def lives(self) -> dict[str, list[tuple[int, Program]]]:
        """The longest life of each daemon."""
        longest: dict[str, list[tuple[int, Program]]] = {}
        for (name, _), samples in self._samples.items():
            if len(samples) > len(longest.get(name, ())):
                longest[name] = samples
        return longest

    def growth(self, name: str) -> Growth | None:
        """Of a daemon's longest life; None when that was too short to tell."""
        samples = self.lives().get(name, [])
        settled = samples[int(len(samples) * WARM_UP) :]
        if len(settled) < 4:
            return None
        half = len(settled) // 2
        earlier, later = settled[:half], settled[-half:]
        return Growth(
            samples=len(settled),
            moves=round(median(moves for moves, _ in later) - median(m for m, _ in earlier)),
            kilobytes=round(_memory(later) - _memory(earlier)),
        )


def _memory(samples: Sequence[tuple[int, Program]]) -> float:
    return median(program.memory for _, program in samples)
