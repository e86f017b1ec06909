"""Images of a server behind OpenAI's routes: many requests at once, each image kept as soon as it is there.

Time-outs, 429 and 5xx are tried again with growing pauses by the `openai` client. What it gives up on may pass
(TransientError), unless the server still answers other questions: then this one request is to blame. Images are
journalled, as the file that came, by the hash of the whole request, before they are used: so a run that is killed, or a
stage that is tried again, has nothing drawn twice. A server draws no image twice alike, so such a run can be resumed,
and is not byte-identical to another.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from inference.images_api import dialect
from inference.images_api.answer import MAX_BODY, decoded, image_bytes, kept, of_kept
from inference.images_api.config import ImagesApiConfig
from inference.vlm.endpoint import Journal, payload_key
from inference.vlm.openai_client import NO_ANSWER, OpenAiClient, Reached, shown, words_of
from inference.vlm.pictures import data_url, digest
from schemas.errors import AccessError, CorruptDataError, OutageError, RequestFailedError, TransientError
from schemas.image_size import ImageSize
from schemas.redaction import hide, hide_in

Route = Literal["generations", "edits"]
_GARBAGE_ATTEMPTS = 3
_LOOKS = 3  # for a server, before a run begins
_BETWEEN_LOOKS_S = 1.0
_MODERATED = re.compile(
    r"moderation|content.?polic|safety.?system|content.?filter|policy.?violation|flagged|nsfw|responsible.?ai", re.I
)
_NO_CREDIT = re.compile(r"billing.?hard.?limit|billing_not_active", re.I)
_OTHER_MODEL = re.compile(r"model mismatch|model\b.{0,120}(?:not exist|not found|no such)|invalid model", re.I | re.S)
_SIZE = re.compile(r"\b(?:size|resolution|width|height|dimensions?|aspect)\b", re.I)
_STANDARD = ("prompt", "model", "n", "size", "response_format")  # what the `openai` client has arguments for
_MAX_SEED = 2**31  # servers take 32 bits


@dataclass(frozen=True)
class ImageRequest:
    """One image to be drawn, or, from an image (H, W, 3), drawn again. prompt: what the server is told."""

    prompt: str
    seed: int
    size: ImageSize
    image: np.ndarray | None = field(default=None, repr=False)

    @property
    def route(self) -> Route:
        """Of the server's."""
        return "generations" if self.image is None else "edits"


class ImagesClient:
    """Asks one server. Several threads may ask at once; `concurrency` holds for all of them together."""

    def __init__(self, config: ImagesApiConfig, journal: Journal | None = None) -> None:
        """Opens no connection yet. InputError for a configuration that cannot work."""
        self.config, self._journal = config, journal
        self._settings = config.settings
        self._room = threading.BoundedSemaphore(config.concurrency)
        self._client = OpenAiClient(
            Reached(
                config.base_url,
                config.model,
                config.api_key_env,
                config.headers,
                config.timeout_s,
                config.retries,
                config.owner,
                "model",
                MAX_BODY,
            )
        )

    def check(self) -> None:
        """Look for the server. AccessError for a wrong key, OutageError for an address at which nobody answers."""
        import openai

        for look in range(_LOOKS):
            try:
                self._client.check_key()
                return
            except openai.APITimeoutError:
                return  # busy, or slow to list its models
            except openai.APIConnectionError as error:
                if look + 1 == _LOOKS:
                    raise OutageError(
                        f"nobody answers at {self.config.base_url}: {_cause(error)}\n"
                        f"  what to do: start the server, or name another address (--{self.config.owner}.base-url)"
                    ) from None
                time.sleep(_BETWEEN_LOOKS_S)

    def draw(self, requests: Sequence[ImageRequest]) -> Iterator[np.ndarray]:
        """Images in the order of the requests, each as soon as it and those before it are there; a request that is
        there twice is asked once.

        Raises, after all others were drawn and journalled, TransientError for an outage, or RequestFailedError for a
        request that a living server does not answer properly or refuses. AccessError, at once, where no request would
        be answered, or none with an image of this size.
        """
        keys = [self._key(request) for request in requests]
        left, stopped = Counter(keys), threading.Event()
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            futures: dict[str, Future[np.ndarray | None]] = {}
            for key, request in zip(keys, requests, strict=True):
                if key not in futures:
                    futures[key] = pool.submit(self._image, key, request, stopped)
            try:
                for key in keys:
                    image = futures[key].result()
                    if image is None:  # another one was refused in a way that stops all
                        break
                    left[key] -= 1
                    if not left[key]:
                        del futures[key]
                    yield image
            except GeneratorExit:
                stopped.set()
                raise
            except Exception:
                _raise_refusal(futures)
                raise
            _raise_refusal(futures)

    def _image(self, key: str, request: ImageRequest, stopped: threading.Event) -> np.ndarray | None:
        """None where nobody wants it any more."""
        if stopped.is_set():
            return None
        image = None if self._journal is None else of_kept(self._journal.get(key), request.size)
        if image is not None:
            return image
        try:
            with self._room:
                data = None if stopped.is_set() else self._drawn(request)
        except AccessError:
            stopped.set()
            raise
        except Exception as error:
            hide_in(error)
            raise
        if data is None:
            return None
        if self._journal is not None:
            self._journal.put(key, kept(data))
        return decoded(data)

    def _payload(self, request: ImageRequest) -> dict[str, Any]:
        said = {"prompt": request.prompt, "model": self.config.model, "n": 1, "size": str(request.size)}
        return said | {"response_format": "b64_json", "seed": request.seed % _MAX_SEED} | self._settings

    def _key(self, request: ImageRequest) -> str:
        """Of all that is asked; the image by its pixels. The whole seed counts, whatever of it is sent."""
        image = None if request.image is None else digest(request.image)
        return payload_key(f"images/{request.route}", self._payload(request), request.seed, image)

    def _drawn(self, request: ImageRequest) -> bytes:
        """A file that holds an image of the right size."""
        import openai

        base_url, garbage = self.config.base_url, None
        for _ in range(_GARBAGE_ATTEMPTS):
            try:
                data = image_bytes(self._answer(request), self._client.api, base_url, self.config.owner)
                found = ImageSize.of(decoded(data))
            except (*NO_ANSWER, CorruptDataError, openai.APIResponseValidationError) as error:
                garbage = error  # half a JSON, a page of HTML, half an image
            except (openai.APITimeoutError, openai.InternalServerError) as error:
                if not self._client.lives():
                    raise TransientError(f"{base_url} does not answer: {_cause(error)}") from error
                raise RequestFailedError(f"{base_url} lives, but not for this request: {_cause(error)}") from error
            except (openai.APIConnectionError, openai.RateLimitError) as error:
                raise TransientError(f"{base_url} does not answer: {_cause(error)}") from error
            else:
                self._client.has_answered = True
                if found != request.size:
                    raise self._other_size(request, f"draws {found} where {request.size} is asked for")
                return data
        assert garbage is not None
        raise RequestFailedError(f"{base_url} answers no image: {hide(str(garbage))}") from garbage

    def _answer(self, request: ImageRequest) -> Any:
        """The server's answer to a request without what it turns out to refuse."""
        import openai

        config, payload = self.config, self._payload(request)
        place = config.base_url, config.model, request.route
        without = dialect.left_out(*place)
        while True:
            said = {name: value for name, value in payload.items() if name not in without}
            try:
                answer = self._ask(request, said)
            except openai.APIStatusError as error:
                name = None
                if error.status_code in (400, 422) and not _MODERATED.search(words_of(error)):
                    name = dialect.refused_name(words_of(error), error.param, said)
                if name is None:
                    raise self._failure(error, request, said) from None
                without |= {name}
            else:
                dialect.remember(*place, without)
                return answer

    def _ask(self, request: ImageRequest, said: dict[str, Any]) -> Any:
        standard = {name: said[name] for name in _STANDARD if name in said}
        more = {name: value for name, value in said.items() if name not in _STANDARD}
        images = self._client.api.images
        if request.image is None:
            return images.generate(**standard, extra_body=more)
        file = ("image.png", png_bytes(request.image), "image/png")
        return images.edit(image=file, **standard, extra_body=more)

    def _failure(self, error: Any, request: ImageRequest, said: dict[str, Any]) -> Exception:
        """What an error status means, for people: of this request, of every one, or of the server's moment."""
        words, base_url, owner = words_of(error), self.config.base_url, self.config.owner
        if error.status_code == 429 and self._client.is_refusal(error):
            return self._client.refusal(error)
        if error.status_code == 429 or error.status_code >= 500:
            error.args = (shown(error),)
            return error
        if _NO_CREDIT.search(words):
            return AccessError(
                f"{base_url} has no credit left for this key: {shown(error)}", field=self.config.api_key_env
            )
        if error.status_code not in (401, 402) and _MODERATED.search(words):
            return RequestFailedError(f"{base_url} refuses to draw {request.prompt[:100]!r}: {shown(error)}")
        if self._client.is_refusal(error):
            return self._client.refusal(error)
        if error.status_code in (400, 422):
            if _OTHER_MODEL.search(words):
                return AccessError(
                    f"{base_url} has no model {self.config.model!r}: {shown(error)}",
                    field=f"--{owner}.model",
                    expected=self._client.models_there(),
                )
            if error.param == "size" or (_SIZE.search(words) and error.param is None and "prompt" not in words.lower()):
                return self._other_size(request, f"does not draw {request.size}: {shown(error)}")
            for name in self._settings:
                if error.param == name or ("_" in name and dialect.is_about(name, words, error.param, said)):
                    return AccessError(
                        f"{base_url} does not take {name} {said.get(name)!r}: {shown(error)}",
                        field=f"--{owner}",
                        expected="another value; each image is asked for with this one",
                    )
        return RequestFailedError(f"{base_url} turned the request down: {shown(error)}")

    def _other_size(self, request: ImageRequest, said: str) -> AccessError:
        if request.image is None:
            flags, where = f"--{self.config.owner}.size-px, --generator.sizes", "sizes that the server draws"
        else:
            flags = "--generator.sizes, or the generator's size_px"
            where = "images of a size that the corrector's server draws: it is shown the flawed image and asked for its"
        return AccessError(f"{self.config.base_url} {said}", field=flags, expected=where)


def png_bytes(image: np.ndarray) -> bytes:
    """As it is sent: (H, W, 3) uint8."""
    import base64

    return base64.b64decode(data_url(image, "png").partition(",")[2])


def _raise_refusal(futures: dict[str, Future[np.ndarray | None]]) -> None:
    """The first AccessError among what was asked, if there is one; waits for all."""
    for future in futures.values():
        if isinstance(refused := future.exception(), AccessError):
            raise refused


def _cause(error: Exception) -> str:
    """Of a connection that failed, what the system said."""
    return hide(" ".join(str(error.__cause__ or error).split()))[:300]
