"""How good a VLM of the micro world is, on scenes and images that it never learnt on: every figure with its count.

Rendered scenes have their own truth; generated images have the pixel scorer's reading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from inference.interfaces import ChatRequest, Vlm
from inference.reflection_text import nothing_to_correct
from inference.vlm.grid import image_grid
from microworld.scenes.captions import sample_scene, sample_training_caption
from microworld.scenes.concepts import CONCEPTS
from microworld.scenes.corrections import corrections
from microworld.scenes.edits import name_edit, wrong_scene
from microworld.scenes.instructions import Edit, agrees, parse_instruction, split_sentences
from microworld.scenes.overlay_questions import sample_overlay
from microworld.scenes.questions import Question, sample_questions
from microworld.scenes.world import Scene, random_scene
from microworld.training.vlm_data import (
    NO,
    YES,
    Subject,
    ask,
    concept_phrase,
    from_left_to_right,
    judge,
    overlay_images,
    overlay_turn,
    verify,
)
from microworld.training.vlm_images import PooledImage, render_like_met

_EVALUATION_SEED = 9_000_001  # far from every training seed


@dataclass(frozen=True)
class Share:
    """How many of `total` were right."""

    right: int
    total: int

    @property
    def value(self) -> float:
        return self.right / self.total if self.total else float("nan")

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.right}/{self.total})"


@dataclass(frozen=True)
class EvaluationConfig:
    """How many questions or images of each kind."""

    num_images: int = 150  # of each source; two yes/no, one counting and one open question each
    num_pairs: int = 120
    num_judged: int = 40
    num_reflected: int = 100
    num_overlays: int = 150
    num_concepts: int = 42  # a scene that shows it and one that nearly does, each


def evaluate_vlm(
    vlm: Vlm, generated: Sequence[PooledImage] = (), config: EvaluationConfig | None = None, seed: int = 0
) -> dict[str, Share]:
    """All figures by name; those of generated images only where there are some."""
    config = config or EvaluationConfig()
    rng = np.random.default_rng([_EVALUATION_SEED, seed])
    scenes = [from_left_to_right(random_scene(rng)) for _ in range(config.num_images)]
    images = render_like_met(rng, scenes, 0.5)
    figures = _questions(vlm, rng, list(images), scenes, "scenes")
    if generated:
        chosen = list(generated)[: config.num_images]
        figures |= _questions(
            vlm, rng, [g.image for g in chosen], [from_left_to_right(g.scene) for g in chosen], "generated"
        )
        subjects = [Subject(g.image, from_left_to_right(g.scene), g.caption) for g in chosen]
        figures["verify generated"] = _verified(vlm, rng, subjects)
    wrong = _wrong_subjects(rng, config.num_reflected)
    figures["verify scenes"] = _verified(vlm, rng, wrong)
    figures["reflection right"] = reflections_right(vlm, wrong)
    figures |= _comparisons(vlm, rng, config.num_pairs)
    figures["concepts"] = _concepts(vlm, rng, config.num_concepts)
    figures["overlays"] = _overlays(vlm, rng, config.num_overlays)
    figures["judge JSON valid"] = _judgements(vlm, rng, wrong[: config.num_judged])
    return figures


def _share(hits: Sequence[bool]) -> Share:
    return Share(int(np.sum(hits)), len(hits))


def _until(rng: np.random.Generator, scene: Scene, accept: Callable[[Question], bool], number: int) -> list[Question]:
    found: list[Question] = []
    for _ in range(60):
        found += [q for q in sample_questions(rng, scene, 4) if accept(q) and q not in found]
        if len(found) >= number:
            break
    return found[:number]


def _questions(
    vlm: Vlm, rng: np.random.Generator, images: list[np.ndarray], scenes: list[Scene], name: str
) -> dict[str, Share]:
    kinds: dict[str, tuple[int, Callable[[Question], bool]]] = {
        "yes/no": (2, lambda q: q.answer in (YES, NO)),
        "counting": (1, lambda q: q.text.startswith("How many")),
        "open": (1, lambda q: q.answer not in (YES, NO) and not q.text.startswith("How many")),
    }
    requests, wanted, owners = [], [], []
    for image, scene in zip(images, scenes, strict=True):
        for kind, (number, accept) in kinds.items():
            for question in _until(rng, scene, accept, number):
                task = "yes_no" if kind == "yes/no" else "question"
                requests.append(ChatRequest(ask(task, question=question.text), (image,)))
                wanted.append(question.answer)
                owners.append(kind)
    answers = [answer.text for answer in vlm.answer(requests)]
    return {
        f"{kind} {name}": _share([a == w for a, w, o in zip(answers, wanted, owners, strict=True) if o == kind])
        for kind in kinds
    }


def _verified(vlm: Vlm, rng: np.random.Generator, subjects: list[Subject]) -> Share:
    turns = [verify(rng, subject) for subject in subjects]
    requests = [ChatRequest(t.question, (s.image,)) for t, s in zip(turns, subjects, strict=True)]
    return _share([a.text == t.answer for a, t in zip(vlm.answer(requests), turns, strict=True)])


def _wrong_subjects(rng: np.random.Generator, number: int) -> list[Subject]:
    """Renders that fail a prompt by one operation, and as many again that do not fail it, a fifth of all."""
    captions = [sample_training_caption(rng) for _ in range(number)]
    scenes = [sample_scene(rng, caption) for caption in captions]
    scenes = [
        scene if i % 5 == 0 else wrong_scene(rng, caption, scene)[1]
        for i, (caption, scene) in enumerate(zip(captions, scenes, strict=True))
    ]
    images = render_like_met(rng, scenes, 0.5)
    return [
        Subject(image, from_left_to_right(scene), caption)
        for image, scene, caption in zip(images, scenes, captions, strict=True)
    ]


def reflections_right(vlm: Vlm, subjects: list[Subject]) -> Share:
    """An instruction counts where its edit is one that the image needs; on a right image, that it finds nothing."""
    requests = [ChatRequest(ask("reflect", prompt=s.caption.text), (s.image,)) for s in subjects]
    hits = []
    for answer, subject in zip(vlm.answer(requests), subjects, strict=True):
        needed = corrections(subject.caption, subject.scene)
        hits.append(_names(answer.text, needed) if needed else nothing_to_correct(answer.text))
    return _share(hits)


def _names(text: str, edits: Sequence[Edit]) -> bool:
    """Whether the first sentence is an instruction that agrees with one of the edits."""
    sentences = split_sentences(text)
    said = parse_instruction(sentences[0]) if sentences else None
    return said is not None and any(agrees(said, edit) for edit in edits)


def _comparisons(vlm: Vlm, rng: np.random.Generator, number: int) -> dict[str, Share]:
    """Pairs that differ by one operation, in one grid and as two images by turns; each asked in both orders."""
    cases = []
    for i in range(number):
        caption = sample_training_caption(rng)
        better = sample_scene(rng, caption)
        edit, worse = wrong_scene(rng, caption, better)
        images = render_like_met(rng, [better, worse], 0.5)
        named = name_edit(worse, better, rng, caption)
        edits = [e for e in (edit, named, *corrections(caption, worse)) if e is not None]
        for side, order in (("left", images), ("right", images[::-1])):
            shown = image_grid(list(order)) if i % 2 else tuple(order)
            cases.append((side, edits, ChatRequest(ask("compare", prompt=caption.text), shown)))
    hits: dict[str, list[bool]] = {
        name: [] for name in ("compare JSON valid", "verdict left", "verdict right", "names the difference")
    }
    for answer, (side, edits, _) in zip(vlm.answer([c[2] for c in cases]), cases, strict=True):
        said = _read_json(answer.text, ("Analysis", "Result", "Instructions"))
        hits["compare JSON valid"].append(said is not None and said["Result"] in ("left", "right"))
        hits[f"verdict {side}"].append(said is not None and said["Result"] == side)
        hits["names the difference"].append(said is not None and _names(str(said["Instructions"]), edits))
    return {name: _share(values) for name, values in hits.items()}


def _concepts(vlm: Vlm, rng: np.random.Generator, number: int) -> Share:
    """Whether an image shows a concept: of one that does, and of one that nearly does."""
    chosen = list(CONCEPTS.values())[:number]
    scenes = [scene for concept in chosen for scene in (concept.sample(rng), concept.near_miss(rng))]
    images = render_like_met(rng, scenes, 0.5)
    texts = [f"Does the image show {concept_phrase(c.word)}?" for c in chosen for _ in range(2)]
    requests = [ChatRequest(ask("yes_no", question=text), (image,)) for text, image in zip(texts, images, strict=True)]
    return _share([a.text == (NO if i % 2 else YES) for i, a in enumerate(vlm.answer(requests))])


def _overlays(vlm: Vlm, rng: np.random.Generator, number: int) -> Share:
    """Whether an image does what is drawn over it."""
    cases = [sample_overlay(rng) for _ in range(number)]
    turns, images = [overlay_turn(case) for case in cases], overlay_images(rng, cases)
    requests = [ChatRequest(turn.question, (image,)) for turn, image in zip(turns, images, strict=True)]
    return _share([a.text == t.answer for a, t in zip(vlm.answer(requests), turns, strict=True)])


def _judgements(vlm: Vlm, rng: np.random.Generator, subjects: list[Subject]) -> Share:
    turns = [judge(rng, subject) for subject in subjects]
    requests = [ChatRequest(t.question, (s.image,)) for t, s in zip(turns, subjects, strict=True)]
    valid = []
    for answer, turn in zip(vlm.answer(requests), turns, strict=True):
        said = _read_json(answer.text, tuple(json.loads(turn.answer)))
        valid.append(
            said is not None and all(isinstance(v, dict) and set(v) == {"score", "explanation"} for v in said.values())
        )
    return _share(valid)


def _read_json(text: str, keys: tuple[str, ...]) -> dict | None:
    """The object, if the text is JSON with exactly these keys."""
    try:
        said = json.loads(text)
    except json.JSONDecodeError:
        return None
    return said if isinstance(said, dict) and set(said) == set(keys) else None
