"""What a handover cost, from what the node's daemon and its applications told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mnagent.rig.host import Process, Record
from mnagent.rig.roaming import Move, Roaming, Traffic, octets_sent
from mnagent.rig.topology import MOBILE

IN_FLIGHT = 0.5
"""Seconds before a link goes down from which on a probe counts as the handover's: its reply may
have been on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """One move. Instants are CLOCK_BOOTTIME seconds; None is what never came."""

    origin: str
    destination: str
    link_down_at: float
    link_up_at: float
    care_of_address_at: float | None
    """When the new care-of address could be used (never for the home link)."""
    acknowledged_at: float | None
    """When the Binding Acknowledgement, also of the deregistration, came."""
    first_out_at: float | None
    """When the correspondent got the first packet the node sent since the link went down."""
    first_in_at: float | None
    """When the node got the first packet the correspondent sent since then."""
    ping_resumed_at: float | None
    outgoing_resumed_at: float | None
    """When the connection the node opened had carried something new both ways."""
    incoming_resumed_at: float | None
    """The same for the connection the node accepted."""
    lost: int
    """Probes without a reply."""
    datagrams_resumed_at: float | None = None
    """When a datagram sent since the link went down had come, both ways; None without any too."""
    direct_at: float | None = None
    """When the node began to send to the correspondent directly."""
    has_datagrams: bool = False

    @property
    def resumed_at(self) -> float | None:
        """When the last of all kinds of traffic had resumed."""
        instants = [self.ping_resumed_at, self.outgoing_resumed_at, self.incoming_resumed_at]
        if self.has_datagrams:
            instants.append(self.datagrams_resumed_at)
        return None if None in instants else max(filter(None, instants))

    def since_link_up(self, instant: float | None) -> float | None:
        """Milliseconds from link up to an instant."""
        return None if instant is None else round((instant - self.link_up_at) * 1000, 1)

    def as_record(self) -> dict[str, Any]:
        """For the JSON report; every ``_ms`` counts from link up."""
        return {
            "from": self.origin,
            "to": self.destination,
            "gap_ms": self.since_link_up(self.resumed_at),
            "lost": self.lost,
            "care_of_address_ms": self.since_link_up(self.care_of_address_at),
            "acknowledged_ms": self.since_link_up(self.acknowledged_at),
            "first_out_ms": self.since_link_up(self.first_out_at),
            "first_in_ms": self.since_link_up(self.first_in_at),
            "ping_gap_ms": self.since_link_up(self.ping_resumed_at),
            "outgoing_tcp_gap_ms": self.since_link_up(self.outgoing_resumed_at),
            "incoming_tcp_gap_ms": self.since_link_up(self.incoming_resumed_at),
            "udp_gap_ms": self.since_link_up(self.datagrams_resumed_at),
            "direct_path_ms": self.since_link_up(self.direct_at),
        }


def lost_probes(ping: Process) -> list[Record]:
    """The probes that no reply came to, but for the newest while replies may be on their way."""
    answered = {record["sequence"] for record in ping.of_kind("reply")}
    sent = ping.of_kind("sent")
    until = float("inf") if ping.of_kind("finished") else sent[-1]["at"] - IN_FLIGHT
    return [r for r in sent if r["sequence"] not in answered and r["at"] < until]


def first_fresh(sender: Process, receiver: Process, since: float) -> float | None:
    """When ``receiver`` first got an octet that ``sender`` wrote after an instant."""
    before = octets_sent(sender, since)
    fresh = (
        record["at"]
        for record in receiver.of_kind("received")
        if record["octets"] > before and record["at"] >= since
    )
    return next(fresh, None)


def first_datagram(sender: Process, receiver: Process, since: float) -> Record | None:
    """What ``sender`` recorded of its first datagram that came, of those sent from an instant on,
    with when it ``came``."""
    came: dict[int, float] = {}
    for record in receiver.of_kind("received"):
        came.setdefault(record["sequence"], record["at"])
    for record in sender.of_kind("sent"):
        if record["at"] >= since and record["sequence"] in came:
            return {**record, "came": came[record["sequence"]]}
    return None


def datagram_faults(traffic: Traffic, handovers: list[Handover], *, in_flight: float) -> list[str]:
    """Datagrams lost though no handover excuses it, and those that came twice.

    A handover excuses what was sent from ``in_flight`` seconds before the link went down until the
    first that came again, by direction: from then on not even a change of paths may lose one.
    """
    if traffic.datagrams is None:
        return []
    node, peer = traffic.datagrams
    faults = []
    for name, sender, receiver in (("to the peer", node, peer), ("to the node", peer, node)):
        excused = [
            (handover.link_down_at - in_flight, first["at"] if first else float("inf"))
            for handover in handovers
            for first in [first_datagram(sender, receiver, handover.link_down_at)]
        ]
        came = {record["sequence"] for record in receiver.of_kind("received")}
        lost = [
            record["sequence"]
            for record in sender.of_kind("sent")
            if record["sequence"] not in came
            and not any(begin <= record["at"] < end for begin, end in excused)
        ]
        if lost:
            faults.append(f"{len(lost)} lost {name}: {', '.join(map(str, lost[:5]))}")
        if twice := len(receiver.of_kind("received")) - len(came):
            faults.append(f"{twice} repeated {name}")
    return faults


def _later(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else max(left, right)


def _earlier(*instants: float | None) -> float | None:
    return min((instant for instant in instants if instant is not None), default=None)


def measure(roaming: Roaming, traffic: Traffic) -> list[Handover]:
    """All moves of the first mobile node so far, once the traffic has resumed after the last."""
    moves = [move for move in roaming.moves if move.role == MOBILE]
    ends = [move.link_down_at for move in moves[1:]] + [float("inf")]
    return [
        _measure_one(roaming, traffic, move, until)
        for move, until in zip(moves, ends, strict=True)
        if move.origin != "nowhere"
    ]


def _measure_one(roaming: Roaming, traffic: Traffic, move: Move, until: float) -> Handover:
    events = [event for event in roaming.mobile_node.events if move.link_up_at <= event.at < until]
    times: dict[str, float] = {}
    for event in events:
        times.setdefault(event.name, event.at)
    since = move.link_down_at
    node_end, peer_end = traffic.outgoing
    outgoing = (first_fresh(node_end, peer_end, since), first_fresh(peer_end, node_end, since))
    node_end, peer_end = traffic.incoming
    incoming = (first_fresh(node_end, peer_end, since), first_fresh(peer_end, node_end, since))
    replies = (r["at"] for r in traffic.ping.of_kind("reply") if r["sent_at"] >= since)
    ping_resumed_at = next(replies, None)
    there = back = None
    if traffic.datagrams is not None:
        node_end, peer_end = traffic.datagrams
        there = first_datagram(node_end, peer_end, since)
        back = first_datagram(peer_end, node_end, since)
    window = (since - IN_FLIGHT, until - IN_FLIGHT)
    return Handover(
        origin=move.origin,
        destination=move.destination,
        link_down_at=move.link_down_at,
        link_up_at=move.link_up_at,
        care_of_address_at=times.get("care-of-address-ready"),
        acknowledged_at=_earlier(times.get("binding-accepted"), times.get("deregistered")),
        first_out_at=_earlier(outgoing[0], incoming[0]),
        first_in_at=_earlier(outgoing[1], incoming[1], ping_resumed_at),
        ping_resumed_at=ping_resumed_at,
        outgoing_resumed_at=_later(*outgoing),
        incoming_resumed_at=_later(*incoming),
        datagrams_resumed_at=max(there["came"], back["came"]) if there and back else None,
        direct_at=times.get("direct-path"),
        has_datagrams=traffic.datagrams is not None,
        lost=sum(window[0] <= record["at"] < window[1] for record in lost_probes(traffic.ping)),
    )
