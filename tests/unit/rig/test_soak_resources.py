"""What is compared of kernels and memory, what the report says, and the clock of one process."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mnagent.rig.soak import clock, page, story
from mnagent.rig.soak.record import Broken, Done, Findings
from mnagent.rig.soak.resources import Kernel, Memory, Program, differences, look_at_program

NONE = frozenset[str]()
KERNEL = Kernel(
    addresses=frozenset({"eth0 2001:db8::1/64"}),
    routes=frozenset({"default via fe80::1"}),
    rules=NONE,
    links=NONE,
    proxies=NONE,
    tables=NONE,
    associations=NONE,
    neighbours=3,
)


def test_differences_of_the_same_kernel_are_none() -> None:
    assert differences(KERNEL, replace(KERNEL, neighbours=5)) == []


def test_differences_name_what_is_left_over_and_what_is_missing() -> None:
    after = replace(KERNEL, routes=frozenset({"unreachable default"}), neighbours=300)
    assert differences(KERNEL, after) == [
        "routes: unreachable default is left over",
        "routes: default via fe80::1 is missing",
        "neighbours: 3, now 300",
    ]


def program(memory: int, pid: int = 7) -> Program:
    return Program(pid=pid, descriptors=30, threads=3, memory=memory)


def test_growth_that_ends_after_the_warm_up_is_none() -> None:
    memory = Memory()
    for number in range(12):
        memory.add("agent", number * 10, program(20000 + 100 * min(number, 4)))
    growth = memory.growth("agent")
    assert growth is not None
    assert growth.kilobytes == 0
    assert growth.moves == 40


def test_growth_that_goes_on_is_found_in_the_longest_life() -> None:
    memory = Memory()
    memory.add("agent", 0, program(50000, pid=8))
    for number in range(12):
        memory.add("agent", number * 10, program(20000 + 100 * number))
    growth = memory.growth("agent")
    assert growth is not None
    assert growth.kilobytes == 400


def test_growth_of_a_short_life_is_not_judged() -> None:
    memory = Memory()
    memory.add("agent", 0, program(1))
    assert memory.growth("agent") is None
    assert memory.growth("another") is None


def test_look_at_program_counts_its_descriptors() -> None:
    before = look_at_program(os.getpid())
    with open("/dev/null"):
        assert look_at_program(os.getpid()).descriptors == before.descriptors + 1
    assert before.memory > 0


def findings() -> Findings:
    done = Done(
        stage="chaos",
        round=0,
        number=1,
        kind="both daemons killed in a handover",
        links=("home",),
        gap=0.25,
        packets=3,
    )
    return Findings(seed="abc", minutes=1.0, done=[done])


def test_report_of_a_clean_run_says_so() -> None:
    clean = findings()
    assert clean.held
    document = json.loads(page.as_json(clean))
    assert (document["held"], document["handovers"], document["kills"]) == (True, 1, 2)
    assert document["steps"][0]["gap_max_ms"] == 250
    assert "No invariant was violated." in page.as_page(clean)


def test_report_of_a_violation_names_it() -> None:
    bad = findings()
    bad.broken.append(
        Broken(invariant=story.MEMORY, stage="chaos", round=0, step="end", detail="9 < KB")
    )
    assert not bad.held
    broken = {
        each["invariant"]: each["broken"] for each in json.loads(page.as_json(bad))["invariants"]
    }
    assert broken[story.MEMORY] == 1
    assert "9 &lt; KB" in page.as_page(bad)


def test_report_of_a_run_that_did_nothing_is_no_success() -> None:
    empty = Findings(seed="abc", minutes=1.0)
    assert not empty.held
    assert "Nothing was tried." in page.as_page(empty)


READS = "import time; print(time.time(), time.time_ns() / 1e9, time.clock_gettime(0))"


def test_clock_of_a_process_can_be_displaced_alone(tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    clock.make_offset(offset)
    clock.step(offset, os.getpid(), 3600.0)
    code = f"from mnagent.rig.soak import clock; clock.displace({str(offset)!r}); {READS}"
    code = code.replace(repr(str(offset)), f"__import__('pathlib').Path({str(offset)!r})")
    before = time.time()
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    for text in out.split():
        assert before + 3600 <= float(text) <= time.time() + 3600


@contextlib.contextmanager
def wall_clock_timer() -> Iterator[int]:
    libc = ctypes.CDLL(None)
    descriptor = libc.timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_clock_step_rings_the_timers_on_the_wall_clock(tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    clock.make_offset(offset)
    with wall_clock_timer() as descriptor:
        with pytest.raises(BlockingIOError):
            os.read(descriptor, 8)
        assert clock.step(offset, os.getpid(), -3600.0) >= 1
        assert len(os.read(descriptor, 8)) == 8
