"""What can go wrong while building, said so that a reader knows what to do."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

DISK_IS_FULL = "the disk is full: make room (the cache may be deleted) and run it again"
_INTERRUPTED = 130


class BuildError(Exception):
    """The build cannot go on; the text names the thing and the remedy."""


def told(program: str, main: Callable[[], int]) -> int:
    """The exit status of ``main``; what it raises is told in the name of ``program``."""
    try:
        return main()
    except BuildError as error:
        words = str(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        remedy = f"; {DISK_IS_FULL}" if error.errno == errno.ENOSPC else ""
        words = f"{where}{error.strerror}{remedy}"
    except KeyboardInterrupt:
        return _INTERRUPTED
    print(f"{program}: {words}", file=sys.stderr)
    return 1


def with_remedy(output: str) -> str:
    """What a command said, and what to do about it where that is known."""
    return f"{output}\n{DISK_IS_FULL}" if os.strerror(errno.ENOSPC) in output else output
