"""Records that change often, in one file that only grows, until it is written anew.

The first line is ``mnagent-journal 1 BOOT``; each further one is one record:

    CRC32 KEPT_AT WALL_CLOCK KEY VALUE

in ASCII, where KEPT_AT is on the clock of that boot (CLOCK_BOOTTIME), WALL_CLOCK the same instant
in seconds since 1970, and VALUE is ``-`` for a record that was forgotten. The last line of a key
counts. A line that is cut off or damaged is left out; a file whose first line cannot be read is put
aside, as ``NAME.damaged``, and the journal begins anew.

What it costs: a batch of records is one ``write``, which survives the end of this process however
that comes; ``fdatasync`` follows within `SYNC_INTERVAL`, in a thread, so that no packet ever waits
for an SD card and a card sees one small write in that time, not one a record. Once the file is
mostly history that thread writes it anew beside its place and syncs it; then it is moved there.

An instant of an earlier boot is made out from the wall clock; but that boot ended before this one
began, so at least as much has passed as this boot is old, whatever a clock without a battery says.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from mnagent.core.records import KeptRecord
from mnagent.runtime.store import write_all
from mnagent.system.clock import Clock
from mnagent.system.store import check_key

logger = logging.getLogger(__name__)

FORMAT = "mnagent-journal 1"
SYNC_INTERVAL = 10.0
"""Seconds that a record may be in the page cache only."""
MIN_REWRITE_LENGTH = 64 * 1024
"""Octets below which a file is never written anew."""
HISTORY_SHARE = 4
"""A file is written anew once it is so many times as long as what counts in it."""
MAX_LENGTH = 256 * 1024 * 1024
"""Octets; what is longer is no journal of ours."""
_FORGOTTEN = "-"


class Journal:
    """One journal. All methods belong to one thread; what `begin_sync` returns may run in
    another."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        boot_identifier: str,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._clock = clock
        self._wall_clock = wall_clock
        self._header = f"{FORMAT} {boot_identifier}\n"
        self._pending: dict[str, str | None] = {}
        self._records: dict[str, KeptRecord] = {}
        self._descriptor: int | None = None
        self._length = 0
        self._live_length = 0
        self._is_dirty = False
        self._has_failed = False
        self._fresh: int | None = None
        self._since: list[bytes] | None = None

    @property
    def is_dirty(self) -> bool:
        """True when there is something to sync."""
        return self._is_dirty and self._since is None

    def open(self) -> Mapping[str, KeptRecord]:
        """Read what earlier runs left; writes nothing where there is nothing. OSError when it
        cannot be read or written."""
        with contextlib.suppress(FileNotFoundError):
            self._fresh_path.unlink()
        text = self._read()
        if text is None:
            return {}
        self._records = dict(self._decode(text))
        self._live_length = sum(
            len(self._line(key, record.value, record.kept_at))
            for key, record in self._records.items()
        )
        self.sync()
        return dict(self._records)

    def note(self, key: str, value: str | None) -> None:
        """Keep ``value`` under ``key``, or forget it; `flush` writes it."""
        check_key(key)
        self._pending[key] = value

    def flush(self) -> None:
        """Write what was noted. A failure is logged once, not raised: the records still count, and
        the next sync writes everything anew."""
        if not self._pending:
            return
        now = self._clock.now()
        lines = [self._take(key, value, now) for key, value in self._pending.items()]
        self._pending.clear()
        try:
            self._append("".join(lines).encode("ascii"))
        except OSError as error:
            self._fail(error)

    def begin_sync(self) -> Callable[[], None]:
        """What to do, in a thread, to make everything written so far safe from a power cut; then
        comes `end_sync`. OSError where that cannot even be begun."""
        self._is_dirty = False
        limit = max(MIN_REWRITE_LENGTH, HISTORY_SHARE * self._live_length)
        if self._descriptor is not None and not self._has_failed and self._length <= limit:
            return partial(_sync_and_close, os.dup(self._descriptor), self._path)
        content = self._content()
        self._fresh, self._since = self._open_fresh(), []
        return partial(_fill, self._fresh, content)

    def end_sync(self, error: OSError | None = None) -> None:
        """What `begin_sync` returned has been done, or failed."""
        fresh, since = self._fresh, self._since
        self._fresh = self._since = None
        try:
            if error is not None:
                raise error
            if fresh is not None and since is not None:
                write_all(fresh, b"".join(since))
                self._put_in_place(fresh)
                fresh = None
        except OSError as failure:
            self._fail(failure)
        finally:
            if fresh is not None:
                os.close(fresh)

    def sync(self) -> None:
        """Both halves, here and now."""
        failure = None
        try:
            self.begin_sync()()
        except OSError as error:
            failure = error
        self.end_sync(failure)

    def close(self) -> None:
        """Write and sync all of it."""
        self.flush()
        if self.is_dirty:
            self.sync()
        self._close()

    # Writing.

    def _take(self, key: str, value: str | None, now: float) -> str:
        before = self._records.pop(key, None)
        if before is not None:
            self._live_length -= len(self._line(key, before.value, before.kept_at))
        line = self._line(key, value, now)
        if value is not None:
            self._records[key] = KeptRecord(value=value, kept_at=now)
            self._live_length += len(line)
        return line

    def _line(self, key: str, value: str | None, kept_at: float) -> str:
        wall = self._wall_clock() - (self._clock.now() - kept_at)
        return _sealed(f"{kept_at:.3f} {wall:.3f} {key} {_FORGOTTEN if value is None else value}")

    def _append(self, data: bytes) -> None:
        if self._since is not None:
            self._since.append(data)
        if self._descriptor is None:
            if self._since is None:
                self._begin_anew()
            return
        self._is_dirty = True
        self._length += len(data)
        write_all(self._descriptor, data)

    def _begin_anew(self) -> None:
        """With all records: those of this moment have been taken already."""
        fresh = self._open_fresh()
        try:
            write_all(fresh, self._content())
            self._put_in_place(fresh)
        except OSError:
            os.close(fresh)
            raise

    def _content(self) -> bytes:
        lines = (self._line(key, each.value, each.kept_at) for key, each in self._records.items())
        return (self._header + "".join(lines)).encode("ascii")

    def _open_fresh(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._fresh_path, flags, 0o600)

    @property
    def _fresh_path(self) -> Path:
        return self._path.with_name(self._path.name + ".new")

    def _put_in_place(self, descriptor: int) -> None:
        self._fresh_path.replace(self._path)
        self._close()
        self._descriptor, self._length = descriptor, os.fstat(descriptor).st_size
        self._has_failed, self._is_dirty = False, True

    def _fail(self, error: OSError) -> None:
        if not self._has_failed:
            logger.error("failed to write %s: %s", self._path, error.strerror or error)
        self._has_failed = self._is_dirty = True

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    # Reading.

    def _read(self) -> str | None:
        """The text, or None where there is none that counts."""
        try:
            if self._path.stat().st_size > MAX_LENGTH:
                self._put_aside("is too long")
                return None
            text = self._path.read_bytes().decode("ascii", errors="replace")
        except FileNotFoundError:
            return None
        if not text.startswith(f"{FORMAT} ") or "\n" not in text:
            self._put_aside(f'does not begin with "{FORMAT}"')
            return None
        return text

    def _put_aside(self, reason: str) -> None:
        aside = self._path.with_name(self._path.name + ".damaged")
        self._path.replace(aside)
        logger.warning("%s %s; it is %s now, and begins anew", self._path, reason, aside)

    def _decode(self, text: str) -> Iterator[tuple[str, KeptRecord]]:
        header, *lines = text.split("\n")
        is_same_boot = f"{header}\n" == self._header
        latest: dict[str, KeptRecord] = {}
        damaged = 0
        for line in lines[:-1]:  # behind the last newline is nothing, or what was cut off
            parts = _opened(line)
            if parts is None:
                damaged += 1
                continue
            kept_at, wall, key, value = parts
            latest.pop(key, None)
            if value != _FORGOTTEN:
                at = kept_at if is_same_boot else self._translated(wall)
                latest[key] = KeptRecord(value=value, kept_at=at)
        if damaged:
            logger.warning("%s: left out %d damaged lines", self._path, damaged)
        return iter(latest.items())

    def _translated(self, wall: float) -> float:
        """An instant of an earlier boot on the present clock: before this boot began."""
        now = self._clock.now()
        return min(now - (self._wall_clock() - wall), 0.0)


def _sync_and_close(descriptor: int, path: Path) -> None:
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    _sync_directory(path.parent)


def _fill(descriptor: int, content: bytes) -> None:
    write_all(descriptor, content)
    os.fdatasync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sealed(body: str) -> str:
    return f"{zlib.crc32(body.encode('ascii')):08x} {body}\n"


def _opened(line: str) -> tuple[float, float, str, str] | None:
    """The parts of a line, or None when it is damaged."""
    try:
        if f"{line}\n" != _sealed(line[9:]):
            return None
        kept_at, wall, key, value = line[9:].split(" ", 3)
        return float(kept_at), float(wall), key, value
    except ValueError:  # UnicodeEncodeError as well
        return None
