"""What the in-kernel engine leaves in the kernel when its process is killed, and who tidies up."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

pytest.importorskip("mnagent.datapath._kernel", reason="built without libbpf")

from mnagent.datapath import NextHop, Tables
from mnagent.datapath.kernel_engine import KernelEngine
from mnagent.runtime.engines import pin_directory
from mnagent.runtime.tun import Device
from tests.ext.kernel_topology import (
    FAR,
    FAR_CARE_OF,
    HOME,
    NEAR_CARE_OF,
    OCTETS,
    TUNNEL_DEVICE,
    Node,
    kernel,
    node,
    ping,
    transfer,
    tunnel_tables,
)
from tests.ext.namespaces import Namespaces, entered
from tests.support import mounts

pytestmark = pytest.mark.root

fork = multiprocessing.get_context("fork")


@pytest.fixture
def bpf_file_system(tmp_path: Path) -> Iterator[Path]:
    with mounts.bpf_file_system(tmp_path) as where:
        yield where


def live(namespace: str, pins: Path, tables: Tables | None, pipe: Connection) -> None:
    """Body of a process with an engine, until it is killed or told to stop."""
    with entered(namespace):
        device = Device(TUNNEL_DEVICE, stays=True)
        subprocess.run(["ip", "link", "set", TUNNEL_DEVICE, "mtu", "1452", "up"], check=True)
        engine = KernelEngine(
            tun_fd=device.descriptor,
            wake_fd=os.eventfd(0),
            tunnel_interface=device.interface,
            pins=pin_directory(TUNNEL_DEVICE, pins),
        )
        engine.publish(tables or Tables())
        engine.attach(NEAR_INTERFACE)
        engine.start()
        pipe.send("ready")
        with contextlib.suppress(EOFError):
            pipe.recv()
        engine.close()
        pipe.send(engine.status())


NEAR_INTERFACE = 2
"""The first interface of a namespace beside the loopback."""


@dataclass
class Life:
    """One life of the near end's process."""

    process: BaseProcess
    pipe: Connection

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def stop(self) -> None:
        self.pipe.send("stop")
        self.pipe.recv()
        self.process.join()


def begin(namespace: str, pins: Path, tables: Tables | None) -> Life:
    ours, theirs = fork.Pipe()
    process = fork.Process(target=live, args=(namespace, pins, tables, theirs), daemon=True)
    process.start()
    theirs.close()
    assert ours.recv() == "ready"
    return Life(process, ours)


def pins_of(one: Node, file_system: Path) -> Path:
    """Others' daemons may use any BPF file system that they find mounted, this one too."""
    with entered(one.namespace):
        found = pin_directory(TUNNEL_DEVICE, file_system)
    assert found is not None
    return found


@pytest.fixture
def ends() -> Iterator[tuple[Node, Node]]:
    """A near end whose engine is to be made, and a far end that runs."""
    with contextlib.ExitStack() as stack:
        topology = stack.enter_context(Namespaces("killed"))
        near, far = topology.add("near"), topology.add("far")
        topology.link((near, "eth0"), (far, "eth0"))
        for namespace, care_of in ((near, NEAR_CARE_OF), (far, FAR_CARE_OF)):
            topology.ip(namespace, f"addr add {care_of}/64 dev eth0 nodad")
            topology.keep_from_kernel(namespace, "eth0", care_of, hook="prerouting")
        other = stack.enter_context(node(topology, far, near, (FAR, FAR_CARE_OF), kernel))
        assert topology.index(near, "eth0") == NEAR_INTERFACE
        with entered(near):
            Device(TUNNEL_DEVICE, stays=True).close()
            topology.ip(near, f"link set {TUNNEL_DEVICE} mtu 1452 up")
            topology.ip(near, f"addr add {HOME}/128 dev {TUNNEL_DEVICE} nodad")
        hop = NextHop(
            interface=NEAR_INTERFACE,
            source_mac=topology.link_layer_address(near, "eth0"),
            destination_mac=topology.link_layer_address(far, "eth0"),
        )
        topology.ip(near, f"route add {FAR}/128 dev {TUNNEL_DEVICE} src {HOME}")
        topology.ip(far, f"route add {HOME}/128 dev {TUNNEL_DEVICE} src {FAR}")
        yield Node(near, other.engine, HOME, NEAR_CARE_OF, hop, 0), other


def test_killed_engine_leaves_traffic_that_goes_on_until_the_next_adopts_it(
    ends: tuple[Node, Node], bpf_file_system: Path
) -> None:
    near, far = ends
    tables, others = tunnel_tables(near, far)
    far.publish(others)
    first = begin(near.namespace, bpf_file_system, tables)
    assert ping(near, far)
    moved: list[int] = []
    stream = threading.Thread(target=lambda: moved.append(transfer(near, far, octets=64 * OCTETS)))
    stream.start()
    first.kill()
    stream.join()
    assert moved == [64 * OCTETS]
    assert ping(far, near)
    # A run that knows nothing yet, as after a start, changes nothing yet.
    second = begin(near.namespace, bpf_file_system, None)
    assert transfer(near, far) == OCTETS
    second.stop()
    assert not ping(near, far, options="-c 1")
    assert not pins_of(near, bpf_file_system).exists()


def test_killed_engine_is_followed_by_one_with_other_tables(
    ends: tuple[Node, Node], bpf_file_system: Path
) -> None:
    near, far = ends
    tables, others = tunnel_tables(near, far)
    far.publish(others)
    begin(near.namespace, bpf_file_system, Tables(local_addresses=(HOME,))).kill()
    assert not ping(near, far, options="-c 1")
    second = begin(near.namespace, bpf_file_system, tables)
    assert ping(near, far)
    assert transfer(far, near) == OCTETS
    second.stop()
    assert not pins_of(near, bpf_file_system).exists()


def test_killed_engine_without_a_bpf_file_system_leaves_nothing(
    ends: tuple[Node, Node], tmp_path: Path
) -> None:
    near, far = ends
    tables, others = tunnel_tables(near, far)
    far.publish(others)
    # A plain directory is none: pinning fails, and the engine goes without.
    first = begin(near.namespace, tmp_path, tables)
    assert ping(near, far)
    first.kill()
    assert not ping(near, far, options="-c 1")
    assert not pins_of(near, tmp_path).exists()
