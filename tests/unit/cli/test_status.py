"""``mnagent status``: sentences, JSON, repainting, and what happens when nobody answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mnagent.cli.duration import duration
from mnagent.cli.main import main
from mnagent.cli.path_text import PEERS_SHOWN
from mnagent.cli.status_text import NODE_STATES, render
from mnagent.mobility.home_link import HomeLinkState
from mnagent.mobility.home_registration import RegistrationState

AWAY: dict[str, Any] = {
    "role": "mobile-node",
    "uptime": 3725.2,
    "now": 5000.0,
    "process": 77,
    "tunnel_interface": "mnagent0",
    "missing_interfaces": ["wlan1"],
    "agent": {
        "role": "mobile-node",
        "now": 5000.0,
        "interfaces": [
            {
                "index": 3,
                "name": "wlan0",
                "up": True,
                "link_layer_address": "02:00:00:00:00:01",
                "addresses": {"2001:db8:a::10": "preferred"},
            }
        ],
        "counters": {},
        "mobile_node": {
            "home_address": "2001:db8:1::10",
            "home_agent": "2001:db8:1::1",
            "state": "registered",
            "at_home": False,
            "care_of_address": "2001:db8:a::10",
            "bound_care_of_address": "2001:db8:a::10",
            "binding_lifetime_remaining": 412.5,
            "sequence": 7,
            "last_status": 0,
            "tunnel": "2001:db8:a::10",
            "handovers": [
                {
                    "link_up_at": 4990.0,
                    "interface": "wlan0",
                    "care_of_address": "2001:db8:a::10",
                    "care_of_address_ready_at": 4990.05,
                    "update_sent_at": 4990.051,
                    "acknowledged_at": 4990.1,
                    "at_home": False,
                },
                {"link_up_at": 4995.0, "at_home": True},
            ],
        },
        "home_agent": None,
    },
    "counters": {"malformed": 0, "drop-replay": 2},
}


def changed(**node: Any) -> dict[str, Any]:
    agent = {**AWAY["agent"], "mobile_node": {**AWAY["agent"]["mobile_node"], **node}}
    return {**AWAY, "agent": agent}


def test_status_without_an_answer_says_what_to_look_at() -> None:
    assert "key files" in render(changed(state="registering", unanswered=True))
    assert "key files" not in render(changed(state="registering", unanswered=False))


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        ({"kind": "userspace"}, "Packets are carried in user space."),
        (
            {"kind": "userspace", "reason": "libbpf is missing"},
            "Packets are carried in user space (libbpf is missing).",
        ),
        (
            {
                "kind": "kernel",
                "attachment": "tcx",
                "survives_restart": True,
                "in_kernel": 2,
                "in_user_space": 1,
            },
            "Packets are carried in the kernel (tcx), also while the agent restarts: "
            "2 paths there, 1 in user space.",
        ),
        (
            {"kind": "kernel", "attachment": "tcx", "trouble": "Too many open files"},
            "Packets are carried in the kernel (tcx): 0 paths there, 0 in user space. "
            "The kernel is not reached: Too many open files.",
        ),
    ],
    ids=["userspace", "why", "kernel", "trouble"],
)
def test_render_says_which_engine_carries(engine: dict[str, Any], line: str) -> None:
    assert line in render({**AWAY, "engine": engine}).splitlines()


def test_render_mobile_node_away_says_where_it_is() -> None:
    text = render(AWAY)
    assert "Mobile node, running for 1 h 2 min, process 77, tunnel interface mnagent0." in text
    assert "Away from home, registered with the home agent." in text
    assert "2001:db8:a::10, for another 6 min 52 s" in text
    assert "from 2001:db8:a::10" in text
    assert "       50 ms        51 ms        100 ms  2001:db8:a::10" in text
    assert "(home)" in text
    assert "wlan0  up" in text
    assert "wlan1  missing" in text
    assert "drop-replay  2" in text
    assert "malformed" not in text


def test_render_mobile_node_at_home_has_no_tunnel_line() -> None:
    text = render(changed(state="at-home", at_home=True, tunnel=None, bound_care_of_address=None))
    assert "At home: packets take the home link" in text
    assert "tunnel   " not in text


def test_render_refusal_is_a_sentence() -> None:
    text = render(changed(state="refused", last_status=132))
    assert "refuses the registration" in text
    assert "(status 132)" in text
    assert "home address" in text


def test_render_unknown_state_and_missing_parts_are_survived() -> None:
    assert "State: dancing." in render(changed(state="dancing"))
    assert render({}) == "Agent."
    assert "Mobile node" in render({"role": "mobile-node", "agent": {"mobile_node": {}}})


def test_render_knows_every_state_of_the_mobile_node() -> None:
    states = {state.value for state in RegistrationState} | {"at-home", "detached"}
    states |= {
        f"at-home-{state.value}" for state in HomeLinkState if state is not HomeLinkState.IN_USE
    }
    assert states <= set(NODE_STATES)


@pytest.mark.parametrize(
    ("bindings", "sentence"),
    [(0, "No mobile node is away"), (1, "One mobile node is away"), (2, "2 mobile nodes are away")],
)
def test_render_home_agent_lists_its_bindings(bindings: int, sentence: str) -> None:
    entries = [
        {
            "home_address": f"2001:db8:1::{number}",
            "care_of_address": "2001:db8:a::1",
            "lifetime_remaining": 60.0,
            "sequence": 1,
        }
        for number in range(bindings)
    ]
    home_agent = {"state": "serving", "bindings": entries, "probing": ["2001:db8:1::9"]}
    text = render({"role": "home-agent", "agent": {"home_agent": home_agent}})
    assert sentence in text
    assert text.count("at 2001:db8:a::1, for another 1 min") == bindings
    assert "2001:db8:1::9  being checked" in text


def test_render_home_agent_of_many_says_how_many_more() -> None:
    entry = {"home_address": "1::1", "care_of_address": "1::2", "lifetime_remaining": 1.0}
    home_agent = {
        "state": "serving",
        "bindings": [entry],
        "probing": ["1::3"],
        "binding_count": 1001,
        "probing_count": 8,
    }
    text = render({"agent": {"home_agent": home_agent}})
    assert "1001 mobile nodes are away" in text
    assert "and 1000 more (`mnagent bindings list` shows all)" in text
    assert "and 7 more being checked" in text


def test_render_home_agent_without_its_link_waits() -> None:
    home_agent = {"state": "waiting-for-home-link", "bindings": [], "probing": []}
    assert "Waiting for the home link" in render({"agent": {"home_agent": home_agent}})


DIRECT: dict[str, Any] = {
    "correspondent": "2001:db8:c::1",
    "path": "direct",
    "state": "bound",
    "care_of_address": "2001:db8:a::10",
    "binding_lifetime_remaining": 400.0,
    "home_token_age": 62.5,
    "care_of_token_age": 3.0,
    "reason": None,
}
NOT_DIRECT: dict[str, Any] = {
    **DIRECT,
    "correspondent": "2001:db8:c::2:3",
    "path": "home-agent",
    "state": "suspended",
    "care_of_address": None,
    "home_token_age": None,
    "care_of_token_age": None,
    "reason": "no-answer-to-tests",
}
PEER: dict[str, Any] = {
    "home_address": "2001:db8:1::10",
    "correspondent": "2001:db8:c::1",
    "care_of_address": "2001:db8:a::10",
    "lifetime_remaining": 100.0,
    "sequence": 4,
    "unused_for": 1.0,
}


def test_render_correspondents_says_which_way_and_why_not_directly() -> None:
    text = render(changed(correspondents=[DIRECT, NOT_DIRECT]))
    assert "Correspondents: 1 directly, 1 through the home agent." in text
    assert (
        "  2001:db8:c::1    direct from 2001:db8:a::10, for another 6 min 40 s "
        "(home token 1 min 2 s old, care-of token 3 s old)\n"
    ) in text
    assert (
        "  2001:db8:c::2:3  through the home agent: it does not answer the address tests\n" in text
    )


@pytest.mark.parametrize(
    ("reason", "words"),
    [("policy", "route_optimization says so"), ("expired-nonces", "expired nonces")],
)
def test_render_reason_is_in_words(reason: str, words: str) -> None:
    text = render(changed(correspondents=[{**NOT_DIRECT, "reason": reason}]))
    assert f"through the home agent: {words}\n" in text


def test_render_many_correspondents_names_the_first() -> None:
    text = render(changed(correspondents=[DIRECT] * (PEERS_SHOWN + 3)))
    assert "and 3 more (--json has all)" in text


@pytest.mark.parametrize(
    ("count", "sentence"),
    [(0, "No mobile node sends"), (1, "One mobile node sends"), (2, "2 mobile nodes send")],
)
def test_render_correspondent_lists_its_bindings(count: int, sentence: str) -> None:
    node = {"addresses": ["2001:db8:c::1"], "bindings": [PEER] * count}
    text = render({"role": "correspondent", "correspondent_node": node})
    assert text.startswith("Correspondent.\n")
    assert f"{sentence} to this host directly." in text
    line = "2001:db8:1::10  at 2001:db8:a::10, for another 1 min 40 s, to 2001:db8:c::1"
    assert text.count(line) == count


def test_render_correspondent_of_many_says_how_many_more() -> None:
    node = {"addresses": [], "bindings": [PEER] * (PEERS_SHOWN + 1), "binding_count": 2000}
    text = render({"role": "correspondent", "correspondent_node": node})
    assert "2000 mobile nodes send" in text
    assert f"and {2000 - PEERS_SHOWN} more" in text


def test_render_mobile_node_without_peers_has_nothing_to_say_about_them() -> None:
    node = {"addresses": [], "bindings": []}
    agent = {**AWAY["agent"], "correspondent_node": node}
    assert render({**AWAY, "agent": agent}) == render(AWAY)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (90061, "1 d 1 h")],
)
def test_duration_has_the_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@contextmanager
def answering(path: Path, *answers: bytes) -> Iterator[None]:
    """A stand-in for the agent: one connection and one line for each answer."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(10)
        listener.close()


def result(status: dict[str, Any]) -> bytes:
    return json.dumps({"id": 1, "result": status}).encode() + b"\n"


def test_status_prints_sentences_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s"
    with answering(path, result(AWAY), result(AWAY)):
        assert main(["status", "--socket", str(path)]) == 0
        assert capsys.readouterr().out == render(AWAY) + "\n"
        assert main(["status", "--socket", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == AWAY


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "no agent answers"),
        (b'{"id":1,"result":', "no agent answers"),
        (b"nonsense\n", "cannot read the agent's answer"),
        (b'{"id":1}\n', "has no result"),
        (b'{"id":1,"error":{"code":"internal","message":"it broke"}}\n', "it broke (internal)"),
    ],
)
def test_status_bad_answer_is_one_line(
    answer: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s"
    with answering(path, answer):
        assert main(["status", "--socket", str(path)]) == 1
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_status_nobody_there_names_the_configured_socket_and_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = tmp_path / "c.toml"
    configuration.write_text(
        'role = "mobile-node"\n[mobile_node]\nhome_address = "2001:db8:1::10"\n'
        'home_agent = "2001:db8:1::1"\ninterfaces = ["e"]\nkeys = "k"\n'
        f'[host]\ncontrol_socket = "{tmp_path}/there.sock"\n'
    )
    assert main(["status", "-c", str(configuration)]) == 1
    message = capsys.readouterr().err
    assert f"{tmp_path}/there.sock: no agent answers" in message
    assert "mnagent run" in message


@pytest.mark.parametrize("terminal", [False, True])
def test_status_watch_repaints_until_interrupted_and_outlives_a_restart(
    terminal: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "s"
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("mnagent.cli.status.time.sleep", sleep)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    with answering(path, result(AWAY), b"", result(AWAY)):
        assert main(["status", "--socket", str(path), "--watch", "--interval", "0.5"]) == 0
    output = capsys.readouterr().out
    assert slept == [0.5] * 3
    assert output.count("Mobile node, running") == 2
    assert output.count("no agent answers") == 1
    assert output.count("\x1b[2J") == (3 if terminal else 0)


def test_status_watch_json_is_one_line_a_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mnagent.cli.status.time.sleep", interrupt)
    with answering(path, result(AWAY)):
        assert main(["status", "--socket", str(path), "--watch", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == AWAY
