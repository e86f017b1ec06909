"""`python -m pipelines evaluate [geneval]`: the score of a search run, or of any folder in GenEval's layout.
(`evaluate geneval2`, `evaluate commonsense-t2i`: modules of their own.)"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from commands.arguments import Preset, parse_with_preset, refuse_flags
from commands.image_files import check_images, read_image, say_faults
from commands.runs import open_run, write_report
from inference.judges.geneval_scoring import score_by_tag
from inference.judges.intervals import intervals_by_tag, mean_over_tags
from inference.judges.judge import Judge, JudgeConfig, judge_images
from inference.judges.questions_judge import QuestionsJudge
from inference.model_store import model_digest
from pipelines.evaluation import result_line
from pipelines.geneval_folder import PromptFolder, read_layout, read_official
from pipelines.kept_results import KEY, KeptResults, check_results
from pipelines.prompts.judgeable import Unjudged, count_unjudged, why_not_judged
from pipelines.search_job import SearchJobConfig
from recipes import catalogue
from schemas.atomic_file import write_whole
from schemas.configuration import content_key, model_names, output_config
from schemas.errors import ForeignRunError, InputError
from schemas.telling import loading
from schemas.terminal import say


@dataclass(frozen=True)
class EvaluateArgs:
    """Score images as GenEval does: the mean of the six tags' shares of right images, with its 95 % interval."""

    run: str | None = None
    """A search run: its evaluation is written again."""
    export: str | None = None
    """Of a search run: a folder for all its images, in the layout of ReflectionFlow's published code."""
    images: Path | None = None
    """A folder with 00000/metadata.jsonl and 00000/samples/*.png, 00001/..., whoever drew them."""
    out: Path | None = None
    """Where results.jsonl and summary.json go; default: into the folder of images."""
    official: Path | None = None
    """A results.jsonl of GenEval's own scorer on the same images: how often it agrees."""
    preset: Preset = field(default_factory=catalogue.default)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """Who judges a folder of images; the preset's judge unless flags say otherwise."""
    unjudged: Unjudged = "refuse"
    """Prompts with a class or colour that the judge's models do not know. refuse: nothing is judged then; count: their
    images are left out of the score and counted apart."""
    batch_size: int = 64
    """Images in memory at once."""
    skip_bad: bool = False
    """Leave out images and prompts that do not read, which are named, instead of refusing the folder."""


def main(argv: Sequence[str]) -> int:
    """0 when the results are written."""
    if list(argv[:1]) == ["geneval2"]:
        from commands import evaluate_geneval2

        return evaluate_geneval2.main(argv[1:])
    if list(argv[:1]) == ["commonsense-t2i"]:
        from commands import evaluate_commonsense_t2i

        return evaluate_commonsense_t2i.main(argv[1:])
    argv = argv[1:] if list(argv[:1]) == ["geneval"] else argv
    arguments = parse_with_preset(EvaluateArgs, argv, "evaluate", default_arguments)
    if (arguments.run is None) == (arguments.images is None):
        raise InputError("--run and --images", expected="one of them")
    if arguments.run is not None:
        refuse_flags(
            argv, ("--out", "--official", "--judge", "--unjudged", "--batch-size", "--skip-bad", "--preset"), "--run"
        )
        folder, config = open_run(arguments.run)
        if not isinstance(config, SearchJobConfig):
            raise ForeignRunError(f"{arguments.run}: a {folder.info.job} run, no search")
        write_report(folder, config)
        if arguments.export is not None:
            from pipelines.export_search import export_search

            say(f"{export_search(folder, config, arguments.export)} searches: {arguments.export}")
        return 0
    assert arguments.images is not None
    refuse_flags(argv, ("--export",), "--images")
    evaluate_folder(arguments.images, arguments)
    return 0


def default_arguments(preset: str) -> EvaluateArgs:
    """What a preset says."""
    return EvaluateArgs(preset=preset, judge=catalogue.load(preset, "judge"))


def evaluate_folder(folder: Path, arguments: EvaluateArgs) -> None:
    """Judge a folder in GenEval's layout and write what came of it, line by line: the same command goes on from there.
    InputError, with every file that does not read, before anything is judged."""
    if arguments.batch_size < 1:
        raise InputError(f"{arguments.batch_size} images at once", field="--batch-size", expected="1 or more")
    config, out = arguments.judge.required().only_what_is_used(), arguments.out or folder
    prompts, faults = read_layout(folder)
    judged = _judgeable(prompts, config, arguments.unjudged) if prompts else []
    num_not_judged = sum(len(p.samples) for p in prompts) - sum(len(p.samples) for p in judged)
    digests = _digests(judged, faults)
    say_faults(faults, arguments.skip_bad)
    judged = [replace(prompt, samples=tuple(p for p in prompt.samples if p in digests)) for prompt in judged]
    if not digests:
        raise InputError("no image that reads", file=str(folder), expected="one at least")
    official = None
    if arguments.official is not None:
        official = read_official(arguments.official, [_name(path, folder) for p in judged for path in p.samples])
        if arguments.official.resolve() == (out / "results.jsonl").resolve():
            raise InputError(
                "the results would be written over it", file=str(arguments.official), field="--out", expected="a folder"
            )
    with loading(model_names(config)):
        judge = config.open()
    try:
        out.mkdir(parents=True, exist_ok=True)
        key = content_key(output_config(config, {name: model_digest(name) for name in model_names(config)}))
        check_results(out, key)
        kept = KeptResults(out / "results.partial.jsonl", key)
    except OSError as error:
        raise InputError(error.strerror or str(error), file=str(out), field="--out", expected="a folder") from error
    lines = list(_judge_folder(folder, judged, digests, judge, kept, arguments.batch_size))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(out / "results.jsonl", text)
    summary = summary_of(lines, config.label)
    summary |= {"num_not_judged": num_not_judged, KEY: key}
    if faults:
        summary["skipped"] = {fault.file or "": fault.problem for fault in faults}
    if official is not None:
        summary["agreement_with_official"] = agreement(lines, official)
    write_whole(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    kept.remove()
    say(json.dumps(summary, indent=1))


def _digests(prompts: Sequence[PromptFolder], faults: list[InputError]) -> dict[Path, str]:
    """SHA-256 of every image that decodes; what is wrong with the others is added to `faults`."""
    samples = [path for prompt in prompts for path in prompt.samples]
    found = dict(zip(samples, check_images(samples), strict=True))
    faults += [fault for fault in found.values() if isinstance(fault, InputError)]
    return {path: digest for path, digest in found.items() if isinstance(digest, str)}


def _judgeable(prompts: Sequence[PromptFolder], judge: JudgeConfig, unjudged: Unjudged) -> list[PromptFolder]:
    """Those that the judge can judge. InputError where there are others that are not to be counted, or only others."""
    known, asked = judge.known_words(), [prompt.asked for prompt in prompts]
    found = [prompt for prompt in prompts if known is None or why_not_judged(prompt.record, known) is None]
    count_unjudged(asked, known, judge.label, unjudged if found else None)
    return found


def summary_of(lines: Sequence[dict[str, Any]], judge: str) -> dict[str, Any]:
    """Score and shares by tag with intervals, and by whom: scores of different judges cannot be compared."""
    hits, tags = [float(line["correct"]) for line in lines], [line["tag"] for line in lines]
    texts = [line["prompt"] for line in lines]
    score = mean_over_tags(hits, tags, texts)
    return {
        "judge": judge,
        "num_images": len(lines),
        "score": score.as_list(),
        "by_tag": score_by_tag(tags, [bool(hit) for hit in hits]),
        "by_tag_intervals": {t: i.as_list() for t, i in intervals_by_tag(hits, tags, texts).items()},
    }


def agreement(lines: Sequence[dict[str, Any]], official: Mapping[str, bool]) -> dict[str, Any]:
    """Share of images with the same verdict in both. official: verdicts by file name, not necessarily on all."""
    same = [line["correct"] == official[line["filename"]] for line in lines if line["filename"] in official]
    return {"images": len(same), "same_verdict": sum(same) / len(same)}


def _judge_folder(
    folder: Path,
    prompts: Sequence[PromptFolder],
    digests: Mapping[Path, str],
    judge: Judge | QuestionsJudge,
    kept: KeptResults,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    """A line of results.jsonl for each image, in order. digests: SHA-256 of each."""
    waiting = [(path, prompt) for prompt in prompts for path in prompt.samples]
    lines = {
        path: kept.line_of(_name(path, folder), digests[path], json.dumps(prompt.metadata)) for path, prompt in waiting
    }
    left = [(path, prompt) for path, prompt in waiting if lines[path] is None]
    for start in range(0, len(left), batch_size):
        batch = left[start : start + batch_size]
        checks = judge_images(judge, [read_image(path) for path, _ in batch], [prompt.record for _, prompt in batch])
        for (path, prompt), check in zip(batch, checks, strict=True):
            record = prompt.record
            lines[path] = result_line(_name(path, folder), record.tag or "", record.text, check, prompt.metadata)
        kept.add([(digests[path], line) for path, _ in batch if (line := lines[path]) is not None])
    yield from (line for line in lines.values() if line is not None)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
