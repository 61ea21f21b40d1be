"""What is remembered of links: the Simple DNA Address Table of RFC 6059 4, across restarts too.

One entry is one router on one link, with the prefixes it advertised and the addresses we had there.
Routers of two links may share their link-local address, and even the link-layer address (virtual
routers do): an entry is another one when no prefix is common. Such namesakes cannot be told apart
by asking for the link-local address; `LinkMemory.candidates` says by which address to ask, or
leaves them out.

The record is JSON, versioned, small. Whatever is wrong in one makes it void as a whole: it saves a
round trip, no more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Final, TypeVar

from mnagent.autoconf.constants import (
    INTERFACE_IDENTIFIER_BITS,
    MAX_ADDRESSES,
    MAX_KNOWN_ACCESS_POINTS,
    MAX_KNOWN_INTERFACES,
    MAX_KNOWN_ROUTERS,
    MAX_PREFIXES,
    MAX_PROBED_ROUTERS,
    RESTORED_LIFETIME,
)

KNOWN_LINKS_KEY: Final = "known-links"
"""Name of the record."""
_VERSION: Final = 1
_MAX_RECORD_LENGTH: Final = 1 << 18
"""Characters."""
_LINK_LAYER_LENGTH: Final = 6
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAddress:
    """An address we had on a link."""

    address: IPv6Address
    valid_until: float
    """Instant, in seconds."""
    preferred_until: float
    is_unique: bool = True
    """False when we left before its detection ended, which then has to be done on return."""

    @property
    def prefix(self) -> IPv6Network:
        return IPv6Network((self.address, INTERFACE_IDENTIFIER_BITS), strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRouter:
    """A router on one link."""

    router: IPv6Address
    """Its link-local address."""
    link_layer_address: bytes
    expires_at: float
    """Instant at which it is no default router any more."""
    prefixes: tuple[tuple[IPv6Network, float], ...]
    """With the instant at which each ends."""
    router_addresses: tuple[IPv6Address, ...] = ()
    """Its global addresses, where it told (R bit, RFC 6275 7.2)."""
    addresses: tuple[KnownAddress, ...] = ()
    leased: tuple[IPv6Address, ...] = ()
    """Addresses that DHCPv6 gave there; their leases are kept elsewhere, and not recorded."""
    seen_at: float = -math.inf
    """When it was last heard."""
    access_points: tuple[bytes, ...] = ()
    """Wi-Fi access points (BSSID) it was heard through, the latest first."""

    def is_same(self, other: KnownRouter) -> bool:
        """Whether both are one router on one link, as far as anyone can tell."""
        if not self.is_namesake(other):
            return False
        known = {prefix for prefix, _ in self.prefixes}
        return not known.isdisjoint(prefix for prefix, _ in other.prefixes)

    def is_namesake(self, other: KnownRouter) -> bool:
        """Whether both have the same link-local and link-layer address."""
        return (self.router, self.link_layer_address) == (other.router, other.link_layer_address)

    def alive(self, now: float) -> KnownRouter | None:
        """What of it still holds, or None (RFC 6059 5.5.2: only with a valid address)."""
        addresses = tuple(known for known in self.addresses if now < known.valid_until)
        if not (addresses or self.leased) or self.expires_at <= now:
            return None
        prefixes = tuple(each for each in self.prefixes if now < each[1])
        return replace(self, addresses=addresses, prefixes=prefixes)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A remembered router, and the address to ask for."""

    target: IPv6Address
    router: KnownRouter


class LinkMemory:
    """The routers remembered for one interface."""

    def __init__(self, routers: Iterable[KnownRouter] = ()) -> None:
        self._routers = list(routers)[:MAX_KNOWN_ROUTERS]

    @property
    def routers(self) -> tuple[KnownRouter, ...]:
        return tuple(self._routers)

    def remember(self, router: KnownRouter) -> bool:
        """Enter or replace; True when more than lifetimes changed."""
        index = next((i for i, each in enumerate(self._routers) if each.is_same(router)), None)
        if index is not None:
            previous = self._routers[index]
            router = replace(router, access_points=_merged(router, previous))
            self._routers[index] = router
            return _shape(previous) != _shape(router)
        if len(self._routers) >= MAX_KNOWN_ROUTERS:
            self._routers.remove(min(self._routers, key=lambda each: each.seen_at))
        self._routers.append(router)
        return True

    def candidates(self, now: float, *, access_point: bytes = b"") -> list[Candidate]:
        """Whom to ask after a link event, at most MAX_PROBED_ROUTERS: those heard through the same
        access point before, where there is one, then the others, the latest first."""
        alive = [each.alive(now) for each in self._routers]
        self._routers = [each for each in alive if each is not None]
        latest = sorted(
            self._routers,
            key=lambda each: (access_point in each.access_points, each.seen_at),
            reverse=True,
        )
        candidates = [self._candidate(each) for each in latest]
        return [each for each in candidates if each is not None][:MAX_PROBED_ROUTERS]

    def _candidate(self, router: KnownRouter) -> Candidate | None:
        namesakes = [each for each in self._routers if each.is_namesake(router) and each != router]
        if not namesakes:
            return Candidate(router.router, router)
        taken = {address for each in namesakes for address in each.router_addresses}
        own = [address for address in router.router_addresses if address not in taken]
        return Candidate(own[0], router) if own else None


def _merged(router: KnownRouter, previous: KnownRouter) -> tuple[bytes, ...]:
    found = dict.fromkeys((*router.access_points, *previous.access_points))
    return tuple(found)[:MAX_KNOWN_ACCESS_POINTS]


def _shape(router: KnownRouter) -> object:
    """All but what every advertisement changes."""
    return (
        {prefix for prefix, _ in router.prefixes},
        router.router_addresses,
        set(router.access_points),
        {(known.address, known.is_unique) for known in router.addresses},
    )


# The record.


def encode_record(memories: Mapping[str, LinkMemory], *, identifiers: str, now: float) -> str:
    """The record of all interfaces; instants become seconds left, null for ever.

    ``identifiers`` is how addresses were made.
    """
    interfaces = {
        name: [_encode_router(router, now) for router in memory.routers]
        for name, memory in memories.items()
    }
    content = {"version": _VERSION, "identifiers": identifiers, "interfaces": interfaces}
    return json.dumps(content, separators=(",", ":"))


def _encode_router(router: KnownRouter, now: float) -> dict[str, Any]:
    return {
        "router": str(router.router),
        "link_layer_address": router.link_layer_address.hex(),
        "lifetime": _left(router.expires_at, now),
        "prefixes": [[str(prefix), _left(until, now)] for prefix, until in router.prefixes],
        "router_addresses": [str(address) for address in router.router_addresses],
        "addresses": [
            [str(known.address), _left(known.valid_until, now), _left(known.preferred_until, now)]
            for known in router.addresses
            if known.is_unique
        ],
        "age": _left(now, router.seen_at),
        "access_points": [each.hex() for each in router.access_points],
    }


def _left(until: float, now: float) -> int | None:
    return None if math.isinf(until - now) else max(0, int(until - now))


def decode_record(
    text: str | None, *, identifiers: str, now: float, never: frozenset[IPv6Address]
) -> dict[str, LinkMemory]:
    """What an earlier run remembered; nothing where the record is not as it should be.

    ``never`` are addresses that must not be used.
    """
    if text is None or len(text) > _MAX_RECORD_LENGTH:
        return {}
    try:
        content = json.loads(text)
        if (content["version"], content["identifiers"]) != (_VERSION, identifiers):
            return {}
        return {
            str(name): LinkMemory([_decode_router(router, now, never) for router in routers])
            for name, routers in list(content["interfaces"].items())[:MAX_KNOWN_INTERFACES]
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return {}


def _decode_router(
    fields: dict[str, Any], now: float, never: frozenset[IPv6Address]
) -> KnownRouter:
    router, link_layer_address = _decode_identity(fields)
    prefixes = tuple(
        (IPv6Network(prefix), _until(left, now))
        for prefix, left in _bounded(fields["prefixes"], MAX_PREFIXES)
    )
    addresses = tuple(
        KnownAddress(
            address=IPv6Address(address),
            valid_until=_until(valid, now),
            preferred_until=_until(preferred, now),
        )
        for address, valid, preferred in _bounded(fields["addresses"], MAX_ADDRESSES)
    )
    own = {prefix for prefix, _ in prefixes}
    if any(known.prefix not in own for known in addresses):
        raise ValueError("an address of no prefix of its router")
    return KnownRouter(
        router=router,
        link_layer_address=link_layer_address,
        expires_at=_until(fields["lifetime"], now),
        prefixes=prefixes,
        router_addresses=_each(fields["router_addresses"], IPv6Address),
        addresses=tuple(known for known in addresses if known.address not in never),
        seen_at=now - float(fields["age"]),
        access_points=_each(fields.get("access_points", []), bytes.fromhex),
    )


def _decode_identity(fields: dict[str, Any]) -> tuple[IPv6Address, bytes]:
    router = IPv6Address(fields["router"])
    link_layer_address = bytes.fromhex(fields["link_layer_address"])
    if not router.is_link_local or len(link_layer_address) != _LINK_LAYER_LENGTH:
        raise ValueError("not a router's addresses")
    return router, link_layer_address


def _bounded(values: list[Any], limit: int) -> list[Any]:
    if len(values) > limit:
        raise ValueError("more than an interface can have")
    return values


def _each(values: list[Any], kind: Callable[[Any], _Value]) -> tuple[_Value, ...]:
    return tuple(kind(value) for value in _bounded(values, MAX_PREFIXES))


def _until(left: float | None, now: float) -> float:
    """How long the node was away from the link, or off, is not known: so not for long."""
    lifetime = RESTORED_LIFETIME if left is None else float(left)
    if not lifetime >= 0:
        raise ValueError("a lifetime that is none")
    return now + min(lifetime, RESTORED_LIFETIME)
