"""A correspondent node's secrets: node keys and nonces, by nonce index (RFC 6275 5.2.1, 5.2.7).

A nonce is made when one is needed and the last is NONCE_INTERVAL past its first use, so a node that
nobody tests keeps nothing. Each has a node key of its own: an index names both, as 5.2.7 wants. A
token is then good for at least MAX_TOKEN_LIFETIME and, counted from the nonce's first use, for less
than MAX_NONCE_LIFETIME; after that both secrets are forgotten.

Indices count up from a random number and leave out 0, which a mobile node sends as the care-of
nonce index it does not have. After a restart it is unlikely that an old index is mistaken for a new
one: the mobile node is told that it expired instead of being met with silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address
from random import Random
from typing import Final

from mnagent.mobility.constants import MAX_NONCE_LIFETIME, MAX_TOKEN_LIFETIME
from mnagent.mobility.keygen import (
    NODE_KEY_LENGTH,
    NONCE_LENGTH,
    care_of_keygen_token,
    home_keygen_token,
)

NONCE_INTERVAL: Final = MAX_NONCE_LIFETIME - MAX_TOKEN_LIFETIME
"""Seconds one nonce is handed out: 30, as RFC 6275 5.2.7 suggests."""
MAX_NONCES: Final = int(MAX_NONCE_LIFETIME / NONCE_INTERVAL)
"""Nonces alive at a time, however many tests are asked for."""
_MAX_INDEX: Final = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonce:
    """A nonce and the node key that goes with it."""

    index: int
    """1 to 65535."""
    first_used_at: float
    value: bytes = field(repr=False)
    node_key: bytes = field(repr=False)

    @property
    def expires_at(self) -> float:
        """From then on no token made with it is accepted."""
        return self.first_used_at + MAX_NONCE_LIFETIME

    def home_keygen_token(self, home_address: IPv6Address) -> bytes:
        """Token for a home address."""
        return home_keygen_token(self.node_key, home_address, self.value)

    def care_of_keygen_token(self, care_of_address: IPv6Address) -> bytes:
        """Token for a care-of address."""
        return care_of_keygen_token(self.node_key, care_of_address, self.value)


class Nonces:
    """The nonces of one correspondent node, at most MAX_NONCES of them."""

    def __init__(self, *, random: Random) -> None:
        """``random`` must be good enough for keys."""
        self._random = random
        self._nonces: dict[int, Nonce] = {}
        self._current: Nonce | None = None
        self._next_index = random.randint(1, _MAX_INDEX)

    def __len__(self) -> int:
        """Nonces not yet forgotten."""
        return len(self._nonces)

    def current(self, now: float) -> Nonce:
        """The nonce for tokens handed out now; a call is a use."""
        current = self._current
        if current is None or now >= current.first_used_at + NONCE_INTERVAL:
            self.discard_expired(now)
            current = self._make(now)
        return current

    def find(self, index: int, now: float) -> Nonce | None:
        """The nonce of an index a mobile node sent, or None when it is unknown or too old."""
        nonce = self._nonces.get(index)
        return None if nonce is None or now >= nonce.expires_at else nonce

    def discard_expired(self, now: float) -> None:
        """Forget the secrets whose time is over (RFC 6275 5.2.2)."""
        for nonce in tuple(self._nonces.values()):
            if now >= nonce.expires_at:
                del self._nonces[nonce.index]
                if nonce is self._current:
                    self._current = None

    def forget(self) -> None:
        """Forget all of them: every token handed out is worthless from now on."""
        self._nonces.clear()
        self._current = None

    def next_deadline(self) -> float | None:
        """When `discard_expired` has something to do: the oldest nonce is the first in the
        table."""
        for nonce in self._nonces.values():
            return nonce.expires_at
        return None

    def _make(self, now: float) -> Nonce:
        nonce = Nonce(
            index=self._next_index,
            first_used_at=now,
            value=self._random.randbytes(NONCE_LENGTH),
            node_key=self._random.randbytes(NODE_KEY_LENGTH),
        )
        self._next_index = self._next_index % _MAX_INDEX + 1
        self._nonces[nonce.index] = nonce
        self._current = nonce
        return nonce
