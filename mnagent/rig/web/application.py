"""The server: addresses, headers, and streams of what happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from importlib import resources
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from mnagent.rig.library import Entry, Library, LiveReader
from mnagent.rig.web import pages
from mnagent.rig.web.comparison import Comparison
from mnagent.rig.web.gate import COOKIE, SESSION, Gate
from mnagent.rig.web.live import Story
from mnagent.rig.web.places import Places

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Of the pages: nothing from elsewhere, nothing inline."""
FILE_POLICY: Final = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Of what runs left: reports style themselves, and nothing in them may run."""
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
SHOWN: Final = {
    ".html": "text/html",
    ".json": "application/json",
    ".jsonl": "text/plain",
    ".log": "text/plain",
    ".md": "text/plain",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".xml": "text/plain",
}
"""What a browser shows; all else is for saving."""
STATIC: Final = {
    "rig.css": "text/css",
    "rig.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
INTERVAL: Final = 0.25
"""Seconds between looks at a run that goes on."""
KEEP_ALIVE: Final = 15.0
"""Seconds after which a silent stream says that it lives."""
MAX_STREAMS: Final = 32
MAX_BODY: Final = 4096

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """The page of one library."""

    def __init__(self, library: Library, gate: Gate, places: Places) -> None:
        self._library = library
        self._places = places
        self._gate = gate
        self._streams = 0

    def application(self) -> web.Application:
        """To be served."""
        made = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        made.on_response_prepare.append(_add_headers)
        made.add_routes(
            [
                web.get("/", self._now),
                web.get("/live", self._wait_for_a_run, allow_head=False),
                web.get("/runs", self._runs),
                web.get("/runs/{name}", self._run),
                web.get("/runs/{name}/live", self._follow, allow_head=False),
                web.get("/runs/{name}/files/{file}", self._file),
                web.get("/compare", self._compare),
                web.get("/places", self._show_places),
                web.get("/static/{file}", self._static),
                web.get("/login", self._show_login),
                web.post("/login", self._log_in),
                web.post("/logout", self._log_out),
            ]
        )
        return made

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._gate.knows_host(request.headers.get("Host", "")):
            return _trouble(421, "Not here", "This page goes by localhost, 127.0.0.1 and [::1].")
        # Compared without the scheme: a proxy in front may speak TLS.
        origin = request.headers.get("Origin")
        if request.method == "POST" and origin and urlsplit(origin).netloc != request.host:
            return _trouble(403, "Not from there", "Another site sent you here with a form.")
        is_public = request.path == "/login" or request.path.startswith("/static/")
        if not is_public and not self._gate.admits(
            cookie=request.cookies.get(COOKIE, ""),
            authorization=request.headers.get("Authorization", ""),
        ):
            if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
                raise web.HTTPSeeOther("/login")
            return _trouble(401, "Log in", "This needs the token.")
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return _trouble(404, "Not found", "There is nothing under this address.")

    @property
    def _guarded(self) -> bool:
        return not self._gate.is_open

    async def _entries(self) -> list[Entry]:
        return await asyncio.to_thread(self._library.entries)

    def _entry(self, request: web.Request) -> Entry:
        entry = self._library.entry(request.match_info["name"])
        if entry is None:
            raise web.HTTPNotFound
        return entry

    async def _now(self, request: web.Request) -> web.Response:
        entries = await self._entries()
        running = [
            (entry, await asyncio.to_thread(_told, entry)) for entry in entries if entry.running
        ]
        past = [entry for entry in entries if not entry.running]
        places = await self._places.find(_targets(entries))
        return _page(pages.now_page(running, past, places, guarded=self._guarded))

    async def _runs(self, request: web.Request) -> web.Response:
        entries = await self._entries()
        return _page(pages.runs_page(entries, dict(request.query), guarded=self._guarded))

    async def _run(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        told = await asyncio.to_thread(_told, entry)
        return _page(pages.run_page(entry, told, guarded=self._guarded))

    async def _compare(self, request: web.Request) -> web.Response:
        runs = [entry.run for entry in await self._entries() if entry.run is not None]
        query = request.query
        comparison = Comparison(
            runs, series=query.get("series", ""), chosen=query.get("handovers", "")
        )
        return _page(pages.compare_page(comparison, guarded=self._guarded))

    async def _show_places(self, request: web.Request) -> web.Response:
        places = await self._places.find(_targets(await self._entries()))
        return _page(pages.places_page(places, guarded=self._guarded))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = self._entry(request).file(request.match_info["file"])
        if path is None:
            raise web.HTTPNotFound
        headers = {"Content-Security-Policy": FILE_POLICY}
        kind = SHOWN.get(path.suffix)
        if kind is None:
            kind, headers["Content-Disposition"] = "application/octet-stream", "attachment"
        elif kind.startswith("text/"):
            kind += "; charset=utf-8"
        headers["Content-Type"] = kind
        return web.FileResponse(path, headers=headers)

    async def _static(self, request: web.Request) -> web.Response:
        name = request.match_info["file"]
        if name not in STATIC:
            raise web.HTTPNotFound
        data = resources.files(__package__).joinpath("static", name).read_bytes()
        return web.Response(body=data, content_type=STATIC[name], charset="utf-8")

    async def _show_login(self, request: web.Request) -> web.Response:
        if self._gate.is_open:
            raise web.HTTPSeeOther("/")
        return _page(pages.login_page(failed=False))

    async def _log_in(self, request: web.Request) -> web.Response:
        token = (await request.post()).get("token", "")
        cookie = self._gate.log_in(token) if isinstance(token, str) else None
        if cookie is None:
            return _page(pages.login_page(failed=True), status=403)
        answer = web.HTTPSeeOther("/")
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=SESSION,
            httponly=True,
            samesite="Strict",
            secure=request.scheme == "https",
        )
        raise answer

    async def _log_out(self, request: web.Request) -> web.Response:
        answer = web.HTTPSeeOther("/login")
        answer.del_cookie(COOKIE)
        raise answer

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        """What happens in a run, as events: ``picture``, ``status``, at its end ``reload``."""
        entry = self._entry(request)
        reader, told, said = LiveReader(entry.folder), Story(), ""
        async with self._stream(request) as stream:
            while stream.is_open:
                current = self._library.entry(entry.name)
                lines = await asyncio.to_thread(reader.read)
                told.add(lines)
                if lines:
                    await stream.send("picture", pages.story(told))
                if told.now != said:
                    said = told.now
                    await stream.send("status", said)
                if current is None or not current.running:
                    await stream.send("reload", "")
                    break
                await stream.rest()
        return stream.response

    async def _wait_for_a_run(self, request: web.Request) -> web.StreamResponse:
        """``reload`` as soon as something runs."""
        async with self._stream(request) as stream:
            seen: object = ()
            while stream.is_open:
                # A run appears as a new folder: only then is there a reason to look at all of them.
                if (state := self._library.state()) != seen:
                    seen = state
                    if any(entry.running for entry in await self._entries()):
                        await stream.send("reload", "")
                        break
                await stream.rest()
        return stream.response

    @contextlib.asynccontextmanager
    async def _stream(self, request: web.Request) -> AsyncIterator[Stream]:
        if self._streams >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable(text="too many are watching already")
        self._streams += 1
        stream = Stream(request)
        try:
            await stream.response.prepare(request)
            with contextlib.suppress(ConnectionError):
                yield stream
        finally:
            self._streams -= 1


class Stream:
    """Server-sent events."""

    def __init__(self, request: web.Request) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self._request = request
        self._idle = 0.0

    @property
    def is_open(self) -> bool:
        """Whether anybody listens."""
        transport = self._request.transport
        return transport is not None and not transport.is_closing()

    async def send(self, event: str, data: str) -> None:
        """One event. Raises ConnectionError when nobody listens any more."""
        lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
        await self.response.write(f"event: {event}\n{lines}\n".encode())
        self._idle = 0.0

    async def rest(self) -> None:
        """Until it is time for another look."""
        await asyncio.sleep(INTERVAL)
        self._idle += INTERVAL
        if self._idle >= KEEP_ALIVE:
            await self.response.write(b": still here\n\n")
            self._idle = 0.0


def _targets(entries: Iterable[Entry]) -> set[str]:
    return {entry.run.target for entry in entries if entry.running and entry.run is not None}


def _told(entry: Entry) -> Story:
    with contextlib.suppress(OSError):
        return Story(LiveReader(entry.folder).read())
    return Story()


def _page(text: str, *, status: int = 200) -> web.Response:
    return web.Response(text=text, content_type="text/html", status=status)


def _trouble(status: int, title: str, text: str) -> web.Response:
    return _page(pages.trouble_page(title, text), status=status)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)
