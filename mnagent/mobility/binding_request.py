"""What a Binding Update asks for, once it has passed the tests of RFC 6275 9.5.1 that need no
state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address

from mnagent.core.drops import DropReason
from mnagent.core.events import PacketReceived
from mnagent.mobility.addresses import is_routable_unicast, is_unicast
from mnagent.mobility.constants import LIFETIME_UNIT
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingUpdate
from mnagent.wire.mobility_options import AlternateCareOfAddress, NonceIndices


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingRequest:
    """A Binding Update with its addresses made out."""

    source: IPv6Address
    """Source Address of the packet: where the answer goes (RFC 6275 9.5.4)."""
    home_address: IPv6Address
    care_of_address: IPv6Address
    has_home_address_option: bool
    update: BindingUpdate
    interface: int
    """Interface index it came in on."""
    link_layer_source: bytes

    @property
    def is_deregistration(self) -> bool:
        """True when the binding is to go.

        A care-of address equal to the home address counts as well, as it did in RFC 3775 9.5.1: a
        tunnel to it would feed the home agent its own packets.
        """
        return self.update.lifetime < LIFETIME_UNIT or self.care_of_address == self.home_address

    @property
    def is_from_home_address(self) -> bool:
        """True when the answer goes to the home address itself, without a type 2 routing header."""
        return self.source == self.home_address


def _itself(address: IPv6Address) -> IPv6Address:
    return address


def read_binding_request(
    event: PacketReceived,
    update: BindingUpdate,
    *,
    one_of: Callable[[IPv6Address], IPv6Address] = _itself,
) -> BindingRequest | DropReason:
    """Make out the addresses of a Binding Update, or say why it is silently discarded.

    ``one_of`` gives the home address as the caller has it already, where it has. Tables find one
    and the same object at once, another one only by comparing, and there are many of them.
    """
    packet = event.packet
    care_of_address = _care_of_address(packet, update)
    reason = _reason_to_discard(packet, update, care_of_address)
    if reason is not None:
        return reason
    return BindingRequest(
        source=packet.source,
        home_address=one_of(packet.logical_source),
        care_of_address=care_of_address,
        has_home_address_option=packet.home_address_option is not None,
        update=update,
        interface=event.interface,
        link_layer_source=event.link_layer_source,
    )


def _care_of_address(packet: IPv6Packet, update: BindingUpdate) -> IPv6Address:
    for option in update.options:
        if isinstance(option, AlternateCareOfAddress):
            return option.address
    return packet.source


def _reason_to_discard(
    packet: IPv6Packet, update: BindingUpdate, care_of_address: IPv6Address
) -> DropReason | None:
    """The tests of RFC 6275 6.1.7, 6.3, 9.3.1, 9.5.1 and 9.5.4 whose failure is silent."""
    if not is_unicast(packet.source):
        return DropReason.MULTICAST_SOURCE
    if len(packet.home_address_options) > 1:
        return DropReason.TWO_HOME_ADDRESS_OPTIONS
    if not is_routable_unicast(packet.logical_source):
        return DropReason.HOME_ADDRESS_NOT_ROUTABLE
    if not is_routable_unicast(care_of_address):
        return DropReason.CARE_OF_ADDRESS_NOT_ROUTABLE
    if update.home_registration:
        return _reason_to_discard_home_registration(packet, update)
    return None


def _reason_to_discard_home_registration(
    packet: IPv6Packet, update: BindingUpdate
) -> DropReason | None:
    if any(isinstance(option, NonceIndices) for option in update.options):
        return DropReason.NONCE_INDICES_IN_HOME_REGISTRATION
    if packet.home_address_option is None and update.lifetime >= LIFETIME_UNIT:
        # Only a deregistration from the home link may leave it out (RFC 6275 10.3.1, 10.3.2).
        return DropReason.NO_HOME_ADDRESS_OPTION
    return None
