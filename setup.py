"""Builds the compiled data path: every ``ext/mnagent/**/*.pyx`` becomes its dotted module, and the
in-kernel engine's C becomes one BPF object beside them.

The in-kernel engine needs clang and libbpf's headers. Where one is missing it is left out, which
takes nothing but speed.

MNAGENT_SANITIZE=address,undefined builds with those sanitizers (see ci/sanitize).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SANITIZE = os.environ.get("MNAGENT_SANITIZE", "")
SOURCES = sorted(Path("ext").glob("mnagent/**/*.pyx"))
KERNEL_LOADER = Path("ext/mnagent/datapath/_kernel.pyx")
KERNEL_PROGRAMS = Path("ext/mnagent/datapath/bpf/kernel_engine.bpf.c")
KERNEL_OBJECT = Path("mnagent/datapath/kernel_engine.bpf.o")


def has_libbpf() -> bool:
    """Whether libbpf 1.0 or later can be compiled against and linked with."""
    compiler = os.environ.get("CC", "cc")
    source = "#include <bpf/libbpf.h>\nchar ok[LIBBPF_MAJOR_VERSION >= 1 ? 1 : -1];\n"
    command = [*compiler.split(), "-shared", "-o", "/dev/null", "-x", "c", "-", "-lbpf"]
    try:
        return not subprocess.run(command, input=source, text=True, capture_output=True).returncode
    except OSError:
        return False


def why_no_kernel_engine() -> str:
    """Empty when the in-kernel engine can be built."""
    if shutil.which("clang") is None:
        return "clang is missing"
    if not has_libbpf():
        return "libbpf's headers are missing (libbpf-dev 1.0 or later)"
    return ""


class BuildWithKernelEngine(build_ext):
    """Compiles the BPF object too, to where the modules go."""

    def run(self) -> None:
        super().run()
        if HINDRANCE:
            print(f"the in-kernel engine is left out: {HINDRANCE}", file=sys.stderr)
            return
        root = Path() if self.inplace else Path(self.build_lib)
        target = root / KERNEL_OBJECT
        target.parent.mkdir(parents=True, exist_ok=True)
        # The kernel's own headers lie in the architecture's directory on Debian.
        triplet = sysconfig.get_config_var("MULTIARCH") or ""
        subprocess.run(
            [
                *("clang", "-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror"),
                *("-Wno-unused-parameter", f"-I/usr/include/{triplet}"),
                *("-c", str(KERNEL_PROGRAMS), "-o", str(target)),
            ],
            check=True,
        )

    def get_outputs(self) -> list[str]:
        outputs: list[Any] = super().get_outputs()
        return outputs if HINDRANCE else [*outputs, str(Path(self.build_lib) / KERNEL_OBJECT)]


HINDRANCE = why_no_kernel_engine()
compile_flags = ["-O3", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function"]
link_flags: list[str] = []
if SANITIZE:
    compile_flags = ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}"]
    link_flags = [f"-fsanitize={SANITIZE}"]

extensions = [
    Extension(
        ".".join(source.with_suffix("").parts[1:]),
        [str(source)],
        libraries=["bpf"] if source == KERNEL_LOADER else ["crypto"],
        extra_compile_args=compile_flags,
        extra_link_args=link_flags,
    )
    for source in SOURCES
    if source != KERNEL_LOADER or not HINDRANCE
]

setup(
    cmdclass={"build_ext": BuildWithKernelEngine},
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
    ),
)
