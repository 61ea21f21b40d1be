"""What happens once in a mobile node's life: each test has a daemon of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.blackbox import octets as o
from tests.blackbox.mobile_node import MobileNode
from tests.support.requirement import requirement


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[MobileNode]:
    """A mobile node whose home agent says nothing by itself."""
    node = MobileNode(route_optimization="never", **getattr(request, "param", {}))
    node.accepts = False
    try:
        yield node
        assert node.strays == []
    finally:
        node.bench.close()


@requirement("RFC6275-11.8", "MN-06", "MN-07", "MN-08", "MN-09")
@pytest.mark.parametrize(
    ("node", "first"),
    [({}, 1.5), ({"initial_bindack_timeout_first_registration": 0.5}, 0.5)],
    indirect=["node"],
)
def test_first_update_waits_longer_for_its_answer_and_as_configured(
    node: MobileNode, first: float
) -> None:
    node.move()
    seen = [node.tester.expect_seen(node.is_update, within=6, skip=number) for number in range(3)]
    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(seen)]
    assert gaps[0] == pytest.approx(first, abs=0.3)
    assert gaps[1] == pytest.approx(2 * first, abs=0.4)


@requirement("RFC6275-11.7.3", "MN-23")
def test_home_address_that_somebody_has_is_not_registered_again(node: MobileNode) -> None:
    node.move()
    update = node.update()
    node.tester.add(node.acknowledge(update, status=134, lifetime=0))
    with pytest.raises(AssertionError, match="no such packet"):
        node.tester.expect(node.is_update, within=3, skip=1)
    network = node.move()
    # The node is on the network all the same, under another address.
    node.tester.expect(
        lambda seen: (
            seen.icmp_type == o.NEIGHBOR_SOLICITATION
            and seen.source == o.UNSPECIFIED
            and network.holds(seen.target)
        )
    )
    node.bench.status()
    assert not node.tester.came(node.is_update)
