"""RFC 6275 10.6: the home agent tells mobile nodes of the home link's prefixes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from itertools import pairwise

import pytest

from mnagent.core.actions import SendPacket, SetHomeAddress
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.mobility.constants import MAX_MOB_PFX_ADV_INTERVAL, MIN_MOB_PFX_ADV_INTERVAL
from mnagent.mobility.home_agent import HomeAgent, HomePrefix
from mnagent.mobility.prefix_discovery import PrefixAdvertisingSettings
from mnagent.wire.icmp6 import MobilePrefixAdvertisement
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import RouterAdvertisement
from tests.support.home_link import (
    CARE_OF_ADDRESS,
    FOREIGN_SIDE,
    HOME_ADDRESS,
    HOME_AGENT_ADDRESS,
    HOME_LINK,
    HOME_PREFIX,
    OTHER_HOME_ADDRESS,
    SETTINGS,
    acknowledgements,
    actions_of,
    binding_update,
    make_home_agent,
    on_home_link,
    register,
    reports,
)
from tests.support.packets import router_advertisement
from tests.support.prefixes import NEW_PREFIX, prefix_solicitation
from tests.support.requirement import requirement

ROUTER = IPv6Address("fe80::fe")
INTERVALS = {
    "min_prefix_advertisement_interval": 10.0,
    "max_prefix_advertisement_interval": 100.0,
}


class Advertising:
    """A home agent, the time, and the Mobile Prefix Advertisements it sent."""

    def __init__(self, **settings: object) -> None:
        self.home_agent: HomeAgent = make_home_agent(**(INTERVALS | settings))
        self.now = 0.0
        self.sent: list[tuple[float, SendPacket]] = []

    def tell(self, event: PacketReceived) -> list[SendPacket]:
        """An event, and what was advertised because of it."""
        return self.note(self.home_agent.handle(event, self.now))

    def note(self, actions: Iterable[object]) -> list[SendPacket]:
        found = [
            each
            for each in actions_of(actions, SendPacket)
            if isinstance(each.packet.payload, MobilePrefixAdvertisement)
        ]
        self.sent += [(self.now, each) for each in found]
        return found

    def register(self, **changes: object) -> None:
        """A binding, made a second from now."""
        self.note(register(self.home_agent, now=self.now, **changes))
        self.now += 1

    def advance(self, duration: float) -> list[float]:
        """Let time pass; when something was advertised meanwhile."""
        before, end = len(self.sent), self.now + duration
        while (deadline := self.home_agent.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.note(self.home_agent.handle_timer(self.now))
        self.now = end
        return [at for at, _ in self.sent[before:]]

    def hear(self, prefix: IPv6Network, *, valid: float, preferred: float = 0.0) -> None:
        """A router of the home link advertises a prefix."""
        packet = router_advertisement(ROUTER, str(prefix), valid=valid, preferred=preferred)
        self.note(self.home_agent.handle(on_home_link(packet), self.now))


def prefixes_in(action: SendPacket) -> dict[IPv6Network, tuple[float, float]]:
    """Valid and preferred lifetimes that an advertisement tells."""
    message = action.packet.payload
    assert isinstance(message, MobilePrefixAdvertisement)
    return {
        each.prefix: (each.valid_lifetime, each.preferred_lifetime)  # type: ignore[union-attr]
        for each in message.options
    }


@requirement("RFC6275-10.6.2", "HA-57")
def test_solicitation_of_a_registered_node_is_answered_at_once() -> None:
    there = Advertising()
    there.register()
    there.hear(NEW_PREFIX, valid=7200, preferred=3600)
    (answer,) = there.tell(prefix_solicitation(4711))
    packet, message = answer.packet, answer.packet.payload
    assert isinstance(message, MobilePrefixAdvertisement)
    assert message.identifier == 4711
    assert packet.source == HOME_AGENT_ADDRESS
    assert packet.destination == CARE_OF_ADDRESS
    assert packet.type2_routing_header is not None
    assert packet.type2_routing_header.home_address == HOME_ADDRESS
    assert prefixes_in(answer) == {
        HOME_PREFIX: (float("inf"), float("inf")),
        NEW_PREFIX: (7200, 3600),
    }


@requirement("RFC6275-7.2", "HA-57")
def test_prefix_of_the_home_agent_carries_its_whole_address() -> None:
    there = Advertising()
    there.register()
    (answer,) = there.tell(prefix_solicitation())
    message = answer.packet.payload
    assert isinstance(message, MobilePrefixAdvertisement)
    (option,) = message.options
    assert option.router_address  # type: ignore[union-attr]
    assert option.address == HOME_AGENT_ADDRESS  # type: ignore[union-attr]


@requirement("RFC6275-10.6.2", "HA-58")
def test_solicitation_without_home_address_option_is_not_answered() -> None:
    there = Advertising()
    there.register()
    assert there.tell(prefix_solicitation(home_address=None, source=HOME_ADDRESS)) == []
    assert there.home_agent.drops[DropReason.NO_HOME_ADDRESS_OPTION] == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protected_by": None}, DropReason.NOT_PROTECTED),
        ({"home_address": OTHER_HOME_ADDRESS}, DropReason.NO_BINDING),
    ],
)
def test_solicitation_that_nobody_vouches_for_is_not_answered(
    changes: dict[str, object], reason: DropReason
) -> None:
    there = Advertising()
    there.register()
    assert there.tell(prefix_solicitation(**changes)) == []  # type: ignore[arg-type]
    assert there.home_agent.drops[reason] == 1


@requirement("RFC6275-10.6.2", "HA-59")
def test_changed_lifetime_is_advertised_after_a_random_delay() -> None:
    delays = []
    there = Advertising()
    there.hear(HOME_PREFIX, valid=80_000, preferred=40_000)
    there.register()
    there.tell(prefix_solicitation())
    for valid in (70_000, 60_000, 50_000):
        started_at = there.now
        there.hear(HOME_PREFIX, valid=valid, preferred=30_000)
        (at, *_) = there.advance(100)
        delays.append(at - started_at)
        there.tell(prefix_solicitation())
        there.advance(3)
    assert all(10 <= delay <= 100 for delay in delays)
    assert len(set(delays)) == 3


@requirement("RFC6275-10.6.2", "HA-59")
def test_preferred_lifetime_bounds_the_delay() -> None:
    there = Advertising()
    there.hear(HOME_PREFIX, valid=80_000, preferred=40_000)
    there.register()
    there.tell(prefix_solicitation())
    there.hear(HOME_PREFIX, valid=80_000, preferred=15)
    (at, *_) = there.advance(16)
    assert 10 <= at - 1 <= 15
    assert prefixes_in(there.sent[-1][1])[HOME_PREFIX][1] <= 15


@requirement("RFC6275-10.6.2", "HA-59")
def test_advertised_flags_that_change_are_told() -> None:
    there = Advertising()
    there.hear(HOME_PREFIX, valid=80_000, preferred=40_000)
    there.register()
    there.tell(prefix_solicitation())
    packet = router_advertisement(
        ROUTER, str(HOME_PREFIX), valid=80_000, preferred=40_000, managed=True
    )
    there.home_agent.handle(on_home_link(packet), there.now)
    assert there.advance(100)
    message = there.sent[-1][1].packet.payload
    assert isinstance(message, MobilePrefixAdvertisement)
    assert not message.options[0].autonomous  # type: ignore[union-attr]


@requirement("RFC6275-10.6.2", "HA-59")
def test_time_going_by_is_no_change() -> None:
    there = Advertising(max_prefix_advertisement_interval=100_000.0)
    there.hear(HOME_PREFIX, valid=80_000, preferred=40_000)
    there.register()
    there.tell(prefix_solicitation())
    for seconds in range(10, 100, 10):
        there.now += 10
        there.hear(HOME_PREFIX, valid=80_000 - seconds, preferred=40_000 - seconds)
    there.hear(HOME_PREFIX, valid=80_000 - 90, preferred=40_000 - 90)
    assert there.advance(1000) == []


@requirement("RFC6275-10.6.2", "HA-60")
def test_unacknowledged_advertisement_goes_again_three_times() -> None:
    there = Advertising()
    there.register()
    there.tell(prefix_solicitation())
    there.hear(NEW_PREFIX, valid=7200, preferred=3600)
    times = there.advance(140)
    assert [round(late - times[0], 6) for late in times[:4]] == [0, 3, 9, 21]
    assert all(not message.identifier for message in unsolicited(there))
    assert len(times) == 4


def unsolicited(there: Advertising) -> list[MobilePrefixAdvertisement]:
    return [
        each.packet.payload
        for _, each in there.sent[1:]
        if isinstance(each.packet.payload, MobilePrefixAdvertisement)
    ]


@requirement("RFC6275-10.6.2", "HA-60")
def test_solicitation_acknowledges_an_advertisement() -> None:
    there = Advertising(max_prefix_advertisement_interval=10_000.0)
    there.register(lifetime=3600)
    there.tell(prefix_solicitation())
    there.hear(NEW_PREFIX, valid=72000, preferred=20)
    there.advance(3600 - 2)
    before = len(there.sent)
    there.register(lifetime=3600, sequence=2)
    there.tell(prefix_solicitation())
    assert there.advance(60) == []
    assert before >= 1


@requirement("RFC6275-10.6.2", "HA-60")
def test_advertisements_end_with_the_binding() -> None:
    there = Advertising()
    there.register(lifetime=12)
    there.hear(NEW_PREFIX, valid=7200, preferred=3600)
    there.advance(12)
    assert there.home_agent.bindings == ()
    assert there.advance(500) == []


@requirement("RFC6275-10.6.2", "HA-60")
def test_unheard_advertisement_is_sent_again_after_another_binding_update() -> None:
    there = Advertising()
    there.register(lifetime=3600)
    there.tell(prefix_solicitation())
    there.hear(NEW_PREFIX, valid=7200, preferred=3600)
    assert len(there.advance(130)) == 4
    there.tell(binding_update(sequence=2, lifetime=3600))
    assert there.advance(100)


@requirement("RFC6275-6.8", "HA-61")
def test_node_gets_no_more_than_one_advertisement_a_second() -> None:
    there = Advertising()
    there.register()
    for identifier in range(1, 21):
        there.tell(prefix_solicitation(identifier))
        there.advance(0.1)
    there.advance(2)
    times = [at for at, _ in there.sent]
    assert all(late - early >= 1 - 1e-9 for early, late in pairwise(times))
    message = there.sent[-1][1].packet.payload
    assert isinstance(message, MobilePrefixAdvertisement)
    assert message.identifier == 20


@requirement("RFC6275-6.8", "HA-62")
def test_managed_and_other_flags_are_clear_without_dhcp_for_mobile_nodes() -> None:
    there = Advertising()
    there.register()
    packet = router_advertisement(ROUTER, str(HOME_PREFIX), managed=True)
    there.home_agent.handle(on_home_link(packet), there.now)
    (answer,) = there.tell(prefix_solicitation())
    message = answer.packet.payload
    assert isinstance(message, MobilePrefixAdvertisement)
    assert not message.managed
    assert not message.other


@requirement("RFC6275-13", "HA-63")
def test_intervals_have_the_defaults_of_the_standard() -> None:
    settings = PrefixAdvertisingSettings(home_agent_address=HOME_AGENT_ADDRESS)
    assert settings.min_interval == MIN_MOB_PFX_ADV_INTERVAL == 600
    assert settings.max_interval == MAX_MOB_PFX_ADV_INTERVAL == 86_400


@pytest.mark.parametrize("changes", [{"min_interval": 0.5}, {"max_interval": 500.0}])
def test_intervals_that_make_no_sense_are_refused(changes: dict[str, float]) -> None:
    settings = PrefixAdvertisingSettings(home_agent_address=HOME_AGENT_ADDRESS)
    with pytest.raises(ValueError, match="intervals"):
        replace(settings, **changes)


@requirement("RFC6275-10.6.2", "HA-63")
def test_quiet_node_is_told_now_and_then() -> None:
    there = Advertising()
    there.register(lifetime=3600)
    there.tell(prefix_solicitation())
    started_at = there.now
    (at, *_) = there.advance(250)
    assert 110 <= at - started_at <= 200


def test_home_address_in_a_new_prefix_may_be_registered_and_ends_with_it() -> None:
    there = Advertising(home_link=None)
    there.home_agent = make_home_agent(
        **INTERVALS,
        home_prefixes=(
            HomePrefix(prefix=HOME_PREFIX),
            HomePrefix(prefix=NEW_PREFIX),
        ),
        home_link=None,
    )
    new = IPv6Address("2001:db8:2::10")
    actions = there.home_agent.handle(binding_update(home_address=new), 0.0)
    formed = {each.home_address: each.like for each in actions_of(actions, SetHomeAddress)}
    assert formed[new] == HOME_ADDRESS
    assert [each.status for each in acknowledgements(actions)] == [0]


def test_binding_in_a_prefix_that_has_ended_is_withdrawn() -> None:
    there = Advertising()
    there.hear(NEW_PREFIX, valid=60, preferred=60)
    new = IPv6Address("2001:db8:2::10")
    there.register(home_address=new, lifetime=600)
    (binding,) = there.home_agent.bindings
    assert binding.granted_lifetime == 56  # in whole units, and the prefix is a second older
    there.now = 30.0
    there.hear(NEW_PREFIX, valid=7000, preferred=7000)
    there.tell(binding_update(home_address=new, sequence=2, lifetime=600))
    there.now = 40.0
    actions = there.home_agent.handle_timer(7031.0)
    assert there.home_agent.bindings == ()
    assert reports(actions, "binding-removed")


@pytest.mark.parametrize(
    ("interface", "source", "reason"),
    [
        (FOREIGN_SIDE, ROUTER, DropReason.UNEXPECTED_MESSAGE),
        (HOME_LINK, IPv6Address("2001:db8:1::fe"), DropReason.NOT_LINK_LOCAL),
    ],
)
def test_router_advertisement_from_elsewhere_is_not_believed(
    interface: int, source: IPv6Address, reason: DropReason
) -> None:
    there = Advertising()
    packet = IPv6Packet(source, IPv6Address("ff02::1"), RouterAdvertisement(), hop_limit=255)
    there.home_agent.handle(on_home_link(packet, interface=interface), 0.0)
    assert there.home_agent.drops[reason] == 1


@requirement("RFC6275-10.6.2", "HA-59")
def test_prefix_that_is_configured_while_we_run_is_told_and_served() -> None:
    there = Advertising()
    there.register()
    there.tell(prefix_solicitation())
    both = (HomePrefix(prefix=HOME_PREFIX), HomePrefix(prefix=NEW_PREFIX))
    settings = replace(SETTINGS, home_prefixes=both)
    actions = there.home_agent.reconfigure(settings, rekeyed=frozenset(), now=there.now)
    assert IPv6Address("2001:db8:2::10") in {
        each.home_address for each in actions_of(actions, SetHomeAddress)
    }
    assert there.advance(100)
    assert set(prefixes_in(there.sent[-1][1])) == {HOME_PREFIX, NEW_PREFIX}
