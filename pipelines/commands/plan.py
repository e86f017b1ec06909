"""`python -m pipelines plan`: what a run will make and cost, before it is started. Takes the flags of `run`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro

from pipelines.commands.arguments import digests_of, parse, print_json
from pipelines.estimate import Estimate, estimate
from pipelines.jobs import DatasetConfig
from pipelines.presets import load_preset
from pipelines.runtime.progress import format_seconds
from schemas.errors import MissingWeightsError


@dataclass(frozen=True)
class PlanArgs:
    """Say what a run will make: images, time, storage. Nothing is written."""

    run: str | None = None
    """A run that has begun: its measured rates replace the stated ones."""
    preset: str = "micro"
    """Which models and sizes: micro."""
    dataset: Annotated[DatasetConfig, tyro.conf.arg(name="")] = field(default_factory=DatasetConfig)
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """0; 2 when the run could not start (missing weights, bad prompts)."""
    from pipelines.commands.run import preset_of

    preset = preset_of(argv)
    default = PlanArgs(preset=preset, dataset=load_preset(preset))
    arguments = parse(PlanArgs, argv, "plan", default)
    plan = estimate(arguments.dataset, preset, arguments.run)
    missing = _missing(arguments.dataset)
    if arguments.json:
        print_json({**asdict(plan), "missing_weights": missing})
    else:
        _print(plan)
        if missing:
            print(f"before it can start: {missing}")
    return 2 if missing else 0


def _missing(config: DatasetConfig) -> str | None:
    try:
        digests_of(config)
    except MissingWeightsError as error:
        return str(error)
    return None


def _print(plan: Estimate) -> None:
    print(f"{plan.num_prompts} prompts in {plan.num_units} units, subsets {', '.join(plan.subsets)}")
    for stage in plan.stages:
        print(
            f"  {stage.name:<22} {stage.num_items:>9,} {stage.item}  {stage.seconds_per_item * 1000:8.1f} ms each "
            f"({stage.source})  {format_seconds(stage.seconds)}"
        )
    print(
        f"  about {format_seconds(plan.seconds)} on one worker, {plan.storage_bytes / 1e6:,.0f} MB of blocks and shards"
    )
