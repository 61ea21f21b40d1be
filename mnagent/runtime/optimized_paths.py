"""From the agent's wishes about direct paths to entries of the engine's tables and to routes.

A direct path is used where a packet of the IPv6 minimum link MTU still fits with what is inserted.
Where it does not, setting it fails, so that the machine knows; where it does no longer, packets go
through the tunnel, which fragments, until they fit again. Packets to a mobile peer go to its home
address then. What comes in on the direct path is accepted all the same.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Address

from mnagent.core.actions import SetDirectPath, SetPeerBinding
from mnagent.datapath import DirectPathEntry, PeerBindingEntry
from mnagent.runtime.next_hop import MINIMUM_MTU, NextHopResolver, TunnelPath

logger = logging.getLogger(__name__)

INSERTED_HEADER = 24
"""Octets of a Home Address option in its header, and of a type 2 routing header."""
_UNSPECIFIED = IPv6Address(0)

RouteSetter = Callable[[IPv6Address, int | None], None]
"""Has the kernel size packets to an address by an MTU (octets), or forget about it (None)."""
DirectRouteSetter = Callable[[IPv6Address, IPv6Address, int | None], None]
"""The same for packets from a home address to a correspondent."""


def _ignore(*_: object) -> None:
    """For roles that have no such routes."""


class OptimizedPaths:
    """The peer bindings and direct paths that are wanted; `TunnelKeeper` publishes them."""

    def __init__(
        self,
        resolver: NextHopResolver,
        *,
        home_address: IPv6Address | None = None,
        set_peer_route: RouteSetter = _ignore,
        set_direct_route: DirectRouteSetter = _ignore,
    ) -> None:
        """``home_address`` is a mobile node's own, the first one of several."""
        self._resolver = resolver
        self._home_address = home_address
        self._set_peer_route = set_peer_route
        self._set_direct_route = set_direct_route
        self._bindings: dict[IPv6Address, SetPeerBinding] = {}
        self._paths: dict[tuple[IPv6Address, IPv6Address], SetDirectPath] = {}
        self._tunnel_mtu: int | None = None
        self._peer_mtus: dict[IPv6Address, int] = {}
        self._direct_mtus: dict[tuple[IPv6Address, IPv6Address], int] = {}
        self._tried: set[TunnelPath] = set()

    @property
    def home_address(self) -> IPv6Address | None:
        """A mobile node's own."""
        return self._home_address

    def set_peer_binding(self, action: SetPeerBinding) -> None:
        """See `SetPeerBinding`."""
        self._bindings[action.home_address] = action

    def has_peer_binding(self, home_address: IPv6Address) -> bool:
        """Whether one is wanted."""
        return home_address in self._bindings

    def remove_peer_binding(self, home_address: IPv6Address) -> bool:
        """See `RemovePeerBinding`; True when there was one."""
        return self._bindings.pop(home_address, None) is not None

    def set_direct_path(self, action: SetDirectPath) -> None:
        """See `SetDirectPath`. OSError when it cannot be used; the former one, if any, ends."""
        key = (action.home_address, action.correspondent)
        self._paths.pop(key, None)
        self._tried.add(self._direct(action))
        resolution = self._resolver.follow_too(self._direct(action))
        if resolution.path is None:
            raise OSError(errno.ENETUNREACH, f"there is no route to {action.correspondent}")
        if resolution.mtu < MINIMUM_MTU + self._inserted(action):
            raise OSError(
                errno.EMSGSIZE, f"{resolution.mtu} octets are too few for {action.correspondent}"
            )
        self._paths[key] = action

    def remove_direct_path(self, home_address: IPv6Address, correspondent: IPv6Address) -> bool:
        """See `RemoveDirectPath`; True when there was one."""
        return self._paths.pop((home_address, correspondent), None) is not None

    def tunnel_changed(self, mtu: int | None) -> bool:
        """A mobile node's tunnel carries inner packets of ``mtu`` octets; None: it has no tunnel.
        True when that is new."""
        before, self._tunnel_mtu = self._tunnel_mtu, mtu
        return before != mtu

    def take_tried(self) -> set[TunnelPath]:
        """The paths that were looked at since the last call, of use or not."""
        tried, self._tried = self._tried, set()
        return tried

    def followed(self) -> set[TunnelPath]:
        """The paths whose next hops are needed."""
        paths = {self._direct(path) for path in self._paths.values()}
        if self._tunnel_mtu is None:
            paths |= {self._to_peer(binding) for binding in self._bindings.values()}
        return paths

    def direct_paths(self) -> tuple[DirectPathEntry, ...]:
        """Those that can be used now."""
        entries = []
        for path in self._paths.values():
            resolution = self._resolver.resolution(self._direct(path))
            inserted = self._inserted(path)
            if resolution.path is None or resolution.mtu < MINIMUM_MTU + inserted:
                continue
            entries.append(
                DirectPathEntry(
                    home_address=path.home_address,
                    correspondent=path.correspondent,
                    care_of_address=path.care_of_address,
                    next_hop=resolution.next_hop,
                    mtu=resolution.mtu - inserted,
                )
            )
        return tuple(entries)

    def peer_bindings(self) -> tuple[PeerBindingEntry, ...]:
        """All of them: each also says whose Home Address option counts."""
        return tuple(self._peer_binding(binding) for binding in self._bindings.values())

    def _peer_binding(self, binding: SetPeerBinding) -> PeerBindingEntry:
        """On a mobile node that is away, what has no direct path of its own takes the tunnel."""
        next_hop, mtu = None, self._tunnel_mtu
        if mtu is None:
            resolution = self._resolver.resolution(self._to_peer(binding))
            next_hop, mtu = resolution.next_hop, resolution.mtu
        return PeerBindingEntry(
            home_address=binding.home_address,
            care_of_address=binding.care_of_address,
            next_hop=next_hop,
            mtu=max(mtu - INSERTED_HEADER, MINIMUM_MTU),
        )

    def withdraw_routes(
        self, peers: tuple[PeerBindingEntry, ...], paths: tuple[DirectPathEntry, ...]
    ) -> None:
        """Take away the routes of what is about to leave the engine's tables."""
        wanted_peers, wanted_paths = self._mtus_of(peers, paths)
        for peer in self._peer_mtus.keys() - wanted_peers:
            del self._peer_mtus[peer]
            _attempt(self._set_peer_route, peer, None)
        for home, correspondent in self._direct_mtus.keys() - wanted_paths:
            del self._direct_mtus[home, correspondent]
            _attempt(partial(self._set_direct_route, home), correspondent, None)

    def set_routes(
        self, peers: tuple[PeerBindingEntry, ...], paths: tuple[DirectPathEntry, ...]
    ) -> None:
        """Lead packets to what the engine's tables have now."""
        wanted_peers, wanted_paths = self._mtus_of(peers, paths)
        for peer, mtu in wanted_peers.items():
            if self._peer_mtus.get(peer) != mtu and _attempt(self._set_peer_route, peer, mtu):
                self._peer_mtus[peer] = mtu
        for (home, correspondent), mtu in wanted_paths.items():
            setter = partial(self._set_direct_route, home)
            is_new = self._direct_mtus.get((home, correspondent)) != mtu
            if is_new and _attempt(setter, correspondent, mtu):
                self._direct_mtus[home, correspondent] = mtu

    def _mtus_of(
        self, peers: tuple[PeerBindingEntry, ...], paths: tuple[DirectPathEntry, ...]
    ) -> tuple[dict[IPv6Address, int], dict[tuple[IPv6Address, IPv6Address], int]]:
        direct: dict[IPv6Address, int] = {}
        for path in paths:
            direct[path.correspondent] = min(path.mtu, direct.get(path.correspondent, path.mtu))
        return {
            entry.home_address: direct.get(entry.home_address, entry.mtu)
            for entry in peers
            if entry.home_address in direct or self._has_room(entry)
        }, {(entry.home_address, entry.correspondent): entry.mtu for entry in paths}

    def _has_room(self, entry: PeerBindingEntry) -> bool:
        if self._tunnel_mtu is not None:
            return self._tunnel_mtu >= MINIMUM_MTU + INSERTED_HEADER
        path = self._to_peer(self._bindings[entry.home_address])
        resolution = self._resolver.resolution(path)
        return resolution.path is not None and resolution.mtu >= MINIMUM_MTU + INSERTED_HEADER

    def _inserted(self, path: SetDirectPath) -> int:
        """Octets; a mobile correspondent takes a routing header besides."""
        return INSERTED_HEADER * (2 if path.correspondent in self._bindings else 1)

    def _direct(self, path: SetDirectPath) -> TunnelPath:
        """To where the packets really go: a mobile correspondent's care-of address."""
        binding = self._bindings.get(path.correspondent)
        target = path.correspondent if binding is None else binding.care_of_address
        return TunnelPath(path.care_of_address, target, path.interface)

    def _to_peer(self, binding: SetPeerBinding) -> TunnelPath:
        return TunnelPath(self._home_address or _UNSPECIFIED, binding.care_of_address)


def _attempt(setter: RouteSetter, address: IPv6Address, mtu: int | None) -> bool:
    """Without the route packets take a longer way, or are answered by the engine: no failure."""
    try:
        setter(address, mtu)
    except OSError as error:
        logger.warning("failed to set the route to %s: %s", address, error)
        return False
    return True
