from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any

import pytest

from mnagent.autoconf.autoconfiguration import AgentAutoconfiguration
from mnagent.autoconf.constants import MAX_KNOWN_INTERFACES, MAX_ROUTERS, PERSIST_DELAY
from mnagent.autoconf.dhcp6 import Dhcp6Settings
from mnagent.autoconf.lease_record import LEASES_KEY, KeptLeases, decode_leases, encode_leases
from mnagent.autoconf.link_memory import KNOWN_LINKS_KEY
from mnagent.autoconf.slaac import AddressState, SlaacSettings
from mnagent.core.actions import (
    AddAddress,
    AddDefaultRouter,
    LeaveGroup,
    PersistRecord,
    RemoveAddress,
    SendDhcpMessage,
)
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    AddressAppeared,
    AddressVanished,
    DefaultRouterAppeared,
    DhcpMessageReceived,
    LinkCause,
    LinkDown,
    LinkUp,
    PacketReceived,
)
from mnagent.core.indications import AddressLost, AddressUsable, Output, RouterFound, RouterLost
from mnagent.wire.icmp6 import EchoRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import (
    AdvertisementInterval,
    NeighborAdvertisement,
    NeighborSolicitation,
    RouterAdvertisement,
    RouterSolicitation,
    TargetLinkLayerAddress,
)
from tests.support.dhcp_server import ScriptedServer
from tests.support.driver import Driver
from tests.support.matching import of_type, only, reports, sent
from tests.support.packets import received, router_advertisement
from tests.support.requirement import requirement

A, B = "2001:db8:a::/64", "2001:db8:b::/64"
ROUTER, OTHER_ROUTER = IPv6Address("fe80::1"), IPv6Address("fe80::2")
ROUTER_MAC, OTHER_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
LINK_LOCAL = IPv6Address("fe80::10")
OWN_MAC = bytes.fromhex("020000000010")


class Node(Driver):
    def __init__(self, *, persisted: str | None = None, **options: Any) -> None:
        self.machine: AgentAutoconfiguration = AgentAutoconfiguration(
            SlaacSettings(secret=b"secret"),
            random=Random(1),
            persisted_links=persisted,
            **options,
        )
        super().__init__(self.machine)

    def tell(self, event: Any) -> list[Output]:
        return self.note(self.machine.handle(event, self.now))

    def link_up(
        self,
        *,
        cause: LinkCause = LinkCause.CARRIER,
        name: str = "eth0",
        access_point: bytes = b"",
    ) -> list[Output]:
        index = 2 if name == "eth0" else 100 + int(name)
        return self.tell(
            LinkUp(
                interface=index,
                name=name,
                link_layer_address=OWN_MAC,
                cause=cause,
                access_point=access_point,
            )
        )

    def know_own_address(self, address: IPv6Address = LINK_LOCAL, **fields: Any) -> list[Output]:
        return self.tell(AddressAppeared(interface=2, address=address, prefix_length=64, **fields))

    def hear(
        self,
        *prefixes: str,
        router: IPv6Address = ROUTER,
        mac: bytes = ROUTER_MAC,
        interval: float | None = None,
        **fields: Any,
    ) -> list[Output]:
        packet = router_advertisement(router, *prefixes, mac=mac, **fields)
        message = packet.payload
        assert isinstance(message, RouterAdvertisement)
        if interval is not None:
            options = (*message.options, AdvertisementInterval(interval))
            packet = replace(packet, payload=replace(message, options=options))
        return self.tell(received(packet, link_layer_source=mac))

    def answer(
        self,
        router: IPv6Address = ROUTER,
        mac: bytes = ROUTER_MAC,
        *,
        destination: IPv6Address = LINK_LOCAL,
    ) -> list[Output]:
        message = NeighborAdvertisement(
            router, router=True, solicited=True, options=(TargetLinkLayerAddress(mac),)
        )
        packet = IPv6Packet(router, destination, message, hop_limit=255)
        return self.tell(received(packet, link_layer_source=mac))

    def settle_on(self, prefix: str = A, **fields: Any) -> IPv6Address:
        """Arrive, and stay until the address is unique."""
        self.link_up()
        self.know_own_address()
        self.hear(prefix, **fields)
        self.advance(2)
        (address,) = self.states
        return address

    @property
    def states(self) -> dict[IPv6Address, AddressState]:
        return self.machine.states()[2]


def unicast_probes(outputs: list[Output]) -> list[IPv6Address]:
    return [
        message.target
        for action, message in sent(outputs, NeighborSolicitation)
        if action.link_layer_destination is not None
    ]


@requirement("RFC6059-5.5.2", "MOV-18")
def test_router_behind_an_access_point_that_was_left_long_ago_is_asked_first() -> None:
    node = Node()
    node.know_own_address()
    for number in range(1, 9):
        router = IPv6Address(f"fe80::{number:x}")
        mac = bytes((2, 0, 0, 0, 0, number))
        node.link_up(access_point=bytes((2, 0, 0, 0, 1, number)))
        node.know_own_address()
        node.hear(f"2001:db8:{number:x}::/64", router=router, mac=mac)
        node.advance(2)
    elsewhere = node.link_up(access_point=bytes((2, 0, 0, 0, 1, 99)))
    assert ROUTER not in unicast_probes(elsewhere)
    node.advance(5)
    assert unicast_probes(node.link_up(access_point=bytes((2, 0, 0, 0, 1, 1))))[0] == ROUTER


@requirement("RFC6059-5.7.1", "MOV-19")
def test_known_router_that_answers_brings_router_and_address_back_in_that_order() -> None:
    node = Node()
    address = node.settle_on()
    outputs = node.link_up()
    assert of_type(outputs, RouterLost) and of_type(outputs, AddressLost)
    assert unicast_probes(outputs) == [ROUTER]
    outputs = node.answer()
    names = [type(output).__name__ for output in outputs]
    expected = ["AddDefaultRouter", "RouterFound", "AddAddress", "AddressUsable"]
    assert names == [*expected, "SendPacket", "SendPacket"]  # its announcements
    assert only(outputs, AddressUsable).address == address
    assert node.states == {address: AddressState.PREFERRED}


@requirement("RFC6059-5.7.3.1", "MOV-20")
def test_answer_of_a_router_whose_advertisement_said_otherwise_is_ignored() -> None:
    node = Node()
    address = node.settle_on()
    node.link_up()
    node.hear(B)
    assert address not in node.states
    assert node.answer() == []


@requirement("RFC6059-5.7.2", "MOV-20")
def test_advertisement_after_the_answer_takes_wrong_addresses_back() -> None:
    node = Node()
    address = node.settle_on()
    node.link_up()
    node.answer()
    outputs = node.hear(B)
    assert only(outputs, RemoveAddress).address == address
    assert only(outputs, AddressUsable).address != address


def test_known_router_that_finds_the_table_full_is_left_out() -> None:
    node = Node()
    node.settle_on()
    node.link_up()
    for number in range(2, MAX_ROUTERS + 2):
        node.hear(B, router=IPv6Address(f"fe80::{number:x}"))
    assert not of_type(node.answer(), AddressUsable)


@requirement("RFC6275-11.5.1", "MOV-11")
def test_unknown_link_has_the_link_local_address_checked_and_a_known_one_not() -> None:
    node = Node()
    node.link_up()
    node.know_own_address()

    def checked(outputs: list[Output]) -> bool:
        return LINK_LOCAL in [message.target for _, message in sent(outputs, NeighborSolicitation)]

    assert checked(node.hear(A))
    assert not checked(node.hear(A))
    assert of_type(node.advance(2), LeaveGroup)
    node.link_up()
    assert not checked(node.hear(A))
    assert checked(node.hear(B))
    outputs = node.link_up()
    assert of_type(outputs, LeaveGroup), "another link event ends the check"


def test_link_local_address_of_another_node_is_not_used() -> None:
    node = Node()
    node.link_up()
    node.know_own_address()
    node.hear(A)
    message = NeighborAdvertisement(LINK_LOCAL)
    packet = IPv6Packet(LINK_LOCAL, IPv6Address("ff02::1"), message, hop_limit=255)
    outputs = node.tell(received(packet))
    assert reports(outputs, "duplicate-address")[0]["address"] == str(LINK_LOCAL)
    ((action, _),) = sent(node.link_up(), RouterSolicitation)
    assert action.packet.source == IPv6Address("::")


def test_unknown_link_without_a_link_local_address_leaves_the_check_to_the_host() -> None:
    node = Node()
    node.link_up()
    targets = [m.target for _, m in sent(node.hear(A), NeighborSolicitation)]
    assert LINK_LOCAL not in targets


def test_probes_of_a_restarted_node_wait_for_its_link_local_address() -> None:
    before = Node()
    address = before.settle_on()
    record = only(before.advance(PERSIST_DELAY), PersistRecord)
    assert record.key == KNOWN_LINKS_KEY
    node = Node(persisted=record.value)
    assert unicast_probes(node.link_up()) == []
    assert unicast_probes(node.know_own_address()) == [ROUTER]
    assert only(node.answer(), AddressUsable).address == address


def test_record_is_written_once_for_many_changes_and_when_the_node_stops() -> None:
    node = Node()
    node.settle_on()
    node.hear(B, router=OTHER_ROUTER, mac=OTHER_MAC)
    node.advance(PERSIST_DELAY + 3)
    assert len(node.all(PersistRecord)) == 1
    node.advance(500)
    node.hear(A)
    assert len(node.all(PersistRecord)) == 1, "lifetimes alone are not worth the disk"
    node.link_up()
    node.hear("2001:db8:c::/64", router=IPv6Address("fe80::3"), mac=bytes(6))
    node.advance(2)
    assert of_type(node.machine.remove_all(node.now), PersistRecord)
    assert not of_type(node.machine.remove_all(node.now), PersistRecord)
    assert not of_type(node.machine.remove_all(), PersistRecord)


def test_memories_of_interfaces_that_come_and_go_are_bounded() -> None:
    node = Node()
    for number in range(MAX_KNOWN_INTERFACES + 3):
        node.link_up(name=str(number))
    assert len(node.machine._memories) == MAX_KNOWN_INTERFACES


@requirement("RFC6275-11.5.1", "MOV-02")
def test_last_router_that_is_silent_is_as_a_link_event() -> None:
    node = Node()
    address = node.settle_on()
    outputs = node.advance(60)
    assert reports(outputs, "router-unreachable")[0]["router"] == str(ROUTER)
    assert only(outputs, RouterLost).router == ROUTER
    assert only(outputs, AddressLost).address == address
    assert sent(outputs, RouterSolicitation)
    assert only(node.hear(A), AddressUsable).address == address


@requirement("RFC6275-11.5.1", "MOV-02")
def test_silent_router_beside_another_one_is_forgotten_alone() -> None:
    node = Node()
    node.settle_on()
    node.hear(A, router=OTHER_ROUTER, mac=OTHER_MAC)
    for _ in range(60):
        node.advance(1)
        node.answer(OTHER_ROUTER, OTHER_MAC)
    lost = node.all(RouterLost)
    assert [each.router for each in lost] == [ROUTER]
    assert not node.all(AddressLost)


@requirement("RFC6275-11.5.1", "MOV-02")
def test_router_overtaken_by_the_move_is_asked_and_forgotten_with_its_prefixes() -> None:
    node = Node()
    node.link_up()
    node.know_own_address()
    stale = only(node.hear(A), AddressUsable).address
    outputs = node.hear(B, router=OTHER_ROUTER, mac=OTHER_MAC)
    assert set(unicast_probes(outputs)) == {ROUTER, OTHER_ROUTER}
    node.answer(OTHER_ROUTER, OTHER_MAC)
    outputs = node.advance(1.5)
    assert only(outputs, RouterLost).router == ROUTER
    assert only(outputs, AddressLost).address == stale
    assert only(outputs, RemoveAddress).address == stale
    assert node.hear(B, router=OTHER_ROUTER, mac=OTHER_MAC)


def test_prefix_that_another_router_has_too_outlives_a_silent_router() -> None:
    node = Node()
    node.link_up()
    node.know_own_address()
    node.hear(A, B)
    node.hear("2001:db8:c::/64", B, router=OTHER_ROUTER, mac=OTHER_MAC)
    suspected = node.link_up(cause=LinkCause.SUSPICION)
    assert set(unicast_probes(suspected)) == {ROUTER, OTHER_ROUTER}
    node.answer(OTHER_ROUTER, OTHER_MAC)
    lost = of_type(node.advance(1.5), AddressLost)
    assert [each.address in IPv6Network(A) for each in lost] == [True]


@pytest.mark.parametrize("first", [(A,), ()], ids=["same prefix", "no prefix"])
def test_second_router_that_says_nothing_else_makes_no_question(first: tuple[str, ...]) -> None:
    node = Node()
    node.link_up()
    node.know_own_address()
    node.hear(*first)
    for _ in range(2):
        assert not unicast_probes(node.hear(A, router=OTHER_ROUTER, mac=OTHER_MAC))


def test_router_is_alive_as_long_as_anything_comes_from_it() -> None:
    node = Node()
    address = node.settle_on()
    for _ in range(30):
        node.advance(10)
        echo = IPv6Packet(IPv6Address("2001:db8::1"), address, EchoRequest(1, 1))
        node.tell(received(echo, link_layer_source=ROUTER_MAC))
    assert not node.all(RouterLost)


@requirement("RFC6275-11.5.1", "MOV-04")
def test_advertisements_that_stay_away_are_a_hint() -> None:
    node = Node()
    node.link_up()
    node.know_own_address()
    node.hear(A, interval=0.5)
    assert not unicast_probes(node.advance(1.4))
    assert unicast_probes(node.advance(0.2)) == [ROUTER]
    node.answer()
    assert not unicast_probes(node.advance(5))


def test_suspicion_asks_the_routers_and_takes_nothing_back_while_they_answer() -> None:
    node = Node()
    node.settle_on()
    outputs = node.link_up(cause=LinkCause.SUSPICION)
    assert unicast_probes(outputs) == [ROUTER]
    assert len(sent(outputs, RouterSolicitation)) == 1
    node.answer()
    node.advance(5)
    assert not node.all(RouterLost) and not node.all(AddressLost)
    node.link_up(cause=LinkCause.SUSPICION)
    node.advance(1.1)
    assert node.all(RouterLost) and node.all(AddressLost)


def test_suspicion_without_a_router_is_a_link_event() -> None:
    node = Node()
    node.link_up()
    assert sent(node.link_up(cause=LinkCause.SUSPICION), RouterSolicitation)


def test_rubbish_on_the_dhcp_port_is_counted() -> None:
    node = Node()
    node.link_up()
    node.tell(DhcpMessageReceived(data=b"", interface=2, source=ROUTER))
    assert node.machine.drops[DropReason.MALFORMED] == 1


def test_routes_of_others_are_left_alone() -> None:
    node = Node()
    node.link_up()
    assert node.tell(DefaultRouterAppeared(interface=2, router=ROUTER)) == []


def test_router_that_resigns_or_expires_is_not_asked_any_more() -> None:
    node = Node()
    node.settle_on()
    node.hear(A, lifetime=0)
    node.hear(A, router=OTHER_ROUTER, mac=OTHER_MAC, lifetime=4)
    node.advance(200)
    assert not reports([output for _, output in node.log], "router-unreachable")


def test_link_down_ends_everything() -> None:
    node = Node()
    node.settle_on()
    node.link_up()
    node.hear(B)
    outputs = node.tell(LinkDown(interface=2))
    assert only(outputs, RemoveAddress) and only(outputs, RouterLost)
    assert [type(output) for output in node.advance(100)] == [PersistRecord]


def test_interface_asks_from_nowhere_when_its_link_local_address_vanished() -> None:
    node = Node()
    node.link_up()
    node.know_own_address()
    node.tell(AddressVanished(interface=2, address=IPv6Address("fe80::99")))
    ((action, _),) = sent(node.link_up(), RouterSolicitation)
    assert action.packet.source == LINK_LOCAL
    node.tell(AddressVanished(interface=2, address=LINK_LOCAL))
    ((action, _),) = sent(node.link_up(), RouterSolicitation)
    assert action.packet.source.is_unspecified


def test_lease_is_confirmed_when_the_router_it_was_made_behind_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node(dhcp6=Dhcp6Settings(duid=bytes(18), enabled=True))
    node.settle_on()
    client = node.machine._interfaces[2].dhcp6
    lease = IPv6Address("2001:db8:a::dddd")
    monkeypatch.setattr(type(client), "states", lambda _: {lease: AddressState.PREFERRED})
    confirmed: list[float] = []
    monkeypatch.setattr(type(client), "link_confirmed", lambda _, now: confirmed.append(now) or [])
    node.hear(A)
    node.link_up()
    node.answer()
    assert confirmed == [node.now]


# Bad input.


@pytest.mark.parametrize(
    "packet",
    [
        router_advertisement(IPv6Address("2001:db8::1"), A),
        router_advertisement(ROUTER, A, hop_limit=254),
        router_advertisement(IPv6Address("::"), A),
        router_advertisement(IPv6Address("ff02::1"), A),
    ],
)
def test_forged_advertisement_changes_nothing(packet: IPv6Packet) -> None:
    node = Node()
    node.settle_on()
    assert node.tell(received(packet)) == []
    assert sum(node.machine.drops.values()) == 1


@pytest.mark.parametrize(
    "prefix", ["2001:db8:c::/48", "2001:db8:c::/65", "2001:db8:c::/128", "::/0", "ff0e::/64"]
)
def test_prefix_that_no_address_can_be_made_of_makes_none(prefix: str) -> None:
    node = Node()
    node.link_up()
    outputs = node.hear(prefix)
    assert of_type(outputs, AddDefaultRouter) and of_type(outputs, RouterFound)
    assert not of_type(outputs, AddAddress)


def test_fifty_prefixes_make_no_more_addresses_than_there_is_room_for() -> None:
    node = Node()
    node.link_up()
    for first in (0, 25):
        node.hear(*(f"2001:db8:{n:x}::/64" for n in range(first, first + 25)))
    assert len(node.states) == 16


@pytest.mark.parametrize(
    ("valid", "preferred"), [(0, 0), (1, 1), (1, 0), (0xFFFFFFFE, 0), (10, 20)]
)
def test_lifetimes_of_a_forged_advertisement_do_not_end_the_address(
    valid: float, preferred: float
) -> None:
    node = Node()
    address = node.settle_on()
    outputs = node.hear(A, valid=valid, preferred=preferred)
    found = only(outputs, RouterFound)
    assert found.prefixes, "the prefix stays the router's, as the address stays ours"
    node.advance(30)
    assert address in node.states


def test_neighbor_messages_from_afar_are_not_heard() -> None:
    node = Node()
    node.settle_on()
    node.link_up()
    message = NeighborAdvertisement(ROUTER, router=True, solicited=True)
    packet = IPv6Packet(ROUTER, LINK_LOCAL, message, hop_limit=254)
    event = PacketReceived(packet=packet, interface=2, link_layer_source=ROUTER_MAC)
    assert node.tell(event) == []


def test_leases_are_recorded_and_restored_and_forgotten_once_released() -> None:
    settings = Dhcp6Settings(duid=bytes(18))
    kept = KeptLeases(
        server=b"server",
        prefixes=frozenset((IPv6Network(A),)),
        addresses=((IPv6Address("2001:db8:a::1000"), 5000.0, 5000.0),),
    )
    persisted = encode_leases({"eth0": kept, "eth9": kept}, 1000.0)
    node = Node(dhcp6=settings, persisted_leases=persisted)
    node.link_up()
    assert node.states == {IPv6Address("2001:db8:a::1000"): AddressState.IN_DOUBT}
    node.know_own_address()
    node.hear(A)
    written = of_type(node.advance(PERSIST_DELAY + 1), PersistRecord)
    assert [record.key for record in written] == [KNOWN_LINKS_KEY], "nothing new about leases"
    written = of_type(node.note(node.machine.remove_all(node.now)), PersistRecord)
    (record,) = (each for each in written if each.key == LEASES_KEY)
    assert decode_leases(record.value, now=0.0, never=frozenset()).keys() == {"eth9"}


def test_leases_are_recorded_when_given_and_when_ended() -> None:
    node = Node(dhcp6=Dhcp6Settings(duid=bytes(18)))
    node.link_up()
    node.know_own_address()
    server = ScriptedServer()
    for message in of_type(node.hear(A, managed=True), SendDhcpMessage):
        answer = server.answer(message.data)
        assert answer is not None
        node.tell(DhcpMessageReceived(data=answer, interface=2, source=ROUTER))
    written = of_type(node.advance(PERSIST_DELAY + 1), PersistRecord)
    (record,) = (each for each in written if each.key == LEASES_KEY)
    (found,) = decode_leases(record.value, now=node.now, never=frozenset()).values()
    assert [address for address, *_ in found.addresses] == list(server.addresses)
    node.hear(B)  # another link
    written = of_type(node.advance(PERSIST_DELAY), PersistRecord)
    (record,) = (each for each in written if each.key == LEASES_KEY)
    assert decode_leases(record.value, now=node.now, never=frozenset()) == {}
