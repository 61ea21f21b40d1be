"""Whatever a link does, autoconfiguration keeps its word: nothing raises, tables stay bounded, and
what is offered was never taken back without a word."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.autoconf.autoconfiguration import AgentAutoconfiguration
from mnagent.autoconf.constants import MAX_ADDRESSES
from mnagent.autoconf.interface_id import IdentifierKind
from mnagent.autoconf.slaac import SlaacSettings
from mnagent.core.events import AddressAppeared, LinkCause, LinkDown, LinkUp
from mnagent.core.indications import AddressLost, AddressUsable, Output, RouterFound, RouterLost
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.ndisc import NeighborAdvertisement, TargetLinkLayerAddress
from tests.support.packets import received, router_advertisement
from tests.support.requirement import requirement

LINK_LOCAL = IPv6Address("fe80::10")
OWN_MAC = bytes.fromhex("020000000010")


def random_event(random: Random, offered: set[IPv6Address]) -> object:
    router = IPv6Address(f"fe80::{random.randint(1, 3):x}")
    mac = bytes((2, 0, 0, 0, 0, random.randint(1, 2)))
    match random.randrange(8):
        case 0:
            cause = random.choice(list(LinkCause))
            return LinkUp(interface=2, name="eth0", link_layer_address=OWN_MAC, cause=cause)
        case 1:
            return LinkDown(interface=2)
        case 2:
            tentative = random.random() < 0.5
            return AddressAppeared(
                interface=2, address=LINK_LOCAL, prefix_length=64, tentative=tentative
            )
        case 3:
            target = random.choice([*sorted(offered), LINK_LOCAL])
            message = NeighborAdvertisement(target)
            packet = IPv6Packet(target, IPv6Address("ff02::1"), message, hop_limit=255)
            return received(packet)
        case 4:
            message = NeighborAdvertisement(
                router, router=True, solicited=True, options=(TargetLinkLayerAddress(mac),)
            )
            packet = IPv6Packet(router, LINK_LOCAL, message, hop_limit=255)
            return received(packet, link_layer_source=mac)
        case _:
            prefixes = random.sample([f"2001:db8:{n:x}::/64" for n in range(6)], 2)
            packet = router_advertisement(
                router,
                *prefixes,
                mac=mac,
                lifetime=random.choice([0, 30, 1800]),
                valid=random.choice([0, 60, 3600, 90000]),
                preferred=random.choice([0, 50]),
            )
            return replace(received(packet), link_layer_source=mac)


def follow(outputs: list[Output], offered: set[IPv6Address], routers: set[IPv6Address]) -> None:
    for output in outputs:
        match output:
            case AddressUsable():
                offered.add(output.address)
            case AddressLost():
                assert output.address in offered
                offered.discard(output.address)
            case RouterFound():
                routers.add(output.router)
            case RouterLost():
                assert output.router in routers
                routers.discard(output.router)


@requirement("RFC6059-5.4", "MOV-21")
@pytest.mark.parametrize("kind", list(IdentifierKind))
@pytest.mark.parametrize("optimistic", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_autoconfiguration_tells_each_loss_once_and_stays_bounded(
    kind: IdentifierKind, optimistic: bool, seed: int
) -> None:
    random = Random(seed)
    settings = SlaacSettings(secret=b"secret", optimistic=optimistic, identifiers=kind)
    machine = AgentAutoconfiguration(settings, random=random)
    offered: set[IPv6Address] = set()
    routers: set[IPv6Address] = set()
    now = 1000.0
    for _ in range(300):
        end = now + random.choice([0.0, 0.005, 0.1, 2.0, 40.0])
        while (deadline := machine.next_deadline()) is not None and deadline <= end:
            now = max(now, deadline)
            follow(machine.handle_timer(now), offered, routers)
        now = end
        event = random_event(random, offered)
        follow(machine.handle(event, now), offered, routers)  # type: ignore[arg-type]
        usable = {
            address
            for states in machine.states().values()
            for address, state in states.items()
            if state.value in ("optimistic", "preferred")
        }
        assert usable == offered, f"seed {seed}"
        assert len(usable) <= MAX_ADDRESSES
    follow(machine.remove_all(now), offered, routers)
    assert not offered and not routers
