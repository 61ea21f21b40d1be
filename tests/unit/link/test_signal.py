"""What the agent does while a signal falls, over a clock of its own."""

from __future__ import annotations

import pytest

from mnagent.core.events import SignalMeasured
from mnagent.link.signal import (
    FIRST_SCAN_INTERVAL,
    LOOK_AROUND_DELAY,
    LOW_SIGNAL_INTERVAL,
    MAX_CHANNELS,
    MAX_SCAN_INTERVAL,
    MAX_SCANNED,
    NEAR,
    NEAR_SIGNAL_INTERVAL,
    RECOVERY,
    SCAN_DELAY,
    SIGNAL_INTERVAL,
    AskAccessPoints,
    AskLevel,
    Scan,
    SignalWatch,
    WirelessRequest,
)
from mnagent.link.wireless import AccessPointMessage, SignalMessage

THRESHOLD = -75.0
WEAK, GOOD = THRESHOLD - 1, THRESHOLD + RECOVERY
WLAN = 3


class Watched:
    """A watch and its clock, with one interface at an access point of the network ``cafe``."""

    def __init__(self, *, scans: bool = True) -> None:
        self.now = 100.0
        self.watch = SignalWatch(threshold=THRESHOLD, scans=scans)
        self.watch.associated(WLAN, "wlan0", self.now)

    def hear(self, *frequencies: int, network: bytes = b"cafe", own: int = 0) -> None:
        for frequency in frequencies:
            self.watch.heard(
                AccessPointMessage(
                    interface=WLAN, network=network, frequency=frequency, is_own=frequency == own
                )
            )

    def level(self, level: float, *, is_falling: bool | None = None) -> tuple[list[str], bool]:
        """Names of the reports, and whether the agent was told of weakness."""
        message = SignalMessage(interface=WLAN, level=level, is_falling=is_falling)
        events, reports = self.watch.measured(message, self.now)
        assert [(one.interface, one.level) for one in events] == [(WLAN, level)]
        return [report.name for report in reports], events[0].is_weak

    def due(self) -> list[WirelessRequest]:
        return self.watch.handle_timer(self.now)

    def scans(self) -> list[Scan]:
        """Those due once the first delay is over."""
        self.now += SCAN_DELAY
        return [request for request in self.due() if isinstance(request, Scan)]

    def scans_for(self, seconds: float) -> list[float]:
        """Instants of the scans of the next seconds, from now."""
        found, start = [], self.now
        while (deadline := self.watch.next_deadline()) is not None and deadline < start + seconds:
            self.now = max(self.now, deadline)
            found += [self.now - start for request in self.due() if isinstance(request, Scan)]
        return found


def test_interface_is_looked_at_after_its_handover_and_then_now_and_then() -> None:
    watched = Watched()
    assert watched.due() == []
    assert watched.watch.next_deadline() == pytest.approx(100.0 + LOOK_AROUND_DELAY)
    watched.now += LOOK_AROUND_DELAY
    assert watched.due() == [AskAccessPoints(interface=WLAN), AskLevel(interface=WLAN)]
    assert watched.watch.next_deadline() == pytest.approx(watched.now + SIGNAL_INTERVAL)
    watched.now += SIGNAL_INTERVAL
    assert watched.due() == [AskLevel(interface=WLAN)]


def test_signal_near_the_threshold_is_looked_at_more_often() -> None:
    watched = Watched()
    watched.now += LOOK_AROUND_DELAY
    watched.due()
    for level, interval in ((THRESHOLD + NEAR, SIGNAL_INTERVAL), (GOOD, NEAR_SIGNAL_INTERVAL)):
        assert watched.level(level) == ([], False)
        watched.now += SIGNAL_INTERVAL
        watched.due()
        assert watched.watch.next_deadline() == pytest.approx(watched.now + interval)


def test_weak_signal_is_told_looked_at_often_and_leads_to_a_scan_soon() -> None:
    watched = Watched()
    watched.hear(2412, 2437, own=2412)
    assert watched.level(WEAK) == (["signal-weak"], True)
    assert watched.due() == []
    assert watched.watch.next_deadline() == pytest.approx(watched.now + LOW_SIGNAL_INTERVAL)
    assert watched.level(WEAK) == ([], True)
    watched.now += SCAN_DELAY
    assert watched.due() == [
        AskLevel(interface=WLAN),
        Scan(interface=WLAN, name="wlan0", network=b"cafe", frequencies=(2412, 2437)),
    ]


def test_signal_is_good_again_only_well_above_the_threshold() -> None:
    watched = Watched()
    watched.hear(2412, own=2412)
    assert watched.level(THRESHOLD) == ([], False)
    assert watched.level(WEAK) == (["signal-weak"], True)
    assert watched.level(GOOD - 1) == ([], True)
    assert watched.level(GOOD) == (["signal-good"], False)
    watched.now += LOOK_AROUND_DELAY
    assert not any(isinstance(request, Scan) for request in watched.due())
    assert watched.watch.next_deadline() == pytest.approx(watched.now + NEAR_SIGNAL_INTERVAL)


def test_threshold_of_the_supplicant_counts_for_preparing_but_not_for_leaving() -> None:
    watched = Watched()
    watched.hear(2412, own=2412)
    assert watched.level(-66.0, is_falling=True) == (["signal-weak"], False)
    watched.now += SCAN_DELAY
    assert Scan in [type(request) for request in watched.due()]
    assert watched.level(-66.0) == ([], False)
    assert watched.level(WEAK) == ([], True)
    assert watched.level(-60.0, is_falling=False) == (["signal-good"], False)


def test_scans_become_ever_rarer_and_begin_anew_with_another_fall() -> None:
    watched = Watched()
    watched.hear(2412, own=2412)
    watched.level(WEAK)
    first = FIRST_SCAN_INTERVAL
    assert watched.scans_for(9 * first) == pytest.approx(
        [SCAN_DELAY + share * first for share in (0, 1, 3, 7)]
    )
    long = watched.scans_for(10 * MAX_SCAN_INTERVAL)
    assert long[-1] - long[-2] == pytest.approx(MAX_SCAN_INTERVAL)
    watched.level(GOOD)
    watched.level(WEAK)
    assert watched.scans_for(1.5 * first) == pytest.approx([SCAN_DELAY, SCAN_DELAY + first])


def test_scan_is_of_our_network_on_the_channels_heard_last() -> None:
    watched = Watched()
    watched.hear(*range(5000, 5000 + 5 * MAX_SCANNED, 5), own=5000)
    watched.hear(2412, network=b"other")
    watched.hear(2437, network=b"")
    watched.hear(5000)
    watched.level(WEAK)
    (scan,) = watched.scans()
    assert len(scan.frequencies) == MAX_SCANNED and scan.frequencies[-1] == 5000
    assert not {2412, 2437} & set(scan.frequencies)


def test_channels_of_an_earlier_access_point_are_still_known_at_the_next() -> None:
    watched = Watched()
    watched.hear(2412, own=2412)
    watched.watch.associated(WLAN, "wlan0", watched.now)
    watched.level(WEAK)
    assert watched.scans() == []  # which network it is was not told yet
    watched.hear(2437, own=2437)
    watched.now += FIRST_SCAN_INTERVAL
    (scan,) = watched.scans()
    assert scan.frequencies == (2412, 2437)


def test_channels_are_bounded() -> None:
    watched = Watched()
    watched.hear(2412, own=2412)
    watched.hear(*range(5000, 5000 + MAX_CHANNELS), network=b"crowd")
    watched.level(WEAK)
    assert watched.scans() == []


def test_agent_that_may_not_scan_does_not() -> None:
    watched = Watched(scans=False)
    watched.hear(2412, 2437, own=2412)
    assert watched.level(WEAK) == (["signal-weak"], True)
    assert watched.scans_for(100.0) == []


def test_interface_that_lost_its_link_or_is_not_ours_is_left_alone() -> None:
    watched = Watched()
    watched.watch.left(WLAN)
    watched.watch.left(WLAN)
    watched.hear(2412, own=2412)
    assert watched.watch.measured(SignalMessage(interface=WLAN, level=WEAK), 101.0) == ([], [])
    assert watched.watch.next_deadline() is None
    assert watched.watch.handle_timer(200.0) == []


def test_agent_is_told_of_every_level() -> None:
    watched = Watched()
    message = SignalMessage(interface=WLAN, level=-50.0)
    events, _ = watched.watch.measured(message, 101.0)
    assert events == [SignalMeasured(interface=WLAN, level=-50.0)]
