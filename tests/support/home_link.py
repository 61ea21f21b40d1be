"""A home agent, the packets of its mobile nodes and neighbours, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any, TypeVar

from mnagent.core.actions import Action, ReportEvent, SendPacket
from mnagent.core.events import PacketReceived
from mnagent.mobility.addresses import ALL_NODES, UNSPECIFIED_ADDRESS, solicited_node_group
from mnagent.mobility.home_agent import (
    AuthorisedMobileNode,
    HomeAgent,
    HomeAgentSettings,
    HomePrefix,
)
from mnagent.wire.ipv6 import DestinationOptions, HomeAddressOption, IPv6Packet
from mnagent.wire.mobility import BindingAcknowledgement, BindingUpdate
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation

HOME_AGENT_ADDRESS = IPv6Address("2001:db8:1::1")
HOME_ADDRESS = IPv6Address("2001:db8:1::10")
HOME_LINK_LOCAL = IPv6Address("fe80::10")
OTHER_HOME_ADDRESS = IPv6Address("2001:db8:1::20")
CARE_OF_ADDRESS = IPv6Address("2001:db8:a::10")
OTHER_CARE_OF_ADDRESS = IPv6Address("2001:db8:b::10")
NEIGHBOR = IPv6Address("2001:db8:1::99")
CORRESPONDENT = IPv6Address("2001:db8:c::1")
HOME_PREFIX = IPv6Network("2001:db8:1::/64")
HOME_LINK = 2
FOREIGN_SIDE = 3
HOME_AGENT_MAC = bytes.fromhex("020000000001")
MOBILE_NODE_MAC = bytes.fromhex("020000000010")
NEIGHBOR_MAC = bytes.fromhex("020000000099")
MOBILE_NODE_SPI = 0x1000

SETTINGS = HomeAgentSettings(
    address=HOME_AGENT_ADDRESS,
    home_prefixes=(HomePrefix(prefix=HOME_PREFIX),),
    mobile_nodes=(
        AuthorisedMobileNode(home_address=HOME_ADDRESS),
        AuthorisedMobileNode(home_address=OTHER_HOME_ADDRESS),
    ),
    home_link=HOME_LINK,
    link_layer_address=HOME_AGENT_MAC,
)

Kind = TypeVar("Kind")


def make_home_agent(**changes: Any) -> HomeAgent:
    """A home agent with the settings above, some of them changed."""
    return HomeAgent(replace(SETTINGS, **changes), random=Random(1))


def binding_update(
    sequence: int = 1,
    lifetime: float = 600,
    *,
    home_address: IPv6Address | None = HOME_ADDRESS,
    source: IPv6Address = CARE_OF_ADDRESS,
    interface: int = FOREIGN_SIDE,
    link_layer_source: bytes = b"",
    options: tuple[Any, ...] = (),
    acknowledge: bool = True,
    home_registration: bool = True,
    link_local_compatibility: bool = False,
    key_management_mobility: bool = False,
) -> PacketReceived:
    """A Binding Update as it arrives; ``home_address`` None leaves the Home Address option out."""
    update = BindingUpdate(
        sequence=sequence,
        lifetime=lifetime,
        acknowledge=acknowledge,
        home_registration=home_registration,
        link_local_compatibility=link_local_compatibility,
        key_management_mobility=key_management_mobility,
        options=options,
    )
    headers: tuple[DestinationOptions, ...] = ()
    if home_address is not None:
        headers = (DestinationOptions((HomeAddressOption(home_address),)),)
    return PacketReceived(
        packet=IPv6Packet(source, HOME_AGENT_ADDRESS, update, extension_headers=headers),
        interface=interface,
        link_layer_source=link_layer_source,
        protected_by=MOBILE_NODE_SPI,
    )


def update_from_home(sequence: int = 2, lifetime: float = 0, **changes: Any) -> PacketReceived:
    """A Binding Update from the home address over the home link: the mobile node is back."""
    arguments: dict[str, Any] = {
        "home_address": None,
        "source": HOME_ADDRESS,
        "interface": HOME_LINK,
        "link_layer_source": MOBILE_NODE_MAC,
    }
    return binding_update(sequence, lifetime, **(arguments | changes))


def on_home_link(packet: IPv6Packet, *, interface: int = HOME_LINK) -> PacketReceived:
    """A packet as it arrives from a neighbour on the home link."""
    return PacketReceived(packet=packet, interface=interface, link_layer_source=NEIGHBOR_MAC)


def solicitation(
    target: IPv6Address = HOME_ADDRESS,
    *,
    source: IPv6Address = NEIGHBOR,
    destination: IPv6Address | None = None,
    options: tuple[Any, ...] = (),
    hop_limit: int = 255,
    interface: int = HOME_LINK,
) -> PacketReceived:
    """A Neighbor Solicitation; to the solicited-node group unless told otherwise."""
    packet = IPv6Packet(
        source,
        solicited_node_group(target) if destination is None else destination,
        NeighborSolicitation(target, options=options),
        hop_limit=hop_limit,
    )
    return on_home_link(packet, interface=interface)


def probe_by_another(target: IPv6Address = HOME_ADDRESS, **changes: Any) -> PacketReceived:
    """Another node's duplicate address detection."""
    return solicitation(target, source=UNSPECIFIED_ADDRESS, **changes)


def advertisement(
    target: IPv6Address = HOME_ADDRESS,
    *,
    source: IPv6Address = NEIGHBOR,
    destination: IPv6Address = ALL_NODES,
    solicited: bool = False,
    hop_limit: int = 255,
    interface: int = HOME_LINK,
) -> PacketReceived:
    """A neighbour that says it has ``target``."""
    message = NeighborAdvertisement(
        target, router=False, solicited=solicited, override=True, options=()
    )
    packet = IPv6Packet(source, destination, message, hop_limit=hop_limit)
    return on_home_link(packet, interface=interface)


def register(home_agent: HomeAgent, *, now: float = 0.0, **changes: Any) -> list[Action]:
    """Bring a binding about, duplicate address detection included; returns the last actions.

    On a physical home link the binding is made at ``now`` + 1.
    """
    actions = home_agent.handle(binding_update(**changes), now)
    return home_agent.handle_timer(now + 1.0) if home_agent.probing else actions


def actions_of(actions: Iterable[object], kind: type[Kind]) -> list[Kind]:
    """The actions of one kind, in order."""
    return [action for action in actions if isinstance(action, kind)]


def sent(actions: Iterable[object], kind: type[object]) -> list[SendPacket]:
    """The packets sent with a payload of this kind."""
    return [
        action
        for action in actions_of(actions, SendPacket)
        if isinstance(action.packet.payload, kind)
    ]


def acknowledgements(actions: Iterable[object]) -> list[BindingAcknowledgement]:
    """The Binding Acknowledgements among the packets sent."""
    payloads = [action.packet.payload for action in actions_of(actions, SendPacket)]
    return actions_of(payloads, BindingAcknowledgement)


def only_acknowledgement(actions: Iterable[object]) -> BindingAcknowledgement:
    """The one Binding Acknowledgement sent; anything else fails the test."""
    (acknowledgement,) = acknowledgements(actions)
    return acknowledgement


def reports(actions: Iterable[object], name: str) -> list[ReportEvent]:
    """The events of one name."""
    return [action for action in actions_of(actions, ReportEvent) if action.name == name]
