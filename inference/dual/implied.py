"""What a prompt implies, asked of a VLM in words: "a clover" -> "A green heart."; it sees no image."""

from __future__ import annotations

import re
from collections.abc import Sequence

from inference.dual.questions import ATTEMPTS, bare
from inference.dual.statements import statements
from inference.interfaces import ChatRequest, Vlm
from inference.vlm.asking import ask_until_read
from inference.vlm.clean_text import clean_text, json_of
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.reasoning import answer_of
from schemas.errors import RequestFailedError


def implied(vlm: Vlm, prompts: Sequence[str], template: str = "implied") -> list[str]:
    """What a right image of each prompt shows, in statements, on one line. RequestFailedError for a prompt about which
    even the third answer states nothing."""
    words = load_prompt(template)
    requests = [ChatRequest(fill_prompt(words, prompt=bare(prompt))) for prompt in prompts]
    asked = ask_until_read(vlm, requests, lambda _, text: read_statements(text), ATTEMPTS) if requests else []
    for prompt, one in zip(prompts, asked, strict=True):
        if one.value is None:
            raise RequestFailedError(
                f"the VLM was asked what {prompt!r} shows, and states nothing in {ATTEMPTS} attempts: "
                f"{' '.join(one.last_text.split())[:200]!r}"
            )
    return [one.value or "" for one in asked]


def read_statements(answer: str) -> str | None:
    """An answer on one line, a sentence for each of its lines (or of a JSON list's texts); None for one that states
    nothing."""
    lines = re.sub(r"(?<=[\w)])[ \t]*\n", ".\n", _out_of_list(answer_of(answer) or ""))
    said = clean_text(lines)
    return said.text if said.problem is None and statements(said.text) else None


def _out_of_list(text: str) -> str:
    """The texts of a JSON list a line each; anything else as it is."""
    if not text.removeprefix("```json").removeprefix("```").lstrip().startswith("["):
        return text
    try:
        listed = json_of(text)
    except ValueError:
        return text
    return "\n".join([*map(str, listed), ""])
