"""The Debian package of mnagent, cross-built in a build root of the board's own Debian release.

The build root is a Debian of this machine's architecture with the board's compiler and libraries in
it, so nothing foreign is installed on the machine that builds, and its release does not matter.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from boards.recipe import objects, steps
from boards.recipe.errors import BuildError

ROOT = Path(__file__).resolve().parents[2]
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}
"""Python of each release of Debian."""
RELEASE = {"bookworm": 12, "trixie": 13}
"""Number of each release of Debian."""

_DEBIAN_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Processors there are packages for, by Debian's name."""
_SOURCES = (
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "boards/debian",
    "ext",
    "mnagent",
    "pyproject.toml",
    "setup.py",
)
_COMPILED = ("boards/debian/rules", "ext/", "setup.py")
"""Where those of the sources are that the compiled data path is made of."""
_FROM_DEBIAN = {"netifaces"}
"""Dependencies that the package declares instead of carrying them along."""


def cache_folder() -> Path:
    """Where finished pieces are kept: MNAGENT_CACHE, or a folder of the tree."""
    return Path(os.environ.get("MNAGENT_CACHE", ROOT / "build" / "boards"))


def host_architecture() -> str:
    """Debian's name for this machine's processor; raises `BuildError` for one without packages."""
    try:
        return _DEBIAN_ARCHITECTURE[platform.machine()]
    except KeyError:
        raise BuildError(
            f"a machine with a {platform.machine()} processor cannot build; x86_64 and aarch64 can"
        ) from None


def build(*, suite: str, architecture: str, cache: steps.Cache) -> Path:
    """Path of ``mnagent_VERSION_ARCH.deb``, from the cache when no source changed; a wheel of the
    same build lies beside it."""
    name = f"deb-{suite}-{architecture}-{source_digest()}"
    found = cache.find(name)
    if found is None:
        build_root = _build_root(suite, architecture, cache)
        wheels = _wheels(suite, architecture, cache)
        with (
            steps.step(f"mnagent for Debian {suite}, {architecture}"),
            cache.make(name, keep=6) as piece,
        ):
            piece.mkdir()
            compiled = objects.name(
                compiled_sources(), suite, architecture, build_root.name, wheels.name
            )
            with _sources(build_root, wheels, suite) as source:
                with objects.kept(cache, compiled, source / "build"):
                    _compile_and_pack(build_root, source, suite=suite, architecture=architecture)
                for built in (*source.parent.glob("*.deb"), *source.glob("wheels/run/mnagent-*")):
                    shutil.copy2(built, piece)
        found = cache.folder / name
    (package,) = found.glob("mnagent_*.deb")
    return package


def source_digest() -> str:
    """One name for all that the package is made of."""
    return steps.digest(*(part for name in _files() for part in (name, ROOT / name)))


def compiled_sources() -> dict[str, Path]:
    """Those of the sources that the compiled data path is made of, by their names."""
    return {name: ROOT / name for name in _files() if name.startswith(_COMPILED)}


def _files() -> Iterable[str]:
    for source in _SOURCES:
        path = ROOT / source
        entries = sorted(path.rglob("*")) if path.is_dir() else [path]
        for entry in entries:
            kept = entry.suffix not in {".so", ".pyc"} and "__pycache__" not in entry.parts
            if entry.is_file() and kept and not entry.name.endswith(".bpf.o"):
                yield str(entry.relative_to(ROOT))


def _build_root(suite: str, architecture: str, cache: steps.Cache) -> Path:
    """A folder with a Debian that has compilers and libraries."""
    host = host_architecture()
    python = PYTHON[suite]
    foreign = "" if architecture == host else f":{architecture}"
    packages = [
        "bash-completion",
        "build-essential",
        "clang",
        "debhelper",
        "python3",
        f"libbpf-dev{foreign}",
        f"libpython{python}-dev{foreign}",
        f"libssl-dev{foreign}",
    ]
    if foreign:
        packages.append(f"crossbuild-essential-{architecture}")
    name = f"buildroot-{steps.digest(suite, host, *sorted(packages))}"
    found = cache.find(name)
    if found is not None:
        return found
    with steps.step(f"build root of Debian {suite}"), cache.make(name, keep=4) as piece:
        steps.run(
            steps.contained(
                [
                    "mmdebstrap",
                    f"--architectures={','.join(dict.fromkeys((host, architecture)))}",
                    "--variant=apt",
                    "--mode=root",
                    "--format=directory",
                    f"--include={','.join(packages)}",
                    '--aptopt=APT::Install-Recommends "false"',
                    '--aptopt=Acquire::Languages "none"',
                    suite,
                    piece,
                ]
            )
        )
    return cache.folder / name


def dependencies() -> list[str]:
    """What mnagent needs from PyPI, as pyproject.toml says."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    return [
        requirement
        for requirement in project["dependencies"]
        if not any(requirement.startswith(name) for name in _FROM_DEBIAN)
    ]


def _wheels(suite: str, architecture: str, cache: steps.Cache) -> Path:
    """A folder with the wheels to carry along (``run``) and those to build with (``build``)."""
    needed = dependencies()
    with (ROOT / "pyproject.toml").open("rb") as file:
        tools = tomllib.load(file)["build-system"]["requires"]
    python = PYTHON[suite]
    host = host_architecture()
    name = f"wheels-{steps.digest(suite, architecture, host, *needed, *tools)}"
    found = cache.find(name)
    if found is not None:
        return found
    with steps.step("Python packages for the board"), cache.make(name, keep=4) as piece:
        pip = _pip(piece.parent)
        for folder, machine, requirements in (
            ("run", ARCHITECTURES[architecture], needed),
            ("build", ARCHITECTURES[host], [*tools, "wheel"]),
        ):
            platforms = [f"manylinux2014_{machine}", f"manylinux_2_28_{machine}"]
            steps.run(
                [
                    *pip,
                    "download",
                    "--quiet",
                    "--only-binary=:all:",
                    f"--python-version={python}",
                    "--implementation=cp",
                    *(f"--platform={entry}" for entry in platforms),
                    f"--dest={piece / folder}",
                    *requirements,
                ]
            )
    return cache.folder / name


def _pip(place: Path) -> list[str | Path]:
    """A pip, in an environment of its own: Debian's Python has none to use outside of one."""
    environment = place / "pip"
    steps.run([sys.executable, "-m", "venv", environment])
    return [environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]


@contextmanager
def _sources(build_root: Path, wheels: Path, suite: str) -> Iterator[Path]:
    """A folder in the build root with the sources and wheels, as Debian's tools expect it."""
    work = build_root / "work" / f"mnagent-{os.getpid()}"
    source = work / "source"
    try:
        for file in _files():
            target = source / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target)
        (source / "boards" / "debian").rename(source / "debian")
        _write_changelog(source / "debian" / "changelog", suite)
        shutil.copytree(wheels, source / "wheels")
        yield source
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _compile_and_pack(build_root: Path, source: Path, *, suite: str, architecture: str) -> None:
    command = (
        'cd "$0" && exec dpkg-buildpackage --build=binary --unsigned-changes '
        "--unsigned-buildinfo --no-check-builddeps --host-arch=$1"
    )
    steps.run(
        steps.contained(
            [
                *("chroot", build_root, "env", "-i"),
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL=C.UTF-8",
                f"SOURCE_DATE_EPOCH={source_date()}",
                f"DEB_BUILD_OPTIONS=parallel={os.cpu_count() or 1}",
                f"PYTHON_VERSION={PYTHON[suite]}",
                *("sh", "-ec", command),
                Path("/") / source.relative_to(build_root),
                architecture,
            ]
        )
    )


def version() -> str:
    """Version of mnagent, from its one place."""
    scope: dict[str, str] = {}
    text = (ROOT / "mnagent" / "__init__.py").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("__version__"):
            exec(line, scope)
    return scope["__version__"]


def commit() -> str:
    """The commit that is built, with a plus sign when the tree has changes; empty outside git."""
    try:
        name = steps.run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"]).strip()
        changed = steps.run(["git", "-C", ROOT, "status", "--porcelain"]).strip()
    except BuildError:
        return ""
    return f"{name}+" if changed else name


def source_date() -> int:
    """Seconds since 1970 that everything built carries as its time: that of the commit."""
    try:
        return int(steps.run(["git", "-C", ROOT, "log", "-1", "--format=%ct"]).strip())
    except (BuildError, ValueError):
        return 1_700_000_000


def _write_changelog(path: Path, suite: str) -> None:
    """With a version that is later than that of the same mnagent for an older release of Debian."""
    day = steps.run(["date", "--rfc-email", "--utc", f"--date=@{source_date()}"]).strip()
    path.write_text(
        f"mnagent ({version()}+deb{RELEASE[suite]}) {suite}; urgency=medium\n\n"
        f"  * Built from {commit() or 'a source archive'}.\n\n"
        f" -- mnagent developers <mnagent@localhost>  {day}\n",
        encoding="utf-8",
    )
