"""Stateless addresses of one interface (RFC 4862 5.5), used while still probed if wished (RFC
4429).

    advertised prefix -> tentative -- unique --> preferred -> deprecated -> removed
                         (optimistic: in use      ^   |
                          from the start)         |   | link event
            duplicate: removed, next identifier   |   v
        advertised, or its router answered: in doubt (kept, not offered)

An address that turned out to be a duplicate is taken back at once and never offered again; the next
identifier of RFC 7217 takes its place. On the next visit it is the last one tried.

Temporary addresses (RFC 8981) are random, end after two days, are deprecated after one at most,
and have a successor before that.

Optimistic addresses are configured through the host's kernel, which would answer for them with the
override flag set where RFC 4429 3.3 wants it clear, and has no switch for that once its own
detection is off. So the host keeps solicitations for them from the kernel
(`AddAddress.optimistic`), and the detection answers.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from random import Random

from mnagent.autoconf.constants import (
    DUP_ADDR_DETECT_TRANSMITS,
    INTERFACE_IDENTIFIER_BITS,
    MAX_ADDRESSES,
    MAX_DESYNC_FACTOR,
    MAX_DUPLICATES,
    MAX_KNOWN_DUPLICATES,
    MAX_PREFIXES,
    REGENERATION_ADVANCE,
    TEMPORARY_PREFERRED_LIFETIME,
    TEMPORARY_VALID_LIFETIME,
)
from mnagent.autoconf.dad import DuplicateAddressDetection
from mnagent.autoconf.interface_id import (
    EUI48_LENGTH,
    IdentifierKind,
    eui64_identifier,
    make_address,
    random_identifier,
    stable_identifier,
)
from mnagent.autoconf.link_memory import KnownAddress
from mnagent.core.actions import AddAddress, RemoveAddress, ReportEvent
from mnagent.core.events import PacketReceived
from mnagent.core.indications import (
    AddressDuplicate,
    AddressLost,
    AddressUnique,
    AddressUsable,
    Output,
)
from mnagent.core.prefix_lifetime import new_end
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
    valid_limit: float = math.inf
    """Instant at which it ends whatever is advertised: it is temporary."""
    preferred_limit: float = math.inf
    state: AddressState = AddressState.TENTATIVE
    detection: DuplicateAddressDetection | None = None
    is_unique: bool = False
    has_successor: bool = False

    @property
    def prefix(self) -> IPv6Network:
        return IPv6Network((self.address, INTERFACE_IDENTIFIER_BITS), strict=False)

    @property
    def ends_at(self) -> float:
        return min(self.valid_until, self.valid_limit)

    @property
    def deprecated_at(self) -> float:
        return min(self.preferred_until, self.preferred_limit)

    @property
    def succeeded_at(self) -> float | None:
        """When its successor is due, for a temporary one that has none."""
        if self.has_successor or self.preferred_limit == math.inf:
            return None
        return self.preferred_limit - REGENERATION_ADVANCE

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
        self._addresses: dict[IPv6Address, _Address] = {}
        self._duplicates: dict[IPv6Network, set[IPv6Address]] = {}
        self._known_duplicates: dict[IPv6Address, None] = {}
        self.link_layer_address = b""

    def states(self) -> dict[IPv6Address, AddressState]:
        """Every address and where it stands."""
        return {entry.address: entry.state for entry in self._addresses.values()}

    def known(self) -> list[KnownAddress]:
        """The addresses worth remembering: those in use."""
        return [
            KnownAddress(
                address=entry.address,
                valid_until=entry.ends_at,
                preferred_until=entry.deprecated_at,
                is_unique=entry.is_unique,
            )
            for entry in self._addresses.values()
            if entry.is_usable
        ]

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

    def prefixes_gone(self, prefixes: AbstractSet[IPv6Network]) -> list[Output]:
        """The router of these prefixes is not on this link, or not any more."""
        return self._remove_where(lambda entry: entry.prefix in prefixes)

    def advertised(
        self,
        prefixes: Iterable[PrefixInformation],
        *,
        now: float,
        is_first: bool = False,
        is_contradiction: bool = False,
    ) -> list[Output]:
        """A router advertised these prefixes (RFC 4862 5.5.3).

        ``is_first`` and ``is_contradiction`` are those of `Advertised`: addresses in doubt, or all,
        of other prefixes are not of this link.
        """
        suitable = [option for option in prefixes if _is_suitable(option)]
        here = {option.prefix for option in suitable}
        outputs = self._remove_where(
            lambda entry: (
                entry.prefix not in here
                and (is_contradiction or (is_first and entry.state is AddressState.IN_DOUBT))
            )
        )
        for option in suitable:
            entries = [e for e in self._addresses.values() if e.prefix == option.prefix]
            for entry in entries:
                outputs += self._refresh(entry, option, now)
            if not entries and option.valid_lifetime > 0 and self._has_room(option.prefix):
                outputs += self._form(
                    option.prefix,
                    valid_until=now + option.valid_lifetime,
                    preferred_until=now + option.preferred_lifetime,
                    now=now,
                )
        return outputs

    def restore(self, known: Iterable[KnownAddress], now: float) -> list[Output]:
        """These are of this link and ours, without detection (RFC 6059 5.7.1, 5.8).

        Unless we left before it had ended: then it starts anew.
        """
        outputs: list[Output] = []
        for address in known:
            entry = self._addresses.get(address.address)
            if entry is None:
                outputs += self._remove_doubtful(address.prefix)
                entry = self._recall(address)
            if entry is None or entry.state is not AddressState.IN_DOUBT:
                continue
            if not address.is_unique:
                outputs += self._probe(entry, now)
                continue
            entry.is_unique = True
            entry.state = AddressState.PREFERRED
            outputs += self._offer(entry, now)
        return outputs

    def handle(self, event: PacketReceived, now: float) -> list[Output]:
        """A validated Neighbor Solicitation or Advertisement of this interface."""
        outputs: list[Output] = []
        for entry in tuple(self._addresses.values()):
            if entry.detection is not None:
                outputs += self._settle(entry, entry.detection.handle(event, now), now)
        return outputs

    def address_refused(self, address: IPv6Address) -> list[Output]:
        """The host could not configure it."""
        return self._remove_where(lambda entry: entry.address == address)

    def address_duplicate(self, address: IPv6Address, now: float) -> list[Output]:
        """Somebody else found out that it is a duplicate."""
        entry = self._addresses.get(address)
        if entry is None:
            return []
        return [*self._stop_detection(entry), *self._replace(entry, now)]

    def handle_timer(self, now: float) -> list[Output]:
        """Go on with detections, and end or succeed addresses."""
        outputs = self._remove_where(lambda entry: entry.ends_at <= now)
        for entry in tuple(self._addresses.values()):
            if entry.detection is not None:
                outputs += self._settle(entry, entry.detection.handle_timer(now), now)
            if entry.succeeded_at is not None and entry.succeeded_at <= now:
                outputs += self._succeed(entry, now)
        return outputs

    def next_deadline(self) -> float | None:
        entries = self._addresses.values()
        return earliest(
            *(e.detection.next_deadline() for e in entries if e.detection is not None),
            *(e.ends_at for e in entries if e.ends_at < math.inf),
            *(e.succeeded_at for e in entries),
        )

    # Forming and replacing.

    def _has_room(self, prefix: IPv6Network) -> bool:
        prefixes = {entry.prefix for entry in self._addresses.values()} | {prefix}
        return len(prefixes) <= MAX_PREFIXES and len(self._addresses) < MAX_ADDRESSES

    def _form(
        self, prefix: IPv6Network, *, valid_until: float, preferred_until: float, now: float
    ) -> list[Output]:
        address = self._make(prefix)
        if address is None or address in self._addresses:
            return []
        entry = _Address(address, valid_until=valid_until, preferred_until=preferred_until)
        if self._settings.identifiers is IdentifierKind.TEMPORARY:
            desync = self._random.uniform(0.0, MAX_DESYNC_FACTOR)
            entry.valid_limit = now + TEMPORARY_VALID_LIFETIME
            entry.preferred_limit = now + TEMPORARY_PREFERRED_LIFETIME * (1 - desync)
        self._addresses[address] = entry
        return self._probe(entry, now)

    def _make(self, prefix: IPv6Network) -> IPv6Address | None:
        duplicates = self._duplicates.get(prefix, set())
        limit = 1 if self._settings.identifiers is IdentifierKind.EUI64 else MAX_DUPLICATES
        if len(duplicates) >= limit:
            return None
        candidates = [
            address
            for count in range(limit)
            if (address := self._candidate(prefix, count)) not in duplicates
            and address not in self._settings.never
        ]
        # One that was in use on an earlier visit comes last: it may be free again.
        return min(candidates, key=lambda a: a in self._known_duplicates, default=None)

    def _candidate(self, prefix: IPv6Network, duplicates: int) -> IPv6Address:
        match self._settings.identifiers:
            case IdentifierKind.EUI64 if len(self.link_layer_address) == EUI48_LENGTH:
                identifier = eui64_identifier(self.link_layer_address)
            case IdentifierKind.TEMPORARY:
                identifier = random_identifier(self._random)
            case _:  # also where a link has no addresses to make an EUI-64 from
                identifier = stable_identifier(
                    self._settings.secret,
                    prefix,
                    interface_name=self._name,
                    duplicates=duplicates,
                )
        return make_address(prefix, identifier)

    def _recall(self, known: KnownAddress) -> _Address | None:
        prefix = known.prefix
        is_taken = any(entry.prefix == prefix for entry in self._addresses.values())
        is_unwanted = known.address in self._settings.never or (
            known.address in self._known_duplicates
        )
        if is_taken or is_unwanted or not self._has_room(prefix):
            return None
        entry = _Address(
            known.address,
            valid_until=known.valid_until,
            preferred_until=known.preferred_until,
            state=AddressState.IN_DOUBT,
        )
        if self._settings.identifiers is IdentifierKind.TEMPORARY:
            entry.valid_limit = known.valid_until
            entry.preferred_limit = known.preferred_until
        self._addresses[known.address] = entry
        return entry

    def _succeed(self, entry: _Address, now: float) -> list[Output]:
        entry.has_successor = True
        if entry.state is AddressState.IN_DOUBT or not self._has_room(entry.prefix):
            return []
        return self._form(
            entry.prefix,
            valid_until=entry.valid_until,
            preferred_until=entry.preferred_until,
            now=now,
        )

    def _probe(self, entry: _Address, now: float) -> list[Output]:
        detection = DuplicateAddressDetection(
            entry.address,
            interface=self._interface,
            random=self._random,
            transmits=self._settings.transmits,
            link_layer_address=self.link_layer_address,
            is_optimistic=self._settings.optimistic,
        )
        entry.detection = detection
        entry.state = AddressState.TENTATIVE
        outputs: list[Output] = []
        if self._settings.optimistic:
            entry.state = AddressState.OPTIMISTIC
            outputs += self._offer(entry, now)
        # The solicitation leaves before anything else does from this address.
        return [*self._settle(entry, detection.start(now), now), *outputs]

    def _settle(self, entry: _Address, outputs: list[Output], now: float) -> list[Output]:
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
                    settled += self._replace(entry, now)
                case _:
                    settled.append(output)
        return settled

    def _replace(self, entry: _Address, now: float) -> list[Output]:
        details = (("address", str(entry.address)), ("interface", self._name))
        outputs: list[Output] = [
            ReportEvent(name="duplicate-address", details=details, warning=True)
        ]
        outputs += self._withdraw(entry)
        del self._addresses[entry.address]
        self._note_duplicate(entry)
        outputs += self._form(
            entry.prefix,
            valid_until=entry.valid_until,
            preferred_until=entry.preferred_until,
            now=now,
        )
        return outputs

    def _note_duplicate(self, entry: _Address) -> None:
        if entry.prefix not in self._duplicates and len(self._duplicates) >= MAX_ADDRESSES:
            del self._duplicates[next(iter(self._duplicates))]
        self._duplicates.setdefault(entry.prefix, set()).add(entry.address)
        self._known_duplicates.pop(entry.address, None)
        if len(self._known_duplicates) >= MAX_KNOWN_DUPLICATES:
            del self._known_duplicates[next(iter(self._known_duplicates))]
        self._known_duplicates[entry.address] = None

    def _refresh(self, entry: _Address, option: PrefixInformation, now: float) -> list[Output]:
        entry.preferred_until = now + option.preferred_lifetime
        entry.valid_until = new_end(entry.valid_until, option.valid_lifetime, now)
        if entry.state is AddressState.IN_DOUBT:
            if not entry.is_unique:
                return self._probe(entry, now)
            # The prefix is the one it was: the address needs no new detection (RFC 6059 5.7.1).
            entry.state = AddressState.PREFERRED
        return self._offer(entry, now) if entry.is_usable else []

    def _offer(self, entry: _Address, now: float) -> list[Output]:
        return [
            AddAddress(
                interface=self._interface,
                address=entry.address,
                prefix_length=INTERFACE_IDENTIFIER_BITS,
                valid_lifetime=_left(entry.ends_at, now),
                preferred_lifetime=_left(entry.deprecated_at, now),
                optimistic=not entry.is_unique,
            ),
            AddressUsable(
                interface=self._interface,
                address=entry.address,
                prefix_length=INTERFACE_IDENTIFIER_BITS,
                valid_until=entry.ends_at,
                preferred_until=entry.deprecated_at,
                optimistic=not entry.is_unique,
            ),
        ]

    # Taking back.

    def _remove_where(self, is_meant: Callable[[_Address], bool]) -> list[Output]:
        outputs: list[Output] = []
        for entry in [entry for entry in self._addresses.values() if is_meant(entry)]:
            outputs += [*self._stop_detection(entry), *self._withdraw(entry)]
            del self._addresses[entry.address]
        return outputs

    def _remove_doubtful(self, prefix: IPv6Network) -> list[Output]:
        return self._remove_where(
            lambda entry: entry.prefix == prefix and entry.state is AddressState.IN_DOUBT
        )

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
        and not option.prefix.is_multicast
        and option.preferred_lifetime <= option.valid_lifetime
        and option.prefix_length == INTERFACE_IDENTIFIER_BITS
    )


def _left(until: float, now: float) -> float | None:
    return None if until == math.inf else round(max(0.0, until - now), 3)
