/* Traffic for the benchmark, cheap enough that what is measured is what lies between its ends. */

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif

enum { BURST = 32, WINDOW = 8, BATCH = 64, SLOT = 65536, MAX_FLOWS = 64 };

struct outcome {
    double seconds;
    uint64_t octets;
};

typedef void (*begin_function)(void);

static uint8_t memory[BATCH * SLOT];

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec * 1e-9;
}

/* Sends over all flows until they are closed. */
void send_streams(const int *flows, int count)
{
    struct pollfd waited[MAX_FLOWS];
    int at;
    for (at = 0; at < count; at++)
        waited[at] = (struct pollfd){ .fd = flows[at], .events = POLLOUT };
    while (poll(waited, count, -1) > 0) {
        for (at = 0; at < count; at++) {
            if (waited[at].revents == 0)
                continue;
            if (send(waited[at].fd, memory, 256 << 10, MSG_DONTWAIT | MSG_NOSIGNAL) < 0
                && errno != EAGAIN)
                return;
        }
    }
}

/* Takes all flows in, without looking: `warm` seconds uncounted, then `seconds` that count. */
void receive_streams(
    const int *flows, int count, double warm, double seconds, begin_function begin,
    struct outcome *outcome)
{
    struct pollfd waited[MAX_FLOWS];
    double began = now() + warm, at_present;
    int at, begun = 0;
    ssize_t got;
    for (at = 0; at < count; at++)
        waited[at] = (struct pollfd){ .fd = flows[at], .events = POLLIN };
    for (;;) {
        poll(waited, count, 1000);
        for (at = 0; at < count; at++) {
            if (waited[at].revents == 0)
                continue;
            got = recv(waited[at].fd, NULL, 4 << 20, MSG_TRUNC | MSG_DONTWAIT);
            if (got > 0)
                outcome->octets += got;
        }
        at_present = now();
        if (!begun && at_present >= began) {
            begun = 1;
            began = at_present;
            outcome->octets = 0;
            begin();
        }
        outcome->seconds = at_present - began;
        if (begun && outcome->seconds >= seconds)
            return;
    }
}

static int send_burst(int socket, uint32_t size, int segments)
{
    static struct mmsghdr messages[BURST];
    static struct iovec vector;
    int at, sent = 0, more;
    if (segments)
        return (int)send(socket, memory, (size_t)size * BURST, 0);
    vector = (struct iovec){ memory, size };
    for (at = 0; at < BURST; at++) {
        messages[at].msg_hdr.msg_iov = &vector;
        messages[at].msg_hdr.msg_iovlen = 1;
    }
    while (sent < BURST) {
        more = sendmmsg(socket, messages + sent, BURST - sent, 0);
        if (more < 0)
            return more;
        sent += more;
    }
    return sent;
}

/* Datagrams, each on its own or handed to the kernel as segments of one; WINDOW bursts fly, so that
   nobody is flooded. After a loss the window fills up again. Ends when there is no one left. */
void send_datagrams(int socket, uint32_t size, int segments)
{
    struct pollfd waited = { .fd = socket, .events = POLLIN };
    int flying = 0, each = (int)size;
    char acknowledgement[16];
    if (segments)
        setsockopt(socket, IPPROTO_UDP, UDP_SEGMENT, &each, sizeof(each));
    for (;;) {
        for (; flying < WINDOW; flying++)
            if (send_burst(socket, size, segments) < 0 && errno != ENOBUFS)
                return;
        if (poll(&waited, 1, 20) <= 0) {
            flying = 0;
            continue;
        }
        while (recv(socket, acknowledgement, sizeof(acknowledgement), MSG_DONTWAIT) > 0)
            flying -= flying > 0;
    }
}

static void prepare(struct mmsghdr *messages, struct iovec *vectors)
{
    int at;
    memset(messages, 0, BATCH * sizeof(*messages));
    for (at = 0; at < BATCH; at++) {
        vectors[at] = (struct iovec){ memory + at * SLOT, SLOT };
        messages[at].msg_hdr.msg_iov = &vectors[at];
        messages[at].msg_hdr.msg_iovlen = 1;
    }
}

/* Acknowledges every BURST datagrams; runs of them may come as one where the sender made segments. */
void receive_datagrams(
    int socket, uint32_t size, int segments, double warm, double seconds, begin_function begin,
    struct outcome *outcome)
{
    static struct mmsghdr messages[BATCH];
    static struct iovec vectors[BATCH];
    double began = now() + warm, at_present;
    uint64_t unacknowledged = 0;
    int at, got, begun = 0, one = 1;
    prepare(messages, vectors);
    if (segments)
        setsockopt(socket, IPPROTO_UDP, UDP_GRO, &one, sizeof(one));
    for (;;) {
        got = recvmmsg(socket, messages, BATCH, MSG_WAITFORONE, NULL);
        for (at = 0; at < got; at++) {
            outcome->octets += messages[at].msg_len;
            unacknowledged += messages[at].msg_len;
        }
        for (; unacknowledged >= (uint64_t)size * BURST; unacknowledged -= (uint64_t)size * BURST)
            send(socket, "+", 1, MSG_DONTWAIT);
        at_present = now();
        if (!begun && at_present >= began) {
            begun = 1;
            began = at_present;
            outcome->octets = 0;
            begin();
        }
        outcome->seconds = at_present - began;
        if (begun && outcome->seconds >= seconds)
            return;
    }
}

/* Sends back what comes. */
void echo(int socket)
{
    struct sockaddr_in6 peer;
    socklen_t length;
    ssize_t got;
    for (;;) {
        length = sizeof(peer);
        got = recvfrom(socket, memory, SLOT, 0, (struct sockaddr *)&peer, &length);
        if (got >= 0)
            sendto(socket, memory, (size_t)got, 0, (struct sockaddr *)&peer, length);
    }
}

/* One datagram at a time, `pause` seconds after the answer to the last; returns how many were
   answered within a second, their round trips in seconds. */
int round_trips(int socket, int count, double pause, double *spans)
{
    struct pollfd waited = { .fd = socket, .events = POLLIN };
    struct timespec quiet = { 0, (long)(pause * 1e9) };
    int at, answered = 0;
    double began;
    for (at = 0; at < count; at++) {
        began = now();
        if (send(socket, memory, 64, 0) == 64 && poll(&waited, 1, 1000) == 1
            && recv(socket, memory, SLOT, 0) == 64)
            spans[answered++] = now() - began;
        nanosleep(&quiet, NULL);
    }
    return answered;
}
