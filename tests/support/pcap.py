"""Writing capture files (pcap, microseconds) that tshark and scapy read."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from pathlib import Path
from struct import pack

_MAGIC = 0xA1B2C3D4
_SNAPLEN = 262144


class LinkType(enum.IntEnum):
    """What each record starts with (tcpdump.org link-layer header types)."""

    ETHERNET = 1
    IPV6 = 229


def write_pcap(
    path: Path | str,
    packets: Iterable[tuple[float, bytes]],
    *,
    link_type: int = LinkType.IPV6,
) -> None:
    """Write (timestamp in seconds, octets) records to ``path``, replacing it."""
    with open(path, "wb") as file:
        file.write(pack("<IHHiIII", _MAGIC, 2, 4, 0, 0, _SNAPLEN, link_type))
        for timestamp, data in packets:
            seconds, microseconds = divmod(round(timestamp * 1_000_000), 1_000_000)
            file.write(pack("<IIII", seconds, microseconds, len(data), len(data)) + data)
