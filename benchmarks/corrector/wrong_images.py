"""Images of the micro generator that its judge calls wrong, with the reflections that a corrector may be given.

The right reflection is an oracle's: what the judge saw, turned into the edits that the prompt still needs, said in the
canonical words. The wrong one is another image's, that names nothing this image needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.dataset.referee import names_one_of
from inference.interfaces import ChatRequest, Vlm
from inference.judges.geneval_scoring import judge_objects
from inference.requirements.atoms import HOLDS
from inference.requirements.typed_atoms import typed_atoms
from inference.vlm.prompts import fill_prompt, load_prompt
from microworld.scenes.captions import caption_of_record
from microworld.scenes.corrections import corrections
from microworld.scenes.evaluation_split import evaluation_seed
from microworld.scenes.instructions import Edit, instruction
from microworld.scenes.world import COLORS, SHAPES, Background, Scene, SceneObject
from schemas.records import DetectedObject, PromptRecord

if TYPE_CHECKING:
    from inference.flux.generator import FluxGenerator
    from inference.judges.segmentation_judge import SegmentationJudge

REDRAW_SEED = 1_000_003  # added to a prompt's base seed: tries never have the seed of a flawed image


@dataclass(frozen=True)
class WrongImage:
    """One flawed image, uint8 (H, W, 3). needed: edits that the prompt still asks for; reflection: they in words; met:
    of each requirement of the prompt, whether the image meets it."""

    prompt: PromptRecord
    number: int
    image: np.ndarray
    needed: tuple[Edit, ...]
    reflection: str
    met: tuple[bool, ...] = ()

    def seeds(self, tries: int) -> list[int]:
        """Of the tries at drawing it again: the same for every way of doing so."""
        return [evaluation_seed(self.prompt.prompt_id) + REDRAW_SEED + 100 * self.number + k for k in range(tries)]


@dataclass(frozen=True)
class Found:
    """The wrong images, of how many drawn, and how many of those left out because nothing nameable is wrong."""

    images: tuple[WrongImage, ...]
    num_drawn: int
    num_unnamed: int


def find_wrong_images(
    generator: FluxGenerator, judge: SegmentationJudge, prompts: Sequence[PromptRecord], per_prompt: int
) -> Found:
    """Image i of a prompt has seed `evaluation_seed` + i, as in all evaluations."""
    drawn = [(prompt, i) for prompt in prompts for i in range(per_prompt)]
    images = generator.generate([p.text for p, _ in drawn], [evaluation_seed(p.prompt_id) + i for p, i in drawn])
    limits, longest = judge.config.thresholds, generator.config.text_lengths[-1]
    wrong: list[WrongImage] = []
    unnamed = 0
    for (prompt, i), image, objects in zip(drawn, images, judge.find_objects(images), strict=True):
        if judge_objects(prompt, objects, limits).correct:
            continue
        limit = limits.of(prompt.tag)
        needed = edits_needed(prompt, objects, limit)
        if not needed:
            unnamed += 1
            continue
        # What does not fit beside the prompt would be cut in the middle of a sentence.
        reflection = say(needed, longest - len(prompt.text.split()) - 4)
        wrong.append(WrongImage(prompt, i, image, needed, reflection, requirements_met(prompt, objects, limit)))
    return Found(tuple(wrong), len(drawn), unnamed)


def requirements_met(prompt: PromptRecord, objects: Sequence[DetectedObject], min_score: float) -> tuple[bool, ...]:
    """Of each requirement of the prompt, whether an image of these objects meets it."""
    clear = [found for found in objects if found.score > min_score]
    return tuple(atom.value >= HOLDS for atom in typed_atoms(prompt, clear))


def edits_needed(prompt: PromptRecord, objects: Sequence[DetectedObject], min_score: float) -> tuple[Edit, ...]:
    """What the prompt still asks for of an image of these objects. Malformed ones count as nothing; a colour that is
    no one colour is left unsaid."""
    seen = []
    for found in objects:
        if found.class_name in SHAPES and found.score > min_score:
            x0, y0, x1, y1 = found.box
            color = found.color or "mixed"
            seen.append(SceneObject(found.class_name, color, (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0)))
    edits = corrections(caption_of_record(prompt), Scene(Background(), tuple(seen)))
    return tuple(edit if edit.color in COLORS else replace(edit, color=None) for edit in edits)


def say(edits: Sequence[Edit], max_words: int) -> str:
    """The edits' sentences, as many as fit; always the first."""
    sentences: list[str] = []
    for edit in edits:
        sentence = instruction(edit)
        if sentences and len(" ".join([*sentences, sentence]).replace(".", " .").split()) > max_words:
            break
        sentences.append(sentence)
    return " ".join(sentences)


def reflections_of_others(wrong: Sequence[WrongImage], seed: int = 0) -> list[str]:
    """For each image the reflection of another one, drawn among those that name nothing which this one needs."""
    rng = np.random.default_rng([seed, 101])
    told = []
    for image in wrong:
        others = [o.reflection for o in wrong if not names_one_of(o.reflection, image.needed)]
        told.append(others[rng.integers(len(others))] if others else "")
    return told


def reflections_by(vlm: Vlm, wrong: Sequence[WrongImage]) -> list[str]:
    """What a VLM writes of each image; "" where it does not come to an end."""
    template = load_prompt("micro/reflect")
    requests = [ChatRequest(fill_prompt(template, prompt=w.prompt.text), (w.image,)) for w in wrong]
    return [answer.text if answer.finished else "" for answer in vlm.answer(requests)]


Draw = Callable[[Sequence[np.ndarray], Sequence[str], Sequence[str], Sequence[int]], Sequence[np.ndarray]]
"""(flawed images, prompts, reflections, seeds) -> images."""


def draw_tries(draw: Draw, wrong: Sequence[WrongImage], reflections: Sequence[str], tries: int) -> list[np.ndarray]:
    """`tries` images for each wrong one, together, image by image."""
    return list(
        draw(
            [w.image for w in wrong for _ in range(tries)],
            [w.prompt.text for w in wrong for _ in range(tries)],
            [r for r in reflections for _ in range(tries)],
            [seed for w in wrong for seed in w.seeds(tries)],
        )
    )
