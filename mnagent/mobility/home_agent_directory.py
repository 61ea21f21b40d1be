"""What a home agent does so that mobile nodes find it, and the others of its home link.

    Router Advertisements, discovery requests --> HomeAgentList --> replies
    link, link-local address, solicitations   --> HomeAgentAdvertiser --> Router Advertisements

It also has the host take the Mobile IPv6 Home-Agents anycast addresses (RFC 6275 8.4): the host
answers Neighbor Solicitations for them on the home link, and does not forward what comes for them.
Several home agents of one link do so for the same address, whence it is no unicast address of ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from random import Random

from mnagent.core.actions import Action, JoinAnycast, LeaveAnycast
from mnagent.core.drops import DropReason
from mnagent.core.events import (
    AddressAppeared,
    AddressVanished,
    Event,
    LinkDown,
    PacketReceived,
    ShutdownRequested,
)
from mnagent.core.timers import earliest
from mnagent.mobility.home_agent_advertiser import (
    AdvertisedPrefix,
    AdvertiserSettings,
    HomeAgentAdvertiser,
)
from mnagent.mobility.home_agent_list import HomeAgentList, ListedHomeAgent
from mnagent.wire.icmp6 import HomeAgentAddressDiscoveryRequest
from mnagent.wire.ndisc import RouterAdvertisement, RouterSolicitation


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectorySettings:
    """What an administrator decides about it."""

    address: IPv6Address
    prefixes: tuple[AdvertisedPrefix, ...]
    preference: int = 0
    answers: bool = True
    """Keep the list, and answer mobile nodes' requests."""
    advertises: bool = False
    max_interval: float = 10.0
    """Seconds; MaxRtrAdvInterval."""
    is_default_router: bool = False


class HomeAgentDirectory:
    """Of one home link."""

    def __init__(
        self,
        settings: DirectorySettings,
        *,
        home_link: int | None,
        link_layer_address: bytes,
        random: Random,
    ) -> None:
        """``home_link`` is an interface index, None for a virtual home prefix: then nobody is heard
        and nothing advertised, and requests arrive from outside."""
        self._home_link = home_link
        self._list: HomeAgentList | None = None
        self._advertiser: HomeAgentAdvertiser | None = None
        if settings.answers:
            self._list = HomeAgentList(
                address=settings.address,
                home_prefixes=[each.prefix for each in settings.prefixes],
                preference=settings.preference,
                home_link=home_link,
                random=random,
            )
        if settings.advertises and home_link is not None:
            advertised = AdvertiserSettings(
                address=settings.address,
                prefixes=settings.prefixes,
                home_link=home_link,
                link_layer_address=link_layer_address,
                preference=settings.preference,
                max_interval=settings.max_interval,
                is_default_router=settings.is_default_router,
            )
            self._advertiser = HomeAgentAdvertiser(advertised, random=random)

    @property
    def drops(self) -> Counter[DropReason]:
        """Packets not acted on, by reason."""
        return sum((each.drops for each in (self._list, self._advertiser) if each), Counter())

    @property
    def entries(self) -> tuple[ListedHomeAgent, ...]:
        """The other home agents of the home link."""
        return () if self._list is None else self._list.entries

    @property
    def other_home_agents(self) -> tuple[IPv6Address, ...]:
        """Where mobile nodes may go instead, the most preferred first (RFC 5142 5.1)."""
        return () if self._list is None else self._list.others()

    @property
    def is_advertising(self) -> bool:
        return self._advertiser is not None and self._advertiser.is_advertising

    def start(self) -> list[Action]:
        """The home link is there."""
        return [
            JoinAnycast(interface=self._home_link, address=address)
            for address in self._anycast_addresses
        ]

    def use_prefixes(self, prefixes: Iterable[IPv6Network], now: float) -> list[Action]:
        """The home link's prefixes are these from now on."""
        prefixes = tuple(prefixes)
        if self._advertiser is not None:
            advertised = tuple(AdvertisedPrefix(prefix=each) for each in prefixes)
            self._advertiser.use_prefixes(advertised, now)
        new = frozenset() if self._list is None else self._list.use_prefixes(prefixes)
        return [JoinAnycast(interface=self._home_link, address=each) for each in sorted(new)]

    def stop(self, now: float) -> list[Action]:
        """Leave the home link as it was."""
        last = [] if self._advertiser is None else self._advertiser.stop(now)
        return last + [
            LeaveAnycast(interface=self._home_link, address=address)
            for address in self._anycast_addresses
        ]

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened; ignores events of other machines."""
        match event:
            case PacketReceived():
                return self._on_packet(event, now)
            case AddressAppeared() if event.interface == self._home_link:
                if event.address.is_link_local and not (event.tentative or event.duplicate):
                    return self._advertise_from(event.address, now)
            case LinkDown() | AddressVanished() if event.interface == self._home_link:
                is_ours = isinstance(event, LinkDown) or event.address.is_link_local
                if is_ours and self._advertiser is not None:
                    self._advertiser.pause()
            case ShutdownRequested():
                return self.stop(now)
        return []

    def handle_timer(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self._list is not None:
            actions += self._list.handle_timer(now)
        if self._advertiser is not None:
            actions += self._advertiser.handle_timer(now)
        return actions

    def next_deadline(self) -> float | None:
        machines = (self._list, self._advertiser)
        return earliest(*(each.next_deadline() for each in machines if each is not None))

    @property
    def _anycast_addresses(self) -> tuple[IPv6Address, ...]:
        return () if self._list is None else tuple(sorted(self._list.anycast_addresses))

    def _advertise_from(self, link_local: IPv6Address, now: float) -> list[Action]:
        return [] if self._advertiser is None else self._advertiser.start(link_local, now)

    def _on_packet(self, event: PacketReceived, now: float) -> list[Action]:
        actions: list[Action] = []
        if isinstance(event.packet.payload, RouterSolicitation):
            if self._advertiser is not None:
                actions += self._advertiser.handle(event, now)
        elif self._list is not None and isinstance(
            event.packet.payload, HomeAgentAddressDiscoveryRequest | RouterAdvertisement
        ):
            actions += self._list.handle(event, now)
        return actions
