"""Which multicast groups mobile nodes away from home listen to (RFC 6275 10.4.3).

The home agent is the querier of each mobile node's tunnel, on which there is one listener. It asks
when a binding begins and from time to time (RFC 3810 9), and keeps what it hears for as long as two
unanswered questions take. What a mobile node listens to is joined on the home link, so that the
groups' packets come there.

Who sent a report is told by the tunnel it came through: its source is a link-local address, which
need not be unique, or none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final

from mnagent.core.actions import Action, ForwardGroups, JoinGroup, LeaveGroup, SendThroughTunnel
from mnagent.core.timers import Timers
from mnagent.mobility.addresses import ALL_NODES, UNSPECIFIED_ADDRESS, derived_link_local
from mnagent.wire.ipv6 import HopByHopOptions, IPv6Packet, RouterAlert
from mnagent.wire.mld import (
    ListenerDone,
    ListenerQuery,
    ListenerReport,
    ListenerReportVersion2,
    RecordType,
)

ROBUSTNESS: Final = 2
"""RFC 3810 9.1."""
QUERY_INTERVAL: Final = 125.0
"""Seconds (RFC 3810 9.2)."""
QUERY_RESPONSE_INTERVAL: Final = 0.5
"""Seconds (RFC 3810 9.3): there is nobody else to spread the answers over time with."""
STARTUP_QUERY_INTERVAL: Final = QUERY_INTERVAL / 4
"""Seconds (RFC 3810 9.6)."""
LISTENING_INTERVAL: Final = ROBUSTNESS * QUERY_INTERVAL + QUERY_RESPONSE_INTERVAL
"""Seconds that a report holds for (RFC 3810 9.4)."""
MAX_GROUPS_OF_A_BINDING: Final = 32
"""What a mobile node asks for beyond this is not granted: each group is state here and packets in
its tunnel."""
MAX_GROUPS: Final = 1024
"""Of all bindings together: each is joined on the home link."""
MLD_HOP_LIMIT: Final = 1
_LINK_SCOPE: Final = 2
_ROUTER_ALERT_MLD: Final = 0

_LISTENS: Final = (
    RecordType.MODE_IS_EXCLUDE,
    RecordType.CHANGE_TO_EXCLUDE_MODE,
    RecordType.ALLOW_NEW_SOURCES,
)
_LISTENS_TO_SOURCES: Final = (RecordType.MODE_IS_INCLUDE, RecordType.CHANGE_TO_INCLUDE_MODE)

ListenerMessage = ListenerReport | ListenerDone | ListenerReportVersion2


@dataclass(slots=True)
class _Listener:
    """One mobile node's groups."""

    queries_sent: int
    next_query_at: float
    groups: dict[IPv6Address, float] = field(default_factory=dict)
    """Until when."""

    def deadline(self) -> float:
        return min(self.next_query_at, *self.groups.values(), math.inf)


class GroupMemberships:
    """The groups of all bindings. Sources are not told apart: their listener does that."""

    def __init__(self, home_agent_address: IPv6Address, home_link: int | None) -> None:
        """``home_link``: interface index, None where the home link is virtual."""
        self._query_source = derived_link_local(home_agent_address)
        self._home_link = home_link
        self._listeners: dict[IPv6Address, _Listener] = {}
        self._uses: Counter[IPv6Address] = Counter()
        self._timers: Timers[IPv6Address] = Timers()

    def groups_of(self, home_address: IPv6Address) -> frozenset[IPv6Address]:
        """What is forwarded to a mobile node."""
        listener = self._listeners.get(home_address)
        return frozenset() if listener is None else frozenset(listener.groups)

    def bound(self, home_address: IPv6Address, now: float) -> list[Action]:
        """A binding began: ask. The one that goes on is asked in its time."""
        if home_address in self._listeners:
            return []
        listener = _Listener(1, now + STARTUP_QUERY_INTERVAL)
        self._listeners[home_address] = listener
        self._timers.set(home_address, listener.next_query_at)
        return [self._query(home_address)]

    def unbound(self, home_address: IPv6Address) -> list[Action]:
        """The binding has ended."""
        self._timers.cancel(home_address)
        listener = self._listeners.pop(home_address, None)
        before = frozenset() if listener is None else frozenset(listener.groups)
        return self._changed(home_address, before)

    def receive(
        self, home_address: IPv6Address, message: ListenerMessage, now: float
    ) -> list[Action] | None:
        """A report came through the tunnel of a binding; None where there is none."""
        listener = self._listeners.get(home_address)
        if listener is None:
            return None
        before = frozenset(listener.groups)
        for group, listens in _said(message):
            if not listens:
                listener.groups.pop(group, None)
            elif group in listener.groups or self._has_room_for(group, listener):
                listener.groups[group] = now + LISTENING_INTERVAL
        self._timers.set(home_address, listener.deadline())
        return self._changed(home_address, before)

    def _has_room_for(self, group: IPv6Address, listener: _Listener) -> bool:
        is_known = group in self._uses or len(self._uses) < MAX_GROUPS
        return is_known and len(listener.groups) < MAX_GROUPS_OF_A_BINDING

    def handle_timer(self, now: float) -> list[Action]:
        """Ask those whose time it is, and forget what was not repeated."""
        actions: list[Action] = []
        for home_address in self._timers.due(now):
            listener = self._listeners[home_address]
            if listener.next_query_at <= now:
                listener.queries_sent += 1
                is_starting = listener.queries_sent < ROBUSTNESS
                interval = STARTUP_QUERY_INTERVAL if is_starting else QUERY_INTERVAL
                listener.next_query_at = now + interval
                actions.append(self._query(home_address))
            before = frozenset(listener.groups)
            listener.groups = {g: until for g, until in listener.groups.items() if until > now}
            self._timers.set(home_address, listener.deadline())
            actions += self._changed(home_address, before)
        return actions

    def next_deadline(self) -> float | None:
        """When `handle_timer` wants to run, or None."""
        return self._timers.next_deadline()

    def rejoin(self) -> list[Action]:
        """The home link was gone, and may have forgotten."""
        return [each for group in self._uses for each in self._on_home_link(JoinGroup, group)]

    def move(self, home_link: int) -> list[Action]:
        """The home link is another interface: listen and forward there."""
        actions = [each for group in self._uses for each in self._on_home_link(LeaveGroup, group)]
        self._home_link = home_link
        actions += self.rejoin()
        for home_address, listener in self._listeners.items():
            if listener.groups:
                groups = tuple(sorted(listener.groups))
                actions.append(ForwardGroups(home_address=home_address, groups=groups))
        return actions

    def _changed(self, home_address: IPv6Address, before: frozenset[IPv6Address]) -> list[Action]:
        groups = self.groups_of(home_address)
        if groups == before:
            return []
        forward = ForwardGroups(home_address=home_address, groups=tuple(sorted(groups)))
        actions: list[Action] = [forward]
        for group in sorted(groups - before):
            self._uses[group] += 1
            if self._uses[group] == 1:
                actions += self._on_home_link(JoinGroup, group)
        for group in sorted(before - groups):
            self._uses[group] -= 1
            if not self._uses[group]:
                del self._uses[group]
                actions += self._on_home_link(LeaveGroup, group)
        return actions

    def _on_home_link(
        self, action: type[JoinGroup | LeaveGroup], group: IPv6Address
    ) -> list[Action]:
        link = self._home_link
        return [] if link is None else [action(interface=link, group=group)]

    def _query(self, home_address: IPv6Address) -> SendThroughTunnel:
        query = ListenerQuery(
            int(QUERY_RESPONSE_INTERVAL * 1000),
            UNSPECIFIED_ADDRESS,
            ROBUSTNESS,
            int(QUERY_INTERVAL),
        )
        packet = IPv6Packet(
            self._query_source,
            ALL_NODES,
            query,
            extension_headers=(HopByHopOptions((RouterAlert(_ROUTER_ALERT_MLD),)),),
            hop_limit=MLD_HOP_LIMIT,
        )
        return SendThroughTunnel(home_address=home_address, packet=packet)


def is_forwarded(group: IPv6Address) -> bool:
    """Whether routers forward the group's packets: its scope is wider than a link."""
    return group.is_multicast and group.packed[1] & 0x0F > _LINK_SCOPE


def _said(message: ListenerMessage) -> Iterable[tuple[IPv6Address, bool]]:
    """Groups, and whether each is listened to."""
    match message:
        case ListenerReport(group):
            said = [(group, True)]
        case ListenerDone(group):
            said = [(group, False)]
        case _:
            said = [
                (
                    each.group,
                    each.record_type in _LISTENS
                    or (each.record_type in _LISTENS_TO_SOURCES and bool(each.sources)),
                )
                for each in message.records
                if each.record_type in (*_LISTENS, *_LISTENS_TO_SOURCES)
            ]
    return ((group, listens) for group, listens in said if is_forwarded(group))
