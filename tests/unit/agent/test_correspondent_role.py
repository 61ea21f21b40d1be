"""The correspondent node as a role, and beside the machines of the other roles."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.agent.agent import Agent
from mnagent.agent.build import build_agent
from mnagent.core.actions import Action, Finish, RemovePeerBinding, SetPeerBinding
from mnagent.core.events import AddressAppeared, LinkUp, ShutdownRequested, TrafficSeen
from mnagent.ipsec.purpose import Purpose
from mnagent.wire.icmp6 import EchoRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingError,
    BindingRefreshRequest,
    BindingStatus,
    BindingUpdate,
    HomeTest,
)
from mnagent.wire.mobility_options import NonceIndices
from mnagent.wire.ndisc import NeighborSolicitation
from tests.support.agents import INTERFACE, OWN_MAC, AgentDriver
from tests.support.correspondent import Peer, arrived, bound, home_address_option
from tests.support.matching import of_type, only, sent
from tests.support.requirement import requirement
from tests.support.topology import (
    HOME_ADDRESS,
    HOME_AGENT,
    configuration_of,
    home_agent_configuration,
    make_keys,
)

OWN = IPv6Address("2001:db8:c::1")
SERVED_CARE_OF = IPv6Address("2001:db8:a::10")
STRANGER = Peer(home_address=IPv6Address("2001:db8:9::1"), correspondent=OWN)


def correspondent(text: str = "") -> Agent:
    agent = build_agent(
        configuration_of(f'role = "correspondent"\n{text}'),
        random=Random(1),
        persisted={},
        associations=(),
    )
    agent.handle(LinkUp(interface=INTERFACE, name="eth0", link_layer_address=OWN_MAC), 0.0)
    agent.handle(AddressAppeared(interface=INTERFACE, address=OWN, prefix_length=64), 0.0)
    return agent


def home_agent(**options: bool) -> Agent:
    return build_agent(
        home_agent_configuration(**{"home_link": None, **options}),
        random=Random(1),
        persisted={},
        associations=make_keys(1)[1:],
    )


def test_correspondent_binds_a_mobile_node_and_shows_it() -> None:
    agent = correspondent()
    bound(agent, peer=replace(STRANGER))
    view = agent.snapshot(10.0)
    assert view.role == "correspondent"
    assert view.mobile_node is None and view.home_agent is None
    assert view.correspondent_node is not None
    (binding,) = view.correspondent_node.bindings
    assert binding.home_address == str(STRANGER.home_address)
    assert binding.care_of_address == str(STRANGER.care_of_address)
    assert (binding.lifetime_remaining, binding.unused_for) == (410.0, 10.0)
    assert view.correspondent_node.addresses == (str(OWN),)
    json.dumps(view.to_json())


def test_correspondent_limits_are_the_configured_ones() -> None:
    agent = correspondent("[correspondent]\nmax_lifetime = 40\nmax_bindings = 1\n")
    bound(agent, peer=replace(STRANGER))
    assert agent.snapshot(0.0).correspondent_node.bindings[0].lifetime_remaining == 40.0  # type: ignore[union-attr]
    other = replace(STRANGER, home_address=IPv6Address("2001:db8:9::2")).run_tests(agent)  # type: ignore[arg-type]
    ((_, answer),) = sent(agent.handle(other.update(), 0.0), BindingAcknowledgement)
    assert answer.status == BindingStatus.INSUFFICIENT_RESOURCES


def test_correspondent_has_a_deadline_and_lets_bindings_end() -> None:
    agent = correspondent()
    bound(agent, peer=replace(STRANGER))
    deadline = agent.next_deadline()
    assert deadline is not None
    assert of_type(agent.handle_timer(421.0), RemovePeerBinding)


def test_correspondent_that_stops_puts_the_host_back_and_leaves() -> None:
    agent = correspondent()
    bound(agent, peer=replace(STRANGER))
    actions = agent.handle(ShutdownRequested(), 1.0)
    assert of_type(actions, RemovePeerBinding)
    assert actions[-1] == Finish()


def test_correspondent_leaves_neighbour_discovery_to_the_kernel_without_counting_drops() -> None:
    agent = correspondent()
    solicitation = IPv6Packet(STRANGER.home_address, OWN, NeighborSolicitation(OWN), hop_limit=255)
    assert agent.handle(arrived(solicitation), 0.0) == []
    assert not any(name.startswith("drop-") for name in agent.counters)
    error = IPv6Packet(STRANGER.home_address, OWN, BindingError(1, OWN))
    assert agent.handle(arrived(error), 0.0) == []
    assert agent.counters["drop-unexpected-message"] == 1


def test_correspondent_asks_for_a_refresh_when_traffic_is_seen_near_the_end() -> None:
    agent = correspondent()
    bound(agent, peer=replace(STRANGER))
    traffic = TrafficSeen(local=OWN, peer=STRANGER.home_address, packets_out=1)
    assert sent(agent.handle(traffic, 415.0), BindingRefreshRequest)


@requirement("RFC6275-8.2", "CN-01")
@pytest.mark.parametrize("option", [True, False])
def test_mobile_node_is_a_correspondent_unless_switched_off(option: bool) -> None:
    driver = AgentDriver(correspondent=option)
    driver.visit("2001:db8:a::/64")
    peer = replace(STRANGER, correspondent=HOME_ADDRESS)
    actions = driver.agent.handle(
        replace(peer.home_test_init(), tunnel_source=HOME_AGENT), driver.now
    )
    if option:
        assert sent(actions, HomeTest)
    else:
        assert sent(actions, BindingError) and not sent(actions, HomeTest)


def test_mobile_node_gives_its_own_machines_what_is_theirs() -> None:
    driver = AgentDriver()
    driver.visit("2001:db8:a::/64")
    peer = replace(STRANGER, correspondent=HOME_ADDRESS)
    bound(driver.agent, peer=peer, now=driver.now)
    view = driver.agent.snapshot(driver.now)
    assert view.mobile_node is not None and view.correspondent_node is not None
    assert len(view.correspondent_node.bindings) == 1
    stray = IPv6Packet(STRANGER.home_address, HOME_ADDRESS, BindingError(1, HOME_ADDRESS))
    driver.agent.handle(arrived(stray), driver.now)
    assert driver.drop_count("unknown-peer") == 1
    assert driver.drop_count("unexpected-message") == 0
    actions = driver.agent.handle(ShutdownRequested(), driver.now)
    assert of_type(actions, RemovePeerBinding)


def test_home_agent_is_a_correspondent_of_nodes_it_does_not_serve() -> None:
    agent = home_agent()
    peer = bound(agent, peer=replace(STRANGER, correspondent=HOME_AGENT))
    assert agent.next_deadline() is not None
    option = home_address_option(peer.home_address)
    other = IPv6Packet(
        IPv6Address("2001:db8:b::9"),
        HOME_AGENT,
        EchoRequest(1, 1, b""),
        extension_headers=(option,),
    )
    assert sent(agent.handle(arrived(other), 0.0), BindingError)
    assert of_type(agent.handle_timer(421.0), RemovePeerBinding)
    assert agent.handle(ShutdownRequested(), 422.0)[-1] == Finish()


def served_update(agent: Agent, *, sequence: int, home_registration: bool) -> list[Action]:
    """A Binding Update of the mobile node that the home agent serves, by its association."""
    update = BindingUpdate(
        sequence=sequence,
        lifetime=420,
        acknowledge=True,
        home_registration=home_registration,
        options=() if home_registration else (NonceIndices(1, 1),),
    )
    packet = IPv6Packet(
        SERVED_CARE_OF,
        HOME_AGENT,
        update,
        extension_headers=(home_address_option(HOME_ADDRESS),),
    )
    spi = make_keys(1)[1].pairs[Purpose.BINDING].inbound.spi
    return agent.handle(replace(arrived(packet), protected_by=spi), 0.0)


def test_home_agent_answers_tests_of_a_node_it_serves_that_come_through_the_tunnel() -> None:
    agent = home_agent()
    served_update(agent, sequence=1, home_registration=True)
    peer = replace(STRANGER, home_address=HOME_ADDRESS, correspondent=HOME_AGENT)
    spi = make_keys(1)[1].pairs[Purpose.RETURN_ROUTABILITY].inbound.spi
    init = replace(peer.home_test_init(), protected_by=spi, tunnel_source=SERVED_CARE_OF)
    assert sent(agent.handle(init, 0.0), HomeTest)


@requirement("RFC6275-9.5.1", "HA-24")
def test_home_agent_refuses_to_change_the_type_of_a_registration() -> None:
    agent = home_agent()
    for sequence, status in (
        (1, BindingStatus.BINDING_UPDATE_ACCEPTED),
        (2, BindingStatus.REGISTRATION_TYPE_CHANGE_DISALLOWED),
    ):
        actions = served_update(agent, sequence=sequence, home_registration=sequence == 1)
        ((_, answer),) = sent(actions, BindingAcknowledgement)
        assert answer.status == status
    assert not of_type(actions, SetPeerBinding)


def test_home_agent_that_is_no_correspondent_says_so() -> None:
    agent = home_agent(correspondent=False)
    peer = replace(STRANGER, correspondent=HOME_AGENT)
    assert sent(agent.handle(peer.home_test_init(), 0.0), BindingError)


def test_peer_binding_action_of_every_role_is_the_same() -> None:
    actions = []
    for agent, own in ((correspondent(), OWN), (home_agent(), HOME_AGENT)):
        peer = replace(STRANGER, correspondent=own).run_tests(agent)  # type: ignore[arg-type]
        actions.append(only(agent.handle(peer.update(), 0.0), SetPeerBinding))
    assert actions[0] == actions[1]
