"""The addresses that DHCPv6 servers lease to one interface, from detection to expiry.

    leased -> tentative -- unique --> preferred -> removed
              (optimistic: in use      ^   |
               from the start)         |   | link event
        duplicate: taken back,         |   v
        to be declined      confirmed: in doubt (kept, not offered)

The client decides what is leased and confirmed. It asks for ``duplicates`` after every call: those
are to be declined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv6Address
from random import Random
from typing import Final

from mnagent.autoconf.constants import DUP_ADDR_DETECT_TRANSMITS
from mnagent.autoconf.dad import DuplicateAddressDetection
from mnagent.autoconf.slaac import AddressState
from mnagent.core.actions import AddAddress, RemoveAddress, ReportEvent
from mnagent.core.events import PacketReceived
from mnagent.core.indications import (
    AddressDuplicate,
    AddressLost,
    AddressUnique,
    AddressUsable,
    Output,
)
from mnagent.core.timers import earliest

LEASED_PREFIX_LENGTH: Final = 128
"""An address says nothing of what else is on the link (RFC 8415 18.2.10.1)."""
MAX_LEASES: Final = 8
"""Addresses of one interface; a server's further ones are ignored."""


@dataclass(slots=True)
class _Lease:
    address: IPv6Address
    valid_until: float
    preferred_until: float
    state: AddressState = AddressState.TENTATIVE
    detection: DuplicateAddressDetection | None = None
    is_unique: bool = False
    is_configured: bool = False

    @property
    def is_usable(self) -> bool:
        return self.state in (AddressState.OPTIMISTIC, AddressState.PREFERRED)


class Leases:
    """The leased addresses of one interface."""

    def __init__(
        self,
        interface: int,
        *,
        name: str,
        random: Random,
        optimistic: bool = True,
        transmits: int = DUP_ADDR_DETECT_TRANSMITS,
    ) -> None:
        self._interface = interface
        self._name = name
        self._random = random
        self._optimistic = optimistic
        self._transmits = transmits
        self._leases: dict[IPv6Address, _Lease] = {}
        self._duplicates: list[IPv6Address] = []
        self.link_layer_address = b""

    def __bool__(self) -> bool:
        return bool(self._leases)

    @property
    def addresses(self) -> tuple[IPv6Address, ...]:
        """Every address, oldest first."""
        return tuple(self._leases)

    @property
    def is_full(self) -> bool:
        """No further address is taken."""
        return len(self._leases) >= MAX_LEASES

    def states(self) -> dict[IPv6Address, AddressState]:
        """Every address and where it stands."""
        return {lease.address: lease.state for lease in self._leases.values()}

    def take_duplicates(self) -> list[IPv6Address]:
        """Addresses that turned out to be others', told once."""
        duplicates, self._duplicates = self._duplicates, []
        return duplicates

    def grant(
        self, address: IPv6Address, *, valid_until: float, preferred_until: float, now: float
    ) -> list[Output]:
        """A server leased an address, or prolonged the lease."""
        lease = self._leases.get(address)
        if lease is None:
            lease = _Lease(address, valid_until, preferred_until)
            self._leases[address] = lease
            return self._probe(lease, now)
        lease.valid_until, lease.preferred_until = valid_until, preferred_until
        return self._offer(lease, now) if lease.is_usable else []

    def kept(self) -> tuple[tuple[IPv6Address, float, float], ...]:
        """Every address, with the instants at which it ends and is deprecated."""
        return tuple(
            (lease.address, lease.valid_until, lease.preferred_until)
            for lease in self._leases.values()
        )

    def restore(self, address: IPv6Address, *, valid_until: float, preferred_until: float) -> None:
        """A lease of an earlier run, in doubt. Somebody may have taken the address meanwhile."""
        if not self.is_full:
            lease = _Lease(address, valid_until, preferred_until, AddressState.IN_DOUBT)
            self._leases[address] = lease

    def confirm(self, now: float) -> list[Output]:
        """The link is the one that they were leased on: an address needs no new detection there
        (RFC 6059 5.7.1)."""
        outputs: list[Output] = []
        for lease in tuple(self._leases.values()):
            if lease.state is AddressState.IN_DOUBT:
                outputs += self._trust(lease, now)
        return outputs

    def doubt(self, *, link_is_gone: bool = False) -> list[Output]:
        """The link may be another; without a link the addresses leave the interface as well."""
        outputs: list[Output] = []
        for lease in self._leases.values():
            outputs += self._stop_detection(lease)
            outputs += self._withdraw(lease, keep_configured=not link_is_gone)
            lease.state = AddressState.IN_DOUBT
        return outputs

    def drop(self, address: IPv6Address) -> list[Output]:
        """End one lease; nothing happens when there is none."""
        lease = self._leases.pop(address, None)
        if lease is None:
            return []
        return [*self._stop_detection(lease), *self._withdraw(lease)]

    def drop_all(self) -> list[Output]:
        """End every lease."""
        return [output for address in tuple(self._leases) for output in self.drop(address)]

    def found_duplicate(self, address: IPv6Address) -> list[Output]:
        """Somebody else found out that an address is another node's."""
        lease = self._leases.get(address)
        return [] if lease is None else self._give_up(lease)

    def handle(self, event: PacketReceived, now: float) -> list[Output]:
        """A validated Neighbor Solicitation or Advertisement of this interface."""
        outputs: list[Output] = []
        for lease in tuple(self._leases.values()):
            if lease.detection is not None:
                outputs += self._settle(lease, lease.detection.handle(event, now), now)
        return outputs

    def handle_timer(self, now: float) -> list[Output]:
        """Go on with detections, and end leases."""
        outputs: list[Output] = []
        for lease in tuple(self._leases.values()):
            if lease.valid_until <= now:
                outputs += self.drop(lease.address)
            elif lease.detection is not None:
                outputs += self._settle(lease, lease.detection.handle_timer(now), now)
        return outputs

    def next_deadline(self) -> float | None:
        detections = [
            lease.detection.next_deadline() if lease.detection is not None else None
            for lease in self._leases.values()
        ]
        ends = [e.valid_until for e in self._leases.values() if e.valid_until < math.inf]
        return earliest(*detections, *ends)

    def _probe(self, lease: _Lease, now: float) -> list[Output]:
        lease.detection = DuplicateAddressDetection(
            lease.address,
            interface=self._interface,
            random=self._random,
            transmits=self._transmits,
            link_layer_address=self.link_layer_address,
            is_optimistic=self._optimistic,
        )
        lease.state = AddressState.TENTATIVE
        offer: list[Output] = []
        if self._optimistic:
            lease.state = AddressState.OPTIMISTIC
            offer = self._offer(lease, now)
        # The solicitation leaves before anything else does from this address.
        return [*self._settle(lease, lease.detection.start(now), now), *offer]

    def _trust(self, lease: _Lease, now: float) -> list[Output]:
        if not lease.is_unique:
            return self._probe(lease, now)
        lease.state = AddressState.PREFERRED
        return self._offer(lease, now)

    def _settle(self, lease: _Lease, outputs: list[Output], now: float) -> list[Output]:
        settled: list[Output] = []
        for output in outputs:
            match output:
                case AddressUnique():
                    lease.detection = None
                    lease.is_unique = True
                    lease.state = AddressState.PREFERRED
                    settled += self._offer(lease, now)
                case AddressDuplicate():
                    lease.detection = None
                    settled += self._give_up(lease)
                case _:
                    settled.append(output)
        return settled

    def _give_up(self, lease: _Lease) -> list[Output]:
        self._duplicates.append(lease.address)
        details = (("address", str(lease.address)), ("interface", self._name))
        report = ReportEvent(name="duplicate-address", details=details, warning=True)
        return [report, *self.drop(lease.address)]

    def _offer(self, lease: _Lease, now: float) -> list[Output]:
        lease.is_configured = True
        return [
            AddAddress(
                interface=self._interface,
                address=lease.address,
                prefix_length=LEASED_PREFIX_LENGTH,
                valid_lifetime=_left(lease.valid_until, now),
                preferred_lifetime=_left(lease.preferred_until, now),
                optimistic=not lease.is_unique,
            ),
            AddressUsable(
                interface=self._interface,
                address=lease.address,
                prefix_length=LEASED_PREFIX_LENGTH,
                valid_until=lease.valid_until,
                preferred_until=lease.preferred_until,
                optimistic=not lease.is_unique,
                managed=True,
            ),
        ]

    def _withdraw(self, lease: _Lease, *, keep_configured: bool = False) -> list[Output]:
        """Tell first that it is gone, then take it off: nobody sends from it in between."""
        outputs: list[Output] = []
        if lease.is_usable:
            outputs.append(AddressLost(interface=self._interface, address=lease.address))
        if lease.is_configured and not keep_configured:
            lease.is_configured = False
            outputs.append(
                RemoveAddress(
                    interface=self._interface,
                    address=lease.address,
                    prefix_length=LEASED_PREFIX_LENGTH,
                )
            )
        return outputs

    def _stop_detection(self, lease: _Lease) -> list[Output]:
        detection, lease.detection = lease.detection, None
        return [] if detection is None else detection.stop()


def _left(until: float, now: float) -> float | None:
    return None if until == math.inf else round(max(0.0, until - now), 3)
