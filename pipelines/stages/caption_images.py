"""Describe the edited image of each editing triplet: that becomes its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from inference.interfaces import ChatRequest
from inference.vlm.asking import Asked, ask_until_read
from inference.vlm.clean_text import clean_text
from inference.vlm.prompts import load_prompt
from inference.vlm.vlm import VlmConfig
from pipelines.model_costs import vlm_costs
from pipelines.stage import StageCosts, Workers
from pipelines.stages.asks_vlm import AsksVlm
from pipelines.stages.candidate_images import image_of
from pipelines.stated_figures import CAPTION_SECONDS, Gpu
from schemas.configuration import execution_field, template_field
from schemas.records import Cost, PromptRow, Reason, Rejection

_MIN_CHARS = 8


@dataclass(frozen=True)
class CaptionImagesConfig:
    """Who describes."""

    vlm: VlmConfig | None = None
    """The run's VLM, unless this stage has one of its own."""
    prompt: str = template_field("caption")
    """Template without fields: a name in inference/prompts, or a file."""
    max_attempts: int = 3
    """Tries for a caption of more than a few letters."""
    workers: Workers = execution_field(Workers())


class CaptionImages(AsksVlm):
    """The caption of the edited image is the prompt of an editing triplet (ReflectionFlow §3.2, editing data)."""

    name: ClassVar[str] = "caption_images"
    version: ClassVar[int] = 1
    reads_images: ClassVar[bool] = True

    @classmethod
    def costs(cls, config: CaptionImagesConfig, gpu: Gpu | None) -> StageCosts:
        return vlm_costs(CAPTION_SECONDS, 0.05, config.vlm, gpu)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        text = load_prompt(self.config.prompt)
        bare = [row for row in rows if not has_caption(row)]
        requests = []
        for row in bare:
            good = row.candidates[row.pairs[0].good]
            requests.append(ChatRequest(text, (image_of(row, good),)))
        asked = ask_until_read(self.vlm, requests, _read, self.config.max_attempts) if requests else []
        found = {row.prompt.prompt_id: one for row, one in zip(bare, asked, strict=True)}
        return [self._captioned(row, found.get(row.prompt.prompt_id)) for row in rows]

    def _captioned(self, row: PromptRow, asked: Asked[str] | None) -> PromptRow:
        if asked is None:
            return replace(row, cost=Cost())
        if asked.value is None:
            problem = clean_text(asked.last_text).problem
            reason = Reason.NO_CAPTION if problem in (None, Reason.EMPTY_ANSWER) else problem
            rejection = Rejection(self.name, reason, f"described as {asked.last_text[:300]!r}")
            return replace(row, rejection=rejection, cost=asked.cost)
        return replace(row, prompt=replace(row.prompt, text=asked.value), cost=asked.cost)


def has_caption(row: PromptRow) -> bool:
    """Whether the dataset gave one: until there is a caption, the prompt is the instruction."""
    return row.edit is not None and row.prompt.text != row.edit.instruction


def _read(index: int, said: str) -> str | None:
    caption = clean_text(said)
    return caption.text if caption.problem is None and len(caption.text) >= _MIN_CHARS else None
