"""What the rig runs on a board, beside the traffic; needs Python alone, and is copied there.

::

    python3 on_board.py clock              for each line of its input, what the board's clock says
    python3 on_board.py events SOCKET      the agent's events, remembered ones first

One JSON object a line; ends at the end of its input.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time


def say(kind: str, **details: object) -> None:
    """Print one line."""
    print(json.dumps({"kind": kind, **details}), flush=True)


def clock() -> None:
    """Seconds on CLOCK_BOOTTIME, as often as asked."""
    for _ in sys.stdin:
        say("clock", at=time.clock_gettime(time.CLOCK_BOOTTIME))


def events(path: str) -> None:
    """Pass on what the agent tells; ends when it does. Raises OSError when there is no agent."""
    with socket.socket(socket.AF_UNIX) as agent, selectors.DefaultSelector() as selector:
        agent.connect(path)
        agent.sendall(b'{"id": 1, "method": "events"}\n')
        selector.register(agent, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        rest = b""
        while True:
            for key, _ in selector.select():
                data = os.read(key.fd, 65536)
                if not data:
                    return
                if key.fileobj is agent:
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        if event := json.loads(line).get("event"):
                            say("event", **event)


def main(arguments: list[str]) -> int:
    """Run a command of those above."""
    match arguments:
        case ["clock"]:
            clock()
        case ["events", path]:
            events(path)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
