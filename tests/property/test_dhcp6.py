"""DHCPv6: every message survives a round trip, no octets and no order of events break anything."""

from __future__ import annotations

import math
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mnagent.autoconf.dhcp6 import Dhcp6Client, Dhcp6Settings, make_duid
from mnagent.core.actions import AddAddress, RemoveAddress, SendDhcpMessage
from mnagent.core.events import DhcpMessageReceived
from mnagent.core.indications import AddressLost, AddressUsable, Output
from mnagent.wire import dhcp6
from mnagent.wire.buffer import DecodeError
from mnagent.wire.dhcp6 import Dhcp6Message, decode_dhcp6_message, encode_dhcp6_message
from tests.support.dhcp_server import ScriptedServer
from tests.support.mutation import mutations
from tests.support.wire_values import addresses, octets, tuples_of, unsigned

KNOWN = {1, 2, 3, 5, 6, 7, 8, 13, 14, 23, 32, 82, 83}

Strategy = st.SearchStrategy[Any]
lifetimes: Strategy = st.one_of(st.integers(0, (1 << 32) - 2), st.just(math.inf))
duids = st.binary(min_size=3, max_size=130)
unknown = st.builds(
    dhcp6.UnknownDhcp6Option,
    unsigned(16).filter(lambda number: number not in KNOWN),
    st.binary(max_size=30),
)
statuses = st.builds(dhcp6.StatusCode, unsigned(16), st.binary(max_size=20))
leased = st.builds(
    dhcp6.LeasedAddress, addresses, lifetimes, lifetimes, tuples_of(st.one_of(statuses, unknown))
)
associations = st.builds(
    dhcp6.IdentityAssociation,
    unsigned(32),
    lifetimes,
    lifetimes,
    tuples_of(st.one_of(leased, statuses, unknown)),
)
options: Strategy = st.one_of(
    st.builds(dhcp6.ClientIdentifier, duids),
    st.builds(dhcp6.ServerIdentifier, duids),
    associations,
    st.builds(dhcp6.OptionRequest, tuples_of(unsigned(16))),
    st.builds(dhcp6.Preference, unsigned(8)),
    st.builds(dhcp6.ElapsedTime, unsigned(16).map(lambda hundredths: hundredths / 100)),
    statuses,
    st.builds(dhcp6.RapidCommit),
    st.builds(dhcp6.DnsServers, tuples_of(addresses)),
    st.builds(dhcp6.InformationRefreshTime, lifetimes),
    st.builds(dhcp6.SolicitMaxTimeout, unsigned(32)),
    st.builds(dhcp6.InformationMaxTimeout, unsigned(32)),
    unknown,
)
messages = st.builds(
    Dhcp6Message,
    unsigned(8).filter(lambda number: number not in (12, 13)),
    unsigned(24),
    tuples_of(options, 6),
)


@given(messages)
def test_message_encoded_and_decoded_is_the_same(message: Dhcp6Message) -> None:
    assert decode_dhcp6_message(encode_dhcp6_message(message)) == message


@given(messages, st.data())
def test_message_bent_decodes_to_one_canonical_form_or_raises_decode_error(
    message: Dhcp6Message, data: st.DataObject
) -> None:
    encoded = bytearray(encode_dhcp6_message(message))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(unsigned(8))
    check(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))
    check(bytes(encoded))


@given(st.one_of(st.binary(max_size=200), st.builds(bytes.__add__, octets(4), st.binary())))
def test_octets_of_any_kind_decode_or_raise_decode_error(data: bytes) -> None:
    check(data)


def check(data: bytes) -> None:
    """A value with one canonical form, or DecodeError with an offset inside."""
    try:
        message = decode_dhcp6_message(data)
    except DecodeError as error:
        assert 0 <= error.offset <= len(data)
    else:
        assert decode_dhcp6_message(encode_dhcp6_message(message)) == message


PREFIXES = tuple(IPv6Network(f"2001:db8:{letter}::/64") for letter in "ab")
LINK_LOCAL = IPv6Address("fe80::2")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.floats(0, 300)),
        st.tuples(st.just("link up"), st.none()),
        st.tuples(st.just("link down"), st.none()),
        st.tuples(st.just("router"), st.integers(0, 7)),
        st.tuples(st.just("link-local"), st.booleans()),
        st.tuples(st.just("duplicate"), st.none()),
        st.tuples(st.just("refused"), st.none()),
        st.tuples(st.just("server"), st.integers(0, 5)),
        st.tuples(st.just("noise"), st.integers(0, 1000)),
    ),
    max_size=40,
)


class Life:
    """A client that everything happens to, and what the host has of it."""

    def __init__(self, seed: int) -> None:
        settings = Dhcp6Settings(duid=make_duid(Random(seed)))
        self.client = Dhcp6Client(2, name="eth0", settings=settings, random=Random(seed))
        self.server = ScriptedServer()
        self.now = 1000.0
        self.configured: set[IPv6Address] = set()
        self.offered: set[IPv6Address] = set()
        self.answers: list[bytes] = []
        self.sent = 0

    def take(self, outputs: list[Output]) -> None:
        """What the host and the parent do with outputs."""
        for output in outputs:
            match output:
                case AddAddress():
                    self.configured.add(output.address)
                case RemoveAddress():
                    assert output.address not in self.offered, "sent from in between"
                    self.configured.discard(output.address)
                case AddressUsable():
                    assert output.address in self.configured
                    self.offered.add(output.address)
                case AddressLost():
                    self.offered.discard(output.address)
                case SendDhcpMessage():
                    self.sent += 1
                    answer = self.server.answer(output.data)
                    if answer is not None:
                        self.answers.append(answer)

    def answer(self) -> None:
        """The server's answers arrive."""
        for data in self.answers:
            self.receive(data)
        self.answers.clear()

    def receive(self, data: bytes) -> None:
        event = DhcpMessageReceived(data=data, interface=2, source=IPv6Address("fe80::1"))
        self.take(self.client.handle(event, self.now))

    def advance(self, duration: float) -> None:
        """Every deadline at its instant; none may come again and again."""
        end = self.now + duration
        before = self.sent
        while (deadline := self.client.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.take(self.client.handle_timer(self.now))
            self.answer()
            assert self.sent - before < 20 + 2 * duration, "a storm"
        self.now = end

    def happen(self, step: str, value: Any) -> None:
        match step:
            case "advance":
                self.advance(value)
            case "link up":
                self.take(self.client.link_came_up(self.now))
            case "link down":
                self.take(self.client.link_went_down())
                assert not self.configured
            case "router":
                self._advertise(value)
            case "link-local":
                address = LINK_LOCAL if value else None
                self.take(self.client.link_local_changed(address, self.now))
            case "duplicate":
                for address in sorted(self.configured)[:1]:
                    self.take(self.client.address_duplicate(address, self.now))
            case "refused":
                for address in sorted(self.configured)[:1]:
                    self.take(self.client.address_refused(address, self.now))
            case "server":
                self.server.status = value
                self.server.addresses = tuple(p[7 + value] for p in PREFIXES[: 1 + value % 2])
            case _:
                self._noise(value)

    def _advertise(self, value: int) -> None:
        self.take(
            self.client.router_advertised(
                frozenset(PREFIXES[: value % 3]),
                self.now,
                managed=bool(value & 1),
                other=bool(value & 2),
                is_new_link=bool(value & 4),
            )
        )

    def _noise(self, seed: int) -> None:
        if self.answers:
            self.receive(next(mutations(self.answers, Random(seed))))


@given(st.integers(0, 1000), steps)
def test_client_in_any_order_of_events_stays_in_order(
    seed: int, happenings: list[tuple[str, Any]]
) -> None:
    life = Life(seed)
    for step, value in happenings:
        life.happen(step, value)
        life.answer()
        assert life.offered <= life.configured
        assert life.offered <= life.client.states().keys()
    life.take(life.client.release())
    assert not life.configured
    assert life.client.next_deadline() is None
