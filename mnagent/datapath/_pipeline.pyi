from collections.abc import Sequence
from typing import NamedTuple

from mnagent.datapath._core import _Core
from mnagent.datapath.tables import HandedUp

class Processed(NamedTuple):
    frames: list[bytes]
    to_tunnel: list[bytes]
    handed_up: list[HandedUp]

class Pipeline(_Core):
    def __init__(self, *, passes_super_packets: bool = False) -> None: ...
    def time_lookups(self, addresses: bytes, *, rounds: int) -> float: ...
    def set_time(self, milliseconds: int) -> None: ...
    def wants_attention(self) -> bool: ...
    def process_outbound(
        self, packets: Sequence[bytes], offloads: Sequence[bytes] | None = None
    ) -> Processed: ...
    def process_inbound(
        self,
        frames: Sequence[bytes],
        *,
        link_length: int = 0,
        interface: int = 1,
        offloads: Sequence[bytes] | None = None,
    ) -> Processed: ...
