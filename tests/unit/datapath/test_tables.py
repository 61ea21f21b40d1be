"""The sizes the daemon computes against what the engine makes."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mnagent.core.actions import TunnelEnd
from mnagent.core.security import Direction, EspMode, EspTransform, SecurityAssociation
from mnagent.datapath import Pipeline, Tables, TunnelEntry
from mnagent.runtime.tunnels import tunnel_mtu

HOME = IPv6Address("2001:db8:1::10")
AGENT = IPv6Address("2001:db8:1::1")
CARE_OF = IPv6Address("2001:db8:2::10")
CORRESPONDENT = IPv6Address("2001:db8:9::9")
KEY_LENGTH = {EspTransform.AES_GCM_16: 20, EspTransform.CHACHA20_POLY1305: 36}


def outbound(transform: EspTransform) -> SecurityAssociation:
    length = 0 if transform is EspTransform.NULL_HMAC_SHA256_128 else 16
    return SecurityAssociation(
        spi=256,
        direction=Direction.OUTBOUND,
        mode=EspMode.TUNNEL,
        transform=transform,
        home_address=HOME,
        peer=AGENT,
        encryption_key=bytes(KEY_LENGTH.get(transform, length)),
        integrity_key=b"" if transform.is_aead else bytes(32),
    )


def udp_packet(length: int) -> bytes:
    head = b"\x60\0\0\0" + (length - 40).to_bytes(2, "big") + bytes([17, 64])
    return head + HOME.packed + CORRESPONDENT.packed + bytes(length - 40)


@pytest.mark.parametrize("transform", [None, *EspTransform])
def test_tunnel_mtu_is_the_largest_inner_packet_that_fits_the_path(
    transform: EspTransform | None,
) -> None:
    for path_mtu in range(1480, 1520):
        mtu = tunnel_mtu(path_mtu, transform=transform)
        entry = TunnelEntry(
            end=TunnelEnd.MOBILE_NODE,
            home_address=HOME,
            local=CARE_OF,
            remote=AGENT,
            mtu=mtu,
            path_mtu=path_mtu,
            outbound_spi=None if transform is None else 256,
        )
        associations = () if transform is None else (outbound(transform),)
        pipeline = Pipeline()
        pipeline.publish(Tables(tunnels=(entry,), associations=associations))
        (frame,) = pipeline.process_outbound([udp_packet(mtu), udp_packet(mtu + 1)]).frames
        assert path_mtu - 16 < len(frame) <= path_mtu
