"""The hint to wpa_supplicant that it look for a better access point.

It takes no notice of scans that others have the kernel make; one that it is asked for by its
control socket it makes itself, and roams where that is worth it. Where it has no such socket
(NetworkManager speaks D-Bus with it) or another program is in its place, there is nobody to ask.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path("/run/wpa_supplicant")
"""Of control sockets, one for each interface, where Debian's configurations put them."""


def ask_to_scan(interface: str, frequencies: Sequence[int]) -> bool:
    """Have the supplicant of an interface look around on some frequencies (MHz); False where none
    took the question. The answer is not waited for."""
    question = f"SCAN freq={','.join(map(str, frequencies))}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as control:
            control.connect(str(FOLDER / interface))
            control.send(question.encode())
    except OSError:
        return False
    return True
