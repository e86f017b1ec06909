"""A run folder without a model: scenes of the micro world stand in for generated images, their truth for detections.

Everything else is the real thing: blocks, keys, the check, the pairing. Quick enough for a run in every test.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from inference.grounding.check import check_objects
from microworld.scenes.captions import Caption, Clause, caption_from_clauses, sample_caption, sample_scene
from microworld.scenes.world import Scene, random_scene, render
from pipelines.intake import lay_out
from pipelines.jobs import DatasetConfig, resolve_chains
from pipelines.run_folder import FORMAT, RunFolder, RunInfo, root_key
from pipelines.stages.select_pairs import SelectPairs
from recipes import catalogue
from schemas.arrow import hash_rows
from schemas.blocks import footer_of
from schemas.configuration import stable_seed
from schemas.images import encode_png, sha256
from schemas.records import (
    Candidate,
    Cost,
    DetectedObject,
    ObjectClause,
    PromptRecord,
    PromptRow,
    Quarantine,
)


@dataclass(frozen=True)
class Invented:
    """What to invent. num_units_done: None for all. quarantine_every: a row in so many fails in ground_objects."""

    num_prompts: int = 24
    num_candidates: int = 6
    unit_size: int = 8
    size_px: int = 32
    seed: int = 0
    num_units_done: int | None = None
    quarantine_every: int | None = None
    share_right: float | None = None
    rewrite: Callable[[int, PromptRecord], PromptRecord] = lambda index, prompt: prompt
    settings: Callable[[DatasetConfig], DatasetConfig] = lambda config: config


def invented_run(path: Path | str, invented: Invented = Invented()) -> tuple[RunFolder, DatasetConfig]:
    """Write a run and return it as the commands would open it."""
    config = catalogue.load("micro", "dataset")
    config = replace(
        config,
        num_prompts=invented.num_prompts,
        seed=invented.seed,
        unit_size=invented.unit_size,
        generate=replace(config.generate, candidates_per_prompt=invented.num_candidates),
    )
    config = invented.settings(config)
    rng = np.random.default_rng(invented.seed)
    captions = [sample_caption(rng) for _ in range(invented.num_prompts)]
    rows = [PromptRow(invented.rewrite(i, _record(i, caption))) for i, caption in enumerate(captions)]
    folder = RunFolder.create(str(path), _info(config, invented), rows)
    steps = resolve_chains(folder, config)["rule"]
    units = folder.units()[: invented.num_units_done]
    for unit in units:
        before = folder.prompts(unit)
        unit_captions = captions[unit * invented.unit_size :][: len(before)]
        drawn = [_draw(row, caption, invented, rng) for row, caption in zip(before, unit_captions, strict=True)]
        grounded = [
            _ground(row, quarantined=_failing(invented, unit * invented.unit_size + index))
            for index, row in enumerate(drawn)
        ]
        select = SelectPairs(steps[-1].link.config, config.seed)
        select.load()
        paired = [select([row])[0] if row.active else replace(row, cost=Cost()) for row in grounded]
        upstream = hash_rows(before)
        for step, made in zip(steps, (drawn, grounded, paired), strict=True):
            footer = footer_of(step.name, step.key, unit, upstream, made)
            folder.write_block(footer, made, with_images=step.link.stage.makes_images)
            upstream = footer.rows_hash
        _write_extras(folder, unit, grounded, [(step.name, step.key) for step in steps])
    return folder, config


def _info(config: DatasetConfig, invented: Invented) -> RunInfo:
    return RunInfo(
        format=FORMAT,
        preset="micro",
        config=asdict(config),
        seed=config.seed,
        unit_size=config.unit_size,
        root_key=root_key(config.seed, config.unit_size, config.num_threads),
        segments=lay_out({"rule": invented.num_prompts}, config.unit_size),
        digests={"micro/flux": "0123456789abcdef", "micro/grounding-dino": "fedcba9876543210"},
        intake={"rule": {"source": "invented", "num_prompts": invented.num_prompts, "removed_same_text": 3}},
        code_commit="0" * 40,
        created_at="2025-01-01T00:00:00Z",
    )


def _record(index: int, caption: Caption) -> PromptRecord:
    include = tuple(_clause(clause) for clause in caption.clauses)
    return PromptRecord(f"rule-{index:06d}", caption.text, "rule", caption.tag, include)


def _clause(clause: Clause) -> ObjectClause:
    relation, other = clause.relation or (None, None)
    return ObjectClause(clause.shape, clause.count, clause.color, relation, other)


def _failing(invented: Invented, index: int) -> bool:
    return invented.quarantine_every is not None and index % invented.quarantine_every == 1


def _draw(row: PromptRow, caption: Caption, invented: Invented, rng: np.random.Generator) -> PromptRow:
    share = rng.random() if invented.share_right is None else invented.share_right
    right = rng.random(invented.num_candidates) < share
    scenes = [sample_scene(rng, caption) if fine else _spoilt(caption, rng) for fine in right]
    candidates = []
    for index, image in enumerate(render(scenes, invented.size_px).images):
        png = encode_png(image)
        seed = stable_seed(invented.seed, row.prompt.prompt_id, index)
        size = invented.size_px
        candidates.append(Candidate(index, seed, row.prompt.text, 8, size, size, sha256(png), png))
    # What was drawn is found again by `_ground`: the scene travels with the row.
    _SCENES[row.prompt.prompt_id] = scenes
    count = invented.num_candidates
    return replace(row, candidates=tuple(candidates), cost=Cost(generations=count, denoiser_passes=8 * count))


_SCENES: dict[str, Sequence[Scene]] = {}


def _spoilt(caption: Caption, rng: np.random.Generator) -> Scene:
    """A scene that lacks an object, or is about something else."""
    if len(caption.clauses) > 1 and rng.random() < 0.5:
        return sample_scene(rng, caption_from_clauses("single_object", (Clause(caption.clauses[0].shape),)))
    return random_scene(rng)


def _ground(row: PromptRow, *, quarantined: bool) -> PromptRow:
    if quarantined:
        failed = Quarantine("ground_objects", "RuntimeError: detector gave NaN boxes")
        return replace(row, quarantine=failed, cost=Cost())
    scenes = _SCENES.pop(row.prompt.prompt_id)
    size = row.candidates[0].width_px
    rendered = render(scenes, size)
    candidates = []
    for candidate, scene, masks, boxes in zip(row.candidates, scenes, rendered.masks, rendered.boxes, strict=True):
        objects = [
            DetectedObject(
                item.shape,
                0.5 + (stable_seed(candidate.seed, n) % 50) / 100,
                tuple(box.tolist()),
                item.color,
                encode_png(mask),
            )
            for n, (item, mask, box) in enumerate(zip(scene.objects, masks, boxes, strict=True))
        ]
        candidates.append(replace(candidate, check=check_objects(row.prompt, objects)))
    return replace(row, candidates=tuple(candidates), cost=Cost(detector_calls=len(candidates)))


def _write_extras(folder: RunFolder, unit: int, rows: list[PromptRow], steps: list[tuple[str, str]]) -> None:
    entries = [
        {
            "stage": name,
            "key": key,
            "unit": unit,
            "started_at": 1000.0 + unit,
            "seconds": 2.0,
            "host": "h",
            "pid": 1,
        }
        for name, key in steps
    ]
    folder.write_checked(f"stats/invented-1-0-{unit:04d}.json", {"entries": entries})
    for index, row in enumerate(rows):
        if row.quarantine is not None:
            folder.write_checked(
                f"quarantine/{row.quarantine.stage}/{unit:06d}-{index:03d}.json",
                {
                    "stage": row.quarantine.stage,
                    "key": dict(steps)[row.quarantine.stage],
                    "unit": unit,
                    "row": index,
                    "prompt_id": row.prompt.prompt_id,
                    "error": row.quarantine.error,
                    "traceback": "Traceback (most recent call last):\n  ...\nRuntimeError: detector gave NaN boxes",
                },
            )
