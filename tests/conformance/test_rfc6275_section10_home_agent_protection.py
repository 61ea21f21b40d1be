"""Who may bind which home address: the home agent behind its security policy (RFC 3776 3 and 4)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.agent.agent import Agent
from mnagent.agent.dispatch import Dispatcher
from mnagent.agent.roles import HomeAgentRole
from mnagent.core.actions import SetTunnel
from mnagent.core.events import LinkUp, PacketReceived
from mnagent.core.security import Direction, EspMode
from mnagent.ipsec.keys import KeySet, generate_pair, load_key_file
from mnagent.ipsec.mobility_policy import home_agent_database
from mnagent.ipsec.purpose import Purpose
from mnagent.mobility.home_agent import HomeAgent
from mnagent.wire.ipv6 import IPv6Packet, RawPayload, Type2RoutingHeader
from mnagent.wire.mobility import BindingAcknowledgement, BindingError, BindingStatus
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    CORRESPONDENT,
    FOREIGN_SIDE,
    HOME_ADDRESS,
    HOME_AGENT_ADDRESS,
    HOME_AGENT_MAC,
    HOME_LINK,
    OTHER_CARE_OF_ADDRESS,
    OTHER_HOME_ADDRESS,
    SETTINGS,
    actions_of,
    binding_update,
    only_acknowledgement,
    sent,
    update_from_home,
)
from tests.support.requirement import requirement


def make_keys(home_address: IPv6Address, seed: int) -> KeySet:
    """The home agent's keys for one mobile node."""
    random = Random(seed)
    _, text = generate_pair(home_address, HOME_AGENT_ADDRESS, random_bytes=random.randbytes)
    return load_key_file(text)


KEYS = make_keys(HOME_ADDRESS, 1)
OTHER_KEYS = make_keys(OTHER_HOME_ADDRESS, 2)


def transport_spi(keys: KeySet, direction: Direction) -> int:
    """The association that protects Binding Updates or Acknowledgements."""
    return next(
        association.spi
        for association in keys.associations
        if association.direction is direction and association.mode is EspMode.TRANSPORT
    )


SPI = transport_spi(KEYS, Direction.INBOUND)
OTHER_SPI = transport_spi(OTHER_KEYS, Direction.INBOUND)
OUTBOUND_SPI = transport_spi(KEYS, Direction.OUTBOUND)


def make_agent(*, protect_payload: bool = False) -> Agent:
    """A home agent with its policies, on its home link."""
    policies = home_agent_database(
        HOME_AGENT_ADDRESS, (KEYS, OTHER_KEYS), protect_payload=protect_payload
    )

    def factory(interface: int | None, link_layer_address: bytes) -> HomeAgent:
        settings = replace(SETTINGS, home_link=interface, link_layer_address=link_layer_address)
        return HomeAgent(settings, random=Random(3))

    agent = Agent(
        HomeAgentRole(factory, home_link="home0"),
        policies=policies,
        dispatcher=Dispatcher(policies),
    )
    link = LinkUp(interface=HOME_LINK, name="home0", link_layer_address=HOME_AGENT_MAC)
    agent.handle(link, 0.0)
    return agent


def bindings(agent: Agent) -> dict[str, str]:
    """Home address to care-of address, as status shows them."""
    snapshot = agent.snapshot(100.0).home_agent
    assert snapshot is not None
    return {binding.home_address: binding.care_of_address for binding in snapshot.bindings}


def registered_agent() -> Agent:
    agent = make_agent()
    agent.handle(replace(binding_update(), protected_by=SPI), 0.0)
    agent.handle_timer(1.0)
    assert bindings(agent) == {str(HOME_ADDRESS): str(CARE_OF_ADDRESS)}
    return agent


@requirement("RFC6275-10.3.1", "HA-03")
@pytest.mark.parametrize("protected_by", [None, OTHER_SPI, 99])
def test_home_agent_update_without_own_protection_is_discarded(protected_by: int | None) -> None:
    agent = make_agent()
    assert agent.handle(replace(binding_update(), protected_by=protected_by), 0.0) == []
    assert agent.handle_timer(1.0) == []
    assert bindings(agent) == {}
    counters = agent.counters
    names = ("drop-not-protected", "drop-wrong-security-association")
    assert sum(counters.get(name, 0) for name in names) == 1


@requirement("RFC6275-5.1", "HA-04", "SEC-08")
def test_home_agent_update_for_anothers_home_address_leaves_its_binding_alone() -> None:
    agent = registered_agent()
    hijack = binding_update(sequence=5, source=OTHER_CARE_OF_ADDRESS)
    assert agent.handle(replace(hijack, protected_by=OTHER_SPI), 2.0) == []
    assert agent.handle(replace(update_from_home(sequence=6), protected_by=OTHER_SPI), 3.0) == []
    assert bindings(agent) == {str(HOME_ADDRESS): str(CARE_OF_ADDRESS)}


@requirement("RFC3776-3.1", "SEC-01", "HA-01")
def test_home_agent_acknowledgement_away_has_routing_header_and_protection() -> None:
    agent = make_agent()
    agent.handle(replace(binding_update(), protected_by=SPI), 0.0)
    (answer,) = sent(agent.handle_timer(1.0), BindingAcknowledgement)
    assert answer.packet.destination == CARE_OF_ADDRESS
    assert answer.packet.extension_headers == (Type2RoutingHeader(HOME_ADDRESS),)
    assert answer.protect_with == OUTBOUND_SPI


@requirement("RFC3776-3.1", "SEC-02", "HA-26")
def test_home_agent_acknowledgement_at_home_has_protection_alone() -> None:
    agent = registered_agent()
    actions = agent.handle(replace(update_from_home(), protected_by=SPI), 5.0)
    (answer,) = sent(actions, BindingAcknowledgement)
    assert answer.packet.destination == HOME_ADDRESS
    assert answer.packet.extension_headers == ()
    assert answer.protect_with == OUTBOUND_SPI


@requirement("RFC6275-10.3.1", "HA-23")
def test_home_agent_refusal_for_sequence_is_protected() -> None:
    agent = registered_agent()
    actions = agent.handle(replace(binding_update(), protected_by=SPI), 5.0)
    (answer,) = sent(actions, BindingAcknowledgement)
    status = only_acknowledgement(actions).status
    assert status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW
    assert answer.protect_with == OUTBOUND_SPI


@requirement("RFC6275-11.3.6", "OPS-03")
@pytest.mark.parametrize(("keys", "is_asked"), [(KEYS, True), (OTHER_KEYS, False)])
def test_home_agent_restarted_with_protected_payload_asks_its_own_node_only(
    keys: KeySet, is_asked: bool
) -> None:
    """The tunnel's association is known before there is a tunnel again."""
    agent = make_agent(protect_payload=True)
    event = PacketReceived(
        packet=IPv6Packet(HOME_ADDRESS, CORRESPONDENT, RawPayload(6, bytes(20))),
        interface=FOREIGN_SIDE,
        tunnel_source=CARE_OF_ADDRESS,
        protected_by=keys.pairs[Purpose.PAYLOAD].inbound.spi,
    )
    assert bool(sent(agent.handle(event, 0.0), BindingError)) is is_asked


@requirement("RFC6275-11.3.6", "OPS-03")
def test_home_agent_restarted_asks_for_registration_and_serves_again() -> None:
    agent = make_agent()
    inner = IPv6Packet(HOME_ADDRESS, CORRESPONDENT, RawPayload(6, bytes(20)))
    event = PacketReceived(packet=inner, interface=FOREIGN_SIDE, tunnel_source=CARE_OF_ADDRESS)
    (error,) = sent(agent.handle(event, 0.0), BindingError)
    assert error.packet.destination == CARE_OF_ADDRESS
    assert error.protect_with is None
    agent.handle(replace(binding_update(sequence=9), protected_by=SPI), 0.1)
    assert actions_of(agent.handle_timer(1.1), SetTunnel)
