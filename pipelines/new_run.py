"""A new run folder, of any kind of job."""

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from inference.model_store import model_digest, require_models
from inference.required_servers import require_servers
from inference.rewards.own import OwnRewardConfig
from inference.routes import load_routes
from inference.vlm.first_word_probe import probe_first_words
from inference.vlm.prompts import load_prompt
from pipelines.intake import lay_out, take_in
from pipelines.jobs import DatasetConfig, JobConfig, models_of, routes_of, templates_of
from pipelines.lease import Lease
from pipelines.prompts.judgeable import Asked
from pipelines.run_folder import FORMAT, RunFolder, RunInfo, encode_prompts, root_key
from pipelines.run_names import is_hidden
from pipelines.search_job import SearchJobConfig, asked_prompts, check_all_is_said, num_unjudged, search_prompts
from pipelines.served_vlms import asked_vlms
from pipelines.stage import Link
from schemas.configuration import content_key, nested_configs
from schemas.errors import ForeignRunError
from schemas.open_storage import open_storage
from schemas.own_modules import INSTALLED, version
from schemas.records import PromptRow, Subset
from schemas.storage import Storage
from schemas.telling import telling

UNFINISHED = {"prompts.parquet", "lease.json", "logs"}
"""What a folder may hold where a new run was killed before it had its `run.json`."""
FORKED = {"stages", "quarantine"}


def new_run(
    uri: str,
    preset: str,
    job: str,
    config: JobConfig,
    rows: Iterable[PromptRow],
    counted: Callable[[], tuple[dict[str, int], dict[str, Any]]],
    fill: Callable[[RunFolder], None] | None = None,
) -> RunFolder:
    """Prompts gathered and checked, models found, then the folder: nothing is written before all is known to be sound.
    What a person typed comes first: nobody should fetch weights to be told of a misspelt file.

    counted: once the rows have streamed by, how many of each subset there were, and what is to be said of them. fill:
    puts there what a fork takes from its source, before the folder is a run; what a killed one put there may be there.
    """
    storage = open_storage(uri)
    unfinished = UNFINISHED | FORKED if fill else UNFINISHED
    _check_empty(uri, storage, unfinished)
    with telling("looking at prompts, edits and models"):
        prompts = encode_prompts(rows)
        digests = digests_of(config)
    num_prompts, statistics = counted()
    info = RunInfo(
        format=FORMAT,
        preset=preset,
        config=asdict(config),  # pyright: ignore[reportArgumentType] - every job is a dataclass
        seed=config.seed,
        unit_size=config.unit_size,
        root_key=root_key(config.seed, config.unit_size, config.num_threads),
        segments=lay_out(num_prompts, config.unit_size),
        digests=digests,
        intake=statistics,
        code_commit=_code_commit(),
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        job=job,
    )
    for link in (link for links in config.links().values() for link in links):
        probe_first_words(link.config)
    with Lease(storage) as lease:
        _check_empty(uri, storage, unfinished)
        folder = RunFolder.create(lease.storage, info, prompts, fill or (lambda folder: None))
    return RunFolder(storage, folder.info)


def _check_empty(uri: str, storage: Storage, unfinished: set[str]) -> None:
    names = storage.names("")
    if "run.json" in names:
        raise ForeignRunError(
            f"{uri}: another driver started a run here just now; give the command again to go on with it"
        )
    strangers = [name for name in names if name not in unfinished and not is_hidden(name)]
    if strangers or Path(uri).is_file():
        is_half = strangers and FORKED.issuperset(strangers)
        half = "; a fork that was killed: the same `run --fork` makes it whole" if is_half else ""
        raise ForeignRunError(f"{uri}: not empty, and no run (it holds {', '.join(strangers[:3]) or 'a file'}{half})")


def new_dataset_run(
    uri: str, preset: str, config: DatasetConfig, fill: Callable[[RunFolder], None] | None = None
) -> RunFolder:
    """A new run that builds a dataset. fill: see `new_run`."""
    if set(config.subsets) - {Subset.EDITING}:
        config.generate.generator.check_sizes()
    intake = take_in(config)
    rows = intake.rows(before_edits=lambda: require_models(models_of(config)))
    return new_run(uri, preset, "dataset", config, rows, lambda: (intake.num_prompts, intake.statistics), fill)


def new_search_run(uri: str, preset: str, config: SearchJobConfig) -> RunFolder:
    """A new run that searches."""
    config.tools.generator.check_sizes()
    counts: Counter[str] = Counter()
    asked: list[Asked] = []

    def rows() -> Iterator[PromptRow]:
        asked.extend(asked_prompts(config))
        check_all_is_said((*config.tools.verifier.kinds, *config.also_score), config.requirements, asked)
        for row in search_prompts(config, asked):
            counts[Subset.RULE] += 1
            yield row

    def counted() -> tuple[dict[str, int], dict[str, Any]]:
        said = {"source": config.prompts, "not_judged": num_unjudged(config, asked)}
        return dict(counts), {"rule": said}

    return new_run(uri, preset, "search", config, rows(), counted)


def digests_of(config: JobConfig) -> dict[str, str]:
    """Digest of every model, template and table of routes that a run uses. MissingWeightsError, InputError for one that
    is not here, for code of one's own that is not, for a VLM that is none, and for a server that is not named."""
    require_named_servers(config)
    links = [link for links in config.links().values() for link in links]
    for one in (one for link in links for one in nested_configs(link.config)):
        if isinstance(one, OwnRewardConfig):
            one.find()
    templates = {name: content_key(load_prompt(name)) for name in templates_of(config)}
    routes = {name: content_key(load_routes(name).as_json()) for name in routes_of(config)}
    require_models(models_of(config))
    for vlm in (vlm for link in links for vlm in asked_vlms(link.config)):
        vlm.check()
    return {name: model_digest(name) for name in models_of(config)} | templates | routes


def require_named_servers(config: JobConfig) -> None:
    """InputError, which names the flag, for a server that a run asks and whose address nobody named."""
    for link in (link for links in config.links().values() for link in links):
        require_servers(link.config, flags_of(config, link), getattr(config, "vlm", None))


def flags_of(config: JobConfig, link: Link) -> str:
    """What the flags of a stage's configuration begin with: the run's field that it comes from."""
    job: Any = config
    names = (one.name for one in fields(job) if type(getattr(job, one.name)) is type(link.config))
    return f"--{next(names, '')}"


def _code_commit() -> str:
    """Recorded for people; never compared. An installed package has a version: the folder that it lies in may be part
    of a repository that has nothing to do with it."""
    if INSTALLED:
        return f"version {version()}"
    here = Path(__file__).parent
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"
