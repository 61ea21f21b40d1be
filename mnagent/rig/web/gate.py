"""Who may look: everybody on this machine, or whoever knows a token.

Without a token the page answers only to names of the loopback interface, so that a web site cannot
read it through a name of its own that it lets point there (DNS rebinding). With a token a browser
logs in by a form and keeps a signed cookie; a program sends ``Authorization: Bearer TOKEN``. The
token itself is in no address, no cookie and no log.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mnagent.rig.namespace import RigError

COOKIE: Final = "mnagent-rig"
SESSION: Final = 12 * 3600
"""Seconds a login lasts."""
MIN_TOKEN: Final = 20
"""Characters; made ones have 43."""
MAX_TOKEN: Final = 1024
"""Octets that are read of a token's file."""
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Gate:
    """Lets requests pass, or not."""

    def __init__(self, token: str | None, *, clock: Callable[[], float] = time.time) -> None:
        self.is_open = token is None
        self._clock = clock
        self._token = _digest(token or "")
        self._key = secrets.token_bytes(32)

    def knows_host(self, host: str) -> bool:
        """Whether the page may be asked for under a name; ``host`` as of the Host header."""
        return (
            not self.is_open
            or host.rpartition(":")[0] in LOOPBACK_NAMES
            or (host in LOOPBACK_NAMES)
        )

    def log_in(self, token: str) -> str | None:
        """A cookie for who knows the token, None for others."""
        if self.is_open or not hmac.compare_digest(_digest(token), self._token):
            return None
        until = str(int(self._clock()) + SESSION)
        return f"{until}.{self._sign(until)}"

    def admits(self, *, cookie: str = "", authorization: str = "") -> bool:
        """Whether one of the two, as of the header, is good."""
        if self.is_open:
            return True
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return hmac.compare_digest(_digest(token.strip()), self._token)
        until, _, signature = cookie.partition(".")
        is_ours = hmac.compare_digest(signature.encode(), self._sign(until).encode())
        return is_ours and int(until) > self._clock()

    def _sign(self, until: str) -> str:
        return hmac.new(self._key, until.encode(), "sha256").hexdigest()


def _digest(token: str) -> bytes:
    # Of one length, so that comparing tells nothing, not even that.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def read_token(path: Path) -> str:
    """The token of a file, which is made where there is none. Raises RigError when others than its
    owner can read it, it belongs to another user, or the token is too short; and OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return _make_token(path)
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid():
            raise RigError(f"{path} is not a file of yours: `chown $USER {path}`")
        if state.st_mode & 0o077:
            raise RigError(f"others can read {path}: `chmod 600 {path}`")
        token = os.read(descriptor, MAX_TOKEN).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
    if len(token) < MIN_TOKEN:
        raise RigError(
            f"the token in {path} is shorter than {MIN_TOKEN} characters: remove the file, "
            "and a good one is made"
        )
    return token


def _make_token(path: Path) -> str:
    token = secrets.token_urlsafe(32)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "w") as file:
        file.write(token + "\n")
    return token
