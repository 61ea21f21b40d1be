"""Which correspondents may hold a binding, so that a mobile node that crashed can end it.

    told.HOME-ADDRESS.CORRESPONDENT -> SECONDS

counted from when the record was written. A node that comes up again where it was not before, or at
home, would otherwise not know whom to tell, and what these correspondents send goes to an address
that was left, for up to seven minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import AddressValueError, IPv6Address
from typing import Final

from mnagent.core.actions import JournalRecord
from mnagent.core.records import KeptRecord
from mnagent.mobility.addresses import text_of
from mnagent.mobility.constants import MAX_RR_BINDING_LIFETIME

KEY_PREFIX: Final = "told."
_LONGEST: Final = 2 * MAX_RR_BINDING_LIFETIME


def told(home_address: IPv6Address, correspondent: IPv6Address, duration: float) -> JournalRecord:
    """It may hold a binding for so many seconds from now on."""
    return JournalRecord(key=_key(home_address, correspondent), value=f"{duration:.0f}")


def forgotten(home_address: IPv6Address, correspondent: IPv6Address) -> JournalRecord:
    """It holds none any more."""
    return JournalRecord(key=_key(home_address, correspondent), value=None)


def _key(home_address: IPv6Address, correspondent: IPv6Address) -> str:
    return f"{KEY_PREFIX}{text_of(home_address)}.{text_of(correspondent)}"


def told_before(
    home_address: IPv6Address, records: Mapping[str, KeptRecord]
) -> dict[IPv6Address, float]:
    """The correspondents of an earlier run, and until when each may hold a binding; passed or
    not, so that the records of those that are over can be forgotten."""
    prefix = f"{KEY_PREFIX}{text_of(home_address)}."
    found: dict[IPv6Address, float] = {}
    for key, record in records.items():
        if not key.startswith(prefix):
            continue
        try:
            correspondent = IPv6Address(key.removeprefix(prefix))
            duration = int(record.value)
        except (AddressValueError, ValueError):
            continue
        found[correspondent] = record.kept_at + min(duration, _LONGEST)
    return found
