"""Python's face of the compiled data path: publish tables, start, take what is handed up, read
counters.
"""

from __future__ import annotations

from mnagent.datapath._engine import Engine
from mnagent.datapath._pipeline import Pipeline
from mnagent.datapath.tables import (
    Changes,
    DirectPathEntry,
    HandedUp,
    NextHop,
    PeerBindingEntry,
    SequenceExhausted,
    Tables,
    Traffic,
    TunnelEntry,
)

__all__ = [
    "Changes",
    "DirectPathEntry",
    "Engine",
    "HandedUp",
    "NextHop",
    "PeerBindingEntry",
    "Pipeline",
    "SequenceExhausted",
    "Tables",
    "Traffic",
    "TunnelEntry",
]
