"""The tester: a packet socket at the far end of each link, and the nodes it plays behind it.

A thread receives, so that what any node does unasked is done while a test computes: it answers
Neighbor Solicitations for the addresses it plays and keeps everything else for `Tester.expect`.
Tests read like a dialogue::

    tester.send(packet(...))
    answer = tester.expect(lambda seen: seen.message.kind == BINDING_ACKNOWLEDGEMENT)

`expect` looks at what arrived since the latest `send`. That nothing happens is shown without a
wait: `Tester.refuses` asks something afterwards that must be answered, and looks at what came
before the answer.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address

from mnagent.rig.capture import ETH_P_ALL, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC, SOL_PACKET
from mnagent.rig.namespace import Namespace
from tests.blackbox.keys import Ring
from tests.blackbox.octets import (
    ICMP,
    NEIGHBOR_SOLICITATION,
    UNSPECIFIED,
    Message,
    Packet,
    neighbor_advertisement,
    packet,
    read_packet,
)

PATIENCE = 5.0
"""Seconds an answer may take, on a machine with other work."""
SHOWN = 20
"""Packets shown where none was the wanted one, the latest."""
ETHERTYPE_IPV6 = 0x86DD
PACKET_OUTGOING = 4
TESTER_MAC = bytes.fromhex("020000000001")


@dataclass(frozen=True, slots=True)
class Seen:
    """A packet that arrived at the tester, ESP taken off."""

    link: str
    at: float
    """Monotonic seconds."""
    source_mac: bytes
    destination_mac: bytes
    packet: Packet


Predicate = Callable[[Packet], object]


def multicast_mac(address: IPv6Address) -> bytes:
    """RFC 2464 section 7."""
    return b"\x33\x33" + address.packed[-4:]


def solicited_node(address: IPv6Address) -> IPv6Address:
    """RFC 4291 section 2.7.1."""
    return IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:])


class _Link:
    """One link, of which the tester has one end."""

    def __init__(self, namespace: Namespace, interface: str, peer_mac: bytes) -> None:
        self.interface = interface
        self.peer_mac = peer_mac
        self.mac = TESTER_MAC
        """What the tester sends from, and answers with where an address has no other."""
        with namespace.inside():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            index = socket.if_nametoindex(interface)
            membership = struct.pack("iHH8s", index, PACKET_MR_PROMISC, 0, b"")
            self.socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            self.socket.bind((interface, ETH_P_ALL))
        self.socket.setblocking(False)

    def write(self, data: bytes, *, mac: bytes | None = None) -> None:
        destination = IPv6Address(data[24:40])
        to = multicast_mac(destination) if destination.is_multicast else self.peer_mac
        self.socket.send(to + (mac or self.mac) + struct.pack("!H", ETHERTYPE_IPV6) + data)


class Tester:
    """Everything around the node under test."""

    def __init__(self) -> None:
        self.ring = Ring()
        self.plays: dict[IPv6Address, bytes] = {}
        """Addresses it is neighbour under, with their link-layer addresses."""
        self.answers_for: Callable[[str, IPv6Address], bytes | None] = self._played
        """Link and target to the link-layer address that a Neighbor Solicitation is answered
        with; None leaves it unanswered."""
        self.reactions: list[Callable[[Seen], None]] = []
        """Called in the thread with all that arrives: what a played node does by itself."""
        self._links: dict[str, _Link] = {}
        self._former: list[_Link] = []
        self._seen: list[Seen] = []
        self._arrived = threading.Condition()
        self._mark = 0
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def attach(self, namespace: Namespace, interface: str, peer_mac: bytes) -> None:
        """Take an end of a link; the link is known by the interface's name."""
        link = self._links[interface] = _Link(namespace, interface, peer_mac)
        self._selector.register(link.socket, selectors.EVENT_READ, link)

    def detach(self, interface: str) -> None:
        """Let go of a link that is about to end."""
        link = self._links.pop(interface)
        self._selector.unregister(link.socket)
        self._former.append(link)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the sockets."""
        self._waker.close()
        if self._thread.is_alive():
            self._thread.join()
        for link in (*self._links.values(), *self._former):
            link.socket.close()
        self._woken.close()
        self._selector.close()

    # Sending

    def send(self, *packets: bytes, link: str = "", mac: bytes | None = None) -> None:
        """Send; what `expect` looks at begins here."""
        self.listen()
        self.add(*packets, link=link, mac=mac)

    def add(self, *packets: bytes, link: str = "", mac: bytes | None = None) -> None:
        """Send more without a new beginning."""
        target = self._links[link] if link else next(iter(self._links.values()))
        for each in packets:
            target.write(each, mac=mac)

    def listen(self) -> None:
        """What `expect` looks at begins now."""
        with self._arrived:
            self._mark = len(self._seen)

    # Receiving

    def expect(
        self, wanted: Predicate, *, within: float = PATIENCE, what: str = "", skip: int = 0
    ) -> Packet:
        """The first packet since `send` that is wanted; fails when none comes."""
        return self.expect_seen(wanted, within=within, what=what, skip=skip).packet

    def expect_seen(
        self, wanted: Predicate, *, within: float = PATIENCE, what: str = "", skip: int = 0
    ) -> Seen:
        """As `expect`, with the frame; ``skip`` passes over so many that are wanted."""
        deadline = time.monotonic() + within
        with self._arrived:
            while True:
                found = [each for each in self._seen[self._mark :] if _holds(wanted, each.packet)]
                if len(found) > skip:
                    return found[skip]
                left = deadline - time.monotonic()
                if left <= 0 or not self._arrived.wait(left):
                    break
            latest = self._seen[self._mark :][-SHOWN:]
            came = "\n  ".join(map(describe, latest)) or "nothing"
        raise AssertionError(f"no {what or 'such packet'} within {within} s, only\n  {came}")

    def insist(
        self,
        question: bytes,
        wanted: Predicate,
        *,
        every: float = 0.3,
        within: float = PATIENCE,
        link: str = "",
    ) -> Packet:
        """Ask again every so many seconds until the answer comes."""
        deadline = time.monotonic() + within
        while True:
            self.add(question, link=link)
            try:
                return self.expect(wanted, within=every)
            except AssertionError:
                if time.monotonic() > deadline:
                    raise

    def came(self, wanted: Predicate) -> list[Packet]:
        """What came since `send` and is wanted, so far."""
        return [each.packet for each in self.came_seen(wanted)]

    def came_seen(self, wanted: Predicate) -> list[Seen]:
        """As `came`, with the frames."""
        with self._arrived:
            return [each for each in self._seen[self._mark :] if _holds(wanted, each.packet)]

    def refuses(self, unwanted: Predicate, barrier: Callable[[], object]) -> None:
        """Fail if anything unwanted came since `send` and before ``barrier`` was answered: a
        question sent afterwards (with `add`), whose answer comes after what went before it."""
        barrier()
        came = self.came_seen(unwanted)
        assert not came, "\n  ".join(["there came", *map(describe, came)])

    # The thread

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                self._drain(key.data)

    def _drain(self, link: _Link) -> None:
        while True:
            try:
                frame, address = link.socket.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError:
                continue
            if address[2] == PACKET_OUTGOING or frame[12:14] != b"\x86\xdd":
                continue
            try:
                received = self.ring.open(read_packet(frame[14:]))
            except (ValueError, IndexError, struct.error):
                continue
            self._take(
                link, Seen(link.interface, time.monotonic(), frame[6:12], frame[:6], received)
            )

    def _take(self, link: _Link, seen: Seen) -> None:
        if seen.packet.icmp_type == NEIGHBOR_SOLICITATION:
            self._answer(link, seen)
        for react in self.reactions:
            react(seen)
        with self._arrived:
            self._seen.append(seen)
            self._arrived.notify_all()

    def _played(self, link: str, target: IPv6Address) -> bytes | None:
        return self.plays.get(target)

    def _answer(self, link: _Link, seen: Seen) -> None:
        target = seen.packet.target
        if target is None or seen.packet.source == UNSPECIFIED:
            return
        mac = self.answers_for(link.interface, target)
        if mac is not None:
            answer = neighbor_advertisement(target, mac)
            link.write(
                packet(target, seen.packet.source, answer, protocol=ICMP, hop_limit=255), mac=mac
            )


def _holds(wanted: Predicate, each: Packet) -> bool:
    try:
        return bool(wanted(each))
    except (AttributeError, ValueError, IndexError):
        # Asked for something that this kind of packet has not, such as a message's status.
        return False


def describe(seen: Seen) -> str:
    """One line for a failure's text."""
    each = seen.packet
    kind: object = each.icmp_type
    try:
        message: Message | None = each.message
        if message is not None:
            kind = f"MH {message.kind} {message.body.hex()}"
        elif each.inner is not None:
            kind = f"inner {each.inner.source} > {each.inner.destination} {each.inner.protocol}"
    except (ValueError, IndexError, struct.error):
        kind = "malformed"
    headers: Sequence[int] = each.header_numbers
    return f"{seen.link} {each.source} > {each.destination} {list(headers)} {kind}"
