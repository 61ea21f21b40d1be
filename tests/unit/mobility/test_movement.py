from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import Any

from mnagent.core.events import LinkDown, LinkKind, LinkUp, SignalMeasured
from mnagent.core.indications import AddressLost, AddressUsable, RouterLost
from mnagent.mobility.movement import MAX_ROUTERS, AtHome, Attachment, Away, Detached, Movement
from tests.support.driver import CARE_OF_A, CARE_OF_B, HOME_ADDRESS, ROUTER, router_found
from tests.support.requirement import requirement

HOME_PREFIX = IPv6Network("2001:db8:1::/64")
OTHER_ROUTER = IPv6Address("fe80::2")


class Moves:
    def __init__(self, *interfaces: str) -> None:
        self.movement = Movement(
            home_addresses={HOME_ADDRESS}, home_prefixes={HOME_PREFIX}, interfaces=interfaces
        )
        self.now = 100.0

    def tell(self, event: Any) -> Attachment:
        return self.movement.handle(event, self.now)

    def link_up(self, index: int = 2, name: str = "eth0") -> Attachment:
        return self.tell(LinkUp(interface=index, name=name, link_layer_address=b""))

    def usable(self, address: IPv6Address, *, interface: int = 2, **fields: Any) -> Attachment:
        return self.tell(
            AddressUsable(interface=interface, address=address, prefix_length=64, **fields)
        )

    def visit(self, address: IPv6Address, *, interface: int = 2) -> Attachment:
        self.tell(router_found(address, interface=interface))
        return self.usable(address, interface=interface)


def care_of(attachment: Attachment) -> IPv6Address:
    assert isinstance(attachment, Away)
    return attachment.address.address


def test_link_without_router_or_address_is_nowhere() -> None:
    moves = Moves()
    assert isinstance(moves.link_up(), Detached)
    assert isinstance(moves.tell(router_found(CARE_OF_A)), Detached)
    assert isinstance(moves.tell(RouterLost(interface=2, router=ROUTER)), Detached)
    assert isinstance(moves.usable(CARE_OF_A), Detached)
    assert care_of(moves.tell(router_found(CARE_OF_A))) == CARE_OF_A


@requirement("RFC6275-11.5.2", "MOV-08")
def test_advertised_home_prefix_means_home() -> None:
    moves = Moves()
    moves.link_up()
    attachment = moves.tell(router_found(HOME_ADDRESS))
    assert isinstance(attachment, AtHome) and attachment.router.router == ROUTER


@requirement("RFC6275-11.5.2", "MOV-08")
def test_kernel_route_with_an_address_of_the_home_prefix_means_home() -> None:
    moves = Moves()
    moves.link_up()
    moves.tell(router_found(HOME_ADDRESS, prefixes=None))
    assert isinstance(moves.usable(HOME_ADDRESS), Detached), "the home address proves nothing"
    assert isinstance(moves.usable(HOME_ADDRESS + 7), AtHome)


@requirement("RFC6275-11.5.4", "MOV-13")
def test_care_of_address_is_of_a_prefix_of_the_current_router() -> None:
    moves = Moves()
    moves.link_up()
    moves.usable(CARE_OF_B)
    assert isinstance(moves.tell(router_found(CARE_OF_A)), Detached)
    assert care_of(moves.usable(CARE_OF_A)) == CARE_OF_A


@requirement("RFC6275-11.5.1", "MOV-01")
def test_second_router_does_not_take_over_while_the_first_is_there() -> None:
    moves = Moves()
    moves.link_up()
    moves.visit(CARE_OF_A)
    moves.tell(router_found(CARE_OF_B, router=OTHER_ROUTER))
    assert care_of(moves.usable(CARE_OF_B)) == CARE_OF_A
    assert care_of(moves.tell(RouterLost(interface=2, router=ROUTER))) == CARE_OF_B


def test_router_without_anything_to_use_does_not_hide_one_with() -> None:
    moves = Moves()
    moves.link_up()
    moves.usable(CARE_OF_B)
    assert isinstance(moves.tell(router_found(CARE_OF_A)), Detached)
    found = router_found(CARE_OF_B, router=OTHER_ROUTER)
    assert care_of(moves.tell(found)) == CARE_OF_B
    assert care_of(moves.usable(CARE_OF_A)) == CARE_OF_B, "the router in use stays"


def test_kernel_route_does_not_hide_what_the_router_advertised() -> None:
    moves = Moves()
    moves.link_up()
    moves.visit(CARE_OF_A)
    moves.tell(router_found(CARE_OF_A, prefixes=None))
    moves.usable(CARE_OF_B)
    assert care_of(moves.tell(AddressLost(interface=2, address=CARE_OF_B))) == CARE_OF_A


@requirement("RFC6275-11.5.3", "MOV-14")
def test_preferred_address_comes_before_deprecated_and_unique_before_optimistic() -> None:
    moves = Moves()
    moves.link_up()
    moves.tell(router_found(CARE_OF_A))
    moves.usable(CARE_OF_A, preferred_until=moves.now)
    assert care_of(moves.usable(CARE_OF_A + 1, optimistic=True)) == CARE_OF_A + 1
    assert care_of(moves.usable(CARE_OF_A + 2)) == CARE_OF_A + 1, "the address in use stays"
    moves.tell(AddressLost(interface=2, address=CARE_OF_A + 1))
    moves.usable(CARE_OF_A + 3, optimistic=True)
    assert care_of(moves.movement.attachment) == CARE_OF_A + 2


def test_address_whose_preferred_lifetime_ends_is_looked_at_again_then() -> None:
    moves = Moves()
    moves.link_up()
    moves.visit(CARE_OF_A)
    assert moves.movement.next_deadline() is None
    moves.usable(CARE_OF_A, preferred_until=110.0, valid_until=120.0)
    moves.usable(CARE_OF_A + 1)
    assert moves.movement.next_deadline() == 110.0
    moves.now = 110.0
    assert care_of(moves.movement.handle_timer(moves.now)) == CARE_OF_A + 1


def test_only_address_is_used_deprecated_until_its_end() -> None:
    moves = Moves()
    moves.link_up()
    moves.visit(CARE_OF_A)
    moves.usable(CARE_OF_A, preferred_until=110.0, valid_until=120.0)
    assert care_of(moves.movement.handle_timer(110.0)) == CARE_OF_A
    assert moves.movement.next_deadline() == 120.0
    assert isinstance(moves.movement.handle_timer(120.0), Detached)
    assert moves.movement.next_deadline() is None


def test_interfaces_are_tried_in_the_administrators_order() -> None:
    moves = Moves("wlan0", "eth0")
    moves.link_up(2, "eth0")
    moves.link_up(3, "wlan0")
    moves.link_up(4, "tun9")
    assert care_of(moves.visit(CARE_OF_A, interface=2)) == CARE_OF_A
    assert care_of(moves.visit(CARE_OF_B, interface=3)) == CARE_OF_B
    assert care_of(moves.visit(CARE_OF_A + 1, interface=4)) == CARE_OF_B
    assert moves.movement.is_usable(CARE_OF_A) and not moves.movement.is_usable(CARE_OF_A + 1)
    assert care_of(moves.tell(LinkDown(interface=3))) == CARE_OF_A
    assert not moves.movement.is_usable(CARE_OF_B)


def test_routers_of_an_interface_are_bounded() -> None:
    moves = Moves()
    moves.link_up()
    for number in range(MAX_ROUTERS + 1):
        moves.tell(router_found(CARE_OF_A, router=IPv6Address(0xFE80 << 112 | number)))
    moves.tell(router_found(HOME_ADDRESS, router=IPv6Address(0xFE80 << 112 | 999)))
    for number in range(MAX_ROUTERS):
        moves.tell(RouterLost(interface=2, router=IPv6Address(0xFE80 << 112 | number)))
    assert isinstance(moves.movement.attachment, Detached)


def test_kernel_route_serves_every_address_of_its_interface() -> None:
    moves = Moves()
    moves.link_up()
    moves.tell(router_found(CARE_OF_A, prefixes=None))
    assert care_of(moves.usable(CARE_OF_B)) == CARE_OF_B


def test_by_kind_ethernet_takes_over_from_wi_fi_and_gives_way_when_it_goes() -> None:
    moves = Moves("wlan0", "eth0")
    moves.movement = Movement(
        home_addresses={HOME_ADDRESS},
        home_prefixes={HOME_PREFIX},
        interfaces=("wlan0", "eth0"),
        by_kind=True,
    )
    moves.tell(LinkUp(interface=3, name="wlan0", link_layer_address=b"", kind=LinkKind.WIFI))
    assert care_of(moves.visit(CARE_OF_A, interface=3)) == CARE_OF_A
    moves.tell(LinkUp(interface=2, name="eth0", link_layer_address=b"", kind=LinkKind.ETHERNET))
    assert care_of(moves.visit(CARE_OF_B)) == CARE_OF_B
    moves.tell(SignalMeasured(interface=3, level=-40.0))
    moves.tell(SignalMeasured(interface=9, level=-40.0))
    assert care_of(moves.movement.attachment) == CARE_OF_B
    assert care_of(moves.tell(LinkDown(interface=2))) == CARE_OF_A


def test_weak_wi_fi_is_left_for_a_modem_before_its_link_is_lost_and_taken_up_again() -> None:
    moves = Moves("wlan0", "wwan0")
    moves.movement = Movement(
        home_addresses={HOME_ADDRESS},
        home_prefixes={HOME_PREFIX},
        interfaces=("wlan0", "wwan0"),
        by_kind=True,
    )
    moves.tell(LinkUp(interface=3, name="wlan0", link_layer_address=b"", kind=LinkKind.WIFI))
    moves.visit(CARE_OF_A, interface=3)
    moves.tell(LinkUp(interface=4, name="wwan0", link_layer_address=b"", kind=LinkKind.CELLULAR))
    assert care_of(moves.visit(CARE_OF_B, interface=4)) == CARE_OF_A
    weak = SignalMeasured(interface=3, level=-80.0, is_weak=True)
    assert care_of(moves.tell(weak)) == CARE_OF_B
    assert moves.movement.is_usable(CARE_OF_A)
    assert care_of(moves.tell(SignalMeasured(interface=3, level=-60.0))) == CARE_OF_A


def test_interface_that_flapped_has_to_stay_before_the_node_moves_to_it() -> None:
    moves = Moves("eth0", "eth1")
    moves.link_up(3, "eth1")
    moves.visit(CARE_OF_B, interface=3)
    for _ in range(3):
        moves.link_up()
        moves.tell(LinkDown(interface=2))
        moves.now += 0.1
    moves.link_up()
    assert care_of(moves.visit(CARE_OF_A)) == CARE_OF_B
    due = moves.movement.next_deadline()
    assert due is not None and 1.0 <= due - moves.now <= 3.0
    moves.now = due
    assert care_of(moves.movement.handle_timer(due)) == CARE_OF_A


def test_interface_that_flapped_is_used_at_once_where_there_is_no_other() -> None:
    moves = Moves("eth0", "eth1")
    for _ in range(5):
        moves.link_up()
        moves.tell(LinkDown(interface=2))
    moves.link_up()
    assert care_of(moves.visit(CARE_OF_A)) == CARE_OF_A
