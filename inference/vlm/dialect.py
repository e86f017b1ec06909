"""What an endpoint does not take of a chat request, learnt from what it says when it is given it.

OpenAI's reasoning models want `max_completion_tokens` and refuse `temperature`; other servers know no `seed`, or no
JSON Schema. Each says so in an answer of its own form (OpenAI, Azure, vLLM, LiteLLM, Gemini, Mistral), so names are
looked for in all of it. What was learnt holds for the process's life. The journal's keys know nothing of it.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass, replace
from typing import Any, Literal

from inference.vlm.strict_schema import strict_schema

log = logging.getLogger(__name__)

REFUSED = re.compile(
    r"unsupported|unrecogni[sz]ed|unknown|unexpected|extra_forbidden|deprecated|unavailable|"
    r"not? (?:\w+ )?(?:support|permit|allow|available|recogni[sz]e|implement)|n't (?:support|allow)|"
    r"extra (?:inputs|fields|parameters)|only the default|cannot both|invalid parameter|"
    r"must be -1|removed",  # "top_k must be -1 (disable), or at least 1"
    re.IGNORECASE,
)
_TOO_MUCH = re.compile(r"context length|too (?:large|long|many)|exceed|maximum (?:allowed|value)", re.IGNORECASE)
_SCHEMA_WORDS = ("response_format", "json_schema", "structured output", "guided", "schema")
_ORDER = {"whole": 0, "bare": 1, "none": 2}
_OPTIONAL = ("top_k", "top_p", "seed", "temperature")  # in the order in which one of several named ones is dropped


@dataclass(frozen=True)
class Dialect:
    """How requests are changed for one model at one endpoint."""

    dropped: frozenset[str] = frozenset()
    completion_tokens: bool = False
    """The limit is called `max_completion_tokens`."""
    schema: Literal["whole", "bare", "none"] = "whole"
    """How much of a JSON Schema is sent along: all, without its bounds, nothing."""

    def spoken(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The payload as this endpoint takes it."""
        said = {key: value for key, value in payload.items() if key not in self.dropped}
        if self.completion_tokens and "max_tokens" in said:
            said["max_completion_tokens"] = said.pop("max_tokens")
        if "response_format" in said:
            said["response_format"] = self._format(said["response_format"])
            if said["response_format"] is None:
                del said["response_format"]
        return said

    def _format(self, response_format: dict[str, Any]) -> dict[str, Any] | None:
        if self.schema == "none":
            return None
        answer = response_format["json_schema"]
        strict = strict_schema(answer["schema"], bare=self.schema == "bare")
        changed = {"schema": answer["schema"], "strict": False} if strict is None else {"schema": strict}
        return {**response_format, "json_schema": {**answer, **changed}}

    def after(self, complaint: str, param: str | None, payload: dict[str, Any]) -> Dialect | None:
        """What to try next, once the endpoint said `complaint` about a request; None if it is about nothing that can
        be left out. param: what the endpoint named as the cause, if it did."""

        def named(name: str) -> bool:
            return param == name if param in payload else re.search(rf"(?<![\w.]){name}\b", complaint) is not None

        if param is not None:
            param = param.partition(".")[0]
        if "response_format" in payload and self.schema != "none":
            by_name = param == "response_format"
            if by_name or (not param and any(word in complaint.lower() for word in _SCHEMA_WORDS)):
                refused_bounds = self.schema == "whole" and re.search(r"invalid.{0,10}schema|keyword", complaint, re.I)
                return replace(self, schema="bare" if refused_bounds else "none")
        if not REFUSED.search(complaint) or _TOO_MUCH.search(complaint):
            return None
        if "max_tokens" in payload and not self.completion_tokens and named("max_tokens"):
            return replace(self, completion_tokens=True)
        if "chat_template_kwargs" in payload and "chat_template" in complaint:  # vLLM, of Mistral's tokenizers
            return replace(self, dropped=self.dropped | {"chat_template_kwargs"})
        for name in _OPTIONAL:
            if name in payload and name not in self.dropped and named(name):
                return replace(self, dropped=self.dropped | {name})
        return None


_dialects: dict[tuple[str, str], Dialect] = {}
_lock = threading.Lock()


def dialect_of(base_url: str, model: str) -> Dialect:
    """What this process knows of a model at an address."""
    return _dialects.get((base_url, model), Dialect())


def remember(base_url: str, model: str, learnt: Dialect) -> None:
    """Keep what worked, and say what is new."""
    with _lock:
        known = dialect_of(base_url, model)
        both = Dialect(
            known.dropped | learnt.dropped,
            known.completion_tokens or learnt.completion_tokens,
            known.schema if _ORDER[known.schema] > _ORDER[learnt.schema] else learnt.schema,
        )
        if both == known:
            return
        _dialects[base_url, model] = both
    news = [f"no {name}" for name in sorted(both.dropped - known.dropped)]
    if both.completion_tokens and not known.completion_tokens:
        news.append("max_completion_tokens in place of max_tokens")
    if both.schema != known.schema:
        without = "a JSON Schema without its bounds" if both.schema == "bare" else "no JSON Schema"
        news.append(f"{without}, so that answers are only asked for in its form")
    log.warning("%s at %s is sent %s: it refuses more", model, base_url, "; ".join(news))
