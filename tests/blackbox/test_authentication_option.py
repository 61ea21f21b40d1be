"""A home agent and the MN-HA authentication option, in IPsec's place (RFC 4285, RFC 4283)."""

from __future__ import annotations

import hmac
import itertools
import os
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.blackbox import octets as o
from tests.blackbox.bench import Bench, Cable
from tests.blackbox.correspondent import PATIENCE, STRANGER, wait_until
from tests.blackbox.home_agent import AGENT, CORRESPONDENT, REGISTER, ROUTER
from tests.blackbox.keys import BINDING, Keys
from tests.blackbox.octets import Option, Packet
from tests.blackbox.tester import TESTER_MAC
from tests.support.requirement import requirement

if TYPE_CHECKING:
    from tests.blackbox.tester import Tester

NODES = 16
LIFETIME = 600
IDENTIFIER_MISMATCH, IDENTIFIER_REQUIRED, AUTHENTICATION_FAILED = 144, 145, 146
SECONDS_FROM_1900_TO_1970 = 2_208_988_800
HOUR = 3600


def timestamp(later: float = 0.0) -> int:
    """The time of day as NTP has it, so many seconds later."""
    return int((time.time() + later + SECONDS_FROM_1900_TO_1970) * 2**32)


class MobileNode:
    """A mobile node with a key and an identifier of its own."""

    def __init__(self, tester: Tester, number: int) -> None:
        self.tester = tester
        self.home_address = IPv6Address(f"2001:db8:1::{number:x}")
        self.care_of_address = IPv6Address(f"2001:db8:a:{number:x}::10")
        self.identifier = f"node-{number:x}@example.org"
        self.spi = 0x10000 + number
        self.key = os.urandom(16)
        self._sequences = itertools.count(int.from_bytes(os.urandom(2), "big"))

    def write_keys(self, path: Path) -> None:
        """The home agent's key file."""
        path.touch(mode=0o600)
        path.write_text(
            f'version = 1\nend = "home-agent"\nhome_address = "{self.home_address}"\n'
            f'home_agent = "{AGENT}"\n[authentication]\n'
            f'spi = {self.spi:#x}\nkey = "{self.key.hex()}"\n'
        )

    def authenticator(self, message: bytes) -> bytes:
        """Of a message whose last option is still without one, or has it (RFC 4285 section 5.1):
        covered is all up to the SPI, the checksum zero."""
        covered = message[:4] + bytes(2) + message[6:-12]
        data = self.care_of_address.packed + self.home_address.packed + covered
        return hmac.new(self.key, data, "sha1").digest()[:12]

    def update(self, *options: Option, lifetime: int = LIFETIME, key: bytes | None = None) -> bytes:
        """An authenticated Binding Update, with these options before the authenticator or, with
        none, those that there must be."""
        options = options or (
            o.mobile_node_identifier(self.identifier),
            o.message_identifier(timestamp()),
        )
        message = o.binding_update(
            next(self._sequences) % 0x10000,
            o.alternate_care_of_address(self.care_of_address),
            *options,
            o.message_authentication(self.spi),
            lifetime=lifetime,
            flags=REGISTER,
        )
        # Padding may follow the option; it is not covered.
        end = message.rindex(bytes([9, 17, 1]) + self.spi.to_bytes(4, "big")) + 7
        kept, self.key = self.key, key or self.key
        value = self.authenticator(message[:end] + bytes(12))
        self.key = kept
        return message[:end] + value + message[end + 12 :]

    def send(self, message: bytes) -> None:
        """From the care-of address."""
        option = o.home_address_option(self.home_address)
        self.tester.send(o.packet(self.care_of_address, AGENT, message, option))

    def is_acknowledgement(self, seen: Packet) -> bool:
        """One to this node."""
        return (
            seen.message.kind == o.BINDING_ACKNOWLEDGEMENT and seen.routed_to == self.home_address
        )

    def acknowledgement(self) -> Packet:
        """The next one, which must be authentic."""
        answer = self.tester.expect(self.is_acknowledgement, within=PATIENCE)
        assert answer.destination == self.care_of_address
        assert answer.spi is None
        assert answer.checksum_is_good
        message = answer.message
        assert message.options[8] == b"\1" + self.identifier.encode()
        option = message.options[9]
        assert option[:5] == b"\1" + self.spi.to_bytes(4, "big")
        assert message.offsets[9] % 4 == 1
        assert message.offsets[10] % 8 == 2
        end = message.offsets[9] + 2 + len(option)
        assert option[5:] == self.authenticator(message.octets[:end])
        return answer

    def is_reachable(self) -> bool:
        """Whether the home agent tunnels to it."""
        request = o.packet(CORRESPONDENT, self.home_address, o.echo_request(1), protocol=o.ICMP)
        self.tester.send(request)
        self.barrier()
        return bool(self.tester.came(lambda seen: seen.inner.destination == self.home_address))

    def barrier(self) -> None:
        """What was sent before has been dealt with."""
        cookie = os.urandom(8)
        self.tester.insist(
            o.packet(STRANGER, AGENT, o.care_of_test_init(cookie)),
            lambda seen: seen.message.kind == o.CARE_OF_TEST and seen.message.cookie == cookie,
        )

    def is_silent(self) -> None:
        """Nothing was said to this node."""
        mine = {self.home_address, self.care_of_address}
        self.tester.refuses(lambda seen: seen.destination in mine, self.barrier)


class HomeAgent:
    """The node under test; one of its mobile nodes uses IPsec."""

    def __init__(self) -> None:
        self.bench = Bench.build(Cable("out", ("2001:db8:f0::2/64",), str(ROUTER)))
        tester = self.bench.tester
        tester.plays[ROUTER] = TESTER_MAC
        self.nodes = iter([MobileNode(tester, 0x200 + number) for number in range(NODES)])
        self.keys = Keys(IPv6Address("2001:db8:1::999"), AGENT)
        try:
            self._start()
        except BaseException:
            self.bench.close()
            raise

    def _start(self) -> None:
        self.bench.node.sysctl(ipv6__conf__all__forwarding=1)
        self.bench.node.ip(f"addr add {AGENT}/128 dev lo")
        path = self.bench.directory / "ipsec.toml"
        self.keys.write(path, "home-agent")
        served = [{"home_address": str(self.keys.home_address), "keys": str(path)}]
        nodes = list(self.nodes)
        self.nodes = iter(nodes)
        for each in nodes:
            path = self.bench.directory / f"{each.spi:x}.toml"
            each.write_keys(path)
            served.append(
                {
                    "home_address": str(each.home_address),
                    "keys": str(path),
                    "protection": "authentication-option",
                    "identifier": each.identifier,
                }
            )
        agent = {
            "address": str(AGENT),
            "home_prefix": "2001:db8:1::/64",
            "interfaces": ["out"],
        }
        self.bench.start_daemon(
            {"role": "home-agent", "home_agent": agent, "home_agent.mobile_nodes": served}
        )


@pytest.fixture(scope="module")
def agent() -> Iterator[HomeAgent]:
    """One daemon for all tests of this module."""
    agent = HomeAgent()
    try:
        yield agent
    finally:
        agent.bench.close()


@pytest.fixture
def mobile(agent: HomeAgent) -> MobileNode:
    """A mobile node that is served and has not been heard of."""
    return next(agent.nodes)


@requirement("RFC4285-5", "EXT-10")
def test_update_with_the_option_makes_a_binding_and_one_without_lifetime_ends_it(
    mobile: MobileNode,
) -> None:
    message = mobile.update()
    mobile.send(message)
    answer = mobile.acknowledgement().message
    assert answer.status == 0
    assert 0 < answer.lifetime <= LIFETIME
    assert answer.options[10] == o.read_mobility(message).options[10]
    wait_until(mobile.is_reachable)
    mobile.send(mobile.update(lifetime=0))
    assert mobile.acknowledgement().message.status == 0
    wait_until(lambda: not mobile.is_reachable())


@requirement("RFC4285-5.1", "EXT-10")
def test_update_with_another_key_is_refused_and_changes_nothing(mobile: MobileNode) -> None:
    mobile.send(mobile.update(key=bytes(16)))
    assert mobile.acknowledgement().message.status == AUTHENTICATION_FAILED
    assert not mobile.is_reachable()


@requirement("RFC4285-6", "EXT-10")
def test_update_seen_before_is_refused(mobile: MobileNode) -> None:
    message = mobile.update()
    for status in (0, IDENTIFIER_MISMATCH):
        mobile.send(message)
        assert mobile.acknowledgement().message.status == status


@requirement("RFC4285-6", "EXT-10")
@pytest.mark.parametrize("later", [-HOUR, HOUR])
def test_update_of_another_time_of_day_is_told_the_right_one(
    mobile: MobileNode, later: float
) -> None:
    wrong = timestamp(later)
    name = o.mobile_node_identifier(mobile.identifier)
    mobile.send(mobile.update(name, o.message_identifier(wrong)))
    answer = mobile.acknowledgement().message
    assert answer.status == IDENTIFIER_MISMATCH
    told = int.from_bytes(answer.options[10], "big")
    assert abs((told - timestamp()) >> 32) <= 5
    # The lower half says which update is meant.
    assert told & 0xFFFFFFFF == wrong & 0xFFFFFFFF
    assert not mobile.is_reachable()


@requirement("RFC4285-6", "EXT-10")
def test_update_without_a_time_is_told_to_have_one(mobile: MobileNode) -> None:
    mobile.send(mobile.update(o.mobile_node_identifier(mobile.identifier)))
    assert mobile.acknowledgement().message.status == IDENTIFIER_REQUIRED


@requirement("RFC4283-3", "EXT-11")
@pytest.mark.parametrize(
    "identifiers",
    [
        lambda own: [o.mobile_node_identifier("else@example.org")],
        lambda own: [o.mobile_node_identifier(own, subtype=200)],
        lambda own: [],
    ],
    ids=["another's", "of another kind", "none"],
)
def test_update_without_the_right_identifier_is_ignored(
    mobile: MobileNode, identifiers: Callable[[str], list[Option]]
) -> None:
    mobile.send(mobile.update(*identifiers(mobile.identifier), o.message_identifier(timestamp())))
    mobile.is_silent()


@requirement("RFC4283-3", "EXT-11")
def test_identifier_of_an_unknown_kind_beside_the_right_one_is_skipped(
    mobile: MobileNode,
) -> None:
    mobile.send(
        mobile.update(
            o.mobile_node_identifier("something", subtype=200),
            o.mobile_node_identifier(mobile.identifier),
            o.message_identifier(timestamp()),
        )
    )
    assert mobile.acknowledgement().message.status == 0


@requirement("RFC4285-5", "EXT-10", "SEC-07")
def test_way_of_protection_that_was_not_agreed_on_is_ignored(
    agent: HomeAgent, mobile: MobileNode
) -> None:
    # A node of IPsec with the option, though by a key that is known here.
    of_ipsec = next(agent.nodes)
    of_ipsec.home_address = agent.keys.home_address
    of_ipsec.send(of_ipsec.update())
    of_ipsec.is_silent()
    # A node of the option under an association of somebody else.
    message = o.packet(mobile.home_address, AGENT, mobile.update())[40:]
    sealed = agent.keys[BINDING].outbound.seal(message)
    option = o.home_address_option(mobile.home_address)
    mobile.tester.send(o.packet(mobile.care_of_address, AGENT, sealed, option, protocol=o.ESP))
    mobile.is_silent()
    # And without anything.
    plain = o.binding_update(
        1, o.alternate_care_of_address(mobile.care_of_address), lifetime=LIFETIME, flags=REGISTER
    )
    mobile.send(plain)
    mobile.is_silent()
