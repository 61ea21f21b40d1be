"""What the daemon does not load."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LIST_MODULES = "import json, sys; print(json.dumps(list(sys.modules)))"


def modules_after(statements: str) -> set[str]:
    """What a fresh Python has loaded after some statements."""
    command = [sys.executable, "-c", f"{statements}\n{LIST_MODULES}"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return set(json.loads(done.stdout))


def test_asyncio_is_loaded_without_tls_which_stays_to_be_had() -> None:
    load = "from mnagent.runtime import plain_asyncio\nplain_asyncio.load()"
    loaded = modules_after(load)
    assert "asyncio" in loaded
    assert "ssl" not in loaded
    assert "_ssl" in modules_after(f"{load}\nimport ssl")


def test_asyncio_that_is_there_already_is_left_as_it_is() -> None:
    load = "import asyncio\nfrom mnagent.runtime import plain_asyncio\nplain_asyncio.load()"
    assert {"asyncio", "ssl"} <= modules_after(load)


@pytest.mark.parametrize(
    "module",
    ["ssl", "shutil", "cryptography", "mnagent.mobility.home_agent", "mnagent.rig"],
)
def test_daemon_of_a_mobile_node_does_without(module: str) -> None:
    loaded = modules_after(
        "from mnagent.cli import main, run\n"
        "main.build_parser()\n"
        "run.plain_asyncio.load()\n"
        "import mnagent.runtime.service, mnagent.agent.build\n"
    )
    assert "mnagent.mobility.mobile_node" in loaded
    assert module not in loaded
