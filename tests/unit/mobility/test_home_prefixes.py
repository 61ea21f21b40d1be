"""What is known of the home link's prefixes, by configuration and from advertisements."""

from __future__ import annotations

import math
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from mnagent.core.prefix_lifetime import TWO_HOURS
from mnagent.mobility.home_prefixes import (
    MAX_HOME_PREFIXES,
    HomePrefix,
    HomePrefixes,
    address_in,
)
from mnagent.mobility.served_home_addresses import ServedHomeAddresses
from tests.support.prefixes import HOME_PREFIX, NEW_PREFIX, information

NOW = 1000.0


def valid(prefixes: HomePrefixes, now: float = NOW) -> dict[IPv6Network, float]:
    return {each.prefix: each.valid_lifetime(now) for each in prefixes.current(now)}


def learn(prefixes: HomePrefixes, *, now: float = NOW, **lifetimes: Any) -> bool:
    return prefixes.learn([information(**lifetimes)], now, is_authentic=False)


def test_configured_prefix_lasts_as_long_as_it_is_said_to() -> None:
    prefixes = HomePrefixes([HomePrefix(prefix=HOME_PREFIX, valid_lifetime=60)])
    assert valid(prefixes, NOW) == valid(prefixes, NOW + 500) == {HOME_PREFIX: 60}
    assert prefixes.next_deadline(NOW) is None


def test_configuration_bounds_what_is_advertised() -> None:
    prefixes = HomePrefixes([HomePrefix(prefix=HOME_PREFIX, valid_lifetime=60)])
    assert learn(prefixes, valid=10_000.0)
    assert valid(prefixes) == {HOME_PREFIX: 60}


def test_prefix_no_longer_configured_stays_while_it_is_advertised() -> None:
    both = [HomePrefix(prefix=HOME_PREFIX), HomePrefix(prefix=NEW_PREFIX)]
    prefixes = HomePrefixes(both)
    learn(prefixes, valid=100.0)
    assert prefixes.configure([])
    assert valid(prefixes) == {HOME_PREFIX: 100}
    assert prefixes.expire(NOW + 100) == (HOME_PREFIX,)
    assert not prefixes.configure([])


def test_prefix_no_longer_configured_is_deprecated_until_it_retires() -> None:
    prefixes = HomePrefixes([HomePrefix(prefix=HOME_PREFIX), HomePrefix(prefix=NEW_PREFIX)])
    kept = [HomePrefix(prefix=NEW_PREFIX)]
    assert prefixes.configure(kept, retire_at=NOW + 100)
    (retired, other) = prefixes.current(NOW)
    assert (retired.valid_lifetime(NOW), retired.preferred_lifetime(NOW)) == (100, 0)
    assert other.preferred_lifetime(NOW) == math.inf
    assert prefixes.next_deadline(NOW) == NOW + 100
    assert not prefixes.configure(kept, retire_at=NOW + 200)
    assert prefixes.expire(NOW + 100) == (HOME_PREFIX,)


def test_prefix_configured_again_retires_no_more() -> None:
    prefixes = HomePrefixes([HomePrefix(prefix=HOME_PREFIX)])
    prefixes.configure([], retire_at=NOW + 100)
    assert prefixes.configure([HomePrefix(prefix=HOME_PREFIX)])
    assert valid(prefixes, NOW + 500) == {HOME_PREFIX: math.inf}


def test_same_configuration_again_changes_nothing() -> None:
    prefixes = HomePrefixes([HomePrefix(prefix=HOME_PREFIX)])
    assert not prefixes.configure([HomePrefix(prefix=HOME_PREFIX)])


@pytest.mark.parametrize(
    ("before", "said", "after"),
    [
        (86_400.0, 10.0, TWO_HOURS),
        (86_400.0, 7201.0, 7201.0),
        (3600.0, 10.0, 3600.0),
        (3600.0, 3700.0, 3700.0),
    ],
)
def test_unsigned_advertisement_leaves_two_hours(before: float, said: float, after: float) -> None:
    prefixes = HomePrefixes()
    learn(prefixes, valid=before)
    learn(prefixes, valid=said)
    assert valid(prefixes) == {HOME_PREFIX: after}


@pytest.mark.parametrize(
    "option",
    [
        information(valid=10.0, preferred=20.0),
        information(IPv6Network("fe80::/64")),
        information(valid=0.0),
        information(IPv6Network("2001:db8::1/128")),
    ],
)
def test_option_that_makes_no_sense_is_ignored(option: Any) -> None:
    prefixes = HomePrefixes()
    assert not prefixes.learn([option], NOW, is_authentic=True)
    assert valid(prefixes) == {}


def test_prefixes_are_learnt_up_to_a_limit() -> None:
    prefixes = HomePrefixes()
    for number in range(MAX_HOME_PREFIXES + 1):
        learn(prefixes, prefix=IPv6Network(f"2001:db8:{number:x}::/64"))
    assert len(prefixes.current(NOW)) == MAX_HOME_PREFIXES


def test_deadline_is_the_next_end_of_a_lifetime() -> None:
    prefixes = HomePrefixes()
    learn(prefixes, valid=100.0, preferred=50.0)
    assert prefixes.next_deadline(NOW) == NOW + 50
    assert prefixes.next_deadline(NOW + 50) == NOW + 100
    assert prefixes.next_deadline(NOW + 100) is None


def test_preferred_lifetime_is_never_longer_than_the_valid_one() -> None:
    prefixes = HomePrefixes([HomePrefix(prefix=HOME_PREFIX, valid_lifetime=60)])
    (known,) = prefixes.current(NOW)
    assert known.preferred_lifetime(NOW) == 60


def test_infinite_lifetimes_again_are_no_change() -> None:
    prefixes = HomePrefixes()
    assert learn(prefixes, valid=math.inf)
    assert not learn(prefixes, valid=math.inf, preferred=math.inf)
    assert learn(prefixes, valid=math.inf, preferred=100.0)


def test_address_is_formed_in_prefixes_of_64_bits_only() -> None:
    like = IPv6Address("2001:db8:1::10")
    assert address_in(NEW_PREFIX, like) == IPv6Address("2001:db8:2::10")
    assert address_in(IPv6Network("2001:db8:2::/56"), like) is None


def test_address_that_two_could_claim_is_nobodys() -> None:
    served = ServedHomeAddresses(home_agent_address=IPv6Address("2001:db8:2::1"))
    nodes = [IPv6Address(f"2001:db8:{text}") for text in ("1::10", "3::10", "1::20", "1::1")]
    served.follow(nodes, [NEW_PREFIX])
    assert served.configured_for(IPv6Address("2001:db8:2::20")) == IPv6Address("2001:db8:1::20")
    for text in ("2::10", "2::1"):
        address = IPv6Address(f"2001:db8:{text}")
        assert served.configured_for(address) == address
