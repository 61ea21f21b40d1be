"""A home agent that wants to be left: asking mobile nodes to look for another one (RFC 5142 5).

    ask --switch--> waiting --binding deleted, or its lifetime over--> ended
                      | `--no answer: again after INITIAL_HA_SWITCH_TIMEOUT, then twice as long
                      |    each time up to MAX_HA_SWITCH_TIMEOUT, for as long as the binding lives
                      `--Binding Error 2 (the mobile node knows no switching)--> asked rarely

The binding is served until it ends, and is not extended meanwhile (5.3). Where many are asked the
messages are spread, so that the other home agents are not overrun (7): no more a second than the
settings say, the one that waits longest first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address

from mnagent.core.actions import SendPacket
from mnagent.mobility.constants import INITIAL_HA_SWITCH_TIMEOUT, MAX_HA_SWITCH_TIMEOUT
from mnagent.wire.ipv6 import IPv6Packet, Type2RoutingHeader
from mnagent.wire.mobility import HomeAgentSwitch


@dataclass(slots=True)
class _Request:
    message: HomeAgentSwitch
    due_at: float
    timeout: float = INITIAL_HA_SWITCH_TIMEOUT


class HomeAgentSwitches:
    """The mobile nodes that are asked to leave, by home address."""

    def __init__(self, home_agent_address: IPv6Address) -> None:
        self._home_agent_address = home_agent_address
        self._requests: dict[IPv6Address, _Request] = {}
        self._next_at = -math.inf

    def __contains__(self, home_address: IPv6Address) -> bool:
        return home_address in self._requests

    def ask(
        self,
        home_addresses: Iterable[IPv6Address],
        home_agents: tuple[IPv6Address, ...],
        now: float,
    ) -> None:
        """Begin with these, or name others than before to them; `send` says what that makes."""
        message = HomeAgentSwitch(home_agents)
        for home_address in home_addresses:
            self._requests[home_address] = _Request(message, due_at=now)

    def end(self, home_address: IPv6Address) -> None:
        """The binding is over; nothing happens to those that are not asked."""
        self._requests.pop(home_address, None)

    def not_understood(self, home_address: IPv6Address, now: float) -> bool:
        """The mobile node knows no such message: whether one had been sent. Since anybody can say
        so it is asked again, at the slowest rate."""
        request = self._requests.get(home_address)
        if request is None or request.timeout == INITIAL_HA_SWITCH_TIMEOUT:
            return False
        request.timeout = MAX_HA_SWITCH_TIMEOUT
        request.due_at = now + request.timeout
        return True

    def send(
        self,
        care_of_address: Callable[[IPv6Address], IPv6Address],
        *,
        rate: float,
        now: float,
    ) -> list[SendPacket]:
        """What is due, ``rate`` messages a second at most."""
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return []
        home_address, request = min(self._requests.items(), key=lambda each: each[1].due_at)
        self._next_at = now + 1 / rate
        request.due_at = now + request.timeout
        request.timeout = min(request.timeout * 2, MAX_HA_SWITCH_TIMEOUT)
        return [self._packet(home_address, care_of_address(home_address), request.message)]

    def next_deadline(self) -> float | None:
        """When `send` wants to run, or None."""
        due_at = min((each.due_at for each in self._requests.values()), default=None)
        return None if due_at is None else max(due_at, self._next_at)

    def _packet(
        self, home_address: IPv6Address, care_of_address: IPv6Address, message: HomeAgentSwitch
    ) -> SendPacket:
        packet = IPv6Packet(
            self._home_agent_address,
            care_of_address,
            message,
            extension_headers=(Type2RoutingHeader(home_address),),
        )
        return SendPacket(packet=packet)
