"""The VQA loss: how far a frozen VLM is from giving the wanted answer about an image, with a gradient to the pixels.

Dual-Process Distillation, Eq. 4: the cross-entropy of the answer's tokens, each predicted from the image, the question
and the answer's earlier tokens. Its exponential, exp(-loss), is the probability of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference.dual.concept import QuestionAnswer
from inference.vlm.overlays import overlay
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError
from trainers.vlm_pixels import Idefics2Pixels, QwenPixels, VlmPixels, resized

if TYPE_CHECKING:
    import torch

YES_NO = ("yes", "no")


@dataclass(frozen=True)
class TeacherConfig:
    """Which VLM teaches, and how it is asked."""

    model: str = model_field("Qwen/Qwen2.5-VL-7B-Instruct")
    """Model zoo name, local folder (of a Qwen2.5-VL's adapter, too) or hub id: a Qwen2.5-VL or an Idefics2."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the VLM's weights and products."""
    question_postfix: str = "Answer with Yes or No."
    """Behind every question whose answer is yes or no (Dual-Process Distillation, "VLM Input Formatting")."""
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
        """images (B, 3, H, W) in [0, 1] -> (B,), on the images' device: -log of the answer's probability."""
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
        """images uint8 (B, H, W, 3) -> float32 (B,): how sure the VLM is of the answer, without a gradient."""
        import torch

        with torch.no_grad():
            pixels = torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).float() / 255
            return (-self.losses(pixels, asked)).exp().cpu().numpy()

    def seen(self, images: torch.Tensor, asked: QuestionAnswer) -> torch.Tensor:
        """What the VLM looks at, (B, 3, h, w) in [0, 1]: resized as it resizes, then the overlays, at that size."""
        size = self._pixels.size_of(*images.shape[-2:])
        images = resized(images, size, self.processor.image_processor)
        for prompt in asked.overlays:
            layer = prompt.layer(*size)
            images = (overlay(images.permute(0, 2, 3, 1) * 255, layer) / 255).permute(0, 3, 1, 2)
        return images

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

            user = {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": self.question_text(asked)}],
            }
            told = {"role": "assistant", "content": [{"type": "text", "text": asked.answer}]}
            template = self.processor.apply_chat_template
            before = template([user], tokenize=False, add_generation_prompt=True)
            whole = template([user, told], tokenize=False)
            end = whole.rindex(asked.answer) + len(asked.answer)
            blank = Image.new("RGB", (width, height))
            inputs, without = (
                dict(self.processor(text=[text], images=[blank], do_resize=False, return_tensors="pt"))
                for text in (whole[:end], before)
            )
            count = inputs["input_ids"].shape[1] - without["input_ids"].shape[1]
            same = inputs["input_ids"][0, : without["input_ids"].shape[1]].equal(without["input_ids"][0])
            if not whole.startswith(before) or count < 1 or not same:
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
    if name.startswith("Qwen2_5_VL"):
        return QwenPixels(processor.image_processor)
    if name.startswith("Idefics2"):
        processor.image_processor.do_image_splitting = False
        return Idefics2Pixels(processor.image_processor)
    raise InputError(f"a {name}", field="teacher.model", expected="a Qwen2.5-VL or an Idefics2")


def load_teacher(folder: Any, dtype: str) -> tuple[Any, Any]:
    """Model and processor of a folder. InputError for a VLM of another kind."""
    import torch
    from transformers import AutoConfig, AutoProcessor, Idefics2ForConditionalGeneration

    from inference.vlm.adapters import base_model_of, load_vlm

    if base_model_of(folder) is not None:
        return load_vlm(folder, dtype)
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind == "qwen2_5_vl":
        return load_vlm(folder, dtype)
    if kind == "idefics2":
        model = Idefics2ForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype))
        return model, AutoProcessor.from_pretrained(folder)
    raise InputError(f"{folder}: a model of type {kind}", field="teacher.model", expected="qwen2_5_vl or idefics2")
