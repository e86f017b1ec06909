"""A verifier that checks requirements one by one: does it choose as well as others, are its mends true, do they mend?

`python -m benchmarks.corrector.atoms` has three parts:

- ranking: of N images of each dev prompt, how often the one that a verifier, or a mean of several, likes best is right;
- reflections: on the generator's wrong images, how often a writer's first sentence names a real flaw (the judge's), and
  what it spends on it;
- corrections: of the same images, how many are right after the shipped corrector was told these reflections.

Intervals are 95 % bootstraps over texts; differences are paired.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.corrector.corrector_gain import as_data, cell_of
from benchmarks.corrector.verifier_reflector import measure_reflections
from benchmarks.corrector.wrong_images import WrongImage, draw_tries, find_wrong_images
from benchmarks.dataset.referee import names_one_of
from benchmarks.results_file import Circumstances, name_on_split, print_table, run_command, save
from inference.flux.generator import FluxGenerator
from inference.grounding.rule_reflection import write_reflection
from inference.interfaces import verify_records
from inference.judges.intervals import intervals_by_tag, mean_over_tags
from inference.judges.segmentation_judge import SegmentationJudge
from inference.reflection_text import nothing_to_correct
from inference.requirements.atom_critic import AtomCriticConfig, known_flaws
from inference.verifier import VerifierKind
from microworld.family import micro_flux, micro_segmentation_judge, micro_vlm
from microworld.scenes import evaluation_split
from microworld.scenes.evaluation_split import evaluation_seed
from recipes import micro, micro_paper
from schemas.records import AtomValue, Check, Cost, PromptRecord

CHOOSERS: tuple[tuple[VerifierKind, ...], ...] = (
    ("trained", "rules"),
    ("trained",),
    ("vlm",),
    ("rules",),
    ("atoms",),
    ("trained", "atoms"),
    ("vlm", "atoms"),
    ("trained", "rules", "atoms"),
)
"""The first is whom the others are compared with."""
AS_SEARCHED: tuple[VerifierKind, ...] = ("trained", "atoms")
REFLECTOR, ATOMS, SEARCHED = "trained reflector", "atoms", "atoms, else reflector, as searched"
TOLD = (REFLECTOR, ATOMS, SEARCHED)
"""Writers whose reflections the corrector is told."""
TARGET = "atoms names a flaw in at least .72; atoms alone or in a mean chooses no worse than trained and rules"


@dataclass(frozen=True)
class Arguments:
    """Which parts, on what."""

    split: Literal["dev", "test", "hard-dev", "hard-test"] = "dev"
    """test, hard-test: the sealed prompts, for final figures alone."""
    candidates: int = 8
    """Images of each prompt to choose from; 0: no ranking."""
    per_prompt: int = 2
    """Images of each prompt, of which reflections are written for the wrong ones."""
    tries: int = 2
    """Corrections of each wrong image; 0: none."""
    name: str = ""
    """Of the results file; default: atoms, and the split where it is not dev."""


def opinions_of(kinds: Sequence[VerifierKind], images: Sequence[np.ndarray], records: Sequence[PromptRecord]) -> Any:
    """By kind, of each image."""
    found = {}
    for kind in kinds:
        verifier = replace(micro.verifier(), kinds=(kind,)).only_what_is_used(micro_vlm()).open()
        found[kind] = verify_records(verifier, images, records)
    return found


def measure_ranking(
    prompts: Sequence[PromptRecord], right: np.ndarray, scores: dict[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """right bool (prompts, N), scores float (prompts * N,) by kind: share right of the best of N by each of `CHOOSERS`,
    and what each leads the first by."""
    tags, texts = [prompt.tag or "" for prompt in prompts], [prompt.text for prompt in prompts]
    picked: dict[str, np.ndarray] = {}
    for kinds in CHOOSERS:
        mean = np.mean([scores[kind] for kind in kinds], axis=0).reshape(right.shape)
        picked[" ".join(kinds)] = right[np.arange(len(right)), mean.argmax(1)].astype(float)
    picked |= {"one at random": right.mean(1), "a right one": right.any(1).astype(float)}
    first = next(iter(picked.values()))
    return {
        name: {
            "right": as_data(mean_over_tags(hits, tags, texts)),
            "leads_by": as_data(mean_over_tags(hits - first, tags, texts)),
        }
        for name, hits in picked.items()
    }


@dataclass(frozen=True)
class Said:
    """Texts of one writer, an image each, and what they cost together."""

    texts: list[str]
    cost: Cost = field(default_factory=Cost)


def written(wrong: Sequence[WrongImage]) -> dict[str, Said]:
    """Reflections of each wrong image, by writer."""
    images, records = [w.image for w in wrong], [w.prompt for w in wrong]
    opinions = opinions_of(AS_SEARCHED, images, records)
    atoms = [opinion.atoms for opinion in opinions["atoms"]]
    scores = np.mean([[opinion.score for opinion in of_kind] for of_kind in opinions.values()], axis=0).tolist()
    checks = micro.grounding().open().check(images, records)
    tools = micro_paper.search().tools
    assert tools.critic is not None
    assert tools.critic.vlm is not None
    reflecting = replace(tools.critic, vlm=replace(tools.critic.vlm, reflector="micro/reflector"))
    return {
        "VLM": _by_critic(tools.critic, wrong, scores, atoms),
        REFLECTOR: _by_critic(reflecting, wrong, scores, atoms),
        "sentences of the check": Said(
            [write_reflection(record, Check(True, 1.0), check) for record, check in zip(records, checks, strict=True)]
        ),
        "atoms that fail": Said([_of_failing(of_image) for of_image in atoms]),
        ATOMS: Said([known_flaws(of_image, -np.inf, AtomCriticConfig()) for of_image in atoms]),
        SEARCHED: _by_critic(replace(reflecting, kind="atoms"), wrong, scores, atoms),
    }


def _of_failing(atoms: Sequence[AtomValue]) -> str:
    """Without those that hold by a hair."""
    return known_flaws([replace(a, mend=a.mend if a.value < 0.5 else None) for a in atoms], -np.inf, AtomCriticConfig())


def _by_critic(
    config: Any, wrong: Sequence[WrongImage], scores: Sequence[float], atoms: Sequence[tuple[AtomValue, ...]]
) -> Said:
    texts = [w.prompt.text for w in wrong]
    remarks = (
        config.only_what_is_used(micro_vlm())
        .open()
        .remark(
            [w.image for w in wrong],
            texts,
            texts,
            scores,
            explanations=[""] * len(wrong),
            atoms=atoms,
            records=[w.prompt for w in wrong],
            reflect=True,
            refine=False,
        )
    )
    return Said([remark.reflection for remark in remarks], sum((remark.cost for remark in remarks), Cost()))


def measure_written(wrong: Sequence[WrongImage], said: dict[str, Said]) -> dict[str, dict[str, Any]]:
    """As `measure_reflections`, and by tag; the share of images that something is said of; tokens an image."""
    figures = measure_reflections(wrong, {REFLECTOR: said[REFLECTOR].texts, **{n: s.texts for n, s in said.items()}})
    tags, texts = [w.prompt.tag or "" for w in wrong], [w.prompt.text for w in wrong]
    truths = {
        name: np.array([names_one_of(text, w.needed) for text, w in zip(one.texts, wrong, strict=True)], float)
        for name, one in said.items()
    }
    for name, one in said.items():
        row = figures[name]
        tokens = one.cost.vlm_prompt_tokens + one.cost.vlm_completion_tokens
        row["says_something"] = float(np.mean([bool(text) for text in one.texts]))
        row["vlm_tokens_an_image"] = round(tokens / len(wrong), 1)
        row["leads_reflector_by"] = as_data(
            mean_over_tags(truths[name] - truths[REFLECTOR], ["all"] * len(wrong), texts)
        )
        row["by_tag"] = {tag: as_data(value) for tag, value in intervals_by_tag(truths[name], tags, texts).items()}
        row.pop("leads_by", None)
    return figures


def measure_corrections(
    wrong: Sequence[WrongImage], said: dict[str, Said], generator: FluxGenerator, judge: SegmentationJudge, tries: int
) -> dict[str, dict[str, Any]]:
    """Share right after the corrector was told, and by tag; where a writer says nothing, or finds nothing wrong, of the
    images that are drawn afresh, as in a search."""
    config = micro_paper.search().tools.corrector
    assert config is not None
    corrector = config.open(generator)
    prompts = [w.prompt for w in wrong for _ in range(tries)]
    tags, texts = [prompt.tag or "" for prompt in prompts], [prompt.text for prompt in prompts]
    told = {name: said[name].texts for name in TOLD} | {"what the judge saw": [w.reflection for w in wrong]}
    afresh = list(generator.generate(texts, [seed for w in wrong for seed in w.seeds(tries)]))
    drawn = {"drawn afresh": afresh}
    for name, reflections in told.items():
        images = draw_tries(corrector.correct, wrong, reflections, tries)
        silent = [not text or nothing_to_correct(text) for text in reflections for _ in range(tries)]
        drawn[name] = [fresh if none else image for fresh, image, none in zip(afresh, images, silent, strict=True)]
    figures = {}
    right = {name: np.array([v.correct for v in judge.judge(images, prompts)], float) for name, images in drawn.items()}
    for name, hits in right.items():
        figures[name] = {
            "right": as_data(mean_over_tags(hits, ["all"] * len(hits), texts)),
            "leads_reflector_by": as_data(mean_over_tags(hits - right[REFLECTOR], ["all"] * len(hits), texts)),
            "by_tag": {tag: as_data(value) for tag, value in intervals_by_tag(hits, tags, texts).items()},
        }
    return figures


def measure(arguments: Arguments) -> dict[str, Any]:
    """All parts that are asked for."""
    figures: dict[str, Any] = {"split": arguments.split}
    judge, generator = SegmentationJudge(micro_segmentation_judge()), FluxGenerator(micro_flux(batch_size=64))
    prompts = evaluation_split.SPLITS[f"micro-{arguments.split}"]()
    if arguments.per_prompt:
        wrong = find_wrong_images(generator, judge, prompts, arguments.per_prompt).images
        said = written(wrong)
        figures["wrong_images"] = len(wrong)
        figures["reflections"] = measure_written(wrong, said)
        if arguments.tries:
            figures["corrections"] = measure_corrections(wrong, said, generator, judge, arguments.tries)
        figures["examples"] = [
            {"prompt": w.prompt.text, "needed": w.reflection, **{name: one.texts[i] for name, one in said.items()}}
            for i, w in list(enumerate(wrong))[:: max(1, len(wrong) // 12)]
        ]
    if arguments.candidates:
        drawn = [(p, i) for p in prompts for i in range(arguments.candidates)]
        images = generator.generate([p.text for p, _ in drawn], [evaluation_seed(p.prompt_id) + i for p, i in drawn])
        records = [p for p, _ in drawn]
        right = np.array([v.correct for v in judge.judge(images, records)]).reshape(len(prompts), -1)
        kinds: list[VerifierKind] = ["trained", "vlm", "rules", "atoms"]
        opinions = opinions_of(kinds, images, records)
        scores = {kind: np.array([one.score for one in said], float) for kind, said in opinions.items()}
        figures["candidates"] = arguments.candidates
        figures["ranking"] = measure_ranking(prompts, right, scores)
    return figures


def show(figures: dict[str, Any]) -> None:
    """The tables that people read."""

    if "ranking" in figures:
        print(f"best of {figures['candidates']}")
        rows = [[name, cell_of(row["right"]), cell_of(row["leads_by"])] for name, row in figures["ranking"].items()]
        print_table(["chosen by", "right", "leads the first by"], rows)
    for part, key in (("reflections", "names_a_flaw"), ("corrections", "right")):
        if part in figures:
            print()
            some = figures[part]
            tags = list(next(iter(some.values()))["by_tag"])
            print_table(
                [part, key.replace("_", " "), "leads reflector by", "tokens", *tags],
                [
                    [
                        name,
                        cell_of(row[key]),
                        cell_of(row["leads_reflector_by"]),
                        row.get("vlm_tokens_an_image", ""),
                        *(f"{row['by_tag'][tag]['value']:.2f}" for tag in tags),
                    ]
                    for name, row in some.items()
                ],
            )


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(f"python -m benchmarks.corrector.atoms {' '.join(sys.argv[1:])}".strip())
    figures = measure(arguments)
    show(figures)
    name = arguments.name or name_on_split("atoms", arguments.split)
    compared = "the VLM, the trained reflector and the check's own sentences; trained and rules as verifiers"
    print(f"\n{save(name, circumstances, figures, compared, TARGET)}")


if __name__ == "__main__":
    run_command(main)
