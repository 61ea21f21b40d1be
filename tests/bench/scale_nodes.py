"""Many mobile nodes for the scale benchmark: their addresses, keys and Binding Updates, and a home
agent made of the daemon's own parts over a kernel of dictionaries.

Nothing is read from files: a hundred thousand key files are not what is measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path as FilePath

from mnagent.config.model import (
    Configuration,
    CorrespondentConfiguration,
    HomeAgentConfiguration,
    HostConfiguration,
    LogLevel,
    PayloadProtection,
    Role,
    ServedMobileNode,
)
from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction, EspTransform, SecurityAssociation
from mnagent.datapath import Changes, Pipeline
from mnagent.ipsec.association import AssociationPair
from mnagent.ipsec.keys import KeySet
from mnagent.ipsec.purpose import Purpose
from mnagent.system.kernel import LinkInformation
from mnagent.wire.ipv6 import DestinationOptions, HomeAddressOption, IPv6Packet
from mnagent.wire.mobility import BindingUpdate
from mnagent.wire.packet import encode_packet

AGENT = IPv6Address("2001:db8:1::1")
CORRESPONDENT = IPv6Address("2001:db8:4::1")
HOME_PREFIX = IPv6Network("2001:db8:1::/64")
FIRST_HOME = int(IPv6Address("2001:db8:1::1:0"))
FIRST_CARE_OF = int(IPv6Address("2001:db8:2::1:0"))
CARE_OF_STEP = 1 << 24
"""Between the care-of addresses of one node after each of its movements."""
PURPOSES = (Purpose.BINDING, Purpose.RETURN_ROUTABILITY)
"""What a home agent without payload protection needs: four associations a node."""
LIFETIME = 3600.0
LINK = LinkInformation(
    interface=3, name="eth0", link_layer_address=bytes(6), mtu=1500, needs_resolution=True
)
ROUTER = IPv6Address("fe80::1")


def home_address(node: int) -> IPv6Address:
    """Of the node of that number."""
    return IPv6Address(FIRST_HOME + node)


def care_of_address(node: int, movement: int) -> IPv6Address:
    """Where the node is after so many movements."""
    return IPv6Address(FIRST_CARE_OF + node + movement * CARE_OF_STEP)


def key_set(node: int, end: TunnelEnd, purposes: Iterable[Purpose] = PURPOSES) -> KeySet:
    """The keys of one end; both ends' fit."""
    home = home_address(node)  # one object, as a key file's loader has it
    return KeySet(
        end=end,
        home_address=home,
        home_agent=AGENT,
        pairs={purpose: _pair(node, end, purpose, home=home) for purpose in purposes},
    )


def spi_of(node: int, purpose: Purpose, *, by: TunnelEnd) -> int:
    """The association that this end sends by."""
    place = 2 * list(Purpose).index(purpose) + (by is TunnelEnd.HOME_AGENT)
    return 4096 + 8 * node + place


def _pair(node: int, end: TunnelEnd, purpose: Purpose, *, home: IPv6Address) -> AssociationPair:
    other = next(each for each in TunnelEnd if each is not end)
    return AssociationPair(
        outbound=_association(node, purpose, by=end, direction=Direction.OUTBOUND, home=home),
        inbound=_association(node, purpose, by=other, direction=Direction.INBOUND, home=home),
    )


def _association(
    node: int, purpose: Purpose, *, by: TunnelEnd, direction: Direction, home: IPv6Address
) -> SecurityAssociation:
    spi = spi_of(node, purpose, by=by)
    keys = hashlib.sha512(spi.to_bytes(4, "big")).digest()
    return SecurityAssociation(
        spi=spi,
        direction=direction,
        mode=purpose.mode,
        transform=EspTransform.AES_CBC_HMAC_SHA256_128,
        home_address=home,
        peer=home,
        encryption_key=keys[:32],
        integrity_key=keys[32:],
        replay_window=64 if direction is Direction.INBOUND else 0,
    )


def configuration(nodes: int, *, directory: FilePath = FilePath("/nonexistent")) -> Configuration:
    """A home agent on a virtual home link that serves so many."""
    served = tuple(
        ServedMobileNode(home_address=home_address(node), keys=directory / f"{node}.toml")
        for node in range(nodes)
    )
    return Configuration(
        path=directory / "home-agent.toml",
        role=Role.HOME_AGENT,
        mobile_node=None,
        home_agent=HomeAgentConfiguration(
            address=AGENT,
            home_prefixes=(HOME_PREFIX,),
            home_link=None,
            interfaces=(),
            max_lifetime=3600,
            max_bindings=max(nodes, 1),
            revocation=False,
            switch_rate=10.0,
            early_forwarding=False,
            payload_protection=PayloadProtection.NONE,
            nodes_directory=directory / "mobile-nodes.d",
            mobile_nodes=served,
        ),
        host=HostConfiguration(
            tunnel_interface="mnagent0",
            route_table=6275,
            rule_priority=6275,
            state_directory=directory / "state",
            control_socket=directory / "control.sock",
            log_level=LogLevel.WARNING,
        ),
        correspondent=CorrespondentConfiguration(
            interfaces=(), max_bindings=4096, max_lifetime=420
        ),
    )


class MobileNodes:
    """The other ends: what they send to the home agent, protected."""

    def __init__(self, nodes: int) -> None:
        self._engine = Pipeline()
        self._sequence = 0
        self._engine.change(
            Changes(
                associations=tuple(
                    _association(
                        node,
                        Purpose.BINDING,
                        by=TunnelEnd.MOBILE_NODE,
                        direction=Direction.OUTBOUND,
                        home=home_address(node),
                    )
                    for node in range(nodes)
                )
            )
        )

    def binding_updates(self, nodes: Iterable[int], *, movement: int) -> Iterator[bytes]:
        """One of each node, as it is on the wire."""
        self._sequence += 1
        for node in nodes:
            update = BindingUpdate(
                sequence=self._sequence,
                lifetime=LIFETIME,
                acknowledge=True,
                home_registration=True,
            )
            packet = IPv6Packet(
                care_of_address(node, movement),
                AGENT,
                update,
                extension_headers=(DestinationOptions((HomeAddressOption(home_address(node)),)),),
            )
            spi = spi_of(node, Purpose.BINDING, by=TunnelEnd.MOBILE_NODE)
            yield self._engine.protect(spi, encode_packet(packet))
