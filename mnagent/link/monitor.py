"""Sans-IO link monitor: netlink notifications in, link and address events out.

An interface is watched when its name is one of ``names`` (all but ``ignored`` when ``names`` is
empty). It may appear and vanish at any time. A link that comes up is told at once; one that comes
up again and again has ``UP_BURST`` such announcements in hand and gets another each
``UP_INTERVAL``, so that a flapping link does not make us solicit routers a hundred times a second.
A link that goes down is told after ``DOWN_DELAY``, because a roam is a short absence: when the link
is back in time only another `LinkUp` is told, which makes movement detection look again.

Wi-Fi tells associations on another socket than the carrier's, in any order. An association counts
once the link is usable; where the carrier's return tells of it too, it is told once.

After an overrun the owner calls `resync_started`, feeds a full dump, and calls `resync_finished`:
what the dump did not show is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from mnagent.core.events import (
    AddressAppeared,
    AddressVanished,
    DefaultRouterAppeared,
    DefaultRouterVanished,
    Event,
    LinkCause,
    LinkDown,
    LinkUp,
)
from mnagent.core.timers import Timers
from mnagent.link.messages import (
    AddressMessage,
    LinkMessage,
    Message,
    RouteMessage,
)

DOWN_DELAY = 0.15
"""Seconds a link must be down before `LinkDown`."""
UP_INTERVAL = 0.2
"""Seconds between two `LinkUp` of one interface, in the long run."""
UP_BURST = 3
"""`LinkUp` of one interface that may follow each other at once."""
SAME_ASSOCIATION = 0.15
"""Seconds within which carrier and association speak of the same event."""
MAIN_TABLE = 254


@dataclass(slots=True)
class _Interface:
    message: LinkMessage
    told_up: bool = False
    last_up_at: float = float("-inf")
    announcements: float = float(UP_BURST)
    """Left, as of ``last_up_at``."""
    access_point: bytes = b""
    associated_at: float = float("-inf")
    was_associated: bool = False
    """The latest `LinkUp` speaks of an association that Wi-Fi told."""
    addresses: dict[IPv6Address, AddressMessage] = field(default_factory=dict)
    routers: set[IPv6Address] = field(default_factory=set)


class LinkMonitor:
    """Follows the interfaces the agent may use."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        ignored: Iterable[str] = (),
        own_protocol: int = 0,
        expected: Iterable[str] = (),
    ) -> None:
        """``expected`` are asked for too, where all are watched."""
        self._names = tuple(names)
        self._expected = self._names or tuple(expected)
        self._ignored = frozenset(ignored) | {"lo"}
        self._own_protocol = own_protocol
        self._interfaces: dict[int, _Interface] = {}
        self._timers: Timers[tuple[str, int]] = Timers()
        self._seen: set[object] | None = None

    @property
    def interfaces(self) -> dict[int, LinkMessage]:
        """The watched interfaces that exist, by index."""
        return {index: interface.message for index, interface in self._interfaces.items()}

    @property
    def missing(self) -> tuple[str, ...]:
        """Names that were asked for and do not exist now."""
        present = {interface.message.name for interface in self._interfaces.values()}
        return tuple(name for name in self._expected if name not in present)

    def next_deadline(self) -> float | None:
        """When `handle_timer` wants to run."""
        return self._timers.next_deadline()

    def handle(self, message: Message, now: float) -> list[Event]:
        """Take one notification."""
        if isinstance(message, LinkMessage):
            return self._on_link(message, now)
        if isinstance(message, AddressMessage):
            return self._on_address(message)
        if isinstance(message, RouteMessage):
            return self._on_route(message)
        return []

    def handle_timer(self, now: float) -> list[Event]:
        """Tell what was held back and is still true."""
        events: list[Event] = []
        for what, index in self._timers.due(now):
            interface = self._interfaces.get(index)
            if interface is None:
                continue
            if what == "down" and not interface.message.usable and interface.told_up:
                interface.told_up = False
                events.append(LinkDown(interface=index))
            elif what == "up" and interface.message.usable:
                events += self._tell_up(interface, now)
        return events

    def associated(self, index: int, now: float, *, access_point: bytes = b"") -> list[Event]:
        """Wi-Fi says it associated: the link may be another one although the carrier never went
        away. Give it the link's latest state first."""
        interface = self._interfaces.get(index)
        if interface is None:
            return []
        is_other = access_point != interface.access_point
        interface.access_point = access_point
        interface.associated_at = now
        if not interface.message.usable:
            return []
        told_at = interface.last_up_at
        if interface.told_up and now - told_at < SAME_ASSOCIATION and not interface.was_associated:
            # The carrier was faster; unless it was told for another association, that was it.
            interface.was_associated = True
            return []
        if interface.was_associated and not is_other and now - told_at < SAME_ASSOCIATION:
            return []
        interface.was_associated = True
        return self._tell_up(interface, now, cause=LinkCause.ASSOCIATION)

    def dissociated(self, index: int) -> None:
        """Wi-Fi says it left its access point; the carrier tells the rest."""
        interface = self._interfaces.get(index)
        if interface is not None:
            interface.access_point = b""

    def access_point(self, index: int) -> bytes:
        """The BSSID an interface is associated with, empty when not known."""
        interface = self._interfaces.get(index)
        return b"" if interface is None else interface.access_point

    def resumed(self, now: float) -> list[Event]:
        """The machine slept: every link may be another one."""
        events: list[Event] = []
        for interface in self._interfaces.values():
            interface.announcements = float(UP_BURST)
            if interface.message.usable:
                events += self._tell_up(interface, now, cause=LinkCause.RESUME)
        return events

    def resync_started(self) -> None:
        """A full dump (links, then addresses, then routes) follows."""
        self._seen = set()

    def resync_finished(self, now: float) -> list[Event]:
        """The dump is over: whatever it did not show has gone."""
        seen, self._seen = self._seen or set(), None
        events: list[Event] = []
        for index, interface in list(self._interfaces.items()):
            if ("link", index) not in seen:
                events += self._forget(index)
                continue
            for address in [a for a in interface.addresses if ("address", index, a) not in seen]:
                del interface.addresses[address]
                events.append(AddressVanished(interface=index, address=address))
            for router in [r for r in interface.routers if ("router", index, r) not in seen]:
                interface.routers.discard(router)
                events.append(DefaultRouterVanished(interface=index, router=router))
        return events

    def _mark(self, *key: object) -> None:
        if self._seen is not None:
            self._seen.add(key)

    def _watches(self, name: str) -> bool:
        return name not in self._ignored and (not self._names or name in self._names)

    def _on_link(self, message: LinkMessage, now: float) -> list[Event]:
        index = message.interface
        known = self._interfaces.get(index)
        if message.removed or not self._watches(message.name):
            return self._forget(index) if known else []
        self._mark("link", index)
        if known is None:
            known = self._interfaces[index] = _Interface(message)
            return self._tell_up(known, now) if message.usable else []
        before, known.message = known.message, message
        if not message.usable:
            self._timers.cancel(("up", index))
            if known.told_up and ("down", index) not in self._timers:
                self._timers.set(("down", index), now + DOWN_DELAY)
            return []
        flapped = message.carrier_changes != before.carrier_changes
        changed = (message.link_layer_address, message.mtu) != (
            before.link_layer_address,
            before.mtu,
        )
        if not before.usable or flapped or changed or not known.told_up:
            return self._tell_up(known, now)
        return []

    def _tell_up(
        self, interface: _Interface, now: float, *, cause: LinkCause = LinkCause.CARRIER
    ) -> list[Event]:
        message = interface.message
        index = message.interface
        self._timers.cancel(("down", index))
        earned = (now - interface.last_up_at) / UP_INTERVAL
        announcements = min(float(UP_BURST), interface.announcements + earned)
        if announcements < 1.0:
            self._timers.set(("up", index), now + (1.0 - announcements) * UP_INTERVAL)
            return []
        self._timers.cancel(("up", index))
        interface.told_up = True
        interface.announcements = announcements - 1.0
        interface.last_up_at = now
        if cause is LinkCause.CARRIER:
            interface.was_associated = now - interface.associated_at < SAME_ASSOCIATION
        return [
            LinkUp(
                interface=index,
                name=message.name,
                link_layer_address=message.link_layer_address,
                mtu=message.mtu,
                kind=message.kind,
                cause=cause,
                access_point=interface.access_point,
            )
        ]

    def _forget(self, index: int) -> list[Event]:
        interface = self._interfaces.pop(index)
        self._timers.cancel(("up", index))
        self._timers.cancel(("down", index))
        events: list[Event] = [
            AddressVanished(interface=index, address=address) for address in interface.addresses
        ]
        if interface.told_up:
            events.append(LinkDown(interface=index))
        return events

    def _on_address(self, message: AddressMessage) -> list[Event]:
        interface = self._interfaces.get(message.interface)
        if interface is None:
            return []
        if message.removed:
            if interface.addresses.pop(message.address, None) is None:
                return []
            return [AddressVanished(interface=message.interface, address=message.address)]
        self._mark("address", message.interface, message.address)
        if interface.addresses.get(message.address) == message:
            return []
        interface.addresses[message.address] = message
        return [
            AddressAppeared(
                interface=message.interface,
                address=message.address,
                prefix_length=message.prefix_length,
                tentative=message.tentative,
                deprecated=message.deprecated,
                duplicate=message.duplicate,
                valid_lifetime=message.valid_lifetime,
                preferred_lifetime=message.preferred_lifetime,
            )
        ]

    def _on_route(self, message: RouteMessage) -> list[Event]:
        interface = self._interfaces.get(message.interface)
        if (
            interface is None
            or message.gateway is None
            or message.table != MAIN_TABLE
            or message.destination.prefixlen != 0
            or message.protocol == self._own_protocol
        ):
            return []
        router = message.gateway
        if message.removed:
            if router not in interface.routers:
                return []
            interface.routers.discard(router)
            return [DefaultRouterVanished(interface=message.interface, router=router)]
        self._mark("router", message.interface, router)
        if router in interface.routers:
            return []
        interface.routers.add(router)
        return [DefaultRouterAppeared(interface=message.interface, router=router)]
