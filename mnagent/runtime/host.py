"""The routes, rules and addresses that are ours: kept as desired state, put back when others flush
them."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network

from mnagent.link.messages import (
    AddressMessage,
    LinkMessage,
    Message,
    RouteMessage,
    RuleMessage,
)
from mnagent.system.clock import Clock
from mnagent.system.kernel import Kernel, Route, Rule

logger = logging.getLogger(__name__)

_NOT_NOW = (errno.ENETDOWN, errno.ENODEV, errno.EINVAL, errno.ENETUNREACH)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnAddress:
    """An address we configured."""

    interface: int
    address: IPv6Address
    prefix_length: int
    deprecated: bool = False
    """Kept for what uses it, but chosen for nothing new (RFC 4862 5.5.4)."""

    @property
    def prefix(self) -> IPv6Network:
        """The prefix it is in."""
        return IPv6Network((self.address, self.prefix_length), strict=False)


class HostState:
    """What we changed on this host, by purpose.

    A purpose names one route (``"home-default"``): setting another route for it replaces the first,
    the new one being there before the old one goes.
    """

    def __init__(self, kernel: Kernel, clock: Clock) -> None:
        self._kernel = kernel
        self._clock = clock
        self._routes: dict[str, Route] = {}
        self._expiries: dict[str, float] = {}
        self._rules: dict[str, Rule] = {}
        self._addresses: dict[tuple[int, IPv6Address], OwnAddress] = {}
        self._pinned: set[tuple[int, IPv6Address]] = set()

    @property
    def addresses(self) -> frozenset[IPv6Address]:
        """The addresses we configured."""
        return frozenset(own.address for own in self._addresses.values())

    def link_mtu(self, interface: int) -> int:
        """Octets. Raises OSError when there is no such interface."""
        return self._kernel.link(interface).mtu

    def forget_unresolved(self, interface: int) -> None:
        """Drop what waits for neighbours that do not answer; TCP sends nothing again while its
        first copy still waits in this host."""
        self._kernel.forget_unresolved(interface)

    def has_address_in(self, interface: int, prefix: IPv6Network) -> bool:
        """True when we configured an address of this prefix on this interface."""
        return any(
            own.interface == interface and own.prefix == prefix for own in self._addresses.values()
        )

    def set_address(
        self,
        own: OwnAddress,
        *,
        valid_lifetime: float | None = None,
        preferred_lifetime: float | None = None,
        prefix_route: bool = True,
        pinned: bool = False,
    ) -> None:
        """Configure an address, or renew it. A pinned one is put back when somebody removes it."""
        key = (own.interface, own.address)
        before = self._addresses.get(key)
        if before is not None and before.prefix_length != own.prefix_length:
            self._kernel.remove_address(
                own.interface, own.address, prefix_length=before.prefix_length
            )
        self._kernel.set_address(
            own.interface,
            own.address,
            prefix_length=own.prefix_length,
            valid_lifetime=valid_lifetime,
            preferred_lifetime=0.0 if own.deprecated else preferred_lifetime,
            prefix_route=prefix_route and own.prefix_length < 128,
        )
        self._addresses[key] = own
        if pinned:
            self._pinned.add(key)

    def remove_address(self, own: OwnAddress) -> None:
        """Take an address away; also one that another program configured."""
        key = (own.interface, own.address)
        known = self._addresses.pop(key, own)
        self._pinned.discard(key)
        self._kernel.remove_address(own.interface, own.address, prefix_length=known.prefix_length)

    def set_route(self, purpose: str, route: Route) -> None:
        """Have this route for this purpose."""
        self._kernel.set_route(route)
        before = self._routes.get(purpose)
        self._routes[purpose] = route
        if route.lifetime is not None:
            self._expiries[purpose] = self._clock.now() + route.lifetime
        else:
            self._expiries.pop(purpose, None)
        if before is not None and before.identity != route.identity:
            self._kernel.remove_route(before)

    def remove_route(self, purpose: str) -> None:
        """Have no route for this purpose."""
        route = self._routes.pop(purpose, None)
        self._expiries.pop(purpose, None)
        if route is not None:
            self._kernel.remove_route(route)

    def route(self, purpose: str) -> Route | None:
        """The route for a purpose."""
        return self._routes.get(purpose)

    def set_rule(self, purpose: str, rule: Rule) -> None:
        """Have this rule for this purpose."""
        before = self._rules.get(purpose)
        self._kernel.set_rule(rule)
        self._rules[purpose] = rule
        if before is not None and before != rule:
            self._kernel.remove_rule(before)

    def remove_rule(self, purpose: str) -> None:
        """Have no rule for this purpose."""
        rule = self._rules.pop(purpose, None)
        if rule is not None:
            self._kernel.remove_rule(rule)

    def handle(self, message: Message) -> bool:
        """Put back what this notification says somebody removed; True when something was ours."""
        if isinstance(message, RuleMessage):
            return message.removed and self._on_rule_removed(message)
        if isinstance(message, RouteMessage):
            return message.removed and self._on_route_removed(message)
        if isinstance(message, AddressMessage):
            return message.removed and self._on_address_removed(message)
        if isinstance(message, LinkMessage) and message.usable:
            return self._restore_routes(message.interface)
        return False

    def reassert(self, present: Collection[object] = ()) -> bool:
        """Make sure of everything; all of it is idempotent. Routes whose identity is ``present``
        are left alone: to set thousands again would bring as many notifications."""
        self._expire()
        for key in self._pinned & self._addresses.keys():
            own = self._addresses[key]
            self._attempt(self.set_address, own)
        for rule in self._rules.values():
            self._attempt(self._kernel.set_rule, rule)
        for purpose, route in self._routes.items():
            if route.identity not in present:
                self._put_back(purpose, route)
        return True

    def clear(self) -> None:
        """Remove everything, in the order that leaves no packet on a half-built path."""
        for purpose in list(self._rules):
            self._attempt(self.remove_rule, purpose)
        for purpose in list(self._routes):
            self._attempt(self.remove_route, purpose)
        for own in list(self._addresses.values()):
            self._attempt(self.remove_address, own)

    def _attempt(self, change: Callable[..., None], *arguments: object) -> bool:
        try:
            change(*arguments)
        except OSError as error:
            level = logging.DEBUG if error.errno in _NOT_NOW else logging.WARNING
            logger.log(level, "failed to change the host's network state: %s", error)
            return False
        return True

    def _expire(self) -> None:
        now = self._clock.now()
        for purpose in [name for name, at in self._expiries.items() if at <= now]:
            self._routes.pop(purpose, None)
            del self._expiries[purpose]

    def _on_rule_removed(self, message: RuleMessage) -> bool:
        for rule in self._rules.values():
            if (rule.priority, rule.table, rule.source, rule.mark) == (
                message.priority,
                message.table,
                message.source,
                message.mark,
            ):
                return self._attempt(self._kernel.set_rule, rule)
        return False

    def _on_route_removed(self, message: RouteMessage) -> bool:
        self._expire()
        for purpose, route in self._routes.items():
            if route.identity == (
                message.destination,
                message.table,
                message.interface,
                message.gateway,
                message.metric,
            ):
                return self._put_back(purpose, route)
        return False

    def _on_address_removed(self, message: AddressMessage) -> bool:
        key = (message.interface, message.address)
        own = self._addresses.get(key)
        if own is None:
            return False
        if key not in self._pinned:
            del self._addresses[key]
            return False
        self._attempt(self.set_address, own)
        # The kernel takes routes with that preferred source away without a word.
        return self.reassert()

    def _restore_routes(self, interface: int) -> bool:
        self._expire()
        ours = [(p, route) for p, route in self._routes.items() if route.interface == interface]
        for purpose, route in ours:
            self._put_back(purpose, route)
        return bool(ours)

    def _put_back(self, purpose: str, route: Route) -> bool:
        """For the rest of its lifetime."""
        expiry = self._expiries.get(purpose)
        if expiry is not None:
            route = replace(route, lifetime=max(1, int(expiry - self._clock.now())))
        return self._attempt(self._kernel.set_route, route)
