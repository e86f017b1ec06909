"""How often is the micro generator right, by tag? And which sampling settings suit it?

`python -m benchmarks.micro.micro_generator [--per-tag 20]` draws prompts composed with a seed of their own, checks them
with the shipped GroundingDINO and SAM, prints a row for each setting, and draws a sheet with the default setting.
The checker is the one the pipeline uses: no independent judge (its own errors:
`microworld.training.grounding_evaluation`).
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from benchmarks.results_file import Circumstances, save
from inference.flux.generator import FluxGenerator, FluxGeneratorConfig
from inference.grounding.grounded_sam import GroundedSam
from microworld.family import micro_flux, micro_grounded_sam
from pipelines.prompts.compose_rules import TagWeights, compose_prompts
from pipelines.prompts.vocabulary import load_vocabulary
from schemas.records import PromptRecord, Tag

PROMPT_SEED = 90_001
SHEET = Path("docs/images/micro_samples.png")


@dataclass(frozen=True)
class Arguments:
    """What is drawn."""

    per_tag: int = 20
    sweep: bool = False
    """Compare sampling settings instead of the default one alone."""


def prompts_by_tag(per_tag: int) -> dict[str, list[PromptRecord]]:
    """The same number of prompts of every tag; few compositions (single objects) come again with another seed."""
    vocabulary = load_vocabulary("micro")
    chosen: dict[str, list[PromptRecord]] = {}
    for tag in Tag:
        weights = replace(TagWeights(*[0.0] * 7), **{tag.value: 1.0})
        count = min(per_tag, {Tag.SINGLE_OBJECT: 8, Tag.COUNTING: 24}.get(tag, per_tag))
        found = compose_prompts(vocabulary, count, PROMPT_SEED, overlap=None, tag_weights=weights).prompts
        chosen[tag.value] = [found[i % len(found)] for i in range(per_tag)]
    return chosen


def score(config: FluxGeneratorConfig, prompts: dict[str, list[PromptRecord]], checker: GroundedSam):
    """Share right by tag, images a second, and the images."""
    records = [record for group in prompts.values() for record in group]
    generator = FluxGenerator(config)
    started = time.perf_counter()
    images = generator.generate([r.text for r in records], [PROMPT_SEED + i for i in range(len(records))])
    rate = len(images) / (time.perf_counter() - started)
    right = [check.correct for check in checker.check(images, records)]
    by_tag = {
        tag: float(np.mean([ok for ok, r in zip(right, records, strict=True) if r.tag == tag])) for tag in prompts
    }
    return by_tag | {"mean": float(np.mean(list(by_tag.values())))}, rate, images


def main() -> None:
    """Print the table, save it, draw the sheet."""
    arguments = tyro.cli(Arguments)
    circumstances = Circumstances.now("python -m benchmarks.micro.micro_generator" + " --sweep" * arguments.sweep)
    prompts = prompts_by_tag(arguments.per_tag)
    checker = micro_grounded_sam().open()
    default = micro_flux()
    settings = [default]
    if arguments.sweep:
        settings += [replace(default, true_cfg_scale=scale) for scale in (1.0, 1.5, 2.0, 3.0, 4.0)]
        settings += [replace(default, num_steps=steps) for steps in (4, 12, 20)]
    rows = []
    for config in settings:
        by_tag, rate, images = score(config, prompts, checker)
        rows.append(
            {"num_steps": config.num_steps, "true_cfg_scale": config.true_cfg_scale, "images_per_s": rate} | by_tag
        )
        figures = "  ".join(f"{name} {value:.2f}" for name, value in by_tag.items())
        print(f"{config.num_steps:3} steps  cfg {config.true_cfg_scale:3}  {rate:5.1f} images/s  {figures}", flush=True)
        if config is default:
            save_sheet(images, arguments.per_tag)
    figures = {"arguments": asdict(arguments), "num_prompts": 6 * arguments.per_tag, "rows": rows}
    save("micro_generator", circumstances, figures, compared_with="the default setting, first row")


def save_sheet(images: list[np.ndarray], columns: int, shown: int = 12) -> None:
    """A row a tag, three times enlarged."""
    rows = [np.concatenate(images[i : i + min(columns, shown)], axis=1) for i in range(0, len(images), columns)]
    sheet = np.concatenate(rows).repeat(3, axis=0).repeat(3, axis=1)
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(SHEET)


if __name__ == "__main__":
    main()
