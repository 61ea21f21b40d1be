# Reassembly of outer packets: only a path below 1320 octets or so makes fragments of them.

from libc.stdint cimport uint8_t, uint32_t

from mnagent.datapath._worker cimport Reassembly, Worker
from mnagent.datapath.verdicts cimport Verdict

cdef Verdict keep_fragment(
    Worker* worker, const uint8_t* packet, uint32_t length, uint32_t at, Reassembly** whole
) noexcept nogil
