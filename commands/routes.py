"""`python -m pipelines routes`: learn from searches which way to go on from an image, by what it fails."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from commands.arguments import parse
from commands.runs import open_run
from inference.routes import RouteTable
from pipelines.learn_routes import Learnt, check_same_models, learn_from, routes_lines
from pipelines.search_job import SearchJobConfig
from schemas.errors import ForeignRunError, InputError
from schemas.new_file import write_new
from schemas.terminal import say


@dataclass(frozen=True)
class RoutesArgs:
    """Learn from the traces of searches whose verifier checks atoms, which failures a correction mends sooner than a
    fresh drawing. `search --search.route learned --tools.routes FILE` goes by the table."""

    run: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DIR ...", help="run folders of searches, by one corrector")]
    out: Annotated[Path, tyro.conf.arg(metavar="FILE", help="the table, as JSON")]


def main(argv: Sequence[str]) -> int:
    """0 when the table is written. InputError (2) for searches that none can be learnt from."""
    arguments = parse(RoutesArgs, argv, "routes")
    if not arguments.run:
        raise InputError("no search", field="--run", expected="run folders of searches")
    _check_out(arguments.out)
    learnt = [_learnt(uri) for uri in dict.fromkeys(map(_place, arguments.run))]
    check_same_models(learnt)
    table = RouteTable.learnt((one for of_run in learnt for _, one in of_run.tries), [one.source for one in learnt])
    for one in learnt:
        say(_of_run(one))
    for line in routes_lines(table, learnt):
        say(line)
    write_new(arguments.out, table.as_json(), "--out")
    say(f"{arguments.out}: search with --search.route learned --tools.routes {arguments.out}")
    return 0


def _check_out(path: Path) -> None:
    """InputError for a place where no file can be written, before anything is read."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        problem = "is a folder" if path.is_dir() else "" if os.access(path.parent, os.W_OK) else "may not be written"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise InputError(problem, file=str(path), field="--out", expected="a file, such as routes.json")


def _place(uri: str) -> str:
    """A run's one place, however it is written: nothing counts twice."""
    return uri if "://" in uri else os.path.realpath(uri)


def _learnt(uri: str) -> Learnt:
    folder, config = open_run(uri)
    if not isinstance(config, SearchJobConfig):
        raise ForeignRunError(f"{uri}: a {folder.info.job} run, no search")
    return learn_from(folder, config)


def _of_run(one: Learnt) -> str:
    """What of a run was taken, and what was not."""
    but = [
        f"{one.unfinished} are not searched to the end, and count as far as they are" if one.unfinished else "",
        f"{one.unchecked} without atoms left out" if one.unchecked else "",
        f"{one.left_out} that are a benchmark's left out" if one.left_out else "",
    ]
    return "; ".join([f"{one.source.run}: {one.source.prompts} of {one.prompts} prompts", *filter(None, but)])
