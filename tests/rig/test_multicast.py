"""Multicast through the tunnel and on foreign links (RFC 6275 10.4.2, 10.4.3, 11.3.4)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Interface

import pytest

from mnagent.rig.namespace import Namespace
from mnagent.rig.roaming import Roaming, RoamingSettings
from mnagent.rig.topology import HOME, HOME_ADDRESS, LINK_A, LINK_B, MOBILE_INTERFACE
from mnagent.wire.ipv6 import HopByHopOptions, IPv6Packet
from mnagent.wire.mld import ListenerReportVersion2
from mnagent.wire.packet import decode_packet
from tests.support.requirement import requirement

GROUP = IPv6Address("ff1e::6275")
LOCAL_GROUP = IPv6Address("ff15::39")
PORT = 46275
NEIGHBOUR = IPv6Interface("2001:db8:1::77/64")
TUNNEL = "mnagent0"
ETH_P_IPV6 = 0x86DD
IPV6_JOIN_GROUP = 20


@contextlib.contextmanager
def member(namespace: Namespace, interface: str, group: IPv6Address) -> Iterator[socket.socket]:
    """A socket that listens to a group, and sends to it, on one interface."""
    with namespace.inside():
        index = socket.if_nametoindex(interface)
        joined = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with joined:
        joined.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        joined.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 8)
        joined.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        joined.bind(("::", PORT))
        request = group.packed + struct.pack("@I", index)
        joined.setsockopt(socket.IPPROTO_IPV6, IPV6_JOIN_GROUP, request)
        joined.setblocking(False)
        yield joined


async def received(listener: socket.socket, patience: float = 3.0) -> tuple[bytes, IPv6Address]:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(patience):
        data, source = await loop.sock_recvfrom(listener, 65536)
    return data, IPv6Address(source[0])


async def heard(
    sender: socket.socket, listener: socket.socket, data: bytes, patience: float = 8.0
) -> IPv6Address:
    """Send until the listener hears it; its source."""
    async with asyncio.timeout(patience):
        while True:
            sender.sendto(data, (str(GROUP), PORT))
            with contextlib.suppress(TimeoutError):
                while True:
                    got, source = await received(listener, 0.2)
                    if got == data:
                        return source


def drained(listener: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while listener.recv(65536):
            pass


async def forwarded(roaming: Roaming) -> int:
    status = await roaming.home_agent.status()
    return int(status["counters"]["multicast-forwarded"])


@requirement("RFC6275-11.3.4", "MN-40")
@pytest.mark.parametrize("protection", ["none", "esp"])
def test_group_is_heard_and_reached_through_the_tunnel(protection: str) -> None:
    async def scenario() -> None:
        settings = RoamingSettings(home_agent={"multicast": True}, payload_protection=protection)
        async with Roaming(settings) as roaming:
            neighbour = roaming.topology.add_host("neighbour", HOME, NEIGHBOUR)
            await roaming.home_agent.start()
            await roaming.mobile_node.start()
            await roaming.settled(roaming.move(LINK_A))
            mobile = roaming.topology["mobile"]
            with member(neighbour, "eth0", GROUP) as at_home:
                with member(mobile, TUNNEL, GROUP) as away:
                    source = await heard(at_home, away, b"from home")
                    assert source == NEIGHBOUR.ip
                    # Longer than the tunnel takes: the outer packet is fragmented.
                    long = bytes(1440)
                    drained(away)
                    assert await heard(at_home, away, long) == NEIGHBOUR.ip
                    away.sendto(b"from away", (str(GROUP), PORT))
                    assert await received(at_home) == (b"from away", HOME_ADDRESS)
                    await roaming.settled(roaming.move(LINK_B))
                    drained(away)
                    assert await heard(at_home, away, b"after a handover") == NEIGHBOUR.ip
                await asyncio.sleep(1.0)
                before = await forwarded(roaming)
                for _ in range(5):
                    at_home.sendto(b"nobody listens", (str(GROUP), PORT))
                await asyncio.sleep(0.3)
                assert await forwarded(roaming) == before

    asyncio.run(scenario())


@requirement("RFC6275-11.3.4", "MN-39")
def test_group_joined_on_a_foreign_link_is_of_that_link_alone() -> None:
    async def scenario() -> None:
        async with Roaming() as roaming:
            await roaming.home_agent.start()
            await roaming.mobile_node.start()
            await roaming.settled(roaming.move(LINK_A))
            router = roaming.topology["router-a"]
            with router.inside():
                watcher = socket.socket(
                    socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IPV6)
                )
            with watcher, member(roaming.topology["mobile"], MOBILE_INTERFACE, LOCAL_GROUP):
                watcher.setblocking(False)
                report = await report_of(watcher, LOCAL_GROUP)
                # Of the foreign link: while the address is tentative there is none.
                assert report.source.is_link_local or report.source.is_unspecified
                assert [type(each) for each in report.extension_headers] == [HopByHopOptions]
            status = await roaming.home_agent.status()
            assert status["counters"]["drop-inner-scope"] == 0

    asyncio.run(scenario())


async def report_of(watcher: socket.socket, group: IPv6Address) -> IPv6Packet:
    """The first report about a group that is heard on a link, whatever carries it."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(8.0):
        while True:
            data = await loop.sock_recv(watcher, 65536)
            if group.packed not in data:
                continue
            packet = decode_packet(data)
            assert isinstance(packet.payload, ListenerReportVersion2)
            return packet
