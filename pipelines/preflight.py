"""Before a run costs anything: every model loaded once, one unit taken through every stage, and what would fail said.

What is made is thrown away. A stage that fails keeps none of the later ones from being loaded; they only get no rows.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from inference.vlm.vllm_server import started_when_opened
from pipelines.jobs import DatasetConfig, JobConfig, resolve_chains
from pipelines.pack_shards import pack_shard, shard_ranges
from pipelines.run_folder import RunFolder
from pipelines.runtime.failures import FailurePolicy
from pipelines.runtime.runtime import Schedule
from pipelines.runtime.unit_worker import UnitWorker
from pipelines.search_job import SearchJobConfig
from pipelines.served_vlms import served_vlms
from pipelines.stage import Step
from schemas.errors import ReflectionFlowError
from schemas.records import PromptRow

T = TypeVar("T", DatasetConfig, SearchJobConfig)
PACKING = "pack_shards"
# One attempt: whoever waits for a preflight wants to hear of a failure, not to have it pass.
POLICY = FailurePolicy(max_attempts=1, first_wait_s=0.0)


@dataclass(frozen=True)
class StageCheck:
    """What became of one stage. problem: what would fail, None when nothing does. not_tried: why it had no rows."""

    subset: str
    stage: str
    load_s: float = 0.0
    unit_s: float = 0.0
    memory_gib: float | None = None
    """Peak on the GPU since the models before it were loaded; None without a GPU."""
    rows: int = 0
    rejected: int = 0
    problem: str | None = None
    not_tried: str | None = None
    elsewhere: bool = False
    """Left to other nodes, since this one has not what its workers want."""


@dataclass(frozen=True)
class NodeCheck:
    """All stages on one kind of node. node: its name and what it has. problem: what kept the check from starting.
    machine: what it lacks, whatever the stages say."""

    node: str
    stages: tuple[StageCheck, ...]
    problem: str | None = None
    machine: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing would fail there."""
        return self.problem is None and not self.machine and all(stage.problem is None for stage in self.stages)


def one_unit_of(config: T) -> T:
    """The same run with one unit of each subset; of a search, with the round that draws and the one that corrects."""
    if isinstance(config, SearchJobConfig):
        number = min(config.num_prompts or config.unit_size, config.unit_size)
        search = replace(config.search, depth=min(config.search.depth, 2))
        return replace(config, num_prompts=number, images_per_prompt=1, search=search)
    return replace(config, num_prompts=min(config.num_prompts, config.unit_size))


def check_stages(
    folder: RunFolder, config: JobConfig, schedule: Schedule, gpus_here: float | None = None
) -> list[StageCheck]:
    """folder: of `one_unit_of(config)`, empty. schedule: whether models share the GPU, as they would in the run.
    gpus_here: stages whose workers want more are left to other nodes."""
    worker = UnitWorker(folder, POLICY, config.num_threads)
    checks: list[StageCheck] = []
    for subset, links in config.links().items():
        unit, upstream = folder.units(subset)[0], True
        for index, link in enumerate(links):
            # A vLLM that it asks is tried here, too.
            gpus = max([link.workers.gpus, *(vlm.server.gpus_each for vlm in served_vlms(link.config))])
            if gpus_here is not None and gpus > gpus_here:
                why = f"its workers want {gpus:g} GPUs each"
                checks.append(StageCheck(subset, link.stage.name, not_tried=why, elsewhere=True))
                upstream = False
                continue
            check = _check(worker, folder, config, subset, index, unit, upstream)
            upstream = upstream and check.problem is None
            checks.append(check)
            if schedule == "staged":
                worker.unload()
    if all(check.problem is None and check.not_tried is None for check in checks):
        checks.append(_check_packing(folder, config))
    return checks


def _check(
    worker: UnitWorker, folder: RunFolder, config: JobConfig, subset: str, index: int, unit: int, upstream: bool
) -> StageCheck:
    steps = resolve_chains(folder, config)[subset]
    if upstream and steps[index].barrier_path:
        _settle(folder, steps, index, unit)
        steps = resolve_chains(folder, config)[subset]
    step = steps[index]
    check = StageCheck(subset, step.name)
    _forget_peak()
    started = time.time()
    try:
        with started_when_opened():
            worker.stage(step)
    except Exception as error:  # whatever it is, it is what the run would die of
        return replace(check, problem=f"its models do not load: {_words(error)}", load_s=time.time() - started)
    check = replace(check, load_s=time.time() - started, memory_gib=_peak_gib())
    if not upstream:
        return replace(check, not_tried="a stage before it failed, or works elsewhere")
    started = time.time()
    try:
        rows = worker.make_block(steps, index, unit)
    except Exception as error:
        return replace(check, problem=_words(error), unit_s=time.time() - started, memory_gib=_peak_gib())
    done = replace(check, unit_s=time.time() - started, memory_gib=_peak_gib(), rows=len(rows))
    return replace(
        done,
        rejected=sum(row.rejection is not None and row.rejection.stage == step.name for row in rows),
        problem=_quarantined(folder, step, rows),
    )


def _settle(folder: RunFolder, steps: Sequence[Step], index: int, unit: int) -> None:
    """The barrier of a step, from the one unit that there is."""
    step, before = steps[index], steps[index - 1]
    if step.link.barrier is not None and step.barrier_path is not None:
        rows = folder.read_block(before.name, before.key, unit)[1]
        folder.write_checked(step.barrier_path, step.link.barrier(rows))


def _check_packing(folder: RunFolder, config: JobConfig) -> StageCheck:
    started = time.time()
    try:
        chains = resolve_chains(folder, config)
        for number, units in enumerate(shard_ranges(folder, config.pack)):
            pack_shard(folder, chains, config.pack, number, units)
    except (ReflectionFlowError, OSError) as error:
        return StageCheck("all", PACKING, problem=_words(error))
    return StageCheck("all", PACKING, unit_s=time.time() - started)


def _quarantined(folder: RunFolder, step: Step, rows: Sequence[PromptRow]) -> str | None:
    bad = [row for row in rows if row.quarantine is not None and row.quarantine.stage == step.name]
    if not bad or bad[0].quarantine is None:
        return None
    return f"{len(bad)} of {len(rows)} prompts fail, the first ({bad[0].prompt.prompt_id}): {bad[0].quarantine.error}"


def _words(error: Exception) -> str:
    name = "" if isinstance(error, ReflectionFlowError) else f"{type(error).__name__}: "
    return f"{name}{error}"


def _torch_with_gpu() -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def _forget_peak() -> None:
    torch = _torch_with_gpu()
    if torch is not None:
        torch.cuda.reset_peak_memory_stats()


def _peak_gib() -> float | None:
    torch = _torch_with_gpu()
    return None if torch is None else torch.cuda.max_memory_allocated() / 2**30
