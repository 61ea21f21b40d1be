"""Every frame of every link, judged as it passes: nothing is kept but what broke a rule, and the
signalling, for attackers to replay.

As a program it watches several interfaces in any namespaces::

    python -m mnagent.rig.soak.watch ORDERS NAMESPACE:INTERFACE:LINK ...

It prints ``{"kind": "ready"}`` when all sockets listen, then ``signalling``, ``violation`` and,
each second, ``judged`` records; at the end of its input ``finished``. What sent a frame is told
from its link-layer source address, so that attackers may forge any IPv6 address.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from mnagent.rig.capture import Post
from mnagent.rig.checks import (
    ENCAPSULATED_IPV6,
    ETHERNET_HEADER,
    ETHERTYPE_IPV6,
    ICMPV6,
    MOBILITY,
    OuterPacket,
    open_packet,
)

MARKER = b"mnagent-soak-attack"
"""In every packet of an attacker that nobody may let out again."""
NEIGHBOR_SOLICITATION = 135
FIRST_INFORMATIONAL = 128
BINDING_ERROR = 7
ANSWERS_TO_ANYBODY = (3, 4, BINDING_ERROR)
"""Home Test, Care-of Test and Binding Error: a home agent is a correspondent, too."""
RETURN_ROUTABILITY_AT_HOME = (1, 3)
"""Home Test Init and Home Test."""
PREFIX_DISCOVERY = (146, 147)
OWN_HOP_LIMIT = 64
"""Of what the home agent itself sends to other links; what it passes on has less left."""
LINK_LOCAL = IPv6Network("fe80::/10")
MAX_SHOWN = 20
"""Violations of one rule on one link that are told one by one; all are counted."""
HEAD = 512
"""Octets looked at of a frame."""
REPORT_INTERVAL = 1.0

HOME_SOURCE = "no packet with the home address as source on a foreign link outside the tunnel"
MOBILITY_CLEAR = "no mobility message between mobile node and home agent outside ESP"
DISCOVERY_CLEAR = "no prefix discovery between mobile node and home agent outside ESP"
TESTS_CLEAR = "no home test through the tunnel outside ESP"
PAYLOAD_CLEAR = "no payload through the tunnel outside ESP where policy protects it"
REFLECTED = "nothing is sent to the victim of a forged Home Address option"
EMERGED = "nothing of an attacker's packet is let out again"
MISDIRECTED = "nothing for the home address goes where the mobile node never was"
RULES = (
    HOME_SOURCE,
    MOBILITY_CLEAR,
    DISCOVERY_CLEAR,
    TESTS_CLEAR,
    PAYLOAD_CLEAR,
    REFLECTED,
    EMERGED,
    MISDIRECTED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the watch has to know; all as text, for JSON."""

    home_address: str
    home_agent: str
    home_prefix: str
    victim: str
    foreign: dict[str, str]
    """Prefixes of the foreign links."""
    mobile_node: tuple[str, ...]
    """Link-layer addresses of its interfaces; so on."""
    agents: tuple[str, ...]
    """Of the home agent."""
    correspondent: tuple[str, ...]
    payload_spis: tuple[int, ...]
    is_payload_protected: bool
    are_tests_protected: bool


@dataclass(frozen=True, slots=True)
class Violation:
    """A packet that must not have been."""

    rule: str
    link: str
    at: float
    """Seconds on CLOCK_REALTIME."""
    detail: str


@dataclass
class Judge:
    """The rules. Knows nothing of descriptors."""

    orders: Orders
    judged: Counter[str] = field(default_factory=Counter)
    """How many packets each rule was asked about."""
    neighbour_discovery: int = 0
    """Solicitations from the home address on a foreign link: no router passes them on, and the
    kernel may send them before anybody can know that the link is another one."""

    def __post_init__(self) -> None:
        orders = self.orders
        self._home_address = IPv6Address(orders.home_address)
        self._home_agent = IPv6Address(orders.home_agent)
        self._home_prefix = IPv6Network(orders.home_prefix)
        self._victim = IPv6Address(orders.victim)
        self._foreign = {name: IPv6Network(text) for name, text in orders.foreign.items()}
        self._mobile = {_octets(text) for text in orders.mobile_node}
        self._agents = {_octets(text) for text in orders.agents}
        self._nodes = self._mobile | self._agents | {_octets(text) for text in orders.correspondent}
        self._payload = set(orders.payload_spis)
        self._visited: set[IPv6Address] = {self._home_address}

    def is_signalling(self, packet: OuterPacket) -> bool:
        """Whether an attacker would want to send it again."""
        if packet.spi is not None:
            return packet.spi not in self._payload
        return packet.protocol == MOBILITY

    def judge(self, link: str, frame: bytes, at: float) -> Iterator[Violation]:
        """What is wrong with a frame."""
        sender = frame[6:12]
        if sender not in self._nodes or int.from_bytes(frame[12:14], "big") != ETHERTYPE_IPV6:
            return
        try:
            packet = open_packet(frame[ETHERNET_HEADER:], at)
            for rule in self._broken(link, sender, packet, frame):
                yield Violation(rule, link, at, describe(packet))
        except (IndexError, ValueError):
            return

    def _broken(self, link: str, sender: bytes, packet: OuterPacket, frame: bytes) -> Iterator[str]:
        if sender in self._mobile and link in self._foreign:
            yield from self._judge_visitor(link, packet)
        is_agent = sender in self._agents
        is_own = sender in self._mobile or (is_agent and packet.hop_limit >= OWN_HOP_LIMIT)
        if is_own and self._is_between(packet):
            yield from self._judge_protection(packet, is_agent=is_agent)
        self.judged[REFLECTED] += 1
        if packet.destination == self._victim and not packet.stays_on_link:
            yield REFLECTED
        self.judged[EMERGED] += 1
        if MARKER in frame and not _is_error(packet):
            yield EMERGED
        if sender not in self._mobile:
            yield from self._judge_direction(packet)

    def _judge_visitor(self, link: str, packet: OuterPacket) -> Iterator[str]:
        if packet.source in self._foreign[link]:
            self._visited.add(packet.source)
        self.judged[HOME_SOURCE] += 1
        if packet.source == self._home_address:
            if packet.stays_on_link:
                self.neighbour_discovery += 1
            else:
                yield HOME_SOURCE

    def _is_between(self, packet: OuterPacket) -> bool:
        return self._home_agent in (packet.source, packet.destination)

    def _judge_protection(self, packet: OuterPacket, *, is_agent: bool) -> Iterator[str]:
        self.judged[MOBILITY_CLEAR] += 1
        allowed = ANSWERS_TO_ANYBODY if is_agent else (BINDING_ERROR,)
        # A Binding Acknowledgement for a stranger who does without nonces is an answer, too.
        strange = is_agent and packet.destination not in self._visited
        if packet.protocol == MOBILITY and packet.payload[2] not in allowed and not strange:
            yield MOBILITY_CLEAR
        elif packet.protocol == ICMPV6:
            self.judged[DISCOVERY_CLEAR] += 1
            if packet.payload[0] in PREFIX_DISCOVERY:
                yield DISCOVERY_CLEAR
        elif packet.protocol == ENCAPSULATED_IPV6:
            yield from self._judge_tunnelled(packet)

    def _judge_tunnelled(self, packet: OuterPacket) -> Iterator[str]:
        inner = open_packet(packet.payload, packet.at)
        if self.orders.is_payload_protected:
            self.judged[PAYLOAD_CLEAR] += 1
            yield PAYLOAD_CLEAR
        if self.orders.are_tests_protected:
            self.judged[TESTS_CLEAR] += 1
            if inner.protocol == MOBILITY and inner.payload[2] in RETURN_ROUTABILITY_AT_HOME:
                yield TESTS_CLEAR

    def _judge_direction(self, packet: OuterPacket) -> Iterator[str]:
        """Tunnels and direct paths lead to addresses that the mobile node has used. An answer to a
        Binding Update goes where that came from (RFC 6275 section 9.5.4)."""
        tunnelled = packet.source == self._home_agent and (
            packet.protocol == ENCAPSULATED_IPV6 or packet.spi in self._payload
        )
        routed = packet.routed_to == self._home_address and packet.protocol != MOBILITY
        if not tunnelled and not routed:
            return
        self.judged[MISDIRECTED] += 1
        if packet.destination not in self._visited:
            yield MISDIRECTED


def _octets(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def _is_error(packet: OuterPacket) -> bool:
    return packet.protocol == ICMPV6 and packet.payload[0] < FIRST_INFORMATIONAL


def describe(packet: OuterPacket) -> str:
    """One line."""
    kind = str(packet.protocol)
    if packet.protocol == MOBILITY:
        kind = f"mobility message {packet.payload[2]}"
    elif packet.protocol == ICMPV6:
        kind = f"ICMPv6 {packet.payload[0]}"
    elif packet.protocol == ENCAPSULATED_IPV6:
        kind = f"tunnel with {describe(open_packet(packet.payload, packet.at))}"
    also = f", home address {packet.home_address}" if packet.home_address else ""
    also += f", routed to {packet.routed_to}" if packet.routed_to else ""
    return f"{packet.source} > {packet.destination} {kind}{also}"


class Watch:
    """All posts, one judge."""

    def __init__(self, posts: Mapping[str, Post], judge: Judge) -> None:
        """``posts`` by link."""
        self._posts = posts
        self._judge = judge
        self._shown: Counter[tuple[str, str]] = Counter()
        self._frames = 0
        self._next_report = 0.0

    def run(self) -> None:
        """Judge until standard input ends, and then what is still there."""
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            for post in self._posts.values():
                selector.register(post.socket, selectors.EVENT_READ, post)
            going = True
            while going:
                going = all(key.data is not None for key, _ in selector.select())
                self._take()
                if time.monotonic() >= self._next_report:
                    self._next_report = time.monotonic() + REPORT_INTERVAL
                    self._report("judged")
        self._report("finished", dropped=sum(post.drops() for post in self._posts.values()))

    def _take(self) -> None:
        # In the order of the kernel's timestamps: a cause on one link comes before its effect on
        # another.
        arrived = sorted(
            (seconds + nanoseconds / 1e9, link, frame)
            for link, post in self._posts.items()
            for frame, seconds, nanoseconds in post.arrivals(HEAD)
        )
        for at, link, frame in arrived:
            self._frames += 1
            self._record(link, frame, at)
            for violation in self._judge.judge(link, frame, at):
                self._shown[violation.rule, link] += 1
                if self._shown[violation.rule, link] <= MAX_SHOWN:
                    _say("violation", **asdict(violation))

    def _record(self, link: str, frame: bytes, at: float) -> None:
        with contextlib.suppress(IndexError, ValueError):
            if int.from_bytes(frame[12:14], "big") == ETHERTYPE_IPV6 and len(frame) < HEAD:
                packet = open_packet(frame[ETHERNET_HEADER:], at)
                if self._judge.is_signalling(packet):
                    _say("signalling", link=link, at=at, packet=frame[ETHERNET_HEADER:].hex())

    def _report(self, kind: str, **more: Any) -> None:
        counts = {f"{rule} ({link})": count for (rule, link), count in self._shown.items()}
        _say(
            kind,
            frames=self._frames,
            rules=dict(self._judge.judged),
            violations=counts,
            neighbour_discovery=self._judge.neighbour_discovery,
            **more,
        )


def _say(kind: str, **details: Any) -> None:
    print(json.dumps({"kind": kind, **details}), flush=True)


def main(arguments: Iterable[str]) -> int:
    """The program; see the module's docstring."""
    orders, *places = arguments
    posts = {}
    for place in places:
        namespace, interface, link = place.split(":")
        posts[link] = Post(namespace, interface)
    watch = Watch(posts, Judge(Orders(**json.loads(orders))))
    _say("ready")
    with contextlib.suppress(KeyboardInterrupt):
        watch.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
