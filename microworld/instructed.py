"""The corrector's LoRA as an editor: it is told one instruction, as `Corrector`s of other kinds are, and no prompt with
a reflection behind it. Micro world only: what an editor that nobody trained on prompts would be like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from inference.editors.instruction import instruction_of, load_template
from inference.interfaces import Corrector
from inference.search import SearchConfig, SearchTools
from inference.search_tools import SearchToolsConfig
from inference.vlm.endpoint import Journal
from inference.vlm.vlm import VlmConfig
from schemas.configuration import template_field


@dataclass(frozen=True)
class InstructedToolsConfig(SearchToolsConfig):
    """The models of a search, whose corrector is told what `template` makes of prompt and reflection."""

    template: str = template_field("edit")
    """edit: the reflection alone; edit_with_prompt: both."""

    @classmethod
    def of(cls, tools: SearchToolsConfig, template: str) -> InstructedToolsConfig:
        """`tools` with an editor."""
        kept = {part.name: getattr(tools, part.name) for part in fields(SearchToolsConfig)}
        return cls(**kept, template=template)

    def for_search(self, search: SearchConfig, vlm: VlmConfig) -> InstructedToolsConfig:
        """What a strategy needs of it and nothing else. InputError for what is missing."""
        return InstructedToolsConfig.of(SearchToolsConfig.for_search(self, search, vlm), self.template)

    def open(self, journal: Journal | None = None) -> SearchTools:
        """Load what it names. MissingWeightsError, InputError."""
        tools = super().open(journal)
        if tools.corrector is None:
            return tools
        return replace(tools, corrector=InstructedCorrector(tools.corrector, load_template(self.template)))


class InstructedCorrector:
    """See `inference.interfaces.Corrector`."""

    def __init__(self, corrector: Corrector, template: str) -> None:
        self._corrector, self._template = corrector, template

    def correct(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        reflections: Sequence[str],
        seeds: Sequence[int],
    ) -> list[np.ndarray]:
        """images uint8 (H, W, 3) -> as many, drawn again; all text encoders read the instruction."""
        told = [instruction_of(self._template, *said) for said in zip(prompts, reflections, strict=True)]
        return self._corrector.correct(images, told, [""] * len(told), seeds)
