"""One worker's share of a run: make the missing blocks of a unit. Every runtime uses this; none adds to what it
writes."""

import gc
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from inference.vlm.journal import StorageJournal
from pipelines.run_folder import RunFolder
from pipelines.run_names import quarantine_path
from pipelines.runtime import given_up
from pipelines.runtime.byte_gate import ByteGate
from pipelines.runtime.failures import Breaker, FailurePolicy, RowFailure, execute
from pipelines.stage import Stage, Step
from schemas.arrow import hash_rows
from schemas.blocks import BlockFooter, footer_of
from schemas.errors import CorruptDataError, ReflectionFlowError, WorkFailedError
from schemas.records import PromptRow

log = logging.getLogger(__name__)
IMAGE_BYTES_AT_ONCE = 1 << 30
"""Of PNGs that the units of a stage hold together, where several are under way: 16 units of 40 images at 1024 px."""


@dataclass(frozen=True, eq=False)
class AtWork:
    """What a thread is at, from now on. unit: None while models are loaded."""

    step: Step
    unit: int | None


class UnitWorker:
    """Holds loaded stages and turns units into committed blocks. Units of a stage that is a client may be made in
    several threads at once."""

    def __init__(
        self, folder: RunFolder, policy: FailurePolicy, num_threads: int, say: Callable[[str], None] = log.info
    ) -> None:
        """say: what it begins that may take long, for people."""
        self.folder, self.policy, self.num_threads, self.say = folder, policy, num_threads, say
        self.at_work: dict[int, AtWork] = {}
        """By thread."""
        self.with_care: set[tuple[str, int]] = set()
        """Stage and unit of those that were given up before."""
        self._loading = threading.Lock()
        self._stages: dict[str, Stage] = {}
        # Of each thread its own: rows that fail one after the other are not told apart by what another thread does.
        self._breakers: dict[tuple[str, int], Breaker] = {}
        self._gates: dict[str, ByteGate] = {}
        self.stats = StatsLog(folder)

    def make_blocks(
        self,
        steps: Sequence[Step],
        unit: int,
        upto: int,
        on_block: Callable[[Step, list[PromptRow], float], None] = lambda step, rows, seconds: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Make every missing block of a unit, from the first step to `upto` (included). False when stopped before
        the end.

        A block that does not read, or that was made from other rows than those upstream now, counts as missing.
        """
        rows = self.folder.prompts(unit)
        rows_hash = hash_rows(rows)
        for step in steps[: upto + 1]:
            committed = self._read_committed(step, unit, rows_hash)
            if committed is not None:
                rows, rows_hash = self._keep_images(rows, committed[1]), committed[0].rows_hash
                continue
            if stop():
                return False
            rows = self._make_block(steps, step, unit, rows, rows_hash, on_block)
            rows_hash = hash_rows(rows)
        return True

    def make_block(self, steps: Sequence[Step], index: int, unit: int) -> list[PromptRow]:
        """Make the block of one step from the committed block before it, unless it is there. FileNotFoundError or
        CorruptDataError when the one before it is missing or does not read."""
        if index == 0:
            rows = self.folder.prompts(unit)
            input_hash = hash_rows(rows)
        else:
            before = steps[index - 1]
            footer, rows = self.folder.read_block(before.name, before.key, unit)
            input_hash = footer.rows_hash
        committed = self._read_committed(steps[index], unit, input_hash)
        if committed is not None:
            return committed[1]
        return self._make_block(steps, steps[index], unit, rows, input_hash, lambda step, done, seconds: None)

    def _read_committed(self, step: Step, unit: int, input_hash: str) -> tuple[BlockFooter, list[PromptRow]] | None:
        try:
            footer, rows = self.folder.read_block(step.name, step.key, unit)
        except FileNotFoundError:
            return None
        except CorruptDataError as error:
            log.warning("%s; it is made again", error)
            return None
        if footer.input_hash != input_hash:
            return None
        if (step.name, unit) in self.with_care:  # its worker was lost after it had committed the block
            given_up.forget(self.folder, step, unit)
        return footer, rows

    @staticmethod
    def _keep_images(before: Sequence[PromptRow], after: Sequence[PromptRow]) -> list[PromptRow]:
        images = [{c.index: c.image for c in row.candidates if c.image is not None} for row in before]
        return [
            replace(row, candidates=tuple(replace(c, image=found.get(c.index)) for c in row.candidates))
            if found
            else row
            for row, found in zip(after, images, strict=True)
        ]

    def _make_block(
        self,
        steps: Sequence[Step],
        step: Step,
        unit: int,
        rows: list[PromptRow],
        input_hash: str,
        on_block: Callable[[Step, list[PromptRow], float], None],
    ) -> list[PromptRow]:
        stage = self.stage(step)
        with self._gates[step.loaded_as].entered(self._image_bytes(steps[: step.index + 1], unit)):
            if step.link.reads_images:
                rows = self.load_images(steps[: step.index], unit, rows)
            had_images = [{c.index for c in row.candidates} for row in rows]
            started = time.time()
            breaker = self._breakers.setdefault((step.loaded_as, threading.get_ident()), Breaker())
            care = self._care(step, unit)
            with self._watched(AtWork(step, unit)):
                done, failures = execute(stage, rows, self.policy, breaker, care=care)
            seconds = time.time() - started
        for failure in failures:
            self._write_quarantine(step, unit, done, failure)
        footer = footer_of(step.name, step.key, unit, input_hash, done)
        if step.link.stage.makes_images:
            self.folder.write_block(footer, _only_new_images(done, had_images), with_images=True)
        else:
            self.folder.write_block(footer, done, with_images=False)
        if care is not None:
            given_up.forget(self.folder, step, unit)
        self.stats.add(step, unit, started, seconds)
        on_block(step, done, seconds)
        return done

    def _care(self, step: Step, unit: int) -> given_up.Care | None:
        if (step.name, unit) not in self.with_care:
            return None
        known = given_up.read(self.folder, step, unit)
        return given_up.Care(self.folder, step, unit, known or given_up.GivenUp())

    @contextmanager
    def _watched(self, at: AtWork) -> Iterator[None]:
        thread = threading.get_ident()
        self.at_work[thread] = at
        try:
            yield
        finally:
            del self.at_work[thread]

    def _image_bytes(self, steps: Sequence[Step], unit: int) -> int:
        """What the last step reads of the others' images, where several units may do so at once."""
        *upstream, step = steps
        if not step.link.reads_images or not step.link.is_client:
            return 0
        paths = [self.folder.block_path(s.name, s.key, unit) for s in upstream if s.link.stage.makes_images]
        return sum(self.folder.storage.size(path) or 0 for path in paths)

    def load_images(self, upstream: Sequence[Step], unit: int, rows: list[PromptRow]) -> list[PromptRow]:
        """Rows whose candidates carry their images, read from the blocks of the stages that made them."""
        if all(c.image is not None for row in rows if row.active for c in row.candidates):
            return rows
        for step in upstream:
            if step.link.stage.makes_images:
                rows = self.folder.with_images(rows, step.name, step.key, unit)
        if any(c.image is None for row in rows if row.active for c in row.candidates):
            paths = [self.folder.block_path(s.name, s.key, unit) for s in upstream if s.link.stage.makes_images]
            raise WorkFailedError(
                f"unit {unit}: images that are needed again were removed by `gc --keep-candidates paired`\n"
                f"  delete {', '.join(paths)} and `resume`: they are then drawn again, the same"
            )
        return rows

    def stage(self, step: Step) -> Stage:
        """The loaded stage of a step; loaded at its first unit, and shared with other chains' steps of its kind."""
        key = step.loaded_as
        with self._loading:
            if key not in self._stages:
                self._gates[key] = ByteGate(IMAGE_BYTES_AT_ONCE)
                with self._watched(AtWork(step, None)):
                    self._stages[key] = self._loaded(step)
            return self._stages[key]

    def _loaded(self, step: Step) -> Stage:
        if step.link.stage.load is not Stage.load:
            self.say(f"{step.name}: loading its models")
            _set_threads(self.num_threads)  # a stage that only counts needs no torch, which takes seconds to import
        stage = step.link.stage(step.link.config, self.folder.info.seed, step.barrier_value)
        stage.keep_journal(StorageJournal(self.folder.storage, f"journal/{step.name}"))
        try:
            stage.load()
        except ReflectionFlowError:
            raise
        except Exception as error:
            log.exception("%s does not load", step.name)
            raise WorkFailedError(
                f"{step.name}: its models do not load: {type(error).__name__}: {error}\n"
                f"  mend that (the traceback is in the run folder's logs/), then `resume`"
            ) from error
        return stage

    def unload(self) -> None:
        """Let go of every loaded stage and its models."""
        self._stages.clear()
        self._breakers.clear()
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _write_quarantine(self, step: Step, unit: int, rows: Sequence[PromptRow], failure: RowFailure) -> None:
        prompt_id = failure.row.prompt.prompt_id
        index = next(i for i, row in enumerate(rows) if row.prompt.prompt_id == prompt_id)
        entry = {
            "stage": step.name,
            "key": step.key,
            "unit": unit,
            "row": index,
            "prompt_id": prompt_id,
            "error": failure.error,
            "traceback": failure.trace,
        }
        self.folder.write_checked(quarantine_path(step.name, unit, index), entry)


class StatsLog:
    """Seconds, hosts and attempts, kept out of blocks. Buffered; what a kill loses is only statistics."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns():x}"
        self._entries: list[dict[str, Any]] = []
        self._written_at = time.time()
        self._part = 0
        self._lock = threading.Lock()

    def add(self, step: Step, unit: int, started: float, seconds: float) -> None:
        """Note that a unit of a stage was made."""
        entry = {"stage": step.name, "key": step.key, "unit": unit, "started_at": started, "seconds": seconds}
        with self._lock:
            self._entries.append(entry | {"host": socket.gethostname(), "pid": os.getpid()})
        if time.time() - self._written_at > 10:
            self.flush()

    def flush(self) -> None:
        """Write what was noted since the last time."""
        with self._lock:
            if self._entries:
                path = f"stats/{self._name}-{self._part:04d}.json"
                self._folder.write_checked(path, {"entries": self._entries})
                self._part += 1
            self._entries, self._written_at = [], time.time()


def _only_new_images(rows: Sequence[PromptRow], had: Sequence[set[int]]) -> list[PromptRow]:
    return [
        replace(row, candidates=tuple(replace(c, image=None) if c.index in old else c for c in row.candidates))
        for row, old in zip(rows, had, strict=True)
    ]


def _set_threads(num_threads: int) -> None:
    import torch

    # The number of threads changes the order of floating-point sums, hence bytes: it is part of the configuration.
    torch.set_num_threads(num_threads)
