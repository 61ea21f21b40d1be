from __future__ import annotations

from itertools import pairwise

from mnagent.mobility.path_watchdog import (
    MAX_PATIENCE,
    PROOF_TIMEOUT,
    SILENCE,
    PathWatchdog,
    Verdict,
)


class Path:
    """A watchdog, its clock, and a home agent that answers or not."""

    def __init__(self, *, interval: float = 0.0, answers: bool = True) -> None:
        self.watchdog = PathWatchdog(interval=interval)
        self.now = 1000.0
        self.out = self.back = 0
        self.answers = answers
        self.verdicts: list[tuple[float, Verdict]] = []
        self.watchdog.update_sent(self.now)
        self.watchdog.proven(self.now)

    def carry(self, *, out: int = 0, back: int = 0) -> None:
        self.out += out
        self.back += back
        self.watchdog.carried(self.out, self.back, self.now)

    def run(self, duration: float, *, out: int = 0, back: int = 0) -> list[Verdict]:
        """Traffic each second, and what was decided meanwhile."""
        before = len(self.verdicts)
        end = self.now + duration
        while self.now < end:
            following = min(end, self.now + 1.0)
            while (deadline := self.watchdog.next_deadline()) is not None and deadline <= following:
                self.now = max(self.now, deadline)
                self._decide()
            self.now = following
            self.carry(out=out, back=back)
        return [verdict for _, verdict in self.verdicts[before:]]

    def _decide(self) -> None:
        verdict = self.watchdog.handle_timer(self.now)
        if verdict is None:
            return
        self.verdicts.append((self.now, verdict))
        if verdict is Verdict.PROVE:
            self.watchdog.update_sent(self.now)
            if self.answers:
                self.watchdog.proven(self.now)


def test_tunnel_that_carries_both_ways_needs_no_proof() -> None:
    assert Path().run(600.0, out=5, back=5) == []


def test_tunnel_that_carries_nothing_needs_no_proof() -> None:
    path = Path()
    assert path.run(600.0) == []
    assert path.watchdog.next_deadline() is None


def test_silence_asks_for_a_proof_in_seconds() -> None:
    path = Path()
    path.run(10.0, out=5, back=5)
    assert path.run(SILENCE + 2.0, out=5) == [Verdict.PROVE]


def test_stream_that_nobody_answers_is_proven_ever_less_often() -> None:
    path = Path()
    path.run(600.0, out=5)
    times = [at for at, _ in path.verdicts]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == sorted(gaps)
    assert MAX_PATIENCE <= gaps[-1] <= MAX_PATIENCE + 2.0


def test_anything_that_comes_in_restores_attention() -> None:
    path = Path()
    path.run(600.0, out=5)
    path.run(5.0, out=5, back=1)
    assert path.run(SILENCE + 2.0, out=5) == [Verdict.PROVE]


def test_missing_proof_casts_doubt_ever_less_often() -> None:
    path = Path(answers=False)
    path.run(5.0, out=5, back=5)
    assert path.run(SILENCE + PROOF_TIMEOUT + 2.0, out=5)[:2] == [Verdict.PROVE, Verdict.DOUBT]
    path.run(600.0, out=5)
    doubts = [at for at, verdict in path.verdicts if verdict is Verdict.DOUBT]
    gaps = [later - earlier for earlier, later in pairwise(doubts)]
    assert gaps == sorted(gaps) and gaps[-1] == MAX_PATIENCE


def test_update_of_any_origin_that_goes_unanswered_casts_doubt() -> None:
    path = Path(answers=False)
    path.watchdog.update_sent(path.now)
    path.watchdog.update_sent(path.now + 1.0)
    assert path.run(PROOF_TIMEOUT) == [Verdict.DOUBT]


def test_schedule_asks_for_proofs_of_an_idle_tunnel() -> None:
    path = Path(interval=30.0)
    assert path.run(301.0) == [Verdict.PROVE] * 10


def test_stopped_watchdog_is_silent() -> None:
    path = Path(interval=30.0, answers=False)
    path.run(4.0, out=5)
    path.watchdog.stopped()
    assert path.run(100.0) == []
