"""Choosing the engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mnagent.config import EngineChoice, load
from mnagent.runtime import engines
from mnagent.runtime.engines import (
    SERVER,
    EngineSizes,
    NoKernelEngine,
    choose_engine,
    find_bpf_file_system,
    sizes_for,
)

MOBILE_NODE = """
role = "mobile-node"
[mobile_node]
home_address = "2001:db8:0:1::1"
home_agent = "2001:db8:0:1::2"
interfaces = ["wlan0"]
keys = "keys.toml"
"""
ENCRYPTED = MOBILE_NODE + 'payload_protection = "esp"\n'
SIZES = EngineSizes(frames_in_user_space=64, frames_with_kernel=32, room=16)


class PlainEngine:
    """Stands for the one in user space."""

    def __init__(self, *, tun_fd: int, wake_fd: int, ring_frames: int) -> None:
        self.tun_fd = tun_fd
        self.ring_frames = ring_frames


def choose(choice: EngineChoice) -> engines.ChosenEngine:
    return choose_engine(choice, tun=3, wake=4, name="mnagent0", interface=7, sizes=SIZES)


@pytest.fixture(autouse=True)
def no_kernel_help(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**arguments: object) -> engines.ChosenEngine:
        raise OSError(1, "failed to load the in-kernel engine: Operation not permitted")

    monkeypatch.setattr(engines, "Engine", PlainEngine)
    monkeypatch.setattr(engines, "_with_kernel", refuse)
    monkeypatch.setattr(engines, "find_bpf_file_system", lambda: tmp_path)


def test_engine_auto_without_the_kernels_help_is_in_user_space_and_says_why() -> None:
    chosen = choose(EngineChoice.AUTO)
    assert not chosen.in_kernel
    assert chosen.status()["kind"] == "userspace"
    assert "Operation not permitted" in chosen.status()["reason"]


def test_engine_in_user_space_has_the_ring_it_was_told() -> None:
    engine = choose(EngineChoice.USERSPACE).datapath
    assert isinstance(engine, PlainEngine)
    assert engine.ring_frames == SIZES.frames_in_user_space


@pytest.mark.parametrize(
    ("lines", "sizes"),
    [
        (MOBILE_NODE, engines.MOBILE_NODE),
        (
            MOBILE_NODE + 'payload_protection = "esp"\n',
            replace(engines.MOBILE_NODE, frames_with_kernel=512),
        ),
        ('role = "correspondent"\n', SERVER),
    ],
    ids=["mobile-node", "encrypted", "correspondent"],
)
def test_sizes_follow_the_role_and_what_the_kernel_leaves(
    tmp_path: Path, lines: str, sizes: EngineSizes
) -> None:
    file = tmp_path / "mnagent.toml"
    file.write_text(lines)
    assert sizes_for(load(file)) == sizes


def test_engine_userspace_does_not_even_ask_the_kernel() -> None:
    assert choose(EngineChoice.USERSPACE).status() == {"kind": "userspace"}


@pytest.mark.parametrize("choice", [EngineChoice.AUTO, EngineChoice.USERSPACE])
def test_engine_in_user_space_removes_what_a_killed_run_left_in_the_kernel(
    tmp_path: Path, choice: EngineChoice
) -> None:
    left = engines.pin_directory("mnagent0", tmp_path)
    assert left is not None
    left.mkdir()
    (left / "link-2-ingress").touch()
    other = tmp_path / "mnagent-1-other"
    other.mkdir()
    choose(choice)
    assert list(tmp_path.iterdir()) == [other]


def test_engine_kernel_without_its_help_is_refused_with_a_remedy() -> None:
    with pytest.raises(NoKernelEngine, match=r"not permitted.*host\.engine"):
        choose(EngineChoice.KERNEL)


def test_engine_that_is_not_built_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(**arguments: object) -> engines.ChosenEngine:
        raise ImportError("No module named '_kernel'")

    monkeypatch.setattr(engines, "_with_kernel", lack)
    with pytest.raises(NoKernelEngine, match="libbpf-dev"):
        choose(EngineChoice.KERNEL)


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        ("none /tmp/b bpf rw,x 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n", "/sys/fs/bpf"),
        ("none /tmp/b bpf rw 0 0\nproc /proc proc rw 0 0\n", "/tmp/b"),
        ("bpf /sys/fs/bpf bpf ro 0 0\n", None),
    ],
    ids=["usual", "elsewhere", "read-only"],
)
def test_bpf_file_system_is_found_where_it_is(
    tmp_path: Path, mounts: str, found: str | None
) -> None:
    table = tmp_path / "mounts"
    table.write_text(mounts)
    where = find_bpf_file_system(table)
    assert (None if where is None else str(where)) == found
