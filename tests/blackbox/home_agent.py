"""A home agent under test, and the mobile nodes that the tester plays before it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any

from tests.blackbox import octets as o
from tests.blackbox.bench import Bench, Cable
from tests.blackbox.correspondent import PATIENCE, STRANGER, is_echo_reply, wait_until
from tests.blackbox.keys import BINDING, RETURN_ROUTABILITY, Keys
from tests.blackbox.octets import Option, Packet
from tests.blackbox.tester import TESTER_MAC, Predicate, Tester

AGENT = IPv6Address("2001:db8:1::1")
ROUTER = IPv6Address("2001:db8:f0::1")
CORRESPONDENT = IPv6Address("2001:db8:c::2")
WITNESSED = IPv6Address("2001:db8:eee::1")
REGISTER = o.ACKNOWLEDGE | o.HOME
MAX_LIFETIME = 1200
"""Seconds, as configured."""
NODES = 64
"""Mobile nodes configured; each test takes one that nobody has met."""


class MobileNode:
    """A mobile node with keys of its own."""

    def __init__(self, tester: Tester, number: int) -> None:
        self.tester = tester
        self.witness: MobileNode | None = None
        """One that is registered, whose packets show that those before them have passed."""
        self.home_address = IPv6Address(f"2001:db8:1::{number:x}")
        self.link_local_address = IPv6Address(f"fe80::{number:x}")
        self.care_of_address = IPv6Address(f"2001:db8:a:{number:x}::10")
        self.other_care_of_address = IPv6Address(f"2001:db8:b:{number:x}::10")
        self.keys = Keys(self.home_address, AGENT)
        self.sequence = int.from_bytes(os.urandom(2), "big")
        tester.ring.add(self.keys)

    @property
    def home_address_option(self) -> o.Header:
        """Its own."""
        return o.home_address_option(self.home_address)

    def message(
        self,
        *options: Option,
        lifetime: int = 600,
        flags: int = REGISTER,
        sequence: int | None = None,
        care_of_address: IPv6Address | None = None,
    ) -> bytes:
        """A Binding Update with an alternate care-of address; the sequence number goes on."""
        if sequence is None:
            self.sequence = sequence = (self.sequence + 1) % 0x10000
        alternate = o.alternate_care_of_address(care_of_address or self.care_of_address)
        return o.binding_update(sequence, *options, alternate, lifetime=lifetime, flags=flags)

    def seal(self, message: bytes) -> bytes:
        """Under the association for Binding Updates, checksum over the home address."""
        whole = o.packet(self.home_address, AGENT, message)[40:]
        return self.keys[BINDING].outbound.seal(whole)

    def away(self, message: bytes, source: IPv6Address | None = None) -> bytes:
        """The packet of a Binding Update sent on a foreign link (RFC 3776 section 3.1)."""
        return o.packet(
            source or self.care_of_address,
            AGENT,
            self.seal(message),
            self.home_address_option,
            protocol=o.ESP,
        )

    def send_update(self, *options: Option, source: IPv6Address | None = None, **more: Any) -> None:
        """From the care-of address or ``source``, which is then the care-of address."""
        message = self.message(*options, care_of_address=source, **more)
        self.tester.send(self.away(message, source), link="out")

    def is_acknowledgement(self, seen: Packet) -> bool:
        """One to this node, whatever it came by."""
        final = seen.routed_to or seen.destination
        return seen.message.kind == o.BINDING_ACKNOWLEDGEMENT and final == self.home_address

    def acknowledgement(self, within: float = PATIENCE) -> Packet:
        """The next one, which must be protected."""
        answer = self.tester.expect(self.is_acknowledgement, within=within, what="acknowledgement")
        assert answer.spi == self.keys[BINDING].inbound.spi
        assert answer.icv_is_good
        assert answer.checksum_is_good
        return answer

    def register(self, **more: Any) -> Packet:
        """Send a Binding Update that must be accepted; returns once packets are carried."""
        self.send_update(**more)
        answer = self.acknowledgement()
        assert answer.message.status in (0, 1)
        self.becomes_reachable(more.get("source"))
        return answer

    # The tunnel

    def to_home_address(self, size: int = 8, source: IPv6Address = CORRESPONDENT) -> bytes:
        """An echo request from a correspondent to the home address."""
        request = o.echo_request(7, bytes(size))
        return o.packet(source, self.home_address, request, protocol=o.ICMP)

    def is_tunnelled(self, seen: Packet, care_of_address: IPv6Address | None = None) -> bool:
        """A packet for the home address, in the tunnel."""
        return seen.inner.destination == self.home_address and seen.destination == (
            care_of_address or self.care_of_address
        )

    def is_reachable(self, care_of_address: IPv6Address | None = None) -> bool:
        """Whether a packet for the home address comes through the tunnel."""
        self.tester.listen()
        self.tester.add(self.to_home_address(), link="out")
        self.barrier()
        return bool(self.tester.came(lambda seen: self.is_tunnelled(seen, care_of_address)))

    def becomes_reachable(self, care_of_address: IPv6Address | None = None) -> None:
        """Wait until `is_reachable`; the acknowledgement may arrive a moment before."""
        wait_until(lambda: self.is_reachable(care_of_address))

    def becomes_unreachable(self) -> None:
        """Wait until it is not."""
        wait_until(lambda: not self.is_reachable())

    def tunnel(self, inner: bytes, source: IPv6Address | None = None) -> bytes:
        """The inner packet in the tunnel to the home agent."""
        return o.packet(source or self.care_of_address, AGENT, inner, protocol=o.IPV6)

    def from_home_address(self, destination: IPv6Address = CORRESPONDENT) -> bytes:
        """An echo request of the mobile node."""
        return o.packet(self.home_address, destination, o.echo_request(8), protocol=o.ICMP)

    def protected_tunnel(self, inner: bytes) -> bytes:
        """The inner packet under the association for Home Test Inits."""
        sealed = self.keys[RETURN_ROUTABILITY].outbound.seal(inner, o.IPV6)
        return o.packet(self.care_of_address, AGENT, sealed, protocol=o.ESP)

    # Nothing happens

    def barrier(self) -> None:
        """What was sent before has been dealt with, by the tunnel both ways and by the agent."""
        if self.witness is not None:
            self.witness.pass_both_ways()
        cookie = os.urandom(8)
        self.tester.insist(
            o.packet(STRANGER, AGENT, o.care_of_test_init(cookie)),
            lambda seen: seen.message.kind == o.CARE_OF_TEST and seen.message.cookie == cookie,
            link="out",
        )

    def pass_both_ways(self) -> None:
        """One packet each way through the tunnel."""
        self.tester.insist(self.to_home_address(), self.is_tunnelled, link="out")
        self.tester.insist(
            self.tunnel(self.from_home_address(WITNESSED)),
            lambda seen: seen.destination == WITNESSED,
            link="out",
        )

    def refuses(self, unwanted: Predicate) -> None:
        """See `Tester.refuses`."""
        self.tester.refuses(unwanted, self.barrier)

    def is_silent(self) -> None:
        """Nothing was said to this node."""
        mine = {self.home_address, self.care_of_address, self.other_care_of_address}
        self.refuses(lambda seen: seen.destination in mine)


class HomeAgent:
    """The node under test and the mobile nodes that nobody has met yet."""

    def __init__(self, *, virtual: bool, **settings: Any) -> None:
        uplink = Cable("out", ("2001:db8:f0::2/64",), str(ROUTER))
        cables = [uplink] if virtual else [uplink, Cable("home", (f"{AGENT}/64",))]
        self.bench = Bench.build(*cables)
        self.tester = self.bench.tester
        self.tester.plays[ROUTER] = TESTER_MAC
        self.nodes = [MobileNode(self.tester, 0x100 + number) for number in range(NODES)]
        self._unmet: Iterator[MobileNode] = iter(self.nodes)
        try:
            self._start(virtual, settings)
            witness = self.mobile_node()
            witness.register()
            for each in self.nodes:
                each.witness = None if each is witness else witness
        except BaseException:
            self.bench.close()
            raise

    def _start(self, virtual: bool, settings: dict[str, Any]) -> None:
        node = self.bench.node
        node.sysctl(ipv6__conf__all__forwarding=1)
        if virtual:
            node.ip(f"addr add {AGENT}/128 dev lo")
        tables = []
        for each in self.nodes:
            path = self.bench.directory / f"{each.home_address.packed[-2:].hex()}.toml"
            each.keys.write(path, "home-agent")
            tables.append({"home_address": str(each.home_address), "keys": str(path)})
        self.bench.start_daemon(
            {
                "role": "home-agent",
                "home_agent": {
                    "address": str(AGENT),
                    "home_prefix": "2001:db8:1::/64",
                    "interfaces": ["out"],
                    "max_lifetime": MAX_LIFETIME,
                    **({} if virtual else {"home_link": "home"}),
                    **settings,
                },
                "home_agent.mobile_nodes": tables,
            }
        )

    def mobile_node(self) -> MobileNode:
        """One that nobody has met."""
        return next(self._unmet)


__all__ = ["AGENT", "CORRESPONDENT", "HomeAgent", "MobileNode", "is_echo_reply"]
