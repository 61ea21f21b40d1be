"""The control sockets of wpa_supplicant and hostapd: one datagram asks, one answers."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from pathlib import Path

from mnagent.rig.namespace import RigError

ANSWER_TIMEOUT = 10.0
"""Seconds."""
_numbers = itertools.count(1)


class ControlSocket:
    """A program's control socket, by its path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """True while the program listens there."""
        return self.path.exists()

    def ask(self, command: str) -> str:
        """What the program answers. Raises RigError when it does not."""
        own = self.path.parent / f"rig-{os.getpid()}-{next(_numbers)}"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
                control.settimeout(ANSWER_TIMEOUT)
                control.bind(str(own))
                control.connect(str(self.path))
                control.send(command.encode())
                return control.recv(65536).decode(errors="replace").strip()
        except OSError as error:
            raise RigError(f"{self.path.name} does not answer {command}: {error}") from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                own.unlink()

    def tell(self, command: str) -> None:
        """Give an order. Raises RigError when the program refuses it."""
        answer = self.ask(command)
        if answer != "OK":
            raise RigError(f"{self.path.name} refused {command}: {answer}")

    def fields(self, command: str) -> dict[str, str]:
        """An answer of ``name=value`` lines."""
        return parse_fields(self.ask(command))


def parse_fields(text: str) -> dict[str, str]:
    """``name=value`` lines; what is no such line is left out."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value for name, equals, value in pairs if equals}
