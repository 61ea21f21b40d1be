"""What is kept of DHCPv6 leases across crashes and restarts: which server leased what, and where.

    bound, renewed, ended -> record           start -> record -> leases in doubt, to be confirmed

How long the node was off is not known, so the lifetimes are those left when the record was made,
and never more than RESTORED_LIFETIME; the client renews as soon as the link is confirmed, and then
knows. The record is JSON, versioned, small. Whatever is wrong in one makes it void as a whole: it
saves a round trip, no more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Final

from mnagent.autoconf.constants import MAX_KNOWN_INTERFACES, MAX_PREFIXES, RESTORED_LIFETIME

LEASES_KEY: Final = "dhcp6-leases"
"""Name of the record."""
MAX_DUID_LENGTH: Final = 130
"""Octets (RFC 8415 11.1)."""
_VERSION: Final = 1
_MAX_RECORD_LENGTH: Final = 1 << 16
"""Characters."""
_MAX_ADDRESSES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLeases:
    """The leases of one interface."""

    server: bytes
    """DUID of the server that gave them."""
    prefixes: frozenset[IPv6Network]
    """What routers of that link advertised then."""
    addresses: tuple[tuple[IPv6Address, float, float], ...]
    """Each with the instants at which it ends and is deprecated."""


def encode_leases(kept: Mapping[str, KeptLeases], now: float) -> str:
    """The record of all interfaces; instants become seconds left, null for ever."""
    interfaces = {
        name: {
            "server": leases.server.hex(),
            "prefixes": sorted(str(prefix) for prefix in leases.prefixes),
            "addresses": [
                [str(address), _left(valid, now), _left(preferred, now)]
                for address, valid, preferred in leases.addresses
            ],
        }
        for name, leases in kept.items()
    }
    return json.dumps({"version": _VERSION, "interfaces": interfaces}, separators=(",", ":"))


def decode_leases(
    text: str | None, *, now: float, never: frozenset[IPv6Address]
) -> dict[str, KeptLeases]:
    """What an earlier run had; nothing where the record is not as it should be.

    ``never`` are addresses that must not be used.
    """
    if text is None or len(text) > _MAX_RECORD_LENGTH:
        return {}
    try:
        content = json.loads(text)
        if content["version"] != _VERSION:
            return {}
        return {
            str(name): _decode_one(fields, now, never)
            for name, fields in list(content["interfaces"].items())[:MAX_KNOWN_INTERFACES]
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return {}


def _decode_one(fields: dict[str, Any], now: float, never: frozenset[IPv6Address]) -> KeptLeases:
    server = bytes.fromhex(fields["server"])
    if not 0 < len(server) <= MAX_DUID_LENGTH:
        raise ValueError("no server has such an identifier")
    if len(fields["prefixes"]) > MAX_PREFIXES or len(fields["addresses"]) > _MAX_ADDRESSES:
        raise ValueError("more than an interface can have")
    addresses = tuple(
        (IPv6Address(address), _until(valid, now), _until(preferred, now))
        for address, valid, preferred in fields["addresses"]
    )
    return KeptLeases(
        server=server,
        prefixes=frozenset(IPv6Network(prefix) for prefix in fields["prefixes"]),
        addresses=tuple(each for each in addresses if each[0] not in never),
    )


def _left(until: float, now: float) -> int | None:
    return None if math.isinf(until) else max(0, int(until - now))


def _until(left: float | None, now: float) -> float:
    lifetime = RESTORED_LIFETIME if left is None else float(left)
    if not lifetime >= 0:
        raise ValueError("a lifetime that is none")
    return now + min(lifetime, RESTORED_LIFETIME)
