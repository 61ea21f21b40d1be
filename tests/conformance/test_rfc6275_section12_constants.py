"""The protocol constants and configuration variables (RFC 6275 12 and 13)."""

from __future__ import annotations

import pytest

from mnagent.mobility import constants
from tests.support.requirement import requirement


@requirement("RFC6275-12", "OPS-01")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DHAAD_RETRIES", 4),
        ("INITIAL_BINDACK_TIMEOUT", 1),
        ("INITIAL_DHAAD_TIMEOUT", 3),
        ("INITIAL_SOLICIT_TIMER", 3),
        ("MAX_BINDACK_TIMEOUT", 32),
        ("MAX_DELETE_BCE_TIMEOUT", 10),
        ("MAX_NONCE_LIFETIME", 240),
        ("MAX_TOKEN_LIFETIME", 210),
        ("MAX_RO_FAILURE", 3),
        ("MAX_RR_BINDING_LIFETIME", 420),
        ("MAX_UPDATE_RATE", 3),
        ("PREFIX_ADV_RETRIES", 3),
        ("PREFIX_ADV_TIMEOUT", 3),
    ],
)
def test_constant_has_the_value_of_the_rfc(name: str, value: float) -> None:
    assert getattr(constants, name) == value


@requirement("RFC6275-13", "OPS-01")
def test_first_registration_timeout_is_one_and_a_half_detections() -> None:
    assert constants.INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION == 1.5
