"""The commands of boards/: what they refuse, with which words, and what is left after a failure."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from boards.recipe import description, package, steps
from boards.recipe.errors import BuildError

BOARDS = description.BOARDS
PATIENCE = 10.0
"""Seconds."""


def command(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BOARDS / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("name", description.names())
def test_check_of_a_board_of_the_project_says_that_it_is_good(name: str) -> None:
    done = command("build", name, "--check")
    assert done.returncode == 0
    assert "well described" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("toaster", "--check"), "no board 'toaster'; there are: rpi3"),
        (("virt",), "where to? name the image with -o"),
        (("virt", "-o", "/no/such/folder/x.img.zst"), "/no/such/folder is not a folder"),
        ((), "which board? one of"),
    ],
)
def test_build_refuses_what_it_cannot_do_in_one_line(
    arguments: tuple[str, ...], words: str
) -> None:
    done = command("build", *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_build_without_its_tools_names_the_packages_to_install(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gets that far")
    with pytest.raises(BuildError, match="apt install mmdebstrap mtools"):
        steps.need_tools({"no-mmdebstrap": "mmdebstrap", "no-mcopy": "mtools"})
    done = command("build", "virt", "-o", str(tmp_path / "x.img.zst"), PATH=str(tmp_path))
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_package_refuses_a_folder_that_is_not_there() -> None:
    done = command("package", "-o", "/no/such/folder")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/no/such/folder is not a folder" in done.stderr


def test_contained_command_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    script = f"exec 9>{alive}; echo >&9; sleep 300 & sleep 300"
    starter = (
        f"import sys; sys.path.insert(0, {str(package.ROOT)!r})\n"
        "from boards.recipe import steps\n"
        f"steps.run(steps.contained(['sh', '-c', {script!r}]))"
    )
    descriptor = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    process = subprocess.Popen([sys.executable, "-c", starter], start_new_session=True)
    assert _next_of(descriptor) == b"\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The last one that has it open for writing is gone.
    assert _next_of(descriptor) == b""
    os.close(descriptor)


def _next_of(descriptor: int) -> bytes:
    """What comes from a pipe next; nothing is its end."""
    assert select.select([descriptor], [], [], PATIENCE)[0]
    return os.read(descriptor, 1)


def test_failure_of_a_contained_command_is_told_without_its_wrapping() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with pytest.raises(BuildError, match=r"^`sh -c false \.\.\.` ended with 1"):
        steps.run(steps.contained(["sh", "-c", "false"]))


def test_what_a_killed_build_left_beside_the_image_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "unfinished-999999999-abc"
    (left / "tree").mkdir(parents=True)
    with steps.unfinished(tmp_path) as ours:
        steps.remove_unfinished(tmp_path)
        assert ours.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suite", description.SUITES)
def test_every_release_of_debian_has_its_python_and_number(suite: str) -> None:
    assert package.PYTHON[suite].startswith("3.")
    assert package.RELEASE[suite] >= 12


def test_package_carries_only_what_debian_lacks() -> None:
    names = package.dependencies()
    assert any(name.startswith("msgspec") for name in names)
    assert not any(name.startswith(("netifaces", "cryptography")) for name in names)
