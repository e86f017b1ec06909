"""`python -m pipelines inspect`: show one unit, prompt or shard of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from commands.arguments import parse
from commands.runs import RunDir, open_run, print_json
from pipelines.jobs import JobConfig
from pipelines.report.inspection import (
    Inspection,
    inspect_run,
    inspect_shard,
    inspect_unit,
    locate_prompt,
    write_images,
)
from pipelines.run_folder import RunFolder
from schemas.errors import InputError
from schemas.terminal import say


@dataclass(frozen=True)
class InspectArgs:
    """Show one unit, one prompt or one shard; without any of them, what there is to show."""

    run: RunDir
    unit: int | None = None
    """Number of a unit."""
    prompt: str | None = None
    """Id of a prompt."""
    shard: int | None = None
    """Number of a shard."""
    json: bool = False
    """Print one JSON object."""
    images: str | None = None
    """Also write the images that are shown into this folder."""


def main(argv: Sequence[str]) -> int:
    """0 when shown. InputError (2) for a unit, prompt or shard that the run does not have."""
    arguments = parse(InspectArgs, argv, "inspect")
    chosen = [name for name in ("unit", "prompt", "shard") if getattr(arguments, name) is not None]
    if len(chosen) > 1:
        raise InputError(f"--{' and --'.join(chosen)} at once", expected="one of --unit, --prompt and --shard")
    if arguments.images is not None and not chosen:
        raise InputError("--images without anything chosen", field="--images", expected="--unit, --prompt or --shard")
    folder, config = open_run(arguments.run)
    inspection = _inspect(folder, config, arguments)
    written = write_images(inspection.images, arguments.images) if arguments.images is not None else None
    if arguments.json:
        images = {} if written is None else {"images": {"folder": arguments.images, "num_written": written}}
        print_json({"run": arguments.run, **inspection.data, **images})
        return 0
    say("\n".join(inspection.lines))
    if written is not None:
        say(f"{written} images written to {arguments.images}")
    return 0


def _inspect(folder: RunFolder, config: JobConfig, arguments: InspectArgs) -> Inspection:
    with_images = arguments.images is not None
    if arguments.shard is not None:
        return inspect_shard(folder, config, arguments.shard)
    if arguments.prompt is not None:
        unit, row = locate_prompt(folder, arguments.prompt)
        return inspect_unit(folder, config, unit, row, with_images=with_images)
    if arguments.unit is not None:
        return inspect_unit(folder, config, arguments.unit, with_images=with_images)
    return inspect_run(folder, config)
