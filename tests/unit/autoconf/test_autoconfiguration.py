from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any

import pytest

from mnagent.autoconf.autoconfiguration import (
    MAX_KERNEL_ADDRESSES,
    AgentAutoconfiguration,
    AutoconfigurationEvent,
    KernelAutoconfiguration,
)
from mnagent.autoconf.constants import (
    MAX_RANDOM_FACTOR,
    MAX_UNREACHABILITY_PROBES,
    REACHABLE_TIME,
    SUSPECT_DELAY,
    UNREACHABILITY_PROBE_INTERVAL,
)
from mnagent.autoconf.slaac import AddressState, SlaacSettings
from mnagent.core.actions import AddAddress, RemoveAddress, RemoveDefaultRouter
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    ActionFailed,
    AddressAppeared,
    AddressVanished,
    DefaultRouterAppeared,
    DefaultRouterVanished,
    LinkCause,
    LinkDown,
    LinkUp,
)
from mnagent.core.indications import AddressLost, AddressUsable, Output, RouterFound, RouterLost
from mnagent.wire.icmp6 import EchoRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation, RouterSolicitation
from tests.support.driver import Driver
from tests.support.matching import kinds, of_type, only, reports, sent
from tests.support.packets import received, router_advertisement
from tests.support.requirement import requirement

ROUTER = IPv6Address("fe80::1")
OTHER_ROUTER = IPv6Address("fe80::2")
LINK_LOCAL = IPv6Address("fe80::10")
ADDRESS = IPv6Address("2001:db8:a::10")
HOME_ADDRESS = IPv6Address("2001:db8:1::10")
MAC = bytes.fromhex("020000000010")


class Autoconfigurations(Driver):
    machine: AgentAutoconfiguration | KernelAutoconfiguration

    def tell(self, event: AutoconfigurationEvent) -> list[Output]:
        return self.note(self.machine.handle(event, self.now))

    def link_up(self, index: int = 2, name: str = "eth0") -> list[Output]:
        return self.tell(LinkUp(interface=index, name=name, link_layer_address=MAC))

    def appear(self, address: IPv6Address = ADDRESS, **fields: Any) -> list[Output]:
        return self.tell(AddressAppeared(interface=2, address=address, prefix_length=64, **fields))

    def hear(self, *prefixes: str, **fields: Any) -> list[Output]:
        return self.tell(received(router_advertisement(ROUTER, *prefixes, **fields)))


def agent(*, interfaces: tuple[str, ...] = ()) -> Autoconfigurations:
    settings = SlaacSettings(secret=b"secret")
    return Autoconfigurations(
        AgentAutoconfiguration(settings, random=Random(1), interfaces=interfaces)
    )


def kernel(*, optimistic: bool = True, interfaces: tuple[str, ...] = ()) -> Autoconfigurations:
    return Autoconfigurations(
        KernelAutoconfiguration(
            random=Random(1),
            optimistic=optimistic,
            interfaces=interfaces,
            never=frozenset((HOME_ADDRESS,)),
        )
    )


@pytest.mark.parametrize("make", [agent, kernel])
def test_interface_that_is_not_ours_is_left_alone(make: Any) -> None:
    driver = make(interfaces=("wlan0",))
    assert driver.link_up(name="eth0") == []
    assert driver.hear("2001:db8:a::/64") == []
    assert driver.tell(LinkDown(interface=2)) == []


@pytest.mark.parametrize("make", [agent, kernel])
def test_solicitation_comes_from_the_link_local_address_once_it_is_not_tentative(
    make: Any,
) -> None:
    driver = make()
    sources = []

    def solicit() -> None:
        ((action, _),) = sent(driver.link_up(), RouterSolicitation)
        sources.append(action.packet.source)

    driver.link_up()
    driver.appear(LINK_LOCAL, tentative=True)
    solicit()
    driver.appear(LINK_LOCAL)
    solicit()
    driver.appear(LINK_LOCAL, duplicate=True)
    solicit()
    driver.appear(LINK_LOCAL)
    driver.tell(AddressVanished(interface=2, address=LINK_LOCAL))
    solicit()
    unspecified = IPv6Address("::")
    assert sources == [unspecified, LINK_LOCAL, unspecified, unspecified]


@pytest.mark.parametrize("make", [agent, kernel])
def test_advertisement_from_afar_is_counted(make: Any) -> None:
    driver = make()
    driver.link_up()
    assert driver.hear("2001:db8:a::/64", hop_limit=64) == []
    assert driver.machine.drops == {DropReason.BAD_HOP_LIMIT: 1}


# The agent's own.


def test_agent_gives_the_router_before_the_address() -> None:
    driver = agent()
    driver.link_up()
    names = kinds(driver.hear("2001:db8:a::/64"))
    assert names.index("AddDefaultRouter") < names.index("RouterFound")
    assert names.index("RouterFound") < names.index("AddressUsable")
    assert list(driver.machine.states()[2].values()) == [AddressState.OPTIMISTIC]
    driver.advance(1)
    assert list(driver.machine.states()[2].values()) == [AddressState.PREFERRED]


def test_agent_removes_what_it_configured_when_the_link_goes_or_it_stops() -> None:
    driver = agent()
    driver.link_up()
    driver.hear("2001:db8:a::/64")
    driver.advance(2)
    for outputs in (
        driver.tell(LinkDown(interface=2)),
        (driver.link_up(), driver.hear("2001:db8:a::/64"), driver.machine.remove_all())[-1],
    ):
        assert of_type(outputs, RemoveAddress) and of_type(outputs, RemoveDefaultRouter)
        assert of_type(outputs, AddressLost) and of_type(outputs, RouterLost)


@pytest.mark.parametrize("make", [agent, kernel])
def test_interface_plugged_in_again_and_again_is_one(make: Any) -> None:
    driver = make()
    driver.link_up(9, "eth1")
    for index in (2, 3, 4):
        driver.link_up(index, "eth0")
        driver.tell(received(router_advertisement(ROUTER, hop_limit=64), interface=index))
        driver.tell(LinkDown(interface=index))
        driver.link_up(index, "eth0")
        driver.tell(LinkDown(interface=index))
    driver.tell(LinkDown(interface=9))
    driver.link_up(5, "eth0")
    assert set(driver.machine.states()) == {9, 5}
    assert driver.machine.drops[DropReason.BAD_HOP_LIMIT] == 3


def test_agent_takes_an_address_back_that_the_host_refused() -> None:
    driver = agent()
    driver.link_up()
    action = only(driver.hear("2001:db8:a::/64"), AddAddress)
    assert of_type(driver.tell(ActionFailed(action=action, errno=13)), AddressLost)
    other = RemoveDefaultRouter(interface=2, router=ROUTER)
    assert driver.tell(ActionFailed(action=other, errno=3)) == []
    elsewhere = AddAddress(interface=9, address=ADDRESS, prefix_length=64)
    assert driver.tell(ActionFailed(action=elsewhere, errno=13)) == []


def test_agent_believes_the_kernel_that_its_address_is_a_duplicate() -> None:
    driver = agent()
    driver.link_up()
    usable = only(driver.hear("2001:db8:a::/64"), AddressUsable)
    outputs = driver.appear(usable.address, duplicate=True)
    assert only(outputs, AddressLost).address == usable.address


def test_agent_ignores_addresses_and_routes_of_others() -> None:
    driver = agent()
    driver.link_up()
    assert driver.appear(ADDRESS) == []
    assert driver.tell(AddressVanished(interface=2, address=ADDRESS)) == []
    assert driver.tell(DefaultRouterAppeared(interface=2, router=ROUTER)) == []


def test_agent_hears_objections_only_from_the_link_itself() -> None:
    driver = agent()
    driver.link_up()
    usable = only(driver.hear("2001:db8:a::/64"), AddressUsable)

    def object_with(hop_limit: int) -> list[Output]:
        message = NeighborAdvertisement(usable.address)
        packet = IPv6Packet(usable.address, IPv6Address("ff02::1"), message, hop_limit=hop_limit)
        return driver.tell(received(packet))

    assert object_with(64) == []
    assert of_type(object_with(255), AddressLost)


# The kernel's.


@pytest.mark.parametrize("optimistic", [True, False])
def test_kernel_address_that_is_tentative_is_used_only_when_optimistic(optimistic: bool) -> None:
    driver = kernel(optimistic=optimistic)
    driver.link_up()
    offered = of_type(driver.appear(ADDRESS, tentative=True), AddressUsable)
    assert bool(offered) is optimistic
    assert not only(driver.appear(ADDRESS), AddressUsable).optimistic


def test_kernel_address_states_are_shown() -> None:
    driver = kernel()
    driver.link_up()
    driver.appear(ADDRESS, tentative=True)
    assert driver.machine.states() == {2: {ADDRESS: AddressState.OPTIMISTIC}}
    driver.appear(ADDRESS)
    assert driver.machine.states() == {2: {ADDRESS: AddressState.PREFERRED}}
    driver.link_up()
    assert driver.machine.states() == {2: {ADDRESS: AddressState.IN_DOUBT}}
    assert driver.machine.remove_all() == []


def test_kernel_address_that_is_a_duplicate_is_never_used() -> None:
    driver = kernel()
    driver.link_up()
    assert driver.appear(ADDRESS, duplicate=True) == []
    driver.appear(ADDRESS, tentative=True)
    assert only(driver.appear(ADDRESS, duplicate=True), AddressLost).address == ADDRESS


def test_kernel_address_lifetimes_become_instants() -> None:
    driver = kernel()
    driver.link_up()
    usable = only(
        driver.appear(ADDRESS, valid_lifetime=100.0, preferred_lifetime=50.0), AddressUsable
    )
    assert usable.valid_until == driver.now + 100
    assert usable.preferred_until == driver.now + 50
    assert (
        only(driver.appear(ADDRESS, deprecated=True), AddressUsable).preferred_until == driver.now
    )


def test_kernel_home_address_is_no_candidate_and_the_table_is_bounded() -> None:
    driver = kernel()
    driver.link_up()
    assert driver.appear(HOME_ADDRESS) == []
    for number in range(MAX_KERNEL_ADDRESSES):
        assert driver.appear(ADDRESS + number)
    assert driver.appear(ADDRESS + MAX_KERNEL_ADDRESSES) == []
    assert driver.appear(ADDRESS), "a known one is still heard"


def test_kernel_route_is_a_router_of_unknown_prefixes() -> None:
    driver = kernel()
    driver.link_up()
    outputs = driver.tell(DefaultRouterAppeared(interface=2, router=ROUTER))
    assert only(outputs, RouterFound).prefixes is None
    outputs = driver.tell(DefaultRouterVanished(interface=2, router=ROUTER))
    assert only(outputs, RouterLost).router == ROUTER


def test_kernel_mode_still_hears_what_routers_advertise() -> None:
    driver = kernel()
    driver.link_up()
    found = only(driver.hear("2001:db8:a::/64"), RouterFound)
    assert found.prefixes == (IPv6Network("2001:db8:a::/64"),)
    neighbor = IPv6Packet(ROUTER, ADDRESS, NeighborAdvertisement(ADDRESS), hop_limit=255)
    assert driver.tell(received(neighbor)) == []


@requirement("RFC6059-5.4", "MOV-21")
def test_kernel_addresses_and_routes_are_in_doubt_after_a_link_event_until_told_again() -> None:
    driver = kernel()
    driver.link_up()
    driver.appear(ADDRESS)
    driver.tell(DefaultRouterAppeared(interface=2, router=ROUTER))
    outputs = driver.link_up()
    assert only(outputs, AddressLost) and only(outputs, RouterLost)
    assert only(driver.appear(ADDRESS), AddressUsable)
    assert not of_type(driver.link_up() + driver.link_up(), RouterFound)


def test_kernel_addresses_configured_by_hand_are_trusted_again_without_news() -> None:
    driver = kernel()
    driver.link_up()
    driver.appear(ADDRESS)
    driver.tell(DefaultRouterAppeared(interface=2, router=ROUTER))
    driver.link_up()
    outputs = driver.advance(SUSPECT_DELAY + 0.1)
    assert only(outputs, RouterFound).router == ROUTER
    assert only(outputs, AddressUsable).address == ADDRESS
    assert not of_type(driver.advance(10), AddressUsable)


def test_kernel_link_that_goes_takes_addresses_and_routes_along() -> None:
    driver = kernel()
    driver.link_up()
    driver.appear(ADDRESS)
    driver.tell(DefaultRouterAppeared(interface=2, router=ROUTER))
    outputs = driver.tell(LinkDown(interface=2))
    assert only(outputs, AddressLost) and only(outputs, RouterLost)
    assert driver.machine.states() == {2: {}}
    assert driver.tell(AddressVanished(interface=2, address=ADDRESS)) == []
    action = AddAddress(interface=2, address=ADDRESS, prefix_length=64)
    assert driver.tell(ActionFailed(action=action, errno=1)) == []


# Is the router still there, where the kernel configures?

ROUTER_MAC = bytes.fromhex("020000000001")
SILENCE = REACHABLE_TIME * MAX_RANDOM_FACTOR + 1
GIVEN_UP = SILENCE + MAX_UNREACHABILITY_PROBES * UNREACHABILITY_PROBE_INTERVAL


class Watching(Autoconfigurations):
    """A node that follows the kernel, on a link with a router that has advertised itself."""

    def __init__(self) -> None:
        super().__init__(KernelAutoconfiguration(random=Random(1)))
        self.link_up()
        self.appear(LINK_LOCAL)
        self.appear()
        self.tell(DefaultRouterAppeared(interface=2, router=ROUTER))
        self.hear("2001:db8:a::/64", mac=ROUTER_MAC)

    def probes(self, duration: float) -> list[IPv6Address]:
        outputs = self.advance(duration)
        return [message.target for _, message in sent(outputs, NeighborSolicitation)]

    def be_asked(self, router: IPv6Address = ROUTER) -> None:
        """Go on until the router is asked for the first time."""
        end = self.now + SILENCE
        while router not in self.probes(0.1):
            assert self.now < end, "never asked"

    def answer(self, router: IPv6Address = ROUTER, **fields: Any) -> list[Output]:
        message = NeighborAdvertisement(router, router=True, solicited=True)
        packet = IPv6Packet(router, LINK_LOCAL, message, hop_limit=255)
        return self.tell(received(replace(packet, **fields), link_layer_source=bytes(6)))


@requirement("RFC6275-11.5.1", "MOV-02")
def test_router_the_kernel_uses_that_answers_no_more_means_another_link() -> None:
    node = Watching()
    outputs = node.advance(GIVEN_UP)
    assert len(sent(outputs, NeighborSolicitation)) == MAX_UNREACHABILITY_PROBES
    assert reports(outputs, "router-unreachable")[0]["router"] == str(ROUTER)
    assert AddressLost(interface=2, address=ADDRESS) in outputs
    assert RouterLost(interface=2, router=ROUTER) in outputs
    assert sent(outputs, RouterSolicitation)


@requirement("RFC6275-11.5.1", "MOV-02")
def test_router_the_kernel_uses_that_answers_is_left_alone() -> None:
    node = Watching()
    node.be_asked()
    assert node.answer() == []
    assert of_type(node.advance(5), AddressLost) == []


def test_answer_that_may_come_from_elsewhere_proves_nothing_of_the_kernels_router() -> None:
    node = Watching()
    node.be_asked()
    node.answer(hop_limit=64)
    assert of_type(node.advance(5), AddressLost)


def test_packet_from_the_kernels_router_proves_that_it_is_there() -> None:
    node = Watching()
    node.be_asked()
    packet = IPv6Packet(ROUTER, ADDRESS, EchoRequest(1, 1))
    node.tell(received(packet, link_layer_source=ROUTER_MAC))
    assert of_type(node.advance(5), AddressLost) == []


def test_unreachable_router_beside_another_is_no_movement_for_the_kernels_addresses() -> None:
    node = Watching()
    packet = router_advertisement(OTHER_ROUTER, "2001:db8:a::/64", mac=MAC)
    node.tell(received(packet, link_layer_source=MAC))
    outputs: list[Output] = []
    for _ in range(int(GIVEN_UP * 10)):
        step = node.advance(0.1)
        outputs += step
        if any(message.target == OTHER_ROUTER for _, message in sent(step, NeighborSolicitation)):
            node.answer(OTHER_ROUTER)
    assert [each.router for each in of_type(outputs, RouterLost)] == [ROUTER]
    assert of_type(outputs, AddressLost) == []


@requirement("RFC6275-11.5.1", "MOV-02")
def test_suspicion_asks_the_kernels_router_before_anything_is_doubted() -> None:
    node = Watching()
    link = LinkUp(interface=2, name="eth0", link_layer_address=MAC, cause=LinkCause.SUSPICION)
    outputs = node.tell(link)
    assert sent(outputs, NeighborSolicitation) and of_type(outputs, AddressLost) == []
    assert of_type(node.advance(2), AddressLost)


@pytest.mark.parametrize("how", ["resigns", "route-vanishes", "link-down", "new-link"])
def test_router_the_kernel_uses_no_more_is_asked_no_more(how: str) -> None:
    node = Watching()
    match how:
        case "resigns":
            node.hear(mac=ROUTER_MAC, lifetime=0)
        case "route-vanishes":
            node.tell(DefaultRouterVanished(interface=2, router=ROUTER))
        case "link-down":
            node.tell(LinkDown(interface=2))
        case _:
            node.link_up()
    assert node.probes(GIVEN_UP) == []
