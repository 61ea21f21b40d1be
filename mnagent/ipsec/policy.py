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
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from itertools import chain
from typing import Final, NamedTuple

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
    is_bypass: bool = False
    """Neither protect nor discard: what matches protects itself (RFC 4285), and must not come by an
    association."""
    home_agent: IPv6Address | None = None
    """The home agent the policy is about. Of those that know one home address, the one the tunnel
    goes to decides about what is in it."""


class _Index:
    """The policies that may be about a packet, without looking at all of them.

    On a home agent almost every policy is about one mobile node: it is filed under that node's home
    address, as the source or the destination that the selector asks for.
    """

    def __init__(
        self, policies: Iterable[SecurityPolicy], selector_of: Callable[[SecurityPolicy], Selector]
    ) -> None:
        self._by_source: dict[IPv6Address, list[_Filed]] = {}
        self._by_destination: dict[IPv6Address, list[_Filed]] = {}
        self._others: list[_Filed] = []
        for place in enumerate(policies):
            self._file(place, selector_of(place[1]))

    def _file(self, place: _Filed, selector: Selector) -> None:
        home_address = place[1].home_address
        if home_address is not None and selector.source == home_address:
            self._by_source.setdefault(home_address, []).append(place)
        elif home_address is not None and selector.destination == home_address:
            self._by_destination.setdefault(home_address, []).append(place)
        else:
            self._others.append(place)

    def candidates(self, packet: IPv6Packet) -> list[SecurityPolicy]:
        """In the order in which they are tried; each is still to be matched."""
        return _in_order(
            self._by_source.get(packet.logical_source, _NONE),
            self._by_destination.get(packet.logical_destination, _NONE),
            self._others,
        )

    def of(self, home_address: IPv6Address) -> list[SecurityPolicy]:
        """Those of one mobile node, in order."""
        return _in_order(
            self._by_source.get(home_address, _NONE), self._by_destination.get(home_address, _NONE)
        )


_Filed = tuple[int, SecurityPolicy]
_NONE: Final[list[_Filed]] = []


_IN_TUNNEL: Final = (Purpose.PAYLOAD, Purpose.RETURN_ROUTABILITY)


class TunnelAssociations(NamedTuple):
    """The pairs that protect what goes through a tunnel; None for plain."""

    payload: AssociationPair | None
    """All packets."""
    home_test: AssociationPair | None
    """Home Test Init and Home Test."""


def _associations(policies: list[SecurityPolicy], purpose: Purpose) -> AssociationPair | None:
    """Of the first policy that is for this."""
    for policy in policies:
        if policy.purpose is purpose:
            return policy.associations
    return None


def _in_order(*lists: list[_Filed]) -> list[SecurityPolicy]:
    """The policies of several lists that are in order, by their places."""
    found = [each for each in lists if each]
    if len(found) == 1:
        return [policy for _, policy in found[0]]
    if len(found) == 2 and found[0][-1][0] < found[1][0][0]:
        # What is about one mobile node comes before what is about any.
        return [policy for each in found for _, policy in each]
    # No two have one place: policies are never compared.
    return [policy for _, policy in sorted(chain.from_iterable(found))]


class SecurityPolicyDatabase:
    """An ordered list of policies, and which mobile nodes' tunnels are up."""

    def __init__(self, policies: Iterable[SecurityPolicy] = ()) -> None:
        self._tunnels: dict[IPv6Address, IPv6Address | None] = {}
        self._like: dict[IPv6Address, IPv6Address] = {}
        self._load(policies)

    def replace_with(self, other: SecurityPolicyDatabase) -> None:
        """Have the policies of another one; the tunnels that are up stay up, and the home addresses
        that were added."""
        self._load(other.policies)
        for home_address, like in tuple(self._like.items()):
            self.add_home_address(home_address, like=like)

    def _load(self, policies: Iterable[SecurityPolicy]) -> None:
        self._set(tuple(policies))
        self._tunnel_mode_spis = frozenset(
            policy.associations.inbound.spi
            for policy in self._policies
            if policy.associations is not None and policy.purpose.mode is EspMode.TUNNEL
        )

    def _set(self, policies: tuple[SecurityPolicy, ...]) -> None:
        """The indexes are made when they are needed: home addresses often come by the thousand."""
        self._policies = policies
        self._indexes: tuple[_Index, _Index] | None = None

    def _index(self) -> tuple[_Index, _Index]:
        """Of outbound and inbound selectors."""
        if self._indexes is None:
            outbound = (policy for policy in self._policies if policy.outbound is not None)
            self._indexes = (
                _Index(outbound, lambda policy: policy.outbound or Selector()),
                _Index(self._policies, lambda policy: policy.inbound),
            )
        return self._indexes

    @property
    def policies(self) -> tuple[SecurityPolicy, ...]:
        """In the order in which they are tried."""
        return self._policies

    def add_home_address(self, home_address: IPv6Address, *, like: IPv6Address) -> None:
        """Have policies for another home address, which lead to the associations of ``like``.

        Each home address still leads to exactly one association for its Binding Updates
        (RFC 3776 4.2). Again is no error.
        """
        copies = tuple(
            _with_home_address(policy, home_address)
            for policy in self._policies
            if policy.home_address == like
        )
        self._set(copies + self._without(home_address))
        self._like[home_address] = like

    def remove_home_address(self, home_address: IPv6Address) -> None:
        """Have no policies for this home address; its tunnel is down."""
        self._set(self._without(home_address))
        self._like.pop(home_address, None)
        self.deactivate_tunnel(home_address)

    def _without(self, home_address: IPv6Address) -> tuple[SecurityPolicy, ...]:
        return tuple(p for p in self._policies if p.home_address != home_address)

    def activate_tunnel(
        self, home_address: IPv6Address, home_agent: IPv6Address | None = None
    ) -> None:
        """The tunnel of this home address is up: its tunnel policies apply from now on.

        ``home_agent`` is its other end on a mobile node, which may have the keys of several; None
        lets any policy of the home address apply.
        """
        self._tunnels[home_address] = home_agent

    def deactivate_tunnel(self, home_address: IPv6Address) -> None:
        """The tunnel is torn down; associations and transport policies stay (RFC 3776 4.2)."""
        self._tunnels.pop(home_address, None)

    def tunnel_associations(self, home_address: IPv6Address) -> TunnelAssociations:
        """What protects the tunnelled packets of a home address."""
        mine = [
            policy
            for policy in self._index()[1].of(home_address)
            if policy.purpose in _IN_TUNNEL and self._is_of_tunnel(policy)
        ]
        return TunnelAssociations(
            payload=_associations(mine, Purpose.PAYLOAD),
            home_test=_associations(mine, Purpose.RETURN_ROUTABILITY),
        )

    def outbound(self, packet: IPv6Packet) -> SecurityPolicy | None:
        """The policy for a packet about to be sent, or None to send it as it is.

        The packet is as it goes out, Home Address option and type 2 routing header included. A
        policy whose ``associations`` is None says not to send it at all.
        """
        inner, mode = _look_inside(packet)
        for policy in self._index()[0].candidates(inner):
            selector = policy.outbound
            if selector is not None and self._applies(policy, mode) and selector.matches(inner):
                return None if policy.is_bypass else policy
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
        for policy in self._index()[1].candidates(inner):
            applies = policy.purpose.mode is EspMode.TRANSPORT or self._applies(policy, mode)
            if applies and policy.inbound.matches(inner):
                return _verdict(policy, protected_by)
        if tunnel_source is not None and self._is_of_inactive_tunnel(inner, protected_by):
            return None
        # Step 4 of RFC 4301 5.2: what an association carried must fit the association's selectors.
        return None if protected_by is None else DropReason.WRONG_SECURITY_ASSOCIATION

    def inbound_group_membership(self, protected_by: int | None) -> DropReason | None:
        """The same for multicast listener discovery that came out of a tunnel. Its addresses are of
        link scope: who it is from the tunnel tells, whose ends and protection were checked."""
        if protected_by is None or protected_by in self._tunnel_mode_spis:
            return None
        return DropReason.WRONG_SECURITY_ASSOCIATION

    def _is_of_inactive_tunnel(self, inner: IPv6Packet, protected_by: int | None) -> bool:
        """Whether a peer that believes in a tunnel we do not have sent this by its association.

        A home agent that lost its bindings in a restart learns so; nothing is decapsulated by it.
        """
        return any(
            policy.purpose is Purpose.PAYLOAD
            and policy.associations is not None
            and policy.associations.inbound.spi == protected_by
            and policy.inbound.matches(inner)
            for policy in self._index()[1].candidates(inner)
        )

    def _applies(self, policy: SecurityPolicy, mode: EspMode) -> bool:
        if policy.purpose.mode is not mode:
            return False
        if mode is EspMode.TRANSPORT:
            return True
        return policy.home_address in self._tunnels and self._is_of_tunnel(policy)

    def _is_of_tunnel(self, policy: SecurityPolicy) -> bool:
        """Whether it is about the home agent that the home address's tunnel goes to."""
        assert policy.home_address is not None
        home_agent = self._tunnels.get(policy.home_address)
        return home_agent is None or policy.home_agent is None or policy.home_agent == home_agent


def _with_home_address(policy: SecurityPolicy, home_address: IPv6Address) -> SecurityPolicy:
    former = policy.home_address

    def moved(selector: Selector) -> Selector:
        return replace(
            selector,
            source=home_address if selector.source == former else selector.source,
            destination=(home_address if selector.destination == former else selector.destination),
        )

    return replace(
        policy,
        home_address=home_address,
        outbound=None if policy.outbound is None else moved(policy.outbound),
        inbound=moved(policy.inbound),
    )


def _look_inside(packet: IPv6Packet) -> tuple[IPv6Packet, EspMode]:
    if isinstance(packet.payload, IPv6Packet):
        return packet.payload, EspMode.TUNNEL
    return packet, EspMode.TRANSPORT


def _verdict(policy: SecurityPolicy, protected_by: int | None) -> DropReason | None:
    if policy.is_bypass:
        return None if protected_by is None else DropReason.WRONG_SECURITY_ASSOCIATION
    if protected_by is None:
        return DropReason.NOT_PROTECTED
    if policy.associations is None or policy.associations.inbound.spi != protected_by:
        return DropReason.WRONG_SECURITY_ASSOCIATION
    return None
