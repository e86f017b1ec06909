"""How a search spends its images, by what the verifier says of those that there are: no models, only scores.

Beyond ReflectionFlow's fixed width x depth, as its §4.4 suggests. A prompt whose best image the verifier is sure of
gets no more (stop). The others go on round by round as long as the whole run's budget lasts, so what easy prompts
leave, hard ones have. Within a prompt each chain corrects its best image (deep) until that has been tried a few times
in vain; then it starts afresh (wide).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference.interfaces import rank_of
from schemas.errors import InputError


@dataclass(frozen=True)
class AllocationConfig:
    """How one budget is spent over all prompts by what the verifier says."""

    budget: float = 0.0
    """Images a prompt, on average over the run; none gets more than width * depth. 0: each gets just that."""
    sure: float = 6.0
    """The verifier's score (log-odds that the image is right) from which on a prompt is done."""

    def __post_init__(self) -> None:
        if self.budget and self.budget < 1:
            raise InputError(f"{self.budget} images a prompt", field="allocation.budget", expected="0, or at least 1")


@dataclass(frozen=True)
class RoundPlan:
    """Who goes on: prompts whose best score is in [from_score, sure). from_score None: all of them."""

    goes_on: bool
    from_score: float | None = None


def plan_round(best: Sequence[float], spent: int, width: int, config: AllocationConfig) -> RoundPlan:
    """One round for a whole run. best: the best score of every prompt so far; spent: images so far, of all together.

    Where the rest of the budget does not reach for all that are unsure, those that are nearest to sure go on, as many
    as it reaches for; of equal scores all or none.
    """
    left = int(config.budget * len(best)) - spent
    unsure = sorted((score for score in map(rank_of, best) if score < config.sure), reverse=True)
    reached = left // width
    if not unsure or reached < 1:
        return RoundPlan(False)
    if reached >= len(unsure):
        return RoundPlan(True)
    last = unsure[reached - 1]
    if unsure[reached] == last:  # its equals would not all fit
        above = [score for score in unsure if score > last]
        return RoundPlan(True, above[-1]) if above else RoundPlan(False)
    return RoundPlan(True, last)


def images_for(best: float, width: int, plan: RoundPlan, config: AllocationConfig) -> int:
    """Images of one prompt's next round: all of the width, or none."""
    best = rank_of(best)
    is_in = plan.from_score is None or best >= plan.from_score
    return width if plan.goes_on and is_in and best < config.sure else 0


@dataclass(frozen=True)
class Tried:
    """One image of a chain, as far as allocation cares. parent: the image that it was corrected from."""

    number: int
    score: float
    parent: int | None


def go_on_from(chain: Sequence[Tried], patience: int) -> int | None:
    """Which of its images a chain corrects next: the best since its last fresh start; None to start afresh, after
    `patience` corrections of that one that scored no higher."""
    if not chain:
        return None
    fresh = max((i for i, tried in enumerate(chain) if tried.parent is None), default=0)
    best = max(chain[fresh:], key=lambda tried: (rank_of(tried.score), -tried.number))
    in_vain = sum(tried.parent == best.number for tried in chain)
    return None if in_vain >= patience else best.number
