"""Bindings that an earlier run kept, until it is known that nobody else serves them by now.

While a home agent is down its mobile nodes may go to another one of the home link, which then
defends their home addresses there (RFC 6275 10.4.1) and must not have them taken away. Who has a
home address answers a solicitation for it, so the home link is asked before anything is announced;
and so it is when the home link itself was gone for a while:

    restored --solicitation--> asking --nobody answers--> defended as before
                                 |  `--the mobile node updates its binding here--> defended
                                 `--somebody does--> the binding has ended here

Packets that reach this machine meanwhile are tunnelled: neighbours that still know it for the home
address send them here, and no others do. After an ordinary restart nobody answers, and nothing is
lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from random import Random
from typing import Final

from mnagent.core.actions import SendPacket
from mnagent.core.events import PacketReceived
from mnagent.core.timers import earliest
from mnagent.mobility.home_address_probe import HomeAddressProbe, HomeAddressUnique, Outcome

MAX_WAIT: Final = 0.9
"""Seconds. Less than the second that RFC 4862 waits, since mobile nodes wait too; more than the 0.8
that a host which defends addresses for others may take for its answer on Linux."""

MIN_ABSENCE: Final = 2.0
"""Seconds. No mobile node gives its home agent up sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What has come of it."""

    solicitations: tuple[SendPacket, ...] = ()
    ours: tuple[IPv6Address, ...] = ()
    """Home addresses that nobody else has."""
    others: tuple[IPv6Address, ...] = ()
    """Home addresses that another node has."""


class RestoredBindings:
    """Those of one home link that are not defended yet, by home address."""

    def __init__(
        self, home_link: int, *, random: Random, transmits: int, retransmission_timer: float
    ) -> None:
        """``home_link`` is an interface index; the others as in `HomeAddressProbe`."""
        self._home_link = home_link
        self._random = random
        self._transmits = transmits
        self._wait = min(retransmission_timer, MAX_WAIT)
        self._probes: dict[IPv6Address, HomeAddressProbe] = {}

    def __contains__(self, home_address: IPv6Address) -> bool:
        return home_address in self._probes

    def ask(
        self, home_address: IPv6Address, addresses: frozenset[IPv6Address], now: float
    ) -> Asked:
        """Ask, or ask anew, who has these ``addresses`` of a mobile node; the groups have been
        joined."""
        probe = self._probes[home_address] = HomeAddressProbe(
            addresses,
            interface=self._home_link,
            random=self._random,
            transmits=self._transmits,
            retransmission_timer=self._wait,
        )
        return self._take({home_address: probe.start(now)})

    def end(self, home_address: IPv6Address) -> bool:
        """Nobody needs to be asked any more; whether somebody was."""
        return self._probes.pop(home_address, None) is not None

    def handle(self, event: PacketReceived, now: float) -> Asked:
        """A validated Neighbor Discovery message of the home link."""
        return self._take({key: probe.handle(event, now) for key, probe in self._probes.items()})

    def handle_timer(self, now: float) -> Asked:
        return self._take({key: probe.handle_timer(now) for key, probe in self._probes.items()})

    def next_deadline(self) -> float | None:
        return earliest(*(probe.next_deadline() for probe in self._probes.values()))

    def _take(self, outputs: dict[IPv6Address, list[SendPacket | Outcome]]) -> Asked:
        solicitations: list[SendPacket] = []
        ours: list[IPv6Address] = []
        others: list[IPv6Address] = []
        for home_address, outcomes in outputs.items():
            for outcome in outcomes:
                if isinstance(outcome, SendPacket):
                    solicitations.append(outcome)
                    continue
                del self._probes[home_address]
                (ours if isinstance(outcome, HomeAddressUnique) else others).append(home_address)
        return Asked(solicitations=tuple(solicitations), ours=tuple(ours), others=tuple(others))
