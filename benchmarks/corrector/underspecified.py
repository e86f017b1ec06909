"""Prompts that leave something open, and two reflections that decide it: does the corrector read what it is told?

"a photo of a star" with "Make the star red." and with "Make the star blue.": only an image that follows the reflection
is right, and swapping the reflection must swap the result. The flawed image is the generator's own for the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.corrector.wrong_images import REDRAW_SEED, Draw
from inference.judges.geneval_scoring import judge_objects
from inference.prompt_grammar import parse_prompt
from microworld.scenes.captions import RELATIONS
from microworld.scenes.evaluation_split import evaluation_seed
from microworld.scenes.instructions import Edit, Operation, instruction
from microworld.scenes.world import COLORS, SHAPES
from schemas.records import PromptRecord

if TYPE_CHECKING:
    from inference.flux.generator import FluxGenerator
    from inference.judges.segmentation_judge import SegmentationJudge

Kind = str
KINDS: tuple[Kind, ...] = ("color", "color of one of two", "place")


@dataclass(frozen=True)
class OpenPrompt:
    """A prompt, its flawed image uint8 (H, W, 3), and two reflections with the prompts that images must then meet."""

    kind: Kind
    text: str
    seed: int
    image: np.ndarray
    reflections: tuple[str, str]
    wanted: tuple[PromptRecord, PromptRecord]


def open_prompts(generator: FluxGenerator, judge: SegmentationJudge, split: str, per_kind: int) -> list[OpenPrompt]:
    """`per_kind` of each kind, whose image already meets the prompt and neither of the two wishes."""
    made: list[OpenPrompt] = []
    for kind in KINDS:
        rng = np.random.default_rng([KINDS.index(kind), 0 if split == "dev" else 1, 103])
        drafts = [_draft(kind, rng) for _ in range(4 * per_kind)]
        seeds = [evaluation_seed(f"open-{split}-{kind}-{n}") for n in range(len(drafts))]
        images = generator.generate([text for text, _, _ in drafts], seeds)
        limits = judge.config.thresholds
        chosen: list[OpenPrompt] = []
        for (text, told, wanted), seed, image, objects in zip(
            drafts, seeds, images, judge.find_objects(images), strict=True
        ):
            meets = judge_objects(parse_prompt(text), objects, limits).correct
            if meets and not any(judge_objects(wish, objects, limits).correct for wish in wanted):
                chosen.append(OpenPrompt(kind, text, seed + REDRAW_SEED, image, told, wanted))
        made += chosen[:per_kind]
    return made


def _draft(kind: Kind, rng: np.random.Generator) -> tuple[str, tuple[str, str], tuple[PromptRecord, PromptRecord]]:
    """A prompt's text, two reflections, and what each asks for."""
    shape, other = rng.permutation(list(SHAPES))[:2].tolist()
    if kind == "place":
        first = list(RELATIONS)[rng.integers(len(RELATIONS))]
        ways = (first, RELATIONS[first])
        told = [instruction(Edit(Operation.MOVE, shape, relation=way, target=other)) for way in ways]
        wanted = [parse_prompt(f"a photo of a {shape} {way} a {other}") for way in ways]
        return f"a photo of a {shape} and a {other}", (told[0], told[1]), (wanted[0], wanted[1])
    colors = rng.permutation(list(COLORS))[:2].tolist()
    told = [instruction(Edit(Operation.RECOLOR, shape, new_color=color)) for color in colors]
    beside = "" if kind == "color" else f" and a {other}"
    articles = ["an" if color[0] in "aeiou" else "a" for color in colors]
    wanted = [parse_prompt(f"a photo of {a} {c} {shape}{beside}") for a, c in zip(articles, colors, strict=True)]
    return f"a photo of a {shape}{beside}", (told[0], told[1]), (wanted[0], wanted[1])


def obeyed(draw: Draw, judge: SegmentationJudge, prompts: Sequence[OpenPrompt], *, told: bool) -> np.ndarray:
    """bool (n, 2, 2): [i, r, w] whether the image drawn with reflection r meets wish w, with one seed a prompt, so that
    only the reflection differs. Without `told` it is empty: what happens by chance."""
    rounds = []
    for which in (0, 1):
        images = draw(
            [p.image for p in prompts],
            [p.text for p in prompts],
            [p.reflections[which] if told else "" for p in prompts],
            [p.seed for p in prompts],
        )
        found = judge.find_objects(images)
        limits = judge.config.thresholds
        rounds.append(
            [[judge_objects(w, o, limits).correct for w in p.wanted] for p, o in zip(prompts, found, strict=True)]
        )
    return np.array(rounds, bool).transpose(1, 0, 2)
