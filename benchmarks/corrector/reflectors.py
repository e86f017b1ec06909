"""Which reflector names true flaws more often? `python -m benchmarks.corrector.reflectors --reflectors A B`.

The micro generator's wrong images (by the judge) on dev prompts; each reflector says once what is wrong, and its first
sentence counts if it is an instruction that asks for an edit which the image needs.
Intervals are 95 % bootstraps over texts; the last reflector's lead over the first is paired.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from benchmarks.corrector.corrector_gain import cell_of
from benchmarks.corrector.verifier_reflector import measure_reflections
from benchmarks.corrector.wrong_images import find_wrong_images, reflections_by
from benchmarks.results_file import RESULTS, Circumstances, print_table, run_command, save
from inference.flux.generator import FluxGenerator
from inference.judges.segmentation_judge import SegmentationJudge
from microworld.family import micro_flux, micro_segmentation_judge, micro_vlm
from microworld.scenes.evaluation_split import SPLITS


@dataclass(frozen=True)
class Arguments:
    """Which reflectors, on what."""

    reflectors: tuple[str, ...]
    """VLMs or trained reflectors; the last is compared with the first."""
    splits: tuple[Literal["dev", "hard-dev", "compositional-dev"], ...] = ("dev", "hard-dev", "compositional-dev")
    per_prompt: int = 2
    """Images drawn of each prompt, of which the wrong ones are taken."""


def measure(arguments: Arguments) -> dict[str, Any]:
    """By split: what `measure_reflections` says of each reflector."""
    generator, judge = FluxGenerator(micro_flux(batch_size=64)), SegmentationJudge(micro_segmentation_judge())
    figures: dict[str, Any] = {}
    for split in arguments.splits:
        wrong = find_wrong_images(generator, judge, SPLITS[f"micro-{split}"](), arguments.per_prompt).images
        told = {name: reflections_by(micro_vlm(model=name).open(), wrong) for name in arguments.reflectors}
        figures[split] = measure_reflections(wrong, told)
        print(f"{split}: done", flush=True)
    return figures


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(f"python -m benchmarks.corrector.reflectors {' '.join(sys.argv[1:])}")
    figures = measure(arguments)
    print_table(
        ["prompts", "wrong images", "reflector", "names a flaw", "leads the first by"],
        [
            [split, str(row["images"]), name, cell_of(row["names_a_flaw"]), cell_of(row.get("leads_by"), "+.3f")]
            for split, rows in figures.items()
            for name, row in rows.items()
        ],
    )
    path = RESULTS / "reflectors.json"
    print(f"\n{save('reflectors', circumstances, figures, arguments.reflectors[0], 'leads on every split', path=path)}")


if __name__ == "__main__":
    run_command(main)
