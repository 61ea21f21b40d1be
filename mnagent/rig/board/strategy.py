"""Takes a mobile node, whatever it is, from off to roaming."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import enum
import shlex
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import attr
from labgrid import target_factory
from labgrid.driver import ShellDriver, SSHDriver
from labgrid.protocol import PowerProtocol
from labgrid.strategy import Strategy, StrategyError, never_retry

from mnagent.rig.board.drivers import AccessProtocol, Surroundings
from mnagent.rig.board.remote import Manner, RemoteAgent, RemoteHost
from mnagent.rig.daemon import MOBILE_NODE_KEYS, DaemonEvent, toml_document
from mnagent.rig.host import boottime
from mnagent.rig.namespace import RigError, run
from mnagent.rig.roaming import AGENT_NAMES, REGISTRATION_TIMEOUT, Move, Roaming
from mnagent.rig.topology import FOREIGN_PREFIXES, HOME_ADDRESS, LINK_A, MOBILE

SERVICE = "mnagent-mobile-node"
CONFIGURATION = "/etc/mnagent/mobile-node.toml"
KEYS = "/etc/mnagent/keys/rig.toml"
AUTHORIZED_KEYS = "/root/.ssh/authorized_keys"
PART = "/run/mnagent-rig.part"
COMMAND_TIMEOUT = 30.0
"""Seconds that a command on a board may take, on one that is as quick as this machine."""
LINE = 512
"""Characters of a line that any serial console takes."""
QUESTIONS = {
    "kernel": "uname -r",
    "system": "sed -n 's/^PRETTY_NAME=//p' /etc/os-release | tr -d '\"'",
    "model": "cat /proc/device-tree/model /sys/class/dmi/id/product_name 2>/dev/null | tr -d '\\0'",
    "mnagent": "mnagent version",
}
"""What a board is asked about itself."""


class Status(enum.Enum):
    """How far it is, each state on top of the one before."""

    unknown = -1
    off = 0
    booted = 1
    shell = 2
    configured = 3
    roaming = 4


@target_factory.reg_driver
@attr.s(eq=False)
class RoamingStrategy(Strategy):
    """off -> booted -> shell -> configured -> roaming.

    A namespace of the rig has no power, no console and no files to copy: its agent is the rig's own
    process. A board is configured over its serial console, or over SSH through a network that is
    not the access port, and then reached at its home address.

    Args:
        interface (str): name of the access interface on the board
        first_link (str): where it registers first
        gap_limit (float): seconds within which traffic must be back after a handover
        slack (float): seconds by which what the board tells may be late
        hands (float): seconds that a cable is in nobody's port while it is re-plugged; a board that
            is slow, or a chip that bounces, sees nothing of a cable that was never out
        patience (float): how many times as long as usual programs on the board may take
        interval (float): seconds between probes
        boot_timeout (float): seconds from power to a login prompt, and from cable to registration
    """

    bindings = {  # noqa: RUF012
        "access": AccessProtocol,
        "power": {PowerProtocol, None},
        "console": {ShellDriver, None},
        "ssh": {SSHDriver, None},
    }
    interface: str = attr.ib(default="eth0", validator=attr.validators.instance_of(str))
    first_link: str = attr.ib(
        default=LINK_A, validator=attr.validators.in_(sorted(FOREIGN_PREFIXES))
    )
    gap_limit: float = attr.ib(default=1.0, validator=attr.validators.instance_of(float))
    hands: float = attr.ib(default=0.0, validator=attr.validators.instance_of(float))
    slack: float = attr.ib(default=0.1, validator=attr.validators.instance_of(float))
    patience: float = attr.ib(default=1.0, validator=attr.validators.instance_of(float))
    interval: float = attr.ib(default=0.02, validator=attr.validators.instance_of(float))
    boot_timeout: float = attr.ib(default=120.0, validator=attr.validators.instance_of(float))
    status = attr.ib(default=Status.unknown, init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.facts: dict[str, str] = {}
        """What the board said about itself."""
        self.times: dict[str, float] = {}
        """Seconds that each state took."""
        self._around: Surroundings | None = None
        self._key: Path | None = None
        self._touched = False

    @property
    def manner(self) -> Manner:
        """How programs on it are treated."""
        return Manner(patience=self.patience, interval=self.interval)

    @property
    def is_board(self) -> bool:
        """Whether it is anything but a namespace of the rig."""
        return not self.access.is_namespace

    @property
    def command(self) -> Any:
        """The driver that runs commands before the board roams."""
        return self.console or self.ssh

    def join(self, surroundings: Surroundings) -> None:
        """Make the board the mobile node of the rig that stands. Raises RigError."""
        if self.is_board and self.command is None:
            raise RigError(
                "nothing runs commands on the board: name a ShellDriver or an SSHDriver in the"
                " environment, before RoamingStrategy"
            )
        self.target.activate(self.access)
        self.access.attach(surroundings)
        self._around = surroundings
        if self.is_board:
            self._make_remote(surroundings)

    def _make_remote(self, around: Surroundings) -> None:
        roaming = around.roaming
        self._key = roaming.directory / "login"
        kind = ("-t", "ed25519", "-N", "", "-C", "mnagent-rig")
        run("ssh-keygen", "-q", *kind, "-f", str(self._key))
        correspondent = roaming.hosts["correspondent"]
        board = RemoteHost(
            correspondent.namespace,
            roaming.directory,
            address=HOME_ADDRESS,
            key=self._key,
            manner=self.manner,
        )
        roaming.hosts[MOBILE] = board
        settings = roaming.mobile_node_configuration()
        roaming.agents[AGENT_NAMES[MOBILE]] = RemoteAgent(board, AGENT_NAMES[MOBILE], settings)

    def leave(self) -> None:
        """Leave the board off, and nothing of the rig on it, as far as it can be reached."""
        with contextlib.ExitStack() as ending:
            ending.callback(self.access.detach)
            ending.callback(self._off)
            if self._touched and self.access.outlives_the_rig:
                self._clean()

    @property
    def around(self) -> Surroundings:
        """The rig. Raises StrategyError before `join`."""
        if self._around is None:
            raise StrategyError("there is no rig around the board yet: join() comes first")
        return self._around

    @property
    def roaming(self) -> Roaming:
        """The network that the board roams in."""
        return self.around.roaming

    @never_retry
    def transition(self, status: Status | str) -> None:
        """Take it to a state, from wherever it is. Raises StrategyError."""
        wanted = status if isinstance(status, Status) else Status[status]
        if self.status is Status.unknown or wanted is Status.off:
            self._timed(Status.off, self._off)
        steps = {
            Status.booted: self._boot,
            Status.shell: self._log_in,
            Status.configured: self._configure,
            Status.roaming: self._register,
        }
        for state, step in steps.items():
            if self.status.value < state.value <= wanted.value:
                self._timed(state, step)

    def _timed(self, state: Status, step: Any) -> None:
        began = boottime()
        step()
        self.times[state.name] = round(boottime() - began, 1)
        self.status = state

    def _off(self) -> None:
        if self._around is not None:
            self.access.pull(self._around)
            self._around.portal(self._hang_up())
        for driver in (self.console, self.ssh):
            if driver is not None:
                self.target.deactivate(driver)
        if self.power is not None:
            self.target.activate(self.power)
            self.power.off()
        self.status = Status.off

    async def _hang_up(self) -> None:
        """A namespace has no power to cut: its agent is killed."""
        await self.roaming.mobile_node.kill()
        if self.is_board:
            await self.roaming.hosts[MOBILE].stop()

    def _boot(self) -> None:
        if self.power is None:
            return
        if self.console is not None:
            self.target.activate(self.console.console)
        self.power.on()
        if self.console is not None:
            self.console.console.expect(self.console.login_prompt, timeout=self.boot_timeout)

    def _log_in(self) -> None:
        if self.command is not None:
            self.target.activate(self.command)

    def _configure(self) -> None:
        self.facts = dict(self.access.facts)
        if not self.is_board:
            return
        for name, question in QUESTIONS.items():
            answer = self._ask(question)
            self.facts[name] = " ".join(line.strip() for line in answer)
        assert self._key is not None
        self._touched = True
        keys = (self.roaming.keys() / MOBILE_NODE_KEYS).read_text()
        login = self._key.with_suffix(".pub").read_text()
        put_text(self._ask, self._configuration(), CONFIGURATION)
        put_text(self._ask, keys, KEYS, mode=0o600)
        put_text(self._ask, login, AUTHORIZED_KEYS, mode=0o600, append=True)
        self._ask(f"systemctl restart --no-block {SERVICE}")

    def _ask(self, command: str) -> list[str]:
        """What a command prints on the board before it roams. Raises labgrid's ExecutionError."""
        answer: list[str] = self.command.run_check(command, timeout=COMMAND_TIMEOUT * self.patience)
        return answer

    def _configuration(self) -> str:
        settings = self.roaming.mobile_node_configuration()
        settings["mobile_node"] |= {"interfaces": [self.interface], "keys": KEYS}
        return toml_document(settings)

    def _clean(self) -> None:
        """Take away what `_configure` brought; the power may be cut after that."""
        self._ask(f"systemctl stop {SERVICE}")
        self._ask(
            f"sed -i '/ mnagent-rig$/d' {AUTHORIZED_KEYS}; rm -f {KEYS} {CONFIGURATION}; sync"
        )

    def _register(self) -> None:
        move = self.move(self.first_link)
        if not self.is_board:
            self.around.portal(self.roaming.mobile_node.start())
            limit = REGISTRATION_TIMEOUT * self.patience
            self.around.portal(self.roaming.settled(move, timeout=limit))
            return
        try:
            self.around.portal(self._registered(move))
        except RigError as error:
            raise RigError(f"{error}\n{self.journal()}") from error

    def journal(self) -> str:
        """What the agent of a board has logged since it was powered on."""
        command = f"journalctl -b -q --no-pager -o short-monotonic -u {SERVICE} | tail -n 400"
        return "\n".join(self._ask(command))

    async def _registered(self, move: Move) -> None:
        limit = self.boot_timeout
        await self._bound(move, timeout=limit)
        board = self.roaming.hosts[MOBILE]
        assert isinstance(board, RemoteHost)
        await board.connect(timeout=limit)
        await self.roaming.mobile_node.start()
        await self.roaming.settled(move, timeout=limit)

    async def _bound(self, move: Move, *, timeout: float) -> None:
        """Wait for the home agent's word, the only one there is before the board can be reached."""
        prefix = FOREIGN_PREFIXES[move.destination]

        def from_there(event: DaemonEvent) -> bool:
            return IPv6Address(event.details["care_of_address"]) in prefix

        waits = [
            asyncio.ensure_future(
                self.roaming.home_agent.wait_for(
                    name, after=move.link_up_at, timeout=timeout, matching=from_there
                )
            )
            for name in ("binding-created", "binding-updated")
        ]
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
        for wait in done:
            wait.result()

    def move(self, link: str) -> Move:
        """Take the node to a link; returns when that was."""
        move: Move = self.access.move(self.around, link, hands=self.hands)
        return move


def put_text(
    ask: Callable[[str], object], text: str, path: str, *, mode: int = 0o644, append: bool = False
) -> None:
    """Write a file on a board, with what runs a command there and raises when it fails.

    What is written may be seen on the serial console: keys of a rig live as long as the rig.
    """
    folder, file = shlex.quote(str(Path(path).parent)), shlex.quote(path)
    encoded = base64.b64encode(text.encode()).decode()
    ask(f"umask 077; mkdir -p {folder}; : >{PART}")
    for start in range(0, len(encoded), LINE):
        ask(f"echo {encoded[start : start + LINE]} >>{PART}")
    redirection = ">>" if append else ">"
    ask(f"umask 077; base64 -d {PART} {redirection}{file} && chmod {mode:o} {file} && rm {PART}")
