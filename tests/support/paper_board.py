"""A board made of paper: what a rig sees of a Raspberry Pi, in a namespace.

It has a power switch (HTTP, as a Shelly's), a serial console (raw TCP) with a login prompt, an
Ethernet cable, an SSH server, reached through another network as well, and a service manager that
knows one service. What is written to it is gone when its power is cut.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import selectors
import shlex
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType

from mnagent.rig.namespace import Namespace, RigError, run, unique_prefix

ROOT = Path(__file__).parents[2]
SYSTEMCTL = """\
#!/bin/sh
if [ -f /run/agent.pid ]; then
    agent=$(cat /run/agent.pid)
    kill "$agent"
    while grep -q . "/proc/$agent/cmdline" 2>/dev/null; do sleep 0.05; done
    rm /run/agent.pid
fi
if [ "$1" = restart ]; then
    setsid mnagent run -c /etc/mnagent/mobile-node.toml >>/run/agent.log 2>&1 </dev/null &
    echo $! >/run/agent.pid
fi
"""
JOURNALCTL = "#!/bin/sh\ncat /run/agent.log\n"
MNAGENT = f"""\
#!/bin/sh
export PYTHONPATH={shlex.quote(str(ROOT))}
exec {shlex.quote(sys.executable)} -m mnagent.cli.main "$@"
"""
START = """\
mount -t tmpfs paper /run
for place in etc root usr var; do
    mkdir -p /run/paper/$place/upper /run/paper/$place/work
    mount -t overlay paper /$place \\
        -o "lowerdir=/$place,upperdir=/run/paper/$place/upper,workdir=/run/paper/$place/work"
done
for program in systemctl journalctl mnagent; do
    rm -f /usr/bin/$program
    install -m 755 "$1/$program" /usr/bin/$program
done
mkdir -p -m 700 /run/mnagent /etc/mnagent /etc/dropbear /root/.ssh
install -m 600 "$1/authorized_keys" /root/.ssh/
ip link set eth0 up
dropbear -R -E -p 22 2>/run/dropbear.log
printf '\\npaper login: '
read -r name
cd /root
export HOME=/root PS1='root@paper:~# ' TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec setsid -c bash --norc --noprofile -i
"""


class PaperBoard:
    """A context: the board is there, and off; on exit all of it is gone. Needs root."""

    def __init__(self, folder: Path) -> None:
        self.interface = f"paper{os.getpid() % 1_000_000}"
        """Of this machine, at the other end of the board's cable."""
        self._management = f"other{os.getpid() % 1_000_000}"
        self.address = IPv4Address("169.254.64.2") + os.getpid() % 4096 * 4
        """Where it is reached but for the cable."""
        self.key = folder / "key"
        """Of who may log in there."""
        self.starts = 0
        """How often it was powered on."""
        self._folder = folder
        self._namespace: Namespace | None = None
        self._system: subprocess.Popen[bytes] | None = None
        self._console: int | None = None
        self._retired: list[int] = []
        """Consoles of earlier starts, which `_carry` may be reading."""
        self._client: socket.socket | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._switch = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._wake, self._woken = socket.socketpair()
        self._ending = False
        self._threads = [
            threading.Thread(target=self._switch.serve_forever),
            threading.Thread(target=self._carry),
        ]

    @property
    def serial_port(self) -> int:
        """TCP port of its serial console."""
        return int(self._listener.getsockname()[1])

    @property
    def power_host(self) -> str:
        """URL of its power switch."""
        return f"http://127.0.0.1:{self._switch.server_port}"

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._system is not None

    def __enter__(self) -> PaperBoard:
        for name, text in (
            ("start", START),
            ("systemctl", SYSTEMCTL),
            ("journalctl", JOURNALCTL),
            ("mnagent", MNAGENT),
        ):
            (self._folder / name).write_text(text)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        public = self.key.with_suffix(".pub").read_text()
        (self._folder / "authorized_keys").write_text(public)
        self._namespace = Namespace.create(f"{unique_prefix()}-paper")
        try:
            self._lay_cables(self._namespace)
        except BaseException:
            self._remove(self._namespace)
            raise
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._switch.shutdown()
        self._ending = True
        self._wake.send(b"!")
        for thread in self._threads:
            thread.join()
        self.power(False)
        self._close_retired()
        for server in (self._switch.socket, self._listener, self._wake, self._woken):
            server.close()
        if self._client is not None:
            self._client.close()
        if self._namespace is not None:
            self._remove(self._namespace)

    def _lay_cables(self, namespace: Namespace) -> None:
        for near, far in ((self.interface, "eth0"), (self._management, "other")):
            peer = ("type", "veth", "peer", "name", far, "netns", namespace.name)
            run("ip", "link", "add", "name", near, *peer)
        run("ethtool", "-K", self.interface, "tx", "off")
        namespace.complete_checksums("eth0")
        run("ip", "address", "add", f"{self.address - 1}/30", "dev", self._management)
        run("ip", "link", "set", self._management, "up")
        namespace.ip(f"address add {self.address}/30 dev other", "link set other up")

    def _remove(self, namespace: Namespace) -> None:
        """The cables too, now: the kernel takes its time for what was in a namespace."""
        for near in (self.interface, self._management):
            with contextlib.suppress(RigError):
                run("ip", "link", "del", near)
        namespace.remove()

    def power(self, on: bool) -> None:
        """Switch its power."""
        if on and self._system is None:
            self._start()
        elif not on and self._system is not None:
            self._system.kill()
            self._system.wait()
            assert self._console is not None
            self._retired.append(self._console)
            self._system = self._console = None
            self._wake.send(b"!")

    def _start(self) -> None:
        assert self._namespace is not None
        self.starts += 1
        near, far = pty.openpty()
        self._system = subprocess.Popen(
            [
                *("ip", "netns", "exec", self._namespace.name),
                *(
                    "unshare",
                    "--mount",
                    "--propagation",
                    "slave",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                ),
                *("sh", str(self._folder / "start"), str(self._folder)),
            ],
            stdin=far,
            stdout=far,
            stderr=far,
            start_new_session=True,
        )
        os.close(far)
        self._console = near
        self._wake.send(b"!")

    def _carry(self) -> None:
        """Between the console and who listens; the connection outlives the board's starts."""
        while not self._ending:
            self._close_retired()
            console, client = self._console, self._client
            with selectors.DefaultSelector() as selector:
                for source in (self._woken, self._listener, client, console):
                    if source is not None:
                        selector.register(source, selectors.EVENT_READ)
                ready = {key.fileobj for key, _ in selector.select()}
            if self._woken in ready:
                self._woken.recv(4096)
            if self._listener in ready:
                self._client = self._listener.accept()[0]
            with contextlib.suppress(OSError):  # The power was cut meanwhile.
                if console is not None and console in ready:
                    data = os.read(console, 4096)
                    if client is not None:
                        client.sendall(data)
                if client is not None and client in ready:
                    self._type(client)

    def _close_retired(self) -> None:
        while self._retired:
            os.close(self._retired.pop())

    def _type(self, client: socket.socket) -> None:
        data = client.recv(4096)
        if not data:
            client.close()
            self._client = None
        elif self._console is not None:
            os.write(self._console, data)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        board = self

        class Handler(BaseHTTPRequestHandler):
            """Switch.Set and Switch.GetStatus of a Shelly of the second generation."""

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if request["method"] == "Switch.Set":
                    board.power(request["params"]["on"])
                answer = {"id": request["id"], "result": {"output": board.is_on}}
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing."""

        return Handler
