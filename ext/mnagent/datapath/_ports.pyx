"""The engine's sockets on an interface, and the filter before what it receives."""

import fcntl
import socket as python_socket
import struct

from mnagent.datapath._ring cimport ReceiveRing
from mnagent.datapath._tables cimport ETHERNET_LENGTH
from mnagent.datapath.linux cimport (
    AF_PACKET,
    ETH_P_ALL,
    ETH_P_IPV6,
    PACKET_IGNORE_OUTGOING,
    PACKET_QDISC_BYPASS,
    PACKET_STATISTICS,
    PACKET_VNET_HDR,
    SO_ATTACH_FILTER,
    SO_RCVBUFFORCE,
    SO_SNDTIMEO,
    SOL_PACKET,
    SOL_SOCKET,
    setsockopt,
    sock_filter,
    sock_fprog,
)

from mnagent.datapath.features import cuts_behind_extension_headers

SIOCGIFHWADDR = 0x8927
SIOCGIFMTU = 0x8921
SIOCGIFNAME = 0x8910
ARPHRD_ETHER = 1
ARPHRD_LOOPBACK = 772
RECEIVE_BUFFER = 16 << 20
SEND_TIMEOUT = b"\x00" * 8 + (100_000).to_bytes(8, "little")

# Classic BPF, before the packet is copied: IPv6 to us, untagged, of the protocols the engine
# handles.
BPF_LOAD_WORD = 0x20
BPF_LOAD_HALF = 0x28
BPF_LOAD_OCTET = 0x30
BPF_EQUAL = 0x15
BPF_GREATER_EQUAL = 0x35
BPF_RETURN = 0x06
ANCILLARY = 0xFFFFF000
NETWORK_HEADER = 0xFFF00000
ANCILLARY_PROTOCOL = 0
ANCILLARY_PACKET_TYPE = 4
ANCILLARY_VLAN_PRESENT = 48
PACKET_OTHERHOST_TYPE = 3

NEXT_HEADERS = (41, 50, 60, 43, 135, 44, 0)


def make_filter():
    """The filter program as (code, jump if true, jump if false, constant) tuples."""
    accept = 0xFFFFFFFF
    # Jumps to "accept" and "drop" are written as names and resolved below.
    lines = [
        (BPF_LOAD_HALF, ANCILLARY + ANCILLARY_PROTOCOL, None, None),
        (BPF_EQUAL, 0x86DD, "next", "drop"),
        (BPF_LOAD_WORD, ANCILLARY + ANCILLARY_VLAN_PRESENT, None, None),
        (BPF_EQUAL, 0, "next", "drop"),
        (BPF_LOAD_WORD, ANCILLARY + ANCILLARY_PACKET_TYPE, None, None),
        (BPF_GREATER_EQUAL, PACKET_OTHERHOST_TYPE, "drop", "next"),
        (BPF_LOAD_OCTET, NETWORK_HEADER + 6, None, None),
        *((BPF_EQUAL, protocol, "accept", "next") for protocol in NEXT_HEADERS),
        (BPF_EQUAL, 58, "next", "drop"),
        (BPF_LOAD_OCTET, NETWORK_HEADER + 40, None, None),
        (BPF_GREATER_EQUAL, 148, "drop", "next"),
        (BPF_GREATER_EQUAL, 144, "accept", "next"),
        (BPF_GREATER_EQUAL, 138, "drop", "next"),
        (BPF_GREATER_EQUAL, 133, "accept", "next"),
        (BPF_GREATER_EQUAL, 5, "drop", "accept"),
    ]
    drop, take = len(lines), len(lines) + 1
    places = {"drop": drop, "accept": take}
    program = []
    for at, (code, constant, when_true, when_false) in enumerate(lines):
        jumps = [
            0 if name in (None, "next") else places[name] - at - 1
            for name in (when_true, when_false)
        ]
        program.append((code, *jumps, constant))
    return [*program, (BPF_RETURN, 0, 0, 0), (BPF_RETURN, 0, 0, accept)]


cdef attach_filter(int descriptor):
    cdef sock_filter program[64]
    cdef sock_fprog holder
    lines = make_filter()
    for at, (code, when_true, when_false, constant) in enumerate(lines):
        program[<int>at].code = code
        program[<int>at].jt = when_true
        program[<int>at].jf = when_false
        program[<int>at].k = constant
    holder.len = len(lines)
    holder.filter = program
    if setsockopt(descriptor, SOL_SOCKET, SO_ATTACH_FILTER, &holder, sizeof(holder)) < 0:
        raise OSError("failed to attach the packet filter")


class Port:
    """Sockets on one interface: one to receive (while attached), one to send.

    ``overruns`` counts the frames that found the ring full, up to the last `refresh_overruns`.
    """

    def __init__(self, interface):
        name = python_socket.if_indextoname(interface)
        self.interface = interface
        self.receiver = None
        self.ring = None
        self.overruns = 0
        self.sender = python_socket.socket(AF_PACKET, python_socket.SOCK_RAW, 0)
        self.super_packet_sender = None
        try:
            self.link_length = self._link_length(name)
            self.mtu = 0
            self.refresh()
            self.sender.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
            self.sender.setsockopt(SOL_SOCKET, SO_SNDTIMEO, SEND_TIMEOUT)
            self.sender.bind((name, 0))
            if cuts_behind_extension_headers(self.sender, name):
                self._open_super_packet_sender(name)
        except BaseException:
            self.close()
            raise

    def _open_super_packet_sender(self, name):
        """Past the queueing discipline the kernel would not cut what the link cannot."""
        self.super_packet_sender = python_socket.socket(AF_PACKET, python_socket.SOCK_RAW, 0)
        self.super_packet_sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self.super_packet_sender.setsockopt(SOL_SOCKET, SO_SNDTIMEO, SEND_TIMEOUT)
        self.super_packet_sender.bind((name, 0))

    def refresh(self):
        """Take the link's MTU as it is now."""
        # By a descriptor that is there: `if_indextoname` opens one each time.
        request = struct.pack("16xi20x", self.interface)
        name = fcntl.ioctl(self.sender, SIOCGIFNAME, request)[:16]
        answer = fcntl.ioctl(self.sender, SIOCGIFMTU, name + bytes(24))
        self.mtu = struct.unpack_from("I", answer, 16)[0]

    def _ask(self, name, request, format):
        answer = fcntl.ioctl(self.sender, request, struct.pack("16s24x", name.encode()))
        return struct.unpack_from(format, answer, 16)[0]

    def _link_length(self, name):
        kind = self._ask(name, SIOCGIFHWADDR, "H")
        return ETHERNET_LENGTH if kind in (ARPHRD_ETHER, ARPHRD_LOOPBACK) else 0

    def open_receiver(self, *, ring_frames, behind_ingress=False):
        """Filter first, then bind: nothing unfiltered is ever queued.

        A socket for everything gets packets before the link's ingress programs and rules, one for a
        single protocol gets what they leave.
        """
        protocol = ETH_P_IPV6 if behind_ingress else ETH_P_ALL
        if self.receiver is not None:
            return
        receiver = python_socket.socket(AF_PACKET, python_socket.SOCK_RAW, 0)
        try:
            attach_filter(receiver.fileno())
            receiver.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            receiver.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            receiver.setsockopt(SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            receiver.setblocking(False)
            ring = ReceiveRing(receiver.fileno(), ring_frames)
            receiver.bind((python_socket.if_indextoname(self.interface), protocol))
        except BaseException:
            receiver.close()
            raise
        self.receiver = receiver
        self.ring = ring

    def refresh_overruns(self):
        """Add what the kernel counted since the last call."""
        if self.receiver is not None:
            counted = self.receiver.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
            _, dropped = struct.unpack("II", counted)
            self.overruns += dropped

    def close(self):
        self.sender.close()
        if self.super_packet_sender is not None:
            self.super_packet_sender.close()
        if self.receiver is not None:
            self.receiver.close()
        # The mapping goes with the last reference.
        self.ring = None
