"""ESP by scapy, with keys that the tester made and wrote into the key files of the daemons."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, IPSecIntegrityError, SecurityAssociation
from scapy.packet import Raw

from tests.blackbox.octets import ESP as ESP_PROTOCOL
from tests.blackbox.octets import IPV6, MOBILITY, Packet, without_esp

BINDING, PREFIX_DISCOVERY = "binding", "prefix_discovery"
RETURN_ROUTABILITY, PAYLOAD = "return_routability", "payload"
PURPOSES = (BINDING, PREFIX_DISCOVERY, RETURN_ROUTABILITY, PAYLOAD)


class Association:
    """One direction of one purpose."""

    def __init__(self) -> None:
        self.spi = int.from_bytes(os.urandom(4), "big") | 0x1000
        self.encryption_key = os.urandom(32)
        self.integrity_key = os.urandom(32)
        self.sequence = 0
        self._lock = threading.Lock()
        self._scapy = SecurityAssociation(
            ESP,
            spi=self.spi,
            crypt_algo="AES-CBC",
            crypt_key=self.encryption_key,
            auth_algo="SHA2-256-128",
            auth_key=self.integrity_key,
        )

    def table(self) -> str:
        """For a key file."""
        return (
            f'spi = {self.spi:#x}\ntransform = "aes-cbc-hmac-sha256-128"\n'
            f'encryption_key = "{self.encryption_key.hex()}"\n'
            f'integrity_key = "{self.integrity_key.hex()}"\n'
        )

    def seal(self, payload: bytes, protocol: int = MOBILITY) -> bytes:
        """The ESP header and all after it."""
        plain = IPv6(nh=protocol) / Raw(payload)
        # Tests and the tester's thread both send.
        with self._lock:
            self.sequence += 1
            return bytes(self._scapy.encrypt(plain, seq_num=self.sequence))[40:]

    def open(self, received: Packet) -> Packet:
        """Take the ESP off, whatever its integrity check says; that is noted."""
        sealed = ESP(received.payload)
        try:
            self._scapy.auth_algo.verify(sealed, self.integrity_key)
            good = True
        except IPSecIntegrityError:
            good = False
        plain = self._scapy.crypt_algo.decrypt(self._scapy, sealed, self.encryption_key, 16)
        return without_esp(received, plain.nh, bytes(plain.data), good=good)


@dataclass(frozen=True, slots=True)
class Pair:
    """Both directions of one purpose, as the mobile node names them."""

    outbound: Association
    inbound: Association


class Keys:
    """All that a mobile node and its home agent share."""

    def __init__(self, home_address: IPv6Address, home_agent: IPv6Address) -> None:
        self.home_address = home_address
        self.home_agent = home_agent
        self.pairs = {purpose: Pair(Association(), Association()) for purpose in PURPOSES}

    def __getitem__(self, purpose: str) -> Pair:
        return self.pairs[purpose]

    def write(self, path: Path, end: str) -> None:
        """The key file of one end, ``mobile-node`` or ``home-agent``."""
        text = (
            f'version = 1\nend = "{end}"\nhome_address = "{self.home_address}"\n'
            f'home_agent = "{self.home_agent}"\n'
        )
        names = ("outbound", "inbound") if end == "mobile-node" else ("inbound", "outbound")
        for purpose, pair in self.pairs.items():
            for name, association in zip(names, (pair.outbound, pair.inbound), strict=True):
                text += f"\n[{purpose}.{name}]\n{association.table()}"
        path.touch(mode=0o600)
        path.write_text(text)

    def associations(self) -> list[Association]:
        """All of them."""
        return [end for pair in self.pairs.values() for end in (pair.outbound, pair.inbound)]


class Ring:
    """Takes ESP off what any of its associations protects."""

    def __init__(self) -> None:
        self._associations: dict[int, Association] = {}

    def add(self, keys: Keys) -> None:
        """Know these."""
        self._associations.update({each.spi: each for each in keys.associations()})

    def open(self, received: Packet) -> Packet:
        """The packet without ESP, or as it is where no association fits."""
        if received.protocol != ESP_PROTOCOL:
            return received
        association = self._associations.get(int.from_bytes(received.payload[:4], "big"))
        return association.open(received) if association else received


__all__ = ["BINDING", "IPV6", "PAYLOAD", "PREFIX_DISCOVERY", "RETURN_ROUTABILITY", "Keys", "Ring"]
