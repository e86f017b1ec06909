"""A VLM behind an OpenAI-compatible address: many requests at once, each answer kept as soon as it is there.

Time-outs, 429 and 5xx are tried again with growing pauses by the `openai` client. What it gives up on is an outage,
unless the endpoint still answers other questions: then this one request is to blame. Answers are journalled by the
hash of the whole request, so a run that is killed, or a stage that is tried again, asks nothing twice.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from inference.interfaces import ChatAnswer, ChatRequest
from inference.vlm.qwen import RETRY_TEMPERATURE
from schemas.arrow import canonical_json
from schemas.errors import InputError, RequestFailedError
from schemas.images import encode_png

_TOP_LOGPROBS = 20  # as many as the API gives
_GARBAGE_ATTEMPTS = 3


class Journal(Protocol):
    """Keeps answers by key."""

    def get(self, key: str) -> dict[str, Any] | None: ...

    def put(self, key: str, value: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class EndpointConfig:
    """Where to ask, and how patiently."""

    base_url: str
    """As the `openai` client wants it: http://host:8000/v1"""
    model: str
    """The model's name there."""
    max_new_tokens: int = 512
    constrain_json: bool = True
    """Send the JSON Schema of an answer along (`response_format`), so that the server holds the model to it."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; servers without keys take any."""
    concurrency: int = 16
    """Requests in flight."""
    timeout_s: float = 120.0
    max_retries: int = 4
    """Of one request, with pauses from half a second to eight."""


class EndpointVlm:
    """See `inference.interfaces.Vlm`."""

    def __init__(self, config: EndpointConfig, journal: Journal | None = None) -> None:
        """Opens no connection yet."""
        import openai

        if config.concurrency < 1:
            raise InputError(f"{config.concurrency} requests at once", field="concurrency", expected="at least 1")
        self.config, self._journal = config, journal
        self._room = threading.BoundedSemaphore(config.concurrency)  # of all who ask at the same time
        self._client = openai.OpenAI(
            base_url=config.base_url,
            api_key=os.environ.get(config.api_key_env) or "none",
            timeout=config.timeout_s,
            max_retries=config.max_retries,
        )

    def answer(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """Answers in the order of the requests.

        Raises, after all others were answered and journalled, what the client gave up on: the `openai` errors of an
        outage, or RequestFailedError for a request that a living endpoint does not answer properly.
        """
        payloads = [self._payload(request) for request in requests]
        return [ChatAnswer(**value) for value in self._ask_all(payloads, self._read_answer)]

    def first_word_probabilities(self, requests: Sequence[ChatRequest], words: Sequence[str]) -> np.ndarray:
        """float32 (n, words), from the first token's most likely twenty; capitals do not count."""
        payloads = [
            self._payload(request) | {"max_tokens": 1, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}
            for request in requests
        ]
        found = np.zeros((len(requests), len(words)), np.float32)
        for row, value in enumerate(self._ask_all(payloads, self._read_first_tokens)):
            for token, logprob in value["tokens"]:
                start = token.strip().lower()
                for column, word in enumerate(words):
                    if start and word.lower().startswith(start):
                        found[row, column] += math.exp(logprob)
        return found

    def _payload(self, request: ChatRequest) -> dict[str, Any]:
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _data_url(image)}} for image in request.images
        ]
        content.append({"type": "text", "text": request.text})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if request.system is not None:
            messages.insert(0, {"role": "system", "content": request.system})
        payload: dict[str, Any] = {
            "model": self.config.model,
            "messages": messages,
            "max_tokens": self.config.max_new_tokens,
            "temperature": RETRY_TEMPERATURE if request.attempt else 0.0,
            "seed": request.attempt,
        }
        if request.json_schema is not None and self.config.constrain_json:
            schema = {"name": "answer", "schema": json.loads(request.json_schema), "strict": True}
            payload["response_format"] = {"type": "json_schema", "json_schema": schema}
        return payload

    def _ask_all(
        self, payloads: Sequence[dict[str, Any]], read: Callable[[Any], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        keys = [payload_key(payload) for payload in payloads]
        known = {key: value for key in set(keys) if (value := self._recall(key)) is not None}
        missing = {key: payload for key, payload in zip(keys, payloads, strict=True) if key not in known}
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            futures = {key: pool.submit(self._ask, key, payload, read) for key, payload in missing.items()}
        failed = [error for future in futures.values() if (error := future.exception()) is not None]
        if failed:
            raise failed[0]
        known |= {key: _result(future) for key, future in futures.items()}
        return [known[key] for key in keys]

    def _ask(self, key: str, payload: dict[str, Any], read: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        with self._room:
            value = self._ask_patiently(payload, read)
        if self._journal is not None:
            self._journal.put(key, value)
        return value

    def _ask_patiently(self, payload: dict[str, Any], read: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        import openai

        garbage: Exception | None = None
        for _ in range(_GARBAGE_ATTEMPTS):
            try:
                return read(self._client.chat.completions.create(**payload))
            except (ValueError, AttributeError, TypeError, IndexError, openai.APIResponseValidationError) as error:
                garbage = error  # half a JSON, a page of HTML, a completion without choices
            except (openai.APITimeoutError, openai.InternalServerError) as error:
                if not self._lives():
                    raise
                raise RequestFailedError(f"{self.config.base_url} lives, but not for this request: {error}") from error
        assert garbage is not None
        raise RequestFailedError(f"{self.config.base_url} answers no chat completion: {garbage}") from garbage

    def _lives(self) -> bool:
        """Whether the endpoint answers the cheapest of questions."""
        import openai

        try:
            self._client.with_options(max_retries=0, timeout=5.0).models.list()
        except openai.APIStatusError as error:
            return error.status_code < 500
        except (openai.APIError, ValueError, AttributeError):
            return False
        return True

    def _recall(self, key: str) -> dict[str, Any] | None:
        return None if self._journal is None else self._journal.get(key)

    def _read_answer(self, completion: Any) -> dict[str, Any]:
        choice, usage = self._first_choice(completion), completion.usage
        answer = ChatAnswer(
            text=(choice.message.content or "").strip(),
            finished=choice.finish_reason != "length",
            num_prompt_tokens=usage.prompt_tokens if usage else 0,
            num_tokens=usage.completion_tokens if usage else 0,
        )
        return asdict(answer)

    def _read_first_tokens(self, completion: Any) -> dict[str, Any]:
        choice = self._first_choice(completion)
        if not choice.logprobs or not choice.logprobs.content:
            raise InputError(
                f"{self.config.base_url} gives no log-probabilities",
                field="base_url",
                expected="a server that supports `logprobs` (vLLM does), or a verifier that is asked for scores",
            )
        return {"tokens": [[item.token, item.logprob] for item in choice.logprobs.content[0].top_logprobs]}

    def _first_choice(self, completion: Any) -> Any:
        choices = getattr(completion, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise ValueError(f"{str(completion)[:200]!r}")
        return choices[0]


def payload_key(payload: dict[str, Any]) -> str:
    """64 hex digits of all that is asked, images included."""
    return hashlib.sha256(canonical_json(payload).encode()).hexdigest()


def _data_url(image: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"


def _result(future: Future[dict[str, Any]]) -> dict[str, Any]:
    return future.result()
