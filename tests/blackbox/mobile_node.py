"""A mobile node under test; the tester plays its routers, its home agent and its correspondents."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any

from tests.blackbox import octets as o
from tests.blackbox.bench import Bench, Cable
from tests.blackbox.correspondent import PATIENCE, is_echo_reply
from tests.blackbox.keys import BINDING, RETURN_ROUTABILITY, Keys
from tests.blackbox.octets import Option, Packet
from tests.blackbox.tester import Predicate, Seen

HOME_ADDRESS = IPv6Address("2001:db8:1::10")
AGENT = IPv6Address("2001:db8:1::1")
HOME_PREFIX = IPv6Address("2001:db8:1::")
AGENT_MAC = bytes.fromhex("0200000000a1")
WITNESS = IPv6Address("2001:db8:cccc::1")
"""A peer whose packets show that those before them have passed; never on a direct path."""
LIFETIME = 600
"""Seconds, as configured."""


@dataclass(slots=True)
class Network:
    """A link the mobile node can be on, and its router."""

    prefix: IPv6Address
    router: IPv6Address
    mac: bytes
    options: list[bytes] = field(default_factory=list)
    """More in its advertisements than the prefix."""
    valid: int = 3600
    preferred: int = 3600

    @property
    def is_home(self) -> bool:
        """Whether it is the home link."""
        return self.prefix == HOME_PREFIX

    def advertisement(self, *, hop_limit: int = 255, source: IPv6Address | None = None) -> bytes:
        """Its Router Advertisement."""
        message = o.router_advertisement(
            o.link_layer_option(1, self.mac),
            o.prefix_information(self.prefix, valid=self.valid, preferred=self.preferred),
            *self.options,
        )
        return o.packet(
            source or self.router, o.ALL_NODES, message, protocol=o.ICMP, hop_limit=hop_limit
        )

    def holds(self, address: IPv6Address) -> bool:
        """Whether an address is of its prefix."""
        return address.packed[:8] == self.prefix.packed[:8]


@dataclass(slots=True)
class Correspondent:
    """A peer that the tester plays, with the tokens it gave."""

    address: IPv6Address
    home_token: bytes = field(default_factory=lambda: os.urandom(8))
    care_of_token: bytes = field(default_factory=lambda: os.urandom(8))

    @property
    def key(self) -> bytes:
        """Kbm of a registration."""
        return o.binding_key(self.home_token, self.care_of_token)


class MobileNode:
    """The node under test, its network and its home agent."""

    def __init__(self, *others: IPv6Address, **settings: Any) -> None:
        """``others`` are home agents that it has keys for besides; settings of None are left
        out."""
        self.bench = Bench.build(Cable("eth0"))
        self.tester = self.bench.tester
        self.keys = Keys(HOME_ADDRESS, AGENT)
        self.others = {address: Keys(HOME_ADDRESS, address) for address in others}
        for each in (self.keys, *self.others.values()):
            self.tester.ring.add(each)
        self.network: Network | None = None
        self.accepts = True
        """Whether the home agent answers Binding Updates by itself."""
        self.granted: int | None = None
        """Seconds that the home agent grants at most."""
        self.updates: list[Packet] = []
        """All Binding Updates to the home agent, ever."""
        self.strays: list[Packet] = []
        """What the node must never have sent, see `_watch`."""
        self._numbers = itertools.count(1)
        self.tester.reactions = [self._watch, self._route, self._defend, self._agree]
        try:
            self.bench.node.sysctl(ipv6__conf__eth0__accept_dad=1)
            settings = {
                "home_address": str(HOME_ADDRESS),
                "home_agent": str(AGENT),
                "interfaces": ["eth0"],
                "keys": self._key_files(),
                "lifetime": LIFETIME,
                **settings,
            }
            self.settings = {
                "role": "mobile-node",
                "mobile_node": {key: value for key, value in settings.items() if value is not None},
                "mobile_node.route_optimization_policy": [
                    {"prefix": f"{WITNESS}/128", "use": "never"}
                ],
            }
            self._carrier(up=False)
            self.bench.start_daemon(self.settings)
        except BaseException:
            self.bench.close()
            raise

    def _key_files(self) -> list[str]:
        paths = []
        for number, keys in enumerate((self.keys, *self.others.values())):
            path = self.bench.directory / f"keys-{number}.toml"
            keys.write(path, "mobile-node")
            paths.append(str(path))
        return paths

    # Networks

    def new_network(self) -> Network:
        """A foreign link the node has never been on."""
        number = next(self._numbers)
        return Network(
            IPv6Address(f"2001:db8:a:{number:x}::"),
            IPv6Address(f"fe80::a:{number:x}"),
            bytes.fromhex(f"02000001{number:04x}"),
        )

    def home_network(self) -> Network:
        """The home link, with a router that is not the home agent."""
        return Network(HOME_PREFIX, IPv6Address("fe80::1:1"), bytes.fromhex("020000000011"))

    def move(self, network: Network | None = None) -> Network:
        """Plug the node into a link; what `expect` looks at begins there."""
        network = network or self.new_network()
        self.leave()
        self.network = network
        self.tester.plays = {network.router: network.mac}
        if network.is_home:
            self.tester.plays[AGENT] = AGENT_MAC
        self._carrier(up=True)
        return network

    def leave(self) -> None:
        """Unplug it."""
        self.network = None
        self._carrier(up=False)
        self.tester.listen()

    def visit(self, network: Network | None = None) -> Network:
        """Move, and wait until the node is registered from there and its tunnel works."""
        self.accepts = True
        network = self.move(network)
        self.update()
        self.passes()
        # Answered once the daemon has done what belongs to the move.
        self.bench.status()
        return network

    def come_home(self) -> Network:
        """Move home, and wait until it has deregistered."""
        self.accepts = True
        network = self.move(self.home_network())
        self.tester.expect(self.is_deregistration, what="deregistration")
        self.tester.expect(is_claim, what="claim of the home address")
        return network

    def _carrier(self, *, up: bool) -> None:
        self.bench.outside.ip(f"link set eth0 {'up' if up else 'down'}")

    # What the tester's nodes do by themselves, in its thread

    def _watch(self, seen: Seen) -> None:
        """Away, the home address is seen in the tunnel and in options alone, and what is for the
        link has no Home Address option (RFC 6275 11.3.1)."""
        if self.network is None or self.network.is_home:
            return
        each = seen.packet
        is_for_the_link = each.icmp_type is not None and each.icmp_type in range(130, 138)
        inner = None
        with contextlib.suppress(ValueError, IndexError):
            inner = each.inner
        is_inner_local = inner is not None and (
            inner.destination.is_link_local
            or inner.source.is_link_local
            or inner.icmp_type in range(133, 138)
        )
        if (
            each.source == HOME_ADDRESS
            or (is_for_the_link and each.home_address is not None)
            or is_inner_local
        ):
            self.strays.append(each)

    def _route(self, seen: Seen) -> None:
        network = self.network
        if network is not None and seen.packet.icmp_type == o.ROUTER_SOLICITATION:
            self._say(network.advertisement(), network.mac)

    def _defend(self, seen: Seen) -> None:
        """The home agent answers probes of the home address while there is a binding."""
        each = seen.packet
        is_probe = each.icmp_type == o.NEIGHBOR_SOLICITATION and each.source == o.UNSPECIFIED
        at_home = self.network is not None and self.network.is_home
        if at_home and is_probe and each.target == HOME_ADDRESS and self.is_bound:
            answer = o.neighbor_advertisement(HOME_ADDRESS, AGENT_MAC, 0x20)
            packet = o.packet(AGENT, o.ALL_NODES, answer, protocol=o.ICMP, hop_limit=255)
            self._say(packet, AGENT_MAC)

    @property
    def is_bound(self) -> bool:
        """Whether the latest Binding Update asked for a binding."""
        return bool(self.updates) and self.updates[-1].message.lifetime > 0

    def _agree(self, seen: Seen) -> None:
        with contextlib.suppress(ValueError, IndexError):
            if self.is_update(seen.packet):
                self.updates.append(seen.packet)
                if self.accepts:
                    self._say(self.acceptance(seen.packet), AGENT_MAC)

    def _say(self, packet: bytes, mac: bytes) -> None:
        with contextlib.suppress(OSError):
            self.tester.add(packet, mac=mac)

    # The home agent

    def is_update(self, seen: Packet) -> bool:
        """A Binding Update to the home agent."""
        return bool(
            seen.message and seen.message.kind == o.BINDING_UPDATE and seen.destination == AGENT
        )

    def is_deregistration(self, seen: Packet) -> bool:
        """One that ends the binding."""
        return self.is_update(seen) and seen.message.lifetime == 0

    def update(self, within: float = PATIENCE, skip: int = 0) -> Packet:
        """The first Binding Update to the home agent from where the node is now."""
        network = self.network

        def from_here(seen: Packet) -> bool:
            return self.is_update(seen) and network is not None and network.holds(seen.source)

        return self.tester.expect(from_here, within=within, what="Binding Update", skip=skip)

    def acknowledge(
        self,
        update: Packet,
        *options: Option,
        status: int = 0,
        sequence: int | None = None,
        lifetime: int | None = None,
        source: IPv6Address = AGENT,
        purpose: str = BINDING,
        spoil: Callable[[bytes], bytes] = lambda message: message,
        protect: bool = True,
    ) -> bytes:
        """A Binding Acknowledgement, from wherever and however protected a test wants it."""
        assert update.message is not None
        message = o.binding_acknowledgement(
            update.message.sequence if sequence is None else sequence,
            *options,
            lifetime=update.message.lifetime if lifetime is None else lifetime,
            status=status,
        )
        message = spoil(o.packet(source, HOME_ADDRESS, message)[40:])
        to = update.source
        headers = () if to == HOME_ADDRESS else (o.routing_header(HOME_ADDRESS),)
        if not protect:
            return o.packet(source, to, message, *headers)
        sealed = self.keys[purpose].inbound.seal(message)
        return o.packet(source, to, sealed, *headers, protocol=o.ESP)

    def from_agent(
        self,
        message: bytes,
        *,
        protocol: int = o.MOBILITY,
        purpose: str | None = BINDING,
        source: IPv6Address = AGENT,
        is_routed: bool = True,
    ) -> bytes:
        """A message to the home address at the care-of address, under the association for its
        purpose or, for None, under nothing."""
        headers = (o.routing_header(HOME_ADDRESS),) if is_routed else ()
        to = self.care_of_address
        if purpose is None:
            return o.packet(source, to, message, *headers, protocol=protocol)
        whole = o.packet(source, HOME_ADDRESS if is_routed else to, message, protocol=protocol)[40:]
        sealed = self.keys[purpose].inbound.seal(whole, protocol)
        return o.packet(source, to, sealed, *headers, protocol=o.ESP)

    def acceptance(self, update: Packet) -> bytes:
        """The one that a home agent sends."""
        assert update.message is not None
        asked = update.message.lifetime
        return self.acknowledge(update, lifetime=min(asked, self.granted or asked))

    # The tunnel

    @property
    def care_of_address(self) -> IPv6Address:
        """Of the latest Binding Update."""
        return self.updates[-1].source

    def tunnelled(self, inner: bytes, source: IPv6Address = AGENT) -> bytes:
        """From the home agent to the care-of address."""
        return o.packet(source, self.care_of_address, inner, protocol=o.IPV6)

    def protected(self, inner: bytes) -> bytes:
        """The same under the association for Home Tests."""
        sealed = self.keys[RETURN_ROUTABILITY].inbound.seal(inner, o.IPV6)
        return o.packet(AGENT, self.care_of_address, sealed, protocol=o.ESP)

    def ping(self, peer: IPv6Address, number: int = 1) -> bytes:
        """An echo request to the home address."""
        request = o.echo_request(number)
        return o.packet(peer, HOME_ADDRESS, request, protocol=o.ICMP)

    def is_reply_in_tunnel(self, seen: Packet, peer: IPv6Address) -> bool:
        """An answer to `ping`, by way of the home agent."""
        inner = seen.inner
        return seen.destination == AGENT and is_echo_reply(inner) and inner.destination == peer

    def new_peer(self) -> Correspondent:
        """One that the node never talked to."""
        return Correspondent(IPv6Address(f"2001:db8:c:{next(self._numbers):x}::2"))

    def passes(self) -> None:
        """What came before has been dealt with: an echo through the tunnel is answered."""
        peer = WITNESS
        self.tester.insist(
            self.tunnelled(self.ping(peer)), lambda seen: self.is_reply_in_tunnel(seen, peer)
        )

    def refuses(self, unwanted: Predicate) -> None:
        """See `Tester.refuses`."""
        self.tester.refuses(unwanted, self.passes)

    # Route optimization

    def start_tests(self, peer: Correspondent) -> tuple[Packet, Packet]:
        """Make the node talk to a peer; returns its Home and Care-of Test Init."""
        self.tester.send(self.tunnelled(self.ping(peer.address)))
        return self.home_test_init(peer), self.care_of_test_init(peer)

    def home_test_init(self, peer: Correspondent, skip: int = 0) -> Packet:
        """The outer packet of one."""
        return self.tester.expect(
            lambda seen: (
                seen.inner.message.kind == o.HOME_TEST_INIT
                and seen.inner.destination == peer.address
            ),
            what="Home Test Init",
            skip=skip,
        )

    def care_of_test_init(self, peer: Correspondent, skip: int = 0) -> Packet:
        """One, as it is on the link."""
        return self.tester.expect(
            lambda seen: (
                seen.message.kind == o.CARE_OF_TEST_INIT and seen.destination == peer.address
            ),
            what="Care-of Test Init",
            skip=skip,
        )

    def home_test(self, peer: Correspondent, init: Packet, cookie: bytes | None = None) -> bytes:
        """The answer, in the tunnel."""
        cookie = init.inner.message.cookie if cookie is None else cookie
        test = o.home_test(1, cookie, peer.home_token)
        return self.protected(o.packet(peer.address, HOME_ADDRESS, test))

    def care_of_test(self, peer: Correspondent, init: Packet, cookie: bytes | None = None) -> bytes:
        """The answer, on the direct path."""
        cookie = init.message.cookie if cookie is None else cookie
        test = o.care_of_test(2, cookie, peer.care_of_token)
        return o.packet(peer.address, init.source, test)

    def peer_update(self, peer: Correspondent, skip: int = 0) -> Packet:
        """A Binding Update to a peer."""
        return self.tester.expect(
            lambda seen: seen.message.kind == o.BINDING_UPDATE and seen.destination == peer.address,
            what="Binding Update to the peer",
            skip=skip,
        )

    def begin(self, peer: Correspondent) -> Packet:
        """Return routability; returns the Binding Update. Tests that the node repeats are answered
        too."""

        def answer(seen: Seen) -> None:
            with contextlib.suppress(ValueError, IndexError):
                each, inner = seen.packet, seen.packet.inner
                innermost = inner or each
                if innermost.message is None or innermost.destination != peer.address:
                    return
                if innermost.message.kind == o.HOME_TEST_INIT:
                    self.tester.add(self.home_test(peer, each))
                elif innermost.message.kind == o.CARE_OF_TEST_INIT:
                    self.tester.add(self.care_of_test(peer, each))

        self.tester.reactions.append(answer)
        try:
            self.tester.send(self.tunnelled(self.ping(peer.address)))
            return self.peer_update(peer)
        finally:
            self.tester.reactions.remove(answer)

    def peer_acknowledgement(
        self,
        peer: Correspondent,
        update: Packet,
        *,
        status: int = 0,
        authorized: bool = True,
        key: bytes | None = None,
        sequence: int | None = None,
    ) -> bytes:
        """A peer's Binding Acknowledgement."""
        message = o.binding_acknowledgement(
            update.message.sequence if sequence is None else sequence,
            *([o.AUTHORIZATION] if authorized else []),
            lifetime=update.message.lifetime,
            status=status,
        )
        if authorized:
            message = o.authorize(key or peer.key, update.source, peer.address, message)
        return o.packet(peer.address, update.source, message, o.routing_header(HOME_ADDRESS))

    def direct_ping(self, peer: Correspondent) -> bytes:
        """An echo request on the direct path."""
        request = o.echo_request(1)
        option = o.routing_header(HOME_ADDRESS)
        return o.packet(peer.address, self.care_of_address, request, option, protocol=o.ICMP)

    def optimize(self, peer: Correspondent) -> Packet:
        """The whole of it; returns the Binding Update once packets take the direct path."""
        update = self.begin(peer)
        self.tester.add(self.peer_acknowledgement(peer, update))
        self.is_direct(peer)
        return update

    def is_direct(self, peer: Correspondent) -> Packet:
        """Wait for an answer on the direct path, and return it."""
        return self.tester.insist(
            self.tunnelled(self.ping(peer.address)),
            lambda seen: is_echo_reply(seen) and seen.destination == peer.address,
        )

    def is_tunnelled(self, peer: Correspondent) -> None:
        """Wait for an answer by way of the home agent."""
        self.tester.insist(
            self.tunnelled(self.ping(peer.address)),
            lambda seen: self.is_reply_in_tunnel(seen, peer.address),
        )


def is_claim(seen: Packet) -> bool:
    """A Neighbor Advertisement for the home address to everybody."""
    return (
        seen.icmp_type == o.NEIGHBOR_ADVERTISEMENT
        and seen.target == HOME_ADDRESS
        and seen.destination == o.ALL_NODES
    )
