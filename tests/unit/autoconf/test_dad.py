from __future__ import annotations

from ipaddress import IPv6Address
from random import Random
from typing import Any

import pytest

from mnagent.autoconf.constants import MAX_MULTICAST_SOLICIT
from mnagent.autoconf.dad import DuplicateAddressDetection
from mnagent.core.actions import JoinGroup, LeaveGroup
from mnagent.core.indications import AddressDuplicate, AddressUnique, Output
from mnagent.wire.icmp6 import EchoRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import (
    NeighborAdvertisement,
    NeighborSolicitation,
    Nonce,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
)
from tests.support.driver import Driver
from tests.support.matching import of_type, only, reports, sent
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
        IPv6Packet(UNSPECIFIED, ADDRESS, NeighborSolicitation(ADDRESS)),
        IPv6Packet(
            UNSPECIFIED,
            solicited_node(ADDRESS),
            NeighborSolicitation(ADDRESS, (SourceLinkLayerAddress(bytes(6)),)),
        ),
        IPv6Packet(ADDRESS, IPv6Address("ff02::1"), NeighborAdvertisement(ADDRESS, solicited=True)),
    ]
    for packet in harmless:
        assert detection.handle(received(packet), driver.now) == []


@requirement("RFC7527-4.1", "MOV-10")
def test_own_probe_that_comes_back_makes_three_more_leave_each_with_its_own_nonce() -> None:
    driver, detection = make()
    ((_, message),) = sent(driver.note(detection.start(driver.now)), NeighborSolicitation)
    assert detection.handle(received(probe(*message.options)), driver.now) == []  # type: ignore[arg-type]
    outputs = driver.advance(MAX_MULTICAST_SOLICIT + 2)
    further = sent(outputs, NeighborSolicitation)
    assert len(further) == MAX_MULTICAST_SOLICIT
    nonces = {message.options, *(each.options for _, each in further)}
    assert len(nonces) == 1 + MAX_MULTICAST_SOLICIT
    assert only(outputs, AddressUnique).address == ADDRESS
    assert driver.now - 1000 > 4 and not reports(outputs, "loopback-detected")


@requirement("RFC7527-4.1", "MOV-10")
def test_link_that_reflects_every_probe_does_not_keep_the_node_off_the_network() -> None:
    driver, detection = make()
    outputs = driver.note(detection.start(driver.now))
    while not of_type(outputs, AddressUnique):
        for _, message in sent(outputs, NeighborSolicitation):
            detection.handle(received(probe(*message.options)), driver.now)  # type: ignore[arg-type]
        outputs = driver.advance(1)
    assert len(driver.times_of(NeighborSolicitation)) == 1 + MAX_MULTICAST_SOLICIT
    assert reports(outputs, "loopback-detected")[0]["address"] == str(ADDRESS)


def test_objection_during_the_further_probes_still_counts() -> None:
    driver, detection = make()
    ((_, message),) = sent(detection.start(driver.now), NeighborSolicitation)
    detection.handle(received(probe(*message.options)), driver.now)  # type: ignore[arg-type]
    driver.advance(2)
    assert only(detection.handle(received(probe()), driver.now), AddressDuplicate)


def test_own_advertisement_reflected_by_the_link_is_no_objection() -> None:
    own = bytes.fromhex("020000000010")
    detection = DuplicateAddressDetection(
        ADDRESS, interface=2, random=Random(1), link_layer_address=own
    )
    detection.start(1000.0)
    packet = IPv6Packet(ADDRESS, IPv6Address("ff02::1"), NeighborAdvertisement(ADDRESS))
    assert detection.handle(received(packet, link_layer_source=own), 1000.0) == []
    assert detection.handle(received(packet), 1000.0)


OWN_MAC, ASKING_MAC = bytes.fromhex("020000000010"), bytes.fromhex("020000000099")


def answering(
    *, source: IPv6Address = OTHER, frame: bytes = ASKING_MAC, **fields: bool | bytes
) -> list[Output]:
    """What comes of a question for an address that is in use while it is checked."""
    values = {"link_layer_address": OWN_MAC, "is_optimistic": True, **fields}
    detection = DuplicateAddressDetection(ADDRESS, interface=2, random=Random(1), **values)  # type: ignore[arg-type]
    driver = Driver(detection)
    detection.start(driver.now)
    event = received(probe(source=source), link_layer_source=frame)
    return detection.handle(event, driver.now)


@requirement("RFC4429-3.3", "MOV-16")
def test_optimistic_address_is_answered_for_without_override() -> None:
    ((action, message),) = sent(answering(), NeighborAdvertisement)
    assert message == NeighborAdvertisement(
        ADDRESS, solicited=True, options=(TargetLinkLayerAddress(OWN_MAC),)
    )
    assert (action.packet.source, action.packet.destination) == (ADDRESS, OTHER)
    assert (action.packet.hop_limit, action.link_layer_destination) == (255, ASKING_MAC)


@requirement("RFC4429-3.3", "MOV-16")
def test_optimistic_address_is_given_up_and_not_answered_for_when_claimed() -> None:
    outputs = answering(source=UNSPECIFIED)
    assert only(outputs, AddressDuplicate).address == ADDRESS
    assert sent(outputs, NeighborAdvertisement) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"is_optimistic": False},
        {"link_layer_address": b""},
        {"frame": OWN_MAC},
        {"source": IPv6Address("ff02::1")},
    ],
)
def test_question_that_is_not_ours_to_answer_is_not_answered(changes: dict[str, Any]) -> None:
    assert answering(**changes) == []


def test_answer_without_a_known_frame_leaves_the_resolution_to_the_host() -> None:
    ((action, _),) = sent(answering(frame=b""), NeighborAdvertisement)
    assert action.link_layer_destination is None
