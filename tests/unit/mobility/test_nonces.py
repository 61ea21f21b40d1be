"""Nonces: how long they are handed out, accepted and kept."""

from __future__ import annotations

from random import Random

import pytest

from mnagent.mobility.constants import MAX_NONCE_LIFETIME, MAX_TOKEN_LIFETIME
from mnagent.mobility.keygen import care_of_keygen_token, home_keygen_token
from mnagent.mobility.nonces import MAX_NONCES, NONCE_INTERVAL, Nonces
from tests.support.correspondent import CARE_OF_ADDRESS, HOME_ADDRESS
from tests.support.requirement import requirement


def make_nonces(seed: int = 1) -> Nonces:
    return Nonces(random=Random(seed))


class FromIndex(Random):
    """Starts the indices where a test wants them."""

    def __init__(self, index: int) -> None:
        super().__init__(1)
        self._index = index

    def randint(self, a: int, b: int) -> int:
        assert a <= self._index <= b
        return self._index


def test_nonces_unused_are_not_made() -> None:
    nonces = make_nonces()
    assert len(nonces) == 0
    assert nonces.next_deadline() is None
    nonces.discard_expired(1000.0)


@requirement("RFC6275-5.2.1", "CN-21")
def test_nonce_has_eight_octets_and_its_node_key_twenty() -> None:
    nonce = make_nonces().current(0.0)
    assert (len(nonce.value), len(nonce.node_key)) == (8, 20)
    assert nonce.value.hex() not in repr(nonce)
    assert nonce.node_key.hex() not in repr(nonce)


def test_nonces_of_two_nodes_differ() -> None:
    first, second = make_nonces(1).current(0.0), make_nonces(2).current(0.0)
    assert first.node_key != second.node_key
    assert first.value != second.value


def test_nonce_makes_both_tokens_with_its_own_key() -> None:
    nonce = make_nonces().current(0.0)
    expected = home_keygen_token(nonce.node_key, HOME_ADDRESS, nonce.value)
    assert nonce.home_keygen_token(HOME_ADDRESS) == expected
    expected = care_of_keygen_token(nonce.node_key, CARE_OF_ADDRESS, nonce.value)
    assert nonce.care_of_keygen_token(CARE_OF_ADDRESS) == expected


@requirement("RFC6275-5.2.7", "CN-21")
def test_nonce_is_handed_out_for_thirty_seconds_from_its_first_use() -> None:
    nonces = make_nonces()
    first = nonces.current(100.0)
    assert nonces.current(129.9) is first
    second = nonces.current(130.0)
    assert second.index != first.index
    assert second.value != first.value
    assert second.node_key != first.node_key
    assert nonces.find(first.index, 130.0) is first


@requirement("RFC6275-5.2.7", "CN-21", "CN-22")
@pytest.mark.parametrize("issued_after", [0.0, 15.0, 29.9])
def test_token_is_good_for_its_lifetime_and_never_beyond_the_nonces(issued_after: float) -> None:
    nonces = make_nonces()
    first = nonces.current(0.0)
    assert nonces.current(issued_after) is first
    assert nonces.find(first.index, issued_after + MAX_TOKEN_LIFETIME) is first
    assert nonces.find(first.index, MAX_NONCE_LIFETIME - 0.01) is first
    assert nonces.find(first.index, MAX_NONCE_LIFETIME) is None


@requirement("RFC6275-5.2.2", "CN-21")
def test_nonces_expired_are_forgotten() -> None:
    nonces = make_nonces()
    first = nonces.current(0.0)
    assert nonces.next_deadline() == first.expires_at == 240.0
    nonces.discard_expired(239.0)
    assert len(nonces) == 1
    nonces.discard_expired(240.0)
    assert len(nonces) == 0
    assert nonces.next_deadline() is None
    assert nonces.current(241.0).index != first.index


def test_nonces_under_steady_use_are_bounded() -> None:
    nonces = make_nonces()
    for second in range(3000):
        nonces.current(float(second))
        assert len(nonces) <= MAX_NONCES
    deadline = nonces.next_deadline()
    assert deadline is not None and deadline <= 3000 + NONCE_INTERVAL


def test_nonce_indices_wrap_around_without_zero() -> None:
    nonces = Nonces(random=FromIndex(65534))
    indices = [nonces.current(30.0 * step).index for step in range(4)]
    assert indices == [65534, 65535, 1, 2]


def test_nonce_with_an_unknown_index_is_not_found() -> None:
    nonces = make_nonces()
    nonce = nonces.current(0.0)
    assert nonces.find(nonce.index + 1, 0.0) is None
    assert nonces.find(0, 0.0) is None


def test_nonces_forgotten_are_worthless() -> None:
    nonces = make_nonces()
    nonce = nonces.current(0.0)
    nonces.forget()
    assert nonces.find(nonce.index, 1.0) is None
    assert nonces.current(1.0).index != nonce.index
