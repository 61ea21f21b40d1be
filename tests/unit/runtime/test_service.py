from __future__ import annotations

from dataclasses import fields, replace
from ipaddress import IPv6Address
from types import SimpleNamespace
from unittest.mock import Mock

from mnagent.core.events import TrafficSeen
from mnagent.datapath import Traffic
from mnagent.link.messages import LinkMessage
from mnagent.runtime.service import Service, traffic_seen


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


def test_interface_that_is_not_used_and_vanishes_is_told_to_the_engine() -> None:
    datapath = Mock()
    service = SimpleNamespace(
        _monitor=SimpleNamespace(interfaces={}),
        _attached=set(),
        _parts=SimpleNamespace(datapath=datapath),
    )
    there = LinkMessage(interface=7, name="wwan0", usable=True)
    Service._follow_link(service, there)  # type: ignore[arg-type]
    datapath.detach.assert_not_called()
    Service._follow_link(service, replace(there, removed=True))  # type: ignore[arg-type]
    datapath.detach.assert_called_once_with(7)
