"""Return routability: proving to a correspondent that both addresses are ours (RFC 6275 5.2, 11.6).

Theory of operation. Two address tests run side by side. The Home Test Init leaves with the home
address as its source, so the host's own routing carries it through the tunnel; the Care-of Test
Init leaves directly. Each test has its own back-off, from INITIAL_BINDACK_TIMEOUT doubling up to
MAX_BINDACK_TIMEOUT, with a new cookie each time, and gives up after MAX_RO_FAILURE sendings without
an answer.

A token serves until MAX_TOKEN_LIFETIME after the Init that fetched it left. The home token outlives
a change of the care-of address, so a handover needs the care-of test alone (5.2.7). The care-of
test, its cookie, its back-off and its token belong to one care-of address and go with it: nothing
of an address just left can delay or answer the test of the next. Only the limit of MAX_UPDATE_RATE
messages of one type a second is the correspondent's, because 11.8 makes it so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address
from random import Random
from typing import Final

from mnagent.core.actions import SendPacket
from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.core.timers import earliest
from mnagent.mobility.binding_update_list import UpdateRateLimiter
from mnagent.mobility.constants import (
    INITIAL_BINDACK_TIMEOUT,
    MAX_BINDACK_TIMEOUT,
    MAX_RO_FAILURE,
    MAX_TOKEN_LIFETIME,
)
from mnagent.mobility.home_registration import CareOf
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import CareOfTest, CareOfTestInit, HomeTest, HomeTestInit

COOKIE_LENGTH: Final = 8
"""Octets of an init cookie (RFC 6275 5.2.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeygenToken:
    """A keygen token as the correspondent gave it (RFC 6275 5.2.3)."""

    value: bytes = field(repr=False)
    """Secret, 8 octets."""
    nonce_index: int
    """Which nonce the correspondent made it from."""
    made_at: float
    """Instant at which its Init left: the correspondent made it no earlier."""

    def age(self, now: float) -> float:
        """Seconds since it was asked for."""
        return now - self.made_at

    def is_fresh(self, now: float) -> bool:
        """Whether it may still be used (RFC 6275 5.2.7)."""
        return self.age(now) < MAX_TOKEN_LIFETIME


@dataclass(frozen=True, slots=True)
class AddressesTested:
    """Every token that `ReturnRoutability.start` asked for is there."""


@dataclass(frozen=True, slots=True)
class AddressTestsFailed:
    """A test had no answer MAX_RO_FAILURE times; both have stopped."""


AddressTestOutput = SendPacket | AddressesTested | AddressTestsFailed


class _AddressTest:
    """One of the two tests: its cookie, its back-off and the token it brought."""

    __slots__ = (
        "_cookie",
        "_limiter",
        "_max_failures",
        "_random",
        "_sent_at",
        "_timeout",
        "_unanswered",
        "deadline",
        "token",
    )

    def __init__(self, *, random: Random, limiter: UpdateRateLimiter, max_failures: int) -> None:
        self._random = random
        self._limiter = limiter
        self._max_failures = max_failures
        self._cookie: bytes | None = None
        self._sent_at = 0.0
        self._timeout = INITIAL_BINDACK_TIMEOUT
        self._unanswered = 0
        self.deadline: float | None = None
        """When to send next, or None while the test does not run."""
        self.token: KeygenToken | None = None

    @property
    def is_running(self) -> bool:
        return self.deadline is not None

    @property
    def cookie(self) -> bytes | None:
        """What an answer must echo; None while none is awaited."""
        return self._cookie

    def fresh_token(self, now: float) -> KeygenToken | None:
        return self.token if self.token is not None and self.token.is_fresh(now) else None

    def begin(self, now: float, *, delay: float = 0.0) -> bytes | None:
        """Start over. The cookie to send now, or None when the delay or the rate limit says to
        wait."""
        self._timeout = INITIAL_BINDACK_TIMEOUT
        self._unanswered = 0
        if delay:
            self._cookie, self.deadline = None, now + delay
            return None
        return self._next_cookie(now)

    def stop(self) -> None:
        self.deadline = None
        self._cookie = None

    def on_deadline(self, now: float) -> bytes | None:
        """The cookie to send now, if any; not running any more when this was the last time."""
        if self._cookie is not None:
            self._unanswered += 1
            if self._unanswered >= self._max_failures:
                self.stop()
                return None
            self._timeout = min(self._timeout * 2, MAX_BINDACK_TIMEOUT)
        return self._next_cookie(now)

    def answer(self, message: HomeTest | CareOfTest) -> DropReason | None:
        """Take the token, or say why not (RFC 6275 11.6.2)."""
        if not self.is_running:
            return DropReason.TOKEN_ALREADY_HELD if self.token else DropReason.UNEXPECTED_MESSAGE
        if self._cookie is None or message.cookie != self._cookie:
            return DropReason.WRONG_COOKIE
        self.token = KeygenToken(
            value=message.keygen_token, nonce_index=message.nonce_index, made_at=self._sent_at
        )
        self.stop()
        return None

    def _next_cookie(self, now: float) -> bytes | None:
        self._cookie = None
        allowed_at = self._limiter.allowed_at(now)
        if allowed_at > now:
            self.deadline = allowed_at
            return None
        self._limiter.sent(now)
        self._cookie = self._random.randbytes(COOKIE_LENGTH)
        self._sent_at = now
        self.deadline = now + self._timeout
        return self._cookie


class ReturnRoutability:
    """Both tests of one home address with one correspondent."""

    def __init__(
        self,
        *,
        home_address: IPv6Address,
        home_agent_address: IPv6Address,
        correspondent: IPv6Address,
        random: Random,
        max_failures: int = MAX_RO_FAILURE,
    ) -> None:
        """``correspondent`` is its home address if it is mobile itself (RFC 6275 5.2.9)."""
        self._home_address = home_address
        self.home_agent_address = home_agent_address
        """Whose tunnel Home Tests must come by."""
        self._correspondent = correspondent
        self._random = random
        self._max_failures = max_failures
        self._care_of_limiter = UpdateRateLimiter()
        self._home_test = self._new_test(UpdateRateLimiter())
        self._care_of_test = self._new_test(self._care_of_limiter)
        self._care_of: CareOf | None = None
        self._is_wanted = False
        self._is_home_only = False

    @property
    def is_running(self) -> bool:
        """Whether an answer is awaited, or an Init waits for its turn."""
        return self._home_test.is_running or self._care_of_test.is_running

    def home_token(self, now: float) -> KeygenToken | None:
        """The home keygen token while it may be used."""
        return self._home_test.fresh_token(now)

    def care_of_token(self, now: float) -> KeygenToken | None:
        """The care-of keygen token of the present care-of address while it may be used."""
        return self._care_of_test.fresh_token(now)

    # What the registration asks for.

    def start(
        self,
        care_of: CareOf | None,
        now: float,
        *,
        home_only: bool = False,
        home_test_delay: float = 0.0,
    ) -> list[AddressTestOutput]:
        """Fetch the tokens that are missing.

        What ran before starts over: an answer under way to another address is not waited for.

        Args:
            care_of: where we are; None on the home link, whose tests do not go through a tunnel.
            now: seconds.
            home_only: a deregistration needs the home token alone (RFC 6275 11.6.1).
            home_test_delay: seconds that the first Home Test Init is held back.
        """
        is_same = (
            care_of is not None
            and self._care_of is not None
            and care_of.address == self._care_of.address
        )
        if not is_same:
            self._care_of_test = self._new_test(self._care_of_limiter)
        self._care_of = care_of
        self.stop()
        self._is_wanted = True
        self._is_home_only = home_only or care_of is None
        if home_test_delay and self.home_token(now) is None:
            self._home_test.begin(now, delay=home_test_delay)
        return self._continue(now)

    def refresh_home_token(self, now: float) -> list[AddressTestOutput]:
        """Fetch a new home token ahead of need; nobody is told, the old one serves meanwhile."""
        return [] if self._home_test.is_running else self._send_home_test_init(now)

    def stop(self) -> None:
        """Await nothing any more. Tokens stay."""
        self._is_wanted = False
        self._home_test.stop()
        self._care_of_test.stop()

    def forget_home_token(self) -> None:
        """The correspondent does not know its nonce any more (status 136, 138)."""
        self._home_test.token = None

    def forget_care_of_token(self) -> None:
        """The correspondent does not know its nonce any more (status 137, 138)."""
        self._care_of_test.token = None

    # Events.

    def handle(self, event: PacketReceived, now: float) -> list[AddressTestOutput] | DropReason:
        """A Home Test or Care-of Test from the correspondent (RFC 6275 11.6.2)."""
        message = event.packet.payload
        if isinstance(message, HomeTest):
            reason = self._home_test_fault(event) or self._home_test.answer(message)
        elif isinstance(message, CareOfTest):
            reason = self._care_of_test_fault(event) or self._care_of_test.answer(message)
        else:
            reason = DropReason.UNEXPECTED_MESSAGE
        return self._continue(now) if reason is None else reason

    def handle_timer(self, now: float) -> list[AddressTestOutput]:
        """Send again, or give up."""
        outputs: list[AddressTestOutput] = []
        for test in (self._home_test, self._care_of_test):
            if test.deadline is None or test.deadline > now:
                continue
            cookie = test.on_deadline(now)
            if cookie is not None:
                outputs.append(self._init(test, cookie))
            elif not test.is_running and self._is_wanted:
                self.stop()
                return [AddressTestsFailed()]
        return outputs

    def next_deadline(self) -> float | None:
        return earliest(self._home_test.deadline, self._care_of_test.deadline)

    def has_sent(self, packet: IPv6Packet) -> bool:
        """Whether a quoted packet is an Init that is awaiting its answer (MN-41, MN-43)."""
        if packet.destination != self._correspondent:
            return False
        message = packet.payload
        if isinstance(message, HomeTestInit):
            return packet.source == self._home_address and message.cookie == self._home_test.cookie
        if isinstance(message, CareOfTestInit) and self._care_of is not None:
            is_ours = packet.source == self._care_of.address
            return is_ours and message.cookie == self._care_of_test.cookie
        return False

    # Inside.

    def _new_test(self, limiter: UpdateRateLimiter) -> _AddressTest:
        return _AddressTest(random=self._random, limiter=limiter, max_failures=self._max_failures)

    def _continue(self, now: float) -> list[AddressTestOutput]:
        """Start what is missing and does not run; say so when nothing is missing."""
        if not self._is_wanted:
            return []
        outputs: list[AddressTestOutput] = []
        if self.home_token(now) is None and not self._home_test.is_running:
            outputs += self._send_home_test_init(now)
        if (
            not self._is_home_only
            and self.care_of_token(now) is None
            and not self._care_of_test.is_running
        ):
            outputs += self._send_care_of_test_init(now)
        if self.is_running:
            return outputs
        self._is_wanted = False
        return [AddressesTested()]

    def _send_home_test_init(self, now: float) -> list[AddressTestOutput]:
        cookie = self._home_test.begin(now)
        return [] if cookie is None else [self._init(self._home_test, cookie)]

    def _send_care_of_test_init(self, now: float) -> list[AddressTestOutput]:
        cookie = self._care_of_test.begin(now)
        return [] if cookie is None else [self._init(self._care_of_test, cookie)]

    def _init(self, test: _AddressTest, cookie: bytes) -> SendPacket:
        """Without Home Address option and type 2 routing header, ever (RFC 6275 6.1.3, 6.1.4)."""
        if test is self._home_test:
            init = HomeTestInit(cookie)
            return SendPacket(packet=IPv6Packet(self._home_address, self._correspondent, init))
        assert self._care_of is not None
        packet = IPv6Packet(self._care_of.address, self._correspondent, CareOfTestInit(cookie))
        return SendPacket(packet=packet, interface=self._care_of.interface)

    def _home_test_fault(self, event: PacketReceived) -> DropReason | None:
        packet = event.packet
        if packet.source != self._correspondent or packet.destination != self._home_address:
            return DropReason.UNKNOWN_PEER
        # At home there is no care-of address, and the home link itself is the path.
        is_at_home = self._care_of is None and event.tunnel_source is None
        if event.tunnel_source != self.home_agent_address and not is_at_home:
            return DropReason.NOT_THROUGH_TUNNEL
        return None

    def _care_of_test_fault(self, event: PacketReceived) -> DropReason | None:
        packet = event.packet
        if packet.source != self._correspondent:
            return DropReason.UNKNOWN_PEER
        if self._care_of is None or packet.destination != self._care_of.address:
            return DropReason.WRONG_CARE_OF_ADDRESS
        return None
