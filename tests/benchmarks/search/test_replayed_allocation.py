from benchmarks.search.replayed_allocation import replay
from inference.allocation import AllocationConfig


def test_a_replay_stops_at_the_first_sure_image_and_at_the_end_of_what_was_recorded():
    scores = [[0.0, 3.1, 0.0, 9.0], [0.0, 0.0, 4.0, 0.0], [0.0] * 4]
    assert replay(scores, 1, AllocationConfig(budget=4.0, sure=3.0)) == [2, 3, 4]
    assert replay(scores, 2, AllocationConfig(budget=4.0, sure=3.0)) == [2, 4, 4]
    # 6 images in all: after three, three are left, and each of the three prompts takes one.
    assert replay(scores, 1, AllocationConfig(budget=2.0, sure=3.0)) == [2, 2, 2]
