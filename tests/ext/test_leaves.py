"""The leaves: checksum, link scope, replay window, ESP against vectors and an oracle."""

from __future__ import annotations

import hmac
import random
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnagent.datapath._leaves import Esp, Replay, checksum, link_scope
from tests.ext import packets
from tests.ext.scenario import KEYS, SUITES, SlowEsp, slow_esp
from tests.support.requirement import requirement

# RFC 7634 appendix A.
RFC7634_KEY = bytes(range(0x80, 0xA4))
RFC7634_PLAIN = bytes.fromhex(
    "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10"
    "0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
    "2425262728292a2b2c2d2e2f3031323334353637"
)
RFC7634_ESP = bytes.fromhex(
    "0102030400000005101112131415161724039428b97f417e3c13753a4f05087b"
    "67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95dfab4c02f7"
    "2aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da"
    "9165b82829f641e076aaa8266b7fb0f7b11b369907e1ad43"
)


@given(st.binary(max_size=3000))
def test_checksum_equals_the_obvious_one(data: bytes) -> None:
    # Ones' complement has two zeros; only the all-zero sum may differ.
    assert checksum(data) % 0xFFFF == packets.checksum(data) % 0xFFFF


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("::", True),
        ("::1", True),
        ("fe80::1", True),
        ("febf::1", True),
        ("fec0::1", False),
        ("ff02::1", True),
        ("ff01::1", True),
        ("ff12::1", True),
        ("ff05::2", False),
        ("ff0e::1", False),
        ("2001:db8::1", False),
        ("fd00::1", False),
        ("::2", False),
    ],
)
def test_link_scope_of_address_is_told(address: str, expected: bool) -> None:
    assert link_scope(IPv6Address(address).packed) is expected


class SlowReplay:
    """A set of all numbers seen."""

    def __init__(self, size: int) -> None:
        self.size, self.highest, self.seen = size, 0, set[int]()

    def take(self, sequence: int) -> bool:
        fresh = sequence > 0 and sequence > self.highest - self.size and sequence not in self.seen
        if fresh:
            self.seen.add(sequence)
            self.highest = max(self.highest, sequence)
        return fresh


@requirement("RFC4303-3.4.3", "SEC-18")
@pytest.mark.parametrize("size", [64, 128, 1024, 8128])
def test_replay_window_equals_a_set_of_all_seen(size: int) -> None:
    generator = random.Random(size)
    fast, slow, around = Replay(size), SlowReplay(size), 1
    for _ in range(30000):
        around += generator.choice([0, 1, 1, 2, size // 2, generator.randrange(3 * size)])
        sequence = max(0, around - generator.randrange(2 * size))
        assert fast.take(sequence) == slow.take(sequence), sequence


def test_replay_window_at_the_end_of_the_numbers_still_refuses() -> None:
    window = Replay(64)
    assert window.take(2**32 - 1)
    assert not window.take(2**32 - 1)
    assert window.take(2**32 - 64)
    assert not window.take(2**32 - 65)
    assert not window.take(0)


def test_replay_window_of_zero_takes_everything() -> None:
    window = Replay(0)
    assert window.take(0)
    assert window.take(5)
    assert window.take(5)


@requirement("RFC7634-A")
def test_chacha20_packet_of_the_rfc_opens() -> None:
    esp = Esp(transform="chacha20-poly1305", key=RFC7634_KEY, spi=0x01020304, inbound=True)
    assert esp.open(RFC7634_ESP) == (RFC7634_PLAIN, 4)


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_sealed_packet_opens_with_the_oracle(suite: tuple[str, int]) -> None:
    oracle = slow_esp(suite)
    esp = Esp(
        transform=suite[0], key=oracle.key, integrity_key=oracle.integrity_key, spi=oracle.spi
    )
    for length in [*range(70), 1399, 1400, 9000]:
        plain = bytes(at * 7 & 0xFF for at in range(length))
        sealed = esp.seal(plain, 41, sequence=length + 1)
        assert oracle.open(sealed) == (plain, 41, length + 1)


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_packet_of_the_oracle_opens(suite: tuple[str, int]) -> None:
    oracle = slow_esp(suite)
    esp = opener(suite, oracle)
    for length in [*range(70), 1399, 1400, 9000]:
        oracle.minimum_padding = length % 40
        plain = bytes(at * 7 & 0xFF for at in range(length))
        assert esp.open(oracle.seal(plain, 135, length + 1)) == (plain, 135)


def opener(suite: tuple[str, int], oracle: SlowEsp, *, window: int = 64) -> Esp:
    return Esp(
        transform=suite[0],
        key=oracle.key,
        integrity_key=oracle.integrity_key,
        spi=oracle.spi,
        inbound=True,
        window=window,
    )


@requirement("RFC4303-3.4.4", "SEC-18")
@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_altered_octet_fails_to_authenticate_and_leaves_the_window(
    suite: tuple[str, int],
) -> None:
    oracle = slow_esp(suite)
    esp = opener(suite, oracle)
    sealed = oracle.seal(b"payload of some length", 41, 9)
    for at in range(4, len(sealed)):
        altered = sealed[:at] + bytes([sealed[at] ^ 0x40]) + sealed[at + 1 :]
        with pytest.raises(ValueError, match="drop-authentication"):
            esp.open(altered)
    assert esp.open(sealed) == (b"payload of some length", 41)
    with pytest.raises(ValueError, match="drop-replay"):
        esp.open(sealed)


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_every_truncation_is_refused(suite: tuple[str, int]) -> None:
    oracle = slow_esp(suite)
    esp = opener(suite, oracle)
    sealed = oracle.seal(bytes(33), 41, 1)
    for length in range(8, len(sealed)):
        with pytest.raises(ValueError, match=r"drop-(truncated|authentication)"):
            esp.open(sealed[:length])


def test_padding_that_does_not_count_up_is_refused() -> None:
    suite = ("null-hmac-sha256-128", 0)
    oracle = slow_esp(suite)
    head = oracle.spi.to_bytes(4, "big") + (1).to_bytes(4, "big")
    for text in (b"abcd" + b"\0\0" + b"\x02\x29", b"abcdef" + b"\xff\x29"):
        mac = hmac.digest(oracle.integrity_key, head + text, "sha256")[:16]
        with pytest.raises(ValueError, match="drop-bad-padding"):
            opener(suite, oracle, window=0).open(head + text + mac)


def test_cbc_vectors_never_repeat_or_count() -> None:
    suite = ("aes-cbc-hmac-sha256-128", 16)
    oracle = slow_esp(suite)
    esp = Esp(transform=suite[0], key=oracle.key, integrity_key=oracle.integrity_key)
    vectors = [esp.seal(b"same", 41, sequence=1)[8:24] for _ in range(2000)]
    assert len(set(vectors)) == 2000


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_largest_plain_is_the_largest_that_fits(suite: tuple[str, int]) -> None:
    oracle = slow_esp(suite)
    esp = Esp(transform=suite[0], key=oracle.key, integrity_key=oracle.integrity_key)
    for room in range(1300, 1340):
        plain = esp.largest_plain(room)
        assert len(esp.seal(bytes(plain), 41, sequence=1)) <= room
        assert len(esp.seal(bytes(plain + 1), 41, sequence=1)) > room


@pytest.mark.parametrize("transform", sorted({name for name, length in KEYS if length}))
def test_key_of_wrong_length_is_refused(transform: str) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Esp(transform=transform, key=bytes(7), integrity_key=bytes(32))
