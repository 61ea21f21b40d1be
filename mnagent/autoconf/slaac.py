"""Stateless addresses of one interface (RFC 4862 5.5), used while still probed if wished (RFC
4429).

    advertised prefix -> tentative -- unique --> preferred -> deprecated -> removed
                         (optimistic: in use      ^   |
                          from the start)         |   | link event
            duplicate: removed, next identifier   |   v
                                      advertised: in doubt (kept, not offered)

An address that turned out to be a duplicate is taken back at once and never offered again; the next
identifier of RFC 7217 takes its place.

Optimistic addresses are configured through the host's kernel, which defends them with the override
flag set where RFC 4429 3.3 wants it clear for one second. A kernel has no switch for that once its
own detection is off; what it costs is that a real duplicate's neighbours may see our link-layer
address for that second.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from random import Random

from mnagent.autoconf.constants import (
    DUP_ADDR_DETECT_TRANSMITS,
    INTERFACE_IDENTIFIER_BITS,
    MAX_DUPLICATES,
    MAX_PREFIXES,
    TWO_HOURS,
)
from mnagent.autoconf.dad import DuplicateAddressDetection
from mnagent.autoconf.interface_id import (
    IdentifierKind,
    eui64_identifier,
    make_address,
    stable_identifier,
)
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
from mnagent.wire.ndisc import PrefixInformation


class AddressState(enum.Enum):
    """Where an address stands (RFC 4862 2, RFC 4429 2.1)."""

    TENTATIVE = "tentative"
    OPTIMISTIC = "optimistic"
    PREFERRED = "preferred"
    IN_DOUBT = "in-doubt"


@dataclass(slots=True)
class _Address:
    address: IPv6Address
    valid_until: float
    preferred_until: float
    state: AddressState = AddressState.TENTATIVE
    detection: DuplicateAddressDetection | None = None
    is_unique: bool = False

    @property
    def is_usable(self) -> bool:
        return self.state in (AddressState.OPTIMISTIC, AddressState.PREFERRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlaacSettings:
    """How addresses are made."""

    optimistic: bool = True
    """Use an address while its uniqueness is still being checked."""
    identifiers: IdentifierKind = IdentifierKind.STABLE
    secret: bytes = b""
    """Key of the stable identifiers."""
    transmits: int = DUP_ADDR_DETECT_TRANSMITS
    """DupAddrDetectTransmits (RFC 4862 5.1)."""
    never: frozenset[IPv6Address] = frozenset()
    """Addresses that must not be formed: the home addresses."""


class Slaac:
    """The stateless addresses of one interface."""

    def __init__(
        self,
        interface: int,
        *,
        name: str,
        settings: SlaacSettings,
        random: Random,
    ) -> None:
        self._interface = interface
        self._name = name
        self._settings = settings
        self._random = random
        self._addresses: dict[IPv6Network, _Address] = {}
        self._duplicates: dict[IPv6Network, int] = {}
        self.link_layer_address = b""

    def states(self) -> dict[IPv6Address, AddressState]:
        """Every address and where it stands."""
        return {entry.address: entry.state for entry in self._addresses.values()}

    def link_came_up(self) -> list[Output]:
        """Doubt all addresses until a router confirms their prefixes (RFC 6059 5.4)."""
        outputs: list[Output] = []
        for entry in self._addresses.values():
            outputs += self._stop_detection(entry)
            if entry.is_usable:
                outputs.append(AddressLost(interface=self._interface, address=entry.address))
            entry.state = AddressState.IN_DOUBT
        self._duplicates.clear()
        return outputs

    def remove_all(self) -> list[Output]:
        """Take every address off the interface."""
        return self._remove_where(lambda _: True)

    def advertised(
        self, prefixes: Iterable[PrefixInformation], *, is_new_link: bool, now: float
    ) -> list[Output]:
        """A router advertised these prefixes (RFC 4862 5.5.3)."""
        suitable = [option for option in prefixes if _is_suitable(option)]
        outputs: list[Output] = []
        if is_new_link:
            here = {option.prefix for option in suitable}
            outputs += self._remove_where(lambda prefix: prefix not in here)
        for option in suitable:
            if option.prefix in self._addresses:
                outputs += self._refresh(option, now)
            elif option.valid_lifetime > 0 and len(self._addresses) < MAX_PREFIXES:
                outputs += self._form(
                    option.prefix,
                    valid_until=now + option.valid_lifetime,
                    preferred_until=now + option.preferred_lifetime,
                    now=now,
                )
        return outputs

    def handle(self, event: PacketReceived, now: float) -> list[Output]:
        """A validated Neighbor Solicitation or Advertisement of this interface."""
        outputs: list[Output] = []
        for prefix, entry in tuple(self._addresses.items()):
            if entry.detection is not None:
                outputs += self._settle(prefix, entry, entry.detection.handle(event, now), now)
        return outputs

    def address_refused(self, address: IPv6Address) -> list[Output]:
        """The host could not configure it."""
        return self._remove_where(lambda prefix: self._addresses[prefix].address == address)

    def address_duplicate(self, address: IPv6Address, now: float) -> list[Output]:
        """Somebody else found out that it is a duplicate."""
        for prefix, entry in tuple(self._addresses.items()):
            if entry.address == address:
                return [*self._stop_detection(entry), *self._replace(prefix, entry, now)]
        return []

    def handle_timer(self, now: float) -> list[Output]:
        """Go on with detections, and end addresses."""
        outputs = self._remove_where(lambda prefix: self._addresses[prefix].valid_until <= now)
        for prefix, entry in tuple(self._addresses.items()):
            if entry.detection is not None:
                outputs += self._settle(prefix, entry, entry.detection.handle_timer(now), now)
        return outputs

    def next_deadline(self) -> float | None:
        deadlines = [
            entry.detection.next_deadline() if entry.detection is not None else None
            for entry in self._addresses.values()
        ]
        ends = [e.valid_until for e in self._addresses.values() if e.valid_until < math.inf]
        return earliest(*deadlines, *ends)

    # Forming and replacing.

    def _form(
        self, prefix: IPv6Network, *, valid_until: float, preferred_until: float, now: float
    ) -> list[Output]:
        address = self._make(prefix)
        if address is None:
            return []
        entry = _Address(address, valid_until=valid_until, preferred_until=preferred_until)
        self._addresses[prefix] = entry
        return self._probe(prefix, entry, now)

    def _make(self, prefix: IPv6Network) -> IPv6Address | None:
        duplicates = self._duplicates.get(prefix, 0)
        if self._settings.identifiers is IdentifierKind.EUI64:
            if duplicates:
                return None
            address = make_address(prefix, eui64_identifier(self.link_layer_address))
            return None if address in self._settings.never else address
        if duplicates >= MAX_DUPLICATES:
            return None
        address = self._stable(prefix, duplicates)
        return None if address in self._settings.never else address

    def _stable(self, prefix: IPv6Network, duplicates: int) -> IPv6Address:
        identifier = stable_identifier(
            self._settings.secret, prefix, interface_name=self._name, duplicates=duplicates
        )
        return make_address(prefix, identifier)

    def _probe(self, prefix: IPv6Network, entry: _Address, now: float) -> list[Output]:
        detection = DuplicateAddressDetection(
            entry.address,
            interface=self._interface,
            random=self._random,
            transmits=self._settings.transmits,
        )
        entry.detection = detection
        entry.state = AddressState.TENTATIVE
        outputs: list[Output] = []
        if self._settings.optimistic:
            entry.state = AddressState.OPTIMISTIC
            outputs += self._offer(entry, now)
        # The solicitation leaves before anything else does from this address.
        return [*self._settle(prefix, entry, detection.start(now), now), *outputs]

    def _settle(
        self, prefix: IPv6Network, entry: _Address, outputs: list[Output], now: float
    ) -> list[Output]:
        settled: list[Output] = []
        for output in outputs:
            match output:
                case AddressUnique():
                    entry.detection = None
                    entry.is_unique = True
                    entry.state = AddressState.PREFERRED
                    settled += self._offer(entry, now)
                case AddressDuplicate():
                    entry.detection = None
                    settled += self._replace(prefix, entry, now)
                case _:
                    settled.append(output)
        return settled

    def _replace(self, prefix: IPv6Network, entry: _Address, now: float) -> list[Output]:
        details = (("address", str(entry.address)), ("interface", self._name))
        outputs: list[Output] = [
            ReportEvent(name="duplicate-address", details=details, warning=True)
        ]
        outputs += self._withdraw(entry)
        del self._addresses[prefix]
        self._duplicates[prefix] = self._duplicates.get(prefix, 0) + 1
        outputs += self._form(
            prefix,
            valid_until=entry.valid_until,
            preferred_until=entry.preferred_until,
            now=now,
        )
        return outputs

    def _refresh(self, option: PrefixInformation, now: float) -> list[Output]:
        entry = self._addresses[option.prefix]
        entry.preferred_until = now + option.preferred_lifetime
        entry.valid_until = _new_end(entry.valid_until, option.valid_lifetime, now)
        if entry.state is AddressState.IN_DOUBT:
            if not entry.is_unique:
                return self._probe(option.prefix, entry, now)
            # The prefix is the one it was: the address needs no new detection (RFC 6059 5.7.1).
            entry.state = AddressState.PREFERRED
        return self._offer(entry, now) if entry.is_usable else []

    def _offer(self, entry: _Address, now: float) -> list[Output]:
        return [
            AddAddress(
                interface=self._interface,
                address=entry.address,
                prefix_length=INTERFACE_IDENTIFIER_BITS,
                valid_lifetime=_left(entry.valid_until, now),
                preferred_lifetime=_left(entry.preferred_until, now),
            ),
            AddressUsable(
                interface=self._interface,
                address=entry.address,
                prefix_length=INTERFACE_IDENTIFIER_BITS,
                valid_until=entry.valid_until,
                preferred_until=entry.preferred_until,
                optimistic=not entry.is_unique,
            ),
        ]

    # Taking back.

    def _remove_where(self, is_meant: Callable[[IPv6Network], bool]) -> list[Output]:
        outputs: list[Output] = []
        for prefix in [prefix for prefix in self._addresses if is_meant(prefix)]:
            entry = self._addresses[prefix]
            outputs += [*self._stop_detection(entry), *self._withdraw(entry)]
            del self._addresses[prefix]
        return outputs

    def _withdraw(self, entry: _Address) -> list[Output]:
        """Tell first that it is gone, then take it off: nobody sends from it in between."""
        if entry.state is AddressState.TENTATIVE:
            return []
        outputs: list[Output] = []
        if entry.is_usable:
            outputs.append(AddressLost(interface=self._interface, address=entry.address))
        removal = RemoveAddress(
            interface=self._interface,
            address=entry.address,
            prefix_length=INTERFACE_IDENTIFIER_BITS,
        )
        return [*outputs, removal]

    def _stop_detection(self, entry: _Address) -> list[Output]:
        detection, entry.detection = entry.detection, None
        return [] if detection is None else detection.stop()


def _is_suitable(option: PrefixInformation) -> bool:
    """RFC 4862 5.5.3 a) to d): autonomous, not link-local, lifetimes in order, 64 bits."""
    return (
        option.autonomous
        and not option.prefix.is_link_local
        and option.preferred_lifetime <= option.valid_lifetime
        and option.prefix_length == INTERFACE_IDENTIFIER_BITS
    )


def _new_end(valid_until: float, advertised: float, now: float) -> float:
    """RFC 4862 5.5.3 e): nobody shortens an address's life below two hours without
    authentication."""
    left = valid_until - now
    if advertised > TWO_HOURS or advertised > left:
        return now + advertised
    if left <= TWO_HOURS:
        return valid_until
    return now + TWO_HOURS


def _left(until: float, now: float) -> float | None:
    return None if until == math.inf else round(max(0.0, until - now), 3)
