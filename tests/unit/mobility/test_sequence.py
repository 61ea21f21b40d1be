from __future__ import annotations

from random import Random

import pytest

from mnagent.core.actions import PersistRecord
from mnagent.mobility.constants import SEQUENCE_BLOCK
from mnagent.mobility.sequence import SequenceCounter, SharedSequence, sequence_newer
from tests.support.requirement import requirement


@requirement("RFC6275-9.5.1", "CN-39", "CN-40", "HA-23")
@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        (15, 16, True),
        (15, 15, False),
        (15, 14, False),
        (15, 0, False),
        (15, 65535, False),
        (15, 32784, False),
        # The row CN-39 lists 15 -> 32783 and 32783 -> 15 as newer. RFC 6275 9.5.1 says of exactly
        # this case that 32783 through 65535 are less than or equal to 15, and the RFC is right.
        (15, 32783, False),
        (32783, 15, False),
        (15, 32782, True),
        (32783, 32784, True),
        (32783, 32783, False),
        (32783, 32782, False),
        (32783, 16, False),
        (65535, 0, True),
    ],
)
def test_sequence_newer_compares_modulo_two_to_the_sixteenth(
    reference: int, candidate: int, expected: bool
) -> None:
    assert sequence_newer(candidate, reference) is expected


def test_counter_reserves_a_block_before_its_first_number() -> None:
    counter = SequenceCounter("sequence.x", random=Random(1), persisted="65530")
    assert counter.take() == (
        65530,
        [
            PersistRecord(
                key="sequence.x",
                value=str((65530 + SEQUENCE_BLOCK) % 65536),
                guards_packets=True,
            )
        ],
    )
    taken = [counter.take() for _ in range(SEQUENCE_BLOCK)]
    assert [number for number, _ in taken[:7]] == [65531, 65532, 65533, 65534, 65535, 0, 1]
    assert [index for index, (_, records) in enumerate(taken) if records] == [SEQUENCE_BLOCK - 1]


def test_shared_sequence_goes_up_by_one_and_round() -> None:
    shared = SharedSequence(65533)
    assert [shared.take() for _ in range(4)] == [65534, 65535, 0, 1]


@pytest.mark.parametrize("persisted", [None, "", "-1", "seven", "\u00b2"])
def test_counter_without_a_readable_record_starts_at_random(persisted: str | None) -> None:
    counters = [SequenceCounter("s", random=Random(n), persisted=persisted) for n in range(5)]
    assert len({counter.take()[0] for counter in counters}) > 1


def test_counter_resumes_after_the_accepted_number_and_reserves_anew() -> None:
    counter = SequenceCounter("s", random=Random(1), persisted="10")
    counter.take()
    counter.resume_after(65535)
    number, records = counter.take()
    assert number == 0
    assert records == [PersistRecord(key="s", value=str(SEQUENCE_BLOCK), guards_packets=True)]
