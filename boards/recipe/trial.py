"""Tries a package where it will be used: in a Debian of its release and processor, in which nothing
of mnagent was before. A foreign processor is emulated by the kernel's binfmt_misc and QEMU."""

from __future__ import annotations

import shutil
from pathlib import Path

from boards.recipe import package, rootfs, steps
from boards.recipe.errors import BuildError

_PACKAGES = (
    "iproute2",
    "libbpf1",
    "libnftables1",
    "libssl3",
    "python3",
    "python3-cryptography",
    "python3-hypothesis",
    "python3-netifaces",
    "python3-pytest",
)
"""What the package depends on, and what its tests need."""
_TESTS = ("pyproject.toml", "tests/__init__.py", "tests/ext", "tests/support")
_WITHOUT_AES = {"arm64": {"OPENSSL_armcap": "0x1"}}
"""Makes libcrypto take the path of a Raspberry Pi 3 or 4, whose processors have no AES."""
_TRIAL = """
set -e
mnagent version
test ! -e /etc/mnagent/mobile-node.toml
cd /usr/share/doc/mnagent/examples
for example in *.toml; do mnagent check-config --without-keys "$example"; done
cd /trial
export PYTHONPATH=/usr/lib/mnagent
exec python3 -m pytest -q -p no:cacheprovider -m "not root" --noconftest tests/ext
"""


def check(deb: Path, *, suite: str, architecture: str, cache: steps.Cache) -> str:
    """Install the package and run the data path's tests against it; returns what they said last.

    Raises `BuildError` when it does not install, or a test fails.
    """
    archive = _root(suite, architecture, cache)
    rootfs.prepare_emulation(architecture)
    with (
        steps.step(f"trial of {deb.name}"),
        steps.unfinished(cache.folder) as place,
    ):
        steps.run(["tar", "-C", place, "-xpf", archive, "--numeric-owner"])
        shutil.copy2(deb, place / "mnagent.deb")
        for name in _TESTS:
            _copy(package.ROOT / name, place / "trial" / name)
        said = ""
        for command in (
            ["dpkg", "--install", "/mnagent.deb"],
            ["sh", "-c", _TRIAL],
            ["dpkg", "--purge", "mnagent"],
        ):
            output = steps.run(
                steps.contained(["chroot", place, *command]),
                environment={
                    "DEBIAN_FRONTEND": "noninteractive",
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "LC_ALL": "C.UTF-8",
                    **_WITHOUT_AES.get(architecture, {}),
                },
            )
            said = output if command[0] == "sh" else said
        left = [name for name in ("etc/mnagent", "usr/lib/mnagent") if (place / name).exists()]
        if left:
            raise BuildError(f"{deb.name}: after its removal there is still {', '.join(left)}")
    return said.strip().splitlines()[-1]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


def _root(suite: str, architecture: str, cache: steps.Cache) -> Path:
    """A small Debian as a tar archive, from the cache when it is there."""
    name = f"trial-{steps.digest(suite, architecture, *_PACKAGES)}.tar"
    found = cache.find(name)
    if found is not None:
        return found
    rootfs.prepare_emulation(architecture)
    words = f"Debian {suite}, {architecture}, to try packages in"
    with steps.step(words), cache.make(name, keep=4) as piece:
        archive = piece.with_name("root.tar")
        steps.run(
            steps.contained(
                [
                    "mmdebstrap",
                    f"--architectures={architecture}",
                    "--variant=minbase",
                    "--mode=root",
                    f"--include={','.join(_PACKAGES)}",
                    '--aptopt=APT::Install-Recommends "false"',
                    '--aptopt=Acquire::Languages "none"',
                    suite,
                    archive,
                ]
            ),
            environment={"TMPDIR": str(piece.parent)},
        )
        archive.rename(piece)
    return cache.folder / name
