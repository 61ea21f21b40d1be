"""The way from finished pieces to an image: with a Debian of a dozen files, in which nothing runs,
and so without root. Only a full build (ci/image) downloads and compiles."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from boards.recipe import description, package, rootfs, tree
from boards.recipe.errors import BuildError
from mnagent.rig.emulator import Card

TOOLS = ("debugfs", "dpkg-query", "mcopy", "mke2fs", "mkfs.vfat", "sfdisk", "zstd")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
KERNEL = "6.1.0-1-arm64"
FILES = {
    f"boot/vmlinuz-{KERNEL}": "a kernel\n",
    f"boot/initrd.img-{KERNEL}": "an initramfs\n",
    f"usr/lib/linux-image-{KERNEL}/broadcom/bcm2837-rpi-3-b.dtb": "a device tree\n",
    "etc/shadow": "root:$y$a:19000:0:99999:7:::\n",
    "etc/ssh/ssh_host_ed25519_key": "of the machine that built\n",
    "etc/systemd/system/sysinit.target.wants/systemd-timesyncd.service": "",
    "var/lib/dpkg/status": "Package: base-files\nStatus: install ok installed\nVersion: 12\n\n",
    "var/log/bootstrap.log": "much\n",
}
FOLDERS = ("etc/modules-load.d", "usr/lib/systemd/system", "var/lib/dbus", "tmp", "root", "usr/bin")

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool, path=PATH) is None for tool in TOOLS),
    reason="needs dosfstools, e2fsprogs, fdisk, mtools and zstd",
)


def _load() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("board_build", str(description.BOARDS / "build"))
    specification = importlib.util.spec_from_loader("board_build", loader)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    loader.exec_module(module)
    return module


def _debian(folder: Path) -> Path:
    """A root file system as an archive."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    (folder / "lib").symlink_to("usr/lib")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    archive = folder.with_suffix(".tar")
    with tarfile.open(archive, "w") as file:
        file.add(folder, ".")
    return archive


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """boards/build as a module; what takes minutes or root is already there."""
    module = _load()
    archive = _debian(tmp_path / "debian")
    deb = tmp_path / "mnagent_1_arm64.deb"
    deb.write_text("a package\n")

    def install(files: Path, given: Path) -> None:
        assert given == deb
        (files / "usr/bin/mnagent").write_text("the agent\n")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(rootfs, "build", lambda *_: archive)
    monkeypatch.setattr(rootfs, "prepare_emulation", lambda _: None)
    monkeypatch.setattr(package, "build", lambda **_: deb)
    monkeypatch.setattr(tree, "_install", install)
    monkeypatch.setattr(tree, "_compile", lambda _: None)
    monkeypatch.setattr(module, "_TOOLS", {})
    monkeypatch.setenv("MNAGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", PATH)
    return module


def _run(build: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["boards/build", *arguments])
    assert build.main() == 0


def test_image_has_what_the_board_needs_and_nobodys_secrets(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    image = out / "virt.img.zst"
    _run(build, monkeypatch, "virt", "-o", str(image))
    card = Card.flash(image, tmp_path / "card.img")
    assert "root=LABEL=mnagent-root" in card.get("cmdline.txt").split()
    assert card.get("vmlinuz") == "a kernel\n"
    assert {"README.txt", "mnagent-example.toml", "wifi-example.conf"} <= set(card.names())
    root = _last_partition(card.path, tmp_path / "root.ext4")
    assert _cat(root, "/usr/bin/mnagent") == "the agent\n"
    assert _cat(root, "/etc/shadow").startswith("root:*:")
    assert "not found" in _cat(root, "/etc/ssh/ssh_host_ed25519_key")
    assert "not found" in _cat(root, "/var/log/bootstrap.log")
    unit = _cat(root, "/usr/lib/systemd/system/var-lib-mnagent.mount")
    assert "What=LABEL=mnagent-state" in unit


def test_image_comes_with_its_checksum_its_contents_and_a_list_for_the_imager(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    image = out / "virt.img.zst"
    _run(build, monkeypatch, "virt", "-o", str(image))
    assert len(list(out.iterdir())) == 4
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert (out / "virt.img.zst.sha256").read_text() == f"{digest}  virt.img.zst\n"
    contents = json.loads((out / "virt.img.zst.json").read_text())
    assert contents["debian_packages"] == {"base-files": "12"}
    assert contents["image_sha256"] == digest
    (entry,) = json.loads((out / "virt.img.zst.imager.json").read_text())["os_list"]
    assert entry["image_download_sha256"] == digest


def test_image_too_large_for_the_card_is_refused_and_leaves_nothing(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BuildError, match="do not fit a card of 300 MiB"):
        _run(build, monkeypatch, "virt", "-o", str(out / "x.img.zst"), "--card", "300")
    assert list(out.iterdir()) == []


def test_kernel_without_the_boards_device_tree_is_refused(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BuildError, match=r"rpi4: device_trees: this kernel has no bcm2711"):
        _run(build, monkeypatch, "rpi4", "-o", str(out / "x.img.zst"))
    assert list(out.iterdir()) == []


def test_disk_full_while_building_is_told_and_leaves_nothing(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The disk is a tool that says what they say on one."""
    out = tmp_path / "out"
    tools = tmp_path / "tools"
    for folder in (out, tools):
        folder.mkdir()
    (tools / "mcopy").write_text("#!/bin/sh\necho 'mcopy: No space left on device' >&2\nexit 1\n")
    (tools / "mcopy").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{PATH}")
    with pytest.raises(BuildError, match="the disk is full: make room"):
        _run(build, monkeypatch, "virt", "-o", str(out / "x.img.zst"))
    assert list(out.iterdir()) == []


def test_interrupted_build_leaves_nothing_and_the_next_one_succeeds(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    image = out / "virt.img.zst"

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build.image, "assemble", interrupt)
        with pytest.raises(KeyboardInterrupt):
            _run(build, monkeypatch, "virt", "-o", str(image))
    assert list(out.iterdir()) == []
    (out / "unfinished-999999999-killed").mkdir()
    _run(build, monkeypatch, "virt", "-o", str(image))
    assert image.exists()
    assert not list(out.glob("unfinished-*"))


def _last_partition(card: Path, target: Path) -> Path:
    table = subprocess.run(
        ["sfdisk", "--json", str(card)], capture_output=True, text=True, check=True
    ).stdout
    last = json.loads(table)["partitiontable"]["partitions"][-1]
    with card.open("rb") as source, target.open("wb") as file:
        source.seek(last["start"] * 512)
        shutil.copyfileobj(source, file)
    return target


def _cat(root: Path, name: str) -> str:
    done = subprocess.run(
        ["debugfs", "-R", f"cat {name}", str(root)], capture_output=True, text=True, check=True
    )
    return done.stdout or done.stderr


def test_units_that_the_image_enables_are_there() -> None:
    there = {path.name for path in description.BOARDS.glob("layers/*/overlay/lib/systemd/system/*")}
    there |= {path.name for path in (package.ROOT / "mnagent/runtime/units").iterdir()}
    enabled = {name for names in tree.ENABLED_UNITS.values() for name in names}
    assert enabled - there == {"systemd-networkd.service"}


def test_what_the_agent_waits_for_waits_for_no_agent() -> None:
    units = description.BOARDS / "layers/base/overlay/lib/systemd/system"
    for name in ("mnagent-board.service", "var-lib-mnagent.mount", "boot-firmware.mount"):
        text = (units / name).read_text()
        assert "DefaultDependencies=no" in text
        assert "mnagent-mobile-node" not in text
