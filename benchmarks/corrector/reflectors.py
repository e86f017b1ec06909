"""Which reflector names true flaws more often? `python -m benchmarks.corrector.reflectors --reflectors A B`.

The micro generator's wrong images (by the judge) on dev prompts; each reflector says once what is wrong, and its first
sentence counts if it is an instruction that asks for an edit which the image needs.
Intervals are 95 % bootstraps over texts; differences, to the first reflector, are paired.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.corrector.corrector_gain import as_data, cell_of
from benchmarks.corrector.wrong_images import find_wrong_images, reflections_by
from benchmarks.dataset.referee import names_one_of
from benchmarks.results_file import RESULTS, Circumstances, print_table, run_command, save
from inference.flux.generator import FluxGenerator
from inference.judges.intervals import mean_over_tags
from inference.judges.segmentation_judge import SegmentationJudge
from microworld.family import micro_flux, micro_segmentation_judge, micro_vlm
from microworld.scenes.evaluation_split import SPLITS


@dataclass(frozen=True)
class Arguments:
    """Which reflectors, on what."""

    reflectors: tuple[str, ...]
    """VLMs or trained reflectors, the one first that the others are compared with."""
    splits: tuple[Literal["dev", "hard-dev", "compositional-dev"], ...] = ("dev", "hard-dev", "compositional-dev")
    per_prompt: int = 2
    """Images drawn of each prompt, of which the wrong ones are taken."""


def measure(arguments: Arguments) -> dict[str, Any]:
    """By split: how many images, and of each reflector how often it names a flaw and how far it leads the first one."""
    generator, judge = FluxGenerator(micro_flux(batch_size=64)), SegmentationJudge(micro_segmentation_judge())
    figures: dict[str, Any] = {}
    for split in arguments.splits:
        wrong = find_wrong_images(generator, judge, SPLITS[f"micro-{split}"](), arguments.per_prompt).images
        texts, tags = [w.prompt.text for w in wrong], ["all"] * len(wrong)
        named: dict[str, np.ndarray] = {}
        for name in arguments.reflectors:
            said = reflections_by(micro_vlm(model=name).open(), wrong)
            named[name] = np.array([names_one_of(text, w.needed) for text, w in zip(said, wrong, strict=True)], float)
            print(f"{split}, {name}: done", flush=True)
        first = named[arguments.reflectors[0]]
        figures[split] = {
            "wrong_images": len(wrong),
            "names_a_flaw": {name: as_data(mean_over_tags(mine, tags, texts)) for name, mine in named.items()},
            "leads_the_first_by": {
                name: as_data(mean_over_tags(mine - first, tags, texts)) for name, mine in named.items()
            },
        }
    return figures


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(f"python -m benchmarks.corrector.reflectors {' '.join(sys.argv[1:])}")
    figures = measure(arguments)
    print_table(
        ["prompts", "wrong images", "reflector", "names a flaw", "leads the first by"],
        [
            [split, str(row["wrong_images"]), name, cell_of(flaw), cell_of(row["leads_the_first_by"][name], "+.3f")]
            for split, row in figures.items()
            for name, flaw in row["names_a_flaw"].items()
        ],
    )
    path = RESULTS / "reflectors.json"
    print(f"\n{save('reflectors', circumstances, figures, arguments.reflectors[0], 'leads on every split', path=path)}")


if __name__ == "__main__":
    run_command(main)
