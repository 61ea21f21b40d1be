"""Movement detection: where the mobile node is attached, from routers and addresses (RFC 6275
11.5).

Autoconfiguration, ours or the kernel's, tells which default routers and usable addresses each
interface has. From that, after every change, the attachment follows by rule, without history other
than what keeps a good choice stable:

1. The first interface in the order of `InterfaceChoice` that has a router and something to use
   wins; one that keeps losing its link has to wait while another works.
2. Its current default router stays while it is of use (11.5.1: no ping-pong between routers).
3. A router that advertises the home prefix means the home link (11.5.2).
4. Otherwise the primary care-of address is a usable address of a prefix of that router (11.5.4).
   The address in use stays; else preferred comes before deprecated, unique before optimistic.

When autoconfiguration is in doubt (a link event) it takes routers and addresses back until a router
speaks, so an old address is never offered on a new link.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from mnagent.core.events import LinkDown, LinkUp, SignalMeasured
from mnagent.core.indications import AddressLost, AddressUsable, RouterFound, RouterLost
from mnagent.core.timers import earliest
from mnagent.mobility.interface_choice import InterfaceChoice

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


MovementInput = (
    LinkUp | LinkDown | SignalMeasured | RouterFound | RouterLost | AddressUsable | AddressLost
)


class Movement:
    """Decides the attachment. It sends nothing; its deadlines are the ends of lifetimes and of the
    wait for an interface that flapped."""

    def __init__(
        self,
        *,
        home_addresses: AbstractSet[IPv6Address],
        home_prefixes: AbstractSet[IPv6Network],
        interfaces: tuple[str, ...] = (),
        by_kind: bool = False,
    ) -> None:
        """``home_addresses`` and ``home_prefixes`` may change, as when the home network is
        renumbered. ``interfaces`` are names in order of preference; empty takes all, oldest first.
        ``by_kind`` puts Ethernet before Wi-Fi before cellular, see `InterfaceChoice`."""
        self._home_addresses = home_addresses
        self._home_prefixes = home_prefixes
        self._choice = InterfaceChoice(interfaces, by_kind=by_kind)
        self._interfaces: dict[int, _Interface] = {}
        self._attachment: Attachment = Detached()
        self._decided_at = -math.inf
        self._held_until: float | None = None

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
            if self._choice.accepts(event.name):
                self._interfaces.setdefault(event.interface, _Interface(event.name))
                self._choice.came(event.name, event.kind, now)
        elif isinstance(event, LinkDown):
            gone = self._interfaces.pop(event.interface, None)
            if gone is not None:
                self._choice.went(gone.name, now)
        elif isinstance(event, SignalMeasured):
            if event.interface in self._interfaces:
                name = self._interfaces[event.interface].name
                self._choice.measured(name, event.level, is_weak=event.is_weak)
        else:
            interface = self._interfaces.get(event.interface)
            if interface is not None:
                self._apply(interface, event)
        return self._decide(now)

    def handle_timer(self, now: float) -> Attachment:
        """Decide anew: an address may have become deprecated or invalid (RFC 6275 11.5.3)."""
        return self._decide(now)

    def next_deadline(self) -> float | None:
        """When the care-of address in use becomes deprecated or ends, or a wait is over."""
        if not isinstance(self._attachment, Away):
            return self._held_until
        address = self._attachment.address
        # A deprecated address that is still in use has nothing better beside it: wait for its end.
        return earliest(self._held_until, *self._deadlines_of(address))

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
                if event.address not in self._home_addresses:
                    interface.addresses[event.address] = event
            case _:
                interface.addresses.pop(event.address, None)

    def _decide(self, now: float) -> Attachment:
        self._decided_at = now
        self._held_until = None
        choices = self._choices(now)
        best = next(choices, None)
        if best is not None and best.interface != self._current:
            held_until = self._choice.held_until(self._interfaces[best.interface].name, now)
            if held_until > now:
                working = next((c for c in choices if c.interface == self._current), None)
                if working is not None:
                    best, self._held_until = working, held_until
        self._attachment = best or Detached()
        return self._attachment

    @property
    def _current(self) -> int | None:
        attachment = self._attachment
        return None if isinstance(attachment, Detached) else attachment.interface

    def _choices(self, now: float) -> Iterator[AtHome | Away]:
        """Where the node could be, the best first."""
        current = self._interfaces.get(-1 if self._current is None else self._current)
        name = None if current is None else current.name
        for index, interface in sorted(
            self._interfaces.items(), key=lambda item: self._choice.rank(item[1].name, current=name)
        ):
            found = self._attach(index, interface, now)
            if found is not None:
                yield found

    def _attach(self, index: int, interface: _Interface, now: float) -> AtHome | Away | None:
        usable = [a for a in interface.addresses.values() if now < a.valid_until]
        for router in _current_first(interface):
            found = self._attach_through(router, index=index, usable=usable, now=now)
            if found is not None:
                interface.current_router = router.router
                return found
        return None

    def _attach_through(
        self, router: RouterFound, *, index: int, usable: list[AddressUsable], now: float
    ) -> AtHome | Away | None:
        if self._is_home(router, usable):
            return AtHome(interface=index, router=router)
        address = self._choose_address(router, usable, now)
        return None if address is None else Away(interface=index, address=address)

    def _is_home(self, router: RouterFound, usable: list[AddressUsable]) -> bool:
        if router.prefixes is not None:
            return not self._home_prefixes.isdisjoint(router.prefixes)
        # Kernel routes say nothing of prefixes; an address in the home prefix does.
        return any(self._is_of_home(a.address) for a in usable)

    def _is_of_home(self, address: IPv6Address) -> bool:
        return any(address in prefix for prefix in self._home_prefixes)

    def _choose_address(
        self, router: RouterFound, usable: list[AddressUsable], now: float
    ) -> AddressUsable | None:
        current = self._attachment.address.address if isinstance(self._attachment, Away) else None

        def rank(candidate: AddressUsable) -> tuple[bool, bool, bool]:
            is_deprecated = candidate.preferred_until <= now
            return is_deprecated, candidate.address != current, candidate.optimistic

        candidates = [a for a in usable if _is_of(a, router) and not self._is_of_home(a.address)]
        return min(candidates, key=rank, default=None)


def _current_first(interface: _Interface) -> list[RouterFound]:
    """The routers in the order of trial: the current one, then the one that spoke first."""
    return sorted(
        interface.routers.values(), key=lambda router: router.router != interface.current_router
    )


def _is_of(address: AddressUsable, router: RouterFound) -> bool:
    """Whether the router advertises a prefix of the address (MUST of RFC 6275 11.5.4).

    Routers need not advertise the prefixes that a DHCPv6 server of their link assigns from.
    """
    if router.prefixes is None or address.managed:
        return True
    return any(address.address in prefix for prefix in router.prefixes)
