"""Takes what the user put on the boot partition and sets the board up by it, on every start.

Files are checked first. What is good is kept on the state partition, which stays writable and
survives a power cut, and put where it is used; keys and Wi-Fi passwords then vanish from the boot
partition, which any computer can read. What is bad changes nothing: the board goes on with what it
had. Both are said on the console and in mnagent-report.txt on the boot partition.

setup.py take      the files, before the agent starts
setup.py finish    what can wait until it has: the report, and room on the card
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # A start at which nothing is new does without, and sooner.
    import subprocess

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]

AGENT = "/usr/lib/mnagent"
ROLES = ("mobile-node", "home-agent", "correspondent")
KEY_TYPES = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-ed25519@", "sk-ecdsa-sha2-")
CLOCK = "systemd-timesyncd.service"
"""The right time is nice to have; the agent, which does without, goes first."""
LARGEST_FILE = 1 << 20
MISTAKES = ("NOT TAKEN", "NOT DONE")
"""How lines begin that tell of one."""
NO_COUNTRY = ("XX", "00")
SERIAL_SHELL = "AGETTY_OPTIONS=--autologin root\nTERM=dumb\n"
ROOT_PARTITION = re.compile(r"(/dev/(?:mmcblk\d+p|vd[a-z]|sd[a-z]|nvme\d+n\d+p))(\d+)")


class Refused(Exception):
    """A file cannot be taken; the text says why and what to do."""


class Setup:
    """One start of the board; ``root`` is ``/`` but in tests."""

    def __init__(self, root: Path, run: Run) -> None:
        self._run = run
        self._boot = root / "boot/firmware"
        self._kept = root / "var/lib/mnagent/board"
        self._etc = root / "etc"
        self._home = root / "root"
        self._serial_console = root / "run/mnagent-board/serial-console"
        self._said = root / "run/mnagent-board/said"
        self._lines: list[str] = []
        self._bad = 0

    def take_files(self) -> int:
        """Put what the user gave into place, as far as it is good; returns how much is not."""
        self._kept.mkdir(parents=True, exist_ok=True, mode=0o700)
        for step in (self._agent_files, self._wifi, self._authorized_keys, self._serial_shell):
            self._try(step)
        with contextlib.suppress(OSError):  # The console said it already.
            _write(self._said, "".join(f"{line}\n" for line in self._lines).encode(), 0o600)
        return self._bad

    def finish(self) -> int:
        """Do what nobody waits for, and report; returns how many things went wrong in all."""
        self._lines = (_read_if_there(self._said) or b"").decode().splitlines()
        self._bad = sum(line.startswith(MISTAKES) for line in self._lines)
        self._run(["systemctl", "--no-block", "start", CLOCK])
        self._try(self._grow)
        self._report()
        return self._bad

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Refused as refusal:
            self._say(f"{MISTAKES[0]}: {refusal}")
            self._bad += 1
        except OSError as error:
            self._say(
                f"{MISTAKES[1]}: {error.filename or step.__name__.strip('_')}: {error.strerror}"
            )
            self._bad += 1

    def _say(self, words: str) -> None:
        self._lines.append(words)
        print(f"mnagent-board: {words}", flush=True)

    def _grow(self) -> None:
        """The root file system takes the rest of the card, once."""
        source = self._run(["findmnt", "-n", "-o", "SOURCE", "/"]).stdout.strip()
        match = ROOT_PARTITION.fullmatch(source)
        if match is None or (self._kept / "grown").exists():
            return
        disk = match[1].removesuffix("p") if match[1][-2].isdigit() else match[1]
        resized = self._run(
            ["sh", "-c", f"echo ', +' | sfdisk --force --no-reread -N {match[2]} {disk}"]
        )
        self._run(["partx", "--update", "--nr", match[2], disk])
        grown = self._run(["resize2fs", source])
        if resized.returncode or grown.returncode:
            raise Refused(f"the root file system could not grow: {_last_line(resized, grown)}")
        _write(self._kept / "grown", b"", 0o600)
        self._say("the root file system takes the whole card now")

    def _authorized_keys(self) -> None:
        kept = self._kept / "authorized_keys"
        given = self._boot / "ssh/authorized_keys"
        try:
            if given.exists() and given.read_bytes() != _read_if_there(kept):
                lines = _text(given).splitlines()
                for number, line in enumerate(lines, 1):
                    entry = line.strip()
                    if entry and not entry.startswith("#") and not _is_public_key(entry):
                        raise Refused(
                            f"ssh/authorized_keys: line {number} is no public key of OpenSSH "
                            "(they begin with ssh-ed25519, ssh-rsa or ecdsa-sha2-)"
                        )
                _write(kept, given.read_bytes(), 0o600)
                self._say("ssh/authorized_keys: taken")
        finally:
            if kept.exists():
                (self._home / ".ssh").mkdir(exist_ok=True, mode=0o700)
                _write(self._home / ".ssh/authorized_keys", kept.read_bytes(), 0o600)

    def _agent_files(self) -> None:
        """The configuration and the keys that it names: all of what is new is taken, or none."""
        used = self._etc / "mnagent/keys"
        kept = self._kept / "keys"
        for folder in (used, kept):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        given = sorted((self._boot / "keys").glob("*.toml"))
        try:
            self._take_agent_files(given)
        finally:
            for key in given:
                if not (kept / key.name).exists():
                    (used / key.name).unlink(missing_ok=True)
            for key in kept.glob("*.toml"):
                _write(used / key.name, key.read_bytes(), 0o600)
            if (self._kept / "mnagent.toml").exists():
                self._use(self._kept / "mnagent.toml")

    def _take_agent_files(self, keys: Sequence[Path]) -> None:
        kept = self._kept / "mnagent.toml"
        given = self._boot / "mnagent.toml"
        if not given.exists() and not kept.exists():
            self._say("mnagent.toml: not there yet; start from mnagent-example.toml")
        new = given.exists() and given.read_bytes() != _read_if_there(kept)
        for key in keys:
            _toml(key, f"keys/{key.name}")
            _write(self._etc / "mnagent/keys" / key.name, key.read_bytes(), 0o600)
        if new or (keys and kept.exists()):
            self._check(given if given.exists() else kept)
        for key in keys:
            _write(self._kept / "keys" / key.name, key.read_bytes(), 0o600)
        if new:
            _write(kept, given.read_bytes(), 0o600)
            self._say("mnagent.toml: taken")
        for key in keys:
            self._forget(key)
            self._say(f"keys/{key.name}: moved into the board")

    def _check(self, given: Path) -> None:
        role = _toml(given, "mnagent.toml").get("role")
        if role not in ROLES:
            raise Refused(f"mnagent.toml: role must be one of {', '.join(ROLES)}, not {role!r}")
        candidate = self._etc / "mnagent/candidate.toml"
        _write(candidate, given.read_bytes(), 0o600)
        try:
            checked = self._run(["mnagent", "check-config", "-c", str(candidate)])
        finally:
            candidate.unlink()
        if checked.returncode:
            raise Refused(_last_line(checked).replace(str(candidate), "mnagent.toml"))

    def _use(self, kept: Path) -> None:
        own = tomllib.loads(kept.read_text(encoding="utf-8"))["role"]
        for role in ROLES:
            path = self._etc / f"mnagent/{role}.toml"
            if role == own:
                _write(path, kept.read_bytes(), 0o644)
            else:
                path.unlink(missing_ok=True)

    def _wifi(self) -> None:
        kept = self._kept / "wifi.conf"
        given = self._boot / "wifi.conf"
        try:
            if given.exists():
                _write(kept, _wifi_configuration(_text(given)).encode(), 0o600)
                self._forget(given)
                self._say("wifi.conf: moved into the board")
        finally:
            if kept.exists():
                _write(self._etc / "wpa_supplicant/board.conf", kept.read_bytes(), 0o600)

    def _forget(self, given: Path) -> None:
        """Take a secret from the boot partition, after it is safe on the other."""
        os.sync()
        with contextlib.suppress(OSError), given.open("r+b") as file:
            file.write(b"\n" * given.stat().st_size)
            os.fsync(file.fileno())
        given.unlink()

    def _serial_shell(self) -> None:
        """Whoever holds the wires holds the card too: for test rigs, the console asks nobody's name
        for as long as the file is there."""
        if not (self._boot / "serial-shell").exists():
            return
        _write(self._serial_console, SERIAL_SHELL.encode(), 0o644)
        self._say("serial-shell: the serial console is a root shell; remove the file to end that")

    def _report(self) -> None:
        version = self._run(["mnagent", "version"]).stdout.strip()
        head = (
            f"{self._bad} of your files could not be taken, see below" if self._bad else "all well"
        )
        text = "\n".join((version, head, "", *self._lines, ""))
        path = self._boot / "mnagent-report.txt"
        if _read_if_there(path) != text.encode():
            with contextlib.suppress(OSError):
                _write(path, text.encode(), 0o600)


def _wifi_configuration(text: str) -> str:
    """The file as wpa_supplicant shall have it; raises `Refused` for what it would stumble on."""
    country = re.search(r"^\s*country\s*=\s*(\S+)\s*$", text, re.MULTILINE)
    if country is None or country[1] in NO_COUNTRY or not re.fullmatch(r"[A-Z]{2}", country[1]):
        raise Refused(
            "wifi.conf: a line country=XY with the two letters of your country (ISO 3166) "
            "is needed; without it the radio may not use its channels"
        )
    blocks = re.findall(r"^\s*network\s*=\s*\{(.*?)^\s*\}", text, re.MULTILINE | re.DOTALL)
    if not blocks or text.count("{") != text.count("}"):
        raise Refused("wifi.conf: at least one block network={ ... } is needed, and closed")
    for block in blocks:
        if not re.search(r"^\s*ssid\s*=\s*\S", block, re.MULTILINE):
            raise Refused("wifi.conf: a network={ ... } without ssid=")
        password = re.search(r'^\s*psk\s*=\s*"(.*)"\s*$', block, re.MULTILINE)
        if password is not None and not 8 <= len(password[1].encode()) <= 63:
            raise Refused("wifi.conf: a psk in quotes has 8 to 63 characters")
    if not re.search(r"^\s*ctrl_interface\s*=", text, re.MULTILINE):
        text = f"ctrl_interface=DIR=/run/wpa_supplicant\n{text}"
    return text if text.endswith("\n") else f"{text}\n"


def _is_public_key(line: str) -> bool:
    return any(word.startswith(KEY_TYPES) for word in line.split())


def _toml(path: Path, name: str) -> dict[str, object]:
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"{name}: {error}") from None


def _text(path: Path) -> str:
    """Contents, as editors of all systems write them."""
    if path.stat().st_size > LARGEST_FILE:
        raise Refused(f"{path.name}: larger than {LARGEST_FILE >> 20} MiB")
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise Refused(f"{path.name}: is not plain text; save it as UTF-8") from None


def _read_if_there(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, also when power is cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        new.unlink(missing_ok=True)  # It may be what fills the card.
        raise OSError(error.errno, error.strerror, str(path)) from None
    with contextlib.suppress(PermissionError):  # FAT has no modes
        new.chmod(mode)
    new.replace(path)


def _last_line(*done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for entry in done for line in (entry.stdout + entry.stderr).splitlines() if line]
    return lines[-1] if lines else "no reason was given"


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    import subprocess

    if command[0] == "mnagent":
        return subprocess.CompletedProcess(command, *_run_agent(command[1:]))
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]} is not installed")


def _run_agent(arguments: Sequence[str]) -> tuple[int, str, str]:
    """The agent's command in a copy of this process, which has half of what that needs already;
    returns its exit status and output."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.stdout = sys.stderr = os.fdopen(writing, "w", encoding="utf-8")
            sys.path.insert(0, AGENT)
            agent = importlib.import_module("mnagent.cli.main")
            status = agent.main(list(arguments))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}")
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said, ""


def main(what: str) -> int:
    """Set the board up; a mistake in a file must not keep the board from starting."""
    setup = Setup(Path("/"), _run)
    if what == "take":
        setup.take_files()
    else:
        setup.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
