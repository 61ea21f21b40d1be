"""The in-kernel engine's programs and maps, through libbpf. Left out where libbpf is missing."""

import os

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from mnagent.datapath.libbpf cimport (
    BPF_ANY,
    BPF_TC_EGRESS,
    BPF_TC_F_REPLACE,
    BPF_TC_INGRESS,
    MNAGENT_TCX_EGRESS,
    MNAGENT_TCX_INGRESS,
    bpf_link_update,
    bpf_map,
    bpf_map__fd,
    bpf_map__key_size,
    bpf_map__name,
    bpf_map__reuse_fd,
    bpf_map__set_max_entries,
    bpf_map__value_size,
    bpf_map_delete_elem,
    bpf_map_get_next_key,
    bpf_map_lookup_elem,
    bpf_map_update_elem,
    bpf_obj_get,
    bpf_obj_pin,
    bpf_object,
    bpf_object__close,
    bpf_object__find_program_by_name,
    bpf_object__load,
    bpf_object__next_map,
    bpf_object__open_file,
    bpf_program,
    bpf_program__fd,
    bpf_tc_attach,
    bpf_tc_detach,
    bpf_tc_hook,
    bpf_tc_hook_create,
    bpf_tc_hook_destroy,
    bpf_tc_opts,
    libbpf_num_possible_cpus,
    mnagent_complaint,
    mnagent_link_create,
    mnagent_quiet_libbpf,
    ring_buffer,
    ring_buffer__consume,
    ring_buffer__free,
    ring_buffer__new,
)

# Ours among the filters of a clsact queueing discipline.
TC_HANDLE = 1
TC_PRIORITY = 6275

mnagent_quiet_libbpf()


cdef fail(str doing, int code):
    """OSError with what libbpf said last."""
    said = mnagent_complaint.decode(errors="replace").strip()
    reason = os.strerror(-code) + (f" ({said})" if said else "")
    raise OSError(-code, f"failed to {doing}: {reason}")


cdef int check(int result, str doing) except -1:
    if result < 0:
        fail(doing, result)
    return result


cdef class Map:
    """One map; keys and values are octets of the sizes that the map has."""

    cdef int descriptor
    cdef readonly str name
    cdef readonly uint32_t key_size
    cdef readonly uint32_t value_size

    def __init__(self):
        raise TypeError("maps come from Programs")

    cdef check_size(self, bytes octets, uint32_t size):
        if len(octets) != size:
            raise ValueError(f"{self.name} takes {size} octets, not {len(octets)}")

    def update(self, bytes key, bytes value):
        """Set an entry."""
        self.check_size(key, self.key_size)
        self.check_size(value, self.value_size)
        check(
            bpf_map_update_elem(
                self.descriptor, <const char*>key, <const char*>value, BPF_ANY
            ),
            f"set an entry of {self.name}",
        )

    def delete(self, bytes key):
        """Take an entry away; nothing happens where there is none."""
        self.check_size(key, self.key_size)
        bpf_map_delete_elem(self.descriptor, <const char*>key)

    def lookup(self, bytes key):
        """An entry's value, None where there is none; of a map per processor, those of all."""
        cdef uint32_t room = ((self.value_size + 7) & ~<uint32_t>7) * libbpf_num_possible_cpus()
        cdef char* value
        self.check_size(key, self.key_size)
        value = <char*>malloc(room)
        if value == NULL:
            raise MemoryError
        memset(value, 0, room)
        try:
            if bpf_map_lookup_elem(self.descriptor, <const char*>key, value) < 0:
                return None
            return value[:room]
        finally:
            free(value)

    def keys(self):
        """Every key."""
        cdef char* key = <char*>malloc(self.key_size)
        if key == NULL:
            raise MemoryError
        cdef bytes last
        found = []
        try:
            if bpf_map_get_next_key(self.descriptor, NULL, key) < 0:
                return found
            while True:
                last = key[:self.key_size]
                found.append(last)
                if bpf_map_get_next_key(self.descriptor, <const char*>last, key) < 0:
                    return found
        finally:
            free(key)


cdef int take_sample(void* context, void* data, size_t size) noexcept:
    (<list>context).append((<char*>data)[:size])
    return 0


cdef class Programs:
    """The object file's programs and maps, loaded.

    ``pinned`` maps a map's name to the path of one that is to be used again, ``room`` to how many
    entries it takes where it is made anew. OSError, with libbpf's word for it, when the kernel
    refuses.
    """

    cdef bpf_object* loaded
    cdef ring_buffer* ring
    cdef dict found
    cdef list samples

    def __cinit__(self, str path, dict pinned=None, dict room=None):
        cdef bpf_map* each = NULL
        cdef bytes encoded = os.fsencode(path)
        self.found = {}
        self.samples = []
        self.loaded = bpf_object__open_file(encoded, NULL)
        if self.loaded == NULL:
            raise OSError(f"failed to read {path}")
        each = bpf_object__next_map(self.loaded, NULL)
        while each != NULL:
            self._size(each, room or {})
            self._reuse(each, pinned or {})
            each = bpf_object__next_map(self.loaded, each)
        check(bpf_object__load(self.loaded), "load the in-kernel engine")
        each = bpf_object__next_map(self.loaded, NULL)
        while each != NULL:
            self._add(each)
            each = bpf_object__next_map(self.loaded, each)

    cdef _size(self, bpf_map* each, dict room):
        entries = room.get(bpf_map__name(each).decode())
        if entries is not None:
            check(bpf_map__set_max_entries(each, entries), "size a map")

    cdef _reuse(self, bpf_map* each, dict pinned):
        path = pinned.get(bpf_map__name(each).decode())
        if path is None:
            return
        cdef int descriptor = check(bpf_obj_get(os.fsencode(path)), f"open {path}")
        cdef int result = bpf_map__reuse_fd(each, descriptor)
        os.close(descriptor)
        check(result, f"use {path} again")

    cdef _add(self, bpf_map* each):
        cdef Map made = Map.__new__(Map)
        made.descriptor = bpf_map__fd(each)
        made.name = bpf_map__name(each).decode()
        made.key_size = bpf_map__key_size(each)
        made.value_size = bpf_map__value_size(each)
        self.found[made.name] = made

    def __dealloc__(self):
        if self.ring != NULL:
            ring_buffer__free(self.ring)
        if self.loaded != NULL:
            bpf_object__close(self.loaded)

    @property
    def maps(self):
        """Name -> `Map`."""
        return dict(self.found)

    def pin_map(self, str name, str path):
        """Keep a map by a name in a BPF file system."""
        cdef Map found = self.found[name]
        check(bpf_obj_pin(found.descriptor, os.fsencode(path)), f"pin {path}")

    cdef int _program(self, str name) except -1:
        cdef bpf_program* program = bpf_object__find_program_by_name(
            self.loaded, name.encode()
        )
        if program == NULL:
            raise KeyError(name)
        return bpf_program__fd(program)

    def attach_tcx(self, str program, int interface, *, egress):
        """Run a program on an interface (Linux 6.6) as long as the link returned, a descriptor, is
        open or pinned.
        """
        return check(
            mnagent_link_create(
                self._program(program), interface,
                MNAGENT_TCX_EGRESS if egress else MNAGENT_TCX_INGRESS,
            ),
            f"attach to interface {interface}",
        )

    def replace_tcx(self, int link, str program):
        """Have a link run this program from the next packet on."""
        check(bpf_link_update(link, self._program(program), NULL), "replace a program")

    def attach_tc(self, str program, int interface, *, egress):
        """The same by a filter of a clsact queueing discipline, which stays until it is detached.
        Returns whether the discipline was made for it.
        """
        cdef bpf_tc_hook hook
        cdef bpf_tc_opts options
        cdef int made
        fill_hook(&hook, interface, egress)
        made = bpf_tc_hook_create(&hook)
        if made < 0 and made != -17:
            fail(f"make a clsact queueing discipline on interface {interface}", made)
        fill_options(&options)
        options.prog_fd = self._program(program)
        options.flags = BPF_TC_F_REPLACE
        check(bpf_tc_attach(&hook, &options), f"attach to interface {interface}")
        return made == 0

    def take_samples(self, str name):
        """What the programs wrote to a ring buffer since the last call."""
        cdef Map found = self.found[name]
        if self.ring == NULL:
            self.ring = ring_buffer__new(
                found.descriptor, take_sample, <void*>self.samples, NULL
            )
            if self.ring == NULL:
                raise OSError(f"failed to read {name}")
        ring_buffer__consume(self.ring)
        taken = list(self.samples)
        self.samples.clear()
        return taken

    def map_descriptor(self, str name):
        """For polling a ring buffer; it stays ours."""
        cdef Map found = self.found[name]
        return found.descriptor


cdef fill_hook(bpf_tc_hook* hook, int interface, bint egress):
    memset(hook, 0, sizeof(bpf_tc_hook))
    hook.sz = sizeof(bpf_tc_hook)
    hook.ifindex = interface
    hook.attach_point = BPF_TC_EGRESS if egress else BPF_TC_INGRESS


cdef fill_options(bpf_tc_opts* options):
    memset(options, 0, sizeof(bpf_tc_opts))
    options.sz = sizeof(bpf_tc_opts)
    options.handle = TC_HANDLE
    options.priority = TC_PRIORITY


def detach_tc(int interface, *, egress):
    """Take our filter off an interface. True when there was one."""
    cdef bpf_tc_hook hook
    cdef bpf_tc_opts options
    fill_hook(&hook, interface, egress)
    fill_options(&options)
    return bpf_tc_detach(&hook, &options) == 0


def remove_clsact(int interface):
    """Take the clsact queueing discipline off an interface, with whatever filters it has."""
    cdef bpf_tc_hook hook
    fill_hook(&hook, interface, False)
    hook.attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS
    bpf_tc_hook_destroy(&hook)


def pin(int descriptor, str path):
    """Keep a link by a name in a BPF file system."""
    check(bpf_obj_pin(descriptor, os.fsencode(path)), f"pin {path}")


def open_pinned(str path):
    """The descriptor of what is pinned there."""
    return check(bpf_obj_get(os.fsencode(path)), f"open {path}")
