from __future__ import annotations

from dataclasses import fields
from ipaddress import IPv6Address

from mnagent.core.events import TrafficSeen
from mnagent.datapath import Traffic
from mnagent.runtime.service import traffic_seen


def test_traffic_of_the_engine_becomes_an_event_with_all_it_says() -> None:
    traffic = Traffic(
        local=IPv6Address("2001:db8:1::10"),
        peer=IPv6Address("2001:db8:c::1"),
        packets_in=3,
        packets_out=4,
        protocol=6,
        destination_port=443,
        direct=True,
    )
    event = traffic_seen(traffic)
    names = [field.name for field in fields(Traffic)]
    assert {field.name for field in fields(TrafficSeen)} == set(names)
    assert all(getattr(event, name) == getattr(traffic, name) for name in names)
