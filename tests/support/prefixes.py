"""Mobile prefix discovery for tests: advertisements and solicitations as they arrive."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any

from mnagent.core.events import PacketReceived
from mnagent.core.indications import Output
from mnagent.mobility.home_registration import CareOf
from mnagent.mobility.prefix_discovery import PrefixDiscovery
from mnagent.wire.icmp6 import MobilePrefixAdvertisement, MobilePrefixSolicitation
from mnagent.wire.ipv6 import (
    DestinationOptions,
    HomeAddressOption,
    IPv6Packet,
    Type2RoutingHeader,
)
from mnagent.wire.ndisc import NdOption, PrefixInformation
from tests.support.driver import CARE_OF_A, HOME_ADDRESS, HOME_AGENT, INTERFACE, Driver
from tests.support.matching import sent

HOME_PREFIX = IPv6Network("2001:db8:1::/64")
NEW_PREFIX = IPv6Network("2001:db8:2::/64")
PROTECTION = 0x2000


def information(
    prefix: IPv6Network = HOME_PREFIX,
    *,
    valid: float = 7200.0,
    preferred: float | None = None,
    **changes: Any,
) -> PrefixInformation:
    """A Prefix Information option; preferred as long as valid unless told otherwise."""
    return PrefixInformation(
        address=prefix.network_address,
        prefix_length=prefix.prefixlen,
        valid_lifetime=valid,
        preferred_lifetime=valid if preferred is None else preferred,
        **changes,
    )


def prefix_advertisement(
    identifier: int,
    *options: NdOption,
    source: IPv6Address = HOME_AGENT,
    home_address: IPv6Address | None = HOME_ADDRESS,
    destination: IPv6Address = CARE_OF_A,
    protected_by: int | None = PROTECTION,
) -> PacketReceived:
    """A Mobile Prefix Advertisement; ``home_address`` None leaves the routing header out."""
    headers = () if home_address is None else (Type2RoutingHeader(home_address),)
    message = MobilePrefixAdvertisement(identifier, options=options)
    packet = IPv6Packet(source, destination, message, extension_headers=headers)
    return PacketReceived(packet=packet, interface=INTERFACE, protected_by=protected_by)


def prefix_solicitation(
    identifier: int = 7,
    *,
    home_address: IPv6Address | None = HOME_ADDRESS,
    source: IPv6Address = CARE_OF_A,
    protected_by: int | None = PROTECTION,
) -> PacketReceived:
    """A Mobile Prefix Solicitation; ``home_address`` None leaves the Home Address option out."""
    headers: tuple[DestinationOptions, ...] = ()
    if home_address is not None:
        headers = (DestinationOptions((HomeAddressOption(home_address),)),)
    message = MobilePrefixSolicitation(identifier)
    packet = IPv6Packet(source, HOME_AGENT, message, extension_headers=headers)
    return PacketReceived(packet=packet, interface=INTERFACE, protected_by=protected_by)


class DiscoveryDriver(Driver):
    """The mobile node's end, and a home agent's answers."""

    def __init__(self) -> None:
        self.discovery = PrefixDiscovery(HOME_AGENT, random=Random(1))
        super().__init__(self.discovery)

    def registered(
        self, care_of_address: IPv6Address = CARE_OF_A, *, is_hinted: bool = False
    ) -> list[Output]:
        """The home agent acknowledged."""
        care_of = CareOf(address=care_of_address, interface=INTERFACE)
        outputs = self.discovery.registered(HOME_ADDRESS, care_of, self.now, is_hinted=is_hinted)
        return self.note(outputs)

    def hear(self, identifier: int, *options: NdOption, **changes: Any) -> list[Output]:
        """An advertisement arrives."""
        event = prefix_advertisement(identifier, *options, **changes)
        return self.note(self.discovery.handle(event, self.now))

    def answer(self, *options: NdOption, **changes: Any) -> list[Output]:
        """One with the identifier that is asked for."""
        return self.hear(self.identifiers[-1], *options, **changes)

    @property
    def identifiers(self) -> list[int]:
        """Of every solicitation sent."""
        return [m.identifier for _, m in sent([o for _, o in self.log], MobilePrefixSolicitation)]

    @property
    def prefixes(self) -> dict[IPv6Network, float]:
        """Those known, and how long each still lasts."""
        known = self.discovery.prefixes.current(self.now)
        return {each.prefix: each.valid_lifetime(self.now) for each in known}
