"""Parts of a search that see what the judge sees: bounds, to find out which part holds a result back. Micro world only.

The oracle reflector names the true correction of what the judge detected; the oracle corrector renders the detected
scene with the correction made, as a corrector that always does as it is told. (The oracle verifier is the judge.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import numpy as np

from inference.judges.geneval_scoring import judge_objects
from inference.judges.segmentation_judge import SegmentationJudge, SegmentationJudgeConfig
from inference.prompt_grammar import parse_prompt
from inference.search import NOTHING_WRONG, Remark, SearchConfig, SearchTools
from inference.search_tools import SearchToolsConfig
from inference.vlm.endpoint import Journal
from inference.vlm.vlm import VlmConfig
from microworld.scenes.apply_edit import apply_edit
from microworld.scenes.captions import caption_of_record
from microworld.scenes.corrections import corrections, refine_prompt
from microworld.scenes.instructions import instruction, parse_instruction, split_sentences
from microworld.scenes.world import COLORS, SHAPES, Background, Scene, SceneObject, render
from schemas.configuration import stable_seed
from schemas.records import AtomValue, DetectedObject, PromptRecord

OracleKind = Literal["corrector", "reflector"]


@dataclass(frozen=True)
class OracleToolsConfig(SearchToolsConfig):
    """The models of a search, some of them replaced by parts that see what the judge sees."""

    oracles: tuple[OracleKind, ...] = ()
    sees: SegmentationJudgeConfig = field(default_factory=lambda: SegmentationJudgeConfig(model="micro/judge"))
    """The judge through whose eyes they see."""

    @classmethod
    def of(cls, tools: SearchToolsConfig, oracles: tuple[OracleKind, ...]) -> OracleToolsConfig:
        """`tools` with oracles."""
        kept = {part.name: getattr(tools, part.name) for part in fields(SearchToolsConfig)}
        corrector = None if "corrector" in oracles else tools.corrector
        return cls(**(kept | {"corrector": corrector}), oracles=oracles)

    def for_search(self, search: SearchConfig, vlm: VlmConfig) -> OracleToolsConfig:
        """What a strategy needs of it and nothing else. InputError for what is missing."""
        drawn_again = "corrector" in self.oracles
        asked = search
        if drawn_again and "reflection" in search.strategy:
            asked = replace(search, strategy="noise+prompt", route="correct")
        found = SearchToolsConfig.for_search(self, asked, vlm)
        return OracleToolsConfig.of(replace(found, routes=self.routes_for(search)), self.oracles)

    def open(self, journal: Journal | None = None) -> SearchTools:
        """Load what it names. MissingWeightsError, InputError."""
        tools, judge = super().open(journal), SegmentationJudge(self.sees)
        if "corrector" in self.oracles:
            tools = replace(tools, corrector=OracleCorrector(judge))
        return replace(tools, critic=OracleCritic(judge)) if "reflector" in self.oracles else tools


def scene_of(objects: Sequence[DetectedObject], min_score: float, background: Background | None = None) -> Scene:
    """What the judge saw, as a scene. Objects of no shape, of no one colour, or not clear enough are left out."""
    seen = []
    for found in objects:
        if found.class_name in SHAPES and found.color in COLORS and found.score > min_score:
            x0, y0, x1, y1 = found.box
            seen.append(SceneObject(found.class_name, found.color, (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0)))
    return Scene(background or Background(), tuple(seen))


class OracleCritic:
    """See `inference.search.Critic`."""

    def __init__(self, judge: SegmentationJudge) -> None:
        self._judge = judge

    def remark(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        current: Sequence[str],
        scores: Sequence[float],
        *,
        explanations: Sequence[str] = (),
        atoms: Sequence[tuple[AtomValue, ...]] = (),
        records: Sequence[PromptRecord] = (),
        reflect: bool,
        refine: bool,
    ) -> list[Remark]:
        """True corrections, and prompts refined by them. InputError for prompts in none of GenEval's forms, where no
        record says what is required."""
        del explanations, atoms  # what the judge saw is all it goes by
        remarks = []
        asked = records or [parse_prompt(prompt) for prompt in prompts]
        for prompt, record, objects in zip(prompts, asked, self._judge.find_objects(images), strict=True):
            caption = caption_of_record(record)
            limits = self._judge.config.thresholds
            scene = scene_of(objects, limits.of(record.tag))
            is_right = judge_objects(record, objects, limits).correct
            edits = () if is_right else corrections(caption, scene)
            told = " ".join(instruction(edit) for edit in edits) or NOTHING_WRONG
            refined = refine_prompt(np.random.default_rng(stable_seed(prompt, told)), caption, scene)
            remarks.append(Remark(told if reflect else "", refined if refine else prompt))
        return remarks


class OracleCorrector:
    """See `inference.interfaces.Corrector`: does what parses of a reflection, and leaves the rest as it is."""

    def __init__(self, judge: SegmentationJudge) -> None:
        self._judge = judge

    def correct(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        reflections: Sequence[str],
        seeds: Sequence[int],
    ) -> list[np.ndarray]:
        """Rendered scenes, uint8 (32, 32, 3), on the image's own mean background."""
        scenes = []
        found = self._judge.find_objects(images)
        for image, objects, reflection, seed in zip(images, found, reflections, seeds, strict=True):
            scene = scene_of(objects, self._judge.config.thresholds.default, _background_of(image))
            rng = np.random.default_rng(seed)
            for sentence in split_sentences(reflection):
                edit = parse_instruction(sentence)
                scene = scene if edit is None else apply_edit(rng, scene, edit)
            scenes.append(scene)
        return list(render(scenes).images)


def _background_of(image: np.ndarray) -> Background:
    """Plain, of the colour that the image's edges have at the median."""
    edges = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    red, green, blue = (int(v) for v in np.median(edges, axis=0))
    return Background("plain", (red, green, blue), (red, green, blue))
