"""What a LoRA that a VLM's answers taught draws, by the judge, before and after: `python -m
benchmarks.dual_process.taught_lora --lora runs/yellow_star`.

Of the prompt that was taught, `--num-seeds` images each on seeds that were neither trained nor evaluated on, of which
the judge says how many show `--wanted`. Of all dev prompts without `--word`, an image each, whether they are as right
as before: the paired difference, with its 95 % interval over texts. The judge has seen neither VLM nor training.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from benchmarks.results_file import Circumstances, print_table, run_command, save
from inference.judges.intervals import mean_over_tags
from inference.prompt_grammar import parse_prompt
from microworld.family import micro_flux, micro_segmentation_judge
from microworld.scenes.evaluation_split import dev_prompts, evaluation_seed

FIRST_SEED = 70_000
TARGET = "wanted after > before; the other prompts' interval holds 0"


@dataclass(frozen=True)
class Arguments:
    """Which LoRA, and what it was to learn."""

    lora: str
    """A folder that `python -m trainers dual-process` wrote."""
    asked: str = "a photo of a star"
    """The prompt that was taught."""
    wanted: str = "a photo of a yellow star"
    """What its images are to show, in one of GenEval's forms."""
    word: str = "star"
    """Dev prompts with this word are left out of the others."""
    num_seeds: int = 64


def measure(arguments: Arguments) -> dict[str, Any]:
    """Both tables, as plain data."""
    from inference.flux.generator import FluxGenerator
    from inference.judges.segmentation_judge import SegmentationJudge

    number = arguments.num_seeds
    others = [prompt for prompt in dev_prompts() if arguments.word not in prompt.text]
    texts = [prompt.text for prompt in others]
    asked = [arguments.asked] * number + texts
    wanted = [parse_prompt(arguments.wanted, arguments.wanted)] * number + others
    seeds = [FIRST_SEED + i for i in range(number)] + [evaluation_seed(prompt.prompt_id) for prompt in others]
    judge, taught, kept = SegmentationJudge(micro_segmentation_judge()), [], []
    for lora in ("", arguments.lora):
        images = FluxGenerator(micro_flux(lora=lora, batch_size=32)).generate(asked, seeds)
        right = np.array([verdict.correct for verdict in judge.judge(images, wanted)], float)
        taught.append(right[:number])
        kept.append(right[number:])
    tags = [prompt.tag or "" for prompt in others]
    return {
        "asked": arguments.asked,
        "wanted": arguments.wanted,
        "images": number,
        "wanted_before": int(taught[0].sum()),
        "wanted_after": int(taught[1].sum()),
        "other_prompts": len(others),
        "right_before": mean_over_tags(kept[0], tags, texts).as_list(4),
        "right_after": mean_over_tags(kept[1], tags, texts).as_list(4),
        "change": mean_over_tags(kept[1] - kept[0], tags, texts).as_list(4),
    }


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(f"python -m benchmarks.dual_process.taught_lora {shlex.join(sys.argv[1:])}")
    figures = measure(arguments)
    wanted = [f"{arguments.wanted}, of {figures['images']}", figures["wanted_before"], figures["wanted_after"]]
    others = [f"{figures['other_prompts']} other prompts", figures["right_before"][0], figures["right_after"][0]]
    print_table(["right", "before", "after"], [wanted, others])
    print("change of the others, with its interval:", figures["change"])
    print(save("taught_lora", circumstances, figures, "the same seeds without the LoRA", TARGET))


if __name__ == "__main__":
    run_command(main)
