"""Multicast Listener Discovery messages on the wire."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.wire.buffer import DecodeError
from mnagent.wire.icmp6 import decode_icmp6_message, encode_icmp6_message
from mnagent.wire.mld import (
    ListenerDone,
    ListenerQuery,
    ListenerRecord,
    ListenerReport,
    ListenerReportVersion2,
    MldMessage,
    RecordType,
)

GROUP = IPv6Address("ff0e::1")
SOURCE = IPv6Address("2001:db8::5")
ALL = IPv6Address("::")
GROUP_HEX = "ff0e" + "00" * 13 + "01"
SOURCE_HEX = "20010db8" + "00" * 11 + "05"


@pytest.mark.parametrize(
    ("message", "encoded"),
    [
        (ListenerQuery(10000, ALL), "8200000027100000" + "00" * 16),
        (ListenerQuery(1, GROUP, 2, 125), "8200000000010000" + GROUP_HEX + "027d0000"),
        (
            ListenerQuery(0, GROUP, 7, 1, (SOURCE,)),
            "8200000000000000" + GROUP_HEX + "07010001" + SOURCE_HEX,
        ),
        (ListenerReport(GROUP), "8300000000000000" + GROUP_HEX),
        (ListenerDone(GROUP), "8400000000000000" + GROUP_HEX),
        (ListenerReportVersion2(()), "8f00000000000000"),
        (
            ListenerReportVersion2(
                (
                    ListenerRecord(RecordType.MODE_IS_EXCLUDE, GROUP),
                    ListenerRecord(RecordType.ALLOW_NEW_SOURCES, GROUP, (SOURCE, SOURCE)),
                )
            ),
            "8f000000"
            "00000002"
            "02000000" + GROUP_HEX + "05000002" + GROUP_HEX + SOURCE_HEX + SOURCE_HEX,
        ),
    ],
)
def test_message_encodes_and_decodes_as_the_rfcs_draw_it(message: MldMessage, encoded: str) -> None:
    assert encode_icmp6_message(message).hex() == encoded
    assert decode_icmp6_message(bytes.fromhex(encoded), 40) == message


def test_auxiliary_data_of_a_record_is_skipped() -> None:
    head = bytes.fromhex("8f0000000000000204010000" + GROUP_HEX + "deadbeef")
    data = head + bytes.fromhex("03000000" + GROUP_HEX)
    decoded = decode_icmp6_message(data, 40)
    assert decoded == ListenerReportVersion2(
        (ListenerRecord(4, GROUP), ListenerRecord(RecordType.CHANGE_TO_INCLUDE_MODE, GROUP))
    )


@pytest.mark.parametrize(
    ("encoded", "offset"),
    [
        ("8200000000000000" + GROUP_HEX + "02000001", 40 + 28),
        ("8f00000000000001", 40 + 8),
        ("8f0000000000000104000001" + GROUP_HEX, 40 + 28),
        ("8f000000", 40),
        ("8300000000000000", 40),
    ],
)
def test_message_that_is_cut_off_is_refused(encoded: str, offset: int) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_icmp6_message(bytes.fromhex(encoded), 40)
    assert caught.value.offset == offset
