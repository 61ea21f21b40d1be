"""tshark reads what the encoders make: an independent judge of every format."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from mnagent.wire import icmp6, mobility, ndisc
from mnagent.wire import mobility_options as options
from mnagent.wire.esp import EspPacket
from mnagent.wire.ipv6 import (
    DestinationOptions,
    ExtensionHeader,
    FragmentHeader,
    HomeAddressOption,
    HopByHopOptions,
    IPv6Packet,
    RawPayload,
    RouterAlert,
    TunnelEncapsulationLimit,
    Type2RoutingHeader,
)
from mnagent.wire.packet import Payload, encode_packet
from tests.support.octets import DESTINATION, HOME_ADDRESS, SOURCE
from tests.support.pcap import LinkType, write_pcap

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")

MAC = bytes.fromhex("020000000001")
COOKIE = bytes.fromhex("0123456789abcdef")
TOKEN = bytes.fromhex("fedcba9876543210")
QUOTED = encode_packet(IPv6Packet(DESTINATION, SOURCE, RawPayload(59, b"")))
LINK_LOCAL = IPv6Address("fe80::1")


def packet(payload: Payload, *headers: ExtensionHeader) -> IPv6Packet:
    return IPv6Packet(SOURCE, DESTINATION, payload, extension_headers=headers)


CASES: Mapping[str, tuple[IPv6Packet, Mapping[str, str]]] = {
    "binding-refresh-request": (
        packet(mobility.BindingRefreshRequest()),
        {"mip6.mhtype": "0", "mip6.hlen": "0", "mip6.proto": "59", "mip6.reserved": "0x00"},
    ),
    "home-test-init": (
        packet(mobility.HomeTestInit(COOKIE)),
        {"mip6.mhtype": "1", "mip6.hlen": "1", "mip6.hoti.cookie": "0x0123456789abcdef"},
    ),
    "care-of-test-init": (
        packet(mobility.CareOfTestInit(COOKIE)),
        {"mip6.mhtype": "2", "mip6.hlen": "1", "mip6.coti.cookie": "0x0123456789abcdef"},
    ),
    "home-test": (
        packet(mobility.HomeTest(7, COOKIE, TOKEN)),
        {
            "mip6.mhtype": "3",
            "mip6.hlen": "2",
            "mip6.hot.nindex": "7",
            "mip6.hot.cookie": "0x0123456789abcdef",
            "mip6.hot.token": "0xfedcba9876543210",
        },
    ),
    "care-of-test": (
        packet(mobility.CareOfTest(8, COOKIE, TOKEN)),
        {
            "mip6.mhtype": "4",
            "mip6.hlen": "2",
            "mip6.cot.nindex": "8",
            "mip6.cot.cookie": "0x0123456789abcdef",
            "mip6.hot.token": "0xfedcba9876543210",  # the name tshark gives it
        },
    ),
    "binding-update": (
        packet(
            mobility.BindingUpdate(
                sequence=0x1234,
                lifetime=600,
                acknowledge=True,
                home_registration=True,
                link_local_compatibility=True,
                key_management_mobility=True,
                other_flags=0x0400,
                options=(options.AlternateCareOfAddress(SOURCE),),
            ),
            DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),
        ),
        {
            "ipv6.opt.type": "0x01,0xc9",
            "ipv6.opt.mipv6.home_address": "2001:db8:1::10",
            "mip6.mhtype": "5",
            "mip6.hlen": "3",
            "mip6.bu.seqnr": "4660",
            "mip6.bu.a_flag": "1",
            "mip6.bu.h_flag": "1",
            "mip6.bu.l_flag": "1",
            "mip6.bu.k_flag": "1",
            "mip6.bu.m_flag": "0",
            "mip6.nemo.bu.r_flag": "1",
            "mip6.bu.lifetime": "150",
            "mip6.acoa.acoa": "2001:db8:2::10",
        },
    ),
    "binding-update-authorized": (
        packet(
            mobility.BindingUpdate(
                sequence=1,
                lifetime=420,
                options=(
                    options.NonceIndices(3, 4),
                    options.BindingAuthorizationData(bytes(range(12))),
                ),
            )
        ),
        {
            "mip6.ni.hni": "3",
            "mip6.ni.cni": "4",
            "mip6.bad.auth": "000102030405060708090a0b",
        },
    ),
    "binding-acknowledgement": (
        packet(
            mobility.BindingAcknowledgement(
                status=135,
                sequence=9,
                lifetime=420,
                key_management_mobility=True,
                options=(options.BindingRefreshAdvice(400),),
            ),
            Type2RoutingHeader(HOME_ADDRESS),
        ),
        {
            "ipv6.routing.type": "2",
            "ipv6.routing.segleft": "1",
            "ipv6.routing.mipv6.home_address": "2001:db8:1::10",
            "mip6.mhtype": "6",
            "mip6.ba.status": "135",
            "mip6.ba.k_flag": "1",
            "mip6.ba.seqnr": "9",
            "mip6.ba.lifetime": "105",
            "mip6.bra.interval": "100",
        },
    ),
    "binding-error": (
        packet(mobility.BindingError(2, HOME_ADDRESS)),
        {"mip6.mhtype": "7", "mip6.be.status": "2", "mip6.be.haddr": "2001:db8:1::10"},
    ),
    "mobile-node-identifier": (
        packet(mobility.BindingRefreshRequest((options.MobileNodeIdentifier(b"me@home"),))),
        {"mip6.mnid.subtype": "1"},
    ),
    "destination-unreachable": (
        packet(icmp6.DestinationUnreachable(3, QUOTED)),
        {"icmpv6.type": "1", "icmpv6.code": "3", "icmpv6.checksum.status": "1"},
    ),
    "packet-too-big": (
        packet(icmp6.PacketTooBig(1400, QUOTED)),
        {"icmpv6.type": "2", "icmpv6.mtu": "1400", "icmpv6.checksum.status": "1"},
    ),
    "time-exceeded": (
        packet(icmp6.TimeExceeded(1, QUOTED)),
        {"icmpv6.type": "3", "icmpv6.code": "1", "icmpv6.checksum.status": "1"},
    ),
    "parameter-problem": (
        packet(icmp6.ParameterProblem(2, 42, QUOTED)),
        {"icmpv6.type": "4", "icmpv6.code": "2", "icmpv6.pointer": "42"},
    ),
    "echo-through-home-address": (
        packet(
            icmp6.EchoRequest(7, 8, b"ping"),
            Type2RoutingHeader(DESTINATION),
            DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),
        ),
        {
            "icmpv6.type": "128",
            "icmpv6.echo.identifier": "0x0007",
            "icmpv6.echo.sequence_number": "8",
        },
    ),
    "home-agent-discovery-request": (
        packet(icmp6.HomeAgentAddressDiscoveryRequest(0xBEEF)),
        {"icmpv6.type": "144", "icmpv6.mip6.identifier": "48879", "icmpv6.checksum.status": "1"},
    ),
    "home-agent-discovery-reply": (
        packet(icmp6.HomeAgentAddressDiscoveryReply(0xBEEF, (DESTINATION, SOURCE))),
        {
            "icmpv6.type": "145",
            "icmpv6.mip6.identifier": "48879",
            "icmpv6.mip6.home_agent_address": "2001:db8:1::1,2001:db8:2::10",
            "icmpv6.checksum.status": "1",
        },
    ),
    "mobile-prefix-solicitation": (
        packet(icmp6.MobilePrefixSolicitation(0xBEEF)),
        {"icmpv6.type": "146", "icmpv6.mip6.identifier": "48879", "icmpv6.checksum.status": "1"},
    ),
    "mobile-prefix-advertisement": (
        packet(
            icmp6.MobilePrefixAdvertisement(
                1,
                managed=True,
                options=(
                    ndisc.PrefixInformation(
                        address=DESTINATION,
                        router_address=True,
                        valid_lifetime=7200,
                        preferred_lifetime=3600,
                    ),
                ),
            )
        ),
        {
            "icmpv6.type": "147",
            "icmpv6.mip6.flag.m": "1",
            "icmpv6.mip6.flag.o": "0",
            "icmpv6.opt.prefix": "2001:db8:1::1",
            "icmpv6.opt.prefix.flag.r": "1",
            "icmpv6.checksum.status": "1",
        },
    ),
    "router-solicitation": (
        packet(ndisc.RouterSolicitation((ndisc.SourceLinkLayerAddress(MAC),))),
        {"icmpv6.type": "133", "icmpv6.opt.src_linkaddr": "02:00:00:00:00:01"},
    ),
    "router-advertisement": (
        packet(
            ndisc.RouterAdvertisement(
                current_hop_limit=64,
                managed=True,
                home_agent=True,
                router_lifetime=1800,
                reachable_time=30,
                retransmission_timer=1,
                options=(
                    ndisc.Mtu(1500),
                    ndisc.PrefixInformation(
                        address=DESTINATION,
                        autonomous=False,
                        router_address=True,
                        valid_lifetime=ndisc.INFINITE_LIFETIME,
                        preferred_lifetime=3600,
                    ),
                    ndisc.AdvertisementInterval(0.07),
                    ndisc.HomeAgentInformation(9, 1800),
                ),
            )
        ),
        {
            "icmpv6.type": "134",
            "icmpv6.nd.ra.cur_hop_limit": "64",
            "icmpv6.nd.ra.flag.m": "1",
            "icmpv6.nd.ra.flag.o": "0",
            "icmpv6.nd.ra.flag.h": "1",
            "icmpv6.nd.ra.router_lifetime": "1800",
            "icmpv6.nd.ra.reachable_time": "30000",
            "icmpv6.nd.ra.retrans_timer": "1000",
            "icmpv6.opt.mtu": "1500",
            "icmpv6.opt.prefix": "2001:db8:1::1",
            "icmpv6.opt.prefix.length": "64",
            "icmpv6.opt.prefix.flag.l": "1",
            "icmpv6.opt.prefix.flag.a": "0",
            "icmpv6.opt.prefix.flag.r": "1",
            "icmpv6.opt.prefix.valid_lifetime": "4294967295",
            "icmpv6.opt.prefix.preferred_lifetime": "3600",
            "icmpv6.opt.advertisement_interval": "70",
            "icmpv6.opt.home_agent_preference": "9",
            "icmpv6.opt.home_agent_lifetime": "1800",
            "icmpv6.checksum.status": "1",
        },
    ),
    "neighbor-solicitation": (
        packet(ndisc.NeighborSolicitation(LINK_LOCAL, (ndisc.Nonce(b"abcdef"),))),
        {
            "icmpv6.type": "135",
            "icmpv6.nd.ns.target_address": "fe80::1",
            "icmpv6.opt.nonce": "616263646566",
        },
    ),
    "neighbor-advertisement": (
        packet(
            ndisc.NeighborAdvertisement(
                LINK_LOCAL,
                router=True,
                solicited=True,
                options=(ndisc.TargetLinkLayerAddress(MAC),),
            )
        ),
        {
            "icmpv6.type": "136",
            "icmpv6.nd.na.target_address": "fe80::1",
            "icmpv6.nd.na.flag.r": "1",
            "icmpv6.nd.na.flag.s": "1",
            "icmpv6.nd.na.flag.o": "0",
            "icmpv6.opt.target_linkaddr": "02:00:00:00:00:01",
        },
    ),
    "redirect": (
        packet(ndisc.Redirect(LINK_LOCAL, DESTINATION, (ndisc.RedirectedHeader(QUOTED),))),
        {
            "icmpv6.type": "137",
            "icmpv6.nd.rd.target_address": "fe80::1",
            "icmpv6.rd.na.destination_address": "2001:db8:1::1",
            "icmpv6.checksum.status": "1",
        },
    ),
    "esp": (
        packet(
            EspPacket(0x1000, 5, bytes(32)),
            DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),
        ),
        {"ipv6.nxt": "60", "esp.spi": "0x00001000", "esp.sequence": "5"},
    ),
    "tunnel": (
        packet(
            IPv6Packet(HOME_ADDRESS, DESTINATION, icmp6.EchoRequest(1, 1)),
            DestinationOptions((TunnelEncapsulationLimit(4),)),
        ),
        {
            "ipv6.src": "2001:db8:2::10,2001:db8:1::10",
            "ipv6.opt.tel": "4",
            "icmpv6.checksum.status": "1",
        },
    ),
    "router-alert": (
        packet(RawPayload(59, b""), HopByHopOptions((RouterAlert(0),))),
        {"ipv6.opt.router_alert": "0", "ipv6.nxt": "0"},
    ),
    "fragment": (
        packet(RawPayload(17, bytes(16)), FragmentHeader(1448, True, 0xABCD)),
        {
            "ipv6.fraghdr.offset": "181",
            "ipv6.fraghdr.more": "1",
            "ipv6.fraghdr.ident": "0x0000abcd",
        },
    ),
}
FIELDS = sorted({field for _, expected in CASES.values() for field in expected})
TROUBLE = ("_ws.malformed", "ipv6.routing.invalid_length", "ipv6.opt.invalid_len")


def dissect(path: Path, fields: list[str]) -> list[dict[str, str]]:
    """One mapping of field to text per packet."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=|"]
    for field in fields:
        command += ["-e", field]
    output = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert output.returncode == 0, output.stderr
    rows = output.stdout.splitlines()
    # From 4.2 on tshark says True and False where it said 1 and 0.
    truth = {"True": "1", "False": "0"}
    return [
        dict(zip(fields, (truth.get(value, value) for value in row.split("|")), strict=True))
        for row in rows
    ]


@pytest.fixture(scope="module")
def dissected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    path = tmp_path_factory.mktemp("tshark") / "wire.pcap"
    write_pcap(path, [(n / 10, encode_packet(p)) for n, (p, _) in enumerate(CASES.values())])
    rows = dissect(path, [*FIELDS, *TROUBLE, "frame.time_epoch"])
    assert len(rows) == len(CASES)
    return dict(zip(CASES, rows, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_packet_read_by_tshark_has_the_values_that_went_in(
    name: str, dissected: dict[str, dict[str, str]]
) -> None:
    row = dissected[name]
    expected = CASES[name][1]
    assert {field: row[field] for field in expected} == expected
    assert [row[field] for field in TROUBLE] == [""] * len(TROUBLE)


def test_capture_read_by_tshark_has_the_timestamps_that_went_in(
    dissected: dict[str, dict[str, str]],
) -> None:
    times = [float(row["frame.time_epoch"]) for row in dissected.values()]
    assert times == pytest.approx([n / 10 for n in range(len(CASES))])


def test_capture_of_ethernet_frames_is_read_by_tshark(tmp_path: Path) -> None:
    frame = bytes(6) + MAC + b"\x86\xdd" + QUOTED
    write_pcap(tmp_path / "ethernet.pcap", [(1.25, frame)], link_type=LinkType.ETHERNET)
    rows = dissect(tmp_path / "ethernet.pcap", ["eth.src", "ipv6.src", "frame.time_epoch"])
    assert [(row["eth.src"], row["ipv6.src"]) for row in rows] == [
        ("02:00:00:00:00:01", "2001:db8:1::1")
    ]
