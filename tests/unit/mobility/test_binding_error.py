"""Binding Errors and their rate."""

from __future__ import annotations

from mnagent.mobility.binding_error import BindingErrorSender, TokenBucket
from mnagent.wire.ipv6 import IPv6Packet, RawPayload
from mnagent.wire.mobility import BindingError
from tests.support.home_link import CARE_OF_ADDRESS, HOME_ADDRESS, HOME_AGENT_ADDRESS


def test_binding_error_is_never_answered_with_another() -> None:
    error = BindingError(1, HOME_ADDRESS)
    packet = IPv6Packet(CARE_OF_ADDRESS, HOME_AGENT_ADDRESS, error)
    assert BindingErrorSender().answer(packet, status=1, now=0.0) == []


def test_binding_error_to_a_group_destination_is_not_sent_from_it() -> None:
    packet = IPv6Packet(CARE_OF_ADDRESS, type(HOME_ADDRESS)("ff0e::1"), RawPayload(6, b""))
    assert BindingErrorSender().answer(packet, status=1, now=0.0) == []


def test_token_bucket_allows_burst_then_rate() -> None:
    bucket = TokenBucket(rate=1.0, burst=2.0)
    assert [bucket.take(5.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(6.0) for _ in range(2)] == [True, False]
