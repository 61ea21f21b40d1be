"""The in-kernel engine's programs on interfaces, and what of it outlives this process.

Links and maps are pinned where there is a BPF file system: after a crash or kill -9 the kernel goes
on carrying packets, as the last tables say, until the next start adopts what is pinned. A clean
stop removes it all. Without such a file system everything goes away with the process.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

from mnagent.datapath._kernel import (
    Programs,
    detach_tc,
    open_pinned,
    pin,
    remove_clsact,
)

logger = logging.getLogger(__name__)

OBJECT = Path(__file__).with_name("kernel_engine.bpf.o")
TCX_UNKNOWN = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})
"""What kernels before 6.6 say to a tcx link."""


class KernelLinks:
    """Programs, loaded and attached."""

    def __init__(
        self, directory: Path | None, *, room: dict[str, int], by_filter: bool = False
    ) -> None:
        """``directory`` to pin in. ``by_filter`` uses tc clsact even where there are tcx links.
        ``room``: how many entries a map takes.

        OSError when the kernel does not take the programs.
        """
        self._directory = directory
        self._by_filter = by_filter
        self._room = room
        self._links: dict[tuple[int, bool], int] = {}
        self._filters: dict[tuple[int, bool], bool] = {}
        self.adopted = False
        """The maps have what an earlier process told."""
        self.programs = self._load()

    @property
    def attachment(self) -> str:
        """How the programs are attached: tcx or clsact."""
        return "clsact" if self._by_filter else "tcx"

    @property
    def is_pinned(self) -> bool:
        """Whether packets are carried on after kill -9."""
        return self._directory is not None

    def _load(self) -> Programs:
        if self._directory is None:
            return Programs(str(OBJECT), room=self._room)
        pinned = {
            path.name.removeprefix("map-"): str(path)
            for path in sorted(self._directory.glob("map-*"))
        }
        if pinned:
            try:
                programs = Programs(str(OBJECT), pinned, self._room)
            except OSError as error:
                logger.warning("what an earlier run pinned does not fit any more: %s", error)
                self._unpin()
            else:
                self.adopted = True
                return programs
        programs = Programs(str(OBJECT), room=self._room)
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            for name in programs.maps:
                programs.pin_map(name, str(self._directory / f"map-{name}"))
        except OSError as error:
            logger.debug("nothing is pinned: %s", error)
            self._unpin()
            self._directory = None
        return programs

    def attach(self, program: str, interface: int, *, egress: bool) -> None:
        """Run a program on an interface. Idempotent. OSError when that cannot be."""
        key = (interface, egress)
        if key in self._links or key in self._filters:
            return
        if not self._by_filter:
            try:
                self._links[key] = self._attach_link(program, key)
            except OSError as error:
                if self._links or error.errno not in TCX_UNKNOWN:
                    raise
                logger.debug("no tcx links here (%s): using clsact", error)
                self._by_filter = True
        if self._by_filter:
            made = self.programs.attach_tc(program, interface, egress=egress)
            self._filters[key] = made or any(
                self._filters.get((interface, side), False) for side in (True, False)
            )

    def _attach_link(self, program: str, key: tuple[int, bool]) -> int:
        interface, egress = key
        path = self._pin_path(key)
        if path is not None and path.exists():
            link = open_pinned(str(path))
            try:
                self.programs.replace_tcx(link, program)
                return link
            except OSError:
                # Of an interface that is no more and whose number another one has.
                os.close(link)
                path.unlink()
        link = self.programs.attach_tcx(program, interface, egress=egress)
        if path is not None:
            pin(link, str(path))
        return link

    def _pin_path(self, key: tuple[int, bool]) -> Path | None:
        if self._directory is None:
            return None
        return self._directory / f"link-{key[0]}-{'egress' if key[1] else 'ingress'}"

    def detach(self, interface: int) -> None:
        """Take the programs off an interface, which may be gone already."""
        for egress in (False, True):
            key = (interface, egress)
            link = self._links.pop(key, None)
            if link is not None:
                path = self._pin_path(key)
                if path is not None:
                    path.unlink(missing_ok=True)
                os.close(link)
            if key in self._filters:
                detach_tc(interface, egress=egress)
        made = [self._filters.pop((interface, egress), False) for egress in (False, True)]
        if any(made):
            remove_clsact(interface)

    def forget_strangers(self) -> None:
        """Remove what is pinned of interfaces that are not attached: of an earlier process."""
        if self._directory is None:
            return
        ours = {self._pin_path(key) for key in self._links}
        for path in self._directory.glob("link-*"):
            if path not in ours:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove everything, pinned or not."""
        for interface in {key[0] for key in (*self._links, *self._filters)}:
            self.detach(interface)
        self._unpin()

    def _unpin(self) -> None:
        if self._directory is None:
            return
        with contextlib.suppress(OSError):
            for path in self._directory.iterdir():
                path.unlink()
            self._directory.rmdir()
