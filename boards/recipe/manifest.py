"""What is in an image, beside it: for people, rigs that record what they test, and rpi-imager."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from boards.recipe import package, steps
from boards.recipe.description import Board

_BLOCK = 1 << 20


def write(board: Board, *, tree_packages: str, image: Path, raw: Path) -> None:
    """Write ``IMAGE.json`` (what is in it), ``IMAGE.sha256`` and ``IMAGE.imager.json``."""
    compressed = _sha256(image)
    raw_digest = _sha256(raw)
    _json(
        image.with_name(image.name + ".json"),
        {
            "board": board.name,
            "title": board.title,
            "proven": board.proven,
            "suite": board.suite,
            "architecture": board.architecture,
            "mnagent": package.version(),
            "commit": package.commit(),
            "source_date": package.source_date(),
            "image": image.name,
            "image_octets": image.stat().st_size,
            "image_sha256": compressed,
            "raw_octets": raw.stat().st_size,
            "raw_sha256": raw_digest,
            "debian_packages": dict(
                line.split("\t") for line in tree_packages.splitlines() if "\t" in line
            ),
        },
    )
    image.with_name(image.name + ".sha256").write_text(
        f"{compressed}  {image.name}\n", encoding="ascii"
    )
    _json(
        image.with_name(image.name + ".imager.json"),
        {
            "os_list": [
                {
                    "name": f"mnagent for {board.title}",
                    "description": "Mobile IPv6: one address for a device that moves",
                    "url": image.name,
                    "extract_size": raw.stat().st_size,
                    "extract_sha256": raw_digest,
                    "image_download_size": image.stat().st_size,
                    "image_download_sha256": compressed,
                    "release_date": _day(package.source_date()),
                    "init_format": "none",
                }
            ]
        },
    )


def installed_packages(tree: Path) -> str:
    """Names and versions of all Debian packages in ``tree``, a line each, separated by a tab."""
    return steps.run(
        [
            "dpkg-query",
            f"--admindir={tree / 'var/lib/dpkg'}",
            "-W",
            "-f",
            "${Package}\t${Version}\n",
        ]
    )


def _day(seconds: int) -> str:
    return steps.run(["date", "--utc", "+%Y-%m-%d", f"--date=@{seconds}"]).strip()


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


def _json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
