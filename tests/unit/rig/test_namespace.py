"""Names of namespaces and their owners."""

from __future__ import annotations

import os

import pytest

from mnagent.rig.namespace import RigError, is_stale, run, start_time, unique_prefix


def test_unique_prefix_names_this_process_and_never_repeats() -> None:
    first, second = unique_prefix(), unique_prefix()
    assert first != second
    assert first.startswith(f"mnrig-{os.getpid()}-{start_time(os.getpid())}-")


def test_name_of_a_running_owner_is_not_stale() -> None:
    assert not is_stale(f"{unique_prefix()}-core")
    assert not is_stale(unique_prefix())


def test_name_of_a_dead_owner_is_stale() -> None:
    assert is_stale("mnrig-4194305-1-1-core")


def test_name_of_a_reused_pid_is_stale() -> None:
    assert is_stale(f"mnrig-{os.getpid()}-{start_time(os.getpid())}9-1-core")


@pytest.mark.parametrize("name", ["", "blue", "mnrig-core", "mnrig-1-core", "other-1-1-1-core"])
def test_name_of_somebody_else_is_not_stale(name: str) -> None:
    assert not is_stale(name)


def test_start_time_of_no_process_is_none() -> None:
    assert start_time(4194305) is None


def test_run_of_a_missing_tool_says_so() -> None:
    with pytest.raises(RigError, match="is not installed"):
        run("mnagent-no-such-tool")


def test_run_of_a_failing_tool_tells_what_it_said() -> None:
    with pytest.raises(RigError, match="failed to run ls"):
        run("ls", "/mnagent-no-such-folder")
