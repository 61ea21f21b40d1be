"""Which way each flow went, from the captures alone: through the home agent or directly.

A packet is recognised wherever it passes, in a tunnel, under ESP, with or without a Home Address
option or type 2 routing header, by what its upper layers see: both addresses and the payload. So
where it was sent, when it arrived and whether it visited the home agent is known of each single
packet, and round trips need no help from applications.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from statistics import median
from typing import Any

from mnagent.rig.capture import CapturedFrame
from mnagent.rig.checks import (
    ENCAPSULATED_IPV6,
    ICMPV6,
    MOBILITY,
    Check,
    OuterPacket,
    open_packet,
    outer_packets,
)
from mnagent.rig.keyfile import Association, decrypt
from mnagent.rig.roaming import DATAGRAM_PORT, INCOMING_PORT, OUTGOING_PORT

TCP, UDP = 6, 17
ECHO_REQUEST, ECHO_REPLY = 128, 129
IN_FLIGHT = 0.2
"""Seconds after which nothing sent before a switch is on its way any more."""
TUNNEL_PURPOSES = ("payload", "return_routability")

PING, OUTGOING, INCOMING, DATAGRAMS = "ping", "outgoing-tcp", "incoming-tcp", "udp"
FLOWS = (OUTGOING, INCOMING, PING, DATAGRAMS)
HOME_TEST_INIT, CARE_OF_TEST_INIT = "home-test-init", "care-of-test-init"
HOME_TEST, CARE_OF_TEST = "home-test", "care-of-test"
BINDING_UPDATE, BINDING_ACKNOWLEDGEMENT = "binding-update", "binding-acknowledgement"
MESSAGES = (
    "binding-refresh-request",
    HOME_TEST_INIT,
    CARE_OF_TEST_INIT,
    HOME_TEST,
    CARE_OF_TEST,
    BINDING_UPDATE,
    BINDING_ACKNOWLEDGEMENT,
    "binding-error",
)
"""Mobility messages by their type."""


class Route(enum.Enum):
    """How a packet travelled on one link."""

    PLAIN = "plain"
    TUNNEL = "tunnel"
    PROTECTED_TUNNEL = "tunnel under ESP"
    DIRECT = "direct"
    """With a Home Address option, a type 2 routing header, or both."""

    @property
    def is_tunnel(self) -> bool:
        return self in (Route.TUNNEL, Route.PROTECTED_TUNNEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A packet of a flow, or a mobility message, as it passed a link."""

    at: float
    """Seconds on CLOCK_REALTIME."""
    what: str
    """One of `FLOWS` or of `MESSAGES`."""
    source: IPv6Address
    """As its upper layers see it; so is the destination."""
    destination: IPv6Address
    outer_source: IPv6Address
    outer_destination: IPv6Address
    route: Route
    identity: int
    """The same wherever this packet passes."""


def observe(
    frames: Iterable[CapturedFrame], associations: Sequence[Association] = ()
) -> list[Observation]:
    """What of all this a capture holds."""
    keys = {item.spi: item for item in associations if item.purpose in TUNNEL_PURPOSES}
    return [found for outer in outer_packets(frames) for found in _observe_one(outer, keys)]


def _observe_one(outer: OuterPacket, keys: Mapping[int, Association]) -> Iterator[Observation]:
    route = Route.DIRECT if outer.is_direct else Route.PLAIN
    packet = outer
    association = None if outer.spi is None else keys.get(outer.spi)
    if outer.protocol == ENCAPSULATED_IPV6:
        route, packet = Route.TUNNEL, open_packet(outer.payload, outer.at)
    elif association is not None:
        route = Route.PROTECTED_TUNNEL
        packet = open_packet(decrypt(association, outer.payload), outer.at)
    what = _kind(packet)
    if what is not None:
        source, destination = packet.logical_source, packet.logical_destination
        yield Observation(
            at=outer.at,
            what=what,
            source=source,
            destination=destination,
            outer_source=outer.source,
            outer_destination=outer.destination,
            route=route,
            identity=hash((source, destination, packet.protocol, packet.payload)),
        )


def _kind(packet: OuterPacket) -> str | None:
    payload = packet.payload
    match packet.protocol:
        case 6 | 17:
            ports = {int.from_bytes(payload[0:2], "big"), int.from_bytes(payload[2:4], "big")}
            names = {OUTGOING_PORT: OUTGOING, INCOMING_PORT: INCOMING, DATAGRAM_PORT: DATAGRAMS}
            return next((name for port, name in names.items() if port in ports), None)
        case int(protocol) if protocol == ICMPV6:
            return PING if payload[0] in (ECHO_REQUEST, ECHO_REPLY) else None
        case int(protocol) if protocol == MOBILITY:
            return MESSAGES[payload[2]] if payload[2] < len(MESSAGES) else None
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """The mobile node's time on one foreign link, in seconds on CLOCK_REALTIME."""

    link: str
    prefix: IPv6Network
    begin: float
    """Link up."""
    end: float
    """Link down."""

    def __contains__(self, instant: float) -> bool:
        return self.begin <= instant < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What was seen at the places that matter."""

    node: IPv6Address
    """The mobile node's home address."""
    peer: IPv6Address
    links: Mapping[str, list[Observation]]
    """On the foreign links."""
    at_peer: list[Observation]
    """On the correspondent's link."""
    at_home_agent: list[Observation]
    """On the way to the home agent."""

    def between(self, observations: Iterable[Observation]) -> Iterator[tuple[bool, Observation]]:
        """Those of the two, each with whether the mobile node sent it."""
        for item in observations:
            if (item.source, item.destination) == (self.node, self.peer):
                yield True, item
            elif (item.source, item.destination) == (self.peer, self.node):
                yield False, item


@dataclass(slots=True)
class _Delays:
    """Seconds on the way, by direction (True: the node's) and whether directly."""

    samples: defaultdict[tuple[bool, bool], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, other: _Delays) -> None:
        for key, values in other.samples.items():
            self.samples[key] += values

    def round_trip(self, *, direct: bool) -> float | None:
        """Milliseconds there and back, or None when one of the ways was never gone."""
        there, back = self.samples[True, direct], self.samples[False, direct]
        return round((median(there) + median(back)) * 1000, 1) if there and back else None


@dataclass(slots=True, kw_only=True)
class FlowStay:
    """One flow during one stay."""

    link: str
    is_direct: bool
    """In the end, both ways."""
    began_in_tunnel: bool
    tunnelled_out: int
    """Packets of the node through the tunnel; so on."""
    direct_out: int
    direct_in: int
    at_home_agent_after_switch: int | None
    """Packets; None without a switch."""
    delays: _Delays = field(default_factory=_Delays, repr=False)

    def as_record(self) -> dict[str, Any]:
        """For the JSON report."""
        return {
            "link": self.link,
            "path": _path(self.is_direct),
            "rtt_via_home_agent_ms": self.delays.round_trip(direct=False),
            "rtt_direct_ms": self.delays.round_trip(direct=True),
            "packets_at_home_agent_after_switch": self.at_home_agent_after_switch,
            "packets_tunnelled_out": self.tunnelled_out,
            "packets_direct_out": self.direct_out,
            "packets_direct_in": self.direct_in,
        }


@dataclass(slots=True, kw_only=True)
class Flow:
    """One flow over all stays."""

    name: str
    stays: list[FlowStay]
    round_trip_via_home_agent: float | None
    """Milliseconds."""
    round_trip_direct: float | None

    @property
    def path(self) -> str:
        """``direct`` when it ended so on every foreign link, else ``home-agent``."""
        return _path(bool(self.stays) and all(stay.is_direct for stay in self.stays))

    @property
    def at_home_agent_after_switch(self) -> int | None:
        """Packets, None when it was never switched."""
        counts = [
            stay.at_home_agent_after_switch
            for stay in self.stays
            if stay.at_home_agent_after_switch is not None
        ]
        return sum(counts) if counts else None

    def as_record(self) -> dict[str, Any]:
        """For the JSON report."""
        return {
            "flow": self.name,
            "path": self.path,
            "rtt_via_home_agent_ms": self.round_trip_via_home_agent,
            "rtt_direct_ms": self.round_trip_direct,
            "packets_at_home_agent_after_switch": self.at_home_agent_after_switch,
            "stays": [stay.as_record() for stay in self.stays],
        }


def _path(is_direct: bool) -> str:
    return "direct" if is_direct else "home-agent"


def follow(places: Places, stays: Sequence[Stay], names: Sequence[str] = FLOWS) -> list[Flow]:
    """What became of each flow."""
    found: dict[str, list[FlowStay]] = {name: [] for name in names}
    for stay in stays:
        view = _StayView(places, stay)
        for name in names:
            found[name].append(view.flow(name))
    flows = []
    for name, parts in found.items():
        delays = _Delays()
        for part in parts:
            delays.add(part.delays)
        flows.append(
            Flow(
                name=name,
                stays=parts,
                round_trip_via_home_agent=delays.round_trip(direct=False),
                round_trip_direct=delays.round_trip(direct=True),
            )
        )
    return flows


class _StayView:
    """All packets of one stay: those the mobile node sent there, and those sent to it then."""

    def __init__(self, places: Places, stay: Stay) -> None:
        self._stay = stay
        on_link, at_peer = places.links[stay.link], places.at_peer
        self._sent = {
            outbound: _first(
                item
                for is_out, item in places.between(on_link if outbound else at_peer)
                if is_out == outbound and item.what in FLOWS and self._is_of_stay(is_out, item)
            )
            for outbound in (True, False)
        }
        self._arrived = {
            outbound: _first(
                item
                for is_out, item in places.between(at_peer if outbound else on_link)
                if is_out == outbound
            )
            for outbound in (True, False)
        }
        self._switched_at = {outbound: self._find_switch(outbound) for outbound in (True, False)}
        self._home = list(places.between(places.at_home_agent))

    def _is_of_stay(self, outbound: bool, item: Observation) -> bool:
        """What still left by the care-of address before, until the node knew of its move, is not:
        no router would pass it on."""
        return item.at in self._stay and (not outbound or item.outer_source in self._stay.prefix)

    def _find_switch(self, outbound: bool) -> float | None:
        """When the first packet went directly to or from this link."""
        return min(
            (
                item.at
                for item in self._sent[outbound].values()
                if item.route is Route.DIRECT
                and (outbound or item.outer_destination in self._stay.prefix)
            ),
            default=None,
        )

    def flow(self, name: str) -> FlowStay:
        """One flow of the stay."""
        sent = {
            outbound: [item for item in self._sent[outbound].values() if item.what == name]
            for outbound in (True, False)
        }
        routes = {outbound: Counter(item.route for item in sent[outbound]) for outbound in sent}
        tunnelled = sum(count for route, count in routes[True].items() if route.is_tunnel)
        return FlowStay(
            link=self._stay.link,
            is_direct=all(items and items[-1].route is Route.DIRECT for items in sent.values()),
            began_in_tunnel=bool(sent[True]) and sent[True][0].route.is_tunnel,
            tunnelled_out=tunnelled,
            direct_out=routes[True][Route.DIRECT],
            direct_in=sum(item.outer_destination in self._stay.prefix for item in sent[False]),
            at_home_agent_after_switch=self._count_at_home_agent(name),
            delays=self._measure(sent),
        )

    def _count_at_home_agent(self, name: str) -> int | None:
        if None in self._switched_at.values():
            return None
        seen = {
            item.identity
            for outbound, item in self._home
            if item.what == name and self._is_late(outbound, item)
        }
        return len(seen)

    def _is_late(self, outbound: bool, item: Observation) -> bool:
        """Whether it was sent after the switch of its direction."""
        switched_at = self._switched_at[outbound]
        assert switched_at is not None
        sent = self._sent[outbound].get(item.identity)
        if sent is not None:
            return sent.at > switched_at
        return item.at in self._stay and item.at > switched_at + IN_FLIGHT

    def _measure(self, sent: Mapping[bool, list[Observation]]) -> _Delays:
        delays = _Delays()
        for outbound, items in sent.items():
            for item in items:
                arrival = self._arrived[outbound].get(item.identity)
                if arrival is not None:
                    delay = arrival.at - item.at
                    delays.samples[outbound, item.route is Route.DIRECT].append(delay)
        return delays


def _first(items: Iterable[Observation]) -> dict[int, Observation]:
    """By identity; of packets repeated without any difference the first."""
    found: dict[int, Observation] = {}
    for item in items:
        found.setdefault(item.identity, item)
    return found


def check_flows(flows: Sequence[Flow]) -> list[Check]:
    """What must be true of optimized flows."""
    stays = [(flow, stay) for flow in flows for stay in flow.stays]
    checks = [
        _all(
            "every flow began in the tunnel and went direct, on each foreign link",
            [
                f"{flow.name} on {stay.link}"
                for flow, stay in stays
                if not (stay.is_direct and stay.began_in_tunnel)
            ],
        ),
        _all(
            "no payload packet visited the home agent after the switch",
            [
                f"{flow.name} on {stay.link}: {stay.at_home_agent_after_switch}"
                for flow, stay in stays
                if stay.at_home_agent_after_switch != 0
            ],
        ),
        _all(
            "on each foreign link packets left with a Home Address option and came with a type 2"
            " routing header",
            [
                f"{flow.name} on {stay.link}: {stay.direct_out} and {stay.direct_in}"
                for flow, stay in stays
                if not (stay.direct_out and stay.direct_in)
            ],
        ),
    ]
    slower = [
        f"{flow.name}: {flow.round_trip_direct} ms directly,"
        f" {flow.round_trip_via_home_agent} ms by the home agent"
        for flow in flows
        if flow.round_trip_direct is None
        or flow.round_trip_via_home_agent is None
        or flow.round_trip_direct >= flow.round_trip_via_home_agent
    ]
    return [*checks, _all("the direct path had the shorter round trip for every flow", slower)]


def check_tests(places: Places, stays: Sequence[Stay], *, protected: bool) -> list[Check]:
    """Return routability on the foreign links: home tests in the tunnel, the rest outside it."""
    messages = [
        (stay.link, item)
        for stay in stays
        for item in places.links[stay.link]
        if item.what in MESSAGES and item.at in stay
    ]
    wanted = Route.PROTECTED_TUNNEL if protected else Route.TUNNEL
    tunnel = "the tunnel under ESP" if protected else "the tunnel"
    home = [(link, item) for link, item in messages if item.what in (HOME_TEST_INIT, HOME_TEST)]
    counts = Counter(item.what for _, item in home)
    astray = [f"{item.what} {item.route.value} on {link}" for link, item in home]
    wrong = [text for text, (_, item) in zip(astray, home, strict=True) if item.route != wanted]
    others = [
        f"{item.what} {item.route.value} on {link}"
        for link, item in messages
        if item.what in (CARE_OF_TEST_INIT, CARE_OF_TEST) and item.route is not Route.PLAIN
    ]
    return [
        Check(
            f"Home Tests and their Inits went through {tunnel}, and nowhere else",
            counts[HOME_TEST_INIT] > 0 and counts[HOME_TEST] > 0 and not wrong,
            ", ".join(wrong) or f"{counts[HOME_TEST_INIT]} and {counts[HOME_TEST]}",
        ),
        _all("Care-of Tests and their Inits went without option, routing header or tunnel", others),
    ]


def check_never(places: Places, stays: Sequence[Stay]) -> list[Check]:
    """What the captures must show under the policy that everything visits the home agent."""
    everywhere = [*(item for link in places.links.values() for item in link), *places.at_peer]
    direct = Counter(item.what for item in everywhere if item.route is Route.DIRECT)
    messages = Counter(item.what for item in everywhere if item.what in MESSAGES)
    visited = {item.identity for _, item in places.between(places.at_home_agent)}
    at_peer = [item for _, item in places.between(places.at_peer) if item.what in FLOWS]
    away = [item for item in at_peer if any(item.at in stay for stay in stays)]
    missed = Counter(item.what for item in away if item.identity not in visited)
    return [
        _all("no packet went directly", [f"{name}: {count}" for name, count in direct.items()]),
        _all(
            "no test and no Binding Update was sent to the correspondent",
            [f"{name}: {count}" for name, count in messages.items()],
        ),
        Check(
            "every packet between node and correspondent visited the home agent",
            bool(away) and not missed,
            ", ".join(f"{name}: {count} did not" for name, count in missed.items())
            or f"all {len(away)}",
        ),
    ]


def _all(claim: str, exceptions: Sequence[str]) -> Check:
    return Check(claim, not exceptions, ", ".join(exceptions))
