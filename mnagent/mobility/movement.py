"""Movement detection: where the mobile node is attached, from routers and addresses (RFC 6275
11.5).

Autoconfiguration, ours or the kernel's, tells which default routers and usable addresses each
interface has. From that, after every change, the attachment follows by rule, without history other
than what keeps a good choice stable:

1. The first interface in the administrator's order that has a router and something to use wins.
2. Its current default router stays while it is of use (11.5.1: no ping-pong between routers).
3. A router that advertises the home prefix means the home link (11.5.2).
4. Otherwise the primary care-of address is a usable address of a prefix of that router (11.5.4).
   The address in use stays; else preferred comes before deprecated, unique before optimistic.

When autoconfiguration is in doubt (a link event) it takes routers and addresses back until a router
speaks, so an old address is never offered on a new link.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from mnagent.core.events import LinkDown, LinkUp
from mnagent.core.indications import AddressLost, AddressUsable, RouterFound, RouterLost

MAX_ROUTERS = 16
"""Default routers kept on one interface; a further one is ignored until one leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHome:
    """On the home link."""

    interface: int
    router: RouterFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """On a foreign link, with this primary care-of address."""

    interface: int
    address: AddressUsable


@dataclass(frozen=True, slots=True, kw_only=True)
class Detached:
    """Nowhere: no router, or no address yet."""


Attachment = AtHome | Away | Detached


@dataclass(slots=True)
class _Interface:
    name: str
    routers: dict[IPv6Address, RouterFound] = field(default_factory=dict)
    addresses: dict[IPv6Address, AddressUsable] = field(default_factory=dict)
    current_router: IPv6Address | None = None


MovementInput = LinkUp | LinkDown | RouterFound | RouterLost | AddressUsable | AddressLost


class Movement:
    """Decides the attachment. It sends nothing and has one deadline: a preferred lifetime's end."""

    def __init__(
        self,
        *,
        home_address: IPv6Address,
        home_prefix: IPv6Network,
        interfaces: tuple[str, ...] = (),
    ) -> None:
        """``interfaces`` are names in order of preference; empty takes all, oldest first."""
        self._home_address = home_address
        self._home_prefix = home_prefix
        self._preference = interfaces
        self._interfaces: dict[int, _Interface] = {}
        self._attachment: Attachment = Detached()
        self._decided_at = -math.inf

    @property
    def attachment(self) -> Attachment:
        """Where the node is now."""
        return self._attachment

    def is_usable(self, address: IPv6Address) -> bool:
        """Whether packets to and from the address still pass, whichever link it is on."""
        return any(address in interface.addresses for interface in self._interfaces.values())

    def handle(self, event: MovementInput, now: float) -> Attachment:
        """Take a change in and say where the node is after it."""
        if isinstance(event, LinkUp):
            if not self._preference or event.name in self._preference:
                self._interfaces.setdefault(event.interface, _Interface(event.name))
        elif isinstance(event, LinkDown):
            self._interfaces.pop(event.interface, None)
        else:
            interface = self._interfaces.get(event.interface)
            if interface is not None:
                self._apply(interface, event)
        return self._decide(now)

    def handle_timer(self, now: float) -> Attachment:
        """Decide anew: an address may have become deprecated or invalid (RFC 6275 11.5.3)."""
        return self._decide(now)

    def next_deadline(self) -> float | None:
        """When the care-of address in use becomes deprecated or ends."""
        if not isinstance(self._attachment, Away):
            return None
        address = self._attachment.address
        # A deprecated address that is still in use has nothing better beside it: wait for its end.
        return min(self._deadlines_of(address), default=None)

    def _deadlines_of(self, address: AddressUsable) -> list[float]:
        candidates = (address.preferred_until, address.valid_until)
        return [instant for instant in candidates if self._decided_at < instant < math.inf]

    def _apply(
        self,
        interface: _Interface,
        event: RouterFound | RouterLost | AddressUsable | AddressLost,
    ) -> None:
        match event:
            case RouterFound():
                known = interface.routers.get(event.router)
                if event.prefixes is None and known is not None:
                    # A kernel route adds nothing to what the router itself advertised.
                    return
                if event.router in interface.routers or len(interface.routers) < MAX_ROUTERS:
                    interface.routers[event.router] = event
            case RouterLost():
                interface.routers.pop(event.router, None)
            case AddressUsable():
                if event.address != self._home_address:
                    interface.addresses[event.address] = event
            case AddressLost():
                interface.addresses.pop(event.address, None)

    def _decide(self, now: float) -> Attachment:
        self._decided_at = now
        self._attachment = next(
            (
                found
                for index, interface in self._in_order()
                if (found := self._attach(index, interface, now)) is not None
            ),
            Detached(),
        )
        return self._attachment

    def _in_order(self) -> list[tuple[int, _Interface]]:
        if not self._preference:
            return list(self._interfaces.items())
        return sorted(
            self._interfaces.items(), key=lambda item: self._preference.index(item[1].name)
        )

    def _attach(self, index: int, interface: _Interface, now: float) -> Attachment | None:
        usable = [a for a in interface.addresses.values() if now < a.valid_until]
        for router in _current_first(interface):
            found = self._attach_through(router, index=index, usable=usable, now=now)
            if found is not None:
                interface.current_router = router.router
                return found
        return None

    def _attach_through(
        self, router: RouterFound, *, index: int, usable: list[AddressUsable], now: float
    ) -> Attachment | None:
        if self._is_home(router, usable):
            return AtHome(interface=index, router=router)
        address = self._choose_address(router, usable, now)
        return None if address is None else Away(interface=index, address=address)

    def _is_home(self, router: RouterFound, usable: list[AddressUsable]) -> bool:
        if router.prefixes is not None:
            return self._home_prefix in router.prefixes
        # Kernel routes say nothing of prefixes; an address in the home prefix does.
        return any(a.address in self._home_prefix for a in usable)

    def _choose_address(
        self, router: RouterFound, usable: list[AddressUsable], now: float
    ) -> AddressUsable | None:
        current = self._attachment.address.address if isinstance(self._attachment, Away) else None

        def rank(candidate: AddressUsable) -> tuple[bool, bool, bool]:
            is_deprecated = candidate.preferred_until <= now
            return is_deprecated, candidate.address != current, candidate.optimistic

        candidates = [a for a in usable if _is_of(a, router) and a.address not in self._home_prefix]
        return min(candidates, key=rank, default=None)


def _current_first(interface: _Interface) -> list[RouterFound]:
    """The routers in the order of trial: the current one, then the one that spoke first."""
    return sorted(
        interface.routers.values(), key=lambda router: router.router != interface.current_router
    )


def _is_of(address: AddressUsable, router: RouterFound) -> bool:
    """Whether the router advertises a prefix of the address (MUST of RFC 6275 11.5.4)."""
    if router.prefixes is None:
        return True
    return any(address.address in prefix for prefix in router.prefixes)
