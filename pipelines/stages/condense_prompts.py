"""Say each long prompt shortly."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from inference.interfaces import ChatRequest
from inference.vlm.asking import Asked, ask_until_read
from inference.vlm.clean_text import Said, clean_text
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.vlm import VlmConfig
from pipelines.model_costs import vlm_costs
from pipelines.stage import StageCosts, Workers
from pipelines.stages.asks_vlm import AsksVlm
from pipelines.stated_figures import CONDENSE_SECONDS, Gpu
from schemas.configuration import execution_field, template_field
from schemas.errors import InputError
from schemas.records import PromptRow, Reason, Rejection

# Words that say nothing of their own; numbers too: "a ring and another ring" are two rings.
_FREE_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an the this that of and or with in on at to by for from as is are it its there image picture photo some
        several one two three four five six seven eight nine ten""",
    )
)


@dataclass(frozen=True)
class CondensePromptsConfig:
    """Who condenses, and what counts as condensed."""

    vlm: VlmConfig | None = None
    """The run's VLM, unless this stage has one of its own."""
    prompt: str = template_field("condense")
    """Template with {prompt}: a name in inference/prompts, or a file."""
    max_length: float = 0.8
    """Words of the short prompt, as a share of the long one's, at most."""
    max_new_words: float = 0.2
    """Share of its words (articles and numbers aside) that the long prompt may lack."""
    max_attempts: int = 3
    """Tries for a short prompt that counts as condensed."""
    workers: Workers = execution_field(Workers())

    def __post_init__(self) -> None:
        for name in ("max_length", "max_new_words"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{getattr(self, name)}", field=f"condense.{name}", expected="a share, 0 to 1")


class CondensePrompts(AsksVlm):
    """The short prompts of long-short pairs (ReflectionFlow §3.2): shorter, and saying nothing new."""

    name: ClassVar[str] = "condense_prompts"
    version: ClassVar[int] = 1

    @classmethod
    def costs(cls, config: CondensePromptsConfig, gpu: Gpu | None) -> StageCosts:
        return vlm_costs(CONDENSE_SECONDS, 0.05, config.vlm, gpu)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        template = load_prompt(self.config.prompt)
        requests = [ChatRequest(fill_prompt(template, prompt=row.prompt.text)) for row in rows]

        def read(index: int, text: str) -> str | None:
            said = clean_text(text)
            return said.text if self._problem(rows[index].prompt.text, said) is None else None

        asked = ask_until_read(self.vlm, requests, read, self.config.max_attempts)
        return [self._done(row, found) for row, found in zip(rows, asked, strict=True)]

    def _done(self, row: PromptRow, found: Asked[str]) -> PromptRow:
        if found.value is not None:
            return replace(row, condensed=found.value, cost=found.cost)
        reason = self._problem(row.prompt.text, clean_text(found.last_text)) or Reason.NOT_SHORTER
        rejection = Rejection(self.name, reason, f"condensed to {found.last_text[:300]!r}")
        return replace(row, rejection=rejection, cost=found.cost)

    def _problem(self, long: str, short: Said) -> Reason | None:
        if short.problem not in (None, Reason.EMPTY_ANSWER):
            return short.problem
        before, after = _words(long), _words(short.text)
        if not after or len(after) > self.config.max_length * len(before):
            return Reason.NOT_SHORTER
        known = {_stem(word) for word in before}
        own = [word for word in after if word not in _FREE_WORDS]
        new = [word for word in own if _stem(word) not in known]
        return Reason.SAYS_MORE if len(new) > self.config.max_new_words * len(own) else None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _stem(word: str) -> str:
    """Without the ending that a plural has: rings and ring, crosses and cross are one."""
    for ending in ("es", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word.removesuffix(ending)
    return word.removesuffix("e")
