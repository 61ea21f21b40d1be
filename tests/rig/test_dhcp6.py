"""A mobile node on a link whose addresses come from DHCPv6: Kea, dnsmasq and ISC dhcpd serve it."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Interface

import pytest

from mnagent.rig.advertising import RadvdTiming
from mnagent.rig.daemon import DaemonEvent
from mnagent.rig.dhcp_servers import SERVERS, Pool, log_of, start_dhcp_server
from mnagent.rig.host import Host, boottime
from mnagent.rig.roaming import Roaming, RoamingSettings
from mnagent.rig.topology import ACCESS, FOREIGN_PREFIXES, LINK_A, LINK_B, MOBILE_INTERFACE
from tests.support.requirement import requirement

PREFIX = FOREIGN_PREFIXES[LINK_A]
POOL = Pool(
    prefix=PREFIX,
    first=IPv6Address("2001:db8:a::1000"),
    last=IPv6Address("2001:db8:a::1001"),
)
POOL_B = Pool(
    prefix=FOREIGN_PREFIXES[LINK_B],
    first=IPv6Address("2001:db8:b::1000"),
    last=IPv6Address("2001:db8:b::1fff"),
)
LEASED = {POOL.first, POOL.last}

RAPID_LIMIT = 0.9
"""Seconds from carrier to registration: without rapid commit a client waits a second for offers."""
DNSMASQ_RENEWAL = 65.0
"""Seconds: half of the shortest lifetime dnsmasq knows, and a little."""

DROPS = {
    "drop-malformed",
    "drop-wrong-transaction",
    "drop-wrong-identifier",
    "drop-wrong-lifetimes",
    "drop-no-addresses-available",
    "drop-server-refused",
}
"""What a good server never makes the client count."""
WORDS = {
    "kea": {
        "renew": "DHCP6_LEASE_RENEW",
        "rebind": "REBIND (type 6) received",
        "decline": "DHCP6_DECLINE_LEASE",
        "release": "DHCP6_RELEASE_NA",
    },
    "dnsmasq": {"renew": "DHCPRENEW", "decline": "DHCPDECLINE", "release": "DHCPRELEASE"},
    "dhcpd": {
        "renew": "Renew message from",
        "decline": "Decline message from",
        "release": "Release message from",
    },
}
"""What each server writes of a message it got."""


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each server in turn."""
    name = str(request.param)
    if shutil.which(SERVERS[name].program) is None:
        pytest.skip(f"needs {SERVERS[name].program}")
    yield name


@asynccontextmanager
async def managed_links(**mobile_node: str) -> AsyncIterator[Roaming]:
    """The rig, its foreign links without stateless addresses, the home agent running."""
    settings = RoamingSettings(advertising=RadvdTiming(managed=True), mobile_node=mobile_node)
    async with Roaming(settings) as roaming:
        await roaming.home_agent.start()
        yield roaming


async def registered(roaming: Roaming, after: float, timeout: float = 15.0) -> DaemonEvent:
    """The next registration."""
    return await roaming.mobile_node.wait_for("binding-accepted", after=after, timeout=timeout)


async def heard(
    host: Host, server: str, message: str, *, timeout: float = 10.0, since: int = 0
) -> None:
    """Wait until a server tells of a message, after so many characters of its log."""
    word = WORDS[server][message]
    try:
        async with asyncio.timeout(timeout):
            while word not in log_of(host, server)[since:]:
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"no {message}: {log_of(host, server)[-3000:]}") from None


def addresses_of(roaming: Roaming) -> str:
    """What the mobile node's kernel has."""
    show = ("-6", "addr", "show", "dev", MOBILE_INTERFACE, "scope", "global")
    return roaming.topology["mobile"].show(*show)


@requirement("RFC6275-11.5.3", "MOV-09")
def test_mobile_node_registers_renews_and_releases_a_leased_address(server: str) -> None:
    async def scenario() -> None:
        async with managed_links() as roaming:
            router = roaming.hosts["router-a"]
            await start_dhcp_server(router, server, ACCESS, POOL)
            await roaming.mobile_node.start()
            move = roaming.move(LINK_A)
            event = await registered(roaming, move.link_up_at)
            care_of_address = IPv6Address(event.details["care_of_address"])
            assert care_of_address in LEASED
            assert f"{care_of_address}/128" in addresses_of(roaming)
            patience = DNSMASQ_RENEWAL if server == "dnsmasq" else 10.0
            await heard(router, server, "renew", timeout=patience)
            counters = (await roaming.mobile_node.status())["counters"]
            assert counters.keys().isdisjoint(DROPS)
            await roaming.mobile_node.stop()
            await heard(router, server, "release")
            assert str(care_of_address) not in addresses_of(roaming)

    asyncio.run(scenario())


def test_mobile_node_with_rapid_commit_registers_without_waiting_for_offers(server: str) -> None:
    async def scenario() -> float:
        async with managed_links() as roaming:
            await start_dhcp_server(roaming.hosts["router-a"], server, ACCESS, POOL)
            await start_dhcp_server(roaming.hosts["router-b"], server, ACCESS, POOL_B)
            await roaming.mobile_node.start()
            for link in (LINK_A, LINK_B):
                move = roaming.move(link)
                at = await roaming.settled(move)
            return at - move.link_up_at

    assert asyncio.run(scenario()) < RAPID_LIMIT


@pytest.mark.parametrize("name", ["kea", "dhcpd"])
def test_mobile_node_without_rapid_commit_registers_by_the_longer_exchange(name: str) -> None:
    if shutil.which(SERVERS[name].program) is None:
        pytest.skip(f"needs {SERVERS[name].program}")

    async def scenario() -> None:
        async with managed_links() as roaming:
            pool = replace(POOL, rapid_commit=False)
            await start_dhcp_server(roaming.hosts["router-a"], name, ACCESS, pool)
            await roaming.mobile_node.start()
            move = roaming.move(LINK_A)
            event = await registered(roaming, move.link_up_at)
            assert IPv6Address(event.details["care_of_address"]) in LEASED

    asyncio.run(scenario())


@requirement("RFC6275-11.5.3", "MOV-10")
def test_mobile_node_declines_a_duplicate_and_takes_another_address(server: str) -> None:
    async def scenario() -> None:
        async with managed_links() as roaming:
            router = roaming.hosts["router-a"]
            await start_dhcp_server(router, server, ACCESS, POOL)
            await roaming.mobile_node.start()
            move = roaming.move(LINK_A)
            event = await registered(roaming, move.link_up_at)
            taken = IPv6Address(event.details["care_of_address"])
            # The server offers it again after the crash, but somebody has taken it meanwhile.
            await roaming.mobile_node.kill()
            roaming.topology.add_host("stranger", LINK_A, IPv6Interface(f"{taken}/64"))
            restarted_at = boottime()
            await roaming.mobile_node.start()
            await roaming.mobile_node.wait_for("duplicate-address", after=restarted_at, timeout=10)
            await heard(router, server, "decline")
            (other,) = LEASED - {taken}
            await roaming.mobile_node.wait_for(
                "binding-accepted",
                after=restarted_at,
                timeout=15,
                matching=lambda e: IPv6Address(e.details["care_of_address"]) == other,
            )
            assert str(taken) not in addresses_of(roaming)

    asyncio.run(scenario())


def test_mobile_node_after_a_short_loss_of_carrier_keeps_its_lease(server: str) -> None:
    async def scenario() -> None:
        async with managed_links() as roaming:
            await start_dhcp_server(roaming.hosts["router-a"], server, ACCESS, POOL)
            await roaming.mobile_node.start()
            first = await registered(roaming, roaming.move(LINK_A).link_up_at)
            second = await registered(roaming, roaming.move(LINK_A).link_up_at)
            assert first.details["care_of_address"] == second.details["care_of_address"]

    asyncio.run(scenario())


RECORDED = 11.0
"""Seconds until the record of a new lease is on disk."""


def test_mobile_node_after_a_crash_keeps_its_lease_and_renews_it(server: str) -> None:
    async def scenario() -> None:
        async with managed_links() as roaming:
            router = roaming.hosts["router-a"]
            pool = replace(POOL, renew_after=40, preferred_lifetime=100, valid_lifetime=200)
            await start_dhcp_server(router, server, ACCESS, pool)
            await roaming.mobile_node.start()
            first = await registered(roaming, roaming.move(LINK_A).link_up_at)
            await asyncio.sleep(RECORDED)
            await roaming.mobile_node.kill()
            written, restarted_at = len(log_of(router, server)), boottime()
            await roaming.mobile_node.start()
            second = await registered(roaming, restarted_at)
            assert first.details["care_of_address"] == second.details["care_of_address"]
            await heard(router, server, "renew", since=written)
            counters = (await roaming.mobile_node.status())["counters"]
            assert counters.keys().isdisjoint(DROPS)

    asyncio.run(scenario())


def test_mobile_node_rebinds_a_lease_whose_server_was_away() -> None:
    if shutil.which(SERVERS["kea"].program) is None:
        pytest.skip("needs kea-dhcp6")

    async def scenario() -> None:
        async with managed_links() as roaming:
            router = roaming.hosts["router-a"]
            process = await start_dhcp_server(router, "kea", ACCESS, POOL)
            await roaming.mobile_node.start()
            first = await registered(roaming, roaming.move(LINK_A).link_up_at)
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(2 * POOL.renew_after + 0.5)
            process.send_signal(signal.SIGCONT)
            await heard(router, "kea", "rebind", timeout=15)
            status = await roaming.mobile_node.status()
            assert status["mobile_node"]["care_of_address"] == first.details["care_of_address"]
            assert roaming.mobile_node.find("path-doubtful", after=0.0) is None

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["kea", "dhcpd"])
def test_mobile_node_drops_a_lease_that_a_server_says_is_of_another_link(name: str) -> None:
    if shutil.which(SERVERS[name].program) is None:
        pytest.skip(f"needs {SERVERS[name].program}")

    async def scenario() -> None:
        async with managed_links() as roaming:
            await start_dhcp_server(roaming.hosts["router-a"], name, ACCESS, POOL)
            await start_dhcp_server(roaming.hosts["router-b"], name, ACCESS, POOL_B)
            await roaming.mobile_node.start()
            await registered(roaming, roaming.move(LINK_A).link_up_at)
            # The routers keep quiet, so that only the server can tell.
            advertiser = next(p for p in roaming.hosts["router-b"].processes if "radvd" in p.name)
            advertiser.send_signal(signal.SIGSTOP)
            move = roaming.move(LINK_B)
            async with asyncio.timeout(10):
                while True:
                    counters = (await roaming.mobile_node.status())["counters"]
                    if counters.get("drop-server-refused"):
                        break
                    await asyncio.sleep(0.05)
            assert "2001:db8:a:" not in addresses_of(roaming)
            advertiser.send_signal(signal.SIGCONT)
            event = await registered(roaming, move.link_up_at)
            assert IPv6Address(event.details["care_of_address"]) in POOL_B.prefix

    asyncio.run(scenario())


def test_mobile_node_that_is_stateless_takes_information_alone(server: str) -> None:
    async def scenario() -> None:
        async with managed_links(dhcp6="stateless") as roaming:
            await start_dhcp_server(roaming.hosts["router-a"], server, ACCESS, POOL)
            await roaming.mobile_node.start()
            move = roaming.move(LINK_A)
            await roaming.mobile_node.wait_for(
                "dhcp6-information", after=move.link_up_at, timeout=10
            )
            assert not any(str(address) in addresses_of(roaming) for address in LEASED)

    asyncio.run(scenario())
