"""What the rig needs of the keys it had made: to tell which ESP is whose, and to let tshark
decrypt it."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

ESP_HEADER = 8
VECTOR = 16
CHECK_VALUE = 16
"""Octets of an ESP packet's parts."""

_ENCRYPTIONS = {
    "aes-cbc-hmac-sha256-128": "AES-CBC [RFC3602]",
    "null-hmac-sha256-128": "NULL",
}
_PREFERENCES = """\
esp.enable_encryption_decode: TRUE
esp.enable_authentication_check: TRUE
esp.enable_null_encryption_decode_heuristic: TRUE
ip.check_checksum: TRUE
tcp.check_checksum: TRUE
udp.check_checksum: TRUE
"""


@dataclass(frozen=True, slots=True)
class Association:
    """One direction of one purpose, seen from the mobile node."""

    purpose: str
    """``binding``, ``prefix_discovery``, ``return_routability`` or ``payload``."""
    outbound: bool
    """From the mobile node to the home agent."""
    spi: int
    transform: str
    encryption_key: str
    """Hexadecimal."""
    integrity_key: str
    """Hexadecimal."""


def read_associations(path: Path) -> list[Association]:
    """The associations in a mobile node's key file."""
    document = tomllib.loads(path.read_text())
    return [
        Association(
            purpose=purpose,
            outbound=direction == "outbound",
            spi=table["spi"],
            transform=table["transform"],
            encryption_key=table.get("encryption_key", ""),
            integrity_key=table["integrity_key"],
        )
        for purpose, pair in document.items()
        if isinstance(pair, dict)
        for direction, table in pair.items()
    ]


def decrypt(association: Association, packet: bytes) -> bytes:
    """What an ESP packet, from its header on, carries; nothing is verified. Raises ValueError."""
    sealed = packet[ESP_HEADER:-CHECK_VALUE]
    if association.encryption_key:
        cipher = algorithms.AES(bytes.fromhex(association.encryption_key))
        decryptor = Cipher(cipher, modes.CBC(sealed[:VECTOR])).decryptor()
        sealed = decryptor.update(sealed[VECTOR:]) + decryptor.finalize()
    return sealed[: -2 - sealed[-2]]


def esp_sa_line(association: Association) -> str:
    """One line of Wireshark's ESP SA table (the file ``esp_sa``)."""
    key = f"0x{association.encryption_key}" if association.encryption_key else ""
    fields = (
        "IPv6",
        "*",
        "*",
        f"0x{association.spi:08x}",
        _ENCRYPTIONS[association.transform],
        key,
        "HMAC-SHA-256-128 [RFC4868]",
        f"0x{association.integrity_key}",
    )
    return ",".join(f'"{field}"' for field in fields)


def write_wireshark_profile(directory: Path, associations: list[Association]) -> None:
    """A configuration folder with which tshark decrypts: ``WIRESHARK_CONFIG_DIR=... tshark -r
    ...``."""
    directory.mkdir(mode=0o700, exist_ok=True)
    table = directory / "esp_sa"
    descriptor = os.open(table, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        file.writelines(esp_sa_line(association) + "\n" for association in associations)
    (directory / "preferences").write_text(_PREFERENCES)
