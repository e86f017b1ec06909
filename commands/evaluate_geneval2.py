"""`python -m pipelines evaluate geneval2`: Soft-TIFA of images of GenEval 2's prompts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from commands.arguments import parse
from commands.endpoint_errors import explained
from commands.image_files import check_images, read_image, say_faults
from commands.runs import open_run, write_report
from inference.interfaces import Vlm
from inference.judges.intervals import Interval
from inference.judges.questions_judge import JUDGE_VLM
from inference.model_store import model_digest, require_models
from inference.required_servers import require_servers
from inference.requirements.question_atoms import ONE_WORD, question_probabilities
from inference.vlm.prompts import load_prompt
from inference.vlm.vlm import VlmConfig
from pipelines.geneval2 import Row, find_images, read_data, read_run, result_line, summarise
from pipelines.kept_results import KEY, KeptResults, check_results
from pipelines.report.geneval2_page import render_page
from pipelines.runtime.progress import DoneOf
from pipelines.search_job import SearchJobConfig
from schemas.atomic_file import write_whole
from schemas.configuration import content_key, model_names, output_config
from schemas.errors import ForeignRunError, InputError
from schemas.storage import LocalStorage
from schemas.telling import loading
from schemas.terminal import say, say_error


@dataclass(frozen=True)
class EvaluateGeneval2Args:
    """Score images by GenEval 2: each question is put to a VLM, and what counts is how probable the expected answer is
    (Soft-TIFA, arithmetic and geometric mean). The judge is Qwen/Qwen3-VL-8B-Instruct, as in GenEval 2, unless flags
    name another VLM; scores of different judges cannot be compared."""

    data: Path | None = None
    """GenEval 2's geneval2_data.jsonl, or lines of that form: prompt, vqa_list, skills, atom_count."""
    images: Path | None = None
    """A folder of images, named by the row's number from 0 (00000.png; of several 00000_0.png) or its id, or with a
    folder a row; or a JSON file that maps each prompt to its image, or to a list of them, relative to the file."""
    run: str | None = None
    """Instead of both: a finished search over prompts with questions, whose delivered images are scored."""
    out: Path | None = None
    """Where results.jsonl, summary.json and index.html go; default: into the folder of images, beside the JSON file
    (NAME.geneval2), or into the run's evaluation/geneval2."""
    vlm: VlmConfig = field(default_factory=lambda: VlmConfig(model=JUDGE_VLM))
    """Who judges."""
    prompt: str = ONE_WORD
    """Template with {question}: a name in inference/prompts, or a file; GenEval 2's unless another is named."""
    batch_size: int = 16
    """Images in memory at once."""
    skip_bad: bool = False
    """Leave out prompts without an image and images that do not read, which are named, instead of refusing all."""


@dataclass(frozen=True)
class _Shown:
    """One image of a row. name: as in results.jsonl."""

    row: Row
    path: Path
    name: str
    sha256: str


def main(argv: Sequence[str]) -> int:
    """0 when the results are written."""
    arguments = parse(EvaluateGeneval2Args, argv, "evaluate geneval2", EvaluateGeneval2Args())
    if arguments.batch_size < 1:
        raise InputError(f"{arguments.batch_size} images at once", field="--batch-size", expected="1 or more")
    shown, skipped, out = _gathered(arguments)
    vlm = arguments.vlm.without_floor
    require_servers(vlm, "--vlm", vlm)
    require_models(model_names(vlm))
    vlm.check()
    try:
        out.mkdir(parents=True, exist_ok=True)
        digests = {name: model_digest(name) for name in model_names(vlm)}
        key = content_key(load_prompt(arguments.prompt), output_config(vlm, digests))
        check_results(out, key)
        kept = KeptResults(out / "results.partial.jsonl", key)
    except OSError as error:
        raise InputError(error.strerror or str(error), file=str(out), field="--out", expected="a folder") from error
    with explained(vlm):
        lines = list(_judged(shown, vlm, kept, arguments))
    write_whole(out / "results.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    summary = summarise(lines, vlm.name) | ({"skipped": skipped} if skipped else {}) | {KEY: key}
    write_whole(out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_whole(out / "index.html", render_page(summary, lines, {one.name: one.path for one in shown}))
    kept.remove()
    for text in summary_lines(summary):
        say(text)
    say(f"look at it: {out / 'index.html'}")
    return 0


def summary_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """For the terminal."""

    def shown(found: Sequence[float | None]) -> str:
        return Interval.from_list(found).shown(".2f")

    yield f"{summary['num_prompts']} prompts, {summary['num_images']} images, judged by {summary['judge']}"
    yield f"  Soft-TIFA GM  {shown(summary['soft_tifa_gm'])}   (95 % over prompts)"
    yield f"  Soft-TIFA AM  {shown(summary['soft_tifa_am'])}"
    for name, found in summary["am_by_skill"].items():
        yield f"  AM, {name:<10} {shown(found)}"
    for count, found in summary["gm_by_atom_count"].items():
        yield f"  GM, {count:>2} atoms   {shown(found)}"
    if "skipped" in summary:
        yield f"  {len(summary['skipped'])} are left out (`skipped` in summary.json)"


def _gathered(arguments: EvaluateGeneval2Args) -> tuple[list[_Shown], dict[str, str], Path]:
    """Every image that reads, what is left out and why, and where results go. InputError that names every image that
    is missing or does not read."""
    if (arguments.run is None) == (arguments.images is None) or (arguments.data is None) != (arguments.run is not None):
        raise InputError("--data, --images and --run", expected="--data with --images, or --run alone")
    faults: list[InputError] = []
    if arguments.run is not None:
        evaluation = _evaluation_of(arguments.run)
        rows, images = read_run(evaluation)
        root, out = evaluation, evaluation / "geneval2"
    else:
        assert arguments.data is not None
        assert arguments.images is not None
        rows = read_data(arguments.data)
        images, faults, others = find_images(rows, arguments.images, arguments.data)
        is_folder = arguments.images.is_dir()
        root = arguments.images if is_folder else arguments.images.parent
        out = root if is_folder else root / f"{arguments.images.stem}.geneval2"
        if others:
            say_error(f"{arguments.images}: {others} more of no row of {arguments.data} are passed over")
    paths = list(dict.fromkeys(path for row in rows for path in images.get(row.number, ())))
    digests = dict(zip(paths, check_images(paths), strict=True))
    faults += [found for found in digests.values() if isinstance(found, InputError)]
    say_faults(faults, arguments.skip_bad)
    shown = [
        _Shown(row, path, _name(path, root), digest)
        for row in rows
        for path in images.get(row.number, ())
        if isinstance(digest := digests[path], str)
    ]
    if not shown:
        raise InputError("no image that reads", file=str(root), expected="one at least")
    skipped = {f"{fault.file}{'' if fault.line is None else f':{fault.line}'}": fault.problem for fault in faults}
    return shown, skipped, arguments.out or out


def _evaluation_of(run: str) -> Path:
    folder, config = open_run(run)
    if not isinstance(config, SearchJobConfig):
        raise ForeignRunError(f"{run}: a {folder.info.job} run, no search")
    if not isinstance(folder.storage, LocalStorage):
        raise InputError(f"{run} is not on this machine", field="--run", expected="a local run folder")
    evaluation = Path(folder.storage.root) / "evaluation"
    if not (evaluation / "summary.json").exists():
        write_report(folder, config)
    return evaluation


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _judged(
    shown: Sequence[_Shown], vlm: VlmConfig, kept: KeptResults, arguments: EvaluateGeneval2Args
) -> Iterator[dict[str, Any]]:
    """A line for each image, in order; those that are kept from an earlier start are not asked about again."""
    lines = [kept.line_of(one.name, one.sha256, one.row.metadata) for one in shown]
    left = [i for i, line in enumerate(lines) if line is None]
    if left:
        if len(left) < len(lines):
            say(f"{len(lines) - len(left)} images are judged already")
        with loading(model_names(vlm), "nothing: a server judges"):
            opened: Vlm = vlm.open()
        progress = DoneOf(len(left), "images")
        for start in range(0, len(left), arguments.batch_size):
            some = left[start : start + arguments.batch_size]
            for i, line in zip(some, _ask(opened, [shown[i] for i in some], arguments.prompt), strict=True):
                lines[i] = line
            kept.add([(shown[i].sha256, line) for i in some if (line := lines[i]) is not None])
            progress.say(start + len(some), at_once=start == 0)
    # The row's number and count are the file's as it is now.
    for one, line in zip(shown, lines, strict=True):
        assert line is not None
        yield line | {"row": one.row.number, "atom_count": one.row.atom_count}


def _ask(vlm: Vlm, shown: Sequence[_Shown], template: str) -> list[dict[str, Any]]:
    images: list[np.ndarray] = [read_image(one.path) for one in shown]
    pairs = [(image, q) for image, one in zip(images, shown, strict=True) for q in one.row.questions]
    asked = [image for image, _ in pairs], [question for _, question in pairs]
    found = iter(question_probabilities(vlm, *asked, template).tolist())
    return [result_line(one.row, one.name, [next(found) for _ in one.row.questions]) for one in shown]
