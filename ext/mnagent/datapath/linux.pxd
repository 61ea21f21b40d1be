# The Linux structs and constants the engine uses.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <poll.h>
    #include <net/if.h>
    #include <net/if_arp.h>
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <sys/eventfd.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/prctl.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <malloc.h>
    #include <time.h>
    #include <unistd.h>
    #include <linux/filter.h>
    #include <linux/if_ether.h>
    #include <linux/if_packet.h>
    #include <linux/if_tun.h>
    #include <linux/virtio_net.h>
    #ifndef PACKET_IGNORE_OUTGOING
    #define PACKET_IGNORE_OUTGOING 23
    #endif
    #ifndef TUN_F_USO4
    #define TUN_F_USO4 0x20
    #define TUN_F_USO6 0x40
    #endif
    #ifndef VIRTIO_NET_HDR_GSO_UDP_L4
    #define VIRTIO_NET_HDR_GSO_UDP_L4 5
    #endif
    """
    cdef struct iovec:
        void* iov_base
        size_t iov_len
    cdef struct msghdr:
        void* msg_name
        uint32_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    cdef struct pollfd:
        int fd
        short events
        short revents
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    cdef struct sockaddr:
        pass
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    cdef struct sockaddr_ll:
        uint16_t sll_family
        uint16_t sll_protocol
        int sll_ifindex
    cdef struct virtio_net_hdr:
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset
    cdef struct tpacket_req:
        unsigned int tp_block_size
        unsigned int tp_block_nr
        unsigned int tp_frame_size
        unsigned int tp_frame_nr
    cdef struct tpacket2_hdr:
        uint32_t tp_status
        uint32_t tp_len
        uint32_t tp_snaplen
        uint16_t tp_mac
        uint32_t tp_sec
        uint32_t tp_nsec
    cdef struct tpacket_stats:
        unsigned int tp_packets
        unsigned int tp_drops
    cdef struct sock_filter:
        uint16_t code
        uint8_t jt
        uint8_t jf
        uint32_t k
    cdef struct sock_fprog:
        unsigned short len
        sock_filter* filter

    int errno
    int EAGAIN, EINTR, ENOBUFS, ENETDOWN, ENXIO, EMSGSIZE
    short POLLIN, POLLERR
    int MSG_DONTWAIT
    int AF_INET6, AF_PACKET, SOCK_RAW, SOCK_CLOEXEC, SOCK_NONBLOCK, IPPROTO_RAW
    int SOL_SOCKET, SOL_PACKET, SO_ATTACH_FILTER, SO_ERROR, SO_RCVBUFFORCE, SO_SNDBUF
    int SO_SNDTIMEO
    int PACKET_VERSION, PACKET_COPY_THRESH, PACKET_RX_RING, PACKET_STATISTICS, TPACKET_V2
    int TP_STATUS_KERNEL, TP_STATUS_USER, TP_STATUS_COPY
    int PROT_READ, PROT_WRITE, MAP_SHARED
    void* MAP_FAILED
    int PACKET_VNET_HDR, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING
    int ETH_P_ALL, ETH_P_IPV6
    int PR_SET_TIMERSLACK
    int EFD_NONBLOCK, EFD_CLOEXEC
    int CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE
    unsigned long TUNSETOFFLOAD, TUNSETVNETHDRSZ
    unsigned int TUN_F_CSUM, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_USO4, TUN_F_USO6
    int VIRTIO_NET_HDR_F_NEEDS_CSUM
    int VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_ECN
    int VIRTIO_NET_HDR_GSO_UDP_L4

    uint16_t htons(uint16_t value) nogil
    int ioctl(int fd, unsigned long request, ...) nogil
    int poll(pollfd* fds, unsigned long count, int timeout) nogil
    int eventfd(unsigned int initial, int flags) nogil
    int close(int fd) nogil
    int dup(int fd) nogil
    size_t malloc_usable_size(void* at) nogil
    int usleep(unsigned int microseconds) nogil
    int nanosleep(const timespec* asked, timespec* remaining) nogil
    int prctl(int operation, unsigned long, unsigned long, unsigned long, unsigned long) nogil
    ssize_t read(int fd, void* buffer, size_t length) nogil
    ssize_t write(int fd, const void* buffer, size_t length) nogil
    ssize_t readv(int fd, const iovec* vectors, int count) nogil
    ssize_t writev(int fd, const iovec* vectors, int count) nogil
    int socket(int domain, int kind, int protocol) nogil
    int bind(int fd, const sockaddr* address, unsigned int length) nogil
    int setsockopt(int fd, int level, int name, const void* value, unsigned int length) nogil
    int getsockopt(int fd, int level, int name, void* value, unsigned int* length) nogil
    ssize_t recv(int fd, void* buffer, size_t length, int flags) nogil
    void* mmap(void* at, size_t length, int protection, int flags, int fd, long offset) nogil
    int munmap(void* at, size_t length) nogil
    int sendmmsg(int fd, mmsghdr* messages, unsigned int count, int flags) nogil
    int clock_gettime(int clock, timespec* at) nogil
