"""Proxy neighbour discovery and group memberships."""

from __future__ import annotations

from ipaddress import IPv6Address

from mnagent.core.actions import JoinGroup, LeaveGroup, SendPacket
from mnagent.core.events import PacketReceived
from mnagent.mobility.addresses import (
    derived_link_local,
    is_routable_unicast,
    solicited_node_group,
)
from mnagent.mobility.proxy_neighbor import ProxyNeighbor, SolicitedNodeGroups
from mnagent.wire.ndisc import NeighborAdvertisement, SourceLinkLayerAddress, UnknownNdOption
from tests.support.home_link import (
    HOME_ADDRESS,
    HOME_AGENT_ADDRESS,
    HOME_AGENT_MAC,
    HOME_LINK,
    HOME_LINK_LOCAL,
    NEIGHBOR_MAC,
    OTHER_HOME_ADDRESS,
    actions_of,
    advertisement,
    sent,
    solicitation,
)

GROUP = solicited_node_group(HOME_ADDRESS)


def make_proxy(link_layer_address: bytes = HOME_AGENT_MAC) -> ProxyNeighbor:
    return ProxyNeighbor(
        HOME_LINK, source=HOME_AGENT_ADDRESS, link_layer_address=link_layer_address
    )


def test_solicited_node_group_has_last_24_bits() -> None:
    assert solicited_node_group(IPv6Address("2001:db8::12:3456")) == IPv6Address(
        "ff02::1:ff12:3456"
    )


def test_derived_link_local_has_interface_identifier() -> None:
    assert derived_link_local(IPv6Address("2001:db8::1:2:3:4")) == IPv6Address("fe80::1:2:3:4")


def test_routable_unicast_is_of_more_than_link_scope() -> None:
    assert is_routable_unicast(IPv6Address("2001:db8::1"))
    assert is_routable_unicast(IPv6Address("fd00::1"))
    for address in ("fe80::1", "::", "::1", "ff0e::1", "::ffff:192.0.2.1"):
        assert not is_routable_unicast(IPv6Address(address))


def test_groups_addresses_of_one_group_share_its_membership() -> None:
    groups = SolicitedNodeGroups(HOME_LINK)
    assert groups.join(HOME_ADDRESS) == [JoinGroup(interface=HOME_LINK, group=GROUP)]
    assert groups.join(HOME_LINK_LOCAL) == []
    assert groups.rejoin() == [JoinGroup(interface=HOME_LINK, group=GROUP)]
    assert groups.leave(HOME_ADDRESS) == []
    assert groups.leave(HOME_ADDRESS) == []
    assert groups.leave(HOME_LINK_LOCAL) == [LeaveGroup(interface=HOME_LINK, group=GROUP)]
    assert groups.leave(HOME_LINK_LOCAL) == []
    assert groups.rejoin() == []


def test_proxy_defended_address_is_announced_once_more_when_asked_again() -> None:
    proxy = make_proxy()
    assert len(proxy.defend((HOME_ADDRESS,), now=0.0)) == 1
    assert proxy.defend((HOME_ADDRESS,), now=0.5) == []
    assert HOME_ADDRESS in proxy
    proxy.handle_timer(1.0)
    proxy.handle_timer(2.0)
    assert proxy.next_deadline() is None
    assert len(proxy.announce_all(10.0)) == 1
    assert proxy.next_deadline() == 11.0


def test_proxy_released_address_is_silent() -> None:
    proxy = make_proxy()
    proxy.defend((HOME_ADDRESS,), now=0.0)
    proxy.release((HOME_ADDRESS, OTHER_HOME_ADDRESS))
    assert proxy.next_deadline() is None
    assert proxy.handle(solicitation(), 0.5) == []


def test_proxy_other_messages_are_ignored() -> None:
    proxy = make_proxy()
    proxy.defend((HOME_ADDRESS,), now=0.0)
    assert proxy.handle(advertisement(), 0.5) == []


def test_proxy_answer_goes_to_address_in_option_else_to_sender_of_frame() -> None:
    proxy = make_proxy()
    proxy.defend((HOME_ADDRESS,), now=0.0)
    named = bytes.fromhex("0200000000aa")
    unknown = UnknownNdOption(200, bytes(6))
    with_option = solicitation(options=(unknown, SourceLinkLayerAddress(named)))
    unnamed = solicitation()
    bare = PacketReceived(packet=unnamed.packet, interface=HOME_LINK)
    answers = [
        answer.link_layer_destination
        for event in (with_option, unnamed, bare)
        for answer in actions_of(proxy.handle(event, 0.5), SendPacket)
    ]
    assert answers == [named, NEIGHBOR_MAC, None]


def test_proxy_link_without_addresses_sends_no_link_layer_option() -> None:
    (announcement,) = sent(make_proxy(b"").defend((HOME_ADDRESS,), now=0.0), NeighborAdvertisement)
    payload = announcement.packet.payload
    assert isinstance(payload, NeighborAdvertisement)
    assert payload.options == ()
