"""Reading the configuration again."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from mnagent.config import Configuration, load
from mnagent.runtime.reload import ReloadRefused, read_change


def test_configuration_that_a_failing_disk_does_not_give_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "correspondent.toml"
    path.write_text('role = "correspondent"\n[correspondent]\n')
    present = load(path)

    def reread() -> Configuration:
        raise OSError(5, "Input/output error")

    with pytest.raises(ReloadRefused, match="Input/output error"):
        asyncio.run(read_change(present, (), reread=reread, entropy=random.Random(1)))
