"""All home addresses of a mobile node, and how the home network is renumbered (RFC 6275 11.4.3).

                     links, routers, addresses, packets
                                  |
    PrefixDiscovery --prefixes--> HomeAddresses --> MobileNode (one home address)
                                       |            MobileNode (another one)
                                       `-- Surroundings, shared: movement, links

Each home address is registered, tunnelled and optimized by a `MobileNode` of its own; where the
node is, is decided once for all of them. One that the node forms in a new prefix of the home link
has the interface identifier of a configured one, as the home agent expects
(`served_home_addresses`).

    new prefix ----> formed: preferred --preferred lifetime over--> deprecated --valid lifetime
                                                                       over--> ended

A deprecated home address keeps its connections; new ones take one that is preferred. The last home
address never ends: a node without any could not be told of another one.

What was formed is recorded, so that a node that is started again while away still knows a home
address that is good. Lifetimes are not recorded: they are asked for again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv6Address
from random import Random
from typing import Any, Final

from mnagent.core.actions import (
    Finish,
    PersistRecord,
    RemoveHomeAddress,
    ReportEvent,
    SetHomeAddress,
)
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    ActionFailed,
    MembershipReported,
    PacketReceived,
    ShutdownRequested,
    TrafficSeen,
    TunnelActivity,
)
from mnagent.core.indications import BindingAccepted, Output
from mnagent.core.prefix_lifetime import TWO_HOURS
from mnagent.core.timers import earliest
from mnagent.mobility.home_link import HomeLinkState
from mnagent.mobility.home_prefixes import KnownPrefix, address_in
from mnagent.mobility.home_registration import CareOf
from mnagent.mobility.mobile_node import (
    MobileNode,
    MobileNodeEvent,
    MobileNodeSettings,
    Surroundings,
)
from mnagent.mobility.movement import AtHome, Away
from mnagent.mobility.prefix_discovery import PrefixDiscovery
from mnagent.wire.icmp6 import MobilePrefixAdvertisement
from mnagent.wire.mld import ListenerQuery
from mnagent.wire.mobility import BindingStatus, MobilityMessage
from mnagent.wire.ndisc import PrefixInformation, RouterAdvertisement

HOME_ADDRESSES_KEY: Final = "home-addresses"
"""Record of the home addresses that were formed: one, and the configured one it is like, a word."""
MAX_HOME_ADDRESSES: Final = 16
"""Configured and formed; no more are formed then."""
RESTORED_LIFETIME: Final = TWO_HOURS
"""Seconds a recorded home address lasts when nobody says more about its prefix."""
_OF_ALL: Final = frozenset({"care-of-address-ready", "path-doubtful", "left-home"})
"""Reports of what happens to all home addresses at once; one is enough."""

MobileNodeFactory = Callable[[IPv6Address, Surroundings, bool], MobileNode]
"""Makes the machine of one home address; with True the one that may set the L bit."""


@dataclass(slots=True)
class _HomeAddress:
    node: MobileNode
    like: IPv6Address
    """The configured home address whose keys it uses, itself if it is configured."""
    valid_until: float = math.inf
    preferred_until: float = math.inf
    is_preferred: bool = True
    is_finished: bool = False

    @property
    def address(self) -> IPv6Address:
        return self.node.settings.home_address


class HomeAddresses:
    """The home addresses of one mobile node; the first preferred one speaks for the node."""

    def __init__(
        self,
        configured: Iterable[IPv6Address],
        *,
        surroundings: Surroundings,
        factory: MobileNodeFactory,
        random: Random,
        follows_renumbering: bool = True,
        persisted: str | None = None,
    ) -> None:
        """``configured`` is not empty. ``persisted`` is the record of an earlier run, or None."""
        self._surroundings = surroundings
        self._factory = factory
        self._follows_renumbering = follows_renumbering
        self._recorded = persisted or ""
        self._known: dict[IPv6Address, _HomeAddress] = {}
        self._drops: Counter[DropReason] = Counter()
        self._configured = tuple(configured)
        self._pending: list[Output] = []
        self._is_finished = False
        for address in self._configured:
            self._add(address, like=address)
        self.discovery = PrefixDiscovery(self.leader.home_agent_address, random=random)
        self._restored = _formed(persisted) if follows_renumbering else {}

    @property
    def leader(self) -> MobileNode:
        """The first preferred home address, or the first one."""
        known = tuple(self._known.values())
        return next((each for each in known if each.is_preferred), known[0]).node

    @property
    def nodes(self) -> tuple[MobileNode, ...]:
        """Of all home addresses, the configured ones first."""
        return tuple(each.node for each in self._known.values())

    def is_preferred(self, home_address: IPv6Address) -> bool:
        """Whether new connections may take this home address."""
        return self._known[home_address].is_preferred

    def like(self, home_address: IPv6Address) -> IPv6Address:
        """The configured home address whose keys this one uses."""
        return self._known[home_address].like

    def lifetimes_of(self, home_address: IPv6Address) -> tuple[float, float]:
        """Instants at which it ends, and becomes deprecated."""
        home = self._known[home_address]
        return home.valid_until, home.preferred_until

    def reconfigure(
        self, settings: MobileNodeSettings, *, rekeyed: frozenset[IPv6Address], now: float
    ) -> list[Output]:
        """See `MobileNode.reconfigure`; the home address in ``settings`` does not count."""
        outputs: list[Output] = []
        for home in tuple(self._known.values()):
            own = replace(
                settings,
                home_address=home.address,
                home_prefix_length=home.node.settings.home_prefix_length,
                link_local_compatibility=home.node.settings.link_local_compatibility,
            )
            changed = home.node.reconfigure(own, is_rekeyed=home.like in rekeyed, now=now)
            outputs += self._collect(home, changed, now)
        return outputs

    @property
    def drops(self) -> Counter[DropReason]:
        total = self._drops + self.discovery.drops
        for node in self.nodes:
            total = total + node.drops
        return total

    def handle(self, event: MobileNodeEvent, now: float) -> list[Output]:
        """Take in what happened; what comes out is as of `MobileNode.handle`."""
        outputs = self._restore(now)
        if isinstance(event, PacketReceived):
            if isinstance(event.packet.payload, MobilePrefixAdvertisement):
                return outputs + self._on_advertisement(event, now)
            if isinstance(event.packet.payload, RouterAdvertisement):
                return outputs + self._on_router_advertisement(event, now)
        for home in self._concerned(event):
            said = self._collect(home, home.node.handle(event, now), now)
            outputs += said
            if said and _is_about_groups(event):
                break
        if isinstance(event, ShutdownRequested):
            self.discovery.suspend()
        self._follow_attachment()
        return outputs

    def handle_timer(self, now: float) -> list[Output]:
        outputs = self._restore(now)
        for home in tuple(self._known.values()):
            outputs += self._collect(home, home.node.handle_timer(now), now)
        self._follow_attachment()
        outputs += self.discovery.handle_timer(now)
        return outputs + self._age(now)

    def next_deadline(self) -> float | None:
        deadlines = (
            earliest(home.node.next_deadline(), self._change_at(home))
            for home in self._known.values()
        )
        deadline = earliest(self.discovery.next_deadline(), *deadlines)
        return None if deadline is None or math.isinf(deadline) else deadline

    def _change_at(self, home: _HomeAddress) -> float | None:
        """When it becomes deprecated, or ends; the last one does not end."""
        if home.is_preferred:
            return home.preferred_until
        return home.valid_until if len(self._known) > 1 else None

    def peer_moved(self, peer: IPv6Address, now: float) -> list[Output]:
        """A correspondent's own binding with this node changed."""
        return [output for node in self.nodes for output in node.peer_moved(peer, now)]

    # Who hears of what.

    def _concerned(self, event: MobileNodeEvent) -> tuple[_HomeAddress, ...]:
        address: Any = None
        if isinstance(event, TunnelActivity):
            address = event.home_address
        elif isinstance(event, TrafficSeen):
            address = event.local
        elif isinstance(event, ActionFailed):
            address = getattr(event.action, "home_address", None)
        elif isinstance(event, PacketReceived):
            return self._addressed(event)
        if address is None:
            return tuple(self._known.values())
        home = self._known.get(address)
        return () if home is None else (home,)

    def _addressed(self, event: PacketReceived) -> tuple[_HomeAddress, ...]:
        """By the home address it is for; what comes for a care-of address may concern any."""
        known = tuple(self._known.values())
        if not isinstance(event.packet.payload, MobilityMessage):
            return known
        home = self._known.get(event.packet.logical_destination)
        if home is not None:
            return (home,)
        peer = event.packet.logical_source
        among = tuple(
            each
            for each in known
            if any(r.correspondent == peer for r in each.node.route_optimization.registrations)
        )
        return among or known[:1]

    def _collect(self, home: _HomeAddress, outputs: list[Output], now: float) -> list[Output]:
        collected: list[Output] = []
        for output in outputs:
            match output:
                case BindingAccepted():
                    collected += self._on_accepted(home, output, now)
                case Finish():
                    home.is_finished = True
                    collected += self._finish()
                case ReportEvent() if home.node is not self.leader:
                    if output.name not in _OF_ALL:
                        whose = (("home_address", str(home.address)),)
                        collected.append(replace(output, details=(*whose, *output.details)))
                case _:
                    collected.append(output)
        return collected

    def _finish(self) -> list[Output]:
        if self._is_finished or not all(each.is_finished for each in self._known.values()):
            return []
        self._is_finished = True
        return [Finish()]

    def _on_accepted(
        self, home: _HomeAddress, accepted: BindingAccepted, now: float
    ) -> list[Output]:
        attachment = self._surroundings.movement.attachment
        if not isinstance(attachment, Away):
            return []
        self.discovery.home_agent_address = home.node.home_agent_address
        is_hinted = accepted.status == BindingStatus.ACCEPTED_BUT_PREFIX_DISCOVERY_NECESSARY
        care_of = CareOf(address=accepted.care_of_address, interface=attachment.interface)
        return self.discovery.registered(home.address, care_of, now, is_hinted=is_hinted)

    def _follow_attachment(self) -> None:
        if not isinstance(self._surroundings.movement.attachment, Away):
            self.discovery.suspend()

    # The home link's prefixes.

    def _on_advertisement(self, event: PacketReceived, now: float) -> list[Output]:
        return self.discovery.handle(event, now) + self._renumber(now)

    def _on_router_advertisement(self, event: PacketReceived, now: float) -> list[Output]:
        """At home the routers themselves tell (RFC 6275 11.4.3: in the same way): the one that says
        that this is home, and others that say so. Anybody else may be of a link that we just
        came to."""
        attachment = self._surroundings.movement.attachment
        is_settled = self.leader.home_link.state is HomeLinkState.IN_USE
        if not isinstance(attachment, AtHome) or not is_settled:
            return []
        message = event.packet.payload
        is_of_link = event.interface == attachment.interface and event.packet.source.is_link_local
        if not is_of_link or not isinstance(message, RouterAdvertisement):
            return []
        told = {each.prefix for each in message.options if isinstance(each, PrefixInformation)}
        is_ours = event.packet.source == attachment.router.router
        if not is_ours and self._surroundings.home_prefixes.isdisjoint(told):
            return []
        self.discovery.learn(message.options, now, is_authentic=False)
        return self._renumber(now)

    def _renumber(self, now: float) -> list[Output]:
        """Bring the home addresses to what is known of the prefixes."""
        outputs: list[Output] = []
        known = self.discovery.prefixes.current(now)
        for home in tuple(self._known.values()):
            prefix = next((each for each in known if home.address in each.prefix), None)
            if prefix is not None:
                home.valid_until = now + prefix.valid_lifetime(now)
                home.preferred_until = now + prefix.preferred_lifetime(now)
                limited = home.node.limit_validity(home.valid_until, now)
                outputs += self._collect(home, limited, now)
        for prefix in known:
            outputs += self._form(prefix, now)
        return outputs + self._age(now)

    def _form(self, prefix: KnownPrefix, now: float) -> list[Output]:
        """A home address like each of the first configured one's prefix (RFC 4862 5.5.3 d)."""
        is_ours = any(address in prefix.prefix for address in self._known)
        if not self._follows_renumbering or is_ours or not prefix.autonomous:
            return []
        if prefix.preferred_lifetime(now) <= 0:
            return []
        outputs: list[Output] = []
        for like in self._configured:
            address = address_in(prefix.prefix, like)
            is_like_first = address_in(prefix.prefix, self._configured[0]) is not None
            if address is None or not is_like_first or address in self._known:
                continue
            if len(self._known) >= MAX_HOME_ADDRESSES:
                break
            outputs += self._begin(address, like=like, prefix=prefix, now=now)
        return outputs

    def _begin(
        self, address: IPv6Address, *, like: IPv6Address, prefix: KnownPrefix, now: float
    ) -> list[Output]:
        home = self._add(address, like=like)
        home.valid_until = now + prefix.valid_lifetime(now)
        home.preferred_until = now + prefix.preferred_lifetime(now)
        home.node.registration.home_address_valid_until = home.valid_until
        details = (("home_address", str(address)), ("like", str(like)))
        return [
            *self._record(),
            SetHomeAddress(home_address=address, like=like),
            ReportEvent(name="home-address-formed", details=details),
            *self._collect(home, home.node.join(now), now),
        ]

    def _age(self, now: float) -> list[Output]:
        """Deprecate and end what has come to that."""
        outputs: list[Output] = []
        for home in tuple(self._known.values()):
            is_preferred = home.preferred_until > now
            if is_preferred != home.is_preferred:
                home.is_preferred = is_preferred
                outputs += self._tell_preference(home)
            if home.valid_until <= now and len(self._known) > 1:
                outputs += self._end(home, now)
        return outputs

    def _tell_preference(self, home: _HomeAddress) -> list[Output]:
        name = "home-address-preferred" if home.is_preferred else "home-address-deprecated"
        details = (("home_address", str(home.address)),)
        return [
            SetHomeAddress(home_address=home.address, like=home.like, preferred=home.is_preferred),
            ReportEvent(name=name, details=details),
        ]

    def _end(self, home: _HomeAddress, now: float) -> list[Output]:
        del self._known[home.address]
        self._surroundings.home_addresses.discard(home.address)
        if not any(each.address in home.node.settings.home_prefix for each in self._known.values()):
            self._surroundings.home_prefixes.discard(home.node.settings.home_prefix)
        self._drops += home.node.drops
        details = (("home_address", str(home.address)),)
        return [
            *home.node.end(now),
            RemoveHomeAddress(home_address=home.address),
            *self._record(),
            ReportEvent(name="home-address-ended", details=details),
            *self._finish(),
        ]

    # The table.

    def _add(self, address: IPv6Address, *, like: IPv6Address) -> _HomeAddress:
        identifiers = {int(each) & (2**64 - 1) for each in self._known}
        is_first = int(address) & (2**64 - 1) not in identifiers
        node = self._factory(address, self._surroundings, is_first)
        self._surroundings.home_addresses.add(address)
        self._surroundings.home_prefixes.add(node.settings.home_prefix)
        home = self._known[address] = _HomeAddress(node, like)
        return home

    def _restore(self, now: float) -> list[Output]:
        """Take up what an earlier run formed, before anything else happens."""
        restored, self._restored = self._restored, {}
        outputs: list[Output] = []
        for address, like in restored.items():
            if like not in self._configured or address in self._known:
                continue
            home = self._add(address, like=like)
            home.valid_until = home.preferred_until = now + RESTORED_LIFETIME
            home.node.registration.home_address_valid_until = home.valid_until
            outputs.append(SetHomeAddress(home_address=address, like=like))
        return outputs

    def _record(self) -> list[Output]:
        value = " ".join(
            f"{home.address}={home.like}"
            for home in self._known.values()
            if home.address not in self._configured
        )
        if value == self._recorded:
            return []
        self._recorded = value
        return [PersistRecord(key=HOME_ADDRESSES_KEY, value=value)]


def _formed(record: str | None) -> dict[IPv6Address, IPv6Address]:
    """What a record says; what cannot be read counts as nothing."""
    try:
        pairs = [word.split("=") for word in (record or "").split()]
        formed = {IPv6Address(address): IPv6Address(like) for address, like in pairs}
    except (AddressValueError, ValueError):
        return {}
    return dict(list(formed.items())[:MAX_HOME_ADDRESSES])


def _is_about_groups(event: MobileNodeEvent) -> bool:
    """The host listens to groups, not a home address: one of them speaks for it."""
    return isinstance(event, MembershipReported) or (
        isinstance(event, PacketReceived) and isinstance(event.packet.payload, ListenerQuery)
    )
