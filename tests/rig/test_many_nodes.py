"""A home agent of many mobile nodes: changed while it runs, killed, and back at once."""

from __future__ import annotations

import asyncio
import json
import os
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from mnagent.control.client import Client, ControlError
from mnagent.core.records import KeptRecord
from mnagent.ipsec.keys import generate_pair
from mnagent.rig.daemon import MNAGENT
from mnagent.rig.host import boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.namespace import run as run_program
from mnagent.rig.roaming import Roaming, RoamingSettings, Traffic
from mnagent.rig.topology import HOME_ADDRESS, HOME_AGENT
from mnagent.runtime.journal import Journal
from mnagent.runtime.loop import BootClock
from mnagent.runtime.process import boot_identifier
from tests.rig.test_faults import away, run
from tests.support.requirement import requirement

SETTINGS = RoamingSettings(impairment=Impairment(delay=0.005))
OTHERS = 999
MAX_OUTAGE = 1.0
"""Seconds of lost traffic after the home agent is up again."""


def serve(roaming: Roaming, number: int) -> IPv6Address:
    """Drop a mobile node's file, with keys of its own, into the home agent's directory."""
    address = IPv6Address(int(HOME_ADDRESS) + 0x1000 + number)
    directory = roaming.home_agent.configuration.parent / "nodes.d"
    directory.mkdir(exist_ok=True)
    _, keys = generate_pair(address, HOME_AGENT, random_bytes=os.urandom)
    path = directory / f"{number}.keys"
    path.write_text(keys)
    path.chmod(0o600)
    text = f'home_address = "{address}"\nkeys = "{path.name}"\n'
    (directory / f"node{number}.toml").write_text(text)
    return address


def keep_binding(journal: Journal, address: IPv6Address) -> None:
    """As if the home agent had bound it a minute ago."""
    number = int(address) & 0xFFFF
    care_of_address = f"2001:db8:a::{number:x}"
    journal.note(f"home-binding.{address}", f"{care_of_address} 7 600 540.000 60.000 -")


@requirement("RFC6275-10.3.1", "OPS-03")
def test_home_agent_of_a_thousand_bindings_killed_carries_packets_at_once() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            traffic = await Traffic.start(roaming)
            served = [serve(roaming, number) for number in range(OTHERS)]
            await roaming.home_agent.kill()
            journal = Journal(
                roaming.home_agent.state / "bindings.journal",
                BootClock(),
                boot_identifier=boot_identifier(),
            )
            kept: dict[str, KeptRecord] = dict(journal.open())
            assert list(kept) == [f"home-binding.{HOME_ADDRESS}"]
            for address in served:
                keep_binding(journal, address)
            journal.close()
            started_at = boottime()
            await roaming.home_agent.start()
            serving_at = boottime()
            # Pings, not streams: those wait for their own retransmission timers first.
            reply = await traffic.ping.wait_for(
                lambda record: record["kind"] == "reply" and record["sent_at"] >= serving_at,
                timeout=10.0,
            )
            outage = reply["sent_at"] - serving_at
            assert outage <= MAX_OUTAGE
            bindings = await asyncio.to_thread(all_bindings, roaming.home_agent.socket)
            assert {each["home_address"] for each in bindings} == {
                str(address) for address in (HOME_ADDRESS, *served)
            }
            print(
                f"{len(bindings)} bindings: control socket after {serving_at - started_at:.2f} s, "
                f"carried from {outage:.3f} s after that on"
            )
            await traffic.resumed(serving_at, timeout=20.0)
            await traffic.finish()
            assert Traffic.survived(traffic.outgoing)
            assert Traffic.survived(traffic.incoming)

    run(scenario)


def all_bindings(socket: Path) -> list[dict[str, Any]]:
    command = (*MNAGENT, "bindings", "list", "--json", "--socket", str(socket))
    return list(json.loads(run_program(*command))["bindings"])


async def bindings_of(roaming: Roaming) -> list[dict[str, Any]]:
    return list((await roaming.home_agent.status())["home_agent"]["bindings"])


def test_home_agent_reloads_under_traffic_without_losing_a_binding() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            traffic = await Traffic.start(roaming)
            client = Client(roaming.home_agent.socket)
            (before,) = await bindings_of(roaming)
            serve(roaming, 1)
            assert await client.reload() == [
                "home_agent.mobile_nodes",
                f"keys of {IPv6Address(int(HOME_ADDRESS) + 0x1001)}",
            ]
            assert await client.reload() == []
            (after,) = await bindings_of(roaming)
            assert after["sequence"] == before["sequence"]
            broken = roaming.home_agent.configuration.parent / "nodes.d" / "broken.toml"
            broken.write_text('home_address = "nowhere"\n')
            with pytest.raises(ControlError, match=r"broken\.toml"):
                await client.reload()
            broken.unlink()
            text = roaming.home_agent.configuration.read_text()
            roaming.home_agent.configuration.write_text(
                text.replace(f'address = "{HOME_AGENT}"', 'address = "2001:db8:1::9"', 1)
            )
            with pytest.raises(ControlError):
                await client.reload()
            roaming.home_agent.configuration.write_text(text)
            reloaded_at = boottime()
            await traffic.resumed(reloaded_at, timeout=5.0)
            assert len(await bindings_of(roaming)) == 1
            await traffic.finish()
            assert Traffic.survived(traffic.outgoing)
            assert Traffic.survived(traffic.incoming)

    run(scenario)


def test_binding_deleted_by_hand_is_told_to_the_mobile_node_and_comes_back() -> None:
    async def scenario() -> None:
        async with away() as roaming:
            deleted_at = boottime()
            await Client(roaming.home_agent.socket).delete_binding(str(HOME_ADDRESS))
            await roaming.mobile_node.wait_for("binding-revoked", after=deleted_at, timeout=2.0)
            await roaming.home_agent.wait_for("binding-removed", after=deleted_at, timeout=2.0)
            await roaming.mobile_node.wait_for("binding-accepted", after=deleted_at, timeout=12.0)

    run(scenario)
