"""Capture files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnagent.rig.capture import read_capture, write_frame, write_header


def test_capture_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "link.pcap"
    with path.open("wb") as file:
        write_header(file)
        write_frame(file, b"first frame", 100, 5_000_000)
        write_frame(file, b"second", 101, 0)
    frames = list(read_capture(path))
    assert [frame.data for frame in frames] == [b"first frame", b"second"]
    assert [frame.at for frame in frames] == [100.005, 101.0]


def test_capture_cut_off_reads_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "link.pcap"
    with path.open("wb") as file:
        write_header(file)
        write_frame(file, b"whole", 1, 0)
        file.write(b"\0\0\0")
    assert [frame.data for frame in read_capture(path)] == [b"whole"]


@pytest.mark.parametrize("content", [b"", b"short", bytes(24)])
def test_capture_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "link.pcap"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a capture"):
        list(read_capture(path))
