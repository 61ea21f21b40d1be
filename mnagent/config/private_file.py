"""Reading a file of secrets, and refusing one that others could have read or written."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from mnagent.config.errors import ConfigurationError

MAX_PRIVATE_FILE_LENGTH = 64 * 1024
"""Octets."""

_OPEN_REMEDIES = {
    errno.ENOENT: "make it with `mnagent keygen`, or correct the path in the configuration",
    errno.EACCES: "run as its owner or as root",
    errno.ELOOP: "name the file itself, not a symbolic link",
}


def read_private_file(path: Path) -> str:
    """The text of a file that belongs to us or root and that nobody else may touch.

    What is checked is what was opened, so that nothing can be exchanged in between.

    Raises:
        ConfigurationError: it cannot be read, or is not private; the text is never part of it.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        if error.errno == errno.ELOOP:
            reason = "is a symbolic link"
        remedy = _OPEN_REMEDIES.get(error.errno or 0, "correct the path in the configuration")
        raise ConfigurationError(path, "", f"cannot be read: {reason}", remedy) from None
    try:
        _check_private(path, os.fstat(descriptor))
        content = os.read(descriptor, MAX_PRIVATE_FILE_LENGTH + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_PRIVATE_FILE_LENGTH:
        limit = f"is longer than {MAX_PRIVATE_FILE_LENGTH} octets"
        raise ConfigurationError(path, "", limit, "name a key file")
    try:
        return content.decode()
    except UnicodeDecodeError:
        pass  # the error would carry the text
    raise ConfigurationError(path, "", "is not UTF-8 text", "name a key file")


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(path, "", "is not a regular file", "name a key file")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(
            path,
            "",
            f"belongs to user {status.st_uid}, expected user {os.geteuid()} or root",
            f"`chown {os.geteuid()} {path}` if you trust its content, else make new keys",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ConfigurationError(
            path,
            "",
            f"mode {mode:04o} lets others at the keys, expected 0600",
            f"`chmod 600 {path}`, and make new keys if others may have read it",
        )
