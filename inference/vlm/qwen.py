"""A Qwen2.5-VL in this process: chat requests with images in, answers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference.interfaces import ChatAnswer, ChatRequest
from inference.vlm.adapters import load_qwen
from inference.vlm.pictures import digest, shrink
from inference.vlm.sampling import Sampling, SeededSampler
from schemas.configuration import execution_field, model_field, stable_seed

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor


@dataclass(frozen=True)
class QwenVlmConfig:
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


def chat_messages(request: ChatRequest) -> list[dict[str, Any]]:
    """The messages that chat templates and OpenAI-compatible servers take: system if given, then images, then text."""
    system = [] if request.system is None else [{"role": "system", "content": request.system}]
    content = [{"type": "image"} for _ in request.images]
    return [*system, {"role": "user", "content": [*content, {"type": "text", "text": request.text}]}]


class QwenVlm:
    """See `inference.interfaces.Vlm`. An answer depends on its request alone, up to rounding in the batch."""

    def __init__(self, config: QwenVlmConfig | None = None) -> None:
        """Loads the model. MissingWeightsError where it is not on this machine."""
        from inference.model_store import resolve_model

        config = config or QwenVlmConfig()
        model, processor = load_qwen(resolve_model(config.model), config.dtype)
        self._set_up(model.to(config.device), processor, config)

    @classmethod
    def of(
        cls, model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, config: QwenVlmConfig
    ) -> QwenVlm:
        """Around a model that is already there (in training), on the device of `config`."""
        vlm = cls.__new__(cls)
        vlm._set_up(model, processor, config)
        return vlm

    def _set_up(
        self, model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, config: QwenVlmConfig
    ) -> None:
        self.config, self._model, self._processor = config, model.eval(), processor
        self._processor.tokenizer.padding_side = "left"  # pyright: ignore[reportAttributeAccessIssue]

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
        """float32 (n, words): the probability that the answer starts with each word, by the word's first token."""
        import torch

        first_ids = [self._processor.tokenizer(word, add_special_tokens=False).input_ids[0] for word in words]
        if len(set(first_ids)) < len(first_ids):
            raise ValueError(f"the words {', '.join(words)} do not start with different tokens in this vocabulary")
        found = np.zeros((len(requests), len(words)), np.float32)
        requests = self._shrunk(requests)
        for rows in self._batches(requests):
            with torch.inference_mode():
                logits = self._model(**self._inputs([requests[i] for i in rows]), logits_to_keep=1).logits[:, -1]
            found[rows] = logits.float().softmax(-1)[:, first_ids].cpu().numpy()
        return found

    def _shrunk(self, requests: Sequence[ChatRequest]) -> list[ChatRequest]:
        most = self.config.max_image_pixels
        return [replace(r, images=tuple(shrink(image, most) for image in r.images)) for r in requests]

    def _end_ids(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
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
        """Indices; requests of about one length stand together, so that little is padding."""
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].images), len(requests[i].text)))
        size = self.config.batch_size
        return [order[i : i + size] for i in range(0, len(order), size)]

    def _inputs(self, requests: Sequence[ChatRequest]) -> dict[str, torch.Tensor]:
        texts = [
            self._processor.apply_chat_template(chat_messages(request), tokenize=False, add_generation_prompt=True)
            for request in requests
        ]
        images = [image for request in requests for image in request.images]
        processor: Any = self._processor  # its keyword arguments are not typed
        inputs = processor(text=texts, images=images or None, padding=True, return_tensors="pt")
        return dict(inputs.to(self.config.device))
