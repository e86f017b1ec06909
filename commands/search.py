"""`python -m pipelines search`: ReflectionFlow's search over many prompts, as a run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from commands.plan import announce
from commands.runs import Finish, RunDir, open_run, shared_uri, work
from pipelines.driver import RunOptions
from pipelines.lease import Lease
from pipelines.new_run import new_search_run
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig
from pipelines.upkeep import differing_configs
from recipes import catalogue
from schemas.errors import ForeignRunError


@dataclass(frozen=True)
class SearchArgs:
    """Search for the best image of every prompt, in the best way that is known for a preset's models; the paper's own
    way is `--preset micro-paper`, and with GPUs `reflectionflow`. On a folder that holds this search already, it goes
    on; with more --search.depth, it goes deeper."""

    run: RunDir
    preset: Preset
    job: Annotated[SearchJobConfig, tyro.conf.arg(name="")] = field(default_factory=SearchJobConfig)
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    finish: Annotated[Finish, tyro.conf.arg(name="")] = field(default_factory=Finish)


def main(argv: Sequence[str]) -> int:
    """Exit codes as in `python -m pipelines`."""
    arguments = parse_with_preset(SearchArgs, argv, "search", default_arguments)
    folder = start_search(arguments.run, arguments.preset, arguments.job, arguments.options)
    announce(folder, arguments.job, arguments.options)
    return work(folder, arguments.job, arguments.options, arguments.finish)


def default_arguments(preset: str) -> SearchArgs:
    """What a preset says."""
    return SearchArgs(
        run=tyro.MISSING,
        preset=preset,
        job=catalogue.load(preset, "search"),
        options=catalogue.load_or(preset, "run_options", RunOptions()),
    )


def start_search(run: str, preset: str, job: SearchJobConfig, options: RunOptions) -> RunFolder:
    """The run, new or gone on with. ForeignRunError where it is another's, MissingWeightsError, InputError."""
    uri = shared_uri(run, options.runtime)
    job.links()  # what cannot be is said before anything is read
    if not RunFolder.exists(uri):
        return new_search_run(uri, preset, job)
    folder, started_with = open_run(uri)
    if not isinstance(started_with, SearchJobConfig):
        raise ForeignRunError(f"{uri}: a {folder.info.job} run, no search")
    differences = differing_configs(started_with, job)
    if not differences:
        return folder
    deeper = replace(started_with, search=replace(started_with.search, depth=job.search.depth))
    if job.search.depth > started_with.search.depth and not differing_configs(deeper, job):
        with Lease(folder.storage, take_over=options.take_over) as lease:
            RunFolder.open(lease.storage).with_info(replace(folder.info, config=asdict(job)))
        return RunFolder.open(uri)
    raise ForeignRunError(
        f"{uri}: this search was started with another configuration:\n"
        + "\n".join(f"  {line}" for line in differences)
        + f"\n  go on with its own: `resume --run {uri}`, or search in a new folder"
    )
