"""The page of pictures of a run, of a size that a browser bears. How text gets into it: `pipelines.report.shell`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.jobs import JobConfig
from pipelines.report.cards import PairCard, Picture, PromptCard, cut
from pipelines.report.gather import ReportData, ReportLimits, gather
from pipelines.report.shell import island, render
from pipelines.report.words import plain
from pipelines.run_folder import RunFolder, RunInfo

PAGE_PATH = "report/index.html"
_CARDS_PER_ISLAND = 50
_SLACK_BYTES = 16_384


def build_report(folder: RunFolder, config: JobConfig, limits: ReportLimits | None = None) -> str:
    """Write `report/index.html` into the run folder. Returns its path or URI.

    Works at any moment of a run. What does not read is left out, and the page says so.
    """
    limits = limits or ReportLimits()
    uri = folder.storage.uri.rstrip("/")
    name = uri.rpartition("/")[2] or uri
    folder.storage.commit(PAGE_PATH, render_page(name, folder.info, gather(folder, config, limits), limits.max_bytes))
    return f"{uri}/{PAGE_PATH}"


def render_page(name: str, info: RunInfo, data: ReportData, max_bytes: int) -> bytes:
    """The page with as many cards as fit in max_bytes."""
    room = max_bytes - _SLACK_BYTES - len(_render(name, info, data, (), ()))
    pairs, prompts = fit(data, room)
    while True:
        page = _render(name, info, data, pairs, prompts)
        if len(page) <= max_bytes or not (pairs or prompts):
            return page
        pairs, prompts = pairs[: len(pairs) * 9 // 10], prompts[: len(prompts) * 9 // 10]


def fit(data: ReportData, room: int) -> tuple[list[PairCard], list[PromptCard]]:
    """The longest beginnings of both lists that fit in `room` bytes; prompts without pairs get at least a quarter."""
    pair_sizes = [len(island(asdict(card))) for card in data.pairs]
    prompt_sizes = [len(island(asdict(card))) for card in data.prompts]
    reserved = min(room // 4, sum(prompt_sizes))
    num_pairs = _fitting(pair_sizes, room - reserved)
    num_prompts = _fitting(prompt_sizes, room - sum(pair_sizes[:num_pairs]))
    return data.pairs[:num_pairs], data.prompts[:num_prompts]


def _fitting(sizes: Sequence[int], room: int) -> int:
    used = 0
    for count, size in enumerate(sizes):
        used += size
        if used > room:
            return count
    return len(sizes)


def _render(
    name: str, info: RunInfo, data: ReportData, pairs: Sequence[PairCard], prompts: Sequence[PromptCard]
) -> bytes:
    pairs = sorted(pairs, key=lambda card: card.key)
    prompts = sorted(prompts, key=lambda card: (card.outcome, card.asked.unit, card.asked.prompt_id))
    images = _Images()
    cards = {
        "pairs": [_pair_json(card, images) for card in pairs],
        "prompts": [_prompt_json(card, images) for card in prompts],
    }
    return render(
        "page.html.j2",
        "page.js",
        name=name,
        info=info,
        figures=data.figures,
        counts=data.figures.counts.as_json(),
        notes=data.notes,
        shown=_Shown.of(pairs, prompts),
        measures_likeness=any(card.likeness is not None for card in pairs),
        intake=_facts(info.intake),
        config=cut(json.dumps(info.config, indent=2, sort_keys=True, ensure_ascii=False), 20_000),
        cards=island(cards),
        images=[island(some) for some in images.islands()],
    )


@dataclass(frozen=True)
class _Shown:
    """How many cards of each kind are on the page."""

    pairs: int
    rejected: int
    quarantined: int

    @classmethod
    def of(cls, pairs: Sequence[PairCard], prompts: Sequence[PromptCard]) -> "_Shown":
        rejected = sum(card.outcome == "rejected" for card in prompts)
        return cls(len(pairs), rejected, len(prompts) - rejected)


class _Images:
    """Data URIs in islands of some fifty cards each, so that the browser parses none before it is looked at. A picture
    that several cards show is stored once."""

    def __init__(self) -> None:
        self._islands: list[list[str]] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._num_cards = 0

    def begin_card(self) -> None:
        """The pictures that follow belong to another card."""
        if self._num_cards % _CARDS_PER_ISLAND == 0:
            self._islands.append([])
        self._num_cards += 1

    def place(self, uri: str) -> tuple[int, int]:
        """(island, index) of a picture."""
        if uri not in self._places:
            self._islands[-1].append(uri)
            self._places[uri] = (len(self._islands) - 1, len(self._islands[-1]) - 1)
        return self._places[uri]

    def islands(self) -> list[list[str]]:
        """All of them."""
        return self._islands


def _pair_json(card: PairCard, images: _Images) -> dict[str, Any]:
    images.begin_card()
    return {
        **asdict(card.asked),
        "key": card.key,
        "bad": _picture_json(card.bad, images),
        "good": _picture_json(card.good, images),
        "reflection": card.reflection,
        "analysis": card.analysis,
        "annotator": card.annotator,
        "paired_by": plain(card.paired_by),
        "likeness": card.likeness,
        "likeness_by": card.likeness_by,
    }


def _prompt_json(card: PromptCard, images: _Images) -> dict[str, Any]:
    images.begin_card()
    return {
        **asdict(card.asked),
        "outcome": card.outcome,
        "stage": card.stage,
        "reason": card.reason,
        "detail": card.detail,
        "trace": card.trace,
        "pictures": [_picture_json(picture, images) for picture in card.pictures],
    }


def _picture_json(picture: Picture, images: _Images) -> dict[str, Any]:
    return asdict(picture) | {"uri": images.place(picture.uri) if picture.uri else None}


def _facts(intake: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What intake said of each subset, as (subset, [(label, value)])."""
    return [(str(subset), list(_labelled(said))) for subset, said in sorted(intake.items())][:50]


def _labelled(said: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(said, dict):
        yield "", cut(str(said), 300)
        return
    for name, value in [(n, v) for n, v in said.items() if not isinstance(v, list | dict)][:50]:
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        yield cut(str(name), 80).replace("_", " "), cut(shown, 300)
