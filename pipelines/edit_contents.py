"""Which contents the files of an editing dataset had when a run took them in: a file that was replaced since is named,
and not mixed with what was read of the old one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.jobs import JobConfig, resolve_chains
from pipelines.run_folder import RunFolder
from pipelines.stages.read_edits import ReadEdits
from schemas.digests import file_digest, file_stamp
from schemas.errors import ForeignRunError
from schemas.hub_storage import SCHEME as HUB
from schemas.open_storage import open_storage
from schemas.records import Subset

log = logging.getLogger(__name__)

FILES = "files"
"""In what a run's intake says of editing: place, digest and stamp of each file that it read."""
GONE = "is not there any more"
_END_BYTES = 2**16


def contents_of(places: Sequence[str]) -> list[dict[str, str]]:
    """For a run's folder, as plain data. A place on the hub names its commit, and is left out."""
    return [
        {"file": place, "stamp": _stamp(place), "digest": _digest(place)}
        for place in places
        if not place.startswith(HUB)
    ]


def _stamp(place: str) -> str:
    return "" if "://" in place else file_stamp(Path(place))


def _digest(place: str) -> str:
    """Of a local file, all of it; of an object store's, its size, first and last bytes: a Parquet file's footer."""
    if "://" not in place:
        return file_digest(Path(place))
    folder, _, name = place.rpartition("/")
    storage = open_storage(folder)
    size = storage.size(name) or 0
    with storage.open(name) as file:
        start = file.read(_END_BYTES)
        file.seek(max(0, size - _END_BYTES))
        return hashlib.sha256(f"{size} ".encode() + start + file.read(_END_BYTES)).hexdigest()


def changed_files(folder: RunFolder, *, deep: bool = False) -> Iterator[str]:
    """Files that a run took in and that are others now, or gone, in words. deep: stamps are not believed."""
    said = folder.info.intake.get(Subset.EDITING)
    for entry in said.get(FILES, ()) if isinstance(said, dict) else ():
        place = str(entry["file"])
        try:
            stamp = _stamp(place)
            if not deep and stamp and stamp == entry["stamp"]:
                continue
            if _digest(place) != entry["digest"]:
                yield f"{place} has other contents than the run took in"
        except OSError:
            yield f"{place} {GONE}"


def are_edits_read(folder: RunFolder, config: JobConfig) -> bool:
    """Whether no unit of the run will read an editing file again."""
    units = set(folder.units(Subset.EDITING)) if folder.num_prompts(Subset.EDITING) else set()
    steps = resolve_chains(folder, config).get(Subset.EDITING, []) if units else []
    reading = [step for step in steps if step.name == ReadEdits.name]
    return all(units <= folder.committed_units(step.name, step.key) for step in reading)


def check_edit_files(folder: RunFolder, config: JobConfig) -> None:
    """ForeignRunError that names files which were replaced since the run was started, where some of them are still to
    be read; a warning where none is."""
    changed = list(changed_files(folder))
    if not changed:
        return
    if are_edits_read(folder, config):
        for said in (said for said in changed if not said.endswith(GONE)):
            log.warning("%s; its images were read before, and stay as they were read", said)
        return
    raise _mixed(folder, changed)


def check_edits_to_keep(folder: RunFolder) -> None:
    """ForeignRunError where blocks of this run and new ones would be of different files."""
    if changed := list(changed_files(folder)):
        raise _mixed(folder, changed)


def _mixed(folder: RunFolder, changed: list[str]) -> ForeignRunError:
    return ForeignRunError(
        f"{folder.storage.uri}: {'; '.join(changed[:3])}\n"
        f"  images of both would be mixed: put the file back that the run was started with, or start another run"
    )
