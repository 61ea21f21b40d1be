"""The home network gets another prefix while the mobile node roams, with real daemons."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address, IPv6Interface, IPv6Network

import pytest

from mnagent.control.client import Client
from mnagent.rig.host import Host, Process
from mnagent.rig.namespace import Namespace
from mnagent.rig.roaming import Roaming, RoamingSettings, Traffic
from mnagent.rig.topology import (
    CORRESPONDENT,
    HOME,
    HOME_ADDRESS,
    HOME_PREFIX,
    LINK_A,
    LINK_B,
)
from tests.support.requirement import requirement

NEW_PREFIX = IPv6Network("2001:db8:2::/64")
NEW_HOME_ADDRESS = IPv6Address("2001:db8:2::10")
NEW_PORT = 47011
OLD_LIFETIME = 25
"""Seconds the old prefix lasts from the last advertisement on."""
PREFIX = """\
    prefix {prefix} {{
        AdvOnLink on;
        AdvAutonomous on;
        AdvValidLifetime {valid};
        AdvPreferredLifetime {preferred};
    }};
"""
INTERFACE = """\
interface eth0 {{
    AdvSendAdvert on;
    MinRtrAdvInterval 3;
    MaxRtrAdvInterval 4;
    AdvDefaultLifetime 0;
{prefixes}
}};
"""


class HomeRouter:
    """A router on the home link that says what its prefixes are."""

    def __init__(self, roaming: Roaming) -> None:
        topology = roaming.topology
        namespace = topology.add_host("prefixer", HOME, IPv6Interface("2001:db8:1::fe/64"))
        namespace.sysctl(ipv6__conf__all__forwarding=1)
        topology["core"].ip(f"route add {NEW_PREFIX} via 2001:db8:f0::2")
        self._host = roaming.hosts["prefixer"] = Host(namespace, topology.directory)
        self._radvd: Process | None = None
        self._count = 0

    async def advertise(self, **lifetimes: tuple[int, int]) -> None:
        """Valid and preferred lifetimes, in seconds, of ``old`` and ``new``; one left out is not
        advertised any more."""
        prefixes = {"old": HOME_PREFIX, "new": NEW_PREFIX}
        text = "".join(
            PREFIX.format(prefix=prefixes[name], valid=valid, preferred=preferred)
            for name, (valid, preferred) in lifetimes.items()
        )
        if self._radvd is not None:
            await self._radvd.stop()
        self._count += 1
        path = self._host.directory / f"prefixer-{self._count}.conf"
        path.write_text(INTERFACE.format(prefixes=text))
        command = ("radvd", "-n", "-C", str(path), "-p", str(path.with_suffix(".pid")))
        self._radvd = await self._host.start(f"prefixer-{self._count}", command)


async def told(roaming: Roaming, name: str, home_address: IPv6Address, timeout: float) -> None:
    """Wait until the mobile node reports something of a home address."""
    await roaming.mobile_node.wait_for(
        name,
        after=0.0,
        timeout=timeout,
        matching=lambda event: event.details.get("home_address") == str(home_address),
    )


async def connect_to_new(roaming: Roaming) -> tuple[Process, Process]:
    """A connection that the correspondent opens to the new home address."""
    module = "mnagent.rig.traffic"
    server = await roaming.hosts["mobile"].start_module("new", module, "serve", str(NEW_PORT))
    await server.wait_for_kind("listening")
    client = await roaming.hosts["correspondent"].start_module(
        "new-peer", module, "connect", str(NEW_HOME_ADDRESS), str(NEW_PORT)
    )
    for process in (server, client):
        await process.wait_for_kind("connected", timeout=15)
    return server, client


async def carries_more(connection: tuple[Process, Process]) -> None:
    """Both ends receive something that they had not received yet."""
    for end in connection:
        received = end.of_kind("received")
        before = received[-1]["octets"] if received else 0
        await end.wait_for(
            lambda record, before=before: (  # type: ignore[misc]
                record["kind"] == "received" and record["octets"] > before
            ),
            timeout=10,
        )


@requirement("RFC6275-11.4.3", "MPD-05")
@pytest.mark.parametrize("payload_protection", ["none", "esp"])
def test_renumbering_while_roaming_keeps_connections_of_both_prefixes(
    payload_protection: str,
) -> None:
    async def scenario() -> None:
        settings = RoamingSettings(
            payload_protection=payload_protection,
            home_agent={
                "min_prefix_advertisement_interval": 1.0,
                "max_prefix_advertisement_interval": 3.0,
            },
        )
        async with Roaming(settings) as roaming:
            await tell_of_the_new_prefix(roaming)

    asyncio.run(scenario())


async def tell_of_the_new_prefix(roaming: Roaming) -> None:
    """From the old prefix alone to the new one alone."""
    router = HomeRouter(roaming)
    await roaming.home_agent.start()
    move = roaming.move(LINK_A)
    await roaming.mobile_node.start()
    await roaming.settled(move)
    old = await Traffic.start(roaming)

    await router.advertise(old=(OLD_LIFETIME, OLD_LIFETIME), new=(7200, 3600))
    await told(roaming, "home-address-formed", NEW_HOME_ADDRESS, 20)
    await told(roaming, "binding-accepted", NEW_HOME_ADDRESS, 20)
    new = await connect_to_new(roaming)

    await router.advertise(old=(OLD_LIFETIME, 0), new=(7200, 3600))
    await told(roaming, "home-address-deprecated", HOME_ADDRESS, 20)
    ping = await roaming.hosts["mobile"].start_module(
        "ping-new", "mnagent.rig.traffic", "ping", str(CORRESPONDENT)
    )
    await ping.wait_for_kind("reply", timeout=10)
    assert ping.of_kind("source")[0]["address"] == str(NEW_HOME_ADDRESS)

    move = roaming.move(LINK_B)
    await roaming.settled(move)
    await old.resumed(move.link_down_at, timeout=15)
    await carries_more(new)
    await old.finish()
    assert Traffic.survived(old.outgoing)
    assert Traffic.survived(old.incoming)

    await router.advertise(new=(7200, 3600))
    await told(roaming, "home-address-ended", HOME_ADDRESS, OLD_LIFETIME + 15)
    await carries_more(new)
    status = await roaming.mobile_node.status()
    homes = status["mobile_node"]["home_addresses"]
    assert [each["home_address"] for each in homes] == [str(NEW_HOME_ADDRESS)]
    mobile = roaming.topology["mobile"]
    assert str(HOME_ADDRESS) not in mobile.show("-6", "addr", "show")
    assert str(HOME_ADDRESS) not in mobile.show("-6", "rule", "show")
    move = roaming.move(LINK_A)
    await roaming.settled(move)
    await carries_more(new)
    new[1].end_input()
    for process in new:
        await process.wait(timeout=15)
    assert Traffic.survived(new)


async def formed_in(neighbour: Namespace, prefix: IPv6Network, options: str = "") -> None:
    """Wait until an ordinary host has an address there."""
    start = str(prefix.network_address).removesuffix("::")
    async with asyncio.timeout(20):
        while start not in neighbour.show("-6", "addr", "show", *options.split()):
            await asyncio.sleep(0.1)


def test_home_agent_that_advertises_by_itself_renumbers_by_a_reload() -> None:
    async def scenario() -> None:
        both = f'home_prefixes = ["{HOME_PREFIX}", "{NEW_PREFIX}"]'
        settings = RoamingSettings(
            home_agent={
                "advertise": True,
                "advertisement_interval": 4.0,
                "min_prefix_advertisement_interval": 1.0,
                "max_prefix_advertisement_interval": 3.0,
            },
        )
        async with Roaming(settings) as roaming:
            neighbour = roaming.topology.add_host(
                "neighbour", HOME, IPv6Interface("2001:db8:1::77/64")
            )
            neighbour.sysctl(ipv6__conf__eth0__autoconf=1)
            roaming.topology["core"].ip(f"route add {NEW_PREFIX} via 2001:db8:f0::2")
            await roaming.home_agent.start()
            move = roaming.move(LINK_A)
            await roaming.mobile_node.start()
            await roaming.settled(move)
            file = roaming.home_agent.configuration
            old = file.read_text()
            (line,) = [each for each in old.splitlines() if each.startswith("home_prefix ")]
            file.write_text(old.replace(line, both))
            assert await Client(roaming.home_agent.socket).reload() == ["home_agent.home_prefixes"]
            await told(roaming, "binding-accepted", NEW_HOME_ADDRESS, 20)
            await formed_in(neighbour, NEW_PREFIX)
            file.write_text(old)
            assert await Client(roaming.home_agent.socket).reload() == ["home_agent.home_prefixes"]
            await told(roaming, "home-address-deprecated", NEW_HOME_ADDRESS, 20)
            await formed_in(neighbour, NEW_PREFIX, "deprecated")
            assert len((await roaming.home_agent.status())["home_agent"]["bindings"]) == 2

    asyncio.run(scenario())
