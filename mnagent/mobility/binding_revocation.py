"""Binding revocation at the home agent: telling a mobile node that its binding ends (RFC 5846).

    revoke --BRI--> waiting --BRA--------------> ended
                      | `--no answer: BRI again, after twice as long, BRI_MAX_RETRIES times--> ended
                      | `--Binding Error 2 (the mobile node knows no revocation)-------------> ended
                      `--a Binding Update that is accepted--> called off (RFC 5846 7)

The binding stays in force, so that the indication and the mobile node's last packets still have
their way, until the mobile node has answered or there is no more hope of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from random import Random
from typing import Final

from mnagent.core.actions import SendPacket
from mnagent.core.timers import earliest
from mnagent.mobility.constants import SEQUENCE_MODULUS
from mnagent.wire.ipv6 import IPv6Packet, Type2RoutingHeader
from mnagent.wire.mobility import BindingRevocationIndication, RevocationTrigger

BRI_MAX_RETRIES: Final = 1
"""RFC 5846 11, BRIMaxRetriesNumber."""
INIT_MIN_DELAY_BRIS: Final = 1.0
"""Seconds (RFC 5846 11, InitMINDelayBRIs)."""
MAX_BRACK_TIMEOUT: Final = 2.0
"""Seconds (RFC 5846 11)."""


@dataclass(slots=True)
class _Revocation:
    indication: SendPacket
    sequence: int
    due_at: float
    timeout: float = INIT_MIN_DELAY_BRIS
    retries: int = 0


class Revocations:
    """Those that wait for an answer: one a home address, no more than there are bindings."""

    def __init__(self, home_agent_address: IPv6Address, *, random: Random) -> None:
        self._home_agent_address = home_agent_address
        self._waiting: dict[IPv6Address, _Revocation] = {}
        self._sequence = random.randrange(SEQUENCE_MODULUS)

    def indication(
        self,
        home_address: IPv6Address,
        care_of_address: IPv6Address,
        trigger: RevocationTrigger = RevocationTrigger.ADMINISTRATIVE_REASON,
    ) -> SendPacket:
        """A Binding Revocation Indication whose answer nobody waits for."""
        self._sequence = (self._sequence + 1) % SEQUENCE_MODULUS
        message = BindingRevocationIndication(trigger=trigger, sequence=self._sequence)
        headers = (Type2RoutingHeader(home_address),)
        packet = IPv6Packet(
            self._home_agent_address, care_of_address, message, extension_headers=headers
        )
        return SendPacket(packet=packet)

    def begin(
        self, home_address: IPv6Address, care_of_address: IPv6Address, now: float
    ) -> list[SendPacket]:
        """Tell the mobile node; once it goes on nothing happens."""
        if home_address in self._waiting:
            return []
        indication = self.indication(home_address, care_of_address)
        due_at = now + INIT_MIN_DELAY_BRIS
        self._waiting[home_address] = _Revocation(indication, self._sequence, due_at)
        return [indication]

    def is_answer(self, home_address: IPv6Address, sequence: int) -> bool:
        """Whether an acknowledgement of this number is for what waits (RFC 5846 6.2.2)."""
        waiting = self._waiting.get(home_address)
        return waiting is not None and waiting.sequence == sequence

    def goes_to(self, care_of_address: IPv6Address) -> IPv6Address | None:
        """The home address whose indication went to this care-of address."""
        for home_address, waiting in self._waiting.items():
            if waiting.indication.packet.destination == care_of_address:
                return home_address
        return None

    def end(self, home_address: IPv6Address) -> None:
        """It is over, or called off; nothing happens when there is none."""
        self._waiting.pop(home_address, None)

    def handle_timer(self, now: float) -> tuple[list[SendPacket], list[IPv6Address]]:
        """What to send again, and the home addresses whose mobile nodes did not answer."""
        again: list[SendPacket] = []
        silent: list[IPv6Address] = []
        for home_address, waiting in list(self._waiting.items()):
            if waiting.due_at > now:
                continue
            if waiting.retries >= BRI_MAX_RETRIES:
                del self._waiting[home_address]
                silent.append(home_address)
                continue
            waiting.retries += 1
            waiting.timeout = min(waiting.timeout * 2, MAX_BRACK_TIMEOUT)
            waiting.due_at = now + waiting.timeout
            again.append(waiting.indication)
        return again, silent

    def next_deadline(self) -> float | None:
        return earliest(*(waiting.due_at for waiting in self._waiting.values()))
