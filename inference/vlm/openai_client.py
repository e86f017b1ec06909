"""A client of a server that speaks OpenAI's API, whatever it is asked for: its secrets guarded, its refusals told from
failures of one request, and what it says made fit to be shown."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from inference.vlm.extras import MAX_BODY, address, header_values
from schemas.errors import AccessError, InputError
from schemas.redaction import guard, hide

NO_ANSWER = (ValueError, AttributeError, TypeError, IndexError, RecursionError)
"""What taking garbage apart raises."""
_SHOWN_MODELS = 20
_SHOWN_CHARS = 400  # of an error
_READ_CHARS = 10_000


@dataclass(frozen=True)
class Reached:
    """How a server is reached. owner: whose flags errors name ("vlm": --vlm.base-url). model_flag: the one that names
    its model. max_body: bytes that an answer may have."""

    base_url: str
    model: str
    api_key_env: str
    headers: tuple[str, ...]
    timeout_s: float
    max_retries: int
    owner: str = "vlm"
    model_flag: str = "endpoint-model"
    max_body: int = MAX_BODY


class OpenAiClient:
    """`api` is the `openai` client itself; `has_answered` is set by whoever got an answer."""

    def __init__(self, at: Reached) -> None:
        """Opens no connection yet. InputError for an address, a key or a header that cannot work."""
        import openai

        from inference.vlm.http_client import http_client

        self.at, self.has_answered = at, False
        key = os.environ.get(at.api_key_env, "").strip()
        headers = header_values(at.headers, at.owner)
        for secret in (key, *headers.values()):
            guard(secret)
            if not (secret.isascii() and secret.isprintable()):
                raise InputError(
                    "a key or header holds signs that no header may",
                    field=f"{at.owner}.api_key_env, {at.owner}.headers",
                    expected="printable ASCII in the environment variables",
                )
        if not re.match(r"\s*https?://", at.base_url, re.IGNORECASE):
            raise InputError(
                f"{address(at.base_url, at.owner)!r} is no address of a server",
                field=f"--{at.owner}.base-url",
                expected="one that begins with http:// or https://, such as http://host:8000/v1",
            )
        self.api = openai.OpenAI(
            base_url=address(at.base_url, at.owner),
            api_key=key or "none",
            timeout=at.timeout_s,
            max_retries=at.max_retries,
            default_headers=headers,
            http_client=http_client(at.timeout_s, [*headers], at.max_body),
        )

    def check_key(self) -> None:
        """Ask for the list of models. AccessError where the key is wrong; the `openai` error of a server that is not
        there; whatever else is wrong shows later."""
        import openai

        try:
            self._models(timeout_s=5.0)
        except openai.AuthenticationError as error:
            if not re.search("scope|permission", words_of(error)):  # a key for other routes alone
                raise self.refusal(error) from None
        except openai.APIConnectionError:
            raise
        except (openai.OpenAIError, *NO_ANSWER):
            pass

    def lives(self) -> bool:
        """Whether the server answers the cheapest of questions."""
        import openai

        try:
            self.api.with_options(max_retries=0, timeout=5.0).models.list()
        except openai.APIStatusError as error:
            return error.status_code < 500
        except (openai.OpenAIError, *NO_ANSWER):
            return False
        return True

    def is_refusal(self, error: Any) -> bool:
        """Whether the server would say this to any request. error: an `openai.APIStatusError`."""
        if error.status_code in (401, 402):
            return True
        if error.status_code == 429:
            return "insufficient_quota" in words_of(error)
        # One prompt may be forbidden, or one image not be found, where others were answered.
        return error.status_code in (403, 404) and not self.has_answered

    def refusal(self, error: Any) -> AccessError:
        """The same for people."""
        at, said = self.at, shown(error)
        if error.status_code == 404:
            return AccessError(
                f"{at.base_url} has no model {at.model!r}, or no such path: {said}",
                field=f"--{at.owner}.{at.model_flag}, --{at.owner}.base-url",
                expected=self.models_there(),
            )
        if error.status_code in (402, 429):
            return AccessError(f"{at.base_url} has no credit left for this key: {said}", field=at.api_key_env)
        state = "is not set" if not os.environ.get(at.api_key_env) else "holds another"
        return AccessError(
            f"{at.base_url} refuses the key: {said}",
            field=at.api_key_env,
            expected=f"the endpoint's key in this environment variable (--{at.owner}.api-key-env), which {state}",
        )

    def models_there(self) -> str:
        """What may be asked for, in words."""
        import openai

        try:
            names = sorted(self._models(timeout_s=5.0))
        except (openai.OpenAIError, *NO_ANSWER):
            names = []
        if not names:
            return "a model that it has, and a base_url that ends as the server's documentation says (often /v1)"
        more = f" and {len(names) - _SHOWN_MODELS} more" if len(names) > _SHOWN_MODELS else ""
        return f"one of its models: {hide(', '.join(names[:_SHOWN_MODELS]))}{more}"

    def _models(self, timeout_s: float) -> list[str]:
        listed = self.api.with_options(max_retries=0, timeout=timeout_s).models.list()
        return [str(model.id)[:100] for model in listed.data]


def words_of(error: Any) -> str:
    """What a server said, in whichever form: the client's own words leave out bodies that are not OpenAI's."""
    return error.response.text[:_READ_CHARS] or str(error)


def shown(error: Any) -> str:
    """The same, short, for a person."""
    is_bare = error.message == f"Error code: {error.status_code}"
    return hide(" ".join(f"{error.message}{f': {words_of(error)}' if is_bare else ''}".split()))[:_SHOWN_CHARS]
