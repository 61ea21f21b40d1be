/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon tells the programs, and what they tell it. `mnagent.datapath.kernel_tables` packs
 * the same structures. */

#ifndef MNAGENT_TABLES_H
#define MNAGENT_TABLES_H

#include "packet.h"

#define MAX_ENTRIES 1048576
#define MAX_LOCALS 4096
#define MAX_FLOWS 8192
#define REPORTS_LENGTH 65536

enum setting_flag {
	/* Merged tunnel packets may be taken out of their tunnel: see `inbound.h`. */
	TAKES_MERGED = 1,
};

/* How frames towards a next hop begin. */
struct way {
	__u32 interface;
	__u16 mtu; /* Largest packet as the host hands it over; user space takes what is larger. */
	__u8 link[ETH_HLEN];
	__u32 unused;
};

enum tunnel_flag {
	MOBILE_END = 1,
	SERVES_OUTBOUND = 2,
	SERVES_INBOUND = 4,
};

struct tunnel {
	union address local;
	union address remote;
	struct way way;
	__u64 flags;
	__u64 packets_out; /* These two the programs count; a look-up of its own would cost more. */
	__u64 packets_in;
};

enum path_flag {
	HAS_SOURCE = 1,
	HAS_DESTINATION = 2,
	SERVES_PATH = 4,
};

/* Route optimization: `source` and `destination` are the care-of addresses that stand in the IPv6
 * header in place of home addresses. */
struct path {
	union address source;
	union address destination;
	struct way way;
	__u64 flags;
};

struct pair {
	union address local;
	union address peer;
};

enum local_flag {
	IS_LOCAL = 1,
	IS_OWN_HOME = 2,
};

struct settings {
	__u64 alive_until; /* Nanoseconds since boot: see `is_alive`. */
	__u32 tunnel_interface;
	__u32 flags;
};

enum verdict {
	TUNNELLED,
	DECAPSULATED,
	SENT_DIRECT,
	RECEIVED_DIRECT,
	LEFT_TO_USER_SPACE_OUTBOUND,
	LEFT_TO_USER_SPACE_INBOUND,
	VERDICT_COUNT,
};


enum flow_kind {
	IS_DIRECT = 1,
	IS_OUTBOUND = 2,
};

enum report_flag {
	HAS_PORT = 1,
};

/* What a pair carries one way, in the tunnel or directly. */
struct flow {
	struct pair pair;
	__u64 kind; /* IS_DIRECT, IS_OUTBOUND */
};

struct traffic {
	__u64 reported_at;
	__u64 packets; /* since then */
};

struct report {
	struct flow flow;
	__u32 packets;
	__u16 port;
	__u8 protocol;
	__u8 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, union address); /* home address */
	__type(value, struct tunnel);
} tunnels SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, union address); /* a mobile peer's home address */
	__type(value, struct path);
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, struct pair);
	__type(value, struct path);
} paths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_LOCALS);
	__type(key, union address);
	__type(value, __u64);
} locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICT_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow);
	__type(value, struct traffic);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, REPORTS_LENGTH);
} reports SEC(".maps");

/* The settings, NULL when the daemon has not said for long that it lives: what it told is stale
 * then, such as a binding that expired. `now` is the time. */
HERE struct settings *find_settings(__u64 now)
{
	__u32 zero = 0;
	struct settings *found = bpf_map_lookup_elem(&settings, &zero);

	return found && found->alive_until > now ? found : 0;
}

HERE int count(__u32 verdict, int action)
{
	__u64 *counter = bpf_map_lookup_elem(&verdicts, &verdict);

	if (counter)
		*counter += 1;
	return action;
}

/* What an address is here, see `local_flag`; 0: nothing of ours. Asked first: it is a small table,
 * and tells that most of what a home agent forwards is in no other than the tunnels'. */
HERE __u64 find_local(const union address *address)
{
	__u64 *local = bpf_map_lookup_elem(&locals, address);

	return local ? *local : 0;
}

#endif
