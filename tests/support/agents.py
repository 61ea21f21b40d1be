"""An agent away from home, and octets for it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from random import Random
from typing import Any

from mnagent.agent.agent import Agent
from mnagent.agent.build import build_agent
from mnagent.core.actions import Action
from mnagent.core.events import DatagramReceived, LinkUp
from mnagent.ipsec.keys import KeySet
from mnagent.ipsec.purpose import Purpose
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.packet import encode_packet
from tests.support.matching import sent
from tests.support.packets import router_advertisement
from tests.support.topology import make_keys, mobile_node_configuration

INTERFACE = 2
OWN_MAC = bytes.fromhex("020000000010")
ROUTER = IPv6Address("fe80::1")
ROUTER_MAC = bytes.fromhex("020000000001")


class AgentDriver:
    """A mobile node's agent without a network around it."""

    def __init__(self, *, seed: int = 1, **configuration: Any) -> None:
        self.keys: KeySet = make_keys(seed)[0]
        self.agent: Agent = build_agent(
            mobile_node_configuration(**configuration),
            random=Random(seed),
            persisted={},
            associations=[self.keys],
        )
        self.now = 1000.0

    @property
    def binding_spi(self) -> int:
        """Inbound association of Binding Acknowledgements."""
        return self.keys.pairs[Purpose.BINDING].inbound.spi

    def link_up(self) -> list[Action]:
        """The interface came up."""
        event = LinkUp(interface=INTERFACE, name="eth0", link_layer_address=OWN_MAC)
        return self.agent.handle(event, self.now)

    def receive(
        self,
        packet: IPv6Packet | bytes,
        *,
        protected_by: int | None = None,
        tunnel_source: IPv6Address | None = None,
    ) -> list[Action]:
        """Octets came in."""
        data = packet if isinstance(packet, bytes) else encode_packet(packet)
        event = DatagramReceived(
            data=data,
            interface=INTERFACE,
            link_layer_source=ROUTER_MAC,
            protected_by=protected_by,
            tunnel_source=tunnel_source,
        )
        return self.agent.handle(event, self.now)

    def visit(self, *prefixes: str) -> list[Action]:
        """Arrive on a link with these prefixes."""
        actions = self.link_up()
        return actions + self.receive(router_advertisement(ROUTER, *prefixes, mac=ROUTER_MAC))

    def drop_count(self, reason: str) -> int:
        """The counter of a drop reason."""
        return self.agent.counters.get(f"drop-{reason}", 0)


def answers(actions: list[Action], message: type[Any]) -> list[tuple[IPv6Packet, Any]]:
    """Packets with such a payload among the actions."""
    return [(action.packet, payload) for action, payload in sent(actions, message)]


def changed(packet: IPv6Packet, **fields: Any) -> IPv6Packet:
    """The packet with other fields."""
    return replace(packet, **fields)
