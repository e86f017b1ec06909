"""Draw pairs of a run as one picture: `python -m benchmarks.draw_pairs runs/demo docs/images/demo_pairs.png`.

One pair of each tag, from the shards: the bad image with the boxes its check found, the reflection, the good image.
"""

import sys
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, Rectangle

from schemas.images import decode_image
from schemas.shards import ShardSample, read_samples

SCENE_COLORS = {"True": "#16a34a", "False": "#dc2626"}


def one_of_each_tag(run: Path, limit: int = 6) -> list[ShardSample]:
    """The first pair of every tag, in the order of the shards."""
    chosen: dict[str, ShardSample] = {}
    for path in sorted((run / "shards").glob("*.tar")):
        with open(path, "rb") as file:
            for sample in read_samples(file, str(path)):
                chosen.setdefault((sample.meta or {})["tag"], sample)
    return list(chosen.values())[:limit]


def draw(samples: list[ShardSample], out: Path) -> None:
    """A sheet with two pairs a row."""
    rows = -(-len(samples) // 2)
    figure, axes = plt.subplots(rows, 6, figsize=(13, 2.35 * rows), width_ratios=[1, 1.15, 1] * 2, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, sample in enumerate(samples):
        row, first = divmod(index, 2)
        left, middle, right = axes[row][3 * first : 3 * first + 3]
        meta = sample.meta or {}
        for axis, data, side in ((left, sample.bad_image, "bad"), (right, sample.good_image, "good")):
            image = decode_image(data)
            axis.imshow(image, interpolation="nearest")
            correct = meta[side]["check"]["correct"]
            axis.add_patch(
                Rectangle((-0.5, -0.5), *image.shape[1::-1], fill=False, lw=3, ec=SCENE_COLORS[str(correct)])
            )
        for found in meta["bad"]["check"]["objects"]:
            x0, y0, x1, y1 = found["box"]
            left.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, lw=1.2, ec="white"))
        middle.text(
            0.5, 0.86, textwrap.fill(sample.prompt, 24), ha="center", va="top", fontsize=9, transform=middle.transAxes
        )
        middle.text(
            0.5,
            0.32,
            textwrap.fill(sample.reflection, 26),
            ha="center",
            va="top",
            fontsize=9,
            style="italic",
            color="#0369a1",
            transform=middle.transAxes,
        )
        middle.add_patch(
            FancyArrowPatch((0.08, 0.4), (0.92, 0.4), arrowstyle="-|>", mutation_scale=14, transform=middle.transAxes)
        )
    figure.tight_layout(pad=0.5)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    print(out)


if __name__ == "__main__":
    draw(one_of_each_tag(Path(sys.argv[1])), Path(sys.argv[2]))
