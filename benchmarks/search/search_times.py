"""What searches cost, and which budgets take the same time: with the seconds that were measured, or with those that are
stated for FLUX.1-dev on an H100 (`pipelines/stated_figures.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.search.search_arms import Found
from inference.judges.intervals import Interval
from pipelines.stated_figures import FILTER_SECONDS, GPUS, REFLECT_SECONDS, flux_pass_tflop
from schemas.image_size import ImageSize

FLUX_STEPS, FLUX_PX, FLUX_TOKENS, CONDITION_PX = 30, 1024, 512, 512


def time_rows(found: Found, budgets: Sequence[int]) -> list[dict[str, Any]]:
    """Of each budget, a search: seconds and everything that is counted."""
    number, rows = len(found.evaluation.searches), []
    for budget in budgets:
        spent = found.spent_at(budget)
        if spent is None or spent.images != budget:  # a single image of a round of two has no time of its own
            continue
        cost = spent.cost
        rows.append(
            {
                "strategy": found.arm.name,
                "budget": budget,
                "seconds": spent.seconds / number,
                "generations": cost.generations / number,
                "denoiser_passes": cost.denoiser_passes / number,
                "verifier_calls": cost.verifier_calls / number,
                "vlm_calls": cost.vlm_calls / number,
                "vlm_tokens": (cost.vlm_prompt_tokens + cost.vlm_completion_tokens) / number,
            }
        )
    return rows


def measured_seconds(found: Found, budget: int) -> float:
    """Of one search; infinite for more images than there are."""
    spent = found.spent_at(budget)
    return spent.seconds / len(found.evaluation.searches) if spent else float("inf")


def flux_seconds(found: Found, budget: int) -> float:
    """The same search with FLUX.1-dev at 1024 px and a 7B VLM: 30 passes an image, a corrector's passes longer by its
    condition (512 px); the VLM's seconds are assumptions (`stated_figures.REFLECT_SECONDS`)."""
    spent = found.spent_at(budget)
    if spent is None:
        return float("inf")
    plain = GPUS["h100"].pass_seconds * FLUX_STEPS
    whole = flux_pass_tflop(ImageSize.square(FLUX_PX), FLUX_TOKENS)
    corrected = plain * flux_pass_tflop(ImageSize.square(FLUX_PX), FLUX_TOKENS, CONDITION_PX) / whole
    searches = found.evaluation.searches
    cost, number = spent.cost, len(searches)
    again = sum(sum(s.corrected[: spent.images]) for s in searches) / number
    asked = cost.vlm_calls / number * REFLECT_SECONDS
    verified = cost.verifier_calls / number * FILTER_SECONDS
    return (cost.generations / number - again) * plain + again * corrected + asked + verified


SECONDS: dict[str, Callable[[Found, int], float]] = {"measured": measured_seconds, "flux": flux_seconds}


def equal_time_rows(
    found: Found,
    noise: Found,
    budgets: Sequence[int],
    costs: str,
    paired: Callable[[Found, Found, int, int], Interval],
) -> list[dict[str, Any]]:
    """For each budget of a strategy, best-of-N with as many images as the same time allows; budgets for which best-of-N
    was not searched far enough are left out."""
    seconds, rows = SECONDS[costs], []
    width, most = noise.arm.job.search.width, noise.arm.job.search.budget
    for budget in (b for b in budgets if b >= width):
        time = seconds(found, budget)
        allowed = [n for n in range(width, most + 1, width) if seconds(noise, n) <= time]
        if not allowed or (allowed[-1] == most and seconds(noise, most) * 1.05 < time):
            continue
        gain = paired(found, noise, budget, allowed[-1])
        rows.append(
            {
                "strategy": found.arm.name,
                "budget": budget,
                "seconds": time,
                "noise_budget": allowed[-1],
                "gain": gain.as_list(digits=4),
            }
        )
    return rows
