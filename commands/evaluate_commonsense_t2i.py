"""`python -m pipelines evaluate commonsense-t2i`: pairs of prompts that only imply what they show, and whether their
images show it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from commands.arguments import Preset, flag_value, parse_with_preset, refuse_flags
from commands.endpoint_errors import explained
from commands.image_files import check_images, read_image, say_faults
from inference.dual.expanded_prompts import ExpanderConfig, expand
from inference.generator import GeneratorConfig
from inference.judges.commonsense_data import EXPANDED_FIELDS, read_expanded, read_pairs
from inference.judges.commonsense_t2i import CommonsensePair
from inference.judges.description_judge import DescriptionJudge, DescriptionJudgeConfig
from inference.model_store import model_digest, require_models
from inference.required_servers import require_servers
from inference.vlm.endpoint import Journal
from inference.vlm.journal import StorageJournal
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.vlm import VlmConfig
from pipelines.commonsense_images import (
    EXPANDED,
    Drawn,
    conditions,
    draw_missing,
    expanded_key,
    expanded_text,
    with_lora,
)
from pipelines.commonsense_t2i import (
    LAYOUT,
    Condition,
    Shown,
    figure_words,
    find_images,
    result_line,
    summarise,
    with_rule,
)
from pipelines.kept_results import KEY, KeptResults, check_results
from pipelines.report.commonsense_page import render_page
from pipelines.runtime.progress import DoneOf
from recipes import catalogue
from schemas.atomic_file import write_whole
from schemas.configuration import content_key, model_names, output_config
from schemas.errors import InputError, WorkFailedError
from schemas.storage import LocalStorage
from schemas.telling import loading, telling
from schemas.terminal import say, say_error

OUT = Path("runs/commonsense-t2i")
VERDICTS = "verdicts.jsonl"  # as they come; they stay, so that a row more is all that is judged
TABLE_1 = "schnell"
_OF_DRAWING = ("--generator", "--num-images", "--expanded", "--expanded-fields", "--write-expanded", "--expander")
_OF_DRAWING += ("--distilled",)


@dataclass(frozen=True)
class EvaluateCommonsenseT2iArgs:
    """CommonsenseT2I: images of two prompts that differ in a word ("a lightbulb with electricity", "without") are held
    against what each prompt implies; a pair counts where both images are right. Without --images they are drawn, base
    prompts first, expanded ones and distilled generators beside them, and compared in one table."""

    data: Path | None = None
    """CommonsenseT2I's data.json, or its Parquet file, or rows of that form (.json, .jsonl, .csv, .parquet): prompt1,
    prompt2, description1, description2, category, likelihood."""
    images: tuple[Path, ...] = ()
    """Folders of images that are there, each a row of the table, in the layout of the published code:
    prompt1_img/original/0001-1.png is image 1 of the first prompt of pair 1, prompt2_img/original/0001-1.png that of
    the second. Each is compared with the first folder."""
    out: Path | None = None
    """Where results.jsonl, summary.json, index.html and what is drawn go; default: into the folder of images where it
    is the only one, else runs/commonsense-t2i."""
    preset: Preset = TABLE_1
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    num_images: int = 4
    """Images of each prompt."""
    seed: int = 0
    """Of the images' noise, and of the coin that gives an image that fits both descriptions to one of them."""
    expanded: Path | None = None
    """Draw expanded prompts, too: a file of rows as many as the data's, in their order (it may be the data file)."""
    expanded_fields: tuple[str, str] = EXPANDED_FIELDS
    """Its fields with the expanded prompts."""
    write_expanded: bool = False
    """Have a VLM write the expanded prompts; they are kept as expanded.jsonl."""
    expander: ExpanderConfig = field(default_factory=ExpanderConfig)
    distilled: Path | None = None
    """Draw with what was distilled, too: a LoRA's folder, or the folder of `distill`, whose concepts are each used for
    the prompt that they were taught."""
    judge: DescriptionJudgeConfig = field(default_factory=DescriptionJudgeConfig)
    batch_size: int = 16
    """Images judged at once."""
    skip_bad: bool = False
    """Leave out pairs without images and images that do not read, which are named, instead of refusing all."""


def default_arguments(preset: str) -> EvaluateCommonsenseT2iArgs:
    """What a preset says."""
    return EvaluateCommonsenseT2iArgs(
        preset=preset,
        generator=catalogue.load(preset, "generator"),
        expander=catalogue.load_or(preset, "expander", ExpanderConfig()),
        judge=catalogue.load_or(preset, "description_judge", DescriptionJudgeConfig()),
    )


def main(argv: Sequence[str]) -> int:
    """0 when the results are written."""
    if flag_value(argv, "--preset") is None and "--preset" not in argv:
        argv = [*argv, "--preset", TABLE_1]
    arguments = parse_with_preset(EvaluateCommonsenseT2iArgs, argv, "evaluate commonsense-t2i", default_arguments)
    for value, flag in ((arguments.batch_size, "--batch-size"), (arguments.num_images, "--num-images")):
        if value < 1:
            raise InputError(f"{value} images", field=flag, expected="1 or more")
    if arguments.data is None:
        raise InputError("no data", field="--data", expected="CommonsenseT2I's data.json, or rows of that form")
    if arguments.images:
        refuse_flags(argv, _OF_DRAWING, "--images")
    given = _given(arguments.images)
    pairs = read_pairs(arguments.data)
    judge = arguments.judge.only_what_is_used()
    _check(judge, "--judge", judge.vlm)
    out = arguments.out or (arguments.images[0] if len(arguments.images) == 1 else OUT)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(error.strerror or str(error), file=str(out), field="--out", expected="a folder") from error
    digests = {name: model_digest(name) for name in model_names(judge)}
    key = content_key(load_prompt(judge.prompt) if judge.kind == "vlm" else "", output_config(judge, digests))
    check_results(out, key)
    journal = StorageJournal(LocalStorage(out), "journal")
    rows = given or _drawn(arguments, pairs, out, journal)
    shown, skipped = _gathered(rows, pairs, given[0].folder if len(given) == 1 else out, arguments)
    lines = _judged(shown, judge, KeptResults(out / VERDICTS, key), journal, arguments)
    summary = summarise(rows, pairs, lines, judge.label) | ({"skipped": skipped} if skipped else {}) | {KEY: key}
    write_whole(out / "results.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    write_whole(out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_whole(out / "index.html", render_page(summary, pairs, lines, {one.name: one.path for one in shown}))
    for text in summary_lines(summary):
        say(text)
    say(f"look at it: {out / 'index.html'}")
    return 0


def _check(config: Any, flags: str, vlm: VlmConfig | None) -> None:
    """Servers, weights and templates, before any work."""
    require_servers(config, flags)
    require_models(model_names(config))
    if vlm is not None:
        vlm.check()


def _given(folders: Sequence[Path]) -> list[Condition]:
    """Folders of images as rows: by their names, or by their paths where two have the same name."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise InputError("a folder is named twice", field="--images", expected="each once")
    for folder in folders:
        if not folder.is_dir():
            raise InputError("no folder of images", file=str(folder), field="--images", expected=LAYOUT)
    return [
        Condition(name, folder, against=names[0] if i else None)
        for i, (name, folder) in enumerate(zip(names, folders, strict=True))
    ]


def _drawn(
    arguments: EvaluateCommonsenseT2iArgs, pairs: Sequence[CommonsensePair], out: Path, journal: Journal
) -> list[Condition]:
    """The rows, with all their images drawn."""
    if arguments.expanded is not None and arguments.write_expanded:
        raise InputError("--expanded and --write-expanded", expected="one of them")
    config = arguments.generator.only_what_is_used()
    if arguments.distilled is not None:
        with_lora(config, str(arguments.distilled))
    _check(config, "--generator", None)
    config.check_sizes()
    expanded = None
    if arguments.expanded is not None:
        expanded = read_expanded(arguments.expanded, pairs, arguments.expanded_fields)
    elif arguments.write_expanded:
        conditions(out / "images", pairs, None, arguments.distilled)  # what is missing is told before a VLM is asked
        expanded = _written(arguments.expander, pairs, out, journal)
    rows: list[Drawn] = conditions(out / "images", pairs, expanded, arguments.distilled)
    draw_missing(rows, config, arguments.num_images, arguments.seed, journal)
    return [row.condition for row in rows]


def _written(
    config: ExpanderConfig, pairs: Sequence[CommonsensePair], out: Path, journal: Journal
) -> list[tuple[str, str]]:
    """Expanded prompts by a VLM, kept in a file: the same prompts are not asked for again."""
    words = load_prompt(config.prompt)
    fill_prompt(words, prompt="")
    _check(config, "--expander", config.vlm)
    digests = {name: model_digest(name) for name in model_names(config.vlm)}
    prompts = list(dict.fromkeys(prompt for pair in pairs for prompt in pair.prompts))
    key = content_key(words, output_config(config.vlm, digests), [pair.prompts for pair in pairs])
    if expanded_key(out / EXPANDED) != key:
        with explained(config.vlm), telling(f"asking {config.vlm.name} for {len(prompts)} prompts in more words"):
            found = dict(zip(prompts, expand(config.vlm.open(journal), prompts, config.prompt), strict=True))
        as_they_are = [prompt for prompt, text in found.items() if text is None]
        if as_they_are:
            say_error(f"{len(as_they_are)} prompts stay as they are: {config.vlm.name} wrote no text: {as_they_are[0]}")
        both = [(found[one] or one, found[two] or two) for one, two in (pair.prompts for pair in pairs)]
        write_whole(out / EXPANDED, expanded_text(pairs, both, key))
        say(f"{len(prompts)} prompts in more words: {out / EXPANDED}")
    return read_expanded(out / EXPANDED, pairs)


def _gathered(
    rows: Sequence[Condition], pairs: Sequence[CommonsensePair], root: Path, arguments: EvaluateCommonsenseT2iArgs
) -> tuple[list[Shown], list[str]]:
    """Every image that reads, with its partner, and what is left out and why. InputError that names what is missing or
    does not read."""
    found: list[Shown] = []
    faults: list[InputError] = []
    for row in rows:
        shown, missing, others = find_images(row, pairs, root)
        # Of those that were drawn, what is asked for now: an earlier start may have drawn more.
        found += [one for one in shown if arguments.images or one.image <= arguments.num_images]
        faults += missing
        if others:
            say_error(f"{row.folder}: {others} images of no pair of {arguments.data} are passed over")
    digests = check_images([one.path for one in found])
    faults += [digest for digest in digests if isinstance(digest, InputError)]
    say_faults(faults, arguments.skip_bad)
    whole = [replace(one, sha256=digest) for one, digest in zip(found, digests, strict=True) if isinstance(digest, str)]
    sides = {(one.condition, one.pair, one.image, one.side) for one in whole}
    kept = [one for one in whole if (one.condition, one.pair, one.image, 3 - one.side) in sides]
    for row in rows:
        if not any(one.condition == row.name for one in kept):
            raise InputError("no pair with both images", file=str(row.folder), expected="one at least")
    return kept, [f"{fault.file}: {fault.problem}" for fault in faults]


def _judged(
    shown: Sequence[Shown], config: DescriptionJudgeConfig, kept: KeptResults, journal: Journal, arguments: Any
) -> list[dict[str, Any]]:
    """A line for each image, in order; those that are kept from an earlier start are not looked at again."""
    lines = [kept.line_of(one.name, one.sha256, one.metadata) for one in shown]
    left = [i for i, line in enumerate(lines) if line is None]
    if left:
        if len(left) < len(lines):
            say(f"{len(lines) - len(left)} images are judged already")
        with explained(config.vlm) if config.vlm is not None else nullcontext():
            with loading(model_names(config), "nothing: a server judges"):
                judge = config.open(journal)
            progress = DoneOf(len(left), "images judged")
            for start in range(0, len(left), arguments.batch_size):
                some = left[start : start + arguments.batch_size]
                for i, line in zip(some, _judge(judge, [shown[i] for i in some]), strict=True):
                    lines[i] = line
                if start == 0:
                    _check_understood([lines[i] for i in some], config)
                kept.add([(shown[i].sha256, line) for i in some if (line := lines[i]) is not None])
                progress.say(start + len(some), at_once=start == 0)
    return [with_rule(one, line, arguments.seed) for one, line in zip(shown, lines, strict=True) if line is not None]


def _judge(judge: DescriptionJudge, shown: Sequence[Shown]) -> list[dict[str, Any]]:
    images: list[np.ndarray] = [read_image(one.path) for one in shown]
    verdicts = judge.judge(images, [one.descriptions for one in shown])
    return [result_line(one, verdict) for one, verdict in zip(shown, verdicts, strict=True)]


def _check_understood(lines: Sequence[Any], config: DescriptionJudgeConfig) -> None:
    """WorkFailedError where no answer of the first images is a yes or a no: nobody should wait for the others."""
    if all(line["fits1"] is None and line["fits2"] is None for line in lines):
        raise WorkFailedError(
            f"{config.label} answers neither 1 nor 0, neither yes nor no, but {lines[0]['said'][0]!r}\n"
            "  what to do: other words (--judge.prompt FILE, with {description}), or another judge"
        )


def summary_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """For the terminal."""
    rows = {name: (row, ".1f") for name, row in summary["rows"].items()}
    rows |= {f"{name} - {row['against']}": (row, "+.1f") for name, row in summary["changes"].items()}
    categories = list(dict.fromkeys(name for row, _ in rows.values() for name in row["by_category"]))
    heads = categories if len(categories) > 1 else []
    width = max(map(len, rows))
    yield f"{summary['num_pairs']} pairs, judged by {summary['judge']}; in % of tries with both images right"
    yield "  ".join([" " * width, *heads, "all, 95 % over pairs"])
    for name, (row, form) in rows.items():
        by_category = row["by_category"]
        figures = [f"{by_category[head][0]:{form}}" if head in by_category else "" for head in heads]
        cells = [f"{figure:>{len(head)}}" for figure, head in zip(figures, heads, strict=True)]
        yield "  ".join([f"{name:<{width}}", *cells, figure_words(row["all"], form)])
    for name, row in summary["rows"].items():
        told = f"{row['num_images']} images of {row['num_pairs']} pairs; {row['by_chance']} fit both and were given to "
        told += f"one by chance, {row['neither']} fit neither"
        told += f", {row['not_understood']} answers were not understood" * bool(row["not_understood"])
        yield f"{name}: {told}"
    if "skipped" in summary:
        yield f"{len(summary['skipped'])} faults are left out (`skipped` in summary.json)"
