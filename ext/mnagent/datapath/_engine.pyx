"""The data path over real devices: ports, threads, and their end."""

import contextlib
import errno
import os
import socket as python_socket
import threading

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from mnagent.datapath._core cimport _Core
from mnagent.datapath._ring cimport ReceiveRing
from mnagent.datapath._loops cimport ARENA_LENGTH, Loop, run_inbound, run_outbound
from mnagent.datapath._tables cimport ETHERNET_LENGTH, MAX_PORTS, Ports
from mnagent.datapath._worker cimport BATCH, RECEIVE_SLOT, VNET_LENGTH, worker_use_devices
from mnagent.datapath.atomics cimport load_word, store_word
from mnagent.datapath.linux cimport (
    SO_SNDTIMEO,
    SOL_SOCKET,
    TUN_F_CSUM,
    TUN_F_TSO6,
    TUN_F_TSO_ECN,
    TUN_F_USO4,
    TUN_F_USO6,
    TUNSETOFFLOAD,
    TUNSETVNETHDRSZ,
    ioctl,
    usleep,
)

from mnagent.datapath._ports import SEND_TIMEOUT, Port

OWN_MARK = 6275
# At a million a second, this much the thread may be late without a loss: 2 ms.
RING_FRAMES = 2048


cdef class Engine(_Core):
    """The data path over real devices, one thread a direction.

    ``tun_fd`` is a TUN device opened with IFF_TUN | IFF_NO_PI | IFF_VNET_HDR; it stays the
    caller's.
    ``wake_fd`` is an eventfd that is signalled when something is handed up.
    ``ring_frames`` frames wait at each interface before more are lost; each takes 2 KiB, a multiple
    of 32.
    ``behind_ingress`` receives what programs at the links' ingress leave: see `KernelEngine`.
    """

    cdef bint behind_ingress
    cdef int ring_frames
    cdef Loop outbound_loop
    cdef Loop inbound_loop
    cdef object ports
    cdef object raw_socket
    cdef object threads
    cdef object wakers
    cdef uint8_t* arena
    cdef uint8_t* receive_memory

    def __cinit__(self, *, tun_fd, wake_fd, ring_frames=RING_FRAMES, behind_ingress=False):
        self.behind_ingress = behind_ingress
        self.ring_frames = ring_frames
        self.arena = <uint8_t*>malloc(ARENA_LENGTH)
        self.receive_memory = <uint8_t*>malloc(BATCH * RECEIVE_SLOT)
        if self.arena == NULL or self.receive_memory == NULL:
            raise MemoryError
        self.ports = {}
        self.threads = []
        self.wakers = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
        self.raw_socket = None
        worker_use_devices(self.outbound_worker, tun_fd)
        worker_use_devices(self.inbound_worker, tun_fd)
        for loop_wake, is_outbound in zip(self.wakers, (True, False), strict=True):
            self._set_loop(
                &self.outbound_loop if is_outbound else &self.inbound_loop,
                loop_wake, tun_fd, wake_fd, is_outbound,
            )

    cdef _set_loop(self, Loop* loop, int wake, int tunnel, int notify, bint is_outbound):
        loop.shared = &self.shared
        loop.wake = wake
        loop.tunnel = tunnel
        loop.notify = notify
        loop.worker = self.outbound_worker if is_outbound else self.inbound_worker
        loop.memory = self.arena if is_outbound else self.receive_memory

    def __init__(self, *, tun_fd, wake_fd, ring_frames=RING_FRAMES, behind_ingress=False):
        os.set_blocking(tun_fd, False)
        cdef int header_length = VNET_LENGTH
        if ioctl(tun_fd, TUNSETVNETHDRSZ, &header_length) < 0:
            raise OSError("failed to set the TUN device's header length: is it IFF_VNET_HDR?")
        cdef unsigned int offloads = TUN_F_CSUM | TUN_F_TSO6 | TUN_F_TSO_ECN
        cdef bint datagrams = ioctl(
            tun_fd, TUNSETOFFLOAD, <unsigned long>(offloads | TUN_F_USO4 | TUN_F_USO6)
        ) == 0
        # Kernels before 6.2 know no UDP super-packets.
        if not datagrams and ioctl(tun_fd, TUNSETOFFLOAD, <unsigned long>offloads) < 0:
            raise OSError("failed to set the TUN device's offloads")
        self.inbound_worker.merges_datagrams = datagrams
        self.raw_socket = python_socket.socket(
            python_socket.AF_INET6, python_socket.SOCK_RAW, python_socket.IPPROTO_RAW
        )
        self.raw_socket.setsockopt(SOL_SOCKET, SO_SNDTIMEO, SEND_TIMEOUT)
        # The daemon's rules keep what bears its mark out of the tunnel, or it would loop.
        with contextlib.suppress(PermissionError):
            self.raw_socket.setsockopt(SOL_SOCKET, python_socket.SO_MARK, OWN_MARK)

    def __dealloc__(self):
        if self.arena != NULL:
            free(self.arena)
        if self.receive_memory != NULL:
            free(self.receive_memory)

    def attach(self, interface):
        """Receive from an interface too. Idempotent; OSError when it is gone."""
        self._port(interface).open_receiver(
            ring_frames=self.ring_frames, behind_ingress=self.behind_ingress
        )
        self._use_ports()

    def has_link_header(self, interface):
        """Whether an attached interface is one of Ethernet."""
        return self.ports[interface].link_length > 0

    def detach(self, interface):
        """Stop receiving from and sending to an interface. Nothing happens when it was not
        attached.
        """
        port = self.ports.pop(interface, None)
        if port is not None:
            self._use_ports()
            # Its descriptors' numbers may come back as something else.
            self._wait_until_unused()
            port.close()

    def _use_ports(self):
        self._replace_ports()
        self._lead_all_anew()
        self._finish()
        self._wake(self.wakers)

    def _port(self, interface):
        port = self.ports.get(interface)
        if port is None:
            if len(self.ports) == MAX_PORTS:
                raise OSError(
                    errno.ENOSPC, f"{MAX_PORTS} interfaces are in use; name those that count"
                )
            port = self.ports[interface] = Port(interface)
        return port

    def _way_out(self, next_hop):
        if next_hop is None:
            return self.raw_socket.fileno(), 0, b""
        try:
            port = self._port(next_hop.interface)
            port.refresh()
        except OSError:
            # The interface went away under the caller; its next tables will know.
            return -1, 0, bytes(ETHERNET_LENGTH)
        header = b""
        if port.link_length:
            header = next_hop.destination_mac + next_hop.source_mac + b"\x86\xdd"
        return port.sender.fileno(), port.mtu, header

    def _offload_out(self, next_hop):
        port = None if next_hop is None else self.ports.get(next_hop.interface)
        if port is None or port.super_packet_sender is None:
            return -1
        return port.super_packet_sender.fileno()

    cdef _fill_ports(self, Ports* ports):
        cdef uint32_t at = 0
        for interface, port in self.ports.items():
            if port.receiver is not None:
                ports.ports[at].interface = interface
                ports.ports[at].descriptor = port.receiver.fileno()
                ports.ports[at].link_length = port.link_length
                ports.ports[at].ring = &(<ReceiveRing>port.ring).ring
                at += 1
        ports.count = at

    cdef _wake(self, wakers):
        for waker in wakers:
            os.eventfd_write(waker, 1)

    def _tell_workers(self):
        """What is held may go now. A thread that is at work looks before it waits."""
        if self.outbound_worker.held.count and not load_word(&self.outbound_worker.epoch) & 1:
            self._wake(self.wakers[:1])

    def _wait_until_unused(self):
        """Until both loops have passed a quiescent point, or wait."""
        cdef uint64_t outbound_epoch = load_word(&self.outbound_worker.epoch)
        cdef uint64_t inbound_epoch = load_word(&self.inbound_worker.epoch)
        self._wake(self.wakers)
        with nogil:
            while (
                outbound_epoch & 1 and load_word(&self.outbound_worker.epoch) == outbound_epoch
            ) or (inbound_epoch & 1 and load_word(&self.inbound_worker.epoch) == inbound_epoch):
                usleep(20)

    def counters(self):
        """Every verdict of both directions, and what the ports did."""
        found = super().counters()
        for port in self.ports.values():
            port.refresh_overruns()
        found["receive-overruns"] = sum(port.overruns for port in self.ports.values())
        return found

    def start(self):
        """Start both threads."""
        if self.threads:
            return
        store_word(&self.shared.stop, 0)
        self.threads = [
            threading.Thread(target=self._run_outbound, name="mnagent-outbound", daemon=True),
            threading.Thread(target=self._run_inbound, name="mnagent-inbound", daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def _run_outbound(self):
        with nogil:
            run_outbound(&self.outbound_loop)

    def _run_inbound(self):
        with nogil:
            run_inbound(&self.inbound_loop)

    def stop(self):
        """Stop both threads and wait for them. What is held is kept for the next start."""
        store_word(&self.shared.stop, 1)
        self._wake(self.wakers)
        for thread in self.threads:
            thread.join()
        self.threads = []

    def close(self):
        """Stop and close every descriptor the engine opened."""
        self.stop()
        for port in self.ports.values():
            port.close()
        self.ports = {}
        if self.raw_socket is not None:
            self.raw_socket.close()
        for waker in self.wakers:
            os.close(waker)
        self.wakers = []
