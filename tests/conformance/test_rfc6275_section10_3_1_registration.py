"""Primary care-of address registration at the home agent (RFC 6275 9.3.1, 9.5, 10.2 and 10.3.1)."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest

from mnagent.core.actions import (
    AddAddress,
    InterceptHomeAddress,
    JoinGroup,
    SendPacket,
    SetTunnel,
    StopIntercepting,
    TunnelEnd,
)
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.mobility.addresses import UNSPECIFIED_ADDRESS, solicited_node_group
from mnagent.mobility.home_agent import AuthorisedMobileNode, HomePrefix
from mnagent.wire.ipv6 import Type2RoutingHeader
from mnagent.wire.mobility import BindingAcknowledgement, BindingStatus
from mnagent.wire.mobility_options import (
    AlternateCareOfAddress,
    BindingRefreshAdvice,
    NonceIndices,
)
from mnagent.wire.ndisc import NeighborSolicitation
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    HOME_ADDRESS,
    HOME_AGENT_ADDRESS,
    HOME_LINK,
    HOME_LINK_LOCAL,
    HOME_PREFIX,
    OTHER_CARE_OF_ADDRESS,
    OTHER_HOME_ADDRESS,
    actions_of,
    advertisement,
    binding_update,
    make_home_agent,
    only_acknowledgement,
    probe_by_another,
    register,
    sent,
    update_from_home,
)
from tests.support.requirement import requirement


@requirement("RFC6275-10.3.1", "HA-01")
def test_home_agent_first_registration_probes_then_accepts() -> None:
    home_agent = make_home_agent()

    actions = home_agent.handle(binding_update(sequence=7), 0.0)
    (join,) = actions_of(actions, JoinGroup)
    (probe,) = sent(actions, NeighborSolicitation)
    assert join.group == solicited_node_group(HOME_ADDRESS)
    assert probe.packet.source == UNSPECIFIED_ADDRESS
    assert probe.packet.destination == solicited_node_group(HOME_ADDRESS)
    assert probe.packet.hop_limit == 255
    assert probe.interface == HOME_LINK
    assert not sent(actions, BindingAcknowledgement)
    assert home_agent.bindings == ()
    assert home_agent.next_deadline() == 1.0

    actions = home_agent.handle_timer(1.0)
    (answer,) = sent(actions, BindingAcknowledgement)
    assert answer.packet.source == HOME_AGENT_ADDRESS
    assert answer.packet.destination == CARE_OF_ADDRESS
    assert answer.packet.extension_headers == (Type2RoutingHeader(HOME_ADDRESS),)
    acknowledgement = only_acknowledgement(actions)
    assert acknowledgement.status == BindingStatus.BINDING_UPDATE_ACCEPTED
    assert acknowledgement.lifetime == 600
    (tunnel,) = actions_of(actions, SetTunnel)
    assert (tunnel.end, tunnel.local) == (TunnelEnd.HOME_AGENT, HOME_AGENT_ADDRESS)
    assert (tunnel.home_address, tunnel.remote) == (HOME_ADDRESS, CARE_OF_ADDRESS)
    assert InterceptHomeAddress(home_address=HOME_ADDRESS) in actions
    assert actions.index(tunnel) < actions.index(answer)
    (entry,) = home_agent.bindings
    assert entry.is_home_registration
    assert entry.care_of_address == CARE_OF_ADDRESS


@requirement("RFC6275-10.3.1", "HA-02")
def test_home_agent_update_without_acknowledge_bit_is_acknowledged() -> None:
    actions = register(make_home_agent(), acknowledge=False)
    assert only_acknowledgement(actions).status == BindingStatus.BINDING_UPDATE_ACCEPTED


@requirement("RFC6275-10.3.1", "HA-06")
@pytest.mark.parametrize("acknowledge", [True, False])
def test_home_agent_home_address_of_another_prefix_is_refused(acknowledge: bool) -> None:
    home_agent = make_home_agent()
    stranger = IPv6Address("2001:db8:ffff::10")
    update = binding_update(home_address=stranger, acknowledge=acknowledge)
    actions = home_agent.handle(update, 0.0)
    assert only_acknowledgement(actions).status == BindingStatus.NOT_HOME_SUBNET
    assert home_agent.bindings == home_agent.probing == ()


@requirement("RFC6275-10.3.1", "HA-06")
def test_home_agent_home_prefix_no_longer_valid_is_refused() -> None:
    home_agent = make_home_agent(
        home_prefixes=(HomePrefix(prefix=HOME_PREFIX, valid_lifetime=0, preferred_lifetime=0),)
    )
    actions = home_agent.handle(binding_update(), 0.0)
    assert only_acknowledgement(actions).status == BindingStatus.NOT_HOME_SUBNET


@requirement("RFC6275-10.3.1", "HA-07")
def test_home_agent_home_address_it_does_not_serve_is_prohibited() -> None:
    home_agent = make_home_agent()
    actions = home_agent.handle(binding_update(home_address=IPv6Address("2001:db8:1::77")), 0.0)
    assert only_acknowledgement(actions).status == BindingStatus.ADMINISTRATIVELY_PROHIBITED


@requirement("RFC6275-10.3.1", "HA-07", "HA-64")
def test_home_agent_full_cache_refuses_newcomer_and_keeps_registrations() -> None:
    home_agent = make_home_agent(max_bindings=1)
    register(home_agent)
    newcomer = binding_update(home_address=OTHER_HOME_ADDRESS, source=OTHER_CARE_OF_ADDRESS)
    actions = home_agent.handle(newcomer, 2.0)
    assert only_acknowledgement(actions).status == BindingStatus.INSUFFICIENT_RESOURCES
    assert not actions_of(actions, StopIntercepting)
    assert [entry.home_address for entry in home_agent.bindings] == [HOME_ADDRESS]


@requirement("RFC6275-9.6", "HA-64")
def test_home_agent_full_cache_counts_registrations_that_are_being_probed() -> None:
    home_agent = make_home_agent(max_bindings=1)
    home_agent.handle(binding_update(), 0.0)
    actions = home_agent.handle(binding_update(home_address=OTHER_HOME_ADDRESS), 0.1)
    assert only_acknowledgement(actions).status == BindingStatus.INSUFFICIENT_RESOURCES
    home_agent.handle(binding_update(sequence=2), 0.2)
    assert home_agent.probing == (HOME_ADDRESS,)


@requirement("RFC6275-10.3.1", "HA-08")
def test_home_agent_update_without_home_address_option_is_discarded() -> None:
    home_agent = make_home_agent()
    assert home_agent.handle(binding_update(home_address=None), 0.0) == []
    assert home_agent.drops[DropReason.NO_HOME_ADDRESS_OPTION] == 1


@requirement("RFC6275-9.3.1", "HA-09")
@pytest.mark.parametrize("link_local_compatibility", [False, True])
@pytest.mark.parametrize("address", ["ff02::1", "ff0e::10", "fe80::10", "::1", "::"])
def test_home_agent_home_address_not_routable_is_dropped(
    address: str, link_local_compatibility: bool
) -> None:
    home_agent = make_home_agent()
    update = binding_update(
        home_address=IPv6Address(address), link_local_compatibility=link_local_compatibility
    )
    assert home_agent.handle(update, 0.0) == []
    assert home_agent.drops[DropReason.HOME_ADDRESS_NOT_ROUTABLE] == 1


@requirement("RFC6275-6.1.7", "CN-43")
@pytest.mark.parametrize("address", ["ff0e::10", "fe80::10", "::1", "::", "::ffff:192.0.2.1"])
def test_home_agent_care_of_address_not_routable_is_dropped(address: str) -> None:
    home_agent = make_home_agent()
    update = binding_update(options=(AlternateCareOfAddress(IPv6Address(address)),))
    assert home_agent.handle(update, 0.0) == []
    assert home_agent.drops[DropReason.CARE_OF_ADDRESS_NOT_ROUTABLE] == 1


@requirement("RFC6275-15.1", "HA-65")
@pytest.mark.parametrize("address", [HOME_AGENT_ADDRESS, OTHER_HOME_ADDRESS])
def test_home_agent_care_of_address_that_leads_back_is_prohibited(address: IPv6Address) -> None:
    home_agent = make_home_agent()
    actions = home_agent.handle(binding_update(options=(AlternateCareOfAddress(address),)), 0.0)
    assert only_acknowledgement(actions).status == BindingStatus.ADMINISTRATIVELY_PROHIBITED
    assert home_agent.probing == ()


@requirement("RFC6275-9.5.1", "HA-10")
@pytest.mark.parametrize("lifetime", [600, 0])
def test_home_agent_update_with_nonce_indices_is_discarded(lifetime: float) -> None:
    home_agent = make_home_agent()
    update = binding_update(lifetime=lifetime, options=(NonceIndices(1, 2),))
    assert home_agent.handle(update, 0.0) == []
    assert home_agent.drops[DropReason.NONCE_INDICES_IN_HOME_REGISTRATION] == 1


@requirement("RFC6275-10.3.1", "HA-11")
@pytest.mark.parametrize("conflict", [advertisement(), probe_by_another()])
def test_home_agent_home_address_in_use_is_refused(conflict: PacketReceived) -> None:
    home_agent = make_home_agent()
    home_agent.handle(binding_update(sequence=9), 0.0)
    actions = home_agent.handle(conflict, 0.5)
    acknowledgement = only_acknowledgement(actions)
    assert acknowledgement.status == BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED
    assert acknowledgement.sequence == 9
    assert home_agent.bindings == home_agent.probing == ()
    assert home_agent.handle_timer(1.0) == []
    assert home_agent.next_deadline() is None


@requirement("RFC6275-10.3.1", "HA-11")
def test_home_agent_own_solicitation_looped_back_is_no_duplicate() -> None:
    home_agent = make_home_agent()
    (probe,) = sent(home_agent.handle(binding_update(), 0.0), NeighborSolicitation)
    payload = probe.packet.payload
    assert isinstance(payload, NeighborSolicitation)
    assert home_agent.handle(probe_by_another(options=payload.options), 0.1) == []
    assert only_acknowledgement(home_agent.handle_timer(1.0)).is_accepted


@requirement("RFC6275-10.3.1", "HA-12")
def test_home_agent_link_local_compatibility_probes_both_addresses() -> None:
    home_agent = make_home_agent()
    actions = home_agent.handle(binding_update(link_local_compatibility=True), 0.0)
    targets = {
        probe.packet.payload.target  # type: ignore[union-attr]
        for probe in sent(actions, NeighborSolicitation)
    }
    assert targets == {HOME_ADDRESS, HOME_LINK_LOCAL}


@requirement("RFC6275-10.3.1", "HA-12")
@pytest.mark.parametrize("taken", [HOME_ADDRESS, HOME_LINK_LOCAL])
def test_home_agent_link_local_compatibility_either_in_use_is_refused(taken: IPv6Address) -> None:
    home_agent = make_home_agent()
    home_agent.handle(binding_update(link_local_compatibility=True), 0.0)
    actions = home_agent.handle(advertisement(taken), 0.5)
    status = only_acknowledgement(actions).status
    assert status == BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED


@requirement("RFC6275-10.3.1", "HA-12")
def test_home_agent_link_local_of_another_mobile_node_is_refused() -> None:
    """This node would not hear its own defence of the first one's link-local address."""
    second = IPv6Address("2001:db8:2::10")
    home_agent = make_home_agent(
        home_prefixes=(
            HomePrefix(prefix=HOME_PREFIX),
            HomePrefix(prefix=IPv6Network("2001:db8:2::/64")),
        ),
        mobile_nodes=tuple(
            AuthorisedMobileNode(home_address=address) for address in (HOME_ADDRESS, second)
        ),
    )
    home_agent.handle(binding_update(link_local_compatibility=True), 0.0)
    update = binding_update(home_address=second, link_local_compatibility=True)
    while_probing = only_acknowledgement(home_agent.handle(update, 0.5))
    home_agent.handle_timer(1.0)
    while_bound = only_acknowledgement(home_agent.handle(update, 2.0))
    for acknowledgement in (while_probing, while_bound):
        status = acknowledgement.status
        assert status == BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED


@requirement("RFC6275-10.3.1", "HA-13")
def test_home_agent_registration_again_is_answered_at_once() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    update = binding_update(sequence=2, source=OTHER_CARE_OF_ADDRESS)
    actions = home_agent.handle(update, 5.0)
    assert only_acknowledgement(actions).status == BindingStatus.BINDING_UPDATE_ACCEPTED
    assert not sent(actions, NeighborSolicitation)
    assert [tunnel.remote for tunnel in actions_of(actions, SetTunnel)] == [OTHER_CARE_OF_ADDRESS]
    (entry,) = home_agent.bindings
    assert (entry.care_of_address, entry.registered_at) == (OTHER_CARE_OF_ADDRESS, 1.0)


@requirement("RFC6275-10.3.1", "HA-14")
def test_home_agent_update_again_while_probing_answers_newest_only() -> None:
    home_agent = make_home_agent()
    home_agent.handle(binding_update(sequence=1), 0.0)
    assert home_agent.handle(binding_update(sequence=3), 0.4) == []
    assert home_agent.handle(binding_update(sequence=2), 0.5) == []
    assert home_agent.drops[DropReason.STALE_SEQUENCE] == 1
    assert home_agent.next_deadline() == 1.0
    assert only_acknowledgement(home_agent.handle_timer(1.0)).sequence == 3


@requirement("RFC6275-10.4.1", "HA-15")
def test_home_agent_never_configures_the_home_address() -> None:
    home_agent = make_home_agent()
    actions = home_agent.handle(binding_update(), 0.0)
    assert not actions_of(actions, InterceptHomeAddress)
    actions += home_agent.handle_timer(1.0)
    assert not actions_of(actions, AddAddress)


@requirement("RFC6275-10.3.1", "HA-16")
@pytest.mark.parametrize(("asked", "granted"), [(7200, 3600), (262140, 3600), (600, 600), (6, 4)])
def test_home_agent_lifetime_is_within_asked_and_policy(asked: float, granted: float) -> None:
    home_agent = make_home_agent(max_lifetime=3600)
    acknowledgement = only_acknowledgement(register(home_agent, lifetime=asked))
    assert acknowledgement.lifetime == granted
    assert home_agent.bindings[0].expires_at == 1.0 + granted


@requirement("RFC6275-10.3.1", "HA-17", "HA-18")
def test_home_agent_lifetime_is_clipped_to_valid_lifetime_of_prefix() -> None:
    prefix = HomePrefix(prefix=HOME_PREFIX, valid_lifetime=301, preferred_lifetime=301)
    acknowledgement = only_acknowledgement(register(make_home_agent(home_prefixes=(prefix,))))
    assert acknowledgement.lifetime == 300
    status = BindingStatus.ACCEPTED_BUT_PREFIX_DISCOVERY_NECESSARY
    assert acknowledgement.status == status


@requirement("RFC6275-10.3.1", "HA-18")
@pytest.mark.parametrize(("preferred", "status"), [(0, 1), (599, 1), (600, 0), (601, 0)])
def test_home_agent_deprecated_prefix_gives_status_1_and_full_lifetime(
    preferred: float, status: int
) -> None:
    prefix = HomePrefix(prefix=HOME_PREFIX, preferred_lifetime=preferred)
    acknowledgement = only_acknowledgement(register(make_home_agent(home_prefixes=(prefix,))))
    assert (acknowledgement.status, acknowledgement.lifetime) == (status, 600)


@requirement("RFC6275-10.3.1", "HA-20")
@pytest.mark.parametrize(
    ("can_follow", "asked", "answered"),
    [(False, True, False), (True, True, True), (True, False, False)],
)
def test_home_agent_key_management_mobility_needs_both_ends(
    can_follow: bool, asked: bool, answered: bool
) -> None:
    home_agent = make_home_agent(key_management_mobility=can_follow)
    acknowledgement = only_acknowledgement(register(home_agent, key_management_mobility=asked))
    assert acknowledgement.key_management_mobility is answered


@requirement("RFC6275-10.3.1", "HA-21")
def test_home_agent_acknowledgement_copies_sequence() -> None:
    assert only_acknowledgement(register(make_home_agent(), sequence=65535)).sequence == 65535


@requirement("RFC6275-10.3.1", "HA-22")
@pytest.mark.parametrize(
    ("advice", "options"),
    [(None, ()), (300, (BindingRefreshAdvice(300),)), (600, ()), (900, ())],
)
def test_home_agent_refresh_advice_is_shorter_than_lifetime(
    advice: float | None, options: tuple[object, ...]
) -> None:
    home_agent = make_home_agent(refresh_advice=advice)
    assert only_acknowledgement(register(home_agent)).options == options
    assert home_agent.bindings[0].expires_at == 601.0


@requirement("RFC6275-9.5.1", "HA-23")
@pytest.mark.parametrize("stale", [15, 14, 0, 32783, 65535])
def test_home_agent_sequence_not_newer_is_refused_with_last_accepted(stale: int) -> None:
    home_agent = make_home_agent()
    register(home_agent, sequence=15)
    update = binding_update(sequence=stale, source=OTHER_CARE_OF_ADDRESS)
    acknowledgement = only_acknowledgement(home_agent.handle(update, 2.0))
    assert acknowledgement.status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW
    assert acknowledgement.sequence == 15
    assert home_agent.bindings[0].care_of_address == CARE_OF_ADDRESS


@requirement("RFC6275-9.5.1", "HA-23")
@pytest.mark.parametrize(("last", "newer"), [(15, 16), (15, 32782), (65535, 0), (32783, 14)])
def test_home_agent_sequence_newer_modulo_65536_is_accepted(last: int, newer: int) -> None:
    home_agent = make_home_agent()
    register(home_agent, sequence=last)
    actions = home_agent.handle(binding_update(sequence=newer), 2.0)
    assert only_acknowledgement(actions).status == BindingStatus.BINDING_UPDATE_ACCEPTED


@requirement("RFC6275-9.5.1", "HA-24")
def test_home_agent_change_of_registration_type_is_refused() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    actions = home_agent.handle(binding_update(sequence=2, home_registration=False), 2.0)
    status = only_acknowledgement(actions).status
    assert status == BindingStatus.REGISTRATION_TYPE_CHANGE_DISALLOWED
    assert home_agent.bindings[0].is_home_registration
    assert home_agent.bindings[0].sequence == 1


@requirement("RFC6275-9.5.4", "HA-01")
def test_home_agent_alternate_care_of_address_is_bound_and_source_is_answered() -> None:
    home_agent = make_home_agent()
    actions = register(home_agent, options=(AlternateCareOfAddress(OTHER_CARE_OF_ADDRESS),))
    (answer,) = sent(actions, BindingAcknowledgement)
    assert answer.packet.destination == CARE_OF_ADDRESS
    assert home_agent.bindings[0].care_of_address == OTHER_CARE_OF_ADDRESS


@requirement("RFC6275-9.5.4", "HA-01")
@pytest.mark.parametrize("source", ["ff02::1", "::"])
def test_home_agent_source_that_is_no_unicast_address_gets_no_answer(source: str) -> None:
    home_agent = make_home_agent()
    assert home_agent.handle(binding_update(source=IPv6Address(source)), 0.0) == []
    assert home_agent.drops[DropReason.MULTICAST_SOURCE] == 1


@requirement("RFC6275-10.2", "HA-66")
def test_home_agent_virtual_home_link_accepts_at_once_without_neighbor_discovery() -> None:
    home_agent = make_home_agent(home_link=None, link_layer_address=b"")
    actions = home_agent.handle(binding_update(link_local_compatibility=True), 0.0)
    assert only_acknowledgement(actions).status == BindingStatus.BINDING_UPDATE_ACCEPTED
    assert InterceptHomeAddress(home_address=HOME_ADDRESS) in actions
    assert len(actions_of(actions, SendPacket)) == 1
    assert not actions_of(actions, JoinGroup)


@requirement("RFC6275-10.2", "HA-66")
def test_home_agent_virtual_home_link_keeps_the_other_rules() -> None:
    home_agent = make_home_agent(home_link=None)
    stranger = binding_update(home_address=IPv6Address("2001:db8:ffff::10"))
    refused = only_acknowledgement(home_agent.handle(stranger, 0.0))
    assert refused.status == BindingStatus.NOT_HOME_SUBNET
    unknown = only_acknowledgement(home_agent.handle(binding_update(lifetime=0), 0.0))
    assert unknown.status == BindingStatus.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE
    home_agent.handle(binding_update(), 0.0)
    stale = only_acknowledgement(home_agent.handle(binding_update(), 1.0))
    assert stale.status == BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW
    assert home_agent.next_deadline() == 600.0
    actions = home_agent.handle_timer(600.0)
    assert StopIntercepting(home_address=HOME_ADDRESS) in actions
    assert home_agent.bindings == ()


@requirement("RFC6275-10.2", "HA-66")
def test_home_agent_virtual_home_link_ignores_neighbor_discovery() -> None:
    home_agent = make_home_agent(home_link=None)
    home_agent.handle(binding_update(), 0.0)
    assert home_agent.handle(probe_by_another(), 1.0) == []
    actions = home_agent.handle(update_from_home(), 2.0)
    (answer,) = sent(actions, BindingAcknowledgement)
    assert answer.link_layer_destination is None
