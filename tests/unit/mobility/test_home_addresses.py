"""Several home addresses of one node, and those that are formed while the network is renumbered."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest

from mnagent.core.actions import (
    DeliverPacket,
    Finish,
    PersistRecord,
    RemoveHomeAddress,
    RemoveTunnel,
    ReportEvent,
    SendThroughTunnel,
    SetHomeAddress,
    SetTunnel,
    UseHomeLink,
)
from mnagent.core.events import (
    ActionFailed,
    MembershipReported,
    PacketReceived,
    ShutdownRequested,
    TrafficSeen,
    TunnelActivity,
)
from mnagent.core.indications import AddressUsable, RouterLost
from mnagent.mobility.addresses import ALL_NODES, UNSPECIFIED_ADDRESS
from mnagent.mobility.home_addresses import HOME_ADDRESSES_KEY, MAX_HOME_ADDRESSES
from mnagent.mobility.movement import AtHome
from mnagent.wire.icmp6 import MobilePrefixSolicitation
from mnagent.wire.ipv6 import IPv6Packet, Type2RoutingHeader
from mnagent.wire.mld import ListenerQuery, ListenerReport
from mnagent.wire.mobility import (
    BindingRevocationIndication,
    BindingStatus,
    BindingUpdate,
    HomeTest,
)
from mnagent.wire.ndisc import RouterAdvertisement
from tests.support.driver import (
    CARE_OF_A,
    CARE_OF_B,
    HOME_ADDRESS,
    HOME_AGENT,
    INTERFACE,
    ROUTER,
    router_found,
)
from tests.support.home_addresses import (
    NEW_HOME_ADDRESS,
    SECOND_HOME_ADDRESS,
    HomeAddressesDriver,
)
from tests.support.matching import of_type, only, reports, sent
from tests.support.packets import received
from tests.support.prefixes import HOME_PREFIX, NEW_PREFIX, information
from tests.support.requirement import requirement

BOTH = (HOME_ADDRESS, SECOND_HOME_ADDRESS)
PEER = IPv6Address("2001:db8:c::99")


def renumbered(*, old_valid: float = 1000.0, old_preferred: float = 1000.0) -> HomeAddressesDriver:
    """Away, with a home address in the new prefix that is registered."""
    driver = HomeAddressesDriver()
    driver.establish()
    driver.advertise(
        information(valid=old_valid, preferred=old_preferred),
        information(NEW_PREFIX, valid=100_000.0),
    )
    driver.acknowledge(NEW_HOME_ADDRESS)
    return driver


def test_each_home_address_is_registered_from_one_care_of_address() -> None:
    driver = HomeAddressesDriver(BOTH)
    outputs = driver.visit()
    sources = {action.packet.logical_source for action, _ in sent(outputs, BindingUpdate)}
    assert sources == set(BOTH)
    assert {a.packet.source for a, _ in sent(outputs, BindingUpdate)} == {CARE_OF_A}
    assert len(reports(outputs, "care-of-address-ready")) == 1
    for address in BOTH:
        assert only(driver.acknowledge(address), SetTunnel).home_address == address


def test_acknowledgement_of_one_home_address_settles_no_other() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.visit()
    driver.acknowledge(SECOND_HOME_ADDRESS)
    assert driver.node(SECOND_HOME_ADDRESS).state == "registered"
    assert driver.node(HOME_ADDRESS).state == "registering"


def test_reports_of_the_others_name_their_home_address() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.visit()
    assert "home_address" not in reports(driver.acknowledge(HOME_ADDRESS), "binding-accepted")[0]
    (details,) = reports(driver.acknowledge(SECOND_HOME_ADDRESS), "binding-accepted")
    assert details["home_address"] == str(SECOND_HOME_ADDRESS)


def test_movement_is_one_for_all_home_addresses() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.establish()
    outputs = driver.visit(CARE_OF_B)
    assert len(sent(outputs, BindingUpdate)) == 2
    assert len(reports(outputs, "care-of-address-ready")) == 1


def test_only_one_of_equal_interface_identifiers_asks_for_the_link_local_address() -> None:
    driver = HomeAddressesDriver((HOME_ADDRESS, NEW_HOME_ADDRESS, SECOND_HOME_ADDRESS))
    compatible = [node.settings.link_local_compatibility for node in driver.homes.nodes]
    assert compatible == [True, False, True]


def test_stop_ends_when_every_home_address_has_ended() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.establish()
    assert of_type(driver.tell(ShutdownRequested()), Finish) == []
    assert of_type(driver.acknowledge(HOME_ADDRESS, lifetime=0), Finish) == []
    assert of_type(driver.acknowledge(SECOND_HOME_ADDRESS, lifetime=0), Finish) == [Finish()]
    assert of_type(driver.tell(ShutdownRequested()), Finish) == []


def test_events_about_one_home_address_reach_it_alone() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.establish()
    seen = TrafficSeen(local=SECOND_HOME_ADDRESS, peer=PEER, packets_out=1)
    driver.tell(seen)
    assert driver.node(SECOND_HOME_ADDRESS).route_optimization.registrations
    assert not driver.node(HOME_ADDRESS).route_optimization.registrations
    assert driver.tell(TrafficSeen(local=CARE_OF_A, peer=PEER, packets_out=1)) == []
    unknown = TunnelActivity(home_address=NEW_HOME_ADDRESS, packets_out=1, packets_in=1)
    assert driver.tell(unknown) == []
    failed = ActionFailed(action=SetHomeAddress(home_address=PEER, like=PEER), errno=1)
    assert driver.tell(failed) == []
    assert driver.tell(ActionFailed(action=Finish(), errno=1)) == []


def test_message_for_the_care_of_address_goes_to_who_knows_its_sender() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.establish()
    driver.tell(TrafficSeen(local=SECOND_HOME_ADDRESS, peer=PEER, packets_out=1))
    stray = HomeTest(0, b"\0" * 8, b"\0" * 8)
    driver.tell(received(IPv6Packet(PEER, CARE_OF_A, stray)))
    assert driver.node(SECOND_HOME_ADDRESS).route_optimization.drops.total() == 1
    driver.tell(received(IPv6Packet(IPv6Address("2001:db8:c::1"), CARE_OF_A, stray)))
    assert driver.node(HOME_ADDRESS).route_optimization.drops.total() == 1
    assert driver.homes.drops.total() == 2


def test_peer_that_moved_is_told_of_to_every_home_address() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.establish()
    assert driver.homes.peer_moved(PEER, driver.now) == []


@requirement("RFC6275-11.4.3", "MPD-05")
def test_new_prefix_forms_a_home_address_with_the_same_identifier() -> None:
    driver = HomeAddressesDriver()
    driver.establish()
    outputs = driver.advertise(information(), information(NEW_PREFIX))
    assert only(outputs, SetHomeAddress) == SetHomeAddress(
        home_address=NEW_HOME_ADDRESS, like=HOME_ADDRESS
    )
    values = {each.key: each.value for each in of_type(outputs, PersistRecord)}
    assert values[HOME_ADDRESSES_KEY] == f"{NEW_HOME_ADDRESS}={HOME_ADDRESS}"
    assert driver.updates_of(NEW_HOME_ADDRESS)[0].lifetime == 600
    assert driver.addresses == [HOME_ADDRESS, NEW_HOME_ADDRESS]


@pytest.mark.parametrize(
    "option",
    [
        information(NEW_PREFIX, autonomous=False),
        information(NEW_PREFIX, preferred=0.0),
        information(IPv6Network("2001:db8:2::/80")),
    ],
)
def test_prefix_that_is_not_for_new_addresses_forms_none(option: object) -> None:
    driver = HomeAddressesDriver()
    driver.establish()
    driver.advertise(information(), option)  # type: ignore[arg-type]
    assert driver.addresses == [HOME_ADDRESS]


def test_node_that_is_told_not_to_follow_forms_none() -> None:
    driver = HomeAddressesDriver(
        follows_renumbering=False, persisted=f"{NEW_HOME_ADDRESS}={HOME_ADDRESS}"
    )
    driver.establish()
    driver.advertise(information(), information(NEW_PREFIX))
    assert driver.addresses == [HOME_ADDRESS]


def test_each_configured_home_address_is_formed_anew_in_a_new_prefix() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.establish()
    driver.advertise(information(), information(NEW_PREFIX))
    assert driver.addresses[2:] == [NEW_HOME_ADDRESS, IPv6Address("2001:db8:2::11")]


def test_home_addresses_are_formed_up_to_a_limit() -> None:
    driver = HomeAddressesDriver([HOME_ADDRESS + number for number in range(7)])
    driver.establish()
    prefixes = [IPv6Network(f"2001:db8:{number:x}::/64") for number in range(2, 5)]
    driver.advertise(*(information(prefix) for prefix in prefixes))
    assert len(driver.addresses) == MAX_HOME_ADDRESSES


def test_deprecated_home_address_stays_and_yields_to_a_preferred_one() -> None:
    driver = renumbered(old_valid=10_000.0, old_preferred=1000.0)
    assert driver.homes.leader is driver.node(HOME_ADDRESS)
    outputs = driver.advance(1001)
    (change,) = [a for a in of_type(outputs, SetHomeAddress) if not a.preferred]
    assert change.home_address == HOME_ADDRESS
    assert len(reports(outputs, "home-address-deprecated")) == 1
    assert driver.homes.leader is driver.node(NEW_HOME_ADDRESS)
    assert not driver.homes.is_preferred(HOME_ADDRESS)


def test_deprecated_home_address_is_preferred_again_with_a_fresh_lifetime() -> None:
    driver = renumbered(old_valid=10_000.0, old_preferred=0.0)
    assert not driver.homes.is_preferred(HOME_ADDRESS)
    driver.note(driver.homes.discovery.ask(driver.now))
    outputs = driver.advertise(information(valid=10_000.0))
    assert len(reports(outputs, "home-address-preferred")) == 1
    assert driver.homes.is_preferred(HOME_ADDRESS)


@requirement("RFC6275-11.4.3", "MPD-05")
def test_home_address_whose_prefix_ends_is_taken_away() -> None:
    driver = renumbered(old_valid=1000.0)
    outputs = driver.advance(1001)
    assert only(outputs, RemoveHomeAddress).home_address == HOME_ADDRESS
    assert HOME_ADDRESS in {each.home_address for each in of_type(outputs, RemoveTunnel)}
    assert of_type(outputs, Finish) == []
    assert driver.addresses == [NEW_HOME_ADDRESS]
    assert reports(outputs, "home-address-ended") == [{"home_address": str(HOME_ADDRESS)}]
    assert driver.homes.lifetimes_of(NEW_HOME_ADDRESS)[0] > driver.now
    assert driver.homes.like(NEW_HOME_ADDRESS) == HOME_ADDRESS


def test_formed_home_address_that_ends_leaves_the_record() -> None:
    driver = HomeAddressesDriver()
    driver.establish()
    driver.advertise(information(valid=100_000.0), information(NEW_PREFIX, valid=100.0))
    records = [
        each.value
        for each in of_type(driver.advance(101), PersistRecord)
        if each.key == HOME_ADDRESSES_KEY
    ]
    assert records == [""]


def test_last_home_address_stays_though_its_prefix_has_ended() -> None:
    driver = HomeAddressesDriver()
    driver.establish()
    driver.advertise(information(valid=100.0))
    driver.advance(500)
    assert driver.addresses == [HOME_ADDRESS]


@requirement("RFC6275-11.4.2", "MPD-06")
def test_shorter_prefix_shortens_the_binding() -> None:
    driver = HomeAddressesDriver()
    driver.establish()
    driver.advertise(information(valid=100.0), information(NEW_PREFIX, valid=90_000.0))
    assert [each.lifetime for each in driver.updates_of(HOME_ADDRESS)] == [600, 100]
    assert driver.updates_of(NEW_HOME_ADDRESS)[0].lifetime == 600


@requirement("RFC6275-11.7.3", "MN-22")
def test_status_1_is_answered_by_a_prefix_solicitation() -> None:
    driver = HomeAddressesDriver()
    driver.establish()
    driver.advertise(information(valid=90_000.0))
    driver.advance(520)
    outputs = driver.acknowledge(status=1)
    assert len(sent(outputs, MobilePrefixSolicitation)) == 1


def test_registered_node_asks_for_the_prefixes_once() -> None:
    driver = HomeAddressesDriver()
    driver.visit()
    outputs = driver.acknowledge()
    ((action, _),) = sent(outputs, MobilePrefixSolicitation)
    assert action.packet.destination == HOME_AGENT
    assert action.packet.home_address_option == HOME_ADDRESS
    driver.advertise(information(valid=90_000.0))
    driver.advance(520)
    assert sent(driver.acknowledge(), MobilePrefixSolicitation) == []


def test_acknowledgement_that_comes_at_home_asks_nothing() -> None:
    driver = HomeAddressesDriver()
    driver.visit()
    driver.come_home()
    assert isinstance(driver.homes.leader.attachment, AtHome)
    assert sent([o for _, o in driver.log], MobilePrefixSolicitation) == []


def test_router_at_home_tells_of_new_prefixes() -> None:
    driver = HomeAddressesDriver()
    driver.come_home()
    driver.hear_router(str(NEW_PREFIX), valid=7200, preferred=3600)
    outputs = driver.advance(5)
    assert NEW_HOME_ADDRESS in driver.addresses
    assert NEW_HOME_ADDRESS in {each.home_address for each in of_type(outputs, UseHomeLink)}


@pytest.mark.parametrize("is_home", [True, False])
def test_router_elsewhere_tells_nothing(is_home: bool) -> None:
    driver = HomeAddressesDriver()
    if is_home:
        driver.come_home()
        message = RouterAdvertisement(options=(information(NEW_PREFIX),))
        driver.tell(received(IPv6Packet(PEER, CARE_OF_A, message)))
    else:
        driver.establish()
        driver.hear_router(str(NEW_PREFIX), valid=7200, preferred=3600)
    assert driver.addresses == [HOME_ADDRESS]


def test_formed_home_address_is_taken_up_by_the_next_run() -> None:
    driver = HomeAddressesDriver(persisted=f"{NEW_HOME_ADDRESS}={HOME_ADDRESS}")
    outputs = driver.visit()
    assert only(outputs, SetHomeAddress).home_address == NEW_HOME_ADDRESS
    assert driver.updates_of(NEW_HOME_ADDRESS)
    driver.acknowledge(HOME_ADDRESS)
    driver.acknowledge(NEW_HOME_ADDRESS)
    driver.advertise(information(valid=90_000.0))
    driver.advance(7200)
    assert driver.addresses == [HOME_ADDRESS]


@pytest.mark.parametrize(
    "record",
    [
        "2001:db8:2::10",
        "2001:db8:2::10=2001:db8:9::10",
        "2001:db8:1::10=2001:db8:1::10",
        "nonsense=2001:db8:1::10",
        "a=b=c",
    ],
)
def test_record_that_makes_no_sense_counts_as_none(record: str) -> None:
    driver = HomeAddressesDriver(persisted=record)
    driver.visit()
    assert driver.addresses == [HOME_ADDRESS]


def test_changed_settings_reach_every_home_address() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.establish()
    settings = replace(driver.homes.leader.settings, lifetime=300.0)
    outputs = driver.note(driver.homes.reconfigure(settings, rekeyed=frozenset(), now=driver.now))
    assert [each.lifetime for _, each in sent(outputs, BindingUpdate)] == [300, 300]
    assert driver.addresses == list(BOTH)


def test_nothing_to_wait_for_has_no_deadline() -> None:
    assert HomeAddressesDriver().homes.next_deadline() is None


def test_report_of_leaving_home_is_told_once() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.come_home()
    outputs = driver.visit()
    assert len([o for o in of_type(outputs, ReportEvent) if o.name == "left-home"]) <= 1
    assert HOME_PREFIX in driver.homes._surroundings.home_prefixes


def test_home_addresses_of_one_prefix_end_together() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.establish()
    driver.advertise(information(valid=100.0), information(NEW_PREFIX, valid=90_000.0))
    driver.advance(101)
    assert driver.addresses == [NEW_HOME_ADDRESS, IPv6Address("2001:db8:2::11")]
    assert driver.homes._surroundings.home_prefixes == {NEW_PREFIX}


def test_acknowledgement_while_the_link_is_in_doubt_asks_nothing() -> None:
    driver = HomeAddressesDriver()
    driver.visit()
    driver.node(HOME_ADDRESS)._is_doubtful = True
    driver.tell(RouterLost(interface=INTERFACE, router=ROUTER))
    assert sent(driver.acknowledge(), MobilePrefixSolicitation) == []


@requirement("RFC6275-11.3.4", "MN-40")
def test_groups_of_the_host_are_reported_by_one_home_address() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.establish()
    query = PacketReceived(
        packet=IPv6Packet(ROUTER, ALL_NODES, ListenerQuery(500, UNSPECIFIED_ADDRESS), hop_limit=1),
        interface=INTERFACE,
        tunnel_source=HOME_AGENT,
        data=b"query",
    )
    assert driver.tell(query) == [DeliverPacket(data=b"query")]
    report = IPv6Packet(ROUTER, ALL_NODES, ListenerReport(IPv6Address("ff0e::1")), hop_limit=1)
    assert driver.tell(MembershipReported(packet=report)) == [
        SendThroughTunnel(home_address=HOME_ADDRESS, packet=report)
    ]


@requirement("RFC6275-11.5.4", "MOV-03")
def test_every_home_address_follows_when_the_care_of_address_ends() -> None:
    driver = HomeAddressesDriver(BOTH)
    driver.establish()
    ending = AddressUsable(
        interface=INTERFACE,
        address=CARE_OF_A,
        prefix_length=64,
        valid_until=driver.now + 100,
        preferred_until=driver.now + 100,
    )
    driver.tell(ending)
    driver.tell(router_found(CARE_OF_B, router=ROUTER + 1))
    driver.tell(AddressUsable(interface=INTERFACE, address=CARE_OF_B, prefix_length=64))
    outputs = driver.advance(100)
    registering = {
        a.packet.logical_source: a.packet.source for a, _ in sent(outputs, BindingUpdate)
    }
    assert registering == dict.fromkeys(BOTH, CARE_OF_B)


def stopping_with_one_refused() -> HomeAddressesDriver:
    """Told to stop; the first home address is done, though its binding may live on."""
    driver = HomeAddressesDriver(BOTH, max_shutdown_updates=8)
    driver.establish()
    driver.tell(ShutdownRequested())
    driver.acknowledge(HOME_ADDRESS, status=BindingStatus.ADMINISTRATIVELY_PROHIBITED)
    return driver


def test_home_address_that_has_finished_is_silent_while_another_has_not() -> None:
    driver = stopping_with_one_refused()
    revocation = IPv6Packet(
        HOME_AGENT,
        CARE_OF_A,
        BindingRevocationIndication(sequence=1, trigger=1),
        extension_headers=(Type2RoutingHeader(HOME_ADDRESS),),
    )
    assert driver.tell(received(revocation)) == []
    assert driver.node(HOME_ADDRESS).next_deadline() is None
    assert driver.node(HOME_ADDRESS).handle_timer(driver.now + 1000) == []
    assert of_type(driver.acknowledge(SECOND_HOME_ADDRESS, lifetime=0), Finish) == [Finish()]


def test_stop_ends_with_the_home_address_that_was_waited_for() -> None:
    driver = stopping_with_one_refused()
    home = driver.homes._known[SECOND_HOME_ADDRESS]
    home.preferred_until = home.valid_until = driver.now + 0.5
    outputs = driver.advance(0.5)
    assert only(outputs, RemoveHomeAddress).home_address == SECOND_HOME_ADDRESS
    assert outputs[-1] == Finish()


def test_home_address_that_has_finished_may_end_before_the_others() -> None:
    driver = stopping_with_one_refused()
    home = driver.homes._known[HOME_ADDRESS]
    home.preferred_until = home.valid_until = driver.now + 0.5
    outputs = driver.advance(0.5)
    assert only(outputs, RemoveHomeAddress).home_address == HOME_ADDRESS
    assert not of_type(outputs, RemoveTunnel), "it was taken down when it had finished"
    assert of_type(driver.acknowledge(SECOND_HOME_ADDRESS, lifetime=0), Finish) == [Finish()]
