"""What a run will make, take and cost: from stated figures, or from what a run's own units have shown."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from inference.vlm.vlm import VlmConfig
from pipelines import stated_figures as stated
from pipelines.jobs import DatasetConfig
from pipelines.model_costs import generation_tflop, image_pixels
from pipelines.placement import Cluster, Placement, StageEstimate, place
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig
from pipelines.search_placement import place_search
from pipelines.served_vlms import served_vlms
from pipelines.stage import Link
from pipelines.stages.draft_round import DraftRound
from pipelines.stages.generate_candidates import GenerateCandidates
from pipelines.stated_figures import Gpu
from schemas.checked_json import checked_record
from schemas.errors import ForeignRunError, InputError


@dataclass(frozen=True)
class Estimate:
    """The whole run. `seconds`: on one worker a stage, one stage after the other; without those that nobody knows."""

    subsets: tuple[str, ...]
    prompts: dict[str, int]
    """Of each subset."""
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
    num_prompts: Mapping[str, int] | None = None,
) -> Estimate:
    """Work out a plan. cluster: for models on GPUs, not used for those on the CPU. run: a folder whose statistics
    replace the stated seconds. num_searches: of a search, prompts times images a prompt. num_prompts: of a dataset, of
    each subset, where they are not as many as are asked for. InputError for a GPU that a
    model does not fit, even alone."""
    is_search = isinstance(config, SearchJobConfig)
    generator = config.tools.generator if is_search else config.generate.generator
    generator.check_sizes()
    cluster = (cluster or Cluster()) if is_on_gpu(config) else None
    if cluster is not None and cluster.gpus < 1:
        raise InputError(f"{cluster.gpus} GPUs", field="--gpus", expected="at least 1")
    measured = measured_rates(RunFolder.open(run), config) if run else {}
    links: dict[str, Link] = {}
    counts: Counter[str] = Counter()
    asked = num_searches if is_search else config.num_prompts
    prompts = {subset: (num_prompts or {}).get(subset, asked) for subset in config.links()}
    num_images = 0
    for subset, chain in config.links().items():
        each = _items_each(config, chain)
        num_images += prompts[subset] * _images_each(config, chain)
        for link, items in zip(chain, each, strict=True):
            links.setdefault(link.stage.name, link)
            counts[link.stage.name] += prompts[subset] * items  # pyright: ignore[reportArgumentType] - shares of a whole
    gpu = cluster.gpu if cluster else None
    stages = tuple(
        _of_stage(config, link, counts[name], gpu, measured.get(name), f"measured: {run}")
        for name, link in links.items()
    )
    pixels = image_pixels(generator)
    pairs = 0 if is_search else round(sum(prompts.values()) * stated.KEPT_SHARE * config.select.pairs_per_prompt)
    return Estimate(
        subsets=tuple(prompts),
        prompts=prompts,
        num_prompts=sum(prompts.values()),
        num_units=sum(-(-number // config.unit_size) for number in prompts.values()),
        num_pairs=pairs,
        stages=stages,
        seconds=sum(stage.seconds or 0.0 for stage in stages),
        block_bytes=num_images * pixels * stated.PNG_BYTES_PER_PIXEL,
        shard_bytes=2 * pairs * pixels * stated.JPEG_BYTES_PER_PIXEL,
        num_images=num_images,
        cluster=cluster,
        placement=_placed(config, stages, cluster) if cluster else None,
    )


def is_on_gpu(config: DatasetConfig | SearchJobConfig) -> bool:
    """Whether a run's models lie on GPUs: by the generator's place, and where a server draws, by the others'."""
    drawn = config.tools.generator if isinstance(config, SearchJobConfig) else config.generate.generator
    if not drawn.is_elsewhere:
        return drawn.device != "cpu"
    return any(
        device != "cpu" for chain in config.links().values() for link in chain for device in _devices(link.config)
    )


def _devices(config: Any) -> Iterator[str]:
    """Where each model of a stage's configuration lies."""
    if isinstance(config, VlmConfig) and config.endpoint_model:
        return
    for one in fields(config):
        value = getattr(config, one.name)
        if one.name == "device":
            yield value
        for nested in value if isinstance(value, tuple) else (value,):
            if is_dataclass(nested):
                yield from _devices(nested)


def _placed(config: DatasetConfig | SearchJobConfig, stages: Sequence[StageEstimate], cluster: Cluster) -> Placement:
    if isinstance(config, SearchJobConfig):
        return place_search(config, stages, cluster)
    return place(stages, cluster)


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
    ran = checked_record(job, folder.info.config, f"{folder.storage.uri}/run.json")
    each = {}
    for chain in ran.links().values():
        each |= {link.stage.name: items for link, items in zip(chain, _items_each(ran, chain), strict=True)}
    per_unit: dict[str, list[float]] = {}
    for _, entries in folder.statistics():
        for entry in entries or ():
            per_unit.setdefault(entry["stage"], []).append(entry["seconds"])
    rates: dict[str, float] = {}
    for stage, seconds in per_unit.items():
        rates[stage] = sorted(seconds)[len(seconds) // 2] / (ran.unit_size * each.get(stage, 1))
    if isinstance(config, DatasetConfig) and isinstance(ran, DatasetConfig):
        now, then = generation_tflop(config.generate.generator), generation_tflop(ran.generate.generator)
        if GenerateCandidates.name in rates and now and then:
            rates[GenerateCandidates.name] *= now / then
    return rates
