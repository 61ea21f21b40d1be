"""The agent's end of the control socket.

Everything a client can fill is bounded: how many may connect, the length of a line, how many
answers wait for a client that does not read (its requests are then not read either), how many
events wait for it (the rest are counted and left out). No client can hold up another, or the
agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import Any, Protocol

from mnagent.control.lock import DaemonLock
from mnagent.control.metrics import exposition
from mnagent.control.schema import (
    MAX_LINE_LENGTH,
    ControlEvent,
    ErrorCode,
    Reply,
    Request,
    decode_request,
    encode,
    failure,
    result,
)

MAX_CLIENTS = 16
MAX_QUEUED_LINES = 1024
"""Lines waiting for one client; more than the event history, so that it fits."""
MAX_QUEUED_ANSWERS = 4
"""Of those lines; an answer may be as large as all that the agent knows."""
MAX_EVENT_HISTORY = 256
"""Events remembered for those who ask later; the oldest go first."""
MAX_BINDINGS = 500
"""In one answer; for more the client asks again with ``after``."""
LAST_WORDS_TIMEOUT = 1.0
"""Seconds a client that has no more requests gets to read what is still on its way to it."""
SEND_BUFFER_LENGTH = 64 * 1024
"""Octets handed to the transport before its client's queue has to wait."""

logger = logging.getLogger(__name__)


class Refused(Exception):
    """What a client asked for cannot be done. Its text says why, for people."""


class Handler(Protocol):
    """What the server asks of the agent; called in the event loop, must not block."""

    def status(self) -> Mapping[str, Any]:
        """The state, as JSON has it; never with key material."""

    def counters(self) -> Mapping[str, int]:
        """All counters by name."""

    async def reload(self) -> list[str]:
        """Read the configuration again; the keys that changed. Raises `Refused`."""

    def bindings(self, after: IPv6Address | None, limit: int) -> Mapping[str, Any]:
        """As many of a home agent's bindings as ``limit``, in the order of their home addresses,
        those that come after ``after``. Raises `Refused`."""

    def delete_binding(self, home_address: IPv6Address) -> None:
        """End a mobile node's binding. Raises `Refused`."""

    def ask_to_switch(
        self, home_addresses: tuple[IPv6Address, ...], home_agents: tuple[IPv6Address, ...]
    ) -> tuple[IPv6Address, ...]:
        """Have mobile nodes (none: all) look for another home agent; who is asked. Raises
        `Refused`."""

    def shutdown(self) -> None:
        """Begin to stop; return at once."""


class ControlServer:
    """Serves one Unix socket."""

    def __init__(self, path: Path, handler: Handler, *, lock: DaemonLock | None = None) -> None:
        """``lock`` when the caller holds it already; else the server takes it in `start`."""
        self._path = path
        self._handler = handler
        self._given_lock = lock
        self._lock = lock or DaemonLock(path)
        self._server: asyncio.Server | None = None
        self._identity: tuple[int, int] | None = None
        self._clients: set[_Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._history: deque[_EventLine] = deque(maxlen=MAX_EVENT_HISTORY)

    async def start(self) -> None:
        """Listen. A socket left by an agent that is gone is replaced.

        Raises:
            AlreadyRunning: another agent is there.
            OSError: the socket cannot be made.
        """
        self._lock.acquire()
        try:
            listener = self._listen()
            self._server = await asyncio.start_unix_server(
                self._serve, sock=listener, limit=MAX_LINE_LENGTH
            )
        except BaseException:
            self._release_lock()
            raise

    def _listen(self) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            if self._path.is_socket():
                self._path.unlink()  # the lock is ours, so nobody listens there
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            os.fchmod(listener.fileno(), 0o600)  # before bind: Linux gives the file this mode
            listener.bind(str(self._path))
            status = self._path.stat()
        except BaseException:
            listener.close()
            raise
        self._identity = (status.st_dev, status.st_ino)
        return listener

    async def stop(self) -> None:
        """Close all connections and take the socket away."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        self._remove_socket()
        self._release_lock()

    def publish(self, event: ControlEvent) -> None:
        """Tell everybody who follows events, and remember it for those who come."""
        line = _EventLine(event.at, encode(Reply(event=event)))
        self._history.append(line)
        for client in self._clients:
            client.tell(line)

    def _remove_socket(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            status = self._path.stat()
            if self._identity == (status.st_dev, status.st_ino):
                self._path.unlink()
        self._identity = None

    def _release_lock(self) -> None:
        if self._given_lock is None:
            self._lock.release()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        writer.transport.set_write_buffer_limits(high=SEND_BUFFER_LENGTH)
        if len(self._clients) >= MAX_CLIENTS:
            message = f"{MAX_CLIENTS} clients are connected already"
            writer.write(encode(failure(None, ErrorCode.TOO_MANY_CLIENTS, message)))
            await _close(writer)
            return
        client = _Client(writer)
        self._clients.add(client)
        try:
            await client.run(self._read(reader, client))
        finally:
            self._clients.discard(client)

    async def _read(self, reader: asyncio.StreamReader, client: _Client) -> None:
        """Answer requests until the client has no more."""
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                message = f"a line has at most {MAX_LINE_LENGTH} octets"
                await client.send(failure(None, ErrorCode.TOO_LONG, message))
                return
            if not line:
                return
            try:
                request = decode_request(line)
            except ValueError as error:
                await client.send(failure(None, ErrorCode.BAD_REQUEST, str(error)))
                continue
            await client.send(await self._answer(request))
            if request.method == "events":
                client.follow(self._history)

    def _bindings(self, request: Request) -> dict[str, Any]:
        after = _addresses_in(request, "after")
        if len(after) > 1:
            raise Refused("expected one home address as after")
        return dict(self._handler.bindings(after[0] if after else None, MAX_BINDINGS))

    def _ask_to_switch(self, request: Request) -> dict[str, Any]:
        home_addresses = _addresses_in(request, "home_addresses")
        home_agents = _addresses_in(request, "home_agents")
        asked = self._handler.ask_to_switch(home_addresses, home_agents)
        return {"home_addresses": [str(each) for each in asked]}

    async def _answer(self, request: Request) -> Reply:
        try:
            match request.method:
                case "bindings":
                    return result(request.id, self._bindings(request))
                case "delete-binding":
                    self._handler.delete_binding(_home_address_in(request))
                    return result(request.id, {})
                case "switch-home-agent":
                    return result(request.id, self._ask_to_switch(request))
                case "reload":
                    return result(request.id, {"changed": await self._handler.reload()})
                case "status":
                    return result(request.id, dict(self._handler.status()))
                case "counters":
                    return result(request.id, dict(self._handler.counters()))
                case "handovers":
                    return result(request.id, _handovers_of(self._handler.status()))
                case "metrics":
                    return result(request.id, {"text": exposition(self._handler.status())})
                case "shutdown":
                    self._handler.shutdown()
                    return result(request.id, {})
                case "events":
                    return result(request.id, {})
        except Refused as error:
            return failure(request.id, ErrorCode.REFUSED, str(error))
        except Exception:
            logger.exception("failed to answer the control request %s", request.method)
            message = "the agent failed to answer; its log says why"
            return failure(request.id, ErrorCode.INTERNAL, message)
        message = (
            "expected status, counters, handovers, bindings, delete-binding, reload, metrics, "
            "events or shutdown"
        )
        return failure(request.id, ErrorCode.UNKNOWN_METHOD, message)


def _home_address_in(request: Request) -> IPv6Address:
    text = request.arguments.get("home_address", "")
    try:
        return IPv6Address(text)
    except AddressValueError:
        raise Refused(f'expected a home address, found "{text}"') from None


def _addresses_in(request: Request, argument: str) -> tuple[IPv6Address, ...]:
    """Those of an argument, separated by white space; none where it is left out."""
    try:
        return tuple(IPv6Address(text) for text in request.arguments.get(argument, "").split())
    except AddressValueError as error:
        raise Refused(f"expected IPv6 addresses as {argument}: {error}") from None


def _handovers_of(status: Mapping[str, Any]) -> dict[str, Any]:
    node = status.get("mobile_node") or {}
    return {
        "now": status.get("now", 0.0),
        "handovers": list(node.get("handovers") or ()),
        "totals": dict(node.get("handover_totals") or {}),
    }


@dataclass(frozen=True, slots=True)
class _EventLine:
    """An event as it is sent. Remembered in one piece: its many small parts, each amid what is gone
    soon, would keep many times their size of memory."""

    at: float
    octets: bytes


class _Client:
    """One connection: a queue, and a task that writes what is in it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._queue: asyncio.Queue[Reply | _EventLine | None] = asyncio.Queue(MAX_QUEUED_LINES)
        self._room_for_answers = asyncio.Semaphore(MAX_QUEUED_ANSWERS)
        self._follows = False
        self._lost = 0
        self._lost_at = 0.0

    async def run(self, reading: Coroutine[Any, Any, None]) -> None:
        """Read and write until the client is done or gone."""
        write = asyncio.create_task(self._write())
        read = asyncio.create_task(reading)
        try:
            await asyncio.wait({read, write}, return_when=asyncio.FIRST_COMPLETED)
            if read.done() and not write.done():
                await self._finish(write)
        finally:
            for task in (read, write):
                task.cancel()
            await asyncio.gather(read, write, return_exceptions=True)
            await _close(self._writer)

    async def _finish(self, write: asyncio.Task[None]) -> None:
        """The client has shut its end: it gets its answers, but no more events."""
        if self._follows:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_TIMEOUT):
                await self._queue.put(None)
                await asyncio.wait({write})

    async def send(self, reply: Reply) -> None:
        """Queue an answer, waiting for room."""
        await self._room_for_answers.acquire()
        await self._queue.put(reply)

    def follow(self, history: deque[_EventLine]) -> None:
        """Send events from now on, beginning with those remembered."""
        if not self._follows:
            self._follows = True
            for line in history:
                self.tell(line)

    def tell(self, line: _EventLine) -> None:
        """Queue an event if the client follows them, or count it as lost when there is no room."""
        if not self._follows:
            return
        needed = 2 if self._lost else 1
        if self._queue.qsize() + needed > MAX_QUEUED_LINES:
            self._lost, self._lost_at = self._lost + 1, line.at
            return
        if self._lost:
            details = {"count": str(self._lost)}
            lost = ControlEvent(name="events-lost", at=self._lost_at, details=details, warning=True)
            self._queue.put_nowait(_EventLine(self._lost_at, encode(Reply(event=lost))))
            self._lost = 0
        self._queue.put_nowait(line)

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionError):
            while (reply := await self._queue.get()) is not None:
                if isinstance(reply, _EventLine):
                    self._writer.write(reply.octets)
                else:
                    self._writer.write(encode(reply))
                    self._room_for_answers.release()
                await self._writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close once what was written is away, or soon."""
    writer.close()
    try:
        async with asyncio.timeout(LAST_WORDS_TIMEOUT):
            await writer.wait_closed()
    except TimeoutError:
        writer.transport.abort()
    except OSError:
        pass
