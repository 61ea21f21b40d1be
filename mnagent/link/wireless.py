"""nl80211 messages as frozen values: octets in, values out.

Only what the daemon looks at, read by hand: the library's nl80211 classes know two hundred
attributes and cost megabytes. A generic netlink message is a netlink header, a four-octet header
(command, version) and attributes (``include/uapi/linux/genetlink.h``, ``nl80211.h``).

A driver of mac80211 tells a roam as a new CONNECT, a driver whose firmware roams as ROAM.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

GENL_ID_CTRL = 0x10
"""Type of the controller's messages, and the group of its notifications."""
CTRL_CMD_NEWFAMILY = 1
CTRL_CMD_DELFAMILY = 2
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID = 1
CTRL_ATTR_FAMILY_NAME = 2
CTRL_ATTR_MCAST_GROUPS = 7
CTRL_ATTR_MCAST_GRP_NAME = 1
CTRL_ATTR_MCAST_GRP_ID = 2

FAMILY_NAME = "nl80211"
CONNECTION_GROUP = "mlme"
"""The group that CONNECT, ROAM and DISCONNECT are told to."""
NL80211_CMD_GET_STATION = 17
NL80211_CMD_NEW_STATION = 19
NL80211_CMD_GET_SCAN = 32
NL80211_CMD_TRIGGER_SCAN = 33
NL80211_CMD_NEW_SCAN_RESULTS = 34
NL80211_CMD_CONNECT = 46
NL80211_CMD_ROAM = 47
NL80211_CMD_DISCONNECT = 48
NL80211_CMD_NOTIFY_CQM = 64
NL80211_ATTR_IFINDEX = 3
NL80211_ATTR_MAC = 6
NL80211_ATTR_STA_INFO = 21
NL80211_ATTR_SCAN_FREQUENCIES = 44
NL80211_ATTR_SCAN_SSIDS = 45
NL80211_ATTR_BSS = 47
NL80211_ATTR_STATUS_CODE = 72
NL80211_ATTR_CQM = 94
NL80211_ATTR_CQM_RSSI_THRESHOLD_EVENT = 3
NL80211_ATTR_CQM_RSSI_LEVEL = 9
NL80211_CQM_RSSI_THRESHOLD_EVENT_LOW = 0
NL80211_BSS_FREQUENCY = 2
NL80211_BSS_INFORMATION_ELEMENTS = 6
NL80211_BSS_STATUS = 9
NL80211_BSS_STATUS_ASSOCIATED = 1
NL80211_STA_INFO_SIGNAL = 7
NL80211_STA_INFO_SIGNAL_AVG = 13

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
"""So that every request is answered in the end, one for many by their end."""
NLM_F_DUMP = 0x300
ELEMENT_SSID = 0
"""Of a beacon's information elements (IEEE 802.11); it comes first."""
MAX_SSID_LENGTH = 32
MAX_ATTRIBUTES = 512
"""Read of one message or nest; the rest is left alone."""

_MESSAGE = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBxx")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
"""Without the nesting and byte-order flags."""


class AssociationChange(enum.Enum):
    """What Wi-Fi told."""

    CONNECTED = NL80211_CMD_CONNECT
    ROAMED = NL80211_CMD_ROAM
    DISCONNECTED = NL80211_CMD_DISCONNECT


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationMessage:
    """An interface joined, changed or left an access point."""

    interface: int
    change: AssociationChange
    access_point: bytes = b""
    """BSSID, six octets, or empty where the driver does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalMessage:
    """How well an interface hears its access point."""

    interface: int
    level: float
    """dBm."""
    is_falling: bool | None = None
    """Whether it fell below the threshold that the supplicant watches, or rose above it; None where
    it is an answer to our question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPointMessage:
    """An access point that an interface heard of late; an answer to our question."""

    interface: int
    network: bytes
    """SSID, empty where it hides its name."""
    frequency: int
    """MHz."""
    is_own: bool = False
    """The interface is associated with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyMessage:
    """A generic netlink family came or went."""

    name: str
    identifier: int
    groups: dict[str, int] = field(default_factory=dict)
    removed: bool = False


InterfaceMessage = AssociationMessage | SignalMessage | AccessPointMessage
"""What concerns an interface."""
WirelessMessage = InterfaceMessage | FamilyMessage


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages of a datagram: type, and what follows the netlink header."""
    offset = 0
    while offset + _MESSAGE.size <= len(data):
        length, message_type, _, _, _ = _MESSAGE.unpack_from(data, offset)
        if length < _MESSAGE.size or offset + length > len(data):
            return
        yield message_type, data[offset + _MESSAGE.size : offset + length]
        offset += (length + 3) & ~3


def decode(message_type: int, data: bytes, *, family: int | None) -> WirelessMessage | None:
    """One message, or None when it is of no interest or not understood.

    ``family`` is the identifier nl80211 has on this kernel, or None while it has none.
    """
    if len(data) < _GENERIC.size:
        return None
    command, _ = _GENERIC.unpack_from(data)
    attributes = _attributes(data[_GENERIC.size :])
    if message_type == GENL_ID_CTRL:
        return _decode_family(command, attributes)
    if family is None or message_type != family:
        return None
    interface = _number(attributes.get(NL80211_ATTR_IFINDEX))
    if interface is None:
        return None
    if command == NL80211_CMD_NEW_STATION:
        return _decode_signal(interface, attributes)
    if command == NL80211_CMD_NOTIFY_CQM:
        return _decode_threshold(interface, attributes)
    if command == NL80211_CMD_NEW_SCAN_RESULTS:
        return _decode_access_point(interface, attributes)
    try:
        change = AssociationChange(command)
    except ValueError:
        return None
    if change is AssociationChange.CONNECTED and any(attributes.get(NL80211_ATTR_STATUS_CODE, b"")):
        return None  # the attempt failed
    access_point = attributes.get(NL80211_ATTR_MAC, b"")
    return AssociationMessage(
        interface=interface,
        change=change,
        access_point=access_point if len(access_point) == 6 else b"",
    )


def encode_family_request(sequence: int) -> bytes:
    """Ask the controller whether there is nl80211."""
    name = FAMILY_NAME.encode() + b"\0"
    return _request(
        GENL_ID_CTRL, CTRL_CMD_GETFAMILY, sequence, _encode(CTRL_ATTR_FAMILY_NAME, name)
    )


def encode_signal_request(family: int, interface: int, sequence: int) -> bytes:
    """Ask for the station an interface is associated with: its access point."""
    index = _encode(NL80211_ATTR_IFINDEX, struct.pack("=I", interface))
    return _request(family, NL80211_CMD_GET_STATION, sequence, index, flags=NLM_F_DUMP)


def encode_access_points_request(family: int, interface: int, sequence: int) -> bytes:
    """Ask for the access points an interface heard of late."""
    index = _encode(NL80211_ATTR_IFINDEX, struct.pack("=I", interface))
    return _request(family, NL80211_CMD_GET_SCAN, sequence, index, flags=NLM_F_DUMP)


def encode_scan(
    family: int, interface: int, sequence: int, *, network: bytes, frequencies: Sequence[int]
) -> bytes:
    """Have an interface look for a network (SSID) on some frequencies (MHz)."""
    channels = b"".join(
        _encode(number, struct.pack("=I", frequency))
        for number, frequency in enumerate(frequencies, start=1)
    )
    payload = (
        _encode(NL80211_ATTR_IFINDEX, struct.pack("=I", interface))
        + _encode(NL80211_ATTR_SCAN_FREQUENCIES, channels)
        + _encode(NL80211_ATTR_SCAN_SSIDS, _encode(1, network))
    )
    return _request(family, NL80211_CMD_TRIGGER_SCAN, sequence, payload)


def _request(family: int, command: int, sequence: int, payload: bytes, *, flags: int = 0) -> bytes:
    body = _GENERIC.pack(command, 1) + payload
    length = _MESSAGE.size + len(body)
    return _MESSAGE.pack(length, family, NLM_F_REQUEST | (flags or NLM_F_ACK), sequence, 0) + body


def _encode(attribute: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), attribute) + value + padding


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    for _ in range(MAX_ATTRIBUTES):
        if offset + _ATTRIBUTE.size > len(data):
            break
        length, attribute = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            break
        found[attribute & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def _number(value: bytes | None) -> int | None:
    return int.from_bytes(value, "little" if _LITTLE else "big") if value else None


_LITTLE = struct.pack("=H", 1)[0] == 1


def _text(value: bytes | None) -> str:
    return (value or b"").split(b"\0", 1)[0].decode(errors="replace")


def _decode_family(command: int, attributes: dict[int, bytes]) -> FamilyMessage | None:
    identifier = _number(attributes.get(CTRL_ATTR_FAMILY_ID))
    if command not in (CTRL_CMD_NEWFAMILY, CTRL_CMD_DELFAMILY) or identifier is None:
        return None
    groups: dict[str, int] = {}
    for nested in _attributes(attributes.get(CTRL_ATTR_MCAST_GROUPS, b"")).values():
        group = _attributes(nested)
        number = _number(group.get(CTRL_ATTR_MCAST_GRP_ID))
        if number is not None:
            groups[_text(group.get(CTRL_ATTR_MCAST_GRP_NAME))] = number
    return FamilyMessage(
        name=_text(attributes.get(CTRL_ATTR_FAMILY_NAME)),
        identifier=identifier,
        groups=groups,
        removed=command == CTRL_CMD_DELFAMILY,
    )


def _decode_signal(interface: int, attributes: dict[int, bytes]) -> SignalMessage | None:
    station = _attributes(attributes.get(NL80211_ATTR_STA_INFO, b""))
    level = station.get(NL80211_STA_INFO_SIGNAL_AVG) or station.get(NL80211_STA_INFO_SIGNAL)
    if not level:
        return None
    return SignalMessage(interface=interface, level=float(struct.unpack("=b", level[:1])[0]))


def _decode_threshold(interface: int, attributes: dict[int, bytes]) -> SignalMessage | None:
    quality = _attributes(attributes.get(NL80211_ATTR_CQM, b""))
    event = _number(quality.get(NL80211_ATTR_CQM_RSSI_THRESHOLD_EVENT))
    level = quality.get(NL80211_ATTR_CQM_RSSI_LEVEL, b"")
    if event is None or len(level) != 4:
        return None  # lost beacons or packets, or a kernel that does not tell the level
    return SignalMessage(
        interface=interface,
        level=float(struct.unpack("=i", level)[0]),
        is_falling=event == NL80211_CQM_RSSI_THRESHOLD_EVENT_LOW,
    )


def _decode_access_point(interface: int, attributes: dict[int, bytes]) -> AccessPointMessage | None:
    point = _attributes(attributes.get(NL80211_ATTR_BSS, b""))
    frequency = _number(point.get(NL80211_BSS_FREQUENCY))
    if not frequency:
        return None
    return AccessPointMessage(
        interface=interface,
        network=_network(point.get(NL80211_BSS_INFORMATION_ELEMENTS, b"")),
        frequency=frequency,
        is_own=_number(point.get(NL80211_BSS_STATUS)) == NL80211_BSS_STATUS_ASSOCIATED,
    )


def _network(elements: bytes) -> bytes:
    """The name among information elements, empty where it is hidden."""
    if len(elements) < 2 or elements[0] != ELEMENT_SSID or elements[1] > MAX_SSID_LENGTH:
        return b""
    name = elements[2 : 2 + elements[1]]
    return name if len(name) == elements[1] and any(name) else b""
