"""The two-hour rule (RFC 4862 5.5.3 e)."""

from __future__ import annotations

from typing import Final

TWO_HOURS: Final = 7200.0
"""Seconds below which an unauthenticated advertisement does not shorten a valid lifetime."""


def new_end(valid_until: float, advertised: float, now: float) -> float:
    """When something valid until ``valid_until`` ends after it was advertised again.

    Nobody shortens an address's life below two hours without authentication. The prefix of a router
    lives as long as the address made from it: else one forged option would take the address out of
    use, which may only serve while its router advertises it (RFC 6275 11.5.4).

    Args:
        valid_until: instant, in seconds.
        advertised: valid lifetime in the advertisement, in seconds.
        now: instant of the advertisement.
    """
    left = valid_until - now
    if advertised > TWO_HOURS or advertised > left:
        return now + advertised
    if left <= TWO_HOURS:
        return valid_until
    return now + TWO_HOURS
