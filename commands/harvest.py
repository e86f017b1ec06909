"""`python -m pipelines harvest`: pairs with reflections out of a search's traces, for the next corrector."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import tyro

from commands.arguments import parse
from commands.runs import Finish, open_run, shared_uri, work
from pipelines.driver import RunOptions
from pipelines.harvest_job import HarvestJobConfig, harvest_prompts, harvested, num_unjudged
from pipelines.new_run import new_run
from pipelines.pack_shards import PackShardsConfig
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig
from pipelines.stages.harvest_pairs import HarvestPairsConfig
from pipelines.upkeep import differing_configs
from schemas.errors import ForeignRunError, InputError
from schemas.records import Reason, Subset


@dataclass(frozen=True)
class HarvestArgs:
    """Make a dataset of a finished search: what the corrector made of a flawed image, and by which reflection. The
    judge has no say in it, and prompts of benchmarks are left out."""

    run: Annotated[str, tyro.conf.arg(metavar="DIR", help="the search's run folder")]
    out: Annotated[str, tyro.conf.arg(metavar="DIR", help="the dataset's run folder; its shards lie in DIR/shards")]
    harvest: HarvestPairsConfig = field(default_factory=HarvestPairsConfig)
    pack: PackShardsConfig = field(default_factory=PackShardsConfig)
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    finish: Annotated[Finish, tyro.conf.arg(name="")] = field(default_factory=Finish)


def main(argv: Sequence[str]) -> int:
    """Exit codes as in `python -m pipelines`."""
    arguments = parse(HarvestArgs, argv, "harvest")
    source = shared_uri(arguments.run, arguments.options.runtime)
    search, searched = open_run(source)
    if not isinstance(searched, SearchJobConfig):
        raise ForeignRunError(f"{arguments.run}: a {search.info.job} run, no search")
    rounds, annotator = harvested(search, searched)
    if arguments.harvest.partner == "near" and "atoms" not in searched.tools.verifier.kinds:
        raise InputError(
            f"{source}: nobody checked its images requirement by requirement",
            field="--harvest.partner",
            expected="corrected or best, or a search with --tools.verifier.kinds atoms",
        )
    harvest = replace(arguments.harvest, search_run=source, rounds=rounds, annotator=annotator)
    job = HarvestJobConfig(searched.seed, searched.unit_size, 1, harvest, arguments.pack)
    folder = _start(shared_uri(arguments.out, arguments.options.runtime), job, search, searched)
    return work(folder, job, arguments.options, arguments.finish)


def _start(uri: str, job: HarvestJobConfig, search: RunFolder, searched: SearchJobConfig) -> RunFolder:
    if not RunFolder.exists(uri):
        counts: Counter[str] = Counter()
        said: dict[str, Any] = {"rule": {"source": search.storage.uri}}

        def counted() -> tuple[dict[str, int], dict[str, Any]]:
            said["rule"]["not_judged"] = num_unjudged(search)
            said["rule"]["kept_out_as_benchmark_prompts"] = counts[Reason.BENCHMARK_PROMPT]
            return {Subset.RULE: counts[Subset.RULE]}, said

        rows = harvest_prompts(search, searched.vocabulary, counts)
        return new_run(uri, search.info.preset, "harvest", job, rows, counted)
    folder, started_with = open_run(uri)
    if not isinstance(started_with, HarvestJobConfig):
        raise ForeignRunError(f"{uri}: a {folder.info.job} run, no harvest")
    if differences := differing_configs(started_with, job):
        raise ForeignRunError(
            f"{uri}: this harvest was started with another configuration:\n"
            + "\n".join(f"  {line}" for line in differences)
            + "\n  harvest into a new folder"
        )
    return folder
