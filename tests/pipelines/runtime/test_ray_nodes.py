"""Four nodes that are lost one after the other: the run ends all the same (for ten minutes: `make soak`)."""

import pytest

from tests.soak.lose_nodes import lose_nodes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_a_run_over_four_nodes_ends_with_the_same_bytes_though_they_are_lost_one_after_the_other():
    report = lose_nodes(seconds=25, every_s=6, most=4)  # so that it ends on a slow machine, too
    assert report.nodes_lost >= 1
    assert report.exit_code == 0
    assert report.problems == ()
    assert report.made_again == 0
    assert report.same_shards
