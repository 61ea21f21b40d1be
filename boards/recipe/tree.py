"""The files of a board: packages, mnagent, the overlays of its layers, and what follows from the
description."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from boards.recipe import steps
from boards.recipe.description import Board
from boards.recipe.errors import BuildError
from boards.recipe.image import ROOT_LABEL

# The others are mounted by units, which wait for less (layers/base).
FSTAB = f"""\
# file system          mount point       type  options                                  dump pass
LABEL={ROOT_LABEL}     /                 ext4  noatime,errors=remount-ro                0 1
"""
ENABLED_UNITS = {
    # The network manager goes before the agent: when it starts, it removes addresses of others.
    # Of the agent's units those start that have a configuration.
    "multi-user.target.wants": (
        "mnagent-board-devices.service",
        "mnagent-board-finish.service",
        "mnagent-board.service",
        "mnagent-correspondent.service",
        "mnagent-home-agent.service",
        "mnagent-mobile-node.service",
        "systemd-networkd.service",
    ),
    "ssh.service.wants": ("mnagent-board-ssh-key.service",),
}
# The start would wait for it, and for nothing: the setup of the board starts it.
_LATER = "sysinit.target.wants/systemd-timesyncd.service"
_PYTHON_LIBRARY = re.compile(r"python3(\.\d+)?")
# What a board has no use for, or what would only keep its start from going on.
_MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "kmod-static-nodes.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-journal-flush.service",
    "systemd-logind.service",
    "systemd-networkd-wait-online.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-pstore.service",
    "systemd-remount-fs.service",
    "systemd-repart.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
    "wpa_supplicant.service",
)
# Programs that make units of what a board has not: each is a process, before anything starts.
_MASKED_GENERATORS = (
    "systemd-cryptsetup-generator",
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    "systemd-integritysetup-generator",
    "systemd-rc-local-generator",
    "systemd-run-generator",
    "systemd-system-update-generator",
    "systemd-sysv-generator",
    "systemd-veritysetup-generator",
)


def populate(board: Board, tree: Path, *, rootfs: Path, package: Path, source_date: int) -> None:
    """Fill ``tree``: it holds the whole root file system afterwards, boot/firmware in it."""
    steps.run(
        ["tar", "-C", tree, "-xpf", rootfs, "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    )
    _install(tree, package)
    for overlay in board.overlays:
        _copy_overlay(overlay, tree)
    _compile(tree)
    _write(tree / "etc/hostname", f"{board.hostname}\n")
    _write(
        tree / "etc/hosts",
        f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {board.hostname}\n",
    )
    _write(tree / "etc/fstab", FSTAB)
    _enable_units(tree)
    _fill_firmware(board, tree)
    _make_anonymous(tree)
    # Without a battery the clock starts at this file's time, or when the board was last on.
    _write(tree / "usr/lib/clock-epoch", "")
    _set_times(tree, source_date)


def _compile(tree: Path) -> None:
    """By the board's own Python, which checks on each start that the sources are still the same."""
    steps.run(
        steps.contained(
            [
                *("chroot", tree, "python3", "-I", "-m", "compileall", "-q"),
                *("--invalidation-mode", "checked-hash", "/usr/lib/mnagent-board"),
            ]
        )
    )


def _install(tree: Path, package: Path) -> None:
    """By the board's own dpkg, so that it knows the package and can replace it."""
    _write(
        tree / "etc/dpkg/dpkg.cfg.d/zz-mnagent",
        "# The one documentation that a board has.\npath-include=/usr/share/doc/mnagent/*\n",
    )
    inside = tree / "tmp" / package.name
    shutil.copy2(package, inside)
    try:
        steps.run(
            steps.contained(["chroot", tree, "dpkg", "--install", f"/tmp/{package.name}"]),
            environment={
                "DEBIAN_FRONTEND": "noninteractive",
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            },
        )
    finally:
        inside.unlink()


def _copy_overlay(overlay: Path, tree: Path) -> None:
    """Files with their modes, owned by root; folders that are there keep theirs."""
    for entry in sorted(overlay.rglob("*")):
        if "__pycache__" in entry.parts:
            continue
        target = tree / entry.relative_to(overlay)
        if entry.is_symlink():
            target.unlink(missing_ok=True)
            target.symlink_to(os.readlink(entry))
        elif entry.is_dir():
            target.mkdir(exist_ok=True)
        else:
            shutil.copyfile(entry, target)
            target.chmod(0o755 if entry.stat().st_mode & 0o100 else 0o644)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _enable_units(tree: Path) -> None:
    units = tree / "etc/systemd/system"
    for target, names in ENABLED_UNITS.items():
        (units / target).mkdir(parents=True, exist_ok=True)
        for name in names:
            link = units / target / name
            link.unlink(missing_ok=True)
            link.symlink_to(f"/lib/systemd/system/{name}")
    default = units / "default.target"
    default.unlink(missing_ok=True)
    default.symlink_to("/lib/systemd/system/multi-user.target")
    (units / _LATER).unlink(missing_ok=True)
    # An empty list of modules costs a process to read it.
    (tree / "etc/modules-load.d/modules.conf").unlink(missing_ok=True)
    _mask(units, _MASKED)
    _mask(units.with_name("system-generators"), _MASKED_GENERATORS)


def _mask(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")


def _fill_firmware(board: Board, tree: Path) -> None:
    firmware = tree / "boot/firmware"
    firmware.mkdir(parents=True, exist_ok=True)
    for name in board.device_trees:
        if not (firmware / name).exists():
            found = next(_device_trees(tree, name), None)
            if found is None:
                raise BuildError(f"board {board.name}: device_trees: this kernel has no {name}")
            shutil.copyfile(found, firmware / name)
    command_line = ["console=tty0", f"console={board.console}", *board.kernel_command_line]
    _write(firmware / "cmdline.txt", " ".join(command_line) + "\n")
    # What writes cmdline.txt anew when a kernel is upgraded on the board.
    _write(tree / "etc/default/raspi-firmware", f"ROOTPART=LABEL={ROOT_LABEL}\n")
    _write(tree / "etc/default/raspi-extra-cmdline", " ".join(board.kernel_command_line) + "\n")
    settings = firmware / "config.txt"
    if board.firmware_settings:
        with settings.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in board.firmware_settings))
    if not settings.exists():
        # No firmware of a vendor: whoever boots the board finds kernel and initramfs by name.
        for kind in ("vmlinuz", "initrd.img"):
            (kernel,) = (tree / "boot").glob(f"{kind}-*")
            shutil.copyfile(kernel, firmware / kind)
        _write(settings, "kernel=vmlinuz\ninitramfs initrd.img\n")


def _device_trees(tree: Path, name: str) -> Iterator[Path]:
    yield from (tree / "usr/lib").glob(f"linux-image-*/**/{name}")


def _make_anonymous(tree: Path) -> None:
    """Nothing that each board should have for itself, and no password at all."""
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    _write(tree / "etc/machine-id", "")
    (tree / "var/lib/dbus/machine-id").unlink(missing_ok=True)
    shadow = tree / "etc/shadow"
    lines = [
        ":".join((line.split(":")[0], "*", *line.split(":")[2:]))
        for line in shadow.read_text(encoding="utf-8").splitlines()
    ]
    shadow.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for pattern in (
        "var/cache/apt/*.bin",
        "var/log/*.log",
        "var/log/apt/*",
        "var/lib/apt/lists/*_*",
    ):
        for entry in tree.glob(pattern):
            if entry.is_file():
                entry.unlink()


def _set_times(tree: Path, source_date: int) -> None:
    """The same time on all that the build touched: the same sources give the same files. (The image
    still differs, for mke2fs notes when each file was made.)

    Python's library is left alone: its compiled files are good only for sources of their time.
    """
    for folder, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if not _PYTHON_LIBRARY.fullmatch(name)]
        for name in (".", *files):
            entry = os.path.join(folder, name)
            if os.lstat(entry).st_mtime > source_date:
                os.utime(entry, (source_date, source_date), follow_symlinks=False)
