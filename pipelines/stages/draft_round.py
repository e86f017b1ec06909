"""One round of ReflectionFlow's search: every prompt gets `width` more images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import tyro

from inference.search import Draft, SearchConfig, Searched, next_round
from inference.search_tools import SearchToolsConfig, open_search_tools
from inference.vlm.endpoint import Journal
from pipelines.stage import Workers
from schemas.configuration import execution_field
from schemas.images import decode_image, encode_png, sha256
from schemas.records import Candidate, Cost, PromptRow, SearchStep


@dataclass(frozen=True)
class DraftRoundConfig:
    """All rounds have the same configuration, so that they share one loaded stage; which round it is, the rows tell."""

    search: Annotated[SearchConfig, tyro.conf.Suppress] = field(default_factory=SearchConfig)
    tools: SearchToolsConfig = field(default_factory=SearchToolsConfig)
    workers: Workers = execution_field(Workers())


class DraftRound:
    """Algorithm 1's loop body (`inference.search.next_round`) over the prompts of a unit, their chains in one batch.

    Candidates are drafts: `Candidate.search` says how each came about. Noise is seeded by (run seed, prompt id, round,
    chain), so that a deeper search goes on from a shallower one.
    """

    name: ClassVar[str] = "draft_round"
    version: ClassVar[int] = 3
    reads_images: ClassVar[bool] = True
    makes_images: ClassVar[bool] = True

    def __init__(self, config: DraftRoundConfig, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        self.config, self.seed = config, seed
        self.journal: Journal | None = None

    def keep_journal(self, journal: Journal) -> None:
        """Where answers of endpoints are kept; called once, before `load`."""
        self.journal = journal

    def load(self) -> None:
        self.tools = open_search_tools(self.config.tools, self.journal)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        searches = [searched_of(row) for row in rows]
        number = max((draft.round + 1 for one in searches for draft in one.drafts), default=0)
        search = replace(self.config.search, seed=self.seed)
        stopped = [row.allotted == 0 for row in rows]
        next_round(searches, number, search, self.tools, [row.prompt.prompt_id for row in rows], stopped)
        return [self._with_drafts(row, one) for row, one in zip(rows, searches, strict=True)]

    def _with_drafts(self, row: PromptRow, one: Searched) -> PromptRow:
        new = tuple(self._candidate(draft) for draft in one.drafts[len(row.candidates) :])
        return replace(row, candidates=row.candidates + new, cost=one.cost)

    def _candidate(self, draft: Draft) -> Candidate:
        png = encode_png(draft.image)
        return Candidate(
            index=draft.number,
            seed=draft.seed,
            text=draft.prompt,
            num_steps=self.config.tools.generator.num_steps,
            width_px=draft.image.shape[1],
            height_px=draft.image.shape[0],
            image_sha256=sha256(png),
            image=png,
            search=SearchStep(draft.round, draft.chain, draft.score, draft.parent, draft.reflection, draft.cost),
        )


def searched_of(row: PromptRow) -> Searched:
    """The search so far, as the row's candidates (with images) tell it; its cost counts from here."""
    one = Searched(row.prompt.text, cost=Cost())
    for candidate in row.candidates:
        step = candidate.search
        if step is None:
            raise ValueError(f"{row.prompt.prompt_id}: candidate {candidate.index} is no draft of a search")
        image = decode_image(candidate.image or b"", f"{row.prompt.prompt_id} candidate {candidate.index}")
        one.drafts.append(
            Draft(
                candidate.index,
                step.round,
                step.chain,
                candidate.seed,
                candidate.text,
                image,
                step.score,
                step.reflection,
                step.parent,
                step.cost,
            )
        )
    return one
