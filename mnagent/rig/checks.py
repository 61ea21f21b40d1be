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
        if int.from_bytes(data[12:14], "big") != ETHERTYPE_IPV6:
            continue
        packet = data[ETHERNET_HEADER:]
        protocol, offset = packet[6], IPV6_HEADER
        while protocol in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS):
            length = 8 if protocol == FRAGMENT else 8 * (packet[offset + 1] + 1)
            protocol, offset = packet[offset], offset + length
        yield OuterPacket(
            IPv6Address(packet[8:24]), IPv6Address(packet[24:40]), protocol, packet[offset:]
        )


@dataclass(slots=True)
class LinkSummary:
    """What one link carried, as far as the checks care."""

    mobility_in_clear: int = 0
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
) -> list[Check]:
    """What the captures of all links together must show."""
    spis = {(item.purpose, item.outbound): item.spi for item in associations}
    checks = []
    clear = {name: link.mobility_in_clear for name, link in links.items()}
    checks.append(_none("no mobility message outside ESP on any link", clear))
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
    payload = {}
    for name in foreign:
        link = links[name]
        if payload_protection == "esp":
            both = [link.protected[spis["payload", outbound]] for outbound in (True, False)]
            checks.append(_none(f"no plain tunnel on {name}", {name: link.tunnelled.total()}))
        else:
            both = [link.tunnelled[True], link.tunnelled[False]]
        payload[name] = both
    checks.append(
        Check(
            "payload through the tunnel, both ways, on each foreign link",
            all(all(both) for both in payload.values()),
            ", ".join(f"{name}: {out} out, {back} in" for name, (out, back) in payload.items()),
        )
    )
    exposed = {name: links[name].home_address_in_clear for name in foreign}
    checks.append(_none("no packet from or to the home address outside the tunnel", exposed))
    problems = {name: link.parameter_problems for name, link in links.items()}
    checks.append(_none("no ICMPv6 Parameter Problem on any link", problems))
    return checks


def _none(claim: str, counts: Mapping[str, int]) -> Check:
    found = {name: count for name, count in counts.items() if count}
    return Check(claim, not found, ", ".join(f"{name}: {count}" for name, count in found.items()))
