"""scapy and tshark read what the DHCPv6 encoder makes, and we read what scapy makes."""

from __future__ import annotations

import math
import shutil
import struct
import subprocess
from collections.abc import Mapping
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from scapy.layers import dhcp6 as scapy_dhcp6

from mnagent.wire.checksum import upper_layer_checksum
from mnagent.wire.dhcp6 import (
    ClientIdentifier,
    Dhcp6Message,
    Dhcp6MessageType,
    DnsServers,
    ElapsedTime,
    IdentityAssociation,
    InformationMaxTimeout,
    InformationRefreshTime,
    LeasedAddress,
    OptionRequest,
    Preference,
    RapidCommit,
    ServerIdentifier,
    SolicitMaxTimeout,
    StatusCode,
    decode_dhcp6_message,
    encode_dhcp6_message,
)
from mnagent.wire.ipv6 import IPv6Packet, RawPayload
from mnagent.wire.packet import encode_packet
from tests.support.pcap import LinkType, write_pcap

ADDRESS = IPv6Address("2001:db8:a::1000")
CLIENT = b"\0\4" + bytes(range(16))
SERVER = b"\0\4" + bytes(range(16, 32))
CLIENT_PORT, SERVER_PORT, UDP = 546, 547, 17

SOLICIT = Dhcp6Message(
    Dhcp6MessageType.SOLICIT,
    0x123456,
    (
        ClientIdentifier(CLIENT),
        ElapsedTime(1.5),
        IdentityAssociation(7),
        OptionRequest((23, 82)),
        RapidCommit(),
    ),
)
REPLY = Dhcp6Message(
    Dhcp6MessageType.REPLY,
    0x123456,
    (
        ClientIdentifier(CLIENT),
        ServerIdentifier(SERVER),
        Preference(9),
        StatusCode(0, b"well"),
        IdentityAssociation(
            7, 50, math.inf, (LeasedAddress(ADDRESS, 100, 200, (StatusCode(0, b"ok"),)),)
        ),
        DnsServers((ADDRESS,)),
        InformationRefreshTime(700),
        SolicitMaxTimeout(61),
        InformationMaxTimeout(62),
        RapidCommit(),
    ),
)


def test_scapy_reads_a_solicit() -> None:
    message = scapy_dhcp6.DHCP6_Solicit(encode_dhcp6_message(SOLICIT))
    assert message.trid == 0x123456
    assert message[scapy_dhcp6.DHCP6OptElapsedTime].elapsedtime == 150
    assert message[scapy_dhcp6.DHCP6OptIA_NA].iaid == 7
    assert message[scapy_dhcp6.DHCP6OptOptReq].reqopts == [23, 82]
    assert message.haslayer(scapy_dhcp6.DHCP6OptRapidCommit)
    assert bytes(message[scapy_dhcp6.DHCP6OptClientId].duid) == CLIENT


def test_scapy_reads_a_reply() -> None:
    message = scapy_dhcp6.DHCP6_Reply(encode_dhcp6_message(REPLY))
    association = message[scapy_dhcp6.DHCP6OptIA_NA]
    assert (association.T1, association.T2) == (50, 0xFFFFFFFF)
    leased = association.ianaopts[0]
    assert (leased.addr, leased.preflft, leased.validlft) == (str(ADDRESS), 100, 200)
    assert message[scapy_dhcp6.DHCP6OptDNSServers].dnsservers == [str(ADDRESS)]
    assert message[scapy_dhcp6.DHCP6OptPref].prefval == 9
    assert message[scapy_dhcp6.DHCP6OptInfoRefreshTime].reftime == 700


def test_reply_of_scapy_is_read() -> None:
    leased = scapy_dhcp6.DHCP6OptIAAddress(addr=str(ADDRESS), preflft=100, validlft=200)
    message = (
        scapy_dhcp6.DHCP6_Reply(trid=0x123456)
        / scapy_dhcp6.DHCP6OptServerId(duid=scapy_dhcp6.DUID_LL(lladdr="02:00:00:00:00:01"))
        / scapy_dhcp6.DHCP6OptIA_NA(iaid=7, T1=50, T2=80, ianaopts=[leased])
        / scapy_dhcp6.DHCP6OptStatusCode(statuscode=2, statusmsg=b"none")
        / scapy_dhcp6.DHCP6OptDNSServers(dnsservers=[str(ADDRESS)])
    )
    assert decode_dhcp6_message(bytes(message)) == Dhcp6Message(
        Dhcp6MessageType.REPLY,
        0x123456,
        (
            ServerIdentifier(bytes.fromhex("00030001020000000001")),
            IdentityAssociation(7, 50, 80, (LeasedAddress(ADDRESS, 100, 200),)),
            StatusCode(2, b"none"),
            DnsServers((ADDRESS,)),
        ),
    )


CASES: Mapping[str, tuple[Dhcp6Message, Mapping[str, str]]] = {
    "solicit": (
        SOLICIT,
        {
            "dhcpv6.msgtype": "1",
            "dhcpv6.xid": "0x123456",
            "dhcpv6.elapsed_time": "1500",
            "dhcpv6.iaid": "00000007",
            "dhcpv6.option.type": "1,8,3,6,14",
            "dhcpv6.requested_option_code": "23,82",
        },
    ),
    "reply": (
        REPLY,
        {
            "dhcpv6.msgtype": "7",
            "dhcpv6.iaid.t1": "50",
            "dhcpv6.iaaddr.ip": str(ADDRESS),
            "dhcpv6.iaaddr.pref_lifetime": "100",
            "dhcpv6.iaaddr.valid_lifetime": "200",
            "dhcpv6.dns_server": str(ADDRESS),
            "dhcpv6.option.type": "1,2,7,13,3,5,13,23,32,82,83,14",
        },
    ),
}


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", CASES)
def test_tshark_reads_our_messages_without_complaint(name: str, tmp_path: Path) -> None:
    message, expected = CASES[name]
    source, destination = IPv6Address("fe80::2"), IPv6Address("ff02::1:2")
    data = encode_dhcp6_message(message)
    ports = (CLIENT_PORT, SERVER_PORT, 8 + len(data))
    checksum = upper_layer_checksum(
        source, destination, UDP, struct.pack("!HHHH", *ports, 0) + data
    )
    payload = RawPayload(UDP, struct.pack("!HHHH", *ports, checksum) + data)
    path = tmp_path / f"{name}.pcap"
    packet = encode_packet(IPv6Packet(source, destination, payload))
    write_pcap(path, [(0.0, packet)], link_type=LinkType.IPV6)
    fields = [word for field in expected for word in ("-e", field)]
    shown = subprocess.run(
        ["tshark", "-r", str(path), "-T", "fields", "-e", "_ws.malformed", *fields],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.rstrip("\n")
    malformed, *values = shown.split("\t")
    assert malformed == ""
    assert dict(zip(expected, values, strict=True)) == expected
