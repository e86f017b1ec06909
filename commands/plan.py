"""`python -m pipelines plan`: what a run will make and cost, before it is started. Takes the flags of `run`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from commands.arguments import Preset, flag_value, parse_with_preset, preset_of
from commands.runs import open_run, print_json
from inference.model_store import SHIPPED, fetch_lines, known_model, require_models
from pipelines.driver import RunOptions
from pipelines.estimate import Estimate, estimate, is_on_gpu
from pipelines.intake import count_prompts
from pipelines.jobs import DatasetConfig, JobConfig, models_of
from pipelines.new_run import require_named_servers
from pipelines.node_checks import check, checks_json, passed, print_checks
from pipelines.placement import Cluster
from pipelines.placement_picture import as_svg, as_text, gpu_times
from pipelines.run_folder import RunFolder
from pipelines.runtime.progress import format_seconds
from pipelines.search_job import SearchJobConfig, asked_prompts, num_unjudged
from pipelines.stated_figures import GPUS
from pipelines.upkeep import differing_configs
from recipes import catalogue
from schemas.errors import InputError
from schemas.new_file import write_new
from schemas.records import Subset
from schemas.terminal import say

GENEVAL_FILE = "evaluation_metadata.jsonl"
GENEVAL_PROMPTS = 553
GENEVAL_URL = "https://raw.githubusercontent.com/djghosh13/geneval/main/prompts/evaluation_metadata.jsonl"


@dataclass(frozen=True)
class PlanArgs:
    """Say what a run will make: images, time, memory, storage, cost. Nothing is written. `plan search ...` says it of a
    search, and takes the flags of one."""

    run: str | None = None
    """A run that has begun: its measured rates replace the stated ones, and without --preset it is that run's plan."""
    preset: Preset = field(default_factory=catalogue.default)
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = field(default_factory=Cluster)
    dataset: Annotated[DatasetConfig, tyro.conf.arg(name="")] = field(default_factory=DatasetConfig)
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    json: bool = False
    """Print one JSON object."""
    check: bool = False
    """Try it: load every model once, take one unit of each subset through all stages, here or (--runtime ray) on one
    node of each kind, and say what would fail. Exit code 2 when something would."""
    picture: Path | None = None
    """Draw which GPU does what into this SVG file."""
    fetch: bool = False
    """Only print what fetches the models that are not here, one command a line: `plan ... --fetch | bash -e`."""


@dataclass(frozen=True)
class SearchPlanArgs:
    """Say what a search will draw: images, time, memory, storage, cost. Nothing is written."""

    run: str | None = None
    """A search that has begun: its measured rates replace the stated ones, and without --preset it is its plan."""
    preset: Preset = field(default_factory=catalogue.default)
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = field(default_factory=Cluster)
    job: Annotated[SearchJobConfig, tyro.conf.arg(name="")] = field(default_factory=SearchJobConfig)
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    json: bool = False
    """Print one JSON object."""
    check: bool = False
    """Try it: load every model once, take one unit through a round that draws and one that corrects, here or (--runtime
    ray) on one node of each kind, and say what would fail. Exit code 2 when something would."""
    picture: Path | None = None
    """Draw which GPU does what into this SVG file."""
    fetch: bool = False
    """Only print what fetches the models that are not here, one command a line: `plan ... --fetch | bash -e`."""


def main(argv: Sequence[str]) -> int:
    """0; 2 when the run could not start (missing weights, a GPU too small, a stage that fails its check)."""
    arguments, config = _parsed(argv)
    if arguments.fetch:
        for line in fetch_lines(models_of(config)):
            say(line)
        return 0
    begun = _begun(arguments.run, config)
    number, no_prompts, prompts = 0, None, begun
    if isinstance(config, DatasetConfig):
        prompts = begun or count_prompts(config)
    else:
        number, no_prompts = (begun[Subset.RULE], None) if begun else num_searches(config)
    plan = estimate(config, arguments.cluster, arguments.run, number, prompts)
    missing = _missing(config) or no_prompts
    if isinstance(config, SearchJobConfig) and not missing:
        num_unjudged(config, asked_prompts(config))  # what a search would refuse
    checks = check(config, arguments.options) if arguments.check and not missing else []
    if arguments.json:
        tried = {"check": checks_json(checks)} if checks else {}
        models = {"models": models_json(models_of(config))}
        print_json({**plan_json(plan), **models, **tried, "preset": arguments.preset, "missing_weights": missing})
    else:
        print_plan(plan)
        print_models(models_of(config))
        if missing:
            say(f"before it can start: {missing}")
        if checks:
            print_checks(checks)
    if arguments.picture is not None:
        write_picture(plan, arguments.picture)
    return 2 if missing or not passed(checks) else 0


def _begun(run: str | None, config: DatasetConfig | SearchJobConfig) -> dict[str, int] | None:
    """The prompts of each subset of a run that has begun with this very configuration."""
    if run is None:
        return None
    folder, started_with = open_run(run)
    same = type(started_with) is type(config) and not differing_configs(started_with, config)
    return {subset: folder.num_prompts(subset) for subset in config.links()} if same else None


def _run_of(argv: Sequence[str]) -> tuple[str, JobConfig] | None:
    """Preset and configuration of the run that a command line names, where it names no preset: whatever it does not say
    is as in that run."""
    uri = flag_value(argv, "--run")
    if uri is None or flag_value(argv, "--preset") is not None or not RunFolder.exists(uri):
        return None
    folder, config = open_run(uri)
    return folder.info.preset, config


def _parsed(argv: Sequence[str]) -> tuple[PlanArgs | SearchPlanArgs, DatasetConfig | SearchJobConfig]:
    """Of a search where it is asked for, the run that is named is one, or the preset is for nothing else."""
    asked = list(argv[:1]) == ["search"]
    rest = list(argv[1:] if asked else argv)
    preset, begun = _run_of(rest) or (preset_of(rest), None)
    if begun is not None and preset in catalogue.names():
        rest = ["--preset", preset, *rest]
    no_dataset = preset in catalogue.names("search") and preset not in catalogue.names("dataset")
    if asked or no_dataset or isinstance(begun, SearchJobConfig):
        job = begun if isinstance(begun, SearchJobConfig) else None
        found = parse_with_preset(SearchPlanArgs, rest, "plan search", partial(search_arguments, job=job))
        return found, found.job
    dataset = begun if isinstance(begun, DatasetConfig) else None
    arguments = parse_with_preset(PlanArgs, rest, "plan", partial(default_arguments, dataset=dataset))
    return arguments, arguments.dataset


def default_arguments(preset: str, dataset: DatasetConfig | None = None) -> PlanArgs:
    """What a preset says, or a run's own configuration."""
    return PlanArgs(
        preset=preset,
        cluster=catalogue.load_or(preset, "cluster", Cluster()),
        dataset=dataset or catalogue.load(preset, "dataset"),
        options=catalogue.load_or(preset, "run_options", RunOptions()),
    )


def search_arguments(preset: str, job: SearchJobConfig | None = None) -> SearchPlanArgs:
    """What a preset says, or a search's own configuration."""
    return SearchPlanArgs(
        preset=preset,
        cluster=catalogue.load_or(preset, "cluster", Cluster()),
        job=job or catalogue.load(preset, "search"),
        options=catalogue.load_or(preset, "run_options", RunOptions()),
    )


def num_searches(config: SearchJobConfig) -> tuple[int, str | None]:
    """Prompts times images a prompt; where GenEval's file is not here, its number, and how to get it."""
    if config.prompts == GENEVAL_FILE and not Path(GENEVAL_FILE).exists():
        prompts = min(config.num_prompts or GENEVAL_PROMPTS, GENEVAL_PROMPTS)
        return prompts * config.images_per_prompt, f"no {GENEVAL_FILE} here: `curl -LO {GENEVAL_URL}`"
    return len(asked_prompts(config)) * config.images_per_prompt, None


def _missing(config: DatasetConfig | SearchJobConfig) -> str | None:
    problems = []
    for require in (lambda: require_models(models_of(config)), lambda: require_named_servers(config)):
        try:
            require()
        except InputError as error:
            problems.append(str(error))
    return "\n".join(problems) or None


def plan_json(plan: Estimate) -> dict[str, object]:
    """A plan as one JSON object."""
    return {**asdict(plan), "gpu_hours": plan.gpu_hours, "cost": plan.cost}


def print_plan(plan: Estimate) -> None:
    """A plan for people. Every figure that was not measured says where it comes from."""
    if plan.num_pairs:
        each = ", ".join(f"{subset} {number:,}" for subset, number in plan.prompts.items())
        say(f"{plan.num_prompts:,} prompts in {plan.num_units:,} units, subsets {each}")
    else:
        say(f"{plan.num_prompts:,} searches in {plan.num_units:,} units, {plan.num_images:,} images")
    say(f"  {'stage':<20} {'items':>16} {'each':>10} {'one worker':>12}  figure")
    for stage in plan.stages:
        items = f"{stage.num_items:,} {stage.item}"
        each, whole = "unknown", "unknown"
        if stage.seconds_per_item is not None and stage.seconds is not None:
            fast = stage.seconds_per_item < 1
            each = f"{stage.seconds_per_item * 1e3:.1f} ms" if fast else f"{stage.seconds_per_item:.2f} s"
            whole = format_seconds(stage.seconds)
        say(f"  {stage.name:<20} {items:>16} {each:>10} {whole:>12}  {stage.source}")
    unknown = [stage.name for stage in plan.stages if stage.seconds is None]
    if unknown:
        say(f"  without {', '.join(unknown)} from here on: run a pilot, then `plan --run` on it")
    storage = f"{_bytes(plan.block_bytes)} of blocks"
    storage += f", {_bytes(plan.shard_bytes)} of shards" if plan.num_pairs else ""
    if plan.cluster is None or plan.placement is None:
        say(f"  about {format_seconds(plan.seconds)} on one worker, {storage}")
        return
    cluster, placement = plan.cluster, plan.placement
    say(f"  {'memory of a worker':<20} {'GiB':>16}")
    for stage in plan.stages:
        if stage.memory_gib:
            say(f"  {stage.name:<20} {stage.memory_gib:>16.1f}  {stage.memory_source}")
    nodes = -(-cluster.gpus // cluster.gpus_per_node)
    memories = [stage.memory_gib or 0.0 for stage in plan.stages]
    used = sum(memories) if placement.schedule == "streaming" else max(memories)
    per_node = min(cluster.gpus, cluster.gpus_per_node)
    say(
        f"{cluster.gpus} x {cluster.gpu_type} ({cluster.gpu.memory_gib:.1f} GiB each) on {nodes} node"
        f"{'s' if nodes > 1 else ''}: {placement.schedule}\n"
        f"  {placement.why}\n"
        f"  GPUs: "
        + ", ".join(f"{count} x {placement.gpus[name]:g} {name}" for name, count in placement.workers.items())
        + f"; a node of {per_node} uses up to {min(used, cluster.gpu.memory_gib) * per_node:.0f} GiB of GPU memory\n"
        f"  flags: {placement.flags}"
    )
    say(as_text(gpu_times(plan.stages, placement, cluster)))
    price = "given" if cluster.gpu_hour_cost is not None else "assumed"
    say(
        f"  {format_seconds(placement.hours * 3600)} (derived; loading models not counted), "
        f"{plan.gpu_hours:,.1f} GPU hours, ${plan.cost:,.0f} at ${cluster.hour_cost:.2f} an hour ({price})\n"
        f"  {storage}"
        + (
            f", about {plan.num_pairs:,} pairs (assumed: two prompts in five are of middling difficulty)"
            if plan.num_pairs
            else f"; {plan.num_prompts:,} images are delivered, the best of each search"
        )
    )


def models_json(names: Sequence[str]) -> list[dict[str, str]]:
    """Name, size and licence of models that are not this project's own."""
    own = "as its model page says"
    known = {name: known_model(name) for name in names if name.partition("/")[0] not in SHIPPED}
    return [
        {"name": name, "size": one.size if one else own, "licence": one.licence if one else own}
        for name, one in known.items()
    ]


def print_models(names: Sequence[str]) -> None:
    """Which models, how large, and under which licence."""
    models = models_json(names)
    if not models:
        return
    widths = [max(len(model[column]) for model in models) for column in ("name", "size")]
    say(f"  {'model':<{widths[0]}}  {'size':<{widths[1]}}  licence")
    for model in models:
        say(f"  {model['name']:<{widths[0]}}  {model['size']:<{widths[1]}}  {model['licence']}")


def write_picture(plan: Estimate, path: Path) -> None:
    """Which GPU does what. InputError where everything is on the CPU."""
    if plan.cluster is None or plan.placement is None:
        raise InputError("models on the CPU leave no GPU to draw", field="--picture", expected="a preset for GPUs")
    times = gpu_times(plan.stages, plan.placement, plan.cluster)
    write_new(path, as_svg(times, plan.placement, plan.cluster), "--picture")


def announce(folder: RunFolder, config: DatasetConfig | SearchJobConfig, options: RunOptions) -> None:
    """Before a run on GPUs starts: its plan, for the GPUs that this machine can see. Never stops the run."""
    if not is_on_gpu(config):
        return
    import torch

    count = torch.cuda.device_count()
    name = torch.cuda.get_device_name(0).lower().replace(" ", "") if count else ""
    kind = next((kind for kind in GPUS if kind.split("-")[0] in name), None)
    gpus = max(count, 1) if options.runtime == "ray" else 1
    if kind is None:
        say("the plan is for H100s, since this machine's GPUs are not known; `plan --gpus N --gpu-type ...` for others")
    try:
        prompts = {subset: folder.num_prompts(subset) for subset in config.links()}
        cluster = Cluster(gpus=gpus, gpu_type=kind or "h100")  # pyright: ignore[reportArgumentType]
        print_plan(estimate(config, cluster, num_prompts=prompts))
    except InputError as error:
        say(f"the plan: {error}")


def _bytes(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"
