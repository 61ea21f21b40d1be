"""Mobile prefix discovery: the home link's prefixes, told while away (RFC 6275 10.6, 11.4.2-3).

Mobile node (`PrefixDiscovery`). It asks once it is registered, when the home agent hints that it
should (status 1, or an advertisement nobody asked for), and when a prefix is about to end. A
solicitation goes again after INITIAL_SOLICIT_TIMER, then after twice as long each time, up to every
MAX_BINDACK_TIMEOUT, until an advertisement with exactly its identifier comes (11.8). Everything
else is discarded (11.4.3): the answer to what was not asked for is to ask, which is also how the
home agent learns that it was heard.

Home agent (`PrefixAdvertiser`), for each mobile node that has a binding:

    registered, changed --> scheduled --RAND_ADV_DELAY--> sent --solicited--> (nothing to do)
                                                          |  ^                      |
                                  PREFIX_ADV_TIMEOUT, then `--' twice as long,      |
                                  PREFIX_ADV_RETRIES times       MaxMobPfxAdvInterval: scheduled

Solicitations are answered right away, but no mobile node gets more than one message a second (6.8).

Both kinds of message are sent and taken under ESP only; the security policy sees to it.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from random import Random
from typing import Final

from mnagent.core.actions import Action, ReportEvent, SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.core.indications import Output
from mnagent.core.timers import Timers
from mnagent.mobility.binding_cache import BindingCacheEntry
from mnagent.mobility.constants import (
    INITIAL_SOLICIT_TIMER,
    MAX_BINDACK_TIMEOUT,
    MAX_MOB_PFX_ADV_INTERVAL,
    MIN_MOB_PFX_ADV_INTERVAL,
    PREFIX_ADV_RETRIES,
    PREFIX_ADV_TIMEOUT,
)
from mnagent.mobility.home_prefixes import HomePrefixes
from mnagent.mobility.home_registration import CareOf
from mnagent.wire.icmp6 import MobilePrefixAdvertisement, MobilePrefixSolicitation
from mnagent.wire.ipv6 import (
    DestinationOptions,
    HomeAddressOption,
    IPv6Packet,
    Type2RoutingHeader,
)
from mnagent.wire.ndisc import NdOption, PrefixInformation

ASK_FRACTION: Final = 0.9
"""Share of a prefix's lifetime after which the home agent is asked for a fresh one."""
MIN_ASK_INTERVAL: Final = 60.0
"""Least time, in seconds, between asking because of a lifetime and asking again."""
MIN_ADVERTISEMENT_INTERVAL: Final = 1.0
"""Seconds between two Mobile Prefix Advertisements to one mobile node (RFC 6275 6.8)."""


# The mobile node.


class _Timer(enum.Enum):
    SOLICIT = enum.auto()
    ASK = enum.auto()


class PrefixDiscovery:
    """The mobile node's end. ``prefixes`` is what it has learnt."""

    def __init__(self, home_agent_address: IPv6Address, *, random: Random) -> None:
        self.home_agent_address = home_agent_address
        """Whose advertisements count; follows the home registration."""
        self.prefixes = HomePrefixes()
        self.drops: Counter[DropReason] = Counter()
        self._random = random
        self._timers: Timers[_Timer] = Timers()
        self._home_address: IPv6Address | None = None
        self._care_of: CareOf | None = None
        self._identifier: int | None = None
        self._timeout = INITIAL_SOLICIT_TIMER
        self._has_answer = False

    @property
    def is_asking(self) -> bool:
        """Whether an answer is awaited."""
        return self._identifier is not None

    def registered(
        self, home_address: IPv6Address, care_of: CareOf, now: float, *, is_hinted: bool
    ) -> list[Output]:
        """The home agent tunnels for this home address: it can be asked, from ``care_of``.

        ``is_hinted`` is its word that it should be (RFC 6275 11.7.3, status 1).
        """
        has_moved = self._care_of is None or self._care_of.address != care_of.address
        self._home_address, self._care_of = home_address, care_of
        if is_hinted or not self._has_answer or (self.is_asking and has_moved):
            return self.ask(now)
        return []

    def suspend(self) -> None:
        """There is no way to the home agent now, or none is needed: at home, or without a link."""
        self._care_of = None
        self._identifier = None
        self._timers.cancel(_Timer.SOLICIT)

    def ask(self, now: float) -> list[Output]:
        """Solicit an advertisement; what was asked before is not waited for any more."""
        if self._care_of is None:
            return []
        self._timeout = INITIAL_SOLICIT_TIMER
        return self._solicit(now)

    def handle(self, event: PacketReceived, now: float) -> list[Output]:
        """A Mobile Prefix Advertisement that passed the security policy (RFC 6275 11.4.3)."""
        packet, message = event.packet, event.packet.payload
        assert isinstance(message, MobilePrefixAdvertisement)
        if event.protected_by is None:
            return self._drop(DropReason.NOT_PROTECTED)
        if packet.source != self.home_agent_address:
            return self._drop(DropReason.UNKNOWN_PEER)
        if packet.type2_routing_header is None:
            return self._drop(DropReason.NO_TYPE2_ROUTING_HEADER)
        if message.identifier != self._identifier:
            self._drop(DropReason.WRONG_PREFIX_IDENTIFIER)
            return [] if self.is_asking else self.ask(now)
        self._identifier = None
        self._has_answer = True
        self._timers.cancel(_Timer.SOLICIT)
        self.learn(message.options, now, is_authentic=True)
        details = (("prefixes", " ".join(str(p.prefix) for p in self.prefixes.current(now))),)
        return [ReportEvent(name="home-prefixes-received", details=details)]

    def learn(self, options: Iterable[NdOption], now: float, *, is_authentic: bool) -> None:
        """Take in an advertisement's options, of a home agent or of a router at home."""
        self.prefixes.learn(options, now, is_authentic=is_authentic)
        self._arm(now)

    def handle_timer(self, now: float) -> list[Output]:
        """Ask again, or ask because a prefix is about to end."""
        outputs: list[Output] = []
        for timer in self._timers.due(now):
            if timer is _Timer.ASK:
                self._arm(now)
                outputs += [] if self.is_asking else self.ask(now)
            else:
                self._timeout = min(self._timeout * 2, MAX_BINDACK_TIMEOUT)
                outputs += self._solicit(now)
        return outputs

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    def _arm(self, now: float) -> None:
        """Ask while a tenth of some lifetime is left (RFC 6275 11.4.2: about to become invalid)."""
        instants = [
            now + max(left * ASK_FRACTION, MIN_ASK_INTERVAL)
            for known in self.prefixes.current(now)
            for left in (known.preferred_lifetime(now), known.valid_lifetime(now))
            if MIN_ASK_INTERVAL < left < math.inf
        ]
        if instants:
            self._timers.set(_Timer.ASK, min(instants))
        else:
            self._timers.cancel(_Timer.ASK)

    def _solicit(self, now: float) -> list[Output]:
        assert self._care_of is not None and self._home_address is not None
        self._timers.set(_Timer.SOLICIT, now + self._timeout)
        # 0 is what unsolicited advertisements carry.
        self._identifier = self._random.randrange(1, 1 << 16)
        headers = (DestinationOptions((HomeAddressOption(self._home_address),)),)
        packet = IPv6Packet(
            self._care_of.address,
            self.home_agent_address,
            MobilePrefixSolicitation(self._identifier),
            extension_headers=headers,
        )
        return [SendPacket(packet=packet, interface=self._care_of.interface)]

    def _drop(self, reason: DropReason) -> list[Output]:
        self.drops[reason] += 1
        return []


# The home agent.


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixAdvertisingSettings:
    """RFC 6275 13; seconds. Raises `ValueError` for values that make no sense together."""

    home_agent_address: IPv6Address
    min_interval: float = MIN_MOB_PFX_ADV_INTERVAL
    """MinMobPfxAdvInterval."""
    max_interval: float = MAX_MOB_PFX_ADV_INTERVAL
    """MaxMobPfxAdvInterval."""

    def __post_init__(self) -> None:
        if not MIN_ADVERTISEMENT_INTERVAL <= self.min_interval <= self.max_interval:
            raise ValueError("prefix advertisement intervals: expected 1 s <= least <= most")


@dataclass(slots=True)
class _Recipient:
    """One mobile node with a binding."""

    entry: BindingCacheEntry
    sent_at: float = -math.inf
    scheduled_at: float | None = None
    """When the next unsolicited advertisement leaves."""
    retry_at: float | None = None
    """When an unacknowledged one leaves again."""
    retries: int = 0
    is_unacknowledged: bool = False
    question: tuple[int, IPv6Address] | None = None
    """Identifier and source of a solicitation that waits for its answer."""

    def deadline(self, max_interval: float) -> float:
        """When there is something to do."""
        if self.question is not None:
            return self.sent_at + MIN_ADVERTISEMENT_INTERVAL
        instants = [each for each in (self.scheduled_at, self.retry_at) if each is not None]
        return min(instants, default=self.sent_at + max_interval)


class PrefixAdvertiser:
    """The home agent's end, for all its mobile nodes."""

    def __init__(
        self,
        settings: PrefixAdvertisingSettings,
        prefixes: HomePrefixes,
        *,
        random: Random,
        drops: Counter[DropReason],
    ) -> None:
        """``drops`` counts what is not acted on."""
        self._settings = settings
        self._prefixes = prefixes
        self._random = random
        self._recipients: dict[IPv6Address, _Recipient] = {}
        self._timers: Timers[IPv6Address] = Timers()
        """Every recipient's deadline: there may be very many."""
        self._drops = drops

    def bound(self, entry: BindingCacheEntry, now: float) -> None:
        """A binding was made or renewed. What went unheard begins anew (RFC 6275 10.6.2)."""
        known = self._recipients.get(entry.home_address)
        if known is None:
            known = self._recipients[entry.home_address] = _Recipient(entry)
            self._schedule(known, now)
            self._arm(known)
            return
        known.entry = entry
        if known.is_unacknowledged and known.retry_at is None:
            self._schedule(known, now)
            self._arm(known)

    def unbound(self, home_address: IPv6Address) -> None:
        """A binding ended: nothing more is sent (RFC 6275 10.6.2)."""
        self._recipients.pop(home_address, None)
        self._timers.cancel(home_address)

    def changed(self, now: float) -> None:
        """The home link's prefixes are others, or have other lifetimes or flags."""
        for recipient in self._recipients.values():
            recipient.retry_at = None
            self._schedule(recipient, now)
            self._arm(recipient)

    def handle(self, event: PacketReceived, now: float) -> list[Action]:
        """A Mobile Prefix Solicitation that passed the security policy (RFC 6275 10.6.2)."""
        packet, message = event.packet, event.packet.payload
        assert isinstance(message, MobilePrefixSolicitation)
        if packet.home_address_option is None:
            return self._drop(DropReason.NO_HOME_ADDRESS_OPTION)
        if event.protected_by is None:
            return self._drop(DropReason.NOT_PROTECTED)
        recipient = self._recipients.get(packet.logical_source)
        if recipient is None:
            return self._drop(DropReason.NO_BINDING)
        recipient.is_unacknowledged = False
        recipient.scheduled_at = recipient.retry_at = None
        recipient.question = (message.identifier, packet.source)
        return self._run(recipient, now)

    def handle_timer(self, now: float) -> list[Action]:
        """Send what is due."""
        return [
            action
            for home_address in self._timers.due(now)
            for action in self._run(self._recipients[home_address], now)
        ]

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    def _arm(self, recipient: _Recipient) -> None:
        deadline = recipient.deadline(self._settings.max_interval)
        self._timers.set(recipient.entry.home_address, deadline)

    def _schedule(self, recipient: _Recipient, now: float) -> None:
        """RAND_ADV_DELAY; what is scheduled already stays, and says what is true by then."""
        if recipient.scheduled_at is not None:
            return
        home_address = recipient.entry.home_address
        known = [each for each in self._prefixes.current(now) if home_address in each.prefix]
        least = self._settings.min_interval
        most = min([self._settings.max_interval, *(p.preferred_lifetime(now) for p in known)])
        recipient.scheduled_at = now + least + self._random.uniform(0.0, abs(most - least))

    def _run(self, recipient: _Recipient, now: float) -> list[Action]:
        actions = self._advance(recipient, now)
        self._arm(recipient)
        return actions

    def _advance(self, recipient: _Recipient, now: float) -> list[Action]:
        if recipient.deadline(self._settings.max_interval) > now:
            return []
        if recipient.question is not None:
            identifier, destination = recipient.question
            recipient.question = None
            return [self._advertise(recipient, identifier, destination, now)]
        if recipient.scheduled_at is not None and recipient.scheduled_at <= now:
            recipient.scheduled_at, recipient.retries = None, 0
        elif recipient.retry_at is not None:
            recipient.retries += 1
        else:
            self._schedule(recipient, now)
            return []
        recipient.is_unacknowledged = True
        recipient.retry_at = None
        if recipient.retries < PREFIX_ADV_RETRIES:
            recipient.retry_at = now + PREFIX_ADV_TIMEOUT * 2**recipient.retries
        return [self._advertise(recipient, 0, recipient.entry.care_of_address, now)]

    def _advertise(
        self, recipient: _Recipient, identifier: int, destination: IPv6Address, now: float
    ) -> SendPacket:
        recipient.sent_at = now
        message = MobilePrefixAdvertisement(identifier, options=self._options(now))
        headers = (Type2RoutingHeader(recipient.entry.home_address),)
        source = self._settings.home_agent_address
        return SendPacket(
            packet=IPv6Packet(source, destination, message, extension_headers=headers)
        )

    def _options(self, now: float) -> tuple[PrefixInformation, ...]:
        """All prefixes; that of our own address carries the whole of it (RFC 6275 7.2)."""
        own = self._settings.home_agent_address
        return tuple(
            PrefixInformation(
                address=own if own in known.prefix else known.prefix.network_address,
                router_address=own in known.prefix,
                prefix_length=known.prefix.prefixlen,
                on_link=known.on_link,
                autonomous=known.autonomous,
                valid_lifetime=_whole(known.valid_lifetime(now)),
                preferred_lifetime=_whole(known.preferred_lifetime(now)),
            )
            for known in self._prefixes.current(now)
        )

    def _drop(self, reason: DropReason) -> list[Action]:
        self._drops[reason] += 1
        return []


def _whole(seconds: float) -> float:
    """Lifetimes travel in whole seconds; never say more than there is."""
    return seconds if math.isinf(seconds) else float(math.floor(seconds))
