"""The in-kernel engine beside the one in user space, behind one face.

User space knows all tables and can serve everything; the kernel takes from it what is plain. A
change is told to user space first: at any moment each packet meets the entry as it was or as it is,
in exactly one of the two.

The programs stop serving when this process has not said for `ALIVE_FOR` that it lives: a binding
that ends meanwhile would otherwise be used for ever.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from pathlib import Path

from mnagent.core.actions import TunnelEnd
from mnagent.datapath import kernel_tables
from mnagent.datapath._engine import Engine
from mnagent.datapath.features import cuts_behind_extension_headers, cuts_tunnelled_packets
from mnagent.datapath.kernel_links import KernelLinks
from mnagent.datapath.tables import (
    Changes,
    DirectPathEntry,
    HandedUp,
    PeerBindingEntry,
    Tables,
    Traffic,
    TunnelEntry,
)

logger = logging.getLogger(__name__)

ALIVE_FOR = 60.0
"""Seconds that the kernel carries packets after the last sign of life."""
SIGN_INTERVAL = 5.0
"""Seconds between two signs of life."""
RING_FRAMES = 1024
"""Frames that may wait at an interface: what the kernel leaves is less than all."""
ADOPTION_PATIENCE = 10.0
"""Seconds that what an earlier process told stays in force where nothing better is known yet."""
ROOM = 1 << 18
"""Bindings, and direct paths, that the kernel has room for. It takes 48 octets for each at once."""
_SETTINGS_KEY = bytes(4)
_ENTRY_MAPS = ("tunnels", "peers", "paths")
_FULL = frozenset({errno.E2BIG, errno.ENOMEM})


class KernelEngine:
    """`mnagent.datapath.Engine` with the kernel's help. OSError when the kernel gives none.

    ``room``: how many bindings, and how many direct paths, the kernel holds. Those beyond are
    served in user space; what would go directly takes the tunnel where that is in the kernel.
    """

    def __init__(
        self,
        *,
        tun_fd: int,
        wake_fd: int,
        tunnel_interface: int,
        pins: Path | None = None,
        by_filter: bool = False,
        ring_frames: int = RING_FRAMES,
        room: int = ROOM,
    ) -> None:
        sizes = dict.fromkeys(_ENTRY_MAPS, room)
        self._links = KernelLinks(pins, room=sizes, by_filter=by_filter)
        self._maps = self._links.programs.maps
        self._tunnel_interface = tunnel_interface
        self._wake = wake_fd
        self._lock = threading.Lock()
        self._stopping = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None
        self._reports: list[kernel_tables.Report] = []
        self._probe = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._is_safe: dict[int, bool] = {}
        self._is_full = False
        self._tunnels: dict[IPv6Address, TunnelEntry] = {}
        self._peers: dict[IPv6Address, PeerBindingEntry] = {}
        self._paths: dict[tuple[IPv6Address, IPv6Address], DirectPathEntry] = {}
        self._addresses: tuple[IPv6Address, ...] = ()
        self._written: dict[str, dict[bytes, bytes]] = {
            name: {} for name in (*_ENTRY_MAPS, "locals")
        }
        self._adopted: dict[str, set[bytes]] = {
            name: set(self._maps[name].keys()) if self._links.adopted else set()
            for name in self._written
        }
        self._adopted_until = time.monotonic() + ADOPTION_PATIENCE
        self._is_adopting = self._links.adopted
        self._trouble: str | None = None
        try:
            self._give_sign_of_life()
            self._links.attach("outbound", tunnel_interface, egress=True)
            self._engine = Engine(
                tun_fd=tun_fd, wake_fd=wake_fd, ring_frames=ring_frames, behind_ingress=True
            )
        except BaseException:
            self._links.close()
            raise

    # what both do

    def attach(self, interface: int) -> None:
        """Receive from an interface too. Idempotent; OSError when it is gone."""
        self._engine.attach(interface)
        program = "inbound_ethernet" if self._engine.has_link_header(interface) else "inbound_plain"
        self._is_safe.pop(interface, None)
        self._links.attach(program, interface, egress=False)
        self._give_sign_of_life()

    def detach(self, interface: int) -> None:
        """Stop receiving from and sending to an interface."""
        self._links.detach(interface)
        self._is_safe.pop(interface, None)
        self._engine.detach(interface)

    def publish(self, tables: Tables) -> None:
        """Put the whole desired state in force."""
        self._engine.publish(tables)
        with self._lock:
            self._tunnels = {entry.home_address: entry for entry in reversed(tables.tunnels)}
            self._peers = {entry.home_address: entry for entry in reversed(tables.peer_bindings)}
            self._paths = {
                (entry.home_address, entry.correspondent): entry
                for entry in reversed(tables.direct_paths)
            }
            self._addresses = tables.local_addresses
            self._write_all()

    def change(self, changes: Changes) -> None:
        """Put in force what becomes different."""
        self._engine.change(changes)
        with self._lock:
            tunnels = list(changes.removed_tunnels)
            peers = list(changes.removed_peer_bindings)
            paths = list(changes.removed_direct_paths)
            for home in tunnels:
                self._tunnels.pop(home, None)
            for home in peers:
                self._peers.pop(home, None)
            for pair in paths:
                self._paths.pop(pair, None)
            for tunnel in changes.tunnels:
                self._tunnels[tunnel.home_address] = tunnel
                tunnels.append(tunnel.home_address)
            for peer in changes.peer_bindings:
                self._peers[peer.home_address] = peer
                peers.append(peer.home_address)
            for path in changes.direct_paths:
                pair = (path.home_address, path.correspondent)
                self._paths[pair] = path
                paths.append(pair)
            if changes.local_addresses is not None:
                self._addresses = changes.local_addresses
            if peers and self._paths:
                moved = set(peers)
                paths += [pair for pair in self._paths if pair[1] in moved]
            self._write_locals_if(changes)
            for pair in paths:
                self._write_path(pair)
            for home in peers:
                self._write_peer(home)
            for home in tunnels:
                self._write_tunnel(home)

    def _write_locals_if(self, changes: Changes) -> None:
        """Home agents change tunnels all the time, their own addresses hardly ever."""
        if (
            changes.local_addresses is not None
            or changes.direct_paths
            or changes.removed_direct_paths
            or any(each.end is TunnelEnd.MOBILE_NODE for each in changes.tunnels)
            or (changes.removed_tunnels and len(self._written["locals"]) != len(self._addresses))
        ):
            self._write_locals()

    # the kernel's maps

    def _write_all(self) -> None:
        self._write_locals()
        for home in self._known("peers", self._peers):
            self._write_peer(home)
        for pair in self._known_paths():
            self._write_path(pair)
        for home in self._known("tunnels", self._tunnels):
            self._write_tunnel(home)

    def _known(self, name: str, wanted: Iterable[IPv6Address]) -> list[IPv6Address]:
        present = self._written[name].keys() | self._adopted[name]
        return list({IPv6Address(key) for key in present} | set(wanted))

    def _known_paths(self) -> list[tuple[IPv6Address, IPv6Address]]:
        present = self._written["paths"].keys() | self._adopted["paths"]
        pairs = {(IPv6Address(key[:16]), IPv6Address(key[16:])) for key in present}
        return list(pairs | self._paths.keys())

    def _set(self, name: str, key: bytes, value: bytes | None) -> bool:
        """Have an entry in the kernel, or none; says whether it became different.

        What an earlier process told gives way to what is known better, at once; to nothing only
        after a while. What the kernel has no room for is not there: user space has it.
        """
        if value is None and key in self._adopted[name]:
            return False
        self._adopted[name].discard(key)
        written = self._written[name]
        if value is None:
            if written.pop(key, None) is None:
                return False
            self._maps[name].delete(key)
        else:
            if written.get(key) == value:
                return False
            if self._update(name, key, value):
                written[key] = value
            else:
                written.pop(key, None)
                self._maps[name].delete(key)
        return True

    def _update(self, name: str, key: bytes, value: bytes) -> bool:
        """False when the kernel has no room. What a tunnel carries just now may go uncounted."""
        if name == "tunnels":
            before = self._maps[name].lookup(key)
            value += kernel_tables.carried(before) if before else kernel_tables.NOTHING_CARRIED
        try:
            self._maps[name].update(key, value)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            if not self._is_full:
                logger.warning("the kernel has no room for more: user space serves what is new")
            self._is_full = True
            return False
        return True

    def _write_locals(self) -> None:
        own = [home for home, _ in self._paths]
        own += [home for home, each in self._tunnels.items() if each.end is TunnelEnd.MOBILE_NODE]
        flags = kernel_tables.encode_locals(self._addresses, own)
        for key in (self._written["locals"].keys() | self._adopted["locals"]) - flags.keys():
            self._set("locals", key, None)
        for key, value in flags.items():
            self._set("locals", key, value.to_bytes(8, "little"))

    def _write_tunnel(self, home: IPv6Address) -> None:
        entry, key = self._tunnels.get(home), home.packed
        if entry is not None and entry.hold and key in self._adopted["tunnels"]:
            return
        self._set("tunnels", key, None if entry is None else kernel_tables.encode_tunnel(entry))

    def _write_peer(self, home: IPv6Address) -> None:
        self._set("peers", home.packed, self._encode(self._peers.get(home), home))

    def _write_path(self, pair: tuple[IPv6Address, IPv6Address]) -> None:
        key = pair[0].packed + pair[1].packed
        if self._set("paths", key, self._encode(self._paths.get(pair), pair[1])):
            # The first packets on the new path are told of, however late the latest report was.
            for flow in kernel_tables.direct_flows(*pair):
                self._maps["flows"].delete(flow)

    def _encode(
        self, entry: DirectPathEntry | PeerBindingEntry | None, peer: IPv6Address
    ) -> bytes | None:
        if entry is None:
            return None
        return kernel_tables.encode_path(entry, self._peers.get(peer), is_safe=self._cuts_rightly)

    def _cuts_rightly(self, interface: int) -> bool:
        known = self._is_safe.get(interface)
        if known is None:
            try:
                name = socket.if_indextoname(interface)
                known = cuts_behind_extension_headers(self._probe, name)
            except OSError:
                known = False
            self._is_safe[interface] = known
        return known

    def _takes_merged(self) -> bool:
        """False where a card would cut what the kernel took out of a tunnel by itself, wrongly, and
        where that cannot be known now."""
        try:
            names = [name for _, name in socket.if_nameindex()]
        except OSError:
            return False
        return not any(cuts_tunnelled_packets(self._probe, name) for name in names)

    def _give_sign_of_life(self) -> None:
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._maps["settings"].update(
            _SETTINGS_KEY,
            kernel_tables.encode_settings(
                alive_until=now + int(ALIVE_FOR * 1e9),
                tunnel_interface=self._tunnel_interface,
                takes_merged=self._takes_merged(),
            ),
        )

    # its life

    def start(self) -> None:
        """Start serving."""
        self._engine.start()
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="mnagent-kernel", daemon=True)
            self._thread.start()

    def _follow(self) -> None:
        """Tell the kernel that we live, and the owner what the kernel reports."""
        poll = select.poll()
        poll.register(self._stopping, select.POLLIN)
        poll.register(self._links.programs.map_descriptor("reports"), select.POLLIN)
        next_sign = time.monotonic() + SIGN_INTERVAL
        while True:
            left = max(next_sign - time.monotonic(), 0)
            ready = [descriptor for descriptor, _ in poll.poll(left * 1000)]
            if self._stopping in ready:
                return
            try:
                if ready:
                    self._take_reports()
                if time.monotonic() < next_sign:
                    continue
                self._give_sign_of_life()
                self._end_adoption()
            except OSError as error:
                self._note_trouble(str(error))
                if self._is_stopped_within(SIGN_INTERVAL):
                    return
            else:
                self._note_trouble(None)
            next_sign = time.monotonic() + SIGN_INTERVAL

    def _is_stopped_within(self, seconds: float) -> bool:
        """Waits; what was not done makes the other descriptors ready for ever."""
        poll = select.poll()
        poll.register(self._stopping, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _note_trouble(self, trouble: str | None) -> None:
        """Say once what is wrong, and that it is over."""
        before, self._trouble = self._trouble, trouble
        if trouble is not None and before is None:
            logger.warning(
                "the in-kernel engine cannot be told that the agent lives (%s): trying again; "
                "user space carries everything from %.0f s after the last time it worked",
                trouble,
                ALIVE_FOR,
            )
        elif trouble is None and before is not None:
            logger.info("the in-kernel engine is told again that the agent lives")

    def _take_reports(self) -> None:
        with self._lock:
            samples = self._links.programs.take_samples("reports")
            self._reports += map(kernel_tables.decode_report, samples)
        if samples:
            os.eventfd_write(self._wake, 1)

    def _end_adoption(self) -> None:
        """Nobody claimed what is left of an earlier process."""
        if time.monotonic() < self._adopted_until:
            return
        with self._lock:
            if not self._is_adopting:
                return
            left, self._adopted = self._adopted, {name: set() for name in self._written}
            for name, keys in left.items():
                for key in keys:
                    self._maps[name].delete(key)
            self._write_all()
            self._links.forget_strangers()
            self._is_adopting = False

    def stop(self) -> None:
        """Stop the threads; the kernel goes on."""
        if self._thread is not None:
            os.eventfd_write(self._stopping, 1)
            self._thread.join()
            os.eventfd_read(self._stopping)
            self._thread = None
        self._engine.stop()

    def close(self) -> None:
        """Stop, and leave nothing behind in the kernel."""
        if self._probe.fileno() < 0:
            return
        self.stop()
        self._links.close()
        self._engine.close()
        self._probe.close()
        os.close(self._stopping)

    # what it tells

    def take_handed_up(self) -> list[HandedUp]:
        """See `Engine.take_handed_up`."""
        return self._engine.take_handed_up()

    def take_traffic(self) -> list[Traffic]:
        """Of both engines, each with its own part of a pair's packets."""
        with self._lock:
            reports, self._reports = self._reports, []
        return self._engine.take_traffic() + merge_reports(reports)

    def counters(self) -> dict[str, int]:
        """Of both engines together; ``kernel-packets`` is the kernel's part."""
        found = self._engine.counters()
        kernel = [self._verdict(at) for at in range(len(kernel_tables.VERDICTS))]
        for name, value in zip(kernel_tables.VERDICTS, kernel, strict=True):
            found[name] += value
        out, into, direct_out, direct_in = kernel
        found["packets-outbound"] += out + direct_out
        found["packets-inbound"] += into + direct_in
        found["kernel-packets"] = sum(kernel)
        return found

    def _verdict(self, at: int) -> int:
        value = self._maps["verdicts"].lookup(at.to_bytes(4, "little")) or b""
        return sum(memoryview(value).cast("Q"))

    def activity(self) -> dict[IPv6Address, tuple[int, int]]:
        """Home address -> packets carried (out, in)."""
        found = self._engine.activity()
        for home, (out, into) in found.items():
            value = self._maps["tunnels"].lookup(home.packed)
            if value is not None:
                kernel_out, kernel_in = kernel_tables.decode_carried(value)
                found[home] = (out + kernel_out, into + kernel_in)
        return found

    def status(self) -> dict[str, object]:
        """For people: what serves what."""
        with self._lock:
            tunnels = list(self._tunnels.values())
            paths: list[DirectPathEntry | PeerBindingEntry] = [
                *self._paths.values(),
                *self._peers.values(),
            ]
        served = sum(map(self._sends_in_kernel, tunnels))
        served_paths = sum(
            kernel_tables.serves_path(each, is_safe=self._cuts_rightly) for each in paths
        )
        return {
            "kind": "kernel",
            "attachment": self._links.attachment,
            "survives_restart": self._links.is_pinned,
            "in_kernel": served + served_paths,
            "in_user_space": len(tunnels) + len(paths) - served - served_paths,
            **({} if self._trouble is None else {"trouble": self._trouble}),
        }

    def _sends_in_kernel(self, tunnel: TunnelEntry) -> bool:
        has_room = tunnel.home_address.packed in self._written["tunnels"]
        return has_room and kernel_tables.sends_in_kernel(tunnel)

    # what only user space does

    @property
    def protect(self) -> Callable[[int, bytes], bytes]:
        """See `Engine.protect`."""
        return self._engine.protect

    def set_sequence(self, spi: int, *, next: int, limit: int) -> None:
        """See `Engine.set_sequence`."""
        self._engine.set_sequence(spi, next=next, limit=limit)

    def sequences(self) -> dict[int, tuple[int, int]]:
        """See `Engine.sequences`."""
        return self._engine.sequences()

    def take_sequences_in_need(self) -> dict[int, tuple[int, int]]:
        """See `Engine.take_sequences_in_need`."""
        return self._engine.take_sequences_in_need()


def merge_reports(reports: list[kernel_tables.Report]) -> list[Traffic]:
    """One `Traffic` for each pair; the last packets out say what it carries, or in where none
    went out."""
    pairs: dict[tuple[IPv6Address, IPv6Address], list[kernel_tables.Report]] = {}
    for report in reports:
        pairs.setdefault((report.local, report.peer), []).append(report)
    merged = []
    for (local, peer), group in pairs.items():
        out = [each for each in group if each.outbound]
        into = [each for each in group if not each.outbound]
        last = (out or into)[-1]
        merged.append(
            Traffic(
                local=local,
                peer=peer,
                packets_in=sum(each.packets for each in into),
                packets_out=sum(each.packets for each in out),
                protocol=last.protocol,
                destination_port=last.port,
                direct=last.direct,
                direct_in=bool(into) and into[-1].direct,
            )
        )
    return merged
