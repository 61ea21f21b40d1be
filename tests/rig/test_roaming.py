"""A mobile node roams through real namespaces: the demo's story, shorter, in its variants."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from mnagent.rig.demo import Demo, DemoOptions, Narrator
from mnagent.rig.host import boottime
from mnagent.rig.library import Library
from mnagent.rig.namespace import NAMESPACE_DIRECTORY, RUN_DIRECTORY, Namespace, start_time
from mnagent.rig.report import Result
from mnagent.rig.roaming import Roaming, RoamingSettings, Traffic
from mnagent.rig.topology import CORRESPONDENT, HOME, HOME_ADDRESS, LINK_A, LINK_B
from tests.support.requirement import requirement

ROUND_TRIP = ("home", "link-a", "link-b", "home")


def tell(output: Path, **options: Any) -> Result:
    """The demo's story."""
    demo = Demo(DemoOptions(output=output, dwell=0.5, **options), Narrator())
    return asyncio.run(demo.run())


def failed(result: Result) -> list[str]:
    """The checks that did not hold."""
    return [f"{check.claim}: {check.detail}" for check in result.checks if not check.held]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """One demo, looked at by several tests."""
    output = tmp_path_factory.mktemp("demo")
    return tell(output, path=ROUND_TRIP[1:]), output


def tshark(output: Path, capture: str, *arguments: str) -> list[str]:
    """What tshark says of a capture, with the demo's keys."""
    return subprocess.run(
        ["tshark", "-r", str(output / f"{capture}.pcap"), *arguments],
        env={**os.environ, "WIRESHARK_CONFIG_DIR": str(output / "wireshark")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


@requirement("RFC6275-11.7.1", "MN-01", "MN-29")
def test_roaming_home_a_b_home_keeps_everything_alive(story: tuple[Result, Path]) -> None:
    result, _ = story
    assert failed(result) == []
    assert [handover.destination for handover in result.handovers] == list(ROUND_TRIP[1:])


@pytest.mark.usefixtures("tshark_is_there")
@pytest.mark.parametrize("link", [LINK_A, LINK_B])
def test_captures_with_the_keys_decrypt_to_binding_messages(
    story: tuple[Result, Path], link: str
) -> None:
    _, output = story
    updates = tshark(output, link, "-Y", "esp && mip6.mhtype == 5")
    acknowledgements = tshark(output, link, "-Y", "esp && mip6.mhtype == 6")
    assert updates
    assert acknowledgements


@pytest.mark.usefixtures("tshark_is_there")
@pytest.mark.parametrize("link", [HOME, LINK_A, LINK_B])
def test_captures_hold_no_malformed_frame_and_no_wrong_checksum(
    story: tuple[Result, Path], link: str
) -> None:
    _, output = story
    wrong = (
        "_ws.malformed || tcp.checksum.status == 0 || icmpv6.checksum.status == 0"
        " || udp.checksum.status == 0 || esp.icv_bad == 1"
    )
    assert tshark(output, link, "-Y", wrong) == []


@pytest.mark.usefixtures("tshark_is_there")
def test_captures_of_binding_messages_have_good_integrity_check_values(
    story: tuple[Result, Path],
) -> None:
    _, output = story
    assert tshark(output, LINK_A, "-Y", "mipv6 && esp.icv_good == 1")
    assert tshark(output, LINK_A, "-Y", "mipv6 && !(esp.icv_good == 1)") == []


@pytest.mark.usefixtures("tshark_is_there")
@pytest.mark.parametrize("link", [LINK_A, LINK_B])
def test_captures_of_binding_messages_have_good_checksums(
    story: tuple[Result, Path], link: str
) -> None:
    _, output = story
    # tshark does not judge this checksum: it decrypts, and the sum is done over what it shows.
    fields = ("esp.contained_data", "ipv6.src", "ipv6.dst", "ipv6.opt.mipv6.home_address")
    shown = [word for field in fields for word in ("-e", field)]
    lines = tshark(output, link, "-Y", "mipv6", "-T", "fields", *shown)
    assert lines
    for line in lines:
        message, source, destination, home_address = line.split("\t")
        # A Binding Acknowledgement's final destination is in its type 2 routing header, which
        # tshark shows as the destination already.
        source = home_address or source
        destination = destination if home_address else str(HOME_ADDRESS)
        assert ones_complement_sum(message, source, destination) == 0xFFFF


def ones_complement_sum(message: str, source: str, destination: str) -> int:
    """Over a Mobility Header and its pseudo-header (RFC 6275 section 6.1.1): 0xffff when right."""
    data = bytes.fromhex(message)
    pseudo = IPv6Address(source).packed + IPv6Address(destination).packed
    covered = pseudo + len(data).to_bytes(4, "big") + bytes([0, 0, 0, 135]) + data
    total = sum(int.from_bytes(covered[at : at + 2], "big") for at in range(0, len(covered), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.usefixtures("tshark_is_there")
def test_roaming_with_payload_under_esp_keeps_everything_alive(tmp_path: Path) -> None:
    result = tell(tmp_path, payload_protection="esp", path=(LINK_A, HOME))
    assert failed(result) == []
    assert tshark(tmp_path, LINK_A, "-Y", "esp && tcp")


def test_roaming_with_loss_keeps_connections_alive(tmp_path: Path) -> None:
    result = tell(tmp_path, loss=0.05, gap_limit=10.0, path=(LINK_A, LINK_B, HOME))
    assert failed(result) == []


def test_roaming_with_a_virtual_home_prefix_registers_and_carries_payload() -> None:
    async def scenario() -> None:
        async with Roaming(RoamingSettings(virtual_home=True)) as roaming:
            await roaming.home_agent.start()
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            await roaming.settled(move)
            mobile = roaming.hosts["mobile"]
            ping = await mobile.start_module(
                "ping", "mnagent.rig.traffic", "ping", str(CORRESPONDENT)
            )
            await ping.wait_for_kind("reply")
            assert ping.of_kind("source")[0]["address"] == str(HOME_ADDRESS)
            move = roaming.move(LINK_B)
            await roaming.settled(move)
            await ping.wait_for(
                lambda record: record["kind"] == "reply" and record["sent_at"] > move.link_up_at
            )

    asyncio.run(scenario())


MEGABYTE = 1024 * 1024
RESIDENT_LIMIT = 40 * MEGABYTE
"""What a mobile node's daemon may take after traffic."""


def test_mobile_node_away_after_traffic_is_small() -> None:
    async def scenario() -> int:
        async with Roaming() as roaming:
            await roaming.home_agent.start()
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            await roaming.settled(move)
            traffic = await Traffic.start(roaming)
            move = roaming.move(LINK_B)
            await roaming.settled(move)
            await traffic.resumed(move.link_down_at, timeout=10)
            await traffic.finish()
            status = await roaming.mobile_node.status()
            return resident(int(status["process"]))

    assert asyncio.run(scenario()) < RESIDENT_LIMIT


def resident(pid: int) -> int:
    """Octets of memory a process has, VmRSS."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def test_mobile_node_started_with_an_address_at_hand_registers_at_once(
    record_property: Callable[[str, object], None],
) -> None:
    async def scenario() -> None:
        settings = RoamingSettings(mobile_node={"autoconfiguration": "kernel"})
        async with Roaming(settings) as roaming:
            await roaming.home_agent.start()
            roaming.move(LINK_A)
            await roaming.address_configured()
            started_at = boottime()
            await roaming.mobile_node.start()
            event = await roaming.mobile_node.wait_for(
                "binding-update-sent", after=started_at, timeout=10
            )
            record_property("update_sent_after", round(event.at - started_at, 3))
            answer = await roaming.mobile_node.wait_for(
                "binding-accepted", after=started_at, timeout=10
            )
            assert answer.at > event.at

    asyncio.run(scenario())


def demo_command(output: Path, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "mnagent.rig.demo",
        "--output",
        str(output),
        "--results",
        str(output / "library"),
        *arguments,
    ]


def left_behind(pid: int, start: int | None) -> list[str]:
    """Names of a demo's namespaces and folders that are still there."""
    prefix = f"mnrig-{pid}-{start}-"
    return [
        entry.name
        for directory in (NAMESPACE_DIRECTORY, RUN_DIRECTORY)
        for entry in directory.iterdir()
        if entry.name.startswith(prefix)
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("line", ["Building", "Starting the home agent", "Moving"])
def test_demo_interrupted_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, line: str
) -> None:
    demo = subprocess.Popen(
        demo_command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    start = start_time(demo.pid)
    assert demo.stdout is not None
    for said in demo.stdout:
        if line in said:
            break
    demo.send_signal(number)
    _, complaint = demo.communicate(timeout=30)
    assert demo.returncode == 130, complaint
    assert left_behind(demo.pid, start) == []
    (entry,) = Library(tmp_path / "library").entries()
    assert entry.run is not None
    assert (entry.running, entry.run.succeeded, entry.run.error) == (False, False, "stopped")


def test_demo_killed_is_cleaned_up_by_cleanup(tmp_path: Path) -> None:
    demo = subprocess.Popen(demo_command(tmp_path), stdout=subprocess.PIPE, text=True)
    start = start_time(demo.pid)
    assert demo.stdout is not None
    for said in demo.stdout:
        if "Moving" in said:
            break
    demo.kill()
    demo.communicate()
    names = left_behind(demo.pid, start)
    assert names
    switch = next(Namespace(name) for name in names if name.endswith("-switch"))
    until = time.monotonic() + 5
    while switch.pids():
        assert time.monotonic() < until, "its processes outlive it"
        time.sleep(0.02)
    subprocess.run(demo_command(tmp_path, "--cleanup"), check=True, capture_output=True)
    assert left_behind(demo.pid, start) == []


def test_demo_writes_the_json_it_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    command = demo_command(tmp_path / "out", "--json", str(file), "--dwell", "0.5")
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    document = json.loads(file.read_text())
    assert document["tcp_survived"] is True
    assert document["incoming_tcp_survived"] is True
    assert [item["to"] for item in document["handovers"]] == ["link-a", "link-b", "link-a", "home"]
    assert all(item["gap_ms"] < 1000 for item in document["handovers"])
    assert document["ping_lost"] == sum(item["lost"] for item in document["handovers"])
