"""A binding as one line of text, so that a home agent that was killed knows it again.

    CARE-OF-ADDRESS SEQUENCE GRANTED REMAINING AGE FLAGS

with spans in seconds, counted from when the line was written, and the flags ``l`` (the link-local
address is defended), ``d`` (deregistered, kept for its sequence number) or ``-``.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address
from typing import Final

from mnagent.core.actions import JournalRecord
from mnagent.core.records import KeptRecord
from mnagent.mobility.addresses import text_of
from mnagent.mobility.binding_cache import BindingCacheEntry
from mnagent.mobility.constants import SEQUENCE_MODULUS
from mnagent.wire.constants import MAX_BINDING_LIFETIME

KEY_PREFIX: Final = "home-binding."
_LINK_LOCAL, _DEREGISTERED, _NONE = "l", "d", "-"


def kept(entry: BindingCacheEntry, now: float) -> JournalRecord:
    """The record of an entry as it is at ``now``."""
    flags = _LINK_LOCAL * entry.is_link_local_defended + _DEREGISTERED * entry.is_deregistered
    value = (
        f"{text_of(entry.care_of_address)} {entry.sequence} {entry.granted_lifetime:.0f} "
        f"{entry.expires_at - now:.3f} {now - entry.registered_at:.3f} {flags or _NONE}"
    )
    return JournalRecord(key=f"{KEY_PREFIX}{text_of(entry.home_address)}", value=value)


def forgotten(home_address: IPv6Address) -> JournalRecord:
    """There is no entry any more."""
    return JournalRecord(key=f"{KEY_PREFIX}{home_address}", value=None)


def home_address_of(key: str) -> IPv6Address | None:
    """Whose binding a record is, or None when it is another record."""
    if not key.startswith(KEY_PREFIX):
        return None
    try:
        return IPv6Address(key.removeprefix(KEY_PREFIX))
    except AddressValueError:
        return None


def entry_of(home_address: IPv6Address, record: KeptRecord) -> BindingCacheEntry | None:
    """The entry a record tells of, expired or not; None when it cannot be read."""
    try:
        care_of_address, sequence, granted, remaining, age, flags = record.value.split(" ")
        entry = BindingCacheEntry(
            home_address=home_address,
            care_of_address=IPv6Address(care_of_address),
            sequence=int(sequence),
            granted_lifetime=float(granted),
            registered_at=record.kept_at - float(age),
            expires_at=record.kept_at + float(remaining),
            is_link_local_defended=_LINK_LOCAL in flags,
            is_deregistered=_DEREGISTERED in flags,
        )
    except ValueError:
        return None
    is_sane = (
        0 <= entry.sequence < SEQUENCE_MODULUS
        and 0 <= entry.granted_lifetime <= MAX_BINDING_LIFETIME
        and entry.registered_at <= record.kept_at
        and entry.expires_at <= record.kept_at + MAX_BINDING_LIFETIME
    )
    return entry if is_sane else None
