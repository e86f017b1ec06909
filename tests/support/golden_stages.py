"""What each stage makes of a small fixed input, its models scripted: one file a stage in tests/golden.

`python -m tests.support.golden_stages NAME ...` writes the file of a stage, after its `version` was bumped (or, for one
that has none yet, at once); it writes over no output of a version that is still the stage's own. Without names, all.
"""

import dataclasses
import hashlib
import importlib
import inspect
import io
import json
import pkgutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import pipelines.stages
from inference.allocation import AllocationConfig
from inference.generator import GeneratorConfig
from inference.grounding.grounded_sam import GroundedSam
from inference.interfaces import Detection, OneCallAnImage
from inference.judges.geneval_scoring import ScoreThresholds
from inference.requirements.reader import RequirementsReader
from inference.rewards.reward import RewardConfig
from inference.search import SearchConfig
from inference.search_tools import SearchToolsConfig
from inference.vlm.prompts import load_prompt
from microworld.family import micro_flux, micro_vlm
from pipelines.prompts.edit_files import EditIntake, EditQuality, iterate_edits
from pipelines.stage import Stage
from pipelines.stages.allocate_round import AllocateRound, AllocateRoundConfig
from pipelines.stages.caption_images import CaptionImages, CaptionImagesConfig
from pipelines.stages.condense_prompts import CondensePrompts, CondensePromptsConfig
from pipelines.stages.draft_round import DraftRound, DraftRoundConfig
from pipelines.stages.filter_pairs import FilterPairs, FilterPairsConfig
from pipelines.stages.generate_candidates import GenerateCandidates, GenerateCandidatesConfig
from pipelines.stages.ground_objects import GroundObjects, GroundObjectsConfig
from pipelines.stages.harvest_pairs import HarvestPairs, HarvestPairsConfig
from pipelines.stages.judge_candidates import JudgeCandidates, JudgeCandidatesConfig
from pipelines.stages.read_edits import ReadEdits, ReadEditsConfig
from pipelines.stages.read_requirements import ReadRequirements, ReadRequirementsConfig
from pipelines.stages.score_drafts import ScoreDrafts, ScoreDraftsConfig
from pipelines.stages.score_rewards import ENSEMBLE, ScoreRewards, ScoreRewardsConfig
from pipelines.stages.select_by_reward import SelectByLength, SelectByReward, SelectByRewardConfig
from pipelines.stages.write_reflections import WriteReflections, WriteReflectionsConfig
from schemas.records import (
    Candidate,
    DetectedObject,
    EditSource,
    ObjectClause,
    PromptRecord,
    PromptRow,
    Reflection,
    Reward,
    SearchStep,
)
from tests.support.scripted_search import Bright, Draws, tools
from tests.support.vlm_rows import ScriptedVlm, candidate, paired_row

GOLDEN = Path(__file__).parents[1] / "golden"
SEED = 7
LONG = "There are two red stars. In the upper left there is a large blue ring on a grey background."
RED_STAR = PromptRecord("rule-000000", "a red star", "rule", "colors", (ObjectClause("star", color="red"),))


def stage_classes() -> dict[str, type[Stage]]:
    """Every stage of the pipeline by its name, whatever file of pipelines/stages it is in."""
    found: dict[str, type[Stage]] = {}
    for module in pkgutil.iter_modules(pipelines.stages.__path__, "pipelines.stages."):
        for _, value in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(value, Stage) and "name" in vars(value):
                found[value.name] = value
    return found


def output_of(name: str) -> list[Any]:
    """Rows that a stage makes of its fixed input, as plain data."""
    return [plain(row) for row in SCENARIOS[name]()]


def plain(value: Any) -> Any:
    """Only what differs from a field's default; images by their digest; numbers to six figures."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: field for field in dataclasses.fields(value)}
        said = {name: getattr(value, name) for name in fields}
        return {name: plain(v) for name, v in said.items() if v != _default(fields[name])}
    if isinstance(value, (tuple, list)):
        return [plain(one) for one in value]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()[:16]
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value


def _default(field: dataclasses.Field) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def write(name: str) -> str:
    """Write a stage's file, unless it would hide that the version was not bumped. What was done, in words."""
    path, version, rows = GOLDEN / f"{name}.json", stage_classes()[name].version, output_of(name)
    if path.exists():
        before = json.loads(path.read_text())
        if before["version"] == version:
            return f"{name}: as it was" if before["rows"] == rows else f"{name}: output changed: bump `version` first"
    path.write_text(json.dumps({"version": version, "rows": rows}, indent=1) + "\n")
    return f"{name}: written, version {version}"


# Selection


def scored_row(number: int, subset: str, values: list[float], texts: list[str]) -> PromptRow:
    candidates = [
        candidate(i, i, text, (Reward(ENSEMBLE, value),))
        for i, (value, text) in enumerate(zip(values, texts, strict=True))
    ]
    return PromptRow(PromptRecord(f"{subset}-{number:06d}", "long text", subset), tuple(candidates))


def select_by_reward() -> list[PromptRow]:
    values = ([1.5, -0.5, 0.2, -1.2, 0.9, -0.9], [0.1, 0.0, 0.05, -0.05], [2.0, -2.0])
    rows = [scored_row(n, "general", v, ["long text"] * len(v)) for n, v in enumerate(values)]
    return SelectByReward(SelectByRewardConfig(), SEED)(rows)


def select_by_length() -> list[PromptRow]:
    both = ["long text"] * 3 + ["text"] * 3
    values = ([1.0, 0.9, 0.8, 0.0, -1.0, 2.0], [0.1, 0.0, 0.05, -0.05, 0.0, 0.1])
    rows = [scored_row(n, "length", v, both) for n, v in enumerate(values)]
    return SelectByLength(SelectByRewardConfig(), SEED)(rows)


def allocate_round() -> list[PromptRow]:
    def row(number: int, *scores: float) -> PromptRow:
        return searched_row(number, [SearchStep(round=0, chain=i, score=score) for i, score in enumerate(scores)])

    config = AllocateRoundConfig(AllocationConfig(budget=4, sure=6.0), width=2)
    rows = [row(0, 1.0, 2.5), row(1, 7.0, -1.0), row(2, -3.0, 0.5)]
    plan = {"goes_on": True, "from_score": 1.0, "spent": 6}
    return [*AllocateRound(config, SEED, plan)(rows), *AllocateRound(config, SEED, {"goes_on": False})(rows)]


# Images in


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def read_edits() -> list[PromptRow]:
    """Triplets of a file: sound, broken, unedited, of two shapes, of two sizes."""
    ramp = np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3)
    pairs = [
        (png(ramp), png(255 - ramp)),
        (png(ramp), b"no image"),
        (png(ramp), png(ramp)),
        (png(ramp), png(ramp[:6])),
        (png(ramp), png(255 - ramp[:8, :8])),
    ]
    values = [
        {"src_img": source, "edited_img": edited, "edited_prompt_list": [f"Edit {n}."]}
        for n, (source, edited) in enumerate(pairs)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edits.parquet"
        pq.write_table(pa.Table.from_pylist(values), path)
        stage = ReadEdits(ReadEditsConfig(), SEED)
        stage.load()
        done = stage(list(iterate_edits(str(path), EditQuality(0, 0, 0), EditIntake(), False)))
    return [replace(row, edit=replace(row.edit, file="edits.parquet") if row.edit else None) for row in done]


def generate_candidates() -> list[PromptRow]:
    generator = GeneratorConfig("flux", micro_flux(num_steps=5, true_cfg_scale=2.0))
    stage = GenerateCandidates(GenerateCandidatesConfig(candidates_per_prompt=3, generator=generator), SEED)
    stage.generator = Draws()
    condensed = PromptRow(PromptRecord("length-000000", LONG, "length"), condensed="two red stars")
    return stage([PromptRow(RED_STAR), condensed])


# Models that look


class Finds:
    """A star in every image, red where the image is bright; twice where it is brightest."""

    def detect(self, images, class_names):
        def found(shown, names):
            boxes = [(1.0, 1.0, 5.0, 5.0), (4.0, 4.0, 8.0, 8.0)][: 1 + int(shown.mean() > 250)]
            return [Detection(names[0], 0.9 - 0.2 * i, box) for i, box in enumerate(boxes)]

        return [found(shown, names) for shown, names in zip(images, class_names, strict=True)]


class Fills:
    """A mask is its whole box."""

    def segment(self, images, boxes):
        masks = [np.zeros((len(b), *shown.shape[:2]), bool) for shown, b in zip(images, boxes, strict=True)]
        for of_one, found in zip(masks, boxes, strict=True):
            for mask, (x0, y0, x1, y1) in zip(of_one, found.astype(int), strict=True):
                mask[y0:y1, x0:x1] = True
        return masks


class RedIfBright:
    def name_colors(self, images, masks, class_names):
        return [["red" if i.mean() > 128 else "blue"] * len(m) for i, m in zip(images, masks, strict=True)]


class Sees:
    """A judge: a red star where the image is bright, none where it is dark, one it is unsure of in between."""

    thresholds = ScoreThresholds()
    known_classes = frozenset({"star"})
    known_colors = frozenset({"red"})

    def find_objects(self, images, prompts=None):
        def found(shown):
            score = 0.95 if shown.mean() > 128 else 0.2
            star = DetectedObject("star", score, (1.0, 1.0, 7.0, 7.0), "red", b"a mask")
            return [star] if shown.mean() > 10 else []

        return [found(shown) for shown in images]


def drawn_rows() -> list[PromptRow]:
    """Two prompts with images of other greys."""
    counted = PromptRecord(
        "rule-000001", "two stars", "rule", "counting", (ObjectClause("star", 2),), (ObjectClause("star", 3),)
    )
    return [
        PromptRow(RED_STAR, (candidate(0, 255), candidate(1, 100), candidate(2, 0))),
        PromptRow(counted, (candidate(0, 200, "a red star!"), candidate(1, 252))),
    ]


def ground_objects() -> list[PromptRow]:
    stage = GroundObjects(GroundObjectsConfig(), SEED)
    stage.grounded_sam = GroundedSam(Finds(), Fills(), RedIfBright())
    return stage(drawn_rows())


def judge_candidates() -> list[PromptRow]:
    stage = JudgeCandidates(JudgeCandidatesConfig(), SEED)
    stage.judge = Sees()
    return stage(drawn_rows())


# Models that score


class Scores(OneCallAnImage):
    """By the image's grey and the prompt's length."""

    def __init__(self, of_grey: float, of_length: float) -> None:
        self.of_grey, self.of_length = of_grey, of_length

    def score(self, images, prompts):
        greys, lengths = [i.mean() for i in images], [len(prompt) for prompt in prompts]
        return (self.of_grey * np.array(greys) + self.of_length * np.array(lengths)).astype(np.float32)


def score_rewards() -> list[PromptRow]:
    rewards = (RewardConfig("clip"), RewardConfig("hps", weight=2.0))
    stage = ScoreRewards(ScoreRewardsConfig(rewards), SEED)
    stage.scorers = {"clip": Scores(0.5, 1.0), "hps": Scores(-0.25, 0.5)}
    return stage(drawn_rows())


def score_drafts() -> list[PromptRow]:
    stage = ScoreDrafts(ScoreDraftsConfig(), SEED)
    stage.verifiers = {"rewards": Scores(1.0, 0.0), "rules": Scores(0.0, 1.0)}
    return stage(drawn_rows())


def filter_pairs() -> list[PromptRow]:
    stage = FilterPairs(FilterPairsConfig(min_margin=200.0), SEED)
    stage.verifier = Bright()
    given = Reflection("Add a red star.", "rule")
    rows = [paired_row(0, num_pairs=2, reflection=given), paired_row(1)]
    (first, second) = rows
    backwards = tuple(replace(pair, good=pair.bad, bad=pair.good) for pair in first.pairs[1:])
    close = tuple(candidate(c.index, 250 - 9 * c.index) for c in second.candidates)
    return stage([replace(first, pairs=(first.pairs[0], *backwards)), replace(second, candidates=close)])


# Models that write


def condense_prompts() -> list[PromptRow]:
    said = {"length-000000": ["two stars and a blue ring"], "length-000001": ["two green stars", "two stars"]}
    said["length-000002"] = [LONG, "two green stars and purple hearts"]

    def say(request):
        (name,) = [name for name in said if name in request.text]
        return said[name]

    stage = CondensePrompts(CondensePromptsConfig(vlm=micro_vlm(), prompt="micro/condense"), SEED)
    stage.vlm = ScriptedVlm(say)
    return stage([PromptRow(PromptRecord(name, f"{LONG} {name}.", "length")) for name in said])


def read_requirements() -> list[PromptRow]:
    """Answers that read, at once and at the second try; that name nothing; and that never read."""
    fox = {"include": [{"class": "fox"}], "questions": [{"question": "Is it writing?", "answer": "Yes"}]}
    stars = {"include": [{"class": "star", "count": 2, "color": "red"}, {"class": "ring", "color": "teal"}]}
    said = {"A fox writes": json.dumps(fox), "Sternenpaar": ["{", json.dumps(stars)], "Silence": "{}", "Fog": "Fog."}
    said["Silence"] = json.dumps({"include": [], "questions": []})

    def say(request):
        return next(answer for text, answer in said.items() if f"{text}\n-----" in request.text)

    stage = ReadRequirements(ReadRequirementsConfig(), SEED)
    stage.reader = RequirementsReader(ScriptedVlm(say), load_prompt("requirements"))
    free = [PromptRecord(f"rule-{number:06}", text, "rule") for number, text in enumerate([*said, "Silence"])]
    typed = PromptRecord("rule-000005", "a photo of a star", "rule", "single_object", (ObjectClause("star"),))
    return stage([PromptRow(record) for record in (*free, typed)])


def caption_images() -> list[PromptRow]:
    stage = CaptionImages(CaptionImagesConfig(vlm=micro_vlm(), prompt="micro/caption"), SEED)
    stage.vlm = ScriptedVlm(lambda r: ["white", "a white square"] if r.images[0].mean() > 252 else "grey")
    edit = EditSource("edits.parquet", 0, "Paint it white.")
    asked, given = paired_row(0, "editing", text=edit.instruction), paired_row(1, "editing", text="a caption")
    grey = replace(paired_row(2, "editing", text=edit.instruction), candidates=(candidate(0, 100), candidate(1, 0)))
    return stage([replace(row, edit=edit) for row in (asked, given, grey)])


def write_reflections() -> list[PromptRow]:
    """Both who compare and who reflect; right verdicts, wrong ones, and instructions that are none."""
    told = {"general-000002": "Ensure that it is red."}
    wrong, malformed = "general-000004", "general-000006"

    def brighter(request):
        half = request.images[0].shape[1] // 2
        return "left" if request.images[0][:, :half].mean() > request.images[0][:, half:].mean() else "right"

    def compares(request):
        side, known = brighter(request), [name for name in told if name in request.text]
        if wrong in request.text:
            side = {"left": "right", "right": "left"}[side]
        instruction = told[known[0]] if known else "Add a red star."
        answer = json.dumps({"Analysis": "One shows it.", "Result": side, "Instructions": instruction})
        return ["no JSON", answer] if malformed in request.text else answer

    config = WriteReflectionsConfig(
        vlm=micro_vlm(),
        prompt="micro/compare",
        cot_share=0.7,
        reflector="micro/reflector",
        reflector_prompt="micro/reflect",
        image_px=0,
    )
    stage = WriteReflections(config, SEED)
    stage.vlm, stage.reflector = ScriptedVlm(compares), ScriptedVlm(lambda request: "Paint it red.")
    rows = [paired_row(n, text=f"a red star general-{n:06d}") for n in range(6)]
    kept = paired_row(0, "editing", reflection=Reflection("Paint it white.", "dataset"))
    return stage([*rows, paired_row(6, num_pairs=2, text="a red star general-000006"), kept])


# Searches


def searched_row(number: int, steps: list[SearchStep], name: str = "rule") -> PromptRow:
    """A draft for each step, as bright as its number."""
    drafts = [replace(candidate(i, 10 * i), search=step) for i, step in enumerate(steps)]
    return PromptRow(replace(RED_STAR, prompt_id=f"{name}-{number:06d}"), tuple(drafts))


def draft_round() -> list[PromptRow]:
    """Three rounds with reflections; the second prompt stops after the second."""
    search = SearchConfig(width=2, depth=3, strategy="noise+prompt+reflection")
    flux = GeneratorConfig("flux", micro_flux(num_steps=4))
    stage = DraftRound(DraftRoundConfig(search, SearchToolsConfig(generator=flux)), SEED)
    stage.tools = tools()
    rows = [PromptRow(RED_STAR), PromptRow(replace(RED_STAR, prompt_id="rule-000001", text="two rings"))]
    rows = stage(stage(rows))
    return stage([rows[0], replace(rows[1], allotted=0)])


class Searched:
    """A search's run folder, as far as a harvest reads it."""

    def __init__(self, rows: list[PromptRow]) -> None:
        self.rows = rows

    def read_block(self, name, key, unit):
        bare = [replace(r, candidates=tuple(replace(c, image=None) for c in r.candidates)) for r in self.rows]
        return None, bare

    def with_images(self, rows, name, key, unit):
        images = {(r.prompt.prompt_id, c.index): c.image for r in self.rows for c in r.candidates}

        def seen(row: PromptRow) -> tuple[Candidate, ...]:
            return tuple(replace(c, image=images[row.prompt.prompt_id, c.index]) for c in row.candidates)

        return [replace(row, candidates=seen(row)) for row in rows]


def harvest_pairs() -> list[PromptRow]:
    def step(round: int, chain: int, score: float, parent: int | None = None, said: str | None = None) -> SearchStep:
        return SearchStep(round=round, chain=chain, score=score, parent=parent, reflection=said)

    better = [
        step(0, 0, -3.0),
        step(0, 1, -1.0),
        step(1, 0, 2.0, 0, "Add a red star."),
        step(1, 1, 1.5, 1, "Paint it."),
    ]
    better += [step(2, 0, 4.0, 2, "Make it larger."), step(2, 1, 0.5, 1, "Ensure that it is red.")]
    in_vain = [step(0, 0, -3.0), step(0, 1, 5.0), step(1, 0, -2.0, 0, "Add a red star."), step(1, 1, 5.5)]
    traces = [searched_row(0, better), searched_row(1, in_vain)]
    stage = HarvestPairs(HarvestPairsConfig(rounds=("a", "b"), annotator="micro/reflector"), SEED)
    stage.search, stage.unit_of = Searched(traces), {row.prompt.prompt_id: 0 for row in traces}
    return stage([PromptRow(row.prompt) for row in traces])


SCENARIOS: dict[str, Callable[[], list[PromptRow]]] = {
    scenario.__name__: scenario
    for scenario in (
        allocate_round,
        caption_images,
        condense_prompts,
        draft_round,
        filter_pairs,
        generate_candidates,
        ground_objects,
        harvest_pairs,
        judge_candidates,
        read_edits,
        read_requirements,
        score_drafts,
        score_rewards,
        select_by_length,
        select_by_reward,
        write_reflections,
    )
}


def main(names: list[str]) -> Iterator[str]:
    """What was done, a line a stage."""
    for name in names or SCENARIOS:
        yield write(name)


if __name__ == "__main__":
    print("\n".join(main(sys.argv[1:])))
