"""End-to-end watchdog: notices what no event told, by looking at what comes back.

Packets that leave through the tunnel while none come back for ``SILENCE`` seconds are suspicious; a
Binding Update to the home agent, ahead of its time, settles it: its acknowledgement proves the way
there and back, the binding, and that the home agent lives. The same proof is sought on a schedule.
When it fails to come, the attachment itself is in doubt, and routers are looked for as after a link
event.

Silence proves nothing (a stream that nobody answers), so each proof that came doubles the time
until silence alone asks for the next, up to ``MAX_PATIENCE``; anything that comes in ends that.
Likewise each doubt that a new look at the link did not resolve doubles the time until the next: a
home agent that is down for an hour is not worth a router solicitation every few seconds.
"""

from __future__ import annotations

import enum
from typing import Final

from mnagent.core.timers import Timers

SILENCE: Final = 3.0
"""Seconds without anything coming in, while something went out, until a proof is sought."""
PROOF_TIMEOUT: Final = 2.5
"""Seconds for the proof: the first update, its first repetition, and a home agent's probing."""
MAX_PATIENCE: Final = 60.0
"""Seconds between two proofs, or two doubts, at most."""


class Verdict(enum.Enum):
    """What is to be done."""

    PROVE = "prove"
    """Send a Binding Update now."""
    DOUBT = "doubt"
    """Look at the link anew."""


class _Timer(enum.Enum):
    SILENCE = enum.auto()
    SCHEDULE = enum.auto()
    PROOF = enum.auto()


class PathWatchdog:
    """Watches one tunnel. Told what it carried and how registration goes; sends nothing itself."""

    def __init__(self, *, interval: float = 0.0, silence: float = SILENCE) -> None:
        """``interval`` in seconds between two proofs on a schedule, 0 for none; ``silence`` in
        seconds until what leaves without an answer is suspicious."""
        self._silence = silence
        self._interval = interval
        self._timers: Timers[_Timer] = Timers()
        self._counts = (0, 0)
        self._told_at: float | None = None
        self._patience = silence
        self._is_silent = False
        self._doubt_patience = PROOF_TIMEOUT

    def change_interval(self, interval: float) -> None:
        """Counts from the next proof on; 0 ends the schedule at once."""
        self._interval = interval
        if not interval:
            self._timers.cancel(_Timer.SCHEDULE)

    def proven(self, now: float) -> None:
        """The home agent acknowledged: this is the proof, whoever asked for it."""
        if self._is_silent:
            self._patience = min(self._patience * 2, MAX_PATIENCE)
        self._is_silent = False
        self._timers.clear()
        self._doubt_patience = PROOF_TIMEOUT
        if self._interval:
            self._timers.set(_Timer.SCHEDULE, now + self._interval)

    def stopped(self) -> None:
        """There is no tunnel to watch: at home, or nowhere."""
        self._timers.clear()
        self._is_silent = False
        self._patience = self._silence

    def carried(self, packets_out: int, packets_in: int, now: float) -> bool:
        """What the tunnel has carried since the start; True when something came in."""
        before, self._counts = self._counts, (packets_out, packets_in)
        told_at, self._told_at = self._told_at or now, now
        if packets_in != before[1]:
            self._patience = self._silence
            self._is_silent = False
            self._timers.cancel(_Timer.SILENCE)
        elif packets_out != before[0] and _Timer.SILENCE not in self._timers:
            # What came in last did so before the count that was told before this one.
            since = told_at if self._patience == self._silence else now
            self._timers.set(_Timer.SILENCE, max(now, since + self._patience))
        return packets_in != before[1]

    def update_sent(self, now: float) -> None:
        """An update of whatever origin is waiting for its answer."""
        if _Timer.PROOF not in self._timers:
            self._timers.set(_Timer.PROOF, now + self._doubt_patience)

    def home_agent_changed(self) -> None:
        """Another one is asked: the link is in doubt only when that one does not answer either."""
        self._timers.cancel(_Timer.PROOF)

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    def handle_timer(self, now: float) -> Verdict | None:
        """What is to be done now, if anything."""
        due = set(self._timers.due(now))
        if _Timer.PROOF in due:
            self._doubt_patience = min(self._doubt_patience * 2, MAX_PATIENCE)
            self._timers.set(_Timer.PROOF, now + self._doubt_patience)
            return Verdict.DOUBT
        self._is_silent |= _Timer.SILENCE in due
        if due and _Timer.PROOF not in self._timers:
            if self._interval:
                self._timers.set(_Timer.SCHEDULE, now + self._interval)
            self._timers.set(_Timer.PROOF, now + self._doubt_patience)
            return Verdict.PROVE
        return None
