"""Dynamic home agent address discovery, the mobile node's side (RFC 6275 11.4.1).

    idle --start--> asking --reply with our identifier--> idle, HomeAgentsFound
                      | `- 3 s, 6 s, 12 s, 24 s, 48 s: the same request again, DHAAD_RETRIES times
                      `--nobody answered--> idle, HomeAgentsFound of nobody

The request goes from the care-of address to the Mobile IPv6 Home-Agents anycast address of the home
prefix, so that some home agent of the home link answers with all that it knows. Request and reply
travel unprotected: a forged list costs time and no more, for a home agent without our keys is never
used.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Final

from mnagent.core.actions import ReportEvent, SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.mobility.addresses import home_agents_anycast, is_routable_unicast
from mnagent.mobility.constants import (
    DHAAD_RETRIES,
    INITIAL_DHAAD_TIMEOUT,
    MAX_DISCOVERED_HOME_AGENTS,
)
from mnagent.wire.icmp6 import HomeAgentAddressDiscoveryReply, HomeAgentAddressDiscoveryRequest
from mnagent.wire.ipv6 import IPv6Packet

_IDENTIFIERS: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAgentsFound:
    """What discovery came to; stays within the mobile node."""

    addresses: tuple[IPv6Address, ...]
    """In the order in which they are to be tried; empty when nobody answered."""


DiscoveryOutput = SendPacket | ReportEvent | HomeAgentsFound


class HomeAgentDiscovery:
    """Asks the home link of one home prefix for its home agents."""

    def __init__(self, home_prefix: IPv6Network, *, random: Random) -> None:
        self.drops: Counter[DropReason] = Counter()
        self._anycast = home_agents_anycast(home_prefix)
        self._random = random
        self._identifier: int | None = None
        self._source: IPv6Address | None = None
        self._interface: int | None = None
        self._timeout = INITIAL_DHAAD_TIMEOUT
        self._tries_left = 0
        self._deadline: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether a request waits for its reply."""
        return self._identifier is not None

    def start(self, source: IPv6Address, interface: int, now: float) -> list[DiscoveryOutput]:
        """Ask from a care-of address; from another one when that has changed meanwhile."""
        if self._identifier is not None and source == self._source:
            return []
        self._source, self._interface = source, interface
        self._identifier = self._random.randrange(_IDENTIFIERS)
        self._timeout = INITIAL_DHAAD_TIMEOUT
        self._tries_left = DHAAD_RETRIES
        details = (("anycast", str(self._anycast)), ("source", str(source)))
        return [ReportEvent(name="home-agent-discovery", details=details), *self._send(now)]

    def stop(self) -> None:
        """There is no care-of address to ask from, or no need any more."""
        self._identifier = self._source = self._deadline = None

    def handle(self, event: PacketReceived, now: float) -> list[DiscoveryOutput]:
        """A Home Agent Address Discovery Reply."""
        reply = event.packet.payload
        assert isinstance(reply, HomeAgentAddressDiscoveryReply)
        if self._identifier is None or event.packet.destination != self._source:
            return self._drop(DropReason.UNEXPECTED_MESSAGE)
        if reply.identifier != self._identifier:
            return self._drop(DropReason.WRONG_IDENTIFIER)
        addresses = tuple(
            dict.fromkeys(
                address
                for address in reply.addresses[:MAX_DISCOVERED_HOME_AGENTS]
                if is_routable_unicast(address)
            )
        )
        if not addresses:
            return self._drop(DropReason.NO_ADDRESSES_AVAILABLE)
        self.stop()
        listed = " ".join(str(address) for address in addresses)
        details = (("from", str(event.packet.source)), ("home_agents", listed))
        return [
            ReportEvent(name="home-agents-discovered", details=details),
            HomeAgentsFound(addresses=addresses),
        ]

    def handle_timer(self, now: float) -> list[DiscoveryOutput]:
        """Ask again, or give up."""
        if self._deadline is None or now < self._deadline:
            return []
        if self._tries_left > 0:
            self._tries_left -= 1
            # Each retransmission waits twice as long as the one before.
            self._timeout *= 2
            return self._send(now)
        self.stop()
        details = (("anycast", str(self._anycast)),)
        return [
            ReportEvent(name="home-agent-discovery-failed", details=details, warning=True),
            HomeAgentsFound(addresses=()),
        ]

    def next_deadline(self) -> float | None:
        return self._deadline

    def _send(self, now: float) -> list[DiscoveryOutput]:
        assert self._source is not None and self._identifier is not None
        self._deadline = now + self._timeout
        request = HomeAgentAddressDiscoveryRequest(self._identifier)
        packet = IPv6Packet(self._source, self._anycast, request)
        return [SendPacket(packet=packet, interface=self._interface)]

    def _drop(self, reason: DropReason) -> list[DiscoveryOutput]:
        self.drops[reason] += 1
        return []
