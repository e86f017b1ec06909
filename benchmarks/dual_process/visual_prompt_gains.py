"""Does each visual prompt teach what it says? Agreement before and after, by pixels, with five references of each kind.

`python -m benchmarks.dual_process.visual_prompt_gains` distils seeded references of the five kinds (a palette of two
colours, a line's thickness, a horizon's row, two points of which the first shall be the nearer, a sketch of a layout)
for prompts that the micro generator can draw, and measures images of seeds that were not trained on
(`visual_agreement`). Beside it stands what the VLM thinks of the same images, so that reward hacking shows.

Two intervals of the paired change: references resampled with all their seeds (would other references gain too?), and
seeds resampled within each reference (did these five?). Every distillation is kept in --out: killed, the same command
goes on. One takes 20 to 40 s alone on a core (25 with the defaults: a quarter of an hour).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image, ImageDraw

from benchmarks.dual_process.dual_process_tasks import setting_config
from benchmarks.dual_process.taught_images import Drawn, taught_images
from benchmarks.dual_process.visual_references import KINDS, Reference, references
from benchmarks.results_file import Circumstances, print_table, run_command, save
from benchmarks.search.search_tables import plain, signed
from inference.judges.intervals import Interval, mean_over_tags
from inference.judges.segmentation_judge import SegmentationJudge
from microworld.family import micro_segmentation_judge
from trainers.dual_process import DualProcess
from trainers.dual_process_config import DualProcessConfig
from trainers.referee import RefereeConfig

SHOWN_PX, SHOWN_SEEDS, GAP_PX, LABEL_PX = 64, 2, 6, 110
GRID = Path("docs/images/visual_prompt_gains.png")


@dataclass(frozen=True)
class Arguments:
    """What is distilled."""

    references: int = 5
    """Of each kind."""
    tries: int = 16
    """Images of each, before and after."""
    steps: int = 0
    """Training steps at most, to try the script out (figures go to --out then); 0: the preset's."""
    kinds: tuple[str, ...] = tuple(KINDS)
    teacher: str = ""
    """Who teaches; empty: the preset's. Figures of others stand in files of their own."""
    referee: str = ""
    """Who looks on, and ends a training that fools the teacher; empty: nobody."""
    out: Path = Path("runs/visual_prompt_gains")


def main() -> None:
    """Make what is missing, measure, print the table, save figures and grid."""
    arguments = tyro.cli(Arguments, description=__doc__)
    import torch

    unknown = [kind for kind in arguments.kinds if kind not in KINDS]
    if unknown:
        raise SystemExit(f"error: unknown kinds {', '.join(unknown)}; expected: {', '.join(KINDS)}")
    torch.set_num_threads(1)
    circumstances = Circumstances.now(
        " ".join(["python -m benchmarks.dual_process.visual_prompt_gains", *sys.argv[1:]])
    )
    models, judge = DualProcess(config_of(arguments)), SegmentationJudge(micro_segmentation_judge())
    figures: dict[str, Any] = {"arguments": {**asdict(arguments), "out": str(arguments.out)}}
    shown: dict[str, list[tuple[Reference, Drawn]]] = {}
    for kind in arguments.kinds:
        measured = []
        for reference in references(kind, arguments.references):
            found = taught_images(models, reference.concept, arguments.out)
            measured.append(
                {
                    **agreement(reference, found.drawn[0], judge),
                    "steps": found.steps,
                    "seconds": round(found.seconds, 1),
                    **({"fooled": found.fooled} if arguments.referee else {}),
                }
            )
            shown.setdefault(kind, []).append((reference, found.drawn[0]))
            print(line_of(measured[-1]), flush=True)
        figures[kind] = summary(kind, measured)
    print_gains({kind: figures[kind] for kind in arguments.kinds})
    name = "_".join(["visual_prompt_gains", *(Path(who).name for who in (arguments.teacher, arguments.referee) if who)])
    tried = arguments.out / "results.json" if arguments.steps else None
    against = "the same seeds of the generator before it was taught"
    path = save(name, circumstances, figures, compared_with=against, path=tried)
    picture = arguments.out / GRID.name if arguments.steps or arguments.teacher or arguments.referee else GRID
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(shown).save(picture, optimize=True)
    print(f"figures: {path}; grid: {picture}")


def config_of(arguments: Arguments) -> DualProcessConfig:
    """The preset's, by whoever shall teach and look on."""
    config = setting_config("multi-step", arguments.tries, arguments.steps)
    if arguments.teacher:
        config = replace(config, teacher=replace(config.teacher, model=arguments.teacher))
    return replace(config, referee=RefereeConfig(arguments.referee)) if arguments.referee else config


def agreement(reference: Reference, drawn: Drawn, judge: SegmentationJudge) -> dict[str, Any]:
    """Of each image, before and after; plain data."""
    both = {"before": list(drawn.before), "after": list(drawn.after)}
    values = {
        when: [float(reference.measure(i, found)) for i, found in zip(images, judge.find_objects(images), strict=True)]
        for when, images in both.items()
    }
    told = {"reference": reference.name, "prompt": reference.prompt, "wanted": reference.wanted}
    opinions = {"vlm_before": drawn.vlm_before.tolist(), "vlm_after": drawn.vlm_after.tolist()}
    return {**told, **{when: np.round(v, 4).tolist() for when, v in values.items()}, **opinions}


def line_of(measured: dict[str, Any]) -> str:
    """One reference in a line."""
    before, after, doubted, sure = (np.mean(measured[name]) for name in ("before", "after", "vlm_before", "vlm_after"))
    told = f"{measured['reference']} ({measured['prompt']!r}: {measured['wanted']}), {measured['steps']} steps"
    noticed = "  fooled" if measured.get("fooled") else ""
    return f"{told}: measured {before:.2f} -> {after:.2f}  VLM {doubted:.2f} -> {sure:.2f}{noticed}"


def summary(kind: str, measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One kind: means, the paired change with both intervals, the VLM's opinion beside it, and every image's figure."""
    owners = [one["reference"] for one in measured for _ in one["before"]]
    seeds = [seed for one in measured for seed in range(len(one["before"]))]

    def change(name: str) -> np.ndarray:
        return np.concatenate([np.subtract(one[f"{name}after"], one[f"{name}before"]) for one in measured])

    def mean(name: str) -> float:
        return round(float(np.mean([one[name] for one in measured])), 4)

    all_ = ["all"] * len(owners)
    return {
        "measured": KINDS[kind].measured,
        "better": KINDS[kind].better,
        "before": mean("before"),
        "after": mean("after"),
        "change, references resampled": plain(mean_over_tags(change(""), all_, owners)),
        "change, seeds resampled": plain(mean_over_tags(change(""), owners, seeds)),
        "vlm_before": mean("vlm_before"),
        "vlm_after": mean("vlm_after"),
        "vlm_change, references resampled": plain(mean_over_tags(change("vlm_"), all_, owners)),
        "references": list(measured),
    }


def print_gains(figures: dict[str, Any]) -> None:
    """The table: a row a kind."""
    rows = []
    for kind, found in figures.items():
        changes = [found[f"change, {what} resampled"] for what in ("references", "seeds")]
        opinions = [f"{found[f'vlm_{when}']:.2f}" for when in ("before", "after")]
        measured = [f"{found['before']:.2f}", f"{found['after']:.2f}"]
        spread = [signed(Interval.from_list(change)) for change in changes]
        rows.append([kind, len(found["references"]), found["measured"], found["better"], *measured, *spread, *opinions])
    header = ["kind", "references", "measured", "better", "before", "after"]
    print("\nVisual prompts: agreement by pixels, before and after, and the VLM's opinion of the same images")
    print_table(
        [*header, "change, 95 % over references", "change, 95 % over seeds", "VLM before", "VLM after"],
        rows,
    )


def draw_grid(shown: dict[str, list[tuple[Reference, Drawn]]]) -> Image.Image:
    """Kinds as rows, references as columns: the same seeds before and after, under the overlay that was asked about."""
    columns = max(len(of_kind) for of_kind in shown.values())
    group, line = 2 * SHOWN_PX + 2 * GAP_PX, SHOWN_SEEDS * (SHOWN_PX + 1) + GAP_PX
    sheet = Image.new("RGB", (LABEL_PX + columns * group, 20 + len(shown) * line), "white")
    pen = ImageDraw.Draw(sheet)
    for number in range(columns):
        for side, when in enumerate(("before", "after")):
            pen.text((LABEL_PX + number * group + side * (SHOWN_PX + 1), 4), when, "gray")
    for row, (kind, of_kind) in enumerate(shown.items()):
        top = 20 + row * line
        pen.text((6, top + SHOWN_PX // 2), kind, "black")
        for number, (reference, drawn) in enumerate(of_kind):
            (asked,) = reference.concept.questions
            for side, images in enumerate((drawn.before, drawn.after)):
                for seed, image in enumerate(images[:SHOWN_SEEDS]):
                    scale = max(1, SHOWN_PX // len(image))
                    picture = asked.shown(image.repeat(scale, 0).repeat(scale, 1))
                    left = LABEL_PX + number * group + side * (SHOWN_PX + 1)
                    sheet.paste(Image.fromarray(picture), (left, top + seed * (SHOWN_PX + 1)))
    return sheet


if __name__ == "__main__":
    run_command(main)
