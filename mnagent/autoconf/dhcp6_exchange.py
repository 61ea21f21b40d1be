"""How often DHCPv6 messages are sent, and for how long (RFC 8415 7.6 and 15).

Where the RFC wants the first Solicit, Confirm and Information-request of an interface delayed by up
to a second, to spread nodes that start together, this client sends at once: it starts on a link
event or on the router advertisement that follows it, which come to roaming nodes at different times
already, and the delay would be added to every handover.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Final

RANDOMIZATION: Final = 0.1
"""RAND is uniform from minus this to this."""
SOL_TIMEOUT: Final = 1.0
SOL_MAX_RT: Final = 3600.0
REQ_TIMEOUT: Final = 1.0
REQ_MAX_RT: Final = 30.0
REQ_MAX_RC: Final = 10
CNF_TIMEOUT: Final = 1.0
CNF_MAX_RT: Final = 4.0
CNF_MAX_RD: Final = 10.0
REN_TIMEOUT: Final = 10.0
REN_MAX_RT: Final = 600.0
REB_TIMEOUT: Final = 10.0
REB_MAX_RT: Final = 600.0
INF_TIMEOUT: Final = 1.0
INF_MAX_RT: Final = 3600.0
DEC_TIMEOUT: Final = 1.0
DEC_MAX_RC: Final = 4
IRT_DEFAULT: Final = 86400.0
"""Information refresh time where the server names none."""
IRT_MINIMUM: Final = 600.0
MIN_MAX_RT: Final = 60
MAX_MAX_RT: Final = 86400
"""What a server may set SOL_MAX_RT and INF_MAX_RT to (RFC 8415 21.24)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a message is sent again (RFC 8415 15)."""

    initial: float
    """IRT, seconds."""
    maximum: float = math.inf
    """MRT, seconds."""
    count: int = 0
    """MRC, how often it is sent; 0: as often as it takes."""
    duration: float = math.inf
    """MRD, seconds."""


class Retransmission:
    """The state of one message that waits for its answer."""

    def __init__(self, schedule: Schedule, *, random: Random, is_solicit: bool = False) -> None:
        """``is_solicit``: the first wait is longer than IRT, never shorter (RFC 8415 18.2.1)."""
        self.schedule = schedule
        self._random = random
        self._is_solicit = is_solicit
        self._timeout = 0.0
        self.sent = 0
        """How often the message left."""
        self.started_at: float | None = None
        self.deadline: float | None = None
        """When the wait for an answer ends, None before it was sent first."""

    def message_sent(self, now: float) -> None:
        """Count a transmission and set the deadline."""
        if self.started_at is None:
            self.started_at = now
        self.sent += 1
        self._timeout = self._next_timeout()
        self.deadline = min(now + self._timeout, self.started_at + self.schedule.duration)

    def elapsed(self, now: float) -> float:
        """Seconds since the message was sent first, 0 before."""
        return 0.0 if self.started_at is None else now - self.started_at

    def is_exhausted(self, now: float) -> bool:
        """Whether a deadline that is due was the last."""
        is_last = 0 < self.schedule.count <= self.sent
        # The very sum that is the deadline: a difference may round to a little less.
        return is_last or (
            self.started_at is not None and now >= self.started_at + self.schedule.duration
        )

    def _next_timeout(self) -> float:
        schedule = self.schedule
        if self.sent == 1:
            # Strictly more than IRT: uniform() may return its lower end.
            low = 0.001 if self._is_solicit else -RANDOMIZATION
            return schedule.initial * (1 + self._random.uniform(low, RANDOMIZATION))
        timeout = self._timeout * (2 + self._rand())
        if timeout > schedule.maximum:
            return schedule.maximum * (1 + self._rand())
        return timeout

    def _rand(self) -> float:
        return self._random.uniform(-RANDOMIZATION, RANDOMIZATION)


def is_max_timeout(value: float) -> bool:
    """Whether a server's SOL_MAX_RT or INF_MAX_RT is to be believed (RFC 8415 21.24)."""
    return MIN_MAX_RT <= value <= MAX_MAX_RT
