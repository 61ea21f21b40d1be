"""What the home agent owes its host: links, failures, settings, an orderly end."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import IPv6Network
from random import Random

import pytest

from mnagent.core.actions import (
    Finish,
    InterceptHomeAddress,
    JoinGroup,
    LeaveGroup,
    RemoveTunnel,
    ReportEvent,
    SendPacket,
    SetTunnel,
    StopIntercepting,
)
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    ActionFailed,
    AddressVanished,
    LinkDown,
    LinkUp,
    PacketReceived,
    ShutdownRequested,
)
from mnagent.mobility.addresses import solicited_node_group
from mnagent.mobility.home_agent import (
    HOME_LINK_IS_DOWN,
    HOST_FAILURE_DELAY,
    AuthorisedMobileNode,
    HomeAgent,
    HomePrefix,
)
from mnagent.wire.ipv6 import IPv6Packet, RawPayload
from mnagent.wire.mobility import BindingStatus, BindingUpdate
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation, TargetLinkLayerAddress
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    FOREIGN_SIDE,
    HOME_ADDRESS,
    HOME_LINK,
    HOME_LINK_LOCAL,
    NEIGHBOR,
    OTHER_CARE_OF_ADDRESS,
    OTHER_HOME_ADDRESS,
    SETTINGS,
    actions_of,
    advertisement,
    binding_update,
    make_home_agent,
    on_home_link,
    only_acknowledgement,
    register,
    reports,
    sent,
    solicitation,
)

NEW_MAC = bytes.fromhex("0200000000ff")
OTHER_INTERFACE = 9


def link_up(interface: int = HOME_LINK) -> LinkUp:
    return LinkUp(interface=interface, name="home0", link_layer_address=NEW_MAC)


def test_settings_that_make_no_sense_raise() -> None:
    with pytest.raises(ValueError, match="max_lifetime"):
        replace(SETTINGS, max_lifetime=3)
    with pytest.raises(ValueError, match="max_bindings"):
        replace(SETTINGS, max_bindings=0)


def test_home_agent_payload_associations_reach_the_tunnel() -> None:
    node = AuthorisedMobileNode(home_address=HOME_ADDRESS, outbound_spi=300, inbound_spi=301)
    actions = register(make_home_agent(mobile_nodes=(node,)))
    (tunnel,) = actions_of(actions, SetTunnel)
    assert (tunnel.outbound_spi, tunnel.inbound_spi) == (300, 301)


def test_home_agent_reports_what_becomes_of_a_binding() -> None:
    home_agent = make_home_agent()
    (created,) = reports(register(home_agent), "binding-created")
    assert ("care_of_address", str(CARE_OF_ADDRESS)) in created.details
    moved = binding_update(sequence=2, source=OTHER_CARE_OF_ADDRESS)
    (updated,) = reports(home_agent.handle(moved, 2.0), "binding-updated")
    assert ("care_of_address", str(OTHER_CARE_OF_ADDRESS)) in updated.details
    stale = home_agent.handle(binding_update(sequence=2), 3.0)
    (rejected,) = reports(stale, "binding-rejected")
    assert rejected.warning
    assert ("status", "135") in rejected.details
    gone = home_agent.handle(binding_update(sequence=3, lifetime=0), 4.0)
    (removed,) = reports(gone, "binding-removed")
    assert ("reason", "deregistered") in removed.details


def test_home_agent_refresh_from_same_place_leaves_the_tunnel_alone() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    assert not actions_of(home_agent.handle(binding_update(sequence=2), 300.0), SetTunnel)
    assert home_agent.bindings[0].expires_at == 900.0


def test_home_agent_change_of_link_local_bit_while_probing_probes_anew() -> None:
    home_agent = make_home_agent()
    home_agent.handle(binding_update(), 0.0)
    update = binding_update(sequence=2, link_local_compatibility=True)
    actions = home_agent.handle(update, 0.5)
    assert len(sent(actions, NeighborSolicitation)) == 2
    assert home_agent.next_deadline() == 1.5
    assert home_agent.handle_timer(1.0) == []
    assert only_acknowledgement(home_agent.handle_timer(1.5)).is_accepted


def test_home_agent_correspondent_registration_is_dropped() -> None:
    home_agent = make_home_agent()
    assert home_agent.handle(binding_update(home_registration=False), 0.0) == []
    assert home_agent.drops[DropReason.UNSUPPORTED_MESSAGE] == 1


def test_home_agent_without_detection_accepts_at_once_and_announces() -> None:
    home_agent = make_home_agent(duplicate_address_detection_transmits=0)
    actions = home_agent.handle(binding_update(), 0.0)
    assert only_acknowledgement(actions).is_accepted
    assert sent(actions, NeighborAdvertisement)
    assert not sent(actions, NeighborSolicitation)


def test_home_agent_advertisement_with_impossible_flags_is_malformed() -> None:
    home_agent = make_home_agent()
    home_agent.handle(binding_update(), 0.0)
    assert home_agent.handle(advertisement(solicited=True), 0.5) == []
    assert home_agent.drops[DropReason.MALFORMED] == 1
    assert home_agent.probing == (HOME_ADDRESS,)


def test_home_agent_packet_that_is_none_of_its_business_is_dropped() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    plain = IPv6Packet(NEIGHBOR, OTHER_HOME_ADDRESS, RawPayload(6, b""))
    to_home_address = IPv6Packet(NEIGHBOR, HOME_ADDRESS, RawPayload(6, b""))
    assert home_agent.handle(on_home_link(plain), 2.0) == []
    assert home_agent.handle(on_home_link(to_home_address), 2.0) == []
    assert home_agent.drops[DropReason.UNEXPECTED_MESSAGE] == 2


def test_home_agent_unreachable_needs_the_packet_it_quotes() -> None:
    home_agent = make_home_agent()
    register(home_agent, link_local_compatibility=True)
    packet = IPv6Packet(NEIGHBOR, HOME_LINK_LOCAL, RawPayload(6, b""))
    assert home_agent.handle(on_home_link(packet), 2.0) == []


def test_home_agent_unreachable_in_a_flood_is_rate_limited() -> None:
    home_agent = make_home_agent()
    register(home_agent, link_local_compatibility=True)
    packet = IPv6Packet(NEIGHBOR, HOME_LINK_LOCAL, RawPayload(6, b""))
    event = PacketReceived(packet=packet, interface=HOME_LINK, data=bytes(40))
    answers = [answer for _ in range(100) for answer in home_agent.handle(event, 2.0)]
    assert len(answers) == 10


def test_home_agent_event_of_other_machines_is_ignored() -> None:
    event = AddressVanished(interface=HOME_LINK, address=HOME_ADDRESS)
    assert make_home_agent().handle(event, 0.0) == []


def test_home_agent_link_down_ends_probes_and_refuses_new_ones() -> None:
    home_agent = make_home_agent()
    home_agent.handle(binding_update(), 0.0)
    actions = home_agent.handle(LinkDown(interface=HOME_LINK), 0.5)
    assert actions_of(actions, LeaveGroup)
    assert home_agent.next_deadline() is None
    refusal = home_agent.handle(binding_update(sequence=2), 1.0)
    assert only_acknowledgement(refusal).status == BindingStatus.INSUFFICIENT_RESOURCES
    (report,) = actions_of(refusal, ReportEvent)
    assert ("sentence", HOME_LINK_IS_DOWN) in report.details
    assert not home_agent.is_home_link_up
    home_agent.handle(link_up(), 2.0)
    assert home_agent.is_home_link_up
    home_agent.handle(binding_update(sequence=3), 3.0)
    assert home_agent.probing == (HOME_ADDRESS,)


def test_home_agent_link_down_and_up_keeps_bindings_and_announces_anew() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    assert home_agent.handle(LinkDown(interface=HOME_LINK), 1.5) == []
    assert home_agent.next_deadline() == 601.0
    assert home_agent.handle_timer(2.0) == []
    assert home_agent.bindings
    actions = home_agent.handle(link_up(), 3.4)
    assert actions_of(actions, JoinGroup)
    (announcement,) = sent(actions, NeighborAdvertisement)
    payload = announcement.packet.payload
    assert isinstance(payload, NeighborAdvertisement)
    assert payload.options == (TargetLinkLayerAddress(NEW_MAC),)
    assert home_agent.next_deadline() == 4.4


def test_home_agent_whose_home_link_is_made_anew_defends_there_whom_nobody_else_has() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    home_agent.handle(LinkDown(interface=HOME_LINK), 1.5)
    actions = home_agent.move(OTHER_INTERFACE, NEW_MAC, 1.6)
    assert LeaveGroup(interface=HOME_LINK, group=solicited_node_group(HOME_ADDRESS)) in actions
    assert JoinGroup(interface=OTHER_INTERFACE, group=solicited_node_group(HOME_ADDRESS)) in actions
    (question,) = sent(actions, NeighborSolicitation)
    assert question.interface == OTHER_INTERFACE
    assert sent(home_agent.handle(link_up(OTHER_INTERFACE), 1.6), NeighborSolicitation) == []
    announcements = sent(home_agent.handle_timer(3.0), NeighborAdvertisement)
    assert [each.interface for each in announcements] == [OTHER_INTERFACE]
    payload = announcements[0].packet.payload
    assert isinstance(payload, NeighborAdvertisement)
    assert payload.options == (TargetLinkLayerAddress(NEW_MAC),)
    asked = replace(solicitation(), interface=OTHER_INTERFACE)
    assert sent(home_agent.handle(asked, 3.1), NeighborAdvertisement)
    assert not sent(home_agent.handle(solicitation(), 3.2), NeighborAdvertisement)
    # The sequence number is known as before.
    stale = only_acknowledgement(home_agent.handle(binding_update(sequence=1), 3.3))
    assert stale.status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW


def test_home_agent_whose_home_link_is_made_anew_has_probes_begun_again() -> None:
    home_agent = make_home_agent(early_forwarding=True)
    home_agent.handle(binding_update(), 0.0)
    actions = home_agent.move(OTHER_INTERFACE, NEW_MAC, 0.1)
    assert actions_of(actions, RemoveTunnel) and actions_of(actions, StopIntercepting)
    assert home_agent.probing == ()
    again = home_agent.handle(binding_update(sequence=2), 0.2)
    assert home_agent.probing == (HOME_ADDRESS,)
    assert actions_of(again, JoinGroup)[0].interface == OTHER_INTERFACE


def test_home_agent_other_links_do_not_matter() -> None:
    home_agent = make_home_agent()
    home_agent.handle(binding_update(), 0.0)
    assert home_agent.handle(LinkDown(interface=FOREIGN_SIDE), 0.1) == []
    assert home_agent.handle(link_up(FOREIGN_SIDE), 0.2) == []
    assert home_agent.probing == (HOME_ADDRESS,)
    virtual = make_home_agent(home_link=None)
    assert virtual.handle(link_up(), 0.0) == []


@pytest.mark.parametrize("kind", [InterceptHomeAddress, SetTunnel])
def test_home_agent_host_that_cannot_intercept_ends_the_binding_for_a_while(
    kind: type[InterceptHomeAddress] | type[SetTunnel],
) -> None:
    home_agent = make_home_agent()
    (action,) = actions_of(register(home_agent), kind)
    failure = ActionFailed(action=action, errno=errno.EPERM, reason="not permitted")
    actions = home_agent.handle(failure, 2.0)
    assert StopIntercepting(home_address=HOME_ADDRESS) in actions
    assert RemoveTunnel(home_address=HOME_ADDRESS) in actions
    (removed,) = reports(actions, "binding-removed")
    assert ("reason", "not permitted") in removed.details
    assert home_agent.bindings == ()
    assert home_agent.handle(failure, 2.0) == []

    refused = only_acknowledgement(home_agent.handle(binding_update(sequence=2), 3.0))
    assert refused.status == BindingStatus.INSUFFICIENT_RESOURCES
    home_agent.handle(binding_update(sequence=3), 2.0 + HOST_FAILURE_DELAY)
    assert home_agent.probing == (HOME_ADDRESS,)


def test_home_agent_group_that_cannot_be_joined_ends_the_probe() -> None:
    home_agent = make_home_agent()
    home_agent.handle(binding_update(), 0.0)
    other = JoinGroup(interface=HOME_LINK, group=solicited_node_group(OTHER_HOME_ADDRESS))
    assert home_agent.handle(ActionFailed(action=other, errno=errno.ENOBUFS), 0.1) == []
    mine = JoinGroup(interface=HOME_LINK, group=solicited_node_group(HOME_ADDRESS))
    actions = home_agent.handle(ActionFailed(action=mine, errno=errno.ENOBUFS), 0.1)
    status = only_acknowledgement(actions).status
    assert status == BindingStatus.INSUFFICIENT_RESOURCES
    assert home_agent.probing == ()


def test_home_agent_packet_that_could_not_be_sent_is_left_to_retransmission() -> None:
    home_agent = make_home_agent()
    (answer,) = actions_of(home_agent.handle(binding_update(lifetime=0), 0.0), SendPacket)
    assert home_agent.handle(ActionFailed(action=answer, errno=errno.ENETDOWN), 0.0) == []


def test_home_agent_shutdown_leaves_the_host_as_it_was() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    other = binding_update(home_address=OTHER_HOME_ADDRESS, source=OTHER_CARE_OF_ADDRESS)
    home_agent.handle(other, 2.0)
    actions = home_agent.handle(ShutdownRequested(), 2.5)
    assert StopIntercepting(home_address=HOME_ADDRESS) in actions
    assert RemoveTunnel(home_address=HOME_ADDRESS) in actions
    assert {leave.group for leave in actions_of(actions, LeaveGroup)} == {
        solicited_node_group(HOME_ADDRESS),
        solicited_node_group(OTHER_HOME_ADDRESS),
    }
    assert actions[-1] == Finish()
    assert home_agent.next_deadline() is None
    assert home_agent.handle(solicitation(), 3.0) == []
    assert home_agent.handle_timer(100.0) == []


def test_home_agent_two_home_addresses_are_independent() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    other = binding_update(home_address=OTHER_HOME_ADDRESS, source=OTHER_CARE_OF_ADDRESS)
    home_agent.handle(other, 2.0)
    home_agent.handle_timer(3.0)
    assert len(home_agent.bindings) == 2
    home_agent.handle(binding_update(sequence=2, lifetime=0), 4.0)
    (entry,) = home_agent.bindings
    assert entry.home_address == OTHER_HOME_ADDRESS


def test_home_agent_full_cache_serves_again_whom_it_just_let_go() -> None:
    home_agent = make_home_agent(max_bindings=1)
    register(home_agent)
    home_agent.handle(binding_update(sequence=2, lifetime=0), 2.0)
    home_agent.handle(binding_update(home_address=OTHER_HOME_ADDRESS), 2.1)
    refused = only_acknowledgement(home_agent.handle(binding_update(sequence=3), 2.2))
    assert refused.status == BindingStatus.INSUFFICIENT_RESOURCES
    home_agent.handle_timer(3.1)
    assert [entry.home_address for entry in home_agent.bindings] == [OTHER_HOME_ADDRESS]


def test_home_agent_prefix_that_is_not_first_is_found() -> None:
    first = HomePrefix(prefix=IPv6Network("2001:db8:9::/64"))
    settings = replace(SETTINGS, home_prefixes=(first, *SETTINGS.home_prefixes))
    home_agent = HomeAgent(settings, random=Random(2))
    assert home_agent.handle(binding_update(), 0.0)
    assert home_agent.probing == (HOME_ADDRESS,)


def test_home_agent_unknown_extension_of_an_update_is_ignored() -> None:
    update = BindingUpdate(sequence=1, lifetime=600, home_registration=True, other_flags=0x0FFF)
    event = binding_update()
    packet = replace(event.packet, payload=update)
    home_agent = make_home_agent()
    home_agent.handle(replace(event, packet=packet), 0.0)
    assert only_acknowledgement(home_agent.handle_timer(1.0)).other_flags == 0


def test_home_agent_forwarding_early_takes_packets_while_probing_and_answers_after() -> None:
    home_agent = make_home_agent(early_forwarding=True)
    actions = home_agent.handle(binding_update(), 0.0)
    assert InterceptHomeAddress(home_address=HOME_ADDRESS) in actions
    assert [tunnel.remote for tunnel in actions_of(actions, SetTunnel)] == [CARE_OF_ADDRESS]
    assert home_agent.bindings == ()
    moved = home_agent.handle(binding_update(sequence=2, source=OTHER_CARE_OF_ADDRESS), 0.2)
    assert [tunnel.remote for tunnel in actions_of(moved, SetTunnel)] == [OTHER_CARE_OF_ADDRESS]
    same = home_agent.handle(binding_update(sequence=3, source=OTHER_CARE_OF_ADDRESS), 0.3)
    assert same == []
    deadline = home_agent.next_deadline()
    while not home_agent.bindings:
        assert deadline is not None
        actions = home_agent.handle_timer(deadline)
        deadline = home_agent.next_deadline()
    assert only_acknowledgement(actions).status == BindingStatus.BINDING_UPDATE_ACCEPTED
    assert not actions_of(actions, SetTunnel)
    assert home_agent.forwarding == {HOME_ADDRESS: OTHER_CARE_OF_ADDRESS}


def test_home_agent_forwarding_early_for_a_duplicate_gives_the_packets_back() -> None:
    home_agent = make_home_agent(early_forwarding=True)
    home_agent.handle(binding_update(), 0.0)
    actions = home_agent.handle(advertisement(HOME_ADDRESS), 0.1)
    status = only_acknowledgement(actions).status
    assert status == BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED
    assert StopIntercepting(home_address=HOME_ADDRESS) in actions
    assert RemoveTunnel(home_address=HOME_ADDRESS) in actions
    assert home_agent.forwarding == {}


def test_home_agent_host_that_cannot_forward_early_ends_the_probe_for_a_while() -> None:
    home_agent = make_home_agent(early_forwarding=True)
    (tunnel,) = actions_of(home_agent.handle(binding_update(), 0.0), SetTunnel)
    failure = ActionFailed(action=tunnel, errno=errno.EPERM, reason="not permitted")
    actions = home_agent.handle(failure, 0.1)
    assert only_acknowledgement(actions).status == BindingStatus.INSUFFICIENT_RESOURCES
    assert StopIntercepting(home_address=HOME_ADDRESS) in actions
    assert home_agent.probing == ()
    refused = only_acknowledgement(home_agent.handle(binding_update(sequence=2), 3.0))
    assert refused.status == BindingStatus.INSUFFICIENT_RESOURCES
