"""The generic netlink socket that hears of Wi-Fi associations. Without Wi-Fi it hears nothing.

nl80211 may come later, with the module of an adapter that is plugged in: the controller tells.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections import deque

from mnagent.link.signal import AskAccessPoints, AskLevel, WirelessRequest
from mnagent.link.wireless import (
    CONNECTION_GROUP,
    FAMILY_NAME,
    GENL_ID_CTRL,
    FamilyMessage,
    InterfaceMessage,
    decode,
    encode_access_points_request,
    encode_family_request,
    encode_scan,
    encode_signal_request,
    split,
)

logger = logging.getLogger(__name__)

NETLINK_GENERIC = 16
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NLMSG_ERROR = 2
"""Of a request: refused, or with 0 done."""
NLMSG_DONE = 3
"""Of a request for many: that was all."""
MAX_QUESTIONS = 16
"""Waiting for the answers to others; a further one is not asked."""
_BUFFER = 1 << 16


class WirelessSocket:
    """Receives what Wi-Fi tells, asks, and has it scan; never blocks."""

    def __init__(self) -> None:
        """OSError where the kernel has no generic netlink at all."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_GENERIC
        )
        self._family: int | None = None
        self._sequence = 0
        # The kernel takes no request for many while it answers another.
        self._questions: deque[bytes] = deque()
        self._is_asking = False
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

    def send(self, request: WirelessRequest) -> None:
        """The answer comes with `receive`, or not at all: the kernel may be busy, or unable."""
        if self._family is None:
            return
        family, index, sequence = self._family, request.interface, self._next_sequence()
        match request:
            case AskLevel():
                self._ask(encode_signal_request(family, index, sequence))
            case AskAccessPoints():
                self._ask(encode_access_points_request(family, index, sequence))
            case _:
                network, frequencies = request.network, request.frequencies
                self._ask(
                    encode_scan(family, index, sequence, network=network, frequencies=frequencies)
                )

    def receive(self) -> tuple[list[InterfaceMessage], bool]:
        """Everything that waits, and whether the kernel had to drop some."""
        messages: list[InterfaceMessage] = []
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
                self._on_answered()
                continue
            if sender[0] != 0:
                continue  # any process may send to a netlink socket; only the kernel is believed
            for message_type, part in split(data):
                if message_type in (NLMSG_ERROR, NLMSG_DONE):
                    self._on_answered()
                    continue
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
        if len(self._questions) < MAX_QUESTIONS:
            self._questions.append(request)
        self._ask_next()

    def _on_answered(self) -> None:
        self._is_asking = False
        self._ask_next()

    def _ask_next(self) -> None:
        while self._questions and not self._is_asking:
            with contextlib.suppress(OSError):
                self._socket.sendto(self._questions.popleft(), (0, 0))
                self._is_asking = True
