"""A mobile node with several home addresses, without autoconfiguration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any

from mnagent.core.events import LinkUp
from mnagent.core.indications import AddressUsable, Output
from mnagent.mobility.home_addresses import HomeAddresses
from mnagent.mobility.mobile_node import MobileNode, MobileNodeSettings, Surroundings
from mnagent.wire.icmp6 import MobilePrefixSolicitation
from mnagent.wire.mobility import BindingUpdate
from mnagent.wire.ndisc import NdOption
from tests.support.driver import (
    CARE_OF_A,
    HOME_ADDRESS,
    HOME_AGENT,
    INTERFACE,
    OWN_MAC,
    ROUTER,
    Driver,
    router_found,
)
from tests.support.matching import sent
from tests.support.packets import binding_acknowledgement, received, router_advertisement
from tests.support.prefixes import prefix_advertisement

NEW_HOME_ADDRESS = IPv6Address("2001:db8:2::10")
SECOND_HOME_ADDRESS = IPv6Address("2001:db8:1::11")


class HomeAddressesDriver(Driver):
    """The home addresses, the home agent's answers and the routers' words."""

    def __init__(
        self,
        configured: Iterable[IPv6Address] = (HOME_ADDRESS,),
        *,
        persisted: str | None = None,
        follows_renumbering: bool = True,
        **settings: Any,
    ) -> None:
        base = MobileNodeSettings(
            home_address=HOME_ADDRESS, home_agent_address=HOME_AGENT, **settings
        )

        def factory(
            home_address: IPv6Address, surroundings: Surroundings, compatible: bool
        ) -> MobileNode:
            own = replace(base, home_address=home_address, link_local_compatibility=compatible)
            return MobileNode(own, random=Random(1), surroundings=surroundings)

        configured = tuple(configured)
        self.homes = HomeAddresses(
            configured,
            surroundings=Surroundings(
                home_addresses=configured,
                home_prefixes=(IPv6Network("2001:db8:1::/64"),),
            ),
            factory=factory,
            random=Random(1),
            persisted=persisted,
            follows_renumbering=follows_renumbering,
        )
        super().__init__(self.homes)

    @property
    def addresses(self) -> list[IPv6Address]:
        """Of all home addresses, in order."""
        return [node.settings.home_address for node in self.homes.nodes]

    def node(self, home_address: IPv6Address) -> MobileNode:
        """The machine of one."""
        return next(n for n in self.homes.nodes if n.settings.home_address == home_address)

    def tell(self, event: Any) -> list[Output]:
        """Hand an event in."""
        return self.note(self.homes.handle(event, self.now))

    def visit(self, address: IPv6Address = CARE_OF_A) -> list[Output]:
        """A link comes up, with a router of a foreign link and an address there."""
        outputs = self.tell(LinkUp(interface=INTERFACE, name="eth0", link_layer_address=OWN_MAC))
        outputs += self.tell(router_found(address))
        usable = AddressUsable(interface=INTERFACE, address=address, prefix_length=64)
        return outputs + self.tell(usable)

    def come_home(self) -> list[Output]:
        """The home link comes up, and nobody else has the home addresses there."""
        self.tell(LinkUp(interface=INTERFACE, name="eth0", link_layer_address=OWN_MAC))
        outputs = self.tell(router_found(HOME_ADDRESS))
        return outputs + self.advance(5)

    def acknowledge(self, home_address: IPv6Address = HOME_ADDRESS, **fields: Any) -> list[Output]:
        """The home agent answers the newest update of a home address."""
        entry = self.node(home_address).registration.entry
        assert entry is not None
        values: dict[str, Any] = {
            "sequence": entry.sequence,
            "lifetime": entry.lifetime,
            "care_of_address": entry.care_of_address,
        }
        values.update(fields)
        return self.tell(received(binding_acknowledgement(HOME_AGENT, home_address, **values)))

    def establish(self) -> None:
        """Away, with all home addresses registered."""
        self.visit()
        for address in self.addresses:
            self.acknowledge(address)

    def advertise(self, *options: NdOption) -> list[Output]:
        """The home agent answers the newest solicitation."""
        asked = sent([output for _, output in self.log], MobilePrefixSolicitation)
        identifier = asked[-1][1].identifier
        return self.tell(prefix_advertisement(identifier, *options))

    def hear_router(self, prefix: str, *, valid: float, preferred: float) -> list[Output]:
        """A router of the link we are on advertises a prefix."""
        packet = router_advertisement(ROUTER, prefix, valid=valid, preferred=preferred)
        return self.tell(received(packet))

    def updates_of(self, home_address: IPv6Address) -> list[BindingUpdate]:
        """Every Binding Update sent for a home address."""
        return [
            message
            for action, message in sent([o for _, o in self.log], BindingUpdate)
            if action.packet.logical_source == home_address
        ]
