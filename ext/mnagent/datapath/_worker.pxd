# One direction's working memory: frames on their way out, what is handed up, what is held. A worker
# belongs to one thread.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from mnagent.datapath._esp cimport CipherCache
from mnagent.datapath._tables cimport Tables, WayOut
from mnagent.datapath._traffic cimport TrafficTable
from mnagent.datapath.linux cimport iovec, mmsghdr, sockaddr_in6, virtio_net_hdr
from mnagent.datapath.verdicts cimport VERDICT_COUNT, Verdict

cdef enum:
    BATCH = 64
    # Largest inner packet of one frame, jumbo links included.
    MAX_INNER = 9216
    # Headroom, link header, outer header, ESP header, IV, inner, trailer, ICV; no power of two, so
    # that the slots do not fall on the same cache sets.
    FRAME_SLOT = MAX_INNER + 256 + 64
    # A receive buffer: virtio header, link header, one super-packet with its headers.
    RECEIVE_SLOT = 65536 + 256
    VNET_LENGTH = 10
    # Before a frame's link header, for a virtio header.
    FRAME_HEADROOM = 16
    HAND_UP_SLOTS = 512
    HAND_UP_LENGTH = 2048
    HELD_MAX = 256
    HELD_OCTETS_MAX = 4 << 20
    ERRORS_PER_SECOND = 100
    STRANGERS_PER_SECOND = 20
    UNBOUND_PER_SECOND = 100
    REASSEMBLIES = 16
    REASSEMBLY_PIECES = 16
    REASSEMBLY_SECONDS = 30
    # Headers of a fragmented tunnel packet and one packet in it.
    REASSEMBLY_LENGTH = MAX_INNER + 256
    FLOWS = 64
    # ICMPv6 types in the high octet, codes in the low one.
    ERROR_UNREACHABLE = 0x0103
    ERROR_TOO_BIG = 0x0200
    ERROR_PARAMETER = 0x0400


cdef struct FrameBatch:
    uint32_t count
    mmsghdr messages[BATCH]
    iovec vectors[2 * BATCH]
    sockaddr_in6 names[BATCH]
    int descriptors[BATCH]
    uint8_t* slots


cdef struct HandedUpSlot:
    uint32_t length
    int32_t interface
    uint32_t link_source_length
    uint32_t protected_by
    bint tunnelled
    uint64_t at
    uint8_t link_source[8]
    uint8_t tunnel_source[16]
    uint8_t data[HAND_UP_LENGTH]


cdef struct HandUpRing:
    # Single producer (a worker), single consumer (Python).
    uint64_t written
    uint64_t taken
    HandedUpSlot slots[HAND_UP_SLOTS]


cdef struct HeldPacket:
    virtio_net_hdr vnet
    uint32_t length
    uint8_t* data


cdef struct HeldQueue:
    uint32_t first
    uint32_t count
    uint64_t octets
    HeldPacket packets[HELD_MAX]


cdef struct SuperPacket:
    # One write to the TUN device: a packet, or a run of TCP segments as one.
    virtio_net_hdr vnet
    uint8_t* data
    uint32_t length
    uint32_t header_length
    uint32_t next_sequence
    uint32_t segments
    int32_t first_piece
    int32_t last_piece


cdef struct Coalescer:
    uint32_t count
    uint32_t piece_count
    SuperPacket packets[BATCH]
    iovec pieces[BATCH]
    int32_t next_piece[BATCH]
    # Which packet of the batch a flow may still grow, -1 for none.
    int32_t flows[FLOWS]


cdef struct RateLimit:
    long second
    uint32_t taken


cdef struct Reassembly:
    # Free while there are no pieces.
    uint32_t pieces
    uint32_t received
    # Payload octets of the whole, 0 until the last fragment came.
    uint32_t total
    long began
    uint64_t order
    uint8_t key[36]
    uint16_t starts[REASSEMBLY_PIECES]
    uint16_t ends[REASSEMBLY_PIECES]
    uint8_t* data


cdef struct Capture:
    # Where memory ports put what real ports would send: records of length and octets.
    uint8_t* data
    size_t length
    size_t capacity


ctypedef void (*flush_frames_function)(Worker* worker) noexcept nogil
ctypedef void (*write_tunnel_function)(
    Worker* worker, const iovec* vectors, uint32_t count
) noexcept nogil


cdef struct Arrival:
    # Where the packet under the hands of a stage came from.
    int32_t interface
    uint32_t link_source_length
    uint8_t link_source[8]
    # When the kernel took it from the link, nanoseconds of CLOCK_REALTIME; 0 is not known.
    uint64_t at
    virtio_net_hdr vnet
    # Octets from the start of the frame to the packet: what vnet's offsets count from.
    uint32_t link_length
    # SPI that authenticated it, 0 for none.
    uint32_t protected_by
    bint tunnelled
    uint8_t tunnel_source[16]


cdef struct Worker:
    Tables* tables
    # See `_memory`.
    uint64_t epoch
    # Of the tables when this thread last looked.
    uint64_t generation
    # What this thread needs to seal or open by the associations it meets.
    CipherCache* ciphers
    uint64_t packets
    uint64_t released
    uint64_t hand_up_pending
    uint64_t frames_sent
    uint64_t frames_failed
    uint64_t tunnel_writes
    uint64_t tunnel_write_failures
    uint64_t verdicts[VERDICT_COUNT]
    RateLimit errors
    RateLimit strangers
    # Packets with a Home Address option that no binding fits.
    RateLimit unbound
    TrafficTable* traffic
    uint32_t identification
    uint64_t fragments_sent
    # Where an outer packet is whole before it is fragmented.
    uint8_t* scratch
    Reassembly* reassemblies
    uint64_t reassembly_order
    int tunnel_descriptor
    # The kernel takes UDP super-packets (Linux 6.2).
    bint merges_datagrams
    flush_frames_function flush_frames
    write_tunnel_function write_tunnel
    FrameBatch* frames
    Coalescer* coalescer
    HandUpRing* handed_up
    HeldQueue* held
    Capture captured_frames
    Capture captured_tunnel


cdef Worker* worker_new() noexcept nogil
cdef void worker_free(Worker* worker) noexcept nogil
cdef void worker_use_memory(Worker* worker) noexcept nogil
cdef void worker_use_devices(Worker* worker, int tunnel_descriptor) noexcept nogil
cdef void count(Worker* worker, Verdict verdict) noexcept nogil
cdef Verdict write_error(
    Worker* worker, const uint8_t* source, uint32_t kind, uint32_t value, const uint8_t* packet,
    uint32_t length, Verdict verdict
) noexcept nogil
cdef bint rate_allows(RateLimit* limit, uint32_t per_second) noexcept nogil
cdef long monotonic_seconds() noexcept nogil
cdef uint8_t* frame_begin(Worker* worker, const WayOut* way) noexcept nogil
cdef void frame_commit(
    Worker* worker, const WayOut* way, uint8_t* start, uint32_t head_length,
    const uint8_t* payload, uint32_t payload_length
) noexcept nogil
cdef void frame_commit_offload(
    Worker* worker, const WayOut* way, const virtio_net_hdr* vnet, uint8_t* start,
    uint32_t head_length, const uint8_t* payload, uint32_t payload_length
) noexcept nogil
cdef void frame_commit_outer(
    Worker* worker, const WayOut* way, uint8_t* outer, uint32_t head_length,
    const uint8_t* payload, uint32_t payload_length
) noexcept nogil
cdef Verdict hand_up(
    Worker* worker, const Arrival* arrival, const uint8_t* packet, uint32_t length
) noexcept nogil
