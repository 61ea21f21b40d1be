"""Prometheus text and the loopback server for it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import pytest

from mnagent.agent.handovers import BUCKETS, CORRESPONDENT_PHASES, PHASES, HandoverLog
from mnagent.control.metrics import MAX_REQUEST_LENGTH, MetricsServer, exposition
from mnagent.core.actions import ReportEvent
from mnagent.core.events import LinkUp


def status() -> dict[str, Any]:
    log = HandoverLog()
    for index in range(2):
        log.link_changed(LinkUp(interface=2, name="eth0", link_layer_address=b""), 10.0 * index)
        details = (("address", f"2001:db8:a::{index}"), ("interface", "2"))
        log.observe(ReportEvent(name="care-of-address-ready", details=details), 10.0 * index + 0.02)
    return {
        "uptime": 12.5,
        "counters": {"drop-malformed": 3, 'odd"name': 1},
        "mobile_node": {
            "home_address": "2001:db8:1::10",
            "state": "registered",
            "at_home": False,
            "binding_lifetime_remaining": 400.0,
            "handover_totals": log.totals,
        },
    }


def test_exposition_has_help_type_and_value_of_each_metric() -> None:
    lines = exposition(status()).splitlines()
    assert "mnagent_uptime_seconds 12.5" in lines
    assert 'mnagent_events_total{name="drop-malformed"} 3' in lines
    assert 'mnagent_events_total{name="odd\\"name"} 1' in lines
    assert 'mnagent_handovers_total{home_address="2001:db8:1::10"} 1' in lines
    named = {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    bases = {re.sub("_(bucket|sum|count)$", "", name) for name in named}
    assert bases == typed
    assert {"mnagent_uptime_seconds", "mnagent_handover_phase_seconds"} <= typed


def test_histogram_of_a_phase_counts_up() -> None:
    phase = 'home_address="2001:db8:1::10",phase="care-of-address"'
    lines = exposition(status()).splitlines()
    counts = [
        int(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(f"mnagent_handover_phase_seconds_bucket{{{phase}")
    ]
    assert counts == [*(int(bound >= 0.02) for bound in BUCKETS), 1]
    assert f"mnagent_handover_phase_seconds_count{{{phase}}} 1" in lines
    sums = sum("_phase_seconds_sum{" in line for line in lines)
    assert sums == len(PHASES) + len(CORRESPONDENT_PHASES)


def test_home_agent_and_bare_agent_have_metrics_too() -> None:
    assert "mnagent_bindings 2\n" in exposition({"home_agent": {"binding_count": 2}})
    assert "mnagent_uptime_seconds 0.0" in exposition({})
    assert "mnagent_handovers_total" in exposition({"mobile_node": {}})


def ask(request: bytes, answer: Mapping[str, Any] | Exception) -> str:
    def current() -> Mapping[str, Any]:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def talk() -> bytes:
        server = MetricsServer(0, current)
        await server.start()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port_of("127.0.0.1"))
            writer.write(request)
            octets = await reader.read()
            writer.close()
            return octets
        finally:
            await server.stop()

    return asyncio.run(talk()).decode()


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        (b"GET /metrics HTTP/1.1", "200 OK"),
        (b"GET /metrics?x=1 HTTP/1.0", "200 OK"),
        (b"GET / HTTP/1.1", "404 Not Found"),
        (b"POST /metrics HTTP/1.1", "405 Method Not Allowed"),
        (b"nonsense", "405 Method Not Allowed"),
        (b"GET /" + b"x" * MAX_REQUEST_LENGTH, "431 Request Header Fields Too Large"),
    ],
)
def test_server_answers_one_request(request_line: bytes, expected: str) -> None:
    answer = ask(request_line + b"\r\nHost: x\r\n\r\n", status())
    assert answer.startswith(f"HTTP/1.1 {expected}\r\n")
    assert ("mnagent_uptime_seconds" in answer) == (expected == "200 OK")


def test_server_survives_a_status_that_fails() -> None:
    assert "500 Internal" in ask(b"GET /metrics HTTP/1.1\r\n\r\n", ValueError("no"))


def test_server_that_never_started_stops() -> None:
    asyncio.run(MetricsServer(0, dict).stop())
