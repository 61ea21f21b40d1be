"""Home tests in the tunnel by an association of their own, whatever payload does (RFC 3776 3.2)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from mnagent.core.security import Direction
from mnagent.datapath import Pipeline
from tests.ext import packets
from tests.ext.packets import ipv6, udp
from tests.ext.scenario import (
    AGENT,
    CARE_OF,
    CORRESPONDENT,
    HOME,
    SlowEsp,
    agent_pipeline,
    agent_tunnel,
    association,
    mobile_pipeline,
    mobile_tunnel,
    slow_esp,
    verdicts,
)
from tests.support.requirement import requirement

SUITE = ("aes-cbc-hmac-sha256-128", 16)
SPI, PAYLOAD_SPI = 0x1234, 0x2345
HOME_TEST_INIT, CARE_OF_TEST_INIT, HOME_TEST = 1, 2, 3


def message(kind: int, source: IPv6Address, destination: IPv6Address) -> bytes:
    """A mobility message of 16 octets; the engine looks at no more than its type."""
    return ipv6(source, destination, packets.MOBILITY, bytes([59, 1, kind, 0]) + bytes(12))


def build(end: str, direction: Direction, *, payload: bool = False) -> tuple[Pipeline, SlowEsp]:
    """An engine whose home tests are protected, and with ``payload`` the rest by another one."""
    oracle = slow_esp(SUITE, SPI)
    associations = [association(oracle, direction)]
    if payload:
        associations.append(association(slow_esp(SUITE, PAYLOAD_SPI), direction))
    spi = PAYLOAD_SPI if payload else None
    if direction is Direction.OUTBOUND:
        changes = {"outbound_spi": spi, "home_test_outbound_spi": SPI}
    else:
        changes = {"inbound_spi": spi, "home_test_inbound_spi": SPI}
    if end == "mobile-node":
        tunnel = replace(mobile_tunnel(), **changes)
        return mobile_pipeline(*associations, tunnel=tunnel), oracle
    return agent_pipeline(*associations, tunnels=(replace(agent_tunnel(), **changes),)), oracle


def ends(end: str, *, outbound: bool) -> tuple[IPv6Address, IPv6Address]:
    """Inner source and destination of what passes an end of the tunnel."""
    from_node = (end == "mobile-node") == outbound
    return (HOME, CORRESPONDENT) if from_node else (CORRESPONDENT, HOME)


@requirement("RFC6275-11.6.1", "RR-02")
@pytest.mark.parametrize("payload", [False, True])
@pytest.mark.parametrize(
    ("end", "kind"), [("mobile-node", HOME_TEST_INIT), ("home-agent", HOME_TEST)]
)
def test_home_test_leaves_by_its_own_association(end: str, kind: int, payload: bool) -> None:
    pipeline, oracle = build(end, Direction.OUTBOUND, payload=payload)
    test = message(kind, *ends(end, outbound=True))
    (frame,) = pipeline.process_outbound([test]).frames
    assert frame[6] == packets.ESP
    assert oracle.open(frame[40:]) == (test, packets.IPV6, 1)


@pytest.mark.parametrize("end", ["mobile-node", "home-agent"])
def test_payload_and_other_messages_leave_without_the_home_tests_association(end: str) -> None:
    pipeline, _ = build(end, Direction.OUTBOUND)
    source, destination = ends(end, outbound=True)
    others = [udp(source, destination, b"x"), message(CARE_OF_TEST_INIT, source, destination)]
    frames = pipeline.process_outbound(others).frames
    assert [frame[6] for frame in frames] == [packets.IPV6, packets.IPV6]


def test_home_test_init_without_its_association_installed_is_dropped() -> None:
    tunnel = replace(mobile_tunnel(), home_test_outbound_spi=SPI)
    pipeline = mobile_pipeline(tunnel=tunnel)
    assert pipeline.process_outbound([message(HOME_TEST_INIT, HOME, CORRESPONDENT)]).frames == []
    assert verdicts(pipeline) == {"drop-no-association": 1}


def outer(end: str, protocol: int, content: bytes) -> bytes:
    """As it comes to an end of the tunnel."""
    source, destination = (AGENT, CARE_OF) if end == "mobile-node" else (CARE_OF, AGENT)
    return ipv6(source, destination, protocol, content)


@requirement("RFC6275-11.6.1", "RR-02")
@pytest.mark.parametrize("payload", [False, True])
@pytest.mark.parametrize(
    ("end", "kind"), [("mobile-node", HOME_TEST), ("home-agent", HOME_TEST_INIT)]
)
def test_home_test_comes_by_its_own_association_only(end: str, kind: int, payload: bool) -> None:
    test = message(kind, *ends(end, outbound=False))
    pipeline, oracle = build(end, Direction.INBOUND, payload=payload)
    came = pipeline.process_inbound([outer(end, packets.ESP, oracle.seal(test, 41, 1))])
    assert len(came.handed_up) + len(came.to_tunnel) == 1
    pipeline, _ = build(end, Direction.INBOUND, payload=payload)
    assert list(pipeline.process_inbound([outer(end, packets.IPV6, test)])) == [[], [], []]
    assert verdicts(pipeline) == {"drop-not-protected": 1}
    if payload:
        pipeline, _ = build(end, Direction.INBOUND, payload=True)
        sealed = slow_esp(SUITE, PAYLOAD_SPI).seal(test, 41, 1)
        assert list(pipeline.process_inbound([outer(end, packets.ESP, sealed)])) == [[], [], []]
        assert verdicts(pipeline) == {"drop-wrong-association": 1}


@pytest.mark.parametrize("payload", [False, True])
@pytest.mark.parametrize("end", ["mobile-node", "home-agent"])
def test_payload_by_the_home_tests_association_is_dropped(end: str, payload: bool) -> None:
    pipeline, oracle = build(end, Direction.INBOUND, payload=payload)
    sealed = oracle.seal(udp(*ends(end, outbound=False), b"x"), 41, 1)
    assert list(pipeline.process_inbound([outer(end, packets.ESP, sealed)])) == [[], [], []]
    assert verdicts(pipeline) == {"drop-wrong-association": 1}
