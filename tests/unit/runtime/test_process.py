"""What the daemon does to itself, its clock and its timer."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import socket
from pathlib import Path

import pytest

from mnagent.runtime import process
from mnagent.runtime.loop import BootClock, BootTimer
from mnagent.runtime.process import (
    NEEDED_CAPABILITIES,
    PrivilegeError,
    ServiceManager,
    StateInUse,
    boot_identifier,
    effective_capabilities,
    lock,
    require_capabilities,
)

PR_GET_THP_DISABLE = 42


def test_small_pages_are_all_that_is_taken() -> None:
    child = os.fork()
    if child == 0:
        process.use_small_pages()
        os._exit(ctypes.CDLL(None).prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1


def test_lock_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = lock(path)
    with pytest.raises(StateInUse, match=f"process {os.getpid()}"):
        lock(path)
    os.close(descriptor)
    os.close(lock(path))


def test_service_manager_is_told_by_datagram(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        ServiceManager({"NOTIFY_SOCKET": path}).notify("READY=1")
        assert receiver.recv(100) == b"READY=1"


def test_service_manager_may_have_an_abstract_address() -> None:
    name = f"mnagent-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        ServiceManager({"NOTIFY_SOCKET": "@" + name}).notify("STOPPING=1")
        assert receiver.recv(100) == b"STOPPING=1"


def test_service_manager_that_is_absent_or_gone_is_no_error(tmp_path: Path) -> None:
    ServiceManager({}).notify("READY=1")
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nothing")}).notify("READY=1")


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_watchdog_is_fed_twice_an_interval(
    environment: dict[str, str], interval: float | None
) -> None:
    assert ServiceManager(environment).watchdog_interval == interval


def test_capabilities_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnagent.runtime.process.effective_capabilities", lambda: 0)
    with pytest.raises(PrivilegeError, match="CAP_NET_ADMIN and CAP_NET_RAW"):
        require_capabilities()
    monkeypatch.setattr(
        "mnagent.runtime.process.effective_capabilities", lambda: NEEDED_CAPABILITIES
    )
    require_capabilities()


def test_process_facts_can_be_read() -> None:
    assert effective_capabilities() >= 0
    assert len(boot_identifier()) == 36


def test_boot_timer_fires_once_at_its_deadline() -> None:
    async def scenario() -> list[float]:
        fired: list[float] = []
        done = asyncio.Event()
        clock = BootClock()
        loop = asyncio.get_running_loop()

        def note() -> None:
            fired.append(clock.now())
            done.set()

        timer = BootTimer(loop, note)
        deadline = clock.now() + 0.01
        timer.arm(deadline)
        timer.arm(deadline)
        await asyncio.wait_for(done.wait(), 5)
        timer.close()
        return [at - deadline for at in fired]

    (late,) = asyncio.run(scenario())
    assert late >= 0


def test_boot_timer_with_a_deadline_in_the_past_fires_at_once() -> None:
    async def scenario() -> None:
        done = asyncio.Event()
        timer = BootTimer(asyncio.get_running_loop(), done.set)
        timer.arm(0.0)
        await asyncio.wait_for(done.wait(), 5)
        timer.arm(BootClock().now() + 1000)
        timer.arm(None)
        timer.close()

    asyncio.run(scenario())


def test_priority_is_asked_for_and_a_refusal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuse(which: int, who: int, priority: int) -> None:
        asked.append(priority)
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    process.be_prompt()
    assert asked == [process.PRIORITY]


def test_memory_of_the_start_is_left_alone_by_the_collector() -> None:
    try:
        process.postpone_collection()
        assert not gc.isenabled()
        process.settle_memory()
        assert gc.get_freeze_count() > 0
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.enable()


def test_memory_is_settled_with_a_c_library_that_cannot_trim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    try:
        process.settle_memory()
    finally:
        gc.unfreeze()
