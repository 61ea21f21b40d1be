"""Returning home (RFC 6275 11.5.5)."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import (
    AddAddress,
    HoldTunnel,
    LeaveHomeLink,
    RemoveTunnel,
    SendPacket,
    UseHomeLink,
)
from mnagent.core.events import AddressAppeared, LinkDown
from mnagent.core.indications import RouterLost
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingUpdate
from mnagent.wire.mobility_options import AlternateCareOfAddress
from mnagent.wire.ndisc import (
    NeighborAdvertisement,
    NeighborSolicitation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
)
from tests.support.driver import (
    CARE_OF_A,
    CARE_OF_B,
    HOME_ADDRESS,
    HOME_AGENT,
    INTERFACE,
    OWN_MAC,
    ROUTER,
    MobileNodeDriver,
)
from tests.support.matching import kinds, of_type, only, reports, sent
from tests.support.nodes import solicited_node
from tests.support.packets import received
from tests.support.requirement import requirement
from tests.support.topology import CORRESPONDENT, PREFIX_A, PREFIX_B, Topology
from tests.support.world import World

UNSPECIFIED = IPv6Address("::")
ALL_NODES = IPv6Address("ff02::1")
HOME_AGENT_MAC = bytes.fromhex("020000000001")
NEIGHBOR = IPv6Address("2001:db8:1::77")
NEIGHBOR_MAC = bytes.fromhex("020000000077")


def away() -> MobileNodeDriver:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.tell(
        AddressAppeared(interface=INTERFACE, address=IPv6Address("fe80::10"), prefix_length=64)
    )
    driver.visit(CARE_OF_A)
    driver.acknowledge()
    return driver


def knows_home_agent() -> dict[str, object]:
    return {"addresses": ((HOME_AGENT, HOME_AGENT_MAC),)}


def defence(mac: bytes = HOME_AGENT_MAC) -> IPv6Packet:
    """The home agent's answer to a solicitation for the home address from nobody."""
    message = NeighborAdvertisement(HOME_ADDRESS, options=(TargetLinkLayerAddress(mac),))
    return IPv6Packet(HOME_AGENT, ALL_NODES, message, hop_limit=255)


def solicitation(target: IPv6Address = HOME_ADDRESS) -> IPv6Packet:
    message = NeighborSolicitation(target, options=(SourceLinkLayerAddress(NEIGHBOR_MAC),))
    return IPv6Packet(NEIGHBOR, solicited_node(target), message, hop_limit=255)


@requirement("RFC6275-11.5.5", "RET-01", "RET-02")
def test_deregistration_from_home_has_the_demanded_form_and_comes_before_any_use() -> None:
    driver = away()
    outputs = driver.come_home(**knows_home_agent())
    ((action, update),) = sent(outputs, BindingUpdate)
    assert update.acknowledge and update.home_registration and update.lifetime == 0
    assert update.options == (AlternateCareOfAddress(HOME_ADDRESS),)
    assert (action.packet.source, action.packet.destination) == (HOME_ADDRESS, HOME_AGENT)
    assert action.packet.extension_headers == ()
    assert action.link_layer_destination == HOME_AGENT_MAC
    assert not of_type(outputs, UseHomeLink)
    assert of_type(outputs, HoldTunnel)
    assert of_type(driver.acknowledge(), UseHomeLink)


@requirement("RFC6275-11.5.5", "RET-03")
def test_unknown_home_agent_is_asked_for_from_the_unspecified_address() -> None:
    driver = away()
    outputs = driver.come_home()
    ((action, message),) = sent(outputs, NeighborSolicitation)
    assert message.target == HOME_ADDRESS
    assert action.packet.source == UNSPECIFIED
    assert action.packet.destination == solicited_node(HOME_ADDRESS)
    assert action.packet.hop_limit == 255
    assert not sent(outputs, BindingUpdate)
    other = IPv6Packet(
        HOME_AGENT,
        ALL_NODES,
        NeighborAdvertisement(NEIGHBOR, options=(TargetLinkLayerAddress(NEIGHBOR_MAC),)),
        hop_limit=255,
    )
    assert driver.tell(received(other)) == []
    ((action, _),) = sent(driver.tell(received(defence())), BindingUpdate)
    assert action.link_layer_destination == HOME_AGENT_MAC


@requirement("RFC6275-11.5.5", "RET-03")
def test_advertisement_without_a_link_layer_option_gives_the_frames_address() -> None:
    driver = away()
    driver.come_home()
    bare = IPv6Packet(HOME_AGENT, ALL_NODES, NeighborAdvertisement(HOME_ADDRESS), hop_limit=255)
    outputs = driver.tell(received(bare, link_layer_source=HOME_AGENT_MAC))
    ((action, _),) = sent(outputs, BindingUpdate)
    assert action.link_layer_destination == HOME_AGENT_MAC


@requirement("RFC6275-11.5.5", "RET-03")
def test_silent_home_agent_is_solicited_three_times_and_then_resolved_by_the_host() -> None:
    driver = away()
    driver.come_home()
    outputs = driver.advance(3.0)
    assert len(sent(outputs, NeighborSolicitation)) == 2
    ((action, _),) = sent(outputs, BindingUpdate)
    assert action.link_layer_destination is None


@requirement("RFC6275-11.5.5", "RET-08")
def test_learnt_home_agent_address_is_not_trusted_for_ever() -> None:
    driver = away()
    driver.come_home()
    driver.tell(received(defence(NEIGHBOR_MAC)))
    outputs = driver.advance(8.0)
    ways = [action.link_layer_destination for action, _ in sent(outputs, BindingUpdate)]
    assert ways == [NEIGHBOR_MAC, None, None]


@requirement("RFC6275-11.5.5", "RET-04")
def test_home_address_is_not_probed_while_the_home_agent_may_defend_it() -> None:
    driver = away()
    outputs = driver.come_home(**knows_home_agent()) + driver.acknowledge() + driver.advance(10)
    assert not sent(outputs, NeighborSolicitation)
    assert not of_type(outputs, AddAddress)


@requirement("RFC6275-11.5.5", "RET-05")
def test_home_address_is_probed_and_no_update_sent_when_no_binding_can_live() -> None:
    driver = away()
    driver.tell(LinkDown(interface=INTERFACE))
    driver.advance(700)
    driver.link_up()
    outputs = driver.come_home()
    ((action, message),) = sent(outputs, NeighborSolicitation)
    assert message.target == HOME_ADDRESS and action.packet.source == UNSPECIFIED
    outputs = driver.advance(1.0)
    assert only(outputs, UseHomeLink).home_address == HOME_ADDRESS
    assert len(driver.updates()) == 1


@requirement("RFC6275-11.5.5", "RET-05")
def test_home_address_found_in_use_at_home_is_not_used() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.come_home()
    outputs = driver.tell(received(defence(NEIGHBOR_MAC)))
    assert reports(outputs, "duplicate-address")
    assert of_type(outputs, RemoveTunnel)
    assert not of_type(outputs + driver.advance(10), UseHomeLink)
    assert driver.node.state == "at-home-duplicate"


@requirement("RFC6275-11.5.5", "RET-06")
def test_solicitation_after_the_update_is_answered_to_the_sender_alone() -> None:
    driver = away()
    driver.come_home(**knows_home_agent())
    ((action, message),) = sent(driver.tell(received(solicitation())), NeighborAdvertisement)
    assert action.link_layer_destination == NEIGHBOR_MAC
    assert action.packet.destination == NEIGHBOR
    assert message.target == HOME_ADDRESS and message.solicited
    assert message.options == (TargetLinkLayerAddress(OWN_MAC),)
    assert driver.tell(received(solicitation(NEIGHBOR))) == []
    probe = IPv6Packet(
        UNSPECIFIED, solicited_node(HOME_ADDRESS), NeighborSolicitation(HOME_ADDRESS), hop_limit=255
    )
    assert driver.tell(received(probe)) == []
    assert driver.tell(received(solicitation(), interface=9)) == []


@requirement("RFC6275-11.5.5", "RET-06")
def test_solicitation_before_the_update_is_not_answered() -> None:
    driver = away()
    driver.come_home()
    assert driver.tell(received(solicitation())) == []


@requirement("RFC6275-11.5.5", "RET-07")
def test_home_address_and_link_local_address_are_announced_three_times() -> None:
    driver = away()
    driver.come_home(**knows_home_agent())
    outputs = driver.acknowledge() + driver.advance(10)
    announcements = sent(outputs, NeighborAdvertisement)
    targets = [message.target for _, message in announcements]
    assert targets == [HOME_ADDRESS, IPv6Address("fe80::10")] * 3
    for action, message in announcements:
        assert action.packet.destination == ALL_NODES
        assert message.override and not message.solicited
        assert message.options == (TargetLinkLayerAddress(OWN_MAC),)
        assert action.packet.hop_limit == 255


@requirement("RFC6275-11.5.5", "RET-08")
def test_lost_acknowledgement_is_waited_for_with_back_off_and_the_address_answered() -> None:
    driver = away()
    driver.come_home(**knows_home_agent())
    driver.advance(8)
    assert [update.lifetime for update in driver.updates()] == [600, 0, 0, 0, 0]
    sequences = [update.sequence for update in driver.updates()]
    assert len(set(sequences)) == len(sequences)
    assert sent(driver.tell(received(solicitation())), NeighborAdvertisement)
    assert of_type(driver.acknowledge(), UseHomeLink)


@requirement("RFC6275-11.5.5", "RET-08")
def test_home_address_is_used_when_the_unanswered_binding_has_ended() -> None:
    driver = away()
    driver.come_home(**knows_home_agent())
    outputs = driver.advance(601)
    assert of_type(outputs, UseHomeLink)
    before = len(driver.updates())
    driver.advance(100)
    assert len(driver.updates()) == before


@requirement("RFC6275-11.5.5", "RET-08")
@pytest.mark.parametrize("status", [131, 132, 133])
def test_home_agent_that_knows_no_binding_ends_the_return(status: int) -> None:
    driver = away()
    driver.come_home(**knows_home_agent())
    assert of_type(driver.acknowledge(status=status), UseHomeLink)


@requirement("RFC6275-11.5.5", "RET-08")
def test_refused_deregistration_is_tried_again_later() -> None:
    driver = away()
    driver.come_home(**knows_home_agent())
    assert not of_type(driver.acknowledge(status=129), UseHomeLink)
    driver.advance(7.9)
    assert len(driver.updates()) == 2
    driver.advance(0.2)
    assert len(driver.updates()) == 3
    assert of_type(driver.acknowledge(), UseHomeLink)


@requirement("RFC6275-11.5.5", "RET-10")
def test_tunnel_goes_after_the_home_link_is_in_use() -> None:
    driver = away()
    driver.come_home(**knows_home_agent())
    names = kinds(driver.acknowledge())
    assert names.index("UseHomeLink") < names.index("RemoveTunnel") < names.index("SendPacket")


@requirement("RFC6275-11.5.5", "RET-11")
def test_leaving_home_again_registers_in_full_with_sequence_numbers_going_on() -> None:
    driver = away()
    driver.come_home(**knows_home_agent())
    driver.acknowledge()
    outputs = driver.visit(CARE_OF_B)
    assert only(outputs, LeaveHomeLink).home_address == HOME_ADDRESS
    assert of_type(outputs, HoldTunnel)
    sequences = [update.sequence for update in driver.updates()]
    assert sequences == [sequences[0], sequences[0] + 1, sequences[0] + 2]
    assert driver.updates()[-1].lifetime == 600
    driver.acknowledge()
    assert driver.node.tunnel_address == CARE_OF_B


@requirement("RFC6275-11.5.5", "RET-11")
def test_leaving_home_before_the_acknowledgement_registers_the_new_address() -> None:
    driver = away()
    driver.come_home(**knows_home_agent())
    driver.visit(CARE_OF_B)
    assert driver.updates()[-1].options == (AlternateCareOfAddress(CARE_OF_B),)
    driver.acknowledge()
    assert driver.node.tunnel_address == CARE_OF_B
    assert not driver.all(UseHomeLink)


def test_roam_between_access_points_of_the_home_link_takes_no_second_probe() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.come_home()
    driver.advance(1.0)
    assert driver.node.state == "at-home"
    driver.tell(RouterLost(interface=INTERFACE, router=ROUTER))
    assert driver.node.state == "detached"
    driver.advance(0.2)
    assert of_type(driver.come_home(), UseHomeLink)


def test_another_router_of_the_home_link_only_moves_the_route() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.come_home()
    driver.advance(1.0)
    other = IPv6Address("fe80::2")
    assert driver.come_home(router=other) == []
    outputs = driver.tell(RouterLost(interface=INTERFACE, router=ROUTER))
    assert only(outputs, UseHomeLink).router == other


@requirement("RFC6275-11.5.5", "RET-01", "RET-10", "SEC-02")
@pytest.mark.parametrize("with_router_addresses", [True, False])
def test_return_from_a_foreign_link_ends_the_tunnel_and_traffic_goes_on(
    with_router_addresses: bool,
) -> None:
    with World(seed=11) as world:
        net = Topology(world, with_router_addresses=with_router_addresses)
        net.register_in(net.link_a, PREFIX_A)
        net.register_in(net.link_b, PREFIX_B)
        net.return_home()
        assert net.bound_to is None
        net.mobile_node.send_data(CORRESPONDENT, b"from home")
        net.correspondent.ping(CORRESPONDENT, HOME_ADDRESS)
        world.run_for(1)
        assert net.correspondent.received_data() == [b"from home"]
        assert net.correspondent.echo_replies() == [1]
        protocols = [frame.data[6] for _, frame in net.home.frames]
        assert 41 not in protocols
        updates = [
            action
            for action in net.mobile_node.done(SendPacket)
            if isinstance(action, SendPacket)
            and isinstance(action.packet.payload, BindingUpdate)
            and action.packet.payload.lifetime == 0
        ]
        assert updates and all(action.protect_with is not None for action in updates)
