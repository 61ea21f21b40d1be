"""What the rig reads from key files, and hands to tshark."""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path
from random import Random

from mnagent.ipsec.keys import generate_pair
from mnagent.rig.keyfile import esp_sa_line, read_associations, write_wireshark_profile


def write_keys(directory: Path) -> Path:
    text, _ = generate_pair(
        IPv6Address("2001:db8:1::10"),
        IPv6Address("2001:db8:1::1"),
        random_bytes=Random(1).randbytes,
    )
    path = directory / "mobile-node.toml"
    path.write_text(text)
    return path


def test_associations_of_a_key_file_cover_each_purpose_both_ways(tmp_path: Path) -> None:
    associations = read_associations(write_keys(tmp_path))
    assert {(item.purpose, item.outbound) for item in associations} == {
        (purpose, outbound)
        for purpose in ("binding", "prefix_discovery", "return_routability", "payload")
        for outbound in (True, False)
    }
    assert len({item.spi for item in associations}) == 8


def test_esp_sa_line_has_the_eight_fields_of_the_table(tmp_path: Path) -> None:
    association = read_associations(write_keys(tmp_path))[0]
    fields = esp_sa_line(association).split(",")
    assert len(fields) == 8
    assert fields[3] == f'"0x{association.spi:08x}"'
    assert fields[5] == f'"0x{association.encryption_key}"'


def test_wireshark_profile_is_for_its_owner_alone(tmp_path: Path) -> None:
    write_wireshark_profile(tmp_path / "profile", read_associations(write_keys(tmp_path)))
    table = tmp_path / "profile" / "esp_sa"
    assert table.stat().st_mode & 0o777 == 0o600
    assert len(table.read_text().splitlines()) == 8
    assert "decode: TRUE" in (tmp_path / "profile" / "preferences").read_text()
