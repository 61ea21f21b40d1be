"""From the agent's wishes about tunnels to the engine's tables, the nftables shield and route
MTUs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import Protocol, TypeVar

from mnagent.core.actions import (
    RemoveDirectPath,
    RemovePeerBinding,
    SetDirectPath,
    SetPeerBinding,
    SetTunnel,
    TunnelEnd,
)
from mnagent.core.security import Direction, EspTransform, SecurityAssociation
from mnagent.datapath import (
    Changes,
    DirectPathEntry,
    PeerBindingEntry,
    Tables,
    TunnelEntry,
)
from mnagent.runtime.next_hop import MINIMUM_MTU, NextHopResolver, TunnelPath
from mnagent.runtime.optimized_paths import INSERTED_HEADER, OptimizedPaths
from mnagent.system.datapath import Datapath

logger = logging.getLogger(__name__)

IPV6_HEADER = 40
ESP_HEADER = 8
ESP_TRAILER = 2
LIMIT_OPTION = 8
_UNSPECIFIED = IPv6Address(0)
_NO_CHANGES = Changes()

_PathKey = tuple[IPv6Address, IPv6Address]
Key = TypeVar("Key")
Entry = TypeVar("Entry")

# initialization vector, block, integrity check value; in octets
_ESP_SIZES = {
    EspTransform.AES_CBC_HMAC_SHA256_128: (16, 16, 16),
    EspTransform.AES_GCM_16: (8, 4, 16),
    EspTransform.CHACHA20_POLY1305: (8, 4, 16),
    EspTransform.NULL_HMAC_SHA256_128: (0, 4, 16),
}


def tunnel_mtu(
    path_mtu: int, *, transform: EspTransform | None, encapsulation_limit: int | None = None
) -> int:
    """Octets an inner packet may have (RFC 2473 7.1), never below the IPv6 minimum link MTU.

    Below that minimum the engine fragments the outer packet.
    """
    room = path_mtu - IPV6_HEADER
    if encapsulation_limit is not None:
        room -= LIMIT_OPTION
    if transform is not None:
        vector, block, check = _ESP_SIZES[transform]
        room -= ESP_HEADER + vector + check
        room -= room % block
        room -= ESP_TRAILER
    return max(room, MINIMUM_MTU)


class Guard(Protocol):
    """What `mnagent.runtime.nftables.Shield` is told."""

    def guard(
        self,
        *,
        local_addresses: Iterable[IPv6Address],
        spis: Iterable[int],
    ) -> None: ...


@dataclass(slots=True)
class _Wish:
    """What the agent wants for one home address."""

    tunnel: SetTunnel | None = None
    hold: bool = False


class TunnelKeeper:
    """Keeps the engine's tables equal to what is wanted and what is possible.

    A home agent has very many tunnels: what one of them costs does not depend on the others. The
    engine is told the whole state once and then what changes.
    """

    def __init__(
        self,
        *,
        datapath: Datapath,
        resolver: NextHopResolver,
        shield: Guard,
        associations: tuple[SecurityAssociation, ...],
        end: TunnelEnd,
        mtu_changed: Callable[[IPv6Address, int], None],
        optimized: OptimizedPaths | None = None,
        encapsulation_limit: int | None = None,
        sends_directly: bool = False,
    ) -> None:
        """``sends_directly``: a home agent's own packets to the mobile nodes it serves take no
        tunnel (RFC 6275 9.3.2)."""
        self._sends_directly = sends_directly
        self._datapath = datapath
        self._resolver = resolver
        self._shield = shield
        self._associations = associations
        self._by_spi = {
            (association.spi, association.direction): association for association in associations
        }
        self._end = end
        self._encapsulation_limit = encapsulation_limit
        self._mtu_changed = mtu_changed
        self._optimized = optimized or OptimizedPaths(resolver)
        self._wishes: dict[IPv6Address, _Wish] = {}
        self._mtus: dict[IPv6Address, int] = {}
        self._local_addresses: frozenset[IPv6Address] = frozenset()
        self._added: set[IPv6Address] = set()
        """Local addresses of which the kernel has not told yet: it does so only once their
        duplicate address detection begins."""
        self._home_addresses: set[IPv6Address] = set()
        self._is_published = False
        self._entries: dict[IPv6Address, TunnelEntry] = {}
        """What the engine has, as the next two."""
        self._peers: dict[IPv6Address, PeerBindingEntry] = {}
        self._served: dict[IPv6Address, PeerBindingEntry] = {}
        """Of those that have a tunnel; no others are in `_peers`."""
        self._paths: dict[_PathKey, DirectPathEntry] = {}
        self._led: dict[IPv6Address, TunnelPath] = {}
        """The path of each tunnel, and whose tunnels take a path."""
        self._users: dict[TunnelPath, tuple[IPv6Address, ...]] = {}
        self._followed: set[TunnelPath] = set()
        """Paths of what is optimized."""
        self._is_pending = False
        self._is_gathering = False
        self._gathered: dict[IPv6Address, None] = {}

    @property
    def associations(self) -> tuple[SecurityAssociation, ...]:
        """Those the engine has, or will have with the next `flush`."""
        return self._associations

    def set_associations(self, associations: tuple[SecurityAssociation, ...]) -> None:
        """Have these; `flush` publishes them. Tunnels of others must be set or removed first."""
        self._associations = associations
        self._by_spi = {
            (association.spi, association.direction): association for association in associations
        }
        self._is_published = False
        self._is_pending = True

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Make the tables once for all tunnels that are set or removed meanwhile."""
        self._is_gathering = True
        try:
            yield
        finally:
            self._is_gathering = False
            self.flush()

    def set_local_addresses(self, addresses: frozenset[IPv6Address]) -> None:
        """Packets from outside are ours when they are for one of these, or one that was added and
        has not been seen here yet."""
        self._added -= addresses
        addresses |= self._added
        if addresses != self._local_addresses:
            self._local_addresses = addresses
            self._local_addresses_changed()

    def set_home_address(self, home_address: IPv6Address) -> None:
        """Packets for this home address of ours are for us, whether or not an interface has it."""
        if home_address not in self._home_addresses:
            self._home_addresses.add(home_address)
            self._local_addresses_changed()

    def remove_home_address(self, home_address: IPv6Address) -> None:
        """It has ended."""
        if home_address in self._home_addresses:
            self._home_addresses.remove(home_address)
            self._local_addresses_changed()

    def add_local_address(self, address: IPv6Address) -> None:
        """An address is ours from now on. Engine and shield know at once, for the answer to what is
        sent from it may be back before the kernel tells of it."""
        self._added.add(address)
        if address in self._local_addresses:
            return
        self._local_addresses |= {address}
        self._is_pending = True
        if self._is_published:
            self._datapath.change(Changes(local_addresses=self._all_local()))
            self._guard()

    def forget_local_address(self, address: IPv6Address) -> None:
        """One that was added has been taken away: it is ours until the kernel tells so."""
        self._added.discard(address)

    def _all_local(self) -> tuple[IPv6Address, ...]:
        return tuple(sorted(self._local_addresses | self._home_addresses))

    def _local_addresses_changed(self) -> None:
        if not self._is_published:
            self.publish()
            return
        self._datapath.change(Changes(local_addresses=self._all_local()))
        self._guard()

    def set_tunnel(self, action: SetTunnel) -> None:
        """See `SetTunnel`."""
        for spi, direction in (
            (action.outbound_spi, Direction.OUTBOUND),
            (action.inbound_spi, Direction.INBOUND),
            (action.home_test_outbound_spi, Direction.OUTBOUND),
            (action.home_test_inbound_spi, Direction.INBOUND),
        ):
            if spi is not None and (spi, direction) not in self._by_spi:
                raise KeyError(spi)
        self._wishes[action.home_address] = _Wish(action)
        self._changed(action.home_address)

    def hold_tunnel(self, home_address: IPv6Address) -> None:
        """See `HoldTunnel`."""
        self._wishes.setdefault(home_address, _Wish()).hold = True
        self._update((home_address,))

    def remove_tunnel(self, home_address: IPv6Address) -> None:
        """See `RemoveTunnel`."""
        if self._wishes.pop(home_address, None) is not None:
            self._mtus.pop(home_address, None)
            self._changed(home_address)

    def _changed(self, home_address: IPv6Address) -> None:
        if self._is_gathering:
            self._gathered[home_address] = None
            self._is_pending = True
        else:
            self._update((home_address,))

    def set_peer_binding(self, action: SetPeerBinding) -> None:
        """See `SetPeerBinding`; `flush` publishes it."""
        self._optimized.set_peer_binding(action)
        self._is_pending = True

    def remove_peer_binding(self, action: RemovePeerBinding) -> None:
        """See `RemovePeerBinding`; `flush` publishes it."""
        if self._optimized.remove_peer_binding(action.home_address):
            self._is_pending = True

    def set_direct_path(self, action: SetDirectPath) -> None:
        """See `SetDirectPath`; `flush` publishes it. OSError when it cannot be used."""
        self._is_pending = True
        self._optimized.set_direct_path(action)

    def remove_direct_path(self, action: RemoveDirectPath) -> None:
        """See `RemoveDirectPath`; `flush` publishes it."""
        if self._optimized.remove_direct_path(action.home_address, action.correspondent):
            self._is_pending = True

    def flush(self) -> None:
        """Publish what waits. A handover moves all direct paths: they are made once."""
        if self._is_pending:
            self._update(tuple(self._gathered), optimized=True)

    def refresh(self) -> None:
        """Ask the kernel again for some of the paths, see `NextHopResolver.refresh`."""
        changed = self._resolver.refresh()
        if not changed:
            return
        homes = [home for path in changed for home in self._users.get(path, ())]
        self._update(homes, optimized=not self._followed.isdisjoint(changed))

    def tunnel_of(self, home_address: IPv6Address) -> SetTunnel | None:
        """What packets may go through now, None where they have to wait or there is none."""
        wish = self._wishes.get(home_address)
        return None if wish is None or wish.hold else wish.tunnel

    def tunnel_mtu(self, home_address: IPv6Address) -> int | None:
        """Octets of an inner packet, None when there is no tunnel."""
        return self._mtus.get(home_address)

    def publish(self) -> None:
        """Tell the engine the whole state, and bring shield and routes to it."""
        homes = (*self._wishes, *(home for home in self._entries if home not in self._wishes))
        self._update(homes, optimized=True, whole=True)
        self._guard()

    def _guard(self) -> None:
        self._shield.guard(
            local_addresses=self._all_local(),
            spis=[
                association.spi
                for association in self._associations
                if association.direction is Direction.INBOUND
            ],
        )

    def _update(
        self, homes: Collection[IPv6Address], *, optimized: bool = False, whole: bool = False
    ) -> None:
        """Bring the tunnels of some home addresses, and what is optimized where that may be
        touched, to the wished state."""
        if not self._is_published and not whole:
            self.publish()
            return
        self._gathered.clear()
        for home in homes:
            self._lead(home)
        tunnels = {home: self._entry(home, self._wishes[home]) for home in self._wished(homes)}
        optimized = self._tell_of_tunnel(homes, tunnels) or optimized
        served = self._ways_of(tunnels)
        optimized = self._tell_of_served(homes, served) or optimized
        changes = Changes(
            tunnels=_new(self._entries, tunnels),
            removed_tunnels=_gone(self._entries, tunnels, homes),
            peer_bindings=_new(self._served, served),
            removed_peer_bindings=_gone(self._served, served, homes),
        )
        for home in changes.removed_peer_bindings:
            del self._served[home]
        self._served.update(served)
        self._entries.update(tunnels)
        for home in changes.removed_tunnels:
            del self._entries[home]
        if optimized:
            changes = self._optimize(changes)
        if whole:
            self._is_published = True
            self._datapath.publish(self._tables())
        elif changes.tunnels or changes != _NO_CHANGES:
            self._datapath.change(changes)
        self._tell_of_mtus(tunnels)
        if optimized:
            peers, paths = tuple(self._peers.values()), tuple(self._paths.values())
            self._optimized.set_routes(peers, paths)

    def _wished(self, homes: Iterable[IPv6Address]) -> list[IPv6Address]:
        return [home for home in homes if home in self._wishes]

    def _tables(self) -> Tables:
        return Tables(
            tunnels=tuple(self._entries.values()),
            associations=self._associations,
            local_addresses=self._all_local(),
            peer_bindings=(*self._peers.values(), *self._served.values()),
            direct_paths=tuple(self._paths.values()),
        )

    def _ways_of(
        self, tunnels: Mapping[IPv6Address, TunnelEntry]
    ) -> dict[IPv6Address, PeerBindingEntry]:
        """How a home agent's own packets go where the tunnel would protect and hold nothing."""
        if not self._sends_directly:
            return {}
        return {
            home: PeerBindingEntry(
                home_address=home,
                care_of_address=entry.remote,
                next_hop=entry.next_hop,
                mtu=entry.path_mtu - INSERTED_HEADER,
            )
            for home, entry in tunnels.items()
            if not entry.hold
            and entry.outbound_spi is None
            and entry.path_mtu >= MINIMUM_MTU + INSERTED_HEADER
        }

    def _tell_of_served(
        self, homes: Iterable[IPv6Address], served: Collection[IPv6Address]
    ) -> bool:
        """Whether one of them begins or ceases to stand in for a binding as a correspondent."""
        return any(
            (home in served) != (home in self._served) and self._optimized.has_peer_binding(home)
            for home in homes
        )

    def _lead(self, home_address: IPv6Address) -> None:
        """Follow the path of a home address's tunnel, and no more the one it had."""
        wish = self._wishes.get(home_address)
        path = _path_of(wish.tunnel) if wish is not None and wish.tunnel is not None else None
        before = self._led.get(home_address)
        if path == before:
            return
        # The new one first: what both know, such as their neighbour, is then kept.
        if path is not None:
            self._led[home_address] = path
            self._users[path] = (*self._users.get(path, ()), home_address)
            self._resolver.follow((path,))
        else:
            del self._led[home_address]
        if before is not None:
            users = tuple(each for each in self._users[before] if each != home_address)
            if users:
                self._users[before] = users
            else:
                del self._users[before]
                if before not in self._followed:
                    self._resolver.unfollow(before)

    def _optimize(self, changes: Changes) -> Changes:
        """The changes with what is optimized, as it can be now. Routes to what goes are
        withdrawn."""
        self._is_pending = False
        wanted = self._optimized.followed()
        for path in (self._followed | self._optimized.take_tried()) - wanted:
            if path not in self._users:
                self._resolver.unfollow(path)
        self._followed = wanted
        self._resolver.follow(wanted)
        peer_entries, path_entries = self._optimized.peer_bindings(), self._optimized.direct_paths()
        self._optimized.withdraw_routes(peer_entries, path_entries)
        # A home registration comes before a binding made as a correspondent (9.5.1).
        peers = {
            entry.home_address: entry
            for entry in peer_entries
            if entry.home_address not in self._served
        }
        paths = {(entry.home_address, entry.correspondent): entry for entry in path_entries}
        changes = replace(
            changes,
            peer_bindings=changes.peer_bindings + _new(self._peers, peers),
            removed_peer_bindings=tuple(
                {*changes.removed_peer_bindings, *self._peers} - peers.keys() - self._served.keys()
            ),
            direct_paths=_new(self._paths, paths),
            removed_direct_paths=tuple(self._paths.keys() - paths.keys()),
        )
        self._peers, self._paths = peers, paths
        return changes

    def _tell_of_tunnel(
        self, homes: Collection[IPv6Address], entries: Mapping[IPv6Address, TunnelEntry]
    ) -> bool:
        """A mobile node's packets to mobile peers may take its tunnel, from any home address. True
        when that matters."""
        if self._optimized.home_address is None or not homes:
            return False
        others = [entry for home, entry in self._entries.items() if home not in homes]
        mtu = min((entry.mtu for entry in (*others, *entries.values())), default=None)
        return self._optimized.tunnel_changed(mtu)

    def _tell_of_mtus(self, entries: Mapping[IPv6Address, TunnelEntry]) -> None:
        for home, entry in entries.items():
            if not entry.hold and self._mtus.get(home) != entry.mtu:
                self._mtus[home] = entry.mtu
                self._mtu_changed(home, entry.mtu)

    def _entry(self, home_address: IPv6Address, wish: _Wish) -> TunnelEntry:
        tunnel = wish.tunnel
        if tunnel is None:
            return TunnelEntry(
                end=self._end,
                home_address=home_address,
                local=_UNSPECIFIED,
                remote=_UNSPECIFIED,
                next_hop=None,
                mtu=MINIMUM_MTU,
                outbound_spi=None,
                inbound_spi=None,
                hold=True,
            )
        resolution = self._resolver.resolution(self._led[home_address])
        transform = None
        if tunnel.outbound_spi is not None:
            transform = self._by_spi[tunnel.outbound_spi, Direction.OUTBOUND].transform
        return TunnelEntry(
            end=tunnel.end,
            home_address=home_address,
            local=tunnel.local,
            remote=tunnel.remote,
            next_hop=resolution.next_hop,
            mtu=tunnel_mtu(
                resolution.mtu,
                transform=transform,
                encapsulation_limit=self._encapsulation_limit,
            ),
            path_mtu=resolution.mtu,
            outbound_spi=tunnel.outbound_spi,
            inbound_spi=tunnel.inbound_spi,
            home_test_outbound_spi=tunnel.home_test_outbound_spi,
            home_test_inbound_spi=tunnel.home_test_inbound_spi,
            hold=wish.hold or not resolution.ready,
            encapsulation_limit=self._encapsulation_limit,
        )


def _gone(
    before: Collection[IPv6Address],
    now: Collection[IPv6Address],
    homes: Collection[IPv6Address],
) -> tuple[IPv6Address, ...]:
    """Of some home addresses those that were there and are no more."""
    if len(now) == len(homes):
        return ()
    return tuple(home for home in homes if home not in now and home in before)


def _new(before: Mapping[Key, Entry], now: Mapping[Key, Entry]) -> tuple[Entry, ...]:
    """The entries that are not as they were."""
    return tuple(entry for key, entry in now.items() if before.get(key) != entry)


def _path_of(tunnel: SetTunnel) -> TunnelPath:
    return TunnelPath(tunnel.local, tunnel.remote, tunnel.interface)
