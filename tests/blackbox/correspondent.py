"""A correspondent under test, and the mobile nodes that the tester plays before it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address

from tests.blackbox import octets as o
from tests.blackbox.bench import Bench
from tests.blackbox.octets import Message, Option, Packet
from tests.blackbox.tester import PATIENCE, TESTER_MAC, Tester

NODE = IPv6Address("2001:db8:c::2")
ROUTER = IPv6Address("2001:db8:c::1")
STRANGER = IPv6Address("2001:db8:bad::1")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What return routability gave."""

    home_index: int
    home_token: bytes
    care_of_index: int
    care_of_token: bytes

    @property
    def key(self) -> bytes:
        """Kbm of a registration."""
        return o.binding_key(self.home_token, self.care_of_token)

    @property
    def deregistration_key(self) -> bytes:
        """Kbm of a deregistration (section 5.2.5)."""
        return o.binding_key(self.home_token)


class MobileNode:
    """A mobile node, away, that keeps what a mobile node must keep."""

    def __init__(self, tester: Tester, number: int, node: IPv6Address = NODE) -> None:
        self.tester = tester
        self.node = node
        # Prefixes of its own, for what is limited by prefix.
        self.home_address = IPv6Address(f"2001:db8:1:{number:x}::10")
        self.care_of_address = IPv6Address(f"2001:db8:a:{number:x}::10")
        self.other_care_of_address = IPv6Address(f"2001:db8:b:{number:x}::10")
        self.sequence = 1000

    def send(self, message: bytes, source: IPv6Address, *headers: o.Header, **more: bool) -> None:
        """A Mobility Header to the node."""
        self.tester.send(o.packet(source, self.node, message, *headers, **more))

    def home_test(self) -> Message:
        """Ask for a home keygen token."""
        cookie = os.urandom(8)
        self.send(o.home_test_init(cookie), self.home_address)
        return self._test(o.HOME_TEST, cookie)

    def care_of_test(self, address: IPv6Address | None = None) -> Message:
        """Ask for a care-of keygen token."""
        cookie = os.urandom(8)
        self.send(o.care_of_test_init(cookie), address or self.care_of_address)
        return self._test(o.CARE_OF_TEST, cookie)

    def _test(self, kind: int, cookie: bytes) -> Message:
        found = self.tester.expect(
            lambda seen: seen.message.kind == kind and seen.message.cookie == cookie
        )
        assert found.message is not None
        return found.message

    def tokens(self, care_of_address: IPv6Address | None = None) -> Tokens:
        """Both tests."""
        home, care_of = self.home_test(), self.care_of_test(care_of_address)
        return Tokens(home.nonce_index, home.token, care_of.nonce_index, care_of.token)

    def update(
        self,
        tokens: Tokens,
        *options: Option,
        sequence: int | None = None,
        lifetime: int = 420,
        flags: int = o.ACKNOWLEDGE,
        care_of_address: IPv6Address | None = None,
        key: bytes | None = None,
        indices: tuple[int, int] | None = None,
    ) -> bytes:
        """An authorized Binding Update."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        home, care_of = indices or (tokens.home_index, tokens.care_of_index)
        message = o.binding_update(
            sequence,
            o.nonce_indices(home, care_of),
            *options,
            o.AUTHORIZATION,
            lifetime=lifetime,
            flags=flags,
        )
        if key is None:
            key = tokens.key if lifetime else tokens.deregistration_key
        return o.authorize(key, care_of_address or self.care_of_address, self.node, message)

    def send_update(self, message: bytes, source: IPv6Address | None = None) -> None:
        """With the Home Address option, from a care-of address."""
        self.send(message, source or self.care_of_address, o.home_address_option(self.home_address))

    def acknowledgement(self) -> Packet:
        """The next one to either of its addresses."""
        return self.tester.expect(self.is_acknowledgement, what="acknowledgement")

    def is_acknowledgement(self, seen: Packet) -> bool:
        """One to this node."""
        final = seen.routed_to or seen.destination
        return seen.message.kind == o.BINDING_ACKNOWLEDGEMENT and final == self.home_address

    def is_error(self, seen: Packet) -> bool:
        """A Binding Error."""
        return seen.message.kind == o.BINDING_ERROR

    def bind(self, *, lifetime: int = 420, flags: int = o.ACKNOWLEDGE) -> Tokens:
        """Return routability and a binding."""
        tokens = self.tokens()
        self.send_update(self.update(tokens, lifetime=lifetime, flags=flags))
        if flags & o.ACKNOWLEDGE:
            assert self.acknowledgement().message.status == 0
            self.becomes_bound()
        return tokens

    def barrier(self) -> None:
        """What was sent before has been dealt with: a care-of test of somebody else is answered
        after it."""
        cookie = os.urandom(8)
        question = o.packet(STRANGER, self.node, o.care_of_test_init(cookie))
        # Again, for after a flood the answers of tests are rationed for a moment.
        self.tester.insist(
            question,
            lambda seen: seen.message.kind == o.CARE_OF_TEST and seen.message.cookie == cookie,
        )

    def refuses(self, unwanted: object) -> None:
        """See `Tester.refuses`."""
        self.tester.refuses(unwanted, self.barrier)

    def is_silent(self) -> None:
        """Nothing at all was said to this node or about it."""
        mine = {self.home_address, self.care_of_address, self.other_care_of_address}
        self.refuses(lambda seen: seen.destination in mine)

    def echo(self, *headers: o.Header, source: IPv6Address, size: int = 8) -> None:
        """An echo request with headers before it."""
        request = o.echo_request(1, bytes(size))
        self.tester.send(o.packet(source, self.node, request, *headers, protocol=o.ICMP))

    @property
    def home_address_option(self) -> o.Header:
        """Its own."""
        return o.home_address_option(self.home_address)

    def is_bound(self, care_of_address: IPv6Address | None = None) -> bool:
        """Whether the node sends what is for the home address to a care-of address directly."""
        self.tester.listen()
        request = o.packet(self.home_address, self.node, o.echo_request(1), protocol=o.ICMP)
        # Again, for what is under way while the path changes may be lost.
        reply = self.tester.insist(request, is_echo_reply)
        final = reply.routed_to or reply.destination
        assert final == self.home_address
        if reply.routed_to is None:
            return False
        return reply.destination == (care_of_address or self.care_of_address)

    def becomes_bound(self, care_of_address: IPv6Address | None = None) -> None:
        """Wait until `is_bound`; the acknowledgement may arrive a moment before."""
        wait_until(lambda: self.is_bound(care_of_address))

    def becomes_unbound(self) -> None:
        """Wait until the node sends to the home address again."""
        wait_until(lambda: not self.is_bound())


def wait_until(claim: Callable[[], bool], within: float = PATIENCE) -> None:
    """Ask again until it is so; each asking is an exchange with the node under test."""
    deadline = time.monotonic() + within
    while not claim():
        assert time.monotonic() < deadline


def is_echo_reply(seen: Packet) -> bool:
    """An ICMPv6 Echo Reply."""
    return seen.icmp_type == o.ECHO_REPLY


def is_icmp_error(seen: Packet) -> bool:
    """Any ICMPv6 error."""
    return seen.icmp_type is not None and seen.icmp_type < 128


class Correspondent:
    """The node under test."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.tester.plays[ROUTER] = TESTER_MAC
        self._numbers = itertools.count(0x100)

    def mobile_node(self) -> MobileNode:
        """One more."""
        return MobileNode(self.bench.tester, next(self._numbers))
