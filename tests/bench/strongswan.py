"""strongSwan with kernel-libipsec: its ESP in user space, AES-GCM, both ends in their namespaces.

Debian packages: strongswan-charon, strongswan-swanctl, libcharon-extra-plugins,
libstrongswan-standard-plugins.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

CHARON = Path("/usr/lib/ipsec/charon")
SWANCTL = Path("/usr/sbin/swanctl")
PLUGINS = Path("/usr/lib/ipsec/plugins")
NEEDED = ("kernel-libipsec", "openssl", "vici")
PATIENCE = 10.0

_DAEMON = """
charon {{
    load = random nonce openssl aes sha1 sha2 hmac kdf pem kernel-libipsec kernel-netlink \
        socket-default vici
    plugins {{
        kernel-libipsec {{
            load = yes
        }}
        vici {{
            socket = unix://{folder}/vici
        }}
    }}
    filelog {{
        all {{
            path = {folder}/log
        }}
    }}
}}
"""
_CONNECTION = """
connections {{
    bench {{
        version = 2
        proposals = aes128gcm16-prfsha256-ecp256
        local_addrs = {local}
        remote_addrs = {remote}
        local {{
            auth = psk
            id = {local}
        }}
        remote {{
            auth = psk
            id = {remote}
        }}
        children {{
            bench {{
                local_ts = {local_net}
                remote_ts = {remote_net}
                esp_proposals = aes128gcm16
            }}
        }}
    }}
}}
secrets {{
    ike-bench {{
        secret = bench
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Side:
    """One end: where it is, and what it protects, of which it must have an address."""

    namespace: str
    address: IPv6Address
    network: str


def is_installed() -> bool:
    """Whether this machine has strongSwan with all that is needed here."""
    plugins = all((PLUGINS / f"libstrongswan-{name}.so").exists() for name in NEEDED)
    return CHARON.exists() and SWANCTL.exists() and plugins


@contextlib.contextmanager
def tunnel(asking: Side, answering: Side) -> Iterator[tuple[int, int]]:
    """The tunnel is up; yields the daemons' process ids."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        processes, folders = [], []
        for side, other in ((asking, answering), (answering, asking)):
            folder = Path(scratch) / side.namespace
            folder.mkdir()
            _write(folder, side, other)
            processes.append(stack.enter_context(_daemon(folder, side)))
            folders.append(folder)
        for folder in folders:
            _await(folder / "vici")
            _tell(folder, "--load-all", "--file", str(folder / "connection.conf"))
        _tell(folders[0], "--initiate", "--child", "bench", "--timeout", str(int(PATIENCE)))
        yield processes[0].pid, processes[1].pid


def _write(folder: Path, side: Side, other: Side) -> None:
    (folder / "daemon.conf").write_text(_DAEMON.format(folder=folder))
    (folder / "connection.conf").write_text(
        _CONNECTION.format(
            local=side.address,
            remote=other.address,
            local_net=side.network,
            remote_net=other.network,
        )
    )


@contextlib.contextmanager
def _daemon(folder: Path, side: Side) -> Iterator[subprocess.Popen[bytes]]:
    # Two daemons would fight for their file in /run: each has a /run of its own.
    program = f"mount -t tmpfs none /run && exec {' '.join((*_unconfined(), str(CHARON)))}"
    process = subprocess.Popen(
        ["ip", "netns", "exec", side.namespace, "sh", "-c", program],
        env={**os.environ, "STRONGSWAN_CONF": str(folder / "daemon.conf")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _unconfined() -> tuple[str, ...]:
    """Debian's AppArmor profiles would keep the programs from files outside /etc."""
    confined = Path("/sys/kernel/security/apparmor/profiles").exists() and shutil.which("aa-exec")
    return ("aa-exec", "-p", "unconfined") if confined else ()


def _await(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"strongSwan did not make {path}")
        time.sleep(0.02)


def _tell(folder: Path, *command: str) -> None:
    done = subprocess.run(
        [*_unconfined(), str(SWANCTL), *command, "--uri", f"unix://{folder}/vici"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")
