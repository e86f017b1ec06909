"""Prompts in more words, written by a model as DALL-E 3's are: what a distilled generator is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from inference.interfaces import ChatRequest, Vlm
from inference.judges.questions_judge import JUDGE_VLM
from inference.vlm.asking import ask_until_read
from inference.vlm.clean_text import clean_text
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.vlm import VlmConfig
from schemas.configuration import template_field

ATTEMPTS = 3


@dataclass(frozen=True)
class ExpanderConfig:
    """Who writes prompts in more words. It sees no image."""

    vlm: VlmConfig = field(default_factory=lambda: VlmConfig(model=JUDGE_VLM))
    prompt: str = template_field("expand")
    """What it is asked: a name in inference/prompts, or a file, with {prompt}."""


def expand(vlm: Vlm, prompts: Sequence[str], template: str) -> list[str | None]:
    """Each in more words; None where even the third answer is no text (empty, a refusal, cut off)."""
    words = load_prompt(template)
    requests = [ChatRequest(fill_prompt(words, prompt=prompt)) for prompt in prompts]

    def read(_: int, text: str) -> str | None:
        said = clean_text(text)
        return said.text if said.problem is None else None

    return [one.value for one in ask_until_read(vlm, requests, read, ATTEMPTS)] if requests else []
