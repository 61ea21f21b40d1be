"""What a security association is, as machines, tables and the engine share it (RFC 4301 4.4.2).

Finding the right one (policies, selectors) is the work of ``mnagent.ipsec``; using it the engine's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from ipaddress import IPv6Address


class Direction(enum.Enum):
    """Which way the association protects, seen from this node."""

    INBOUND = "in"
    OUTBOUND = "out"


class EspMode(enum.Enum):
    """Transport mode protects the upper layer, tunnel mode a whole packet (RFC 4303 3.1)."""

    TRANSPORT = "transport"
    TUNNEL = "tunnel"


class EspTransform(enum.Enum):
    """ESP suites of RFC 8221; the key material's layout is each member's docstring line below.

    AES_CBC_HMAC_SHA256_128: encryption_key 16 or 32 octets, integrity_key 32 octets, ICV 16 octets.
    AES_GCM_16: encryption_key 16 or 32 octets and a 4 octet salt (RFC 4106 8.1), no integrity key.
    CHACHA20_POLY1305: encryption_key 32 octets and a 4 octet salt (RFC 7634 2), no integrity key.
    NULL_HMAC_SHA256_128: integrity only, integrity_key 32 octets (RFC 2410).
    """

    AES_CBC_HMAC_SHA256_128 = "aes-cbc-hmac-sha256-128"
    AES_GCM_16 = "aes-gcm-16"
    CHACHA20_POLY1305 = "chacha20-poly1305"
    NULL_HMAC_SHA256_128 = "null-hmac-sha256-128"

    @property
    def is_aead(self) -> bool:
        """True when nonce reuse breaks it, so that manual keys must not use it (RFC 8221 4)."""
        return self in (EspTransform.AES_GCM_16, EspTransform.CHACHA20_POLY1305)


@dataclass(frozen=True, slots=True, kw_only=True)
class MobilityAssociation:
    """A key that a mobile node and its home agent authenticate mobility messages with (RFC 4285
    5.1)."""

    spi: int
    """Mobility SPI, 256 to 2**32 - 1."""
    key: bytes = field(repr=False)
    """16 octets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityAssociation:
    """One direction of protection between a mobile node and its home agent.

    The key fields are left out of ``repr`` so that no log can show them.
    """

    spi: int
    """Security parameters index, 256 to 2**32 - 1 (RFC 4303 2.1)."""
    direction: Direction
    mode: EspMode
    transform: EspTransform
    home_address: IPv6Address
    """The mobile node's home address this association is bound to (RFC 3776 4.2)."""
    peer: IPv6Address
    """The home agent's address (on the mobile node) or the home address (on the home agent)."""
    encryption_key: bytes = field(repr=False)
    """Key, and salt where the transform has one; empty for NULL."""
    integrity_key: bytes = field(repr=False, default=b"")
    """HMAC key, or empty for AEAD."""
    replay_window: int = 0
    """Anti-replay window in packets, a multiple of 64; 0 checks nothing (RFC 4303 3.4.3)."""
