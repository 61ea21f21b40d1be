"""Python's face of the compiled data path: publish tables, start, take what is handed up, read
counters.
"""

from __future__ import annotations

from mnagent.datapath._engine import Engine, Pipeline
from mnagent.datapath.tables import (
    HandedUp,
    NextHop,
    SequenceExhausted,
    Tables,
    TunnelEntry,
)

__all__ = [
    "Engine",
    "HandedUp",
    "NextHop",
    "Pipeline",
    "SequenceExhausted",
    "Tables",
    "TunnelEntry",
]
