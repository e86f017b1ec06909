"""What an endpoint says, made into what may be kept: checked and brought to one form before it is journalled, and
checked again when it comes from there. Whatever is no completion is a ValueError (or an AttributeError, TypeError,
IndexError of taking it apart), and is asked again."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from inference.interfaces import ChatAnswer
from inference.vlm.first_words import DECORATION
from schemas.errors import AccessError
from schemas.redaction import hide

T = TypeVar("T")
MAX_PATH = 6  # tokens in which an answer's first word must show
_MAX_TOKENS = 2**31  # no honest count is larger
_MAX_CHARS = 1_000_000  # of a text; no honest one is longer
_NOT_FINISHED = frozenset({"length", "max_tokens", "content_filter", "error", "abort", "cancelled", "model_length"})


@dataclass(frozen=True)
class Step:
    """One token of an answer: the one that the server took, and the likeliest ones with their log-probabilities."""

    taken: str
    tokens: list[tuple[str, float]]


@dataclass(frozen=True)
class Read(Generic[T]):
    """`of_completion` makes what the journal keeps; `of_kept` makes the answer of that, None where it is damaged."""

    of_completion: Callable[[Any], dict[str, Any]]
    of_kept: Callable[[dict[str, Any]], T | None]


def _answer(completion: Any) -> dict[str, Any]:
    choice, usage = _first_choice(completion), getattr(completion, "usage", None)
    text = _words(choice.message.content) or _words(getattr(choice.message, "refusal", None))
    if len(text) > _MAX_CHARS:
        raise ValueError(f"an answer of {len(text):,} characters")
    reason = choice.finish_reason
    answer = ChatAnswer(
        text=_clean(text).strip(),
        finished=not (isinstance(reason, str) and reason.lower() in _NOT_FINISHED),
        num_prompt_tokens=_count(getattr(usage, "prompt_tokens", 0)),
        num_tokens=_count(getattr(usage, "completion_tokens", 0)),
    )
    return asdict(answer)


def _kept_answer(kept: dict[str, Any]) -> ChatAnswer | None:
    text, finished = kept.get("text"), kept.get("finished")
    counts = kept.get("num_prompt_tokens"), kept.get("num_tokens")
    if (
        not isinstance(text, str)
        or len(text) > _MAX_CHARS
        or not isinstance(finished, bool)
        or any(_count(one) != one for one in counts)
    ):
        return None
    return ChatAnswer(_clean(text), finished, _count(counts[0]), _count(counts[1]))


def _first_tokens(completion: Any) -> dict[str, Any]:
    """`tokens`: the first one's likeliest; `path`, where more were asked for: each one's, and which was taken."""
    choice = _first_choice(completion)
    logprobs = getattr(choice, "logprobs", None)
    if not logprobs or not logprobs.content:
        raise AccessError(
            "the endpoint gives no log-probabilities",
            field="--vlm.base-url",
            expected="a server that supports `logprobs` (vLLM does), or a verifier that is asked for scores",
        )
    path = []
    for item in logprobs.content[:MAX_PATH]:
        top = [(one.token, one.logprob) for one in item.top_logprobs]
        tokens = [[_clean(token), min(float(logprob), 0.0)] for token, logprob in top if _is_logprob(token, logprob)]
        if not tokens:
            break
        taken = _clean(item.token) if isinstance(item.token, str) else ""
        path.append({"taken": taken, "tokens": tokens})
    if not path:
        raise ValueError("log-probabilities that are none")
    return path[0] | {"path": path[1:]} if path[1:] else path[0]


def _kept_tokens(kept: dict[str, Any]) -> list[Step] | None:
    rest = kept.get("path", [])
    steps = [kept, *rest] if isinstance(rest, list) else [None]
    found = [_kept_step(step) for step in steps]
    whole = [step for step in found if step is not None]
    return whole if len(whole) == len(found) else None


def _kept_step(step: Any) -> Step | None:
    tokens, taken = (step.get("tokens"), step.get("taken", "")) if isinstance(step, dict) else (None, None)
    if not isinstance(tokens, list) or not all(isinstance(one, list) and len(one) == 2 for one in tokens):
        return None
    if not tokens or not isinstance(taken, str) or not all(_is_logprob(*one) for one in tokens):
        return None
    likeliest = max(tokens, key=lambda one: one[1])[0]
    names = [token for token, _ in tokens]
    return Step(taken if taken in names else likeliest, [(token, logprob) for token, logprob in tokens])


read_answer = Read(_answer, _kept_answer)
read_first_tokens = Read(_first_tokens, _kept_tokens)


@dataclass(frozen=True)
class WordsOnPath:
    """probabilities: of each word. is_open: the tokens end before it is clear what the answer's first word is."""

    probabilities: list[float]
    is_open: bool


def words_on_path(steps: Sequence[Step], words: Sequence[str]) -> WordsOnPath:
    """How probable each word is as an answer's first, by the likeliest tokens of each step; capitals, spaces and other
    signs around it do not count.

    What the server took goes on while it is the beginning of a word ("Y") or decoration ("**"), and what stands behind
    it counts by its share. Beginnings that it did not take are not followed: they count as the word whole, and tokens
    behind decoration that it did not take not at all. So sums may be a little high for words of several tokens, and low
    where a server gives few tokens."""
    found, text, share = [0.0] * len(words), "", 1.0
    for step in steps:
        goes_on = False
        for token, logprob in step.tokens:
            chance = share * math.exp(min(logprob, 0.0))
            said = f"{text}{token}".lower().lstrip(DECORATION)
            on_path = token == step.taken
            for i, word in enumerate(words):
                if re.match(rf"{re.escape(word.lower())}(?!\w)", said):
                    found[i] += chance
                elif said and word.lower().startswith(said):
                    goes_on |= on_path
                    found[i] += 0.0 if on_path else chance
            goes_on |= on_path and bool(token) and not said
        if not goes_on:
            return WordsOnPath([min(1.0, one) for one in found], False)
        share *= math.exp(min(dict(step.tokens)[step.taken], 0.0))
        text += step.taken
    begun = text.lower().lstrip(DECORATION)
    for i, word in enumerate(words):
        found[i] += share if begun and word.lower().startswith(begun) else 0.0
    return WordsOnPath([min(1.0, one) for one in found], True)


def beginnings(step: Step) -> list[tuple[str, float]]:
    """The likeliest first tokens, likeliest first, with their probabilities."""
    return [(token, math.exp(logprob)) for token, logprob in sorted(step.tokens, key=lambda one: -one[1])[:5]]


def _first_choice(completion: Any) -> Any:
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or not choices or getattr(choices[0], "message", None) is None:
        raise ValueError(f"{_clean(str(completion)[:200])!r}")
    return choices[0]


def _words(content: Any) -> str:
    """The text of a message, which some servers give in parts: those that are no text (thoughts) do not count."""
    if content is None:
        return ""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(text for text in texts if isinstance(text, str))
    if not isinstance(content, str):
        raise ValueError(f"a message whose content is {type(content).__name__}")
    return content


def _clean(text: str) -> str:
    """Without secrets, and without lone surrogates, which neither JSON nor Arrow can write."""
    return hide(text.encode("utf-8", "replace").decode())


def _count(value: Any) -> int:
    """A number of tokens; 0 for what is none."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS
    return value if is_count else 0


def _is_logprob(token: Any, logprob: Any) -> bool:
    is_number = isinstance(logprob, (int, float)) and not isinstance(logprob, bool)
    return isinstance(token, str) and is_number and abs(logprob) < 1e9 and math.isfinite(logprob)
