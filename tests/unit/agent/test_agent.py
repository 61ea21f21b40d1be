from __future__ import annotations

import json
from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.agent.agent import MAX_DOWN, Agent
from mnagent.agent.build import DUID_KEY, IDENTIFIER_SECRET_KEY, build_agent
from mnagent.agent.dispatch import Dispatcher
from mnagent.agent.roles import HomeAgentRole
from mnagent.agent.snapshot import SHOWN_BINDINGS, BindingPage
from mnagent.autoconf.autoconfiguration import AgentAutoconfiguration, KernelAutoconfiguration
from mnagent.autoconf.dhcp6 import DUID_LENGTH
from mnagent.core.actions import (
    AddAddress,
    Finish,
    JoinGroup,
    PersistRecord,
    RemoveTunnel,
    SendPacket,
    SetTunnel,
    StopIntercepting,
)
from mnagent.core.events import (
    ActionFailed,
    AddressAppeared,
    AddressVanished,
    DatagramReceived,
    LinkDown,
    LinkUp,
    PacketReceived,
    ShutdownRequested,
)
from mnagent.core.records import KeptRecord
from mnagent.ipsec.policy import SecurityPolicy, SecurityPolicyDatabase
from mnagent.ipsec.purpose import Purpose
from mnagent.ipsec.selectors import Selector
from mnagent.mobility.addresses import solicited_node_group
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingError, BindingUpdate, UnknownMobilityMessage
from mnagent.wire.ndisc import NeighborSolicitation
from tests.support.agents import INTERFACE, OWN_MAC, ROUTER, AgentDriver
from tests.support.matching import of_type, only, reports, sent
from tests.support.packets import binding_acknowledgement, router_advertisement
from tests.support.topology import (
    HOME_ADDRESS,
    HOME_AGENT,
    HOME_PREFIX,
    PREFIX_A,
    PREFIX_B,
    Topology,
    configuration_of,
    home_agent_configuration,
    make_keys,
    mobile_node_configuration,
)
from tests.support.world import World

PEER = IPv6Address("2001:db8:f::1")


def test_update_leaves_with_the_association_the_policy_demands() -> None:
    driver = AgentDriver()
    ((action, _),) = sent(driver.visit("2001:db8:a::/64"), BindingUpdate)
    assert action.protect_with == driver.keys.pairs[Purpose.BINDING].outbound.spi


def test_tunnel_gets_its_associations_from_the_policy() -> None:
    driver = AgentDriver(payload_protection="esp")
    tunnel = only(driver.visit("2001:db8:a::/64"), SetTunnel)
    pair = driver.keys.pairs[Purpose.PAYLOAD]
    assert (tunnel.outbound_spi, tunnel.inbound_spi) == (pair.outbound.spi, pair.inbound.spi)
    plain = only(AgentDriver().visit("2001:db8:a::/64"), SetTunnel)
    assert (plain.outbound_spi, plain.inbound_spi) == (None, None)


def test_secret_of_interface_identifiers_is_made_once_and_kept() -> None:
    driver = AgentDriver()
    records = of_type(driver.link_up(), PersistRecord)
    (record,) = (each for each in records if each.key == IDENTIFIER_SECRET_KEY)
    assert len(bytes.fromhex(record.value)) == 32
    addresses = []
    for persisted in ({record.key: record.value},) * 2 + ({record.key: "rubbish"},):
        driver.agent = build_agent(
            mobile_node_configuration(),
            random=Random(9),
            persisted=persisted,
            associations=[driver.keys],
        )
        actions = driver.visit("2001:db8:a::/64")
        addresses.append(of_type(actions, AddAddress)[0].address)
    assert addresses[0] == addresses[1] != addresses[2]


def test_identifier_for_dhcp6_servers_is_made_once_and_kept() -> None:
    driver = AgentDriver()
    records = of_type(driver.link_up(), PersistRecord)
    (record,) = (each for each in records if each.key == DUID_KEY)
    made = bytes.fromhex(record.value)
    assert len(made) == DUID_LENGTH
    for persisted, is_made_anew in ((record.value, False), ("rubbish", True), ("0004", True)):
        driver.agent = build_agent(
            mobile_node_configuration(),
            random=Random(9),
            persisted={DUID_KEY: persisted},
            associations=[driver.keys],
        )
        keys = [each.key for each in of_type(driver.link_up(), PersistRecord)]
        assert (DUID_KEY in keys) is is_made_anew


def test_decoded_packet_is_checked_like_octets() -> None:
    driver = AgentDriver()
    packet = IPv6Packet(PEER, HOME_ADDRESS, UnknownMobilityMessage(99, bytes(10)))
    event = PacketReceived(packet=packet, interface=INTERFACE)
    assert sent(driver.agent.handle(event, driver.now), BindingError)
    assert driver.drop_count("unknown-mobility-message") == 1


def test_snapshot_shows_where_the_node_is_and_how_it_came_there() -> None:
    driver = AgentDriver()
    driver.visit("2001:db8:a::/64")
    driver.now += 0.25
    before = driver.agent.snapshot(driver.now).mobile_node
    assert before is not None and before.sequence is not None and before.care_of_address
    packet = binding_acknowledgement(
        HOME_AGENT,
        HOME_ADDRESS,
        care_of_address=IPv6Address(before.care_of_address),
        sequence=before.sequence,
    )
    driver.receive(packet, protected_by=driver.binding_spi)
    snapshot = driver.agent.snapshot(driver.now)
    view = snapshot.mobile_node
    assert view is not None
    assert (snapshot.role, view.state, view.at_home) == ("mobile-node", "registered", False)
    assert view.bound_care_of_address == view.care_of_address == view.tunnel
    assert view.binding_lifetime_remaining == pytest.approx(599.75)
    (handover,) = view.handovers
    assert handover.interface == "eth0" and handover.care_of_address == view.care_of_address
    assert (handover.link_up_at, handover.acknowledged_at) == (1000.0, 1000.25)
    assert json.loads(json.dumps(snapshot.to_json()))["mobile_node"]["last_status"] == 0


def test_handover_log_tells_link_changes_from_changes_of_address() -> None:
    with World(seed=31) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.register_in(net.link_b, PREFIX_B)
        net.router_b.advertised[2] = ("2001:db8:b::/64", "2001:db8:bb::/64")
        net.router_b.preferred_lifetime = 0
        net.return_home()
        assert net.mobile_node.agent is not None
        view = net.mobile_node.agent.snapshot(world.now).mobile_node
        assert view is not None
        assert [handover.at_home for handover in view.handovers] == [False, False, True]
        for handover in view.handovers:
            assert handover.acknowledged_at is not None
            assert handover.update_sent_at is not None
            assert handover.link_up_at <= handover.update_sent_at <= handover.acknowledged_at


def test_interfaces_and_their_addresses_are_shown() -> None:
    driver = AgentDriver()
    assert reports(driver.link_up(), "link-up") == [{"interface": "eth0", "index": "2"}]
    states = {
        "a": {},
        "b": {"tentative": True},
        "c": {"duplicate": True},
        "d": {"deprecated": True},
    }
    for last, fields in states.items():
        address = IPv6Address(f"fe80::{last}")
        driver.agent.handle(
            AddressAppeared(interface=2, address=address, prefix_length=64, **fields), driver.now
        )
    gone = AddressVanished(interface=2, address=IPv6Address("fe80::d"))
    driver.agent.handle(gone, driver.now)
    (interface,) = driver.agent.snapshot(driver.now).interfaces
    assert interface.up and interface.link_layer_address == OWN_MAC.hex(":")
    assert interface.addresses == {
        "fe80::a": "preferred",
        "fe80::b": "tentative",
        "fe80::c": "duplicate",
    }
    down = LinkDown(interface=2)
    assert reports(driver.agent.handle(down, driver.now), "link-down")
    assert not reports(driver.agent.handle(down, driver.now), "link-down")
    assert not driver.agent.handle(LinkDown(interface=9), driver.now)
    assert not driver.agent.snapshot(driver.now).interfaces[0].up
    again = LinkUp(interface=3, name="eth0", link_layer_address=OWN_MAC)
    driver.agent.handle(again, driver.now)
    (interface,) = driver.agent.snapshot(driver.now).interfaces
    assert interface.index == 3 and not interface.addresses


def test_interfaces_that_come_and_go_are_not_all_remembered() -> None:
    driver = AgentDriver()
    driver.link_up()
    for index in range(100, 200):
        event = LinkUp(interface=index, name=f"veth{index}", link_layer_address=OWN_MAC)
        driver.agent.handle(event, driver.now)
        driver.agent.handle(LinkDown(interface=index), driver.now)
    shown = [each.index for each in driver.agent.snapshot(driver.now).interfaces]
    assert shown == [2, *range(200 - MAX_DOWN - 1, 200)]


def test_failed_action_is_reported_and_counted() -> None:
    driver = AgentDriver()
    actions = driver.visit("2001:db8:a::/64")
    failure = ActionFailed(action=of_type(actions, SendPacket)[0], errno=101, reason="unreachable")
    (report,) = reports(driver.agent.handle(failure, driver.now), "action-failed")
    assert report == {"action": "SendPacket", "errno": "101", "reason": "unreachable"}
    assert driver.agent.counters["actions-failed"] == 1


def test_router_is_reported_once_until_it_is_lost() -> None:
    driver = AgentDriver()
    first = driver.visit("2001:db8:a::/64")
    assert reports(first, "router-found")[0]["prefixes"] == "2001:db8:a::/64"
    again = driver.visit("2001:db8:a::/64")
    assert len(reports(again, "router-found")) == 1
    assert not reports(
        driver.receive(router_advertisement(ROUTER, "2001:db8:a::/64")), "router-found"
    )


def test_agent_asks_for_the_time_of_its_earliest_machine() -> None:
    driver = AgentDriver()
    assert driver.agent.next_deadline() is None
    driver.link_up()
    deadline = driver.agent.next_deadline()
    assert deadline == pytest.approx(driver.now + 0.02)
    assert sent(driver.agent.handle_timer(deadline), object)


@pytest.mark.parametrize(
    ("mode", "kind"), [("agent", AgentAutoconfiguration), ("kernel", KernelAutoconfiguration)]
)
def test_autoconfiguration_is_the_configured_one(mode: str, kind: type[object]) -> None:
    driver = AgentDriver(autoconfiguration=mode)
    assert isinstance(driver.agent.role.autoconfiguration, kind)  # type: ignore[union-attr]


# The home agent's agent.


def test_home_agent_serves_from_the_moment_its_home_link_is_there() -> None:
    agent = build_agent(
        home_agent_configuration(), random=Random(1), persisted={}, associations=make_keys(1)[1:]
    )
    view = agent.snapshot(0.0).home_agent
    assert view is not None and view.state == "waiting-for-home-link"
    assert agent.next_deadline() is None and agent.handle_timer(0.0) == []
    packet = IPv6Packet(PEER, HOME_AGENT, BindingError(1, HOME_ADDRESS))
    agent.handle(PacketReceived(packet=packet, interface=5), 0.0)
    assert agent.counters["drop-no-role"] == 1
    agent.handle(LinkUp(interface=4, name="eth1", link_layer_address=OWN_MAC), 0.0)
    assert agent.snapshot(0.0).home_agent.state == "waiting-for-home-link"  # type: ignore[union-attr]
    agent.handle(LinkUp(interface=5, name="eth0", link_layer_address=OWN_MAC), 0.0)
    assert agent.snapshot(0.0).home_agent.state == "serving"  # type: ignore[union-attr]
    assert agent.counters["drop-no-role"] == 1
    agent.handle(LinkDown(interface=5), 1.0)
    assert agent.snapshot(1.0).home_agent.state == "waiting-for-home-link"  # type: ignore[union-attr]


def test_home_agent_without_its_home_link_stops_at_once() -> None:
    agent = build_agent(
        home_agent_configuration(), random=Random(1), persisted={}, associations=make_keys(1)[1:]
    )
    assert agent.handle(ShutdownRequested(), 0.0) == [Finish()]


def test_home_agent_of_a_virtual_home_prefix_serves_from_the_start() -> None:
    agent = build_agent(
        home_agent_configuration(home_link=None),
        random=Random(1),
        persisted={},
        associations=make_keys(1)[1:],
    )
    assert agent.snapshot(0.0).home_agent.state == "serving"  # type: ignore[union-attr]


MANY = tuple(HOME_ADDRESS + number for number in range(SHOWN_BINDINGS + 20))


@pytest.fixture(scope="module")
def agent_of_many() -> Agent:
    """A home agent that an earlier run left bindings of `MANY`, the last one first."""
    served = "".join(
        f'\n[[home_agent.mobile_nodes]]\nhome_address = "{each}"\nkeys = "/keys"\n' for each in MANY
    )
    text = f'role = "home-agent"\n[home_agent]\naddress = "{HOME_AGENT}"\n'
    record = KeptRecord(value=f"{PEER} 7 600 540.000 60.000 -", kept_at=0.0)
    return build_agent(
        configuration_of(f'{text}home_prefix = "{HOME_PREFIX}"\n{served}'),
        random=Random(1),
        persisted={},
        associations=[make_keys(1, home_address=each)[1] for each in MANY],
        kept={f"home-binding.{each}": record for each in reversed(MANY)},
    )


def test_home_agent_of_many_shows_some_and_how_many_there_are(agent_of_many: Agent) -> None:
    agent_of_many.handle_timer(1.0)
    view = agent_of_many.snapshot(1.0).home_agent
    assert view is not None
    assert (len(view.bindings), view.binding_count) == (SHOWN_BINDINGS, len(MANY))
    assert view.probing_count == 0


def test_bindings_of_a_home_agent_are_told_page_by_page_in_order(agent_of_many: Agent) -> None:
    agent_of_many.handle_timer(1.0)
    told: list[str] = []
    after, left = None, len(MANY)
    while left:
        page = agent_of_many.bindings(after, 50, 1.0)
        assert page is not None and len(page.bindings) <= 50
        told += [each.home_address for each in page.bindings]
        after, left = IPv6Address(told[-1]), page.left
        assert left == len(MANY) - len(told)
    assert told == [str(each) for each in MANY]
    assert page.to_json()["bindings"][0]["care_of_address"] == str(PEER)


def test_bindings_of_an_agent_without_its_home_link_are_none_and_of_another_role_no_matter() -> (
    None
):
    agent = build_agent(
        home_agent_configuration(), random=Random(1), persisted={}, associations=make_keys(1)[1:]
    )
    assert agent.bindings(None, 10, 0.0) == BindingPage(bindings=(), left=0)
    assert AgentDriver().agent.bindings(None, 10, 0.0) is None


def test_home_link_made_anew_under_its_name_keeps_bindings_and_what_tells_replays() -> None:
    with World(seed=32) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        agent = net.home_agent.agent
        assert agent is not None and net.bound_to is not None
        before = net.bound_to
        assert isinstance(agent.role, HomeAgentRole)
        machine = agent.role.home_agent
        port = net.home_agent.ports[0]
        agent.handle(LinkDown(interface=port.index), world.now)
        anew = LinkUp(interface=9, name="eth0", link_layer_address=port.mac)
        actions = agent.handle(anew, world.now)
        assert not of_type(actions, RemoveTunnel) and not of_type(actions, StopIntercepting)
        group = solicited_node_group(HOME_ADDRESS)
        assert JoinGroup(interface=9, group=group) in actions
        ((question, _),) = sent(actions, NeighborSolicitation)
        assert question.interface == 9
        assert net.bound_to == before
        assert agent.role.home_agent is machine


def test_home_agent_refuses_keys_of_nodes_it_does_not_serve() -> None:
    strangers = make_keys(1, home_address=HOME_ADDRESS + 1)[1:]
    with pytest.raises(ValueError, match="not served"):
        build_agent(
            home_agent_configuration(), random=Random(1), persisted={}, associations=strangers
        )


def test_packet_that_no_policy_lets_out_is_not_sent() -> None:
    driver = AgentDriver()
    discard = SecurityPolicy(
        purpose=Purpose.BINDING,
        home_address=None,
        outbound=Selector(message=BindingUpdate),
        inbound=Selector(message=BindingUpdate),
        associations=None,
    )
    policies = SecurityPolicyDatabase([discard])
    agent = Agent(driver.agent.role, policies=policies, dispatcher=Dispatcher(policies))
    driver.agent = agent
    assert not sent(driver.visit("2001:db8:a::/64"), BindingUpdate)
    assert agent.counters["packets-refused-by-policy"] == 1


def test_datagram_counter_counts_what_came_in() -> None:
    driver = AgentDriver()
    driver.agent.handle(DatagramReceived(data=b"", interface=2), 0.0)
    assert driver.agent.counters["packets-received"] == 1
