"""Packets of a link that was left, read only after the link had come up elsewhere.

The engine's thread and the kernel's notifications are two ways into this process. On a machine with
much to do a router's advertisement may come the one way after its link's end came the other: it
would be taken for the new link's, and put a mobile node where it has just been. The kernel says
when a packet came; what came before the link's return was noticed is of no use any more: routers
are asked anew then.
"""

from __future__ import annotations

from typing import Final

from mnagent.datapath import HandedUp

MAX_AGE: Final = 2_000_000_000
"""Nanoseconds that a packet may be on its way through this machine. Where the wall clock was
stepped by more, packets are taken as they come."""


class FormerLinks:
    """When the link of each interface came up last."""

    def __init__(self) -> None:
        self._came_up: dict[int, int] = {}
        self.dropped = 0
        """Packets that came too late."""

    def came_up(self, interface: int, at: int) -> None:
        """Its link is another one since ``at``, nanoseconds of CLOCK_REALTIME."""
        self._came_up[interface] = at

    def admits(self, packet: HandedUp) -> bool:
        """Whether a packet is of the present link, as far as it can be told."""
        if not packet.arrived_at:
            return True
        is_late = 0 < self._came_up.get(packet.interface, 0) - packet.arrived_at < MAX_AGE
        self.dropped += is_late
        return not is_late
