"""The micro world's commonsense set: pairs of prompts that a VLM understands and the generator does not.

"a photo of a sunrise" says nothing to the generator, which has never seen the word; the VLM was taught that it is a
yellow circle just above the horizon. Beside such concept words stand the generator's weakest tags (positions, counts,
two coloured objects), whose words it knows and often gets wrong. The judge is the benchmark's, which has seen neither
VLM nor search: it finds objects and their colours, the horizon is read from the pixels between them, and plain rules
(`Concept.holds`, GenEval's) say whether that is what a description asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from inference.judges.commonsense_t2i import CommonsensePair
from inference.judges.geneval_scoring import judge_objects
from inference.judges.segmentation_judge import SegmentationJudge, SegmentationJudgeConfig
from inference.prompt_grammar import parse_prompt
from microworld.scenes.captions import PLACES, place_of
from microworld.scenes.concepts import CONCEPTS, Concept
from microworld.scenes.evaluation_split import dev_prompts, test_prompts
from microworld.scenes.world import COLORS, FRAME_PX, SHAPES, Background, Scene, SceneObject
from schemas.images import decode_mask
from schemas.records import DetectedObject, ObjectClause, PromptRecord, Tag

CONCEPT_PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "horizon": (("sunrise", "noon"), ("grave", "pyramid"), ("balloon", "buoy"), ("iceberg", "volcano")),
    "thing": (("clover", "valentine"), ("emerald", "coal"), ("moon", "polestar"), ("hospital", "clover")),
    "stack": (("house", "pine"), ("lamp", "trophy"), ("flower", "gelato"), ("snowman", "stoplight")),
    "row": (("eyes", "bicycle"), ("wedding", "chain"), ("caterpillar", "flag"), ("bicycle", "wedding")),
}
"""Words of `concepts.CONCEPTS` whose scenes the judge can read: no outlines, and nothing inside something else."""

WEAK_TAGS = (Tag.POSITION, Tag.COUNTING, Tag.COLOR_ATTR)
MIN_HORIZON_STEP = 10.0  # of grey values, between the two sides: less is no horizon
HORIZON_MARGIN_PX = 4  # a horizon nearer to the edge cannot be told from an uneven image
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def concept_phrase(word: str) -> str:
    """ "a sunrise", "an egg", "eyes"."""
    return word if word == "eyes" else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def concept_prompt(word: str) -> str:
    """What the generator is asked for."""
    return f"a photo of {concept_phrase(word)}"


def commonsense_pairs(pairs_per_category: int = 4, *, sealed: bool = False) -> list[CommonsensePair]:
    """Concept pairs and, for each weak tag, pairs of opposite prompts. sealed: of the test split, not of dev."""
    found = [
        CommonsensePair(
            (concept_prompt(a), concept_prompt(b)), (CONCEPTS[a].description, CONCEPTS[b].description), category
        )
        for category, words in CONCEPT_PAIRS.items()
        for a, b in words[:pairs_per_category]
    ]
    split = test_prompts() if sealed else dev_prompts()
    for tag in WEAK_TAGS:
        texts = list(dict.fromkeys(record.text for record in split if record.tag == tag))
        for text in texts[:pairs_per_category]:
            both = (text, opposite(parse_prompt(text)))
            found.append(CommonsensePair(both, both, tag))
    return found


def opposite(record: PromptRecord) -> str:
    """The prompt with the other relation, one object more or less, or the two colours the other way round."""
    from microworld.scenes.captions import caption_from_clauses, caption_of_record

    clauses = list(record.include)
    match record.tag:
        case Tag.POSITION:
            moved = next(i for i, clause in enumerate(clauses) if clause.relation)
            clauses[moved] = replace(clauses[moved], relation=_OPPOSITE[clauses[moved].relation or ""])
        case Tag.COUNTING:
            count = clauses[0].count
            clauses[0] = replace(clauses[0], count=count - 1 if count > 2 else count + 1)
        case _:
            first, second = clauses
            clauses = [_colored(first, second), _colored(second, first)]
    return caption_from_clauses(
        record.tag or "", caption_of_record(replace(record, include=tuple(clauses))).clauses
    ).text


def _colored(clause: ObjectClause, other: ObjectClause) -> ObjectClause:
    return replace(clause, color=other.color)


class MicroDescriptionJudge:
    """Says whether images fit descriptions: of concepts, or prompts of the six tags, a place behind them or none."""

    def __init__(self, judge: SegmentationJudge | None = None) -> None:
        self.judge = judge or SegmentationJudge(SegmentationJudgeConfig(model="micro/judge"))
        self._concepts = {concept.description: concept for concept in CONCEPTS.values()}

    def fits(self, images: Sequence[np.ndarray], own: Sequence[str], other: Sequence[str]) -> np.ndarray:
        """bool (n,). InputError for a description that is neither."""
        found = self.judge.find_objects(images)
        seen = list(zip(images, found, strict=True))
        return np.array(
            [
                self.is_shown(image, objects, mine) and not self.is_shown(image, objects, not_mine)
                for (image, objects), mine, not_mine in zip(seen, own, other, strict=True)
            ],
            bool,
        )

    def shows(self, images: Sequence[np.ndarray], descriptions: Sequence[str]) -> np.ndarray:
        """bool (n,): whether each image fits one description, whatever else it may fit."""
        found = self.judge.find_objects(images)
        return np.array(
            [self.is_shown(i, o, text) for i, o, text in zip(images, found, descriptions, strict=True)], bool
        )

    def is_shown(self, image: np.ndarray, objects: Sequence[DetectedObject], description: str) -> bool:
        """The same of one image in which the judge found `objects`."""
        limits = self.judge.config.thresholds
        concept = self._concepts.get(description)
        if concept is not None:
            return holds_in(concept, image, objects, limits.default)
        words, place = without_place(description)
        if place is not None:
            objects = [o for o in objects if place_of(_scene_object(o, image.shape[0])) == place]
        return judge_objects(parse_prompt(words), objects, limits).correct


def without_place(description: str) -> tuple[str, str | None]:
    """ "a photo of a heart at the top" -> "a photo of a heart" and the place, a key of `PLACES`."""
    for place, phrase in PLACES.items():
        if description.endswith(f" {phrase}"):
            return description.removesuffix(f" {phrase}"), place
    return description, None


def holds_in(concept: Concept, image: np.ndarray, objects: Sequence[DetectedObject], min_score: float) -> bool:
    """Whether what a judge found in an image is the concept. An object of no clear shape or colour makes it another."""
    clear = [o for o in objects if o.score > min_score]
    if any(o.class_name not in SHAPES or o.color not in COLORS for o in clear):
        return False
    return concept.holds(Scene(background_of(image, objects), tuple(_scene_object(o, image.shape[0]) for o in clear)))


def _scene_object(found: DetectedObject, size_px: int) -> SceneObject:
    x0, y0, x1, y1 = (edge * FRAME_PX / size_px for edge in found.box)
    return SceneObject(found.class_name, found.color or "", (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0))


def background_of(image: np.ndarray, objects: Sequence[DetectedObject]) -> Background:
    """A horizon where the pixels between the objects have one tone above a row and another below it, else plain.

    The row is that of the best two-step fit to the rows' medians; a gradient fits a straight line better.
    """
    free = np.ones(image.shape[:2], bool)
    for found in objects:
        if found.mask_png is not None:
            free &= ~_grown(decode_mask(found.mask_png))
    height = len(image)
    rows = [row for row in range(height) if free[row].sum() >= 4]
    tones = np.array([np.median(image[row][free[row]], axis=0) for row in rows], float)
    best: tuple[float, float, float] | None = None  # error, row, step
    for cut in range(HORIZON_MARGIN_PX, height - HORIZON_MARGIN_PX):
        above, below = tones[[r < cut for r in rows]], tones[[r >= cut for r in rows]]
        if len(above) < 3 or len(below) < 3:
            continue
        middle, other = np.median(above, axis=0), np.median(below, axis=0)
        error = float(np.abs(above - middle).sum() + np.abs(below - other).sum())
        step = float(np.abs(middle - other).mean())
        if best is None or error < best[0]:
            best = (error, cut, step)
    if best is None or best[2] < MIN_HORIZON_STEP or best[0] > _error_of_a_line(np.array(rows), tones):
        return Background()
    return Background("horizon", horizon_px=best[1] * FRAME_PX / height)


def _error_of_a_line(rows: np.ndarray, tones: np.ndarray) -> float:
    design = np.stack([rows, np.ones(len(rows))], 1)
    fitted, *_ = np.linalg.lstsq(design, tones, rcond=None)
    return float(np.abs(tones - design @ fitted).sum())


def _grown(mask: np.ndarray) -> np.ndarray:
    """A mask and the pixels around it, which an edge has blurred."""
    padded = np.pad(mask, 1)
    grown = np.zeros_like(mask)
    for dy in range(3):
        for dx in range(3):
            grown |= padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]]
    return grown
