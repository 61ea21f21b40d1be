"""The control protocol: JSON lines over a Unix stream socket.

Each line is one JSON object in UTF-8, ended by a newline, at most 64 KiB from client to agent. A
client sends requests and may send the next before the answer to the last; answers come in order.

    -> {"id": 1, "method": "status"}
    <- {"id": 1, "result": {"role": "mobile-node", ...}}
    -> {"id": 2, "method": "dance"}
    <- {"id": 2, "error": {"code": "unknown-method", "message": "..."}}

``id`` is a whole number of the client's choice. It is null in answers to what was no request.

Methods:

``status``    the agent's state: a snapshot, the same object that ``mnagent status --json`` prints.
``counters``  an object of names and whole numbers: drops by reason, engine verdicts.
``handovers`` ``now``, ``handovers`` (oldest first, instants on the clock of ``at`` below) and
              ``totals`` (the count, and the distribution of each phase's times) of a mobile node.
``metrics``   an object whose ``text`` is the state in Prometheus' text format.
``bindings``  ``now`` and ``bindings``: those of a home agent, the oldest first.
``delete-binding`` with the argument ``home_address``: the home agent ends that binding.
``switch-home-agent`` with ``home_addresses`` (separated by spaces; empty for all) and
              ``home_agents`` (those to suggest; empty for those of the home link): the home agent
              asks mobile nodes to leave it; ``home_addresses`` lists those asked.
``reload``    the agent reads its configuration again; ``changed`` lists the keys that differ.
              Refused, with everything left as it was, when it cannot be used or needs a restart.
``shutdown``  the agent deregisters and leaves; the empty result comes at once, the end later.
``events``    an empty result, then, for as long as the connection lasts, one line an event; first
              those remembered (up to 256), then new ones as they happen:

    <- {"event": {"name": "binding-accepted", "at": 81.25, "details": {"status": "0", ...},
                  "warning": false}}

``at`` is in seconds of CLOCK_BOOTTIME, ``details`` holds strings. When a client reads too slowly to
keep up, events are left out, and one named ``events-lost`` with ``count`` in its details says so.
A client that follows events keeps its sending side open; shutting it ends the connection.

Error codes: ``bad-request``, ``unknown-method``, ``too-long`` and ``too-many-clients`` (the agent
closes the connection after these two), ``refused`` (what was asked for cannot be done, and the
message says why), ``internal``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import msgspec

MAX_LINE_LENGTH = 64 * 1024
"""Octets of a request, newline included."""


class ErrorCode(enum.Enum):
    """Why a request has no result."""

    BAD_REQUEST = "bad-request"
    UNKNOWN_METHOD = "unknown-method"
    TOO_LONG = "too-long"
    TOO_MANY_CLIENTS = "too-many-clients"
    REFUSED = "refused"
    INTERNAL = "internal"


class Request(
    msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True
):
    """From client to agent."""

    id: int
    method: str
    arguments: dict[str, str] = {}


class ErrorBody(msgspec.Struct, kw_only=True, frozen=True):
    """What went wrong."""

    code: str
    """One of `ErrorCode`; a later agent may have more."""
    message: str
    """For people."""


class ControlEvent(msgspec.Struct, kw_only=True, frozen=True):
    """Something that happened."""

    name: str
    at: float
    """Seconds, CLOCK_BOOTTIME."""
    details: Mapping[str, str] = {}
    warning: bool = False


class Reply(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """From agent to client: an answer, or an event."""

    id: int | msgspec.UnsetType | None = msgspec.UNSET
    result: Any = msgspec.UNSET
    error: ErrorBody | msgspec.UnsetType = msgspec.UNSET
    event: ControlEvent | msgspec.UnsetType = msgspec.UNSET


_request_decoder = msgspec.json.Decoder(Request)
_reply_decoder = msgspec.json.Decoder(Reply)
_encoder = msgspec.json.Encoder(enc_hook=str)


def encode(message: Request | Reply) -> bytes:
    """One line. What JSON has no word for, such as addresses and paths, becomes a string."""
    return _encoder.encode(message) + b"\n"


def decode_request(line: bytes) -> Request:
    """A request; ValueError when the line is none."""
    return _request_decoder.decode(line)


def decode_reply(line: bytes) -> Reply:
    """An answer or event; ValueError when the line is none."""
    return _reply_decoder.decode(line)


def result(identifier: int, value: Any) -> Reply:
    """The answer to a request that succeeded."""
    return Reply(id=identifier, result=value)


def failure(identifier: int | None, code: ErrorCode, message: str) -> Reply:
    """The answer to a request that did not."""
    return Reply(id=identifier, error=ErrorBody(code=code.value, message=message))
