"""The bench itself: what it builds, how exact it is, and that it goes away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mnagent.rig.advertising import start_radvd
from mnagent.rig.capture import read_capture
from mnagent.rig.host import Host, Process, boottime
from mnagent.rig.namespace import NAMESPACE_DIRECTORY, Namespace, remove_stale, unique_prefix
from mnagent.rig.topology import (
    ACCESS,
    CORRESPONDENT,
    FOREIGN_PREFIXES,
    LINK_A,
    MOBILE_INDEX,
    MOBILE_INTERFACE,
    Topology,
)
from tests.bench.carriers import CASES, is_installed

ROUTER_SOLICITATION = bytes([133, 0, 0, 0, 0, 0, 0, 0])
ROUTER_ADVERTISEMENT = 134
ALL_ROUTERS = "ff02::2"


@asynccontextmanager
async def wired(topology: Topology, impairment: dict[str, float]) -> AsyncIterator[Host]:
    """The wire to link A put in, and a host for further processes."""
    host = Host(topology["switch"], topology.directory)
    try:
        ends = topology.wires[LINK_A]
        wire = await host.start_module(
            "wire", "mnagent.rig.impairment", *ends, json.dumps(impairment)
        )
        await wire.wait_for_kind("ready")
        topology.join_wire(LINK_A)
        yield host
    finally:
        await host.stop()


async def pinged(topology: Topology, replies: int) -> Process:
    """A ping from router A to the correspondent, ended after so many replies."""
    host = Host(topology["router-a"], topology.directory)
    try:
        ping = await host.start_module("ping", "mnagent.rig.traffic", "ping", str(CORRESPONDENT))
        await ping.wait_for(lambda _: len(ping.of_kind("reply")) >= replies, timeout=30)
        ping.end_input()
        await ping.wait(timeout=5)
        return ping
    finally:
        await host.stop()


def test_wire_with_20_ms_adds_them_each_way_to_within_a_millisecond(topology: Topology) -> None:
    async def scenario() -> list[float]:
        async with wired(topology, {"delay": 0.02}):
            ping = await pinged(topology, 150)
            return [reply["at"] - reply["sent_at"] for reply in ping.of_kind("reply")]

    round_trips = asyncio.run(scenario())[10:]
    assert min(round_trips) >= 0.04
    assert statistics.median(round_trips) < 0.042


def test_wire_with_loss_loses_and_can_be_changed_while_running(topology: Topology) -> None:
    async def scenario() -> tuple[int, int]:
        async with wired(topology, {"loss": 1.0}) as host:
            wire = host.processes[0]
            wire.tell({"loss": 0.3})
            await wire.wait_for_kind("report")
            ping = await pinged(topology, 80)
            return len(ping.of_kind("sent")), len(ping.of_kind("reply"))

    sent, answered = asyncio.run(scenario())
    assert 0.2 < answered / sent < 0.8


def test_router_solicited_on_plugging_in_advertises_within_100_ms(topology: Topology) -> None:
    async def scenario() -> float:
        router = Host(topology["router-a"], topology.directory)
        try:
            await start_radvd(router, ACCESS, FOREIGN_PREFIXES[LINK_A])
            topology.plug(LINK_A)
            with topology["mobile"].inside():
                return solicit()
        finally:
            await router.stop()

    assert asyncio.run(scenario()) < 0.1


def solicit() -> float:
    """Seconds from a solicitation (from ::, as no address is ready yet) to the advertisement."""
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as listener:
        group = socket.inet_pton(socket.AF_INET6, "ff02::1") + struct.pack("=I", MOBILE_INDEX)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        listener.settimeout(5)
        while True:
            try:
                asked_at = boottime()
                listener.sendto(ROUTER_SOLICITATION, (ALL_ROUTERS, 0, 0, MOBILE_INDEX))
                break
            except OSError:
                # The link-local address is still tentative.
                time.sleep(0.01)
        while listener.recv(2048)[0] != ROUTER_ADVERTISEMENT:
            pass
        return boottime() - asked_at


def test_move_takes_the_carrier_and_gives_it_back(topology: Topology) -> None:
    mobile = topology["mobile"]

    def has_carrier() -> bool:
        return "LOWER_UP" in mobile.show("link", "show", MOBILE_INTERFACE)

    assert not has_carrier()
    topology.plug(LINK_A)
    assert has_carrier()
    topology.unplug()
    assert not has_carrier()
    topology.plug("link-b")
    assert has_carrier()
    assert topology.position == "link-b"


@pytest.mark.usefixtures("tshark_is_there")
def test_connection_with_loss_arrives_whole_and_captures_are_complete(
    topology: Topology, tmp_path: Path
) -> None:
    async def scenario() -> tuple[list[Process], Process, Path]:
        async with wired(topology, {"delay": 0.001, "loss": 0.02}) as host:
            file = tmp_path / "core.pcap"
            point = f"{topology['core'].name}:to-a:{file}"
            capture = await host.start_module("capture", "mnagent.rig.capture", point)
            await capture.wait_for_kind("ready")
            ends = await connection(topology)
            capture.end_input()
            await capture.wait(timeout=5)
            return ends, capture, file

    (server, client), capture, file = asyncio.run(scenario())
    assert client.of_kind("finished")[0]["sent"] == server.of_kind("finished")[0]["received"]
    assert server.of_kind("finished")[0]["sent"] == client.of_kind("finished")[0]["received"]
    finished = capture.of_kind("finished")[0]
    assert finished["dropped"] == 0
    assert finished["packets"] == len(list(read_capture(file)))
    assert wrong_frames(file) == []


async def connection(topology: Topology) -> list[Process]:
    """One connection from router A to the correspondent that carried some hundred kilobytes."""
    hosts = [Host(topology[role], topology.directory) for role in ("correspondent", "router-a")]
    try:
        module = "mnagent.rig.traffic"
        server = await hosts[0].start_module("server", module, "serve", "47001")
        await server.wait_for_kind("listening")
        client = await hosts[1].start_module(
            "client", module, "connect", str(CORRESPONDENT), "47001"
        )
        await client.wait_for(lambda record: record.get("octets", 0) > 50_000, timeout=30)
        client.end_input()
        assert await server.wait(timeout=10) == 0
        assert await client.wait(timeout=10) == 0
        return [server, client]
    finally:
        for host in hosts:
            await host.stop()


def wrong_frames(file: Path) -> list[str]:
    """The frames tshark finds malformed or with a wrong checksum."""
    wrong = "_ws.malformed || tcp.checksum.status == 0 || icmpv6.checksum.status == 0"
    command = ["tshark", "-r", str(file), "-o", "tcp.check_checksum:TRUE", "-Y", wrong]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_topology_removed_leaves_no_namespace_process_or_folder(topology: Topology) -> None:
    sleeper = subprocess.Popen(["ip", "netns", "exec", topology["core"].name, "sleep", "600"])
    while sleeper.pid not in topology["core"].pids():
        time.sleep(0.01)
    topology.remove()
    assert sleeper.wait(timeout=5) == -signal.SIGKILL
    assert not [path for path in NAMESPACE_DIRECTORY.iterdir() if topology.prefix in path.name]
    assert not topology.directory.exists()


OWNER = """
import sys
from mnagent.rig.namespace import Namespace, unique_prefix
print(Namespace.create(unique_prefix() + "-orphan").name, flush=True)
sys.stdin.read()
"""


def test_remove_stale_removes_the_rigs_of_dead_owners_only() -> None:
    mine = Namespace.create(f"{unique_prefix()}-mine")
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        orphan = Namespace(owner.stdout.readline().strip())
        remove_stale()
        assert orphan.exists
        os.kill(owner.pid, signal.SIGKILL)
        owner.communicate()
        remove_stale()
        assert not orphan.exists
        assert mine.exists
    finally:
        owner.kill()
        mine.remove()


def test_tunnel_bench_in_its_short_form_measures_every_case_and_traffic(tmp_path: Path) -> None:
    bench = Path(__file__).resolve().parents[1] / "bench/bench_tunnel.py"
    json_file, picture = tmp_path / "bench.json", tmp_path / "bench.svg"
    cases = tuple(case.name for case in CASES if is_installed(case))
    assert len(cases) >= 6
    command = [sys.executable, str(bench), "--short", "--json", str(json_file)]
    command += ["--picture", str(picture), *(f"--case={case}" for case in cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(json_file.read_text())
    assert tuple(report["results"]) == cases
    for measured in report["results"].values():
        assert len(measured) == 6
        for key, figures in measured.items():
            shown = "p50_microseconds" if key == "round-trip-up" else "packets_per_second"
            assert figures[shown] > 0
    judged = {target["what"].split(",")[0] for target in report["targets"]}
    assert {"tunnel round-trip-up", "esp-aes-gcm round-trip-up"} <= judged
    assert ("tunnel-kernel tcp-up" in judged) == ("tunnel-kernel" in cases)
    assert ("esp-aes-gcm tcp-up" in judged) == ("wireguard-go" in cases)
    assert len(ElementTree.parse(picture).findall(".//{*}rect")) == 1 + 6 * len(cases)
