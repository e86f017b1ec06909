"""What would keep more of a run's prompts: for whoever brought prompts of their own, and got next to nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipelines.jobs import DatasetConfig
from schemas.records import Reason

FEW = 0.5
"""Of less than this share of the prompts something is shipped: then it is worth a word."""


def keep_more(reasons: Mapping[str, int], config: DatasetConfig) -> list[tuple[str, str]]:
    """For each kind of rejection that a setting decides: how many prompts it cost and why, and the flags that would
    keep them ("" where that takes thought); the most frequent first. reasons: of prompts and of their pairs, by
    name."""
    found = sorted(_all(reasons, config), key=lambda one: -one[0])
    return [(f"{number} {why}", flags) for number, why, flags in found if number]


def _all(reasons: Mapping[str, int], config: DatasetConfig) -> Iterator[tuple[int, str, str]]:
    def count(*names: Reason) -> int:
        return sum(reasons.get(name.value, 0) for name in names)

    more = f"--generate.candidates-per-prompt {2 * config.generate.candidates_per_prompt}"
    fewer = _fewer_steps(config)
    spread = "were too easy or too hard: too many or too few of their images are right"
    yield count(Reason.TOO_EASY, Reason.TOO_HARD, Reason.NOT_KEPT), spread, "--select.keep-bins easy medium hard"
    yield count(Reason.ALL_CORRECT), "had right images alone, none to correct", fewer or more
    yield count(Reason.ALL_WRONG), "had wrong images alone, none to learn from", more
    yield (
        count(Reason.NO_MARGIN),
        "had images that the rewards hardly tell apart",
        _half(config.pair.min_margin, "pair"),
    )
    disagrees = "pairs were turned down by the verifier"
    yield count(Reason.VERIFIER_DISAGREES), disagrees, _half(config.filter.min_margin, "filter")
    more_said = "pairs differed in more than their reflections say"
    yield count(Reason.UNEXPLAINED_DIFFERENCE), more_said, _more_partners(config)
    yield count(Reason.LOW_QUALITY), "had no good image above --quality.min", ""


def _half(margin: float, where: str) -> str:
    return f"--{where}.min-margin {margin / 2:g}" if margin > 0 else ""


def _more_partners(config: DatasetConfig) -> str:
    """All images may be partners: of them, explained pairs come first. "" where they may already, or chance decides."""
    select, number = config.select, config.generate.candidates_per_prompt
    if select.partner != "nearest" or min(select.top_k, select.bottom_k) >= number:
        return ""
    return f"--select.top-k {number} --select.bottom-k {number}"


def _fewer_steps(config: DatasetConfig) -> str:
    """A generator of half the steps errs more often; "" for one that has no such flag."""
    generator = config.generate.generator
    flag = {"flux": "num-steps", "diffusers": "steps"}.get(generator.kind)
    if flag is None or generator.num_steps < 2:
        return ""
    return f"--generate.generator.{generator.kind}.{flag} {generator.num_steps // 2}"
