"""One round of ReflectionFlow's search: every prompt gets `width` more images."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, cast

import numpy as np
import tyro

from inference.routes import RouteTable
from inference.search import Draft, Restart, SearchConfig, SearchTrace, next_round, parents_of_next_round
from inference.search_tools import SearchToolsConfig
from pipelines.model_costs import draft_costs
from pipelines.stage import Item, Stage, StageCosts, Workers
from pipelines.stages.candidate_images import drawn_candidate, image_of
from pipelines.stated_figures import Gpu
from schemas.configuration import execution_field
from schemas.records import Candidate, Cost, PromptRow, SearchStep

_NOT_DECODED = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class DraftRoundConfig:
    """All rounds have the same configuration, so that they share one loaded stage; which round it is, the rows tell."""

    search: Annotated[SearchConfig, tyro.conf.Suppress] = field(default_factory=SearchConfig)
    tools: SearchToolsConfig = field(default_factory=SearchToolsConfig)
    workers: Workers = execution_field(Workers())


class DraftRound(Stage):
    """Algorithm 1's loop body (`inference.search.next_round`) over the prompts of a unit, their chains in one batch.

    Candidates are drafts: `Candidate.search` says how each came about. Noise is seeded by (run seed, prompt id, round,
    chain), so that a deeper search goes on from a shallower one.
    """

    name: ClassVar[str] = "draft_round"
    version: ClassVar[int] = 4
    reads_images: ClassVar[bool] = True
    makes_images: ClassVar[bool] = True
    item: ClassVar[Item] = "images"

    @classmethod
    def is_client(cls, config: DraftRoundConfig) -> bool:
        return config.tools.is_elsewhere

    @classmethod
    def costs(cls, config: DraftRoundConfig, gpu: Gpu | None) -> StageCosts:
        return draft_costs(config.tools, gpu, config.search.strategy)

    def load(self) -> None:
        self.tools = self.config.tools.open(self.journal)
        self.tools.generator.warm_up(self.config.tools.generator.all_sizes)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        search = replace(self.config.search, seed=self.seed)
        stopped = [row.allotted == 0 for row in rows]
        traces = [trace_of(row, search, self.tools.routes) for row in rows]
        number = max((draft.round + 1 for trace in traces for draft in trace.drafts), default=0)
        next_round(traces, number, search, self.tools, [row.prompt.prompt_id for row in rows], stopped)
        return [self._with_drafts(row, trace) for row, trace in zip(rows, traces, strict=True)]

    def _with_drafts(self, row: PromptRow, trace: SearchTrace) -> PromptRow:
        new = tuple(self._candidate(draft) for draft in trace.drafts[len(row.candidates) :])
        old = tuple(map(_compared, row.candidates, trace.drafts))
        return replace(row, candidates=old + new, cost=trace.cost)

    def _candidate(self, draft: Draft) -> Candidate:
        steps = self.config.tools.generator.num_steps
        candidate = drawn_candidate(draft.number, draft.seed, draft.prompt, steps, draft.image)
        step = SearchStep(
            round=draft.round,
            chain=draft.chain,
            score=draft.score,
            explanation=draft.explanation,
            parent=draft.parent,
            reflection=draft.reflection,
            cost=draft.cost,
            parts=draft.parts,
            quality=draft.quality,
            restart=draft.restart,
            atoms=draft.atoms,
        )
        return replace(candidate, search=step)


def _compared(candidate: Candidate, draft: Draft) -> Candidate:
    """An image of an earlier round, whose score may be relative to those that came after."""
    step = candidate.search
    if step is None or step.score == draft.score:
        return candidate
    return replace(candidate, search=replace(step, score=draft.score))


def trace_of(row: PromptRow, search: SearchConfig | None = None, routes: RouteTable | None = None) -> SearchTrace:
    """The search so far, as the row's candidates tell it; its cost counts from here. search: then only the images that
    its next round goes on from, by `routes` where there are some, are decoded, and the others are empty; without it,
    all of them."""
    trace = SearchTrace(row.prompt.text, cost=Cost(), record=row.prompt)
    for candidate in row.candidates:
        step = candidate.search
        if step is None:
            raise ValueError(f"{row.prompt.prompt_id}: candidate {candidate.index} is no draft of a search")
        trace.drafts.append(
            Draft(
                number=candidate.index,
                round=step.round,
                chain=step.chain,
                seed=candidate.seed,
                prompt=candidate.text,
                image=_NOT_DECODED,
                score=step.score,
                explanation=step.explanation,
                parts=step.parts,
                quality=step.quality,
                reflection=step.reflection,
                parent=step.parent,
                restart=cast("Restart | None", step.restart),
                atoms=step.atoms,
                cost=step.cost,
            )
        )
    wanted = range(len(trace.drafts))
    if search is not None and row.candidates:
        wanted = {parent.number for parent in parents_of_next_round(trace, search, routes) if parent is not None}
    for place, candidate in enumerate(row.candidates):
        if candidate.index in wanted:
            trace.drafts[place] = replace(trace.drafts[place], image=image_of(row, candidate))
    return trace
