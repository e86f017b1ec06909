"""What an endpoint says, made into what may be kept: checked and brought to one form before it is journalled, and
checked again when it comes from there. Whatever is no completion is a ValueError (or an AttributeError, TypeError,
IndexError of taking it apart), and is asked again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from inference.interfaces import ChatAnswer
from schemas.errors import AccessError
from schemas.redaction import hide

T = TypeVar("T")
_MAX_TOKENS = 2**31  # no honest count is larger
_MAX_CHARS = 1_000_000  # of a text; no honest one is longer
_NOT_FINISHED = frozenset({"length", "max_tokens", "content_filter", "error", "abort", "cancelled", "model_length"})


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
    choice = _first_choice(completion)
    logprobs = getattr(choice, "logprobs", None)
    if not logprobs or not logprobs.content:
        raise AccessError(
            "the endpoint gives no log-probabilities",
            field="--vlm.base-url",
            expected="a server that supports `logprobs` (vLLM does), or a verifier that is asked for scores",
        )
    top = [(item.token, item.logprob) for item in logprobs.content[0].top_logprobs]
    tokens = [[_clean(token), min(float(logprob), 0.0)] for token, logprob in top if _is_logprob(token, logprob)]
    if not tokens:
        raise ValueError("log-probabilities that are none")
    return {"tokens": tokens}


def _kept_tokens(kept: dict[str, Any]) -> list[tuple[str, float]] | None:
    tokens = kept.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(one, list) and len(one) == 2 for one in tokens):
        return None
    return [(token, logprob) for token, logprob in tokens] if all(_is_logprob(*one) for one in tokens) else None


read_answer = Read(_answer, _kept_answer)
read_first_tokens = Read(_first_tokens, _kept_tokens)


def word_probabilities(tokens: Sequence[tuple[str, float]], words: Sequence[str]) -> list[float]:
    """For each word, the probability of the tokens that start it; capitals and spaces around do not count."""
    starts = [(token.strip().lower(), math.exp(min(logprob, 0.0))) for token, logprob in tokens]
    return [min(1.0, sum(p for start, p in starts if start and word.lower().startswith(start))) for word in words]


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
