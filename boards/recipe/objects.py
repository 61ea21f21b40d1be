"""The compiled data path, kept between builds: compiling takes most of a build's time, and most
changes are to Python.

Kept objects are found by the contents of all that they are made of. Compilers go by times instead,
so all objects get one time, later than any source's, when they are put back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from boards.recipe import steps

_SUFFIXES = {".c", ".dep", ".o", ".so"}
"""Of what compilers and linkers make. Nothing else is kept: a module that was removed, or a data
file, would come back."""


def name(sources: Mapping[str, Path], *made_with: str) -> str:
    """The piece of the cache for objects made of ``sources``, by their names, and of all else that
    ``made_with`` names."""
    parts = [part for item in sorted(sources.items()) for part in item]
    return f"objects-{steps.digest(*made_with, *parts)}"


@contextmanager
def kept(cache: steps.Cache, name: str, build: Path) -> Iterator[None]:
    """Put back to the folder ``build`` what the cache has of this name, as if it had been compiled
    just now; else keep what the block compiles there."""
    found = cache.find(name)
    if found is not None:
        shutil.copytree(found, build)
        for entry in build.rglob("*"):
            os.utime(entry)
    yield
    if found is None:
        with cache.make(name, keep=4) as piece:
            shutil.copytree(build, piece, ignore=_others)


def _others(folder: str, names: list[str]) -> set[str]:
    return {
        name
        for name in names
        if Path(name).suffix not in _SUFFIXES and not Path(folder, name).is_dir()
    }
