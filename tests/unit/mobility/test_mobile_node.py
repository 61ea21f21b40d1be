from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import (
    Finish,
    HoldTunnel,
    JoinGroup,
    LeaveGroup,
    LeaveHomeLink,
    RemoveTunnel,
    SendPacket,
    SetTunnel,
    UseHomeLink,
)
from mnagent.core.events import (
    AddressAppeared,
    AddressVanished,
    LinkDown,
    ShutdownRequested,
)
from mnagent.core.indications import (
    AddressLost,
    AddressUsable,
    AttachmentDoubtful,
    Output,
    RouterLost,
)
from mnagent.wire.icmp6 import EchoRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingUpdate, HomeAgentSwitch
from tests.support.driver import (
    CARE_OF_A,
    CARE_OF_B,
    HOME_ADDRESS,
    HOME_AGENT,
    INTERFACE,
    ROUTER,
    MobileNodeDriver,
)
from tests.support.matching import kinds, of_type, only, reports, sent
from tests.support.packets import binding_acknowledgement, received
from tests.support.requirement import requirement

DERIVED_LINK_LOCAL = IPv6Address("fe80::10")
OTHER_HOME_AGENT = IPv6Address("2001:db8:1::2")


def registered() -> MobileNodeDriver:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.visit(CARE_OF_A)
    driver.acknowledge()
    return driver


def link_local(driver: MobileNodeDriver, address: IPv6Address, **fields: bool) -> None:
    driver.tell(AddressAppeared(interface=INTERFACE, address=address, prefix_length=64, **fields))


@requirement("RFC6275-11.7.1", "MN-02")
@pytest.mark.parametrize("case", ["same", "other", "duplicate", "vanished", "elsewhere"])
def test_link_local_compatibility_needs_the_derived_address_on_the_interface(case: str) -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    if case == "other":
        link_local(driver, IPv6Address("fe80::99"))
    elif case == "elsewhere":
        driver.tell(AddressAppeared(interface=9, address=DERIVED_LINK_LOCAL, prefix_length=64))
    else:
        link_local(driver, DERIVED_LINK_LOCAL)
    if case == "duplicate":
        link_local(driver, IPv6Address("fe80::98"), duplicate=True)
        link_local(driver, DERIVED_LINK_LOCAL, duplicate=True)
    if case == "vanished":
        driver.tell(AddressVanished(interface=INTERFACE, address=DERIVED_LINK_LOCAL))
    driver.visit(CARE_OF_A)
    assert driver.updates()[-1].link_local_compatibility is (case == "same")


@requirement("RFC6275-11.5.4", "MOV-12", "MN-34")
def test_old_tunnel_is_kept_while_its_address_works_until_the_new_one_is_acknowledged() -> None:
    driver = MobileNodeDriver(interfaces=("wlan0", "eth0"))
    driver.link_up(INTERFACE, "eth0")
    driver.visit(CARE_OF_A)
    driver.acknowledge()
    driver.link_up(3, "wlan0")
    outputs = driver.visit(CARE_OF_B, interface=3)
    assert not of_type(outputs, HoldTunnel) and driver.node.tunnel_address == CARE_OF_A
    tunnel = only(driver.acknowledge(), SetTunnel)
    assert (tunnel.local, tunnel.interface) == (CARE_OF_B, 3)


def test_link_lost_holds_the_tunnel_and_the_same_address_brings_it_back_at_once() -> None:
    driver = registered()
    assert of_type(driver.tell(LinkDown(interface=INTERFACE)), HoldTunnel)
    assert driver.node.state == "detached"
    driver.advance(30)
    driver.link_up()
    outputs = driver.visit(CARE_OF_A)
    names = kinds(outputs)
    assert names.index("SetTunnel") < names.index("SendPacket")
    assert driver.node.state == "refreshing"


def test_repeated_lifetimes_of_the_address_in_use_send_nothing() -> None:
    driver = registered()
    usable = AddressUsable(
        interface=INTERFACE, address=CARE_OF_A, prefix_length=64, valid_until=driver.now + 5000
    )
    assert driver.tell(usable) == []


def test_state_follows_the_attachment() -> None:
    driver = MobileNodeDriver()
    assert driver.node.state == "detached"
    driver.link_up()
    driver.visit(CARE_OF_A)
    assert driver.node.state == "registering"
    driver.acknowledge()
    assert driver.node.state == "registered"
    driver.come_home()
    assert driver.node.state == "at-home-finding-home-agent"


def test_packet_that_is_nothing_to_us_is_ignored() -> None:
    driver = registered()
    packet = IPv6Packet(CARE_OF_B, CARE_OF_A, EchoRequest(1, 1))
    assert driver.tell(received(packet)) == []


@requirement("RFC6275-11.7.1", "OPS-05")
def test_shutdown_away_deregisters_and_finishes_with_the_answer() -> None:
    driver = registered()
    outputs = driver.tell(ShutdownRequested())
    assert driver.updates()[-1].lifetime == 0 and not of_type(outputs, Finish)
    names = kinds(driver.acknowledge())
    assert names[-3:] == ["RemoveTunnel", "LeaveHomeLink", "Finish"]
    assert driver.tell(ShutdownRequested()) == []


@requirement("RFC6275-11.7.1", "OPS-05")
def test_second_shutdown_does_not_wait() -> None:
    driver = registered()
    driver.tell(ShutdownRequested())
    assert of_type(driver.tell(ShutdownRequested()), Finish)


def test_stopping_node_follows_no_movement() -> None:
    driver = registered()
    driver.tell(ShutdownRequested())
    driver.visit(CARE_OF_B)
    driver.tell(AddressLost(interface=INTERFACE, address=CARE_OF_A))
    assert [update.lifetime for update in driver.updates()] == [600, 0]


def test_shutdown_without_a_way_out_finishes_at_once() -> None:
    driver = registered()
    driver.tell(LinkDown(interface=INTERFACE))
    assert of_type(driver.tell(ShutdownRequested()), Finish)


def test_shutdown_at_home_finishes_at_once_and_leaves_the_link() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.come_home()
    driver.advance(1)
    outputs = driver.tell(ShutdownRequested())
    assert only(outputs, LeaveHomeLink).home_address == HOME_ADDRESS
    assert of_type(outputs, Finish)


def test_shutdown_on_the_way_home_waits_for_the_deregistration() -> None:
    driver = registered()
    driver.come_home(addresses=((driver.node.settings.home_agent_address, b"\x02\0\0\0\0\x01"),))
    outputs = driver.tell(ShutdownRequested())
    assert not of_type(outputs, Finish)
    assert of_type(driver.acknowledge(), Finish)


def test_home_link_lost_while_at_home_holds_the_tunnel() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.come_home()
    driver.advance(1)
    outputs = driver.tell(LinkDown(interface=INTERFACE))
    assert kinds(outputs)[-3:] == ["LeaveHomeLink", "ReportEvent", "HoldTunnel"]
    assert reports(outputs, "left-home")


def test_home_link_over_another_interface_is_used_there_at_once() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.come_home()
    driver.advance(1)
    driver.link_up(3, "eth1")
    driver.come_home(interface=3)
    outputs = driver.tell(LinkDown(interface=INTERFACE))
    assert only(outputs, LeaveGroup).interface == INTERFACE
    assert only(outputs, JoinGroup).interface == 3
    assert only(outputs, UseHomeLink).interface == 3
    assert driver.node.state == "at-home"


def test_refused_movement_holds_the_tunnel() -> None:
    driver = MobileNodeDriver(optimistic_tunnel=True)
    driver.link_up()
    driver.visit(CARE_OF_A)
    outputs = driver.acknowledge(status=129)
    assert of_type(outputs, HoldTunnel) and not of_type(outputs, RemoveTunnel)


def test_deadline_is_the_earliest_of_the_machines() -> None:
    driver = MobileNodeDriver()
    assert driver.node.next_deadline() is None
    driver.link_up()
    driver.visit(CARE_OF_A)
    assert driver.node.next_deadline() == driver.now + 1.5
    outputs = driver.node.handle_timer(driver.now + 1.5)
    assert of_type(outputs, SendPacket)


def test_deletion_without_a_return_under_way_does_nothing() -> None:
    driver = registered()
    assert driver.node.home_link.binding_deleted(driver.now) == []


@requirement("RFC6275-11.5.3", "MN-10", "MN-34")
def test_early_tunnel_waits_for_an_update_that_the_rate_limit_holds_back() -> None:
    driver = MobileNodeDriver(optimistic_tunnel=True)
    driver.link_up()
    for address in (CARE_OF_A, CARE_OF_B, CARE_OF_A):
        assert only(driver.visit(address), SetTunnel).local == address
    assert not of_type(driver.visit(CARE_OF_B), SetTunnel)
    assert driver.node.tunnel_address == CARE_OF_A, "the old address still works"
    assert only(driver.advance(1.0), SetTunnel).local == CARE_OF_B


def test_early_tunnel_that_never_came_does_not_come_on_another_link() -> None:
    driver = MobileNodeDriver(optimistic_tunnel=True)
    driver.link_up()
    for address in (CARE_OF_A, CARE_OF_B, CARE_OF_A, CARE_OF_B):
        driver.visit(address)
    driver.tell(LinkDown(interface=INTERFACE))
    driver.link_up()
    outputs = driver.come_home() + driver.advance(5)
    assert not of_type(outputs, SetTunnel)


def registered_with_a_choice() -> MobileNodeDriver:
    driver = MobileNodeDriver(home_agents=(HOME_AGENT, OTHER_HOME_AGENT), max_shutdown_updates=4)
    driver.link_up()
    driver.visit(CARE_OF_A)
    driver.acknowledge()
    return driver


@requirement("RFC6275-11.7.1", "OPS-05")
def test_shutdown_unanswered_tries_no_other_home_agent_and_finishes() -> None:
    driver = registered_with_a_choice()
    driver.advance(510.0)
    assert driver.node.registration.state.value == "refreshing", "its silence is being counted"
    driver.tell(ShutdownRequested())
    outputs = driver.advance(20)
    assert not reports(outputs, "home-agent-chosen")
    assert len(of_type(outputs, Finish)) == 1


@requirement("RFC6275-11.7.1", "OPS-05")
def test_stopping_node_is_not_moved_to_another_home_agent() -> None:
    driver = registered_with_a_choice()
    driver.tell(ShutdownRequested())
    switch = IPv6Packet(HOME_AGENT, CARE_OF_A, HomeAgentSwitch((OTHER_HOME_AGENT,)))
    assert driver.tell(received(switch)) == []
    assert of_type(driver.acknowledge(), Finish)


def test_home_link_found_in_doubt_of_another_is_left_like_any() -> None:
    driver = registered()
    driver.advance(520)
    assert driver.all(AttachmentDoubtful), "the refresh is not answered"
    driver.tell(RouterLost(interface=INTERFACE, router=ROUTER))
    driver.come_home()
    driver.advance(700)
    assert driver.node.state == "at-home"
    outputs = driver.tell(RouterLost(interface=INTERFACE, router=ROUTER))
    assert only(outputs, LeaveHomeLink).home_address == HOME_ADDRESS
    assert driver.node.state == "detached"


def test_home_address_taken_is_asked_for_elsewhere_from_where_the_node_is() -> None:
    driver = registered_with_a_choice()
    driver.advance(510)
    driver.acknowledge(status=134)
    other = binding_acknowledgement(
        OTHER_HOME_AGENT,
        HOME_ADDRESS,
        care_of_address=CARE_OF_A,
        sequence=driver.updates()[-1].sequence,
        status=134,
    )
    driver.tell(received(other))
    assert driver.node.state == "home-address-duplicate"
    driver.tell(RouterLost(interface=INTERFACE, router=ROUTER))
    assert driver.node.home_agents.next_deadline() is None, "nowhere to ask from"
    action, _ = sent(driver.visit(CARE_OF_B), BindingUpdate)[-1]
    assert action.packet.source == CARE_OF_B


def test_home_address_taken_at_the_only_home_agent_is_not_asked_for_again() -> None:
    driver = MobileNodeDriver()
    driver.link_up()
    driver.visit(CARE_OF_A)
    driver.acknowledge(status=134)
    for address in (CARE_OF_B, CARE_OF_B, CARE_OF_A):
        driver.visit(address)
        driver.tell(AddressLost(interface=INTERFACE, address=CARE_OF_A))
    driver.advance(1000)
    assert len(driver.updates()) == 1


def in_doubt_with_another_home_agent_chosen() -> MobileNodeDriver:
    driver = registered_with_a_choice()
    while not driver.all(AttachmentDoubtful):
        driver.advance(1)
    driver.tell(RouterLost(interface=INTERFACE, router=ROUTER))
    outputs: list[Output] = []
    while not reports(outputs, "home-agent-chosen"):
        assert driver.now < 2000, "the choice goes on"
        outputs = driver.advance(1)
    asked = [action.packet.destination for action, _ in sent(outputs, BindingUpdate)]
    assert driver.node.home_agent_address not in asked, "there is no link to ask over"
    return driver


def test_link_lost_in_doubt_ends_what_was_asked_over_it() -> None:
    driver = in_doubt_with_another_home_agent_chosen()
    driver.tell(LinkDown(interface=INTERFACE))
    assert driver.node.home_agents.next_deadline() is None
    known = HomeAgentSwitch((OTHER_HOME_AGENT,))
    driver.tell(received(IPv6Packet(HOME_AGENT, CARE_OF_A, known)))
    assert not sent(driver.advance(1000), BindingUpdate), "from an address of no link"


def test_home_agent_chosen_while_the_link_is_in_doubt_is_asked_when_that_is_over() -> None:
    driver = in_doubt_with_another_home_agent_chosen()
    chosen = driver.node.home_agent_address
    action, _ = sent(driver.visit(CARE_OF_A), BindingUpdate)[-1]
    assert action.packet.destination == chosen
