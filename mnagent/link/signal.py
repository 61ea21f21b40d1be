"""Sans-IO watch over how well Wi-Fi interfaces hear their access points, and what is done where one
hears its own badly: be ready for the roam that will come.

    every 5 s the level,     --below the threshold--> weak: every 0.5 s, and a scan after 1 s,
    near the threshold 1 s   <--6 dB above it--------       5 more, 10 more, ever more rarely

The supplicant may watch a threshold of its own; the kernel tells everybody when the signal passes
it, which counts as much. A scan takes an adapter off its channel: only those channels are scanned
where our network was heard when the interface associated, and nothing while the signal is good.
The supplicant is asked to, and roams if it finds better, before the link is lost; without one that
can be asked the kernel is, so that at least the next association needs no scan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mnagent.core.actions import ReportEvent
from mnagent.core.events import SignalMeasured
from mnagent.core.timers import earliest
from mnagent.link.wireless import AccessPointMessage, SignalMessage

SIGNAL_INTERVAL = 5.0
"""Seconds between two looks at a signal."""
NEAR_SIGNAL_INTERVAL = 1.0
"""The same while it is less than ``NEAR`` above the threshold: who walks loses 2 dB a second."""
LOW_SIGNAL_INTERVAL = 0.5
"""The same while it is weak."""
NEAR = 12.0
"""dB."""
RECOVERY = 6.0
"""dB above the threshold at which a signal is good again."""
LOOK_AROUND_DELAY = 2.0
"""Seconds after an association until the first look at the signal, and at the access points that
were heard: not in the way of the handover, and before the kernel forgets them, after 30 s."""
SCAN_DELAY = 1.0
"""Seconds until the first scan: where there is another interface, the node is there by then and
loses nothing by this one's leaving its channel."""
FIRST_SCAN_INTERVAL, MAX_SCAN_INTERVAL = 5.0, 300.0
"""Seconds between two scans of an interface, doubled each time."""
MAX_CHANNELS = 32
"""Remembered of one interface, of all networks; a further one takes the place of the oldest."""
MAX_SCANNED = 8
"""Channels of one scan, those heard last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskLevel:
    """Have the kernel tell how an interface hears its access point."""

    interface: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AskAccessPoints:
    """Have the kernel tell the access points that an interface heard of late."""

    interface: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Look for a network on some channels."""

    interface: int
    name: str
    """Of the interface."""
    network: bytes
    """SSID."""
    frequencies: tuple[int, ...]
    """MHz."""


WirelessRequest = AskLevel | AskAccessPoints | Scan


@dataclass(slots=True)
class _Interface:
    name: str
    look_at: float
    level_at: float
    level: float = 0.0
    is_low: bool = False
    """Below our threshold."""
    is_told_low: bool = False
    """Below the supplicant's."""
    network: bytes = b""
    channels: dict[tuple[bytes, int], None] = field(default_factory=dict)
    """Network and frequency, the one heard last at the end."""
    scan_at: float = math.inf
    scan_interval: float = FIRST_SCAN_INTERVAL

    @property
    def is_weak(self) -> bool:
        return self.is_low or self.is_told_low

    @property
    def frequencies(self) -> tuple[int, ...]:
        own = [frequency for network, frequency in self.channels if network == self.network]
        return tuple(own[-MAX_SCANNED:])


class SignalWatch:
    """Of all Wi-Fi interfaces that are associated."""

    def __init__(self, *, threshold: float, scans: bool = True) -> None:
        """``threshold`` in dBm; ``scans`` is whether a weak signal leads to scans."""
        self._threshold = threshold
        self._scans = scans
        self._interfaces: dict[int, _Interface] = {}

    def associated(self, index: int, name: str, now: float) -> None:
        """The interface can be used, at this or another access point than before."""
        known = self._interfaces.get(index)
        self._interfaces[index] = _Interface(
            name=name,
            look_at=now + LOOK_AROUND_DELAY,
            level_at=now + LOOK_AROUND_DELAY,
            channels={} if known is None else known.channels,
        )

    def left(self, index: int) -> None:
        """The interface lost its link."""
        self._interfaces.pop(index, None)

    def heard(self, message: AccessPointMessage) -> None:
        """An access point that an interface knows."""
        interface = self._interfaces.get(message.interface)
        if interface is None or not message.network:
            return
        channel = message.network, message.frequency
        interface.channels.pop(channel, None)
        interface.channels[channel] = None
        if len(interface.channels) > MAX_CHANNELS:
            del interface.channels[next(iter(interface.channels))]
        if message.is_own:
            interface.network = message.network

    def measured(
        self, message: SignalMessage, now: float
    ) -> tuple[list[SignalMeasured], list[ReportEvent]]:
        """A level, asked for or told: what the agent should know of it, and what people should."""
        interface = self._interfaces.get(message.interface)
        if interface is None:
            return [], []
        was_weak = interface.is_weak
        limit = self._threshold + (RECOVERY if interface.is_low else 0.0)
        interface.level, interface.is_low = message.level, message.level < limit
        if message.is_falling is not None:
            interface.is_told_low = message.is_falling
        event = SignalMeasured(
            interface=message.interface, level=message.level, is_weak=interface.is_low
        )
        if interface.is_weak == was_weak:
            return [event], []
        return [event], [self._turned(interface, now)]

    def handle_timer(self, now: float) -> list[WirelessRequest]:
        """What is due."""
        requests: list[WirelessRequest] = []
        for index, interface in self._interfaces.items():
            if interface.look_at <= now:
                interface.look_at = math.inf
                requests.append(AskAccessPoints(interface=index))
            if interface.level_at <= now:
                interface.level_at = now + self._interval(interface)
                requests.append(AskLevel(interface=index))
            if interface.scan_at <= now:
                requests += self._scan(index, interface, now)
        return requests

    def next_deadline(self) -> float | None:
        """When `handle_timer` wants to run."""
        return earliest(
            *(
                min(interface.look_at, interface.level_at, interface.scan_at)
                for interface in self._interfaces.values()
            )
        )

    def _interval(self, interface: _Interface) -> float:
        if interface.is_weak:
            return LOW_SIGNAL_INTERVAL
        is_near = interface.level < self._threshold + NEAR
        return NEAR_SIGNAL_INTERVAL if is_near else SIGNAL_INTERVAL

    def _turned(self, interface: _Interface, now: float) -> ReportEvent:
        """It is weak from now on, or is so no more."""
        interface.level_at = now + self._interval(interface)
        interface.scan_at = now + SCAN_DELAY if interface.is_weak and self._scans else math.inf
        interface.scan_interval = FIRST_SCAN_INTERVAL
        return ReportEvent(
            name="signal-weak" if interface.is_weak else "signal-good",
            details=(("interface", interface.name), ("level", f"{interface.level:.0f}")),
        )

    @staticmethod
    def _scan(index: int, interface: _Interface, now: float) -> list[WirelessRequest]:
        interface.scan_at = now + interface.scan_interval
        interface.scan_interval = min(2 * interface.scan_interval, MAX_SCAN_INTERVAL)
        if not interface.frequencies:
            return []
        return [
            Scan(
                interface=index,
                name=interface.name,
                network=interface.network,
                frequencies=interface.frequencies,
            )
        ]
