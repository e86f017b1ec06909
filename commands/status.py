"""`python -m pipelines status`: what is done, what is left."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from commands.arguments import parse
from commands.runs import RunDir, open_run, print_json, print_summary
from pipelines.conservation import tally
from pipelines.jobs import JobConfig, resolve_chains
from pipelines.pack_shards import packed, shard_inputs, shard_ranges
from pipelines.quarantine import quarantined_rows
from pipelines.run_folder import RunFolder
from schemas.plain_text import one_line
from schemas.records import Cost
from schemas.terminal import say


@dataclass(frozen=True)
class StatusArgs:
    """Count what a run holds. Can be asked while the run works."""

    run: RunDir
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """0, whatever the run's state."""
    arguments = parse(StatusArgs, argv, "status")
    folder, config = open_run(arguments.run)
    stages = stage_counts(folder, config)
    counts = tally(folder, config)
    failed = list(quarantined_rows(folder, config))
    shards, num_packed = _shards(folder, config)
    if arguments.json:
        print_json(
            {
                "run": arguments.run,
                "preset": folder.info.preset,
                "stages": stages,
                "shards": {"packed": num_packed, "total": shards},
                "in_quarantine": len(failed),
                **counts.as_json(),
            }
        )
        return 0
    print_summary(folder, counts)
    for stage in stages:
        spent = counts.spent.get((stage["subset"], stage["stage"], stage["key"]), Cost()).in_words()
        say(f"  {stage['subset']:<8} {stage['stage']:<22} {stage['done']}/{stage['total']} units  {spent}".rstrip())
    say(f"  {num_packed}/{shards} shards packed")
    for row in failed[:10]:
        place = f"{row.prompt_id} in {row.stage} (unit {row.unit})"
        say(f"  quarantine: {one_line(place)}: {one_line(row.error[:150])}")
    return 0


def stage_counts(folder: RunFolder, config: JobConfig) -> list[dict[str, Any]]:
    """Done and total units of every stage of every subset."""
    return [
        {
            "subset": subset,
            "stage": step.name,
            "key": step.key,
            "done": len(folder.committed_units(step.name, step.key).intersection(units)) if step.settled else 0,
            "total": len(units),
        }
        for subset, steps in resolve_chains(folder, config).items()
        for units in [folder.units(subset)]
        for step in steps
    ]


def _shards(folder: RunFolder, config: JobConfig) -> tuple[int, int]:
    ranges = shard_ranges(folder, config.pack)
    chains = resolve_chains(folder, config)
    done = sum(
        packed(folder, index, shard_inputs(folder, chains, config.pack, units)) for index, units in enumerate(ranges)
    )
    return len(ranges), done
