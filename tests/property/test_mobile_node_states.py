"""A mobile node that is told anything in any order keeps its promises."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mnagent.core.actions import Finish, HoldTunnel, RemoveTunnel, SetTunnel, UseHomeLink
from mnagent.core.events import AddressAppeared, LinkDown, ShutdownRequested
from mnagent.core.indications import (
    AddressLost,
    AddressUsable,
    AttachmentDoubtful,
    BindingAccepted,
    Indication,
    RouterLost,
)
from mnagent.wire.icmp6 import ParameterProblem
from mnagent.wire.ipv6 import IPv6Packet
from mnagent.wire.mobility import BindingError, BindingRefreshRequest, BindingUpdate
from mnagent.wire.ndisc import NeighborAdvertisement, NeighborSolicitation
from tests.support.driver import (
    CARE_OF_A,
    CARE_OF_B,
    HOME_ADDRESS,
    HOME_AGENT,
    INTERFACE,
    ROUTER,
    MobileNodeDriver,
    router_found,
)
from tests.support.packets import binding_acknowledgement, received

ADDRESSES = st.sampled_from([CARE_OF_A, CARE_OF_B, HOME_ADDRESS + 5])
PEERS = st.sampled_from([HOME_AGENT, CARE_OF_B])

messages = st.one_of(
    st.builds(
        binding_acknowledgement,
        PEERS,
        st.just(HOME_ADDRESS),
        care_of_address=st.sampled_from([None, CARE_OF_A, CARE_OF_B]),
        sequence=st.integers(0, 65535),
        status=st.sampled_from([0, 1, 128, 130, 133, 135]),
        lifetime=st.sampled_from([0, 4, 100, 600, 262140]),
    ),
    st.builds(
        IPv6Packet,
        PEERS,
        st.just(CARE_OF_A),
        st.one_of(
            st.just(BindingError(1, HOME_ADDRESS)),
            st.just(BindingRefreshRequest()),
            st.builds(ParameterProblem, st.just(1), st.just(40), st.binary(max_size=60)),
            st.just(NeighborAdvertisement(HOME_ADDRESS)),
            st.just(NeighborSolicitation(HOME_ADDRESS)),
        ),
    ),
).map(received)

events = st.one_of(
    st.just("link up"),
    st.just("answer"),
    st.sampled_from([128, 130, 133, 135]),
    st.just(LinkDown(interface=INTERFACE)),
    st.builds(router_found, ADDRESSES, router=st.sampled_from([ROUTER, ROUTER + 1])),
    st.builds(RouterLost, interface=st.just(INTERFACE), router=st.just(ROUTER)),
    st.builds(
        AddressUsable,
        interface=st.just(INTERFACE),
        address=ADDRESSES,
        prefix_length=st.just(64),
        valid_until=st.sampled_from([1001.0, 1100.0, 1e9]),
        preferred_until=st.sampled_from([1001.0, 1100.0, 1e9]),
    ),
    st.builds(AddressLost, interface=st.just(INTERFACE), address=ADDRESSES),
    st.builds(
        AddressAppeared,
        interface=st.just(INTERFACE),
        address=st.just(ROUTER + 15),
        prefix_length=st.just(64),
        duplicate=st.booleans(),
    ),
    messages,
    st.floats(0, 200),
)


def play(driver: MobileNodeDriver, script: list[Any]) -> None:
    for step in script:
        if isinstance(step, float):
            driver.advance(step)
        elif step == "link up":
            driver.link_up()
        elif step == "answer" or isinstance(step, int):
            if driver.node.registration.entry is not None:
                driver.acknowledge(status=0 if step == "answer" else step)
        else:
            driver.tell(step)


@settings(max_examples=300, deadline=None)
@given(st.lists(events, max_size=40))
def test_mobile_node_told_anything_keeps_its_promises(script: list[Any]) -> None:
    driver = MobileNodeDriver()
    play(driver, script)
    told = {type(output) for _, output in driver.log if isinstance(output, Indication)}
    assert told <= {AttachmentDoubtful, BindingAccepted}, "all others end inside"
    times = driver.times_of(BindingUpdate)
    for earlier, later in zip(times, times[3:], strict=False):
        assert later - earlier >= 1 - 1e-6
    tunnel = None
    for _, output in driver.log:
        match output:
            case SetTunnel():
                assert output.local in (CARE_OF_A, CARE_OF_B)
                tunnel = output.local
            case HoldTunnel() | RemoveTunnel():
                tunnel = None
            case UseHomeLink():
                assert tunnel is None, "never at home and in a tunnel"
    assert tunnel == driver.node.tunnel_address


@settings(max_examples=100, deadline=None)
@given(st.lists(events, max_size=25))
def test_mobile_node_told_anything_can_be_stopped_within_seconds(script: list[Any]) -> None:
    driver = MobileNodeDriver()
    play(driver, script)
    driver.tell(ShutdownRequested())
    driver.advance(5)
    assert len(driver.all(Finish)) == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(events, max_size=25))
def test_mobile_node_told_anything_registers_in_the_end(script: list[Any]) -> None:
    driver = MobileNodeDriver()
    play(driver, script)
    driver.tell(LinkDown(interface=INTERFACE))
    driver.advance(5)
    driver.link_up()
    driver.visit(CARE_OF_A)
    driver.advance(1)
    driver.acknowledge()
    assert driver.node.state == "registered"
    assert driver.node.tunnel_address == CARE_OF_A
