"""Selectors: which packets a policy is about (RFC 4301 4.4.1.1, RFC 4877 4.3).

Addresses are the logical ones: the home address of a Home Address option counts as the source and
that of a type 2 routing header as the destination (RFC 3776 4.2). The Mobility Header and ICMPv6
message types are selectors too, so that only the messages that need protection are asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from mnagent.wire.icmp6 import MobilePrefixAdvertisement, MobilePrefixSolicitation
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import (
    BindingAcknowledgement,
    BindingRevocationAcknowledgement,
    BindingRevocationIndication,
    BindingUpdate,
    HomeAgentSwitch,
    HomeTest,
    HomeTestInit,
)

Message = type[
    BindingRevocationIndication
    | BindingRevocationAcknowledgement
    | HomeAgentSwitch
    | BindingUpdate
    | BindingAcknowledgement
    | HomeTestInit
    | HomeTest
    | MobilePrefixSolicitation
    | MobilePrefixAdvertisement
]
"""A Mobility Header or ICMPv6 message type, named by the class that `mnagent.wire` decodes it
to."""

ANY: Final = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One direction's condition; None matches anything."""

    source: IPv6Address | None = ANY
    """Logical source address."""
    destination: IPv6Address | None = ANY
    """Logical destination address."""
    message: Message | tuple[Message, ...] | None = ANY
    """The message type (RFC 4877 4.3): stands for the protocol and the type together; of several
    any one."""
    home_registration: bool | None = ANY
    """For Binding Updates: the H bit. Not of RFC 4301: it tells registrations at a home agent from
    those at the same node as a correspondent, of mobile nodes that have no policy of their own."""

    def matches(self, packet: IPv6Packet) -> bool:
        """True when the packet meets every condition."""
        # What is cheap to ask comes first.
        if self.message is not None and not isinstance(packet.payload, self.message):
            return False
        if self.source is not None and packet.logical_source != self.source:
            return False
        if self.destination is not None and packet.logical_destination != self.destination:
            return False
        if self.home_registration is None:
            return True
        return (
            isinstance(packet.payload, BindingUpdate)
            and packet.payload.home_registration == self.home_registration
        )
