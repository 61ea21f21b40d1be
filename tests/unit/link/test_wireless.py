"""nl80211 messages, made by hand: this is what mac80211 and firmware-roaming drivers send."""

from __future__ import annotations

import struct
from random import Random

import pytest

from mnagent.link.wireless import (
    CTRL_ATTR_FAMILY_ID,
    CTRL_ATTR_FAMILY_NAME,
    CTRL_ATTR_MCAST_GROUPS,
    CTRL_ATTR_MCAST_GRP_ID,
    CTRL_ATTR_MCAST_GRP_NAME,
    CTRL_CMD_DELFAMILY,
    CTRL_CMD_NEWFAMILY,
    GENL_ID_CTRL,
    NL80211_ATTR_BSS,
    NL80211_ATTR_CQM,
    NL80211_ATTR_CQM_RSSI_LEVEL,
    NL80211_ATTR_CQM_RSSI_THRESHOLD_EVENT,
    NL80211_ATTR_IFINDEX,
    NL80211_ATTR_MAC,
    NL80211_ATTR_SCAN_FREQUENCIES,
    NL80211_ATTR_SCAN_SSIDS,
    NL80211_ATTR_STA_INFO,
    NL80211_ATTR_STATUS_CODE,
    NL80211_BSS_FREQUENCY,
    NL80211_BSS_INFORMATION_ELEMENTS,
    NL80211_BSS_STATUS,
    NL80211_CMD_CONNECT,
    NL80211_CMD_DISCONNECT,
    NL80211_CMD_NEW_SCAN_RESULTS,
    NL80211_CMD_NEW_STATION,
    NL80211_CMD_NOTIFY_CQM,
    NL80211_CMD_ROAM,
    NL80211_STA_INFO_SIGNAL,
    AccessPointMessage,
    AssociationChange,
    AssociationMessage,
    FamilyMessage,
    SignalMessage,
    WirelessMessage,
    decode,
    encode_access_points_request,
    encode_family_request,
    encode_scan,
    encode_signal_request,
    split,
)

FAMILY = 28
ACCESS_POINT = bytes.fromhex("02aa00000001")
NESTED = 0x8000
INDEX = (NL80211_ATTR_IFINDEX, struct.pack("=I", 3))
MAC = (NL80211_ATTR_MAC, ACCESS_POINT)


def attributes(*pairs: tuple[int, bytes]) -> bytes:
    return b"".join(
        struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
        for kind, value in pairs
    )


def message(command: int, *pairs: tuple[int, bytes]) -> bytes:
    return struct.pack("=BBxx", command, 1) + attributes(*pairs)


def read(command: int, *pairs: tuple[int, bytes]) -> WirelessMessage | None:
    return decode(FAMILY, message(command, *pairs), family=FAMILY)


@pytest.mark.parametrize(
    ("command", "change"),
    [
        (NL80211_CMD_CONNECT, AssociationChange.CONNECTED),
        (NL80211_CMD_ROAM, AssociationChange.ROAMED),
        (NL80211_CMD_DISCONNECT, AssociationChange.DISCONNECTED),
    ],
)
def test_association_is_read_with_its_access_point(command: int, change: AssociationChange) -> None:
    assert read(command, INDEX, MAC) == AssociationMessage(
        interface=3, change=change, access_point=ACCESS_POINT
    )


def test_connect_with_status_zero_succeeded_and_with_another_failed() -> None:
    good, bad = ((NL80211_ATTR_STATUS_CODE, struct.pack("=H", status)) for status in (0, 17))
    assert isinstance(read(NL80211_CMD_CONNECT, INDEX, MAC, good), AssociationMessage)
    assert read(NL80211_CMD_CONNECT, INDEX, MAC, bad) is None


def test_access_point_of_another_length_is_none() -> None:
    found = read(NL80211_CMD_ROAM, INDEX, (NL80211_ATTR_MAC, b"\x02"))
    assert isinstance(found, AssociationMessage) and found.access_point == b""


def test_signal_of_the_station_is_read() -> None:
    level = attributes((NL80211_STA_INFO_SIGNAL, struct.pack("=b", -67)))
    information = (NL80211_ATTR_STA_INFO | NESTED, level)
    expected = SignalMessage(interface=3, level=-67.0)
    assert read(NL80211_CMD_NEW_STATION, INDEX, information) == expected
    assert read(NL80211_CMD_NEW_STATION, INDEX) is None


@pytest.mark.parametrize(("event", "is_falling"), [(0, True), (1, False)])
def test_signal_that_passes_the_threshold_is_told_with_its_level(
    event: int, is_falling: bool
) -> None:
    quality = attributes(
        (NL80211_ATTR_CQM_RSSI_THRESHOLD_EVENT, struct.pack("=I", event)),
        (NL80211_ATTR_CQM_RSSI_LEVEL, struct.pack("=i", -81)),
    )
    told = read(NL80211_CMD_NOTIFY_CQM, INDEX, (NL80211_ATTR_CQM | NESTED, quality))
    assert told == SignalMessage(interface=3, level=-81.0, is_falling=is_falling)


@pytest.mark.parametrize(
    "quality",
    [
        attributes((NL80211_ATTR_CQM_RSSI_THRESHOLD_EVENT, struct.pack("=I", 0))),
        attributes((NL80211_ATTR_CQM_RSSI_LEVEL, struct.pack("=i", -81))),
        attributes((8, b"")),
        b"",
    ],
)
def test_quality_without_a_level_is_of_no_interest(quality: bytes) -> None:
    assert read(NL80211_CMD_NOTIFY_CQM, INDEX, (NL80211_ATTR_CQM | NESTED, quality)) is None


FREQUENCY = (NL80211_BSS_FREQUENCY, struct.pack("=I", 2437))


def elements(name: bytes) -> tuple[int, bytes]:
    rates = b"\x01\x02\x82\x84"
    return NL80211_BSS_INFORMATION_ELEMENTS, bytes([0, len(name)]) + name + rates


def test_access_point_heard_of_late_is_read_with_its_network_and_channel() -> None:
    point = (NL80211_ATTR_BSS | NESTED, attributes(FREQUENCY, elements(b"cafe")))
    assert read(NL80211_CMD_NEW_SCAN_RESULTS, INDEX, point) == AccessPointMessage(
        interface=3, network=b"cafe", frequency=2437
    )


@pytest.mark.parametrize(("status", "is_own"), [(0, False), (1, True), (2, False)])
def test_access_point_in_use_is_told_from_others(status: int, is_own: bool) -> None:
    state = (NL80211_BSS_STATUS, struct.pack("=I", status))
    point = (NL80211_ATTR_BSS | NESTED, attributes(FREQUENCY, elements(b"cafe"), state))
    found = read(NL80211_CMD_NEW_SCAN_RESULTS, INDEX, point)
    assert isinstance(found, AccessPointMessage) and found.is_own is is_own


@pytest.mark.parametrize(
    "named",
    [
        elements(b""),
        elements(bytes(4)),
        (NL80211_BSS_INFORMATION_ELEMENTS, b"\x00\x21" + b"x" * 33),
        (NL80211_BSS_INFORMATION_ELEMENTS, b"\x00\x04caf"),
        (NL80211_BSS_INFORMATION_ELEMENTS, b"\x01\x04\x82\x84\x8b\x96"),
        (NL80211_BSS_INFORMATION_ELEMENTS, b"\x00"),
        (NL80211_BSS_STATUS, bytes(4)),
    ],
)
def test_access_point_that_hides_or_garbles_its_name_has_none(named: tuple[int, bytes]) -> None:
    point = (NL80211_ATTR_BSS | NESTED, attributes(FREQUENCY, named))
    found = read(NL80211_CMD_NEW_SCAN_RESULTS, INDEX, point)
    assert isinstance(found, AccessPointMessage) and found.network == b""


def test_access_point_without_a_channel_is_of_no_interest() -> None:
    point = (NL80211_ATTR_BSS | NESTED, attributes(elements(b"cafe")))
    assert read(NL80211_CMD_NEW_SCAN_RESULTS, INDEX, point) is None
    assert read(NL80211_CMD_NEW_SCAN_RESULTS, INDEX) is None


def test_scan_names_the_network_and_the_channels() -> None:
    data = encode_scan(FAMILY, 3, 9, network=b"cafe", frequencies=(2412, 2437))
    ((kind, body),) = split(data)
    channels = attributes((1, struct.pack("=I", 2412)), (2, struct.pack("=I", 2437)))
    assert kind == FAMILY and body[4:] == attributes(
        INDEX,
        (NL80211_ATTR_SCAN_FREQUENCIES, channels),
        (NL80211_ATTR_SCAN_SSIDS, attributes((1, b"cafe"))),
    )


@pytest.mark.parametrize("command", [1, 33, 200])
def test_other_command_is_of_no_interest(command: int) -> None:
    assert read(command, INDEX, MAC) is None


def test_message_of_another_family_or_without_interface_is_of_no_interest() -> None:
    data = message(NL80211_CMD_CONNECT, INDEX, MAC)
    assert decode(FAMILY + 1, data, family=FAMILY) is None
    assert decode(FAMILY, data, family=None) is None
    assert read(NL80211_CMD_CONNECT, MAC) is None


def family(command: int) -> bytes:
    groups = attributes(
        *(
            (
                number | NESTED,
                attributes(
                    (CTRL_ATTR_MCAST_GRP_NAME, name + b"\0"),
                    (CTRL_ATTR_MCAST_GRP_ID, struct.pack("=I", 5 + number)),
                ),
            )
            for number, name in enumerate((b"config", b"scan", b"regulatory", b"mlme"), start=1)
        )
    )
    return message(
        command,
        (CTRL_ATTR_FAMILY_NAME, b"nl80211\0"),
        (CTRL_ATTR_FAMILY_ID, struct.pack("=H", FAMILY)),
        (CTRL_ATTR_MCAST_GROUPS | NESTED, groups),
    )


def test_family_is_read_with_its_groups() -> None:
    groups = {"config": 6, "scan": 7, "regulatory": 8, "mlme": 9}
    assert decode(GENL_ID_CTRL, family(CTRL_CMD_NEWFAMILY), family=None) == FamilyMessage(
        name="nl80211", identifier=FAMILY, groups=groups
    )
    gone = decode(GENL_ID_CTRL, family(CTRL_CMD_DELFAMILY), family=FAMILY)
    assert isinstance(gone, FamilyMessage) and gone.removed


def test_controller_message_without_identifier_is_of_no_interest() -> None:
    name = (CTRL_ATTR_FAMILY_NAME, b"nl80211\0")
    assert decode(GENL_ID_CTRL, message(CTRL_CMD_NEWFAMILY, name), family=None) is None


def test_requests_are_netlink_messages() -> None:
    ((kind, body),) = split(encode_family_request(7))
    assert kind == GENL_ID_CTRL and body[4:] == attributes((CTRL_ATTR_FAMILY_NAME, b"nl80211\0"))
    ((kind, body),) = split(encode_signal_request(FAMILY, 3, 8))
    assert kind == FAMILY and body[4:] == attributes(INDEX)
    ((kind, body),) = split(encode_access_points_request(FAMILY, 3, 8))
    assert kind == FAMILY and body[4:] == attributes(INDEX)


def test_datagram_of_several_messages_is_split_and_a_cut_one_ends_it() -> None:
    data = encode_family_request(1) + encode_family_request(2)
    assert len(list(split(data))) == 2
    assert len(list(split(data[:-1]))) == 1
    assert list(split(bytes(16))) == []


def test_octets_of_any_kind_are_a_value_or_nothing() -> None:
    random = Random(6275)
    whole = message(NL80211_CMD_CONNECT, INDEX, MAC)
    for _ in range(2000):
        data = bytearray(whole[: random.randrange(len(whole) + 1)])
        for _ in range(random.randrange(4)):
            if data:
                data[random.randrange(len(data))] = random.randrange(256)
        for kind in (FAMILY, GENL_ID_CTRL):
            decode(kind, bytes(data), family=FAMILY)
        list(split(bytes(data)))
