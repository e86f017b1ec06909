"""Train the teacher of the micro family: a LoRA adapter of the micro VLM that is not fooled by what is missing.

The VLM was taught on images that either do what is asked or do something else, so it learnt to see the contradiction,
and says Yes where there is nothing to contradict: a generator that follows its answers wipes the ground away. The
teacher learns the same questions on images in which what they ask about is missing, and on textures; where a thing
stands, for the VLM says Yes to "a star at the top" wherever the star is; under noise, and under the change of the
pixels that hides the truth best (one step along the gradient's sign; Madry et al. 2018, and Wong et al. 2020 for the
random start). The gradients of models that withstand it point to what they see. A second round goes on with images
that fooled the first (`microworld.training.fooled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.interfaces import ChatRequest, Vlm
from microworld.scenes.captions import (
    PLACES,
    Clause,
    caption_from_clauses,
    place_of,
    sample_scene,
    sample_training_caption,
)
from microworld.scenes.concepts import CONCEPTS
from microworld.scenes.overlay_questions import OverlayCase, sample_missing, sample_overlay
from microworld.scenes.questions import counted
from microworld.scenes.world import COLORS, FRAME_PX, SHAPES, Scene, random_background
from microworld.training.fooled import FOLDER, FoolingImages
from microworld.training.training_loop import MicroTrainingConfig
from microworld.training.vlm_adapter import AdapterRecipe, Lessons, train_adapter
from microworld.training.vlm_data import (
    NO,
    YES,
    DataConfig,
    Subject,
    SubjectSource,
    ask,
    concept_question,
    overlay_images,
    overlay_turn,
    questions,
    single_turns,
    verify,
)
from microworld.training.vlm_evaluation import Share
from microworld.training.vlm_images import render_like_met
from microworld.training.vlm_model import CELL_PX
from microworld.training.vlm_rows import OVERLAID, SINGLE, RowPacker, Turn

if TYPE_CHECKING:
    from microworld.training.vlm_forward import PackedRows

_EVALUATION_SEED = 9_000_003
KINDS = {"horizon": 0.4, "line weight": 0.3, "palette": 0.1, "depth": 0.1, "composition": 0.1}
"""How often each visual prompt is asked about."""


@dataclass(frozen=True)
class TeacherRecipe(AdapterRecipe):
    """For two cores and 90 minutes; the last of them with images that fooled it."""

    overlaid_images: int = 48  # of a step that asks about visual prompts
    plain_images: int = 14  # of one that asks about images as they are
    plain_share: float = 0.35  # of the steps
    agreeing_share: float = 0.4  # of the visual prompts; of the others six in ten have nothing that is asked about
    empty_share: float = 0.2  # of plain images: without objects, or a texture
    placed_share: float = 0.5  # of plain images: asked where something stands
    fooled_share: float = 0.35  # of the visual prompts, where there are images that fooled a teacher
    noisy_share: float = 0.4  # of the steps
    noise: tuple[float, float] = (0.02, 0.08)
    rank: int = 23
    sight_learns: bool = True
    learning_rate: float = 1.5e-3
    attack: float = 8.0
    evaluated: int = 100  # cases of each kind
    evaluate_every_s: float = 600.0
    bf16: bool | None = False
    data: DataConfig = field(
        default_factory=lambda: DataConfig(vae_share=0.0, generated_share=0.0, concept_share=0.4, long_share=0.1)
    )


def gpu_recipe() -> TeacherRecipe:
    """For one GPU and 4 minutes."""
    return TeacherRecipe(overlaid_images=320, plain_images=112, learning_rate=2e-3, ema_decay=0.997, bf16=True)


def train(config: MicroTrainingConfig, recipe: TeacherRecipe | None = None) -> None:
    """Reads `out_dir/vlm`, trains for `config.minutes`, writes `out_dir/teacher`."""
    recipe = recipe or (TeacherRecipe() if config.device == "cpu" else gpu_recipe())

    def open_lessons(processor: Any) -> Lessons:
        packers = {shape: RowPacker(processor.tokenizer, shape) for shape in (OVERLAID, SINGLE)}
        source = SubjectSource(recipe.data)
        fooled = FoolingImages.load(config.work_dir / FOLDER)
        if len(fooled):
            print(f"teacher: {len(fooled)} images that fooled one before", flush=True)

        def make_rows(number: int) -> tuple[PackedRows, int]:
            """Rows, and how many questions stand in them."""
            rng = np.random.default_rng([config.seed, 89, number])
            is_plain = rng.random() < recipe.plain_share
            images, turns = plain_rows(rng, source, recipe) if is_plain else overlaid_rows(rng, recipe)
            if len(fooled) and not is_plain:
                images, turns = with_fooled(rng, images, turns, fooled, recipe.fooled_share)
            if rng.random() < recipe.noisy_share:
                images = noisy(rng, images, rng.uniform(*recipe.noise))
            rows, kept = packers[SINGLE if is_plain else OVERLAID].pack(images[:, None], turns)
            return rows, sum(len(row) for row in kept)

        return Lessons(make_rows, lambda vlm: said_yes(vlm, recipe.evaluated))

    train_adapter(config, recipe, "teacher", open_lessons, measure_first=True)


def said_yes(vlm: Vlm, number: int) -> dict[str, Share]:
    """Of so many images each that do what a visual prompt of each kind asks, that do otherwise, and that have nothing
    of it, of things asked for where they stand and elsewhere, and of textures asked for concepts: those to which the
    VLM says Yes."""
    found = {}
    for index, kind in enumerate(KINDS):
        rng = np.random.default_rng([_EVALUATION_SEED, index])
        cases = {
            "right": [sample_overlay(rng, kind, True) for _ in range(number)],
            "otherwise": [sample_overlay(rng, kind, False) for _ in range(number)],
            "missing": [sample_missing(rng, kind) for _ in range(number)],
        }
        for name, some in cases.items():
            asked = [overlay_turn(case).question for case in some]
            found[f"{kind} {name}"] = _yes(vlm, asked, list(overlay_images(rng, some)))
    rng = np.random.default_rng([_EVALUATION_SEED, len(KINDS)])
    concepts, nothing = list(CONCEPTS.values()), empty_scene(rng)
    asked = [concept_question(rng, concepts[i % len(concepts)], nothing).question for i in range(number)]
    found["concept in a texture"] = _yes(vlm, asked, [texture(rng) for _ in range(number)])
    rng = np.random.default_rng([_EVALUATION_SEED, len(KINDS) + 1])
    scenes = [placed_scene(rng) for _ in range(number)]
    images = render_like_met(rng, scenes, 0.5)
    for name, move in (("right", lambda place: place), ("otherwise", lambda place: elsewhere(rng, place))):
        things = [(scene.objects[0].shape, move(place_of(scene.objects[0]))) for scene in scenes]
        asked = [_stands(rng, *thing, YES, is_prompt=False).question for thing in things]
        found[f"place {name}"] = _yes(vlm, asked, list(images))
    return found


def _yes(vlm: Vlm, questions: Sequence[str], images: Sequence[np.ndarray]) -> Share:
    answers = vlm.answer([ChatRequest(q, (image,)) for q, image in zip(questions, images, strict=True)])
    return Share(sum(answer.text == YES for answer in answers), len(answers))


def overlaid_rows(rng: np.random.Generator, recipe: TeacherRecipe) -> tuple[np.ndarray, list[list[Turn]]]:
    """Images uint8 (B, 32, 32, 3) under visual prompts: as these ask, otherwise, or with nothing of what they ask."""
    names, shares = list(KINDS), np.array(list(KINDS.values()))
    cases: list[OverlayCase] = []
    for _ in range(recipe.overlaid_images):
        kind = names[rng.choice(len(names), p=shares / shares.sum())]
        if rng.random() < recipe.agreeing_share:
            cases.append(sample_overlay(rng, kind, True))
        else:
            cases.append(sample_overlay(rng, kind, False) if rng.random() < 0.4 else sample_missing(rng, kind))
    return overlay_images(rng, cases), [[overlay_turn(case)] for case in cases]


def with_fooled(
    rng: np.random.Generator, images: np.ndarray, turns: list[list[Turn]], fooled: FoolingImages, share: float
) -> tuple[np.ndarray, list[list[Turn]]]:
    """The same rows, a share of them replaced; as many that are as they are asked as that are not, where there are."""
    images, turns = images.copy(), list(turns)
    by_answer = [[i for i, turn in enumerate(fooled.turns) if turn.answer == answer] for answer in (YES, NO)]
    for place in np.flatnonzero(rng.random(len(turns)) < share):
        some = by_answer[int(rng.random() < 0.5)] or by_answer[0] or by_answer[1]
        chosen = some[int(rng.integers(len(some)))]
        images[place], turns[place] = fooled.images[chosen], [fooled.turns[chosen]]
    return images, turns


def plain_rows(
    rng: np.random.Generator, source: SubjectSource, recipe: TeacherRecipe
) -> tuple[np.ndarray, list[list[Turn]]]:
    """Images uint8 (B, 32, 32, 3) with the VLM's own questions about one image, or with those of where something
    stands; a share shows nothing at all."""
    subjects = source.draw(rng, recipe.plain_images)
    images, turns = np.stack([s.image for s in subjects]), [single_turns(rng, s) for s in subjects]
    for i in np.flatnonzero(rng.random(len(subjects)) < recipe.placed_share):
        scene = placed_scene(rng)
        images[i], turns[i] = render_like_met(rng, [scene], 0.5)[0], place_turns(rng, scene)
    for i in np.flatnonzero(rng.random(len(subjects)) < recipe.empty_share):
        if rng.random() < 0.5:
            images[i] = texture(rng)
        else:
            images[i] = render_like_met(rng, [empty_scene(rng)], 0.5)[0]
        turns[i] = denied(rng)
    return images, turns


def placed_scene(rng: np.random.Generator) -> Scene:
    """One object, or at times two or three, each of a shape of its own."""
    number = 1 if rng.random() < 0.7 else int(rng.integers(2, 4))
    shapes = rng.permutation(list(SHAPES))[:number]
    return sample_scene(rng, caption_from_clauses("two_object", tuple(Clause(str(shape)) for shape in shapes)), 0.2)


def place_turns(rng: np.random.Generator, scene: Scene) -> list[Turn]:
    """Whether an object of a scene stands in a place, as prompts say it: with its colour or without, where it stands,
    where it does not (mostly next to that), with another colour, and of a shape that is not there."""
    item = scene.objects[rng.integers(len(scene.objects))]
    place, colored = place_of(item), f"{item.color} {item.shape}"
    absent = str(rng.choice([shape for shape in SHAPES if all(o.shape != shape for o in scene.objects)]))
    repainted = f"{rng.choice([color for color in COLORS if color != item.color])} {item.shape}"
    told = [(absent, place, NO), (repainted, place, NO)]
    for _ in range(3):
        told.append((colored if rng.random() < 0.4 else item.shape, place, YES))
        told.append((colored if rng.random() < 0.4 else item.shape, elsewhere(rng, place), NO))
    is_all = len(scene.objects) == 1  # an image matches a prompt that names all of it
    return [_stands(rng, *told[i], is_prompt=is_all and rng.random() < 0.5) for i in rng.permutation(len(told))]


def _stands(rng: np.random.Generator, name: str, place: str, answer: str, *, is_prompt: bool) -> Turn:
    thing = f"{counted(name)} {PLACES[place]}"
    if is_prompt:
        return Turn("verify", ask("verify", prompt=f"a photo of {thing}"), answer)
    question = f"Does the image show {thing}?" if rng.random() < 0.5 else f"Is there {thing}?"
    return Turn("yes_no", ask("yes_no", question=question), answer)


def elsewhere(rng: np.random.Generator, place: str) -> str:
    """Another cell of the 3 x 3 grid, two times in three one that touches it."""
    names = list(PLACES)
    row, column = divmod(names.index(place), 3)
    near = [n for i, n in enumerate(names) if n != place and abs(i // 3 - row) <= 1 and abs(i % 3 - column) <= 1]
    return str(rng.choice(near if rng.random() < 2 / 3 else [name for name in names if name != place]))


def empty_scene(rng: np.random.Generator) -> Scene:
    """A background and no objects."""
    return Scene(random_background(rng, 0.4), ())


def denied(rng: np.random.Generator) -> list[Turn]:
    """Turns about an image that shows no object: concepts, prompts and objects, none of which are there."""
    nothing = Scene(random_background(rng, 0.0), ())
    subject = Subject(np.zeros((0, 0, 3), np.uint8), nothing, sample_training_caption(rng))
    concepts = list(CONCEPTS.values())
    turns = [concept_question(rng, concepts[i], nothing) for i in rng.permutation(len(concepts))[:4]]
    turns += [verify(rng, subject), *questions(rng, subject, 5)]
    for is_prompt in (False, True):
        shape, place = str(rng.choice(list(SHAPES))), str(rng.choice(list(PLACES)))
        turns.append(_stands(rng, shape, place, NO, is_prompt=is_prompt))
    order = rng.permutation(len(turns))
    return [turns[i] for i in order]


def texture(rng: np.random.Generator) -> np.ndarray:
    """uint8 (32, 32, 3): a patch of one token's size that is repeated over all of the image, in colours of the world
    over a ground: what a generator draws that moves every token in the same way."""
    ground = np.array(random_background(rng, 0.0).top, float)
    patch = np.broadcast_to(ground, (CELL_PX, CELL_PX, 3)).copy()
    colors = np.array(list(COLORS.values()), float)[rng.permutation(len(COLORS))[: rng.integers(1, 4)]]
    weight = rng.random((CELL_PX, CELL_PX, 1)) ** rng.uniform(0.5, 4) * rng.uniform(0.1, 1)
    drawn = colors[rng.integers(len(colors), size=(CELL_PX, CELL_PX))]
    patch += weight * (drawn - patch)
    times = FRAME_PX // CELL_PX
    image = np.tile(patch, (times, times, 1))
    image += rng.uniform(0, 12) * rng.standard_normal((times, times, 1)).repeat(CELL_PX, 0).repeat(CELL_PX, 1)
    return image.clip(0, 255).astype(np.uint8)


def noisy(rng: np.random.Generator, images: np.ndarray, deviation: float) -> np.ndarray:
    """images uint8, with Gaussian noise of a deviation in shares of the range."""
    spread = images + 255 * deviation * rng.standard_normal(images.shape)
    return spread.clip(0, 255).round().astype(np.uint8)
