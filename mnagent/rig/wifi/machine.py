"""The virtual machine: built from Debian packages once, booted in seconds, gone when its job ends.

`build` makes the image of a `MACHINE` description in a cache folder; its name is the description's
digest, so that another description makes another image and an interrupted build leaves nothing that
looks finished. `Machine.run` boots it under QEMU with a read-only disk (what is written goes to
memory), this program and its Python packages over 9p, and a job: a Python module whose exit status
comes back. No accelerator, no network device and no privilege are needed to run it; building needs
root.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import hashlib
import importlib.resources
import json
import lzma
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mnagent
from mnagent.rig.namespace import RigError, run

PACKAGES = (
    *("bash", "busybox-static", "iproute2", "iputils-ping", "kmod", "procps", "udev"),
    *("hostapd", "iw", "wireless-regdb", "wpasupplicant", "radvd", "nftables", "tcpdump"),
    *("python3-minimal", "libpython3-stdlib", "libnftables1", "libssl3", "netbase"),
    *("dbus", "network-manager", "systemd"),
)
MODULES = (
    *("virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "overlay", "9p", "9pnet_virtio"),
    *("mac80211_hwsim", "ccm", "gcm", "cmac", "ctr", "aesni_intel", "ghash_generic"),
    *("veth", "bridge", "dummy", "macvlan", "tun", "ip6_tunnel", "sch_netem", "sch_tbf"),
    *(
        "sch_fq_codel",
        "sch_prio",
        "sch_ingress",
        "act_mirred",
        "cls_matchall",
        "cls_u32",
        "cls_bpf",
    ),
    *("esp6", "xfrm_user", "xfrm6_tunnel", "xfrm_interface", "mip6"),
    *("authenc", "cbc", "sha1_generic", "sha256_generic", "hmac", "seqiv", "echainiv"),
    *("nf_tables", "nft_ct", "nft_log", "nft_limit", "nft_queue", "nft_xfrm", "nft_fib_inet"),
    *("nft_fib_netdev", "nft_fwd_netdev", "nft_dup_netdev"),
    *("nft_reject_inet", "nft_numgen", "nfnetlink_queue", "nfnetlink_log", "af_packet"),
)
BOOT_MODULES = ("crc32c_generic", "virtio_pci", "virtio_blk", "ext4", "overlay")
"""Needed before the disk can be read."""
OWN_SUITES = {"bookworm": "3.11", "trixie": "3.13"}
"""Debian releases a machine can be made from, and the Python each has."""
BOOT_ATTEMPTS = 3
BOOT_TIMEOUT = 120.0
"""Seconds until the machine has mounted what it shares with us; more is a boot that hangs."""
POLL_INTERVAL = 0.2
NICENESS = 10
"""There is one processor for all: the rig leaves it to what it tests."""
EXIT_NO_RESULT = 70
"""Exit status of a job whose machine ended without telling one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a machine is made of: all that its image depends on."""

    suite: str
    mirror: str = "http://deb.debian.org/debian"
    packages: tuple[str, ...] = PACKAGES
    modules: tuple[str, ...] = MODULES
    boot_modules: tuple[str, ...] = BOOT_MODULES
    early: str = ""
    """The script that finds the disk."""
    init: str = ""
    """The script that runs the job."""

    @property
    def digest(self) -> str:
        """Tells this description from others."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe(python: tuple[int, int] = sys.version_info[:2]) -> Description:
    """The machine that can run this program with this Python's packages. Raises RigError when no
    Debian release has this Python."""
    version = ".".join(map(str, python))
    for suite, has in OWN_SUITES.items():
        if has == version:
            return Description(suite=suite, early=_script("early.sh"), init=_script("init.sh"))
    raise RigError(
        f"no Debian release has Python {version}; run the rig with "
        + " or ".join(OWN_SUITES.values())
    )


def _script(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text()


@dataclass(frozen=True, slots=True)
class Image:
    """A finished image: a folder with three files."""

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def initramfs(self) -> Path:
        return self.folder / "initramfs"

    @property
    def disk(self) -> Path:
        return self.folder / "disk"


NEEDED_TO_BUILD = ("mmdebstrap", "dpkg-deb", "mke2fs", "depmod", "modprobe", "cpio", "strip")


def build(description: Description, cache: Path) -> Image:
    """The image of a description, made when the cache does not hold it. Raises RigError."""
    cache = cache.resolve()
    image = Image(cache / description.digest)
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        if image.folder.is_dir():
            return image
        missing = [tool for tool in NEEDED_TO_BUILD if shutil.which(tool) is None]
        if missing:
            raise RigError(f"building the machine needs {', '.join(missing)}")
        if os.geteuid() != 0:
            raise RigError("building the machine needs root")
        for leftover in cache.glob("*.partial"):
            shutil.rmtree(leftover)
        partial = cache / f"{description.digest}.partial"
        partial.mkdir()
        _Builder(description, partial).build()
        for outdated in cache.iterdir():
            if outdated.is_dir() and outdated != partial:
                shutil.rmtree(outdated)
        partial.rename(image.folder)
    return image


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Builder:
    """Makes one image in a folder that nobody else looks at."""

    def __init__(self, description: Description, folder: Path) -> None:
        self._description = description
        self._folder = folder
        self._root = folder / "root"
        self._kernel = folder / "linux"

    def build(self) -> None:
        self._install()
        release = next((self._kernel / "lib/modules").iterdir()).name
        boot_files = self._copy_modules(release)
        self._write_kernel(self._kernel / f"boot/vmlinuz-{release}")
        self._write_initramfs(boot_files)
        self._write_disk()
        manifest = {**asdict(self._description), "kernel": release}
        (self._folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(self._root)
        shutil.rmtree(self._kernel)

    def _install(self) -> None:
        """The packages, and beside them the kernel without what installing one would do."""
        description = self._description
        self._kernel.mkdir()
        fetch = (
            'cd "$1/tmp" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && '
            'package=$(apt-cache depends linux-image-amd64 | sed -n "s/.*Depends: //p" | head -1)'
            ' && apt-get -qq download "$package" && '
            f"dpkg-deb -x linux-image-*.deb {shlex.quote(str(self._kernel.resolve()))}"
            " && rm linux-image-*.deb"
        )
        unneeded = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
        options = [f"--dpkgopt=path-exclude={path}" for path in unneeded]
        options += [f"--aptopt={path}" for path in _mirror_settings()]
        run(
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            f"--include={','.join(description.packages)}",
            f"--customize-hook={fetch}",
            *options,
            description.suite,
            str(self._root),
            description.mirror,
        )

    def _copy_modules(self, release: str) -> list[Path]:
        """Only the modules asked for and what they need; returns those needed to boot."""
        source = self._kernel / "lib/modules" / release
        target = self._root / "lib/modules" / release
        run("depmod", "-b", str(self._kernel), release)
        for path in self._needed(self._kernel, release, self._description.modules):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            if copy.suffix == ".ko":
                run("strip", "--strip-debug", str(copy))
        for index in source.glob("modules.*"):
            if index.name.startswith("modules.builtin") or index.name == "modules.order":
                shutil.copyfile(index, target / index.name)
        run("depmod", "-b", str(self._root), release)
        return self._needed(self._root, release, self._description.boot_modules)

    @staticmethod
    def _needed(root: Path, release: str, names: Sequence[str]) -> list[Path]:
        """Module files in an order in which they can be loaded."""
        paths: dict[Path, None] = {}
        for name in names:
            shown = run("modprobe", "-d", str(root), "-S", release, "--show-depends", name)
            for line in shown.splitlines():
                if line.startswith("insmod "):
                    paths[Path(line.split()[1])] = None
        return list(paths)

    def _write_kernel(self, compressed: Path) -> None:
        """Unpacked where we can: an emulated machine takes seconds over it."""
        data = compressed.read_bytes()
        start = data.find(b"\xfd7zXZ\x00")
        if start >= 0:
            with contextlib.suppress(lzma.LZMAError):
                data = lzma.LZMADecompressor().decompress(data[start:])
        (self._folder / "kernel").write_bytes(data)

    def _write_initramfs(self, modules: list[Path]) -> None:
        tree = self._folder / "early"
        for name in ("bin", "dev", "proc", "sys", "modules", "disk", "memory", "root"):
            (tree / name).mkdir(parents=True)
        shutil.copy(self._root / "bin/busybox", tree / "bin/busybox")
        for number, path in enumerate(modules):
            shutil.copyfile(path, tree / "modules" / f"{number:02}-{path.name}")
        (tree / "init").write_text(self._description.early)
        (tree / "init").chmod(0o755)
        names = "\n".join(str(path.relative_to(tree)) for path in (tree, *sorted(tree.rglob("*"))))
        archive = (self._folder / "initramfs").resolve()
        run(
            "sh",
            "-c",
            f"cd {shlex.quote(str(tree))} && cpio --quiet -o -H newc > {shlex.quote(str(archive))}",
            stdin=names + "\n",
        )
        shutil.rmtree(tree)

    def _write_disk(self) -> None:
        init = self._root / "sbin/rig-init"
        init.write_text(self._description.init)
        init.chmod(0o755)
        for name in ("project", "packages", "job"):
            (self._root / name).mkdir()
        used = int(run("du", "-sm", str(self._root)).split()[0])
        size = used * 11 // 10 + 40
        features = "^has_journal,^metadata_csum"
        disk = str(self._folder / "disk")
        run("mke2fs", "-q", "-t", "ext4", "-O", features, "-d", str(self._root), disk, f"{size}M")


def _mirror_settings() -> list[Path]:
    """This host's settings of how to reach mirrors (proxies, checks) count in the machine too."""
    folder = Path("/etc/apt/apt.conf.d")
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if "Acquire::" in path.read_text()]


Watch = Callable[[Path], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """An image and how it is booted."""

    image: Image
    memory: int = 768
    """Mebibytes."""
    processors: int = 1
    accelerator: str = "tcg,tb-size=256"
    clock: str = "shift=0,sleep=on"
    """Time inside is counted in instructions (QEMU's ``-icount``): 1 ns each, a processor of a
    small board. How busy the host is then changes how long a run takes, and little of what it
    measures."""

    def command(self, job: Path) -> list[str]:
        """The command line of one run; the job's output is standard output, the console a file."""
        shares = {"project": project_folder(), "packages": packages_folder(), "job": job}
        command = [
            "qemu-system-x86_64",
            *("-M", "pc", "-accel", self.accelerator, "-cpu", "max"),
            *("-icount", self.clock, "-rtc", "clock=vm"),
            *("-smp", str(self.processors), "-m", str(self.memory)),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-monitor", "none", "-serial", f"file:{job / 'console.log'}"),
            *("-chardev", "stdio,id=out,signal=on", "-serial", "chardev:out"),
            *("-drive", f"file={self.image.disk},format=raw,if=virtio,readonly=on"),
            *("-device", "virtio-rng-pci"),
            *("-kernel", str(self.image.kernel), "-initrd", str(self.image.initramfs)),
            *("-append", KERNEL_OPTIONS),
        ]
        for tag, folder in shares.items():
            writable = "" if tag == "job" else ",readonly=on"
            command += ["-fsdev", f"local,id={tag},path={folder},security_model=none{writable}"]
            command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        return command

    def run(
        self,
        module: str,
        *arguments: str,
        output: Path,
        timeout: float,
        errors: list[str],
        watch: Watch = contextlib.nullcontext,
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Run a Python module inside, as root, with a folder for what it leaves (`OUTPUT` inside);
        returns its exit status. Why a boot had to be tried again is added to ``errors``; meanwhile
        the folder is within the context that ``watch`` makes of it. Raises RigError when the
        machine does not come up or does not end in time."""
        if shutil.which("qemu-system-x86_64") is None:
            raise RigError("qemu-system-x86_64 is not installed")
        output.mkdir(parents=True, exist_ok=True)
        # An emulated processor would take long over what this one has done in a second.
        compileall.compile_dir(str(project_folder() / "mnagent"), quiet=2)
        with tempfile.TemporaryDirectory(prefix="mnrig-job-") as folder:
            job = Path(folder)
            (job / "out").mkdir()
            settings = [f"{name}={value}" for name, value in (environment or {}).items()]
            program = ("nice", "-n", str(NICENESS), "python3", "-m", module, *arguments)
            command = shlex.join(["env", *settings, *program])
            (job / "command").write_text(command + "\n")
            try:
                with watch(job / "out"):
                    return self._boot(job, timeout, errors)
            finally:
                shutil.copytree(job / "out", output, dirs_exist_ok=True)
                with contextlib.suppress(OSError):
                    shutil.copy(job / "console.log", output / "console.log")

    def _boot(self, job: Path, timeout: float, errors: list[str]) -> int:
        for _ in range(BOOT_ATTEMPTS):
            process = subprocess.Popen(self.command(job), stdin=subprocess.DEVNULL)
            try:
                if _comes_up(process, job / "up"):
                    process.wait(timeout)
                    return _exit_status(job / "status")
            except subprocess.TimeoutExpired:
                raise RigError(f"the machine did not end within {timeout:.0f} s") from None
            finally:
                process.kill()
                process.wait()
            errors.append(f"a boot hung or failed: {console_tail(job / 'console.log')}")
        raise RigError(errors[-1])


OUTPUT = Path("/job/out")
"""Where a job in the machine leaves what it found."""
KERNEL_OPTIONS = (
    "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off random.trust_cpu=on tsc=reliable"
    " no_timer_check"
)


def project_folder() -> Path:
    """What makes ``import mnagent`` work."""
    return Path(mnagent.__file__).resolve().parent.parent


def packages_folder() -> Path:
    """The Python packages this program needs."""
    return Path(sysconfig.get_paths()["purelib"])


def console_tail(path: Path, lines: int = 5) -> str:
    """The end of what the machine said, in one line."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return "it said nothing"
    return " | ".join(text.splitlines()[-lines:]) or "it said nothing"


def _comes_up(process: subprocess.Popen[bytes], sign: Path) -> bool:
    deadline = time.monotonic() + BOOT_TIMEOUT
    while time.monotonic() < deadline:
        if sign.exists():
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_INTERVAL)
            return sign.exists()
    return False


def _exit_status(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return EXIT_NO_RESULT
