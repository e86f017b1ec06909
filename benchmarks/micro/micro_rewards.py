"""Do the micro rewards prefer the right generated image? Against the judge, for each scorer and the ensemble.

`python -m benchmarks.micro.micro_rewards [--per-tag 20]` draws several images a prompt, lets the judge say which are
right, and counts, over all (right, wrong) pairs of one prompt, how often each scorer gives the right one more. Prompts
count equally; the interval is a bootstrap over prompts. How often a scorer's best image is right is compared with the
share of right images.
"""

from dataclasses import asdict, dataclass

import numpy as np
import tyro

from benchmarks.results_file import Circumstances, print_table, save
from inference.flux.generator import FluxGenerator
from inference.judges.segmentation_judge import SegmentationJudge
from inference.prompt_grammar import parse_prompt
from inference.rewards.ensemble import EnsembleConfig, combine_rewards
from microworld.family import micro_flux, micro_rewards, micro_segmentation_judge
from microworld.scenes.captions import TAGS, sample_caption
from schemas.configuration import stable_seed

PROMPT_SEED = 626_262


@dataclass(frozen=True)
class Arguments:
    """What is drawn."""

    per_tag: int = 20
    images: int = 10
    """Images a prompt."""


def preferred_share(scores: np.ndarray, right: np.ndarray) -> float:
    """Over all pairs of a right and a wrong image of one prompt: how often the right one scores more (ties half)."""
    difference = scores[right][:, None] - scores[~right][None]
    return float((np.sign(difference) / 2 + 0.5).mean())


def main() -> None:
    """Print the table and save it."""
    arguments = tyro.cli(Arguments)
    circumstances = Circumstances.now("python -m benchmarks.micro.micro_rewards")
    rng = np.random.default_rng(PROMPT_SEED)
    prompts = [sample_caption(rng, {tag: 1.0}).text for tag in TAGS for _ in range(arguments.per_tag)]
    texts = [text for text in prompts for _ in range(arguments.images)]
    images = FluxGenerator(micro_flux()).generate(texts, [stable_seed(PROMPT_SEED, i) for i in range(len(texts))])
    checks = SegmentationJudge(micro_segmentation_judge()).judge(images, [parse_prompt(text) for text in texts])
    shape = (len(prompts), arguments.images)
    right = np.array([check.correct for check in checks]).reshape(shape)
    scores = {reward.name: reward.open().score(images, texts).reshape(shape) for reward in micro_rewards()}
    by_prompt = [{name: values[i] for name, values in scores.items()} for i in range(len(prompts))]
    for method in ("z", "rank"):
        config = EnsembleConfig(method)
        scores[f"ensemble, {method}"] = np.stack([combine_rewards(some, config) for some in by_prompt])
    mixed = np.flatnonzero(right.any(1) & ~right.all(1))
    table, figures = [], {}
    for name, values in scores.items():
        shares = np.array([preferred_share(values[i], right[i]) for i in mixed])
        draws = np.random.default_rng(0).choice(shares, (2000, len(shares))).mean(1)
        low, high = np.quantile(draws, [0.025, 0.975])
        best = float(right[np.arange(len(prompts)), values.argmax(1)].mean())
        figures[name] = {"preferred": float(shares.mean()), "interval": [low, high], "best_is_right": best}
        table.append([name, f"{shares.mean():.3f}", f"{low:.3f} to {high:.3f}", f"{best:.3f}"])
    print(
        f"{len(mixed)} of {len(prompts)} prompts have right and wrong images; share of right images {right.mean():.3f}"
    )
    print_table(["reward", "right preferred", "95 %", "its best is right"], table)
    figures["share_right"], figures["num_prompts"] = float(right.mean()), len(mixed)
    figures["arguments"] = asdict(arguments)
    save("micro_rewards", circumstances, figures, compared_with="the judge's verdicts; chance is .5", target=0.7)


if __name__ == "__main__":
    main()
