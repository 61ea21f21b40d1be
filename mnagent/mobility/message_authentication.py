"""Binding Updates and Acknowledgements protected without IPsec (RFC 4285, RFC 4283).

    update           alternate care-of | MN-NAI | timestamp | MN-HA authentication
    acknowledgement  (others)          | MN-NAI | timestamp | MN-HA authentication

    authenticator = First(96, HMAC_SHA1(key, care-of address | home address | MH Data))

where MH Data is the Mobility Header up to and including the option's SPI, its checksum zero.

The timestamp is the replay protection: it must be close to the home agent's time of day, and later
than every one accepted before. A mobile node whose clock is wrong learns the right time from the
refusal, which is authenticated. The home agent keeps the last timestamp of each mobile node, over
restarts too.

The time of day comes from outside, as a function of the instant: the machines' own clock never
steps.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Final, TypeVar

from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.core.security import MobilityAssociation
from mnagent.mobility.keygen import AUTHENTICATOR_LENGTH, received_mobility_header
from mnagent.wire.constants import MOBILITY_OPTION_MESSAGE_AUTHENTICATION
from mnagent.wire.ipv6 import split_options
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingStatus,
    BindingUpdate,
    encode_mobility_message,
)
from mnagent.wire.mobility_options import (
    MessageAuthentication,
    MobileNodeIdentifier,
    MobilityOption,
    ReplayProtection,
)

MN_HA: Final = 1
"""Subtype of the authentication option (RFC 4285 5.1)."""
NETWORK_ACCESS_IDENTIFIER: Final = 1
"""Subtype of the identifier option (RFC 4283 3.1)."""
TIMESTAMP_TOLERANCE: Final = 7.0
"""Seconds (RFC 4285 5.1)."""
_OPTIONS_AT: Final = 12
"""Where the options of both messages begin in the Mobility Header."""
_NTP_EPOCH: Final = 2_208_988_800
"""Seconds from 1900 to 1970."""

WallClock = Callable[[float], float]
"""From an instant of the machines' clock to seconds since 1970."""
Signed = TypeVar("Signed", BindingUpdate, BindingAcknowledgement)


def timestamp_of(wall: float) -> int:
    """The 64 bits of NTP for a time in seconds since 1970."""
    return int((wall + _NTP_EPOCH) * (1 << 32)) & ((1 << 64) - 1)


def wall_of(timestamp: int) -> float:
    """Seconds since 1970."""
    return timestamp / (1 << 32) - _NTP_EPOCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """How one mobile node and its home agent authenticate each other."""

    association: MobilityAssociation
    identifier: str
    """Network access identifier, such as ``user@example.org``."""
    wall_clock: WallClock = field(compare=False, repr=False)


def signed(
    message: Signed,
    authentication: Authentication,
    *,
    timestamp: int,
    care_of_address: IPv6Address,
    home_address: IPv6Address,
) -> Signed:
    """The message with identifier, timestamp and authenticator behind its options."""
    association = authentication.association
    empty = MessageAuthentication(association.spi, bytes(AUTHENTICATOR_LENGTH), MN_HA)
    options: tuple[MobilityOption, ...] = (
        *message.options,
        MobileNodeIdentifier(authentication.identifier.encode(), NETWORK_ACCESS_IDENTIFIER),
        ReplayProtection(timestamp),
    )
    draft = replace(message, options=(*options, empty))
    covered = _covered(encode_mobility_message(draft))
    assert covered is not None, "the option has just been put there"
    value = _authenticator(association.key, covered, care_of_address, home_address)
    return replace(message, options=(*options, replace(empty, authenticator=value)))


def _covered(header: bytes) -> bytes | None:
    """MH Data; None without an MN-HA option as the last one."""
    last: tuple[int, bytes] | None = None
    for option_type, content, position in split_options(header[_OPTIONS_AT:], 0):
        is_ours = option_type == MOBILITY_OPTION_MESSAGE_AUTHENTICATION and content[:1] == b"\x01"
        last = (position, content) if is_ours else None
    if last is None:
        return None
    end = _OPTIONS_AT + last[0] + 2 + 5
    return header[:4] + bytes(2) + header[6:end]


def _authenticator(
    key: bytes, covered: bytes, care_of_address: IPv6Address, home_address: IPv6Address
) -> bytes:
    data = care_of_address.packed + home_address.packed + covered
    return hmac.digest(key, data, "sha1")[:AUTHENTICATOR_LENGTH]


def _fault_of(
    message: BindingUpdate | BindingAcknowledgement, authentication: Authentication
) -> DropReason | None:
    """What is wrong with the options, before any key is used."""
    option = _option(message, MessageAuthentication)
    if option is None or option.subtype != MN_HA or message.options[-1] is not option:
        return DropReason.NO_MESSAGE_AUTHENTICATION
    if option.spi != authentication.association.spi:
        return DropReason.UNKNOWN_MOBILITY_SPI
    # Identifiers of other kinds may stand beside it and say nothing to us (RFC 4283 3).
    identifiers = [
        each.identifier
        for each in message.options
        if isinstance(each, MobileNodeIdentifier) and each.subtype == NETWORK_ACCESS_IDENTIFIER
    ]
    is_ours = identifiers == [authentication.identifier.encode()]
    return None if is_ours else DropReason.WRONG_MOBILE_NODE_IDENTIFIER


def _is_authentic(
    event: PacketReceived,
    authentication: Authentication,
    *,
    care_of_address: IPv6Address,
    home_address: IPv6Address,
) -> bool:
    message = event.packet.payload
    assert isinstance(message, BindingUpdate | BindingAcknowledgement)
    option = _option(message, MessageAuthentication)
    header = (
        received_mobility_header(event.data) if event.data else encode_mobility_message(message)
    )
    covered = _covered(header)
    if option is None or covered is None:
        return False
    expected = _authenticator(
        authentication.association.key, covered, care_of_address, home_address
    )
    return hmac.compare_digest(expected, option.authenticator)


Option = TypeVar("Option", bound=MobilityOption)


def _option(message: BindingUpdate | BindingAcknowledgement, kind: type[Option]) -> Option | None:
    return next((each for each in message.options if isinstance(each, kind)), None)


class UpdateSigner:
    """The mobile node's end: signs updates, checks acknowledgements."""

    def __init__(self, authentication: Authentication, home_address: IPv6Address) -> None:
        self._authentication = authentication
        self._home_address = home_address
        self._offset = 0.0
        self._sent = 0

    def sign(
        self, update: BindingUpdate, care_of_address: IPv6Address, now: float
    ) -> BindingUpdate:
        """The update as it may leave: its timestamp is later than that of every one before."""
        timestamp = timestamp_of(self._authentication.wall_clock(now) + self._offset)
        self._sent = max(timestamp, self._sent + 1)
        return signed(
            update,
            self._authentication,
            timestamp=self._sent,
            care_of_address=care_of_address,
            home_address=self._home_address,
        )

    def check(
        self, event: PacketReceived, care_of_address: IPv6Address, now: float
    ) -> DropReason | None:
        """Why an acknowledgement is dropped, or None. A refusal for the time of day sets ours."""
        message = event.packet.payload
        assert isinstance(message, BindingAcknowledgement)
        fault = _fault_of(message, self._authentication)
        if fault is not None:
            return fault
        if not _is_authentic(
            event,
            self._authentication,
            care_of_address=care_of_address,
            home_address=self._home_address,
        ):
            return DropReason.BAD_AUTHENTICATOR
        told = _option(message, ReplayProtection)
        if message.status == BindingStatus.IDENTIFIER_MISMATCH:
            if told is None or (told.timestamp ^ self._sent) & 0xFFFFFFFF:
                return DropReason.WRONG_TIMESTAMP
            self._offset = wall_of(told.timestamp) - self._authentication.wall_clock(now)
            self._sent = 0
            return None
        is_ours = told is not None and told.timestamp == self._sent
        return None if is_ours else DropReason.WRONG_TIMESTAMP


class UpdateVerifier:
    """The home agent's end: checks updates, signs acknowledgements. Keeps one timestamp for each
    mobile node."""

    def __init__(self) -> None:
        self._accepted: dict[IPv6Address, int] = {}

    def last(self, home_address: IPv6Address) -> int:
        """The timestamp accepted last, 0 for none."""
        return self._accepted.get(home_address, 0)

    def restore(self, home_address: IPv6Address, timestamp: int) -> None:
        """What an earlier run accepted last."""
        self._accepted[home_address] = max(timestamp, self.last(home_address))

    def verify(
        self,
        event: PacketReceived,
        authentication: Authentication,
        *,
        care_of_address: IPv6Address,
        now: float,
    ) -> DropReason | BindingStatus | None:
        """Why an update is dropped, or refused with a status; None notes its timestamp."""
        message = event.packet.payload
        assert isinstance(message, BindingUpdate)
        home_address = event.packet.logical_source
        fault = _fault_of(message, authentication)
        if fault is not None:
            return fault
        if not _is_authentic(
            event, authentication, care_of_address=care_of_address, home_address=home_address
        ):
            return BindingStatus.AUTHENTICATION_FAILED
        told = _option(message, ReplayProtection)
        if told is None:
            return BindingStatus.MESSAGE_IDENTIFIER_REQUIRED
        distance = abs(wall_of(told.timestamp) - authentication.wall_clock(now))
        if distance > TIMESTAMP_TOLERANCE or told.timestamp <= self.last(home_address):
            return BindingStatus.IDENTIFIER_MISMATCH
        self._accepted[home_address] = told.timestamp
        return None

    def sign(
        self,
        acknowledgement: BindingAcknowledgement,
        authentication: Authentication,
        *,
        update: BindingUpdate,
        care_of_address: IPv6Address,
        home_address: IPv6Address,
        now: float,
    ) -> BindingAcknowledgement:
        """The answer, with the update's timestamp; one that is refused gets our time of day in its
        upper half (RFC 4285 6)."""
        told = _option(update, ReplayProtection)
        ours = timestamp_of(authentication.wall_clock(now))
        timestamp = ours if told is None else told.timestamp
        if acknowledgement.status == BindingStatus.IDENTIFIER_MISMATCH:
            timestamp = (ours & ~0xFFFFFFFF) | (timestamp & 0xFFFFFFFF)
        return signed(
            acknowledgement,
            authentication,
            timestamp=timestamp,
            care_of_address=care_of_address,
            home_address=home_address,
        )
