"""The loops of the two threads: batch in, batch out. A lone packet never waits for company."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from mnagent.datapath._coalesce cimport flush_tunnel
from mnagent.datapath._inbound cimport inbound
from mnagent.datapath._outbound cimport outbound, release_held
from mnagent.datapath._memory cimport reader_leave, reader_pass
from mnagent.datapath._ring cimport ring_release, ring_take
from mnagent.datapath._tables cimport MAX_PORTS, Port, Ports, Tables
from mnagent.datapath._traffic cimport monotonic_milliseconds
from mnagent.datapath._worker cimport BATCH, RECEIVE_SLOT, VNET_LENGTH, Arrival, Worker
from mnagent.datapath.atomics cimport load_word
from mnagent.datapath.linux cimport (
    EAGAIN,
    EINTR,
    MSG_DONTWAIT,
    POLLERR,
    POLLIN,
    PR_SET_TIMERSLACK,
    SO_ERROR,
    SOL_SOCKET,
    TP_STATUS_COPY,
    errno,
    getsockopt,
    nanosleep,
    poll,
    pollfd,
    prctl,
    read,
    recv,
    timespec,
    tpacket2_hdr,
    virtio_net_hdr,
    write,
)

cdef enum:
    PACKET_ALIGNMENT = 64
    # Frames in one round from which on the next ones are let gather, and for how long.
    BUSY = 8
    GATHER_NANOSECONDS = 100000
    # How long to leave a device alone that cannot be read, in milliseconds.
    BROKEN_DEVICE_PAUSE = 50


cdef bint begin_round(Loop* loop) noexcept nogil:
    """Pass a quiescent point; False when the tables have changed since the last one."""
    cdef Worker* worker = loop.worker
    cdef uint64_t generation
    reader_pass(&worker.epoch)
    generation = load_word(&worker.tables.generation)
    if generation == worker.generation:
        return True
    worker.generation = generation
    return False


cdef bint may_wait(Loop* loop) noexcept nogil:
    """Hold nothing of the tables from here on. False when they have just changed: who changed them
    may have thought that this thread was not about to wait.
    """
    reader_leave(&loop.worker.epoch)
    return load_word(&loop.worker.tables.generation) == loop.worker.generation


cdef void clear_wake(Loop* loop) noexcept nogil:
    cdef uint64_t ignored
    read(loop.wake, &ignored, sizeof(ignored))


cdef void signal_python(Loop* loop) noexcept nogil:
    """After a batch: something is handed up, or there is traffic to tell of."""
    cdef uint64_t one = 1
    if loop.worker.hand_up_pending or loop.worker.traffic.pending:
        loop.worker.hand_up_pending = 0
        loop.worker.traffic.pending = False
        write(loop.notify, &one, sizeof(one))


cdef uint32_t read_tunnel(Loop* loop, bint* broken) noexcept nogil:
    """Read and carry what the device has, up to a batch; returns how many packets."""
    cdef uint32_t used = PACKET_ALIGNMENT - VNET_LENGTH, got = 0
    cdef virtio_net_hdr vnet
    cdef ssize_t length
    loop.worker.traffic.now = monotonic_milliseconds()
    while got < BATCH and used + RECEIVE_SLOT <= ARENA_LENGTH:
        length = read(loop.tunnel, loop.memory + used, RECEIVE_SLOT)
        if length < VNET_LENGTH:
            broken[0] = length < 0 and errno != EAGAIN and errno != EINTR
            break
        memcpy(&vnet, loop.memory + used, VNET_LENGTH)
        outbound(
            loop.worker, &vnet, loop.memory + used + VNET_LENGTH, <uint32_t>length - VNET_LENGTH
        )
        used += (<uint32_t>length + PACKET_ALIGNMENT - 1) & ~<uint32_t>(PACKET_ALIGNMENT - 1)
        got += 1
    loop.worker.flush_frames(loop.worker)
    signal_python(loop)
    return got


cdef void run_outbound(Loop* loop) noexcept nogil:
    cdef pollfd waited[2]
    cdef bint broken = False
    waited[0].fd = loop.wake
    waited[1].fd = loop.tunnel
    waited[0].events = waited[1].events = POLLIN
    loop.worker.tables = <Tables*><uintptr_t>loop.shared.tables
    while not load_word(&loop.shared.stop):
        if not begin_round(loop):
            release_held(loop.worker)
        if read_tunnel(loop, &broken) == BATCH or not may_wait(loop):
            continue
        poll(waited, 1 if broken else 2, BROKEN_DEVICE_PAUSE if broken else -1)
        broken = False
        if waited[0].revents:
            clear_wake(loop)
    reader_leave(&loop.worker.epoch)


cdef void take_frame(
    Loop* loop, const Port* port, uint8_t* frame, uint32_t length, uint64_t at
) noexcept nogil:
    """Take the virtio header and the link header off."""
    cdef Arrival arrival
    cdef uint32_t head = VNET_LENGTH + port.link_length
    if length < head:
        head = length
    arrival.interface = port.interface
    arrival.at = at
    arrival.link_length = port.link_length
    arrival.link_source_length = 6 if port.link_length else 0
    memcpy(&arrival.vnet, frame, VNET_LENGTH)
    memcpy(arrival.link_source, frame + VNET_LENGTH + 6, 6)
    inbound(loop.worker, &arrival, frame + head, length - head)


cdef void take_slot(
    Loop* loop, const Port* port, const tpacket2_hdr* head, uint8_t* room
) noexcept nogil:
    """A frame in the ring; one that was too large for it waits in the socket."""
    cdef ssize_t length
    cdef uint64_t at = <uint64_t>head.tp_sec * 1000000000 + head.tp_nsec
    if head.tp_status & TP_STATUS_COPY:
        length = recv(port.descriptor, room, RECEIVE_SLOT, MSG_DONTWAIT)
        if length >= VNET_LENGTH:
            take_frame(loop, port, room, <uint32_t>length, at)
    else:
        take_frame(
            loop, port, <uint8_t*>head + head.tp_mac - VNET_LENGTH,
            head.tp_snaplen + VNET_LENGTH, at,
        )


cdef uint32_t read_port(Loop* loop, const Port* port) noexcept nogil:
    """Take what is there, up to a batch; returns how many frames.

    Frames that arrive while the first ones are decrypted still join their runs: nothing waits for
    them.
    """
    cdef uint32_t taken = 0
    cdef tpacket2_hdr* head
    loop.worker.traffic.now = monotonic_milliseconds()
    while taken < BATCH:
        head = ring_take(port.ring)
        if head == NULL:
            break
        take_slot(loop, port, head, loop.memory + taken * RECEIVE_SLOT)
        taken += 1
    flush_tunnel(loop.worker)
    ring_release(port.ring)
    signal_python(loop)
    return taken


cdef void take_error(int descriptor) noexcept nogil:
    """An interface that goes down leaves an error in the socket, which wakes us until it is asked
    for: reading the ring does not.
    """
    cdef int ignored
    cdef unsigned int length = sizeof(ignored)
    getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &ignored, &length)


cdef uint32_t watch_ports(const Ports* ports, int wake, pollfd* waited) noexcept nogil:
    """Nothing is known to wait at any of them yet."""
    cdef uint32_t at
    memset(waited, 0, (MAX_PORTS + 1) * sizeof(pollfd))
    waited[0].fd = wake
    waited[0].events = POLLIN
    for at in range(ports.count):
        waited[at + 1].fd = ports.ports[at].descriptor
        waited[at + 1].events = POLLIN
    return ports.count + 1


cdef void let_frames_gather() noexcept nogil:
    """Under load a wakeup for every few frames costs more than they do. A lone packet finds no
    load, and the loop waiting for it.
    """
    cdef timespec pause
    pause.tv_sec = 0
    pause.tv_nsec = GATHER_NANOSECONDS
    nanosleep(&pause, NULL)


cdef void run_inbound(Loop* loop) noexcept nogil:
    cdef pollfd waited[MAX_PORTS + 1]
    cdef uint32_t watched = 0, at, taken, most
    cdef uint64_t version = 0
    cdef Ports* ports
    waited[0].revents = 0
    loop.worker.tables = <Tables*><uintptr_t>loop.shared.tables
    # Timers of a thread are 50 microseconds late by default.
    prctl(PR_SET_TIMERSLACK, <unsigned long>1000, 0, 0, 0)
    while not load_word(&loop.shared.stop):
        if waited[0].revents:
            clear_wake(loop)
        begin_round(loop)
        ports = <Ports*><uintptr_t>load_word(&loop.worker.tables.ports)
        if ports.version != version:
            version = ports.version
            watched = watch_ports(ports, loop.wake, waited)
        most = 0
        for at in range(1, watched):
            if waited[at].revents & POLLERR:
                take_error(waited[at].fd)
            if waited[at].revents:
                taken = read_port(loop, &ports.ports[at - 1])
                if taken > most:
                    most = taken
        reader_leave(&loop.worker.epoch)
        if BUSY <= most < BATCH:
            let_frames_gather()
        poll(waited, watched, 0 if most == BATCH else -1)
    reader_leave(&loop.worker.epoch)
