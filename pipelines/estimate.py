"""What a run will make, take and cost: from stated figures, or from what a run's own units have shown."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from pipelines import stated_figures as stated
from pipelines.jobs import DatasetConfig
from pipelines.model_costs import HEADROOM, generation_tflop, image_pixels, vllm_memory
from pipelines.run_folder import RunFolder
from pipelines.runtime.runtime import Schedule
from pipelines.search_job import SearchJobConfig
from pipelines.served_vlms import served_vlms
from pipelines.stage import Link
from pipelines.stages.draft_round import DraftRound
from pipelines.stages.generate_candidates import GenerateCandidates
from pipelines.stated_figures import GPUS, Gpu
from schemas.arrow import record_from_dict
from schemas.errors import ForeignRunError, InputError

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
class Estimate:
    """The whole run. `seconds`: on one worker a stage, one stage after the other; without those that nobody knows."""

    subsets: tuple[str, ...]
    num_prompts: int
    num_units: int
    num_pairs: int
    num_images: int
    stages: tuple[StageEstimate, ...]
    seconds: float
    block_bytes: float
    shard_bytes: float
    cluster: Cluster | None = None
    placement: Placement | None = None

    @property
    def gpu_hours(self) -> float:
        """Of the whole cluster, while the run lasts."""
        return self.placement.hours * self.cluster.gpus if self.placement and self.cluster else 0.0

    @property
    def cost(self) -> float:
        """US dollars."""
        return self.gpu_hours * self.cluster.hour_cost if self.cluster else 0.0


def estimate(
    config: DatasetConfig | SearchJobConfig,
    cluster: Cluster | None = None,
    run: str | None = None,
    num_searches: int = 0,
) -> Estimate:
    """Work out a plan. cluster: for models on GPUs, not used for those on the CPU. run: a folder whose statistics
    replace the stated seconds. num_searches: of a search, prompts times images a prompt. InputError for a GPU that a
    model does not fit, even alone."""
    is_search = isinstance(config, SearchJobConfig)
    generator = config.tools.generator if is_search else config.generate.generator
    on_gpu = generator.device != "cpu"
    cluster = (cluster or Cluster()) if on_gpu else None
    if cluster is not None and cluster.gpus < 1:
        raise InputError(f"{cluster.gpus} GPUs", field="--gpus", expected="at least 1")
    measured = measured_rates(RunFolder.open(run), config) if run else {}
    links: dict[str, Link] = {}
    counts: Counter[str] = Counter()
    num_prompts = num_searches if is_search else config.num_prompts
    num_images = 0
    for chain in config.links().values():
        each = _items_each(config, chain)
        num_images += num_prompts * _images_each(config, chain)
        for link, items in zip(chain, each, strict=True):
            links.setdefault(link.stage.name, link)
            counts[link.stage.name] += num_prompts * items  # pyright: ignore[reportArgumentType] - shares of a whole
    gpu = cluster.gpu if cluster else None
    stages = tuple(
        _of_stage(config, link, counts[name], gpu, measured.get(name), f"measured: {run}")
        for name, link in links.items()
    )
    subsets = tuple(config.links())
    pixels = image_pixels(generator)
    pairs = 0 if is_search else round(num_prompts * len(subsets) * stated.KEPT_SHARE * config.select.pairs_per_prompt)
    return Estimate(
        subsets=subsets,
        num_prompts=num_prompts * len(subsets),
        num_units=len(subsets) * -(-num_prompts // config.unit_size),
        num_pairs=pairs,
        stages=stages,
        seconds=sum(stage.seconds or 0.0 for stage in stages),
        block_bytes=num_images * pixels * stated.PNG_BYTES_PER_PIXEL,
        shard_bytes=2 * pairs * pixels * stated.JPEG_BYTES_PER_PIXEL,
        num_images=num_images,
        cluster=cluster,
        placement=place(stages, cluster) if cluster else None,
    )


def _images_each(config: DatasetConfig | SearchJobConfig, chain: Sequence[Link]) -> int:
    """Images of a prompt, once its whole chain is done."""
    if isinstance(config, SearchJobConfig):
        return round(config.allocation.budget) or config.search.budget
    draws = any(link.stage.name == GenerateCandidates.name for link in chain)
    return config.generate.candidates_per_prompt if draws else 2


def _items_each(config: DatasetConfig | SearchJobConfig, chain: Sequence[Link]) -> list[float]:
    """What each step of a chain has to do for one prompt: 1, or its images; a round of a search draws its share."""
    images, rounds = _images_each(config, chain), sum(link.stage is DraftRound for link in chain)
    return [
        1 if link.stage.item == "prompts" else images / (rounds if link.stage is DraftRound else 1) for link in chain
    ]


def _of_stage(
    config: DatasetConfig | SearchJobConfig,
    link: Link,
    count: float,
    gpu: Gpu | None,
    measured: float | None,
    measured_source: str,
) -> StageEstimate:
    costs = link.stage.costs(link.config, gpu)
    served = served_vlms(link.config) if link.is_client else ()
    each, source = (costs.seconds, costs.source) if measured is None else (measured, measured_source)
    return StageEstimate(
        name=link.stage.name,
        item=link.stage.item,
        num_items=round(count),
        seconds_per_item=each,
        seconds=None if each is None else each * count,
        source=source,
        memory_gib=costs.memory_gib if gpu and (costs.memory_gib is not None or link.workers.gpus) else 0.0,
        memory_source=costs.memory_source if gpu else "",
        flag=("vlm" if served == (config.vlm,) else "") if served else _flag_of(config, link),
        vllm=" + ".join(vlm.name for vlm in served),
    )


def _flag_of(config: Any, link: Link) -> str:
    """The field of a run's configuration that says who does a stage."""
    if isinstance(config, SearchJobConfig) and config.workers is link.workers:
        return "workers"
    names = (f.name for f in fields(config) if type(getattr(config, f.name)) is type(link.config))
    return next((f"{name}.workers" for name in names), "")


def measured_rates(folder: RunFolder, config: DatasetConfig | SearchJobConfig) -> dict[str, float]:
    """Seconds per image or prompt of every stage that has run (median over units), from the run's statistics; of
    generation, scaled by arithmetic where sizes or steps differ from `config`'s. ForeignRunError for a run of another
    job."""
    job, kind = type(config), folder.info.job
    if (kind == "search") != (job is SearchJobConfig):
        raise ForeignRunError(f"{folder.storage.uri}: a {kind} run, whose rates say nothing of this plan")
    ran = record_from_dict(job, folder.info.config)
    each = {}
    for chain in ran.links().values():
        each |= {link.stage.name: items for link, items in zip(chain, _items_each(ran, chain), strict=True)}
    per_unit: dict[str, list[float]] = {}
    for name in folder.storage.names("stats"):
        for entry in json.loads(folder.storage.read(f"stats/{name}")):
            per_unit.setdefault(entry["stage"], []).append(entry["seconds"])
    rates: dict[str, float] = {}
    for stage, seconds in per_unit.items():
        rates[stage] = sorted(seconds)[len(seconds) // 2] / (ran.unit_size * each.get(stage, 1))
    if isinstance(config, DatasetConfig) and isinstance(ran, DatasetConfig):
        now, then = generation_tflop(config.generate.generator), generation_tflop(ran.generate.generator)
        if GenerateCandidates.name in rates and now and then:
            rates[GenerateCandidates.name] *= now / then
    return rates


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
    """Which schedule, and how many GPUs each stage gets so that none starves. Stages without memory need no GPU; those
    that nobody knows are left out."""
    available, n = cluster.gpu.memory_gib, cluster.gpus
    known = [
        _Known(s.name, s.flag, s.seconds, available if s.memory_gib is None else s.memory_gib, bool(s.vllm))
        for s in one_vllm_each(stages)
        if s.seconds is not None and s.memory_gib != 0
    ]
    chosen = sorted(known, key=lambda stage: -stage.seconds)
    for stage in chosen:
        if stage.memory_gib > available:
            raise InputError(
                f"{stage.name} takes {stage.memory_gib:.1f} GiB, a {cluster.gpu_type} has {available:.1f}",
                field="--gpu-type",
                expected="a larger GPU, or `--preset flux-24gb` (fp8 weights, models offloaded)",
            )
    names = [stage.name for stage in chosen]
    together = sum(stage.memory_gib for stage in chosen)
    one_after_the_other = sum(stage.seconds for stage in chosen) / n / 3600
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
