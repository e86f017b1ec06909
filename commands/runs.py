"""A run on the command line: opening one, driving one to its end, saying what came of it."""

import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import tyro

from commands.arguments import flag_value, parse
from pipelines.conservation import Tally, tally
from pipelines.driver import RunOptions, drive
from pipelines.edit_contents import check_edit_files
from pipelines.harvest_job import HarvestJobConfig
from pipelines.jobs import DatasetConfig, JobConfig
from pipelines.keep_more import FEW, keep_more
from pipelines.new_run import digests_of
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig
from pipelines.upkeep import check_models
from recipes import catalogue
from schemas.checked_json import checked_record
from schemas.errors import CorruptDataError, ForeignRunError, InputError, StorageError
from schemas.places import checked_place
from schemas.records import Outcome
from schemas.storage import LocalStorage
from schemas.terminal import PlainFormatter, say, say_error

RunDir = Annotated[str, tyro.conf.arg(metavar="DIR", help="the run folder")]


@dataclass(frozen=True)
class Finish:
    """When a finished run counts as a success."""

    allow_quarantine: float = 0.0
    """Share of prompts that may be in quarantine, or rejected alike for a fault, with exit code 0, in [0, 1]."""


@dataclass(frozen=True)
class ResumeArgs:
    """Go on with a run: find what is missing and make just that."""

    run: RunDir
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    finish: Annotated[Finish, tyro.conf.arg(name="")] = field(default_factory=Finish)


def parse_resume(argv: Sequence[str], command: str) -> ResumeArgs:
    """Arguments of a command that goes on with a run. Its preset says how it is computed unless flags do."""
    uri = flag_value(argv, "--run")
    options = RunOptions()
    if uri is not None and RunFolder.exists(uri):
        options = catalogue.load_or(RunFolder.open(uri).info.preset, "run_options", options)
    return parse(ResumeArgs, argv, command, ResumeArgs(run=tyro.MISSING, options=options))


def open_run(uri: str) -> tuple[RunFolder, JobConfig]:
    """A run and the configuration it was started with."""
    folder = RunFolder.open(uri)
    jobs: dict[str, type[DatasetConfig | SearchJobConfig | HarvestJobConfig]] = {
        "dataset": DatasetConfig,
        "search": SearchJobConfig,
        "harvest": HarvestJobConfig,
    }
    if folder.info.job not in jobs:
        raise ForeignRunError(f"{uri}: a {folder.info.job!r} run, which this version does not know")
    where = f"{uri}/run.json"
    try:
        config = checked_record(jobs[folder.info.job], folder.info.config, where)
        unknown = set(folder.subsets) - set(config.links())
    except (CorruptDataError, InputError) as error:
        raise ForeignRunError(
            f"{where}: its configuration is not one of this version\n  {error}\n"
            f"  take the version that made it (commit {folder.info.code_commit[:12]}), or start another run"
        ) from error
    if unknown:
        raise ForeignRunError(
            f"{where}: prompts of {', '.join(sorted(unknown))}, which its configuration does not name"
        )
    return folder, config


def open_dataset_run(uri: str) -> tuple[RunFolder, DatasetConfig]:
    """The same of a run that builds a dataset. ForeignRunError for any other."""
    folder, config = open_run(uri)
    if not isinstance(config, DatasetConfig):
        raise ForeignRunError(f"{uri}: a {folder.info.job} run, which builds no dataset")
    return folder, config


def shared_uri(uri: str, runtime: str) -> str:
    """The run's place as every worker finds it. InputError for a place that a submitted job would lose, and for a
    misspelt URI."""
    uri = checked_place(uri)
    if runtime != "ray" or "://" in uri or os.path.isabs(uri):
        return uri
    if "working_dir_files" in os.getcwd():
        raise InputError(
            f"{uri!r} would lie in this job's temporary folder, where a second submission does not find it",
            field="--run",
            expected="an absolute path on storage that every node shares, or a URI such as s3://bucket/run",
        )
    return os.path.abspath(uri)


def work(
    folder: RunFolder, config: JobConfig, options: RunOptions, finish: Finish, typed: Sequence[str] | None = None
) -> int:
    """Drive a run to its end, print what came of it, write its page. typed: the arguments of the `run` that began it,
    where they are known. Returns the exit code."""
    if not 0 <= finish.allow_quarantine <= 1:
        raise InputError(f"{finish.allow_quarantine} is no share", field="--allow-quarantine", expected="0 to 1")
    check_models(folder, digests_of(config))
    log_to(folder)
    check_edit_files(folder, config)
    complete = drive(folder, config, options, lambda held: write_report(held, config))
    check_edit_files(folder, config)
    counts = tally(folder, config)
    print_summary(folder, counts)
    for line in counts.rejections.told()[:5]:
        say_error(f"warning: {line}")
    if not complete:
        say(f"stopped; go on with: python -m pipelines resume --run {folder.storage.uri}")
        return 1
    if isinstance(config, DatasetConfig):
        say_how_to_keep_more(folder, counts, config, typed)
    for one in counts.rejections.alike()[:3]:
        say_error(f"warning: {one.in_words()}")
    quarantined = counts.prompts[Outcome.QUARANTINED]
    if quarantined > finish.allow_quarantine * sum(counts.prompts.values()):
        say(
            f"{quarantined} prompts are in quarantine: see {folder.storage.uri}/quarantine, "
            f"then `python -m pipelines retry --run {folder.storage.uri}`",
            file=sys.stderr,
        )
        return 4
    faults = [one for one in counts.rejections.faults() if one.share > finish.allow_quarantine]
    if faults:
        say_error(
            f"nothing was wrong with the prompts one by one: {faults[0].stage} rejects nearly all of them alike, which "
            "looks like a fault of its model, its settings or the data\n"
            "what to do: mend that, then start another run; or --allow-quarantine 1 if it is meant so"
        )
        return 4
    return 0


def write_report(folder: RunFolder, config: JobConfig) -> None:
    """The page of pictures of a run; of a search, with its figures."""
    if isinstance(config, SearchJobConfig):
        from pipelines.evaluation import write_evaluation

        path = write_evaluation(folder, config)
    else:
        from pipelines.report.page import build_report

        path = build_report(folder, config)
    say(f"look at it: {path}")


def print_summary(folder: RunFolder, counts: Tally) -> None:
    """What became of every prompt, in a few lines."""
    prompts, pairs = counts.prompts, counts.pairs
    say(
        f"{folder.storage.uri}: {sum(prompts.values())} prompts: {prompts[Outcome.SHIPPED]} shipped, "
        f"{prompts[Outcome.REJECTED]} rejected, {prompts[Outcome.QUARANTINED]} in quarantine, "
        f"{prompts[Outcome.PENDING]} pending" + (f"; {pairs['shipped']} pairs" if folder.info.job != "search" else "")
    )
    if counts.reasons:
        say("  rejected: " + ", ".join(f"{n} {reason}" for reason, n in sorted(counts.reasons.items())))


def say_how_to_keep_more(folder: RunFolder, counts: Tally, config: DatasetConfig, typed: Sequence[str] | None) -> None:
    """Where few of the prompts came to a pair: which settings turned them down, and the command that keeps them."""
    number = sum(counts.prompts.values())
    found = keep_more(counts.reasons + counts.pair_reasons, config)
    if counts.prompts[Outcome.SHIPPED] >= FEW * number or not found:
        return
    say(f"pairs came of {counts.prompts[Outcome.SHIPPED]} of {number} prompts; what would keep more:")
    for why, flags in found:
        say(f"  {why}" + (f": {flags}" if flags else ""))
    flags = next((flags for _, flags in found if flags), "")
    if not flags:
        return
    first = re.sub(r"-more(-\d+)?$", "", folder.storage.uri.rstrip("/"))
    command = "the command that it began with, and"
    if typed is not None and "--fork" not in " ".join(typed):
        command = f"python -m pipelines run {shlex.join(typed)}"
    fork = next(name for i in count(1) if not RunFolder.exists(name := f"{first}-more" + (f"-{i}" if i > 1 else "")))
    say(f"  in a new folder, with all that stays valid: {command} --fork {shlex.quote(fork)} {flags}")


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    say(json.dumps(value, sort_keys=True, ensure_ascii=False))


def log_to(folder: RunFolder) -> None:
    """Warnings to the terminal, everything to `logs/run.log` of a local run folder."""
    formatter = PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    handlers[0].setLevel(logging.WARNING)
    if isinstance(folder.storage, LocalStorage):
        logs = Path(folder.storage.root) / "logs"
        try:
            logs.mkdir(exist_ok=True)
            handlers.append(logging.FileHandler(logs / "run.log"))
        except OSError as error:
            raise StorageError(f"{logs}: {error.strerror}; make it writable, then `resume`") from error
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
