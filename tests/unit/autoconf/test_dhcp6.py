"""The DHCPv6 client against a scripted server, in virtual time (RFC 8415)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from random import Random

import pytest

from mnagent.autoconf.constants import solicited_node_group
from mnagent.autoconf.dhcp6 import (
    DHCP6_OFF,
    DUID_LENGTH,
    Dhcp6Client,
    Dhcp6Settings,
    Phase,
    association_identifier,
    make_duid,
)
from mnagent.autoconf.dhcp6_leases import MAX_LEASES
from mnagent.autoconf.slaac import AddressState
from mnagent.core.actions import AddAddress, RemoveAddress, SendDhcpMessage, SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import DhcpMessageReceived
from mnagent.core.indications import AddressLost, AddressUsable, Output
from mnagent.wire.dhcp6 import (
    ClientIdentifier,
    Dhcp6Message,
    Dhcp6MessageType,
    Dhcp6Option,
    Dhcp6Status,
    DnsServers,
    ElapsedTime,
    IdentityAssociation,
    InformationMaxTimeout,
    InformationRefreshTime,
    LeasedAddress,
    OptionRequest,
    Preference,
    RapidCommit,
    ServerIdentifier,
    SolicitMaxTimeout,
    StatusCode,
    decode_dhcp6_message,
    encode_dhcp6_message,
)
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation
from tests.support.dhcp_server import SERVER_DUID, ScriptedServer
from tests.support.driver import Driver
from tests.support.matching import of_type, only, reports
from tests.support.packets import received

INTERFACE = 2
NAME = "eth0"
LINK_LOCAL = IPv6Address("fe80::2")
SERVER_ADDRESS = IPv6Address("fe80::1")
FIRST = IPv6Address("2001:db8:a::1000")
SECOND = IPv6Address("2001:db8:a::1001")
HOME_ADDRESS = IPv6Address("2001:db8:1::10")
PREFIX_A = IPv6Network("2001:db8:a::/64")
PREFIX_B = IPv6Network("2001:db8:b::/64")
DUID = make_duid(Random(1))
SETTINGS = Dhcp6Settings(duid=DUID, never=frozenset((HOME_ADDRESS,)))
M = Dhcp6MessageType
RENEWAL = [M.SOLICIT, M.RENEW]


class Bench(Driver):
    """A client, and a server that answers 10 ms after it was asked."""

    def __init__(
        self,
        server: ScriptedServer | None = None,
        settings: Dhcp6Settings = SETTINGS,
        *,
        seed: int = 1,
        link_local: IPv6Address | None = LINK_LOCAL,
    ) -> None:
        self.client = Dhcp6Client(INTERFACE, name=NAME, settings=settings, random=Random(seed))
        super().__init__(self.client)
        self.server = server or ScriptedServer()
        self._answers: list[tuple[float, bytes]] = []
        if link_local is not None:
            self.client.link_local_changed(link_local, self.now)
        self.note(self.client.link_came_up(self.now))

    def note(self, outputs: Sequence[Output]) -> list[Output]:
        for message in of_type(outputs, SendDhcpMessage):
            assert message.interface == INTERFACE
            answer = self.server.answer(message.data)
            if answer is not None:
                self._answers.append((self.now + 0.01, answer))
        return super().note(outputs)

    def advance(self, duration: float) -> list[Output]:
        end = self.now + duration
        outputs: list[Output] = []
        while self.now < end or (self._answers and self._answers[0][0] <= end):
            if self._answers and self._answers[0][0] <= self.now:
                outputs += self.receive(self._answers.pop(0)[1])
                continue
            instants = [end, self._answers[0][0] if self._answers else end]
            deadline = self.client.next_deadline()
            outputs += super().advance(min(*instants, deadline or end) - self.now)
        return outputs

    def receive(self, data: bytes) -> list[Output]:
        """A datagram comes in."""
        event = DhcpMessageReceived(data=data, interface=INTERFACE, source=SERVER_ADDRESS)
        return self.note(self.client.handle(event, self.now))

    def advertise(
        self,
        *prefixes: IPv6Network,
        managed: bool = True,
        other: bool = False,
        is_new_link: bool = True,
    ) -> list[Output]:
        """A router speaks."""
        outputs = self.client.router_advertised(
            frozenset(prefixes), self.now, managed=managed, other=other, is_new_link=is_new_link
        )
        return self.note(outputs)

    def bind(self) -> None:
        """Get an address, and have it checked."""
        self.advertise(PREFIX_A)
        self.advance(3.0)
        assert self.client.phase is Phase.BOUND

    def object(self, address: IPv6Address) -> list[Output]:
        """Another node says that it has an address."""
        packet = IPv6Packet(
            address, IPv6Address("ff02::1"), NeighborAdvertisement(address), hop_limit=255
        )
        return self.note(self.client.handle_neighbor(received(packet), self.now))

    def asked(self) -> list[int]:
        """Types of the messages the server got."""
        return self.server.types()

    def last(self) -> Dhcp6Message:
        """The last message the server got."""
        return self.server.received[-1]

    def reply(self, *options: Dhcp6Option, kind: int = M.REPLY) -> list[Output]:
        """An answer to the last message, by the right server to the right client."""
        base = (ClientIdentifier(DUID), ServerIdentifier(SERVER_DUID))
        message = Dhcp6Message(kind, self.last().transaction, (*base, *options))
        return self.receive(encode_dhcp6_message(message))

    def lease(self, *leased: LeasedAddress, times: tuple[float, float] = (50, 80)) -> Dhcp6Option:
        """An association of ours."""
        return IdentityAssociation(association_identifier(NAME), *times, leased)


def silent_bench(**options: object) -> Bench:
    """The test itself answers."""
    return Bench(ScriptedServer(is_silent=True, **options))  # type: ignore[arg-type]


# What starts it.


@pytest.mark.parametrize("managed", [True, False])
def test_client_that_is_off_never_sends(managed: bool) -> None:
    bench = Bench(settings=DHCP6_OFF)
    bench.advertise(PREFIX_A, managed=managed, other=True)
    bench.advance(100)
    assert bench.asked() == []


def test_client_without_flags_never_sends() -> None:
    bench = Bench()
    bench.advertise(PREFIX_A, managed=False)
    bench.advance(100)
    assert bench.asked() == []
    assert bench.client.phase is Phase.IDLE
    assert bench.client.next_deadline() is None


def test_client_with_the_m_flag_solicits_with_what_the_rfc_wants() -> None:
    bench = Bench()
    bench.advertise(PREFIX_A, other=True)
    message = bench.last()
    assert message.message_type == M.SOLICIT
    assert message.first(ClientIdentifier) == ClientIdentifier(DUID)
    assert message.first(ElapsedTime) == ElapsedTime(0)
    assert message.first(RapidCommit) == RapidCommit()
    assert message.first(ServerIdentifier) is None
    association = IdentityAssociation(association_identifier(NAME))
    assert message.first(IdentityAssociation) == association
    request = message.first(OptionRequest)
    assert request is not None and 82 in request.codes


def test_client_without_a_link_local_address_waits_for_it() -> None:
    bench = Bench(link_local=None)
    bench.advertise(PREFIX_A)
    bench.advance(10)
    assert bench.asked() == []
    bench.note(bench.client.link_local_changed(LINK_LOCAL, bench.now))
    assert bench.asked() == [M.SOLICIT]
    assert bench.last().first(ElapsedTime) == ElapsedTime(0)
    assert bench.client.link_local_changed(LINK_LOCAL, bench.now) == []


def test_client_whose_link_local_address_goes_keeps_quiet_until_it_is_back() -> None:
    bench = silent_bench()
    bench.advertise(PREFIX_A)
    bench.client.link_local_changed(None, bench.now)
    bench.advance(5)
    assert bench.asked() == [M.SOLICIT]
    bench.client.link_local_changed(LINK_LOCAL, bench.now)
    bench.advance(20)
    assert len(bench.asked()) > 1


def test_identifiers_are_the_same_after_a_restart_and_differ_between_interfaces() -> None:
    assert association_identifier(NAME) == association_identifier(NAME)
    assert association_identifier(NAME) != association_identifier("wlan0")
    assert len(DUID) == DUID_LENGTH
    assert make_duid(Random(2)) != DUID


# Getting addresses.


def test_rapid_commit_gives_an_address_after_one_round_trip() -> None:
    bench = Bench()
    bench.advertise(PREFIX_A)
    outputs = bench.advance(0.01)
    assert bench.asked() == [M.SOLICIT]
    usable = only(outputs, AddressUsable)
    assert (usable.address, usable.optimistic, usable.managed) == (FIRST, True, True)
    assert usable.prefix_length == 128
    assert usable.valid_until == pytest.approx(bench.now + 200)
    added = only(outputs, AddAddress)
    assert (added.prefix_length, added.valid_lifetime, added.preferred_lifetime) == (128, 200, 100)
    probe = only(outputs, SendPacket).packet
    assert isinstance(probe.payload, NeighborSolicitation)
    assert probe.destination == solicited_node_group(FIRST)
    assert bench.client.states() == {FIRST: AddressState.OPTIMISTIC}
    unique = only(bench.advance(1.0), AddressUsable)
    assert not unique.optimistic
    assert bench.client.states() == {FIRST: AddressState.PREFERRED}


def test_address_is_not_offered_before_it_is_unique_unless_optimistic() -> None:
    bench = Bench(settings=replace(SETTINGS, optimistic=False))
    bench.advertise(PREFIX_A)
    outputs = bench.advance(0.5)
    assert of_type(outputs, AddAddress | AddressUsable) == []
    assert bench.client.states() == {FIRST: AddressState.TENTATIVE}
    assert only(bench.advance(1.0), AddressUsable).address == FIRST


def test_longer_exchange_waits_for_other_offers_and_asks_the_preferred_server() -> None:
    bench = Bench(ScriptedServer(allows_rapid_commit=False, extra=(Preference(7),)))
    bench.advertise(PREFIX_A)
    bench.advance(0.5)
    # A worse and an equal offer change nothing.
    for preference, duid in ((3, b"\0\1worse"), (7, b"\0\1equal")):
        offer = bench.lease(LeasedAddress(SECOND, 10, 20))
        options = (ClientIdentifier(DUID), ServerIdentifier(duid), Preference(preference), offer)
        message = Dhcp6Message(M.ADVERTISE, bench.last().transaction, options)
        bench.receive(encode_dhcp6_message(message))
    assert bench.asked() == [M.SOLICIT]
    bench.advance(0.8)
    assert bench.asked() == [M.SOLICIT, M.REQUEST]
    assert bench.last().first(ServerIdentifier) == ServerIdentifier(SERVER_DUID)
    assert bench.client.states() == {FIRST: AddressState.OPTIMISTIC}


def test_offer_with_the_highest_preference_is_taken_at_once() -> None:
    bench = Bench(ScriptedServer(allows_rapid_commit=False, extra=(Preference(255),)))
    bench.advertise(PREFIX_A)
    bench.advance(0.03)
    assert bench.asked() == [M.SOLICIT, M.REQUEST]
    assert bench.client.phase is Phase.BOUND


def test_offer_without_a_usable_address_is_no_offer() -> None:
    bench = silent_bench(allows_rapid_commit=False)
    bench.advertise(PREFIX_A)
    bench.reply(bench.lease(LeasedAddress(FIRST, 0, 0)), kind=M.ADVERTISE)
    bench.advance(1.2)
    assert bench.asked() == [M.SOLICIT, M.SOLICIT]
    assert bench.client.drops == {DropReason.NO_ADDRESSES_AVAILABLE: 1}


def test_timer_that_comes_too_early_changes_nothing() -> None:
    bench = silent_bench()
    bench.advertise(PREFIX_A)
    assert bench.client.handle_timer(bench.now + 0.5) == []
    bench.server.is_silent = False
    bench.advance(10)
    assert bench.client.handle_timer(bench.now) == []


def test_lease_prolonged_while_it_is_still_tentative_is_not_offered() -> None:
    settings = replace(SETTINGS, optimistic=False, transmits=2)
    bench = Bench(ScriptedServer(renew_after=1), settings=settings)
    bench.advertise(PREFIX_A)
    assert of_type(bench.advance(1.5), AddAddress) == []
    assert bench.asked() == RENEWAL
    assert bench.client.states() == {FIRST: AddressState.TENTATIVE}


def test_offer_after_the_first_timeout_is_taken_at_once() -> None:
    bench = silent_bench(allows_rapid_commit=False)
    bench.advertise(PREFIX_A)
    bench.advance(2.0)
    assert bench.asked() == [M.SOLICIT, M.SOLICIT]
    bench.reply(bench.lease(LeasedAddress(FIRST, 10, 20)), kind=M.ADVERTISE)
    assert bench.asked()[2:] == [M.REQUEST]


def test_client_without_rapid_commit_does_not_ask_for_it() -> None:
    bench = Bench(settings=replace(SETTINGS, rapid_commit=False))
    bench.advertise(PREFIX_A)
    assert bench.last().first(RapidCommit) is None


def test_server_that_never_answers_is_asked_less_and_less_and_people_are_told_once() -> None:
    bench = silent_bench()
    bench.advertise(PREFIX_A)
    outputs = bench.advance(20_000)
    assert reports(outputs, "dhcp6-no-answer") == [{"interface": NAME}]
    assert len(bench.asked()) < 20
    assert set(bench.asked()) == {M.SOLICIT}
    assert len({message.transaction for message in bench.server.received}) == 1
    elapsed = [m.first(ElapsedTime) for m in bench.server.received]
    assert elapsed[1] is not None and 1.0 < elapsed[1].elapsed < 1.2
    assert elapsed[-1] == ElapsedTime(655.35)


def test_server_sets_the_longest_wait_even_when_it_has_no_address() -> None:
    bench = silent_bench()
    bench.advertise(PREFIX_A)
    bench.reply(SolicitMaxTimeout(60), InformationMaxTimeout(61), kind=M.ADVERTISE)
    bench.reply(SolicitMaxTimeout(1), InformationMaxTimeout(1), kind=M.ADVERTISE)
    assert bench.client.drops == {DropReason.NO_ADDRESSES_AVAILABLE: 2}
    bench.client.link_came_up(bench.now)
    bench.advertise(PREFIX_A)
    before = len(bench.asked())
    bench.advance(3600)
    assert len(bench.asked()) - before > 50


def test_request_without_an_answer_goes_back_to_soliciting() -> None:
    bench = Bench(ScriptedServer(allows_rapid_commit=False, answer_to={M.SOLICIT}))
    bench.advertise(PREFIX_A)
    bench.advance(400)
    assert bench.asked()[:12] == [M.SOLICIT, *[M.REQUEST] * 10, M.SOLICIT]


@pytest.mark.parametrize("status", [Dhcp6Status.NO_ADDRS_AVAIL, Dhcp6Status.NOT_ON_LINK])
@pytest.mark.parametrize("whole", [True, False])
def test_request_that_is_refused_goes_back_to_soliciting_later_and_later(
    status: int, whole: bool
) -> None:
    bench = silent_bench(allows_rapid_commit=False)
    bench.advertise(PREFIX_A)
    waits = []
    for _ in range(4):
        bench.reply(Preference(255), bench.lease(LeasedAddress(FIRST, 10, 20)), kind=M.ADVERTISE)
        assert bench.last().message_type == M.REQUEST
        association = IdentityAssociation(
            association_identifier(NAME), options=(StatusCode(status),)
        )
        bench.reply(StatusCode(status) if whole else association)
        started = bench.now
        while bench.last().message_type != M.SOLICIT:
            bench.advance(0.25)
        waits.append(bench.now - started)
    assert waits == pytest.approx([0.25, 1.0, 2.0, 4.0])


def test_request_with_a_failure_that_may_pass_is_sent_again() -> None:
    bench = silent_bench(allows_rapid_commit=False)
    bench.advertise(PREFIX_A)
    bench.reply(Preference(255), bench.lease(LeasedAddress(FIRST, 10, 20)), kind=M.ADVERTISE)
    bench.reply(StatusCode(Dhcp6Status.UNSPEC_FAIL))
    bench.reply()
    bench.advance(1.2)
    assert bench.asked() == [M.SOLICIT, M.REQUEST, M.REQUEST]
    assert bench.client.drops[DropReason.SERVER_REFUSED] == 1
    assert bench.client.drops[DropReason.NO_ADDRESSES_AVAILABLE] == 1


def test_refusal_with_rapid_commit_leaves_the_solicitation_going() -> None:
    bench = Bench(ScriptedServer(association_status=Dhcp6Status.NO_ADDRS_AVAIL))
    bench.advertise(PREFIX_A)
    bench.advance(2.0)
    assert bench.asked() == [M.SOLICIT, M.SOLICIT]
    assert bench.client.drops[DropReason.NO_ADDRESSES_AVAILABLE] == 2
    assert bench.client.phase is Phase.SOLICITING


# Bad input.


def test_messages_that_are_not_for_us_are_dropped_and_counted() -> None:
    bench = silent_bench()
    bench.advertise(PREFIX_A)
    transaction = bench.last().transaction
    good = bench.lease(LeasedAddress(FIRST, 10, 20))
    ours, server = ClientIdentifier(DUID), ServerIdentifier(SERVER_DUID)
    for number, options in (
        (transaction ^ 1, (ours, server, RapidCommit(), good)),
        (transaction, (ClientIdentifier(b"\0\4another"), server, RapidCommit(), good)),
        (transaction, (server, RapidCommit(), good)),
        (transaction, (ours, RapidCommit(), good)),
    ):
        bench.receive(encode_dhcp6_message(Dhcp6Message(M.REPLY, number, options)))
    bench.receive(b"\7\0\0")
    bench.reply(good)  # no rapid commit
    bench.reply(good, RapidCommit(), kind=10)  # Reconfigure
    assert bench.client.states() == {}
    assert bench.client.drops == {
        DropReason.WRONG_TRANSACTION: 1,
        DropReason.WRONG_IDENTIFIER: 3,
        DropReason.MALFORMED: 1,
        DropReason.UNEXPECTED_MESSAGE: 2,
    }
    bench.reply(good, RapidCommit())
    assert bench.client.states() == {FIRST: AddressState.OPTIMISTIC}
    bench.reply(good, RapidCommit())
    assert bench.client.drops[DropReason.WRONG_TRANSACTION] == 2


def test_answer_to_a_request_by_another_server_is_dropped() -> None:
    bench = silent_bench(allows_rapid_commit=False)
    bench.advertise(PREFIX_A)
    good = bench.lease(LeasedAddress(FIRST, 10, 20))
    bench.reply(Preference(255), good, kind=M.ADVERTISE)
    options = (ClientIdentifier(DUID), ServerIdentifier(b"\0\1other"), good)
    bench.receive(encode_dhcp6_message(Dhcp6Message(M.REPLY, bench.last().transaction, options)))
    assert bench.client.phase is Phase.REQUESTING
    assert bench.client.drops == {DropReason.WRONG_IDENTIFIER: 1}


def test_wrong_lifetimes_are_dropped_and_counted() -> None:
    bench = silent_bench()
    bench.advertise(PREFIX_A)
    bench.reply(RapidCommit(), bench.lease(LeasedAddress(FIRST, 21, 20)))
    bench.reply(RapidCommit(), bench.lease(LeasedAddress(FIRST, 10, 20), times=(9, 8)))
    assert bench.client.states() == {}
    assert bench.client.drops[DropReason.WRONG_LIFETIMES] == 2


@pytest.mark.parametrize(
    "address", ["fe80::5", "ff02::5", "::1", "::", "::ffff:10.0.0.1", str(HOME_ADDRESS)]
)
def test_addresses_that_cannot_be_a_care_of_address_are_dropped(address: str) -> None:
    bench = silent_bench()
    bench.advertise(PREFIX_A)
    bench.reply(RapidCommit(), bench.lease(LeasedAddress(IPv6Address(address), 10, 20)))
    assert bench.client.states() == {}
    assert bench.client.drops[DropReason.CARE_OF_ADDRESS_NOT_ROUTABLE] == 1


def test_associations_of_others_and_refused_addresses_are_passed_over() -> None:
    bench = silent_bench()
    bench.advertise(PREFIX_A)
    refused = LeasedAddress(FIRST, 10, 20, (StatusCode(Dhcp6Status.NOT_ON_LINK),))
    other = IdentityAssociation(1, options=(LeasedAddress(SECOND, 10, 20),))
    bench.reply(RapidCommit(), other, bench.lease(refused))
    assert bench.client.states() == {}
    bench.reply(RapidCommit(), IdentityAssociation(2, options=(LeasedAddress(FIRST, 10, 20),)))
    assert bench.client.drops == {DropReason.NO_ADDRESSES_AVAILABLE: 2}


def test_more_addresses_than_one_interface_needs_are_left() -> None:
    many = tuple(LeasedAddress(IPv6Address(int(FIRST) + i), 10, 20) for i in range(20))
    bench = silent_bench()
    bench.advertise(PREFIX_A)
    bench.reply(RapidCommit(), bench.lease(*many))
    assert len(bench.client.states()) == MAX_LEASES


# Keeping addresses.


def test_lease_is_renewed_at_t1_by_its_server() -> None:
    bench = Bench()
    bench.bind()
    bench.advance(47)
    assert bench.asked() == [M.SOLICIT]
    outputs = bench.advance(1)
    assert bench.asked() == RENEWAL
    assert bench.last().first(ServerIdentifier) == ServerIdentifier(SERVER_DUID)
    association = bench.last().first(IdentityAssociation)
    assert association is not None and association.options == (LeasedAddress(FIRST, 0, 0),)
    usable = only(outputs, AddressUsable)
    assert usable.valid_until == pytest.approx(bench.now + 200, abs=1)
    assert only(outputs, AddAddress).valid_lifetime == 200
    assert bench.client.phase is Phase.BOUND


def test_lease_without_times_is_renewed_at_half_of_its_preferred_lifetime() -> None:
    bench = Bench(ScriptedServer(renew_after=0, rebind_after=0))
    bench.bind()
    bench.server.is_silent = True
    bench.advance(48)
    assert bench.asked() == RENEWAL
    bench.advance(30)
    assert bench.last().message_type == M.REBIND


@pytest.mark.parametrize(("preferred", "first"), [(0, 100), (math.inf, None)])
def test_lease_without_times_follows_what_lifetimes_there_are(
    preferred: float, first: float | None
) -> None:
    valid = 200 if preferred == 0 else math.inf
    server = ScriptedServer(
        renew_after=0, rebind_after=0, preferred_lifetime=preferred, valid_lifetime=valid
    )
    bench = Bench(server)
    bench.bind()
    assert bench.client.next_deadline() == (None if first is None else 1000.01 + first)
    added = of_type([output for _, output in bench.log], AddAddress)[0]
    assert added.valid_lifetime == (200 if first else None)


def test_lease_with_a_tiny_t1_is_not_renewed_in_a_hurry() -> None:
    bench = Bench(ScriptedServer(renew_after=0.001, rebind_after=0.001))
    bench.server.renew_after = 1
    bench.server.rebind_after = 1
    bench.bind()
    assert len(bench.asked()) <= 4


def test_server_that_is_gone_is_replaced_by_any_other_at_t2() -> None:
    bench = Bench()
    bench.bind()
    bench.server.duid = b"\0\1another"
    bench.advance(76)
    assert bench.asked()[1:3] == [M.RENEW, M.RENEW]
    bench.advance(2)
    assert bench.last().message_type == M.REBIND
    assert bench.last().first(ServerIdentifier) is None
    assert bench.client.phase is Phase.BOUND
    bench.advance(51)
    assert bench.last().first(ServerIdentifier) == ServerIdentifier(b"\0\1another")


def test_lease_that_nobody_prolongs_ends_and_others_are_solicited() -> None:
    bench = Bench()
    bench.bind()
    bench.server.is_silent = True
    bench.advance(196)
    assert bench.client.states() != {}
    outputs = bench.advance(2)
    assert only(outputs, AddressLost).address == FIRST
    assert only(outputs, RemoveAddress).address == FIRST
    assert bench.last().message_type == M.SOLICIT


def test_lease_for_ever_is_rebound_for_ever() -> None:
    bench = Bench(ScriptedServer(valid_lifetime=math.inf))
    bench.bind()
    bench.server.is_silent = True
    bench.advance(5000)
    assert bench.last().message_type == M.REBIND
    assert bench.client.states() == {FIRST: AddressState.PREFERRED}


def test_server_without_the_binding_is_asked_to_make_it() -> None:
    bench = Bench()
    bench.bind()
    bench.server.association_status = Dhcp6Status.NO_BINDING
    bench.server.answer_to = {M.RENEW}
    bench.advance(48)
    assert bench.asked() == [*RENEWAL, M.REQUEST]
    bench.server.association_status = Dhcp6Status.SUCCESS
    bench.server.answer_to = set(M)
    bench.advance(2)
    assert bench.client.phase is Phase.BOUND
    assert bench.client.states() == {FIRST: AddressState.PREFERRED}


def test_server_that_never_has_the_binding_is_asked_ever_more_slowly() -> None:
    bench = Bench()
    bench.bind()
    bench.server.association_status = Dhcp6Status.NO_BINDING
    asked = len(bench.asked())
    bench.advance(60)
    assert len(bench.asked()) - asked < 40, "not as fast as it answers"
    bench.server.association_status = Dhcp6Status.SUCCESS
    bench.advance(60)
    assert bench.client.phase is Phase.BOUND


def test_server_takes_an_address_back_and_gives_another() -> None:
    bench = Bench(ScriptedServer(is_silent=False))
    bench.bind()
    bench.server.is_silent = True
    bench.advance(48)
    outputs = bench.reply(bench.lease(LeasedAddress(FIRST, 0, 0), LeasedAddress(SECOND, 10, 20)))
    assert only(outputs, AddressLost).address == FIRST
    assert list(bench.client.states()) == [SECOND]


def test_server_takes_the_only_address_back_and_is_solicited_anew() -> None:
    bench = Bench()
    bench.bind()
    bench.server.is_silent = True
    bench.advance(48)
    bench.reply(bench.lease(LeasedAddress(FIRST, 0, 0)))
    assert bench.client.states() == {}
    bench.advance(0.1)
    assert bench.last().message_type == M.SOLICIT


def test_renewal_that_leaves_our_address_out_is_tried_again() -> None:
    bench = Bench()
    bench.bind()
    bench.server.is_silent = True
    bench.advance(48)
    bench.reply(bench.lease())
    assert bench.client.phase is Phase.RENEWING
    bench.advance(12)
    assert bench.asked() == [*RENEWAL, M.RENEW]


# Duplicates.


def test_duplicate_is_declined_before_another_address_is_asked_for() -> None:
    bench = Bench(ScriptedServer(addresses=(FIRST,)))
    bench.advertise(PREFIX_A)
    bench.advance(0.5)
    outputs = bench.object(FIRST)
    assert only(outputs, AddressLost).address == FIRST
    assert only(outputs, RemoveAddress).address == FIRST
    assert reports(outputs, "duplicate-address") == [{"address": str(FIRST), "interface": NAME}]
    decline = bench.last()
    assert decline.message_type == M.DECLINE
    assert decline.first(ServerIdentifier) == ServerIdentifier(SERVER_DUID)
    association = decline.first(IdentityAssociation)
    assert association is not None and association.options == (LeasedAddress(FIRST, 0, 0),)
    bench.server.addresses = (SECOND,)
    bench.advance(2)
    assert bench.asked() == [M.SOLICIT, M.DECLINE, M.SOLICIT]
    assert bench.client.states() == {SECOND: AddressState.PREFERRED}


def test_duplicate_among_several_addresses_leaves_the_others() -> None:
    bench = Bench(ScriptedServer(addresses=(FIRST, SECOND)))
    bench.advertise(PREFIX_A)
    bench.advance(0.5)
    bench.object(FIRST)
    bench.advance(2)
    assert bench.asked() == [M.SOLICIT, M.DECLINE]
    assert bench.client.phase is Phase.BOUND
    assert bench.client.states() == {SECOND: AddressState.PREFERRED}


def test_second_duplicate_waits_for_the_first_to_be_declined() -> None:
    bench = Bench(ScriptedServer(addresses=(FIRST, SECOND)))
    bench.advertise(PREFIX_A)
    bench.advance(0.5)
    bench.object(FIRST)
    bench.object(SECOND)
    assert bench.asked() == [M.SOLICIT, M.DECLINE]
    bench.advance(0.1)
    assert bench.asked()[:3] == [M.SOLICIT, M.DECLINE, M.DECLINE]


def test_decline_without_an_answer_is_given_up() -> None:
    bench = Bench(ScriptedServer(answer_to={M.SOLICIT}))
    bench.advertise(PREFIX_A)
    bench.advance(0.5)
    bench.object(FIRST)
    bench.advance(18)
    assert bench.asked()[:6] == [M.SOLICIT, *[M.DECLINE] * 4, M.SOLICIT]


def test_server_that_always_leases_a_duplicate_is_asked_less_and_less() -> None:
    bench = Bench()
    bench.advertise(PREFIX_A)
    for _ in range(6000):
        bench.advance(0.1)
        if FIRST in bench.client.states():
            bench.object(FIRST)
            bench.server.addresses = (FIRST,)
    assert bench.asked().count(M.SOLICIT) < 14


def test_duplicate_that_somebody_else_found_is_declined() -> None:
    bench = Bench()
    bench.bind()
    bench.note(bench.client.address_duplicate(FIRST, bench.now))
    assert bench.last().message_type == M.DECLINE
    assert bench.client.address_duplicate(FIRST, bench.now) == []


def test_address_that_the_host_refuses_is_given_up() -> None:
    bench = Bench()
    bench.bind()
    outputs = bench.note(bench.client.address_refused(FIRST, bench.now))
    assert only(outputs, AddressLost).address == FIRST
    assert bench.client.phase is Phase.WAITING
    assert bench.client.address_refused(FIRST, bench.now) == []


# Another link, or the same.


def restarted(bench: Bench, settings: Dhcp6Settings = SETTINGS) -> Bench:
    """Another run with the leases of one that crashed, and the same server."""
    kept = bench.client.kept()
    assert kept is not None
    again = Bench(bench.server, settings, link_local=None)
    again.client.restore(kept, again.now)
    again.client.link_local_changed(LINK_LOCAL, again.now)
    again.note(again.client.link_came_up(again.now))
    return again


def test_lease_that_outlives_a_crash_is_confirmed_checked_and_renewed() -> None:
    bench = Bench()
    bench.bind()
    bench.server.received.clear()
    again = restarted(bench)
    assert again.client.states() == {FIRST: AddressState.IN_DOUBT}
    outputs = again.advance(0.1)
    assert bench.server.types() == [M.CONFIRM, M.RENEW]
    assert of_type(outputs, AddressUsable)[0].address == FIRST
    assert of_type(outputs, AddressUsable)[0].optimistic, "somebody may have taken it meanwhile"
    assert again.client.phase is Phase.BOUND
    again.advance(1)
    assert again.client.states() == {FIRST: AddressState.PREFERRED}


def test_lease_that_the_server_forgot_meanwhile_is_asked_for_again() -> None:
    bench = Bench()
    bench.bind()
    again = restarted(bench)
    bench.server.association_status = Dhcp6Status.NO_BINDING
    again.advance(0.015)
    bench.server.association_status = Dhcp6Status.SUCCESS
    again.advance(0.1)
    assert bench.server.types()[-3:] == [M.CONFIRM, M.RENEW, M.REQUEST]


def test_lease_that_outlives_a_crash_on_another_link_is_dropped() -> None:
    bench = Bench()
    bench.bind()
    again = restarted(bench)
    again.advertise(PREFIX_B, managed=False)
    assert again.client.states() == {} and again.client.kept() is None


def test_lease_that_outlives_a_crash_holds_where_no_server_answers() -> None:
    bench = Bench()
    bench.bind()
    bench.server.is_silent = True
    again = restarted(bench)
    again.advance(11)
    assert again.client.phase is Phase.RENEWING
    assert FIRST in {usable.address for usable in again.all(AddressUsable)}


@pytest.mark.parametrize("changes", [{"enabled": False}, {"stateless": True}])
def test_lease_of_an_earlier_run_is_not_taken_where_leases_are_forbidden(
    changes: dict[str, bool],
) -> None:
    bench = Bench()
    bench.bind()
    assert restarted(bench, replace(SETTINGS, **changes)).client.states() == {}


def test_leases_of_an_earlier_run_are_bounded() -> None:
    bench = Bench()
    bench.bind()
    kept = bench.client.kept()
    assert kept is not None
    many = tuple((IPv6Address(int(FIRST) + n), 1e6, 1e6) for n in range(MAX_LEASES + 2))
    bench.client.restore(replace(kept, addresses=many), bench.now)
    assert len(bench.client.states()) == MAX_LEASES


@pytest.mark.parametrize(("managed", "other"), [(True, False), (False, True), (True, True)])
def test_stateless_client_asks_for_information_alone(managed: bool, other: bool) -> None:
    bench = Bench(settings=replace(SETTINGS, stateless=True))
    bench.advertise(PREFIX_A, managed=managed, other=other)
    outputs = bench.advance(1)
    assert bench.server.types() == [M.INFORMATION_REQUEST]
    assert reports(outputs, "dhcp6-information")
    assert bench.client.states() == {} and bench.client.kept() is None


def test_link_event_doubts_the_lease_and_a_server_confirms_it() -> None:
    bench = Bench()
    bench.bind()
    outputs = bench.note(bench.client.link_came_up(bench.now))
    assert only(outputs, AddressLost).address == FIRST
    assert of_type(outputs, RemoveAddress) == []
    assert bench.client.states() == {FIRST: AddressState.IN_DOUBT}
    assert bench.last().message_type == M.CONFIRM
    assert bench.last().first(OptionRequest) is None
    assert bench.last().first(ServerIdentifier) is None
    outputs = bench.advance(0.01)
    assert only(outputs, AddressUsable).address == FIRST
    assert of_type(outputs, SendPacket) == []  # no new detection
    assert bench.client.phase is Phase.BOUND


def test_lost_link_takes_the_address_off_and_its_return_brings_it_back() -> None:
    bench = Bench()
    bench.bind()
    outputs = bench.note(bench.client.link_went_down())
    assert only(outputs, RemoveAddress).address == FIRST
    bench.note(bench.client.link_came_up(bench.now))
    assert bench.last().message_type == M.CONFIRM
    outputs = bench.advance(0.01)
    assert only(outputs, AddAddress).address == FIRST


def test_address_whose_detection_was_cut_short_is_checked_again() -> None:
    bench = Bench()
    bench.advertise(PREFIX_A)
    bench.advance(0.5)
    bench.note(bench.client.link_came_up(bench.now))
    outputs = bench.advance(0.01)
    assert isinstance(only(outputs, SendPacket).packet.payload, NeighborSolicitation)
    assert bench.client.states() == {FIRST: AddressState.OPTIMISTIC}


def test_router_with_the_same_prefix_makes_the_lease_usable_before_the_server_answers() -> None:
    bench = Bench()
    bench.bind()
    bench.note(bench.client.link_came_up(bench.now))
    outputs = bench.advertise(PREFIX_A)
    assert only(outputs, AddressUsable).address == FIRST
    bench.advance(1)
    assert bench.asked() == [M.SOLICIT, M.CONFIRM]
    assert bench.client.phase is Phase.BOUND


def test_router_with_a_prefix_of_the_time_of_the_lease_means_the_same_link() -> None:
    bench = Bench(ScriptedServer(addresses=(IPv6Address("2001:db8:ffff::1"),)))
    bench.bind()
    bench.note(bench.client.link_came_up(bench.now))
    assert of_type(bench.advertise(PREFIX_A), AddressUsable)


def test_router_without_prefixes_leaves_it_to_the_server() -> None:
    bench = Bench()
    bench.bind()
    bench.server.is_silent = True
    bench.note(bench.client.link_came_up(bench.now))
    assert of_type(bench.advertise(), AddressUsable) == []
    assert bench.client.phase is Phase.CONFIRMING


def test_known_link_makes_the_lease_usable() -> None:
    bench = Bench()
    bench.bind()
    bench.note(bench.client.link_came_up(bench.now))
    assert only(bench.client.link_confirmed(bench.now), AddressUsable).address == FIRST
    assert bench.client.link_confirmed(bench.now) == []


def test_router_with_other_prefixes_means_another_link_where_solicitation_starts_at_once() -> None:
    bench = Bench()
    bench.bind()
    bench.note(bench.client.link_came_up(bench.now))
    bench.server.addresses = (IPv6Address("2001:db8:b::7"),)
    outputs = bench.advertise(PREFIX_B)
    assert only(outputs, RemoveAddress).address == FIRST
    assert bench.last().message_type == M.SOLICIT
    bench.advance(2)
    assert list(bench.client.states()) == list(bench.server.addresses)


def test_router_with_other_prefixes_and_no_managed_addresses_ends_the_lease() -> None:
    bench = Bench()
    bench.bind()
    bench.note(bench.client.link_came_up(bench.now))
    bench.advertise(PREFIX_B, managed=False)
    assert bench.client.states() == {}
    assert bench.client.phase is Phase.IDLE


def test_server_says_not_on_link_and_the_router_is_waited_for() -> None:
    bench = Bench()
    bench.bind()
    bench.server.status = Dhcp6Status.NOT_ON_LINK
    bench.note(bench.client.link_came_up(bench.now))
    outputs = bench.advance(0.01)
    assert only(outputs, RemoveAddress).address == FIRST
    assert bench.client.phase is Phase.IDLE
    bench.server.status = Dhcp6Status.SUCCESS
    bench.advertise(PREFIX_A)
    assert bench.last().message_type == M.SOLICIT


def test_confirm_with_a_strange_status_is_sent_again_and_in_the_end_believed() -> None:
    bench = Bench()
    bench.bind()
    bench.server.status = Dhcp6Status.UNSPEC_FAIL
    bench.note(bench.client.link_came_up(bench.now))
    outputs = bench.advance(10)
    assert bench.asked().count(M.CONFIRM) >= 3
    assert bench.client.drops[DropReason.SERVER_REFUSED] >= 3
    assert only(outputs, AddressUsable).address == FIRST
    assert bench.client.phase is Phase.BOUND


@pytest.mark.parametrize(("late", "message"), [(50, M.RENEW), (80, M.REBIND)])
def test_confirmation_after_the_time_to_renew_renews_at_once(late: float, message: int) -> None:
    bench = Bench()
    bench.bind()
    bench.note(bench.client.link_went_down())
    bench.advance(late)
    bench.note(bench.client.link_came_up(bench.now))
    bench.advance(1)
    assert bench.asked() == [M.SOLICIT, M.CONFIRM, message]


def test_lease_that_ended_without_a_link_is_forgotten() -> None:
    bench = Bench()
    bench.bind()
    bench.note(bench.client.link_went_down())
    bench.advance(300)
    assert bench.client.states() == {}
    assert bench.asked() == [M.SOLICIT]
    bench.note(bench.client.link_came_up(bench.now))
    assert bench.client.phase is Phase.IDLE


def test_lease_that_ends_while_it_is_confirmed_is_solicited_anew() -> None:
    bench = Bench(ScriptedServer(valid_lifetime=101))
    bench.bind()
    bench.server.is_silent = True
    bench.note(bench.client.link_went_down())
    bench.advance(95)
    bench.note(bench.client.link_came_up(bench.now))
    bench.advertise()
    bench.advance(5)
    assert bench.asked()[-1] == M.SOLICIT


def test_link_event_without_a_lease_starts_from_the_beginning() -> None:
    bench = silent_bench()
    bench.advertise(PREFIX_A)
    bench.note(bench.client.link_came_up(bench.now))
    bench.advance(100)
    assert bench.asked() == [M.SOLICIT]


def test_router_that_contradicts_itself_has_the_solicitation_started_anew() -> None:
    bench = silent_bench()
    bench.advertise(PREFIX_A)
    first = bench.last().transaction
    bench.advertise(PREFIX_A, is_new_link=False)
    assert bench.asked() == [M.SOLICIT]
    bench.advertise(PREFIX_B)
    assert bench.last().transaction != first


def test_neighbor_messages_without_a_detection_change_nothing() -> None:
    bench = Bench()
    bench.bind()
    assert bench.object(FIRST) == []


# Information, and the end.


def test_client_with_the_o_flag_asks_for_information_and_again_when_it_is_old() -> None:
    dns = IPv6Address("2001:db8::53")
    extra = (DnsServers((dns,)), InformationRefreshTime(10))
    bench = Bench(ScriptedServer(extra=extra))
    bench.advertise(PREFIX_A, managed=False, other=True)
    message = bench.last()
    assert message.message_type == M.INFORMATION_REQUEST
    assert message.first(IdentityAssociation) is None
    request = message.first(OptionRequest)
    assert request is not None and {32, 83} <= set(request.codes)
    outputs = bench.advance(0.01)
    assert reports(outputs, "dhcp6-information") == [{"interface": NAME, "dns": str(dns)}]
    assert bench.client.phase is Phase.INFORMED
    bench.advance(599)
    assert len(bench.asked()) == 1
    bench.advance(2)
    assert len(bench.asked()) == 2


def test_information_without_a_refresh_time_is_old_after_a_day() -> None:
    bench = Bench()
    bench.advertise(PREFIX_A, managed=False, other=True)
    bench.advance(86_399)
    assert len(bench.asked()) == 1
    bench.advance(2)
    assert len(bench.asked()) == 2


def test_information_refused_is_asked_for_again() -> None:
    bench = Bench(ScriptedServer(status=Dhcp6Status.UNSPEC_FAIL))
    bench.advertise(PREFIX_A, managed=False, other=True)
    bench.advance(4)
    assert len(bench.asked()) >= 2
    assert bench.client.phase is Phase.INFORMING


def test_m_flag_after_the_o_flag_has_addresses_solicited() -> None:
    bench = Bench()
    bench.advertise(PREFIX_A, managed=False, other=True)
    bench.advance(1)
    bench.advertise(PREFIX_A, is_new_link=False)
    assert bench.asked() == [M.INFORMATION_REQUEST, M.SOLICIT]


def test_release_gives_the_address_back_after_taking_it_off() -> None:
    bench = Bench()
    bench.bind()
    outputs = bench.note(bench.client.release())
    assert [type(output) for output in outputs] == [AddressLost, RemoveAddress, SendDhcpMessage]
    release = decode_dhcp6_message(only(outputs, SendDhcpMessage).data)
    assert release.message_type == M.RELEASE
    assert release.first(ServerIdentifier) == ServerIdentifier(SERVER_DUID)
    association = release.first(IdentityAssociation)
    assert association is not None and association.options == (LeasedAddress(FIRST, 0, 0),)
    assert bench.client.next_deadline() is None
    assert bench.client.release() == []


@pytest.mark.parametrize("reason", ["no lease", "other link", "no source"])
def test_release_of_nothing_or_from_elsewhere_sends_nothing(reason: str) -> None:
    bench = Bench()
    if reason != "no lease":
        bench.bind()
    if reason == "other link":
        bench.client.link_came_up(bench.now)
    if reason == "no source":
        bench.client.link_local_changed(None, bench.now)
    assert of_type(bench.client.release(), SendDhcpMessage) == []
    assert bench.client.states() == {}


def test_detection_that_is_switched_off_takes_addresses_as_they_come() -> None:
    bench = Bench(settings=replace(SETTINGS, transmits=0))
    bench.advertise(PREFIX_A)
    bench.advance(0.01)
    assert bench.client.states() == {FIRST: AddressState.PREFERRED}
