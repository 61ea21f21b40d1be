"""What a machine tells its parent. Adjectives and participles, frozen; they never leave the agent.

Autoconfiguration tells movement detection which routers and addresses there are; home registration
tells the mobile node how the home agent answered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from mnagent.core.actions import Action


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterFound:
    """A default router is there on an interface, or advertised itself again."""

    interface: int
    router: IPv6Address
    """Its link-local address."""
    prefixes: tuple[IPv6Network, ...] | None
    """Prefixes it advertises, on-link or for addresses; None when nobody told (kernel routes)."""
    link_layer_address: bytes = b""
    addresses: tuple[tuple[IPv6Address, bytes], ...] = ()
    """Global router addresses of the advertisement (R bit, RFC 6275 7.2) and their link-layer
    address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterLost:
    """A default router expired, left, or is in doubt since the link changed."""

    interface: int
    router: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressUsable:
    """An address may be the source of packets; told again when its lifetimes change."""

    interface: int
    address: IPv6Address
    prefix_length: int
    valid_until: float = math.inf
    """Instant on the caller's clock, in seconds."""
    preferred_until: float = math.inf
    """Instant from which the address is deprecated (RFC 4862 5.5.4)."""
    optimistic: bool = False
    """Duplicate address detection still runs (RFC 4429)."""
    managed: bool = False
    """Assigned by DHCPv6: of the link, whether or not a router advertises a prefix of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressLost:
    """An address must not be used: removed, duplicate, or in doubt since the link changed."""

    interface: int
    address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachmentDoubtful:
    """Nothing comes back from the home agent: the link may be another one, or of no use."""

    interface: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressUnique:
    """Duplicate address detection ended without an objection (RFC 4862 5.4)."""

    interface: int
    address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressDuplicate:
    """Another node has, or wants, the address (RFC 4862 5.4.3, 5.4.4)."""

    interface: int
    address: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingAccepted:
    """The home agent tunnels to this care-of address now."""

    care_of_address: IPv6Address
    status: int
    lifetime: float
    """Seconds left."""
    first: bool
    """No binding for this care-of address was known before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingRejected:
    """The home agent refused (status 128 and more)."""

    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingExpired:
    """The binding ended without a refresh: the home agent tunnels no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingDeleted:
    """The home agent knows no care-of address for the home address any more."""

    answered: bool = True
    """False when nobody answered and the binding ended by its lifetime, or we gave up."""


Indication = (
    RouterFound
    | RouterLost
    | AddressUsable
    | AddressLost
    | AttachmentDoubtful
    | AddressUnique
    | AddressDuplicate
    | BindingAccepted
    | BindingRejected
    | BindingExpired
    | BindingDeleted
)

Output = Action | Indication
