"""Whatever comes in, ESP and key files answer with a value or with their own error."""

from __future__ import annotations

import contextlib
import random
import re
from ipaddress import IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st

from mnagent.core.security import Direction, EspTransform
from mnagent.ipsec.esp_reference import EspError, protect, unprotect
from mnagent.ipsec.keys import KeyFileError, generate_pair, load_key_file
from tests.unit.ipsec.esp_packets import association, destination_options, ipv6

KEY_FILE, _ = generate_pair(
    IPv6Address("2001:db8:1::10"),
    IPv6Address("2001:db8:1::1"),
    random_bytes=random.Random(7).randbytes,
)
SECRETS = re.findall(r'_key = "(\w+)"', KEY_FILE)
MAX_SHOWN = 12
"""Hexadecimal digits of a key that may stand in a message by chance (an SPI has eight)."""

inbound = {
    transform: association(Direction.INBOUND, transform=transform) for transform in EspTransform
}


@given(st.binary(max_size=200), st.sampled_from(list(EspTransform)))
def test_esp_any_octets_are_refused(data: bytes, transform: EspTransform) -> None:
    with contextlib.suppress(EspError):
        unprotect([inbound[transform]], data)


@given(
    st.sampled_from(list(EspTransform)),
    st.integers(0, 500),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=4),
    st.integers(0, 400),
)
@settings(max_examples=300)
def test_esp_mutated_packet_is_refused_or_unchanged_inside(
    transform: EspTransform, length: int, changes: list[tuple[int, int]], cut: int
) -> None:
    packet = ipv6(60, destination_options(135) + bytes(length))
    sealed = protect(association(transform=transform), 1, packet)
    mutated = bytearray(sealed[: len(sealed) - cut])
    for position, value in changes:
        if mutated:
            mutated[position % len(mutated)] = value
    with contextlib.suppress(EspError):
        plain, _, _ = unprotect([inbound[transform]], bytes(mutated))
        assert plain[64:] == packet[64:]


@given(
    st.integers(0, len(KEY_FILE)),
    st.integers(0, 40),
    st.one_of(st.text(max_size=8), st.sampled_from(["\n", '"', "[", "=", "{", "0x", "1e9", "#"])),
)
@settings(max_examples=400)
def test_key_file_mutated_text_is_refused_without_showing_a_key(
    position: int, length: int, inserted: str
) -> None:
    text = KEY_FILE[:position] + inserted + KEY_FILE[position + length :]
    try:
        shown = repr(load_key_file(text))
    except KeyFileError as error:
        shown = str(error) + repr(error)
    for secret in SECRETS:
        for start in range(len(secret) - MAX_SHOWN):
            assert secret[start : start + MAX_SHOWN] not in shown
