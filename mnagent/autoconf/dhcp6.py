"""A DHCPv6 client for one interface (RFC 8415), started by what routers advertise.

    IDLE -- M flag --> SOLICITING -- rapid commit Reply ------------> BOUND
     |                     `- Advertise -> REQUESTING -- Reply ------> | ^ |
     |                                        ^                  T1   | | |
     `- O flag -> INFORMING -> INFORMED       |   NoBinding           v | |
                                              `---------- RENEWING -----' |
    link event with leases -> CONFIRMING -> BOUND            | T2       ^ |
                                   `- NotOnLink -> IDLE      v          | |
    duplicate -> DECLINING -> BOUND or WAITING           REBINDING -----' |
    failure -> WAITING (twice as long each time) -> IDLE     `- expired --'

A link event puts the leases in doubt and asks the servers whether they fit the link. The router
advertisement that follows decides as well, often sooner: prefixes that cover a lease, or were there
when it was made, mean that the link is the same; none of them means another link, where
solicitation starts at once. Leases outlive a crash (lease_record), and are confirmed in the same
way before they are used again. The same interface always shows the same DUID and IAID, so that a
server gives the same addresses after a restart.

A NotOnLink answer to Confirm is taken at once, where RFC 8415 18.2.10.3 would wait for another
server to say the opposite: the new solicitation comes to that server too.

Each failure after an answer (no address after all, a duplicate, an address the host refuses)
doubles the wait before the next solicitation, which keeps within the rate limit of RFC 8415 14.1.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Final

from mnagent.autoconf import dhcp6_exchange as timing
from mnagent.autoconf.constants import DUP_ADDR_DETECT_TRANSMITS
from mnagent.autoconf.dhcp6_exchange import Retransmission, Schedule, is_max_timeout
from mnagent.autoconf.dhcp6_leases import Leases
from mnagent.autoconf.lease_record import KeptLeases
from mnagent.autoconf.slaac import AddressState
from mnagent.core.actions import ReportEvent, SendDhcpMessage
from mnagent.core.drops import DropReason
from mnagent.core.events import DhcpMessageReceived, PacketReceived
from mnagent.core.indications import Output
from mnagent.core.timers import earliest
from mnagent.wire import constants
from mnagent.wire.buffer import DecodeError
from mnagent.wire.dhcp6 import (
    ClientIdentifier,
    Dhcp6Message,
    Dhcp6MessageType,
    Dhcp6Option,
    Dhcp6Status,
    DnsServers,
    ElapsedTime,
    IdentityAssociation,
    InformationMaxTimeout,
    InformationRefreshTime,
    LeasedAddress,
    OptionRequest,
    Preference,
    RapidCommit,
    ServerIdentifier,
    SolicitMaxTimeout,
    StatusCode,
    decode_dhcp6_message,
    encode_dhcp6_message,
)

DUID_LENGTH: Final = 18
"""Octets of a DUID made of a UUID, with its type (RFC 8415 11.5)."""
DUID_TYPE_UUID: Final = 4
MAX_PREFERENCE: Final = 255
MIN_RENEW_DELAY: Final = 1.0
"""Seconds from an answer to the next message, however small T1 is (RFC 8415 14.1)."""
NO_ANSWER_COUNT: Final = 3
"""Solicitations without any answer before people are told."""
_LEASE_OPTIONS: Final = (constants.DHCP6_OPTION_DNS_SERVERS, constants.DHCP6_OPTION_SOL_MAX_RT)
_INFORMATION_OPTIONS: Final = (
    constants.DHCP6_OPTION_DNS_SERVERS,
    constants.DHCP6_OPTION_INFORMATION_REFRESH_TIME,
    constants.DHCP6_OPTION_INF_MAX_RT,
)


class Phase(enum.Enum):
    """What the client is doing."""

    IDLE = "idle"
    """No router asked for DHCPv6."""
    WAITING = "waiting"
    """For a failure to pass."""
    SOLICITING = "soliciting"
    REQUESTING = "requesting"
    BOUND = "bound"
    RENEWING = "renewing"
    REBINDING = "rebinding"
    CONFIRMING = "confirming"
    DECLINING = "declining"
    INFORMING = "informing"
    INFORMED = "informed"


_MESSAGES: Final = {
    Phase.SOLICITING: Dhcp6MessageType.SOLICIT,
    Phase.REQUESTING: Dhcp6MessageType.REQUEST,
    Phase.RENEWING: Dhcp6MessageType.RENEW,
    Phase.REBINDING: Dhcp6MessageType.REBIND,
    Phase.CONFIRMING: Dhcp6MessageType.CONFIRM,
    Phase.DECLINING: Dhcp6MessageType.DECLINE,
    Phase.INFORMING: Dhcp6MessageType.INFORMATION_REQUEST,
}
"""The message of each phase that waits for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dhcp6Settings:
    """How the client behaves."""

    duid: bytes
    """Identifies this node to servers, the same for ever (RFC 8415 11)."""
    enabled: bool = True
    """Do as the M and O flags of routers say; else never send anything."""
    stateless: bool = False
    """Ask for information at most, never for addresses."""
    rapid_commit: bool = True
    """Take addresses from the first answer where the server allows it."""
    optimistic: bool = True
    """Use an address while its uniqueness is still being checked (RFC 4429)."""
    transmits: int = DUP_ADDR_DETECT_TRANSMITS
    """DupAddrDetectTransmits (RFC 4862 5.1)."""
    never: frozenset[IPv6Address] = frozenset()
    """Addresses that must not be taken: the home addresses."""


DHCP6_OFF: Final = Dhcp6Settings(duid=bytes(DUID_LENGTH), enabled=False)
"""A client that never sends anything."""


def make_duid(random: Random) -> bytes:
    """A new DUID that tells nothing of this machine (RFC 6355)."""
    return DUID_TYPE_UUID.to_bytes(2, "big") + random.randbytes(DUID_LENGTH - 2)


def association_identifier(name: str) -> int:
    """The IAID of an interface: the same after every restart (RFC 8415 12)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exchange:
    transaction: int
    retransmission: Retransmission
    server: bytes | None
    """DUID of the only server that may answer, None for any."""
    addresses: tuple[IPv6Address, ...]
    """What the message is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    preference: int
    server: bytes
    addresses: tuple[IPv6Address, ...]


class Dhcp6Client:
    """The client of one interface."""

    def __init__(
        self, interface: int, *, name: str, settings: Dhcp6Settings, random: Random
    ) -> None:
        self._interface = interface
        self._name = name
        self._settings = settings
        self._random = random
        self._leases = Leases(
            interface,
            name=name,
            random=random,
            optimistic=settings.optimistic,
            transmits=settings.transmits,
        )
        self._association = association_identifier(name)
        self._phase = Phase.IDLE
        self._exchange: _Exchange | None = None
        self._wake_at: float | None = None
        """End of a phase that has no exchange."""
        self._renew_at = self._rebind_at = math.inf
        self._server: bytes | None = None
        self._best: _Offer | None = None
        self._declined: list[IPv6Address] = []
        self._failures = 0
        self._is_managed = self._has_other = False
        self._prefixes: frozenset[IPv6Network] = frozenset()
        self._leased_under: frozenset[IPv6Network] = frozenset()
        self._solicit_maximum = timing.SOL_MAX_RT
        self._information_maximum = timing.INF_MAX_RT
        self._link_local: IPv6Address | None = None
        self.drops: Counter[DropReason] = Counter()

    @property
    def phase(self) -> Phase:
        """What the client is doing."""
        return self._phase

    def kept(self) -> KeptLeases | None:
        """What is worth keeping across a crash, None without leases."""
        if not self._leases or self._server is None:
            return None
        return KeptLeases(
            server=self._server, prefixes=self._leased_under, addresses=self._leases.kept()
        )

    def restore(self, kept: KeptLeases, now: float) -> None:
        """Leases of an earlier run, before the first link event, which has them confirmed; then
        they are renewed, as nobody knows how long that run has been over."""
        if not self._settings.enabled or self._settings.stateless:
            return
        self._server, self._leased_under = kept.server, kept.prefixes
        for address, valid_until, preferred_until in kept.addresses:
            self._leases.restore(address, valid_until=valid_until, preferred_until=preferred_until)
        self._renew_at = now
        self._rebind_at = min((until for _, until, _ in kept.addresses), default=math.inf)

    def states(self) -> dict[IPv6Address, AddressState]:
        """Every leased address and where it stands."""
        return self._leases.states()

    # What happens on the link.

    def link_came_up(self, now: float, *, link_layer_address: bytes = b"") -> list[Output]:
        """Doubt the leases and have them confirmed (RFC 8415 18.2.12)."""
        self._leases.link_layer_address = link_layer_address
        self._forget_routers()
        outputs = self._leases.doubt()
        if not self._leases:
            return [*outputs, *self._enter(Phase.IDLE)]
        return [*outputs, *self._begin(Phase.CONFIRMING, now, addresses=self._leases.addresses)]

    def link_went_down(self) -> list[Output]:
        """Take the addresses off the interface; the leases may be of use again."""
        self._forget_routers()
        return [*self._leases.doubt(link_is_gone=True), *self._enter(Phase.IDLE)]

    def link_local_changed(self, address: IPv6Address | None, now: float) -> list[Output]:
        """The address to send from is there (not tentative), or gone (None)."""
        self._link_local = address
        exchange = self._exchange
        if address is None or exchange is None or exchange.retransmission.sent:
            return []
        return self._transmit(exchange, now)

    def router_advertised(
        self,
        prefixes: frozenset[IPv6Network],
        now: float,
        *,
        managed: bool,
        other: bool,
        is_new_link: bool,
    ) -> list[Output]:
        """A router advertised itself, with its M and O flags (RFC 4861 4.2)."""
        outputs: list[Output] = []
        if is_new_link:
            self._is_managed = self._has_other = False
            self._prefixes = frozenset()
            outputs = self._judge_link(prefixes, now)
        self._is_managed |= managed
        self._has_other |= other
        self._prefixes |= prefixes
        return [*outputs, *self._obey(now)]

    def link_confirmed(self, now: float) -> list[Output]:
        """The link is known to be the one the leases were made on (RFC 6059 5.7.1)."""
        return self._leases.confirm(now)

    def handle(self, event: DhcpMessageReceived, now: float) -> list[Output]:
        """A message came to the client's port."""
        try:
            message = decode_dhcp6_message(event.data)
        except DecodeError:
            return self._drop(DropReason.MALFORMED)
        exchange = self._exchange
        if exchange is None or message.transaction != exchange.transaction:
            return self._drop(DropReason.WRONG_TRANSACTION)
        server = message.first(ServerIdentifier)
        if (
            message.first(ClientIdentifier) != ClientIdentifier(self._settings.duid)
            or server is None
            or exchange.server not in (None, server.duid)
        ):
            return self._drop(DropReason.WRONG_IDENTIFIER)
        self._take_max_timeouts(message)
        if message.message_type == Dhcp6MessageType.ADVERTISE and self._phase is Phase.SOLICITING:
            return self._on_advertise(message, server.duid, now)
        if message.message_type == Dhcp6MessageType.REPLY:
            return self._on_reply(message, server.duid, now)
        return self._drop(DropReason.UNEXPECTED_MESSAGE)

    def handle_neighbor(self, event: PacketReceived, now: float) -> list[Output]:
        """A validated Neighbor Solicitation or Advertisement of this interface."""
        outputs = self._leases.handle(event, now)
        return [*outputs, *self._look_after_leases(now)]

    def address_duplicate(self, address: IPv6Address, now: float) -> list[Output]:
        """Somebody else found out that it is a duplicate."""
        outputs = self._leases.found_duplicate(address)
        return [*outputs, *self._look_after_leases(now)]

    def address_refused(self, address: IPv6Address, now: float) -> list[Output]:
        """The host could not configure it."""
        outputs = self._leases.drop(address)
        return [*outputs, *self._look_after_leases(now)]

    def handle_timer(self, now: float) -> list[Output]:
        """Send again, renew, rebind, give up, or end leases."""
        outputs = self._leases.handle_timer(now)
        outputs += self._look_after_leases(now)
        exchange = self._exchange
        if exchange is not None:
            deadline = exchange.retransmission.deadline
            if deadline is not None and deadline <= now:
                outputs += self._on_no_answer(exchange, now)
        elif self._wake_at is not None and self._wake_at <= now:
            outputs += self._wake_up(now)
        return outputs

    def next_deadline(self) -> float | None:
        exchange = self._exchange
        own = self._wake_at if exchange is None else exchange.retransmission.deadline
        return earliest(
            own if own is None or own < math.inf else None, self._leases.next_deadline()
        )

    def release(self) -> list[Output]:
        """Give everything back, for a node that stops. One Release leaves (RFC 8415 18.2.7).

        Nobody waits for the answer: without one the server keeps the lease until it ends.
        """
        here = [a for a, s in self._leases.states().items() if s is not AddressState.IN_DOUBT]
        outputs = [*self._leases.drop_all(), *self._enter(Phase.IDLE)]
        if not here or self._link_local is None:
            return outputs
        assert self._server is not None, "leases come from a server"
        options = (
            ClientIdentifier(self._settings.duid),
            ServerIdentifier(self._server),
            ElapsedTime(0),
            self._association_of(tuple(here)),
        )
        transaction = self._random.getrandbits(24)
        message = Dhcp6Message(Dhcp6MessageType.RELEASE, transaction, options)
        return [*outputs, self._send(message)]

    # Phases.

    def _enter(self, phase: Phase, *, wake_at: float | None = None) -> list[Output]:
        """Be in a phase without an exchange."""
        self._phase = phase
        self._exchange = None
        self._best = None
        self._wake_at = wake_at
        return []

    def _begin(
        self,
        phase: Phase,
        now: float,
        *,
        server: bytes | None = None,
        addresses: tuple[IPv6Address, ...] = (),
    ) -> list[Output]:
        """Be in a phase with an exchange, and send its first message."""
        self._enter(phase)
        self._exchange = _Exchange(
            transaction=self._random.getrandbits(24),
            retransmission=Retransmission(
                self._schedule(phase, now),
                random=self._random,
                is_solicit=phase is Phase.SOLICITING,
            ),
            server=server,
            addresses=addresses,
        )
        # Without a link-local address it leaves once there is one.
        return [] if self._link_local is None else self._transmit(self._exchange, now)

    def _schedule(self, phase: Phase, now: float) -> Schedule:
        match phase:
            case Phase.SOLICITING:
                return Schedule(timing.SOL_TIMEOUT, self._solicit_maximum)
            case Phase.REQUESTING:
                return Schedule(timing.REQ_TIMEOUT, timing.REQ_MAX_RT, timing.REQ_MAX_RC)
            case Phase.RENEWING:
                until = self._rebind_at - now
                return Schedule(timing.REN_TIMEOUT, timing.REN_MAX_RT, duration=until)
            case Phase.REBINDING:
                return Schedule(timing.REB_TIMEOUT, timing.REB_MAX_RT)
            case Phase.CONFIRMING:
                return Schedule(timing.CNF_TIMEOUT, timing.CNF_MAX_RT, duration=timing.CNF_MAX_RD)
            case Phase.DECLINING:
                return Schedule(timing.DEC_TIMEOUT, count=timing.DEC_MAX_RC)
            case _:
                return Schedule(timing.INF_TIMEOUT, self._information_maximum)

    def _obey(self, now: float) -> list[Output]:
        """Do what the routers ask for, unless it is being done."""
        if not self._settings.enabled:
            return []
        may_lease = self._is_managed and not self._settings.stateless
        if may_lease and self._phase in (Phase.IDLE, Phase.INFORMING, Phase.INFORMED):
            return self._begin(Phase.SOLICITING, now)
        # A server that gives addresses gives information too (RFC 4861 4.2).
        if (self._has_other or self._is_managed) and self._phase is Phase.IDLE:
            return self._begin(Phase.INFORMING, now)
        return []

    def _resume(self, now: float) -> list[Output]:
        """Have leases that are good, and look after their times."""
        addresses = self._leases.addresses
        if self._rebind_at <= now:
            return self._begin(Phase.REBINDING, now, addresses=addresses)
        if self._renew_at <= now:
            self._failures = 0
            return self._begin(Phase.RENEWING, now, server=self._server, addresses=addresses)
        return self._enter(Phase.BOUND, wake_at=self._renew_at)

    def _fail(self, now: float) -> list[Output]:
        """Start over: at once, and after further failures later and later."""
        outputs = self._leases.drop_all()
        delay = 0.0
        if self._failures:
            exponent = min(self._failures - 1, 16)
            delay = min(timing.SOL_TIMEOUT * 2**exponent, self._solicit_maximum)
        self._failures += 1
        return [*outputs, *self._enter(Phase.WAITING, wake_at=now + delay)]

    def _wake_up(self, now: float) -> list[Output]:
        match self._phase:
            case Phase.BOUND:
                return self._resume(now)
            case Phase.INFORMED:
                return self._begin(Phase.INFORMING, now)
            case _:
                self._enter(Phase.IDLE)
                return self._obey(now)

    def _on_no_answer(self, exchange: _Exchange, now: float) -> list[Output]:
        if self._best is not None:
            return self._request(self._best.server, self._best.addresses, now)
        if not exchange.retransmission.is_exhausted(now):
            report = self._report_silence(exchange.retransmission.sent)
            return [*report, *self._transmit(exchange, now)]
        match self._phase:
            case Phase.RENEWING:
                return self._begin(Phase.REBINDING, now, addresses=self._leases.addresses)
            case Phase.CONFIRMING:
                # No server to say otherwise: the leases hold (RFC 8415 18.2.3).
                return [*self._leases.confirm(now), *self._resume(now)]
            case Phase.DECLINING:
                return self._on_declined(now)
            case _:
                return self._fail(now)

    def _report_silence(self, sent: int) -> list[Output]:
        if self._phase is not Phase.SOLICITING or sent != NO_ANSWER_COUNT:
            return []
        details = (("interface", self._name),)
        return [ReportEvent(name="dhcp6-no-answer", details=details, warning=True)]

    def _look_after_leases(self, now: float) -> list[Output]:
        """Decline duplicates, and start over when nothing is left."""
        self._declined += self._leases.take_duplicates()
        if self._declined and self._phase is not Phase.DECLINING:
            return self._decline(now)
        has_ended = self._phase in (
            Phase.BOUND,
            Phase.RENEWING,
            Phase.REBINDING,
            Phase.CONFIRMING,
        )
        return self._fail(now) if has_ended and not self._leases else []

    def _decline(self, now: float) -> list[Output]:
        addresses = tuple(self._declined)
        self._declined.clear()
        return self._begin(Phase.DECLINING, now, server=self._server, addresses=addresses)

    def _on_declined(self, now: float) -> list[Output]:
        if self._declined:
            return self._decline(now)
        return self._resume(now) if self._leases else self._fail(now)

    # Another link or the same.

    def _forget_routers(self) -> None:
        self._is_managed = self._has_other = False
        self._prefixes = frozenset()
        self._failures = 0
        self._declined.clear()

    def _judge_link(self, prefixes: frozenset[IPv6Network], now: float) -> list[Output]:
        """Whether the leases belong here, as far as a router can tell."""
        if not self._leases:
            return self._enter(Phase.IDLE)
        covers = any(a in prefix for a in self._leases.addresses for prefix in prefixes)
        if covers or prefixes & self._leased_under:
            # A server that knows better may still contradict: the Confirm goes on.
            return self._leases.confirm(now)
        if not prefixes or not self._leased_under:
            return []
        self._failures = 0
        return [*self._leases.drop_all(), *self._enter(Phase.IDLE)]

    # Messages out.

    def _transmit(self, exchange: _Exchange, now: float) -> list[Output]:
        elapsed = exchange.retransmission.elapsed(now)
        exchange.retransmission.message_sent(now)
        if self._link_local is None:
            return []  # gone meanwhile: this one is as good as lost
        options: list[Dhcp6Option] = [ClientIdentifier(self._settings.duid)]
        if exchange.server is not None:
            options.append(ServerIdentifier(exchange.server))
        options.append(ElapsedTime(elapsed))
        if self._phase is Phase.INFORMING:
            options.append(OptionRequest(_INFORMATION_OPTIONS))
        else:
            options.append(self._association_of(exchange.addresses))
        if self._phase not in (Phase.INFORMING, Phase.CONFIRMING, Phase.DECLINING):
            options.append(OptionRequest(_LEASE_OPTIONS))
        if self._phase is Phase.SOLICITING and self._settings.rapid_commit:
            options.append(RapidCommit())
        message = Dhcp6Message(_MESSAGES[self._phase], exchange.transaction, tuple(options))
        return [self._send(message)]

    def _association_of(self, addresses: tuple[IPv6Address, ...]) -> IdentityAssociation:
        leased = tuple(LeasedAddress(address, 0, 0) for address in addresses)
        return IdentityAssociation(self._association, options=leased)

    def _send(self, message: Dhcp6Message) -> SendDhcpMessage:
        return SendDhcpMessage(interface=self._interface, data=encode_dhcp6_message(message))

    def _request(
        self, server: bytes, addresses: tuple[IPv6Address, ...], now: float
    ) -> list[Output]:
        return self._begin(Phase.REQUESTING, now, server=server, addresses=addresses)

    # Messages in.

    def _take_max_timeouts(self, message: Dhcp6Message) -> None:
        """Also from a message that says no (RFC 8415 18.2.9)."""
        solicit = message.first(SolicitMaxTimeout)
        if solicit is not None and is_max_timeout(solicit.time):
            self._solicit_maximum = float(solicit.time)
        information = message.first(InformationMaxTimeout)
        if information is not None and is_max_timeout(information.time):
            self._information_maximum = float(information.time)

    def _on_advertise(self, message: Dhcp6Message, server: bytes, now: float) -> list[Output]:
        association = self._association_in(message)
        if association is None:
            return []
        offered = [o for o in self._addresses_in(association) if o.valid_lifetime > 0]
        if not offered:
            return self._drop(DropReason.NO_ADDRESSES_AVAILABLE)
        preference = message.first(Preference) or Preference(0)
        addresses = tuple(leased.address for leased in offered)
        if self._best is None or preference.value > self._best.preference:
            self._best = _Offer(preference=preference.value, server=server, addresses=addresses)
        assert self._exchange is not None, "a message without an exchange was dropped"
        # Other servers have the first timeout to make a better offer (RFC 8415 18.2.1).
        if preference.value == MAX_PREFERENCE or self._exchange.retransmission.sent > 1:
            return self._request(self._best.server, self._best.addresses, now)
        return []

    def _on_reply(self, message: Dhcp6Message, server: bytes, now: float) -> list[Output]:
        match self._phase:
            case Phase.SOLICITING if message.first(RapidCommit) is None:
                return self._drop(DropReason.UNEXPECTED_MESSAGE)
            case Phase.CONFIRMING:
                return self._on_confirmed(_status_of(message.options), now)
            case Phase.DECLINING:
                return self._on_declined(now)
            case Phase.INFORMING:
                return self._on_information(message, now)
            case _:
                return self._on_lease(message, server, now)

    def _on_confirmed(self, status: int, now: float) -> list[Output]:
        if status == Dhcp6Status.SUCCESS:
            return [*self._leases.confirm(now), *self._resume(now)]
        self._drop(DropReason.SERVER_REFUSED)
        if status != Dhcp6Status.NOT_ON_LINK:
            return []
        outputs = [*self._leases.drop_all(), *self._enter(Phase.IDLE)]
        return [*outputs, *self._obey(now)]

    def _on_information(self, message: Dhcp6Message, now: float) -> list[Output]:
        if _status_of(message.options) != Dhcp6Status.SUCCESS:
            return self._drop(DropReason.SERVER_REFUSED)
        refresh = message.first(InformationRefreshTime)
        delay = timing.IRT_DEFAULT if refresh is None else max(refresh.time, timing.IRT_MINIMUM)
        self._enter(Phase.INFORMED, wake_at=now + delay)
        return [self._report("dhcp6-information", message)]

    def _on_lease(self, message: Dhcp6Message, server: bytes, now: float) -> list[Output]:
        is_requesting = self._phase is Phase.REQUESTING
        association = self._association_in(message)
        if association is None:
            return self._fail(now) if is_requesting and _says_no(message) else []
        is_forgotten = _status_of(association.options) == Dhcp6Status.NO_BINDING
        if is_forgotten and self._leases and not is_requesting:
            self._drop(DropReason.SERVER_REFUSED)
            return self._request(server, self._leases.addresses, now)
        leased = self._addresses_in(association)
        if not leased or not (self._leases or any(o.valid_lifetime > 0 for o in leased)):
            self._drop(DropReason.NO_ADDRESSES_AVAILABLE)
            return self._fail(now) if is_requesting else []
        return self._accept(message, association, leased, server=server, now=now)

    def _accept(
        self,
        message: Dhcp6Message,
        association: IdentityAssociation,
        leased: list[LeasedAddress],
        *,
        server: bytes,
        now: float,
    ) -> list[Output]:
        is_news = self._phase in (Phase.SOLICITING, Phase.REQUESTING)
        self._server = server
        self._leased_under = self._prefixes
        renew_after, rebind_after = _times_of(association, leased)
        self._renew_at, self._rebind_at = now + renew_after, now + rebind_after
        self._enter(Phase.BOUND, wake_at=self._renew_at)
        outputs: list[Output] = [self._report("dhcp6-bound", message)] if is_news else []
        for option in leased:
            if option.valid_lifetime <= 0:
                outputs += self._leases.drop(option.address)
            elif option.address in self._leases.addresses or not self._leases.is_full:
                outputs += self._leases.grant(
                    option.address,
                    valid_until=now + option.valid_lifetime,
                    preferred_until=now + option.preferred_lifetime,
                    now=now,
                )
        return [*outputs, *self._look_after_leases(now)]

    def _association_in(self, message: Dhcp6Message) -> IdentityAssociation | None:
        """Our association, unless the server refuses or it makes no sense; then it is counted."""
        if _status_of(message.options) != Dhcp6Status.SUCCESS:
            self._drop(DropReason.SERVER_REFUSED)
            return None
        for option in message.options:
            if isinstance(option, IdentityAssociation) and option.identifier == self._association:
                if 0 < option.rebind_after < option.renew_after:
                    self._drop(DropReason.WRONG_LIFETIMES)
                    return None
                return option
        self._drop(DropReason.NO_ADDRESSES_AVAILABLE)
        return None

    def _addresses_in(self, association: IdentityAssociation) -> list[LeasedAddress]:
        """What the server leases, without what cannot be used (RFC 8415 21.6)."""
        leased = []
        for option in association.options:
            if not isinstance(option, LeasedAddress):
                continue
            if option.preferred_lifetime > option.valid_lifetime:
                self._drop(DropReason.WRONG_LIFETIMES)
            elif not _is_assignable(option.address) or option.address in self._settings.never:
                self._drop(DropReason.CARE_OF_ADDRESS_NOT_ROUTABLE)
            elif _status_of(option.options) == Dhcp6Status.SUCCESS:
                leased.append(option)
        return leased

    def _report(self, name: str, message: Dhcp6Message) -> ReportEvent:
        servers = message.first(DnsServers) or DnsServers(())
        names = " ".join(str(address) for address in servers.addresses)
        return ReportEvent(name=name, details=(("interface", self._name), ("dns", names)))

    def _drop(self, reason: DropReason) -> list[Output]:
        self.drops[reason] += 1
        return []


def _status_of(options: tuple[Dhcp6Option, ...]) -> int:
    """The status code among options; missing means success (RFC 8415 21.13)."""
    codes = (option.code for option in options if isinstance(option, StatusCode))
    return next(codes, Dhcp6Status.SUCCESS)


def _says_no(message: Dhcp6Message) -> bool:
    """Whether asking this server again is of no use."""
    return _status_of(message.options) in (Dhcp6Status.NOT_ON_LINK, Dhcp6Status.NO_ADDRS_AVAIL)


def _is_assignable(address: IPv6Address) -> bool:
    return not (
        address.is_multicast
        or address.is_link_local
        or address.is_loopback
        or address.is_unspecified
        or address.ipv4_mapped is not None
    )


def _times_of(association: IdentityAssociation, leased: list[LeasedAddress]) -> tuple[float, float]:
    """T1 and T2 in seconds; our own where the server leaves them to us (RFC 8415 21.4)."""
    lifetimes = [
        option.preferred_lifetime or option.valid_lifetime
        for option in leased
        if option.valid_lifetime > 0
    ]
    shortest = min(lifetimes, default=0.0)
    rebind_after = association.rebind_after or 0.8 * shortest
    renew_after = association.renew_after or min(0.5 * shortest, rebind_after)
    renew_after = max(renew_after, MIN_RENEW_DELAY)
    return renew_after, max(rebind_after, renew_after)
