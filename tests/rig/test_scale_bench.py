"""The scale benchmark in short: that it works, not how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench" / "bench_scale.py"
PACKETS = 2000


def test_scale_bench_serves_all_its_nodes_and_carries_their_packets(tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    command = [sys.executable, str(BENCH), "--json", str(file), "--bindings", "1", "40"]
    command += ["--packets", str(PACKETS), "--moved", "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report["results"].keys() == {"1", "40"}
    for result in report["results"].values():
        # Every Binding Update was answered, or the bench had ended.
        assert result["moved"]["per_second"] > 0
        for way in ("packets_up", "packets_down"):
            assert result[way]["lost_share"] < 0.5
    assert report["targets"]["octets_per_binding"]["met"]
