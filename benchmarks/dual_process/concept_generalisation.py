"""Does a LoRA that was trained on one prompt of a concept help other prompts of it? Shown on ten concepts.

`python -m benchmarks.dual_process.concept_generalisation` distils one prompt each of six concept words, which the VLM
was taught and the generator was not, and of four weak tags (two relations, a count, two coloured objects), and judges
that prompt and others of the same concept, before and after, on seeds that were not trained on. The judge has seen
neither VLM nor training; the VLM's opinion of the same images stands beside it.

What "other" means differs. A word's other prompts say the same in other words and contexts, around a word that the
generator cannot read (every such word is the unknown token to it). A tag's other prompts have the same form with other
shapes and colours. They are reported apart, too.

`--taught 3` teaches the first three prompts in turn, a step each, and the others are those that are left.

Every distillation is kept in --out: killed, the same command goes on. One takes 20 to 40 s alone on a core, of several
prompts so many times as long.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.dual_process.dual_process_tasks import asked_about, setting_config
from benchmarks.dual_process.micro_commonsense import MicroDescriptionJudge, concept_phrase, concept_prompt
from benchmarks.dual_process.taught_images import Drawn, taught_images
from benchmarks.results_file import Circumstances, print_table, run_command, save
from benchmarks.search.search_tables import plain, signed
from inference.dual.concept import Concept, concept_of
from inference.judges.commonsense_t2i import CommonsensePair
from inference.judges.intervals import Interval, mean_over_tags
from microworld.scenes.captions import sample_training_caption
from microworld.scenes.concepts import CONCEPTS
from trainers.dual_process import DualProcess

SEED = 13
NUM_OTHERS = 4
WORDS = ("clover", "moon", "sunrise", "iceberg", "house", "wedding")  # of `commonsense.CONCEPT_PAIRS`
TAGS = ("left of", "above", "three", "two colors")
WHICH = ("trained", "others")
PLOTS = Path("docs/images")


@dataclass(frozen=True)
class Family:
    """One concept: the prompt that is trained, then others of it; and what the judge looks for in images of each."""

    name: str
    category: str  # "word" or "tag"
    prompts: tuple[str, ...]
    descriptions: tuple[str, ...]

    def concepts(self, num_taught: int = 1) -> list[Concept]:
        """A concept a prompt, with the questions that the VLM is asked about its images; the first so many are the
        first one's, that is to be taught, too."""
        found: list[Concept] = []
        for number, (prompt, description) in enumerate(zip(self.prompts, self.descriptions, strict=True)):
            # A word's question is that of its trained prompt, however the other prompts are worded.
            asked = self.prompts[0] if self.category == "word" else prompt
            questions = asked_about(CommonsensePair((asked, asked), (description, description)), 0)
            found.append(concept_of(f"{self.name.replace(' ', '-')}-{number}", prompt, questions))
        first, also = found[0], found[1:num_taught]
        others = self.prompts[num_taught:]
        return [concept_of(first.name, first.prompt, first.questions, also, other_prompts=others), *found[1:]]


def word_family(word: str) -> Family:
    """The word in other words, and in a context that leaves its meaning alone."""
    phrase, meaning = concept_phrase(word), CONCEPTS[word].description
    behind = "a lighter sky over a darker ground" if "horizon" in meaning else "a plain dark grey background"
    worded = (f"a picture of {phrase}", f"the image shows {phrase}", f"there is {phrase} in the image")
    prompts = (concept_prompt(word), *worded, f"a photo of {phrase} on {behind}")
    return Family(word, "word", prompts, (meaning,) * len(prompts))


def tag_family(name: str) -> Family:
    """Prompts of one form, none of whose compositions is kept for benchmarks: no test prompt is among them."""
    rng = np.random.default_rng([SEED, TAGS.index(name)])
    tag = {"three": "counting", "two colors": "color_attr"}.get(name, "position")
    found: dict[str, None] = {}
    while len(found) < 1 + NUM_OTHERS:
        caption = sample_training_caption(rng, {tag: 1.0})
        if name == "two colors" or f" {name} " in caption.text:
            found[caption.text] = None
    return Family(name, "tag", tuple(found), tuple(found))


@dataclass(frozen=True)
class Arguments:
    """What is distilled."""

    concepts: tuple[str, ...] = (*WORDS, *TAGS)
    taught: int = 1
    """Prompts of each that are taught, of five."""
    tries: int = 16
    """Images of each prompt, before and after."""
    steps: int = 0
    """Training steps at most, to try the script out (figures go to --out then); 0: the preset's for each prompt that is
    taught."""
    out: Path = Path("runs/concept_generalisation")


def main() -> None:
    """Make what is missing, judge, print the table, save figures and plot."""
    arguments = tyro.cli(Arguments, description=__doc__)
    import torch

    unknown = [name for name in arguments.concepts if name not in (*WORDS, *TAGS)]
    if unknown:
        raise SystemExit(f"error: unknown concepts {unknown}; expected: {', '.join((*WORDS, *TAGS))}")
    torch.set_num_threads(1)
    circumstances = Circumstances.now(
        " ".join(["python -m benchmarks.dual_process.concept_generalisation", *sys.argv[1:]])
    )
    config = setting_config("multi-step", arguments.tries, arguments.steps)
    models = DualProcess(replace(config, steps=config.steps * (1 if arguments.steps else arguments.taught)))
    judge = MicroDescriptionJudge()
    rows = []
    for name in arguments.concepts:
        family = word_family(name) if name in WORDS else tag_family(name)
        first, *others = family.concepts(arguments.taught)
        found = taught_images(models, first, arguments.out, others)
        row = {"taught": arguments.taught, "steps": found.steps, "seconds": round(found.seconds, 1)}
        rows.append({**judged(family, found.drawn, judge), **row})
        print(f"{family.name}: {found.steps} steps, {found.seconds:.0f} s", flush=True)
    figures = {
        "arguments": {**asdict(arguments), "out": str(arguments.out)},
        "concepts": rows,
        "changes": changes(rows),
    }
    print_tables(rows, figures["changes"])
    tried = arguments.out / "results.json" if arguments.steps else None
    against = "the same seeds of the generator before it was taught"
    name = "concept_generalisation" + (f"_{arguments.taught}_prompts" if arguments.taught > 1 else "")
    path = save(name, circumstances, figures, compared_with=against, path=tried)
    picture = (arguments.out if arguments.steps else PLOTS) / f"{name}.png"
    plot(rows, picture)
    print(f"figures: {path}; plot: {picture}")


def judged(family: Family, drawn: Sequence[Drawn], judge: MicroDescriptionJudge) -> dict[str, Any]:
    """One concept: share of right images and the VLM's mean probability, of each prompt, before and after."""
    prompts = []
    for one, description in zip(drawn, family.descriptions, strict=True):
        count = len(one.before)
        right = {
            when: float(judge.shows(list(images), [description] * count).mean())
            for when, images in (("before", one.before), ("after", one.after))
        }
        vlm = {"vlm_before": round(float(one.vlm_before.mean()), 4), "vlm_after": round(float(one.vlm_after.mean()), 4)}
        prompts.append({"prompt": one.prompt, **right, **vlm})
    return {"name": family.name, "category": family.category, "prompts": prompts}


def mean_of(row: dict[str, Any], which: str, name: str) -> float:
    """Mean over the trained prompts, or over the others. name: before, after, vlm_before, vlm_after."""
    num_taught = row.get("taught", 1)
    chosen = row["prompts"][:num_taught] if which == "trained" else row["prompts"][num_taught:]
    return float(np.mean([prompt[name] for prompt in chosen]))


def changes(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """After minus before with 95 % intervals, concepts resampled: of all, of the words, of the tags."""
    found: dict[str, Any] = {}
    for category in ("all", "word", "tag"):
        chosen = [row for row in rows if category in ("all", row["category"])]
        for which in WHICH if chosen else ():
            for opinion in ("", "vlm_"):
                gains = [
                    mean_of(row, which, f"{opinion}after") - mean_of(row, which, f"{opinion}before") for row in chosen
                ]
                change = mean_over_tags(gains, ["all"] * len(gains), [row["name"] for row in chosen])
                found.setdefault(category, {})[f"{opinion or 'judge_'}{which}"] = plain(change)
    return found


def print_tables(rows: Sequence[dict[str, Any]], changed: dict[str, Any]) -> None:
    """A row a concept, then what changed."""

    def cells(row: dict[str, Any]) -> list[str]:
        return [
            f"{mean_of(row, which, f'{opinion}before'):.2f} -> {mean_of(row, which, f'{opinion}after'):.2f}"
            for opinion in ("", "vlm_")
            for which in WHICH
        ]

    print("\nTrained on some prompts of a concept: images right by the judge, and the VLM's opinion, before -> after")
    header = ["concept", "trained prompt", "other prompts", "VLM, trained", "VLM, others"]
    print_table([*header, "trained on"], [[row["name"], *cells(row), row["prompts"][0]["prompt"]] for row in rows])
    print("What changed, 95 % over concepts:")
    names = ["judge_trained", "judge_others", "vlm_trained", "vlm_others"]
    table = [[category, *(signed(Interval.from_list(of[name])) for name in names)] for category, of in changed.items()]
    print_table(["concepts", *header[1:]], table)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Share of right images before (grey, narrow) and after, of the trained prompt and of the others."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), dpi=110, layout="constrained")
    axes = figure.subplots()
    for side, (which, color) in enumerate(zip(WHICH, ("tab:blue", "tab:orange"), strict=True)):
        places = np.arange(len(rows)) + 0.4 * side
        before, after = ([100 * mean_of(row, which, when) for row in rows] for when in ("before", "after"))
        named = "trained prompt" if which == "trained" else "other prompts"
        axes.bar(places, after, 0.36, color=color, label=f"{named}, after")
        axes.bar(places, before, 0.16, color="0.75", label=None if side else "before")
    axes.set_xticks(np.arange(len(rows)) + 0.2, [row["name"] for row in rows], fontsize=8)
    axes.set(ylabel="% of images right", ylim=(0, 100))
    axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    run_command(main)
