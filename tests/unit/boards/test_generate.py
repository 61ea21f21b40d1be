"""What a Debian package has beside the program is made from the program, and is true."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from boards.recipe import description
from mnagent.cli.main import COMMAND_MODULES

SCRIPT = description.BOARDS / "debian/generate.py"
METADATA = """Metadata-Version: 2.4
Name: wheel-of-others
Version: 1.2
License-Expression: BSD-3-Clause

long description
"""


def _load() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generate", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


generate = _load()


def test_manual_has_every_command_and_option() -> None:
    text = generate.manual()
    for command in COMMAND_MODULES:
        assert f".SS {command}".replace("-", "\\-") in text
    assert "\\-\\-home\\-agent" in text
    assert ".SS bench crypto" in text


@pytest.mark.parametrize("kind", ["manual", "configuration"])
def test_manual_page_is_understood_without_a_warning(kind: str, tmp_path: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    page = getattr(generate, kind)()
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-z"],
        input=page,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_configuration_manual_has_every_line_of_the_reference() -> None:
    page = generate.configuration().replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")
    for line in (description.BOARDS.parent / generate.REFERENCE).read_text().splitlines():
        assert line in page


def _complete(*words: str) -> list[str]:
    """What bash would offer for the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        f"{generate.completion()}\nCOMP_WORDS=(mnagent {quoted}); COMP_CWORD={len(words)}\n"
        "_mnagent; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_completion_offers_commands_options_and_values() -> None:
    assert _complete("ke") == ["keygen"]
    assert _complete("bench", "") == ["crypto", "--seconds", "--json", "--help"]
    assert _complete("keygen", "--encryption", "") == ["aes-cbc-128", "aes-cbc-256"]
    assert _complete("run", "-c", "") == []


def test_copyright_has_the_text_of_each_licence(tmp_path: Path) -> None:
    about = tmp_path / "wheel_of_others-1.2.dist-info"
    (about / "licenses").mkdir(parents=True)
    (about / "METADATA").write_text(METADATA)
    (about / "licenses/LICENSE").write_text("Copyright (c) 2020 Others\n\nDo as you like.\n")
    text = generate.copyright_file(tmp_path)
    assert "License: Apache-2.0\n" in text
    assert "License: BSD-3-Clause-of-wheel-of-others\n" in text
    assert "Copyright: Copyright (c) 2020 Others\n" in text
    assert " .\n Do as you like.\n" in text


def test_package_without_the_text_of_its_licence_is_refused(tmp_path: Path) -> None:
    about = tmp_path / "wheel_of_others-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(METADATA)
    with pytest.raises(SystemExit, match=r"wheel-of-others 1\.2 comes without"):
        generate.copyright_file(tmp_path)


@pytest.mark.parametrize("example", sorted(SCRIPT.with_name("examples").glob("*.toml")))
def test_example_configuration_is_good(example: Path) -> None:
    from mnagent.config import load

    assert load(example).role.value == example.stem
