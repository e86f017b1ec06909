"""What a model wrote, made into the text that it was asked for, or turned down with the reason.

The one place for it: captions, condensed and refined prompts, reflections, questions and lists pass here, from models
of our own as from others'. Reasoning is cut away (`reasoning`), then what stands around the text (`wrapping`). A
refusal (`refusals`), reasoning or a preamble without an answer, the word "null", or pages of text are none.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from schemas.absent import is_absent_word
from schemas.records import Reason

MAX_CHARS = 4000
"""Of one text; a prompt of a thousand tokens is no longer."""
_TRIED_BRACKETS = 20


@dataclass(frozen=True)
class Said:
    """What was said, on one line, and why it is no text of its kind (None: it is one)."""

    text: str
    problem: Reason | None = None


def clean_text(answer: str) -> Said:
    """The text of an answer. problem: ONLY_REASONING, REFUSED_ANSWER, EMPTY_ANSWER or OVERLONG_ANSWER."""
    from inference.vlm.reasoning import answer_of  # whose patterns are compiled where they are used: --help needs none
    from inference.vlm.wrapping import unwrapped

    body = answer_of(answer)
    if body is None:
        return Said("", Reason.ONLY_REASONING)
    if len(body) > 8 * MAX_CHARS:
        return Said(body[:MAX_CHARS], Reason.OVERLONG_ANSWER)
    return _checked(" ".join(unwrapped(body).split()))


def json_of(answer: str) -> Any:
    """The first object or list of JSON in an answer, whatever stands around it. ValueError where there is none that
    reads, or one with a key twice or numbers that are none (NaN, Infinity, 1e999)."""
    from inference.vlm.reasoning import answer_of

    text = (answer_of(answer) or "").strip()
    decoder = json.JSONDecoder(
        parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_with_keys_once, strict=False
    )
    begins = 0
    for _ in range(_TRIED_BRACKETS):
        found = re.compile(r"[{\[]").search(text, begins)
        if found is None:
            break
        try:
            return decoder.raw_decode(text, found.start())[0]
        except json.JSONDecodeError as error:
            begins = max(error.pos, found.end())  # what is inside of a broken one is not the answer
        except RecursionError:
            break
    raise ValueError("the answer is not valid JSON")


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text[:20])


def _with_keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice in an object of the answer's JSON")
    return dict(pairs)


def _checked(text: str) -> Said:
    from inference.vlm.refusals import is_refusal, is_thinking_aloud

    if not re.search(r"\w", text) or is_absent_word(text):
        return Said(text, Reason.EMPTY_ANSWER)
    if len(text) > MAX_CHARS:
        return Said(text[:MAX_CHARS], Reason.OVERLONG_ANSWER)
    if is_refusal(text):
        return Said(text, Reason.REFUSED_ANSWER)
    return Said(text, Reason.ONLY_REASONING) if is_thinking_aloud(text) else Said(text)
