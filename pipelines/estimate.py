"""What a run will make and cost, from stated figures, or from what its own units have shown."""

import json
from dataclasses import dataclass

from pipelines.jobs import DatasetConfig
from pipelines.run_folder import RunFolder

PNG_BYTES_PER_PIXEL = {"micro": 1.6, "flux": 1.4}
SECONDS_PER_ITEM = {
    # Two cores of a 2023 server CPU without AMX: the demo's own statistics.
    "micro": {"generate_candidates": 0.05, "ground_objects": 0.05, "select_pairs": 0.0002},
}
ITEMS = {"generate_candidates": "images", "ground_objects": "images", "select_pairs": "prompts"}


@dataclass(frozen=True)
class StageEstimate:
    """One stage. source: "stated", or "measured" when the run's own statistics were used."""

    name: str
    item: str
    num_items: int
    seconds_per_item: float
    seconds: float
    source: str


@dataclass(frozen=True)
class Estimate:
    """The whole run, on one worker."""

    subsets: tuple[str, ...]
    num_prompts: int
    num_units: int
    stages: tuple[StageEstimate, ...]
    seconds: float
    storage_bytes: float


def estimate(config: DatasetConfig, preset: str, run: str | None = None) -> Estimate:
    """Work out a plan. `run` names a folder whose statistics replace the stated seconds."""
    measured = measured_seconds_per_item(RunFolder.open(run), config) if run else {}
    stages: dict[str, StageEstimate] = {}
    images = config.num_prompts * config.generate.candidates_per_prompt * len(config.subsets)
    num_prompts = config.num_prompts * len(config.subsets)
    for links in config.links().values():
        for link in links:
            name = link.stage.name
            item = ITEMS[name]
            count = images if item == "images" else num_prompts
            each = measured.get(name, SECONDS_PER_ITEM[preset][name])
            source = "measured" if name in measured else "stated"
            stages[name] = StageEstimate(name, item, count, each, each * count, source)
    pixels = images * config.generate.generator.size_px**2
    return Estimate(
        subsets=config.subsets,
        num_prompts=num_prompts,
        num_units=len(config.subsets) * -(-config.num_prompts // config.unit_size),
        stages=tuple(stages.values()),
        seconds=sum(stage.seconds for stage in stages.values()),
        storage_bytes=pixels * PNG_BYTES_PER_PIXEL[preset],
    )


def measured_seconds_per_item(folder: RunFolder, config: DatasetConfig) -> dict[str, float]:
    """Seconds per image or prompt of every stage that has run, from the run's statistics (median over units)."""
    per_unit: dict[str, list[float]] = {}
    for name in folder.storage.names("stats"):
        for entry in json.loads(folder.storage.read(f"stats/{name}")):
            per_unit.setdefault(entry["stage"], []).append(entry["seconds"])
    measured: dict[str, float] = {}
    for stage, seconds in per_unit.items():
        items = config.unit_size * (config.generate.candidates_per_prompt if ITEMS.get(stage) == "images" else 1)
        measured[stage] = sorted(seconds)[len(seconds) // 2] / items
    return measured
