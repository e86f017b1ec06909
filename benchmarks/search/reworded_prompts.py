"""Can any rewording of a prompt make the micro generator draw it right more often?

`python -m benchmarks.search.reworded_prompts` draws the dev prompts as they stand and in four other wordings; the judge
says which images fit the prompt as it stands. Wordings: refined as the VLM learnt to (of a random wrong scene),
described in detail (colours, sizes, places and background of a scene that fits), with colours and places alone, and
with those behind the prompt. It bounds what the search strategies with "+ prompt" can gain by a refiner's words.

Intervals are 95 % bootstraps over texts within tags; differences are paired with the prompt as it stands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tyro

from benchmarks.results_file import Circumstances, print_table, run_command, save
from benchmarks.search.search_tables import plain, signed
from inference.flux.generator import FluxGenerator, FluxGeneratorConfig
from inference.judges.intervals import Interval, mean_over_tags
from inference.judges.segmentation_judge import SegmentationJudge
from microworld.family import micro_flux, micro_segmentation_judge
from microworld.scenes.captions import PLACES, Caption, caption_of_record, place_of, sample_scene
from microworld.scenes.corrections import refine_prompt
from microworld.scenes.edits import wrong_scene
from microworld.scenes.evaluation_split import dev_prompts, evaluation_seed
from microworld.scenes.long_captions import describe
from schemas.records import PromptRecord

AS_IT_STANDS = "as it stands"
SEED = 2_000_003  # added to a prompt's base seed: no search and no other benchmark draws these


@dataclass(frozen=True)
class Arguments:
    """How much is drawn."""

    images: int = 8
    """Of each prompt in each wording."""
    generator: FluxGeneratorConfig = field(default_factory=lambda: micro_flux(batch_size=64))
    name: str = "reworded_prompts"
    """Of the results file."""


def _refined(rng: np.random.Generator, caption: Caption) -> str:
    return refine_prompt(rng, caption, wrong_scene(rng, caption, sample_scene(rng, caption))[1])


def _detailed(rng: np.random.Generator, caption: Caption) -> str:
    return describe(sample_scene(rng, caption), rng)


def _placed(rng: np.random.Generator, caption: Caption) -> str:
    items = sample_scene(rng, caption).objects
    return " and ".join(f"a {item.color} {item.shape} {PLACES[place_of(item)]}" for item in items)


WORDINGS: dict[str, Callable[[np.random.Generator, Caption], str]] = {
    AS_IT_STANDS: lambda _, caption: caption.text,
    "refined": _refined,
    "in detail": _detailed,
    "colours and places": lambda rng, caption: f"a photo of {_placed(rng, caption)}",
    "prompt, colours and places": lambda rng, caption: f"{caption.text}, {_placed(rng, caption)}",
}


def texts_of(wording: str, prompts: Sequence[PromptRecord], images: int) -> list[str]:
    """One text an image, the images of a prompt together; every image has a scene of its own."""
    write = WORDINGS[wording]
    return [
        write(np.random.default_rng([evaluation_seed(p.prompt_id), k, SEED]), caption_of_record(p))
        for p in prompts
        for k in range(images)
    ]


def main() -> None:
    """Draw, judge, print, save."""
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(" ".join(["python -m benchmarks.search.reworded_prompts", *sys.argv[1:]]))
    prompts = dev_prompts()
    generator, judge = FluxGenerator(arguments.generator), SegmentationJudge(micro_segmentation_judge())
    seeds = [evaluation_seed(p.prompt_id) + SEED + k for p in prompts for k in range(arguments.images)]
    records = [p for p in prompts for _ in range(arguments.images)]
    figures: dict[str, Any] = {"arguments": asdict(arguments), "prompts": len(prompts), "wordings": {}}
    as_it_stands: np.ndarray | None = None
    for wording in WORDINGS:
        texts = texts_of(wording, prompts, arguments.images)
        verdicts = judge.judge(generator.generate(texts, seeds), records)
        right = np.array([v.correct for v in verdicts], float)
        as_it_stands = right if as_it_stands is None else as_it_stands  # the first wording
        figures["wordings"][wording] = summary(right, as_it_stands, records) | {"example": texts[-1]}
        print(f"{wording}: {right.mean():.3f} of {len(texts)} images, e.g. {texts[-1]!r}", flush=True)
    print_wordings(figures["wordings"])
    path = save(arguments.name, circumstances, figures, compared_with="the same seeds with the prompt as it stands")
    print(f"figures: {path}")


def summary(right: np.ndarray, as_it_stands: np.ndarray, records: list[PromptRecord]) -> dict[str, Any]:
    """right: 0 or 1 of each image."""
    tags, texts = [p.tag or "" for p in records], [p.text for p in records]
    by_tag = {tag: round(float(right[[t == tag for t in tags]].mean()), 4) for tag in dict.fromkeys(tags)}
    paired = mean_over_tags(right - as_it_stands, tags, texts)
    return {"right": plain(mean_over_tags(right, tags, texts)), "change": plain(paired), "by_tag": by_tag}


def print_wordings(wordings: dict[str, Any]) -> None:
    """A row each."""
    tags = list(wordings[AS_IT_STANDS]["by_tag"])
    rows = [
        [
            name,
            *(f"{found['by_tag'][tag]:.2f}" for tag in tags),
            str(Interval.from_list(found["right"])),
            "" if name == AS_IT_STANDS else signed(Interval.from_list(found["change"])),
        ]
        for name, found in wordings.items()
    ]
    print_table(["prompt", *tags, "right", "against the prompt as it stands"], rows)


if __name__ == "__main__":
    run_command(main)
