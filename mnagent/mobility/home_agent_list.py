"""The Home Agents List of a home link, and answers out of it (RFC 6275 10.1, 10.5).

Every home agent advertises itself in Router Advertisements with the H bit. What they say of
themselves is kept here by the link-local address they come from, until they take it back or it
lapses:

    preference  Home Agent Information option, else 0
    lifetime    Home Agent Information option, else the Router Lifetime; 0 deletes at once
    addresses   Prefix Information options with the R bit, each as long as its prefix is valid

Mobile nodes that look for a home agent ask the home link's anycast address, and are told the list
and ourselves, the most preferred first. The request is not authenticated, and neither is the answer
(RFC 3776 has no policy for them): it holds nothing that the home link does not tell everybody, no
more than fits into 1280 octets, and is sent at a bounded rate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Final

from mnagent.core.actions import ReportEvent, SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.mobility.addresses import home_agents_anycast, is_routable_unicast, is_unicast
from mnagent.mobility.binding_error import TokenBucket
from mnagent.mobility.constants import MAX_DISCOVERED_HOME_AGENTS
from mnagent.wire.icmp6 import HomeAgentAddressDiscoveryReply, HomeAgentAddressDiscoveryRequest
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import HomeAgentInformation, PrefixInformation, RouterAdvertisement

MAX_LISTED_HOME_AGENTS: Final = 256
"""What comes when so many are listed is not listed, whatever its preference: whoever may advertise
on the home link could otherwise push the good ones out."""
MAX_LISTED_ADDRESSES: Final = 8
"""Of one home agent."""
DISCOVERY_REPLY_RATE: Final = 10.0
"""Replies a second, in the long run."""
DISCOVERY_REPLY_BURST: Final = 20.0


@dataclass(slots=True)
class ListedHomeAgent:
    """Another home agent of the home link."""

    link_local: IPv6Address
    preference: int = 0
    expires_at: float = math.inf
    addresses: dict[IPv6Address, float] = field(default_factory=dict)
    """Global addresses, each with the instant at which its prefix ceases to be valid."""

    def expire(self, now: float) -> None:
        """Forget the addresses whose prefix is not valid any more."""
        self.addresses = {each: until for each, until in self.addresses.items() if until > now}

    def deadline(self) -> float:
        """When something of it lapses."""
        return min((self.expires_at, *self.addresses.values()))


class HomeAgentList:
    """Listens to the other home agents of one home link, and answers mobile nodes."""

    def __init__(
        self,
        *,
        address: IPv6Address,
        home_prefixes: Iterable[IPv6Network],
        preference: int = 0,
        home_link: int | None = None,
        random: Random,
    ) -> None:
        """Ourselves: global ``address`` and ``preference``. Without a ``home_link`` (interface
        index) there are no others."""
        self.drops: Counter[DropReason] = Counter()
        self.replies = 0
        """Discovery requests answered."""
        self._address = address
        self._preference = preference
        self._home_link = home_link
        self._random = random
        self._known: dict[IPv6Address, ListedHomeAgent] = {}
        self._bucket = TokenBucket(rate=DISCOVERY_REPLY_RATE, burst=DISCOVERY_REPLY_BURST)
        self.anycast_addresses = frozenset(home_agents_anycast(each) for each in home_prefixes)
        """Where mobile nodes ask."""

    @property
    def entries(self) -> tuple[ListedHomeAgent, ...]:
        """The others, as they were heard first."""
        return tuple(self._known.values())

    def use_prefixes(self, home_prefixes: Iterable[IPv6Network]) -> frozenset[IPv6Address]:
        """Be asked in these home prefixes too; returns the anycast addresses that are new. Mobile
        nodes that were away when a prefix ended still ask in that one."""
        new = frozenset(map(home_agents_anycast, home_prefixes)) - self.anycast_addresses
        self.anycast_addresses |= new
        return new

    def handle(self, event: PacketReceived, now: float) -> list[SendPacket | ReportEvent]:
        """A Router Advertisement, or a Home Agent Address Discovery Request."""
        self._expire(now)
        payload = event.packet.payload
        if isinstance(payload, RouterAdvertisement):
            return self._on_advertisement(event, payload, now)
        assert isinstance(payload, HomeAgentAddressDiscoveryRequest)
        return self._on_request(event, payload, now)

    def handle_timer(self, now: float) -> list[ReportEvent]:
        return self._expire(now)

    def next_deadline(self) -> float | None:
        deadline = min((each.deadline() for each in self._known.values()), default=math.inf)
        return None if math.isinf(deadline) else deadline

    def addresses(self) -> tuple[IPv6Address, ...]:
        """All of them and our own, in the order of a reply: by preference, at random where that is
        equal, and no more than fit."""
        ranked = [(self._preference, [self._address])]
        ranked += [(each.preference, list(each.addresses)) for each in self._known.values()]
        self._random.shuffle(ranked)
        ranked.sort(key=lambda one: -one[0])
        ordered: dict[IPv6Address, None] = {}
        for _, addresses in ranked:
            self._random.shuffle(addresses)
            ordered |= dict.fromkeys(addresses)
        return tuple(ordered)[:MAX_DISCOVERED_HOME_AGENTS]

    def others(self) -> tuple[IPv6Address, ...]:
        """The same without our own."""
        return tuple(each for each in self.addresses() if each != self._address)

    # Router Advertisements.

    def _on_advertisement(
        self, event: PacketReceived, advertisement: RouterAdvertisement, now: float
    ) -> list[SendPacket | ReportEvent]:
        sender = event.packet.source
        if event.interface != self._home_link:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        if not sender.is_link_local:
            return self._drop(DropReason.NOT_LINK_LOCAL)
        information = next(
            (each for each in advertisement.options if isinstance(each, HomeAgentInformation)), None
        )
        lifetime = advertisement.router_lifetime if information is None else information.lifetime
        if not advertisement.home_agent or lifetime == 0:
            listed = self._known.pop(sender, None)
            return [] if listed is None else [_report("home-agent-unlisted", listed)]
        entry = self._known.get(sender)
        is_new = entry is None
        if entry is None:
            if len(self._known) >= MAX_LISTED_HOME_AGENTS:
                return self._drop(DropReason.CACHE_FULL)
            entry = self._known[sender] = ListedHomeAgent(sender)
        entry.preference = 0 if information is None else information.preference
        entry.expires_at = now + lifetime
        self._learn_addresses(entry, advertisement, now)
        return [_report("home-agent-listed", entry)] if is_new else []

    def _learn_addresses(
        self, entry: ListedHomeAgent, advertisement: RouterAdvertisement, now: float
    ) -> None:
        for option in advertisement.options:
            if not isinstance(option, PrefixInformation) or not option.router_address:
                continue
            address = option.address
            # A daemon that was told the prefix alone sends that: the subnet-router anycast address.
            is_whole = address != option.prefix.network_address
            if not (is_whole and is_routable_unicast(address)) or address == self._address:
                continue
            is_known = address in entry.addresses
            if is_known or len(entry.addresses) < MAX_LISTED_ADDRESSES:
                entry.addresses[address] = now + option.valid_lifetime
        entry.expire(now)

    def _expire(self, now: float) -> list[ReportEvent]:
        reports: list[ReportEvent] = []
        for link_local, entry in list(self._known.items()):
            if entry.expires_at <= now:
                del self._known[link_local]
                reports.append(_report("home-agent-unlisted", entry))
            else:
                entry.expire(now)
        return reports

    # Requests.

    def _on_request(
        self, event: PacketReceived, request: HomeAgentAddressDiscoveryRequest, now: float
    ) -> list[SendPacket | ReportEvent]:
        packet = event.packet
        if packet.destination not in self.anycast_addresses:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        if not is_unicast(packet.source) or packet.source in self.anycast_addresses:
            return self._drop(DropReason.MULTICAST_SOURCE)
        if not self._bucket.take(now):
            return self._drop(DropReason.RATE_LIMITED)
        self.replies += 1
        reply = HomeAgentAddressDiscoveryReply(request.identifier, self.addresses())
        return [SendPacket(packet=IPv6Packet(self._address, packet.source, reply))]

    def _drop(self, reason: DropReason) -> list[SendPacket | ReportEvent]:
        self.drops[reason] += 1
        return []


def _report(name: str, entry: ListedHomeAgent) -> ReportEvent:
    details = (
        ("link_local", str(entry.link_local)),
        ("preference", str(entry.preference)),
        ("addresses", " ".join(str(address) for address in entry.addresses)),
    )
    return ReportEvent(name=name, details=details)
