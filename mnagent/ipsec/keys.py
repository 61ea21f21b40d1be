"""Key files: the manually keyed associations of one mobile node with its home agent, in TOML.

    version = 1
    end = "mobile-node"                 # whose file this is; the other end's has the directions
    swapped home_address = "2001:db8:1::10" home_agent = "2001:db8:1::1"

    [binding.outbound]                  # one such table a purpose and direction
    spi = 0x5f3a9c01                    # 256 to 2**32 - 1
    transform = "aes-cbc-hmac-sha256-128"
    encryption_key = "..."              # hexadecimal, 16 or 32 octets
    integrity_key = "..."               # hexadecimal, 32 octets
    [binding.inbound]
    replay_window = 64                  # packets, a multiple of 64; 0 checks nothing (inbound only)
    ...

A mobile node that authenticates its messages without IPsec (RFC 4285) has, instead of all these,

    [authentication]
    spi = 0x5f3a9c01                    # mobility SPI, 256 to 2**32 - 1
    key = "..."                         # hexadecimal, 16 octets

Purposes are ``binding`` (needed), ``prefix_discovery``, ``return_routability`` and ``payload``.

Transforms whose security hangs on never repeating a nonce (AES-GCM, ChaCha20-Poly1305) are refused
here: a file's keys outlive a reboot, and a reboot may repeat the nonce (RFC 4106 2, RFC 8221 3).

This module sees text; opening a key file with care is the caller's. No message and no ``repr``
shows a key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from types import MappingProxyType
from typing import Any

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import (
    Direction,
    EspTransform,
    MobilityAssociation,
    SecurityAssociation,
)
from mnagent.ipsec.association import (
    DEFAULT_REPLAY_WINDOW,
    MAX_REPLAY_WINDOW,
    MAX_SPI,
    MIN_SPI,
    AssociationPair,
)
from mnagent.ipsec.purpose import Purpose

FORMAT_VERSION = 1
INTEGRITY_KEY_LENGTH = 32
"""Octets; the key of HMAC-SHA-256-128 is as long as its digest (RFC 4868 2.1.1)."""
ENCRYPTION_KEY_LENGTHS: Mapping[EspTransform, tuple[int, ...]] = MappingProxyType(
    {
        EspTransform.AES_CBC_HMAC_SHA256_128: (16, 32),
        EspTransform.NULL_HMAC_SHA256_128: (0,),
    }
)
"""Octets of key, of the transforms that may have manual keys."""
KEYGEN_ENCRYPTIONS: Mapping[str, int] = MappingProxyType({"aes-cbc-128": 16, "aes-cbc-256": 32})
"""Octets of encryption key by the name used on the command line."""

AUTHENTICATION = "authentication"
"""Name of the table with the key of RFC 4285."""
AUTHENTICATION_OPTION = "authentication-option"
AUTHENTICATION_KEY_LENGTH = 16
"""Octets (RFC 4285 5.1)."""
_MAKE_NEW = "make a matching pair of files with `mnagent keygen`"
_TOP_KEYS = frozenset({"version", "end", "home_address", "home_agent"})
_ASSOCIATION_KEYS = frozenset({"spi", "transform", "encryption_key", "integrity_key"})


class KeyFileError(ValueError):
    """A key file that cannot be used. Its text names the place and the remedy, never a key."""

    def __init__(self, file: str, key_path: str, expected: str, remedy: str = _MAKE_NEW) -> None:
        where = f"{file}: {key_path}" if key_path else file
        super().__init__(f"{where}: {expected}; {remedy}")
        self.file = file
        self.key_path = key_path
        self.expected = expected
        self.remedy = remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """The associations between one mobile node and its home agent, as one end sees them."""

    end: TunnelEnd
    home_address: IPv6Address
    home_agent: IPv6Address
    pairs: Mapping[Purpose, AssociationPair]
    """At least `Purpose.BINDING`, or none."""
    authentication: MobilityAssociation | None = None
    """Instead of all pairs: messages are authenticated without IPsec (RFC 4285)."""

    @property
    def associations(self) -> tuple[SecurityAssociation, ...]:
        """All of them, both directions."""
        return tuple(
            association
            for pair in self.pairs.values()
            for association in (pair.outbound, pair.inbound)
        )


def load_key_file(text: str, *, file: str = "key file") -> KeySet:
    """Decode and check the text of a key file; ``file`` is its name in messages.

    Raises:
        KeyFileError: something in it is wrong.
    """
    return _Reader(file).read(text)


class _Reader:
    """Reads one key file; holds what every message needs to know."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._spis: dict[tuple[Direction, int], str] = {}

    def read(self, text: str) -> KeySet:
        table = self._parse(text)
        self._refuse_unknown(
            table, _TOP_KEYS | {AUTHENTICATION} | {purpose.value for purpose in Purpose}, ""
        )
        if self._get(table, "version", int, "") != FORMAT_VERSION:
            raise self._error("version", f"expected {FORMAT_VERSION}")
        end = self._end(table)
        home_address = self._address(table, "home_address")
        home_agent = self._address(table, "home_agent")
        if home_address == home_agent:
            raise self._error("home_agent", "expected an address other than home_address")
        peer = home_agent if end is TunnelEnd.MOBILE_NODE else home_address
        authentication = self._authentication(table)
        pairs = {
            purpose: self._pair(table, purpose, home_address=home_address, peer=peer)
            for purpose in Purpose
            if purpose.value in table or (purpose is Purpose.BINDING and authentication is None)
        }
        if authentication is not None and pairs:
            found = ", ".join(purpose.value for purpose in pairs)
            raise self._error(AUTHENTICATION, f"expected no {found} beside it", "remove one")
        return KeySet(
            end=end,
            home_address=home_address,
            home_agent=home_agent,
            pairs=MappingProxyType(pairs),
            authentication=authentication,
        )

    def _authentication(self, table: dict[str, Any]) -> MobilityAssociation | None:
        if AUTHENTICATION not in table:
            return None
        one = self._get(table, AUTHENTICATION, dict, "")
        prefix = f"{AUTHENTICATION}."
        self._refuse_unknown(one, frozenset({"spi", "key"}), prefix)
        return MobilityAssociation(
            spi=self._spi(one, Direction.INBOUND, prefix),
            key=self._key(one, "key", (AUTHENTICATION_KEY_LENGTH,), prefix),
        )

    def _error(self, key_path: str, expected: str, remedy: str = _MAKE_NEW) -> KeyFileError:
        return KeyFileError(self._file, key_path, expected, remedy)

    def _parse(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            # The decoder's own words may quote the file: keep the place, leave the rest.
            place = re.search(r"\(at (line \d+, column \d+|end of document)\)$", str(error))
            where = f" at {place[1]}" if place else ""
        raise self._error("", f"is not valid TOML{where}")

    def _refuse_unknown(self, table: dict[str, Any], known: frozenset[str], prefix: str) -> None:
        for key in table:
            if key not in known:
                # A key pasted in the wrong place must not be echoed: only plain names are.
                name = key if re.fullmatch(r"[a-z][a-z_]{0,31}", key) else "(a key)"
                names = ", ".join(sorted(known))
                raise self._error(f"{prefix}{name}", f"unknown key, expected one of {names}")

    def _get(self, table: dict[str, Any], key: str, kind: type, prefix: str) -> Any:
        words = {int: "a whole number", str: "a string", dict: "a table"}
        if key not in table:
            raise self._error(f"{prefix}{key}", f"missing, expected {words[kind]}")
        value = table[key]
        if type(value) is not kind:
            raise self._error(f"{prefix}{key}", f"expected {words[kind]}")
        return value

    def _end(self, table: dict[str, Any]) -> TunnelEnd:
        try:
            return TunnelEnd(self._get(table, "end", str, ""))
        except ValueError as error:
            if isinstance(error, KeyFileError):
                raise
        raise self._error("end", 'expected "mobile-node" or "home-agent"')

    def _address(self, table: dict[str, Any], key: str) -> IPv6Address:
        text = self._get(table, key, str, "")
        try:
            address = IPv6Address(text)
        except AddressValueError:
            raise self._error(key, "expected an IPv6 address") from None
        if (
            address.is_multicast
            or address.is_link_local
            or address.is_loopback
            or address.is_unspecified
            or address.scope_id is not None
        ):
            raise self._error(key, "expected a unicast address that can be routed")
        return address

    def _pair(
        self,
        table: dict[str, Any],
        purpose: Purpose,
        *,
        home_address: IPv6Address,
        peer: IPv6Address,
    ) -> AssociationPair:
        both = self._get(table, purpose.value, dict, "")
        self._refuse_unknown(both, frozenset({"outbound", "inbound"}), f"{purpose.value}.")
        made = {}
        for name, direction in (("outbound", Direction.OUTBOUND), ("inbound", Direction.INBOUND)):
            prefix = f"{purpose.value}.{name}."
            one = self._get(both, name, dict, f"{purpose.value}.")
            transform = self._transform(one, purpose, prefix)
            made[direction] = SecurityAssociation(
                spi=self._spi(one, direction, prefix),
                direction=direction,
                mode=purpose.mode,
                transform=transform,
                home_address=home_address,
                peer=peer,
                encryption_key=self._encryption_key(one, transform, prefix),
                integrity_key=self._key(one, "integrity_key", (INTEGRITY_KEY_LENGTH,), prefix),
                replay_window=self._replay_window(one, direction, prefix),
            )
            known = _ASSOCIATION_KEYS
            if direction is Direction.INBOUND:
                known |= {"replay_window"}
            self._refuse_unknown(one, known, prefix)
        return AssociationPair(outbound=made[Direction.OUTBOUND], inbound=made[Direction.INBOUND])

    def _spi(self, table: dict[str, Any], direction: Direction, prefix: str) -> int:
        spi: int = self._get(table, "spi", int, prefix)
        if not MIN_SPI <= spi <= MAX_SPI:
            raise self._error(f"{prefix}spi", f"expected {MIN_SPI} to {MAX_SPI}")
        other = self._spis.setdefault((direction, spi), prefix)
        if other != prefix:
            raise self._error(f"{prefix}spi", f"is the same as {other}spi, expected another one")
        return spi

    def _transform(self, table: dict[str, Any], purpose: Purpose, prefix: str) -> EspTransform:
        text = self._get(table, "transform", str, prefix)
        allowed = [
            transform
            for transform in ENCRYPTION_KEY_LENGTHS
            if purpose is not Purpose.RETURN_ROUTABILITY
            or transform is not EspTransform.NULL_HMAC_SHA256_128
        ]
        names = " or ".join(f'"{transform.value}"' for transform in allowed)
        try:
            transform = EspTransform(text)
        except ValueError:
            raise self._error(f"{prefix}transform", f"expected {names}") from None
        if transform.is_aead:
            raise self._error(
                f"{prefix}transform",
                f"{transform.value} must not have keys from a file: its nonces repeat after a "
                "reboot, which breaks it (RFC 4106 section 2, RFC 8221 section 3)",
                f"use {names}",
            )
        if transform not in allowed:
            raise self._error(
                f"{prefix}transform",
                f"expected {names}: these messages must be encrypted (RFC 3776 section 4.3)",
            )
        return transform

    def _encryption_key(self, table: dict[str, Any], transform: EspTransform, prefix: str) -> bytes:
        lengths = ENCRYPTION_KEY_LENGTHS[transform]
        if lengths == (0,) and "encryption_key" not in table:
            return b""
        return self._key(table, "encryption_key", lengths, prefix)

    def _key(
        self, table: dict[str, Any], name: str, lengths: tuple[int, ...], prefix: str
    ) -> bytes:
        text = self._get(table, name, str, prefix)
        octets = " or ".join(str(length) for length in lengths)
        if re.fullmatch(r"[0-9a-fA-F]*", text) is None or len(text) % 2:
            raise self._error(
                f"{prefix}{name}",
                f"expected {octets} octets as hexadecimal digits without spaces or prefix",
            )
        key = bytes.fromhex(text)
        if len(key) not in lengths:
            raise self._error(f"{prefix}{name}", f"expected {octets} octets, found {len(key)}")
        if key and len(set(key)) == 1:
            raise self._error(f"{prefix}{name}", "expected random octets, found one repeated")
        return key

    def _replay_window(self, table: dict[str, Any], direction: Direction, prefix: str) -> int:
        if direction is Direction.OUTBOUND or "replay_window" not in table:
            return DEFAULT_REPLAY_WINDOW if direction is Direction.INBOUND else 0
        size: int = self._get(table, "replay_window", int, prefix)
        if size % 64 or not 0 <= size <= MAX_REPLAY_WINDOW:
            raise self._error(
                f"{prefix}replay_window",
                f"expected 0 or a multiple of 64 up to {MAX_REPLAY_WINDOW} packets",
            )
        return size


def generate_pair(
    home_address: IPv6Address,
    home_agent: IPv6Address,
    *,
    random_bytes: Callable[[int], bytes],
    encryption: str = "aes-cbc-256",
    used_spis: set[int] | None = None,
) -> tuple[str, str]:
    """Make matching key files: the mobile node's text and the home agent's.

    Args:
        home_address: the mobile node's.
        home_agent: the home agent's address.
        random_bytes: a source of so many unpredictable octets, such as ``os.urandom``.
        encryption: one of `KEYGEN_ENCRYPTIONS`, or `AUTHENTICATION_OPTION` for a key of RFC 4285
            instead of associations of IPsec.
        used_spis: those of other files that one end will have beside these; the new ones are added.

    Raises:
        KeyFileError: an address that a key file cannot have.
        KeyError: no such encryption.
    """
    authentication = encryption == AUTHENTICATION_OPTION
    length = 0 if authentication else KEYGEN_ENCRYPTIONS[encryption]
    ends = {end: _preamble(end, home_address, home_agent) for end in TunnelEnd}
    used = set() if used_spis is None else used_spis
    if authentication:
        spi = _unused_spi(random_bytes, used)
        key = random_bytes(AUTHENTICATION_KEY_LENGTH).hex()
        for lines in ends.values():
            lines += ["", f"[{AUTHENTICATION}]", f"spi = {spi:#010x}", f'key = "{key}"']
    for purpose in () if authentication else Purpose:
        for outbound_of in TunnelEnd:
            spi = _unused_spi(random_bytes, used)
            keys = (random_bytes(length).hex(), random_bytes(INTEGRITY_KEY_LENGTH).hex())
            for end in TunnelEnd:
                name = "outbound" if end is outbound_of else "inbound"
                ends[end] += ["", f"[{purpose.value}.{name}]", *_association_lines(spi, *keys)]
                if name == "inbound":
                    ends[end].append(f"replay_window = {DEFAULT_REPLAY_WINDOW}")
    texts = tuple("\n".join(lines) + "\n" for lines in ends.values())
    for text in texts:
        load_key_file(text, file="the new key file")
    return texts[0], texts[1]


def _preamble(end: TunnelEnd, home_address: IPv6Address, home_agent: IPv6Address) -> list[str]:
    return [
        f"# Keys of the {end.value.replace('-', ' ')}. Secret: mode 0600, and never into a backup",
        "# that others read. The other end has the file that was made together with this one.",
        f"version = {FORMAT_VERSION}",
        f'end = "{end.value}"',
        f'home_address = "{home_address}"',
        f'home_agent = "{home_agent}"',
    ]


def _association_lines(spi: int, encryption_key: str, integrity_key: str) -> list[str]:
    return [
        f"spi = {spi:#010x}",
        f'transform = "{EspTransform.AES_CBC_HMAC_SHA256_128.value}"',
        f'encryption_key = "{encryption_key}"',
        f'integrity_key = "{integrity_key}"',
    ]


def _unused_spi(random_bytes: Callable[[int], bytes], used: set[int]) -> int:
    while True:
        spi = int.from_bytes(random_bytes(4), "big")
        if spi >= MIN_SPI and spi not in used:
            used.add(spi)
            return spi
