"""IPsec between mobile node and home agent with manual keys (RFC 3776), as seen on the links."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.agent.build import build_agent
from mnagent.core.actions import SendPacket, SetTunnel
from mnagent.core.security import EspMode, EspTransform
from mnagent.ipsec.association import SecurityAssociationDatabase
from mnagent.ipsec.esp_reference import ReferenceEsp
from mnagent.ipsec.mobility_policy import mobile_node_database
from mnagent.ipsec.purpose import Purpose
from mnagent.wire.esp import EspPacket
from mnagent.wire.icmp6 import MobilePrefixSolicitation
from mnagent.wire.ipv6 import (
    DestinationOptions,
    HomeAddressOption,
    IPv6Packet,
    Type2RoutingHeader,
)
from mnagent.wire.mobility import BindingAcknowledgement, BindingUpdate, HomeTestInit
from mnagent.wire.mobility_options import AlternateCareOfAddress
from mnagent.wire.packet import decode_packet, encode_packet
from tests.support.requirement import requirement
from tests.support.topology import (
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    PREFIX_A,
    PREFIX_B,
    Topology,
    make_keys,
    mobile_node_configuration,
)
from tests.support.world import Link, World


@dataclass(frozen=True)
class Seen:
    """A mobility packet on a link, and what its ESP holds."""

    outside: IPv6Packet
    inside: IPv6Packet


def eavesdrop(net: Topology, link: Link, seed: int) -> list[Seen]:
    """Decrypt what went over a link, with the keys of both ends and no replay window."""
    databases = [
        ReferenceEsp(SecurityAssociationDatabase(keys.associations)) for keys in make_keys(seed)
    ]
    seen = []
    for _, frame in link.frames:
        outside = decode_packet(frame.data)
        if not isinstance(outside.payload, EspPacket):
            continue
        for esp in databases:
            try:
                octets, _ = esp.unprotect(frame.data)
            except ValueError:
                continue
            seen.append(Seen(outside, decode_packet(octets)))
    return seen


def of(seen: list[Seen], message: type[object]) -> list[Seen]:
    return [each for each in seen if isinstance(each.inside.payload, message)]


@requirement("RFC3776-3.1", "SEC-01", "SEC-06", "HA-01")
def test_update_and_acknowledgement_away_have_the_demanded_order_of_headers() -> None:
    with World(seed=21) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        care_of_address = net.bound_to
        assert care_of_address is not None
        seen = eavesdrop(net, net.link_a, world.seed)
        update, acknowledgement = of(seen, BindingUpdate)[0], of(seen, BindingAcknowledgement)[0]
        assert (update.outside.source, update.outside.destination) == (care_of_address, HOME_AGENT)
        option = DestinationOptions((HomeAddressOption(HOME_ADDRESS),))
        assert update.outside.extension_headers == (option,)
        message = update.inside.payload
        assert isinstance(message, BindingUpdate)
        assert message.options == (AlternateCareOfAddress(care_of_address),)
        assert acknowledgement.outside.source == HOME_AGENT
        assert acknowledgement.outside.destination == care_of_address
        assert acknowledgement.outside.extension_headers == (Type2RoutingHeader(HOME_ADDRESS),)


@requirement("RFC3776-3.1", "SEC-02", "RET-01", "HA-26")
def test_update_and_acknowledgement_at_home_carry_neither_option_nor_routing_header() -> None:
    with World(seed=22) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.return_home()
        seen = eavesdrop(net, net.home, world.seed)
        update, acknowledgement = of(seen, BindingUpdate)[0], of(seen, BindingAcknowledgement)[0]
        assert (update.outside.source, update.outside.destination) == (HOME_ADDRESS, HOME_AGENT)
        assert acknowledgement.outside.source == HOME_AGENT
        assert acknowledgement.outside.destination == HOME_ADDRESS
        assert update.outside.extension_headers == acknowledgement.outside.extension_headers == ()


@requirement("RFC3776-3.2", "SEC-03", "RR-02")
def test_home_test_init_in_the_tunnel_has_a_tunnel_mode_policy() -> None:
    database = mobile_node_database(make_keys(1)[0])
    message = IPv6Packet(HOME_ADDRESS, CORRESPONDENT, HomeTestInit(cookie=bytes(8)))
    tunnelled = IPv6Packet(IPv6Address("2001:db8:a::10"), HOME_AGENT, message)
    assert database.outbound(tunnelled) is None, "no tunnel, no tunnel policy"
    database.activate_tunnel(HOME_ADDRESS)
    policy = database.outbound(tunnelled)
    assert policy is not None and policy.purpose is Purpose.RETURN_ROUTABILITY
    assert policy.associations is not None
    assert policy.associations.outbound.mode is EspMode.TUNNEL
    assert policy.associations.outbound.transform is not EspTransform.NULL_HMAC_SHA256_128


@requirement("RFC3776-3.3", "SEC-04")
def test_prefix_solicitation_with_home_address_option_has_a_transport_policy() -> None:
    database = mobile_node_database(make_keys(1)[0])
    packet = IPv6Packet(
        IPv6Address("2001:db8:a::10"),
        HOME_AGENT,
        MobilePrefixSolicitation(1),
        extension_headers=(DestinationOptions((HomeAddressOption(HOME_ADDRESS),)),),
    )
    policy = database.outbound(packet)
    assert policy is not None and policy.purpose is Purpose.PREFIX_DISCOVERY


@requirement("RFC3776-3.4", "SEC-05", "HA-47", "SEC-17")
def test_protected_payload_survives_movement_without_new_keys_and_nothing_is_in_the_clear() -> None:
    protection = {"payload_protection": "esp"}
    with World(seed=23) as world:
        net = Topology(world, mobile_node=protection, home_agent=protection)
        for link, prefix in ((net.link_a, PREFIX_A), (net.link_b, PREFIX_B)):
            net.register_in(link, prefix)
            net.mobile_node.send_data(CORRESPONDENT, b"secret")
            net.correspondent.ping(CORRESPONDENT, HOME_ADDRESS)
            world.run_for(1)
            assert not any(frame.data[6] == 41 for _, frame in link.frames)
            assert not any(b"secret" in frame.data for _, frame in link.frames)
        assert net.correspondent.received_data() == [b"secret", b"secret"]
        assert len(net.correspondent.echo_replies()) == 2
        tunnels = net.mobile_node.done(SetTunnel)
        spis = {(t.outbound_spi, t.inbound_spi) for t in tunnels if isinstance(t, SetTunnel)}
        assert len(spis) == 1 and None not in next(iter(spis))


@requirement("RFC3776-3.4", "SEC-05")
def test_plain_payload_is_refused_where_protection_is_demanded() -> None:
    protection = {"payload_protection": "esp"}
    with World(seed=24) as world:
        net = Topology(world, home_agent=protection)
        net.register_in(net.link_a, PREFIX_A)
        net.mobile_node.send_data(CORRESPONDENT, b"plain")
        world.run_for(1)
        assert net.correspondent.received_data() == []
        assert net.home_agent.verdicts["not-protected"] >= 1


@requirement("RFC3776-4.2", "SEC-08", "HA-03", "HA-04")
def test_update_for_another_home_address_than_the_associations_is_not_accepted() -> None:
    other = HOME_ADDRESS + 1
    with World(seed=25) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        bound = net.bound_to
        assert bound is not None
        spi = make_keys(world.seed)[0].pairs[Purpose.BINDING].outbound.spi
        for home_address in (other, CORRESPONDENT):
            update = BindingUpdate(
                sequence=1,
                lifetime=600,
                acknowledge=True,
                home_registration=True,
                options=(AlternateCareOfAddress(bound),),
            )
            packet = IPv6Packet(
                bound,
                HOME_AGENT,
                update,
                extension_headers=(DestinationOptions((HomeAddressOption(home_address),)),),
            )
            octets = net.mobile_node.esp.protect(spi, encode_packet(packet))
            net.mobile_node.send_natively(octets)
        world.run_for(1)
        assert net.home_agent.agent is not None
        assert net.home_agent.agent.counters["drop-wrong-security-association"] == 2
        snapshot = net.home_agent.agent.snapshot(world.now).home_agent
        assert snapshot is not None
        assert [binding.home_address for binding in snapshot.bindings] == [str(HOME_ADDRESS)]


@requirement("RFC3776-4.2", "SEC-09", "RET-10")
def test_associations_of_bindings_serve_at_home_and_away() -> None:
    with World(seed=26) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        net.return_home()
        net.register_in(net.link_b, PREFIX_B)
        spis = {
            action.protect_with
            for action in net.mobile_node.done(SendPacket)
            if isinstance(action, SendPacket) and isinstance(action.packet.payload, BindingUpdate)
        }
        assert len(spis) == 1 and None not in spis


@requirement("RFC4303-3.4.3", "SEC-18")
def test_replayed_and_falsified_updates_are_dropped_and_counted() -> None:
    with World(seed=27) as world:
        net = Topology(world)
        net.register_in(net.link_a, PREFIX_A)
        recorded = [
            frame.data
            for _, frame in net.link_a.frames
            if frame.data[24:40] == HOME_AGENT.packed and frame.data[6] == 60
        ][-1]
        net.register_in(net.link_b, PREFIX_B)
        net.correspondent.route(recorded)
        net.correspondent.route(recorded[:-1] + bytes((recorded[-1] ^ 1,)))
        world.run_for(1)
        assert net.home_agent.verdicts["esp-replayed"] >= 1
        assert net.is_registered_in(PREFIX_B)


@requirement("RFC3776-4.3", "SEC-07")
def test_every_association_authenticates() -> None:
    for keys in make_keys(1):
        assert all(association.integrity_key for association in keys.associations)


@requirement("RFC3776-4.1", "SEC-06")
@pytest.mark.parametrize("which", ["home address", "home agent", "number"])
def test_keys_of_somebody_else_are_refused(which: str) -> None:
    keys = {
        "home address": [make_keys(1, home_address=HOME_ADDRESS + 1)[0]],
        "home agent": [make_keys(1)[0]],
        "number": [],
    }[which]
    configuration = mobile_node_configuration()
    if which == "home agent":
        assert configuration.mobile_node is not None
        other = replace(configuration.mobile_node, home_agents=(IPv6Address("2001:db8:1::2"),))
        configuration = replace(configuration, mobile_node=other)
    with pytest.raises(ValueError, match="keys"):
        build_agent(configuration, random=Random(1), persisted={}, associations=keys)
