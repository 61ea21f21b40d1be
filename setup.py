"""Builds the compiled data path: every ``ext/mnagent/**/*.pyx`` becomes its dotted module.

MNAGENT_SANITIZE=address,undefined builds with those sanitizers (see ci/sanitize).
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = os.environ.get("MNAGENT_SANITIZE", "")
SOURCES = sorted(Path("ext").glob("mnagent/**/*.pyx"))

compile_flags = ["-O3", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function"]
link_flags: list[str] = []
if SANITIZE:
    compile_flags = ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}"]
    link_flags = [f"-fsanitize={SANITIZE}"]

extensions = [
    Extension(
        ".".join(source.with_suffix("").parts[1:]),
        [str(source)],
        libraries=["crypto"],
        extra_compile_args=compile_flags,
        extra_link_args=link_flags,
    )
    for source in SOURCES
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["ext"],
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "freethreading_compatible": False,
        },
    )
)
