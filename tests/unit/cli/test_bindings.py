"""``mnagent bindings`` and ``mnagent reload``, with an agent that a test plays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mnagent.cli import bindings, status
from mnagent.cli.main import main
from mnagent.control.client import ControlError

BINDINGS = {
    "now": 100.0,
    "bindings": [
        {
            "home_address": "2001:db8:1::10",
            "care_of_address": "2001:db8:a::5054:ff:fe12:3456",
            "lifetime_remaining": 431.2,
            "sequence": 17,
        }
    ],
}


class Agent:
    """Answers as told, and remembers the questions."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.error: ControlError | None = None

    def request(
        self, path: Path, method: str, timeout: float, *, arguments: dict[str, str]
    ) -> dict[str, Any]:
        self.asked.append((method, arguments))
        if self.error is not None:
            raise self.error
        return self.answers.get(method, {})


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    agent = Agent()
    monkeypatch.setattr(status, "request", agent.request)
    return agent


def test_list_shows_a_table(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answers["bindings"] = BINDINGS
    assert main(["bindings", "list"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "home address"
    assert line.split() == [
        "2001:db8:1::10",
        "2001:db8:a::5054:ff:fe12:3456",
        "7",
        "min",
        "11",
        "s",
    ]
    assert head.index("left") == line.index("7 min")


def test_list_of_many_asks_page_by_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = BINDINGS["bindings"][0]
    following = {**one, "home_address": "2001:db8:1::11"}
    pages = {
        "": {"now": 1.0, "bindings": [one], "left": 1},
        "2001:db8:1::10": {"now": 2.0, "bindings": [following], "left": 0},
    }

    def request(path: Path, method: str, timeout: float, *, arguments: dict[str, str]) -> Any:
        return pages[arguments["after"]]

    monkeypatch.setattr(status, "request", request)
    assert main(["bindings", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"now": 2.0, "bindings": [one, following]}


def test_list_without_bindings_says_so(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bindings", "list"]) == 0
    assert capsys.readouterr().out == "No bindings.\n"


def test_list_as_json_is_the_answer(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answers["bindings"] = BINDINGS
    assert main(["bindings", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == BINDINGS


def test_delete_ends_each_binding(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bindings", "delete", "2001:db8:1:0::10", "2001:db8:1::11"]) == 0
    assert agent.asked == [
        ("delete-binding", {"home_address": "2001:db8:1::10"}),
        ("delete-binding", {"home_address": "2001:db8:1::11"}),
    ]
    assert capsys.readouterr().out.count("has ended") == 2


def test_switch_names_who_is_asked_and_where_to(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.answers["switch-home-agent"] = {"home_addresses": ["2001:db8:1::10"]}
    to = ("--home-agent", "2001:db8:1::3", "--home-agent", "2001:db8:1::2")
    assert main(["bindings", "switch", "2001:db8:1::10", "2001:db8:1::11", *to]) == 0
    arguments = {
        "home_addresses": "2001:db8:1::10 2001:db8:1::11",
        "home_agents": "2001:db8:1::3 2001:db8:1::2",
    }
    assert agent.asked == [("switch-home-agent", arguments)]
    assert capsys.readouterr().out.startswith("2001:db8:1::10: asked to switch")


def test_switch_of_nobody_says_so(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answers["switch-home-agent"] = {"home_addresses": []}
    assert main(["bindings", "switch"]) == 0
    assert agent.asked == [("switch-home-agent", {"home_addresses": "", "home_agents": ""})]
    assert "No mobile node" in capsys.readouterr().out


def test_switch_waits_until_those_asked_have_left(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        agent.answers["bindings"] = {"bindings": [{"home_address": "2001:db8:1::11"}]}

    monkeypatch.setattr(bindings.time, "sleep", sleep)
    agent.answers |= {
        "switch-home-agent": {"home_addresses": ["2001:db8:1::10"]},
        "bindings": BINDINGS,
    }
    assert main(["bindings", "switch", "--wait", "60"]) == 0
    assert looks == [bindings.POLL_INTERVAL]


def test_switch_that_somebody_does_not_follow_in_time_fails(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((0.0, 0.1, 0.2))
    monkeypatch.setattr(bindings.time, "sleep", lambda _: None)
    monkeypatch.setattr(bindings.time, "monotonic", lambda: next(clock))
    agent.answers |= {
        "switch-home-agent": {"home_addresses": ["2001:db8:1::10"]},
        "bindings": BINDINGS,
    }
    assert main(["bindings", "switch", "--wait", "0.2"]) == 1
    assert capsys.readouterr().err == "still here: 2001:db8:1::10\n"


def test_delete_of_what_is_no_address_is_bad_input(agent: Agent) -> None:
    assert main(["bindings", "delete", "nobody"]) == 2
    assert agent.asked == []


def test_delete_that_is_refused_says_why(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.error = ControlError("refused", "2001:db8:1::10 has no binding here")
    assert main(["bindings", "delete", "2001:db8:1::10"]) == 1
    assert capsys.readouterr().err.strip().endswith("2001:db8:1::10 has no binding here")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (["home_agent.mobile_nodes"], "reloaded: home_agent.mobile_nodes\n"),
        ([], "reloaded: nothing has changed\n"),
    ],
)
def test_reload_says_what_changed(
    changed: list[str], text: str, agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.answers["reload"] = {"changed": changed}
    assert main(["reload"]) == 0
    assert capsys.readouterr().out == text


def test_reload_that_is_refused_is_status_1(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.error = ControlError("refused", "cannot change while running: home_agent.address")
    assert main(["reload"]) == 1
    assert "cannot change while running" in capsys.readouterr().err
