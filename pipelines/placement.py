"""Which GPU does what: the machines of a cluster, and how they are shared out among the stages of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipelines.model_costs import HEADROOM, vllm_memory
from pipelines.runtime.runtime import Schedule
from pipelines.stated_figures import GPUS, Gpu
from schemas.errors import InputError

GpuType = Literal["h100", "h200", "a100-80gb", "l40s", "rtx4090"]
WORTHWHILE_LOSS = 0.05
"""Whole GPUs are given to stages for good when that idles no more of the cluster than this."""


@dataclass(frozen=True)
class Cluster:
    """The machines a plan is for."""

    gpus: int = 8
    """GPUs of the whole cluster."""
    gpu_type: GpuType = "h100"
    """What they are."""
    gpus_per_node: int = 8
    """GPUs of one machine."""
    gpu_hour_cost: float | None = None
    """US dollars an hour of one GPU; without it, an assumed price."""

    @property
    def gpu(self) -> Gpu:
        """Its figures."""
        return GPUS[self.gpu_type]

    @property
    def hour_cost(self) -> float:
        """US dollars an hour of one GPU."""
        return self.gpu.hour_cost if self.gpu_hour_cost is None else self.gpu_hour_cost


@dataclass(frozen=True)
class StageEstimate:
    """One stage on one worker. source: "stated", "derived" or "measured", and of what. Seconds are None where nobody
    knows them. memory_gib: peak on its GPU; None: unknown, so that it gets whole ones. flag: what of `run` configures
    it; none for a stage that is no field of the configuration. vllm: who answers it, where its work is to ask a vLLM:
    then memory and GPUs are that one's, and flag is its own."""

    name: str
    item: str
    num_items: int
    seconds_per_item: float | None
    seconds: float | None
    source: str
    memory_gib: float | None = 0.0
    memory_source: str = ""
    flag: str = ""
    vllm: str = ""


@dataclass(frozen=True)
class Placement:
    """How GPUs are shared out. workers: by stage; gpus: of the cluster, each worker's. flags: that ask `run` for it."""

    schedule: Schedule
    why: str
    workers: dict[str, int]
    gpus: dict[str, float]
    hours: float
    flags: str


@dataclass(frozen=True)
class _Known:
    """A stage on a GPU, as far as placing it goes."""

    name: str
    flag: str
    seconds: float
    memory_gib: float
    is_vllm: bool = False


def one_vllm_each(stages: Sequence[StageEstimate]) -> list[StageEstimate]:
    """The stages that one vLLM answers as one: on a GPU it lies once, whoever asks."""
    found: dict[str, StageEstimate] = {}
    for stage in stages:
        if not stage.vllm:
            found[stage.name] = stage
            continue
        before = found.get(name := f"vLLM: {stage.vllm}", replace(stage, name=name, seconds=0.0))
        unknown = before.seconds is None or stage.seconds is None
        found[name] = replace(
            before,
            seconds=None if unknown else (before.seconds or 0.0) + (stage.seconds or 0.0),
            memory_gib=max(before.memory_gib or 0.0, stage.memory_gib or 0.0),
        )
    return list(found.values())


def place(stages: Sequence[StageEstimate], cluster: Cluster) -> Placement:
    """Which schedule, and how many GPUs each stage gets so that none starves. Stages without memory need no GPU. Where
    it is not known how long one takes, that is no question of shares: every stage has all GPUs in turn."""
    available, n = cluster.gpu.memory_gib, cluster.gpus
    require_fitting(stages, cluster, "quantised weights and offloaded models (`--preset flux-24gb`)")
    on_gpu = [stage for stage in one_vllm_each(stages) if stage.memory_gib != 0]
    known = [
        _Known(s.name, s.flag, s.seconds or 0.0, available if s.memory_gib is None else s.memory_gib, bool(s.vllm))
        for s in on_gpu
    ]
    chosen = sorted(known, key=lambda stage: -stage.seconds)
    names = [stage.name for stage in chosen]
    together = sum(stage.memory_gib for stage in chosen)
    one_after_the_other = sum(stage.seconds for stage in chosen) / n / 3600
    unknown = [stage.name for stage in on_gpu if stage.seconds is None]
    if unknown:
        why = f"how long {', '.join(unknown)} takes is not known: every stage has all GPUs in turn"
        whole = dict.fromkeys(names, 1.0)
        return _placement("staged", why, chosen, dict.fromkeys(names, n), whole, one_after_the_other, n)
    need = f"{'both' if len(chosen) == 2 else f'all {len(chosen)}'} together take {together:.1f} of {available:.1f} GiB"
    if together <= HEADROOM * available:
        # The slowest gets most of each GPU's time anyway; the shares only say that all fit.
        rest = round(0.25 / max(1, len(chosen) - 1), 3)
        gpus = {name: rest if i else 0.75 for i, name in enumerate(names)}
        why = f"{need}: every GPU holds one worker of each, and the first shard is there early"
        return _placement(
            "streaming", why, chosen, dict.fromkeys(names, n), gpus, one_after_the_other, n, shares(chosen, available)
        )
    if n >= len(chosen) > 1:
        divided = _divide(chosen, n)
        hours = max(stage.seconds / divided[stage.name] for stage in chosen) / 3600
        loss = 1 - one_after_the_other / hours
        if loss <= WORTHWHILE_LOSS:
            others = n - divided[names[0]]
            why = f"{need}, so {others} of {n} GPUs do the rest while the others draw; {loss:.0%} of the time idles"
            return _placement("streaming", why, chosen, divided, dict.fromkeys(names, 1.0), hours, n)
        why = f"{need}, and GPUs of their own for each stage would idle {loss:.0%} of the time"
    else:
        why = f"{need}, and there {'is one GPU' if n == 1 else f'are {n} GPUs'}"
    why += ": every stage has all GPUs in turn"
    return _placement("staged", why, chosen, dict.fromkeys(names, n), dict.fromkeys(names, 1.0), one_after_the_other, n)


def require_fitting(stages: Sequence[StageEstimate], cluster: Cluster, advice: str) -> None:
    """InputError for a stage that does not fit a GPU, even alone, also where nobody knows how long it takes."""
    for stage in stages:
        if (stage.memory_gib or 0.0) > cluster.gpu.memory_gib:
            raise InputError(
                f"{stage.name} takes {stage.memory_gib:.1f} GiB, a {cluster.gpu_type} has {cluster.gpu.memory_gib:.1f}",
                field="--gpu-type",
                expected=f"a larger GPU, or {advice}",
            )


def shares(stages: Sequence[_Known], available_gib: float) -> dict[str, float]:
    """Of a GPU's memory, for each vLLM there: what the others leave, since it uses all that it is given."""
    vllms = [stage for stage in stages if stage.is_vllm]
    others = sum(stage.memory_gib for stage in stages if not stage.is_vllm)
    need = sum(stage.memory_gib for stage in vllms)
    return {s.name: vllm_memory(available_gib, others + need - s.memory_gib) for s in vllms}


def _divide(stages: Sequence[_Known], num_gpus: int) -> dict[str, int]:
    """At least one GPU each; every further one goes to the stage that takes longest with what it has."""
    gpus = {stage.name: 1 for stage in stages}
    for _ in range(num_gpus - len(stages)):
        slowest = max(stages, key=lambda stage: stage.seconds / gpus[stage.name])
        gpus[slowest.name] += 1
    return gpus


def _placement(
    schedule: Schedule,
    why: str,
    stages: Sequence[_Known],
    workers: dict[str, int],
    gpus: dict[str, float],
    hours: float,
    num_gpus: int,
    memory: Mapping[str, float] | None = None,
) -> Placement:
    """memory: shares of a GPU's for vLLMs that are not alone there."""
    flags = f"--schedule {schedule}"
    for stage in stages:
        if not stage.flag:
            continue
        if stage.is_vllm:
            if num_gpus > 1:
                flags += f" --{stage.flag}.replicas {workers[stage.name]} --{stage.flag}.gpus {gpus[stage.name]:g}"
            if memory:
                flags += f" --{stage.flag}.gpu-memory {memory[stage.name]:g}"
        elif num_gpus > 1:
            flags += f" --{stage.flag}.count {workers[stage.name]} --{stage.flag}.gpus {gpus[stage.name]:g}"
    if num_gpus > 1:
        flags = f"--runtime ray {flags}"
    return Placement(schedule, why, workers, gpus, hours, flags)
