"""Whatever changes lead to some tables, packets meet what publishing those tables at once gives."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction, EspMode
from mnagent.datapath import (
    Changes,
    DirectPathEntry,
    NextHop,
    PeerBindingEntry,
    Pipeline,
    SequenceExhausted,
    Tables,
    TunnelEntry,
)
from tests.ext.scenario import AGENT, CARE_OF, HOME, agent_tunnel, association, slow_esp

OWN = [IPv6Address(f"2001:db8:1::{number:x}") for number in range(0x100, 0x140)]
CARE_OFS = [IPv6Address(f"2001:db8:2::{number:x}") for number in range(1, 9)]
PEERS = [IPv6Address(f"2001:db8:9::{number:x}") for number in range(1, 9)]
HOPS = [
    None,
    NextHop(interface=3, source_mac=bytes(5) + b"\1", destination_mac=bytes(5) + b"\2"),
    NextHop(interface=3, source_mac=bytes(5) + b"\1", destination_mac=bytes(5) + b"\3"),
]
NULL = ("null-hmac-sha256-128", 0)


def packet(source: IPv6Address, destination: IPv6Address, payload: bytes = bytes(16)) -> bytes:
    head = b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes([17, 64])
    return head + source.packed + destination.packed + payload


def tunnelled(inner: bytes, source: IPv6Address) -> bytes:
    head = b"\x60\0\0\0" + len(inner).to_bytes(2, "big") + bytes([41, 64])
    return head + source.packed + AGENT.packed + inner


def random_tunnel(chance: random.Random, home: IPv6Address) -> TunnelEntry:
    spi = chance.choice((None, 1000 + OWN.index(home) % 8, chance.randrange(1000, 1008)))
    return TunnelEntry(
        end=chance.choice((TunnelEnd.HOME_AGENT, TunnelEnd.HOME_AGENT, TunnelEnd.MOBILE_NODE)),
        home_address=home,
        local=AGENT,
        remote=chance.choice(CARE_OFS),
        next_hop=chance.choice(HOPS),
        mtu=chance.choice((1280, 1460)),
        path_mtu=chance.choice((0, 1400)),
        outbound_spi=spi,
        inbound_spi=spi,
        home_test_outbound_spi=chance.choice((None, 1000)),
        hold=chance.random() < 0.1,
    )


def some(chance: random.Random, everything: list[IPv6Address]) -> list[IPv6Address]:
    return chance.sample(everything, chance.randrange(4))


def random_changes(chance: random.Random) -> Changes:
    local = chance.choice((None, (AGENT,), (AGENT, *some(chance, OWN))))
    return Changes(
        tunnels=tuple(random_tunnel(chance, home) for home in some(chance, OWN)),
        removed_tunnels=tuple(some(chance, OWN)),
        associations=tuple(
            replace(
                association(slow_esp(NULL, spi), direction, home_address=OWN[spi - 1000]),
                replay_window=chance.choice((0, 64, 128)),
            )
            for spi in chance.sample(range(1000, 1008), 2)
            for direction in Direction
        ),
        removed_associations=((chance.randrange(1000, 1008), chance.choice(list(Direction))),),
        local_addresses=local,
        peer_bindings=tuple(
            PeerBindingEntry(home_address=peer, care_of_address=chance.choice(CARE_OFS))
            for peer in some(chance, PEERS)
        ),
        removed_peer_bindings=tuple(some(chance, PEERS)),
        direct_paths=tuple(
            DirectPathEntry(
                home_address=chance.choice(OWN[:4]),
                correspondent=peer,
                care_of_address=AGENT,
                next_hop=chance.choice(HOPS),
            )
            for peer in some(chance, PEERS)
        ),
        removed_direct_paths=tuple((chance.choice(OWN[:4]), peer) for peer in some(chance, PEERS)),
    )


def answers(pipeline: Pipeline) -> tuple[object, ...]:
    """What becomes of packets to and from everybody. Verdicts tell what no frame shows."""
    before = pipeline.counters()
    out = pipeline.process_outbound(
        [packet(source, peer) for source in (AGENT, *OWN) for peer in (*PEERS, *OWN[:8])]
    )
    seen = pipeline.process_inbound(
        [
            tunnelled(packet(home, PEERS[0]), care_of)
            for home in OWN
            for care_of in (*CARE_OFS, PEERS[0])
        ]
        + [tunnelled(packet(PEERS[0], home), CARE_OFS[0]) for home in OWN]
    )
    after = pipeline.counters()
    counts = {name: after[name] - before[name] for name in after}
    sealed = [frame[:40] if frame[6] == 50 else frame for frame in out.frames]
    return sealed, out.to_tunnel, seen.to_tunnel, counts


@pytest.mark.parametrize("seed", range(6))
def test_changes_amount_to_the_tables_they_lead_to(seed: int) -> None:
    chance = random.Random(seed)
    changed, tables = Pipeline(), Tables()
    for _ in range(60):
        changes = random_changes(chance)
        changed.change(changes)
        tables = changes.applied_to(tables)
    published = Pipeline()
    published.publish(tables)
    held = {"held", "released", "drop-hold-overflow", "drop-rate-limited", "packet-too-big"}
    one, other = answers(changed), answers(published)
    assert one[:3] == other[:3]
    assert {n: v for n, v in one[3].items() if n not in held} == {  # type: ignore[attr-defined]
        n: v
        for n, v in other[3].items()  # type: ignore[attr-defined]
        if n not in held
    }
    assert changed.activity().keys() == published.activity().keys()
    assert changed.sequences().keys() == published.sequences().keys()


def test_tables_that_are_emptied_give_their_memory_back() -> None:
    pipeline = Pipeline()
    before = pipeline.memory_of_tables()
    for seed in range(20):
        pipeline.change(random_changes(random.Random(seed)))
    assert pipeline.memory_of_tables() > before
    pipeline.publish(Tables())
    assert pipeline.memory_of_tables() == before


def test_many_bindings_are_found_and_those_that_went_are_not() -> None:
    pipeline = Pipeline()
    homes = [IPv6Address((0x20010DB80001 << 80) | number) for number in range(1, 3001)]
    for home in homes:
        pipeline.change(Changes(tunnels=(agent_tunnel(home),)))
    pipeline.change(Changes(removed_tunnels=tuple(homes[::3])))
    frames = pipeline.process_outbound([packet(PEERS[0], home) for home in homes]).frames
    assert len(frames) == 2000
    assert {IPv6Address(frame[64:80]) for frame in frames} == set(homes) - set(homes[::3])


def test_tunnel_that_moves_goes_on_counting() -> None:
    pipeline = Pipeline()
    for number in range(1, 4):
        pipeline.change(Changes(tunnels=(agent_tunnel(HOME, CARE_OFS[number]),)))
        pipeline.process_outbound([packet(PEERS[0], HOME)])
        assert pipeline.activity() == {HOME: (number, 0)}


def test_one_of_two_tunnels_to_the_same_place_goes_and_the_other_is_known_still() -> None:
    pipeline = Pipeline()
    pipeline.change(
        Changes(
            tunnels=(agent_tunnel(HOME, CARE_OF), agent_tunnel(OWN[0], CARE_OF)),
            local_addresses=(AGENT,),
        )
    )
    for gone, verdict in ((OWN[0], "drop-inner-source"), (HOME, "handed-up")):
        pipeline.change(Changes(removed_tunnels=(gone,)))
        before = pipeline.counters()[verdict]
        pipeline.process_inbound([tunnelled(packet(PEERS[0], PEERS[1]), CARE_OF)])
        assert pipeline.counters()[verdict] == before + 1


def test_association_that_comes_after_its_tunnel_is_used() -> None:
    pipeline = Pipeline()
    pipeline.change(Changes(tunnels=(agent_tunnel(HOME, outbound_spi=0x1234),)))
    assert not pipeline.process_outbound([packet(PEERS[0], HOME)]).frames
    made = association(slow_esp(NULL), Direction.OUTBOUND)
    pipeline.change(Changes(associations=(made,)))
    (frame,) = pipeline.process_outbound([packet(PEERS[0], HOME)]).frames
    assert frame[6] == 50
    pipeline.change(Changes(removed_associations=((0x1234, Direction.OUTBOUND),)))
    assert not pipeline.process_outbound([packet(PEERS[0], HOME)]).frames


def test_association_asks_for_numbers_past_half_of_what_it_has() -> None:
    pipeline = Pipeline()
    made = association(slow_esp(NULL), Direction.OUTBOUND, mode=EspMode.TRANSPORT)
    pipeline.change(Changes(associations=(made,)))
    pipeline.set_sequence(made.spi, next=1, limit=17)
    needed = []
    for _ in range(16):
        pipeline.protect(made.spi, packet(AGENT, HOME))
        needed.append(pipeline.take_sequences_in_need())
    assert needed[:7] == [{}] * 7
    assert needed[8:] == [{made.spi: (number, 17)} for number in range(10, 18)]
    with pytest.raises(SequenceExhausted):
        pipeline.protect(made.spi, packet(AGENT, HOME))


def test_association_removed_while_it_asks_for_numbers_is_asked_for_no_more() -> None:
    pipeline = Pipeline()
    made = association(slow_esp(NULL), Direction.OUTBOUND, mode=EspMode.TRANSPORT)
    pipeline.change(Changes(associations=(made,)))
    pipeline.set_sequence(made.spi, next=1, limit=3)
    pipeline.protect(made.spi, packet(AGENT, HOME))
    pipeline.change(Changes(removed_associations=((made.spi, Direction.OUTBOUND),)))
    assert pipeline.take_sequences_in_need() == {}
    with pytest.raises(KeyError):
        pipeline.protect(made.spi, packet(AGENT, HOME))


def test_more_associations_than_places_all_seal_and_open() -> None:
    """Those that lose their place in a thread's cache are prepared anew, with their own keys."""
    sender, receiver = Pipeline(), Pipeline()
    oracles = [
        replace(
            slow_esp(("aes-cbc-hmac-sha256-128", 32), 5000 + number),
            key=number.to_bytes(2, "big") * 16,
        )
        for number in range(1100)
    ]
    for pipeline, direction in ((sender, Direction.OUTBOUND), (receiver, Direction.INBOUND)):
        made = [association(each, direction, mode=EspMode.TRANSPORT) for each in oracles]
        pipeline.change(Changes(associations=tuple(made), local_addresses=(AGENT,)))
    for _ in range(2):
        for oracle in oracles:
            clear = packet(CARE_OF, AGENT)
            (taken,) = receiver.process_inbound([sender.protect(oracle.spi, clear)]).handed_up
            assert (taken.data, taken.protected_by) == (clear, oracle.spi)
