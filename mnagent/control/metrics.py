"""The agent's state as Prometheus text (exposition format 0.0.4): over the control socket and,
where the configuration wants it, over HTTP on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LOOPBACK_ADDRESSES = ("::1", "127.0.0.1")
MAX_REQUEST_LENGTH = 8 * 1024
"""Octets of a request; more is answered with an error."""
MAX_CLIENTS = 8
REQUEST_TIMEOUT = 2.0
"""Seconds a client has for its request and for taking the answer."""

logger = logging.getLogger(__name__)


def exposition(status: Mapping[str, Any]) -> str:
    """The metrics in what `Handler.status` gives."""
    return "".join(f"{line}\n" for line in _lines(status))


def _lines(status: Mapping[str, Any]) -> Iterator[str]:
    yield from _metric("uptime_seconds", "gauge", "Since the agent started.")
    yield _sample("uptime_seconds", status.get("uptime", 0.0))
    yield from _metric("events_total", "counter", "Packets, drops and engine verdicts by name.")
    for name, count in sorted(dict(status.get("counters") or {}).items()):
        yield _sample("events_total", count, name=name)
    if (node := status.get("mobile_node")) is not None:
        yield from _mobile_node(node)
    if (agent := status.get("home_agent")) is not None:
        yield from _metric("bindings", "gauge", "Mobile nodes that are registered.")
        yield _sample("bindings", agent.get("binding_count", 0))


def _mobile_node(node: Mapping[str, Any]) -> Iterator[str]:
    home = str(node.get("home_address"))
    yield from _metric("state", "gauge", "1 for the state the mobile node is in.")
    yield _sample("state", 1, home_address=home, state=str(node.get("state")))
    yield from _metric("at_home", "gauge", "1 on the home link.")
    yield _sample("at_home", int(bool(node.get("at_home"))), home_address=home)
    yield from _metric("binding_lifetime_seconds", "gauge", "Left of the acknowledged binding.")
    left = node.get("binding_lifetime_remaining", 0.0)
    yield _sample("binding_lifetime_seconds", left, home_address=home)
    totals = node.get("handover_totals") or {}
    yield from _metric("handovers_total", "counter", "Changes of the point of attachment.")
    yield _sample("handovers_total", totals.get("count", 0), home_address=home)
    yield from _metric(
        "handover_phase_seconds", "histogram", "From the link event until a phase was reached."
    )
    for phase, distribution in dict(totals.get("phases") or {}).items():
        yield from _histogram(distribution, home_address=home, phase=phase)


def _histogram(distribution: Mapping[str, Any], **labels: str) -> Iterator[str]:
    name = "handover_phase_seconds"
    for bound, count in distribution["buckets"].items():
        yield _sample(f"{name}_bucket", count, **labels, le=bound)
    yield _sample(f"{name}_bucket", distribution["count"], **labels, le="+Inf")
    yield _sample(f"{name}_sum", distribution["seconds"], **labels)
    yield _sample(f"{name}_count", distribution["count"], **labels)


def _metric(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP mnagent_{name} {text}", f"# TYPE mnagent_{name} {kind}"


def _sample(name: str, value: float, /, **labels: str) -> str:
    shown = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
    return f"mnagent_{name}{{{shown}}} {value}" if shown else f"mnagent_{name} {value}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class MetricsServer:
    """Answers ``GET /metrics`` on the loopback interface; each connection has one request."""

    def __init__(self, port: int, status: Callable[[], Mapping[str, Any]]) -> None:
        self._port = port
        self._status = status
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def start(self) -> None:
        """Listen where there is a loopback address; OSError when the port is taken."""
        try:
            self._server = await asyncio.start_server(
                self._serve, LOOPBACK_ADDRESSES, self._port, limit=MAX_REQUEST_LENGTH
            )
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            text = f"TCP port {self._port}: {reason}; correct host.metrics_port"
            raise OSError(error.errno, text) from error

    def port_of(self, address: str) -> int:
        """The port listened on at one of `LOOPBACK_ADDRESSES`."""
        assert self._server is not None
        names = (listener.getsockname() for listener in self._server.sockets)
        return next(int(name[1]) for name in names if name[0] == address)

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                writer.write(await self._answer(reader))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self._clients -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        if self._clients > MAX_CLIENTS:
            return _response("503 Service Unavailable", "too many clients\n")
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response("431 Request Header Fields Too Large", "request too long\n")
        words = head.split(b"\r\n", 1)[0].split()
        if len(words) != 3 or words[0] != b"GET":
            return _response("405 Method Not Allowed", "expected GET\n")
        if words[1].split(b"?")[0] != b"/metrics":
            return _response("404 Not Found", "expected /metrics\n")
        try:
            return _response("200 OK", exposition(self._status()))
        except Exception:
            logger.exception("failed to answer a request for metrics")
            return _response("500 Internal Server Error", "the agent's log says why\n")


def _response(status: str, body: str) -> bytes:
    octets = body.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(octets)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + octets
