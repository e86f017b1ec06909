"""What the allocator would have done in searches that were recorded with a fixed budget."""

from collections.abc import Sequence

from inference.allocation import AllocationConfig, images_for, plan_round


def replay(scores: Sequence[Sequence[float]], width: int, config: AllocationConfig) -> list[int]:
    """How many images of each recorded search the allocator would have drawn: what a threshold does is known without
    drawing anything again, where chains go on from their own last image.

    scores: the verifier's, of every image of each search, round by round.
    """
    used = [min(width, len(one)) for one in scores]
    while True:
        best = [max(one[:n]) for one, n in zip(scores, used, strict=True)]
        plan = plan_round(best, sum(used), width, config)
        more = [
            min(images_for(b, width, plan, config), len(one) - n) for b, one, n in zip(best, scores, used, strict=True)
        ]
        if not any(more):
            return used
        used = [n + m for n, m in zip(used, more, strict=True)]
