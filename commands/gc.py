"""`python -m pipelines gc`: remove blocks that no key of the configuration refers to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from commands.arguments import parse
from commands.runs import RunDir, open_run
from pipelines.lease import Lease
from pipelines.upkeep import collect_garbage
from schemas.terminal import say


@dataclass(frozen=True)
class GcArgs:
    """Remove what nothing refers to."""

    run: RunDir
    keep_candidates: Literal["all", "paired"] = "all"
    """paired: also remove the images that no shipped pair uses (they can be drawn again)."""
    take_over: bool = False
    """Take the run over from a driver that is known to be gone."""


def main(argv: Sequence[str]) -> int:
    """0 when done."""
    arguments = parse(GcArgs, argv, "gc")
    folder, config = open_run(arguments.run)
    with Lease(folder.storage, take_over=arguments.take_over):
        num_files = folder.storage.sweep()
        removed = collect_garbage(folder, config, arguments.keep_candidates)
    say(f"removed {removed.num_blocks} blocks, {removed.num_images} images, {num_files} unfinished files")
    return 0
