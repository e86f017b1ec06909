"""`python -m pipelines gc`: remove blocks that no key of the configuration refers to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from commands.arguments import parse
from commands.runs import RunDir, open_run
from pipelines.garbage import Garbage, collect_garbage
from pipelines.lease import Lease
from pipelines.run_folder import RunFolder


@dataclass(frozen=True)
class GcArgs:
    """Remove what nothing refers to."""

    run: RunDir
    keep_candidates: Literal["all", "paired"] = "all"
    """paired: also remove the images that no shipped pair uses (they can be drawn again)."""
    dry_run: bool = False
    """Say what would be removed, and remove nothing."""
    take_over: bool = False
    """Take the run over from a driver that is known to be gone."""


def main(argv: Sequence[str]) -> int:
    """0 when done. ForeignRunError (3) where it cannot be told what the run refers to."""
    arguments = parse(GcArgs, argv, "gc")
    folder, config = open_run(arguments.run)
    if arguments.dry_run:
        found = collect_garbage(folder, config, arguments.keep_candidates, dry_run=True)
        _print(found, "would remove")
        return 0
    with Lease(folder.storage, take_over=arguments.take_over) as lease:
        folder = RunFolder.open(lease.storage)
        found = collect_garbage(folder, config, arguments.keep_candidates)
        num_files = folder.storage.sweep()
    _print(found, "removed")
    print(f"{num_files} unfinished files")
    return 0


def _print(found: Garbage, done: str) -> None:
    for heaps, what in ((found.blocks, "blocks"), (found.images, "images")):
        for heap in heaps:
            print(f"  {heap.path}: {heap.count} {what}, {heap.num_bytes / 2**20:,.1f} MiB")
    for link in found.links:
        print(f"  {link}: a link, which is not followed")
    freed = sum(heap.num_bytes for heap in (*found.blocks, *found.images)) / 2**20
    print(f"{done} {found.num_blocks} blocks, {found.num_images} images: {freed:,.1f} MiB")
