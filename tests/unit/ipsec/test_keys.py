"""Key files: what `generate_pair` makes, and every way a file can be wrong."""

from __future__ import annotations

import random
import re
from ipaddress import IPv6Address
from random import Random

import pytest

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction, EspMode, EspTransform
from mnagent.ipsec.keys import KeyFileError, generate_pair, load_key_file
from mnagent.ipsec.purpose import Purpose
from tests.support.requirement import requirement

HOME_ADDRESS = IPv6Address("2001:db8:1::10")
HOME_AGENT = IPv6Address("2001:db8:1::1")


def pair(encryption: str = "aes-cbc-256", seed: int = 1) -> tuple[str, str]:
    source = random.Random(seed)
    return generate_pair(
        HOME_ADDRESS, HOME_AGENT, random_bytes=source.randbytes, encryption=encryption
    )


def changed(old: str, new: str) -> str:
    """The mobile node's file with the first match of a pattern replaced."""
    text, count = re.subn(old, new, pair()[0], count=1, flags=re.MULTILINE)
    assert count == 1
    return text


def error_of(text: str) -> KeyFileError:
    with pytest.raises(KeyFileError) as caught:
        load_key_file(text, file="/etc/keys.toml")
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return caught.value


@requirement("RFC3776-4.1", "SEC-06")
@pytest.mark.parametrize(("encryption", "octets"), [("aes-cbc-128", 16), ("aes-cbc-256", 32)])
def test_generate_pair_both_ends_hold_the_same_keys_the_other_way_round(
    encryption: str, octets: int
) -> None:
    mobile_node, home_agent = (load_key_file(text) for text in pair(encryption))
    assert (mobile_node.end, home_agent.end) == (TunnelEnd.MOBILE_NODE, TunnelEnd.HOME_AGENT)
    assert set(mobile_node.pairs) == set(Purpose)
    for purpose, ours in mobile_node.pairs.items():
        theirs = home_agent.pairs[purpose]
        for sender, receiver in ((ours.outbound, theirs.inbound), (theirs.outbound, ours.inbound)):
            assert sender.spi == receiver.spi
            assert sender.encryption_key == receiver.encryption_key
            assert sender.integrity_key == receiver.integrity_key
            assert len(sender.encryption_key) == octets
            assert sender.mode is receiver.mode is purpose.mode
            assert (sender.direction, receiver.direction) == (
                Direction.OUTBOUND,
                Direction.INBOUND,
            )
            assert receiver.replay_window == 64
        assert ours.outbound.peer == HOME_AGENT
        assert theirs.outbound.peer == HOME_ADDRESS


def test_generate_pair_every_key_and_spi_is_its_own() -> None:
    keys = load_key_file(pair()[0]).associations
    assert len(keys) == 8
    assert len({one.spi for one in keys}) == 8
    assert len({one.encryption_key for one in keys} | {one.integrity_key for one in keys}) == 16


def test_generate_pair_reserved_spi_from_the_source_is_passed_over() -> None:
    source = random.Random(3)
    reserved = iter([bytes(4), b"\0\0\0\xff"])

    def random_bytes(count: int) -> bytes:
        return next(reserved, source.randbytes(4)) if count == 4 else source.randbytes(count)

    text, _ = generate_pair(HOME_ADDRESS, HOME_AGENT, random_bytes=random_bytes)
    assert all(one.spi >= 256 for one in load_key_file(text).associations)


def test_generate_pair_impossible_address_raises() -> None:
    with pytest.raises(KeyFileError, match="home_address"):
        generate_pair(IPv6Address("ff02::1"), HOME_AGENT, random_bytes=random.Random(1).randbytes)
    with pytest.raises(KeyFileError, match="other than"):
        generate_pair(HOME_AGENT, HOME_AGENT, random_bytes=random.Random(1).randbytes)


def test_key_set_repr_shows_no_key() -> None:
    keys = load_key_file(pair()[0])
    shown = repr(keys) + str(keys)
    for association in keys.associations:
        for key in (association.encryption_key, association.integrity_key):
            assert key.hex() not in shown
            assert repr(key) not in shown


def test_key_file_only_binding_is_enough() -> None:
    text = pair()[0]
    keys = load_key_file(text[: text.index("[prefix_discovery")])
    assert list(keys.pairs) == [Purpose.BINDING]
    assert keys.pairs[Purpose.BINDING].outbound.mode is EspMode.TRANSPORT


def test_key_file_without_encryption_for_payload_loads() -> None:
    text = pair()[0]
    for name in ("outbound", "inbound"):
        text = re.sub(
            rf"(\[payload\.{name}\]\nspi.*\n)transform.*\nencryption_key.*\n",
            r'\1transform = "null-hmac-sha256-128"\n',
            text,
        )
    payload = load_key_file(text).pairs[Purpose.PAYLOAD]
    assert payload.outbound.transform is EspTransform.NULL_HMAC_SHA256_128
    assert payload.inbound.encryption_key == b""


@requirement("RFC3776-4.3", "SEC-07")
def test_key_file_return_routability_without_encryption_is_refused() -> None:
    text = re.sub(
        r"(\[return_routability\.outbound\]\nspi.*\n)transform.*\n",
        r'\1transform = "null-hmac-sha256-128"\n',
        pair()[0],
    )
    error = error_of(text)
    assert error.key_path == "return_routability.outbound.transform"
    assert "must be encrypted" in str(error)


@pytest.mark.parametrize("transform", ["aes-gcm-16", "chacha20-poly1305"])
def test_key_file_aead_with_manual_keys_is_refused_with_reason_and_remedy(transform: str) -> None:
    error = error_of(changed(r'^transform = ".*"', f'transform = "{transform}"'))
    assert error.key_path == "binding.outbound.transform"
    assert "RFC 4106" in str(error)
    assert "nonces repeat" in str(error)
    assert 'use "aes-cbc-hmac-sha256-128"' in str(error)


@pytest.mark.parametrize(
    ("old", "new", "key_path", "expected"),
    [
        ("version = 1", "version = 2", "version", "expected 1"),
        ("version = 1", "", "version", "missing"),
        ("version = 1", "version = true", "version", "a whole number"),
        ('end = ".*"', 'end = "router"', "end", '"mobile-node" or "home-agent"'),
        ('end = ".*"', "end = 5", "end", "a string"),
        ('home_address = ".*"', 'home_address = "x"', "home_address", "an IPv6 address"),
        ('home_address = ".*"', 'home_address = "fe80::1"', "home_address", "can be routed"),
        ('home_agent = ".*"', 'home_agent = "ff02::1"', "home_agent", "can be routed"),
        ('home_agent = ".*"', 'home_agent = "2001:db8::1%eth0"', "home_agent", "can be routed"),
        ('home_agent = ".*"', 'home_agent = "2001:db8:1::10"', "home_agent", "other than"),
        ("version = 1", "version = 1\nhome = 2", "home", "unknown key"),
        ("^spi = ", "spy = ", "binding.outbound.spi", "missing"),
        ("^spi = .*", "spi = 255", "binding.outbound.spi", "256 to 4294967295"),
        ("^spi = .*", "spi = 4294967296", "binding.outbound.spi", "256 to 4294967295"),
        ("^spi = .*", 'spi = "1000"', "binding.outbound.spi", "a whole number"),
        ("^transform = .*", 'transform = "des"', "binding.outbound.transform", "expected"),
        ('^(encryption_key = "..)', r"\1zz", "binding.outbound.encryption_key", "hexadecimal"),
        ('^(encryption_key = ")', r"\g<1>a", "binding.outbound.encryption_key", "hexadecimal"),
        ('^(encryption_key = ")..', r"\1", "binding.outbound.encryption_key", "found 31"),
        ('^(integrity_key = ").*"', r'\1"', "binding.outbound.integrity_key", "found 0"),
        (
            '^(integrity_key = ").*"',
            r"\g<1>" + "ab" * 32 + '"',
            "binding.outbound.integrity_key",
            "random octets",
        ),
        ("^replay_window = 64", "replay_window = 65", "binding.inbound.replay_window", "of 64"),
        ("^replay_window = 64", "replay_window = -64", "binding.inbound.replay_window", "of 64"),
        (
            r"^\[binding.outbound\]",
            "[binding.outbound]\nreplay_window = 64",
            "binding.outbound.replay_window",
            "unknown key",
        ),
        (r"^\[binding.outbound\]", "[binding.outward]", "binding.outward", "unknown key"),
        (r"^\[payload.outbound\]", "[payloads.outbound]", "payloads", "unknown key"),
        (r"^\[binding.outbound\]", "[binding.outbound", "", "TOML at line"),
    ],
)
def test_key_file_wrong_value_names_file_key_and_expectation(
    old: str, new: str, key_path: str, expected: str
) -> None:
    text = changed(old, new)
    error = error_of(text)
    assert error.key_path == key_path
    assert expected in error.expected
    message = str(error)
    assert message.startswith("/etc/keys.toml")
    assert key_path in message
    assert "; " in message
    for secret in re.findall(r'_key = "(\w{8,})"', text):
        assert secret[:8] not in message


def test_key_file_binding_missing_is_refused() -> None:
    text = re.sub(r"\[binding(.*\n){7}", "", pair()[0])
    assert error_of("\n".join(pair()[0].splitlines()[:6])).key_path == "binding"
    assert "binding" in str(error_of(text))


def test_key_file_same_spi_twice_in_a_direction_is_refused() -> None:
    spis = re.findall(r"^spi = (\w+)", pair()[0], flags=re.MULTILINE)
    error = error_of(pair()[0].replace(spis[2], spis[0]))
    assert error.key_path == "prefix_discovery.outbound.spi"
    assert "binding.outbound.spi" in str(error)


def test_key_file_key_in_the_wrong_place_is_not_echoed() -> None:
    secret = "00112233445566778899aabbccddeeff"
    assert secret not in str(error_of(changed("version = 1", f"version = 1\n{secret} = 1")))
    assert secret not in str(error_of(changed("version = 1", f"version = 1\n{secret}")))
    assert secret not in str(error_of(changed('end = ".*"', f'end = "{secret}"')))
    assert secret not in str(error_of(changed("^transform = .*", f'transform = "{secret}"')))
    assert secret not in str(error_of(changed('home_agent = ".*"', f'home_agent = "{secret}"')))


def test_keys_of_the_authentication_option_stand_alone() -> None:
    own, others = generate_pair(
        IPv6Address("2001:db8:1::10"),
        IPv6Address("2001:db8:1::1"),
        random_bytes=Random(1).randbytes,
        encryption="authentication-option",
    )
    keys = load_key_file(own)
    assert keys.associations == ()
    assert keys.authentication is not None
    assert keys.authentication == load_key_file(others).authentication
    assert keys.authentication.key.hex() not in repr(keys)
    ipsec = generate_pair(
        IPv6Address("2001:db8:1::10"),
        IPv6Address("2001:db8:1::1"),
        random_bytes=Random(1).randbytes,
    )[0]
    both = ipsec + own[own.index("[authentication]") :]
    with pytest.raises(KeyFileError, match="expected no binding"):
        load_key_file(both)
