"""The prefixes of the home link and how long they last (RFC 6275 10.6.1, RFC 4862 5.5.3).

A home agent knows them from its configuration and from the Router Advertisements on its home link;
a mobile node from Mobile Prefix Advertisements when it is away, and from Router Advertisements at
home. What is configured bounds what is advertised.

Nobody signs Router Advertisements, so one cannot cut a valid lifetime to less than two hours
(RFC 4862 5.5.3 e). Mobile Prefix Advertisements come by a security association and can.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from mnagent.core.prefix_lifetime import new_end
from mnagent.mobility.addresses import is_routable_unicast
from mnagent.wire.ndisc import NdOption, PrefixInformation

MAX_HOME_PREFIXES: Final = 16
"""Prefixes learnt; a further one is ignored until one ends."""
CLOCK_TOLERANCE: Final = 2.0
"""Seconds by which the end of a lifetime may differ while only time went by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomePrefix:
    """A home subnet prefix as it is configured."""

    prefix: IPv6Network
    valid_lifetime: float = math.inf
    """Seconds that remain at any time; no binding is granted for longer (RFC 6275 10.3.1)."""
    preferred_lifetime: float = math.inf
    """Seconds; a binding that outlasts it is accepted with status 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPrefix:
    """A prefix of the home link."""

    prefix: IPv6Network
    valid_until: float = math.inf
    """Instant from which none of its addresses may be used."""
    preferred_until: float = math.inf
    """Instant from which its addresses are deprecated."""
    on_link: bool = True
    autonomous: bool = True
    """Addresses may be formed in it."""
    advertised: tuple[float, float] | None = None
    """Valid and preferred lifetime in seconds, as the last option said; None: none has yet."""
    configured: HomePrefix | None = None

    def valid_lifetime(self, now: float) -> float:
        """Seconds left."""
        most = math.inf if self.configured is None else self.configured.valid_lifetime
        return max(0.0, min(self.valid_until - now, most))

    def preferred_lifetime(self, now: float) -> float:
        """Seconds left before addresses are deprecated."""
        most = math.inf if self.configured is None else self.configured.preferred_lifetime
        return max(0.0, min(self.preferred_until - now, most, self.valid_lifetime(now)))


class HomePrefixes:
    """All of them. Lifetimes count from the instants at which they were learnt."""

    def __init__(self, configured: Iterable[HomePrefix] = ()) -> None:
        self._known: dict[IPv6Network, KnownPrefix] = {}
        self._current: tuple[float, tuple[KnownPrefix, ...]] | None = None
        """At which instant, and which: one packet asks several times."""
        self.configure(configured)

    def configure(
        self, configured: Iterable[HomePrefix], *, retire_at: float | None = None
    ) -> bool:
        """Take these for the configured ones; True when that changed something.

        One that is no longer configured stays as long as it is advertised, or else, deprecated,
        until the instant ``retire_at``.
        """
        before = dict(self._known)
        self._current = None
        wanted = {each.prefix: each for each in configured}
        for prefix, known in before.items():
            if known.configured is not None and prefix not in wanted:
                if known.advertised is not None:
                    self._known[prefix] = replace(known, configured=None)
                elif retire_at is not None:
                    self._known[prefix] = KnownPrefix(
                        prefix=prefix, valid_until=retire_at, preferred_until=-math.inf
                    )
                else:
                    del self._known[prefix]
        for prefix, each in wanted.items():
            known = self._known.get(prefix, KnownPrefix(prefix=prefix))
            if known.advertised is None:
                known = KnownPrefix(prefix=prefix)  # it may have been about to retire
            self._known[prefix] = replace(known, configured=each)
        return before != self._known

    def current(self, now: float) -> tuple[KnownPrefix, ...]:
        """Those that are valid, in the order in which they became known."""
        if self._current is None or self._current[0] != now:
            valid = tuple(each for each in self._known.values() if each.valid_lifetime(now) > 0)
            self._current = (now, valid)
        return self._current[1]

    def find(self, address: IPv6Address, now: float) -> KnownPrefix | None:
        """The valid prefix of an address."""
        for known in self.current(now):
            if address in known.prefix:
                return known
        return None

    def learn(self, options: Iterable[NdOption], now: float, *, is_authentic: bool) -> bool:
        """Take in the Prefix Information of an advertisement; True when something changed for
        another reason than that time went by."""
        self.expire(now)
        has_changed = False
        for option in options:
            if isinstance(option, PrefixInformation) and _is_usable(option):
                has_changed |= self._learn(option, now, is_authentic=is_authentic)
        return has_changed

    def expire(self, now: float) -> tuple[IPv6Network, ...]:
        """Forget what has ended and is not configured; returns the prefixes that did."""
        ended = [
            prefix
            for prefix, known in self._known.items()
            if known.configured is None and known.valid_until <= now
        ]
        for prefix in ended:
            del self._known[prefix]
            self._current = None
        return tuple(ended)

    def next_deadline(self, now: float) -> float | None:
        """When the next prefix ends or becomes deprecated."""
        instants = (
            instant
            for known in self._known.values()
            for instant in (known.valid_until, known.preferred_until)
            if now < instant < math.inf
        )
        return min(instants, default=None)

    def _learn(self, option: PrefixInformation, now: float, *, is_authentic: bool) -> bool:
        known = self._known.get(option.prefix)
        if known is None:
            if option.valid_lifetime <= 0 or len(self._known) >= MAX_HOME_PREFIXES:
                return False
            known = KnownPrefix(prefix=option.prefix)
        valid_until = now + option.valid_lifetime
        if known.advertised is not None and not is_authentic:
            valid_until = new_end(known.valid_until, option.valid_lifetime, now)
        learnt = replace(
            known,
            valid_until=valid_until,
            preferred_until=now + option.preferred_lifetime,
            on_link=option.on_link,
            autonomous=option.autonomous,
            advertised=(option.valid_lifetime, option.preferred_lifetime),
        )
        self._known[option.prefix] = learnt
        self._current = None
        return _differ(known, learnt)


def _is_usable(option: PrefixInformation) -> bool:
    """RFC 4862 5.5.3 b and c, and a prefix that can be routed."""
    return (
        0 < option.prefix_length < 128
        and option.preferred_lifetime <= option.valid_lifetime
        and is_routable_unicast(option.prefix.network_address)
    )


def _differ(before: KnownPrefix, after: KnownPrefix) -> bool:
    """Whether more than time went by (RFC 6275 10.6.2): other flags, or lifetimes that are neither
    those of the last advertisement nor what was left of them."""
    if before.advertised is None:
        return True
    if (before.on_link, before.autonomous) != (after.on_link, after.autonomous):
        return True
    if before.advertised == after.advertised:
        return False
    return _is_apart(before.valid_until, after.valid_until) or _is_apart(
        before.preferred_until, after.preferred_until
    )


def _is_apart(first: float, second: float) -> bool:
    return first != second and abs(first - second) > CLOCK_TOLERANCE


INTERFACE_IDENTIFIER_LENGTH: Final = 64
"""Bits (RFC 4291 2.5.1)."""


def address_in(prefix: IPv6Network, like: IPv6Address) -> IPv6Address | None:
    """The address of this prefix with the interface identifier of another address, or None where
    the prefix does not leave room for one (RFC 4862 5.5.3 d)."""
    if prefix.prefixlen != 128 - INTERFACE_IDENTIFIER_LENGTH:
        return None
    identifier = int(like) & ((1 << INTERFACE_IDENTIFIER_LENGTH) - 1)
    return IPv6Address(int(prefix.network_address) | identifier)
