# The part of libbpf that the loader uses.

from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #include <stdarg.h>
    #include <stdio.h>
    #include <bpf/bpf.h>
    #include <bpf/libbpf.h>

    /* Attach types of Linux 6.6, which older headers lack; the kernel says if it knows them. */
    #define MNAGENT_TCX_INGRESS 46
    #define MNAGENT_TCX_EGRESS 47

    /* The last thing libbpf complained of: what an error number does not tell. */
    static char mnagent_complaint[256];

    static int mnagent_note_complaint(
        enum libbpf_print_level level, const char *format, va_list args)
    {
        if (level == LIBBPF_WARN)
            vsnprintf(mnagent_complaint, sizeof mnagent_complaint, format, args);
        return 0;
    }

    static void mnagent_quiet_libbpf(void)
    {
        libbpf_set_print(mnagent_note_complaint);
    }

    static int mnagent_link_create(int program, int interface, int type)
    {
        return bpf_link_create(program, interface, (enum bpf_attach_type)type, NULL);
    }
    """
    cdef struct bpf_object:
        pass
    cdef struct bpf_map:
        pass
    cdef struct bpf_program:
        pass
    cdef struct bpf_tc_hook:
        size_t sz
        int ifindex
        int attach_point
    cdef struct bpf_tc_opts:
        size_t sz
        int prog_fd
        uint32_t flags
        uint32_t prog_id
        uint32_t handle
        uint32_t priority

    int MNAGENT_TCX_INGRESS, MNAGENT_TCX_EGRESS
    int BPF_TC_INGRESS, BPF_TC_EGRESS, BPF_TC_F_REPLACE
    int BPF_ANY
    const char* mnagent_complaint
    void mnagent_quiet_libbpf()
    int mnagent_link_create(int program, int interface, int type)

    bpf_object* bpf_object__open_file(const char* path, const void* options)
    int bpf_object__load(bpf_object* loaded)
    void bpf_object__close(bpf_object* loaded)
    bpf_map* bpf_object__next_map(const bpf_object* loaded, const bpf_map* before)
    const char* bpf_map__name(const bpf_map* found)
    int bpf_map__fd(const bpf_map* found)
    int bpf_map__reuse_fd(bpf_map* found, int descriptor)
    int bpf_map__set_max_entries(bpf_map* found, uint32_t entries)
    uint32_t bpf_map__key_size(const bpf_map* found)
    uint32_t bpf_map__value_size(const bpf_map* found)
    bpf_program* bpf_object__find_program_by_name(const bpf_object* loaded, const char* name)
    int bpf_program__fd(const bpf_program* found)
    int bpf_map_update_elem(int descriptor, const void* key, const void* value, uint64_t flags)
    int bpf_map_lookup_elem(int descriptor, const void* key, void* value)
    int bpf_map_delete_elem(int descriptor, const void* key)
    int bpf_map_get_next_key(int descriptor, const void* key, void* next)
    int bpf_obj_pin(int descriptor, const char* path)
    int bpf_obj_get(const char* path)
    int bpf_link_update(int link, int program, const void* options)
    int bpf_tc_hook_create(bpf_tc_hook* hook)
    int bpf_tc_hook_destroy(bpf_tc_hook* hook)
    int bpf_tc_attach(const bpf_tc_hook* hook, bpf_tc_opts* options)
    int bpf_tc_detach(const bpf_tc_hook* hook, const bpf_tc_opts* options)
    int libbpf_num_possible_cpus()

    cdef struct ring_buffer:
        pass
    ctypedef int (*ring_buffer_sample_fn)(void* context, void* data, size_t size) noexcept
    ring_buffer* ring_buffer__new(
        int descriptor, ring_buffer_sample_fn sample, void* context, const void* options
    )
    int ring_buffer__consume(ring_buffer* ring)
    void ring_buffer__free(ring_buffer* ring)
