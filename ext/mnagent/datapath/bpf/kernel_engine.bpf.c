/* SPDX-License-Identifier: Apache-2.0 */
/* The in-kernel engine: plain tunnels and route optimization, on tcx (Linux 6.6) or tc clsact.
 *
 * None of the helpers used is for GPL programs only, so the licence is the project's.
 *
 * A program takes a packet wholly or leaves it untouched. What the outbound one leaves goes into the
 * tunnel device's queue, what the inbound ones leave goes on to the packet sockets behind them:
 * each packet is served exactly once, whenever the tables change. */

#include "inbound.h"
#include "outbound.h"

SEC("tc")
int outbound(struct __sk_buff *skb)
{
	int action = send_outbound(skb);

	return action < 0 ? count(LEFT_TO_USER_SPACE_OUTBOUND, TC_ACT_UNSPEC) : action;
}

/* Links with Ethernet's header, and those without any. */
SEC("tc")
int inbound_ethernet(struct __sk_buff *skb)
{
	int action = take_inbound(skb, ETH_HLEN);

	return action < 0 ? TC_ACT_UNSPEC : action;
}

SEC("tc")
int inbound_plain(struct __sk_buff *skb)
{
	int action = take_inbound(skb, 0);

	return action < 0 ? TC_ACT_UNSPEC : action;
}

char program_license[] SEC("license") = "Apache-2.0";
