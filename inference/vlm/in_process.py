"""A VLM in this process: chat requests with images in, answers out. Any class that transformers' auto classes open
(Qwen-VL of all numbers, InternVL's "-HF" weights, Gemma 3, LLaVA, SmolVLM and others)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference.interfaces import ChatAnswer, ChatRequest
from inference.vlm.adapters import load_vlm
from inference.vlm.chat_inputs import accepted, chat_text, model_inputs
from inference.vlm.first_words import ANSWER_FLOOR, Prefix, check_answered, find_first_words, with_opposites
from inference.vlm.pictures import digest, shrink
from inference.vlm.sampling import Sampling, SeededSampler
from schemas.configuration import execution_field, model_field, stable_seed

if TYPE_CHECKING:
    import torch

_ADVICE = (
    "words in the template that ask for one of them, or another model; one that thinks aloud and has no switch for it "
    "cannot be asked so"
)


@dataclass(frozen=True)
class InProcessVlmConfig:
    """Which model and how it answers: greedily, but for requests with an attempt, or as `sampling` says."""

    model: str = model_field("Qwen/Qwen2.5-VL-7B-Instruct")
    """Local folder (of an adapter, too) or hub id, or a shipped model's name."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_new_tokens: int = 256
    """An answer that is longer is cut off, and says so."""
    batch_size: int = execution_field(64)
    """Requests a forward pass."""
    device: str = execution_field("cpu")
    sampling: Sampling = field(default_factory=Sampling)
    """Of answers; probabilities of first words know nothing of it."""
    max_image_pixels: int = 0
    """Larger images are shrunk to so many pixels; 0: none is."""
    answer_floor: float = execution_field(ANSWER_FLOOR)
    """How probable Yes and No must be together where one of them is asked for; 0: as they are."""


class InProcessVlm:
    """See `inference.interfaces.Vlm`. An answer depends on its request alone, up to rounding in the batch."""

    def __init__(self, config: InProcessVlmConfig | None = None) -> None:
        """Loads the model. MissingWeightsError where it is not on this machine; InputError for what is no VLM."""
        from inference.model_store import resolve_model

        config = config or InProcessVlmConfig()
        model, processor = load_vlm(resolve_model(config.model), config.dtype)
        self._set_up(model.to(config.device), processor, config)

    @classmethod
    def of(cls, model: Any, processor: Any, config: InProcessVlmConfig) -> InProcessVlm:
        """Around a model that is already there (in training), on the device of `config`."""
        vlm = cls.__new__(cls)
        vlm._set_up(model, processor, config)
        return vlm

    def _set_up(self, model: Any, processor: Any, config: InProcessVlmConfig) -> None:
        self.config, self._model, self._processor = config, model.eval(), processor
        self._processor.tokenizer.padding_side = "left"

    def answer(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """Answers in the order of the requests."""
        import torch

        answers: list[ChatAnswer | None] = [None] * len(requests)
        requests = self._shrunk(requests)
        for rows in self._batches(requests):
            inputs = self._inputs([requests[i] for i in rows])
            with torch.inference_mode():
                output = self._model.generate(
                    **inputs,
                    do_sample=False,
                    logits_processor=self._sampler([requests[i] for i in rows], inputs["input_ids"].shape[1]),
                    max_new_tokens=self.config.max_new_tokens,
                    use_cache=True,
                )
            ends = self._end_ids()
            for row, prompt_mask, new in zip(
                rows, inputs["attention_mask"], output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True
            ):
                stop = next((i for i, token in enumerate(new) if token in ends), None)
                text = self._processor.tokenizer.decode(new[:stop], skip_special_tokens=True)
                taken = len(new) if stop is None else stop + 1
                answers[row] = ChatAnswer(text.strip(), stop is not None, int(prompt_mask.sum()), taken)
        return [answer for answer in answers if answer is not None]

    def first_word_probabilities(self, requests: Sequence[ChatRequest], words: Sequence[str]) -> np.ndarray:
        """float32 (n, words): the probability that the answer starts with each word, in whichever spelling and however
        many tokens (`inference.vlm.first_words`). UnscoredError where Yes or No is asked for and an answer begins with
        neither."""
        requests, together = self._shrunk(requests), with_opposites(words)
        found = find_first_words(
            self._processor.tokenizer, len(requests), together, lambda rows, begun: self._next(requests, rows, begun)
        )
        asked = [request.text for request in requests]
        check_answered(found, together, asked, self.config.answer_floor, self.config.model, _ADVICE)
        return found.probabilities[:, : len(words)].astype(np.float32)

    def _next(
        self, requests: Sequence[ChatRequest], rows: Sequence[int], begun: Sequence[Prefix]
    ) -> Iterator[np.ndarray]:
        """float32 (vocabulary,) of each row: what follows its request and the tokens that are begun, which are as many
        in all rows."""
        import torch

        chances: list[Any] = [None] * len(rows)
        for batch in self._batches([requests[row] for row in rows]):
            inputs = self._inputs([requests[rows[i]] for i in batch], [begun[i] for i in batch])
            with torch.inference_mode():
                logits = self._model(**inputs, **self._last_logits()).logits[:, -1]
            for i, row in zip(batch, logits.float().softmax(-1).cpu().numpy(), strict=True):
                chances[i] = row
        yield from chances

    def _last_logits(self) -> dict[str, int]:
        """What keeps a forward pass from computing those of all tokens, where its class can."""
        import inspect

        return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(self._plain.forward).parameters else {}

    @property
    def _plain(self) -> Any:
        """The model without a LoRA's wrapping."""
        return self._model.get_base_model() if hasattr(self._model, "get_base_model") else self._model

    def _shrunk(self, requests: Sequence[ChatRequest]) -> list[ChatRequest]:
        most = self.config.max_image_pixels
        return [replace(r, images=tuple(shrink(image, most) for image in r.images)) for r in requests]

    def _end_ids(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
        if ends is None:
            ends = self._processor.tokenizer.eos_token_id
        return set(ends if isinstance(ends, list) else [ends])

    def _sampler(self, requests: Sequence[ChatRequest], prompt_length: int) -> list[Any] | None:
        """What draws the tokens of those that are sampled, each with a seed that its own request gives."""
        sampling = self.config.sampling
        temperatures = [sampling.temperature_of(request.attempt) for request in requests]
        if not any(temperatures):
            return None
        seeds = [
            stable_seed(sampling.seed, r.attempt, r.system, r.text, [digest(image) for image in r.images])
            for r in requests
        ]
        return [SeededSampler(sampling, temperatures, seeds, prompt_length, self.config.max_new_tokens)]

    def _batches(self, requests: Sequence[ChatRequest]) -> list[list[int]]:
        """Indices; requests of as many images and about one length stand together, so that little is padding."""
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].images), len(requests[i].text)))
        batches: list[list[int]] = []
        for i in order:
            last = batches[-1] if batches else []
            if (
                not last
                or len(last) == self.config.batch_size
                or len(requests[last[0]].images) != len(requests[i].images)
            ):
                batches.append([])
            batches[-1].append(i)
        return batches

    def _inputs(
        self, requests: Sequence[ChatRequest], begun: Sequence[Prefix] | None = None
    ) -> dict[str, torch.Tensor]:
        """begun: tokens behind each request, as many in all of them."""
        import torch

        texts = [chat_text(self._processor, request) for request in requests]
        made = dict(model_inputs(self._processor, texts, [request.images for request in requests]))
        if begun and begun[0]:
            tail = torch.tensor(begun)
            shape = made["input_ids"].shape
            more = {"input_ids": tail, "attention_mask": torch.ones_like(tail)}
            made = {
                name: torch.cat([value, more.get(name, torch.zeros_like(tail))], 1) if value.shape == shape else value
                for name, value in made.items()
            }
        made = {name: value.to(self.config.device) for name, value in made.items()}
        return accepted(self._plain, made)
