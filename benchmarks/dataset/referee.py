"""Is a dataset of the micro world true? A referee counts, which no pipeline ever sees.

`python -m benchmarks.dataset.referee --run runs/demo` looks at every pair of a finished run: is its good image really
better, as paired, after the annotator's verdict, after the verifier's filter; and does the reflection name a real flaw
of the bad image? Generated images are read by the judge (whose own error `benchmarks/micro/label_images.py` measures),
rendered and edited ones by the truth of their scene. A reflection counts if its first sentence parses, and agrees with
an edit that the bad image needs; whatever does not parse is wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tyro

from benchmarks.micro.label_images import wilson
from benchmarks.results_file import Circumstances, print_table, run_command, save
from commands.runs import open_run
from inference.judges.geneval_scoring import judge_objects
from inference.judges.segmentation_judge import SegmentationJudge
from microworld.family import micro_segmentation_judge
from microworld.oracles import scene_of
from microworld.scenes.captions import caption_of_record
from microworld.scenes.corrections import corrections
from microworld.scenes.edit_file import sample_edit_scenes
from microworld.scenes.edits import name_edit
from microworld.scenes.instructions import Edit, agrees, parse_instruction, split_sentences
from microworld.scenes.long_captions import caption_of_text
from microworld.scenes.world import Scene
from pipelines.jobs import resolve_chains
from pipelines.run_folder import RunFolder
from schemas.errors import InputError
from schemas.images import decode_image
from schemas.records import DetectedObject, Pair, PromptRow

STEPS = ("paired", "write_reflections", "filter_pairs")
TARGETS = {"rule": 0.95, "general": 0.9, "length": 0.9, "editing": 0.9, "reflections": 0.8}


@dataclass(frozen=True)
class Arguments:
    """Referee a finished run of the micro preset."""

    run: str
    max_pairs: int = 4000
    """Pairs of each subset to look at."""
    name: str = "referee"
    """Of the results file."""


@dataclass(frozen=True)
class Verdict:
    """One pair. last: the last of `STEPS` that it passed. reflection: None where it has none."""

    subset: str
    last: str
    is_right: bool
    reflection: bool | None


def names_one_of(text: str, needed: tuple[Edit, ...]) -> bool:
    """Whether the first sentence is an instruction that agrees with a needed edit."""
    sentences = split_sentences(text)
    said = parse_instruction(sentences[0]) if sentences else None
    return said is not None and any(agrees(said, edit) for edit in needed)


def last_step(pair: Pair) -> str:
    """Up to where a pair came."""
    if pair.rejection is None:
        return "filter_pairs"
    return "paired" if pair.rejection.stage == "write_reflections" else "write_reflections"


class Referee:
    """Judges pairs of one run."""

    def __init__(self) -> None:
        self._judge = SegmentationJudge(micro_segmentation_judge())
        self._objects: dict[int, tuple[DetectedObject, ...]] = {}

    def verdicts(self, subset: str, rows: list[PromptRow]) -> Iterator[Verdict]:
        """Of every pair of the rows, whose candidates carry images."""
        for row in rows:
            if not row.pairs:
                continue
            scenes = self._scenes(row)
            for pair in row.pairs:
                good, bad = scenes[pair.good], scenes[pair.bad]
                text = pair.reflection.text if pair.reflection else None
                yield self._verdict(subset, row, pair, good, bad, text)

    def _verdict(self, subset: str, row: PromptRow, pair: Pair, good: Scene, bad: Scene, text: str | None) -> Verdict:
        if subset == "rule":
            caption = caption_of_record(row.prompt)
            objects, limits = self._objects, self._judge.config.thresholds
            is_right = (
                judge_objects(row.prompt, objects[pair.good], limits).correct
                and not judge_objects(row.prompt, objects[pair.bad], limits).correct
            )
        else:
            caption = caption_of_text(row.prompt.text)
            is_right = bool(caption.clauses) and len(corrections(caption, good)) < len(corrections(caption, bad))
        needed = corrections(caption, bad)
        if subset == "editing":
            edit = name_edit(bad, good, np.random.default_rng(0))
            needed = (*needed, edit) if edit else needed
        return Verdict(subset, last_step(pair), is_right, None if text is None else names_one_of(text, needed))

    def _scenes(self, row: PromptRow) -> dict[int, Scene]:
        if row.edit is not None:
            if not row.edit.file.startswith("micro-world:"):
                raise InputError(f"the truth of {row.edit.file} is not known", expected="edits of the micro world")
            before, after, _, _ = sample_edit_scenes(int(row.edit.file.rpartition(":")[2]), row.edit.position)
            return {0: before, 1: after}
        chosen = [c for c in row.candidates if any(c.index in (p.good, p.bad) for p in row.pairs)]
        found = self._judge.find_objects([decode_image(c.image or b"") for c in chosen])
        self._objects = {c.index: tuple(objects) for c, objects in zip(chosen, found, strict=True)}
        min_score = self._judge.config.thresholds.of(row.prompt.tag)
        return {index: scene_of(objects, min_score) for index, objects in self._objects.items()}


def all_verdicts(folder: RunFolder, config, max_pairs: int) -> list[Verdict]:
    """Verdicts of every subset, unit by unit."""
    referee, verdicts = Referee(), []
    for subset, steps in resolve_chains(folder, config).items():
        number = 0
        for unit in folder.units(subset):
            _, rows = folder.read_block(steps[-1].name, steps[-1].key, unit)
            for step in steps:
                if step.link.stage.makes_images:
                    rows = folder.with_images(rows, step.name, step.key, unit)
            found = list(referee.verdicts(subset, rows))
            verdicts += found
            number += len(found)
            if number >= max_pairs:
                break
    return verdicts


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(f"python -m benchmarks.dataset.referee --run {arguments.run}")
    folder, config = open_run(arguments.run)
    verdicts = all_verdicts(folder, config, arguments.max_pairs)
    figures: dict[str, dict] = {}
    table = []
    for subset in [*dict.fromkeys(v.subset for v in verdicts), "all"]:
        of_subset = [v for v in verdicts if subset in ("all", v.subset)]
        cells: list[str] = [subset]
        for number, step in enumerate(STEPS):
            some = [v for v in of_subset if STEPS.index(v.last) >= number]
            cells.append(_share(figures, f"{subset} pairs after {step}", [v.is_right for v in some]))
        shipped = [v for v in of_subset if v.last == STEPS[-1] and v.reflection is not None]
        cells.append(_share(figures, f"{subset} reflections", [bool(v.reflection) for v in shipped]))
        table.append(cells)
    print_table(["good image really better", "as paired", "after verdict", "after filter", "reflections true"], table)
    save(arguments.name, circumstances, figures, compared_with="the judge, or the truth of the scene", target=TARGETS)


def _share(figures: dict[str, dict], name: str, hits: list[bool]) -> str:
    low, high = wilson(sum(hits), len(hits))
    figures[name] = {"right": sum(hits), "of": len(hits), "interval": [low, high]}
    return f"{sum(hits) / len(hits):.3f} ({sum(hits)}/{len(hits)})" if hits else "none"


if __name__ == "__main__":
    run_command(main)
