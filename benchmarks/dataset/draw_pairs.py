"""Draw pairs of a run as one picture: `python -m benchmarks.dataset.draw_pairs runs/demo docs/images/demo_pairs.png`.

The first pairs of each subset whose reflections are true by the judge, which no pipeline sees, from the shards: the bad
image with the boxes its check found, the reflection, the good image.
"""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, Rectangle

from benchmarks.dataset.referee import names_one_of
from inference.judges.segmentation_judge import SegmentationJudge
from microworld.family import micro_segmentation_judge
from microworld.oracles import scene_of
from microworld.scenes.corrections import corrections
from microworld.scenes.instructions import split_sentences
from microworld.scenes.long_captions import caption_of_text
from schemas.images import decode_image
from schemas.shards import ShardSample, read_samples

SCENE_COLORS = {"True": "#16a34a", "False": "#dc2626"}


def true_by_the_judge() -> Callable[[ShardSample], bool]:
    """Whether every sentence of a reflection names what the bad image needs. The instruction of an edit is true."""
    judge = SegmentationJudge(micro_segmentation_judge())

    def is_true(sample: ShardSample) -> bool:
        if sample.subset == "editing":
            return True
        (objects,) = judge.find_objects([decode_image(sample.bad_image)])
        scene = scene_of(objects, judge.config.thresholds.of((sample.meta or {}).get("tag")))
        needed = corrections(caption_of_text(sample.prompt), scene)
        return all(names_one_of(sentence, needed) for sentence in split_sentences(sample.reflection))

    return is_true


def one_of_each_kind(
    run: Path, limit: int = 6, is_true: Callable[[ShardSample], bool] = lambda sample: True
) -> list[ShardSample]:
    """The first true pairs of every subset, in the order of the shards, a subset's of different tags; subsets take
    turns."""
    chosen: dict[str, dict[str | None, ShardSample]] = {}
    for path in sorted((run / "shards").glob("*.tar")):
        with open(path, "rb") as file:
            for sample in read_samples(file, str(path)):
                of_tag, tag = chosen.setdefault(sample.subset, {}), (sample.meta or {}).get("tag")
                if tag not in of_tag and is_true(sample):
                    of_tag[tag] = sample
    turns = sorted(
        (turn, subset, sample) for subset, of_tag in chosen.items() for turn, sample in enumerate(of_tag.values())
    )
    return sorted((sample for _, _, sample in turns[:limit]), key=lambda sample: list(chosen).index(sample.subset))


def draw(samples: list[ShardSample], out: Path) -> None:
    """A sheet with two pairs a row. A frame is green or red where a check says right or wrong, and grey without one."""
    rows = -(-len(samples) // 2)
    figure, axes = plt.subplots(rows, 6, figsize=(13, 2.5 * rows), width_ratios=[1, 1.15, 1] * 2, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, sample in enumerate(samples):
        row, first = divmod(index, 2)
        left, middle, right = axes[row][3 * first : 3 * first + 3]
        meta = sample.meta or {}
        for axis, data, side in ((left, sample.bad_image, "bad"), (right, sample.good_image, "good")):
            image = decode_image(data)
            axis.imshow(image, interpolation="nearest")
            check = meta.get(side, {}).get("check")
            color = SCENE_COLORS[str(check["correct"])] if check else "#9ca3af"
            axis.add_patch(Rectangle((-0.5, -0.5), *image.shape[1::-1], fill=False, lw=3, ec=color))
            for found in check["objects"] if check and side == "bad" else ():
                x0, y0, x1, y1 = found["box"]
                left.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, lw=1.2, ec="white"))
        kind = " · ".join(part for part in (sample.subset, meta.get("tag")) if part)
        for text, y, anchor, style in (
            (kind, 1.0, "top", {"fontsize": 7.5, "color": "#6b7280"}),
            (textwrap.fill(sample.prompt, 27), 0.9, "top", {"fontsize": 8.5}),
            (
                textwrap.fill(sample.reflection, 28),
                0.28,
                "top",
                {"fontsize": 8.5, "style": "italic", "color": "#0369a1"},
            ),
        ):
            middle.text(0.5, y, text, ha="center", va=anchor, transform=middle.transAxes, **style)
        middle.add_patch(
            FancyArrowPatch((0.08, 0.36), (0.92, 0.36), arrowstyle="-|>", mutation_scale=14, transform=middle.transAxes)
        )
    figure.tight_layout(pad=0.5)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    print(out)


if __name__ == "__main__":
    draw(one_of_each_kind(Path(sys.argv[1]), is_true=true_by_the_judge()), Path(sys.argv[2]))
