"""Checkpoints that a kill at any moment leaves whole: the last few, and the best.

A file ends in the SHA-256 of what is before it; a folder has a manifest (`schemas.digests`). They are checked before
anything is used. Files that were written before there were digests are checked by the sums of their zip archive.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from schemas.atomic_file import NO_ROOM, TEMPORARY, put_in_place, replacing, write_whole
from schemas.digests import write_manifest
from schemas.errors import CorruptDataError, InputError, StorageError

log = logging.getLogger(__name__)

REST = "rest.pt"
"""In the folder of a state in shards: all that is not in shards."""
BEST = "best.json"
_SEAL_MARK = b"\nsha256:"
_SEAL = re.compile(rb"\nsha256:([0-9a-f]{64})\n")
_SEAL_BYTES = 73
_STEP = re.compile(r"step_([0-9]{8,18})(\.pt)?")
_CHUNK_BYTES = 2**22


@contextmanager
def storing(place: Path) -> Iterator[None]:
    """Inside, a disk that is full or read-only is a StorageError that says how to go on."""
    try:
        yield
    except Exception as error:
        if not (reason := _disk_problem(error)):
            raise
        raise StorageError(
            f"{place}: nothing can be written any more: {reason}\n"
            f"  what was written before is whole: make room, and the same command goes on from the last checkpoint"
        ) from error


def _disk_problem(error: BaseException) -> str:
    """What an error, or one that it came of, says of a disk that takes no more; "" where none does."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None or isinstance(seen, StorageError):
            return ""
        if isinstance(seen, OSError) and seen.errno in NO_ROOM:
            return f"{seen.filename}: {seen.strerror}" if seen.filename else str(seen.strerror)
        # Libraries in Rust and C++ tell it by words alone.
        if any(f"(os error {number})" in str(seen) for number in NO_ROOM) or "No space left on device" in str(seen):
            return str(seen).strip().splitlines()[-1][:200]
        seen = seen.__cause__ or seen.__context__
    return ""


class _Digested:
    """A file for torch to write to, that knows the digest of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) so that a kill leaves either the old file or the new one. StorageError,
    with the old one as it was, where there is no room."""
    import torch

    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file, not its name, which torch would write into it.
        with replacing(path) as temporary, open(temporary, "wb") as file:
            digested = _Digested(file)
            torch.save(state, digested)  # pyright: ignore[reportArgumentType] - it writes and flushes, no more
            file.write(f"\nsha256:{digested.digest.hexdigest()}\n".encode())


def load_checkpoint(path: Path, device: str = "cpu") -> dict[str, Any] | None:
    """What `save_checkpoint` wrote, or None where there is no file. CorruptDataError for anything else."""
    import torch

    if not path.exists():
        return None
    try:
        is_sealed = _check_bytes(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except CorruptDataError:
        raise
    except Exception as error:  # of a file without a digest, torch says whatever it stumbles over
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise CorruptDataError(f"{path} does not read ({said}); remove it, or put a copy in its place") from error
    if not isinstance(state, dict) or (not is_sealed and not all(isinstance(name, str) for name in state)):
        raise CorruptDataError(f"{path} is no checkpoint of a training; remove it")
    return state


def _check_bytes(path: Path) -> bool:
    """Whether a file ends in its digest; then it has its bytes. CorruptDataError for a file with other bytes."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(max(0, size - 2 * _SEAL_BYTES))
        end = file.read()
        if _SEAL_MARK in end:
            seal, left = _SEAL.fullmatch(end[-_SEAL_BYTES:]), size - _SEAL_BYTES
            file.seek(0)
            while left > 0 and (data := file.read(min(left, _CHUNK_BYTES))):
                digest.update(data)
                left -= len(data)
            if seal and digest.hexdigest().encode() == seal[1]:
                return True
            raise CorruptDataError(
                f"{path} has other bytes than were written (its digest tells); remove it, or put a copy in its place"
            )
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise CorruptDataError(f"{path} has other bytes than were written (in {broken}); remove it")
    return False


class Checkpoints:
    """`step_00000120.pt` files in a folder (or folders `step_00000120`, see `trainers.sharded`): the last `keep_last`,
    and the one with the best score so far. Other names in the folder are nobody's business."""

    def __init__(self, folder: Path, keep_last: int = 2) -> None:
        self._folder, self._keep_last = folder, max(1, keep_last)

    def save(self, step: int, state: dict[str, Any], score: float | None = None) -> None:
        """Keep a state; with a score (a number; more is better) it may become the best one. StorageError, with all
        others as they were, where there is no room."""
        self._sweep()
        save_checkpoint(self._folder / _name(step), state | {"score": score})
        self._keep(step, score)

    def _sweep(self) -> None:
        """Remove what a kill left half written."""
        for half in self._folder.glob(f"{TEMPORARY}*"):
            if half.is_dir() and not half.is_symlink():
                shutil.rmtree(half, ignore_errors=True)
            else:
                half.unlink(missing_ok=True)

    def _keep(self, step: int, score: float | None) -> None:
        """What stays, now that there is a state of this step. Later ones are of a past that did not read: they are
        written again when their step comes, and count for nothing until then."""
        best = self.best()
        if best is not None and best[0] >= step:
            best = None
        if score is not None and not math.isfinite(score):
            log.warning("step %d: the evaluation's score is %s, which is never the best", step, score)
        elif score is not None and (best is None or score > best[1]):
            best = (step, score)
        if best is not None:
            said = {"step": best[0], "score": best[1]}
            with storing(self._folder / BEST):
                write_whole(self._folder / BEST, json.dumps(said | {"sha256": _digest_of(said)}))
        steps = [one for one in self.steps() if one <= step]
        for old in {*steps[: -self._keep_last]} - ({best[0]} if best else set()):
            (self._folder / _name(old)).unlink(missing_ok=True)
            shutil.rmtree(self._folder / folder_name(old), ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps of which there is a state, first to last; an empty folder is none."""
        found = ((path, _STEP.fullmatch(path.name)) for path in self._folder.glob("step_*"))
        return sorted(
            {
                int(match[1])
                for path, match in found
                if match and (path.is_file() if match[2] else path.is_dir() and any(path.iterdir()))
            }
        )

    def best(self) -> tuple[int, float] | None:
        """Step and score of the best one that is still there. Where `best.json` does not read, which is said, the
        checkpoints' own scores tell."""
        try:
            value = json.loads((self._folder / BEST).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            value = None
        best = _best_of(value)
        if best is None:
            said = "%s does not read as a step and its score; the checkpoints' own scores are taken"
            log.warning(said, self._folder / BEST)
            best = max(self._scores(), key=lambda one: one[1], default=None)
        return best if best is not None and best[0] in self.steps() else None

    def _scores(self) -> Iterator[tuple[int, float]]:
        """Steps with their scores, of those that read and have one."""
        for step in self.steps():
            try:
                score = (Checkpoints.at(self, step) or {}).get("score")
            except CorruptDataError:
                continue
            if isinstance(score, int | float) and math.isfinite(score):
                yield step, float(score)

    def at(self, step: int, device: str = "cpu") -> dict[str, Any] | None:
        """The state of one step, None where it is not there. Of one in shards, what is not in shards: its settings tell
        that it is of another training. CorruptDataError for one that does not read."""
        folder = self._folder / folder_name(step)
        if not folder.is_dir():
            return load_checkpoint(self._folder / _name(step), device)
        state = load_checkpoint(folder / REST, device)
        if state is None:
            raise CorruptDataError(f"{folder} holds no {REST}; remove it")
        return state

    def latest(self, device: str = "cpu") -> dict[str, Any] | None:
        """The newest state that reads; a broken one is named and passed over. None without any; InputError where there
        are some and none reads."""
        broken = []
        for step in reversed(self.steps()):
            try:
                return self.at(step, device)
            except CorruptDataError as error:
                log.warning("%s; an older checkpoint is taken", error)
                broken.append(error)
        if broken:
            raise InputError(
                f"no checkpoint reads; the newest: {broken[0]}",
                file=str(self._folder),
                expected="a copy of one put there again; or, to train anew, another --out or no such folder",
            )
        return None


def _best_of(value: Any) -> tuple[int, float] | None:
    """What `best.json` says, None where it is of another shape."""
    if not isinstance(value, dict) or value.keys() - {"sha256"} != {"step", "score"}:
        return None
    step, score = value["step"], value["score"]
    is_plain = isinstance(step, int) and isinstance(score, int | float) and not isinstance(score, bool)
    if not is_plain or not math.isfinite(score):
        return None
    said = {"step": step, "score": score}
    return None if value.get("sha256", _digest_of(said)) != _digest_of(said) else (step, score)


def _digest_of(said: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def folder_name(step: int) -> str:
    """Of a state in shards."""
    return f"step_{step:08d}"


def _name(step: int) -> str:
    return f"{folder_name(step)}.pt"


@contextmanager
def exported(target: Path) -> Iterator[Path]:
    """A folder to write files to; when the block ends they are put into the folder `target`, in the order in which they
    were written and a manifest last, and what else lies there stays. When an exception ends it, `target` is as it was.
    StorageError where there is no room."""
    temporary = target.with_name(f"{TEMPORARY}{target.name}")
    with storing(target):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            write_manifest(temporary)
            files = [path for path in temporary.rglob("*") if path.is_file()]
            for path in sorted(files, key=lambda path: path.stat().st_mtime_ns):
                place = target / path.relative_to(temporary)
                place.parent.mkdir(parents=True, exist_ok=True)
                put_in_place(path, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
