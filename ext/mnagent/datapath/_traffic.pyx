"""The table of pairs each worker keeps, and Python's reading of it. Neither waits for the other."""

from ipaddress import IPv6Address

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from mnagent.datapath._headers cimport UpperLayer, find_upper_layer
from mnagent.datapath._tables cimport hash_pair
from mnagent.datapath.atomics cimport load_word, store_word
from mnagent.datapath.linux cimport CLOCK_MONOTONIC_COARSE, clock_gettime, timespec
from mnagent.datapath.octets cimport get16, same_address
from mnagent.datapath.protocols cimport (
    ICMP_INFORMATIONAL,
    NEIGHBOUR_DISCOVERY_FIRST,
    NEIGHBOUR_DISCOVERY_LAST,
    PROTOCOL_DCCP,
    PROTOCOL_ICMPV6,
    PROTOCOL_MOBILITY,
    PROTOCOL_NONE,
    PROTOCOL_SCTP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    PROTOCOL_UDP_LITE,
)

cdef enum:
    HAS_PORT = 1 << 24
    IS_DIRECT = 1 << 25


cdef uint64_t monotonic_milliseconds() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


cdef inline bint has_ports(uint8_t protocol) noexcept nogil:
    return (
        protocol == PROTOCOL_TCP or protocol == PROTOCOL_UDP or protocol == PROTOCOL_SCTP
        or protocol == PROTOCOL_DCCP or protocol == PROTOCOL_UDP_LITE
    )


cdef inline bint is_traffic(
    const uint8_t* packet, uint32_t length, const UpperLayer* upper
) noexcept nogil:
    """Signalling and errors are no reason to optimize a path."""
    cdef uint8_t kind
    if upper.protocol == PROTOCOL_MOBILITY or upper.protocol == PROTOCOL_NONE:
        return False
    if upper.protocol != PROTOCOL_ICMPV6:
        return True
    if upper.at == 0 or upper.at >= length:
        return False
    kind = packet[upper.at]
    return kind >= ICMP_INFORMATIONAL and not (
        NEIGHBOUR_DISCOVERY_FIRST <= kind <= NEIGHBOUR_DISCOVERY_LAST
    )


cdef void sweep(TrafficTable* table) noexcept nogil:
    """Free some stale slots, a few at each call: the table is full of what may be long gone."""
    cdef uint32_t _looked
    cdef TrafficSlot* slot
    for _looked in range(<uint32_t>TRAFFIC_PROBES):
        slot = &table.slots[table.hand]
        table.hand = (table.hand + 1) % TRAFFIC_SLOTS
        if slot.seen and table.now - slot.seen > TRAFFIC_STALE:
            slot.seen = 0
            table.pairs -= 1


cdef TrafficSlot* find_slot(
    TrafficTable* table, const uint8_t* local, const uint8_t* peer
) noexcept nogil:
    """The pair's slot, or one for it; NULL when there is no room: new pairs give way to old."""
    cdef uint32_t start = hash_pair(local, peer), probe
    cdef TrafficSlot* slot
    cdef TrafficSlot* usable = NULL
    for probe in range(<uint32_t>TRAFFIC_PROBES):
        slot = &table.slots[(start + probe) % TRAFFIC_SLOTS]
        if slot.seen == 0:
            usable = slot
        elif same_address(slot.local, local) and same_address(slot.peer, peer):
            return slot
    if usable == NULL or table.pairs == TRAFFIC_PAIRS:
        sweep(table)
    if usable == NULL or table.pairs == TRAFFIC_PAIRS:
        return NULL
    table.pairs += 1
    store_word(&usable.version, usable.version + 1)
    memcpy(usable.local, local, 16)
    memcpy(usable.peer, peer, 16)
    usable.packets = 0
    store_word(&usable.version, usable.version + 1)
    return usable


cdef void note_traffic(
    TrafficTable* table, const uint8_t* local, const uint8_t* peer, const uint8_t* packet,
    uint32_t length, bint outbound, bint direct
) noexcept nogil:
    """Count a packet of a pair. ``packet`` is as the host knows it, nothing inserted."""
    cdef UpperLayer upper = find_upper_layer(packet, length)
    cdef TrafficSlot* slot
    cdef uint64_t last
    if not is_traffic(packet, length, &upper):
        return
    slot = find_slot(table, local, peer)
    if slot == NULL:
        table.ignored += 1
        return
    last = upper.protocol
    if has_ports(upper.protocol) and upper.at and upper.at + 4 <= length:
        last |= HAS_PORT | (get16(packet + upper.at + (2 if outbound else 0)) << 8)
    if direct:
        last |= IS_DIRECT
    if table.now - slot.seen >= TRAFFIC_INTERVAL:
        table.pending = True
    elif table.now - table.signalled >= TRAFFIC_INTERVAL:
        table.pending = True
    slot.seen = table.now
    store_word(&slot.last, last)
    store_word(&slot.packets, slot.packets + 1)
    if table.pending:
        table.signalled = table.now


cdef list take_table(TrafficTable* table, TrafficReader* reader):
    """(local, peer, packets, protocol, port or None, direct) of what came since the last call.

    A slot that changes hands meanwhile is left for the next call.
    """
    cdef uint32_t at
    cdef uint64_t version, packets, last, former
    cdef TrafficSlot* slot
    cdef uint8_t addresses[32]
    found = []
    if table.pairs == 0:
        # A home agent keeps none, and asks each time a Binding Update came.
        return found
    for at in range(<uint32_t>TRAFFIC_SLOTS):
        slot = &table.slots[at]
        version = load_word(&slot.version)
        if version == 0 or version & 1:
            continue
        packets = load_word(&slot.packets)
        former = reader.taken[at] if reader.versions[at] == version else 0
        if packets == former:
            continue
        last = load_word(&slot.last)
        memcpy(addresses, slot.local, 16)
        memcpy(addresses + 16, slot.peer, 16)
        if load_word(&slot.version) != version:
            continue
        reader.versions[at] = version
        reader.taken[at] = packets
        found.append((
            IPv6Address(addresses[:16]), IPv6Address(addresses[16:32]), packets - former,
            last & 0xFF, (last >> 8) & 0xFFFF if last & HAS_PORT else None,
            bool(last & IS_DIRECT),
        ))
    return found
