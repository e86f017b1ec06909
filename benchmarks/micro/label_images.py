"""Does the judge agree with a person who looks? Sheets to label blind, and the comparison afterwards.

`python -m benchmarks.micro.label_images --sheets FOLDER` draws 200 generated images over the six tags (prompts and
seeds of its own), writes sheets at 8x without anybody's opinion, and `benchmarks/labels/micro_generated.csv` with empty
labels. A person fills in `label`; only then `python -m benchmarks.micro.label_images --compare` runs the judge on the
same images.

- right: everything the prompt asks for is there, as a person would say at first sight. Counting: exactly that many.
  What else is in the image does not matter (GenEval's rules).
- malformed: it would be right, if a shape that it needs were not so badly drawn, or so grown into another one, that it
  is no such shape any more.
- wrong: something asked for is not there, or is of another colour, number or place.
- unsure: people would argue. Such images are left out of the comparison, and counted.
"""

import csv
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.results_file import Circumstances, print_table, run_command, save
from inference.flux.generator import FluxGenerator
from inference.prompt_grammar import parse_prompt
from microworld.family import micro_flux, micro_segmentation_judge
from microworld.scenes.captions import TAGS, sample_caption
from schemas.configuration import stable_seed
from schemas.errors import InputError

PROMPT_SEED = 515_151
CSV_PATH = Path("benchmarks/labels/micro_generated.csv")
COLUMNS = ("number", "prompt", "tag", "seed", "image_sha256", "label", "note")
LABELS = ("right", "wrong", "malformed", "unsure")
ZOOM = 8


@dataclass(frozen=True)
class Arguments:
    """Either draw sheets to label, or compare the labels with the judge."""

    sheets: Path | None = None
    """Draw the images and write sheets of 20 here, and the CSV if there is none yet."""
    compare: bool = False
    """Run the judge on the labelled images and print how often it agrees."""
    count: int = 200
    """Images, shared out evenly over the six tags."""
    labels: Path = CSV_PATH
    """The CSV."""


@dataclass(frozen=True)
class Row:
    """One image and, later, what a person said."""

    number: int
    prompt: str
    tag: str
    seed: int
    image_sha256: str = ""
    label: str = ""
    note: str = ""


def choose_prompts(count: int) -> list[Row]:
    """The same prompts and seeds at every call; tags take turns."""
    rng = np.random.default_rng(PROMPT_SEED)
    rows = []
    for number in range(count):
        tag = TAGS[number % len(TAGS)]
        text = sample_caption(rng, {tag: 1.0}).text
        rows.append(Row(number, text, tag, stable_seed(PROMPT_SEED, number)))
    return rows


def draw(rows: list[Row]) -> list[np.ndarray]:
    """The images, with the settings whose images were labelled."""
    return FluxGenerator(micro_flux(num_steps=8, guidance=3.0)).generate(
        [r.prompt for r in rows], [r.seed for r in rows]
    )


def digest(image: np.ndarray) -> str:
    """16 hex digits of the pixels: labels are of these very images."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


def write_sheets(
    rows: list[Row], images: list[np.ndarray], folder: Path, columns: int = 5, lines: int = 4
) -> list[Path]:
    """PNGs of 20 images each at 8x, with number and prompt above each image."""
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True, exist_ok=True)
    side, text_px, margin = images[0].shape[0] * ZOOM, 26, 8
    paths = []
    for start in range(0, len(rows), columns * lines):
        sheet = Image.new("RGB", (columns * (side + margin), lines * (side + text_px + margin)), (255, 255, 255))
        pen = ImageDraw.Draw(sheet)
        some = list(zip(rows, images, strict=True))[start : start + columns * lines]
        for place, (row, image) in enumerate(some):
            x, y = (place % columns) * (side + margin), (place // columns) * (side + text_px + margin)
            pen.text((x, y + 1), f"{row.number}", fill=(0, 0, 0))
            pen.text((x, y + 13), row.prompt.removeprefix("a photo of "), fill=(0, 0, 0))
            large = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(large, (x, y + text_px))
        path = folder / f"label_{start:03d}.png"
        sheet.save(path)
        paths.append(path)
    return paths


def write_rows(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer: csv.DictWriter[str] = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_rows(path: Path) -> list[Row]:
    """InputError, with the line, for a label that is none of `LABELS` (empty is allowed)."""
    if not path.is_file():
        raise InputError("no labels yet", file=str(path), expected="--sheets FOLDER first, then a person who looks")
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    rows = []
    for line, cells in enumerate(table, start=2):
        label = cells["label"].strip().lower()
        if label not in ("", *LABELS):
            raise InputError(f"unknown label {label!r}", file=str(path), line=line, expected=", ".join(LABELS))
        rows.append(
            Row(
                int(cells["number"]),
                cells["prompt"],
                cells["tag"],
                int(cells["seed"]),
                cells["image_sha256"],
                label,
                cells["note"],
            )
        )
    return rows


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson score)."""
    if total == 0:
        return 0.0, 1.0
    share = hits / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * (share * (1 - share) / total + z * z / (4 * total**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def compare(path: Path) -> None:
    """Print and save the agreement; name every image about which judge and person differ."""
    from inference.judges.segmentation_judge import SegmentationJudge

    circumstances = Circumstances.now("python -m benchmarks.micro.label_images --compare")
    labelled = [row for row in read_rows(path) if row.label]
    if not labelled:
        raise InputError("no labels are filled in", file=str(path), expected=", ".join(LABELS))
    images = draw(labelled)
    other = [row.number for row, image in zip(labelled, images, strict=True) if digest(image) != row.image_sha256]
    if other:
        raise InputError(
            f"{len(other)} images are not those that were labelled (first: {other[:5]})",
            file=str(path),
            expected="the generator that was labelled; for another one, new sheets and new labels",
        )
    checks = SegmentationJudge(micro_segmentation_judge()).judge(images, [parse_prompt(row.prompt) for row in labelled])
    sure = [(row, check) for row, check in zip(labelled, checks, strict=True) if row.label != "unsure"]
    table, figures = [], {}
    for name in ("overall", *TAGS, "right", "wrong", "malformed"):
        some = [(r, c) for r, c in sure if name in ("overall", r.tag, r.label)]
        agreed = sum(check.correct == (row.label == "right") for row, check in some)
        low, high = wilson(agreed, len(some))
        figures[name] = {"agreed": agreed, "of": len(some), "interval": [low, high]}
        share = agreed / len(some) if some else float("nan")
        table.append([name, agreed, len(some), f"{share:.3f}", f"{low:.3f} to {high:.3f}"])
    print_table(["judge against a person", "agreed", "of", "share", "95 %"], table)
    print(f"left out as unsure: {len(labelled) - len(sure)}")
    for row, check in sure:
        if check.correct != (row.label == "right"):
            verdict = "right" if check.correct else f"wrong ({'; '.join(check.reasons)})"
            print(f"  {row.number}: {row.prompt!r}: person {row.label}, judge {verdict}  {row.note}")
    figures["unsure"] = len(labelled) - len(sure)
    save("label_images", circumstances, figures, compared_with="a person's blind labels at 8x", target=0.95)


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.compare == (arguments.sheets is not None):
        raise InputError("nothing to do", expected="either --sheets FOLDER or --compare")
    if arguments.compare:
        compare(arguments.labels)
        return
    assert arguments.sheets is not None
    rows = choose_prompts(arguments.count)
    images = draw(rows)
    rows = [Row(r.number, r.prompt, r.tag, r.seed, digest(image)) for r, image in zip(rows, images, strict=True)]
    for path in write_sheets(rows, images, arguments.sheets):
        print(path)
    if arguments.labels.exists() and any(row.label for row in read_rows(arguments.labels)):
        print(f"{arguments.labels} holds labels and stays as it is")
        return
    write_rows(arguments.labels, rows)
    print(arguments.labels)


if __name__ == "__main__":
    run_command(main)
