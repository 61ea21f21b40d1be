"""Key files are read only when nobody else could read or exchange them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mnagent.config import ConfigurationError, read_private_file

SECRET = "00112233445566778899aabbccddeeff"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


def error_of(path: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        read_private_file(path)
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return caught.value


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_private_file_of_its_owner_is_read(mode: int, key_file: Path) -> None:
    key_file.chmod(mode)
    assert read_private_file(key_file) == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601, 0o620, 0o777])
def test_private_file_that_others_can_touch_is_refused(mode: int, key_file: Path) -> None:
    key_file.chmod(mode)
    error = error_of(key_file)
    assert f"mode {mode:04o}" in error.expected
    assert "chmod 600" in error.remedy


def test_private_file_symbolic_link_is_refused(key_file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(key_file)
    assert "symbolic link" in error_of(link).expected


def test_private_file_directory_and_pipe_are_refused(tmp_path: Path) -> None:
    assert "not a regular file" in error_of(tmp_path).expected
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    assert "not a regular file" in error_of(pipe).expected


def test_private_file_missing_has_a_remedy(tmp_path: Path) -> None:
    error = error_of(tmp_path / "none")
    assert "No such file" in error.expected
    assert "keygen" in error.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_private_file_of_another_user_is_refused(key_file: Path) -> None:
    os.chown(key_file, 12345, -1)
    error = error_of(key_file)
    assert "belongs to user 12345" in error.expected


def test_private_file_too_long_is_refused(key_file: Path) -> None:
    key_file.write_bytes(SECRET.encode() * 2049)
    assert "longer than" in error_of(key_file).expected


def test_private_file_not_text_is_refused_without_its_content(key_file: Path) -> None:
    key_file.write_bytes(SECRET.encode() + b"\xff")
    error = error_of(key_file)
    assert "UTF-8" in error.expected
    assert error.__context__ is None
