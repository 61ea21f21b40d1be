"""The other end of the control socket: for ``mnagent status``, for tests, for programs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mnagent.control.schema import Reply, Request, decode_reply, encode

MAX_REPLY_LENGTH = 16 * 1024 * 1024
"""Octets; the status of a home agent with very many mobile nodes is one line."""


class ControlError(RuntimeError):
    """The agent answered that it will not, or cannot."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


class Client:
    """Asks one agent; each call is a connection of its own.

    All methods raise OSError when nobody answers, and `ControlError` when the answer is an error.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)

    async def status(self) -> dict[str, Any]:
        """The agent's state."""
        return await self._call("status")

    async def counters(self) -> dict[str, int]:
        """The agent's counters by name."""
        return await self._call("counters")

    async def handovers(self) -> dict[str, Any]:
        """The handovers remembered; see `mnagent.control.schema`."""
        return await self._call("handovers")

    async def reload(self) -> list[str]:
        """Have the agent read its configuration again; the keys that changed."""
        changed: list[str] = (await self._call("reload"))["changed"]
        return changed

    async def delete_binding(self, home_address: str) -> None:
        """End a mobile node's binding with this home agent."""
        await self._call("delete-binding", home_address=home_address)

    async def switch_home_agent(
        self, home_addresses: Sequence[str] = (), *, home_agents: Sequence[str] = ()
    ) -> list[str]:
        """Have mobile nodes (none: all) leave this home agent for one of these (none: those of the
        home link); the home addresses that are asked to."""
        answer = await self._call(
            "switch-home-agent",
            home_addresses=" ".join(home_addresses),
            home_agents=" ".join(home_agents),
        )
        asked: list[str] = answer["home_addresses"]
        return asked

    async def shutdown(self) -> None:
        """Ask the agent to leave; returns before it has."""
        await self._call("shutdown")

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Events remembered and then new ones, each with ``name``, ``at`` and ``details``.

        Ends when the agent does.
        """
        reader, writer = await self._connect()
        try:
            writer.write(encode(Request(id=1, method="events")))
            await writer.drain()
            _result(_reply(await reader.readline()))
            while line := await reader.readline():
                event = _reply(line).event
                if event is not msgspec.UNSET:
                    yield msgspec.to_builtins(event)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self._path, limit=MAX_REPLY_LENGTH)

    async def _call(self, method: str, **arguments: str) -> dict[str, Any]:
        reader, writer = await self._connect()
        try:
            writer.write(encode(Request(id=1, method=method, arguments=arguments)))
            await writer.drain()
            return _result(_reply(await reader.readline()))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def request(
    path: Path | str,
    method: str,
    timeout: float = 5.0,
    *,
    arguments: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Ask one question without an event loop; ``timeout`` in seconds, of each wait.

    Raises:
        OSError: nobody answers.
        ControlError: the answer is an error.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        question = Request(id=1, method=method, arguments=dict(arguments or {}))
        connection.sendall(encode(question))
        with connection.makefile("rb") as lines:
            return _result(_reply(lines.readline(MAX_REPLY_LENGTH)))


def _reply(line: bytes) -> Reply:
    """Decode a line; ConnectionResetError when the agent went away in the middle of it."""
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the agent closed the connection")
    try:
        return decode_reply(line)
    except ValueError as error:
        raise ControlError("bad-reply", f"cannot read the agent's answer: {error}") from None


def _result(reply: Reply) -> dict[str, Any]:
    if isinstance(reply.error, msgspec.UnsetType):
        if not isinstance(reply.result, dict):
            raise ControlError("bad-reply", "the agent's answer has no result")
        return reply.result
    raise ControlError(reply.error.code, reply.error.message)
