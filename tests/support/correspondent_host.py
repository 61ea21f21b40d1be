"""A host of a `World` that is a correspondent node and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address
from random import Random
from typing import cast

from mnagent.agent.agent import Agent
from mnagent.core.actions import Action
from mnagent.core.events import DatagramReceived, Event, PacketReceived
from mnagent.mobility.correspondent_node import CorrespondentNode, CorrespondentNodeSettings
from mnagent.wire.packet import decode_packet
from tests.support.nodes import AgentNode
from tests.support.world import World


class CorrespondentAgent:
    """The machine alone, behind the agent's face."""

    def __init__(self, node: CorrespondentNode) -> None:
        self.node = node

    def handle(self, event: Event, now: float) -> list[Action]:
        """Octets are decoded as the agent would do it."""
        if not isinstance(event, DatagramReceived):
            return self.node.handle(event, now)
        received = PacketReceived(
            packet=decode_packet(event.data),
            interface=event.interface,
            link_layer_source=event.link_layer_source,
            data=event.data,
        )
        return self.node.handle(received, now)

    def handle_timer(self, now: float) -> list[Action]:
        """What is due."""
        return self.node.handle_timer(now)

    def next_deadline(self) -> float | None:
        """When to be called."""
        return self.node.next_deadline()


class CorrespondentHost(AgentNode):
    """An ordinary host with the role of a correspondent."""

    def __init__(self, world: World, name: str, *, addresses: Sequence[IPv6Address]) -> None:
        super().__init__(world, name, keys=())
        self.forwards = False
        self._served = frozenset(addresses)
        self.node = self._restart()

    def _restart(self) -> CorrespondentNode:
        settings = CorrespondentNodeSettings(addresses=self._served)
        self.node = CorrespondentNode(settings, random=Random(self.world.random.random()))
        self.agent = cast(Agent, CorrespondentAgent(self.node))
        return self.node

    def reboot(self) -> None:
        """Everything is forgotten: bindings, nonces and keys."""
        self.kill()
        self._restart()
