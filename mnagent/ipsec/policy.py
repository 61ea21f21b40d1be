"""The Security Policy Database: what must be protected, and by which association (RFC 4301 4.4.1).

The database is an ordered list; the first policy that matches decides. Outbound it answers which
association must protect a packet, inbound whether the packet came by the one it must come by.

A packet whose payload is another IPv6 packet is in the tunnel between care-of address and home
agent: its inner packet is matched, and against tunnel mode policies only. Everything else is
matched against transport mode policies. RFC 3776 4.2 demands both: tunnel policies apply to what
enters the tunnel and not to other traffic, and they sleep while the mobile node is at home.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address

from mnagent.core.drops import DropReason
from mnagent.core.security import EspMode
from mnagent.ipsec.association import AssociationPair
from mnagent.ipsec.purpose import Purpose
from mnagent.ipsec.selectors import Selector
from mnagent.wire.ipv6 import IPv6Packet


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityPolicy:
    """Protect what matches, both ways, with one pair of associations; or, without a pair,
    discard."""

    purpose: Purpose
    home_address: IPv6Address | None
    """Whose traffic; None for the policy that covers mobile nodes without one of their own."""
    outbound: Selector | None
    """None is about nothing that is sent."""
    inbound: Selector
    associations: AssociationPair | None
    """None discards both ways."""


class _Index:
    """The policies that may be about a packet, without looking at all of them.

    On a home agent almost every policy is about one mobile node: it is filed under that node's home
    address, as the source or the destination that the selector asks for.
    """

    def __init__(
        self, policies: Iterable[SecurityPolicy], selector_of: Callable[[SecurityPolicy], Selector]
    ) -> None:
        self._by_source: dict[IPv6Address, list[tuple[int, SecurityPolicy]]] = {}
        self._by_destination: dict[IPv6Address, list[tuple[int, SecurityPolicy]]] = {}
        self._others: list[tuple[int, SecurityPolicy]] = []
        for place in enumerate(policies):
            self._file(place, selector_of(place[1]))

    def _file(self, place: tuple[int, SecurityPolicy], selector: Selector) -> None:
        home_address = place[1].home_address
        if home_address is not None and selector.source == home_address:
            self._by_source.setdefault(home_address, []).append(place)
        elif home_address is not None and selector.destination == home_address:
            self._by_destination.setdefault(home_address, []).append(place)
        else:
            self._others.append(place)

    def candidates(self, packet: IPv6Packet) -> list[SecurityPolicy]:
        """In the order in which they are tried; each is still to be matched."""
        found = [
            *self._by_source.get(packet.logical_source, ()),
            *self._by_destination.get(packet.logical_destination, ()),
            *self._others,
        ]
        return [policy for _, policy in sorted(found, key=_place)]


def _place(filed: tuple[int, SecurityPolicy]) -> int:
    return filed[0]


class SecurityPolicyDatabase:
    """An ordered list of policies, and which mobile nodes' tunnels are up."""

    def __init__(self, policies: Iterable[SecurityPolicy] = ()) -> None:
        self._policies = tuple(policies)
        self._tunnels: set[IPv6Address] = set()
        self._tunnel_mode_spis = frozenset(
            policy.associations.inbound.spi
            for policy in self._policies
            if policy.associations is not None and policy.purpose.mode is EspMode.TUNNEL
        )
        self._outbound = _Index(
            (policy for policy in self._policies if policy.outbound is not None),
            lambda policy: policy.outbound or Selector(),
        )
        self._inbound = _Index(self._policies, lambda policy: policy.inbound)
        self._pairs: dict[tuple[IPv6Address | None, Purpose], AssociationPair | None] = {}
        for policy in self._policies:
            self._pairs.setdefault((policy.home_address, policy.purpose), policy.associations)

    @property
    def policies(self) -> tuple[SecurityPolicy, ...]:
        """In the order in which they are tried."""
        return self._policies

    def activate_tunnel(self, home_address: IPv6Address) -> None:
        """The tunnel of this home address is up: its tunnel policies apply from now on."""
        self._tunnels.add(home_address)

    def deactivate_tunnel(self, home_address: IPv6Address) -> None:
        """The tunnel is torn down; associations and transport policies stay (RFC 3776 4.2)."""
        self._tunnels.discard(home_address)

    def payload_associations(self, home_address: IPv6Address) -> AssociationPair | None:
        """The pair that protects all tunnelled packets of a home address, or None for plain."""
        return self._associations(home_address, Purpose.PAYLOAD)

    def home_test_associations(self, home_address: IPv6Address) -> AssociationPair | None:
        """The pair that protects Home Test Init and Home Test in the tunnel, or None for plain."""
        return self._associations(home_address, Purpose.RETURN_ROUTABILITY)

    def _associations(self, home_address: IPv6Address, purpose: Purpose) -> AssociationPair | None:
        return self._pairs.get((home_address, purpose))

    def outbound(self, packet: IPv6Packet) -> SecurityPolicy | None:
        """The policy for a packet about to be sent, or None to send it as it is.

        The packet is as it goes out, Home Address option and type 2 routing header included. A
        policy whose ``associations`` is None says not to send it at all.
        """
        inner, mode = _look_inside(packet)
        for policy in self._outbound.candidates(inner):
            selector = policy.outbound
            if selector is not None and self._applies(policy, mode) and selector.matches(inner):
                return policy
        return None

    def inbound(
        self,
        packet: IPv6Packet,
        protected_by: int | None,
        *,
        tunnel_source: IPv6Address | None = None,
    ) -> DropReason | None:
        """Why a received packet must be dropped, or None when it may go on (RFC 4301 5.2).

        Args:
            packet: as received, ESP removed; the inner packet when the tunnel was removed too.
            protected_by: SPI of the inbound association that authenticated it, or None.
            tunnel_source: outer source address when the tunnel was removed already.
        """
        inner, mode = _look_inside(packet)
        if tunnel_source is not None or protected_by in self._tunnel_mode_spis:
            mode = EspMode.TUNNEL
        for policy in self._inbound.candidates(inner):
            applies = policy.purpose.mode is EspMode.TRANSPORT or self._applies(policy, mode)
            if applies and policy.inbound.matches(inner):
                return _verdict(policy, protected_by)
        if tunnel_source is not None and self._is_of_inactive_tunnel(inner, protected_by):
            return None
        # Step 4 of RFC 4301 5.2: what an association carried must fit the association's selectors.
        return None if protected_by is None else DropReason.WRONG_SECURITY_ASSOCIATION

    def _is_of_inactive_tunnel(self, inner: IPv6Packet, protected_by: int | None) -> bool:
        """Whether a peer that believes in a tunnel we do not have sent this by its association.

        A home agent that lost its bindings in a restart learns so; nothing is decapsulated by it.
        """
        return any(
            policy.purpose is Purpose.PAYLOAD
            and policy.associations is not None
            and policy.associations.inbound.spi == protected_by
            and policy.inbound.matches(inner)
            for policy in self._inbound.candidates(inner)
        )

    def _applies(self, policy: SecurityPolicy, mode: EspMode) -> bool:
        if policy.purpose.mode is not mode:
            return False
        return mode is EspMode.TRANSPORT or policy.home_address in self._tunnels


def _look_inside(packet: IPv6Packet) -> tuple[IPv6Packet, EspMode]:
    if isinstance(packet.payload, IPv6Packet):
        return packet.payload, EspMode.TUNNEL
    return packet, EspMode.TRANSPORT


def _verdict(policy: SecurityPolicy, protected_by: int | None) -> DropReason | None:
    if protected_by is None:
        return DropReason.NOT_PROTECTED
    if policy.associations is None or policy.associations.inbound.spi != protected_by:
        return DropReason.WRONG_SECURITY_ASSOCIATION
    return None
