"""A home agent's own Router Advertisements (RFC 6275 7, RFC 4861 6.2).

    silent --link-local address known--> initial (MAX_INITIAL_RTR_ADVERTISEMENTS, 16 s apart at
                                         most) --> periodic, at random within the interval
    solicited: within MAX_RA_DELAY_TIME, and multicast ones not closer than MIN_DELAY_BETWEEN_RAS
    stopped:   once more, without the H bit and with a Router Lifetime of 0

For the home link that has no other daemon to do this. Where radvd or systemd-networkd advertise on
the same interface, this stays off: two advertisements from one link-local address that differ would
make hosts, and other home agents' lists, change their minds with each.

The last advertisement has no H bit rather than a Home Agent Lifetime of 0, which must not be sent
(7.4); either makes the others delete us from their lists (10.5.1).
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Final

from mnagent.core.actions import Action, JoinGroup, LeaveGroup, SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.core.prefix_lifetime import TWO_HOURS
from mnagent.core.timers import Timers
from mnagent.mobility.addresses import (
    ALL_NODES,
    NEIGHBOR_DISCOVERY_HOP_LIMIT,
    UNSPECIFIED_ADDRESS,
)
from mnagent.mobility.constants import MIN_DELAY_BETWEEN_RAS
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import (
    AdvertisementInterval,
    HomeAgentInformation,
    NdOption,
    PrefixInformation,
    RouterAdvertisement,
    RouterSolicitation,
    SourceLinkLayerAddress,
)

ALL_ROUTERS: Final = IPv6Address("ff02::2")
MAX_INITIAL_RTR_ADVERTISEMENTS: Final = 3
MAX_INITIAL_RTR_ADVERT_INTERVAL: Final = 16.0
MAX_RA_DELAY_TIME: Final = 0.5
"""Seconds (RFC 4861 10)."""
LIFETIME_INTERVALS: Final = 3
"""AdvDefaultLifetime, and the Home Agent Lifetime, in intervals (RFC 4861 6.2.1)."""
MAX_ROUTER_LIFETIME: Final = 9000
SHORT_INTERVAL: Final = 0.2
"""Seconds; below it the Advertisement Interval option says more, for the timers' grain (7.5)."""
INTERVAL_SLACK: Final = 0.02
VALID_LIFETIME: Final = 2_592_000.0
PREFERRED_LIFETIME: Final = 604_800.0
"""Seconds; AdvValidLifetime and AdvPreferredLifetime (RFC 4861 6.2.1)."""


class _Timer(enum.Enum):
    PERIODIC = enum.auto()
    SOLICITED = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvertisedPrefix:
    """A prefix of the home link, and how long it lasts."""

    prefix: IPv6Network
    valid_lifetime: float = VALID_LIFETIME
    preferred_lifetime: float = PREFERRED_LIFETIME


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvertiserSettings:
    """What a home agent says of itself."""

    address: IPv6Address
    """Global; sent in the option of its prefix with the R bit."""
    prefixes: tuple[AdvertisedPrefix, ...]
    home_link: int
    """Interface index."""
    link_layer_address: bytes
    preference: int = 0
    max_interval: float = 10.0
    """Seconds; MaxRtrAdvInterval."""
    is_default_router: bool = False


class HomeAgentAdvertiser:
    """Advertises on one link, from the moment its link-local address is known."""

    def __init__(self, settings: AdvertiserSettings, *, random: Random) -> None:
        self.drops: Counter[DropReason] = Counter()
        self._settings = settings
        self._random = random
        self._timers: Timers[_Timer] = Timers()
        self._retired: dict[IPv6Network, float] = {}
        """Prefixes that were, and the instants at which they end."""
        self._link_local: IPv6Address | None = None
        self._initial_left = 0
        self._multicast_at = -math.inf

    @property
    def is_advertising(self) -> bool:
        return self._link_local is not None

    def use_prefixes(self, prefixes: tuple[AdvertisedPrefix, ...], now: float) -> None:
        """Say other prefixes, soon: as on an interface that begins to advertise (6.2.4).

        Of those that are no longer among them it is said for two hours that they are deprecated:
        hosts let none end earlier (RFC 4862 5.5.3).
        """
        wanted = {each.prefix for each in prefixes}
        former = {each.prefix: now + TWO_HOURS for each in self._settings.prefixes}
        retired = former | self._retired
        self._retired = {
            prefix: until
            for prefix, until in retired.items()
            if until > now and prefix not in wanted
        }
        self._settings = replace(self._settings, prefixes=prefixes)
        if self._link_local is not None:
            self._begin(now)

    def start(self, link_local: IPv6Address, now: float) -> list[Action]:
        """The home link is up, and this is our address on it; again is no error."""
        if link_local == self._link_local:
            return []
        self._link_local = link_local
        self._begin(now)
        return [JoinGroup(interface=self._settings.home_link, group=ALL_ROUTERS)]

    def pause(self) -> None:
        """The home link went down."""
        self._link_local = None
        self._timers.clear()

    def stop(self, now: float) -> list[Action]:
        """Cease to advertise (RFC 4861 6.2.5)."""
        if self._link_local is None:
            return []
        last = self._send(ALL_NODES, now, is_last=True)
        self.pause()
        return [last, LeaveGroup(interface=self._settings.home_link, group=ALL_ROUTERS)]

    def handle(self, event: PacketReceived, now: float) -> list[Action]:
        """A Router Solicitation (RFC 4861 6.1.1, 6.2.6)."""
        packet = event.packet
        solicitation = packet.payload
        assert isinstance(solicitation, RouterSolicitation)
        has_source = any(isinstance(each, SourceLinkLayerAddress) for each in solicitation.options)
        if self._link_local is None or event.interface != self._settings.home_link:
            self.drops[DropReason.UNEXPECTED_MESSAGE] += 1
        elif packet.source == UNSPECIFIED_ADDRESS and has_source:
            self.drops[DropReason.MALFORMED] += 1
        elif _Timer.SOLICITED not in self._timers:
            # One multicast answers all that asked meanwhile, and anybody may ask at any rate.
            asked = now + self._random.uniform(0, MAX_RA_DELAY_TIME)
            self._timers.set(
                _Timer.SOLICITED, max(asked, self._multicast_at + self._least_distance)
            )
        return []

    def handle_timer(self, now: float) -> list[Action]:
        if not list(self._timers.due(now)):
            return []
        self._multicast_at = now
        self._initial_left = max(0, self._initial_left - 1)
        self._timers.cancel(_Timer.SOLICITED)
        self._timers.set(_Timer.PERIODIC, now + self._next_interval())
        return [self._send(ALL_NODES, now)]

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    # When.

    def _begin(self, now: float) -> None:
        self._initial_left = MAX_INITIAL_RTR_ADVERTISEMENTS
        self._timers.set(_Timer.PERIODIC, max(now, self._multicast_at + self._least_distance))

    @property
    def _least_distance(self) -> float:
        """MinDelayBetweenRAs follows the interval down where that is configured (7.5, 13)."""
        return min(MIN_DELAY_BETWEEN_RAS, self._least_interval)

    @property
    def _least_interval(self) -> float:
        """MinRtrAdvInterval (RFC 4861 6.2.1), and 0.03 for the least of 0.07 (RFC 6275 7.5)."""
        longest = self._settings.max_interval
        return longest * (0.33 if longest >= 9.0 else 0.75 if longest >= 4.0 else 3 / 7)

    def _next_interval(self) -> float:
        longest = self._settings.max_interval
        if self._initial_left > 0:
            longest = min(longest, MAX_INITIAL_RTR_ADVERT_INTERVAL)
        return self._random.uniform(min(self._least_interval, longest), longest)

    # What.

    def _send(self, destination: IPv6Address, now: float, *, is_last: bool = False) -> SendPacket:
        assert self._link_local is not None
        lifetime = 0 if is_last or not self._settings.is_default_router else self._lifetime
        advertisement = RouterAdvertisement(
            home_agent=not is_last,
            router_lifetime=lifetime,
            options=self._options(lifetime, now, is_last=is_last),
        )
        packet = IPv6Packet(
            self._link_local, destination, advertisement, hop_limit=NEIGHBOR_DISCOVERY_HOP_LIMIT
        )
        return SendPacket(packet=packet, interface=self._settings.home_link)

    @property
    def _lifetime(self) -> int:
        """At least a second, whatever the interval (RFC 6275 7.5)."""
        lifetime = math.ceil(self._settings.max_interval * LIFETIME_INTERVALS)
        return min(lifetime, MAX_ROUTER_LIFETIME)

    def _options(self, router_lifetime: int, now: float, *, is_last: bool) -> tuple[NdOption, ...]:
        settings = self._settings
        options: list[NdOption] = [SourceLinkLayerAddress(settings.link_layer_address)]
        options += [self._prefix_option(each) for each in (*settings.prefixes, *self._last(now))]
        interval = settings.max_interval
        if interval < SHORT_INTERVAL:
            interval += INTERVAL_SLACK
        options.append(AdvertisementInterval(interval))
        # Left out where both of its fields are at their defaults (7.4).
        if not is_last and (settings.preference or router_lifetime != self._lifetime):
            options.append(HomeAgentInformation(settings.preference, self._lifetime))
        return tuple(options)

    def _last(self, now: float) -> list[AdvertisedPrefix]:
        """Those that were, as long as they are."""
        return [
            AdvertisedPrefix(prefix=prefix, valid_lifetime=until - now, preferred_lifetime=0.0)
            for prefix, until in self._retired.items()
            if until > now
        ]

    def _prefix_option(self, prefix: AdvertisedPrefix) -> PrefixInformation:
        is_ours = self._settings.address in prefix.prefix
        return PrefixInformation(
            address=self._settings.address if is_ours else prefix.prefix.network_address,
            prefix_length=prefix.prefix.prefixlen,
            router_address=is_ours,
            valid_lifetime=prefix.valid_lifetime,
            preferred_lifetime=prefix.preferred_lifetime,
        )
