"""`python -m pipelines evaluate [geneval]`: the score of a search run, or of any folder in GenEval's layout."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference.judges.geneval_scoring import score_by_tag
from inference.judges.intervals import mean_over_tags
from inference.judges.judge import JudgeConfig, judge_images, open_judge
from pipelines.commands.arguments import open_run, parse, write_report
from pipelines.evaluation import result_line
from pipelines.prompts.checked_json import BadValue, parse_json
from pipelines.prompts.clauses import KnownWords, parse_exclude, parse_include
from pipelines.search_job import SearchJobConfig
from schemas.errors import ForeignRunError, InputError
from schemas.images import decode_image
from schemas.records import PromptRecord


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
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    batch_size: int = 64
    """Images in memory at once."""


def main(argv: Sequence[str]) -> int:
    """0 when the results are written."""
    arguments = parse(EvaluateArgs, argv[1:] if argv[:1] == ["geneval"] else argv, "evaluate")
    if (arguments.run is None) == (arguments.images is None):
        raise InputError("--run and --images", expected="one of them")
    if arguments.run is not None:
        folder, config = open_run(arguments.run)
        if not isinstance(config, SearchJobConfig):
            raise ForeignRunError(f"{arguments.run}: a {folder.info.job} run, no search")
        write_report(folder, config)
        if arguments.export is not None:
            from pipelines.export_search import export_search

            print(f"{export_search(folder, config, arguments.export)} searches: {arguments.export}")
        return 0
    assert arguments.images is not None
    lines = list(_judge_folder(arguments.images, arguments))
    out = arguments.out or arguments.images
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    summary = summary_of(lines, arguments.judge.label)
    if arguments.official is not None:
        summary["agreement_with_official"] = agreement(lines, arguments.official)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    return 0


def summary_of(lines: Sequence[dict[str, Any]], judge: str) -> dict[str, Any]:
    """Score with its interval, shares by tag, and by whom: scores of different judges cannot be compared."""
    hits, tags = [float(line["correct"]) for line in lines], [line["tag"] for line in lines]
    score = mean_over_tags(hits, tags, [line["prompt"] for line in lines])
    by_tag = score_by_tag(tags, [bool(hit) for hit in hits])
    return {
        "judge": judge,
        "num_images": len(lines),
        "score": [score.value, score.low, score.high],
        "by_tag": by_tag,
    }


def agreement(lines: Sequence[dict[str, Any]], official: Path) -> dict[str, Any]:
    """Share of images with the same verdict in both, matched by the last three parts of their names."""

    def key(name: str) -> str:
        return "/".join(Path(name).parts[-3:])

    theirs = {}
    for number, text in enumerate(official.read_text().splitlines(), 1):
        try:
            said = json.loads(text)
            theirs[key(said["filename"])] = bool(said["correct"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{error!r}", file=str(official), line=number, expected="a line of GenEval's results.jsonl"
            ) from error
    both = [(line["correct"], theirs[key(line["filename"])]) for line in lines if key(line["filename"]) in theirs]
    if not both:
        raise InputError("names none of these images", file=str(official), expected="results of the same folder")
    return {"images": len(both), "same_verdict": sum(a == b for a, b in both) / len(both)}


def _judge_folder(folder: Path, arguments: EvaluateArgs) -> Iterator[dict[str, Any]]:
    """A line of results.jsonl for each image, in order."""
    waiting = list(_images(folder))
    if not waiting:
        raise InputError("no images", file=str(folder), expected="00000/metadata.jsonl and 00000/samples/*.png, ...")
    judge = open_judge(arguments.judge.only_what_is_used())
    for start in range(0, len(waiting), arguments.batch_size):
        batch = waiting[start : start + arguments.batch_size]
        images = [decode_image(path.read_bytes(), str(path)) for path, _, _ in batch]
        checks = judge_images(judge, images, [record for _, record, _ in batch])
        for (path, record, metadata), check in zip(batch, checks, strict=True):
            name = path.relative_to(folder).as_posix()
            yield result_line(name, record.tag or "", record.text, check, metadata)


def _images(folder: Path) -> Iterator[tuple[Path, PromptRecord, dict[str, Any]]]:
    for prompt in sorted(path for path in folder.glob("*") if (path / "metadata.jsonl").is_file()):
        record, metadata = _read_metadata(prompt / "metadata.jsonl")
        for image in sorted((prompt / "samples").glob("*.png")):
            yield image, record, metadata


def _read_metadata(file: Path) -> tuple[PromptRecord, dict[str, Any]]:
    try:
        said = parse_json(file.read_text().splitlines()[0])
        known = KnownWords()
        include = parse_include(said["include"], known)
        exclude = parse_exclude(said.get("exclude"), include, known) if said.get("exclude") else ()
        return PromptRecord(file.parent.name, said["prompt"], "rule", said["tag"], include, exclude), said
    except BadValue as error:
        raise InputError(error.problem, file=str(file), line=1, field=error.field, expected=error.expected) from error
    except (IndexError, KeyError, TypeError) as error:
        raise InputError(
            f"{type(error).__name__}: {error}", file=str(file), line=1, expected="prompt, tag and include, as GenEval"
        ) from error
