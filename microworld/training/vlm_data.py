"""What the micro VLM learns: questions and answers about scenes whose truth is known.

A `Subject` is an image with its truth and a prompt that it may fail; every task makes a `Turn` about it. Questions are
worded by the prompt files that inference uses (`microworld/prompts`); where a scene's objects are listed, they
are listed from left to right, so that one scene is described in one way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from inference.search import NOTHING_WRONG
from inference.vlm.grid import image_grid
from inference.vlm.overlays import overlay_image
from inference.vlm.prompts import fill_prompt, load_prompt
from microworld.scenes.captions import (
    COLORED_RELATION,
    Caption,
    is_colored_relation,
    is_true_of,
    sample_scene,
    sample_training_caption,
)
from microworld.scenes.concepts import CONCEPTS, Concept
from microworld.scenes.corrections import compare, corrections, inventory, refine_prompt
from microworld.scenes.edits import muddled, sample_edit, wrong_scene
from microworld.scenes.instructions import instruction, split_sentences
from microworld.scenes.judgement import CRITERIA, judge_prompt
from microworld.scenes.long_captions import LONG, caption_of_text, condense, describe, sample_long_caption
from microworld.scenes.overlay_questions import OverlayCase, sample_overlay
from microworld.scenes.questions import caption_of, near_miss, sample_questions
from microworld.scenes.world import SHAPES, Scene, between, random_scene
from microworld.training.vlm_cells import cell_targets, cells_side_by_side
from microworld.training.vlm_images import ImagePool, PooledImage, render_like_met
from microworld.training.vlm_rows import OVERLAID, SIDE_BY_SIDE, SINGLE, TWO_IMAGES, RowShape, Turn

YES, NO = "Yes.", "No."
_NO_IMAGE = np.zeros((0, 0, 3), np.uint8)


def ask(task: str, **fields: str) -> str:
    """The question of a micro prompt file."""
    return fill_prompt(load_prompt(f"micro/{task}"), **fields)


def judge_keys(tag: str) -> str:
    """The keys of a judgement, as a sentence names them."""
    return ", ".join([*CRITERIA[tag], "overall_score"])


def from_left_to_right(scene: Scene) -> Scene:
    """The same picture (objects never overlap), its objects in an order that can be seen."""
    return replace(scene, objects=tuple(sorted(scene.objects, key=lambda o: o.cx)))


@dataclass(frozen=True)
class Subject:
    """image uint8 (32, 32, 3); what it shows; a prompt; the long caption or the concept it was drawn from, if any.

    The objects of `scene` are in order from left to right, but those of a concept, which may cover each other.
    """

    image: np.ndarray
    scene: Scene
    caption: Caption
    long: str | None = None
    concept: Concept | None = None

    @property
    def is_right(self) -> bool:
        return is_true_of(self.caption, self.scene)


@dataclass(frozen=True)
class DataConfig:
    """Shares of the images by where they come from; what is left of 1 is rendered afresh."""

    vae_share: float = 0.15
    generated_share: float = 0.25
    degraded_share: float = 0.6  # of fresh renders
    wrong_share: float = 0.5  # of fresh renders that are made for a prompt
    free_share: float = 0.2  # of fresh renders: any objects
    long_share: float = 0.2  # of fresh renders: drawn from a long caption
    concept_share: float = 0.15  # of fresh renders: a concept, or nearly one
    long_pair_share: float = 0.35  # of the rendered pairs: of a long caption
    relation_share: float = 0.0  # of the short prompts of fresh renders: coloured relations
    malformed_share: float = 0.0  # of the rendered pairs of short prompts: of the worse, something is no clear shape


# --- Images -----------------------------------------------------------------------------------------------------------


class SubjectSource:
    """Draws single subjects and pairs of the same prompt; fresh ones are rendered a batch at once."""

    def __init__(self, config: DataConfig, vae: ImagePool | None = None, generated: ImagePool | None = None) -> None:
        self._config, self._vae, self._generated = config, vae, generated
        self._generated_pairs = [] if generated is None else pairs_of(generated.items)

    def draw(self, rng: np.random.Generator, size: int) -> list[Subject]:
        config, subjects = self._config, []
        for _ in range(size):
            kind = rng.random()
            if kind < config.vae_share and self._vae:
                item = self._vae.draw(rng)
                subjects.append(Subject(item.image, from_left_to_right(item.scene), item.caption))
            elif config.vae_share < kind < config.vae_share + config.generated_share and self._generated:
                item = self._generated.draw(rng)
                subjects.append(Subject(item.image, from_left_to_right(item.scene), item.caption))
            else:
                subjects.append(_fresh_subject(rng, config))
        return self._with_images(rng, subjects)

    def draw_pairs(self, rng: np.random.Generator, size: int) -> list[tuple[Subject, Subject]]:
        """(better, worse) of one prompt: renders that differ by one operation (mostly), or two generated images."""
        pairs: list[tuple[Subject, Subject]] = []
        for _ in range(size):
            if self._generated_pairs and rng.random() < self._config.generated_share:
                pairs.append(self._generated_pairs[int(rng.integers(len(self._generated_pairs)))])
                continue
            if rng.random() < self._config.long_pair_share:
                caption, scene = sample_long(rng)
                scenes = (scene, sample_edit(rng, scene, caption)[1])
                better, worse = (Subject(_NO_IMAGE, from_left_to_right(s), caption) for s in scenes)
                pairs.append((better, worse))
                continue
            caption = _prompt(rng, self._config)
            scene = sample_scene(rng, caption, 0.2)
            spoil = _malformed if rng.random() < self._config.malformed_share else _wrong
            scenes = (scene, spoil(rng, caption, scene))
            if rng.random() < 0.3:  # two drawings of the prompt, not one edited
                scenes = (sample_scene(rng, caption, 0.2), scenes[1])
            better, worse = (Subject(_NO_IMAGE, from_left_to_right(s), caption) for s in scenes)
            pairs.append((better, worse))
        flat = self._with_images(rng, [subject for pair in pairs for subject in pair])
        return list(zip(flat[::2], flat[1::2], strict=True))

    def _with_images(self, rng: np.random.Generator, subjects: list[Subject]) -> list[Subject]:
        bare = [i for i, subject in enumerate(subjects) if subject.image.size == 0]
        images = render_like_met(rng, [subjects[i].scene for i in bare], self._config.degraded_share)
        for i, image in zip(bare, images, strict=True):
            subjects[i] = replace(subjects[i], image=image)
        return subjects


def pairs_of(items: Sequence[PooledImage]) -> list[tuple[Subject, Subject]]:
    """Neighbours in a pool with the same prompt, of which one is right and the other wrong."""
    subjects = [Subject(item.image, from_left_to_right(item.scene), item.caption) for item in items]
    pairs = []
    for first, second in pairwise(subjects):
        if first.caption == second.caption and first.is_right != second.is_right:
            pairs.append((first, second) if first.is_right else (second, first))
    return pairs


def _fresh_subject(rng: np.random.Generator, config: DataConfig) -> Subject:
    if rng.random() < config.concept_share:
        concept = list(CONCEPTS.values())[rng.integers(len(CONCEPTS))]
        scene = concept.sample(rng) if rng.random() < 0.6 else concept.near_miss(rng)
        return Subject(_NO_IMAGE, scene, sample_training_caption(rng), None, concept)
    draw, long = rng.random(), None
    if draw < config.long_share / 2:  # the long caption is the prompt, and the image may fail it
        caption, scene = sample_long(rng)
        if rng.random() < config.wrong_share:
            _, scene = sample_edit(rng, scene, caption)
    elif draw < config.long_share + config.free_share:
        if draw < config.long_share:
            long, scene = sample_long_caption(rng)
        else:
            scene = random_scene(rng)
        caption = caption_of(rng, scene) or sample_training_caption(rng)
    else:
        caption = _prompt(rng, config)
        scene = sample_scene(rng, caption, 0.2)
        if rng.random() < config.wrong_share:
            scene = _wrong(rng, caption, scene)
    return Subject(_NO_IMAGE, from_left_to_right(scene), caption, long)


def _prompt(rng: np.random.Generator, config: DataConfig) -> Caption:
    if config.relation_share and rng.random() < config.relation_share:
        return sample_training_caption(rng, {COLORED_RELATION: 1.0})
    return sample_training_caption(rng)


def _wrong(rng: np.random.Generator, caption: Caption, scene: Scene) -> Scene:
    """By one operation; coloured relations, half the time, in any way in which they are muddled."""
    if is_colored_relation(caption) and rng.random() < 0.5 and not is_true_of(caption, wrong := muddled(rng, scene)):
        return wrong
    return wrong_scene(rng, caption, scene)[1]


def _malformed(rng: np.random.Generator, caption: Caption, scene: Scene) -> Scene:
    """With one of the objects between two shapes; the caption asks for all of them."""
    assert len(scene.objects) == sum(clause.count for clause in caption.clauses)
    i = int(rng.integers(len(scene.objects)))
    spoilt = scene.objects[i]
    other = str(rng.choice([name for name in SHAPES if name != spoilt.shape]))
    lean = rng.uniform(0.0, 0.5) if rng.random() < 0.5 else 0.0
    shape = between(spoilt.shape, other, rng.uniform(0.35, 0.65), lean, rng.uniform(0, 360))
    return replace(scene, objects=(*scene.objects[:i], replace(spoilt, shape=shape), *scene.objects[i + 1 :]))


def sample_long(rng: np.random.Generator) -> tuple[Caption, Scene]:
    """A long caption as a prompt, and a scene that it is true of."""
    while True:
        text, scene = sample_long_caption(rng)
        caption = caption_of_text(text)
        if is_true_of(caption, scene):
            return caption, scene


# --- Tasks about one image --------------------------------------------------------------------------------------------


def questions(rng: np.random.Generator, subject: Subject, number: int) -> list[Turn]:
    """Yes/no questions, mostly in the words of the prompt file, and open ones."""
    turns = []
    for question in sample_questions(rng, subject.scene, number):
        if question.answer in (YES, NO):
            task = "yes_no" if rng.random() < 0.75 else "question"
            turns.append(Turn("yes_no", ask(task, question=question.text), question.answer))
        else:
            task = "count" if question.text.startswith("How many") else "open"
            turns.append(Turn(task, ask("question", question=question.text), question.answer))
    return turns


def verify(rng: np.random.Generator, subject: Subject) -> Turn:
    """Whether the image matches a prompt: its own or, for as many noes as yeses, one that is nearly true of it."""
    prompt, holds = _prompt_for(rng, subject)
    return Turn("verify", ask("verify", prompt=prompt.text), YES if holds else NO)


def _prompt_for(rng: np.random.Generator, subject: Subject) -> tuple[Caption, bool]:
    """A prompt and whether it is true of the image."""
    if subject.caption.tag == LONG:
        return subject.caption, subject.is_right
    true = subject.caption if subject.is_right else caption_of(rng, subject.scene)
    if true is not None and rng.random() < 0.6:
        return true, True
    if true is not None and (subject.is_right or rng.random() < 0.5):
        missed = near_miss(rng, true)
        return missed, is_true_of(missed, subject.scene)
    return subject.caption, subject.is_right


def reflect(rng: np.random.Generator, subject: Subject) -> Turn:
    """The instruction that puts the image right."""
    prompt, _ = (subject.caption, None) if rng.random() < 0.7 else _prompt_for(rng, subject)
    edits = corrections(prompt, subject.scene)
    answer = " ".join(instruction(edit) for edit in edits) or NOTHING_WRONG
    return Turn("reflect", ask("reflect", prompt=prompt.text), answer)


def judge(rng: np.random.Generator, subject: Subject) -> Turn:
    prompt, _ = _prompt_for(rng, subject)
    question = ask("judge", prompt=prompt.text, keys=judge_keys(prompt.tag))
    return Turn("judge", question, json.dumps(judge_prompt(prompt, subject.scene)))


def refine(rng: np.random.Generator, subject: Subject) -> Turn:
    answer = refine_prompt(rng, subject.caption, subject.scene)
    return Turn("refine", ask("refine", prompt=subject.caption.text), answer)


def describe_shortly(rng: np.random.Generator, subject: Subject) -> Turn:
    del rng
    text = inventory(subject.scene)
    return Turn("describe", ask("describe"), f"{text[0].upper()}{text[1:]}.")


def describe_fully(rng: np.random.Generator, subject: Subject) -> Turn:
    return Turn("caption", ask("caption"), subject.long or describe(subject.scene, rng))


def condense_prompt(rng: np.random.Generator, subject: Subject) -> Turn:
    """Text alone: a long caption to a short one."""
    long, scene = sample_long_caption(rng)
    del subject
    return Turn("condense", ask("condense", prompt=long), condense(scene, rng), sees_images=False)


# Task -> how often it is asked of an image; short questions come besides, until the row is full.
_SINGLE_TASKS: tuple[tuple[Callable[[np.random.Generator, Subject], Turn], float], ...] = (
    (describe_shortly, 0.4),
    (describe_fully, 0.2),
    (verify, 1.0),
    (reflect, 0.5),
    (judge, 0.25),
    (refine, 0.1),
    (condense_prompt, 0.15),
)


_SHORT_ALONE = (judge, refine)  # a judgement has keys by GenEval's tags; a long caption is as plain as can be


def concept_phrase(word: str) -> str:
    """ "a sunrise", "an egg", "eyes"."""
    return word if word == "eyes" else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def concept_question(rng: np.random.Generator, concept: Concept, scene: Scene) -> Turn:
    """Whether the scene shows the concept, asked in one of the ways in which it will be."""
    phrase, answer = concept_phrase(concept.word), YES if concept.holds(scene) else NO
    if rng.random() < 0.4:
        return Turn("concept", ask("verify", prompt=f"a photo of {phrase}"), answer)
    question = f"Does the image show {phrase}?"
    return Turn("concept", ask("yes_no", question=question) if rng.random() < 0.7 else question, answer)


def concept_turns(rng: np.random.Generator, subject: Subject) -> list[Turn]:
    """Whether the image shows the concept, and others (mostly not); what concepts mean, from their words alone."""
    assert subject.concept is not None
    others = list(CONCEPTS.values())
    asked = [subject.concept, *(others[i] for i in rng.permutation(len(others))[:4])]
    turns = [concept_question(rng, concept, subject.scene) for concept in asked]
    for i in rng.permutation(len(others))[:2]:
        phrase, meaning = concept_phrase(others[i].word), others[i].description
        question = ask("refine", prompt=f"a photo of {phrase}")
        turns.append(Turn("refine", question, f"a photo of {meaning}", sees_images=False))
        told = f"{meaning[0].upper()}{meaning[1:]}."
        turns.append(Turn("concept", ask("question", question=f"What is {phrase}?"), told, sees_images=False))
    return turns


def single_turns(rng: np.random.Generator, subject: Subject) -> list[Turn]:
    """Turns about one image, in the order of their right to a place in the row."""
    if subject.concept is not None:
        return concept_turns(rng, subject)
    tasks = [(task, share) for task, share in _SINGLE_TASKS if subject.caption.tag != LONG or task not in _SHORT_ALONE]
    turns = [task(rng, subject) for task, share in tasks if rng.random() < share]
    if rng.random() < 0.15:  # concepts are asked of all kinds of images, too
        concept = list(CONCEPTS.values())[rng.integers(len(CONCEPTS))]
        turns.append(concept_question(rng, concept, subject.scene))
    return [*turns, *questions(rng, subject, 9)]


def overlay_turn(case: OverlayCase) -> Turn:
    """Whether the image does what is drawn over it."""
    return Turn("overlay", ask("yes_no", question=case.prompt.question), YES if case.agrees else NO)


def overlay_images(rng: np.random.Generator, cases: Sequence[OverlayCase]) -> np.ndarray:
    """uint8 (B, 32, 32, 3): the scenes, half of them degraded as generated images are, with the overlays on top."""
    images = render_like_met(rng, [case.scene for case in cases], 0.5)
    return np.stack([overlay_image(image, case.prompt) for image, case in zip(images, cases, strict=True)])


# --- Tasks about two images -------------------------------------------------------------------------------------------


def compare_turn(rng: np.random.Generator, caption: Caption, left: Scene, right: Scene) -> Turn | None:
    """The verdict as JSON, with exactly one instruction; None where neither image is better."""
    try:
        answer = compare(rng, caption, left, right)
    except ValueError:
        return None
    answer["Instructions"] = split_sentences(answer["Instructions"])[0]
    return Turn("compare", ask("compare", prompt=caption.text), json.dumps(answer))


def verdict_turns(rng: np.random.Generator, caption: Caption, left: Scene, right: Scene) -> list[Turn]:
    """The verdict in a word, and whether one of the sides matches. In a comparison's JSON the verdict is one token of
    sixty: from that alone it was still a guess when the rest was written well."""
    needed = {"left": len(corrections(caption, left)), "right": len(corrections(caption, right))}
    turns = []
    if needed["left"] != needed["right"]:
        better = min(needed, key=lambda side: needed[side])
        question = f'Which image fits the prompt "{caption.text}" better, left or right? Answer in one word.'
        turns.append(Turn("verdict", question, f"{better.capitalize()}."))
    side = "left" if rng.random() < 0.5 else "right"
    question = ask("yes_no", question=f'Does the {side} image match the prompt "{caption.text}"?')
    return [*turns, Turn("side", question, NO if needed[side] else YES)]


def side_questions(rng: np.random.Generator, left: Scene, right: Scene, number: int) -> list[Turn]:
    """Questions about one of the two: "In the left image: is there a red star?"."""
    turns = []
    for _ in range(number):
        side, scene = ("left", left) if rng.random() < 0.5 else ("right", right)
        question = sample_questions(rng, scene, 1)[0]
        if "the image show" in question.text:
            text = question.text.replace("the image", f"the {side} image")
        else:
            text = f"In the {side} image: {question.text[0].lower()}{question.text[1:]}"
        if question.answer in (YES, NO):
            text = ask("yes_no", question=text)
        turns.append(Turn("side", text, question.answer))
    return turns


def pair_turns(rng: np.random.Generator, left: Subject, right: Subject) -> list[Turn]:
    """Verdicts for the pair's prompt, and for one that is true of the other side; a comparison; then questions about
    each side."""
    captions = [left.caption]
    for scene in (left.scene, right.scene):
        other = caption_of(rng, scene)
        if other is not None and rng.random() < 0.5:
            captions.append(other)
    compared = [turn for caption in captions if (turn := compare_turn(rng, caption, left.scene, right.scene))]
    short = [turn for caption in captions for turn in verdict_turns(rng, caption, left.scene, right.scene)]
    turns = [*compared[:1], *short, *compared[1:]] if rng.random() < 0.5 else [*short, *compared]
    return [*turns, *side_questions(rng, left.scene, right.scene, 4)]


# --- Batches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampledRows:
    """Rows of one shape: images uint8 (B, num_images, H, W, 3), turns, and what each image token's cell shows
    (`cell_targets`), float32 (B, T, 4); None where something is drawn over the scenes."""

    images: np.ndarray
    turns: list[list[Turn]]
    cells: np.ndarray | None


def sample_rows(rng: np.random.Generator, source: SubjectSource, shape: RowShape, size: int) -> SampledRows:
    """`size` rows."""
    if shape is OVERLAID:
        cases = [sample_overlay(rng) for _ in range(size)]
        return SampledRows(overlay_images(rng, cases)[:, None], [[overlay_turn(case)] for case in cases], None)
    if shape is SINGLE:
        subjects = source.draw(rng, size)
        images = np.stack([s.image for s in subjects])[:, None]
        return SampledRows(images, [single_turns(rng, s) for s in subjects], cell_targets([s.scene for s in subjects]))
    images, turns, cells = [], [], []
    for better, worse in source.draw_pairs(rng, size):
        left, right = (better, worse) if rng.random() < 0.5 else (worse, better)
        both = np.stack([left.image, right.image])
        of_both = cell_targets([left.scene, right.scene])
        images.append(np.stack(image_grid(list(both))) if shape is SIDE_BY_SIDE else both)
        cells.append(cells_side_by_side(of_both) if shape is SIDE_BY_SIDE else of_both.reshape(-1, of_both.shape[-1]))
        turns.append(pair_turns(rng, left, right))
    return SampledRows(np.stack(images), turns, np.stack(cells))


def sample_texts(seed: int, num_rows: int) -> Iterator[str]:
    """Questions and answers of all tasks, and every word of the world: what the tokenizer's vocabulary is made of."""
    from microworld.scenes.captions import VOCABULARY

    rng = np.random.default_rng([seed, 79])
    source = SubjectSource(DataConfig(degraded_share=0.0))
    for shape in (SINGLE, TWO_IMAGES, OVERLAID):
        for row in sample_rows(rng, source, shape, num_rows).turns:
            for turn in row:
                yield turn.question
                yield turn.answer
    for _ in range(20):
        yield "system\nYou are a helpful assistant.\nuser\nassistant\n"
        for word in VOCABULARY:
            yield f" {word}"
    for word in VOCABULARY:
        yield from (f"{word} {word}", word.capitalize())
