"""Groups and listener discovery in tunnels (RFC 6275 10.4.2, 10.4.3, 11.3.4)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from mnagent.core.security import Direction
from tests.ext import packets
from tests.ext.packets import ipv6, udp
from tests.ext.scenario import (
    AGENT,
    CARE_OF,
    CORRESPONDENT,
    HOME,
    OTHER_CARE_OF,
    STRANGER,
    agent_pipeline,
    agent_tunnel,
    association,
    mobile_pipeline,
    mobile_tunnel,
    slow_esp,
    verdicts,
)
from tests.support.requirement import requirement

GROUP = IPv6Address("ff0e::6275")
LINK_LOCAL = IPv6Address("fe80::10")
ALL_REPORTS = IPv6Address("ff02::16")
ALL_NODES = IPv6Address("ff02::1")
SPI = 0x77
ROUTER_ALERT = bytes([packets.ICMPV6, 0, 5, 2, 0, 0, 1, 0])


def membership(kind: int, source: IPv6Address = LINK_LOCAL, *, head: bytes = ROUTER_ALERT) -> bytes:
    body = head + bytes([kind, 0, 0, 0]) + bytes(20)
    return ipv6(source, ALL_REPORTS, 0, body, hop_limit=1)


def to_agent(inner: bytes, source: IPv6Address = CARE_OF) -> bytes:
    return ipv6(source, AGENT, packets.IPV6, inner)


def to_mobile(inner: bytes, source: IPv6Address = AGENT) -> bytes:
    return ipv6(source, CARE_OF, packets.IPV6, inner)


@requirement("RFC6275-10.4.3")
@pytest.mark.parametrize("kind", [130, 131, 132, 143])
@pytest.mark.parametrize("source", [LINK_LOCAL, IPv6Address("::")])
def test_listener_message_is_handed_up_with_its_tunnel(kind: int, source: IPv6Address) -> None:
    for pipeline, carry, peer in (
        (agent_pipeline(), to_agent, CARE_OF),
        (mobile_pipeline(), to_mobile, AGENT),
    ):
        inner = membership(kind, source)
        _, to_tunnel, (shown,) = pipeline.process_inbound([carry(inner)])
        assert (to_tunnel, shown.data, shown.tunnel_source) == ([], inner, peer)


@requirement("RFC6275-10.4.5", "HA-43")
@pytest.mark.parametrize(
    ("inner", "source", "verdict"),
    [
        (membership(143), STRANGER, "drop-no-binding"),
        (membership(133), CARE_OF, "drop-inner-scope"),
        (membership(143, head=bytes([58, 1]) + bytes(14)), CARE_OF, "drop-inner-scope"),
        (membership(143, head=bytes([17, 0]) + bytes(6)), CARE_OF, "drop-inner-scope"),
        (ipv6(LINK_LOCAL, ALL_REPORTS, 0, ROUTER_ALERT), CARE_OF, "drop-inner-scope"),
        (ipv6(LINK_LOCAL, ALL_REPORTS, 58, bytes([143]) + bytes(7)), CARE_OF, "drop-inner-scope"),
        (udp(LINK_LOCAL, ALL_NODES, b"x"), CARE_OF, "drop-inner-scope"),
    ],
)
def test_what_is_no_listener_message_of_a_tunnel_is_dropped(
    inner: bytes, source: IPv6Address, verdict: str
) -> None:
    pipeline = agent_pipeline()
    assert list(pipeline.process_inbound([to_agent(inner, source)])) == [[], [], []]
    assert verdicts(pipeline) == {verdict: 1}


@requirement("RFC6275-10.4.3")
def test_listener_message_has_to_be_protected_as_payload_is() -> None:
    oracle = slow_esp(("aes-gcm-16", 20), SPI)
    pipeline = agent_pipeline(
        association(oracle, Direction.INBOUND), tunnels=(agent_tunnel(inbound_spi=SPI),)
    )
    inner = membership(143)
    assert pipeline.process_inbound([to_agent(inner)]).handed_up == []
    assert verdicts(pipeline) == {"drop-not-protected": 1}
    sealed = ipv6(OTHER_CARE_OF, AGENT, packets.ESP, oracle.seal(inner, 41, 1))
    (shown,) = pipeline.process_inbound([sealed]).handed_up
    assert (shown.data, shown.protected_by) == (inner, SPI)
    other = agent_pipeline(
        association(oracle, Direction.INBOUND),
        tunnels=(agent_tunnel(inbound_spi=SPI + 1),),
    )
    assert other.process_inbound([sealed]).handed_up == []
    assert verdicts(other) == {"drop-wrong-association": 1}


@requirement("RFC6275-11.3.4", "MN-40")
def test_groups_packet_reaches_the_mobile_node_through_the_home_agents_tunnel() -> None:
    pipeline = mobile_pipeline()
    inner = udp(CORRESPONDENT, GROUP, b"news")
    assert pipeline.process_inbound([to_mobile(inner)]).to_tunnel == [bytes(10) + inner]
    assert pipeline.process_inbound([to_mobile(inner, STRANGER)]).to_tunnel == []
    assert verdicts(pipeline) == {"decapsulated": 1, "drop-no-binding": 1}
    assert pipeline.take_traffic() == []


@requirement("RFC6275-11.3.4", "MN-40")
def test_groups_packet_has_to_be_protected_as_payload_is() -> None:
    oracle = slow_esp(("aes-gcm-16", 20), SPI)
    pipeline = mobile_pipeline(
        association(oracle, Direction.INBOUND), tunnel=mobile_tunnel(inbound_spi=SPI)
    )
    inner = udp(CORRESPONDENT, GROUP, b"news")
    assert pipeline.process_inbound([to_mobile(inner)]).to_tunnel == []
    assert verdicts(pipeline) == {"drop-not-protected": 1}
    sealed = ipv6(AGENT, CARE_OF, packets.ESP, oracle.seal(inner, 41, 1))
    assert pipeline.process_inbound([sealed]).to_tunnel == [bytes(10) + inner]


@requirement("RFC6275-11.3.4", "MN-40")
def test_mobile_node_sends_to_a_group_from_its_home_address_through_the_tunnel() -> None:
    inner = udp(HOME, GROUP, b"news")
    (frame,) = mobile_pipeline().process_outbound([inner]).frames
    assert (frame[8:24], frame[24:40], frame[40:]) == (CARE_OF.packed, AGENT.packed, inner)


@requirement("RFC6275-10.4.2", "HA-36")
def test_groups_packets_are_never_merged() -> None:
    pipeline = agent_pipeline()
    inners = [udp(HOME, GROUP, bytes(1000)) for _ in range(4)]
    written = pipeline.process_inbound([to_agent(inner) for inner in inners]).to_tunnel
    assert written == [bytes(10) + inner for inner in inners]
    to_one = [udp(HOME, CORRESPONDENT, bytes(1000)) for _ in range(4)]
    assert len(pipeline.process_inbound([to_agent(inner) for inner in to_one]).to_tunnel) == 1


def test_group_is_nobodys_tunnel_at_a_home_agent() -> None:
    pipeline = agent_pipeline(tunnels=(replace(agent_tunnel(), remote=CARE_OF),))
    inner = udp(STRANGER, GROUP, b"x")
    assert pipeline.process_inbound([to_agent(inner)]).to_tunnel == []
    assert verdicts(pipeline) == {"drop-inner-source": 1}
