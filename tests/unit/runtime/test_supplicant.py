from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mnagent.runtime import supplicant
from mnagent.runtime.supplicant import ask_to_scan


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(supplicant, "FOLDER", tmp_path)
    return tmp_path


def test_supplicant_is_asked_to_scan_some_channels(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(folder / "wlan0"))
        assert ask_to_scan("wlan0", (2412, 5180))
        assert listening.recv(100) == b"SCAN freq=2412,5180"


def test_supplicant_that_is_not_there_or_has_ended_takes_no_question(folder: Path) -> None:
    assert not ask_to_scan("wlan0", (2412,))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ended:
        ended.bind(str(folder / "wlan0"))
    assert not ask_to_scan("wlan0", (2412,))


def test_supplicant_that_is_stuck_holds_up_nobody(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
        stuck.bind(str(folder / "wlan0"))
        asked = [ask_to_scan("wlan0", (2412,)) for _ in range(1000)]
    assert asked[0] and not asked[-1]
