"""`python -m pipelines run`: start a run, go on with it, append prompts to it, or fork it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from commands.plan import announce
from commands.runs import Finish, RunDir, open_dataset_run, shared_uri, work
from pipelines.driver import RunOptions
from pipelines.edit_contents import check_edits_to_keep
from pipelines.intake import lay_out, take_in
from pipelines.jobs import DatasetConfig
from pipelines.lease import Lease
from pipelines.new_run import new_dataset_run
from pipelines.run_folder import RunFolder, encode_prompts
from pipelines.upkeep import copy_valid_blocks, differing_configs
from recipes import catalogue
from schemas.errors import ForeignRunError
from schemas.foreign_json import quote
from schemas.records import PromptRow
from schemas.terminal import say


@dataclass(frozen=True)
class RunArgs:
    """Build a dataset. On a folder that holds this very run already, it goes on with what is missing."""

    run: RunDir
    preset: Preset
    fork: str | None = None
    """Start another run in this new folder with what of --run is still valid (hard links)."""
    dataset: Annotated[DatasetConfig, tyro.conf.arg(name="")] = field(default_factory=DatasetConfig)
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    finish: Annotated[Finish, tyro.conf.arg(name="")] = field(default_factory=Finish)


def main(argv: Sequence[str]) -> int:
    """Exit codes as in `python -m pipelines`."""
    arguments = parse_run(argv, "run")
    uri = shared_uri(arguments.run, arguments.options.runtime)
    fork = shared_uri(arguments.fork, arguments.options.runtime) if arguments.fork else None
    folder, config = start(replace(arguments, run=uri, fork=fork))
    announce(folder, config, arguments.options)
    return work(folder, config, arguments.options, arguments.finish, argv)


def parse_run(argv: Sequence[str], command: str) -> RunArgs:
    """The preset is looked up first: its configuration gives every other flag its default."""
    return parse_with_preset(RunArgs, argv, command, default_arguments)


def default_arguments(preset: str) -> RunArgs:
    """What a preset says."""
    return RunArgs(
        run=tyro.MISSING,
        preset=preset,
        dataset=catalogue.load(preset, "dataset"),
        options=catalogue.load_or(preset, "run_options", RunOptions()),
    )


def start(arguments: RunArgs) -> tuple[RunFolder, DatasetConfig]:
    """The run folder, made if need be. Nothing is written before everything that was asked for is known to be sound."""
    config = arguments.dataset
    if arguments.fork is not None:
        return _fork(arguments.run, arguments.fork, arguments.preset, config), config
    if not RunFolder.exists(arguments.run):
        return new_dataset_run(arguments.run, arguments.preset, config), config
    folder, started_with = open_dataset_run(arguments.run)
    differences = differing_configs(started_with, config)
    if not differences:
        return folder, config
    if _only_more_prompts(started_with, config):
        with Lease(folder.storage, take_over=arguments.options.take_over) as lease:
            _append(RunFolder.open(lease.storage), config)
        return RunFolder.open(arguments.run), config
    raise ForeignRunError(
        f"{arguments.run}: this run was started with another configuration:\n"
        + "\n".join(f"  {line}" for line in differences)
        + f"\n  go on with its own: `resume --run {arguments.run}`; or start another that keeps what is still valid: "
        f"`run --run {arguments.run} --fork NEW_DIR ...`"
    )


def _append(folder: RunFolder, config: DatasetConfig) -> None:
    """More prompts for a run: the old ones keep their units, the new ones begin new units."""
    check_edits_to_keep(folder)
    intake = take_in(config)
    more: dict[str, int] = {}

    def rows() -> Iterator[PromptRow]:
        yield from folder.all_prompts()
        for subset in config.subsets:
            had = (row for unit in folder.units(subset) for row in folder.prompts(unit))
            number = 0
            for old, new in zip_longest(had, intake.subset_rows(subset)):
                if old is None:
                    number += 1
                    yield new
                elif old != new:
                    raise _changed(folder, old, new)
            more[subset] = number

    prompts = encode_prompts(rows())
    # Until the new file is there, and its run.json after it, either file is the run's.
    either = dict.fromkeys((*folder.info.prompts_sha256, hashlib.sha256(prompts).hexdigest()))
    folder.with_info(replace(folder.info, prompts_sha256=tuple(either)))
    segments = (*folder.info.segments, *lay_out(more, config.unit_size, after=folder.info.segments))
    info = replace(folder.info, config=asdict(config), segments=segments, intake=intake.statistics)
    RunFolder.create(folder.storage, info, prompts)


def _changed(folder: RunFolder, old: PromptRow, new: PromptRow | None) -> ForeignRunError:
    """Which prompt is another one now."""
    now = "is no longer there" if new is None else f"is now {new.prompt.prompt_id} {quote(new.prompt.text)}"
    if new is not None and (new.prompt.prompt_id, new.prompt.text) == (old.prompt.prompt_id, old.prompt.text):
        now = "has another tag, requirement or rejection now"
    return ForeignRunError(
        f"{folder.storage.uri}: the prompts it was started with have changed at their source: "
        f"{old.prompt.prompt_id} {quote(old.prompt.text)} {now}\n"
        f"  bring them back and append behind them, or start another run that keeps what is still valid: `run --fork`"
    )


def _fork(source_uri: str, target_uri: str, preset: str, config: DatasetConfig) -> RunFolder:
    """A fork that was killed is made again, or gone on with: it is a run once all is there that it takes."""
    source, source_config = open_dataset_run(source_uri)
    if RunFolder.exists(target_uri):
        target, started_with = open_dataset_run(target_uri)
        if differences := differing_configs(started_with, config):
            raise ForeignRunError(
                f"{target_uri}: there is a run of another configuration already; --fork starts a new one\n"
                + "\n".join(f"  {line}" for line in differences)
            )
        return target

    if config.edits == source_config.edits:
        check_edits_to_keep(source)

    def fill(target: RunFolder) -> None:
        copied = copy_valid_blocks(source, source_config, target, config)
        say(f"{target_uri}: a fork of {source_uri} with {copied} of its blocks")

    return new_dataset_run(target_uri, preset, config, fill)


def _only_more_prompts(old: DatasetConfig, new: DatasetConfig) -> bool:
    return new.num_prompts > old.num_prompts and replace(new, num_prompts=old.num_prompts) == old
