"""Does a corrector turn more wrong images right than drawing again does, and does it read its reflection?

`python -m benchmarks.corrector.corrector_gain --correctors runs/joint/corrector runs/cached/corrector` takes the micro
generator's wrong images (by the judge) on the dev prompts and draws each again, with the same seeds, in six ways:

- again: the generator alone;
- text alone: the generator is given prompt and right reflection, and no image;
- right, vlm, empty, wrong: each corrector with the oracle's reflection, a VLM's, none, and another image's.

Of a prompt's requirements the judge says which are mended (not met by the wrong image, met by the new one) and kept.
Intervals are 95 % bootstraps over texts, differences are paired. `underspecified.py` has the second test.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from benchmarks.corrector.underspecified import KINDS, OpenPrompt, obeyed, open_prompts
from benchmarks.corrector.wrong_images import (
    Draw,
    Found,
    WrongImage,
    draw_tries,
    find_wrong_images,
    reflections_by,
    reflections_of_others,
    requirements_met,
)
from benchmarks.dataset.referee import names_one_of
from benchmarks.results_file import RESULTS, Circumstances, name_on_split, print_table, run_command, save
from inference.flux.corrector import FluxCorrector, FluxCorrectorConfig, corrector_text
from inference.flux.generator import FluxGenerator, FluxGeneratorConfig
from inference.judges.geneval_scoring import judge_objects
from inference.judges.intervals import Interval, mean_over_tags
from inference.judges.segmentation_judge import SegmentationJudge
from microworld.family import micro_flux, micro_segmentation_judge, micro_vlm
from microworld.scenes.evaluation_split import SPLITS
from microworld.scenes.instructions import Edit
from schemas.errors import InputError

if TYPE_CHECKING:
    from inference.interfaces import Vlm

ARMS = ("right", "vlm", "empty", "wrong")
TARGET = "right > again, right > empty, right > wrong; a swapped reflection swaps the result"


@dataclass(frozen=True)
class Arguments:
    """Which correctors, on what."""

    correctors: tuple[str, ...]
    """Folders that `python -m trainers corrector` wrote."""
    split: Literal["dev", "test", "hard-dev", "hard-test", "compositional-dev", "compositional-test"] = "dev"
    """Of the micro world's evaluation prompts. Those with "test" are sealed: for final figures alone."""
    per_prompt: int = 2
    """Images drawn of each prompt, of which the wrong ones are taken."""
    tries: int = 3
    open_prompts: int = 40
    """Underspecified prompts of each kind."""
    reflector: str = "micro/vlm"
    """Who writes the `vlm` reflections: a VLM or a trained reflector; empty for nobody."""
    generator: FluxGeneratorConfig = field(default_factory=lambda: micro_flux(batch_size=64))
    name: str = ""
    """Of the results file; default: corrector_gain, and the split where it is not dev."""
    sheet: Path | None = None
    """Where the picture goes; default: docs/images, under the name of the results file."""


def text_alone(generator: FluxGenerator) -> Draw:
    """Draws with T5 reading prompt and reflection and CLIP the prompt, as a corrector does, but sees no image."""

    def draw(
        images: Sequence[np.ndarray], prompts: Sequence[str], reflections: Sequence[str], seeds: Sequence[int]
    ) -> list[np.ndarray]:
        texts = [corrector_text(p, r) for p, r in zip(prompts, reflections, strict=True)]
        return generator.generate(texts, seeds, clip_prompts=prompts)

    return draw


class Gain:
    """Wrong images of one split, drawn again in any way, and what came of it."""

    def __init__(self, arguments: Arguments) -> None:
        """Loads the models, draws the flawed images and open prompts, and asks for the reflections."""
        self.arguments = arguments
        self.generator = FluxGenerator(arguments.generator)
        self.judge = SegmentationJudge(replace(micro_segmentation_judge(), device=arguments.generator.device))
        prompts = SPLITS[f"micro-{arguments.split}"]()
        self.found: Found = find_wrong_images(self.generator, self.judge, prompts, arguments.per_prompt)
        self.wrong: tuple[WrongImage, ...] = self.found.images
        part = arguments.split.rpartition("-")[2]
        self.open: list[OpenPrompt] = open_prompts(self.generator, self.judge, part, arguments.open_prompts)
        self.reflections = {
            "right": [w.reflection for w in self.wrong],
            "empty": [""] * len(self.wrong),
            "wrong": reflections_of_others(self.wrong),
        }
        if arguments.reflector:
            self.reflections["vlm"] = reflections_by(self._reflector(), self.wrong)
        self.drawn: dict[tuple[str, str], list[np.ndarray]] = {}
        self.turned: dict[tuple[str, str], np.ndarray] = {}
        """(corrector or "", way) -> (wrong images, tries): whether each try is right."""
        self.mended: dict[tuple[str, str], np.ndarray] = {}
        """(corrector or "", way) -> (wrong images,): share of the requirements not met that the tries meet."""
        self.kept: dict[tuple[str, str], np.ndarray] = {}
        """(corrector or "", way) -> (wrong images,): share of those met that the tries meet too; NaN where none was."""
        self.followed: dict[tuple[str, str], np.ndarray] = {}
        """(corrector or "", way) -> what `underspecified.obeyed` gives."""

    def _reflector(self) -> Vlm:
        return micro_vlm(model=self.arguments.reflector, device=self.arguments.generator.device).open()

    def without_corrector(self) -> None:
        """The two ways that need none."""
        self._turn("", "again", lambda _, prompts, __, seeds: self.generator.generate(prompts, seeds), "empty")
        alone = text_alone(self.generator)
        self._turn("", "text alone", alone, "right")
        self._follow("", "text alone", alone, told=True)

    def with_corrector(self, name: str, corrector: FluxCorrector) -> None:
        """All ways of one corrector."""
        for arm in ARMS:
            if arm in self.reflections:
                self._turn(name, arm, corrector.correct, arm)
        self._follow(name, "told", corrector.correct, told=True)
        self._follow(name, "empty", corrector.correct, told=False)

    def _turn(self, name: str, way: str, draw: Draw, reflections: str) -> None:
        tries = self.arguments.tries
        images = draw_tries(draw, self.wrong, self.reflections[reflections], tries)
        found, limits = self.judge.find_objects(images), self.judge.config.thresholds
        self.drawn[name, way] = images
        turned, mended, kept = [], [], []
        for i, w in enumerate(self.wrong):
            mine = found[i * tries : (i + 1) * tries]
            turned.append([judge_objects(w.prompt, objects, limits).correct for objects in mine])
            met = np.array([requirements_met(w.prompt, objects, limits.of(w.prompt.tag)) for objects in mine])
            was_met = np.array(w.met)
            mended.append(_mean(met[:, ~was_met]))
            kept.append(_mean(met[:, was_met]))
        self.turned[name, way] = np.array(turned)
        self.mended[name, way], self.kept[name, way] = np.array(mended), np.array(kept)

    def _follow(self, name: str, way: str, draw: Draw, *, told: bool) -> None:
        if self.open:
            self.followed[name, way] = obeyed(draw, self.judge, self.open, told=told)

    def mean(self, values: np.ndarray, chosen: np.ndarray | None = None) -> Interval:
        """Over the wrong images (of `chosen`), texts resampled."""
        chosen = np.ones(len(self.wrong), bool) if chosen is None else chosen
        texts = [w.prompt.text for w, mine in zip(self.wrong, chosen, strict=True) if mine]
        return mean_over_tags(values[chosen], ["all"] * len(texts), texts)

    def mean_of(self, values: np.ndarray) -> Interval:
        """The same, of those that are numbers."""
        return self.mean(values, ~np.isnan(values))

    def figures(self) -> dict[str, Any]:
        """Everything measured, as plain data."""
        shares = {key: turned.mean(1) for key, turned in self.turned.items()}
        again = shares["", "again"]
        tags = np.array([w.prompt.tag or "" for w in self.wrong])
        operations = np.array([asked_for(w.needed) for w in self.wrong])
        ways: dict[str, Any] = {}
        for (name, way), share in shares.items():
            by_tag, by_operation = (
                {
                    str(kind): as_data(self.mean(share, kinds == kind)) | {"images": int((kinds == kind).sum())}
                    for kind in dict.fromkeys(kinds)
                }
                for kinds in (tags, operations)
            )
            ways[_label(name, way)] = {
                "turned_right": as_data(self.mean(share)),
                "against_again": as_data(self.mean(share - again)),
                "requirements_mended": as_data(self.mean_of(self.mended[name, way])),
                "requirements_kept": as_data(self.mean_of(self.kept[name, way])),
                "one_of_the_tries": as_data(self.mean(self.turned[name, way].any(1).astype(float))),
                "by_tag": by_tag,
                "by_operation": by_operation,
            }
        return {
            "split": self.arguments.split,
            "wrong_images": len(self.wrong),
            "texts": len({w.prompt.text for w in self.wrong}),
            "images_drawn": self.found.num_drawn,
            "left_out_nothing_nameable": self.found.num_unnamed,
            "tries": self.arguments.tries,
            "reflections_that_name_a_flaw": self._true_reflections(),
            "ways": ways,
            "differences": self._differences(shares),
            "underspecified": self._underspecified(),
        }

    def _true_reflections(self) -> dict[str, float]:
        return {
            arm: float(np.mean([names_one_of(text, w.needed) for text, w in zip(told, self.wrong, strict=True)]))
            for arm, told in self.reflections.items()
            if arm != "empty"
        }

    def _differences(self, shares: Mapping[tuple[str, str], np.ndarray]) -> dict[str, Any]:
        """Between the ways of one corrector, and between correctors."""
        names = list(dict.fromkeys(name for name, _ in shares if name))
        pairs = [((n, "right"), (n, other)) for n in names for other in ("empty", "wrong")]
        pairs += [((n, "right"), ("", "text alone")) for n in names]
        pairs += [((a, arm), (names[0], arm)) for a in names[1:] for arm in ARMS if (a, arm) in shares]
        return {
            f"{_label(*one)} - {_label(*other)}": as_data(self.mean(shares[one] - shares[other]))
            for one, other in pairs
        }

    def _underspecified(self) -> dict[str, Any]:
        """obeyed: the image meets the wish that was told. swapped: both images of a prompt do. other_wish: it meets the
        wish that was not told."""
        found: dict[str, Any] = {}
        texts = [p.text for p in self.open]
        for (name, way), met in self.followed.items():
            told = np.stack([met[:, 0, 0], met[:, 1, 1]], 1)
            other = np.stack([met[:, 0, 1], met[:, 1, 0]], 1)
            rows = {"obeyed": told.mean(1), "swapped": told.all(1).astype(float), "other_wish": other.mean(1)}
            one_kind = ["all"] * len(texts)
            figures: dict[str, Any] = {k: as_data(mean_over_tags(v, one_kind, texts)) for k, v in rows.items()}
            for kind in KINDS:
                mine = [p.kind == kind for p in self.open]
                if any(mine):
                    figures[kind] = {"obeyed": float(told[mine].mean()), "prompts": sum(mine)}
            found[_label(name, way)] = figures
        return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def asked_for(edits: Sequence[Edit]) -> str:
    """The operation that an image needs; "several" where it needs unlike ones."""
    operations = {edit.operation.value for edit in edits}
    return operations.pop() if len(operations) == 1 else "several"


def as_data(interval: Interval) -> dict[str, float | None]:
    """Rounded, for the results file; None where there is no interval, as of one prompt."""
    return dict(zip(("value", "low", "high"), interval.as_list(4), strict=True))


def cell_of(data: Mapping[str, float | None] | None, form: str = ".3f") -> str:
    """What `as_data` made, in a table; empty for None. form: of each number."""
    return "" if data is None else Interval.from_list([data[name] for name in ("value", "low", "high")]).shown(form)


def _label(name: str, way: str) -> str:
    return f"{name}: {way}" if name else way


def short_names(folders: Sequence[str]) -> list[str]:
    """The folders' names without what they share ("joint/corrector", "cached/corrector": joint, cached)."""
    parts = [Path(folder).parts for folder in folders]
    for back in range(1, max(len(p) for p in parts) + 1):
        names = [p[-back] if len(p) >= back else p[0] for p in parts]
        if len(set(names)) == len(names) and (len(names) > 1 or names[0] != "corrector"):
            return names
    return list(folders)


def measure(arguments: Arguments) -> Gain:
    """Every way of every corrector. MissingWeightsError, InputError for a folder that is none."""
    if not arguments.correctors:
        raise InputError("no corrector", field="--correctors", expected="folders of trained correctors")
    gain = Gain(arguments)
    for number, (name, folder) in enumerate(zip(short_names(arguments.correctors), arguments.correctors, strict=True)):
        corrector = FluxCorrector(FluxCorrectorConfig(folder), gain.generator)
        if number == 0:
            gain.without_corrector()
        gain.with_corrector(name, corrector)
        print(f"{name}: done", flush=True)
    return gain


def print_figures(figures: dict[str, Any]) -> None:
    """The tables that people read."""
    tags = list(dict.fromkeys(tag for way in figures["ways"].values() for tag in way["by_tag"]))
    print(f"\n{figures['wrong_images']} wrong images of {figures['texts']} texts, {figures['tries']} tries each")
    print_table(
        ["turned right", "share", "against again", "of tries", "mended", "kept", *tags],
        [
            [
                name,
                _cell(way["turned_right"]),
                _cell(way["against_again"]),
                f"{way['one_of_the_tries']['value']:.3f}",
                cell_of(way["requirements_mended"]),
                cell_of(way["requirements_kept"]),
                *(f"{way['by_tag'][tag]['value']:.2f}" for tag in tags),
            ]
            for name, way in figures["ways"].items()
        ],
    )
    counts = {kind: row["images"] for kind, row in next(iter(figures["ways"].values()))["by_operation"].items()}
    print()
    print_table(
        ["by operation", *(f"{kind} ({count})" for kind, count in counts.items())],
        [
            [name, *(f"{way['by_operation'][kind]['value']:.2f}" for kind in counts)]
            for name, way in figures["ways"].items()
        ],
    )
    print()
    print_table(["difference", "value"], [[name, _cell(value)] for name, value in figures["differences"].items()])
    print()
    print_table(
        ["underspecified", "obeyed", "swapped", "other wish", *KINDS],
        [
            [
                name,
                _cell(row["obeyed"]),
                _cell(row["swapped"]),
                f"{row['other_wish']['value']:.3f}",
                *(f"{row[kind]['obeyed']:.2f}" if kind in row else "" for kind in KINDS),
            ]
            for name, row in figures["underspecified"].items()
        ],
    )
    told = ", ".join(f"{arm} {share:.3f}" for arm, share in figures["reflections_that_name_a_flaw"].items())
    print(f"\nreflections that name a flaw: {told}")


def _cell(data: dict[str, float | None]) -> str:
    return cell_of(data, "+.3f")


_LINE_POINTS = 10.5  # of a line of 8 points


def draw_sheet(gain: Gain, name: str, path: Path, shown: int = 12) -> None:
    """A row an image: the flawed one, its reflection, again, and the corrector's ways; green frames are right."""
    import textwrap

    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    ways = [("", "again"), *((name, arm) for arm in ARMS if (name, arm) in gain.turned)]
    rows = np.linspace(0, len(gain.wrong) - 1, min(shown, len(gain.wrong))).astype(int)
    said = [[textwrap.wrap(text, 30) for text in (w.prompt.text, w.reflection)] for w in (gain.wrong[n] for n in rows)]
    row_height = max(1.3, *(_LINE_POINTS * (1 + sum(map(len, texts))) / 72 for texts in said))
    size = (2.6 + 1.25 * (1 + len(ways)), row_height * len(rows) + 0.3)
    widths = [1, 2, *[1] * len(ways)]
    figure, axes = plt.subplots(len(rows), len(widths), figsize=size, width_ratios=widths, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for line, number, (asked, told) in zip(axes, rows, said, strict=True):
        wrong = gain.wrong[number]
        pictures = [(line[0], wrong.image, False)]
        for axis, key in zip(line[2:], ways, strict=True):
            pictures.append((axis, gain.drawn[key][number * gain.arguments.tries], bool(gain.turned[key][number, 0])))
        for axis, image, is_right in pictures:
            axis.imshow(image, interpolation="nearest")
            side = image.shape[0]
            color = "#16a34a" if is_right else "#dc2626"
            axis.add_patch(Rectangle((-0.5, -0.5), side, side, fill=False, lw=3, ec=color))
        for lines, first, style in ((asked, 0, {}), (told, len(asked) + 0.3, {"style": "italic", "color": "#0369a1"})):
            line[1].annotate(
                "\n".join(lines),
                (0, 1),
                (0, -_LINE_POINTS * first),
                "axes fraction",
                "offset points",
                va="top",
                fontsize=8,
                linespacing=1.2,
                **style,
            )
    for axis, (_, way) in zip(axes[0][2:], ways, strict=True):
        axis.set_title(way, fontsize=9)
    axes[0][0].set_title("flawed", fontsize=9)
    figure.tight_layout(pad=0.4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(f"python -m benchmarks.corrector.corrector_gain {' '.join(sys.argv[1:])}")
    gain = measure(arguments)
    figures = gain.figures()
    print_figures(figures)
    name = arguments.name or name_on_split("corrector_gain", arguments.split)
    sheet = arguments.sheet or Path(f"docs/images/{name}.png")
    draw_sheet(gain, short_names(arguments.correctors)[0], sheet)
    path = save(
        name, circumstances, figures, "drawing again with the same seeds", TARGET, path=RESULTS / f"{name}.json"
    )
    print(f"\n{path}\n{sheet}")


if __name__ == "__main__":
    run_command(main)
