"""The page over HTTP: who gets in, what headers say, what is never served."""

from __future__ import annotations

import http.client
import re
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mnagent.rig.recorder import Recorder
from mnagent.rig.web.application import MAX_STREAMS
from tests.support.page import Serve, Visitor, served
from tests.support.results import HANDOVER, RUN, add_run, tell_story

PAGES = ("/", "/runs", "/compare", "/places")
TYPES = {
    "report.html": "text/html; charset=utf-8",
    "timeline.svg": "image/svg+xml",
    "run.json": "application/json",
    "live.jsonl": "text/plain; charset=utf-8",
    "link-a.pcap": "application/octet-stream",
}


@pytest.fixture
def visitor(serve: Serve) -> Visitor:
    return Visitor(serve())


def test_pages_are_there_and_strict_about_where_things_come_from(
    visitor: Visitor, results: Path
) -> None:
    name = add_run(results)
    for path in (*PAGES, f"/runs/{name}"):
        status, headers, text = visitor.ask(path)
        assert status == 200, path
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        addresses = re.findall(r'(?:src|href|action)="([^"]*)"', text)
        assert addresses
        assert all(re.match(r"/(?!/)|#", each) for each in addresses), addresses


def test_files_of_a_run_are_served_without_power(visitor: Visitor, results: Path) -> None:
    name = add_run(results)
    for file, kind in TYPES.items():
        status, headers, _ = visitor.ask(f"/runs/{name}/files/{file}")
        assert (status, headers["content-type"]) == (200, kind)
        assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert ("content-disposition" in headers) == file.endswith(".pcap")


def test_run_leads_to_its_comparison_with_other_commits(visitor: Visitor, results: Path) -> None:
    name = add_run(results, settings={"loss": "1 %"}, commit="0123456789ab")
    add_run(results, started_at="2026-02-02T00:00:00+00:00", commit="ba9876543210")
    page = visitor.ask(f"/runs/{name}")[2]
    (link,) = re.findall(r'href="(/compare\?[^"]*)"', page)
    compared = visitor.ask(link)[2]
    assert "0123456789ab" in compared
    assert "ba9876543210" not in compared


def test_nothing_outside_the_library_is_served(
    visitor: Visitor, results: Path, tmp_path: Path
) -> None:
    name = add_run(results)
    (tmp_path / "secret.txt").write_text("secret")
    (results / name / "linked.txt").symlink_to(tmp_path / "secret.txt")
    for path in (
        f"/runs/{name}/files/linked.txt",
        f"/runs/{name}/files/..%2F..%2Fsecret.txt",
        f"/runs/{name}/files/../../../secret.txt",
        "/runs/..%2Fsecret.txt",
        "/runs/../secret.txt",
        "/static/..%2Fapplication.py",
        "/static/../application.py",
        "/static/__init__.py",
        "/secret.txt",
        "/runs/20260102T030405Z-none",
        "/runs/20260102T030405Z-none/live",
    ):
        status, headers, text = visitor.ask(path)
        assert status == 404, path
        assert "secret" not in text.replace("secret.txt", "")
        assert "content-security-policy" in headers


def test_other_names_of_the_loopback_are_not_answered(visitor: Visitor) -> None:
    status, _, text = visitor.ask("/", Host="rebound.example:80")
    assert status == 421
    assert "Places" not in text.split("<main")[1]


def test_methods_that_change_things_are_refused(visitor: Visitor) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert visitor.ask("/", method=method)[0] == 405
        assert visitor.ask("/runs", method=method)[0] == 405


def test_form_of_another_site_is_refused(serve: Serve, tmp_path: Path) -> None:
    visitor = Visitor(serve("--token-file", str(tmp_path / "token")))
    token = (tmp_path / "token").read_text().strip()
    status, headers, _ = visitor.ask("/login", form={"token": token}, Origin="http://evil.example")
    assert status == 403
    assert "set-cookie" not in headers


def test_token_is_asked_for_and_lets_in(serve: Serve, results: Path, tmp_path: Path) -> None:
    name = add_run(results)
    visitor = Visitor(serve("--token-file", str(tmp_path / "token")))
    token = (tmp_path / "token").read_text().strip()
    closed = (*PAGES, f"/runs/{name}", f"/runs/{name}/files/run.json", "/live", "/nothing")
    for path in closed:
        assert visitor.ask(path)[0] == 401, path
        status, headers, _ = visitor.ask(path, Accept="text/html,*/*")
        assert (status, headers["location"]) == (303, "/login")
        assert visitor.ask(path, Authorization="Bearer wrong")[0] == 401
    assert visitor.ask("/runs", Authorization=f"Bearer {token}")[0] == 200
    assert visitor.ask("/login")[0] == 200
    status, headers, text = visitor.ask("/login", form={"token": token + "x"})
    assert status == 403
    assert "set-cookie" not in headers
    assert "That is not the token" in text
    status, headers, _ = visitor.ask("/login", form={"token": token})
    assert status == 303
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert token not in cookie
    visitor.cookie = cookie.partition(";")[0]
    assert visitor.ask(f"/runs/{name}")[0] == 200
    status, headers, _ = visitor.ask("/logout", form={})
    assert (status, headers["location"]) == (303, "/login")


def test_token_travels_encrypted_where_there_is_a_certificate(serve: Serve, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        (
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=rig", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ),
        check=True,
        capture_output=True,
    )
    token = tmp_path / "token"
    files = ("--certificate", str(certificate), "--key", str(key), "--token-file", str(token))
    address = serve(*files)
    assert address.startswith("https://")
    trust = ssl.create_default_context(cafile=certificate)
    visitor = Visitor(address, trust)
    status, headers, _ = visitor.ask(
        "/login", form={"token": token.read_text().strip()}, Origin=address
    )
    assert status == 303
    assert "Secure" in headers["set-cookie"]


def test_page_beyond_loopback_says_that_the_token_can_be_seen(tmp_path: Path) -> None:
    with served(
        tmp_path,
        *("--listen", "0.0.0.0", "--token-file", str(tmp_path / "token")),
        complaint="without --certificate, whoever sees the network sees the token",
    ) as address:
        visitor = Visitor(address.replace("0.0.0.0", "127.0.0.1"))
        assert visitor.ask("/")[0] == 401
        assert visitor.ask("/", Host="rig.example")[0] == 401


def test_live_stream_tells_what_happens_and_ends_with_the_run(
    visitor: Visitor, results: Path
) -> None:
    with Recorder(results, RUN) as recorder:
        page = visitor.ask("/", Accept="text/html")[2]
        assert f'data-live="/runs/{recorder.folder.name}/live"' in page
        assert 'http-equiv="refresh"' in page
        events = visitor.events(f"/runs/{recorder.folder.name}/live")
        tell_story(recorder)
        seen = [next(events), next(events)]
        while ("status", "Moving from home to link-a") not in seen:
            seen.append(next(events))
        while not any("home → link-a" in data for _, data in seen):
            seen.append(next(events))
        recorder.finish(succeeded=True, handovers=[HANDOVER])
        assert ("reload", "") in list(events)
    assert 'http-equiv="refresh"' not in visitor.ask("/")[2]


def test_live_stream_of_the_first_page_waits_for_a_run(visitor: Visitor, results: Path) -> None:
    events = visitor.events("/live")
    with Recorder(results, RUN) as recorder:
        assert next(events) == ("reload", "")
        recorder.finish(succeeded=True)


def test_watchers_who_left_make_room_for_others(visitor: Visitor, results: Path) -> None:
    gone = [http.client.HTTPConnection(visitor.host, timeout=20) for _ in range(MAX_STREAMS)]
    for connection in gone:
        connection.request("GET", "/live")
        assert connection.getresponse().status == 200
    assert visitor.ask("/live")[0] == 503
    for connection in gone:
        connection.close()
    deadline = time.monotonic() + 10
    with Recorder(results, RUN) as recorder:
        while visitor.ask("/live")[0] == 503:
            assert time.monotonic() < deadline
        recorder.finish(succeeded=True)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--listen", "0.0.0.0"], "name a file for a token with --token-file"),
        (["--listen", "::"], "name a file for a token with --token-file"),
        (["--listen", "rig.example"], "--listen needs an IPv4 or IPv6 address"),
        (["--token-file", "/dev/null"], "is not a file of yours|others can read"),
        (["--token-file", "/nowhere/token"], "No such file"),
        (["--certificate", "/nowhere/pem"], "/nowhere/pem: No such file"),
        (["--certificate", "/etc/hostname"], "/etc/hostname: .*PEM"),
        (["--listen", "192.0.2.1", "--token-file", "{}/token"], "192.0.2.1"),
    ],
)
def test_command_that_would_not_be_safe_or_cannot_be_is_refused(
    tmp_path: Path, options: list[str], complaint: str
) -> None:
    command = (sys.executable, "-m", "mnagent.cli.main", "rig", "serve", "--port", "0")
    ended = subprocess.run(
        (*command, *(each.format(tmp_path) for each in options)), capture_output=True, text=True
    )
    assert ended.returncode == 2
    *_, last = ended.stderr.splitlines()
    assert re.search(complaint, last)
    assert "Traceback" not in ended.stderr
