"""Addresses, associations and tables that the tests of the engine share, and ESP made by
`cryptography`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from ipaddress import IPv6Address

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction, EspMode, EspTransform, SecurityAssociation
from mnagent.datapath import Pipeline, Tables, TunnelEntry

HOME = IPv6Address("2001:db8:1::10")
OTHER_HOME = IPv6Address("2001:db8:1::11")
CORRESPONDENT = IPv6Address("2001:db8:9::9")
AGENT = IPv6Address("2001:db8:1::1")
CARE_OF = IPv6Address("2001:db8:2::10")
OTHER_CARE_OF = IPv6Address("2001:db8:3::11")
STRANGER = IPv6Address("2001:db8:7::7")

KEYS = {
    ("aes-cbc-hmac-sha256-128", 16): EspTransform.AES_CBC_HMAC_SHA256_128,
    ("aes-cbc-hmac-sha256-128", 32): EspTransform.AES_CBC_HMAC_SHA256_128,
    ("aes-gcm-16", 20): EspTransform.AES_GCM_16,
    ("aes-gcm-16", 36): EspTransform.AES_GCM_16,
    ("chacha20-poly1305", 36): EspTransform.CHACHA20_POLY1305,
    ("null-hmac-sha256-128", 0): EspTransform.NULL_HMAC_SHA256_128,
}
SUITES = sorted(KEYS)


@dataclass
class SlowEsp:
    """RFC 4303 by `cryptography`: the oracle."""

    transform: str
    key: bytes
    integrity_key: bytes = b""
    spi: int = 0x1234
    minimum_padding: int = 0

    def _trailer(self, plain: bytes, next_header: int) -> bytes:
        block = 16 if self.transform.startswith("aes-cbc") else 4
        padding = self.minimum_padding
        while (len(plain) + padding + 2) % block:
            padding += 1
        return plain + bytes(range(1, padding + 1)) + bytes([padding, next_header])

    def _aead(self) -> AESGCM | ChaCha20Poly1305:
        key = self.key[:-4]
        return AESGCM(key) if self.transform == "aes-gcm-16" else ChaCha20Poly1305(key)

    def seal(self, plain: bytes, next_header: int, sequence: int) -> bytes:
        head = self.spi.to_bytes(4, "big") + sequence.to_bytes(4, "big")
        text = self._trailer(plain, next_header)
        if self.transform in ("aes-gcm-16", "chacha20-poly1305"):
            vector = sequence.to_bytes(8, "big")
            nonce = self.key[-4:] + vector
            return head + vector + self._aead().encrypt(nonce, text, head)
        body = text
        if self.transform.startswith("aes-cbc"):
            vector = os.urandom(16)
            cipher = Cipher(algorithms.AES(self.key), modes.CBC(vector)).encryptor()
            body = vector + cipher.update(text) + cipher.finalize()
        mac = hmac.new(self.integrity_key, head + body, hashlib.sha256).digest()[:16]
        return head + body + mac

    def open(self, esp: bytes) -> tuple[bytes, int, int]:
        """(payload, next header, sequence); raises when it is not authentic."""
        sequence = int.from_bytes(esp[4:8], "big")
        if self.transform in ("aes-gcm-16", "chacha20-poly1305"):
            text = self._aead().decrypt(self.key[-4:] + esp[8:16], esp[16:], esp[:8])
        else:
            mac = hmac.new(self.integrity_key, esp[:-16], hashlib.sha256).digest()[:16]
            assert hmac.compare_digest(mac, esp[-16:])
            text = esp[8:-16]
            if self.transform.startswith("aes-cbc"):
                cipher = Cipher(algorithms.AES(self.key), modes.CBC(esp[8:24])).decryptor()
                text = cipher.update(esp[24:-16]) + cipher.finalize()
        padding = text[-2]
        assert text[len(text) - 2 - padding : -2] == bytes(range(1, padding + 1))
        return text[: len(text) - 2 - padding], text[-1], sequence


def slow_esp(suite: tuple[str, int], spi: int = 0x1234) -> SlowEsp:
    transform, length = suite
    integrity_key = b"" if KEYS[suite].is_aead else bytes(range(32))
    return SlowEsp(transform, bytes(range(100, 100 + length)), integrity_key, spi)


def association(
    oracle: SlowEsp,
    direction: Direction,
    *,
    mode: EspMode = EspMode.TUNNEL,
    home_address: IPv6Address = HOME,
    replay_window: int = 64,
) -> SecurityAssociation:
    return SecurityAssociation(
        spi=oracle.spi,
        direction=direction,
        mode=mode,
        transform=EspTransform(oracle.transform),
        home_address=home_address,
        peer=AGENT,
        encryption_key=oracle.key,
        integrity_key=oracle.integrity_key,
        replay_window=replay_window,
    )


def mobile_tunnel(
    *,
    mtu: int = 1460,
    outbound_spi: int | None = None,
    inbound_spi: int | None = None,
    hold: bool = False,
) -> TunnelEntry:
    return TunnelEntry(
        end=TunnelEnd.MOBILE_NODE,
        home_address=HOME,
        local=CARE_OF,
        remote=AGENT,
        mtu=mtu,
        outbound_spi=outbound_spi,
        inbound_spi=inbound_spi,
        hold=hold,
    )


def agent_tunnel(
    home_address: IPv6Address = HOME,
    remote: IPv6Address = CARE_OF,
    *,
    mtu: int = 1460,
    outbound_spi: int | None = None,
    inbound_spi: int | None = None,
) -> TunnelEntry:
    return TunnelEntry(
        end=TunnelEnd.HOME_AGENT,
        home_address=home_address,
        local=AGENT,
        remote=remote,
        mtu=mtu,
        outbound_spi=outbound_spi,
        inbound_spi=inbound_spi,
    )


def mobile_pipeline(
    *associations: SecurityAssociation, tunnel: TunnelEntry | None = None
) -> Pipeline:
    pipeline = Pipeline()
    pipeline.publish(
        Tables(
            tunnels=(tunnel or mobile_tunnel(),),
            associations=associations,
            local_addresses=(CARE_OF, HOME),
        )
    )
    return pipeline


def agent_pipeline(
    *associations: SecurityAssociation, tunnels: tuple[TunnelEntry, ...] | None = None
) -> Pipeline:
    pipeline = Pipeline()
    default = (agent_tunnel(), agent_tunnel(OTHER_HOME, OTHER_CARE_OF))
    pipeline.publish(
        Tables(
            tunnels=default if tunnels is None else tunnels,
            associations=associations,
            local_addresses=(AGENT,),
        )
    )
    return pipeline


def verdicts(pipeline: Pipeline) -> dict[str, int]:
    """The verdicts that happened; checks that every packet got exactly one."""
    counters = pipeline.counters()
    ports = {
        *("packets-outbound", "packets-inbound", "released", "frames-sent", "frames-failed"),
        *("tunnel-writes", "tunnel-write-failures", "traffic-ignored", "fragments-sent"),
    }
    found = {name: value for name, value in counters.items() if value and name not in ports}
    packets = counters["packets-outbound"] + counters["packets-inbound"] + counters["released"]
    assert sum(found.values()) == packets
    return found
