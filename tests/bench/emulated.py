"""The engine as an aarch64 board runs it, under QEMU's user mode, with its instructions counted.

The modules are cross-compiled, the interpreter is Debian's library for that processor with a `main`
around it, and a plugin (`count_instructions.c`) counts. Nothing of it needs a board or root.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "emulated"
COMPILER = "aarch64-linux-gnu-gcc"
QEMU = "qemu-aarch64"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBRARIES = Path("/usr/lib/aarch64-linux-gnu")
INTERPRETER = LIBRARIES / f"libpython{PYTHON}.so.1.0"
PACKAGES = f"gcc-aarch64-linux-gnu libpython{PYTHON}-dev:arm64 libssl-dev:arm64 qemu-user"
MAIN = "int Py_BytesMain(int, char **); int main(int c, char **v) { return Py_BytesMain(c, v); }"
# Python runs it as it starts, for it is called sitecustomize: the compiled modules are elsewhere.
FINDER = """
import sys
from importlib.machinery import PathFinder
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        folder, _, last = name.rpartition(".")
        if folder == "mnagent.datapath" and last.startswith("_"):
            return PathFinder.find_spec(name, [FOLDER + "/lib/mnagent/datapath"])
sys.meta_path.insert(0, Finder)
"""
MODULE, COUNT = 627500, 627501
"""Numbers of system calls that only the plugin sees, also in count_instructions.c."""
ENGINE, CRYPTO, ANYONES = 1, 2, 3
MEMORY_PORTS = ("_pipeline.", "python")
"""Not part of what carries packets."""


@dataclass(frozen=True, slots=True)
class Processor:
    """One that QEMU can be; ``capabilities`` is what libcrypto takes it to have, if not all."""

    name: str
    model: str
    capabilities: str = ""


PROCESSORS = (
    # Raspberry Pi 5, and most boards of today: instructions for AES.
    Processor("cortex-a76", "cortex-a76"),
    # Raspberry Pi 3 and 4: that processor, but Broadcom left the instructions for AES out.
    Processor("cortex-a72", "cortex-a72", capabilities="0x1"),
)


def missing() -> str:
    """What to install, as Debian calls it; empty when all is there."""
    tools = all(map(shutil.which, (COMPILER, QEMU, "cc")))
    headers = LIBRARIES / "libcrypto.so", INTERPRETER
    return "" if tools and all(path.exists() for path in headers) else PACKAGES


def build() -> Path:
    """The folder with interpreter, plugin and modules, made when a source changed."""
    sources = sorted(path for path in (ROOT / "ext").rglob("*") if path.is_file())
    sources += [ROOT / "setup.py", Path(__file__), Path(__file__).with_name("count_instructions.c")]
    stamp = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    done = FOLDER / "stamp"
    if done.exists() and done.read_text() == stamp:
        return FOLDER
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    (FOLDER / "main.c").write_text(MAIN)
    (FOLDER / "sitecustomize.py").write_text(f"FOLDER = {str(FOLDER)!r}\n{FINDER}")
    plugin = str(Path(__file__).with_name("count_instructions.c"))
    _run("cc", "-O2", "-shared", "-fPIC", "-o", str(FOLDER / "count.so"), plugin)
    _run(COMPILER, "-o", str(FOLDER / "python"), str(FOLDER / "main.c"), str(INTERPRETER))
    cross = {
        "_PYTHON_SYSCONFIGDATA_NAME": "_sysconfigdata__linux_aarch64-linux-gnu",
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "CC": COMPILER,
        "LDSHARED": f"{COMPILER} -shared",
    }
    target = ("--build-lib", str(FOLDER / "lib"), "--build-temp", str(FOLDER / "temp"))
    _run(sys.executable, "setup.py", "-q", "build_ext", *target, **cross)
    done.write_text(stamp)
    return FOLDER


def _run(*command: str, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def count(processor: Processor, program: str, arguments: Sequence[str]) -> tuple[int, int]:
    """Instructions in the program's `counted` blocks: the engine's, and libcrypto's."""
    folder = build()
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch) / "count"
        command = [QEMU, "-cpu", processor.model]
        command += ["-plugin", f"{folder / 'count.so'},into={found}"]
        if processor.capabilities:
            command += ["-E", f"OPENSSL_armcap={processor.capabilities}"]
        # All symbols are bound before anything is counted.
        command += ["-E", "LD_BIND_NOW=1", "-E", f"PYTHONPATH={folder}"]
        command += ["-E", "PYTHONDONTWRITEBYTECODE=1", str(folder / "python"), program, *arguments]
        _run(*command)
        engine, crypto = found.read_text().split()
        return int(engine), int(crypto)


def _name_modules() -> None:
    """In the emulated program: tell the plugin where the modules are that count."""
    system = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, _, _, _, *rest = line.split(None, 5)
        path = rest[0] if rest else ""
        name = path.rpartition("/")[2]
        if "x" not in rights:
            continue
        if path.startswith(str(FOLDER)) and not name.startswith(MEMORY_PORTS):
            kind = ENGINE
        elif name.startswith("libcrypto."):
            kind = CRYPTO
        elif name.startswith(("libc.", "ld-linux")):
            kind = ANYONES
        else:
            continue
        start, end = (ctypes.c_uint64(int(part, 16)) for part in span.split("-"))
        system.syscall(ctypes.c_long(MODULE), start, end, ctypes.c_uint64(kind))


@cache
def _system() -> ctypes.CDLL:
    """The C library, once the plugin knows the modules, which are all loaded by then."""
    _name_modules()
    return ctypes.CDLL(None)


@contextmanager
def counted() -> Iterator[None]:
    """In the emulated program: count what happens in here."""
    system = _system()
    system.syscall(ctypes.c_long(COUNT), ctypes.c_uint64(1))
    try:
        yield
    finally:
        system.syscall(ctypes.c_long(COUNT), ctypes.c_uint64(0))
