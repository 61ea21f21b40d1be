"""What must be true of a demo: of the traffic, of each handover, and of what the links carried.

The walk through headers here is the rig's own and reads only what it needs, so that the captures
are judged by other code than the code that made the packets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from mnagent.rig.capture import CapturedFrame
from mnagent.rig.keyfile import Association

ETHERTYPE_IPV6 = 0x86DD
ETHERNET_HEADER = 14
IPV6_HEADER = 40
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
ENCAPSULATED_IPV6 = 41
ESP = 50
ICMPV6 = 58
MOBILITY = 135
PARAMETER_PROBLEM = 4
PAD1 = 0
HOME_ADDRESS_OPTION = 0xC9
TYPE_2_ONE_SEGMENT_LEFT = bytes([2, 1])
NEIGHBOUR_DISCOVERY = range(133, 138)


@dataclass(frozen=True, slots=True)
class Check:
    """One claim and whether it held."""

    claim: str
    held: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class OuterPacket:
    """An IPv6 packet as any router on the way sees it."""

    source: IPv6Address
    destination: IPv6Address
    protocol: int
    """The first header that is no extension header a router may look at."""
    payload: bytes
    """From that header on."""
    at: float = 0.0
    """Seconds on CLOCK_REALTIME when it was captured."""
    home_address: IPv6Address | None = None
    """In a Home Address option."""
    routed_to: IPv6Address | None = None
    """In a type 2 routing header not consumed yet."""
    hop_limit: int = 64

    @property
    def logical_source(self) -> IPv6Address:
        """The source its upper layers see."""
        return self.home_address or self.source

    @property
    def logical_destination(self) -> IPv6Address:
        """The destination its upper layers see."""
        return self.routed_to or self.destination

    @property
    def is_direct(self) -> bool:
        """On the direct path of route optimization."""
        return self.home_address is not None or self.routed_to is not None

    @property
    def spi(self) -> int | None:
        """Of an ESP packet."""
        return int.from_bytes(self.payload[:4], "big") if self.protocol == ESP else None

    @property
    def stays_on_link(self) -> bool:
        """Neighbour discovery, which no router passes on: between carrier and the node's reaction
        its kernel may still ask for the router of the link it left."""
        return self.protocol == ICMPV6 and self.payload[0] in NEIGHBOUR_DISCOVERY


def outer_packets(frames: Iterable[CapturedFrame]) -> Iterator[OuterPacket]:
    """The IPv6 packets of a capture."""
    for frame in frames:
        data = frame.data
        if int.from_bytes(data[12:14], "big") == ETHERTYPE_IPV6:
            yield open_packet(data[ETHERNET_HEADER:], frame.at)


def open_packet(packet: bytes, at: float) -> OuterPacket:
    """An IPv6 packet's addresses, and where its payload is. Raises IndexError when it is cut."""
    protocol, offset = packet[6], IPV6_HEADER
    home_address = routed_to = None
    while protocol in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS):
        length = 8 if protocol == FRAGMENT else 8 * (packet[offset + 1] + 1)
        header = packet[offset : offset + length]
        if protocol == DESTINATION_OPTIONS:
            home_address = home_address or _home_address(header)
        elif protocol == ROUTING and header[2:4] == TYPE_2_ONE_SEGMENT_LEFT:
            routed_to = IPv6Address(header[8:24])
        protocol, offset = header[0], offset + length
    return OuterPacket(
        IPv6Address(packet[8:24]),
        IPv6Address(packet[24:40]),
        protocol,
        packet[offset : IPV6_HEADER + int.from_bytes(packet[4:6], "big")],
        at,
        home_address,
        routed_to,
        packet[7],
    )


def _home_address(header: bytes) -> IPv6Address | None:
    position = 2
    while position + 2 <= len(header):
        kind = header[position]
        length = 0 if kind == PAD1 else header[position + 1]
        if kind == HOME_ADDRESS_OPTION:
            return IPv6Address(header[position + 2 : position + 2 + length])
        position += 1 if kind == PAD1 else 2 + length
    return None


@dataclass(slots=True)
class LinkSummary:
    """What one link carried, as far as the checks care."""

    mobility_in_clear: int = 0
    mobility_with_home_agent: int = 0
    """Those of them that the home agent sent, or that were sent to it."""
    home_address_in_clear: int = 0
    """Packets with the home address as the source or destination that routers see."""
    parameter_problems: int = 0
    protected: Counter[int] = field(default_factory=Counter)
    """ESP packets by SPI."""
    tunnelled: Counter[bool] = field(default_factory=Counter)
    """Plain tunnel packets by direction: True from the mobile node."""


def summarize(
    frames: Iterable[CapturedFrame], *, home_address: IPv6Address, home_agent: IPv6Address
) -> LinkSummary:
    """Count what one link carried."""
    summary = LinkSummary()
    for packet in outer_packets(frames):
        if home_address in (packet.source, packet.destination) and not packet.stays_on_link:
            summary.home_address_in_clear += 1
        if packet.protocol == MOBILITY:
            summary.mobility_in_clear += 1
            summary.mobility_with_home_agent += home_agent in (packet.source, packet.destination)
        elif packet.protocol == ICMPV6 and packet.payload[0] == PARAMETER_PROBLEM:
            summary.parameter_problems += 1
        elif packet.protocol == ENCAPSULATED_IPV6:
            summary.tunnelled[packet.destination == home_agent] += 1
        elif packet.spi is not None:
            summary.protected[packet.spi] += 1
    return summary


def check_captures(
    links: Mapping[str, LinkSummary],
    *,
    foreign: Mapping[str, IPv6Network],
    associations: list[Association],
    payload_protection: str,
    optimized: bool = False,
) -> list[Check]:
    """What the captures of all links together must show.

    With route optimization (``optimized``) there are mobility messages with the correspondent, and
    the tunnel need carry only what the node sends before the direct path is there.
    """
    spis = {(item.purpose, item.outbound): item.spi for item in associations}
    checks = []
    if optimized:
        clear = {name: link.mobility_with_home_agent for name, link in links.items()}
        claim = "no mobility message with the home agent outside ESP on any link"
    else:
        clear = {name: link.mobility_in_clear for name, link in links.items()}
        claim = "no mobility message outside ESP on any link"
    checks.append(_none(claim, clear))
    bindings = {
        name: (
            links[name].protected[spis["binding", True]],
            links[name].protected[spis["binding", False]],
        )
        for name in foreign
    }
    checks.append(
        Check(
            "Binding Updates and Acknowledgements under ESP on each foreign link",
            all(update and acknowledgement for update, acknowledgement in bindings.values()),
            ", ".join(f"{name}: {up} and {down}" for name, (up, down) in bindings.items()),
        )
    )
    checks += _check_tunnel(
        {name: links[name] for name in foreign}, spis, payload_protection, optimized
    )
    exposed = {name: links[name].home_address_in_clear for name in foreign}
    checks.append(_none("no packet from or to the home address outside the tunnel", exposed))
    problems = {name: link.parameter_problems for name, link in links.items()}
    checks.append(_none("no ICMPv6 Parameter Problem on any link", problems))
    return checks


def _check_tunnel(
    links: Mapping[str, LinkSummary],
    spis: Mapping[tuple[str, bool], int],
    payload_protection: str,
    optimized: bool,
) -> list[Check]:
    checks, payload = [], {}
    for name, link in links.items():
        if payload_protection == "esp":
            both = [link.protected[spis["payload", outbound]] for outbound in (True, False)]
            checks.append(_none(f"no plain tunnel on {name}", {name: link.tunnelled.total()}))
        else:
            both = [link.tunnelled[True], link.tunnelled[False]]
        payload[name] = both
    wanted = slice(0, 1) if optimized else slice(None)
    claim = (
        "payload from the node through the tunnel on each foreign link"
        if optimized
        else "payload through the tunnel, both ways, on each foreign link"
    )
    detail = ", ".join(f"{name}: {out} out, {back} in" for name, (out, back) in payload.items())
    held = all(all(both[wanted]) for both in payload.values())
    return [*checks, Check(claim, held, detail)]


def _none(claim: str, counts: Mapping[str, int]) -> Check:
    found = {name: count for name, count in counts.items() if count}
    return Check(claim, not found, ", ".join(f"{name}: {count}" for name, count in found.items()))
