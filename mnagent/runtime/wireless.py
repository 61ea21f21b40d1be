"""The generic netlink socket that hears of Wi-Fi associations. Without Wi-Fi it hears nothing.

nl80211 may come later, with the module of an adapter that is plugged in: the controller tells.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket

from mnagent.link.wireless import (
    CONNECTION_GROUP,
    FAMILY_NAME,
    GENL_ID_CTRL,
    AssociationMessage,
    FamilyMessage,
    SignalMessage,
    decode,
    encode_family_request,
    encode_signal_request,
    split,
)

logger = logging.getLogger(__name__)

NETLINK_GENERIC = 16
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
_BUFFER = 1 << 16


class WirelessSocket:
    """Receives association changes, and asks for signal levels; never blocks."""

    def __init__(self) -> None:
        """OSError where the kernel has no generic netlink at all."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_GENERIC
        )
        self._family: int | None = None
        self._sequence = 0
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, GENL_ID_CTRL)
            self._ask(encode_family_request(self._next_sequence()))
        except OSError:
            self._socket.close()
            raise

    @property
    def has_wireless(self) -> bool:
        """Whether the kernel knows Wi-Fi now."""
        return self._family is not None

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()

    def ask_for_signal(self, interface: int) -> None:
        """The answer comes as a `SignalMessage`, or not at all."""
        if self._family is not None:
            self._ask(encode_signal_request(self._family, interface, self._next_sequence()))

    def receive(self) -> tuple[list[AssociationMessage | SignalMessage], bool]:
        """Everything that waits, and whether the kernel had to drop some."""
        messages: list[AssociationMessage | SignalMessage] = []
        lost = False
        while True:
            try:
                data, sender = self._socket.recvfrom(_BUFFER)
            except BlockingIOError:
                return messages, lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            if sender[0] != 0:
                continue  # any process may send to a netlink socket; only the kernel is believed
            for message_type, part in split(data):
                message = decode(message_type, part, family=self._family)
                if isinstance(message, FamilyMessage):
                    self._on_family(message)
                elif message is not None:
                    messages.append(message)

    def _on_family(self, message: FamilyMessage) -> None:
        if message.name != FAMILY_NAME:
            return
        if message.removed:
            self._family = None
            return
        group = message.groups.get(CONNECTION_GROUP)
        if group is None:
            # The notice of a family that is being made may come without its groups: ask.
            self._ask(encode_family_request(self._next_sequence()))
            return
        try:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except OSError as error:
            logger.warning("failed to follow Wi-Fi associations: %s", error)
            return
        self._family = message.identifier
        logger.debug("following Wi-Fi associations")

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def _ask(self, request: bytes) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendto(request, (0, 0))
