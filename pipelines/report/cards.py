"""What a page shows of one pair or one prompt: plain frozen data, every text cut to a length a page can bear."""

from dataclasses import dataclass

from pipelines.conservation import row_outcome
from pipelines.report.pictures import data_uri, finite, mask_outline
from pipelines.run_folder import RunFolder
from schemas.errors import CorruptDataError
from schemas.records import Candidate, DetectedObject, Outcome, Pair, PromptRow

_MAX_TEXT = 2_000
_MAX_TRACE = 8_000
_MAX_LIST = 40


@dataclass(frozen=True)
class Overlay:
    """One detected object, to be drawn over its image. box: pixels of the image. outline: SVG path on `grid`."""

    name: str
    color: str | None
    score: float | None
    box: tuple[float, ...]
    outline: str | None
    grid: tuple[int, int] | None


@dataclass(frozen=True)
class Picture:
    """One candidate. uri: None when the image is gone or does not decode. correct: None when unchecked."""

    index: int
    seed: str
    text: str
    width_px: int
    height_px: int
    uri: str | None
    correct: bool | None
    score: float | None
    reasons: tuple[str, ...]
    objects: tuple[Overlay, ...]
    rewards: tuple[tuple[str, float | None], ...]


@dataclass(frozen=True)
class Asked:
    """The prompt's side of a card. marks: right or wrong, for every candidate that was checked."""

    prompt_id: str
    prompt: str
    subset: str
    tag: str
    difficulty: str
    share: float | None
    marks: tuple[bool | None, ...]
    unit: int


@dataclass(frozen=True)
class PairCard:
    """A shipped pair."""

    asked: Asked
    key: str
    bad: Picture
    good: Picture
    reflection: str
    analysis: str
    annotator: str
    paired_by: str
    likeness: float | None = None
    likeness_by: str = ""


@dataclass(frozen=True)
class PromptCard:
    """A prompt that was rejected or put in quarantine, with its candidates. trace: of a quarantined one."""

    asked: Asked
    outcome: str
    stage: str
    reason: str
    detail: str
    trace: str
    pictures: tuple[Picture, ...]


def stratum_of(row: PromptRow) -> tuple[str, str, str]:
    """Subset, tag, difficulty: what the sample of a page is spread over."""
    return (row.prompt.subset, row.prompt.tag or "", row.difficulty_bin or "")


def pair_card(row: PromptRow, pair: Pair, key: str, unit: int, image_px: int) -> PairCard:
    """KeyError when the pair names a candidate that the row does not have."""
    candidates = {candidate.index: candidate for candidate in row.candidates}
    reflection = pair.reflection
    return PairCard(
        asked=_asked(row, unit),
        key=key,
        bad=picture(candidates[pair.bad], image_px),
        good=picture(candidates[pair.good], image_px),
        reflection=cut(reflection.text) if reflection else "",
        analysis=cut(reflection.analysis or "") if reflection else "",
        annotator=cut(reflection.annotator, 100) if reflection else "",
        paired_by=cut(pair.paired_by, 100),
        likeness=None if pair.likeness is None else finite(pair.likeness),
        likeness_by=cut(pair.likeness_by or "", 60),
    )


def prompt_card(folder: RunFolder, row: PromptRow, unit: int, index: int, image_px: int) -> PromptCard:
    """index: of the row in its unit, by which its traceback is found."""
    pictures = tuple(picture(candidate, image_px) for candidate in row.candidates[:_MAX_LIST])
    if row.quarantine is not None:
        stage, reason, detail = row.quarantine.stage, "quarantined", row.quarantine.error
        trace = _traceback(folder, stage, unit, index)
    else:
        assert row.rejection is not None
        stage, reason, detail, trace = row.rejection.stage, row.rejection.reason, row.rejection.detail, ""
    outcome: Outcome = row_outcome(row)
    return PromptCard(_asked(row, unit), outcome.value, stage, reason, cut(detail), cut(trace, _MAX_TRACE), pictures)


def picture(candidate: Candidate, image_px: int) -> Picture:
    """image_px: the longest side the image is shown at."""
    check = candidate.check
    try:
        uri = data_uri(candidate.image, image_px) if candidate.image else None
    except CorruptDataError:
        uri = None
    return Picture(
        index=candidate.index,
        seed=str(candidate.seed),  # JavaScript's numbers end at 2**53
        text=cut(candidate.text),
        width_px=candidate.width_px,
        height_px=candidate.height_px,
        uri=uri,
        correct=check.correct if check else None,
        score=finite(check.score) if check else None,
        reasons=tuple(cut(reason, 300) for reason in check.reasons[:_MAX_LIST]) if check else (),
        objects=tuple(_overlay(o) for o in check.objects[:_MAX_LIST] if _drawable(o)) if check else (),
        rewards=tuple((cut(r.scorer, 60), finite(r.value)) for r in candidate.rewards[:_MAX_LIST]),
    )


def cut(text: str, limit: int = _MAX_TEXT) -> str:
    """At most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _asked(row: PromptRow, unit: int) -> Asked:
    return Asked(
        prompt_id=row.prompt.prompt_id,
        prompt=cut(row.prompt.text),
        subset=row.prompt.subset,
        tag=cut(row.prompt.tag or "", 60),
        difficulty=row.difficulty_bin or "",
        share=None if row.difficulty is None else finite(row.difficulty),
        marks=tuple(c.check.correct if c.check else None for c in row.candidates[:_MAX_LIST]),
        unit=unit,
    )


def _drawable(found: DetectedObject) -> bool:
    return len(found.box) == 4 and all(finite(value) is not None for value in found.box)


def _overlay(found: DetectedObject) -> Overlay:
    outlined = mask_outline(found.mask_png) if found.mask_png else None
    return Overlay(
        name=cut(found.class_name, 60),
        color=cut(found.color, 30) if found.color else None,
        score=finite(found.score, 2),
        box=tuple(round(value, 1) for value in found.box),
        outline=outlined[0] if outlined else None,
        grid=outlined[1] if outlined else None,
    )


def _traceback(folder: RunFolder, stage: str, unit: int, index: int) -> str:
    return str((folder.quarantine_entry(stage, unit, index) or {}).get("traceback", ""))
