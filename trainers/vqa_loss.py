"""The VQA loss: how far a frozen VLM is from giving the wanted answer about an image, with a gradient to the pixels.

Dual-Process Distillation, Eq. 4: the cross-entropy of the answer's tokens, each predicted from the image, the question
and the answer's earlier tokens. Its exponential, exp(-loss), is the probability of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference.dual.concept import QuestionAnswer
from inference.interfaces import ChatRequest
from inference.vlm.chat_inputs import answer_frame, chat_text, model_inputs
from inference.vlm.overlays import overlay
from schemas.configuration import added_field, execution_field, model_field
from schemas.errors import InputError
from trainers.vlm_pixels import Idefics2Pixels, QwenPixels, VlmPixels, resized, stretched

if TYPE_CHECKING:
    import torch

YES_NO = ("yes", "no")
KINDS = {"qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL", "idefics2": "Idefics2"}
"""VLMs whose preprocessing is known with a gradient: `model_type` and what people call them."""


@dataclass(frozen=True)
class TeacherConfig:
    """Which VLM teaches, and how it is asked."""

    model: str = model_field("Qwen/Qwen2.5-VL-7B-Instruct")
    """Model zoo name, local folder (of a Qwen2.5-VL's adapter, too) or hub id: a Qwen2.5-VL, a Qwen3-VL or an Idefics2.
    Each is asked by its own chat template."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the VLM's weights and products."""
    question_postfix: str = "Answer with Yes or No."
    """Behind every question whose answer is yes or no (Dual-Process Distillation, "VLM Input Formatting")."""
    pixel_range: Literal["clamp", "min-max"] = added_field("clamp")
    """What becomes of values beyond black and white: they are cut off, as in a finished image, and have no gradient; or
    each image is stretched between its smallest and largest value, whatever they are (as published)."""
    gradient_checkpointing: bool = execution_field(False)
    """Compute activations again on the way back instead of keeping them: less memory, a third more time."""
    device: str = execution_field("cpu")
    """May be another one than the generator's."""


@dataclass(frozen=True)
class _Tokens:
    """Text inputs of one image, each (1, T), and how many of the last ids are the answer's."""

    inputs: dict[str, torch.Tensor]
    num_answer: int


class VqaTeacher:
    """A frozen VLM. It gives losses with a gradient to the images and to nothing of its own."""

    def __init__(self, config: TeacherConfig = TeacherConfig()) -> None:
        """Loads the model. MissingWeightsError where it is not on this machine; InputError for another kind."""
        from inference.sound_weights import sound_model

        model, processor = load_teacher(sound_model(config.model), config.dtype)
        self._set_up(model.to(config.device), processor, config)

    @classmethod
    def of(cls, model: Any, processor: Any, config: TeacherConfig = TeacherConfig()) -> VqaTeacher:
        """Around a model that is already there, on the device of `config`."""
        teacher = cls.__new__(cls)
        teacher._set_up(model, processor, config)
        return teacher

    def _set_up(self, model: Any, processor: Any, config: TeacherConfig) -> None:
        self.config, self.model, self.processor = config, model.eval().requires_grad_(False), processor
        self._pixels = pixels_of(processor)
        if config.gradient_checkpointing:
            model.train()  # transformers checkpoints in training mode alone; the models have no active dropout
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self._tokens: dict[tuple[str, str, int, int], _Tokens] = {}

    def losses(self, images: torch.Tensor, asked: QuestionAnswer) -> torch.Tensor:
        """images (B, 3, H, W), black 0 and white 1 -> (B,), on the images' device: -log of the answer's probability,
        asked as `asked.question` says it and in no other words."""
        import torch

        seen = self.seen(images.to(self.config.device), asked)
        tokens = self._tokenize(asked, *seen.shape[-2:])
        batch, count = len(seen), tokens.num_answer
        pixels = {
            name: value.to(self.model.dtype) if value.is_floating_point() else value
            for name, value in self._pixels.model_inputs(seen).items()
        }
        text = {name: value.expand(batch, -1) for name, value in tokens.inputs.items()}
        logits = self.model(**text, **pixels, logits_to_keep=count + 1, use_cache=False).logits[:, :-1]
        wide = logits if logits.dtype == torch.float64 else logits.float()
        each = torch.nn.functional.cross_entropy(wide.transpose(1, 2), text["input_ids"][:, -count:], reduction="none")
        return each.sum(1).to(images.device)

    def probabilities(self, images: np.ndarray, asked: QuestionAnswer) -> np.ndarray:
        """images uint8 (B, H, W, 3) -> float32 (B,): how sure the VLM is of the answer, without a gradient; the mean
        over the question's wordings."""
        import torch

        with torch.no_grad():
            pixels = torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).float() / 255
            each = [(-self.losses(pixels, wording)).exp() for wording in asked.wordings]
            return torch.stack(each).mean(0).cpu().numpy()

    def seen(self, images: torch.Tensor, asked: QuestionAnswer) -> torch.Tensor:
        """What the VLM looks at, (B, 3, h, w) in [0, 1]: resized as it resizes, then the overlays, at that size. In
        float32 at least: 16 bits would round each of the two passes of resizing."""
        import torch

        size, clamps = self._pixels.size_of(*images.shape[-2:]), self.config.pixel_range == "clamp"
        images = images if images.dtype == torch.float64 else images.float()
        images = resized(images.clamp(0, 1) if clamps else images, size, self.processor.image_processor, clamps)
        for prompt in asked.overlays:
            layer = prompt.layer(*size)
            images = (overlay(images.permute(0, 2, 3, 1) * 255, layer) / 255).permute(0, 3, 1, 2)
        return images if clamps else stretched(images)

    def question_text(self, asked: QuestionAnswer) -> str:
        """The question as it is put, with its own postfix, or the teacher's where the answer is yes or no."""
        is_yes_no = asked.answer.strip(" .").lower() in YES_NO
        postfix = (self.config.question_postfix if is_yes_no else "") if asked.postfix is None else asked.postfix
        return f"{asked.question} {postfix}" if postfix and not asked.question.endswith(postfix) else asked.question

    def _tokenize(self, asked: QuestionAnswer, height: int, width: int) -> _Tokens:
        """The VLM's own template around image and question, the answer begun as its own answers begin."""
        key = (self.question_text(asked), asked.answer, height, width)
        if key not in self._tokens:
            from PIL import Image

            blank: Any = Image.new("RGB", (width, height))  # Idefics2's processor takes no arrays
            before = chat_text(self.processor, ChatRequest(self.question_text(asked), (np.asarray(blank),)))
            begun, _ = answer_frame(self.processor)
            inputs, without = (
                dict(model_inputs(self.processor, [text], [[blank]], do_resize=False))
                for text in (before + begun + asked.answer, before)
            )
            count = inputs["input_ids"].shape[1] - without["input_ids"].shape[1]
            same = inputs["input_ids"][0, : without["input_ids"].shape[1]].equal(without["input_ids"][0])
            if count < 1 or not same:
                raise InputError(
                    f"the answer {asked.answer!r} has no tokens of its own behind {before[-40:]!r}",
                    field="answer",
                    expected="a chat template that ends its question where the answer starts",
                )
            text = {
                name: v.to(self.config.device) for name, v in inputs.items() if v.shape == inputs["input_ids"].shape
            }
            self._tokens[key] = _Tokens(text, count)
        return self._tokens[key]


def pixels_of(processor: Any) -> VlmPixels:
    """The preprocessing of a processor's VLM. InputError for a kind that is not known."""
    name = type(processor).__name__
    if name.startswith(("Qwen2_5_VL", "Qwen3VL")):
        return QwenPixels(processor.image_processor)
    if name.startswith("Idefics2"):
        processor.image_processor.do_image_splitting = False
        return Idefics2Pixels(processor.image_processor)
    raise InputError(f"a {name}", field="teacher.model", expected=f"a model of {', '.join(KINDS.values())}")


def load_teacher(folder: Any, dtype: str) -> tuple[Any, Any]:
    """Model and processor of a folder, all of the model's tensors in its files. InputError for a VLM of another kind,
    before any weights are read."""
    from inference.vlm.adapters import load_vlm

    check_kind(folder)
    return load_vlm(folder, dtype)


def check_kind(folder: Any, field: str = "teacher.model") -> None:
    """InputError for the folder of a model of another kind. One small file is read, and no weights."""
    from inference.model_store import base_model_of, resolve_model
    from inference.vlm.adapters import kind_of

    base = base_model_of(folder)
    kind, _ = kind_of(folder if base is None else resolve_model(base))
    if kind not in KINDS:
        raise InputError(f"{folder}: a model of type {kind}", field=field, expected=" or ".join(KINDS))
