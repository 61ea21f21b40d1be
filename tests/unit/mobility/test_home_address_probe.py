"""Duplicate address detection without configuring the address."""

from __future__ import annotations

from random import Random

from mnagent.core.actions import SendPacket
from mnagent.mobility.home_address_probe import (
    HomeAddressDuplicate,
    HomeAddressProbe,
    HomeAddressUnique,
)
from mnagent.wire.ipv6 import IPv6Packet, RawPayload
from mnagent.wire.ndisc import Nonce
from tests.support.home_link import (
    HOME_ADDRESS,
    HOME_LINK,
    HOME_LINK_LOCAL,
    NEIGHBOR,
    OTHER_HOME_ADDRESS,
    advertisement,
    on_home_link,
    probe_by_another,
    solicitation,
)


def make_probe(transmits: int = 1) -> HomeAddressProbe:
    return HomeAddressProbe(
        (HOME_ADDRESS, HOME_LINK_LOCAL),
        interface=HOME_LINK,
        random=Random(1),
        transmits=transmits,
    )


def test_probe_not_started_does_nothing() -> None:
    probe = make_probe()
    assert probe.next_deadline() is None
    assert probe.handle_timer(5.0) == []
    assert probe.handle(advertisement(), 0.0) == []


def test_probe_nobody_answers_is_unique_after_retrans_timer() -> None:
    probe = make_probe()
    assert len(probe.start(0.0)) == 2
    assert probe.next_deadline() == 1.0
    assert probe.handle_timer(0.9) == []
    assert probe.handle_timer(1.0) == [HomeAddressUnique()]
    assert probe.next_deadline() is None


def test_probe_more_transmits_are_spaced_by_retrans_timer() -> None:
    probe = make_probe(transmits=2)
    probe.start(0.0)
    assert len(probe.handle_timer(1.0)) == 2
    assert probe.handle_timer(2.0) == [HomeAddressUnique()]


def test_probe_without_transmits_is_unique_at_once() -> None:
    assert make_probe(transmits=0).start(0.0) == [HomeAddressUnique()]


def test_probe_advertisement_of_either_address_is_duplicate() -> None:
    for address in (HOME_ADDRESS, HOME_LINK_LOCAL):
        probe = make_probe()
        probe.start(0.0)
        assert probe.handle(advertisement(address), 0.1) == [HomeAddressDuplicate(address=address)]
        assert probe.handle_timer(1.0) == []


def test_probe_other_messages_are_no_conflict() -> None:
    probe = make_probe()
    probe.start(0.0)
    for event in (
        advertisement(OTHER_HOME_ADDRESS),
        probe_by_another(OTHER_HOME_ADDRESS),
        solicitation(HOME_ADDRESS),
        on_home_link(IPv6Packet(NEIGHBOR, HOME_ADDRESS, RawPayload(6, b""))),
    ):
        assert probe.handle(event, 0.1) == []
    assert probe.handle_timer(1.0) == [HomeAddressUnique()]


def test_probe_simultaneous_probe_by_another_node_is_duplicate() -> None:
    probe = make_probe()
    probe.start(0.0)
    foreign = probe_by_another(options=(Nonce(bytes(6)),))
    assert probe.handle(foreign, 0.1) == [HomeAddressDuplicate(address=HOME_ADDRESS)]


def test_probe_own_solicitation_looped_back_is_no_conflict() -> None:
    probe = make_probe()
    for output in probe.start(0.0):
        assert isinstance(output, SendPacket)
        assert probe.handle(on_home_link(output.packet), 0.1) == []
