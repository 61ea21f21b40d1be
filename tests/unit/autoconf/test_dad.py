from __future__ import annotations

from ipaddress import IPv6Address
from random import Random

from mnagent.autoconf.dad import DuplicateAddressDetection
from mnagent.core.actions import JoinGroup, LeaveGroup
from mnagent.core.indications import AddressDuplicate, AddressUnique
from mnagent.wire.icmp6 import EchoRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation, Nonce
from tests.support.driver import Driver
from tests.support.matching import of_type, only, sent
from tests.support.nodes import solicited_node
from tests.support.packets import received
from tests.support.requirement import requirement

ADDRESS = IPv6Address("2001:db8:a::10")
OTHER = IPv6Address("2001:db8:a::99")
UNSPECIFIED = IPv6Address("::")


def make(transmits: int = 1) -> tuple[Driver, DuplicateAddressDetection]:
    detection = DuplicateAddressDetection(
        ADDRESS, interface=2, random=Random(1), transmits=transmits
    )
    return Driver(detection), detection


def probe(*options: Nonce, source: IPv6Address = UNSPECIFIED) -> IPv6Packet:
    return IPv6Packet(source, solicited_node(ADDRESS), NeighborSolicitation(ADDRESS, options))


@requirement("RFC4862-5.4.2", "MOV-10")
def test_detection_starts_at_once_from_the_unspecified_address() -> None:
    driver, detection = make()
    outputs = detection.start(driver.now)
    assert only(outputs, JoinGroup).group == solicited_node(ADDRESS)
    ((action, message),) = sent(outputs, NeighborSolicitation)
    assert action.packet.source == UNSPECIFIED
    assert action.packet.destination == solicited_node(ADDRESS)
    assert action.packet.hop_limit == 255 and message.target == ADDRESS
    assert len(message.options) == 1


def test_detection_without_objection_finds_the_address_unique() -> None:
    driver, detection = make(transmits=3)
    detection.start(driver.now)
    assert detection.handle_timer(driver.now) == []
    outputs = driver.advance(2.9)
    assert len(sent(outputs, NeighborSolicitation)) == 2 and not of_type(outputs, AddressUnique)
    outputs = driver.advance(0.2)
    assert only(outputs, AddressUnique).address == ADDRESS
    assert of_type(outputs, LeaveGroup)
    assert detection.next_deadline() is None


def test_detection_with_no_transmits_is_over_at_once() -> None:
    driver, detection = make(transmits=0)
    assert only(detection.start(driver.now), AddressUnique).address == ADDRESS


def test_advertisement_of_the_address_is_an_objection() -> None:
    driver, detection = make()
    detection.start(driver.now)
    packet = IPv6Packet(ADDRESS, UNSPECIFIED, NeighborAdvertisement(ADDRESS))
    assert only(detection.handle(received(packet), driver.now), AddressDuplicate)
    assert detection.handle(received(packet), driver.now) == []
    assert detection.handle_timer(driver.now + 5) == []


def test_another_nodes_probe_is_an_objection() -> None:
    driver, detection = make()
    detection.start(driver.now)
    assert only(detection.handle(received(probe(Nonce(b"others"))), driver.now), AddressDuplicate)


def test_what_says_nothing_of_the_address_is_no_objection() -> None:
    driver, detection = make()
    ((_, message),) = sent(detection.start(driver.now), NeighborSolicitation)
    harmless = [
        probe(*message.options),  # type: ignore[arg-type]
        probe(source=OTHER),
        IPv6Packet(OTHER, UNSPECIFIED, NeighborAdvertisement(OTHER)),
        IPv6Packet(UNSPECIFIED, solicited_node(OTHER), NeighborSolicitation(OTHER)),
        IPv6Packet(OTHER, ADDRESS, EchoRequest(1, 1)),
    ]
    for packet in harmless:
        assert detection.handle(received(packet), driver.now) == []
