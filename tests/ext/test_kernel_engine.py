"""The in-kernel engine over real devices, beside the one in user space at the other end."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mnagent.datapath._kernel", reason="built without libbpf")

from mnagent.datapath import Changes, Tables, kernel_engine
from mnagent.datapath.kernel_engine import KernelEngine
from mnagent.system.datapath import Datapath
from tests.ext.kernel_topology import (
    OCTETS,
    MakeEngine,
    Node,
    direct_tables,
    kernel,
    kernel_by_filter,
    ping,
    transfer,
    tunnel_tables,
    two_ends,
    user_space,
)
from tests.ext.namespaces import Namespaces, entered

pytestmark = pytest.mark.root

MAKERS: dict[str, MakeEngine] = {
    "tcx": kernel,
    "clsact": kernel_by_filter,
    "user-space": user_space,
}
Ends = tuple[Namespaces, Node, Node]


def bad_checksums(one: Node) -> int:
    with entered(one.namespace):
        lines = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
        lines += Path("/proc/thread-self/net/netstat").read_text().splitlines()
    counts = dict(line.split()[:2] for line in lines if line.split()[0].endswith("CsumErrors"))
    return sum(int(value) for value in counts.values())


@pytest.fixture(
    params=[("tcx", "tcx"), ("tcx", "user-space"), ("user-space", "tcx"), ("clsact", "clsact")],
    ids="-and-".join,
)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    near, far = request.param
    with two_ends((MAKERS[near], MAKERS[far])) as made:
        yield made


def kernel_packets(one: Node) -> int:
    return one.engine.counters().get("kernel-packets", -1)


def carries_everything(near: Node, far: Node) -> None:
    assert ping(near, far)
    assert ping(far, near, size=1300)
    assert ping(near, far, size=3000)
    assert transfer(near, far) == OCTETS
    assert transfer(far, near) == OCTETS
    assert bad_checksums(near) == bad_checksums(far) == 0


def test_tunnel_carries_both_ways_in_the_kernel(ends: Ends) -> None:
    _, near, far = ends
    for one, tables in zip((near, far), tunnel_tables(near, far), strict=True):
        one.publish(tables)
    carries_everything(near, far)
    for one in (near, far):
        counters = one.engine.counters()
        assert counters["tunnelled"] > 20
        assert counters["decapsulated"] > 20
        if kernel_packets(one) >= 0:
            # Only fragments go through user space.
            assert counters["packets-outbound"] + counters["packets-inbound"] <= (
                kernel_packets(one) + 24
            )


@pytest.mark.parametrize("both_mobile", [False, True], ids=["one-mobile", "both-mobile"])
def test_direct_path_carries_both_ways_in_the_kernel(ends: Ends, both_mobile: bool) -> None:
    topology, near, far = ends
    if not both_mobile:
        far.care_of = far.own
        hook = "prerouting" if kernel_packets(far) >= 0 else "ingress"
        topology.keep_from_kernel(far.namespace, "eth0", far.own, hook=hook)
        topology.ip(near.namespace, f"route add {far.own}/128 dev eth0 table 99")
    for one, tables in zip(
        (near, far), direct_tables(near, far, both_mobile=both_mobile), strict=True
    ):
        one.publish(tables)
    carries_everything(near, far)
    for one in (near, far):
        counters = one.engine.counters()
        assert counters["sent-direct"] > 20
        assert counters["received-direct"] > 20
        if kernel_packets(one) >= 0:
            assert kernel_packets(one) > 40


def test_binding_the_kernel_has_no_room_for_is_served_in_user_space() -> None:
    def small(tun: int, wake: int, interface: int) -> Datapath:
        return KernelEngine(tun_fd=tun, wake_fd=wake, tunnel_interface=interface, room=2)

    with two_ends((kernel, small)) as (_, near, far):
        own, others = tunnel_tables(near, far)
        near.publish(own)
        (real,) = others.tunnels
        before = tuple(replace(real, home_address=real.home_address + 1 + at) for at in range(2))
        far.publish(Tables(tunnels=before, local_addresses=others.local_addresses))
        with entered(far.namespace):
            far.engine.change(Changes(tunnels=(real,)))
        assert isinstance(far.engine, KernelEngine)
        assert far.engine.status()["in_kernel"] == 2
        assert far.engine.status()["in_user_space"] == 1
        assert transfer(near, far) == transfer(far, near) == OCTETS
        assert kernel_packets(far) == 0
        # As soon as there is room again.
        with entered(far.namespace):
            far.engine.change(Changes(removed_tunnels=(before[0].home_address,)))
            far.engine.change(Changes(tunnels=(real,)))
        assert transfer(near, far) == OCTETS
        assert kernel_packets(far) > 0


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def alive_until(engine: KernelEngine) -> bytes:
    return engine._maps["settings"].lookup(bytes(4))[:8]


def test_kernel_is_told_of_life_though_no_descriptor_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> list[tuple[int, str]]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(kernel_engine, "SIGN_INTERVAL", 0.02)
    with two_ends((kernel, user_space)) as (_, near, _far):
        engine = near.engine
        assert isinstance(engine, KernelEngine)
        monkeypatch.setattr(socket, "if_nameindex", fail)
        before = alive_until(engine)
        wait_until(lambda: alive_until(engine) != before)
        assert "trouble" not in engine.status()


class FailingMap:
    """A map that the kernel does not let us write to for a while."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.failures = 0
        self.is_well = False

    def update(self, key: bytes, value: bytes) -> None:
        if not self.is_well:
            self.failures += 1
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        self._real.update(key, value)

    def lookup(self, key: bytes) -> bytes:
        return bytes(self._real.lookup(key))


def test_kernel_that_cannot_be_told_of_life_is_shown_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(kernel_engine, "SIGN_INTERVAL", 0.02)
    with two_ends((kernel, user_space)) as (_, near, _far):
        engine = near.engine
        assert isinstance(engine, KernelEngine)
        failing = engine._maps["settings"] = FailingMap(engine._maps["settings"])
        wait_until(lambda: failing.failures >= 3)
        assert engine.status()["trouble"] == "[Errno 12] Cannot allocate memory"
        before = alive_until(engine)
        failing.is_well = True
        wait_until(lambda: "trouble" not in engine.status())
        assert alive_until(engine) != before
    said = [each.message for each in caplog.records if "lives" in each.message]
    assert len(said) == 2, said


def test_super_packets_stay_whole_in_the_kernel() -> None:
    with two_ends((kernel, kernel)) as (_, near, far):
        for make in (
            lambda: tunnel_tables(near, far),
            lambda: direct_tables(near, far, both_mobile=True),
        ):
            for one, tables in zip((near, far), make(), strict=True):
                one.publish(tables)
            before = far.engine.counters()["packets-inbound"]
            assert transfer(near, far) == OCTETS
            packets = far.engine.counters()["packets-inbound"] - before
            assert packets < OCTETS / 1400 / 4


@pytest.mark.parametrize("offload", ["cut-by-kernel", "no-offload-at-all"])
@pytest.mark.parametrize("way", ["tunnel", "direct"])
def test_stream_arrives_whatever_the_link_cuts(offload: str, way: str) -> None:
    settings = {
        "cut-by-kernel": "tso off tx-udp-segmentation off",
        "no-offload-at-all": "tso off gso off tx off",
    }
    with two_ends((kernel, kernel)) as (_, near, far):
        for one in (near, far):
            command = ["ip", "netns", "exec", one.namespace, "ethtool", "-K", "eth0"]
            subprocess.run([*command, *settings[offload].split()], check=True, capture_output=True)
        made = tunnel_tables(near, far)
        if way == "direct":
            made = direct_tables(near, far, both_mobile=True)
        for one, tables in zip((near, far), made, strict=True):
            one.publish(tables)
        assert transfer(near, far) == OCTETS
        assert transfer(far, near) == OCTETS
        assert bad_checksums(near) == bad_checksums(far) == 0
        assert kernel_packets(near) > 20


def test_hold_begins_and_ends_without_loss() -> None:
    with two_ends((kernel, kernel)) as (_, near, far):
        tables = tunnel_tables(near, far)
        held, _ = tunnel_tables(near, far, hold=True)
        far.publish(tables[1])
        near.publish(held)
        assert not ping(near, far, options="-c 1")
        near.publish(tables[0])
        assert near.engine.counters()["held"] > 0
        assert ping(near, far)
        for wanted in itertools.islice(itertools.cycle((held, tables[0])), 20):
            near.publish(wanted)
        assert ping(near, far)
        assert near.engine.counters()["drop-hold-overflow"] == 0


def test_traffic_is_told_of(ends: Ends) -> None:
    _, near, far = ends
    for one, tables in zip((near, far), tunnel_tables(near, far), strict=True):
        one.publish(tables)
    assert transfer(near, far) == OCTETS
    seen = []
    for _ in range(50):
        seen += near.engine.take_traffic()
        if any(each.packets_out for each in seen) and any(each.packets_in for each in seen):
            break
    out = next(each for each in seen if each.packets_out)
    assert (out.local, out.peer, out.protocol) == (near.own, far.own, 6)
    assert out.destination_port == 6275
    assert not out.direct
    activity = near.engine.activity()[near.own]
    assert min(activity) > 20


def test_activity_goes_on_when_the_tunnel_changes(ends: Ends) -> None:
    _, near, far = ends
    there, back = tunnel_tables(near, far)
    near.publish(there)
    far.publish(back)
    assert transfer(near, far) == OCTETS
    before = near.engine.activity()[near.own]
    assert min(before) > 20
    moved = replace(there.tunnels[0], mtu=1400)
    near.engine.change(Changes(tunnels=(moved,)))
    after = near.engine.activity()[near.own]
    assert all(now >= then for now, then in zip(after, before, strict=True))


def test_close_leaves_nothing_behind() -> None:
    with two_ends((kernel, kernel_by_filter)) as (topology, near, far):
        near.publish(Tables())
        for one in (near, far):
            with entered(one.namespace):
                one.engine.close()
            for device in ("eth0", "mnagent0"):
                assert "clsact" not in topology.ip(one.namespace, f"link show {device}")
