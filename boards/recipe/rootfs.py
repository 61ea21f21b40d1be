"""The root file system of packages alone, by mmdebstrap: what takes minutes and changes rarely."""

from __future__ import annotations

import platform
import shlex
from pathlib import Path

from boards.recipe import steps
from boards.recipe.description import Board
from boards.recipe.errors import BuildError

_DEBIAN_NAME = {"arm64": "aarch64", "amd64": "x86_64"}
_EXCLUDED = ("doc", "man", "info", "locale", "lintian", "bug")
_BINFMT = Path("/proc/sys/fs/binfmt_misc")

_MAKE_INITRAMFS = """#!/bin/sh
# One initramfs, with the modules that are listed: with all of them, and once for each package that
# asks for it, it takes most of an hour under emulation.
set -eu
root=$1
version=$(basename "$(ls -d "$root"/lib/modules/* | sort -V | tail -n 1)")
mkdir -p "$root/etc/initramfs-tools/conf.d"
printf 'MODULES=list\\nCOMPRESS=zstd\\n' > "$root/etc/initramfs-tools/conf.d/mnagent"
printf '%s\\n' {modules} >> "$root/etc/initramfs-tools/modules"
# All of them are loaded by name, so there is nothing for udev to find: it would only cost seconds.
scripts="$root/etc/initramfs-tools/scripts"
mkdir -p "$scripts/init-top" "$scripts/init-bottom"
printf '#!/bin/sh\\nexit 0\\n' > "$scripts/init-top/udev"
cat > "$scripts/init-bottom/udev" <<'END'
{shell}
[ "$1" != prereqs ] || exit 0
mount -n -o move /dev "${{rootmnt:?}}/dev" || mount -n --move /dev "${{rootmnt}}/dev"
rm -rf /dev
ln -s "${{rootmnt}}/dev" /dev
END
chmod 755 "$scripts/init-top/udev" "$scripts/init-bottom/udev"
chroot "$root" update-initramfs -c -k "$version"
"""


def build(board: Board, cache: steps.Cache) -> Path:
    """The root file system as a tar archive, from the cache when nothing it is made of changed."""
    hook = _MAKE_INITRAMFS.format(
        shell="#!/bin/sh", modules=shlex.join(sorted(board.initramfs_modules))
    )
    packages = sorted(board.packages)
    name = f"rootfs-{steps.digest(board.suite, board.architecture, hook, *packages)}.tar"
    found = cache.find(name)
    if found is not None:
        return found
    prepare_emulation(board.architecture)
    words = f"Debian {board.suite} with {len(packages)} packages and what they need"
    with steps.step(words), cache.make(name, keep=4) as piece:
        script = piece.with_name("make-initramfs")
        script.write_text(hook, encoding="utf-8")
        script.chmod(0o755)
        archive = piece.with_name("rootfs.tar")
        steps.run(
            steps.contained(
                [
                    "mmdebstrap",
                    f"--architectures={board.architecture}",
                    "--variant=minbase",
                    "--mode=root",
                    "--components=main,non-free-firmware",
                    f"--include={','.join(packages)}",
                    '--aptopt=Acquire::Languages "none"',
                    '--aptopt=APT::Install-Recommends "false"',
                    *(f"--dpkgopt=path-exclude=/usr/share/{entry}/*" for entry in _EXCLUDED),
                    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
                    f'--customize-hook={shlex.quote(str(script))} "$1"',
                    board.suite,
                    archive,
                ]
            ),
            environment={"INITRD": "No", "TMPDIR": str(piece.parent)},
        )
        archive.rename(piece)
    return cache.folder / name


def prepare_emulation(architecture: str) -> None:
    """Let this kernel run programs of ``architecture``; raises `BuildError` where it cannot."""
    machine = _DEBIAN_NAME[architecture]
    if platform.machine() == machine:
        return
    registration = Path(f"/usr/lib/binfmt.d/qemu-{machine}.conf")
    if not registration.exists():
        raise BuildError("programs of the board cannot run here: apt install qemu-user-static")
    if not (_BINFMT / "register").exists():
        steps.run(["mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT])
    if not (_BINFMT / f"qemu-{machine}").exists():
        line = "".join(registration.read_text(encoding="utf-8").split("\n"))
        (_BINFMT / "register").write_text(line, encoding="utf-8")
