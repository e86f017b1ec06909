"""`python -m pipelines inspect`: show one unit, prompt or shard of a run, or find prompts by words."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from commands.arguments import parse
from commands.runs import RunDir, open_run, print_json
from pipelines.jobs import JobConfig
from pipelines.report.finding import find_text
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
from schemas.new_file import short_name
from schemas.plain_text import readable
from schemas.terminal import say


@dataclass(frozen=True)
class InspectArgs:
    """Show one unit, one prompt or one shard, or find prompts by words; without any of these, what there is to show."""

    run: RunDir
    unit: int | None = None
    """Number of a unit."""
    prompt: str | None = None
    """Id of a prompt."""
    shard: int | None = None
    """Number of a shard."""
    find: str | None = None
    """Words that a prompt, its reflections or the reasons against its images hold, all of them, in any order."""
    json: bool = False
    """Print one JSON object."""
    images: str | None = None
    """Also write the images that are shown into this folder, and beside them as JSON what is said of them."""


def main(argv: Sequence[str]) -> int:
    """0 when shown. InputError (2) for a unit, prompt or shard that the run does not have."""
    arguments = parse(InspectArgs, argv, "inspect")
    chosen = [name for name in ("unit", "prompt", "shard", "find") if getattr(arguments, name) is not None]
    if len(chosen) > 1:
        raise InputError(f"--{' and --'.join(chosen)} at once", expected="one of --unit, --prompt, --shard and --find")
    if arguments.images is not None and not chosen:
        raise InputError(
            "--images without anything chosen", field="--images", expected="--unit, --prompt, --shard or --find"
        )
    folder, config = open_run(arguments.run)
    inspection = _inspect(folder, config, arguments)
    written = None
    if arguments.images is not None:
        value = str(getattr(arguments, chosen[0]))
        told = json.dumps({"run": arguments.run, **inspection.data}, sort_keys=True, ensure_ascii=False, indent=1)
        record = {f"{chosen[0]}-{short_name(value, 'words')}.json": readable(told).encode()}
        written = write_images(inspection.images, record, arguments.images)
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
    if arguments.find is not None:
        return find_text(folder, config, arguments.find, with_images=with_images)
    if arguments.unit is not None:
        return inspect_unit(folder, config, arguments.unit, with_images=with_images)
    return inspect_run(folder, config)
