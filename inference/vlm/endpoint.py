"""A VLM behind an OpenAI-compatible address: many requests at once, each answer kept as soon as it is there.

Time-outs, 429 and 5xx are tried again with growing pauses by the `openai` client. What it gives up on is an outage,
unless the endpoint still answers other questions: then this one request is to blame. Answers are journalled by the
hash of the whole request, so a run that is killed, or a stage that is tried again, asks nothing twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from inference.interfaces import ChatAnswer, ChatRequest
from inference.vlm.answers import MAX_PATH, Read, beginnings, read_answer, read_first_tokens, words_on_path
from inference.vlm.dialect import dialect_of, remember
from inference.vlm.extras import read_extra_body
from inference.vlm.first_words import ANSWER_FLOOR, FirstWords, check_answered, with_opposites
from inference.vlm.openai_client import NO_ANSWER, OpenAiClient, Reached, shown, words_of
from inference.vlm.pictures import EncodedOnce, ImageFormat, digest
from inference.vlm.sampling import Sampling, request_seed
from schemas.arrow import canonical_json
from schemas.errors import AccessError, InputError, RequestFailedError
from schemas.redaction import hide_in

T = TypeVar("T")
_TOP_LOGPROBS = 20  # as many as the API gives
_GARBAGE_ATTEMPTS = 3
_TEMPLATE = "chat_template_kwargs"
_THINKING_OFF = {"enable_thinking": False}
_ADVICE = (
    "a model that thinks first has that switched off by --vlm.extra-body "
    """'{"chat_template_kwargs": {"enable_thinking": false}}'; or words in the template that ask for one of them, or """
    "another model"
)


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
    """Of one request, from its start to its answer's last byte."""
    max_retries: int = 4
    """Of one request, with pauses from half a second to eight."""
    headers: tuple[str, ...] = ()
    """More headers, as NAME=VARIABLE of the environment."""
    extra_body: str = ""
    """More of the body, a JSON object."""
    sampling: Sampling = field(default_factory=Sampling)
    is_vllm: bool = False
    """It is told of no `top_k` too, lest the model's own settings have one, and not to think aloud."""
    max_image_pixels: int = 0
    """Larger images are shrunk to so many pixels; 0: none is."""
    image_format: ImageFormat = "png"
    answer_floor: float = ANSWER_FLOOR
    """How probable Yes and No must be together where one of them is asked for; 0: as they are."""


@dataclass(frozen=True)
class _Question:
    """A chat request in the API's form, but for its images, which stand in it as their digests."""

    key: str
    payload: dict[str, Any]
    images: dict[str, np.ndarray]


class EndpointVlm:
    """See `inference.interfaces.Vlm`."""

    def __init__(
        self, config: EndpointConfig, journal: Journal | None = None, address: Callable[[], str] | None = None
    ) -> None:
        """Opens no connection yet. address: where it answers now, in place of `base_url`; asked whenever there is
        something that the journal does not answer. InputError for a configuration that cannot work."""
        if config.concurrency < 1:
            raise InputError(f"{config.concurrency} requests at once", field="concurrency", expected="at least 1")
        self.config, self._journal, self._address = config, journal, address
        self._room = threading.BoundedSemaphore(config.concurrency)  # of all who ask at the same time
        self._extra_body = read_extra_body(config.extra_body)
        self._client = self._client_at(config.base_url)

    def check(self) -> None:
        """Ask for the list of models. AccessError where the key is wrong; whatever else is wrong shows later."""
        import openai

        with contextlib.suppress(openai.APIConnectionError):
            self._client.check_key()

    def answer(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """Answers in the order of the requests.

        Raises, after all others were answered and journalled, what the client gave up on: the `openai` errors of an
        outage, or RequestFailedError for a request that a living endpoint does not answer properly. AccessError, at
        once, where no request would be answered.
        """
        return self._ask_all(requests, {}, read_answer)

    def first_word_probabilities(self, requests: Sequence[ChatRequest], words: Sequence[str]) -> np.ndarray:
        """float32 (n, words), from each token's most likely twenty (`answers.words_on_path`: its limits); capitals do
        not count, nor does sampling. One token is asked for; where that is only the beginning of a word, or decoration,
        a few. UnscoredError where Yes or No is asked for and an answer begins with neither."""
        together = with_opposites(words)
        one = {"max_tokens": 1, "logprobs": True, "top_logprobs": _TOP_LOGPROBS, "temperature": 0.0, "seed": 0}
        steps = self._ask_all(requests, one, read_first_tokens)
        read = [words_on_path(some, together) for some in steps]
        if unclear := [row for row, some in enumerate(read) if some.is_open]:
            more = self._ask_all([requests[row] for row in unclear], one | {"max_tokens": MAX_PATH}, read_first_tokens)
            for row, some in zip(unclear, more, strict=True):
                read[row] = words_on_path(some, together)
        table = np.array([one.probabilities for one in read]).reshape(-1, len(together))
        found = FirstWords(table, [beginnings(some[0]) for some in steps])
        asked = [request.text for request in requests]
        check_answered(found, together, asked, self.config.answer_floor, self.config.model, _ADVICE)
        return table[:, : len(words)].astype(np.float32)

    def _client_at(self, base_url: str) -> OpenAiClient:
        config = self.config
        patience = config.timeout_s, config.max_retries
        return OpenAiClient(Reached(base_url, config.model, config.api_key_env, config.headers, *patience))

    def _client_now(self) -> OpenAiClient:
        """Of where it answers now."""
        client = self._client
        if self._address is not None and (base_url := self._address()) != client.at.base_url:
            client = self._client = self._client_at(base_url)
        return client

    def _payload(self, request: ChatRequest, image_names: Sequence[str]) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": name}} for name in image_names]
        content.append({"type": "text", "text": request.text})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if request.system is not None:
            messages.insert(0, {"role": "system", "content": request.system})
        sampling = self.config.sampling
        payload: dict[str, Any] = {
            "model": self.config.model,
            "messages": messages,
            "max_tokens": self.config.max_new_tokens,
            "temperature": sampling.temperature_of(request.attempt),
            "seed": sampling.seed_of(request.attempt),
        }
        if request.json_schema is not None and self.config.constrain_json:
            schema = {"name": "answer", "schema": json.loads(request.json_schema), "strict": True}
            payload["response_format"] = {"type": "json_schema", "json_schema": schema}
        return payload

    def _questions(self, requests: Sequence[ChatRequest], changes: dict[str, Any]) -> list[_Question]:
        distinct = {id(image): image for request in requests for image in request.images}
        with ThreadPoolExecutor() as pool:
            names = dict(zip(distinct, pool.map(digest, distinct.values()), strict=True))
        return [
            self._question(request, [names[id(image)] for image in request.images], changes) for request in requests
        ]

    def _question(self, request: ChatRequest, image_names: list[str], changes: dict[str, Any]) -> _Question:
        config = self.config
        payload = self._payload(request, image_names) | changes
        if payload["temperature"]:
            payload |= {"top_p": config.sampling.top_p, "top_k": config.sampling.top_k}
        if payload["temperature"] and config.sampling.temperature:
            payload["seed"] = request_seed(payload)  # or all would draw with the same numbers
        asked: list[Any] = [payload]
        if self._extra_body or config.max_image_pixels or config.image_format != "png":
            asked += [self._extra_body, config.max_image_pixels, config.image_format]
        return _Question(payload_key(*asked), payload, dict(zip(image_names, request.images, strict=True)))

    def _ask_all(self, requests: Sequence[ChatRequest], changes: dict[str, Any], read: Read[T]) -> list[T]:
        """What `read` made of each request's answer; each distinct one is asked once, unless the journal has it."""
        questions = self._questions(requests, changes)
        known = {key: value for key in {q.key for q in questions} if (value := self._recall(key, read)) is not None}
        missing = {q.key: q for q in questions if q.key not in known}
        images = EncodedOnce(
            [name for q in missing.values() for name in q.images],
            self.config.image_format,
            self.config.max_image_pixels,
        )
        client = self._client_now() if missing else self._client
        is_refused = threading.Event()

        def ask(question: _Question) -> T:
            if is_refused.is_set():  # as this one would be
                raise CancelledError
            try:
                return self._ask(client, question, images, read)
            except AccessError:
                is_refused.set()
                raise

        with ThreadPoolExecutor(self.config.concurrency) as pool:
            futures = {key: pool.submit(ask, question) for key, question in missing.items()}
            running = set(futures.values())
            while running:
                done, running = wait(running, return_when=FIRST_EXCEPTION)
                for future in done:
                    if isinstance(refused := future.exception(), AccessError):
                        pool.shutdown(cancel_futures=True)
                        raise refused
        failed = [error for future in futures.values() if (error := future.exception()) is not None]
        if failed:
            raise failed[0]
        known |= {key: future.result() for key, future in futures.items()}
        return [known[question.key] for question in questions]

    def _ask(self, client: OpenAiClient, question: _Question, images: EncodedOnce, read: Read[T]) -> T:
        try:
            urls = {name: images.url(name, image) for name, image in question.images.items()}
            with self._room:
                value = self._ask_patiently(client, _with_images(question.payload, urls), read)
        except Exception as error:
            hide_in(error)
            raise
        finally:
            for name in question.images:
                images.done(name)
        if self._journal is not None:
            self._journal.put(question.key, value)
        answer = read.of_kept(value)
        assert answer is not None, "what was just read does not read"
        return answer

    def _ask_patiently(self, client: OpenAiClient, payload: dict[str, Any], read: Read[Any]) -> dict[str, Any]:
        import openai

        garbage: Exception | None = None
        for _ in range(_GARBAGE_ATTEMPTS):
            try:
                value = read.of_completion(self._complete(client, payload))
                client.has_answered = True
                return value
            except (*NO_ANSWER, openai.APIResponseValidationError) as error:
                garbage = error  # half a JSON, a page of HTML, a completion without choices
            except (openai.APITimeoutError, openai.InternalServerError) as error:
                if not client.lives():
                    raise
                raise RequestFailedError(f"{client.at.base_url} lives, but not for this request: {error}") from error
        assert garbage is not None
        raise RequestFailedError(f"{client.at.base_url} answers no chat completion: {garbage}") from garbage

    def _complete(self, client: OpenAiClient, payload: dict[str, Any]) -> Any:
        """The completion, of a request without what the endpoint turns out to refuse. AccessError."""
        import openai

        place = client.at.base_url, self.config.model
        dialect = dialect_of(*place)
        while True:
            said = dialect.spoken(payload)
            top_k = said.pop("top_k", 0)
            more: dict[str, Any] = (
                {"top_k": top_k} if top_k or (self.config.is_vllm and said.get("temperature")) else {}
            )
            own = self._extra_body.get(_TEMPLATE, {})
            if self.config.is_vllm and _TEMPLATE not in dialect.dropped and isinstance(own, dict):
                more[_TEMPLATE] = _THINKING_OFF | own
            body = more | self._extra_body | ({_TEMPLATE: more[_TEMPLATE]} if _TEMPLATE in more else {})
            try:
                completion = client.api.chat.completions.create(**said, extra_body=body)
            except openai.APIStatusError as error:
                is_complaint = error.status_code in (400, 422)
                changed = dialect.after(words_of(error), error.param, said | more) if is_complaint else None
                if changed is None:
                    if _is_refusal(client, error):
                        raise _refusal(client, error) from None
                    error.args = (shown(error),)
                    raise
                dialect = changed
            else:
                remember(*place, dialect)
                return completion

    def _recall(self, key: str, read: Read[T]) -> T | None:
        kept = None if self._journal is None else self._journal.get(key)
        return None if kept is None else read.of_kept(kept)


def _is_refusal(client: OpenAiClient, error: Any) -> bool:
    """Whether the endpoint would say this to any request."""
    return "logprobs" in words_of(error) or client.is_refusal(error)


def _refusal(client: OpenAiClient, error: Any) -> AccessError:
    if "logprobs" not in (said := shown(error)):
        return client.refusal(error)
    return AccessError(
        f"{client.at.model} at {client.at.base_url} gives no log-probabilities: {said}",
        field="--vlm.base-url",
        expected="a server that supports `logprobs` (vLLM does), or a verifier that is asked for scores",
    )


def payload_key(*asked: Any) -> str:
    """64 hex digits of all that is asked, images by their digests."""
    return hashlib.sha256(canonical_json(asked[0] if len(asked) == 1 else asked).encode()).hexdigest()


def _with_images(payload: dict[str, Any], urls: dict[str, str]) -> dict[str, Any]:
    """The payload with each image's digest replaced by the image."""
    *before, user = payload["messages"]
    content = [
        {"type": "image_url", "image_url": {"url": urls[part["image_url"]["url"]]}} if "image_url" in part else part
        for part in user["content"]
    ]
    return {**payload, "messages": [*before, {**user, "content": content}]}
