"""Interception on the home link and packets without a binding (RFC 6275 9.2, 9.3 and 10.4)."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import InterceptHomeAddress, JoinGroup, LeaveGroup, SetTunnel
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.mobility.addresses import ALL_NODES, solicited_node_group
from mnagent.mobility.binding_error import BINDING_ERROR_BURST, BINDING_ERROR_RATE
from mnagent.wire.icmp6 import DestinationUnreachable
from mnagent.wire.ipv6 import (
    DestinationOptions,
    HomeAddressOption,
    IPv6Packet,
    RawPayload,
    Type2RoutingHeader,
)
from mnagent.wire.mobility import (
    BindingError,
    BindingErrorStatus,
    HomeTestInit,
    UnknownMobilityMessage,
)
from mnagent.wire.ndisc import (
    NeighborAdvertisement,
    NeighborSolicitation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
)
from mnagent.wire.packet import decode_packet, encode_packet
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    CORRESPONDENT,
    FOREIGN_SIDE,
    HOME_ADDRESS,
    HOME_AGENT_ADDRESS,
    HOME_AGENT_MAC,
    HOME_LINK,
    HOME_LINK_LOCAL,
    NEIGHBOR,
    NEIGHBOR_MAC,
    OTHER_CARE_OF_ADDRESS,
    OTHER_HOME_ADDRESS,
    actions_of,
    binding_update,
    make_home_agent,
    probe_by_another,
    register,
    sent,
    solicitation,
    update_from_home,
)
from tests.support.requirement import requirement

TCP = RawPayload(6, bytes(20))


def advertised(actions: list[object]) -> list[NeighborAdvertisement]:
    """The Neighbor Advertisements sent."""
    payloads = [action.packet.payload for action in sent(actions, NeighborAdvertisement)]
    return actions_of(payloads, NeighborAdvertisement)


def with_home_address_option(
    payload: object, home_address: IPv6Address = HOME_ADDRESS
) -> IPv6Packet:
    """A packet from the care-of address that names a home address."""
    return IPv6Packet(
        CARE_OF_ADDRESS,
        HOME_AGENT_ADDRESS,
        payload,  # type: ignore[arg-type]
        extension_headers=(DestinationOptions((HomeAddressOption(home_address),)),),
    )


def arriving(packet: IPv6Packet, **changes: object) -> PacketReceived:
    """A packet as it arrives from abroad."""
    arguments: dict[str, object] = {"packet": packet, "interface": FOREIGN_SIDE}
    return PacketReceived(**(arguments | changes))  # type: ignore[arg-type]


def tunnelled(source: IPv6Address = HOME_ADDRESS) -> PacketReceived:
    """A packet of a mobile node that came out of a tunnel without a binding."""
    return arriving(IPv6Packet(source, CORRESPONDENT, TCP), tunnel_source=CARE_OF_ADDRESS)


@requirement("RFC6275-10.4.1", "HA-30")
def test_home_agent_binding_accepted_announces_home_address_three_times() -> None:
    home_agent = make_home_agent()
    actions = register(home_agent)
    (announcement,) = sent(actions, NeighborAdvertisement)
    assert announcement.packet.source == HOME_AGENT_ADDRESS
    assert announcement.packet.destination == ALL_NODES
    assert announcement.packet.hop_limit == 255
    assert announcement.interface == HOME_LINK
    assert announcement.packet.payload == NeighborAdvertisement(
        HOME_ADDRESS,
        router=False,
        solicited=False,
        override=True,
        options=(TargetLinkLayerAddress(HOME_AGENT_MAC),),
    )
    for at in (2.0, 3.0):
        assert home_agent.next_deadline() == at
        assert len(advertised([*home_agent.handle_timer(at)])) == 1
    assert home_agent.next_deadline() == 601.0


@requirement("RFC6275-10.4.1", "HA-31")
def test_home_agent_link_local_compatibility_announces_link_local_too() -> None:
    actions = register(make_home_agent(), link_local_compatibility=True)
    assert {each.target for each in advertised([*actions])} == {HOME_ADDRESS, HOME_LINK_LOCAL}


@requirement("RFC6275-10.4.1", "HA-31")
def test_home_agent_link_local_compatibility_can_change_with_an_update() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    update = binding_update(sequence=2, link_local_compatibility=True)
    assert [each.target for each in advertised([*home_agent.handle(update, 5.0)])] == [
        HOME_LINK_LOCAL
    ]
    actions = home_agent.handle(binding_update(sequence=3), 6.0)
    assert advertised([*actions]) == []
    assert not actions_of(actions, LeaveGroup), "the home address has the same group"
    assert home_agent.handle(solicitation(HOME_LINK_LOCAL), 7.0) == []


@requirement("RFC6275-10.4.1", "HA-32")
@pytest.mark.parametrize("destination", [None, HOME_ADDRESS])
def test_home_agent_solicitation_for_registered_address_is_answered(
    destination: IPv6Address | None,
) -> None:
    home_agent = make_home_agent()
    register(home_agent)
    (answer,) = sent(
        home_agent.handle(solicitation(destination=destination), 2.0), NeighborAdvertisement
    )
    assert answer.packet.destination == NEIGHBOR
    assert answer.link_layer_destination == NEIGHBOR_MAC
    assert answer.packet.payload == NeighborAdvertisement(
        HOME_ADDRESS,
        router=False,
        solicited=True,
        override=False,
        options=(TargetLinkLayerAddress(HOME_AGENT_MAC),),
    )


@requirement("RFC6275-10.4.1", "HA-32")
def test_home_agent_solicitation_for_registered_link_local_is_answered() -> None:
    home_agent = make_home_agent()
    register(home_agent, link_local_compatibility=True)
    (answer,) = advertised([*home_agent.handle(solicitation(HOME_LINK_LOCAL), 2.0)])
    assert answer.target == HOME_LINK_LOCAL


@requirement("RFC6275-10.4.1", "HA-32")
def test_home_agent_joins_group_of_home_address_and_leaves_it_when_unneeded() -> None:
    home_agent = make_home_agent()
    actions = home_agent.handle(binding_update(), 0.0)
    group = solicited_node_group(HOME_ADDRESS)
    assert actions_of(actions, JoinGroup) == [JoinGroup(interface=HOME_LINK, group=group)]
    actions = home_agent.handle_timer(1.0)
    assert not actions_of(actions, JoinGroup) and not actions_of(actions, LeaveGroup)
    actions = home_agent.handle(update_from_home(), 5.0)
    assert actions_of(actions, LeaveGroup) == [LeaveGroup(interface=HOME_LINK, group=group)]


@requirement("RFC6275-10.4.1", "HA-33")
def test_home_agent_solicitation_for_unregistered_address_is_not_answered() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    assert home_agent.handle(solicitation(OTHER_HOME_ADDRESS), 2.0) == []
    assert home_agent.handle(solicitation(HOME_LINK_LOCAL), 2.0) == []
    home_agent.handle(binding_update(home_address=OTHER_HOME_ADDRESS), 3.0)
    assert home_agent.handle(solicitation(OTHER_HOME_ADDRESS), 3.5) == [], "only probed so far"


@requirement("RFC6275-10.4.1", "HA-34")
def test_home_agent_solicitation_after_deregistration_is_not_answered() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    home_agent.handle(update_from_home(), 1.5)
    assert home_agent.handle(solicitation(), 1.6) == []
    assert home_agent.handle_timer(2.0) == [], "nor announced any more"


@requirement("RFC6275-10.4.1", "HA-35")
def test_home_agent_probe_by_another_node_is_defended() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    (answer,) = sent(home_agent.handle(probe_by_another(), 5.0), NeighborAdvertisement)
    assert answer.packet.destination == ALL_NODES
    payload = answer.packet.payload
    assert isinstance(payload, NeighborAdvertisement)
    assert (payload.target, payload.solicited) == (HOME_ADDRESS, False)
    assert home_agent.bindings


@requirement("RFC4861-7.1.1", "HA-32")
@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (solicitation(hop_limit=254), DropReason.BAD_HOP_LIMIT),
        (solicitation(IPv6Address("ff02::1")), DropReason.MALFORMED),
        (solicitation(source=ALL_NODES), DropReason.MALFORMED),
        (probe_by_another(destination=HOME_ADDRESS), DropReason.MALFORMED),
        (
            probe_by_another(options=(SourceLinkLayerAddress(NEIGHBOR_MAC),)),
            DropReason.MALFORMED,
        ),
        (solicitation(interface=FOREIGN_SIDE), DropReason.UNEXPECTED_MESSAGE),
    ],
)
def test_home_agent_invalid_solicitation_is_not_answered(
    event: PacketReceived, reason: DropReason
) -> None:
    home_agent = make_home_agent()
    register(home_agent)
    assert home_agent.handle(event, 5.0) == []
    assert home_agent.drops[reason] == 1


@requirement("RFC6275-10.4.2")
def test_home_agent_binding_intercepts_and_tunnels_both_ways() -> None:
    """The engine does it; this is what it is told: where to, and whom to believe."""
    actions = register(make_home_agent())
    assert actions_of(actions, InterceptHomeAddress) == [
        InterceptHomeAddress(home_address=HOME_ADDRESS)
    ]
    (tunnel,) = actions_of(actions, SetTunnel)
    assert (tunnel.local, tunnel.remote) == (HOME_AGENT_ADDRESS, CARE_OF_ADDRESS)


@requirement("RFC6275-10.4.2", "HA-37")
def test_home_agent_packet_for_link_local_address_of_mobile_node_is_unreachable() -> None:
    home_agent = make_home_agent()
    register(home_agent, link_local_compatibility=True)
    packet = IPv6Packet(NEIGHBOR, HOME_LINK_LOCAL, TCP)
    event = PacketReceived(packet=packet, interface=HOME_LINK, data=bytes(2000))
    (answer,) = sent(home_agent.handle(event, 5.0), DestinationUnreachable)
    assert answer.packet.destination == NEIGHBOR
    assert answer.packet.payload == DestinationUnreachable(3, bytes(1232))


@requirement("RFC6275-10.4.2", "HA-37")
@pytest.mark.parametrize(
    ("source", "payload"),
    [(IPv6Address("ff02::1"), TCP), (NEIGHBOR, DestinationUnreachable(3, bytes(40)))],
)
def test_home_agent_packet_for_link_local_address_from_group_or_error_is_dropped(
    source: IPv6Address, payload: object
) -> None:
    home_agent = make_home_agent()
    register(home_agent, link_local_compatibility=True)
    packet = IPv6Packet(source, HOME_LINK_LOCAL, payload)  # type: ignore[arg-type]
    event = PacketReceived(packet=packet, interface=HOME_LINK, data=bytes(60))
    assert home_agent.handle(event, 5.0) == []


@requirement("RFC6275-9.2", "MHP-02", "MHP-03")
@pytest.mark.parametrize("with_option", [False, True])
def test_home_agent_unknown_mobility_message_is_answered_to_source(with_option: bool) -> None:
    message = UnknownMobilityMessage(99, bytes(6))
    packet = IPv6Packet(CARE_OF_ADDRESS, HOME_AGENT_ADDRESS, message)
    if with_option:
        packet = with_home_address_option(message)
    (answer,) = sent(make_home_agent().handle(arriving(packet), 0.0), BindingError)
    assert answer.packet.source == HOME_AGENT_ADDRESS
    assert answer.packet.destination == CARE_OF_ADDRESS
    assert answer.packet.extension_headers == ()
    assert answer.packet.payload == BindingError(
        status=BindingErrorStatus.UNRECOGNIZED_MOBILITY_HEADER_TYPE,
        home_address=HOME_ADDRESS if with_option else IPv6Address("::"),
        options=(),
    )


@requirement("RFC6275-6.1", "FMT-23", "FMT-29")
def test_home_agent_binding_error_uses_no_binding_and_reverses_no_routing_header() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    packet = IPv6Packet(
        HOME_ADDRESS,
        HOME_AGENT_ADDRESS,
        UnknownMobilityMessage(99, bytes(6)),
        extension_headers=(Type2RoutingHeader(HOME_AGENT_ADDRESS, segments_left=0),),
    )
    (answer,) = sent(home_agent.handle(arriving(packet), 2.0), BindingError)
    assert answer.packet.destination == HOME_ADDRESS
    assert answer.packet.extension_headers == ()


@requirement("RFC5568-6.2", "EXT-15")
@pytest.mark.parametrize("message_type", [8, 9, 10, 14, 15])
def test_home_agent_messages_of_extensions_it_does_not_know_are_unrecognised(
    message_type: int,
) -> None:
    message = UnknownMobilityMessage(message_type, bytes(6))
    packet = IPv6Packet(CARE_OF_ADDRESS, HOME_AGENT_ADDRESS, message)
    received = decode_packet(encode_packet(packet))
    (answer,) = sent(make_home_agent().handle(arriving(received), 0.0), BindingError)
    payload = answer.packet.payload
    assert isinstance(payload, BindingError)
    assert payload.status == BindingErrorStatus.UNRECOGNIZED_MOBILITY_HEADER_TYPE


@requirement("RFC6275-9.3.3", "MHP-08")
@pytest.mark.parametrize("source", ["ff0e::1", "::"])
def test_home_agent_binding_error_needs_a_unicast_source(source: str) -> None:
    packet = IPv6Packet(
        IPv6Address(source), HOME_AGENT_ADDRESS, UnknownMobilityMessage(99, bytes(6))
    )
    assert make_home_agent().handle(arriving(packet), 0.0) == []


@requirement("RFC6275-9.3.3", "MHP-09")
def test_home_agent_binding_errors_in_a_flood_are_rate_limited() -> None:
    home_agent = make_home_agent()
    message = UnknownMobilityMessage(99, bytes(6))
    event = arriving(IPv6Packet(CARE_OF_ADDRESS, HOME_AGENT_ADDRESS, message))
    answers = [
        answer for index in range(10_000) for answer in home_agent.handle(event, index / 1000)
    ]
    assert len(answers) <= BINDING_ERROR_BURST + 10 * BINDING_ERROR_RATE
    assert len(answers) >= 10 * BINDING_ERROR_RATE


@requirement("RFC6275-9.3.3", "MHP-10")
def test_home_agent_binding_error_is_never_answered() -> None:
    home_agent = make_home_agent()
    message = BindingError(status=1, home_address=HOME_ADDRESS, options=())
    plain = IPv6Packet(CARE_OF_ADDRESS, HOME_AGENT_ADDRESS, message)
    assert home_agent.handle(arriving(plain), 0.0) == []
    assert home_agent.handle(arriving(with_home_address_option(message)), 0.0) == []
    assert home_agent.drops[DropReason.UNEXPECTED_MESSAGE] == 2


@requirement("RFC6275-9.3.1", "CN-03", "OPS-03")
def test_home_agent_home_address_option_without_binding_gets_binding_error() -> None:
    home_agent = make_home_agent()
    (answer,) = sent(home_agent.handle(arriving(with_home_address_option(TCP)), 0.0), BindingError)
    assert answer.packet.destination == CARE_OF_ADDRESS
    assert answer.packet.payload == BindingError(
        status=BindingErrorStatus.UNKNOWN_BINDING_FOR_HOME_ADDRESS_OPTION,
        home_address=HOME_ADDRESS,
        options=(),
    )
    assert home_agent.drops[DropReason.NO_BINDING] == 1


@requirement("RFC6275-9.3.1", "CN-04")
def test_home_agent_home_address_option_from_elsewhere_gets_binding_error() -> None:
    home_agent = make_home_agent()
    register(home_agent, source=OTHER_CARE_OF_ADDRESS)
    assert sent(home_agent.handle(arriving(with_home_address_option(TCP)), 2.0), BindingError)


@requirement("RFC6275-9.3.1")
def test_home_agent_home_address_option_from_care_of_address_is_no_error() -> None:
    home_agent = make_home_agent()
    register(home_agent)
    assert home_agent.handle(arriving(with_home_address_option(TCP)), 2.0) == []


@requirement("RFC6275-9.3.1", "CN-05", "CN-06")
@pytest.mark.parametrize("address", ["ff0e::1", "::1", "fe80::10", "::"])
def test_home_agent_home_address_option_not_routable_is_dropped_silently(address: str) -> None:
    home_agent = make_home_agent()
    event = arriving(with_home_address_option(TCP, IPv6Address(address)))
    assert home_agent.handle(event, 0.0) == []
    assert home_agent.drops[DropReason.HOME_ADDRESS_NOT_ROUTABLE] == 1


@requirement("RFC6275-9.3.1", "CN-07")
def test_home_agent_home_address_option_with_mobility_header_or_esp_is_no_error() -> None:
    home_agent = make_home_agent()
    message = with_home_address_option(HomeTestInit(bytes(8)))
    assert home_agent.handle(arriving(message), 0.0) == []
    assert home_agent.handle(arriving(with_home_address_option(TCP), protected_by=1), 0.0) == []


@requirement("RFC6275-6.3", "CN-08")
def test_home_agent_home_address_option_alone_changes_no_binding() -> None:
    home_agent = make_home_agent()
    home_agent.handle(arriving(with_home_address_option(TCP)), 0.0)
    assert home_agent.bindings == home_agent.probing == ()


@requirement("RFC6275-6.3", "FMT-20")
def test_home_agent_two_home_address_options_are_dropped() -> None:
    home_agent = make_home_agent()
    options = DestinationOptions((HomeAddressOption(HOME_ADDRESS), HomeAddressOption(NEIGHBOR)))
    update = binding_update().packet.payload
    for payload in (TCP, update):
        packet = IPv6Packet(
            CARE_OF_ADDRESS, HOME_AGENT_ADDRESS, payload, extension_headers=(options,)
        )
        assert home_agent.handle(arriving(packet), 0.0) == []
    assert home_agent.drops[DropReason.TWO_HOME_ADDRESS_OPTIONS] == 2


@requirement("RFC6275-11.3.6", "OPS-03")
def test_home_agent_tunnelled_packet_after_restart_asks_for_registration_once_a_second() -> None:
    home_agent = make_home_agent()
    (answer,) = sent(home_agent.handle(tunnelled(), 0.0), BindingError)
    assert answer.packet.source == HOME_AGENT_ADDRESS
    assert answer.packet.destination == CARE_OF_ADDRESS
    payload = answer.packet.payload
    assert isinstance(payload, BindingError)
    assert payload.home_address == HOME_ADDRESS
    assert payload.status == BindingErrorStatus.UNKNOWN_BINDING_FOR_HOME_ADDRESS_OPTION
    assert home_agent.handle(tunnelled(), 0.5) == []
    assert sent(home_agent.handle(tunnelled(), 1.0), BindingError)
    assert home_agent.drops[DropReason.NO_BINDING] == 3


@requirement("RFC6275-11.3.6", "OPS-03")
def test_home_agent_tunnelled_packet_while_registering_asks_nothing() -> None:
    home_agent = make_home_agent()
    home_agent.handle(binding_update(), 0.0)
    assert home_agent.handle(tunnelled(), 0.5) == []


@requirement("RFC6275-10.4.5")
def test_home_agent_tunnelled_packet_of_a_stranger_is_dropped_silently() -> None:
    home_agent = make_home_agent()
    assert home_agent.handle(tunnelled(NEIGHBOR), 0.0) == []
    assert home_agent.drops[DropReason.NO_BINDING] == 1


@requirement("RFC6275-10.4.1", "HA-15")
def test_home_agent_probe_is_sent_from_unspecified_address_only() -> None:
    actions = make_home_agent().handle(binding_update(link_local_compatibility=True), 0.0)
    sources = {each.packet.source for each in sent(actions, NeighborSolicitation)}
    assert sources == {IPv6Address("::")}
