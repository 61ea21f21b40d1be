from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.records import KeptRecord
from mnagent.mobility.correspondent_record import told, told_before
from tests.support.driver import HOME_ADDRESS
from tests.support.return_routability import CORRESPONDENT

KEY = f"told.{HOME_ADDRESS}.{CORRESPONDENT}"


def restored(key: str, value: str, kept_at: float = 100.0) -> dict[IPv6Address, float]:
    return told_before(HOME_ADDRESS, {key: KeptRecord(value=value, kept_at=kept_at)})


def test_record_of_a_correspondent_is_read_as_it_was_written() -> None:
    record = told(HOME_ADDRESS, CORRESPONDENT, 430.4)
    assert (record.key, record.value) == (KEY, "430")
    assert restored(KEY, "430") == {CORRESPONDENT: 530.0}
    assert restored(KEY, "430", kept_at=-1000.0) == {CORRESPONDENT: -570.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (KEY, "soon"),
        (f"told.{HOME_ADDRESS}.nobody", "430"),
        (f"told.{HOME_ADDRESS + 1}.{CORRESPONDENT}", "430"),
        (f"home-binding.{HOME_ADDRESS}", "430"),
    ],
)
def test_record_that_is_another_or_damaged_counts_for_nothing(key: str, value: str) -> None:
    assert restored(key, value) == {}


def test_record_of_an_impossible_time_is_believed_for_a_while_only() -> None:
    assert restored(KEY, "999999999") == {CORRESPONDENT: 940.0}
