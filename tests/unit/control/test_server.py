"""The control socket: server and client over a real Unix socket, in one event loop."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from mnagent.control import server as server_module
from mnagent.control.client import Client, ControlError, request
from mnagent.control.lock import AlreadyRunning, DaemonLock
from mnagent.control.schema import MAX_LINE_LENGTH, ControlEvent
from mnagent.control.server import MAX_EVENT_HISTORY, ControlServer, Refused

PATIENCE = 20.0
"""Seconds after which a test that hangs fails."""


class FakeAgent:
    """A handler that remembers what it was asked."""

    def __init__(self) -> None:
        self.shutdowns = 0
        self.deleted: list[IPv6Address] = []
        self.pages: dict[IPv6Address | None, list[str]] | None = None
        self.state: dict[str, Any] = {"role": "mobile-node"}
        self.failing = False

    def status(self) -> dict[str, Any]:
        if self.failing:
            raise RuntimeError("no status today")
        return self.state

    def counters(self) -> dict[str, int]:
        return {"malformed": 3}

    async def reload(self) -> list[str]:
        if self.failing:
            raise Refused("cannot change while running: role")
        return ["home_agent.mobile_nodes"]

    def bindings(self, after: IPv6Address | None, limit: int) -> dict[str, Any]:
        if self.pages is None:
            raise Refused("this is no home agent")
        return {"bindings": self.pages[after][:limit]}

    def delete_binding(self, home_address: IPv6Address) -> None:
        if home_address in self.deleted:
            raise Refused(f"{home_address} has no binding here")
        self.deleted.append(home_address)

    def ask_to_switch(
        self, home_addresses: tuple[IPv6Address, ...], home_agents: tuple[IPv6Address, ...]
    ) -> tuple[IPv6Address, ...]:
        if self.failing:
            raise Refused("none of these has a binding")
        self.suggested = home_agents
        return home_addresses[:1]

    def shutdown(self) -> None:
        self.shutdowns += 1


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await test()

    asyncio.run(bounded())


@asynccontextmanager
async def serving(path: Path, agent: FakeAgent | None = None) -> AsyncIterator[ControlServer]:
    server = ControlServer(path, agent or FakeAgent())
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


def event(number: int, **details: str) -> ControlEvent:
    return ControlEvent(name=f"event-{number}", at=float(number), details=details)


def test_client_asks_status_counters_and_shutdown(path: Path) -> None:
    async def test() -> None:
        agent = FakeAgent()
        async with serving(path, agent):
            client = Client(path)
            assert await client.status() == {"role": "mobile-node"}
            assert await client.counters() == {"malformed": 3}
            assert await client.handovers() == {"now": 0.0, "handovers": [], "totals": {}}
            metrics = await asyncio.to_thread(request, path, "metrics")
            assert "# TYPE mnagent_uptime_seconds gauge" in metrics["text"]
            await client.shutdown()
        assert agent.shutdowns == 1

    run(test)


def test_client_without_event_loop_asks_status(path: Path) -> None:
    async def test() -> None:
        async with serving(path):
            answer = await asyncio.to_thread(request, path, "status", 5.0)
            assert answer == {"role": "mobile-node"}
            with pytest.raises(ControlError) as caught:
                await asyncio.to_thread(request, path, "dance")
            assert caught.value.code == "unknown-method"

    run(test)


def test_server_socket_and_directory_are_for_the_owner_only(path: Path) -> None:
    async def test() -> None:
        before = os.umask(0)
        try:
            async with serving(path):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        finally:
            os.umask(before)

    run(test)


def test_server_stop_takes_the_socket_away_and_frees_the_lock(path: Path) -> None:
    async def test() -> None:
        for _ in range(2):
            async with serving(path):
                assert path.exists()
            assert not path.exists()

    run(test)


def test_server_stop_leaves_a_socket_that_is_not_its_own(path: Path) -> None:
    async def test() -> None:
        async with serving(path):
            path.unlink()
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(path))
        assert path.exists()

    run(test)


def test_server_replaces_a_stale_socket(path: Path) -> None:
    async def test() -> None:
        path.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        with pytest.raises(ConnectionRefusedError):
            await Client(path).status()
        async with serving(path):
            assert await Client(path).status() == {"role": "mobile-node"}

    run(test)


def test_server_does_not_replace_a_file_that_is_no_socket(path: Path) -> None:
    async def test() -> None:
        path.parent.mkdir()
        path.write_text("precious")
        server = ControlServer(path, FakeAgent())
        with pytest.raises(OSError, match="in use"):
            await server.start()
        assert path.read_text() == "precious"
        DaemonLock(path).acquire()

    run(test)


def test_second_server_is_refused_naming_the_first_process(path: Path) -> None:
    async def test() -> None:
        async with serving(path):
            with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}") as caught:
                await ControlServer(path, FakeAgent()).start()
            assert caught.value.process == os.getpid()
            assert await Client(path).status()

    run(test)


def test_server_with_a_lock_of_its_caller_leaves_it_held(path: Path) -> None:
    async def test() -> None:
        with DaemonLock(path) as lock:
            server = ControlServer(path, FakeAgent(), lock=lock)
            await server.start()
            await server.stop()
            assert lock.held

    run(test)


def test_lock_taken_twice_by_its_holder_is_no_error(path: Path) -> None:
    with DaemonLock(path) as lock:
        lock.acquire()
    lock.release()
    assert not lock.held


def test_lock_whose_file_names_nobody_is_refused_all_the_same(path: Path) -> None:
    with DaemonLock(path):
        path.with_name(path.name + ".lock").write_text("")
        with pytest.raises(AlreadyRunning, match="another process"):
            DaemonLock(path).acquire()


def test_client_nobody_there_raises_os_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        asyncio.run(Client(path).status())
    with pytest.raises(FileNotFoundError):
        request(path, "status")


async def lines_for(path: Path, data: bytes) -> list[dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    if writer.can_write_eof():
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    return [json.loads(line) for line in answer.splitlines()]


def test_server_answers_several_requests_in_order(path: Path) -> None:
    async def test() -> None:
        async with serving(path):
            data = b'{"id":7,"method":"status"}\n{"id":8,"method":"counters"}\n'
            assert [line["id"] for line in await lines_for(path, data)] == [7, 8]

    run(test)


@pytest.mark.parametrize("data", [b"hello\n", b"\n", b"\xff\xfe\n", b'{"id":1}\n', b"{}\n"])
def test_server_nonsense_gets_an_error_and_the_next_request_an_answer(
    data: bytes, path: Path
) -> None:
    async def test() -> None:
        async with serving(path):
            lines = await lines_for(path, data + b'{"id":2,"method":"status"}\n')
            assert lines[0]["id"] is None
            assert lines[0]["error"]["code"] == "bad-request"
            assert lines[1]["result"] == {"role": "mobile-node"}

    run(test)


def test_server_line_too_long_gets_an_error_and_the_end(path: Path) -> None:
    async def test() -> None:
        async with serving(path):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"x" * (2 * MAX_LINE_LENGTH))
            assert json.loads(await reader.readline())["error"]["code"] == "too-long"
            with suppress(ConnectionResetError):  # says that not all was read
                assert await reader.read() == b""
            writer.close()
            assert await Client(path).status()

    run(test)


def test_server_failing_handler_is_an_internal_error_and_no_more(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        agent = FakeAgent()
        agent.failing = True
        async with serving(path, agent):
            with pytest.raises(ControlError, match="log") as caught:
                await Client(path).status()
            assert caught.value.code == "internal"
            assert await Client(path).counters()

    run(test)
    assert "no status today" in caplog.text


def test_server_one_client_too_many_is_turned_away(path: Path) -> None:
    async def test() -> None:
        async with serving(path):
            held = [
                await asyncio.open_unix_connection(str(path))
                for _ in range(server_module.MAX_CLIENTS)
            ]
            for reader, writer in held:
                writer.write(b'{"id":1,"method":"counters"}\n')
                await reader.readline()
            with pytest.raises(ControlError) as caught:
                await Client(path).status()
            assert caught.value.code == "too-many-clients"
            held[0][1].close()
            while True:
                try:
                    await Client(path).status()
                    break
                except ControlError:
                    await asyncio.sleep(0)
            for _, writer in held:
                writer.close()

    run(test)


def test_events_remembered_come_first_then_new_ones(path: Path) -> None:
    async def test() -> None:
        async with serving(path) as server:
            server.publish(event(1, address="2001:db8::1"))
            stream = Client(path).events()
            first = await anext(stream)
            assert first == {
                "name": "event-1",
                "at": 1.0,
                "details": {"address": "2001:db8::1"},
                "warning": False,
            }
            server.publish(event(2))
            assert (await anext(stream))["name"] == "event-2"
            await stream.aclose()  # type: ignore[attr-defined]

    run(test)


def test_events_end_with_the_server(path: Path) -> None:
    async def test() -> None:
        async with serving(path) as server:
            server.publish(event(1))
            stream = Client(path).events()
            await anext(stream)
            await server.stop()
            assert [one async for one in stream] == []

    run(test)


def test_event_history_is_bounded_and_comes_whole(path: Path) -> None:
    async def test() -> None:
        async with serving(path) as server:
            for number in range(MAX_EVENT_HISTORY + 10):
                server.publish(event(number))
            stream = Client(path).events()
            names = [(await anext(stream))["name"] for _ in range(MAX_EVENT_HISTORY)]
            assert names[0] == "event-10"
            assert names[-1] == f"event-{MAX_EVENT_HISTORY + 9}"
            await stream.aclose()  # type: ignore[attr-defined]

    run(test)


def test_events_for_a_client_that_does_not_read_are_counted_and_left_out(path: Path) -> None:
    async def test() -> None:
        async with serving(path) as server:
            reader, writer = await asyncio.open_unix_connection(str(path), limit=2**20)
            writer.write(b'{"id":1,"method":"events"}\n')
            await reader.readline()
            published = 4 * server_module.MAX_QUEUED_LINES
            for number in range(published):
                server.publish(event(number, text="x" * 2000))
            seen, lost = 0, 0
            server_events = [json.loads(await reader.readline())["event"] for _ in range(900)]
            server.publish(event(published))
            while seen + lost <= published:
                one = server_events.pop(0) if server_events else None
                if one is None:
                    one = json.loads(await reader.readline())["event"]
                if one["name"] == "events-lost":
                    lost += int(one["details"]["count"])
                else:
                    seen += 1
            assert lost > 0
            writer.close()

    run(test)


def test_client_that_asks_without_reading_has_few_answers_made(path: Path) -> None:
    asked, octets = 40, 200_000

    class Busy(FakeAgent):
        made = 0

        def status(self) -> dict[str, Any]:
            self.made += 1
            return {"number": self.made, "much": "x" * octets}

    async def test() -> None:
        agent = Busy()
        async with serving(path, agent):
            reader, writer = await asyncio.open_unix_connection(path, limit=16)
            for number in range(asked):
                writer.write(json.dumps({"id": number, "method": "status"}).encode() + b"\n")
            await writer.drain()
            before = -1
            while agent.made != before:
                before = agent.made
                for _ in range(100):
                    await asyncio.sleep(0)
            assert 0 < agent.made <= 10
            text = b""
            while text.count(b"\n") < asked:
                text += await reader.read(1 << 20)
            assert [json.loads(line)["id"] for line in text.splitlines()] == list(range(asked))
            writer.close()

    run(test)


def test_server_stop_with_a_client_that_does_not_read_is_soon(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "LAST_WORDS_TIMEOUT", 0.01)

    async def test() -> None:
        async with serving(path) as server:
            reader, writer = await asyncio.open_unix_connection(str(path), limit=2)
            writer.write(b'{"id":1,"method":"events"}\n')
            for number in range(1000):
                server.publish(event(number, text="x" * 2000))
            await server.stop()
            del reader
            writer.transport.abort()

    run(test)


def test_client_has_the_configuration_read_again(path: Path) -> None:
    async def test() -> None:
        agent = FakeAgent()
        async with serving(path, agent):
            assert await Client(path).reload() == ["home_agent.mobile_nodes"]
            agent.failing = True
            with pytest.raises(ControlError, match="cannot change while running: role") as refused:
                await Client(path).reload()
            assert refused.value.code == "refused"

    run(test)


def test_client_sends_mobile_nodes_to_another_home_agent(path: Path) -> None:
    async def test() -> None:
        agent = FakeAgent()
        async with serving(path, agent):
            client = Client(path)
            asked = await client.switch_home_agent(
                ["2001:db8::1", "2001:db8::2"], home_agents=["2001:db8::a", "2001:db8::b"]
            )
            assert asked == ["2001:db8::1"]
            assert agent.suggested == (IPv6Address("2001:db8::a"), IPv6Address("2001:db8::b"))
            assert await client.switch_home_agent() == []
            assert agent.suggested == ()
            with pytest.raises(ControlError, match="expected IPv6 addresses as home_agents"):
                await client.switch_home_agent(home_agents=["x"])
            agent.failing = True
            with pytest.raises(ControlError, match="none of these has a binding"):
                await client.switch_home_agent(["2001:db8::1"])

    run(test)


def test_client_ends_a_binding_once(path: Path) -> None:
    async def test() -> None:
        agent = FakeAgent()
        async with serving(path, agent):
            await Client(path).delete_binding("2001:db8::1")
            assert agent.deleted == [IPv6Address("2001:db8::1")]
            with pytest.raises(ControlError, match="has no binding"):
                await Client(path).delete_binding("2001:db8::1")
            with pytest.raises(ControlError, match='expected a home address, found "x"'):
                await Client(path).delete_binding("x")

    run(test)


def test_bindings_are_those_of_a_home_agent(path: Path) -> None:
    async def test() -> None:
        agent = FakeAgent()
        async with serving(path, agent):
            answer = asyncio.to_thread(request, path, "bindings")
            with pytest.raises(ControlError, match="no home agent"):
                await answer
            agent.pages = {None: ["1::1"], IPv6Address("1::1"): []}
            assert await asyncio.to_thread(request, path, "bindings") == {"bindings": ["1::1"]}
            after = {"after": "1:0::1"}
            last = await asyncio.to_thread(request, path, "bindings", arguments=after)
            assert last == {"bindings": []}
            for nonsense, problem in (("x", "expected IPv6"), ("1::1 1::2", "one home address")):
                with pytest.raises(ControlError, match=problem):
                    await asyncio.to_thread(
                        request, path, "bindings", arguments={"after": nonsense}
                    )

    run(test)
