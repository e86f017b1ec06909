"""What `gc` removes: blocks under keys that the configuration does not refer to, and images that no pair uses.

Links are never followed: what lies behind one may be another run's. What is not the run's own stays, and the folders
that it lies in.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

from pipelines.jobs import JobConfig, resolve_chains
from pipelines.run_folder import RunFolder
from pipelines.run_names import is_key, is_number, is_stage, unit_of
from pipelines.stage import Step
from schemas.blocks import encode_block, footer_of
from schemas.errors import CorruptDataError, ForeignRunError
from schemas.storage import LocalStorage, Storage

_REQUESTS_AT_ONCE = 16


@dataclass(frozen=True)
class Heap:
    """Blocks under one key that nothing refers to, or images that no pair uses in the blocks under one key. count: of
    blocks, or of images. num_bytes: what removing them frees."""

    path: str
    count: int
    num_bytes: int


@dataclass
class Garbage:
    """What was found. links: below `stages/`, behind which nothing was looked for."""

    blocks: list[Heap] = field(default_factory=list)
    images: list[Heap] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    @property
    def num_blocks(self) -> int:
        """Of all keys."""
        return sum(heap.count for heap in self.blocks)

    @property
    def num_images(self) -> int:
        """Of all keys."""
        return sum(heap.count for heap in self.images)


def collect_garbage(
    folder: RunFolder, config: JobConfig, keep: Literal["all", "paired"], *, dry_run: bool = False
) -> Garbage:
    """Remove blocks under keys the configuration does not refer to; with `paired`, also images that no pair uses.
    dry_run: only find them. ForeignRunError, and nothing is removed, where it cannot be told what is referred to: a
    barrier is not settled, or does not read."""
    chains = resolve_chains(folder, config)
    for step in (step for steps in chains.values() for step in steps):
        if step.barrier_path is not None:
            raise ForeignRunError(
                f"{folder.storage.uri}/{step.barrier_path}: missing, or not as it was written. It says which blocks of "
                f"{step.name} are this run's, so nothing was removed\n"
                f"  `python -m pipelines resume --run {folder.storage.uri}` settles it, then gc"
            )
    used = {(step.name, step.key) for steps in chains.values() for step in steps}
    found = Garbage()
    for stage, key in list(_keys(folder.storage, found.links)):
        if (stage, key) not in used:
            heap = _unused_blocks(folder.storage, f"stages/{stage}/{key}", found.links, dry_run=dry_run)
            found.blocks.append(heap)
    for subset, steps in chains.items() if keep == "paired" else ():
        for step in steps:
            path = f"stages/{step.name}/{step.key}"
            if step.link.stage.makes_images and not any(f"{path}/".startswith(f"{link}/") for link in found.links):
                heap = _unpaired_images(folder, steps, step, folder.units(subset), dry_run=dry_run)
                found.images += [heap] if heap.count else []
    return found


def _keys(storage: Storage, links: list[str]) -> Iterator[tuple[str, str]]:
    for stage in _folders(storage, "stages", is_stage, links):
        for key in _folders(storage, f"stages/{stage}", is_key, links):
            yield stage, key


def _folders(storage: Storage, folder: str, is_own: Callable[[str], bool], links: list[str]) -> list[str]:
    """Names of the run's own folders in a folder; links are noted and left out."""
    if _is_link(storage, folder):
        links.append(folder)
        return []
    own = [name for name in storage.names(folder) if is_own(name)]
    linked = [name for name in own if _is_link(storage, f"{folder}/{name}")]
    links += [f"{folder}/{name}" for name in linked]
    return [name for name in own if name not in linked]


def _is_link(storage: Storage, path: str) -> bool:
    return isinstance(storage, LocalStorage) and (storage.root / path).is_symlink()


def _unused_blocks(storage: Storage, path: str, links: list[str], *, dry_run: bool) -> Heap:
    numbers = _folders(storage, path, is_number, links)
    held = {number: storage.names(f"{path}/{number}") for number in numbers}
    blocks = [f"{path}/{n}/{name}" for n, names in held.items() for name in names if unit_of(n, name) is not None]
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        heap = Heap(path, len(blocks), sum(size or 0 for size in pool.map(storage.size, blocks)))
    if not dry_run:
        if len(blocks) == sum(map(len, held.values())) and sorted(storage.names(path)) == sorted(numbers):
            storage.delete(path)
        else:
            for block in blocks:
                storage.delete(block)
    return heap


def _unpaired_images(
    folder: RunFolder, steps: Sequence[Step], step: Step, units: Sequence[int], *, dry_run: bool
) -> Heap:
    """Write image blocks again without the images that no shipped pair uses."""
    count = num_bytes = 0
    for unit in units:
        path = folder.block_path(step.name, step.key, unit)
        made = _without_unpaired(folder, steps[-1], step, unit)
        if made is not None:
            data, dropped = made
            count += dropped
            num_bytes += (folder.storage.size(path) or 0) - len(data)
            if not dry_run:
                folder.storage.commit(path, data)
    return Heap(f"stages/{step.name}/{step.key}", count, num_bytes)


def _without_unpaired(folder: RunFolder, last: Step, step: Step, unit: int) -> tuple[bytes, int] | None:
    """A finished unit's image block without the images that no shipped pair uses, and how many they are; None where
    there is nothing to remove. Hashes stay as they are: they cover images by digest. A unit with rows in quarantine
    keeps its images: `retry` needs them."""
    try:
        _, final = folder.read_block(last.name, last.key, unit)
        if any(row.quarantine is not None for row in final):
            return None
        footer, rows = folder.read_block(step.name, step.key, unit)
        rows = folder.with_images(rows, step.name, step.key, unit)
    except (FileNotFoundError, CorruptDataError):
        return None  # `resume --check-blocks` makes it again, with all its images
    paired = [{i for pair in row.shipped_pairs for i in (pair.good, pair.bad)} for row in final]
    kept = [
        replace(row, candidates=tuple(c if c.index in wanted else replace(c, image=None) for c in row.candidates))
        for row, wanted in zip(rows, paired, strict=True)
    ]
    before, after = (sum(c.image is not None for row in some for c in row.candidates) for some in (rows, kept))
    if after == before:
        return None
    rewritten = footer_of(step.name, step.key, unit, footer.input_hash, kept)
    return encode_block(rewritten, kept, with_images=True), before - after
