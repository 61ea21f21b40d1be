"""Changes say the same as the tables they lead to."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction, EspMode, EspTransform, SecurityAssociation
from mnagent.datapath import Changes, DirectPathEntry, PeerBindingEntry, Tables, TunnelEntry

HOME = IPv6Address("2001:db8:1::10")
OTHER = IPv6Address("2001:db8:1::11")
AGENT = IPv6Address("2001:db8:1::1")
CARE_OF = IPv6Address("2001:db8:2::10")
TUNNEL = TunnelEntry(end=TunnelEnd.HOME_AGENT, home_address=HOME, local=AGENT, remote=CARE_OF)
ASSOCIATION = SecurityAssociation(
    spi=300,
    direction=Direction.INBOUND,
    mode=EspMode.TUNNEL,
    transform=EspTransform.NULL_HMAC_SHA256_128,
    home_address=HOME,
    peer=HOME,
    encryption_key=b"",
    integrity_key=bytes(32),
)
BINDING = PeerBindingEntry(home_address=HOME, care_of_address=CARE_OF)
PATH = DirectPathEntry(home_address=OTHER, correspondent=HOME, care_of_address=CARE_OF)
EVERYTHING = Tables(
    tunnels=(TUNNEL,),
    associations=(ASSOCIATION,),
    local_addresses=(AGENT,),
    peer_bindings=(BINDING,),
    direct_paths=(PATH,),
)


def test_no_changes_leave_the_tables_as_they_are() -> None:
    assert Changes().applied_to(EVERYTHING) == EVERYTHING


def test_entries_set_on_empty_tables_are_all_there_is() -> None:
    changes = Changes(
        tunnels=(TUNNEL,),
        associations=(ASSOCIATION,),
        local_addresses=(AGENT,),
        peer_bindings=(BINDING,),
        direct_paths=(PATH,),
    )
    assert changes.applied_to(Tables()) == EVERYTHING


def test_entry_of_the_same_key_is_replaced() -> None:
    moved = replace(TUNNEL, remote=OTHER)
    assert Changes(tunnels=(moved,)).applied_to(EVERYTHING).tunnels == (moved,)


def test_removed_entries_are_gone_and_unknown_ones_no_error() -> None:
    changes = Changes(
        removed_tunnels=(HOME, OTHER),
        removed_associations=((300, Direction.INBOUND), (300, Direction.OUTBOUND)),
        local_addresses=(),
        removed_peer_bindings=(HOME,),
        removed_direct_paths=((OTHER, HOME), (HOME, OTHER)),
    )
    assert changes.applied_to(EVERYTHING) == Tables()


def test_entry_removed_and_set_is_there() -> None:
    changes = Changes(removed_tunnels=(HOME,), tunnels=(TUNNEL,))
    assert changes.applied_to(EVERYTHING) == EVERYTHING
