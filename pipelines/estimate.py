"""What a run will make, take and cost: from stated figures, or from what a run's own units have shown."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipelines import stated_figures as stated
from pipelines.jobs import DatasetConfig
from pipelines.run_folder import RunFolder
from pipelines.runtime.runtime import Schedule
from pipelines.stages.generate_candidates import GenerateCandidates
from pipelines.stated_figures import GIB, GPUS, Gpu
from schemas.arrow import record_from_dict
from schemas.errors import InputError

GpuType = Literal["h100", "h200", "a100-80gb", "l40s", "rtx4090"]
_OF_IMAGES = ("generate_candidates", "ground_objects", "score_rewards")  # the others work prompt by prompt
CPU_SECONDS = {
    "generate_candidates": 0.05,
    "ground_objects": 0.05,
    "score_rewards": 0.005,
    "select_pairs": 0.0002,
    "select_by_reward": 0.0002,
    "select_by_length": 0.0002,
    "condense_prompts": 0.05,
    "read_edits": 0.002,
    "caption_images": 0.05,
    "write_reflections": 0.3,
    "filter_pairs": 0.03,
}
GPU_STAGES = {
    "generate_candidates": "generate",
    "ground_objects": "ground",
    "score_rewards": "rewards",
    "condense_prompts": "condense",
    "caption_images": "caption",
    "write_reflections": "reflect",
    "filter_pairs": "filter",
}
"""Stages whose models may lie on GPUs, and the field of `DatasetConfig` that configures each."""
CPU_SOURCE = "stated: the micro models on two cores of a server CPU without AMX"
HEADROOM = 0.9
"""Models share a GPU when they are not expected to fill more of it than this: the figures are estimates."""
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
    """One stage on one worker. source: "stated", "derived" or "measured", and of what. memory_gib: peak on its GPU."""

    name: str
    item: str
    num_items: int
    seconds_per_item: float
    seconds: float
    source: str
    memory_gib: float = 0.0
    memory_source: str = ""


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
    """The whole run. `seconds`: on one worker a stage, one stage after the other."""

    subsets: tuple[str, ...]
    num_prompts: int
    num_units: int
    num_pairs: int
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


def estimate(config: DatasetConfig, cluster: Cluster | None = None, run: str | None = None) -> Estimate:
    """Work out a plan. cluster: for models on GPUs, not used for those on the CPU. run: a folder whose statistics
    replace the stated seconds. InputError for a GPU that a model does not fit, even alone."""
    on_gpu = config.generate.generator.device != "cpu"
    cluster = (cluster or Cluster()) if on_gpu else None
    if cluster is not None and cluster.gpus < 1:
        raise InputError(f"{cluster.gpus} GPUs", field="--gpus", expected="at least 1")
    measured = measured_rates(RunFolder.open(run), config) if run else {}
    num_prompts = config.num_prompts * len(config.subsets)
    counts: Counter[str] = Counter()
    num_images = 0
    for links in config.links().values():
        names = [link.stage.name for link in links]
        each = config.generate.candidates_per_prompt if GenerateCandidates.name in names else 2
        num_images += config.num_prompts * each
        for name in names:
            counts[name] += config.num_prompts * (each if name in _OF_IMAGES else 1)
    stages: dict[str, StageEstimate] = {}
    for name, count in counts.items():
        each, source = stated_rate(config, name, cluster)
        if name in measured:
            each, source = measured[name], f"measured: {run}"
        stages[name] = StageEstimate(
            name, "images" if name in _OF_IMAGES else "prompts", count, each, each * count, source
        )
    if cluster is not None:
        for name in stages:
            if name in GPU_STAGES:
                gib, memory_source = stage_memory(config, name)
                stages[name] = replace(stages[name], memory_gib=gib, memory_source=memory_source)
    pixels = config.generate.generator.size_px**2
    pairs = round(num_prompts * stated.KEPT_SHARE * config.select.pairs_per_prompt)
    return Estimate(
        subsets=config.subsets,
        num_prompts=num_prompts,
        num_units=len(config.subsets) * -(-config.num_prompts // config.unit_size),
        num_pairs=pairs,
        stages=tuple(stages.values()),
        seconds=sum(stage.seconds for stage in stages.values()),
        block_bytes=num_images * pixels * stated.PNG_BYTES_PER_PIXEL,
        shard_bytes=2 * pairs * pixels * stated.JPEG_BYTES_PER_PIXEL,
        cluster=cluster,
        placement=place(tuple(stages.values()), cluster) if cluster else None,
    )


def stated_rate(config: DatasetConfig, stage: str, cluster: Cluster | None) -> tuple[float, str]:
    """(seconds an item of one worker, where that comes from)."""
    if cluster is None:
        return CPU_SECONDS[stage], CPU_SOURCE
    generator = config.generate.generator
    if stage == "generate_candidates":
        share = stated.flux_pass_tflop(generator.size_px, generator.text_lengths[-1]) / stated.FLUX_PASS_TFLOP
        passes = generator.denoiser_passes_per_image * cluster.gpu.pass_seconds * share
        moving = stated.OFFLOAD_SECONDS[generator.offload] / generator.batch_size
        slower = stated.QUANTIZATION_SLOWDOWN[generator.quantization]
        if generator.compile == "blocks":
            slower = stated.COMPILED_SHARE[generator.quantization]
        decode = stated.DECODE_PASSES * cluster.gpu.pass_seconds * (generator.size_px / 1024) ** 2
        how = f"{generator.denoiser_passes_per_image} passes"
        how += " compiled" if generator.compile == "blocks" else ""
        how += f" x {slower:.2f}" if slower != 1 else ""
        how += f" ({generator.quantization})" if generator.quantization != "none" else ""
        how += f" + {decode:.2f} s decoding" + (f" + {moving:.2f} s offload" if moving else "")
        # An image is packed while the next is drawn: that takes time only where drawing takes less.
        return max(passes * slower + decode + moving, stated.PNG_SECONDS), f"{cluster.gpu.pass_source}; here {how}"
    if stage == "ground_objects":
        return stated.GROUNDING_SECONDS, "stated: GroundingDINO-T 8.37 images/s and SAM ViT-H 0.15 s, both on an A100"
    if stage in stated.VLM_SECONDS:
        return stated.VLM_SECONDS[stage], "stated: an assumption; measure it with a pilot run"
    return CPU_SECONDS[stage], CPU_SOURCE


def measured_rates(folder: RunFolder, config: DatasetConfig) -> dict[str, float]:
    """Seconds per image or prompt of every stage that has run (median over units), from the run's statistics; of
    generation, scaled by arithmetic where sizes or steps differ from `config`'s."""
    ran = record_from_dict(DatasetConfig, folder.info.config)
    per_unit: dict[str, list[float]] = {}
    for name in folder.storage.names("stats"):
        for entry in json.loads(folder.storage.read(f"stats/{name}")):
            per_unit.setdefault(entry["stage"], []).append(entry["seconds"])
    rates: dict[str, float] = {}
    for stage, seconds in per_unit.items():
        items = ran.unit_size * (ran.generate.candidates_per_prompt if stage in _OF_IMAGES else 1)
        rates[stage] = sorted(seconds)[len(seconds) // 2] / items
    if "generate_candidates" in rates:
        rates["generate_candidates"] *= _generation_tflop(config) / _generation_tflop(ran)
    return rates


def _generation_tflop(config: DatasetConfig) -> float:
    generator = config.generate.generator
    tflop = stated.flux_pass_tflop(generator.size_px, generator.text_lengths[-1])
    return generator.denoiser_passes_per_image * tflop


def stage_memory(config: DatasetConfig, stage: str) -> tuple[float, str]:
    """(GiB on a GPU at its peak, how that comes about) of a stage of `GPU_STAGES`; 0 where an endpoint works."""
    if stage == "generate_candidates":
        return generator_memory(config)
    if stage == "ground_objects":
        return grounding_memory(config)
    if stage == "score_rewards":
        gib = stated.REWARDS * 2 / GIB + stated.REWARDS_WORKING_GIB + stated.CUDA_CONTEXT_GIB
        return gib, "derived: ViT-H twice and ViT-L in float16 + allowance for a batch"
    vlm = {
        "condense_prompts": config.condense.vlm,
        "caption_images": config.caption.vlm,
        "write_reflections": config.reflect.vlm,
        "filter_pairs": config.filter.verifier.vlm,
    }[stage]
    if (vlm or config.vlm).endpoint_model:
        return 0.0, ""
    weights = stated.QWEN_7B * 2 / GIB
    gib = weights + stated.VLM_CACHE_GIB + stated.CUDA_CONTEXT_GIB
    return gib, f"derived: {weights:.1f} weights (7B, bfloat16) + {stated.VLM_CACHE_GIB} for the cache (allowance)"


def generator_memory(config: DatasetConfig) -> tuple[float, str]:
    """(GiB on a GPU at its peak, how that comes about) of the FLUX pipeline."""
    generator = config.generate.generator
    full = 4 if generator.dtype == "float32" else 2
    kept = {"none": stated.FLUX_TRANSFORMER, "fp8_dynamic": stated.FLUX_MODULATION}.get(generator.quantization, 0)
    transformer = kept * full + (stated.FLUX_TRANSFORMER - kept)
    t5 = stated.FLUX_T5 * (1 if generator.quantization == "int8" else full)
    others = (stated.FLUX_CLIP + stated.FLUX_VAE) * full
    resident = {
        "none": transformer + t5 + others,
        "model": max(transformer, t5),
        "sequential": 2 * 2**30,  # a few layers at a time
    }[generator.offload]
    working = stated.FLUX_WORKING_GIB * generator.batch_size * (generator.size_px / 1024) ** 2
    return (
        resident / GIB + working + stated.CUDA_CONTEXT_GIB,
        f"derived: {resident / GIB:.1f} weights ({generator.dtype}, quantization {generator.quantization}, offload "
        f"{generator.offload}) + {working:.1f} at work (stated) + {stated.CUDA_CONTEXT_GIB} CUDA",
    )


def grounding_memory(config: DatasetConfig) -> tuple[float, str]:
    """(GiB on a GPU at its peak, how that comes about) of GroundingDINO and SAM, whose peaks do not coincide."""
    ground = config.ground.grounded_sam
    weights = (stated.GROUNDING_DINO_SWIN_T + stated.SAM_VIT_H) * 4 / GIB
    detecting = stated.DINO_WORKING_GIB * ground.detector.batch_size
    segmenting = stated.SAM_WORKING_GIB * ground.segmenter.image_batch
    return (
        weights + max(detecting, segmenting) + stated.CUDA_CONTEXT_GIB,
        f"derived: {weights:.1f} weights (float32) + {max(detecting, segmenting):.1f} at work (larger of two) "
        f"+ {stated.CUDA_CONTEXT_GIB} CUDA",
    )


def place(stages: Sequence[StageEstimate], cluster: Cluster) -> Placement:
    """Which schedule, and how many GPUs each stage gets so that none starves. Stages without memory need no GPU."""
    chosen = sorted((stage for stage in stages if stage.memory_gib), key=lambda stage: -stage.seconds)
    available, n = cluster.gpu.memory_gib, cluster.gpus
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
        return _placement("streaming", why, dict.fromkeys(names, n), gpus, one_after_the_other, n)
    if n >= len(chosen) > 1:
        divided = _divide(chosen, n)
        hours = max(stage.seconds / divided[stage.name] for stage in chosen) / 3600
        loss = 1 - one_after_the_other / hours
        if loss <= WORTHWHILE_LOSS:
            others = n - divided[names[0]]
            why = f"{need}, so {others} of {n} GPUs do the rest while the others draw; {loss:.0%} of the time idles"
            return _placement("streaming", why, divided, dict.fromkeys(names, 1.0), hours, n)
        why = f"{need}, and GPUs of their own for each stage would idle {loss:.0%} of the time"
    else:
        why = f"{need}, and there {'is one GPU' if n == 1 else f'are {n} GPUs'}"
    why += ": every stage has all GPUs in turn"
    return _placement("staged", why, dict.fromkeys(names, n), dict.fromkeys(names, 1.0), one_after_the_other, n)


def _divide(stages: Sequence[StageEstimate], num_gpus: int) -> dict[str, int]:
    """At least one GPU each; every further one goes to the stage that takes longest with what it has."""
    gpus = {stage.name: 1 for stage in stages}
    for _ in range(num_gpus - len(stages)):
        slowest = max(stages, key=lambda stage: stage.seconds / gpus[stage.name])
        gpus[slowest.name] += 1
    return gpus


def _placement(
    schedule: Schedule, why: str, workers: dict[str, int], gpus: dict[str, float], hours: float, num_gpus: int
) -> Placement:
    flags = f"--schedule {schedule}"
    if num_gpus > 1:
        for name, count in workers.items():
            flags += f" --{GPU_STAGES[name]}.workers.count {count} --{GPU_STAGES[name]}.workers.gpus {gpus[name]:g}"
        flags = f"--runtime ray {flags}"
    return Placement(schedule, why, workers, gpus, hours, flags)
