# The direct path of route optimization: which way a packet of the host takes, and what came that
# way.

from libc.stdint cimport uint8_t, uint32_t

from mnagent.datapath._esp cimport Association
from mnagent.datapath._headers cimport Headers
from mnagent.datapath._tables cimport Insertion, Tables, Tunnel, WayOut
from mnagent.datapath._worker cimport Arrival, Worker
from mnagent.datapath.verdicts cimport Verdict


cdef struct Egress:
    # How one packet leaves. Tunnel and insertion may each be NULL.
    const WayOut* way
    Tunnel* tunnel
    # In a tunnel: whether by ESP, and by which association, NULL while that is not installed.
    bint seal
    Association* association
    const Insertion* insertion
    # Largest packet as the host hands it over.
    uint32_t mtu
    # Where errors about it come from.
    const uint8_t* reporter
    # Where the insertion goes, and the field that names what follows it.
    uint32_t point
    uint32_t field
    # As in the tunnel, or as the packet itself asks.
    uint32_t layers
    # Leaves by the descriptor that takes super-packets. All TCP does where there is one, so that
    # no segment overtakes another.
    bint by_offload


cdef bint find_egress(
    const Tables* tables, const uint8_t* packet, uint32_t length, Egress* egress
) noexcept nogil
cdef Verdict admit(
    Worker* worker, Arrival* arrival, const uint8_t* packet, uint32_t length,
    const Headers* headers
) noexcept nogil
cdef bint quotes_direct_path(
    const Tables* tables, const uint8_t* packet, const Headers* headers
) noexcept nogil
