"""What kind of link an interface is: the kernel's word (sysfs), else its hardware type and name."""

from __future__ import annotations

import re
from pathlib import Path

from mnagent.core.events import LinkKind

ARPHRD_ETHER = 1
ARPHRD_PPP = 512
ARPHRD_RAWIP = 519
_DEVICE_TYPES = {"wlan": LinkKind.WIFI, "wwan": LinkKind.CELLULAR}
_NAMES = (
    (re.compile(r"wl(an)?"), LinkKind.WIFI),
    (re.compile(r"ww(an)?|rmnet|ppp|usb"), LinkKind.CELLULAR),
)


def kind_of(name: str, hardware_type: int, *, root: Path = Path("/sys/class/net")) -> LinkKind:
    """The kind of an interface; of one that sysfs does not show, by its name."""
    try:
        lines = (root / name / "uevent").read_text().splitlines()
        if (root / name / "phy80211").exists() or (root / name / "wireless").is_dir():
            return LinkKind.WIFI
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("DEVTYPE="):
            found = _DEVICE_TYPES.get(line.removeprefix("DEVTYPE="))
            if found is not None:
                return found
    if hardware_type in (ARPHRD_PPP, ARPHRD_RAWIP):
        return LinkKind.CELLULAR
    for pattern, kind in _NAMES:
        if pattern.match(name):
            return kind
    return LinkKind.ETHERNET if hardware_type == ARPHRD_ETHER else LinkKind.OTHER
